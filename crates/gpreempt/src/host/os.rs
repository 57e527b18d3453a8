//! The operating system behind the seam. The only unsafe code of this crate.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};

use super::os_agent;
use super::{AgentAddress, AgentLink, Alarm, Array, Host, Identity, Owner, RawFile, Readiness, SysResult, Wake};
use crate::queue::Pid;

/// The machine that this process runs on.
#[derive(Clone, Debug, Default)]
pub struct OsHost {
    root: Option<PathBuf>,
    agents: Option<PathBuf>,
}

impl OsHost {
    /// The real machine.
    pub fn new() -> OsHost {
        OsHost::default()
    }

    /// The real machine, but every path is looked up below `root`: for recorded sysfs, debugfs and proc trees.
    pub fn with_root(root: impl Into<PathBuf>) -> OsHost {
        OsHost { root: Some(root.into()), agents: None }
    }

    /// The real machine, but agents are looked for in one folder alone.
    pub fn with_agents(folder: impl Into<PathBuf>) -> OsHost {
        OsHost { root: None, agents: Some(folder.into()) }
    }

    fn path(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }
}

/// Repeats a system call that a signal interrupted. Every call of this host either did nothing when it answers EINTR or
/// is idempotent, as all KFD commands are.
fn retry<T>(mut call: impl FnMut() -> SysResult<T>) -> SysResult<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn borrow(file: RawFile) -> SysResult<BorrowedFd<'static>> {
    if file < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: `file` is not -1. The value is passed to one system call and not kept; where the number has been closed
    // the kernel answers EBADF, which is what this host promises.
    Ok(unsafe { BorrowedFd::borrow_raw(file) })
}

fn as_pid(pid: Pid) -> SysResult<nix::unistd::Pid> {
    // 0 and negative numbers would address process groups.
    i32::try_from(pid).ok().filter(|&pid| pid > 0).map(nix::unistd::Pid::from_raw).ok_or(Errno::ESRCH)
}

impl Host for OsHost {
    fn open(&self, path: &str) -> SysResult<RawFile> {
        let path = CString::new(self.path(path).into_os_string().into_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
        retry(|| {
            // SAFETY: `path` is a NUL-terminated string that outlives the call.
            Errno::result(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })
        })
    }

    fn ioctl(&self, file: RawFile, request: u32, argument: &mut [u8], arrays: &mut [Array<'_>]) -> SysResult<i32> {
        super::place_arrays(request, argument, arrays)?;
        let address = argument.as_mut_ptr();
        retry(|| {
            // SAFETY: `place_arrays` checked that `argument` is as long as `request` says, so the driver reads and writes
            // only within it; the pointers in it are the addresses of `arrays`, which are borrowed mutably until the
            // call returns, and the count beside each pointer is the caller's and describes the array it passed.
            Errno::result(unsafe { libc::ioctl(file, request.into(), address) })
        })
    }

    fn read(&self, file: RawFile, buffer: &mut [u8]) -> SysResult<usize> {
        let fd = borrow(file)?;
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
        if !flags.contains(OFlag::O_NONBLOCK) {
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        retry(|| nix::unistd::read(fd, buffer))
    }

    fn write(&self, file: RawFile, buffer: &[u8]) -> SysResult<usize> {
        let fd = borrow(file)?;
        retry(|| nix::unistd::write(fd, buffer))
    }

    fn poll(&self, file: RawFile) -> SysResult<Readiness> {
        let mut fds = [PollFd::new(borrow(file)?, PollFlags::POLLIN)];
        retry(|| nix::poll::poll(&mut fds, PollTimeout::ZERO))?;
        let found = fds[0].revents().unwrap_or(PollFlags::empty());
        if found.contains(PollFlags::POLLNVAL) {
            return Err(Errno::EBADF);
        }
        Ok(Readiness {
            readable: found.contains(PollFlags::POLLIN),
            hung_up: found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR),
        })
    }

    fn close(&self, file: RawFile) {
        // SAFETY: closing a number has no memory effect; who holds the number decides when.
        // Not repeated on EINTR: Linux has released the number by then.
        unsafe { libc::close(file) };
    }

    fn abandon(&self, file: RawFile) {
        self.close(file);
    }

    fn read_text(&self, path: &str) -> SysResult<String> {
        let bytes = std::fs::read(self.path(path)).map_err(|error| errno_of(&error))?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn list(&self, path: &str) -> SysResult<Vec<String>> {
        let folder = std::fs::read_dir(self.path(path)).map_err(|error| errno_of(&error))?;
        let mut names = folder
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<String>>>()
            .map_err(|error| errno_of(&error))?;
        names.sort_unstable();
        Ok(names)
    }

    fn link(&self, path: &str) -> SysResult<String> {
        let target = std::fs::read_link(self.path(path)).map_err(|error| errno_of(&error))?;
        Ok(target.to_string_lossy().into_owned())
    }

    fn owner(&self, path: &str) -> SysResult<Owner> {
        let found = std::fs::metadata(self.path(path)).map_err(|error| errno_of(&error))?;
        Ok(Owner { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 })
    }

    fn identity(&self) -> Identity {
        Identity { pid: std::process::id(), euid: nix::unistd::geteuid().as_raw() }
    }

    fn trace(&self, pid: Pid) -> SysResult<()> {
        ptrace::seize(as_pid(pid)?, ptrace::Options::empty())
    }

    fn untrace(&self, pid: Pid) -> SysResult<()> {
        let pid = as_pid(pid)?;
        // Only a stopped tracee can be let go.
        ptrace::interrupt(pid)?;
        match retry(|| waitpid(pid, Some(WaitPidFlag::__WALL)))? {
            // A signal came first: pass it on, or it would be lost.
            WaitStatus::Stopped(_, signal) => ptrace::detach(pid, signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Err(Errno::ESRCH),
            _ => ptrace::detach(pid, None),
        }
    }

    fn agents(&self) -> Vec<AgentAddress> {
        let uid = self.identity().euid;
        match (&self.root, &self.agents) {
            (Some(_), _) => Vec::new(),
            (_, Some(folder)) => os_agent::addresses_in(&[folder.to_string_lossy().into_owned()], uid),
            _ => os_agent::addresses(uid),
        }
    }

    fn connect_agent(&self, address: &AgentAddress) -> SysResult<Box<dyn AgentLink>> {
        os_agent::open(address, self.identity().euid)
    }

    fn now(&self) -> Duration {
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME").into()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn park(&self, alarm: &Arc<Alarm>, deadline: Option<Duration>) -> Wake {
        alarm.wait(|| deadline.map(|deadline| deadline.saturating_sub(self.now())))
    }

    fn describe(&self) -> String {
        let kernel = self.read_text("/proc/sys/kernel/osrelease").unwrap_or_default();
        match &self.root {
            Some(root) => format!("the files below {}", Path::new(root).display()),
            None => format!("this machine, Linux {}", kernel.trim()),
        }
    }

    fn cost_model(&self) -> Option<String> {
        None
    }
}
