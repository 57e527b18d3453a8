//! Leases: what a scheduler holds and marks, and how it all ends with it.

use std::collections::VecDeque;

use gpreempt_sys::{
    KFD_GPREEMPT_EVENT_NODE_RESET, KFD_GPREEMPT_EVENT_OVERSUBSCRIBED, KFD_GPREEMPT_POLICY_LAZY_ACTIVATION,
    KFD_GPREEMPT_POLICY_PREEMPTIBLE, kfd_gpreempt_event,
};
use nix::errno::Errno;

use crate::hw::rounds::Job;
use crate::node::NodeIndex;
use crate::orders::Order;
use crate::queue::{Hold, QueueKey};
use crate::timeline::Event;
use crate::world::{LeaseId, World};

/// Events that a lease keeps for its reader.
const EVENT_ROOM: usize = 1024;

/// One lease.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The process that opened it.
    pub(crate) holder: u32,
    pub(crate) max_hold_ms: u32,
    pub(crate) alive: bool,
    /// Attached processes; the handle is the position plus 1.
    pub(crate) targets: Vec<Target>,
    pub(crate) events: VecDeque<kfd_gpreempt_event>,
    /// Events dropped since the last one that was kept.
    lost: u32,
    /// When the watchdog looks next.
    watchdog: Option<u64>,
    /// Calls on its file that are under way: each keeps the file, and so the lease.
    pub(crate) calls: u32,
    /// The file was closed while they were.
    pub(crate) closed: bool,
    /// Its lock: commands that have asked for it, and those that have given it back.
    pub(crate) asked: u64,
    pub(crate) served: u64,
}

/// An attached process.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) pid: u32,
    /// The holder gave its handle back.
    pub(crate) detached: bool,
    /// The process has exited; its pid may be another's.
    pub(crate) gone: bool,
    /// `KFD_GPREEMPT_POLICY_*` of its later queues, per node: remembered for a process image that opens `/dev/kfd` later.
    pub(crate) policy: Vec<u32>,
    /// Whose process it was when that was said.
    pub(crate) uid: u32,
}

impl Target {
    /// Whether the handle still names a process.
    pub(crate) fn is_attached(&self) -> bool {
        !self.detached && !self.gone
    }
}

impl Lease {
    pub(crate) fn new(holder: u32, max_hold_ms: u32) -> Lease {
        Lease {
            holder,
            max_hold_ms,
            alive: true,
            targets: Vec::new(),
            events: VecDeque::new(),
            lost: 0,
            watchdog: None,
            calls: 0,
            closed: false,
            asked: 0,
            served: 0,
        }
    }

    pub(crate) fn max_hold_ns(&self) -> u64 {
        u64::from(self.max_hold_ms) * 1_000_000
    }

    /// The handle of an attached process.
    pub(crate) fn handle_of(&self, pid: u32) -> Option<u32> {
        let position = self.targets.iter().position(|t| t.is_attached() && t.pid == pid)?;
        u32::try_from(position + 1).ok()
    }

    /// What a handle names until it is detached.
    pub(crate) fn target_mut(&mut self, handle: u32) -> Result<&mut Target, Errno> {
        let position = (handle as usize).checked_sub(1).ok_or(Errno::ESRCH)?;
        self.targets.get_mut(position).filter(|t| !t.detached).ok_or(Errno::ESRCH)
    }

    /// The process behind a handle; 0 is the holder.
    pub(crate) fn resolve(&self, handle: u32) -> Result<u32, Errno> {
        let Some(position) = handle.checked_sub(1) else { return Ok(self.holder) };
        self.targets.get(position as usize).filter(|t| t.is_attached()).map(|t| t.pid).ok_or(Errno::ESRCH)
    }

    fn record(&mut self, mut event: kfd_gpreempt_event) {
        if self.events.len() >= EVENT_ROOM {
            self.lost += 1;
            return;
        }
        event.lost = std::mem::take(&mut self.lost);
        self.events.push_back(event);
    }
}

impl World {
    // --- holds ----------------------------------------------------------------------------------------------------

    /// Whether a lease may keep this queue off the hardware: its holder's own, or one that it has marked PREEMPTIBLE.
    pub(crate) fn may_unmap(&self, lease: LeaseId, key: QueueKey) -> Result<(), Errno> {
        let queue = self.queue(key);
        if queue.being_destroyed || queue.leaving {
            return Err(Errno::EBUSY);
        }
        if queue.hold.is_some_and(|hold| hold.lease != lease && self.lease_lives(hold.lease)) {
            return Err(Errno::EBUSY);
        }
        let marked = queue.marks.policy != 0 && self.lease_lives(queue.marks.lease);
        if marked && queue.marks.lease != lease {
            return Err(Errno::EBUSY);
        }
        let own = self.leases.get(&lease).is_some_and(|l| l.holder == queue.pid);
        let preemptible = marked && queue.marks.policy & KFD_GPREEMPT_POLICY_PREEMPTIBLE != 0;
        if own || preemptible { Ok(()) } else { Err(Errno::EPERM) }
    }

    // --- the end of a lease ---------------------------------------------------------------------------------------

    /// The last reference to the file of a lease goes, or the last but for calls that are under way: then the lease
    /// ends with those.
    pub(crate) fn close_lease(&mut self, id: LeaseId) -> Vec<(NodeIndex, Job)> {
        match self.leases.get_mut(&id) {
            Some(lease) if lease.calls > 0 => {
                lease.closed = true;
                Vec::new()
            }
            _ => self.end_lease(id),
        }
    }

    /// The lease ends: what it marked and reserved counts as none from here on, and the jobs let run again what it
    /// held or its reservation left out.
    fn end_lease(&mut self, id: LeaseId) -> Vec<(NodeIndex, Job)> {
        let Some(lease) = self.leases.get_mut(&id).filter(|l| l.alive) else { return Vec::new() };
        lease.alive = false;
        lease.events.clear();
        for it in self.nodes.iter_mut().filter(|it| it.reservation.is_some_and(|r| r.lease == id)) {
            it.reservation = None;
        }
        self.node_indices()
            .filter(|node| self.any_throttled(*node) || !self.held_by(*node, id).is_empty())
            .map(|node| (node, Job::of(Order::Release { lease: id })))
            .collect()
    }

    /// A call on the file of a lease is out. Returns what ends with it.
    pub(crate) fn leave_lease(&mut self, id: LeaseId) -> Vec<(NodeIndex, Job)> {
        let lease = self.leases.get_mut(&id).expect("the call kept it");
        lease.calls -= 1;
        if lease.calls == 0 && lease.closed { self.end_lease(id) } else { Vec::new() }
    }

    // --- watchdog -------------------------------------------------------------------------------------------------

    /// Makes the watchdog look no later than when the youngest hold ends.
    pub(crate) fn arm_watchdog(&mut self, id: LeaseId) {
        let now = self.now;
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if lease.watchdog.is_none() {
            let at = now + lease.max_hold_ns();
            lease.watchdog = Some(at);
            self.timeline.plan(at, Event::Watchdog { lease: id });
        }
    }

    pub(crate) fn watchdog_event(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id).filter(|l| l.alive) else { return };
        lease.watchdog = None;
        let max_hold = lease.max_hold_ns();
        let mut next = u64::MAX;
        for node in self.node_indices() {
            let ends = self.held_by(node, id).into_iter().filter_map(|key| self.queue(key).hold);
            let ends: Vec<u64> = ends.map(|hold| hold.touched + max_hold).collect();
            next = ends.iter().copied().filter(|end| *end > self.now).fold(next, u64::min);
            if ends.iter().any(|end| *end <= self.now) {
                self.begin(node, Job::of(Order::Expire { lease: id }), false);
            }
        }
        if next != u64::MAX {
            self.leases.get_mut(&id).expect("looked up above").watchdog = Some(next);
            self.timeline.plan(next, Event::Watchdog { lease: id });
        }
    }

    // --- marks ----------------------------------------------------------------------------------------------------

    /// Policy bits of a queue that count now.
    pub(crate) fn policy_of(&self, key: QueueKey) -> u32 {
        let marks = self.queue(key).marks;
        if self.lease_lives(marks.lease) { marks.policy } else { 0 }
    }

    /// Whether a living lease put the queue into the offline class.
    pub(crate) fn is_preemptible(&self, key: QueueKey) -> bool {
        self.policy_of(key) & KFD_GPREEMPT_POLICY_PREEMPTIBLE != 0
    }

    /// A new queue takes over what a living lease said about its process and node.
    pub(crate) fn inherit(&mut self, key: QueueKey) {
        let queue = self.queue(key);
        let Some(kfd) = self.processes.get(&queue.pid).and_then(|p| p.kfd.as_ref()) else { return };
        let marks = kfd.device(queue.node).marks;
        if marks.policy == 0 || !self.lease_lives(marks.lease) {
            return;
        }
        let now = self.now;
        let queue = self.queue_mut(key);
        queue.marks = marks;
        if marks.policy & KFD_GPREEMPT_POLICY_LAZY_ACTIVATION != 0 {
            queue.hold = Some(Hold { lease: marks.lease, since: now, touched: now });
            self.arm_watchdog(marks.lease);
        }
    }

    // --- events ---------------------------------------------------------------------------------------------------

    /// Tells every lease that has the owner of this queue as target.
    pub(crate) fn announce(&mut self, kind: u32, pid: u32, key: Option<QueueKey>) {
        let (gpu_id, queue_id) = key.map_or((0, 0), |key| {
            let queue = self.queue(key);
            (self.node(queue.node).gpu_id, queue.id)
        });
        let time_ns = self.now;
        for lease in self.leases.values_mut().filter(|l| l.alive) {
            if let Some(target) = lease.handle_of(pid) {
                lease.record(kfd_gpreempt_event {
                    r#type: kind,
                    target,
                    gpu_id,
                    queue_id,
                    time_ns,
                    ..Default::default()
                });
            }
        }
    }

    pub(crate) fn announce_queue(&mut self, id: LeaseId, kind: u32, key: QueueKey) {
        let queue = self.queue(key);
        let (pid, queue_id, gpu_id, time_ns) = (queue.pid, queue.id, self.node(queue.node).gpu_id, self.now);
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let target = lease.handle_of(pid).unwrap_or(0);
        lease.record(kfd_gpreempt_event { r#type: kind, target, gpu_id, queue_id, time_ns, ..Default::default() });
    }

    fn announce_node(&mut self, kind: u32, node: NodeIndex) {
        let (gpu_id, time_ns) = (self.node(node).gpu_id, self.now);
        for lease in self.leases.values_mut().filter(|l| l.alive) {
            lease.record(kfd_gpreempt_event { r#type: kind, gpu_id, time_ns, ..Default::default() });
        }
    }

    pub(crate) fn announce_oversubscribed(&mut self, node: NodeIndex) {
        self.announce_node(KFD_GPREEMPT_EVENT_OVERSUBSCRIBED, node);
    }

    pub(crate) fn announce_reset(&mut self, node: NodeIndex) {
        self.announce_node(KFD_GPREEMPT_EVENT_NODE_RESET, node);
    }
}
