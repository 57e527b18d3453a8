//! Configuration of a scheduler.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::driver::{Capabilities, Driver};
use crate::error::Result;
use crate::host::{Alarm, Host};
use crate::monitor::Claims;
use crate::queue::{GpuId, PolicyFlags};
use crate::sched::Scheduler;
use crate::sched::policy::{Policy, Unmap};
use crate::sched::scheduler::Scope;
use crate::sched::shared::Shared;
use crate::sched::state::{Rules, State};
use crate::sched::timeline::Timeline;
use crate::stats::Stats;
use crate::trace::Recorder;

/// How often events are read (or, without events, processes looked through) while nobody enters or leaves.
const POLL: Duration = Duration::from_millis(100);

/// Configures a [`Scheduler`].
#[derive(Debug)]
pub struct SchedulerBuilder {
    host: Arc<dyn Host>,
    driver: Arc<dyn Driver>,
    policy: Box<dyn Policy>,
    grace: Duration,
    scope: Scope,
    gang: bool,
    stats: Arc<Stats>,
    recorder: Option<Arc<dyn Recorder>>,
    claims: Arc<Claims>,
}

impl SchedulerBuilder {
    pub(super) fn new(host: Arc<dyn Host>, driver: Arc<dyn Driver>) -> SchedulerBuilder {
        SchedulerBuilder {
            host,
            driver,
            policy: Box::new(Unmap::default()),
            grace: Duration::ZERO,
            scope: Scope::default(),
            gang: false,
            stats: Arc::default(),
            recorder: None,
            claims: Claims::new(),
        }
    }

    /// Decides; default `unmap`. See [`crate::sched::policy::named`].
    #[must_use]
    pub fn policy(mut self, policy: Box<dyn Policy>) -> SchedulerBuilder {
        self.policy = policy;
        self
    }

    /// How long waves may finish by themselves before CWSR saves them; default zero, the driver's default.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> SchedulerBuilder {
        self.grace = grace;
        self
    }

    /// What an online request claims; default [`Scope::Machine`].
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> SchedulerBuilder {
        self.scope = scope;
        self
    }

    /// Queues of one job (process group) move together, whatever node they are on. A collective kernel spins until all
    /// its ranks run, so taking only some of them wastes the others' time.
    #[must_use]
    pub fn gang(mut self, gang: bool) -> SchedulerBuilder {
        self.gang = gang;
        self
    }

    /// Where latencies are counted; default: the scheduler's own.
    #[must_use]
    pub fn stats(mut self, stats: Arc<Stats>) -> SchedulerBuilder {
        self.stats = stats;
        self
    }

    /// Where the timeline goes; default: nowhere.
    #[must_use]
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> SchedulerBuilder {
        self.recorder = Some(recorder);
        self
    }

    /// What it shares with monitors on the same driver, so that neither undoes the other's work; default: nothing.
    #[must_use]
    pub fn claims(mut self, claims: Arc<Claims>) -> SchedulerBuilder {
        self.claims = claims;
        self
    }

    /// A scheduler without a thread of its own: the caller calls [`Scheduler::tick`] no later than
    /// [`Scheduler::next_wakeup`] says. Deterministic on a virtual clock.
    ///
    /// # Errors
    /// What the driver says of the policy's reservation.
    pub fn build(self) -> Result<Scheduler> {
        Scheduler::new(self.shared()?, false)
    }

    /// A scheduler with a background thread (`gpreempt-scheduler`) that ticks.
    ///
    /// # Errors
    /// As [`SchedulerBuilder::build`]; EAGAIN where no thread can be had.
    pub fn start(self) -> Result<Scheduler> {
        Scheduler::new(self.shared()?, true)
    }

    fn shared(self) -> Result<Shared> {
        let setup = self.policy.setup();
        let capabilities = self.driver.capabilities();
        let cap = match setup.reservation {
            Some((online, offline)) => {
                let reservation = self.driver.set_reservation(GpuId::ALL, online, offline)?;
                if reservation.offline_max == 0 && offline > 0 {
                    tracing::warn!(offline, "the cap on offline queues rounds down to no slot at all");
                }
                Some(reservation.offline_max)
            }
            None => None,
        };
        let watched = capabilities.intersects(Capabilities::EVENTS | Capabilities::STATUS);
        let rules = Rules {
            scope: self.scope,
            gang: self.gang,
            window: setup.window,
            // Twice and a bit per watchdog period: one late tick costs nothing.
            beat: self.driver.max_hold().map(|hold| hold * 2 / 5),
            cap,
            watchdog: self.driver.max_hold().is_some(),
            hold_new: capabilities.contains(Capabilities::HOLD_NEW),
            always_lazy: setup.queue_policy.contains(PolicyFlags::LAZY_ACTIVATION),
            marks: setup.queue_policy | PolicyFlags::PREEMPTIBLE,
            poll: watched.then_some(POLL),
            look: setup.idle_poll.filter(|_| capabilities.contains(Capabilities::POINTERS | Capabilities::STATUS)),
        };
        Ok(Shared {
            host: self.host,
            driver: self.driver,
            policy: self.policy,
            capabilities,
            scope: self.scope,
            grace: self.grace,
            stats: self.stats,
            recorder: self.recorder,
            state: Mutex::new(State::new(rules)),
            timeline: Mutex::new(Timeline::default()),
            intake: Mutex::new(()),
            alarm: Alarm::new(),
            released: Condvar::new(),
            window: self.claims.window(&[]),
            claims: self.claims,
            process: std::process::id(),
        })
    }
}
