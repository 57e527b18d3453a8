//! A whole AMD Instinct machine in memory, at the system-call seam.
//!
//! The machine answers `/dev/kfd` (stock and gpreempt ioctls, with the kernel's own errno), prints the sysfs,
//! procfs and debugfs text of amdkfd, and executes queued packets the way HWS firmware schedules them: a runlist,
//! rounds, slots, time slices, CWSR. It is a machine, not a driver: it never sees the name of a caller, and every
//! time it reports follows from packets, rounds and waves under a named [`config::CostModel`].
//!
//! # Limits
//!
//! What is real here is the driver's behaviour: who may do what, which call costs a round of which node, what a round
//! stops, in which order things happen. What is a model:
//!
//! * Execution is fluid. A packet fills a share of its node's wave slots; while the shares of all mapped queues fit,
//!   each runs at full speed, else every wave gets the same part of the time. Memory bandwidth, caches and links are
//!   not modelled, and neither are CU masks.
//! * Queue priority is kept and shown but does not change the sharing: it is relative arbitration inside the hardware.
//! * A wave that is stopped has a remaining time spread evenly over its packet; a grace period lets that share finish.
//!   The hardware's default grace period is taken as none.
//! * An over-subscribed runlist rotates queue by queue and does not pass over queues without work.
//! * A reset concerns one node, not all partitions of its GPU. What was on it stays evicted for ever, as in KFD.
//! * Buffers are counted, not modelled: a queue takes any address as mapped. CREATE_QUEUE needs no ACQUIRE_VM.
//! * Commands of `/dev/kfd` that have nothing to do with queues answer EOPNOTSUPP.

mod boot;
mod call;
mod clock;
pub mod config;
mod fault;
mod file;
mod guest;
mod hw;
mod kfd;
mod lease;
pub mod machine;
pub mod mqd;
mod node;
pub mod pm4;
mod process;
mod queue;
mod snapshot;
mod sysfs;
pub mod text;
mod timeline;
pub mod topology;
mod world;

pub use machine::{FileId, Machine, Readiness, Task, Ticket, UserMemory, Work};
