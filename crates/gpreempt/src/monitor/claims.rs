//! Which queues an online window holds and which are online, so that session, scheduler and monitor, on one lease, do not
//! undo each other's work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;

use crate::driver::Selector;
use crate::queue::{GpuId, Pid, QueueId};

/// What session, scheduler and monitor each hold. Share one between them; without a scheduler a fresh one does.
#[derive(Debug, Default)]
pub struct Claims {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    next: u64,
    windows: BTreeMap<u64, FxHashSet<Name>>,
    online: BTreeMap<QueueId, Option<Duration>>,
    /// By monitor.
    cleaned: BTreeMap<u64, BTreeSet<QueueId>>,
}

/// What a selector names, whatever is to be done to it.
type Name = (Pid, Option<u32>, GpuId);

fn name(selector: &Selector) -> Name {
    (selector.pid, selector.queue, selector.gpu)
}

impl Claims {
    /// Nothing claimed.
    pub fn new() -> Arc<Claims> {
        Arc::default()
    }

    /// Claims queues for an online window, until the returned guard is dropped. Claim before unmapping and drop after
    /// mapping again: the monitor then never maps them in between. Waits for a batch of the monitor that is under way.
    pub fn window(self: &Arc<Claims>, selectors: &[Selector]) -> Window {
        let mut state = self.lock();
        let id = state.next_id();
        state.windows.insert(id, selectors.iter().map(name).collect());
        Window { claims: Arc::clone(self), id, process: std::process::id() }
    }

    /// Says that a queue of the process that started then (None: whichever) is online, or that it no longer is: nobody who
    /// shares this unmaps it while it is.
    pub fn set_online(&self, queue: QueueId, started: Option<Duration>, online: bool) {
        let mut state = self.lock();
        if online {
            state.online.insert(queue, started);
        } else if state.is_online(queue, started) {
            state.online.remove(&queue);
        }
    }

    /// Whether somebody declared a queue online.
    pub fn is_online(&self, queue: QueueId, started: Option<Duration>) -> bool {
        self.lock().is_online(queue, started)
    }

    /// The queues that somebody declared online, with the start of their process where known.
    pub fn online(&self) -> BTreeMap<QueueId, Option<Duration>> {
        self.lock().online.clone()
    }

    /// Queues that the monitor holds because they were idle. Who closes a window leaves these out of what it maps: the
    /// monitor maps them when they have work.
    pub fn cleaned(&self) -> BTreeSet<QueueId> {
        self.lock().cleaned.values().flatten().copied().collect()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn in_window(&self, queue: QueueId, gpu: GpuId) -> bool {
        self.claimed(queue, gpu, |_| true)
    }

    /// Where the node is not known, a claim on any node covers the queue.
    fn claimed(&self, queue: QueueId, gpu: GpuId, of: impl Fn(u64) -> bool) -> bool {
        let QueueId { pid, id } = queue;
        let covers = |window: &FxHashSet<Name>| {
            if gpu == GpuId::ALL {
                return window.iter().any(|&(of, queue, _)| of == pid && queue.is_none_or(|queue| queue == id));
            }
            let names = [(pid, Some(id), GpuId::ALL), (pid, Some(id), gpu), (pid, None, GpuId::ALL), (pid, None, gpu)];
            names.iter().any(|name| window.contains(name))
        };
        self.windows.iter().any(|(&window, names)| of(window) && covers(names))
    }

    pub(crate) fn is_online(&self, queue: QueueId, started: Option<Duration>) -> bool {
        self.online.get(&queue).is_some_and(|of| of.is_none() || started.is_none() || *of == started)
    }

    /// A number that names one window or monitor.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What one monitor holds.
    pub(crate) fn set_cleaned(&mut self, monitor: u64, queues: impl IntoIterator<Item = QueueId>) {
        self.cleaned.insert(monitor, queues.into_iter().collect());
    }

    pub(crate) fn end_cleaned(&mut self, monitor: u64) {
        self.cleaned.remove(&monitor);
    }
}

/// What one holder claims for online windows; ends when dropped.
#[derive(Debug)]
#[must_use = "the claim ends when this is dropped"]
pub struct Window {
    claims: Arc<Claims>,
    id: u64,
    /// In a forked child another thread of the parent may have the lock for ever.
    process: u32,
}

impl Window {
    /// Claims more queues, before they are unmapped. Waits for a batch of the monitor that is under way.
    pub fn extend(&self, selectors: &[Selector]) {
        self.change(|claimed| claimed.extend(selectors.iter().map(name)));
    }

    /// Ends the claim on queues, named as they were claimed, after they were mapped again.
    pub fn release(&self, selectors: &[Selector]) {
        self.change(|claimed| {
            for selector in selectors {
                claimed.remove(&name(selector));
            }
        });
    }

    /// Whether somebody else claims a queue, too: then it is theirs to map, once their claim ends. Whoever lets go of a
    /// queue ends the own claim first and asks then, so that of two who do one maps it.
    pub fn claimed_elsewhere(&self, queue: QueueId, gpu: GpuId) -> bool {
        let state = self.claims.lock();
        state.claimed(queue, gpu, |id| id != self.id)
    }

    /// Those of these that somebody else claims, too: [`Window::claimed_elsewhere`] for many.
    pub(crate) fn elsewhere(&self, queues: &[(QueueId, GpuId)]) -> Vec<QueueId> {
        let state = self.claims.lock();
        if state.windows.iter().all(|(id, names)| *id == self.id || names.is_empty()) {
            return Vec::new();
        }
        let theirs = queues.iter().filter(|(queue, gpu)| state.claimed(*queue, *gpu, |id| id != self.id));
        theirs.map(|(queue, _)| *queue).collect()
    }

    fn change(&self, change: impl FnOnce(&mut FxHashSet<Name>)) {
        if let Some(claimed) = self.claims.lock().windows.get_mut(&self.id) {
            change(claimed);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if std::process::id() == self.process {
            self.claims.lock().windows.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: GpuId = GpuId(7);

    fn queue(id: u32) -> QueueId {
        QueueId { pid: 1, id }
    }

    #[test]
    fn a_window_covers_what_its_selectors_name_until_it_is_dropped() {
        let claims = Claims::new();
        let one = claims.window(&[Selector::queue(queue(3))]);
        let on_gpu = claims.window(&[Selector { gpu: GPU, ..Selector::process(1) }]);
        let covers = |id, gpu| claims.lock().in_window(queue(id), gpu);
        assert!(covers(3, GpuId(8)) && covers(4, GPU) && !covers(4, GpuId(8)));
        drop(on_gpu);
        assert!(covers(3, GPU) && !covers(4, GPU));
        drop(one);
        assert!(!covers(3, GPU));
    }

    #[test]
    fn a_queue_in_two_windows_stays_claimed_until_both_let_go() {
        let claims = Claims::new();
        let (first, second) = (claims.window(&[]), claims.window(&[]));
        let selectors = [Selector::queue(queue(3)), Selector::queue(queue(4))];
        first.extend(&selectors);
        second.extend(&selectors);
        // As it is mapped again: other flags, same queue.
        first.release(&[Selector { if_idle: true, ..selectors[0] }]);
        assert!(claims.lock().in_window(queue(3), GPU));
        second.release(&selectors[..1]);
        assert!(!claims.lock().in_window(queue(3), GPU));
        assert!(claims.lock().in_window(queue(4), GPU));
    }

    #[test]
    fn each_monitor_has_its_own_idle_queues() {
        let claims = Claims::new();
        let first = claims.lock().next_id();
        let second = claims.lock().next_id();
        claims.lock().set_cleaned(first, [queue(3)]);
        claims.lock().set_cleaned(second, []);
        assert_eq!(claims.cleaned(), BTreeSet::from([queue(3)]));
        claims.lock().end_cleaned(second);
        assert_eq!(claims.cleaned(), BTreeSet::from([queue(3)]));
        claims.lock().end_cleaned(first);
        assert_eq!(claims.cleaned(), BTreeSet::new());
    }

    #[test]
    fn a_window_tells_its_own_claims_from_those_of_others() {
        let claims = Claims::new();
        let (mine, theirs) = (claims.window(&[Selector::queue(queue(3))]), claims.window(&[]));
        assert!(!mine.claimed_elsewhere(queue(3), GPU));
        theirs.extend(&[Selector { gpu: GPU, ..Selector::process(1) }]);
        assert!(mine.claimed_elsewhere(queue(3), GPU) && !mine.claimed_elsewhere(queue(3), GpuId(8)));
        assert!(mine.claimed_elsewhere(queue(3), GpuId::ALL), "its node is not known, so it may be this one");
    }

    #[test]
    fn what_is_online_is_so_for_the_process_it_was_said_of() {
        let claims = Claims::new();
        let (first, second) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(2)));
        claims.set_online(queue(3), first, true);
        claims.set_online(queue(3), second, false);
        assert!(claims.is_online(queue(3), first) && claims.is_online(queue(3), None));
        assert!(!claims.is_online(queue(3), second) && !claims.is_online(queue(4), first));
        claims.set_online(queue(3), None, false);
        assert!(!claims.is_online(queue(3), first));
    }

    #[test]
    fn a_window_of_another_process_ends_without_the_lock() {
        let claims = Claims::new();
        let mut window = claims.window(&[]);
        window.process += 1;
        // As if another thread had held it when the process forked: dropping would wait for ever.
        let _held = claims.lock();
        drop(window);
    }
}
