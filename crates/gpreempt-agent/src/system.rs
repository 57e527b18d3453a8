//! The system calls of the agent, and what they must not disturb.

use std::ffi::{CStr, c_int, c_ulong, c_void};
use std::mem::{MaybeUninit, transmute};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use nix::errno::Errno;

/// The C prototype.
type Ioctl = unsafe extern "C" fn(c_int, c_ulong, ...) -> c_int;

/// The next `ioctl` behind ours: libc's, or that of another preloaded library.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Looks for the next `ioctl`. Other libraries' constructors may have called ours before this.
pub fn find_ioctl() -> *mut c_void {
    // SAFETY: a symbol of libc, which is loaded.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"ioctl".as_ptr()) };
    NEXT.store(next, Ordering::Relaxed);
    next
}

/// The next `ioctl`.
///
/// # Safety
/// As `ioctl`.
#[inline]
pub unsafe fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let mut next = NEXT.load(Ordering::Relaxed);
    if next.is_null() {
        next = find_ioctl();
    }
    if next.is_null() {
        // SAFETY: as the caller says.
        return unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) } as c_int;
    }
    // SAFETY: `next` is the address of a function with this prototype; the rest is as the caller says.
    unsafe { transmute::<*mut c_void, Ioctl>(next)(fd, request, argument) }
}

/// Puts errno back when it goes.
pub struct KeepErrno(i32);

impl KeepErrno {
    pub fn new() -> KeepErrno {
        KeepErrno(Errno::last_raw())
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        Errno::set_raw(self.0);
    }
}

/// Blocks all signals of this thread until it goes: a handler that calls the agent, or never returns, would find the
/// agent's lock taken.
pub struct BlockSignals(libc::sigset_t);

impl BlockSignals {
    pub fn new() -> BlockSignals {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both are writable and of the right type, and all-zero is a valid value.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            BlockSignals(before.assume_init())
        }
    }
}

impl Drop for BlockSignals {
    fn drop(&mut self) {
        // SAFETY: a mask that was in force.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, null_mut()) };
    }
}

/// Reads this process's memory where it is not known to be readable. False: the kernel would answer EFAULT.
pub fn read_memory(address: *const c_void, bytes: &mut [u8]) -> bool {
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address.cast_mut(), iov_len: bytes.len() };
    // SAFETY: the kernel checks `remote`; `local` is a slice that is borrowed mutably.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    if read >= 0 {
        return read as usize == bytes.len();
    }
    if Errno::last() == Errno::EFAULT {
        return false;
    }
    // The call is forbidden here (seccomp): trust the program, as the C library would.
    // SAFETY: the program passes this memory to the kernel as readable.
    unsafe { std::ptr::copy_nonoverlapping(address.cast::<u8>(), bytes.as_mut_ptr(), bytes.len()) };
    true
}

/// What a descriptor stands for: device and inode; None where it is not open.
fn identity(fd: c_int) -> Option<(u64, u64)> {
    status(fd).map(|status| (status.st_dev, status.st_ino))
}

fn status(fd: c_int) -> Option<libc::stat> {
    let mut status = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `status` is writable and of the right type; all-zero is a valid value.
    (fd >= 0 && unsafe { libc::fstat(fd, status.as_mut_ptr()) } == 0).then(|| unsafe { status.assume_init() })
}

/// Whether a descriptor is `/dev/kfd`, however the program came by it.
pub fn is_kfd(fd: c_int) -> bool {
    /// Device number of `/dev/kfd`, 0 until it was seen.
    static KFD: AtomicU64 = AtomicU64::new(0);
    let is_device = |status: &libc::stat| status.st_mode & libc::S_IFMT == libc::S_IFCHR;
    let Some(status) = status(fd).filter(is_device) else { return false };
    let mut kfd = KFD.load(Ordering::Relaxed);
    if kfd == 0 {
        let mut found = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: as in `status`.
        let found = unsafe {
            if libc::stat(KFD_PATH.as_ptr(), found.as_mut_ptr()) != 0 {
                return false;
            }
            found.assume_init()
        };
        if !is_device(&found) {
            return false;
        }
        kfd = found.st_rdev;
        KFD.store(kfd, Ordering::Relaxed);
    }
    status.st_rdev == kfd
}

/// Where KFD is.
pub const KFD_PATH: &CStr = c"/dev/kfd";

/// Moves a descriptor out of the way: programs count on the lowest free numbers, and on those below 256 being theirs.
pub fn move_up(fd: c_int) -> c_int {
    for lowest in [512, 256] {
        // SAFETY: plain descriptor calls; `fd` is ours.
        unsafe {
            let moved = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest);
            if moved >= 0 {
                libc::close(fd);
                return moved;
            }
        }
    }
    fd
}

/// A descriptor of the agent. The program may close it behind the agent's back and get the number for a file of its own.
#[derive(Debug)]
pub struct OwnFile {
    fd: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
}

impl OwnFile {
    pub const fn none() -> OwnFile {
        OwnFile { fd: AtomicI32::new(-1), device: AtomicU64::new(0), inode: AtomicU64::new(0) }
    }

    /// Takes a descriptor over.
    pub fn set(&self, fd: c_int) {
        let (device, inode) = identity(fd).unwrap_or_default();
        self.device.store(device, Ordering::Relaxed);
        self.inode.store(inode, Ordering::Relaxed);
        self.fd.store(fd, Ordering::Release);
    }

    /// The descriptor, if it is still the agent's.
    pub fn get(&self) -> Option<c_int> {
        let fd = self.fd.load(Ordering::Acquire);
        let known = (self.device.load(Ordering::Relaxed), self.inode.load(Ordering::Relaxed));
        (identity(fd)? == known).then_some(fd)
    }

    /// Whether there is one, the agent's still or not.
    pub fn is_set(&self) -> bool {
        self.fd.load(Ordering::Relaxed) >= 0
    }

    /// Closes it. Also called in a forked child, where nothing may be locked or allocated.
    pub fn close(&self) {
        if let Some(fd) = self.get() {
            // SAFETY: it is the agent's.
            unsafe { libc::close(fd) };
        }
        self.fd.store(-1, Ordering::Release);
    }
}

/// Nanoseconds on a clock that stands still while the machine sleeps.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A variable of the program's environment.
pub fn variable(name: &CStr) -> Option<String> {
    // SAFETY: `name` ends in NUL. Called from the constructor, before the program can change its environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: a non-null answer is a string that ends in NUL.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
}
