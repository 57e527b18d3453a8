//! Queue-level preemption on AMD Instinct GPUs.
//!
//! Online inference answers in milliseconds while offline training uses what is left: when online work arrives, the
//! offline queues leave the hardware in one batch (unmap: the HQD is freed, the MQD stays in memory); afterwards they
//! come back (remap).
//!
//! Layers, each calling only those below it:
//!
//! * [`session`]: one opened machine, as the C and Python surfaces see it;
//! * [`sched`], [`monitor`], [`discover`], [`stats`], [`trace`]: who is online, what is idle, what to unmap, what it took;
//! * [`driver`]: the verbs, one implementation per tier;
//! * [`host`]: the operating system or the simulated machine.

pub mod discover;
pub mod driver;
mod error;
pub mod host;
pub mod monitor;
mod queue;
pub mod sched;
pub mod session;
pub mod stats;
pub mod trace;

pub use error::{Error, ErrorKind, Result};
pub use queue::{
    GpuId, HqdStatus, NodeFlags, Pid, PolicyFlags, QueueClass, QueueId, QueueInfo, QueueState, QueueType, Reservation,
    UnmapFlags,
};
pub use session::{Backend, Session, SessionBuilder, SimTier};
