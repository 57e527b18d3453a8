//! Which queues an online window holds, so that scheduler and monitor, on one lease, do not undo each other's work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::Selector;
use crate::queue::{GpuId, QueueId};

/// What scheduler and monitor each hold. Share one between them; without a scheduler a fresh one does.
#[derive(Debug, Default)]
pub struct Claims {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    next: u64,
    windows: BTreeMap<u64, Vec<Selector>>,
    cleaned: BTreeSet<QueueId>,
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
        state.windows.insert(id, selectors.to_vec());
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
        self.windows.values().flatten().any(|selector| {
            selector.pid == queue.pid
                && selector.queue.is_none_or(|id| id == queue.id)
                && (selector.gpu == GpuId::ALL || selector.gpu == gpu)
        })
    }

    pub(crate) fn set_cleaned(&mut self, queues: impl IntoIterator<Item = QueueId>) {
        self.cleaned = queues.into_iter().collect();
    }
}

/// An online window's claim; ends when dropped.
#[derive(Debug)]
#[must_use = "the claim ends when this is dropped"]
pub struct Window {
    claims: Arc<Claims>,
    id: u64,
}

impl Drop for Window {
    fn drop(&mut self) {
        self.claims.lock().windows.remove(&self.id);
    }
}
