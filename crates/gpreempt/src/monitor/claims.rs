//! Which queues an online window holds, so that scheduler and monitor, on one lease, do not undo each other's work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::Selector;
use crate::queue::{GpuId, Pid, QueueId};

/// What scheduler and monitor each hold. Share one between them; without a scheduler a fresh one does.
#[derive(Debug, Default)]
pub struct Claims {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    next: u64,
    windows: BTreeMap<u64, BTreeSet<Name>>,
    cleaned: BTreeSet<QueueId>,
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
        let id = state.next;
        state.next += 1;
        state.windows.insert(id, selectors.iter().map(name).collect());
        Window { claims: Arc::clone(self), id }
    }

    /// Queues that the monitor holds because they were idle. Who closes a window leaves these out of what it maps: the
    /// monitor maps them when they have work.
    pub fn cleaned(&self) -> BTreeSet<QueueId> {
        self.lock().cleaned.clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn in_window(&self, queue: QueueId, gpu: GpuId) -> bool {
        let QueueId { pid, id } = queue;
        let names = [(pid, Some(id), GpuId::ALL), (pid, Some(id), gpu), (pid, None, GpuId::ALL), (pid, None, gpu)];
        self.windows.values().any(|window| names.iter().any(|name| window.contains(name)))
    }

    pub(crate) fn set_cleaned(&mut self, queues: impl IntoIterator<Item = QueueId>) {
        self.cleaned = queues.into_iter().collect();
    }
}

/// What one holder claims for online windows; ends when dropped.
#[derive(Debug)]
#[must_use = "the claim ends when this is dropped"]
pub struct Window {
    claims: Arc<Claims>,
    id: u64,
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

    fn change(&self, change: impl FnOnce(&mut BTreeSet<Name>)) {
        if let Some(claimed) = self.claims.lock().windows.get_mut(&self.id) {
            change(claimed);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.claims.lock().windows.remove(&self.id);
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
}
