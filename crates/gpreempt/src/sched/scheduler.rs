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
use crate::sched::shared::{Done, Shared};
use crate::sched::state::State;
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
/// that node is left alone until [`Scheduler::readmit`], or for a second after its reset, while everything else goes on.
/// Its queues come back through the driver's watchdog or, where there is none, once they can be mapped again.
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
    /// driver holds it, the online window that is open maps it now, else the next one, in the round that takes the
    /// offline queues.
    ///
    /// # Errors
    /// EINVAL where it is registered as offline; else what the driver says of mapping it.
    pub fn register_online(&self, queue: QueueId) -> Result<()> {
        const WHAT: &str = "registering an online queue";
        self.shared.check_process(WHAT)?;
        // Claimed, so that no call holds it between reading and noting its state.
        let claim = self.shared.claim_domains(&[]);
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
        drop(claim);
        self.shared.declare_online(queue, true);
        // New queues of a process that is being held are born held.
        if held { self.shared.step(&[], |_, _| {}).result_of(queue.pid, Some(queue.id)) } else { Ok(()) }
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
        self.shared.mark(Selector::queue(queue))?;
        let status = self.shared.status_of(Selector::queue(queue)).pop();
        let gpu = status.as_ref().map_or(gpu, |status| status.gpu);
        if gpu == GpuId::ALL && self.shared.scope == Scope::Gpu {
            return Err(Error::new(WHAT, Errno::EOPNOTSUPP)
                .on(queue)
                .because("the driver cannot tell its node")
                .remedy("name the node"));
        }
        let (job, started) = (self.job(queue.pid), driver.started(queue.pid));
        let key = self.shared.lock().key(gpu);
        let done = self.shared.step(&[key], |state, now| {
            state.process(queue.pid, started, job, now);
            state.excluded.remove(&queue);
            match &status {
                Some(status) => state.insert_status(status, now),
                None => state.insert(queue, gpu, false, now),
            }
        });
        done.result_of(queue.pid, Some(queue.id))
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
        let (job, started) = (self.job(pid), self.shared.driver.started(pid));
        let mixed = {
            let mut state = self.shared.lock();
            state.process(pid, started, job, self.shared.host.now()).whole = true;
            state.excluded.retain(|queue| queue.pid != pid);
            !state.is_whole(pid)
        };
        if !mixed {
            self.shared.mark(Selector::process(pid))?;
        }
        let statuses = self.shared.status_of(Selector::process(pid));
        for status in &statuses {
            if mixed && !self.shared.lock().online.contains_key(&status.queue) {
                self.shared.mark(Selector::queue(status.queue))?;
            }
        }
        let done = self.shared.step(&[], |state, now| {
            for status in &statuses {
                state.insert_status(status, now);
            }
        });
        let queues = self.shared.lock().queues_of(pid).len();
        done.result_of(pid, None)?;
        Ok(u32::try_from(queues).unwrap_or(u32::MAX))
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

    /// Forgets a queue, online or offline; a held one is given back first. One of a process that was registered as a
    /// whole stays out of it until it, or the process, is registered again.
    ///
    /// # Errors
    /// ENOENT where it is not registered; else what the driver says.
    pub fn unregister(&self, queue: QueueId) -> Result<()> {
        const WHAT: &str = "unregistering a queue";
        self.shared.check_process(WHAT)?;
        self.shared.agree_on_online();
        let known = |state: &State| state.online.contains_key(&queue) || state.is_offline(queue);
        if !known(&self.shared.lock()) {
            return Err(Error::new(WHAT, Errno::ENOENT).on(queue).because("it is not registered"));
        }
        let now = self.shared.host.now();
        let mut whole = false;
        let done = self.give_back(
            |id| id == queue,
            |state| {
                whole = state.processes.get(&queue.pid).is_some_and(|process| process.whole);
                state.gone(&[queue], now);
                if whole {
                    state.excluded.insert(queue);
                }
            },
        );
        self.shared.declare_online(queue, false);
        let name = (queue.pid, Some(queue.id));
        if self.shared.lock().marked.remove(&name) || (whole && self.shared.capabilities.contains(Capabilities::POLICY))
        {
            self.unmark([name]);
        }
        done.result_of(queue.pid, Some(queue.id))
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
        let done = self.give_back(|id| id.pid == pid, |state| state.remove_process(pid, self.shared.host.now()));
        let marked: BTreeSet<_> = {
            let mut state = self.shared.lock();
            let (of_process, rest) = std::mem::take(&mut state.marked).into_iter().partition(|mark| mark.0 == pid);
            state.marked = rest;
            of_process
        };
        self.unmark(marked);
        done.result_of(pid, None)
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

    /// Nodes that are left alone after ETIME or EIO, until [`Scheduler::readmit`] or their reset. [`GpuId::ALL`] stands for queues whose
    /// node the driver cannot tell: of those only the ones that failed are left alone.
    pub fn tripped(&self) -> Vec<GpuId> {
        if self.shared.forked() {
            return Vec::new();
        }
        self.shared.lock().left_alone().into_iter().collect()
    }

    /// Says that a node may be touched again ([`GpuId::ALL`]: everything), and brings its queues where they belong.
    pub fn readmit(&self, gpu: GpuId) -> Step {
        if self.shared.forked() {
            return Step::default();
        }
        let now = self.shared.host.now();
        self.shared.lock().readmit(gpu, now);
        self.shared.rescan();
        let key = self.shared.scope.domain_of(gpu);
        let keys = if gpu == GpuId::ALL { &[][..] } else { &[key][..] };
        self.shared.step(keys, |_, _| {}).step
    }

    /// The policy.
    pub fn policy(&self) -> &dyn Policy {
        self.shared.policy.as_ref()
    }

    /// The latencies so far.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.shared.stats
    }

    /// Gives back held queues whatever the policy says, and notes a change with it.
    fn give_back(&self, which: impl Fn(QueueId) -> bool, after: impl FnOnce(&mut State)) -> Done {
        self.shared.carry_out(&[], |state, _, cleaned| state.give_back(which, cleaned), after)
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
        if let Some(error) = self.give_back(|_| true, |_| {}).step.error {
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
