//! Talking to the agents in offline programs: messages of `gpreempt_agent_core::protocol`, in order and whole.

use std::fmt;
use std::time::Duration;

use super::SysResult;
use crate::queue::Pid;

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentAddress {
    /// The process that `gpreempt offline` became; its children belong to the same job.
    pub job: Pid,
    /// The process that it sits in.
    pub pid: Pid,
    /// Path of its socket.
    pub path: String,
}

/// A connection to an agent, closed when dropped: what was stopped over it runs again then, unless a forked child drops its copy.
pub trait AgentLink: fmt::Debug + Send {
    /// Sends one message.
    ///
    /// # Errors
    /// EPIPE where the agent has gone.
    fn send(&self, message: &[u8]) -> SysResult<()>;

    /// Receives one message; 0 bytes where the agent has gone.
    ///
    /// # Errors
    /// ETIME where none comes in time.
    fn receive(&self, buffer: &mut [u8], patience: Duration) -> SysResult<usize>;
}
