//! From what the policy wishes to what to call.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::errno::Errno;

use crate::driver::Selector;
use crate::error::Error;
use crate::queue::{GpuId, Pid, QueueId};
use crate::sched::domain::Wishes;
use crate::sched::gang;
use crate::sched::policy::{OfflineQueue, Policy};
use crate::sched::state::State;

/// A policy that asks again sooner than this waits this long.
const SHORTEST_WAIT: Duration = Duration::from_micros(10);

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
    pub(super) release_new: Vec<Selector>,
    /// The policy could not be asked.
    pub(super) error: Option<Error>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.unmap.is_empty() && self.remap.is_empty() && self.release_new.is_empty()
    }
}

fn sorted(ids: impl Iterator<Item = QueueId>) -> Vec<QueueId> {
    let mut ids: Vec<QueueId> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

type Groups = BTreeMap<(Pid, GpuId), Vec<QueueId>>;

impl State {
    /// Asks the policy about these domains and says what to call.
    ///
    /// `cleaned`: queues that others keep away, a monitor because they are idle or another window. A window leaves them
    /// to those when it ends.
    pub(super) fn plan(
        &mut self,
        policy: &dyn Policy,
        now: Duration,
        keys: &[GpuId],
        cleaned: &BTreeSet<QueueId>,
    ) -> Plan {
        let mut wishes: BTreeMap<GpuId, Wishes> = BTreeMap::new();
        let (mut renew, mut wake) = (Vec::new(), self.everywhere > 0);
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
        let panicked = wishes.values().any(|wish| wish.panicked);
        if self.rules.gang {
            gang::align(&self.domains, &mut wishes);
        }
        let mut hold = sorted(wishes.values().flat_map(|wish| &wish.unmap).copied());
        let mut give = sorted(wishes.values().flat_map(|wish| &wish.remap).copied());
        if !cleaned.is_empty() {
            for queue in give.iter().filter(|queue| cleaned.contains(queue)) {
                self.correct(*queue, false, now);
            }
            give.retain(|queue| !cleaned.contains(queue));
        }
        let rotate = wishes.values().flat_map(|wish| &wish.rotate);
        let rotate = rotate.filter(|id| hold.binary_search(id).is_err() && !cleaned.contains(id));
        let mapped = sorted(give.iter().chain(rotate).copied());
        renew.retain(|id| give.binary_search(id).is_err());
        if !renew.is_empty() {
            hold = sorted(hold.into_iter().chain(renew));
        }

        let release_new = self.release_new(&hold, &give);
        let (hold, mapped) = (self.groups(&hold), self.groups(&mapped));
        let mut plan = Plan {
            unmap: self.items(&hold, &mapped, true, &BTreeSet::new()),
            remap: self.items(&mapped, &hold, false, cleaned),
            release_new,
            error: panicked.then(|| {
                Error::new("asking the policy", Errno::ENOTRECOVERABLE)
                    .on(policy.name())
                    .because("it panicked")
                    .remedy("offline queues stay mapped; choose another policy")
            }),
        };
        if wake {
            plan.remap.extend(self.held_online().map(|queue| self.item(queue, GpuId::ALL)));
        }
        if !self.rules.watchdog {
            // Nothing else brings these back.
            let quiet = self.held_aside().filter(|(_, gpu)| keys.contains(&self.key(*gpu)) && !self.is_online(*gpu));
            plan.remap.extend(quiet.map(|(queue, gpu)| self.item(queue, gpu)));
        }
        plan
    }

    fn held_online(&self) -> impl Iterator<Item = QueueId> {
        self.online.iter().filter(|(_, held)| **held).map(|(queue, _)| *queue)
    }

    fn held_aside(&self) -> impl Iterator<Item = (QueueId, GpuId)> {
        self.aside.iter().filter(|(_, aside)| aside.held).map(|(queue, aside)| (*queue, aside.gpu))
    }

    /// Gives back these queues, whatever the policy says; those of nodes that are left alone, too, where nothing else
    /// brings them back.
    pub(super) fn give_back(&self, which: impl Fn(QueueId) -> bool, cleaned: &BTreeSet<QueueId>) -> Plan {
        let wanted = |queue: &QueueId| which(*queue) && !cleaned.contains(queue);
        let queues = self.domains.values().flat_map(|domain| domain.offline());
        let ids = sorted(queues.filter(|queue| queue.held).map(|queue| queue.id).filter(wanted));
        let mut remap = self.items(&self.groups(&ids), &Groups::new(), false, cleaned);
        if !self.rules.watchdog || self.closed {
            remap
                .extend(self.held_aside().filter(|(queue, _)| wanted(queue)).map(|(queue, gpu)| self.item(queue, gpu)));
        }
        remap.extend(self.held_online().filter(wanted).map(|queue| self.item(queue, GpuId::ALL)));
        Plan { remap, release_new: self.release_new(&[], &ids), ..Plan::default() }
    }

    /// One queue on its node, as the entries for all queues are: the driver refuses entries that may overlap.
    fn item(&self, queue: QueueId, gpu: GpuId) -> Item {
        let selector = Selector { queue: Some(queue.id), gpu, ..self.selector(queue.pid) };
        Item { selector, gpu, queues: vec![queue] }
    }

    fn groups(&self, ids: &[QueueId]) -> Groups {
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
                !spare.contains(&queue.id) && (queue.held == hold || ids.binary_search(&queue.id).is_ok())
            });
            if all_go && !other.contains_key(&(pid, gpu)) && self.is_whole(pid) {
                let hold_new = hold && self.rules.hold_new;
                let selector = Selector { gpu, hold_new, ..self.selector(pid) };
                items.push(Item { selector, gpu, queues: ids.clone() });
            } else {
                items.extend(ids.iter().map(|id| self.item(*id, gpu)));
            }
        }
        items
    }

    /// Processes that will hold nothing once these are held and those are given back.
    fn release_new(&self, hold: &[QueueId], give: &[QueueId]) -> Vec<Selector> {
        if self.rules.always_lazy {
            return Vec::new();
        }
        let stays = |pid: Pid| {
            let mut queues = self.domains.values().flat_map(|domain| domain.of(pid));
            queues.any(|queue| {
                hold.binary_search(&queue.id).is_ok() || (queue.held && give.binary_search(&queue.id).is_err())
            })
        };
        // Nothing of it comes back where its queues are gone, or on nodes that are left alone.
        let quiet = self.everywhere == 0 && self.domains.values().all(|domain| domain.requests == 0);
        let lazy = self.processes.iter().filter(|(_, process)| process.hold_new).map(|(pid, _)| *pid);
        let free = lazy.filter(|pid| (quiet || give.iter().any(|queue| queue.pid == *pid)) && !stays(*pid));
        free.map(|pid| self.selector(pid)).collect()
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

    /// What need not be claimed any more, because nothing of it is held. Only in these domains: in others a call that
    /// is under way may be about to hold it.
    pub(super) fn release_claims(&mut self, keys: &[GpuId]) -> Vec<Selector> {
        let State { claimed, domains, rules, .. } = self;
        let mut released = Vec::new();
        claimed.retain(|&(pid, queue, of), gpu| {
            let key = rules.scope.domain_of(*gpu);
            if !keys.contains(&key) {
                return true;
            }
            let named = |it: &OfflineQueue| queue.is_none_or(|id| id == it.id.id) && (of == GpuId::ALL || of == it.gpu);
            let held = domains.get(&key).is_some_and(|domain| domain.of(pid).iter().any(|it| it.held && named(it)));
            if !held {
                released.push(Selector { queue, gpu: of, ..Selector::process(pid) });
            }
            held
        });
        released
    }
}
