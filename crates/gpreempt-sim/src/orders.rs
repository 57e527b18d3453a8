//! Orders: what is done to queues in one hold of their node's lock, so that marking and executing cannot be parted.

use gpreempt_sys::{
    KFD_GPREEMPT_EVENT_HOLD_EXPIRED, KFD_GPREEMPT_EVENT_QUEUE_DESTROYED, KFD_GPREEMPT_POLICY_LAZY_ACTIVATION,
};
use nix::errno::Errno;

use crate::node::NodeIndex;
use crate::queue::{Hold, Marks, QueueKey};
use crate::world::{LeaseId, World};

/// What becomes of the queues that an entry of a lease's command names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Unmap,
    Remap,
    /// Bits of `KFD_GPREEMPT_POLICY_*` to set and to clear.
    Policy {
        set: u32,
        clear: u32,
    },
}

impl Wish {
    /// Whether it is something that the holder of a lease has to be allowed to do.
    pub(crate) fn needs_permission(self) -> bool {
        match self {
            Wish::Unmap => true,
            Wish::Remap => false,
            Wish::Policy { set, .. } => set != 0,
        }
    }
}

/// The part of a call that concerns one node.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// The entry at this place of a lease's command: a queue of a process by its id, or all (None).
    Entry { place: usize, lease: LeaseId, pid: u32, queue: Option<u32>, wish: Wish, if_idle: bool, hold_new: bool },
    /// Gives back all that a lease holds.
    Release { lease: LeaseId },
    /// Gives back and unmarks all of one process.
    Detach { lease: LeaseId, pid: u32 },
    /// Gives back what a lease has held for too long.
    Expire { lease: LeaseId },
    /// A change of the reservation: those whom it leaves out wrongly come in, and the other way round.
    Ration,
    /// A process is evicted for one of `KFD_QUEUE_EVICTION_TRIGGER_*`, or restored (None).
    Evict { pid: u32, trigger: Option<u32> },
    /// A queue's owner destroys it.
    Destroy { key: QueueKey },
    /// A process is torn down.
    Terminate { pid: u32 },
}

/// What an order did to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The runlist changes.
    Changed,
    /// It is as it should be; the runlist stays.
    Same,
    /// It was to be unmapped if idle, and is busy.
    Left,
}

impl Effect {
    /// The effect of a mark that changes the runlist or not.
    fn of(changed: bool) -> Effect {
        if changed { Effect::Changed } else { Effect::Same }
    }
}

/// A queue that an entry named.
#[derive(Clone, Debug)]
pub(crate) struct Touched {
    /// Place of the entry.
    pub(crate) place: usize,
    lease: LeaseId,
    /// None where there is no such queue (any more).
    pub(crate) key: Option<QueueKey>,
    pub(crate) effect: Result<Effect, Errno>,
    /// `KFD_GPREEMPT_STATE_*` when the lock is given back.
    pub(crate) state: u32,
    /// Whether it was reset, by this round or earlier.
    pub(crate) reset: bool,
}

/// What all orders of a job did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Queues looked at and marked.
    pub(crate) marks: u64,
    /// Whether the node has to be executed.
    pub(crate) changed: bool,
    pub(crate) touched: Vec<Touched>,
}

impl Done {
    fn touch(&mut self, (place, lease): (usize, LeaseId), key: Option<QueueKey>, effect: Result<Effect, Errno>) {
        self.changed |= effect == Ok(Effect::Changed);
        self.touched.push(Touched { place, lease, key, effect, state: 0, reset: false });
    }
}

impl World {
    /// Does what the orders of a job say, before the round; the node's lock is held.
    pub(crate) fn carry_out(&mut self, node: NodeIndex, orders: &[Order]) -> Done {
        let mut done = Done::default();
        for order in orders {
            match *order {
                Order::Entry { place, lease, pid, queue, wish, if_idle, hold_new } => {
                    let refusal = if hold_new { self.hold_new(node, lease, pid).err() } else { None };
                    self.do_entry(node, (place, lease, pid, queue), (wish, if_idle, refusal), &mut done);
                }
                Order::Release { lease } => {
                    for key in self.held_by(node, lease) {
                        done.marks += 1;
                        done.changed |= self.release(lease, key).unwrap_or(false);
                    }
                    // What the lease marked or reserved keeps nothing out any more.
                    done.changed |= self.any_throttled(node);
                }
                Order::Detach { lease, pid } => {
                    for key in self.queues_of_process(pid, node) {
                        done.marks += 1;
                        let queue = self.queue_mut(key);
                        if queue.marks.lease == lease {
                            queue.marks = Marks::default();
                            done.changed |= queue.throttled;
                        }
                        if queue.hold.is_some_and(|hold| hold.lease == lease) {
                            done.changed |= self.release(lease, key).unwrap_or(false);
                        }
                    }
                }
                Order::Expire { lease } => {
                    let max_hold = self.leases[&lease].max_hold_ns();
                    for key in self.held_by(node, lease) {
                        if self.queue(key).hold.is_some_and(|hold| hold.touched + max_hold <= self.now) {
                            self.announce_queue(lease, KFD_GPREEMPT_EVENT_HOLD_EXPIRED, key);
                            done.marks += 1;
                            done.changed |= self.release(lease, key).unwrap_or(false);
                        }
                    }
                }
                Order::Ration => done.changed |= self.rations_are_stale(node),
                Order::Evict { pid, trigger } => done.changed |= self.shift_eviction(pid, node, trigger),
                Order::Destroy { key } => {
                    let was_active = self.queue(key).is_active();
                    self.queue_mut(key).leaving = true;
                    done.changed |= was_active;
                }
                // Its pid may be another process's by now.
                Order::Terminate { pid } if self.is_leaving(pid) => {
                    for key in self.queues_of_process(pid, node) {
                        self.queue_mut(key).leaving = true;
                    }
                    // The runlist of the round that follows has no such process any more.
                    self.nodes[node.0].processes.retain(|other| *other != pid);
                }
                Order::Terminate { .. } => {}
            }
        }
        done
    }

    /// Finishes what the orders of a job began, after the round; the node's lock is still held.
    pub(crate) fn conclude(&mut self, node: NodeIndex, orders: &[Order], touched: &mut [Touched]) {
        for order in orders {
            match *order {
                Order::Destroy { key } if self.queue(key).alive => {
                    self.announce(KFD_GPREEMPT_EVENT_QUEUE_DESTROYED, self.queue(key).pid, Some(key));
                    self.unlink_queue(key);
                }
                Order::Terminate { pid } if self.is_leaving(pid) => {
                    for key in self.queues_of_process(pid, node) {
                        self.unlink_queue(key);
                    }
                    self.left(pid);
                }
                _ => {}
            }
        }
        for touched in touched {
            let Some(key) = touched.key else { continue };
            touched.state = self.state_of(key, touched.lease);
            touched.reset = self.queue(key).reset;
        }
    }

    fn do_entry(
        &mut self,
        node: NodeIndex,
        (place, lease, pid, queue): (usize, LeaseId, u32, Option<u32>),
        (wish, if_idle, refusal): (Wish, bool, Option<Errno>),
        done: &mut Done,
    ) {
        if self.process(pid).is_err() {
            return done.touch((place, lease), None, Err(Errno::ESRCH));
        }
        let keys = match queue.map(|id| self.find_queue(pid, id)) {
            Some(Err(errno)) => return done.touch((place, lease), None, Err(errno)),
            Some(Ok(key)) if self.queue(key).node == node => vec![key],
            // Its id is another queue's by now.
            Some(Ok(_)) => return done.touch((place, lease), None, Err(Errno::ENOENT)),
            None => self.queues_of_process(pid, node),
        };
        done.marks += keys.len() as u64;
        if let (Some(errno), true) = (refusal, keys.is_empty()) {
            done.touch((place, lease), None, Err(errno));
        }
        for key in keys {
            let effect = match wish {
                _ if refusal.is_some() => Err(refusal.expect("just seen")),
                Wish::Unmap => self.hold(lease, key, if_idle),
                Wish::Remap => self.release(lease, key).map(Effect::of),
                Wish::Policy { set, clear } => self.mark_queue(lease, key, set, clear),
            };
            done.touch((place, lease), Some(key), effect);
        }
    }

    /// Queues that a process creates on a node from now on start held.
    fn hold_new(&mut self, node: NodeIndex, lease: LeaseId, pid: u32) -> Result<(), Errno> {
        let Some(kfd) = self.processes.get(&pid).and_then(|process| process.kfd.as_ref()) else { return Ok(()) };
        let marks = self.change(kfd.device(node).marks, lease, KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, 0)?;
        let kfd = self.processes.get_mut(&pid).and_then(|process| process.kfd.as_mut());
        kfd.expect("just seen").device_mut(node).marks = marks;
        Ok(())
    }

    /// Queues of a process on a node, newest first.
    pub(crate) fn queues_of_process(&self, pid: u32, node: NodeIndex) -> Vec<QueueKey> {
        let kfd = self.processes.get(&pid).and_then(|p| p.kfd.as_ref());
        kfd.map_or_else(Vec::new, |kfd| kfd.device(node).queues.clone())
    }

    /// Queues of a node that a lease holds, newest first in each process.
    pub(crate) fn held_by(&self, node: NodeIndex, lease: LeaseId) -> Vec<QueueKey> {
        let held = |key: &QueueKey| self.queue(*key).hold.is_some_and(|hold| hold.lease == lease);
        self.queues_of(node).filter(held).collect()
    }

    // --- marks on one queue ---------------------------------------------------------------------------------------

    /// Keeps a queue off the hardware; one that is busy only if it need not be idle.
    fn hold(&mut self, lease: LeaseId, key: QueueKey, if_idle: bool) -> Result<Effect, Errno> {
        let now = self.now;
        self.may_unmap(lease, key)?;
        // A hold is renewed, whatever is in the ring by now.
        let mine = self.queue(key).hold.is_some_and(|hold| hold.lease == lease);
        if if_idle && !mine && !self.idle(key) {
            return Ok(Effect::Left);
        }
        let queue = self.queue(key);
        let (was_active, held) = (queue.is_active(), queue.hold);
        let since = held.map_or(now, |hold| hold.since);
        self.queue_mut(key).hold = Some(Hold { lease, since, touched: now });
        self.arm_watchdog(lease);
        Ok(Effect::of(was_active))
    }

    /// Gives a queue back. Returns whether the runlist of its node changes.
    fn release(&mut self, lease: LeaseId, key: QueueKey) -> Result<bool, Errno> {
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

    /// Sets and clears policy bits of a queue.
    fn mark_queue(&mut self, lease: LeaseId, key: QueueKey, set: u32, clear: u32) -> Result<Effect, Errno> {
        let was_offline = self.is_preemptible(key);
        let marks = self.change(self.queue(key).marks, lease, set, clear)?;
        self.queue_mut(key).marks = marks;
        // The offline class of a node with a reservation has grown or shrunk.
        let queue = self.queue(key);
        let changed = was_offline != self.is_preemptible(key) && queue.is_active();
        Ok(Effect::of(changed && self.node(queue.node).reservation.is_some()))
    }

    /// Marks with bits set and cleared; EBUSY where they are another living lease's.
    pub(crate) fn change(&self, marks: Marks, lease: LeaseId, set: u32, clear: u32) -> Result<Marks, Errno> {
        let foreign = marks.lease != lease;
        if foreign && self.lease_lives(marks.lease) {
            return Err(Errno::EBUSY);
        }
        let policy = (if foreign { 0 } else { marks.policy } | set) & !clear;
        Ok(if policy == 0 { Marks::default() } else { Marks { lease, policy } })
    }
}
