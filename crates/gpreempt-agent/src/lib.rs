//! libgpreempt_agent.so: preloaded into an offline program (`gpreempt offline -- CMD`) on a stock kernel, it takes the
//! program's queues off the hardware when a scheduler asks, and gives them back.
//!
//! It interposes `ioctl` and nothing else. Which file a descriptor is, is asked of the kernel when a queue command comes
//! by, so it does not matter how the program got the descriptor (open, dup, a socket, a fork). A program that sends no
//! command to KFD sees no file, no thread and no handler of the agent.
//!
//! Rules for every line that runs inside the program's calls: errno is as the kernel left it; nothing panics outwards; no
//! lock but the agent's own is taken, with all signals blocked; before the first KFD command nothing is allocated.

#![allow(unsafe_code)]

mod kfd;
mod process;
mod socket;
mod system;

use std::ffi::{c_int, c_ulong, c_void};

/// Type of KFD's ioctls. The console's have it, too, but no direction.
const KFD_TYPE: u32 = gpreempt_sys::AMDKFD_IOC_CREATE_QUEUE >> 8 & 0xff;

/// `ioctl` of libc. Whatever cannot be a command to KFD goes on at once.
///
/// # Safety
/// As `ioctl`. It is variadic in C; in the calling conventions of x86-64 and AArch64 a third argument comes in the same
/// register either way, and where there is none the register's content goes on unread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // The kernel looks at 32 bits; programs may pass a sign-extended int.
    let number = request as u32;
    if number >> 8 & 0xff != KFD_TYPE || number >> 30 == 0 {
        // SAFETY: the caller's own call.
        return unsafe { system::ioctl(fd, request, argument) };
    }
    // SAFETY: the caller's own call.
    unsafe { kfd::command(fd, request, argument) }
}

/// Runs when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn construct() {
        system::find_ioctl();
        process::read_environment();
    }
    construct
};
