//! The one error type: what was tried, on what, what the kernel said, and what to do about it.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What code matches on; each kind has one errno, the same in Rust, C and Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// EINVAL: an argument is wrong.
    InvalidArgument,
    /// ENOENT: no such queue or GPU.
    NotFound,
    /// ESRCH: the target process is gone.
    ProcessGone,
    /// EPERM: not allowed, or the queue is not PREEMPTIBLE.
    NotPermitted,
    /// EBUSY: held by another lease.
    Busy,
    /// ETIME: the preemption timed out.
    TimedOut,
    /// EIO: the node is being reset.
    Resetting,
    /// EACCES: that queue was reset.
    QueueReset,
    /// EOPNOTSUPP: this tier or firmware cannot do it.
    Unsupported,
    /// ENODEV: no machine.
    NoDevice,
    /// EBADF: used after fork, or the lease is dead.
    BadHandle,
    /// Anything else; see [`Error::errno`].
    Other,
}

impl ErrorKind {
    /// The kind that an errno of the driver stands for.
    pub fn from_errno(errno: Errno) -> ErrorKind {
        match errno {
            Errno::EINVAL => ErrorKind::InvalidArgument,
            Errno::ENOENT => ErrorKind::NotFound,
            Errno::ESRCH => ErrorKind::ProcessGone,
            Errno::EPERM => ErrorKind::NotPermitted,
            Errno::EBUSY => ErrorKind::Busy,
            Errno::ETIME => ErrorKind::TimedOut,
            Errno::EIO => ErrorKind::Resetting,
            Errno::EACCES => ErrorKind::QueueReset,
            Errno::EOPNOTSUPP => ErrorKind::Unsupported,
            Errno::ENODEV => ErrorKind::NoDevice,
            Errno::EBADF => ErrorKind::BadHandle,
            _ => ErrorKind::Other,
        }
    }
}

/// An operation failed. Displays as `unmapping 3 queues of pid 4711: no such queue (ENOENT); remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    operation: Cow<'static, str>,
    target: Option<String>,
    errno: Errno,
    detail: Option<String>,
    remedy: Option<Cow<'static, str>>,
}

impl std::error::Error for Error {}

impl Error {
    /// An error of `operation` (a gerund phrase: "unmapping 3 queues") with the driver's errno.
    pub fn new(operation: impl Into<Cow<'static, str>>, errno: Errno) -> Error {
        Error { operation: operation.into(), target: None, errno, detail: None, remedy: None }
    }

    /// Names what it was done to, for example "queue 3 of pid 4711".
    #[must_use]
    pub fn on(mut self, target: impl fmt::Display) -> Error {
        self.target = Some(target.to_string());
        self
    }

    /// Says more than the errno's own words.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    /// Says this, too, after what it says already.
    pub(crate) fn and(self, more: impl fmt::Display) -> Error {
        let detail = format!("{}; {more}", self.words());
        self.because(detail)
    }

    /// Says what the user can do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Error {
        self.remedy = Some(remedy.into());
        self
    }

    /// An error that a driver call answered, with the usual remedy.
    pub(crate) fn of_driver(operation: impl Into<Cow<'static, str>>, errno: Errno) -> Error {
        let error = Error::new(operation, errno);
        match usual(errno) {
            Some((detail, remedy)) => error.because(detail).remedy(remedy),
            None => error,
        }
    }

    /// What code matches on.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::from_errno(self.errno)
    }

    /// The number that C (negated) and Python (`errno`) see.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// What the user can do about it, if known.
    pub(crate) fn remedy_words(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    pub(crate) fn words(&self) -> &str {
        self.detail.as_deref().unwrap_or_else(|| self.errno.desc())
    }

    /// What it was done to, if known.
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        if let Some(target) = &self.target {
            write!(f, " ({target})")?;
        }
        write!(f, ": {} ({:?})", self.words(), self.errno)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

/// What an errno of a driver call on queues means and what helps, where more can be said than its own words.
fn usual(errno: Errno) -> Option<(&'static str, &'static str)> {
    Some(match errno {
        Errno::ENOENT => ("no such queue", "look the queues up again: it was destroyed, or it never was"),
        Errno::ESRCH => ("the process is gone", "forget its queues"),
        Errno::EPERM => (
            "not allowed, or the queue is not in the offline class",
            "make the queue PREEMPTIBLE first, and run as its owner's user or with CAP_SYS_NICE",
        ),
        Errno::EBUSY => ("another lease holds it, or it is being destroyed", "end the other scheduler, or try again"),
        Errno::ETIME => {
            ("the preemption timed out", "the GPU is being reset; see the kernel log, then map the queues again")
        }
        Errno::EIO => ("the GPU is being reset", "try again when the reset is over"),
        Errno::EACCES => ("the queue was reset and cannot run again", "its owner has to destroy it"),
        Errno::EOPNOTSUPP => ("the scheduler firmware of this GPU cannot do it", "use a GPU that HWS schedules (gfx9)"),
        Errno::EBADF => (
            "the lease is dead, or belongs to the parent of this process",
            "open the session again in the process that uses it",
        ),
        _ => return None,
    })
}
