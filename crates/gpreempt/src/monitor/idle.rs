//! Which idle queues leave the hardware, and which of those come back.
//!
//! User doorbells bypass the kernel, so nothing tells when an unmapped queue gets work: whoever unmapped it must look at
//! its write pointer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::driver::QueueStatus;
use crate::queue::{GpuId, Pid, PolicyFlags, QueueId, QueueState, QueueType};

/// When idle queues are unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How long a queue must have been idle.
    pub idle_for: Duration,
    /// Offline queues of nodes that are low.
    pub clean: bool,
    /// LAZY_ACTIVATION queues of all nodes, and those that started unmapped.
    pub lazy: bool,
    /// Holds are renewed when they are this old; None where they last.
    pub renew_after: Option<Duration>,
}

/// What there is at one moment.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// Machine time.
    pub now: Duration,
    /// Queues with their pointers.
    pub queues: &'a [QueueStatus],
    /// Processes whose queues could not be read this time.
    pub unread: &'a BTreeSet<Pid>,
    /// Whether a node is low.
    pub is_low: &'a dyn Fn(GpuId) -> bool,
    /// Whether an online window holds a queue.
    pub in_window: &'a dyn Fn(QueueId, GpuId) -> bool,
}

/// What to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Unmap these if they have no waves.
    pub unmap: Vec<Candidate>,
    /// Name these again, so that the watchdog does not end their hold.
    pub renew: Vec<QueueId>,
    /// Map these: they have work.
    pub remap: Vec<QueueId>,
}

impl Plan {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.unmap.is_empty() && self.renew.is_empty() && self.remap.is_empty()
    }
}

/// A queue that could leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub queue: QueueId,
    /// Its node.
    pub gpu: GpuId,
    /// Its pointers, which are equal.
    pub write_pointer: u64,
}

/// Remembers how long queues have been idle and which of them were unmapped for it.
#[derive(Clone, Debug, Default)]
pub struct Idle {
    waiting: BTreeMap<QueueId, Waiting>,
    held: BTreeMap<QueueId, Held>,
}

/// Mapped, and idle since.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Duration,
    write_pointer: u64,
}

/// Unmapped by us.
#[derive(Clone, Copy, Debug)]
struct Held {
    gpu: GpuId,
    write_pointer: u64,
    named: Duration,
}

impl Idle {
    /// Looks at all queues and decides. Does not take for done what it proposes: see [`Idle::unmapped`] and the like.
    pub fn plan(&mut self, rule: &Rule, look: &Look<'_>) -> Plan {
        let seen: BTreeSet<QueueId> = look.queues.iter().map(|queue| queue.queue).collect();
        let keep = |queue: &QueueId| seen.contains(queue) || look.unread.contains(&queue.pid);
        self.waiting.retain(|queue, _| keep(queue));
        self.held.retain(|queue, _| keep(queue));
        let mut plan = Plan::default();
        for status in look.queues {
            self.consider(rule, look, status, &mut plan);
        }
        plan
    }

    fn consider(&mut self, rule: &Rule, look: &Look<'_>, status: &QueueStatus, plan: &mut Plan) {
        let queue = status.queue;
        let preempted = status.state.contains(QueueState::PREEMPTED);
        if !preempted {
            // Somebody mapped it, or the watchdog did.
            self.held.remove(&queue);
        }
        if (look.in_window)(queue, status.gpu) {
            self.waiting.remove(&queue);
            return;
        }
        if preempted {
            self.waiting.remove(&queue);
            self.consider_held(rule, look.now, status, plan);
            return;
        }
        let write_pointer = match status.pointers {
            Some((read, write)) if read == write && may_leave(status) => write,
            _ => {
                self.waiting.remove(&queue);
                return;
            }
        };
        let waiting = self.waiting.entry(queue).or_insert(Waiting { since: look.now, write_pointer });
        if waiting.write_pointer != write_pointer {
            // It worked in between.
            *waiting = Waiting { since: look.now, write_pointer };
        }
        let wanted = rule.clean && (look.is_low)(status.gpu)
            || rule.lazy && status.policy.contains(PolicyFlags::LAZY_ACTIVATION);
        if wanted && look.now.saturating_sub(waiting.since) >= rule.idle_for {
            plan.unmap.push(Candidate { queue, gpu: status.gpu, write_pointer });
        }
    }

    fn consider_held(&mut self, rule: &Rule, now: Duration, status: &QueueStatus, plan: &mut Plan) {
        let queue = status.queue;
        let lazy = rule.lazy
            && status.state.contains(QueueState::MINE)
            && status.policy.contains(PolicyFlags::LAZY_ACTIVATION);
        // A queue whose pointers cannot be read could starve unnoticed: it counts as having work.
        let work_beyond =
            |start: Option<u64>| status.pointers.is_none_or(|(read, write)| write != start.unwrap_or(read));
        match self.held.get(&queue) {
            Some(held) if work_beyond(Some(held.write_pointer)) => plan.remap.push(queue),
            Some(held) => {
                if rule.renew_after.is_some_and(|age| now.saturating_sub(held.named) >= age) {
                    plan.renew.push(queue);
                }
            }
            // It started unmapped, and nobody else looks at its write pointer.
            None if lazy && work_beyond(None) => plan.remap.push(queue),
            None if lazy => {
                if let Some((_, write_pointer)) = status.pointers {
                    self.held
                        .insert(queue, Held { gpu: status.gpu, write_pointer, named: now.saturating_sub(status.held) });
                }
            }
            // Held by an online window that claimed nothing, or by another lease.
            None => {}
        }
    }

    /// A candidate was unmapped.
    pub fn unmapped(&mut self, candidate: Candidate, now: Duration) {
        let Candidate { queue, gpu, write_pointer } = candidate;
        self.waiting.remove(&queue);
        self.held.insert(queue, Held { gpu, write_pointer, named: now });
    }

    /// A hold was renewed.
    pub fn renewed(&mut self, queue: QueueId, now: Duration) {
        if let Some(held) = self.held.get_mut(&queue) {
            held.named = now;
        }
    }

    /// A queue is not ours to hold any more: mapped, gone, or given up.
    pub fn released(&mut self, queue: QueueId) {
        self.held.remove(&queue);
    }

    /// A queue could not be unmapped: it starts its idle time anew.
    pub fn refused(&mut self, queue: QueueId) {
        self.waiting.remove(&queue);
    }

    /// The queues that we unmapped, in order, with their nodes.
    pub fn held(&self) -> impl Iterator<Item = (QueueId, GpuId)> + '_ {
        self.held.iter().map(|(&queue, held)| (queue, held.gpu))
    }
}

/// Offline, holding a slot, and stopped by nobody else.
fn may_leave(status: &QueueStatus) -> bool {
    let busy_with = QueueState::EVICTED | QueueState::SUSPENDED | QueueState::BEING_DESTROYED | QueueState::RESET;
    let offline = PolicyFlags::PREEMPTIBLE | PolicyFlags::AUTO_DEACTIVATION | PolicyFlags::LAZY_ACTIVATION;
    status.kind == QueueType::Compute
        && status.state.contains(QueueState::ACTIVE)
        && !status.state.intersects(busy_with)
        && status.policy.intersects(offline)
}
