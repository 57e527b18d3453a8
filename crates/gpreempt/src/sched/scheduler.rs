//! The scheduler: books, policy and driver brought together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::driver::{Capabilities, Driver, Selector};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::{GpuId, Pid, PolicyFlags, QueueId};
use crate::sched::OnlineGuard;
use crate::sched::builder::SchedulerBuilder;
use crate::sched::intake::held_by_us;
use crate::sched::policy::{OfflineQueue, Policy};
use crate::sched::shared::Shared;
use crate::sched::state::Process;
use crate::sched::ticker::Ticker;
use crate::session::Session;
use crate::stats::Stats;

/// What an online request claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All nodes: one domain.
    #[default]
    Machine,
    /// The nodes it names: one domain per node.
    Gpu,
}

impl Scope {
    /// The name of a node's domain.
    pub(super) fn domain_of(self, gpu: GpuId) -> GpuId {
        match self {
            Scope::Machine => GpuId::ALL,
            Scope::Gpu => gpu,
        }
    }
}

/// What one step of the scheduler did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Queues taken off the hardware.
    pub unmapped: u32,
    /// Queues put back.
    pub remapped: u32,
    /// Rounds that took, over all nodes.
    pub rounds: u32,
    /// Time in the driver's calls, as this process saw it.
    pub elapsed: Duration,
    /// First error, if any; everything else was done all the same.
    pub error: Option<Error>,
}

/// Brings offline queues off the hardware while online work is in flight, as its policy decides. All methods may be
/// called from any thread.
///
/// Dropping it gives back every queue, clears the marks that it set and its reservation. After ETIME or EIO on a node,
/// that node is left alone until [`Scheduler::readmit`] (its queues come back through the driver's watchdog), while
/// everything else goes on.
///
/// In a forked child it does nothing: what can fail answers EBADF, and dropping it there changes nothing.
#[derive(Debug)]
pub struct Scheduler {
    // Dropped first: nothing ticks while everything is given back.
    ticker: Option<Ticker>,
    shared: Arc<Shared>,
}

impl Scheduler {
    pub(super) fn new(shared: Shared, thread: bool) -> Result<Scheduler> {
        let mut scheduler = Scheduler { ticker: None, shared: Arc::new(shared) };
        if thread {
            scheduler.ticker = Some(Ticker::start(scheduler.shared.clone())?);
        }
        Ok(scheduler)
    }

    /// Configures a scheduler on a host and driver.
    pub fn builder(host: Arc<dyn Host>, driver: Arc<dyn Driver>) -> SchedulerBuilder {
        SchedulerBuilder::new(host, driver)
    }

    /// Configures a scheduler on a session: on its host and driver, and agreed with its monitors.
    pub fn on(session: &Session) -> SchedulerBuilder {
        Scheduler::builder(session.host().clone(), session.driver().clone()).claims(session.claims().clone())
    }

    /// Declares a queue online: no decision and no selector of this scheduler will ever name it to unmap it. Where this
    /// driver holds it, the next online window maps it, in the round that takes the offline queues.
    ///
    /// # Errors
    /// EINVAL where it is registered as offline.
    pub fn register_online(&self, queue: QueueId) -> Result<()> {
        const WHAT: &str = "registering an online queue";
        self.shared.check_process(WHAT)?;
        let held = self.shared.status_of(Selector::queue(queue)).first().is_some_and(held_by_us);
        let mut state = self.shared.lock();
        if state.is_offline(queue) {
            return Err(Error::new(WHAT, Errno::EINVAL)
                .on(queue)
                .because("it is registered as offline")
                .remedy("unregister it first"));
        }
        state.online.insert(queue, held);
        drop(state);
        self.shared.declare_online(queue, true);
        Ok(())
    }

    /// Puts a queue into the offline class. `gpu`: its node, or [`GpuId::ALL`] to ask the driver.
    ///
    /// # Errors
    /// EINVAL where it is registered as online; else what the driver says: ENOENT, ESRCH, EPERM, EBUSY; EOPNOTSUPP
    /// where the scope is [`Scope::Gpu`] and the driver cannot tell the node.
    pub fn register_offline(&self, queue: QueueId, gpu: GpuId) -> Result<()> {
        const WHAT: &str = "registering an offline queue";
        self.shared.check_process(WHAT)?;
        self.shared.agree_on_online();
        if self.shared.lock().online.contains_key(&queue) {
            return Err(Error::new(WHAT, Errno::EINVAL).on(queue).because("it is registered as online"));
        }
        let driver = &self.shared.driver;
        driver.attach(queue.pid)?;
        self.mark(Selector::queue(queue))?;
        let status = self.shared.status_of(Selector::queue(queue)).pop();
        let gpu = status.as_ref().map_or(gpu, |status| status.gpu);
        if gpu == GpuId::ALL && self.shared.scope == Scope::Gpu {
            return Err(Error::new(WHAT, Errno::EOPNOTSUPP)
                .on(queue)
                .because("the driver cannot tell its node")
                .remedy("name the node"));
        }
        let job = self.job(queue.pid);
        let key = self.shared.lock().key(gpu);
        let step = self.shared.step(&[key], |state, now| {
            state.processes.entry(queue.pid).or_insert(Process { whole: false, hold_new: false, job });
            match &status {
                Some(status) => state.insert_status(status, now),
                None => state.insert(queue, gpu, false, now),
            }
        });
        step.error.map_or(Ok(()), Err)
    }

    /// Puts all queues of a process, present and future, into the offline class; returns how many it has now. Queues of
    /// it that are registered as online stay online.
    ///
    /// # Errors
    /// As [`Scheduler::register_offline`]; EOPNOTSUPP where the driver cannot list queues.
    pub fn register_offline_process(&self, pid: Pid) -> Result<u32> {
        const WHAT: &str = "registering an offline process";
        self.shared.check_process(WHAT)?;
        if !self.shared.capabilities.contains(Capabilities::STATUS) {
            return Err(Error::new(WHAT, Errno::EOPNOTSUPP)
                .on(format_args!("pid {pid}"))
                .because("the driver cannot list its queues")
                .remedy("register them one by one"));
        }
        self.shared.driver.attach(pid)?;
        self.shared.agree_on_online();
        let job = self.job(pid);
        let mixed = {
            let mut state = self.shared.lock();
            let process = state.processes.entry(pid).or_insert(Process { whole: true, hold_new: false, job });
            process.whole = true;
            !state.is_whole(pid)
        };
        if !mixed {
            self.mark(Selector::process(pid))?;
        }
        let statuses = self.shared.status_of(Selector::process(pid));
        for status in &statuses {
            if mixed && !self.shared.lock().online.contains_key(&status.queue) {
                self.mark(Selector::queue(status.queue))?;
            }
        }
        let step = self.shared.step(&[], |state, now| {
            for status in &statuses {
                state.insert_status(status, now);
            }
        });
        let queues = self.shared.lock().queues_of(pid).len();
        step.error.map_or(Ok(u32::try_from(queues).unwrap_or(u32::MAX)), Err)
    }

    /// Sets the policy's flags, where the driver knows any.
    fn mark(&self, selector: Selector) -> Result<()> {
        if self.shared.capabilities.contains(Capabilities::POLICY) {
            let marks = self.shared.lock().rules.marks;
            self.shared.driver.set_policy(selector, marks, PolicyFlags::empty())?;
            self.shared.lock().marked.insert((selector.pid, selector.queue));
        }
        Ok(())
    }

    fn unmark(&self, marked: impl IntoIterator<Item = (Pid, Option<u32>)>) {
        // Laziness may be on for a window, too.
        let marks = self.shared.lock().rules.marks | PolicyFlags::LAZY_ACTIVATION;
        for (pid, queue) in marked {
            let selector = Selector { queue, ..Selector::process(pid) };
            if let Err(error) = self.shared.driver.set_policy(selector, PolicyFlags::empty(), marks) {
                tracing::debug!(%error, "a mark ends with the lease instead");
            }
        }
    }

    /// The process group where the host shows it, else the process.
    fn job(&self, pid: Pid) -> u32 {
        let stat = self.shared.host.read_text(&format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(2).and_then(|group| group.parse().ok()).unwrap_or(pid)
    }

    /// Forgets a queue, online or offline; a held one is given back first.
    ///
    /// # Errors
    /// ENOENT where it is not registered; else what the driver says.
    pub fn unregister(&self, queue: QueueId) -> Result<()> {
        const WHAT: &str = "unregistering a queue";
        self.shared.check_process(WHAT)?;
        self.shared.agree_on_online();
        self.shared.declare_online(queue, false);
        let known = {
            let mut state = self.shared.lock();
            state.online.remove(&queue).is_some() || state.is_offline(queue)
        };
        if !known {
            return Err(Error::new(WHAT, Errno::ENOENT).on(queue).because("it is not registered"));
        }
        let error = self.give_back(&|id| id == queue);
        self.shared.lock().remove(queue, self.shared.host.now());
        let marked = self.shared.lock().marked.take(&(queue.pid, Some(queue.id)));
        self.unmark(marked);
        error.map_or(Ok(()), Err)
    }

    /// Forgets a process and all its queues; held ones are given back first.
    ///
    /// # Errors
    /// ESRCH where it is not registered; else what the driver says.
    pub fn unregister_process(&self, pid: Pid) -> Result<()> {
        const WHAT: &str = "unregistering a process";
        self.shared.check_process(WHAT)?;
        if !self.shared.lock().processes.contains_key(&pid) {
            return Err(Error::new(WHAT, Errno::ESRCH).on(format_args!("pid {pid}")).because("it is not registered"));
        }
        let error = self.give_back(&|id| id.pid == pid);
        let marked: BTreeSet<_> = {
            let mut state = self.shared.lock();
            state.remove_process(pid, self.shared.host.now());
            let (of_process, rest) = std::mem::take(&mut state.marked).into_iter().partition(|mark| mark.0 == pid);
            state.marked = rest;
            of_process
        };
        self.unmark(marked);
        error.map_or(Ok(()), Err)
    }

    /// An online request on every domain. Returns once the offline queues are where the policy wants them; an error
    /// of the driver does not stop the request and is in [`OnlineGuard::entered`].
    pub fn online(&self) -> OnlineGuard {
        self.online_on(&[])
    }

    /// An online request on the domains of some nodes; none = all. With [`Scope::Machine`] there is one domain.
    pub fn online_on(&self, gpus: &[GpuId]) -> OnlineGuard {
        let scope = self.shared.scope;
        let keys: BTreeSet<GpuId> = gpus.iter().map(|gpu| scope.domain_of(*gpu)).collect();
        let everywhere = keys.contains(&GpuId::ALL);
        OnlineGuard::enter(self.shared.clone(), if everywhere { Vec::new() } else { keys.into_iter().collect() })
    }

    /// Does what is due now: events, policy wake-ups, heartbeats of held queues.
    pub fn tick(&self) -> Step {
        if self.shared.forked() { Step::default() } else { self.shared.tick() }
    }

    /// When [`Scheduler::tick`] is due at the latest (machine time); None: not before something happens.
    pub fn next_wakeup(&self) -> Option<Duration> {
        if self.shared.forked() { None } else { self.shared.lock().next_wakeup(self.shared.host.now()) }
    }

    /// The offline queues as the policy would see them now, in order of their ids. Queues of nodes that are left alone
    /// are not among them.
    pub fn offline(&self) -> Vec<OfflineQueue> {
        if self.shared.forked() {
            return Vec::new();
        }
        let state = self.shared.lock();
        let mut queues: Vec<_> = state.domains.values().flat_map(|domain| domain.offline()).copied().collect();
        queues.sort_unstable_by_key(|queue| queue.id);
        queues
    }

    /// The queues that are registered as online.
    pub fn online_queues(&self) -> Vec<QueueId> {
        if self.shared.forked() {
            return Vec::new();
        }
        self.shared.lock().online.keys().copied().collect()
    }

    /// First error since the last call, of any thread (the background thread's too).
    pub fn take_error(&self) -> Option<Error> {
        if self.shared.forked() {
            return None;
        }
        self.shared.lock().first_error.take()
    }

    /// Nodes that are left alone after ETIME or EIO, until [`Scheduler::readmit`].
    pub fn tripped(&self) -> Vec<GpuId> {
        if self.shared.forked() {
            return Vec::new();
        }
        self.shared.lock().tripped.iter().copied().collect()
    }

    /// Says that a node may be touched again, and brings its queues where they belong.
    pub fn readmit(&self, gpu: GpuId) -> Step {
        if self.shared.forked() {
            return Step::default();
        }
        let key = {
            let now = self.shared.host.now();
            let mut state = self.shared.lock();
            state.readmit(gpu, now);
            state.key(gpu)
        };
        self.shared.rescan();
        self.shared.step(&[key], |_, _| {})
    }

    /// The policy.
    pub fn policy(&self) -> &dyn Policy {
        self.shared.policy.as_ref()
    }

    /// The latencies so far.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.shared.stats
    }

    /// Gives back held queues whatever the policy says; returns the first error.
    fn give_back(&self, which: &dyn Fn(QueueId) -> bool) -> Option<Error> {
        let step = self.shared.carry_out(&[], |state, _, cleaned| {
            let held: Vec<QueueId> = state.held().filter(|id| which(*id)).collect();
            state.give_back(held.into_iter(), cleaned)
        });
        step.error
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.ticker = None;
        if self.shared.forked() {
            return;
        }
        // A guard that outlives the scheduler does nothing any more.
        self.shared.lock().closed = true;
        if let Some(error) = self.give_back(&|_| true) {
            tracing::warn!(%error, "queues come back through the driver's watchdog instead");
        }
        let marked = std::mem::take(&mut self.shared.lock().marked);
        self.unmark(marked);
        if self.shared.policy.setup().reservation.is_some()
            && let Err(error) = self.shared.driver.set_reservation(GpuId::ALL, 0, 0)
        {
            tracing::warn!(%error, "the reservation ends with the lease instead");
        }
    }
}
