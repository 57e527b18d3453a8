//! Policies of queues and targets, and the reservation.

use gpreempt_sys::{
    KFD_GPREEMPT_ALL_QUEUES, KFD_GPREEMPT_POLICY_AUTO_DEACTIVATION, KFD_GPREEMPT_POLICY_LAZY_ACTIVATION,
    KFD_GPREEMPT_POLICY_PREEMPTIBLE, kfd_gpreempt_entry, kfd_ioctl_hqd_reservation_args, kfd_ioctl_queue_policy_args,
};
use nix::errno::Errno;

use super::batch::resolve;
use crate::call::Call;
use crate::hw::rounds::Job;
use crate::node::{NodeIndex, Reservation};
use crate::queue::{Marks, QueueKey};
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
    let (pid, keys) = match resolve(call, lease, entry, set | clear != 0) {
        Ok(found) => found,
        Err(errno) => {
            entry.result = -(errno as i32);
            return 0;
        }
    };
    let all = entry.queue_id == KFD_GPREEMPT_ALL_QUEUES;
    let mut in_force = 0;
    if all {
        match mark_target(call, lease, entry.target, pid, entry.gpu_id, set, clear) {
            Ok(policy) => in_force = policy,
            Err(errno) => {
                entry.result = -(errno as i32);
                return 0;
            }
        }
    }
    // On a whole target LAZY_ACTIVATION is about queues that are yet to come.
    let set = if all { set & !KFD_GPREEMPT_POLICY_LAZY_ACTIVATION } else { set };
    let mut jobs = vec![Job::default(); call.nodes.len()];
    for key in &keys {
        match mark_queue(call, lease, *key, set, clear) {
            Ok(changed) => {
                entry.num_queues += 1;
                let job = &mut jobs[call.queue(*key).node.0];
                job.marks += 1;
                job.execute |= changed;
            }
            Err(errno) if entry.result == 0 => entry.result = -(errno as i32),
            Err(_) => {}
        }
        if !all {
            in_force = call.policy_of(*key);
        }
    }
    let jobs: Vec<(NodeIndex, Job)> =
        jobs.into_iter().enumerate().filter(|(_, j)| j.marks > 0).map(|(n, j)| (NodeIndex(n), j)).collect();
    for (_, report) in call.run(&jobs) {
        if let (Err(errno), 0) = (report.result, entry.result) {
            entry.result = -(errno as i32);
        }
    }
    if let Some(last) = keys.last() {
        entry.state = call.state_of(*last, lease);
    }
    in_force
}

/// Returns whether the runlist of the queue's node changes.
fn mark_queue(world: &mut World, lease: LeaseId, key: QueueKey, set: u32, clear: u32) -> Result<bool, Errno> {
    let policy = world.policy_of(key);
    if set | clear == 0 {
        return Ok(false);
    }
    if policy != 0 && world.queue(key).marks.lease != lease {
        return Err(Errno::EBUSY);
    }
    world.queue_mut(key).marks = Marks { lease, policy: (policy | set) & !clear };
    if set & KFD_GPREEMPT_POLICY_LAZY_ACTIVATION != 0 && world.idle(key) {
        // An idle queue need not wait for work on the hardware; one outside the offline class stays where it is.
        return match world.hold(lease, key) {
            Err(Errno::EPERM) => Ok(false),
            other => other,
        };
    }
    Ok(false)
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
    if set | clear != 0 && nodes.iter().any(|n| marks_of(world, *n).is_some_and(|m| m.lease != lease)) {
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
        let left_out = call.unthrottle(node);
        let crowded = !lift && call.offline_candidates(node).len() > offline_max as usize;
        if left_out || crowded {
            jobs.push((node, Job { execute: true, ..Job::default() }));
        }
    }
    call.run(&jobs);
    Ok(0)
}
