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
            Some(held) if rule.renew_after.is_some_and(|age| now.saturating_sub(held.named) >= age) => {
                plan.renew.push(queue);
            }
            Some(_) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);
    const GPU: GpuId = GpuId(7);
    const RULE: Rule = Rule { idle_for: INTERVAL, clean: true, lazy: false, renew_after: Some(Duration::from_secs(3)) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn status(id: u32, state: QueueState, policy: PolicyFlags, pointers: (u64, u64)) -> QueueStatus {
        QueueStatus {
            queue: QueueId { pid: 1, id },
            gpu: GPU,
            kind: QueueType::Compute,
            state,
            policy,
            priority: Some(7),
            percent: Some(100),
            ring_base: 0,
            pointers: Some(pointers),
            waves: None,
            held: Duration::ZERO,
        }
    }

    fn mapped(id: u32, pointers: (u64, u64)) -> QueueStatus {
        status(id, QueueState::ACTIVE, PolicyFlags::PREEMPTIBLE, pointers)
    }

    fn held(id: u32, pointers: (u64, u64)) -> QueueStatus {
        status(id, QueueState::PREEMPTED | QueueState::MINE, PolicyFlags::PREEMPTIBLE, pointers)
    }

    struct Scene {
        idle: Idle,
        rule: Rule,
        low: bool,
        window: Vec<u32>,
        unread: BTreeSet<Pid>,
    }

    impl Scene {
        fn new(rule: Rule) -> Scene {
            Scene { idle: Idle::default(), rule, low: true, window: Vec::new(), unread: BTreeSet::new() }
        }

        /// Plans, and takes every proposal for done.
        fn look(&mut self, now: u64, queues: &[QueueStatus]) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
            let (low, window) = (self.low, self.window.clone());
            let look = Look {
                now: at(now),
                queues,
                unread: &self.unread,
                is_low: &|_| low,
                in_window: &|queue, _| window.contains(&queue.id),
            };
            let plan = self.idle.plan(&self.rule, &look);
            for &candidate in &plan.unmap {
                self.idle.unmapped(candidate, at(now));
            }
            plan.renew.iter().for_each(|&queue| self.idle.renewed(queue, at(now)));
            plan.remap.iter().for_each(|&queue| self.idle.released(queue));
            let ids = |queues: &[QueueId]| queues.iter().map(|queue| queue.id).collect::<Vec<_>>();
            (plan.unmap.iter().map(|candidate| candidate.queue.id).collect(), ids(&plan.renew), ids(&plan.remap))
        }

        fn unmaps(&mut self, now: u64, queues: &[QueueStatus]) -> Vec<u32> {
            self.look(now, queues).0
        }
    }

    #[test]
    fn an_offline_queue_leaves_after_one_full_interval_of_idleness() {
        let mut scene = Scene::new(RULE);
        assert_eq!(scene.unmaps(0, &[mapped(3, (8, 8))]), [0; 0]);
        assert_eq!(scene.unmaps(1, &[mapped(3, (8, 8))]), [3]);
    }

    #[test]
    fn work_between_two_looks_starts_the_idle_time_anew() {
        let mut scene = Scene::new(RULE);
        scene.look(0, &[mapped(3, (8, 8))]);
        assert_eq!(scene.unmaps(1, &[mapped(3, (16, 16))]), [0; 0], "it worked and went idle in between");
        assert_eq!(scene.unmaps(2, &[mapped(3, (16, 24))]), [0; 0], "it works");
        assert_eq!(scene.unmaps(3, &[mapped(3, (24, 24))]), [0; 0]);
        assert_eq!(scene.unmaps(4, &[mapped(3, (24, 24))]), [3]);
    }

    #[test]
    fn only_compute_queues_of_the_offline_class_that_hold_a_slot_leave() {
        let online = status(1, QueueState::ACTIVE, PolicyFlags::empty(), (8, 8));
        let sdma = QueueStatus { kind: QueueType::Sdma, ..mapped(2, (8, 8)) };
        let throttled = status(3, QueueState::THROTTLED, PolicyFlags::PREEMPTIBLE, (8, 8));
        let debugged = status(4, QueueState::ACTIVE | QueueState::SUSPENDED, PolicyFlags::PREEMPTIBLE, (8, 8));
        let unreadable = QueueStatus { pointers: None, ..mapped(5, (8, 8)) };
        let automatic = status(6, QueueState::ACTIVE, PolicyFlags::AUTO_DEACTIVATION, (8, 8));
        let all = [online, sdma, throttled, debugged, unreadable, automatic];
        let mut scene = Scene::new(RULE);
        scene.look(0, &all);
        assert_eq!(scene.unmaps(9, &all), [6]);
    }

    #[test]
    fn where_slots_abound_only_lazy_queues_leave_and_only_if_asked() {
        let lazy = PolicyFlags::LAZY_ACTIVATION | PolicyFlags::PREEMPTIBLE;
        let all = [mapped(1, (8, 8)), status(2, QueueState::ACTIVE, lazy, (8, 8))];
        for (serve, leave) in [(false, vec![]), (true, vec![2])] {
            let mut scene = Scene::new(Rule { lazy: serve, ..RULE });
            scene.low = false;
            scene.look(0, &all);
            assert_eq!(scene.unmaps(1, &all), leave);
        }
    }

    #[test]
    fn a_queue_comes_back_when_its_write_pointer_moves_and_not_before() {
        let mut scene = Scene::new(RULE);
        scene.look(0, &[mapped(3, (8, 8))]);
        scene.look(1, &[mapped(3, (8, 8))]);
        let nothing = (vec![], vec![], vec![]);
        assert_eq!(scene.look(2, &[held(3, (8, 8))]), nothing);
        assert_eq!(scene.look(3, &[held(3, (8, 9))]), (vec![], vec![], vec![3]));
        assert_eq!(scene.idle.held().count(), 0);
    }

    #[test]
    fn a_held_queue_whose_pointers_cannot_be_read_comes_back() {
        let mut scene = Scene::new(RULE);
        scene.look(0, &[mapped(3, (8, 8))]);
        scene.look(1, &[mapped(3, (8, 8))]);
        let unreadable = QueueStatus { pointers: None, ..held(3, (8, 8)) };
        assert_eq!(scene.look(2, &[unreadable]), (vec![], vec![], vec![3]));
    }

    #[test]
    fn a_hold_is_renewed_when_it_is_old() {
        let mut scene = Scene::new(RULE);
        scene.look(0, &[mapped(3, (8, 8))]);
        scene.look(1, &[mapped(3, (8, 8))]);
        let renewals: Vec<u64> = (2..12).filter(|&now| scene.look(now, &[held(3, (8, 8))]).1 == [3]).collect();
        assert_eq!(renewals, [4, 7, 10]);
    }

    #[test]
    fn what_others_hold_is_left_alone() {
        let mut scene = Scene::new(Rule { lazy: true, ..RULE });
        // Another lease's, and this lease's by a scheduler that claims nothing.
        let foreign = status(1, QueueState::PREEMPTED, PolicyFlags::LAZY_ACTIVATION, (0, 8));
        for now in 0..20 {
            assert_eq!(scene.look(now, &[foreign, held(2, (0, 8))]), (vec![], vec![], vec![]));
        }
    }

    #[test]
    fn nothing_happens_to_a_queue_in_an_online_window() {
        let mut scene = Scene::new(RULE);
        scene.look(0, &[mapped(3, (8, 8)), mapped(4, (8, 8))]);
        assert_eq!(scene.unmaps(1, &[mapped(3, (8, 8))]), [3]);
        scene.window = vec![3, 4];
        assert_eq!(scene.look(9, &[held(3, (8, 16)), mapped(4, (8, 8))]), (vec![], vec![], vec![]));
        scene.window.clear();
        assert_eq!(scene.look(10, &[held(3, (8, 16)), mapped(4, (8, 8))]), (vec![], vec![], vec![3]));
    }

    #[test]
    fn a_queue_that_somebody_else_mapped_starts_over() {
        let mut scene = Scene::new(RULE);
        scene.look(0, &[mapped(3, (8, 8))]);
        scene.look(1, &[mapped(3, (8, 8))]);
        // The watchdog ended the hold.
        assert_eq!(scene.unmaps(2, &[mapped(3, (8, 8))]), [0; 0]);
        assert_eq!(scene.idle.held().count(), 0);
        assert_eq!(scene.unmaps(3, &[mapped(3, (8, 8))]), [3]);
    }

    #[test]
    fn a_queue_that_started_unmapped_is_mapped_on_its_first_work() {
        let lazy = PolicyFlags::LAZY_ACTIVATION | PolicyFlags::PREEMPTIBLE;
        let fresh = |pointers| status(3, QueueState::PREEMPTED | QueueState::MINE, lazy, pointers);
        let mut scene = Scene::new(Rule { lazy: true, ..RULE });
        assert_eq!(scene.look(0, &[fresh((0, 0))]), (vec![], vec![], vec![]));
        assert_eq!(scene.look(1, &[fresh((0, 1))]), (vec![], vec![], vec![3]));
        let mut late = Scene::new(Rule { lazy: true, ..RULE });
        assert_eq!(late.look(0, &[fresh((0, 1))]), (vec![], vec![], vec![3]), "it had work at first sight");
    }

    #[test]
    fn a_process_that_could_not_be_read_once_is_not_forgotten() {
        let mut scene = Scene::new(RULE);
        scene.look(0, &[mapped(3, (8, 8))]);
        scene.look(1, &[mapped(3, (8, 8))]);
        scene.unread = BTreeSet::from([1]);
        scene.look(2, &[]);
        assert_eq!(scene.idle.held().count(), 1);
        scene.unread.clear();
        scene.look(3, &[]);
        assert_eq!(scene.idle.held().count(), 0, "it is gone");
    }
}
