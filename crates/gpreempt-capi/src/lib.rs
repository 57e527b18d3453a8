//! The C interface of gpreempt: `libgpreempt_poc_v2.so` and `include/gpreempt_poc_v2.h`, which is generated from this
//! file, `types.rs` and `v1.rs`.
//!
//! Every function is one expression inside `ret::c_return`, which turns results into `-errno` and keeps panics in. What
//! a call means is decided by [`gpreempt::Session`]; here C becomes Rust and back, nothing else.
#![allow(unsafe_code, reason = "C pointers")]
#![allow(clippy::missing_safety_doc, reason = "the first comment of the header says what pointers must be")]

mod fork;
mod global;
mod ret;
mod types;
mod v1;
mod watch;

use std::ffi::{c_char, c_void};
use std::mem::size_of;
use std::time::Duration;

use gpreempt::{Error, GpuId, PolicyFlags, Result, Session, UnmapFlags};
use nix::errno::Errno;
use watch::User;

pub use types::*;
pub use v1::*;

#[cfg(panic = "abort")]
compile_error!(
    "a panic must become -ENOTRECOVERABLE, not the end of the calling program: build with panic = \"unwind\""
);

/// Opens the machine that the environment names, or counts one more user of the one that is open.
///
/// n calls need n of gpreempt_poc_cleanup(). In a forked child it opens the machine anew. Read from the environment, by
/// the call that opens: GPREEMPT_BACKEND (auto, patched, sim; auto takes the simulated machine only where there is no
/// /dev/kfd) and for the simulated machine GPREEMPT_SIM_CLOCK (real, virtual; default real), GPREEMPT_SIM_COST_MODEL,
/// GPREEMPT_SIM_SCENARIO (a file, a built-in name, or the word empty for no process at all), GPREEMPT_SIM_TOPOLOGY,
/// GPREEMPT_SIM_SEED. A variable with an empty value counts as not set. No function here lets time pass, so on a virtual
/// clock only calls that cost time move it, and a monitor hardly ever calls back: use the real one for that.
///
/// @return 0; -ENODEV no machine; -EOPNOTSUPP, -EPERM it is there and cannot be used: the last error names the remedy;
///         -EINVAL a variable or a file it names is wrong.
///
/// Permissions: read and write access to /dev/kfd.
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_poc_init() -> i32 {
    ret::c_return(global::init)
}

/// Counts one user less; the last one stops the monitor, gives every queue back and closes the machine.
///
/// Calls that other threads are in the middle of finish undisturbed; the last of them closes the machine then.
///
/// @return 0; -ENODEV not initialised; -EBADF in a forked child, where nothing of the parent is touched.
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_poc_cleanup() -> i32 {
    ret::c_return(global::cleanup)
}

/// Version of this interface: (GPREEMPT_POC_VERSION_MAJOR << 16) | GPREEMPT_POC_VERSION_MINOR of the library in use.
///
/// @return the version. Needs no gpreempt_poc_init().
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_poc_version() -> u32 {
    (GPREEMPT_POC_VERSION_MAJOR << 16) | GPREEMPT_POC_VERSION_MINOR
}

/// What the calling thread's last failed call was doing, to what, what was wrong, and what can be done about it.
///
/// @return UTF-8 text, empty where no call of this thread has failed; never NULL. It belongs to the library and stays as
///         it is until the calling thread's next call. Needs no gpreempt_poc_init().
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_poc_last_error() -> *const c_char {
    ret::last_error()
}

/// Gives a queue of another process a handle, which the other calls take.
///
/// The same queue always gets the same handle, also from discovery. A queue of the calling process keeps its KFD id.
///
/// @param pid       owner, in the calling process's pid namespace
/// @param queue_id  KFD queue id within the owner, 0 to 1023
/// @param gpu_id    KFD topology gpu_id, or GPREEMPT_ALL_GPUS where it does not matter
/// @param handle    out: the handle; untouched on failure
///
/// @return 0; -EINVAL; -ENOENT no such queue or GPU; -ESRCH no such process; -EPERM.
///
/// Permissions: same uid as the owner, or CAP_SYS_NICE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_register_queue(pid: u32, queue_id: u32, gpu_id: u32, handle: *mut u32) -> i32 {
    call(|session| {
        let operation = "registering a queue";
        not_null(operation, "handle", handle)?;
        let registered = session.register(pid, queue_id, GpuId(gpu_id))?;
        // SAFETY: not NULL, and the caller's to write.
        unsafe { handle.write(registered) };
        Ok(0)
    })
}

/// Takes queues off the hardware in one batch, all or nothing. Queues that are off already stay so.
///
/// Each GPU that has one of them interrupts its other queues once. A queue whose process is gone counts as unmapped.
/// Where a queue cannot be unmapped, those that this call unmapped are given back and the last error names the queue.
/// Holds end by themselves when this process ends, or if no call names the queue for 10 s (the driver's watchdog).
///
/// @param queues    handles or own KFD queue ids, each once
/// @param count     1 to GPREEMPT_MAX_QUEUES
/// @param grace_us  how long running waves may finish by themselves before their state is saved, microseconds; 0: the
///                  driver's default. The driver rounds up and has a maximum of 255 thousand GPU clocks.
///
/// @return 0; -EINVAL NULL, count, or a queue named twice; -ENOENT unknown queue; -EPERM not allowed, or another process's
///         queue that is not PREEMPTIBLE; -EBUSY held by another program; -ETIME preemption timed out; -EIO reset under
///         way; -EACCES the queue was reset; -EOPNOTSUPP.
///
/// Permissions: own queues always; others as gpreempt_register_queue().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_batch_unmap_queues(queues: *const u32, count: u32, grace_us: u32) -> i32 {
    call(|session| {
        // SAFETY: the caller's promise.
        let queues = unsafe { slice("unmapping queues", queues, count)? };
        session.unmap(queues, micros(grace_us))?;
        Ok(0)
    })
}

/// Gives queues back to the hardware in one batch. Queues that are mapped stay so.
///
/// @param queues  handles or own KFD queue ids, each once
/// @param count   1 to GPREEMPT_MAX_QUEUES
///
/// @return 0; errors as gpreempt_batch_unmap_queues().
///
/// Permissions: none beyond those that unmapped them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_fast_remap_queues(queues: *const u32, count: u32) -> i32 {
    call(|session| {
        // SAFETY: the caller's promise.
        let queues = unsafe { slice("remapping queues", queues, count)? };
        session.remap(queues)?;
        Ok(0)
    })
}

/// Keeps slots free for online queues and caps how many PREEMPTIBLE queues are in the runlist at once.
///
/// Queues beyond the cap take turns. Slots are percent of a GPU's slots, rounded down. The reservation ends with the
/// session; 0, 0 lifts it, cap and all, while 0 after any other online_percent stops all PREEMPTIBLE queues.
///
/// @param gpu_id           KFD topology gpu_id, or GPREEMPT_ALL_GPUS
/// @param online_percent   slots kept for online queues
/// @param offline_percent  most slots of PREEMPTIBLE queues; the sum is at most 100
///
/// @return 0; -EINVAL; -ENOENT no such GPU; -EPERM; -EBUSY reserved by another program; -EOPNOTSUPP.
///
/// Permissions: CAP_SYS_NICE.
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_set_hqd_reservation(gpu_id: u32, online_percent: u32, offline_percent: u32) -> i32 {
    call(|session| {
        session.set_reservation(GpuId(gpu_id), online_percent, offline_percent)?;
        Ok(0)
    })
}

/// Reads the slots, summed over all GPUs.
///
/// @param status  out: 20 bytes are written, never more; untouched on failure
///
/// @return 0; -EINVAL NULL; -EOPNOTSUPP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_get_hqd_status(status: *mut gpreempt_hqd_status) -> i32 {
    call(|session| {
        not_null("reading the HQD status", "status", status)?;
        let sum = session.status(GpuId::ALL)?;
        // SAFETY: not NULL, and the caller's to write.
        unsafe { status.write(sum.into()) };
        Ok(0)
    })
}

/// Reads the slots of one GPU, or their sum, into a struct that may have grown since the caller was compiled.
///
/// @param gpu_id  KFD topology gpu_id, or GPREEMPT_ALL_GPUS
/// @param status  out: a struct gpreempt_hqd_status_ex; untouched on failure
/// @param size    its size as the caller knows it. A smaller struct gets the fields it has; what a larger one has beyond
///                the library's is zeroed.
///
/// @return 0; -EINVAL NULL, or a size below that of struct gpreempt_hqd_status; -ENOENT no such GPU; -EOPNOTSUPP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_get_hqd_status_ex(gpu_id: u32, status: *mut c_void, size: u32) -> i32 {
    call(|session| {
        let operation = "reading the HQD status";
        not_null(operation, "status", status.cast::<u8>())?;
        let size = size as usize;
        if size < size_of::<gpreempt_hqd_status>() {
            return Err(invalid(operation, format!("a status of {size} bytes is too small")));
        }
        let full = gpreempt_hqd_status_ex::from(session.status(GpuId(gpu_id))?);
        let known = size.min(size_of::<gpreempt_hqd_status_ex>());
        // SAFETY: the caller's `size` bytes to write; `known` is no more than they are, and no more than `full` has.
        unsafe {
            status.cast::<u8>().copy_from_nonoverlapping((&raw const full).cast(), known);
            status.cast::<u8>().add(known).write_bytes(0, size - known);
        }
        Ok(0)
    })
}

/// Replaces the policy of a queue: flags that are set are set, the others cleared.
///
/// @param queue  handle or own KFD queue id
/// @param flags  GPREEMPT_QUEUE_*
///
/// @return 0; -EINVAL unknown flags; -ENOENT unknown queue; -ESRCH its process is gone; -EPERM; -EBUSY another program has
///         set a policy; -EOPNOTSUPP.
///
/// Permissions: as gpreempt_register_queue().
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_set_queue_policy(queue: u32, flags: u32) -> i32 {
    call(|session| {
        session.set_policy(queue, PolicyFlags::from_bits_retain(flags))?;
        Ok(0)
    })
}

/// Maps or unmaps one queue, or puts it into the offline class.
///
/// @param queue  handle or own KFD queue id
/// @param state  GPREEMPT_STATE_ACTIVE gives it back, GPREEMPT_STATE_INACTIVE unmaps it (both as the batch calls do),
///               GPREEMPT_STATE_PREEMPTIBLE puts it into the offline class and leaves it where it is
///
/// @return 0; -EINVAL unknown state; errors as gpreempt_batch_unmap_queues() and gpreempt_set_queue_policy().
///
/// Permissions: as gpreempt_register_queue().
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_set_queue_state(queue: u32, state: u32) -> i32 {
    call(|session| {
        session.set_state(queue, state)?;
        Ok(0)
    })
}

/// Takes queues off the hardware as gpreempt_batch_unmap_queues() does, without grace, and on terms.
///
/// @param queues  handles or own KFD queue ids, each once
/// @param count   1 to GPREEMPT_MAX_QUEUES
/// @param flags   GPREEMPT_UNMAP_*: with GPREEMPT_UNMAP_NO_CWSR a queue that has work stays where it is,
///               and that is no failure
///
/// @return 0; -EINVAL unknown flags; errors as gpreempt_batch_unmap_queues().
///
/// Permissions: as gpreempt_batch_unmap_queues().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_selective_unmap(queues: *const u32, count: u32, flags: u32) -> i32 {
    call(|session| {
        // SAFETY: the caller's promise.
        let queues = unsafe { slice("unmapping queues selectively", queues, count)? };
        session.selective_unmap(queues, UnmapFlags::from_bits_retain(flags))?;
        Ok(0)
    })
}

/// Gives one queue back to the hardware.
///
/// @param queue     handle or own KFD queue id
/// @param hqd_slot  GPREEMPT_HQD_ANY
///
/// @return 0; -EINVAL a slot below GPREEMPT_HQD_ANY; -EOPNOTSUPP any other slot, for the scheduler firmware alone chooses
///         it; errors as gpreempt_fast_remap_queues().
///
/// Permissions: as gpreempt_fast_remap_queues().
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_fast_remap(queue: u32, hqd_slot: i32) -> i32 {
    call(|session| {
        session.fast_remap(queue, hqd_slot)?;
        Ok(0)
    })
}

/// Tells whether a queue is in the runlist.
///
/// @param queue  handle or own KFD queue id
///
/// @return 1 or 0; -ENOENT unknown queue; -ESRCH its process is gone; -EPERM. Compare with 1: an error is not 0 either.
///
/// Permissions: as gpreempt_register_queue().
#[unsafe(no_mangle)]
pub extern "C" fn gpreempt_is_queue_active(queue: u32) -> i32 {
    call(|session| session.is_active(queue).map(i32::from))
}

/// Finds the PREEMPTIBLE queues that are mapped and have nothing to do.
///
/// @param queues    out: the first `capacity` of them; may be NULL where capacity is 0
/// @param capacity  room in `queues`
///
/// @return how many there are, which may be more than capacity; -EINVAL NULL; -EOPNOTSUPP.
///
/// Permissions: as gpreempt_register_queue(), for each queue that is to be found.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_find_idle_offline_queues(queues: *mut u32, capacity: u32) -> i32 {
    call(|session| {
        if capacity > 0 {
            not_null("finding idle queues", "queues", queues)?;
        }
        let idle = session.idle_offline()?;
        let fits = idle.len().min(capacity as usize);
        if fits > 0 {
            // SAFETY: not NULL, and the caller's room for `capacity` numbers, of which these are no more.
            unsafe { queues.copy_from_nonoverlapping(idle.as_ptr(), fits) };
        }
        Ok(count(idle.len()))
    })
}

/// Watches the slots: calls back once per interval, from a thread of the library, until it is stopped.
///
/// While it runs it also keeps the promises of gpreempt_set_queue_policy(), where the driver can tell what is idle: it
/// unmaps LAZY_ACTIVATION queues that idle for an interval, and AUTO_DEACTIVATION ones on a GPU whose free slots run low,
/// and maps them again within one interval of their next work, except those that were unmapped by a call meanwhile.
///
/// A second call replaces the first. The callback may make any call, this one included. Once the call that stops has
/// returned, the callback does not run and `user` is free to go, unless a callback made that call. A child forked by the
/// callback ends where the callback returns.
///
/// @param interval_ms  period, milliseconds; 0 stops the monitor, whether it runs or not
/// @param callback     gets the sum over all GPUs; ignored where interval_ms is 0
/// @param user         handed to the callback as it is
///
/// @return 0; -EINVAL no callback; -EAGAIN no thread to be had; -EOPNOTSUPP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_monitor_hqd_status(
    interval_ms: u32,
    callback: gpreempt_hqd_callback,
    user: *mut c_void,
) -> i32 {
    ret::c_return(|| {
        let open = global::share()?;
        if interval_ms == 0 {
            open.watch.stop();
            return Ok(0);
        }
        let function = callback.ok_or_else(|| invalid("monitoring the HQD status", "callback is NULL"))?;
        let interval = Duration::from_millis(interval_ms.into());
        open.watch.start(&open.session, interval, function, User(user))?;
        Ok(0)
    })
}

/// The frame of a call that needs the session.
fn call(body: impl FnOnce(&Session) -> Result<i32>) -> i32 {
    ret::c_return(|| body(&global::share()?.session))
}

/// A C array of queues.
///
/// # Safety
/// `queues` is NULL or points to `count` numbers that nobody writes while the slice lives.
unsafe fn slice<'a>(operation: &'static str, queues: *const u32, count: u32) -> Result<&'a [u32]> {
    not_null(operation, "queues", queues)?;
    // SAFETY: not NULL, aligned, and for the rest the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(queues, count as usize) })
}

fn not_null<T>(operation: &'static str, name: &str, pointer: *const T) -> Result<()> {
    if pointer.is_null() {
        return Err(invalid(operation, format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(invalid(operation, format!("{name} is not aligned")));
    }
    Ok(())
}

fn invalid(operation: &'static str, why: impl Into<String>) -> Error {
    Error::new(operation, Errno::EINVAL).because(why)
}

fn micros(us: u32) -> Duration {
    Duration::from_micros(us.into())
}

/// A length as a return value; no machine has two billion queues.
fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}
