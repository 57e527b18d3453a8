//! Opening a lease, and attaching and detaching its targets.

use gpreempt_sys::{
    AMDKFD_IOC_BATCH_UNMAP_QUEUES, AMDKFD_IOC_FAST_REMAP, AMDKFD_IOC_GET_HQD_STATUS, AMDKFD_IOC_GET_QUEUE_STATUS,
    AMDKFD_IOC_GPREEMPT_ATTACH, AMDKFD_IOC_GPREEMPT_DETACH, AMDKFD_IOC_SELECTIVE_UNMAP, AMDKFD_IOC_SET_HQD_RESERVATION,
    AMDKFD_IOC_SET_QUEUE_POLICY, AMDKFD_IOC_SET_QUEUE_STATE, AMDKFD_IOC_SWAP_QUEUES, KFD_GPREEMPT_ABI_VERSION,
    KFD_GPREEMPT_CAP_EVENTS, KFD_GPREEMPT_CAP_POINTERS, KFD_GPREEMPT_CAP_RESERVATION, KFD_GPREEMPT_CAP_SWAP,
    KFD_GPREEMPT_CAP_WAVES, KFD_GPREEMPT_GRACE_MAX, KFD_GPREEMPT_MAX_ENTRIES, kfd_gpreempt_entry, kfd_gpreempt_event,
    kfd_gpreempt_queue_status, kfd_ioctl_gpreempt_attach_args, kfd_ioctl_gpreempt_open_args, kfd_ioctl_hqd_status_args,
};
use nix::errno::Errno;

use super::arguments::{Direction, check_tail, loose, strict};
use super::{batch, number, policy, status};
use crate::call::Call;
use crate::file::File;
use crate::hw::rounds::Job;
use crate::lease::{Lease, Target};
use crate::orders::Order;
use crate::queue::Marks;
use crate::world::{LeaseId, World};

/// `max_hold_ms` of the driver: default and maximum.
const MAX_HOLD_MS: u32 = 10_000;

/// AMDKFD_IOC_GPREEMPT_OPEN, on `/dev/kfd`.
pub(super) fn open(call: &mut Call<'_>, argument: &mut [u8]) -> Result<i32, Errno> {
    check_tail::<kfd_ioctl_gpreempt_open_args>(argument)?;
    loose(argument, Direction::Both, |args: &mut kfd_ioctl_gpreempt_open_args| {
        if args.abi_version == 0 || args.flags != 0 || args.reserved != 0 {
            return Err(Errno::EINVAL);
        }
        let limit = call.config.scenario.max_hold_ms.unwrap_or(MAX_HOLD_MS);
        let max_hold_ms = if args.max_hold_ms == 0 { limit } else { args.max_hold_ms.min(limit) };
        let id = call.next_lease;
        call.next_lease += 1;
        let task = call.task;
        call.leases.insert(id, Lease::new(task.pid, max_hold_ms));
        let lease_fd = call.files.insert(task, File::Lease(id));
        *args = kfd_ioctl_gpreempt_open_args {
            abi_version: KFD_GPREEMPT_ABI_VERSION,
            flags: 0,
            max_hold_ms,
            lease_fd,
            lease_id: id,
            caps: KFD_GPREEMPT_CAP_RESERVATION
                | KFD_GPREEMPT_CAP_EVENTS
                | KFD_GPREEMPT_CAP_POINTERS
                | KFD_GPREEMPT_CAP_WAVES
                | KFD_GPREEMPT_CAP_SWAP,
            max_entries: KFD_GPREEMPT_MAX_ENTRIES,
            grace_max: KFD_GPREEMPT_GRACE_MAX,
            entry_size: size_of::<kfd_gpreempt_entry>() as u32,
            hqd_status_size: size_of::<kfd_ioctl_hqd_status_args>() as u32,
            queue_status_size: size_of::<kfd_gpreempt_queue_status>() as u32,
            event_size: size_of::<kfd_gpreempt_event>() as u32,
            reserved: 0,
        };
        Ok(0)
    })
}

/// A command on the lease file. Commands of one lease run one after the other; asking for status waits for none.
pub(super) fn dispatch(call: &mut Call<'_>, lease: LeaseId, nr: u32, argument: &mut [u8]) -> Result<i32, Errno> {
    const HQD_STATUS: u32 = number(AMDKFD_IOC_GET_HQD_STATUS);
    const QUEUE_STATUS: u32 = number(AMDKFD_IOC_GET_QUEUE_STATUS);
    match nr {
        HQD_STATUS => strict(argument, |args| status::hqd_status(call, args)),
        QUEUE_STATUS => strict(argument, |args| status::queue_status(call, lease, args)),
        _ => {
            call.lock_lease(lease);
            let answer = command(call, lease, nr, argument);
            call.unlock_lease(lease);
            answer
        }
    }
}

fn command(call: &mut Call<'_>, lease: LeaseId, nr: u32, argument: &mut [u8]) -> Result<i32, Errno> {
    const ATTACH: u32 = number(AMDKFD_IOC_GPREEMPT_ATTACH);
    const DETACH: u32 = number(AMDKFD_IOC_GPREEMPT_DETACH);
    const UNMAP: u32 = number(AMDKFD_IOC_BATCH_UNMAP_QUEUES);
    const REMAP: u32 = number(AMDKFD_IOC_FAST_REMAP);
    const SWAP: u32 = number(AMDKFD_IOC_SWAP_QUEUES);
    const SELECTIVE: u32 = number(AMDKFD_IOC_SELECTIVE_UNMAP);
    const STATE: u32 = number(AMDKFD_IOC_SET_QUEUE_STATE);
    const POLICY: u32 = number(AMDKFD_IOC_SET_QUEUE_POLICY);
    const RESERVATION: u32 = number(AMDKFD_IOC_SET_HQD_RESERVATION);
    match nr {
        ATTACH => strict(argument, |args| attach(call, lease, args)),
        DETACH => strict(argument, |args| detach(call, lease, args)),
        UNMAP => strict(argument, |args| batch::unmap(call, lease, args)),
        REMAP => strict(argument, |args| batch::remap(call, lease, args)),
        SWAP => strict(argument, |args| batch::swap(call, lease, args)),
        SELECTIVE => strict(argument, |args| batch::selective_unmap(call, lease, args)),
        STATE => strict(argument, |args| batch::set_state(call, lease, args)),
        POLICY => strict(argument, |args| policy::set_policy(call, lease, args)),
        RESERVATION => strict(argument, |args| policy::set_reservation(call, lease, args)),
        _ => Err(Errno::ENOTTY),
    }
}

fn attach(call: &mut Call<'_>, lease: LeaseId, args: &mut kfd_ioctl_gpreempt_attach_args) -> Result<i32, Errno> {
    if args.flags != 0 || args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let pid = if args.pid == 0 { call.task.pid } else { args.pid };
    let process = call.process(pid)?;
    call.may_hold(lease, pid)?;
    args.num_queues = process.kfd.as_ref().map_or(0, |kfd| kfd.queues.len() as u32);
    args.start_boottime_ns = process.started;
    let nodes = call.nodes.len();
    let lease = call.leases.get_mut(&lease).expect("checked by the dispatcher");
    args.target = lease.handle_of(pid).unwrap_or_else(|| {
        // A handle that was given back is not another's.
        lease.targets.push(Target { pid, detached: false, gone: false, policy: vec![0; nodes], uid: 0 });
        lease.targets.len() as u32
    });
    Ok(0)
}

fn detach(call: &mut Call<'_>, id: LeaseId, args: &mut kfd_ioctl_gpreempt_attach_args) -> Result<i32, Errno> {
    if args.pid != 0 || args.flags != 0 || args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let lease = call.leases.get_mut(&id).expect("checked by the dispatcher");
    let target = lease.target_mut(args.target)?;
    target.detached = true;
    if target.gone {
        return Ok(0);
    }
    let pid = target.pid;
    let Some(kfd) = call.process_mut(pid)?.kfd.as_mut() else { return Ok(0) };
    for device in kfd.devices.iter_mut().filter(|d| d.marks.lease == id) {
        device.marks = Marks::default();
    }
    let nodes = call.node_indices().filter(|node| !call.queues_of_process(pid, *node).is_empty());
    let jobs = nodes.map(|node| (node, Job::of(Order::Detach { lease: id, pid }))).collect();
    call.run(jobs);
    Ok(0)
}

impl World {
    /// Whether the holder of a lease may stop queues of a process: its own, one of the same user, or any with
    /// CAP_SYS_NICE.
    pub(super) fn may_hold(&self, lease: LeaseId, pid: u32) -> Result<(), Errno> {
        let holder = self.leases.get(&lease).ok_or(Errno::EBADF)?.holder;
        let (holder, target) = (self.process(holder)?, self.process(pid)?);
        let allowed = holder.pid == target.pid || holder.uid == target.uid || holder.privileged;
        if allowed { Ok(()) } else { Err(Errno::EPERM) }
    }
}
