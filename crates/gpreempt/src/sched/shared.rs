//! What the scheduler, its guards and its thread share, and the one way in which each of them acts.
//!
//! The lock guards the books, never a driver call: whoever acts claims its domains, executes with the lock released,
//! takes note, and lets the next one in. A second online request therefore waits until the first one's unmap is done
//! (it may not begin before), while requests on other domains go on. Records reach the recorder with no lock held.
//! Only the policy runs under the lock; it is a pure function.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use crate::driver::{Capabilities, Driver, Selector};
use crate::error::{Error, Result};
use crate::host::{Alarm, Host};
use crate::monitor::{Claims, Window};
use crate::queue::{GpuId, Pid, PolicyFlags, QueueId};
use crate::sched::execute::Executor;
use crate::sched::plan::Plan;
use crate::sched::policy::Policy;
use crate::sched::scheduler::{Scope, Step};
use crate::sched::state::State;
use crate::sched::timeline::Timeline;
use crate::stats::Stats;
use crate::trace::{Record, Recorder};

/// Shared parts. Order of locks: `intake`, then `state`.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) host: Arc<dyn Host>,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) policy: Box<dyn Policy>,
    pub(super) capabilities: Capabilities,
    pub(super) scope: Scope,
    pub(super) grace: Duration,
    pub(super) stats: Arc<Stats>,
    pub(super) recorder: Option<Arc<dyn Recorder>>,
    pub(super) state: Mutex<State>,
    pub(super) timeline: Mutex<Timeline>,
    /// One thread at a time reads events, so that they are applied in order.
    pub(super) intake: Mutex<()>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) released: Condvar,
    /// What monitors on the same driver leave to us.
    pub(super) claims: Arc<Claims>,
    pub(super) window: Window,
    /// The process that made it. In a forked child the locks may be held for ever and the thread is not there.
    pub(super) process: u32,
}

/// What a step did, and what went wrong for whom.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) step: Step,
    errors: Vec<(Selector, Error)>,
}

impl Done {
    /// Fails where something went wrong for this queue (None: for any of the process).
    pub(super) fn result_of(self, pid: Pid, queue: Option<u32>) -> Result<()> {
        let names = |it: &Selector| it.pid == pid && (queue.is_none() || it.queue.is_none() || it.queue == queue);
        self.errors.into_iter().find(|(selector, _)| names(selector)).map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Domains that a thread has claimed; dropping lets others in.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    shared: &'a Shared,
    keys: Vec<GpuId>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.set_busy(&self.keys, false);
        self.shared.rouse(&state);
        drop(state);
        self.shared.released.notify_all();
    }
}

impl Shared {
    /// This is a forked child, which has no part in the scheduler.
    pub(super) fn forked(&self) -> bool {
        std::process::id() != self.process
    }

    /// As an error of `operation`.
    pub(super) fn check_process(&self, operation: &'static str) -> Result<()> {
        if self.forked() { Err(Error::of_driver(operation, Errno::EBADF)) } else { Ok(()) }
    }

    /// Sets the policy's flags, where the driver knows any.
    pub(super) fn mark(&self, selector: Selector) -> Result<()> {
        if self.capabilities.contains(Capabilities::POLICY) {
            let marks = self.lock().rules.marks;
            self.driver.set_policy(selector, marks, PolicyFlags::empty())?;
            self.lock().marked.insert((selector.pid, selector.queue));
        }
        Ok(())
    }

    /// The books are kept whole by every method, so a panic elsewhere does not spoil them.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the background thread if it sleeps longer than it may.
    fn rouse(&self, state: &State) {
        let Some(asleep_until) = state.asleep_until else { return };
        let wakeup = state.next_wakeup(self.host.now());
        if wakeup.is_some_and(|wakeup| asleep_until.is_none_or(|until| wakeup < until)) {
            self.alarm.ring();
        }
    }

    /// Waits until nobody works on these domains (all, where gangs are on; none given = all), and claims them.
    pub(super) fn claim_domains(&self, keys: &[GpuId]) -> Claim<'_> {
        let mut state = self.lock();
        loop {
            let keys = state.together(keys);
            if !state.any_busy(&keys) {
                state.set_busy(&keys, true);
                return Claim { shared: self, keys };
            }
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes a change, then brings these domains (none = all) where the policy wants them.
    pub(super) fn step(&self, keys: &[GpuId], change: impl FnOnce(&mut State, Duration)) -> Done {
        let mut state = self.lock();
        if state.closed {
            return Done::default();
        }
        change(&mut state, self.host.now());
        drop(state);
        self.follow_policy(keys)
    }

    /// What is due by itself.
    pub(super) fn tick(&self) -> Step {
        self.take_in();
        let keys = self.lock().due(self.host.now());
        if keys.is_empty() { Step::default() } else { self.follow_policy(&keys).step }
    }

    fn follow_policy(&self, keys: &[GpuId]) -> Done {
        let plan = |state: &mut State, keys: &[GpuId], cleaned: &BTreeSet<QueueId>| {
            if state.closed {
                return Plan::default();
            }
            state.plan(self.policy.as_ref(), self.host.now(), keys, cleaned)
        };
        self.carry_out(keys, plan, |_| {})
    }

    /// Claims domains (none = all), makes a plan for them and carries it out; `after` notes what that makes so, before
    /// anybody else plans.
    pub(super) fn carry_out(
        &self,
        keys: &[GpuId],
        plan: impl FnOnce(&mut State, &[GpuId], &BTreeSet<QueueId>) -> Plan,
        after: impl FnOnce(&mut State),
    ) -> Done {
        let claim = self.claim_domains(keys);
        // May wait for a monitor, so neither under the lock; and read last, for claiming may have waited, too.
        self.agree_on_online();
        let queues = self.lock().offline_of(&claim.keys);
        let away = self.kept_away(&queues);
        // Unlocked before the claim ends, on the way out of a panic as well: ending it locks.
        let mut state = self.lock();
        let mut plan = plan(&mut state, &claim.keys, &away);
        let panicked = plan.error.take();
        if let Some(error) = &panicked {
            tracing::error!(%error, "a policy must not panic");
            state.first_error.get_or_insert_with(|| error.clone());
        }
        let window = state.claim(&plan.unmap);
        if plan.is_empty() {
            after(&mut state);
            // Queues that are left to a monitor end their claim without a call.
            let released = state.release_claims(&claim.keys);
            drop(state);
            self.release(&released, &away, &queues);
            return Done { step: Step { error: panicked, ..Step::default() }, errors: Vec::new() };
        }
        drop(state);
        if !window.is_empty() {
            self.window.extend(&window);
        }
        let executor = Executor {
            host: self.host.as_ref(),
            driver: self.driver.as_ref(),
            stats: &self.stats,
            grace: self.grace,
            traced: self.recorder.is_some(),
        };
        let done = executor.run(plan);

        let mut state = self.lock();
        state.released(&done.released, done.end);
        let outcome = state.apply(done.verdicts, done.begin, done.end);
        let error = panicked.or_else(|| outcome.errors.first().map(|(_, error)| error.clone()));
        if let Some(error) = &error {
            state.first_error.get_or_insert_with(|| error.clone());
        }
        after(&mut state);
        let mut records = done.records;
        if self.recorder.is_some() {
            records.extend(self.observe(&state, done.begin, done.end));
        }
        let released = state.release_claims(&claim.keys);
        drop(state);
        self.release(&released, &away, &queues);
        drop(claim);
        self.publish(&records);
        let step = Step {
            unmapped: outcome.unmapped,
            remapped: outcome.remapped,
            rounds: done.rounds,
            elapsed: done.end.saturating_sub(done.begin),
            error,
        };
        Done { step, errors: outcome.errors }
    }

    /// Queues that others keep away: a monitor because they are idle, or, of these, another window.
    fn kept_away(&self, queues: &[(QueueId, GpuId)]) -> BTreeSet<QueueId> {
        let mut away = self.claims.cleaned();
        away.extend(self.window.elsewhere(queues));
        away
    }

    /// Ends claims. A queue that was left to somebody who has let go of it meanwhile, and may have left it to us, is
    /// ours to map after all.
    fn release(&self, released: &[Selector], away: &BTreeSet<QueueId>, queues: &[(QueueId, GpuId)]) {
        if released.is_empty() {
            return;
        }
        self.window.release(released);
        if away.is_empty() {
            return;
        }
        let still = self.kept_away(queues);
        let now = self.host.now();
        for queue in away.difference(&still) {
            self.lock().correct(*queue, true, now);
        }
    }

    fn observe(&self, state: &State, begin: Duration, end: Duration) -> Vec<Record> {
        let mut timeline = self.timeline.lock().unwrap_or_else(PoisonError::into_inner);
        timeline.observe(state.domains.values().flat_map(|domain| domain.offline()), begin, end)
    }

    /// Hands records to the recorder. Called with no lock held.
    pub(super) fn publish(&self, records: &[Record]) {
        if let Some(recorder) = &self.recorder {
            records.iter().for_each(|record| recorder.record(record));
        }
    }
}
