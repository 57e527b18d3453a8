//! Policies of queues and targets, and the reservation.

use gpreempt_sys::{
    KFD_GPREEMPT_ALL_QUEUES, KFD_GPREEMPT_POLICY_AUTO_DEACTIVATION, KFD_GPREEMPT_POLICY_LAZY_ACTIVATION,
    KFD_GPREEMPT_POLICY_PREEMPTIBLE, kfd_gpreempt_entry, kfd_ioctl_hqd_reservation_args, kfd_ioctl_queue_policy_args,
};
use nix::errno::Errno;

use super::batch::{Orders, resolve};
use crate::call::Call;
use crate::hw::rounds::Job;
use crate::lease::Lease;
use crate::node::{NodeIndex, Reservation};
use crate::orders::{Order, Wish};
use crate::queue::Marks;
use crate::world::{LeaseId, World};

pub(super) fn set_policy(
    call: &mut Call<'_>,
    lease: LeaseId,
    args: &mut kfd_ioctl_queue_policy_args,
) -> Result<i32, Errno> {
    let known =
        KFD_GPREEMPT_POLICY_LAZY_ACTIVATION | KFD_GPREEMPT_POLICY_AUTO_DEACTIVATION | KFD_GPREEMPT_POLICY_PREEMPTIBLE;
    let unknown = (args.set_flags | args.clear_flags) & !known != 0 || args.set_flags & args.clear_flags != 0;
    if unknown || args.queue.flags != 0 || args.queue.pad != 0 || args.pad != 0 || args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    args.policy_flags = mark(call, lease, &mut args.queue, args.set_flags, args.clear_flags);
    Ok(0)
}

/// Sets and clears policy bits of what the entry names and fills in its results. Returns the bits in force.
pub(super) fn mark(call: &mut Call<'_>, lease: LeaseId, entry: &mut kfd_gpreempt_entry, set: u32, clear: u32) -> u32 {
    (entry.result, entry.num_queues, entry.state) = (0, 0, 0);
    let all = entry.queue_id == KFD_GPREEMPT_ALL_QUEUES;
    let found = resolve(call, lease, entry, set | clear != 0).and_then(|named| {
        let (target, gpu_id) = (entry.target, entry.gpu_id);
        let target = if all { mark_target(call, lease, target, named.pid, gpu_id, set, clear)? } else { 0 };
        Ok((named.pid, target))
    });
    let (pid, of_target) = match found {
        Ok(found) => found,
        Err(errno) => {
            entry.result = -(errno as i32);
            return 0;
        }
    };
    // On a whole target LAZY_ACTIVATION is about queues that are yet to come.
    let set = if all { set & !KFD_GPREEMPT_POLICY_LAZY_ACTIVATION } else { set };
    let wish = Wish::Policy { set, clear };
    let mut orders = Orders::new(call);
    orders.add(call, lease, 0, entry, wish);
    let mut entries = [(*entry, wish)];
    orders.run(call, &mut entries, None);
    *entry = entries[0].0;
    if all {
        return of_target;
    }
    call.find_queue(pid, entry.queue_id).map_or(0, |key| call.policy_of(key))
}

/// Sets what queues of a process will inherit, on one node or all. Returns the bits in force.
pub(super) fn mark_target(
    world: &mut World,
    lease: LeaseId,
    handle: u32,
    pid: u32,
    gpu_id: u32,
    set: u32,
    clear: u32,
) -> Result<u32, Errno> {
    let nodes: Vec<NodeIndex> = match gpu_id {
        0 => world.node_indices().collect(),
        gpu_id => vec![world.node_by_gpu(gpu_id).ok_or(Errno::ENOENT)?],
    };
    let marks_of = |world: &World, node: NodeIndex| {
        let marks = world.processes.get(&pid).and_then(|p| p.kfd.as_ref()).map(|kfd| kfd.device(node).marks);
        marks.filter(|m| m.policy != 0 && world.lease_lives(m.lease))
    };
    // Another lease may have marked a process that has not opened /dev/kfd: only that lease remembers it.
    let remembers = |lease: &Lease, node: NodeIndex| {
        let mut targets = lease.targets.iter().filter(|t| t.pid == pid && t.is_attached());
        targets.any(|t| t.policy[node.0] != 0)
    };
    let marked_by_other = |node: &NodeIndex| {
        let mut others = world.leases.iter().filter(|(id, other)| **id != lease && other.alive);
        marks_of(world, *node).is_some_and(|m| m.lease != lease) || others.any(|(_, other)| remembers(other, *node))
    };
    if set | clear != 0 && nodes.iter().any(marked_by_other) {
        return Err(Errno::EBUSY);
    }
    let target = handle.checked_sub(1).map(|position| position as usize);
    let mut in_force = 0;
    for node in nodes {
        let remembered = target.map_or(0, |position| world.leases[&lease].targets[position].policy[node.0]);
        let policy = (marks_of(world, node).map_or(remembered, |m| m.policy) | set) & !clear;
        in_force |= policy;
        if set | clear == 0 {
            continue;
        }
        if let Some(position) = target {
            let lease = world.leases.get_mut(&lease).expect("checked by the dispatcher");
            lease.targets[position].policy[node.0] = policy;
        }
        if let Some(kfd) = world.processes.get_mut(&pid).and_then(|p| p.kfd.as_mut()) {
            kfd.device_mut(node).marks = Marks { lease, policy };
        }
    }
    Ok(in_force)
}

pub(super) fn set_reservation(
    call: &mut Call<'_>,
    lease: LeaseId,
    args: &mut kfd_ioctl_hqd_reservation_args,
) -> Result<i32, Errno> {
    let sum = u64::from(args.online_percent) + u64::from(args.offline_percent);
    if args.flags != 0 || args.pad != 0 || args.reserved != [0; 2] || sum > 100 {
        return Err(Errno::EINVAL);
    }
    let nodes: Vec<NodeIndex> = match args.gpu_id {
        0 => call.node_indices().collect(),
        gpu_id => vec![call.node_by_gpu(gpu_id).ok_or(Errno::ENOENT)?],
    };
    let pid = call.task.pid;
    if !call.process(pid)?.privileged {
        return Err(Errno::EPERM);
    }
    let foreign = |node: &NodeIndex| call.node(*node).reservation.is_some_and(|r| r.lease != lease);
    if nodes.iter().any(foreign) {
        return Err(Errno::EBUSY);
    }
    (args.online_reserved, args.offline_max) = (u32::MAX, u32::MAX);
    args.num_nodes = nodes.len() as u32;
    // 0 and 0 reserve nothing and forbid nothing: the reservation is lifted.
    let lift = sum == 0;
    let mut jobs = Vec::new();
    for node in nodes {
        let slots = call.node(node).slots;
        let online_reserved = slots * args.online_percent / 100;
        let offline_max = slots * args.offline_percent / 100;
        args.online_reserved = args.online_reserved.min(online_reserved);
        args.offline_max = args.offline_max.min(offline_max);
        call.nodes[node.0].reservation = (!lift).then_some(Reservation { lease, online_reserved, offline_max });
        jobs.push((node, Job::of(Order::Ration)));
    }
    call.run(jobs);
    Ok(0)
}
