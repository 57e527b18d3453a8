//! The scheduler's books: what is registered, who is online, what is held. Nothing here calls anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::driver::Selector;
use crate::error::Error;
use crate::queue::{GpuId, Pid, PolicyFlags, QueueId};
use crate::sched::domain::Domain;
use crate::sched::plan::Item;
use crate::sched::policy::OfflineQueue;
use crate::sched::scheduler::Scope;

/// How long a node that was reset is still left alone: the driver announces a reset when it begins, and what runs again
/// first should not be the next to fail.
const AFTER_RESET: Duration = Duration::from_secs(1);

/// A registered process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    /// All its queues are offline, present and future; else some were registered one by one.
    pub(super) whole: bool,
    /// Its new queues start held, because we asked for it.
    pub(super) hold_new: bool,
    /// Its job.
    pub(super) job: u32,
    /// When it started, where the driver can tell: a later one may get its pid.
    pub(super) started: Option<Duration>,
}

/// A queue of a node that is left alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside {
    pub(super) gpu: GpuId,
    pub(super) held: bool,
}

/// What does not change while the scheduler lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) scope: Scope,
    pub(super) gang: bool,
    /// Sliding window of the policy.
    pub(super) window: Option<Duration>,
    /// Holds are renewed this often.
    pub(super) beat: Option<Duration>,
    /// Most offline queues that a node maps at once.
    pub(super) cap: Option<u32>,
    /// The driver maps queues by itself whose holds are not renewed.
    pub(super) watchdog: bool,
    /// The driver can hold new queues at birth.
    pub(super) hold_new: bool,
    /// New queues always start held (the policy says so).
    pub(super) always_lazy: bool,
    /// Set on every offline queue.
    pub(super) marks: PolicyFlags,
    /// How often events are read (or, without events, processes looked through) while nobody enters or leaves.
    pub(super) poll: Option<Duration>,
    /// How often to look for idle queues.
    pub(super) look: Option<Duration>,
}

/// The books.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rules: Rules,
    pub(super) everywhere: u32,
    pub(super) domains: BTreeMap<GpuId, Domain>,
    pub(super) home: BTreeMap<QueueId, GpuId>,
    /// Online queues; true = held by this driver, so the next online window maps it.
    pub(super) online: BTreeMap<QueueId, bool>,
    /// What all who share the claims called online at the last look.
    pub(super) agreed_online: BTreeMap<QueueId, Option<Duration>>,
    pub(super) processes: BTreeMap<Pid, Process>,
    /// Queues of whole processes that were unregistered one by one.
    pub(super) excluded: BTreeSet<QueueId>,
    pub(super) tripped: BTreeSet<GpuId>,
    pub(super) aside: BTreeMap<QueueId, Aside>,
    pub(super) retry_at: Option<Duration>,
    /// When nodes that were reset are touched again.
    pub(super) readmit_at: BTreeMap<GpuId, Duration>,
    poll_at: Option<Duration>,
    look_at: Option<Duration>,
    /// What is claimed of the monitors.
    pub(super) claimed: BTreeMap<Claimed, GpuId>,
    /// What was marked with [`Rules::marks`].
    pub(super) marked: BTreeSet<(Pid, Option<u32>)>,
    /// Until when the background thread sleeps; None = it does not, or for ever.
    pub(super) asleep_until: Option<Option<Duration>>,
    pub(super) first_error: Option<Error>,
    pub(super) closed: bool,
}

impl State {
    pub(super) fn new(rules: Rules) -> State {
        State {
            rules,
            everywhere: 0,
            domains: BTreeMap::new(),
            home: BTreeMap::new(),
            online: BTreeMap::new(),
            agreed_online: BTreeMap::new(),
            processes: BTreeMap::new(),
            excluded: BTreeSet::new(),
            tripped: BTreeSet::new(),
            aside: BTreeMap::new(),
            retry_at: None,
            readmit_at: BTreeMap::new(),
            poll_at: None,
            look_at: None,
            claimed: BTreeMap::new(),
            marked: BTreeSet::new(),
            asleep_until: None,
            first_error: None,
            closed: false,
        }
    }

    /// The domain of a node.
    pub(super) fn key(&self, gpu: GpuId) -> GpuId {
        self.rules.scope.domain_of(gpu)
    }

    pub(super) fn domain(&mut self, key: GpuId, now: Duration) -> &mut Domain {
        let (window, everywhere) = (self.rules.window, self.everywhere);
        self.domains.entry(key).or_insert_with(|| {
            let mut domain = Domain::new(window, now);
            domain.online_changed(0, everywhere, now);
            domain
        })
    }

    /// An online request begins (or ends) on these domains; none = on all.
    pub(super) fn online_changed(&mut self, keys: &[GpuId], begins: bool, now: Duration) {
        let step = |count: u32| if begins { count + 1 } else { count.saturating_sub(1) };
        let everywhere = self.everywhere;
        if keys.is_empty() {
            self.everywhere = step(everywhere);
            for domain in self.domains.values_mut() {
                domain.online_changed(domain.requests + everywhere, domain.requests + step(everywhere), now);
            }
            return;
        }
        for key in keys {
            let domain = self.domain(*key, now);
            let before = domain.requests;
            domain.requests = step(before);
            domain.online_changed(before + everywhere, step(before) + everywhere, now);
        }
    }

    /// Online work is in flight on this node.
    pub(super) fn is_online(&self, gpu: GpuId) -> bool {
        self.everywhere > 0 || self.domains.get(&self.key(gpu)).is_some_and(|domain| domain.requests > 0)
    }

    /// Whether events are to be polled and idle queues looked for now; says when the next time is.
    pub(super) fn watch(&mut self, now: Duration) -> (bool, bool) {
        let somebody = !self.processes.is_empty() || !self.home.is_empty();
        let due = |at: &mut Option<Duration>, period: Option<Duration>| {
            let due = somebody && period.is_some() && at.is_none_or(|at| at <= now);
            if due || !somebody {
                *at = period.filter(|_| somebody).map(|period| now + period);
            }
            due
        };
        (due(&mut self.poll_at, self.rules.poll), due(&mut self.look_at, self.rules.look))
    }

    /// Where a queue is kept.
    pub(super) fn home(&self, queue: QueueId) -> Option<GpuId> {
        self.home.get(&queue).copied()
    }

    pub(super) fn is_offline(&self, queue: QueueId) -> bool {
        self.home.contains_key(&queue) || self.aside.contains_key(&queue)
    }

    /// Offline queues of a process, wherever they are.
    pub(super) fn queues_of(&self, pid: Pid) -> Vec<QueueId> {
        let range = QueueId { pid, id: 0 }..=QueueId { pid, id: u32::MAX };
        let aside = self.aside.range(range.clone()).map(|(id, _)| *id);
        self.home.range(range).map(|(id, _)| *id).chain(aside).collect()
    }

    /// Offline queues of these domains and their nodes.
    pub(super) fn offline_of(&self, keys: &[GpuId]) -> Vec<(QueueId, GpuId)> {
        let domains = keys.iter().filter_map(|key| self.domains.get(key));
        domains.flat_map(|domain| domain.offline()).map(|queue| (queue.id, queue.gpu)).collect()
    }

    /// Adds an offline queue; one that is known already, or online, or excluded stays what it is.
    pub(super) fn insert(&mut self, queue: QueueId, gpu: GpuId, held: bool, now: Duration) {
        if self.online.contains_key(&queue) || self.excluded.contains(&queue) || self.is_offline(queue) {
            return;
        }
        if self.tripped.contains(&gpu) {
            self.aside.insert(queue, Aside { gpu, held });
            return;
        }
        let key = self.key(gpu);
        let job = self.processes.get(&queue.pid).map_or(queue.pid, |process| process.job);
        self.domain(key, now).insert(queue, gpu, held, job, now);
        self.home.insert(queue, key);
        self.poll_at = self.poll_at.or_else(|| self.rules.poll.map(|period| now + period));
        self.look_at = self.look_at.or_else(|| self.rules.look.map(|period| now + period));
    }

    pub(super) fn remove(&mut self, queue: QueueId, now: Duration) {
        self.aside.remove(&queue);
        self.excluded.remove(&queue);
        if let Some(key) = self.home.remove(&queue) {
            self.domain(key, now).remove(queue, now);
        }
    }

    pub(super) fn remove_process(&mut self, pid: Pid, now: Duration) {
        self.remove_offline(pid, now);
        self.online.retain(|queue, _| queue.pid != pid);
    }

    fn remove_offline(&mut self, pid: Pid, now: Duration) {
        for queue in self.queues_of(pid) {
            self.remove(queue, now);
        }
        self.processes.remove(&pid);
        self.excluded.retain(|queue| queue.pid != pid);
    }

    /// The entry of a process that is being registered. What the books say of an earlier one with its pid is forgotten.
    pub(super) fn process(&mut self, pid: Pid, started: Option<Duration>, job: u32, now: Duration) -> &mut Process {
        if !self.is_current(pid, started) {
            self.remove_offline(pid, now);
            self.marked.retain(|(of, _)| *of != pid);
        }
        self.processes.entry(pid).or_insert(Process { whole: false, hold_new: false, job, started })
    }

    /// What is said of the process that started then is said of the registered one.
    pub(super) fn is_current(&self, pid: Pid, started: Option<Duration>) -> bool {
        let registered = self.processes.get(&pid).and_then(|process| process.started);
        registered.is_none() || started.is_none() || registered == started
    }

    /// Names all queues of the process that was registered, and of no later one with its pid.
    pub(super) fn selector(&self, pid: Pid) -> Selector {
        let started = self.processes.get(&pid).and_then(|process| process.started);
        Selector { started, ..Selector::process(pid) }
    }

    /// Another hand (the watchdog, another tool) changed a queue.
    pub(super) fn correct(&mut self, queue: QueueId, held: bool, now: Duration) {
        if let Some(aside) = self.aside.get_mut(&queue) {
            aside.held = held;
        }
        let Some(key) = self.home(queue) else { return };
        let domain = self.domain(key, now);
        if domain.get(queue).is_some_and(|queue| queue.held != held) {
            domain.set_held(queue, held, now, now);
            domain.account(now, now);
            domain.dirty = true;
        }
    }

    /// Sets the queues of an entry's node aside, or those of the entry where the node is not known: nothing will touch
    /// them.
    pub(super) fn trip(&mut self, item: &Item, now: Duration) {
        if item.gpu != GpuId::ALL {
            self.tripped.insert(item.gpu);
        }
        for domain in self.domains.values_mut() {
            let named = |queue: &&OfflineQueue| {
                queue.gpu == item.gpu && (item.gpu != GpuId::ALL || item.queues.contains(&queue.id))
            };
            let queues: Vec<_> = domain.offline().iter().filter(named).copied().collect();
            for queue in queues {
                domain.remove(queue.id, now);
                self.home.remove(&queue.id);
                self.aside.insert(queue.id, Aside { gpu: queue.gpu, held: queue.held });
            }
        }
    }

    /// Nodes that are left alone; [`GpuId::ALL`] for queues whose node is not known.
    pub(super) fn left_alone(&self) -> BTreeSet<GpuId> {
        self.tripped.iter().copied().chain(self.aside.values().map(|aside| aside.gpu)).collect()
    }

    /// Takes a node's queues (or all that are set aside) back into the books.
    pub(super) fn readmit(&mut self, gpu: GpuId, now: Duration) {
        self.readmit_at.retain(|reset, _| gpu != GpuId::ALL && *reset != gpu);
        self.tripped.retain(|tripped| gpu != GpuId::ALL && *tripped != gpu);
        let comes = |aside: &Aside| gpu == GpuId::ALL || aside.gpu == gpu;
        let (back, aside): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.aside).into_iter().partition(|(_, aside)| comes(aside));
        self.aside = aside;
        for (queue, aside) in back {
            self.insert(queue, aside.gpu, aside.held, now);
        }
    }

    /// A node was reset; if it is left alone, it is touched again after a pause, and left alone again should it fail.
    pub(super) fn was_reset(&mut self, gpu: GpuId, now: Duration) {
        if self.tripped.contains(&gpu) {
            self.readmit_at.insert(gpu, now + AFTER_RESET);
        }
    }

    /// Takes back the nodes whose pause is over; says whether there are any.
    pub(super) fn readmit_reset(&mut self, now: Duration) -> bool {
        let due: Vec<GpuId> = self.readmit_at.iter().filter(|(_, at)| **at <= now).map(|(gpu, _)| *gpu).collect();
        due.iter().for_each(|gpu| self.readmit(*gpu, now));
        !due.is_empty()
    }

    /// Domains that a tick must look at. One that is busy looks after itself.
    pub(super) fn due(&mut self, now: Duration) -> Vec<GpuId> {
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.domains.values_mut().for_each(|domain| domain.dirty = true);
        }
        let due = |domain: &Domain| !domain.busy && self.wakeup_of(domain, now).is_some_and(|at| at <= now);
        self.domains.iter().filter(|(_, domain)| due(domain)).map(|(key, _)| *key).collect()
    }

    fn wakeup_of(&self, domain: &Domain, now: Duration) -> Option<Duration> {
        if domain.dirty {
            return Some(now);
        }
        let beat = self.rules.beat.and_then(|beat| domain.beat_due(beat));
        [domain.again_at, beat].into_iter().flatten().min()
    }

    /// When the next tick is due.
    pub(super) fn next_wakeup(&self, now: Duration) -> Option<Duration> {
        let domains = self.domains.values().filter(|domain| !domain.busy);
        let of_domains = domains.filter_map(|domain| self.wakeup_of(domain, now));
        let of_nodes = self.readmit_at.values().copied();
        of_domains.chain(of_nodes).chain([self.retry_at, self.poll_at, self.look_at].into_iter().flatten()).min()
    }

    /// The domains to plan together with these: all of them where jobs may span domains.
    pub(super) fn together(&self, keys: &[GpuId]) -> Vec<GpuId> {
        if keys.is_empty() || self.rules.gang { self.domains.keys().copied().collect() } else { keys.to_vec() }
    }

    pub(super) fn any_busy(&self, keys: &[GpuId]) -> bool {
        keys.iter().any(|key| self.domains.get(key).is_some_and(|domain| domain.busy))
    }

    pub(super) fn set_busy(&mut self, keys: &[GpuId], busy: bool) {
        for key in keys {
            if let Some(domain) = self.domains.get_mut(key) {
                domain.busy = busy;
            }
        }
    }

    /// No queue of the process is online or excluded, so a selector may name all of them.
    pub(super) fn is_whole(&self, pid: Pid) -> bool {
        let range = QueueId { pid, id: 0 }..=QueueId { pid, id: u32::MAX };
        let spared = self.online.range(range.clone()).next().is_some() || self.excluded.range(range).next().is_some();
        !spared && self.processes.get(&pid).is_some_and(|process| process.whole)
    }

    /// A queue that appears belongs to the offline ones.
    pub(super) fn takes(&self, queue: QueueId) -> bool {
        let whole = self.processes.get(&queue.pid).is_some_and(|process| process.whole);
        whole && !self.online.contains_key(&queue) && !self.excluded.contains(&queue) && !self.is_offline(queue)
    }
}

/// Names of a claim: process, one queue or all, one node or all.
pub(super) type Claimed = (Pid, Option<u32>, GpuId);
