//! The agent of the stock tier without the process it sits in: no file, no thread, no clock and no unsafe code.
//!
//! On a stock kernel only a process itself can take its queues off the hardware (UPDATE_QUEUE with percentage 0). The
//! agent is preloaded into an offline program, sees its queue commands go by, and stops and restores its queues when a
//! scheduler asks.
//!
//! * [`Book`]: the queues as the program wants them, and what the kernel has of them;
//! * [`Server`]: who may stop them and for how long;
//! * [`protocol`]: how a scheduler asks.
//!
//! `gpreempt-agent` puts it into a real process, the simulated host of `gpreempt` into a guest.

mod book;
pub mod protocol;
mod server;

pub use book::{Book, Creating, Kfd, Outcome, Queue, Updating, Which};
pub use server::{Connection, Server};
