//! A whole AMD Instinct machine in memory, at the system-call seam.
//!
//! The machine answers `/dev/kfd` (stock and gpreempt ioctls, with the kernel's own errno), prints the sysfs,
//! procfs and debugfs text of amdkfd, and executes queued packets the way HWS firmware schedules them: a runlist,
//! rounds, slots, time slices, CWSR. It is a machine, not a driver: it never sees the name of a caller, and every
//! time it reports follows from packets, rounds and waves under a named [`config::CostModel`].

pub mod config;
pub mod machine;
pub mod mqd;
pub mod pm4;
pub mod text;
pub mod topology;

pub use machine::{FileId, Machine, Readiness, Task, Ticket, UserMemory, Work};
