//! The seam below the drivers: the operating system, and nothing but it.
//!
//! Every line above this trait runs unchanged on the real system ([`os::OsHost`]) and on the simulated machine
//! ([`sim::SimHost`]).

mod agent;
mod alarm;
mod background;
mod file;
pub mod os;
mod os_agent;
pub mod sim;
pub mod sim_agent;
mod virtual_time;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

pub use agent::{AgentAddress, AgentLink};
pub use alarm::{Alarm, Wake};
pub(crate) use background::spawn_background;
pub use file::OwnedFile;

use crate::queue::Pid;

/// An open file of this process.
pub type RawFile = i32;

/// Result of a system call.
pub type SysResult<T> = Result<T, Errno>;

/// An array that an ioctl struct points to. The host writes the array's address into the struct itself, so no caller
/// handles a raw pointer.
#[derive(Debug)]
pub struct Array<'a> {
    /// Offset of the pointer field in the struct.
    pub field: usize,
    /// The array.
    pub bytes: &'a mut [u8],
}

/// What `poll` found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to read.
    pub readable: bool,
    /// The other side is gone.
    pub hung_up: bool,
}

/// Who this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Thread group id.
    pub pid: Pid,
    /// Effective user id.
    pub euid: u32,
}

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// The system calls and the clock. Object safe; shared between threads.
pub trait Host: fmt::Debug + Send + Sync {
    /// `open(path, O_RDWR | O_CLOEXEC)`.
    ///
    /// # Errors
    /// What the system answers.
    fn open(&self, path: &str) -> SysResult<RawFile>;

    /// `ioctl`; `argument` is the struct, whose length must be the size in `request`.
    ///
    /// # Errors
    /// What the driver answers; EINVAL where the length does not fit the request or an array's field lies outside.
    fn ioctl(&self, file: RawFile, request: u32, argument: &mut [u8], arrays: &mut [Array<'_>]) -> SysResult<i32>;

    /// `read` without waiting.
    ///
    /// # Errors
    /// EAGAIN where there is nothing yet.
    fn read(&self, file: RawFile, buffer: &mut [u8]) -> SysResult<usize>;

    /// `write`.
    ///
    /// # Errors
    /// What the driver answers.
    fn write(&self, file: RawFile, buffer: &[u8]) -> SysResult<usize>;

    /// `poll` without waiting.
    ///
    /// # Errors
    /// EBADF.
    fn poll(&self, file: RawFile) -> SysResult<Readiness>;

    /// `close`.
    fn close(&self, file: RawFile);

    /// Closes a file that a forked child inherited, without taking a lock that another thread may have held when the
    /// process forked. What the parent set with it stays.
    fn abandon(&self, file: RawFile);

    /// The whole text of a sysfs, debugfs or proc file.
    ///
    /// # Errors
    /// What the system answers.
    fn read_text(&self, path: &str) -> SysResult<String>;

    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// What the system answers.
    fn list(&self, path: &str) -> SysResult<Vec<String>>;

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// What the system answers; ENOSYS where there are no links.
    fn link(&self, _path: &str) -> SysResult<String> {
        Err(Errno::ENOSYS)
    }

    /// Whose a file is.
    ///
    /// # Errors
    /// What the system answers; ENOSYS where files belong to nobody.
    fn owner(&self, _path: &str) -> SysResult<Owner> {
        Err(Errno::ENOSYS)
    }

    /// Who this process is.
    fn identity(&self) -> Identity;

    /// Becomes the ptracer of a process, as DBG_TRAP ENABLE asks.
    ///
    /// # Errors
    /// ESRCH, EPERM.
    fn trace(&self, pid: Pid) -> SysResult<()>;

    /// Stops being its ptracer.
    ///
    /// # Errors
    /// ESRCH.
    fn untrace(&self, pid: Pid) -> SysResult<()>;

    /// Where agents of this user's offline programs listen, sorted; some may be gone.
    fn agents(&self) -> Vec<AgentAddress> {
        Vec::new()
    }

    /// Connects to an agent.
    ///
    /// # Errors
    /// ECONNREFUSED, ENOENT where it is gone; EPERM where it is another user's; ETIME where its process does not run.
    fn connect_agent(&self, _address: &AgentAddress) -> SysResult<Box<dyn AgentLink>> {
        Err(Errno::ENOENT)
    }

    /// Time since boot on the machine's clock (CLOCK_BOOTTIME on the operating system).
    fn now(&self) -> Duration;

    /// Waits in the foreground. On a virtual clock this is what makes time pass; parked threads whose deadline lies on
    /// the way run first, in the order of their deadlines. Call it with no lock held.
    fn sleep(&self, duration: Duration);

    /// Waits in the background until `deadline` (None: for ever) or until the alarm rings, whichever is first. On a
    /// virtual clock this waits for others to make time pass.
    fn park(&self, alarm: &Arc<Alarm>, deadline: Option<Duration>) -> Wake;

    /// Says that a thread which will park on `alarm` is about to start: a virtual clock then waits for it to park for
    /// the first time. Call it before spawning the thread.
    fn enlist(&self, _alarm: &Arc<Alarm>) {}

    /// One line that says what machine this is, for reports ("8 x MI308X simulated, cost model design, ...").
    fn describe(&self) -> String;

    /// Whether every time this host reports is modelled, and with which cost model.
    fn cost_model(&self) -> Option<String>;
}

/// Checks an ioctl argument against its request number and writes the address of each array into it.
fn place_arrays(request: u32, argument: &mut [u8], arrays: &mut [Array<'_>]) -> SysResult<()> {
    let size = (request >> 16 & 0x3fff) as usize;
    if argument.len() != size {
        return Err(Errno::EINVAL);
    }
    for array in arrays {
        let end = array.field.checked_add(size_of::<u64>()).ok_or(Errno::EINVAL)?;
        let field = argument.get_mut(array.field..end).ok_or(Errno::EINVAL)?;
        let address = array.bytes.as_mut_ptr().expose_provenance() as u64;
        field.copy_from_slice(&address.to_ne_bytes());
    }
    Ok(())
}
