//! What happens without us: queues come and go, processes exit, holds expire, queues run dry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use nix::errno::Errno;

use crate::driver::{Capabilities, Event, EventKind, QueueStatus, Selector, Want};
use crate::queue::{Pid, QueueId, QueueState};
use crate::sched::shared::Shared;
use crate::sched::state::State;
use crate::trace::Record;

/// What a queue's status says of our hold.
pub(super) fn held_by_us(status: &QueueStatus) -> bool {
    status.state.contains(QueueState::PREEMPTED | QueueState::MINE)
}

impl State {
    /// Adds an offline queue as its status describes it.
    pub(super) fn insert_status(&mut self, status: &QueueStatus, now: Duration) {
        let held = held_by_us(status);
        self.insert(status.queue, status.gpu, held, now);
        // The driver itself holds only queues without work (LAZY_ACTIVATION); they wake up when their write pointer
        // moves.
        let Some((read, write)) = status.pointers else { return };
        if let Some(domain) = self.home(status.queue).and_then(|key| self.domains.get_mut(&key)) {
            domain.set_idle(status.queue, (held && read == write).then_some(write), now);
        }
    }
}

impl Shared {
    /// Reads events and takes note. Never waits.
    pub(super) fn take_events(&self) {
        if !self.capabilities.contains(Capabilities::EVENTS) {
            return;
        }
        let in_order = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        let events = match self.driver.events() {
            Ok(events) => events,
            Err(error) => {
                self.lock().first_error.get_or_insert(error);
                return;
            }
        };
        if events.is_empty() {
            return;
        }
        for event in &events {
            self.take_event(event);
        }
        if events.iter().any(|event| event.lost > 0) {
            self.rescan();
        }
        drop(in_order);
        let record = |event: &Event| Record::Event { kind: event.kind, gpu: event.gpu, at: event.time };
        self.publish(&events.iter().map(record).collect::<Vec<_>>());
    }

    fn take_event(&self, event: &Event) {
        let now = self.host.now();
        let queue = event.pid.zip(event.queue).map(|(pid, id)| QueueId { pid, id });
        if event.pid.is_some_and(|pid| !self.lock().is_current(pid, event.started)) {
            return;
        }
        match (event.kind, event.pid, queue) {
            (EventKind::QueueCreated, Some(pid), Some(queue)) => {
                let (takes, whole) = {
                    let state = self.lock();
                    (state.takes(queue), state.is_whole(pid))
                };
                if !takes {
                    return;
                }
                if !whole {
                    self.mark_new(queue);
                }
                let known = self.status_of(Selector::queue(queue)).pop();
                let mut state = self.lock();
                match known {
                    Some(status) => state.insert_status(&status, now),
                    None => {
                        // The state in which the policy will name it; the verbs are idempotent.
                        let held = !state.is_online(event.gpu);
                        state.insert(queue, event.gpu, held, now);
                    }
                }
            }
            (EventKind::QueueDestroyed, _, Some(queue)) => {
                let mut state = self.lock();
                state.remove(queue, now);
                state.online.remove(&queue);
            }
            (EventKind::TargetExited, Some(pid), _) => self.lock().remove_process(pid, now),
            (EventKind::HoldExpired, Some(_), Some(queue)) => self.lock().correct(queue, false, now),
            (EventKind::HoldExpired, _, _) => self.rescan(),
            (EventKind::NodeReset, _, _) => {
                self.lock().was_reset(event.gpu, now);
                self.rescan();
            }
            _ => {}
        }
    }

    /// Status as registration needs it; none where the driver cannot tell.
    pub(super) fn status_of(&self, selector: Selector) -> Vec<QueueStatus> {
        if !self.capabilities.contains(Capabilities::STATUS) {
            return Vec::new();
        }
        let pointers = self.policy.setup().idle_poll.is_some() && self.capabilities.contains(Capabilities::POINTERS);
        self.driver.queue_status(selector, Want { pointers, waves: false }).unwrap_or_default()
    }

    /// Marks a queue that appeared in a process that is not marked as a whole.
    fn mark_new(&self, queue: QueueId) {
        if let Err(error) = self.mark(Selector::queue(queue)) {
            tracing::debug!(%error, "a new queue may not be held");
        }
    }

    /// Compares the books of every registered process with the driver's.
    pub(super) fn rescan(&self) {
        if !self.capabilities.contains(Capabilities::STATUS) {
            return;
        }
        // Claimed, so that no call changes a queue between reading and noting its state.
        let _claim = self.claim_domains(&[]);
        let pids: BTreeSet<Pid> = {
            let state = self.lock();
            let queues = state.domains.values().flat_map(|domain| domain.offline().iter().map(|queue| queue.id.pid));
            queues.chain(state.processes.keys().copied()).collect()
        };
        for pid in pids {
            let selector = self.lock().selector(pid);
            let statuses = match self.driver.queue_status(selector, Want::default()) {
                Ok(statuses) => statuses,
                Err(error) => {
                    if error.errno() == Errno::ESRCH {
                        self.lock().remove_process(pid, self.host.now());
                    }
                    continue;
                }
            };
            let new: Vec<QueueId> = {
                let state = self.lock();
                let new = statuses.iter().map(|status| status.queue).filter(|queue| state.takes(*queue));
                new.filter(|_| !state.is_whole(pid)).collect()
            };
            new.into_iter().for_each(|queue| self.mark_new(queue));
            let now = self.host.now();
            let mut state = self.lock();
            let seen: BTreeSet<u32> = statuses.iter().map(|status| status.queue.id).collect();
            for queue in state.queues_of(pid) {
                if !seen.contains(&queue.id) {
                    state.remove(queue, now);
                }
            }
            state.excluded.retain(|queue| queue.pid != pid || seen.contains(&queue.id));
            for status in &statuses {
                state.correct(status.queue, held_by_us(status), now);
                if state.takes(status.queue) {
                    state.insert_status(status, now);
                }
            }
        }
    }

    /// Reads pointers and notes which queues have no work. A mapped queue whose pointers meet is asked for waves once.
    fn look_for_idle(&self) {
        let queues: BTreeMap<QueueId, (bool, Option<u64>)> = {
            let state = self.lock();
            let entries = state.domains.values().flat_map(|domain| domain.entries());
            entries.map(|(queue, note)| (queue.id, (queue.held, note.idle_at))).collect()
        };
        let pids: BTreeSet<Pid> = queues.keys().map(|queue| queue.pid).collect();
        for pid in pids {
            let want = Want { pointers: true, waves: false };
            let selector = self.lock().selector(pid);
            let Ok(statuses) = self.driver.queue_status(selector, want) else { continue };
            for status in statuses {
                let queue = status.queue;
                let Some(&(held, idle_at)) = queues.get(&queue) else { continue };
                let idle_at = match status.pointers {
                    Some((_, write)) if idle_at == Some(write) => continue,
                    Some((read, write)) if read == write && !held && self.has_no_waves(queue) => Some(write),
                    _ => None,
                };
                let now = self.host.now();
                let mut state = self.lock();
                if let Some(domain) = state.home(queue).and_then(|key| state.domains.get_mut(&key)) {
                    domain.set_idle(queue, idle_at, now);
                }
            }
        }
    }

    fn has_no_waves(&self, queue: QueueId) -> bool {
        let want = Want { pointers: true, waves: self.capabilities.contains(Capabilities::WAVES) };
        let statuses = self.driver.queue_status(Selector::queue(queue), want).unwrap_or_default();
        statuses.iter().any(|status| status.state.contains(QueueState::IDLE) || status.waves == Some(0))
    }

    /// Everything that a tick reads, as far as it is due.
    pub(super) fn take_in(&self) {
        self.take_events();
        let now = self.host.now();
        let (poll, look) = self.lock().watch(now);
        let readmitted = self.lock().readmit_reset(now);
        if readmitted || (poll && !self.capabilities.contains(Capabilities::EVENTS)) {
            self.rescan();
        }
        if look {
            self.look_for_idle();
        }
    }
}
