//! One domain: the offline queues that a set of nodes shares, and the online requests on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::queue::{GpuId, Pid, QueueId};
use crate::sched::policy::{Decision, OfflineQueue, Policy, View, ids};
use crate::sched::share::Share;

/// What the scheduler notes of an offline queue beyond what a policy sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    /// When its hold was last renewed.
    pub(super) renewed: Duration,
    /// The last attempt to renew it failed: not before this.
    not_before: Duration,
    /// Its job: queues of one job move together where gangs are on.
    pub(super) job: u32,
    /// Write pointer when it was found idle.
    pub(super) idle_at: Option<u64>,
}

/// The books of one domain. Queues are sorted by id.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) requests: u32,
    pub(super) online_since: Option<Duration>,
    pub(super) quiet_since: Option<Duration>,
    last_unmap: Option<Duration>,
    last_remap: Option<Duration>,
    pub(super) last_rotate: Option<Duration>,
    /// The policy asked for this wake-up.
    pub(super) again_at: Option<Duration>,
    /// Something changed that the policy has not seen.
    pub(super) dirty: bool,
    /// A thread is executing a plan for it.
    pub(super) busy: bool,
    share: Share,
    offline: Vec<OfflineQueue>,
    notes: Vec<Note>,
    held: u32,
    held_before: u32,
}

impl Domain {
    pub(super) fn new(window: Option<Duration>, now: Duration) -> Domain {
        Domain {
            requests: 0,
            online_since: None,
            quiet_since: None,
            last_unmap: None,
            last_remap: None,
            last_rotate: None,
            again_at: None,
            dirty: false,
            busy: false,
            share: Share::new(window.unwrap_or_default(), now),
            offline: Vec::new(),
            notes: Vec::new(),
            held: 0,
            held_before: 0,
        }
    }

    fn position(&self, id: QueueId) -> Result<usize, usize> {
        self.offline.binary_search_by_key(&id, |queue| queue.id)
    }

    pub(super) fn offline(&self) -> &[OfflineQueue] {
        &self.offline
    }

    pub(super) fn get(&self, id: QueueId) -> Option<&OfflineQueue> {
        self.position(id).ok().map(|at| &self.offline[at])
    }

    /// Queues with their notes.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&OfflineQueue, &Note)> {
        self.offline.iter().zip(&self.notes)
    }

    /// Queues of one process.
    pub(super) fn of(&self, pid: Pid) -> &[OfflineQueue] {
        let begin = self.offline.partition_point(|queue| queue.id.pid < pid);
        let end = self.offline.partition_point(|queue| queue.id.pid <= pid);
        &self.offline[begin..end]
    }

    /// Adds a queue; one that is known already stays as it is.
    pub(super) fn insert(&mut self, id: QueueId, gpu: GpuId, held: bool, job: u32, now: Duration) {
        let Err(at) = self.position(id) else { return };
        self.offline.insert(at, OfflineQueue { id, gpu, held: false, since: now, idle_since: None });
        self.notes.insert(at, Note { renewed: now, not_before: Duration::ZERO, job, idle_at: None });
        if held {
            self.set_held(id, true, now, now);
        }
        self.dirty = true;
        self.account(now, now);
    }

    pub(super) fn remove(&mut self, id: QueueId, now: Duration) {
        if let Ok(at) = self.position(id) {
            self.set_held(id, false, now, now);
            self.offline.remove(at);
            self.notes.remove(at);
            self.dirty = true;
            self.account(now, now);
        }
    }

    /// A call that lasted from `begin` to `end` left a queue held or mapped. Being taken counts from its beginning and
    /// coming back from its end, so that offline queues are never credited time they did not have.
    /// Returns whether that was a change.
    pub(super) fn set_held(&mut self, id: QueueId, held: bool, begin: Duration, end: Duration) -> bool {
        let Ok(at) = self.position(id) else { return false };
        if held {
            self.notes[at].renewed = begin;
        }
        if self.offline[at].held == held {
            return false;
        }
        self.offline[at].held = held;
        self.offline[at].since = end;
        if held {
            self.held += 1;
            if self.held == 1 {
                self.last_unmap = Some(begin);
            }
        } else {
            self.held -= 1;
            if self.held == 0 {
                self.last_remap = Some(end);
            }
        }
        true
    }

    /// A hold could not be renewed; the next attempt is due then.
    pub(super) fn put_off(&mut self, id: QueueId, until: Duration) {
        if let Ok(at) = self.position(id) {
            self.notes[at].not_before = until;
        }
    }

    /// A queue was seen without work at this write pointer, or with work.
    pub(super) fn set_idle(&mut self, id: QueueId, idle_at: Option<u64>, now: Duration) {
        let Ok(at) = self.position(id) else { return };
        let queue = &mut self.offline[at];
        let idle_since = idle_at.map(|_| queue.idle_since.unwrap_or(now));
        self.dirty |= idle_since != queue.idle_since;
        queue.idle_since = idle_since;
        self.notes[at].idle_at = idle_at;
    }

    /// Brings the window's books up to date after a call that lasted from `begin` to `end` changed queues.
    pub(super) fn account(&mut self, begin: Duration, end: Duration) {
        let at = if self.held > self.held_before { begin } else { end };
        self.held_before = self.held;
        let queues = u32::try_from(self.offline.len()).unwrap_or(u32::MAX);
        self.share.set(at, queues - self.held.min(queues), queues);
    }

    /// The number of online requests went from `before` to `after`.
    pub(super) fn online_changed(&mut self, before: u32, after: u32, now: Duration) {
        match (before, after) {
            (0, 1..) => self.online_since = Some(now),
            (1.., 0) => self.quiet_since = Some(now),
            _ => return,
        }
        self.dirty = true;
    }

    /// Held queues whose hold is to be renewed now: once one is due, all that are half way, so that they stay together.
    pub(super) fn renew(&self, now: Duration, beat: Option<Duration>) -> Vec<QueueId> {
        match beat {
            Some(beat) if self.beat_due(beat).is_some_and(|due| due <= now) => {
                let held = self.entries().filter(|(queue, _)| queue.held);
                let soon = held.filter(|(_, note)| (note.renewed + beat / 2).max(note.not_before) <= now);
                soon.map(|(queue, _)| queue.id).collect()
            }
            _ => Vec::new(),
        }
    }

    /// When the first hold must be renewed.
    pub(super) fn beat_due(&self, beat: Duration) -> Option<Duration> {
        if self.held == 0 {
            return None;
        }
        self.entries().filter(|(queue, _)| queue.held).map(|(_, note)| (note.renewed + beat).max(note.not_before)).min()
    }

    /// What a policy sees.
    pub(super) fn view(&self, now: Duration, online: u32, offline_max: Option<u32>) -> View<'_> {
        let (offline_ran, window) = self.share.read(now);
        View {
            now,
            online,
            online_since: self.online_since,
            quiet_since: self.quiet_since,
            offline: &self.offline,
            last_unmap: self.last_unmap,
            last_remap: self.last_remap,
            last_rotate: self.last_rotate,
            offline_max,
            offline_ran,
            window,
        }
    }

    /// What the policy decides now, without what is no change or not an offline queue of this domain.
    pub(super) fn decide(&mut self, policy: &dyn Policy, now: Duration, online: u32, cap: Option<u32>) -> Wishes {
        self.dirty = false;
        let view = self.view(now, online, cap);
        // Somebody else's code: a panic of it must not keep a guard from ending, nor a thread from renewing holds.
        let decided = catch_unwind(AssertUnwindSafe(|| policy.decide(&view)));
        let panicked = decided.is_err();
        let decision = decided.unwrap_or_else(|_| Decision { remap: ids(view.held()), ..Decision::default() });
        self.again_at = decision.again_at;
        let known = |ids: Vec<QueueId>, held: Option<bool>| -> Vec<QueueId> {
            let fits = |id: &QueueId| self.get(*id).is_some_and(|queue| held.is_none_or(|held| queue.held == held));
            ids.into_iter().filter(fits).collect()
        };
        Wishes {
            unmap: known(decision.unmap, Some(false)),
            remap: known(decision.remap, Some(true)),
            rotate: known(decision.rotate, None),
            online: online > 0,
            waits: online > 0 || decision.again_at.is_some(),
            panicked,
        }
    }
}

/// What a policy wants of one domain, without what is so already.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) unmap: Vec<QueueId>,
    pub(super) remap: Vec<QueueId>,
    pub(super) rotate: Vec<QueueId>,
    /// Online work is in flight.
    pub(super) online: bool,
    /// A queue that stays held does so on purpose.
    pub(super) waits: bool,
    /// The policy panicked instead, so everything goes back.
    pub(super) panicked: bool,
}
