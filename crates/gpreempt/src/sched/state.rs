//! The scheduler's books: what is registered, who is online, what is held. It plans and takes note; it calls nobody but
//! the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::errno::Errno;

use crate::driver::Selector;
use crate::error::Error;
use crate::queue::{GpuId, Pid, PolicyFlags, QueueId};
use crate::sched::domain::{Domain, Wishes};
use crate::sched::gang;
use crate::sched::policy::{OfflineQueue, Policy};
use crate::sched::scheduler::Scope;

/// A policy that asks again sooner than this waits this long.
const SHORTEST_WAIT: Duration = Duration::from_micros(10);

/// When to try again to give back what the driver would not.
const RETRY: Duration = Duration::from_millis(100);

/// A registered process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    /// All its queues are offline, present and future; else some were registered one by one.
    pub(super) whole: bool,
    /// Its new queues start held, because we asked for it.
    pub(super) hold_new: bool,
    /// Its job.
    pub(super) job: u32,
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
    everywhere: u32,
    pub(super) domains: BTreeMap<GpuId, Domain>,
    home: BTreeMap<QueueId, GpuId>,
    /// Online queues; true = held by this driver, so the next online window maps it.
    pub(super) online: BTreeMap<QueueId, bool>,
    pub(super) processes: BTreeMap<Pid, Process>,
    pub(super) tripped: BTreeSet<GpuId>,
    pub(super) aside: BTreeMap<QueueId, Aside>,
    retry_at: Option<Duration>,
    poll_at: Option<Duration>,
    look_at: Option<Duration>,
    /// What is claimed of the monitors.
    claimed: BTreeMap<Claimed, GpuId>,
    /// What was marked with [`Rules::marks`].
    pub(super) marked: BTreeSet<(Pid, Option<u32>)>,
    /// Until when the background thread sleeps; None = it does not, or for ever.
    pub(super) asleep_until: Option<Option<Duration>>,
    pub(super) first_error: Option<Error>,
    pub(super) closed: bool,
}

/// One entry of a driver call, and the queues that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) selector: Selector,
    pub(super) gpu: GpuId,
    pub(super) queues: Vec<QueueId>,
}

/// What to call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) unmap: Vec<Item>,
    pub(super) remap: Vec<Item>,
    /// Processes whose new queues need not start held any more, once this plan is carried out.
    pub(super) release_new: Vec<Pid>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.unmap.is_empty() && self.remap.is_empty() && self.release_new.is_empty()
    }
}

/// What became of one entry.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) item: Item,
    /// It was to be held; else mapped.
    pub(super) hold: bool,
    pub(super) errno: Option<Errno>,
    /// Queues in the wanted state.
    pub(super) queues: u32,
}

/// What a carried-out plan came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) unmapped: u32,
    pub(super) remapped: u32,
    pub(super) error: Option<Error>,
}

impl State {
    pub(super) fn new(rules: Rules) -> State {
        State {
            rules,
            everywhere: 0,
            domains: BTreeMap::new(),
            home: BTreeMap::new(),
            online: BTreeMap::new(),
            processes: BTreeMap::new(),
            tripped: BTreeSet::new(),
            aside: BTreeMap::new(),
            retry_at: None,
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
        match self.rules.scope {
            Scope::Machine => GpuId::ALL,
            Scope::Gpu => gpu,
        }
    }

    fn domain(&mut self, key: GpuId, now: Duration) -> &mut Domain {
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

    /// Adds an offline queue; one that is known already, or online, stays what it is.
    pub(super) fn insert(&mut self, queue: QueueId, gpu: GpuId, held: bool, now: Duration) {
        if self.online.contains_key(&queue) || self.is_offline(queue) {
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
        if let Some(key) = self.home.remove(&queue) {
            self.domain(key, now).remove(queue, now);
        }
    }

    pub(super) fn remove_process(&mut self, pid: Pid, now: Duration) {
        for queue in self.queues_of(pid) {
            self.remove(queue, now);
        }
        self.processes.remove(&pid);
        self.online.retain(|queue, _| queue.pid != pid);
    }

    /// Another hand (the watchdog, another tool) changed a queue.
    pub(super) fn correct(&mut self, queue: QueueId, held: bool, now: Duration) {
        let Some(key) = self.home(queue) else { return };
        let domain = self.domain(key, now);
        if domain.get(queue).is_some_and(|queue| queue.held != held) {
            domain.set_held(queue, held, now, now);
            domain.account(now, now);
            domain.dirty = true;
        }
    }

    /// Sets a node's queues aside: nothing will touch them.
    fn trip(&mut self, gpu: GpuId, now: Duration) {
        self.tripped.insert(gpu);
        for domain in self.domains.values_mut() {
            let queues: Vec<_> = domain.offline().iter().filter(|queue| queue.gpu == gpu).copied().collect();
            for queue in queues {
                domain.remove(queue.id, now);
                self.home.remove(&queue.id);
                self.aside.insert(queue.id, Aside { gpu, held: queue.held });
            }
        }
    }

    /// Takes a node's queues back into the books.
    pub(super) fn readmit(&mut self, gpu: GpuId, now: Duration) {
        self.tripped.remove(&gpu);
        let (back, aside) = std::mem::take(&mut self.aside).into_iter().partition(|(_, aside)| aside.gpu == gpu);
        self.aside = aside;
        let back: BTreeMap<QueueId, Aside> = back;
        for (queue, aside) in back {
            self.insert(queue, gpu, aside.held, now);
        }
    }

    /// Domains that a tick must look at. One that is busy looks after itself.
    pub(super) fn due(&self, now: Duration) -> Vec<GpuId> {
        let retry = self.retry_at.is_some_and(|at| at <= now);
        let due = |domain: &Domain| !domain.busy && (retry || self.wakeup_of(domain, now).is_some_and(|at| at <= now));
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
        of_domains.chain([self.retry_at, self.poll_at, self.look_at].into_iter().flatten()).min()
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

    /// Asks the policy about these domains and says what to call.
    ///
    /// `cleaned`: queues that a monitor keeps away because they are idle. A window leaves them to it when it ends.
    pub(super) fn plan(
        &mut self,
        policy: &dyn Policy,
        now: Duration,
        keys: &[GpuId],
        cleaned: &BTreeSet<QueueId>,
    ) -> Plan {
        self.retry_at = self.retry_at.filter(|at| *at > now);
        let mut wishes: BTreeMap<GpuId, Wishes> = BTreeMap::new();
        let (mut renew, mut wake) = (Vec::new(), false);
        for key in keys {
            let (everywhere, beat, cap) = (self.everywhere, self.rules.beat, self.rules.cap);
            let Some(domain) = self.domains.get_mut(key) else { continue };
            let online = domain.requests + everywhere;
            let wish = domain.decide(policy, now, online, cap);
            domain.again_at = domain.again_at.map(|at| at.max(now + SHORTEST_WAIT));
            if !wish.rotate.is_empty() {
                domain.last_rotate = Some(now);
            }
            renew.extend(domain.renew(now, beat));
            wake |= online > 0;
            wishes.insert(*key, wish);
        }
        if self.rules.gang {
            gang::align(&self.domains, &mut wishes);
        }
        let mut hold: BTreeSet<QueueId> = wishes.values().flat_map(|wish| wish.unmap.iter().copied()).collect();
        let mut give: BTreeSet<QueueId> = wishes.values().flat_map(|wish| wish.remap.iter().copied()).collect();
        for queue in give.intersection(cleaned) {
            self.correct(*queue, false, now);
        }
        give.retain(|queue| !cleaned.contains(queue));
        let rotate = wishes.values().flat_map(|wish| wish.rotate.iter().copied()).filter(|id| !hold.contains(id));
        let mapped: BTreeSet<QueueId> = give.iter().copied().chain(rotate).collect();
        hold.extend(renew.into_iter().filter(|id| !give.contains(id)));

        let (hold, mapped) = (self.groups(&hold), self.groups(&mapped));
        let mut plan = Plan {
            unmap: self.items(&hold, &mapped, true, &BTreeSet::new()),
            remap: self.items(&mapped, &hold, false, cleaned),
            release_new: self.release_new(&give),
        };
        if wake {
            let held = self.online.iter().filter(|(_, held)| **held);
            let item =
                |queue: &QueueId| Item { selector: Selector::queue(*queue), gpu: GpuId::ALL, queues: vec![*queue] };
            plan.remap.extend(held.map(|(queue, _)| item(queue)));
        }
        plan
    }

    /// Gives back these queues, whatever the policy says.
    pub(super) fn give_back(&self, held: impl Iterator<Item = QueueId>, cleaned: &BTreeSet<QueueId>) -> Plan {
        let ids: BTreeSet<QueueId> = held.filter(|queue| !cleaned.contains(queue)).collect();
        let remap = self.items(&self.groups(&ids), &Groups::new(), false, cleaned);
        Plan { remap, release_new: self.release_new(&ids), ..Plan::default() }
    }

    /// Everything that is held, nodes that are left alone excepted.
    pub(super) fn held(&self) -> impl Iterator<Item = QueueId> {
        let queues = self.domains.values().flat_map(|domain| domain.offline());
        queues.filter(|queue| queue.held).map(|queue| queue.id)
    }

    fn groups(&self, ids: &BTreeSet<QueueId>) -> Groups {
        let mut groups = Groups::new();
        for id in ids {
            let Some(queue) = self.home(*id).and_then(|key| self.domains[&key].get(*id)) else { continue };
            groups.entry((id.pid, queue.gpu)).or_default().push(*id);
        }
        groups
    }

    /// A process that is offline as a whole and goes one way as a whole takes one entry per node, which also reaches
    /// the queues that it made a moment ago; everything else takes one entry per queue.
    fn items(&self, groups: &Groups, other: &Groups, hold: bool, spare: &BTreeSet<QueueId>) -> Vec<Item> {
        let mut items = Vec::new();
        for (&(pid, gpu), ids) in groups {
            let all_go = self.domains[&self.key(gpu)].of(pid).iter().filter(|queue| queue.gpu == gpu).all(|queue| {
                (queue.held == hold && !spare.contains(&queue.id)) || ids.binary_search(&queue.id).is_ok()
            });
            if all_go && !other.contains_key(&(pid, gpu)) && self.is_whole(pid) {
                let hold_new = hold && self.rules.hold_new;
                let selector = Selector { gpu, hold_new, ..Selector::process(pid) };
                items.push(Item { selector, gpu, queues: ids.clone() });
            } else {
                items.extend(ids.iter().map(|id| Item { selector: Selector::queue(*id), gpu, queues: vec![*id] }));
            }
        }
        items
    }

    /// No queue of the process is online, so a selector may name all of them.
    pub(super) fn is_whole(&self, pid: Pid) -> bool {
        let online = self.online.range(QueueId { pid, id: 0 }..=QueueId { pid, id: u32::MAX }).next();
        online.is_none() && self.processes.get(&pid).is_some_and(|process| process.whole)
    }

    /// Processes that will hold nothing once these are given back.
    fn release_new(&self, give: &BTreeSet<QueueId>) -> Vec<Pid> {
        if self.rules.always_lazy {
            return Vec::new();
        }
        let stays = |pid: Pid| {
            let mut queues = self.domains.values().flat_map(|domain| domain.of(pid));
            queues.any(|queue| queue.held && !give.contains(&queue.id))
        };
        let lazy = self.processes.iter().filter(|(_, process)| process.hold_new);
        lazy.map(|(pid, _)| *pid).filter(|pid| give.iter().any(|queue| queue.pid == *pid) && !stays(*pid)).collect()
    }

    /// What must be claimed of the monitors before these entries are unmapped.
    pub(super) fn claim(&mut self, unmap: &[Item]) -> Vec<Selector> {
        let mut new = Vec::new();
        for Item { selector, gpu, .. } in unmap {
            let names = (selector.pid, selector.queue, selector.gpu);
            if self.claimed.insert(names, *gpu).is_none() {
                new.push(*selector);
            }
        }
        new
    }

    /// What need not be claimed any more, because nothing of it is held. Only these domains: in others a call that is under way
    /// may be about to hold it.
    pub(super) fn release_claims(&mut self, keys: &[GpuId]) -> Vec<Selector> {
        let mut released = Vec::new();
        for (names, gpu) in std::mem::take(&mut self.claimed) {
            let (pid, queue, of) = names;
            let key = self.key(gpu);
            let held = self.domains.get(&key).is_some_and(|domain| {
                let named =
                    |it: &OfflineQueue| queue.is_none_or(|id| id == it.id.id) && (of == GpuId::ALL || of == it.gpu);
                domain.of(pid).iter().any(|it| it.held && named(it))
            });
            if held || !keys.contains(&key) {
                self.claimed.insert(names, gpu);
            } else {
                released.push(Selector { queue, gpu: of, ..Selector::process(pid) });
            }
        }
        released
    }

    /// Takes note of what became of a plan that was carried out from `begin` to `end`.
    pub(super) fn apply(&mut self, verdicts: Vec<Verdict>, begin: Duration, end: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        for verdict in verdicts {
            if verdict.hold && verdict.item.selector.hold_new && verdict.errno.is_none() {
                if let Some(process) = self.processes.get_mut(&verdict.item.selector.pid) {
                    process.hold_new = true;
                }
            }
            self.apply_one(&verdict, begin, end, &mut outcome);
        }
        for domain in self.domains.values_mut() {
            domain.account(begin, end);
        }
        outcome
    }

    fn apply_one(&mut self, verdict: &Verdict, begin: Duration, end: Duration, outcome: &mut Outcome) {
        let one = verdict.item.selector.queue.is_some();
        // None: as it was.
        let held = match verdict.errno {
            None => Some(verdict.hold),
            // The driver calls a queue that vanished unmapped, and so do we.
            Some(Errno::ENOENT) if one => return self.gone(&verdict.item.queues, end),
            Some(Errno::ESRCH) => return self.remove_process(verdict.item.selector.pid, end),
            // The mark is made before the round fails.
            Some(Errno::ETIME | Errno::EIO) => Some(verdict.hold),
            Some(Errno::EACCES) if one => None,
            // A dead lease holds nothing, what another lease holds is not ours, and a queue that was reset is not held.
            Some(Errno::EBADF) => Some(false),
            Some(Errno::EBUSY | Errno::EACCES) if !verdict.hold => Some(false),
            // Some of a process may have been taken; giving back what was not does no harm.
            Some(_) if verdict.hold && verdict.queues > 0 => Some(true),
            Some(_) => None,
        };
        if let Some(held) = held {
            self.settle(&verdict.item.queues, held, begin, end, outcome);
        }
        let Some(errno) = verdict.errno else { return };
        let error = Error::new(if verdict.hold { "unmapping" } else { "mapping" }, errno).on(verdict.item.selector);
        let error = match errno {
            Errno::ETIME | Errno::EIO => {
                self.trip(verdict.item.gpu, end);
                error.remedy(format!("{} is left alone until it is readmitted", verdict.item.gpu))
            }
            Errno::EACCES if one => {
                self.gone(&verdict.item.queues, end);
                error.remedy("the queue was reset; its owner must make a new one")
            }
            _ => error,
        };
        if !verdict.hold && held.is_none() {
            self.retry_at = Some(end + RETRY);
        }
        tracing::warn!(%error, "a queue could not be moved");
        outcome.error.get_or_insert(error);
    }

    fn settle(&mut self, queues: &[QueueId], held: bool, begin: Duration, end: Duration, outcome: &mut Outcome) {
        for queue in queues {
            if let Some(flag) = self.online.get_mut(queue) {
                *flag = held;
                continue;
            }
            let Some(key) = self.home(*queue) else { continue };
            let domain = self.domain(key, end);
            match (domain.get(*queue).is_some_and(|queue| queue.held), held) {
                (false, true) => outcome.unmapped += 1,
                (true, false) => outcome.remapped += 1,
                _ => {}
            }
            domain.set_held(*queue, held, begin, end);
        }
    }

    fn gone(&mut self, queues: &[QueueId], now: Duration) {
        for queue in queues {
            self.remove(*queue, now);
            self.online.remove(queue);
        }
    }
}

/// Names of a claim: process, one queue or all, one node or all.
type Claimed = (Pid, Option<u32>, GpuId);

type Groups = BTreeMap<(Pid, GpuId), Vec<QueueId>>;
