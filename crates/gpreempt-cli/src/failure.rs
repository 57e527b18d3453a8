//! Why a command failed, and with which exit status.

use std::fmt;
use std::io;

/// A command failed.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for contradicts itself or names something that is not there; exit status 2.
    Usage(String),
    /// It did not work; exit status 1.
    Failed(String),
    /// The output could not be written; exit status 1, or 0 where the reader went away.
    Output(io::Error),
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Failed(_) | Failure::Output(_) => 1,
        }
    }

    pub(crate) fn broken_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) | Failure::Failed(message) => f.write_str(message),
            Failure::Output(error) => write!(f, "writing the output: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl From<gpreempt::Error> for Failure {
    fn from(error: gpreempt::Error) -> Failure {
        Failure::Failed(error.to_string())
    }
}

impl From<crate::arrivals::TraceError> for Failure {
    fn from(error: crate::arrivals::TraceError) -> Failure {
        Failure::Failed(error.to_string())
    }
}

impl From<gpreempt_sim::config::ConfigError> for Failure {
    fn from(error: gpreempt_sim::config::ConfigError) -> Failure {
        Failure::Failed(error.to_string())
    }
}
