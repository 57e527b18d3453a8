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
//! stops, in which order things happen. What is a model, and what is left out, is listed in one place:
//! `docs/simulator.md`, "What is not modelled".

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
mod orders;
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
