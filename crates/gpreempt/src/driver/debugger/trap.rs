//! The debug operations of KFD, one method each.

use std::mem::offset_of;
use std::sync::Arc;

use gpreempt_sys::*;
use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::driver::call::{array, call};
use crate::host::{Host, OwnedFile, SysResult};
use crate::queue::Pid;

/// Queues that a snapshot has room for at first.
const SNAPSHOT_ROOM: usize = 64;

/// Which way queues go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Motion {
    /// Off the hardware, with this grace period in the hardware's units.
    Suspend { grace_period: u32 },
    /// Back.
    Resume,
}

/// `/dev/kfd`, as a debugger uses it.
#[derive(Debug)]
pub(super) struct Trap {
    pub host: Arc<dyn Host>,
    pub kfd: Arc<OwnedFile>,
    pub own_pid: Pid,
}

impl Trap {
    /// One debug operation. KFD lets a debugger in that it knows; `traced`, and on kernels that ask every time, this thread
    /// becomes the ptracer for the moment. Not longer: a traced process stops at every signal until its tracer has seen it.
    fn call<T: DbgTrapOp + Copy>(
        &self,
        pid: Pid,
        operation: &mut T,
        mut list: Option<(usize, &mut [u8])>,
        traced: bool,
    ) -> SysResult<i32> {
        let mut args = kfd_ioctl_dbg_trap_args::new(pid, *operation);
        let mut issue = |args: &mut kfd_ioctl_dbg_trap_args| {
            let field = |offset| offset_of!(kfd_ioctl_dbg_trap_args, payload) + offset;
            match &mut list {
                Some((offset, bytes)) => {
                    let mut arrays = [array(field(*offset), bytes)];
                    call(self.host.as_ref(), self.kfd.raw(), AMDKFD_IOC_DBG_TRAP, args, &mut arrays)
                }
                None => call(self.host.as_ref(), self.kfd.raw(), AMDKFD_IOC_DBG_TRAP, args, &mut []),
            }
        };
        // The kernel logs an error for whoever asks without the right.
        let mut answer = if traced { Err(Errno::EPERM) } else { issue(&mut args) };
        if answer == Err(Errno::EPERM) && pid != self.own_pid {
            self.host.trace(pid)?;
            answer = issue(&mut args);
            // Where it fails the process is gone.
            let _ = self.host.untrace(pid);
        }
        if let Some(answered) = args.get::<T>() {
            *operation = answered;
        }
        answer
    }

    /// Becomes the debugger of a process. EOPNOTSUPP where its runtime is not ready for one.
    pub fn enable(&self, pid: Pid) -> SysResult<()> {
        let mut info = [kfd_runtime_info::default()];
        let mut enable = kfd_ioctl_dbg_trap_enable_args {
            // No exception is asked for, so nothing is ever written to this file: any open one will do.
            exception_mask: 0,
            rinfo_size: size_of::<kfd_runtime_info>() as u32,
            dbg_fd: self.kfd.raw().cast_unsigned(),
            ..Default::default()
        };
        let offset = offset_of!(kfd_ioctl_dbg_trap_enable_args, rinfo_ptr);
        self.call(pid, &mut enable, Some((offset, info.as_mut_bytes())), pid != self.own_pid)?;
        if info[0].runtime_state == DEBUG_RUNTIME_STATE_ENABLED {
            return Ok(());
        }
        // A runtime that enables itself now would wait for its debugger, and this one does not answer.
        let _ = self.disable(pid);
        Err(Errno::EOPNOTSUPP)
    }

    /// Ends that, which resumes everything.
    pub fn disable(&self, pid: Pid) -> SysResult<()> {
        let mut args = kfd_ioctl_dbg_trap_args { pid, op: KFD_IOC_DBG_TRAP_DISABLE, ..Default::default() };
        call(self.host.as_ref(), self.kfd.raw(), AMDKFD_IOC_DBG_TRAP, &mut args, &mut []).map(drop)
    }

    /// Reads the target's queues; new ones can be suspended from now on.
    pub fn snapshot(&self, pid: Pid) -> SysResult<Vec<kfd_queue_snapshot_entry>> {
        let mut room = SNAPSHOT_ROOM;
        loop {
            let mut entries = vec![kfd_queue_snapshot_entry::default(); room];
            let mut snapshot = kfd_ioctl_dbg_trap_queue_snapshot_args {
                exception_mask: KFD_EC_MASK(EC_QUEUE_NEW),
                num_queues: room as u32,
                entry_size: size_of::<kfd_queue_snapshot_entry>() as u32,
                ..Default::default()
            };
            let offset = offset_of!(kfd_ioctl_dbg_trap_queue_snapshot_args, snapshot_buf_ptr);
            self.call(pid, &mut snapshot, Some((offset, entries.as_mut_bytes())), false)?;
            let there_are = snapshot.num_queues as usize;
            if there_are <= room {
                entries.truncate(there_are);
                return Ok(entries);
            }
            // Queues may be created between the two calls.
            room = there_are + SNAPSHOT_ROOM;
        }
    }

    /// Suspends or resumes queues of one process in one call. The ids come back with the kernel's failure bits; the answer
    /// is how many moved.
    pub fn move_queues(&self, pid: Pid, ids: &mut [u32], motion: Motion) -> SysResult<i32> {
        let num_queues = ids.len() as u32;
        let bytes = ids.as_mut_bytes();
        match motion {
            Motion::Suspend { grace_period } => {
                let offset = offset_of!(kfd_ioctl_dbg_trap_suspend_queues_args, queue_array_ptr);
                let mut args =
                    kfd_ioctl_dbg_trap_suspend_queues_args { num_queues, grace_period, ..Default::default() };
                self.call(pid, &mut args, Some((offset, bytes)), false)
            }
            Motion::Resume => {
                let offset = offset_of!(kfd_ioctl_dbg_trap_resume_queues_args, queue_array_ptr);
                let mut args = kfd_ioctl_dbg_trap_resume_queues_args { num_queues, ..Default::default() };
                self.call(pid, &mut args, Some((offset, bytes)), false)
            }
        }
    }
}
