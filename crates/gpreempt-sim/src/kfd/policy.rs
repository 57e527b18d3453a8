//! Policies of queues and targets, and the reservation.

use gpreempt_sys::{
    KFD_GPREEMPT_ALL_QUEUES, KFD_GPREEMPT_ENTRY_IF_IDLE, KFD_GPREEMPT_POLICY_AUTO_DEACTIVATION,
    KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, KFD_GPREEMPT_POLICY_PREEMPTIBLE, kfd_gpreempt_entry,
    kfd_ioctl_hqd_reservation_args, kfd_ioctl_queue_policy_args,
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
    let all = entry.queue_id == KFD_GPREEMPT_ALL_QUEUES;
    let wish = Wish::Policy { set, clear };
    let mut entries = [(*entry, wish)];
    let named = resolve(call, lease, entry, set != 0);
    let mut policy = 0;
    let remembered = match &named {
        // What concerns the whole target is remembered for a later image, before the queues of this one are looked at.
        Ok(_) if all => mark_target(call, lease, entry, set, clear),
        _ => Ok(0),
    };
    match (named, remembered) {
        (Err(errno), _) | (_, Err(errno)) => {
            entries[0].0 = kfd_gpreempt_entry { result: -(errno as i32), num_queues: 0, state: 0, ..*entry };
        }
        (Ok(named), Ok(remembered)) => {
            policy = remembered;
            let mut refusal = None;
            if all {
                for node in call.nodes_named(entry.gpu_id) {
                    let Some(marks) = call.marks_of(named.pid, node) else { continue };
                    match call.change(marks, lease, set, clear) {
                        Ok(changed) => {
                            policy |= changed.policy;
                            call.set_marks(named.pid, node, changed);
                        }
                        Err(errno) => refusal = Some(errno),
                    }
                }
            }
            // On a whole target LAZY_ACTIVATION is about queues that are yet to come.
            let set = if all { set & !KFD_GPREEMPT_POLICY_LAZY_ACTIVATION } else { set };
            entries[0].1 = Wish::Policy { set, clear };
            let mut orders = Orders::new(call);
            orders.add(call, lease, 0, &mut entries[0]);
            orders.run(call, &mut entries, None);
            if let (Some(errno), 0) = (refusal, entries[0].0.result) {
                entries[0].0.result = -(errno as i32);
            }
            if !all
                && entries[0].0.result == 0
                && let Ok(key) = call.find_queue(named.pid, entry.queue_id)
            {
                policy = call.queue(key).marks.policy;
                if set & KFD_GPREEMPT_POLICY_LAZY_ACTIVATION != 0 {
                    // A queue that exists starts to be lazy when it has nothing to do.
                    entries[0].0.flags = KFD_GPREEMPT_ENTRY_IF_IDLE;
                    entries[0].1 = Wish::Unmap;
                    let mut orders = Orders::new(call);
                    orders.add(call, lease, 0, &mut entries[0]);
                    orders.run(call, &mut entries, None);
                    entries[0].0.flags = 0;
                }
            }
        }
    }
    *entry = entries[0].0;
    policy
}

/// Remembers what queues of a target will inherit, in a later image of it too. Returns the bits in force.
pub(super) fn mark_target(
    world: &mut World,
    lease: LeaseId,
    entry: &kfd_gpreempt_entry,
    set: u32,
    clear: u32,
) -> Result<u32, Errno> {
    // The holder has no later image that the lease would live to see.
    let Some(position) = entry.target.checked_sub(1).map(|position| position as usize) else { return Ok(0) };
    let pid = world.leases[&lease].resolve(entry.target)?;
    let uid = world.process(pid)?.uid;
    let nodes = world.nodes_named(entry.gpu_id);
    let remembers = |other: &Lease| {
        let mut targets = other.targets.iter().filter(|t| t.pid == pid && t.is_attached());
        targets.any(|t| nodes.iter().any(|node| t.policy[node.0] != 0))
    };
    if set != 0 && world.leases.iter().any(|(id, other)| *id != lease && other.alive && remembers(other)) {
        return Err(Errno::EBUSY);
    }
    let target = &mut world.leases.get_mut(&lease).expect("checked by the dispatcher").targets[position];
    if set != 0 {
        target.uid = uid;
    }
    let mut in_force = 0;
    for node in nodes {
        target.policy[node.0] = (target.policy[node.0] | set) & !clear;
        in_force |= target.policy[node.0];
    }
    Ok(in_force)
}

impl World {
    /// The nodes that a gpu_id names, which exist.
    pub(super) fn nodes_named(&self, gpu_id: u32) -> Vec<NodeIndex> {
        match gpu_id {
            0 => self.node_indices().collect(),
            gpu_id => self.node_by_gpu(gpu_id).into_iter().collect(),
        }
    }

    /// What queues of a process inherit on a node; None before it opens `/dev/kfd`.
    pub(super) fn marks_of(&self, pid: u32, node: NodeIndex) -> Option<Marks> {
        self.processes.get(&pid)?.kfd.as_ref().map(|kfd| kfd.device(node).marks)
    }

    pub(super) fn set_marks(&mut self, pid: u32, node: NodeIndex, marks: Marks) {
        if let Some(kfd) = self.processes.get_mut(&pid).and_then(|p| p.kfd.as_mut()) {
            kfd.device_mut(node).marks = marks;
        }
    }
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
        let offline_max = if lift { slots } else { slots * args.offline_percent / 100 };
        args.online_reserved = args.online_reserved.min(online_reserved);
        args.offline_max = args.offline_max.min(offline_max);
        call.nodes[node.0].reservation = (!lift).then_some(Reservation { lease, online_reserved, offline_max });
        jobs.push((node, Job::of(Order::Ration)));
    }
    call.run(jobs);
    Ok(0)
}
