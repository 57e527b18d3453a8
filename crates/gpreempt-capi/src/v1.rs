//! The functions of the first generation, which older callers use.

use std::ptr;

use gpreempt::{QueueInfo, Result, Session};
use nix::errno::Errno;

use crate::{call, gpreempt_queue_info, invalid, micros, not_null, slice};

/// gpreempt_batch_unmap_queues() under its first name.
///
/// @param queues    handles or own KFD queue ids, each once
/// @param count     1 to GPREEMPT_MAX_QUEUES
/// @param grace_us  as in gpreempt_batch_unmap_queues(), microseconds
///
/// @return as gpreempt_batch_unmap_queues().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_suspend_queues(queues: *const u32, count: i32, grace_us: u32) -> i32 {
    call(|session| {
        let operation = "suspending queues";
        // SAFETY: the caller's promise.
        let queues = unsafe { slice(operation, queues, positive(operation, count)?)? };
        session.unmap(queues, micros(grace_us))?;
        Ok(0)
    })
}

/// gpreempt_fast_remap_queues() under its first name.
///
/// @param queues  handles or own KFD queue ids, each once
/// @param count   1 to GPREEMPT_MAX_QUEUES
///
/// @return as gpreempt_fast_remap_queues().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_resume_queues(queues: *const u32, count: i32) -> i32 {
    call(|session| {
        let operation = "resuming queues";
        // SAFETY: the caller's promise.
        let queues = unsafe { slice(operation, queues, positive(operation, count)?)? };
        session.remap(queues)?;
        Ok(0)
    })
}

/// Lists every queue that discovery finds, of all processes.
///
/// @param infos  out: the list, to be freed with gpreempt_free_queue_info(); NULL where there is none; untouched on failure
/// @param count  out: its length; untouched on failure
///
/// @return 0; -EINVAL NULL; -ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_get_all_queues(infos: *mut *mut gpreempt_queue_info, count: *mut i32) -> i32 {
    // SAFETY: the caller's promise.
    call(|session| unsafe { list(session, "listing queues", infos, count, |_| true) })
}

/// Lists the queues with a KFD priority in a range.
///
/// ROCm gives every queue the same priority, so this finds offline and online work only among queues that were made with
/// one. Queues whose priority is not known are left out.
///
/// @param min_priority  lowest, 0 to 15
/// @param max_priority  highest, 0 to 15, no less than the lowest
/// @param infos         out: as gpreempt_get_all_queues()
/// @param count         out: as gpreempt_get_all_queues()
///
/// @return 0; -EINVAL NULL, or no such range; -ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_find_queues_by_priority(
    min_priority: u32,
    max_priority: u32,
    infos: *mut *mut gpreempt_queue_info,
    count: *mut i32,
) -> i32 {
    call(|session| {
        let operation = "finding queues by priority";
        if min_priority > max_priority || max_priority > 15 {
            return Err(invalid(operation, format!("{min_priority} to {max_priority} is not a range within 0 to 15")));
        }
        let wanted = min_priority..=max_priority;
        // SAFETY: the caller's promise.
        unsafe { list(session, operation, infos, count, |info| info.priority.is_some_and(|p| wanted.contains(&p))) }
    })
}

/// Lists the queues of one process.
///
/// @param pid    owner, in the calling process's pid namespace
/// @param infos  out: as gpreempt_get_all_queues()
/// @param count  out: as gpreempt_get_all_queues(); 0 also where there is no such process
///
/// @return 0; -EINVAL NULL; -ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_find_queues_by_process(
    pid: u32,
    infos: *mut *mut gpreempt_queue_info,
    count: *mut i32,
) -> i32 {
    // SAFETY: the caller's promise.
    call(|session| unsafe { list(session, "finding queues by process", infos, count, |info| info.queue.pid == pid) })
}

/// Frees a list of queues. Needs no gpreempt_poc_init().
///
/// @param infos  a list that this library gave, or NULL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpreempt_free_queue_info(infos: *mut gpreempt_queue_info) {
    // SAFETY: the caller's promise; the list came from malloc.
    unsafe { libc::free(infos.cast()) };
}

/// Hands the queues that `wanted` picks to C, in memory that `free` takes back without knowing its length.
///
/// # Safety
/// `infos` and `count` are NULL or the caller's to write.
unsafe fn list(
    session: &Session,
    operation: &'static str,
    infos: *mut *mut gpreempt_queue_info,
    count: *mut i32,
    wanted: impl Fn(&QueueInfo) -> bool,
) -> Result<i32> {
    not_null(operation, "infos", infos)?;
    not_null(operation, "count", count)?;
    let found: Vec<gpreempt_queue_info> = session
        .queues()?
        .iter()
        .filter(|(_, info)| wanted(info))
        .map(|(handle, info)| gpreempt_queue_info::new(*handle, info))
        .collect();
    let memory = if found.is_empty() {
        ptr::null_mut()
    } else {
        // SAFETY: malloc takes any size; a Vec's never overflows.
        unsafe { libc::malloc(size_of_val(found.as_slice())).cast::<gpreempt_queue_info>() }
    };
    if memory.is_null() && !found.is_empty() {
        return Err(gpreempt::Error::new(operation, Errno::ENOMEM));
    }
    // SAFETY: `memory` has room for all of `found` (malloc aligns for any type), or `found` is empty and nothing is copied;
    // the out pointers are not NULL and the caller's to write.
    unsafe {
        if !memory.is_null() {
            memory.copy_from_nonoverlapping(found.as_ptr(), found.len());
        }
        infos.write(memory);
        count.write(crate::count(found.len()));
    }
    Ok(0)
}

fn positive(operation: &'static str, count: i32) -> Result<u32> {
    u32::try_from(count).map_err(|_| invalid(operation, format!("{count} queues")))
}
