//! An actor of the real machine: a process that makes the system calls that it is told over a socket, and nothing else.
//!
//! A request is five words and bytes, an answer one word and bytes. What the pointers of a call refer to is memory that
//! the actor shares with whoever tells it, at the same address in both.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use gpreempt_sys::*;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, send, sendmsg};

use crate::machine::{SCRATCH_BASE, SCRATCH_BYTES, SysResult};

/// What an actor can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Op {
    /// Path: opens it.
    Open = 1,
    /// File, request, and the struct.
    Ioctl,
    /// File, room.
    Read,
    /// File.
    Poll,
    /// File.
    Close,
    /// Uid.
    SetUid,
    /// Executes this program anew.
    Exec,
    /// Path: opens it for reading.
    OpenText,
    /// Path: names in a folder, one to a line.
    List,
    /// Keeps the file that comes with the request.
    Take,
    /// `/dev/kfd`, gpu_id, and sizes: new memory of each size, mapped on that GPU.
    Map,
    /// Pairs of addresses and values.
    Poke,
    /// Pid, on or off: PTRACE_SEIZE or PTRACE_DETACH.
    Trace,
    /// Pid: waits for a traced process that has ended, as its parent cannot before.
    Reap,
}

const OPS: [Op; 14] = [
    Op::Open,
    Op::Ioctl,
    Op::Read,
    Op::Poll,
    Op::Close,
    Op::SetUid,
    Op::Exec,
    Op::OpenText,
    Op::List,
    Op::Take,
    Op::Map,
    Op::Poke,
    Op::Trace,
    Op::Reap,
];

/// Longest message.
pub const MESSAGE: usize = 0x1_0000;
/// Words before the bytes of a request.
const WORDS: usize = 4;

/// A request on its way.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// With what.
    pub words: [u64; 3],
    /// And with these.
    pub bytes: Vec<u8>,
    /// A file that comes with it.
    file: Option<OwnedFd>,
}

impl Request {
    /// One without bytes.
    pub fn of(op: Op, words: [u64; 3]) -> Request {
        Request { op, words, bytes: Vec::new(), file: None }
    }

    /// One with bytes.
    pub fn with(op: Op, words: [u64; 3], bytes: Vec<u8>) -> Request {
        Request { op, words, bytes, file: None }
    }

    /// One with a path.
    pub fn path(op: Op, path: &str) -> Request {
        Request { bytes: path.into(), ..Request::of(op, [0; 3]) }
    }

    /// An ioctl.
    pub fn ioctl(file: i32, request: u32, argument: &[u8]) -> Request {
        Request { bytes: argument.to_vec(), ..Request::of(Op::Ioctl, [file as u64, request.into(), 0]) }
    }

    /// Gives a file away.
    pub fn give(file: OwnedFd) -> Request {
        Request { file: Some(file), ..Request::of(Op::Take, [0; 3]) }
    }

    /// Sends it.
    ///
    /// # Errors
    /// Of the socket.
    pub fn send(&self, socket: RawFd) -> SysResult<()> {
        let mut message = Vec::with_capacity(WORDS * 8 + self.bytes.len());
        message.extend((self.op as u64).to_le_bytes());
        self.words.iter().for_each(|word| message.extend(word.to_le_bytes()));
        message.extend(&self.bytes);
        let files: Vec<RawFd> = self.file.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&files)];
        let control = if files.is_empty() { &[][..] } else { &control[..] };
        sendmsg::<()>(socket, &[IoSlice::new(&message)], control, MsgFlags::MSG_NOSIGNAL, None).map(|_| ())
    }

    fn receive(socket: RawFd, buffer: &mut [u8]) -> Option<Request> {
        let mut control = nix::cmsg_space!(RawFd);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = loop {
            match recvmsg::<()>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(Errno::EINTR) => control.clear(),
                Err(_) => return None,
                Ok(message) => break message,
            }
        };
        let length = message.bytes;
        let file = message.cmsgs().ok()?.find_map(|control| match control {
            // SAFETY: the numbers are those of new files, which nobody else has.
            ControlMessageOwned::ScmRights(files) => files.first().map(|file| unsafe { OwnedFd::from_raw_fd(*file) }),
            _ => None,
        });
        if length < WORDS * 8 {
            return None;
        }
        let word = |place: usize| u64::from_le_bytes(buffer[8 * place..8 * place + 8].try_into().expect("eight bytes"));
        let op = OPS.into_iter().find(|op| *op as u64 == word(0))?;
        Some(Request { op, words: [word(1), word(2), word(3)], bytes: buffer[WORDS * 8..length].to_vec(), file })
    }
}

/// Receives an answer.
///
/// # Errors
/// ECONNRESET where the actor is gone, or what the actor's call answered.
pub fn answer(socket: RawFd, buffer: &mut [u8]) -> SysResult<(i64, Vec<u8>)> {
    let length = recv(socket, buffer, MsgFlags::empty())?;
    if length < 8 {
        return Err(Errno::ECONNRESET);
    }
    let value = i64::from_le_bytes(buffer[..8].try_into().expect("eight bytes"));
    Ok((value, buffer[8..length].to_vec()))
}

/// Maps the memory of calls.
///
/// # Errors
/// Of mmap.
pub fn map_scratch(memory: BorrowedFd<'_>) -> SysResult<()> {
    let address = usize::try_from(SCRATCH_BASE).ok().and_then(std::num::NonZero::new).ok_or(Errno::EINVAL)?;
    let length = std::num::NonZero::new(SCRATCH_BYTES).ok_or(Errno::EINVAL)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: nothing of this program lies there: the address is far from where Linux puts anything by itself, and the
    // flag makes the call fail rather than replace a mapping.
    let mapped = unsafe {
        nix::sys::mman::mmap(
            Some(address),
            length,
            protection,
            MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE,
            memory,
            0,
        )
    };
    mapped.map(|_| ())
}

/// The new image of an actor after exec: says that it is there, and goes on.
///
/// # Errors
/// Where the memory of calls cannot be mapped again.
pub fn resume(socket: RawFd, scratch: RawFd) -> SysResult<()> {
    // SAFETY: the number came through exec for this.
    map_scratch(unsafe { BorrowedFd::borrow_raw(scratch) })?;
    send(socket, &0i64.to_le_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    serve(socket, scratch)
}

/// Does what it is told until nobody is there any more.
pub fn serve(socket: RawFd, scratch: RawFd) -> ! {
    let mut buffer = vec![0; MESSAGE];
    extern "C" fn nothing(_signal: libc::c_int) {}
    let interrupt = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing; that it interrupts a call is what it is for.
    let _ = unsafe { sigaction(Signal::SIGUSR1, &interrupt) };
    while let Some(mut request) = Request::receive(socket, &mut buffer) {
        let (value, bytes) = match obey(&mut request, socket, scratch) {
            Ok(done) => done,
            Err(errno) => (-i64::from(errno as i32), std::mem::take(&mut request.bytes)),
        };
        let mut message = value.to_le_bytes().to_vec();
        message.extend(bytes);
        if send(socket, &message, MsgFlags::MSG_NOSIGNAL).is_err() {
            break;
        }
    }
    // SAFETY: ends the process; nothing of it is left to be cleaned up.
    unsafe { libc::_exit(0) }
}

fn path(request: &Request) -> SysResult<String> {
    String::from_utf8(request.bytes.clone()).map_err(|_| Errno::EINVAL)
}

fn obey(request: &mut Request, socket: RawFd, scratch: RawFd) -> SysResult<(i64, Vec<u8>)> {
    let [first, second, _] = request.words;
    let file = first as u32 as i32;
    let done = |value: i32| (i64::from(value), Vec::new());
    match request.op {
        Op::Open => {
            let path = CString::new(path(request)?).map_err(|_| Errno::EINVAL)?;
            // SAFETY: the path ends with NUL and outlives the call.
            Errno::result(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) }).map(done)
        }
        Op::Ioctl => {
            let mut argument = std::mem::take(&mut request.bytes);
            // SAFETY: the struct is as long as the request says; what its pointers refer to is the shared memory or, where
            // the call is wrong on purpose, nothing of this process.
            let mut value = unsafe { libc::ioctl(file, second, argument.as_mut_ptr()) };
            if value < 0 {
                // Not every number that the driver answers has a name.
                value = -Errno::last_raw();
            }
            Ok((i64::from(value), argument))
        }
        Op::Read => {
            // SAFETY: only flags are changed.
            unsafe { libc::fcntl(file, libc::F_SETFL, libc::O_NONBLOCK) };
            let mut bytes = vec![0; second as usize];
            // SAFETY: the buffer is as long as it says.
            let read = Errno::result(unsafe { libc::read(file, bytes.as_mut_ptr().cast(), bytes.len()) })?;
            bytes.truncate(read as usize);
            Ok((read as i64, bytes))
        }
        Op::Poll => {
            let mut poll = libc::pollfd { fd: file, events: libc::POLLIN, revents: 0 };
            // SAFETY: one struct, as the count says.
            Errno::result(unsafe { libc::poll(&raw mut poll, 1, 0) })?;
            Ok(done(poll.revents.into()))
        }
        // SAFETY: who tells the number knows whose it is.
        Op::Close => Errno::result(unsafe { libc::close(file) }).map(done),
        Op::SetUid => {
            let uid = nix::unistd::Uid::from_raw(first as u32);
            let gid = nix::unistd::Gid::from_raw(first as u32);
            nix::unistd::setresgid(gid, gid, gid)?;
            nix::unistd::setresuid(uid, uid, uid)?;
            // As after the exec that follows a login: others of the same user may look into it.
            nix::sys::prctl::set_dumpable(true)?;
            Ok(done(0))
        }
        Op::Exec => {
            let program = CString::new("/proc/self/exe").expect("no NUL");
            let words = ["gpreempt-conform", "--actor", &socket.to_string(), &scratch.to_string()];
            let words: Vec<CString> = words.iter().map(|word| CString::new(*word).expect("no NUL")).collect();
            nix::unistd::execv(&program, &words).map(|_| done(0))
        }
        Op::OpenText => {
            let path = CString::new(path(request)?).map_err(|_| Errno::EINVAL)?;
            // SAFETY: the path ends with NUL and outlives the call.
            Errno::result(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }).map(done)
        }
        Op::List => {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path(request)?).map_err(|error| errno_of(&error))? {
                names.push(entry.map_err(|error| errno_of(&error))?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok((names.len() as i64, names.join("\n").into_bytes()))
        }
        Op::Take => request.file.take().map(|file| done(file.into_raw_fd())).ok_or(Errno::EBADF),
        Op::Map => {
            let mut addresses = Vec::new();
            for size in words(&request.bytes) {
                addresses.extend(map(file, second as u32, size)?.to_le_bytes());
            }
            Ok((0, addresses))
        }
        Op::Poke => {
            for pair in words(&request.bytes).collect::<Vec<u64>>().chunks_exact(2) {
                // SAFETY: an aligned word of memory that `Map` returned, which nothing in this program refers to.
                unsafe { std::ptr::with_exposed_provenance_mut::<u64>(pair[0] as usize).write_volatile(pair[1]) };
            }
            Ok(done(0))
        }
        Op::Reap => {
            let pid = nix::unistd::Pid::from_raw(file);
            nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::__WALL))?;
            Ok(done(0))
        }
        Op::Trace => {
            let pid = nix::unistd::Pid::from_raw(file);
            let request = if second != 0 { libc::PTRACE_SEIZE } else { libc::PTRACE_DETACH };
            if second == 0 {
                // Only a stopped process can be let go.
                // SAFETY: plain numbers.
                Errno::result(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid.as_raw(), 0, 0) })?;
                nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::__WALL))?;
            }
            // SAFETY: plain numbers.
            Errno::result(unsafe { libc::ptrace(request, pid.as_raw(), 0, 0) })?;
            Ok(done(0))
        }
    }
}

/// The words of a message.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
}

/// New memory that a GPU can reach.
fn map(kfd: i32, gpu_id: u32, size: u64) -> SysResult<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: new memory at an address of the kernel's choice.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), size as usize, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let address = address as u64;
    let mut buffer = kfd_ioctl_alloc_memory_of_gpu_args {
        va_addr: address,
        size,
        mmap_offset: address,
        gpu_id,
        flags: KFD_IOC_ALLOC_MEM_FLAGS_USERPTR
            | KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE
            | KFD_IOC_ALLOC_MEM_FLAGS_EXECUTABLE
            | KFD_IOC_ALLOC_MEM_FLAGS_COHERENT,
        ..Default::default()
    };
    // SAFETY: the struct is the command's.
    Errno::result(unsafe { libc::ioctl(kfd, AMDKFD_IOC_ALLOC_MEMORY_OF_GPU.into(), std::ptr::from_mut(&mut buffer)) })?;
    let mut map = kfd_ioctl_map_memory_to_gpu_args {
        handle: buffer.handle,
        device_ids_array_ptr: std::ptr::from_ref(&gpu_id) as u64,
        n_devices: 1,
        n_success: 0,
    };
    // SAFETY: the struct is the command's, and its pointer is to one element.
    Errno::result(unsafe { libc::ioctl(kfd, AMDKFD_IOC_MAP_MEMORY_TO_GPU.into(), std::ptr::from_mut(&mut map)) })?;
    Ok(address)
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
