//! Leases: what a scheduler holds and marks, and how it all ends with it.

use std::collections::VecDeque;

use gpreempt_sys::{
    KFD_GPREEMPT_EVENT_HOLD_EXPIRED, KFD_GPREEMPT_EVENT_NODE_RESET, KFD_GPREEMPT_EVENT_OVERSUBSCRIBED,
    KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, KFD_GPREEMPT_POLICY_PREEMPTIBLE, kfd_gpreempt_event,
};
use nix::errno::Errno;

use crate::hw::rounds::Job;
use crate::node::NodeIndex;
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
}

/// An attached process.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) pid: u32,
    pub(crate) detached: bool,
    /// `KFD_GPREEMPT_POLICY_*` of its later queues, per node: remembered for a process image that opens `/dev/kfd` later.
    pub(crate) policy: Vec<u32>,
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
        }
    }

    fn max_hold_ns(&self) -> u64 {
        u64::from(self.max_hold_ms) * 1_000_000
    }

    /// The handle of an attached process.
    pub(crate) fn handle_of(&self, pid: u32) -> Option<u32> {
        let position = self.targets.iter().position(|t| !t.detached && t.pid == pid)?;
        u32::try_from(position + 1).ok()
    }

    /// The attached process behind a handle.
    pub(crate) fn target(&self, handle: u32) -> Result<&Target, Errno> {
        let position = (handle as usize).checked_sub(1).ok_or(Errno::ESRCH)?;
        self.targets.get(position).filter(|t| !t.detached).ok_or(Errno::ESRCH)
    }

    /// The process behind a handle; 0 is the holder.
    pub(crate) fn resolve(&self, handle: u32) -> Result<u32, Errno> {
        if handle == 0 { Ok(self.holder) } else { self.target(handle).map(|t| t.pid) }
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

    /// Keeps a queue off the hardware. Returns whether the runlist of its node changes.
    pub(crate) fn hold(&mut self, lease: LeaseId, key: QueueKey) -> Result<bool, Errno> {
        let now = self.now;
        let queue = self.queue(key);
        if queue.being_destroyed {
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
        if !own && !preemptible {
            return Err(Errno::EPERM);
        }
        let was_active = queue.is_active();
        let since = queue.hold.map_or(now, |hold| hold.since);
        self.queue_mut(key).hold = Some(Hold { lease, since, touched: now });
        self.arm_watchdog(lease);
        Ok(was_active)
    }

    /// Gives a queue back. Returns whether the runlist of its node changes.
    pub(crate) fn release(&mut self, lease: LeaseId, key: QueueKey) -> Result<bool, Errno> {
        let queue = self.queue(key);
        if queue.hold.is_some_and(|hold| hold.lease != lease && self.lease_lives(hold.lease)) {
            return Err(Errno::EBUSY);
        }
        let queue = self.queue_mut(key);
        let was_active = queue.is_active();
        queue.hold = None;
        if queue.reset {
            return Err(Errno::EACCES);
        }
        // One that the reservation leaves out asks for a new runlist; that alone does not put it further ahead.
        Ok(queue.is_active() && (!was_active || queue.throttled))
    }

    /// Gives back all queues that the lease holds and that `which` names; one round per node that changes.
    /// Returns the rounds.
    pub(crate) fn release_all(
        &mut self,
        lease: LeaseId,
        which: impl Fn(&World, QueueKey) -> bool,
    ) -> Vec<(NodeIndex, Job)> {
        let mut jobs: Vec<Job> = vec![Job::default(); self.nodes.len()];
        for position in 0..self.queues.len() {
            let key = QueueKey(position);
            let queue = self.queue(key);
            if queue.alive && queue.hold.is_some_and(|hold| hold.lease == lease) && which(self, key) {
                let node = queue.node.0;
                let changed = self.release(lease, key).unwrap_or(false);
                jobs[node].marks += 1;
                jobs[node].execute |= changed;
            }
        }
        jobs.into_iter().enumerate().filter(|(_, job)| job.marks > 0).map(|(n, job)| (NodeIndex(n), job)).collect()
    }

    // --- the end of a lease ---------------------------------------------------------------------------------------

    /// The lease ends: what it held runs again, what it marked and reserved counts as none.
    pub(crate) fn end_lease(&mut self, id: LeaseId) -> Vec<(NodeIndex, Job)> {
        let Some(lease) = self.leases.get_mut(&id).filter(|l| l.alive) else { return Vec::new() };
        lease.alive = false;
        lease.events.clear();
        let mut jobs = self.release_all(id, |_, _| true);
        for node in self.node_indices() {
            if self.node(node).reservation.is_some_and(|r| r.lease == id) {
                self.nodes[node.0].reservation = None;
                if self.unthrottle(node) {
                    match jobs.iter_mut().find(|(n, _)| *n == node) {
                        Some((_, job)) => job.execute = true,
                        None => jobs.push((node, Job { execute: true, ..Job::default() })),
                    }
                }
            }
        }
        jobs
    }

    /// Lets all throttled queues of a node in again; true where there was one.
    pub(crate) fn unthrottle(&mut self, node: NodeIndex) -> bool {
        let mut any = false;
        for queue in self.queues.iter_mut().filter(|q| q.alive && q.node == node) {
            any |= std::mem::take(&mut queue.throttled);
        }
        any
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
        let (now, max_hold) = (self.now, lease.max_hold_ns());
        let expired =
            |world: &World, key: QueueKey| world.queue(key).hold.is_some_and(|hold| hold.touched + max_hold <= now);
        let keys: Vec<QueueKey> = (0..self.queues.len())
            .map(QueueKey)
            .filter(|key| self.queue(*key).alive && self.queue(*key).hold.is_some_and(|h| h.lease == id))
            .collect();
        let mut next = u64::MAX;
        for key in keys {
            if expired(self, key) {
                self.announce_queue(id, KFD_GPREEMPT_EVENT_HOLD_EXPIRED, key);
            } else if let Some(hold) = self.queue(key).hold {
                next = next.min(hold.touched + max_hold);
            }
        }
        for (node, job) in self.release_all(id, expired) {
            self.begin(node, job, false);
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

    fn announce_queue(&mut self, id: LeaseId, kind: u32, key: QueueKey) {
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
