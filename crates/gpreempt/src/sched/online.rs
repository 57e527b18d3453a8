//! Which queues are online is one list for all who share [`Claims`](crate::monitor::Claims): what a session classifies
//! counts here, and what is registered here counts there.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::driver::Selector;
use crate::queue::QueueId;
use crate::sched::intake::held_by_us;
use crate::sched::shared::Shared;
use crate::sched::state::State;

impl Shared {
    /// Takes note of what others have declared online since the last look, and of what they no longer do.
    pub(super) fn agree_on_online(&self) {
        let agreed = self.claims.online();
        let before = {
            let state = self.lock();
            if state.agreed_online == agreed {
                return;
            }
            state.agreed_online.clone()
        };
        // A process that has the pid of the one it was said of is another.
        let is_meant = |queue: &QueueId, started: Option<Duration>| {
            let now = self.driver.started(queue.pid);
            started.is_none() || now.is_none() || started == now
        };
        let fresh: BTreeMap<QueueId, bool> = agreed
            .iter()
            .filter(|&(queue, started)| before.get(queue) != Some(started) && is_meant(queue, *started))
            .map(|(queue, _)| (*queue, self.status_of(Selector::queue(*queue)).first().is_some_and(held_by_us)))
            .collect();
        let mut state = self.lock();
        let now = self.host.now();
        for queue in before.keys().filter(|queue| !agreed.contains_key(queue)) {
            state.online.remove(queue);
        }
        for (queue, held) in fresh {
            state.take_online(queue, held, now);
        }
        state.agreed_online = agreed;
    }

    /// Says that a queue is online, or no longer is, to all who share the claims.
    pub(super) fn declare_online(&self, queue: QueueId, online: bool) {
        self.claims.set_online(queue, self.driver.started(queue.pid), online);
    }
}

impl State {
    /// An offline queue that is online from now on leaves the offline ones; `held` counts where it was none.
    fn take_online(&mut self, queue: QueueId, held: bool, now: Duration) {
        let ours = self.home(queue).and_then(|key| self.domains.get(&key)?.get(queue)).map(|queue| queue.held);
        let aside = self.aside.get(&queue).map(|aside| aside.held);
        self.remove(queue, now);
        self.online.entry(queue).or_insert(ours.or(aside).unwrap_or(held));
    }
}
