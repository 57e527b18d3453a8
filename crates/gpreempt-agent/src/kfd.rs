//! The program's commands to KFD, and the agent's own.

use std::ffi::{c_int, c_ulong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use gpreempt_agent_core::Kfd;
use gpreempt_sys::{
    AMDKFD_IOC_CREATE_QUEUE, AMDKFD_IOC_DESTROY_QUEUE, AMDKFD_IOC_UPDATE_QUEUE, kfd_ioctl_update_queue_args,
};
use nix::errno::Errno;

use crate::process::{self, Agent};
use crate::system::{self, BlockSignals, KeepErrno};

/// KFD's dispatcher looks at the number alone; programs of other header versions have other sizes.
const CREATE: u32 = AMDKFD_IOC_CREATE_QUEUE & 0xff;
const DESTROY: u32 = AMDKFD_IOC_DESTROY_QUEUE & 0xff;
const UPDATE: u32 = AMDKFD_IOC_UPDATE_QUEUE & 0xff;

/// Room for the arguments of a queue command; the longest is 96 bytes today.
const ROOM: usize = 512;

/// A call that may be a command to KFD.
///
/// # Safety
/// As `ioctl`.
pub unsafe fn command(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let number = request as u32 & 0xff;
    let length = (request as u32 >> 16 & 0x3fff) as usize;
    let tracked = matches!(number, CREATE | DESTROY | UPDATE) && length <= ROOM && !argument.is_null();
    if !tracked {
        // SAFETY: the caller's own call.
        let answer = unsafe { system::ioctl(fd, request, argument) };
        if answer >= 0 && !process::is_running() {
            let _errno = KeepErrno::new();
            let _ = catch_unwind(|| {
                if system::is_kfd(fd) {
                    process::start(fd);
                }
            });
        }
        return answer;
    }
    let mut call = Call { fd, request, argument, length, answer: None };
    let before = KeepErrno::new();
    // A panic is a bug of the agent; the program gets its call all the same.
    let tracked = catch_unwind(AssertUnwindSafe(|| call.track(number)));
    if tracked.is_err() {
        process::disable();
    }
    drop(before);
    match call.answer {
        Some(Ok(value)) => value,
        Some(Err(errno)) => {
            errno.set();
            -1
        }
        // SAFETY: the caller's own call, which has not been made yet.
        None => unsafe { system::ioctl(fd, request, argument) },
    }
}

/// A queue command of the program.
struct Call {
    fd: c_int,
    request: c_ulong,
    argument: *mut c_void,
    length: usize,
    answer: Option<Result<c_int, Errno>>,
}

impl Call {
    /// Makes the call unless it is none of the agent's business.
    fn track(&mut self, number: u32) {
        if !system::is_kfd(self.fd) {
            return;
        }
        let Some(agent) = process::start(self.fd) else { return };
        let mut room = [0; ROOM];
        let bytes = &mut room[..self.length];
        if !system::read_memory(self.argument, bytes) {
            return;
        }
        agent.kfd_seen(self.fd);
        let _signals = BlockSignals::new();
        match number {
            CREATE => {
                let mut server = agent.lock();
                let creating = server.book().creating(bytes);
                let answer = self.make(bytes);
                server.created(creating, bytes, answer, system::now());
                drop(server);
                // SAFETY: the kernel has read and written this memory under the same conditions just before.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.argument.cast(), bytes.len()) };
            }
            UPDATE => {
                let mut server = agent.lock();
                let updating = server.book().updating(bytes);
                let answer = self.make(bytes);
                server.book_mut().updated(updating, bytes, answer);
            }
            _ => {
                // Without the lock: KFD makes the destroy of a queue that a debugger suspended wait for the debugger.
                let destroying = agent.lock().book_mut().destroying(bytes);
                let answer = self.make(bytes);
                if let Some(destroying) = destroying {
                    agent.lock().book_mut().destroyed(destroying, answer);
                }
            }
        }
    }

    /// The call itself, with these bytes for an argument.
    fn make(&mut self, bytes: &mut [u8]) -> Result<(), Errno> {
        // SAFETY: `bytes` has as many bytes as the request says, and no pointer in these structs is followed.
        let answer = unsafe { system::ioctl(self.fd, self.request, bytes.as_mut_ptr().cast()) };
        let answer = if answer < 0 { Err(Errno::last()) } else { Ok(answer) };
        self.answer = Some(answer);
        answer.map(drop)
    }
}

/// The agent's own commands.
#[derive(Debug)]
pub struct OwnKfd(pub &'static Agent);

impl Kfd for OwnKfd {
    fn update_queue(&mut self, args: &kfd_ioctl_update_queue_args) -> Result<(), Errno> {
        let fd = self.0.kfd().ok_or(Errno::ENODEV)?;
        let mut args = *args;
        loop {
            // SAFETY: the struct is what the request says, and lives as long as the call.
            let answer = unsafe { system::ioctl(fd, c_ulong::from(AMDKFD_IOC_UPDATE_QUEUE), (&raw mut args).cast()) };
            match (answer, Errno::last()) {
                (0.., _) => return Ok(()),
                (_, Errno::EINTR | Errno::EAGAIN) => {}
                (_, errno) => return Err(errno),
            }
        }
    }

    fn pointers(&mut self, read: u64, write: u64) -> Option<(u64, u64)> {
        let value = |address: u64| {
            let mut bytes = [0; 8];
            let there = address != 0 && system::read_memory(address as usize as *const c_void, &mut bytes);
            there.then(|| u64::from_ne_bytes(bytes))
        };
        Some((value(read)?, value(write)?))
    }
}
