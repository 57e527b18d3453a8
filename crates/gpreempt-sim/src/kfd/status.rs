//! What the driver tells about nodes and queues.

use gpreempt_sys::{
    KFD_GPREEMPT_HQD_HWS, KFD_GPREEMPT_HQD_OVERSUBSCRIBED, KFD_GPREEMPT_HQD_RESETTING, KFD_GPREEMPT_HQD_STOPPED,
    KFD_GPREEMPT_POINTERS_VALID, KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, KFD_GPREEMPT_POLICY_PREEMPTIBLE,
    KFD_GPREEMPT_STATE_ACTIVE, KFD_GPREEMPT_STATE_BEING_DESTROYED, KFD_GPREEMPT_STATE_DISABLED,
    KFD_GPREEMPT_STATE_EVICTED, KFD_GPREEMPT_STATE_IDLE, KFD_GPREEMPT_STATE_LAZY, KFD_GPREEMPT_STATE_MINE,
    KFD_GPREEMPT_STATE_PREEMPTED, KFD_GPREEMPT_STATE_PREEMPTIBLE, KFD_GPREEMPT_STATE_RESET,
    KFD_GPREEMPT_STATE_SUSPENDED, KFD_GPREEMPT_STATE_THROTTLED, KFD_GPREEMPT_WANT_POINTERS, KFD_GPREEMPT_WANT_WAVES,
    KFD_GPREEMPT_WAVES_VALID, kfd_gpreempt_entry, kfd_gpreempt_queue_status, kfd_ioctl_hqd_status_args,
    kfd_ioctl_queue_status_args,
};
use nix::errno::Errno;

use super::arguments::{check_element, write_array};
use super::batch::{Named, resolve};
use crate::call::Call;
use crate::hw::rounds::Job;
use crate::node::NodeIndex;
use crate::queue::{Queue, QueueKey};
use crate::world::{LeaseId, World};

/// What a caller wants to know of a node, read in one hold of its lock.
#[derive(Clone, Debug, Default)]
pub(crate) enum Look {
    #[default]
    Away,
    /// The node itself.
    Node,
    /// Queues of a process there: the one with this id, or all (None). `want` is `KFD_GPREEMPT_WANT_*`.
    Queues { lease: LeaseId, pid: u32, queue: Option<u32>, want: u32 },
}

/// What it saw.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Nothing,
    Node(Box<kfd_ioctl_hqd_status_args>),
    Queues(Vec<kfd_gpreempt_queue_status>),
}

pub(super) fn hqd_status(call: &mut Call<'_>, args: &mut kfd_ioctl_hqd_status_args) -> Result<i32, Errno> {
    if args.reserved != [0; 4] {
        return Err(Errno::EINVAL);
    }
    let node = call.node_by_gpu(args.gpu_id).ok_or(Errno::ENOENT)?;
    if let Seen::Node(status) = call.run_one(node, Job { look: Look::Node, ..Job::default() }).seen {
        *args = *status;
    }
    Ok(0)
}

pub(super) fn queue_status(
    call: &mut Call<'_>,
    lease: LeaseId,
    args: &mut kfd_ioctl_queue_status_args,
) -> Result<i32, Errno> {
    if args.flags & !(KFD_GPREEMPT_WANT_POINTERS | KFD_GPREEMPT_WANT_WAVES) != 0 || args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    // Who has no room has no elements.
    let size = if args.num_entries == 0 { size_of::<kfd_gpreempt_queue_status>() as u32 } else { args.entry_size };
    let stride = check_element::<kfd_gpreempt_queue_status>(size)?;
    if args.gpu_id != 0 {
        call.node_by_gpu(args.gpu_id).ok_or(Errno::ENOENT)?;
    }
    let named =
        kfd_gpreempt_entry { target: args.target, gpu_id: args.gpu_id, queue_id: args.queue_id, ..Default::default() };
    let Named { pid, queue, nodes } = resolve(call, lease, &named, false)?;
    // The state is for whoever attached, the memory is not.
    let hidden = if call.may_hold(lease, pid).is_ok() { 0 } else { KFD_GPREEMPT_WANT_POINTERS };
    let look = Look::Queues { lease, pid, queue, want: args.flags & !hidden };
    let jobs = nodes.into_iter().map(|node| (node, Job { look: look.clone(), ..Job::default() })).collect();
    let mut found = Vec::new();
    for (_, report) in call.run(jobs) {
        if let Seen::Queues(mut seen) = report.seen {
            found.append(&mut seen);
        }
    }
    if queue.is_some() && found.is_empty() {
        return Err(Errno::ENOENT);
    }
    let room = (args.num_entries as usize).min(found.len());
    if room > 0 {
        write_array(call, args.status_ptr, &found[..room], stride)?;
    }
    args.num_entries = found.len() as u32;
    Ok(0)
}

/// The bits whose condition holds.
fn bits(conditions: &[(bool, u32)]) -> u32 {
    conditions.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit)
}

impl World {
    /// Whether read and write pointer of a queue are equal and no wave is left.
    pub(crate) fn idle(&mut self, key: QueueKey) -> bool {
        self.settle(key);
        self.queue(key).is_idle()
    }

    /// Looks at a node; its lock is held.
    pub(crate) fn look(&mut self, node: NodeIndex, look: &Look) -> Seen {
        match *look {
            Look::Away => Seen::Nothing,
            Look::Node => Seen::Node(Box::new(self.status_of(node))),
            Look::Queues { lease, pid, queue, want } => {
                let mut keys = self.queues_of_process(pid, node);
                keys.retain(|key| queue.is_none_or(|id| self.queue(*key).id == id));
                Seen::Queues(keys.into_iter().map(|key| self.queue_status_of(key, lease, want)).collect())
            }
        }
    }

    /// `KFD_GPREEMPT_STATE_*` of a queue, as a lease sees it.
    pub(crate) fn state_of(&mut self, key: QueueKey, lease: LeaseId) -> u32 {
        let queue = self.queue(key);
        if !queue.alive {
            return 0;
        }
        let held = queue.hold.filter(|hold| self.lease_lives(hold.lease));
        let policy = self.policy_of(key);
        let mine = held.is_some_and(|hold| hold.lease == lease);
        bits(&[
            (queue.is_active() && !queue.throttled, KFD_GPREEMPT_STATE_ACTIVE),
            (queue.evicted > 0, KFD_GPREEMPT_STATE_EVICTED),
            (queue.suspended, KFD_GPREEMPT_STATE_SUSPENDED),
            (held.is_some(), KFD_GPREEMPT_STATE_PREEMPTED),
            (mine, KFD_GPREEMPT_STATE_MINE),
            (queue.is_disabled(), KFD_GPREEMPT_STATE_DISABLED),
            (queue.being_destroyed, KFD_GPREEMPT_STATE_BEING_DESTROYED),
            (queue.throttled && queue.is_active(), KFD_GPREEMPT_STATE_THROTTLED),
            (queue.reset, KFD_GPREEMPT_STATE_RESET),
            (policy & KFD_GPREEMPT_POLICY_PREEMPTIBLE != 0, KFD_GPREEMPT_STATE_PREEMPTIBLE),
            (policy & KFD_GPREEMPT_POLICY_LAZY_ACTIVATION != 0, KFD_GPREEMPT_STATE_LAZY),
        ])
    }

    fn queue_status_of(&mut self, key: QueueKey, lease: LeaseId, want: u32) -> kfd_gpreempt_queue_status {
        // So that the pointers are those of now.
        self.settle(key);
        let mut state = self.state_of(key, lease);
        // Only who looks at pointers and waves knows.
        if want == KFD_GPREEMPT_WANT_POINTERS | KFD_GPREEMPT_WANT_WAVES && self.idle(key) {
            state |= KFD_GPREEMPT_STATE_IDLE;
        }
        let queue = self.queue(key);
        let hold = queue.hold.filter(|hold| self.lease_lives(hold.lease));
        let mut status = kfd_gpreempt_queue_status {
            queue_id: queue.id,
            gpu_id: self.node(queue.node).gpu_id,
            r#type: queue.properties.kind,
            state,
            priority: queue.properties.priority,
            percent: queue.properties.percent,
            policy_flags: self.policy_of(key),
            ring_base: queue.properties.ring,
            owner_lease: hold.map_or(0, |hold| hold.lease),
            preempted_ns: hold.map_or(0, |hold| self.now - hold.since),
            owner_pid: hold.map_or(0, |hold| self.leases[&hold.lease].holder),
            doorbell: queue.doorbell,
            ..Default::default()
        };
        if want & KFD_GPREEMPT_WANT_POINTERS != 0 {
            status.flags |= KFD_GPREEMPT_POINTERS_VALID;
            status.read_ptr = queue.feed.executed() * queue.pointer_unit();
            status.write_ptr = queue.feed.submitted() * queue.pointer_unit();
        }
        if want & KFD_GPREEMPT_WANT_WAVES != 0 {
            status.flags |= KFD_GPREEMPT_WAVES_VALID;
            status.waves = u32::try_from(self.live_waves(key)).unwrap_or(u32::MAX);
        }
        status
    }

    fn status_of(&self, node: NodeIndex) -> kfd_ioctl_hqd_status_args {
        let it = self.node(node);
        let count = |test: &dyn Fn(QueueKey, &Queue) -> bool| {
            self.queues_of(node).filter(|key| test(*key, self.queue(*key))).count() as u32
        };
        let listed = |queue: &Queue| queue.is_active() && !queue.throttled;
        let active_hqd = count(&|_, q| q.is_compute() && listed(q));
        kfd_ioctl_hqd_status_args {
            gpu_id: it.gpu_id,
            flags: bits(&[
                (it.oversubscribed, KFD_GPREEMPT_HQD_OVERSUBSCRIBED),
                (true, KFD_GPREEMPT_HQD_HWS),
                (it.resetting, KFD_GPREEMPT_HQD_STOPPED | KFD_GPREEMPT_HQD_RESETTING),
            ]),
            total_hqd: it.slots,
            active_hqd,
            free_hqd: it.slots - active_hqd.min(it.slots),
            online_reserved: it.reservation.map_or(0, |r| r.online_reserved),
            offline_max: it.reservation.map_or(it.slots, |r| r.offline_max),
            offline_used: count(&|key, q| q.is_compute() && listed(q) && self.is_preemptible(key)),
            num_xcc: it.xccs,
            preempted: count(&|_, q| q.hold.is_some_and(|hold| self.lease_lives(hold.lease))),
            throttled: count(&|_, q| q.is_active() && q.throttled),
            queues_total: count(&|_, _| true),
            sdma_slots: it.sdma_slots(),
            sdma_active: count(&|_, q| !q.is_compute() && listed(q)),
            proc_slots: it.process_slots,
            procs: it.processes.len() as u32,
            gws_active: count(&|_, q| q.gws && listed(q)),
            preempt_timeout_ms: self.preempt_timeout_ms(),
            runlist_seq: it.runlists,
            unmap_seq: it.unmaps,
            last_unmap_ns: it.last_unmap_ns,
            reserved: [0; 4],
        }
    }
}
