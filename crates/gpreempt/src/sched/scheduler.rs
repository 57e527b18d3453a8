//! The scheduler: books, policy and driver brought together.

use std::sync::Arc;
use std::time::Duration;

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::{GpuId, Pid, QueueId};
use crate::sched::OnlineGuard;
use crate::sched::policy::{OfflineQueue, Policy};
use crate::session::Session;
use crate::stats::Stats;
use crate::trace::Recorder;

/// What an online request claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All nodes: one domain.
    #[default]
    Machine,
    /// The nodes it names: one domain per node.
    Gpu,
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

/// Configures a [`Scheduler`].
#[derive(Debug)]
pub struct SchedulerBuilder {}

#[expect(unused_variables, reason = "signatures first")]
impl SchedulerBuilder {
    /// Decides; default `unmap`. See [`crate::sched::policy::named`].
    #[must_use]
    pub fn policy(self, policy: Box<dyn Policy>) -> SchedulerBuilder {
        todo!()
    }

    /// How long waves may finish by themselves before CWSR saves them; default zero, the driver's default.
    #[must_use]
    pub fn grace(self, grace: Duration) -> SchedulerBuilder {
        todo!()
    }

    /// What an online request claims; default [`Scope::Machine`].
    #[must_use]
    pub fn scope(self, scope: Scope) -> SchedulerBuilder {
        todo!()
    }

    /// Queues of one job (process group) move together, whatever node they are on. A collective kernel spins until all
    /// its ranks run, so taking only some of them wastes the others' time.
    #[must_use]
    pub fn gang(self, gang: bool) -> SchedulerBuilder {
        todo!()
    }

    /// Where latencies are counted; default: the scheduler's own.
    #[must_use]
    pub fn stats(self, stats: Arc<Stats>) -> SchedulerBuilder {
        todo!()
    }

    /// Where the timeline goes; default: nowhere.
    #[must_use]
    pub fn recorder(self, recorder: Arc<dyn Recorder>) -> SchedulerBuilder {
        todo!()
    }

    /// A scheduler without a thread of its own: the caller calls [`Scheduler::tick`] no later than
    /// [`Scheduler::next_wakeup`] says. Deterministic on a virtual clock.
    ///
    /// # Errors
    /// What the driver says of the policy's reservation.
    pub fn build(self) -> Result<Scheduler> {
        todo!()
    }

    /// A scheduler with a background thread (`gpreempt-scheduler`) that ticks.
    ///
    /// # Errors
    /// As [`SchedulerBuilder::build`]; EAGAIN where no thread can be had.
    pub fn start(self) -> Result<Scheduler> {
        todo!()
    }
}

/// Brings offline queues off the hardware while online work is in flight, as its policy decides. All methods may be
/// called from any thread. Dropping it restores everything.
#[derive(Debug)]
pub struct Scheduler {}

#[expect(unused_variables, reason = "signatures first")]
impl Scheduler {
    /// Configures a scheduler on a host and driver.
    pub fn builder(host: Arc<dyn Host>, driver: Arc<dyn Driver>) -> SchedulerBuilder {
        todo!()
    }

    /// Configures a scheduler on a session's host and driver.
    pub fn on(session: &Session) -> SchedulerBuilder {
        Scheduler::builder(session.host().clone(), session.driver().clone())
    }

    /// Declares a queue online: no decision and no selector of this scheduler will ever name it.
    ///
    /// # Errors
    /// EINVAL where it is registered as offline.
    pub fn register_online(&self, queue: QueueId) -> Result<()> {
        todo!()
    }

    /// Puts a queue into the offline class. `gpu`: its node, or [`GpuId::ALL`] to ask the driver.
    ///
    /// # Errors
    /// EINVAL where it is registered as online; else what the driver says: ENOENT, ESRCH, EPERM, EBUSY; EOPNOTSUPP where
    /// the scope is [`Scope::Gpu`] and the driver cannot tell the node.
    pub fn register_offline(&self, queue: QueueId, gpu: GpuId) -> Result<()> {
        todo!()
    }

    /// Puts all queues of a process, present and future, into the offline class; returns how many it has now.
    ///
    /// # Errors
    /// As [`Scheduler::register_offline`].
    pub fn register_offline_process(&self, pid: Pid) -> Result<u32> {
        todo!()
    }

    /// Forgets a queue, online or offline; a held one is given back first.
    ///
    /// # Errors
    /// ENOENT where it is not registered; else what the driver says.
    pub fn unregister(&self, queue: QueueId) -> Result<()> {
        todo!()
    }

    /// Forgets a process and all its queues; held ones are given back first.
    ///
    /// # Errors
    /// ESRCH where it is not registered; else what the driver says.
    pub fn unregister_process(&self, pid: Pid) -> Result<()> {
        todo!()
    }

    /// An online request on every domain. Returns once the offline queues are where the policy wants them; an error
    /// of the driver does not stop the request and is in [`OnlineGuard::entered`].
    pub fn online(&self) -> OnlineGuard {
        self.online_on(&[])
    }

    /// An online request on the domains of some nodes; none = all. With [`Scope::Machine`] there is one domain.
    pub fn online_on(&self, gpus: &[GpuId]) -> OnlineGuard {
        todo!()
    }

    /// Does what is due now: events, policy wake-ups, heartbeats of held queues.
    pub fn tick(&self) -> Step {
        todo!()
    }

    /// When [`Scheduler::tick`] is due at the latest (machine time); None: not before something happens.
    pub fn next_wakeup(&self) -> Option<Duration> {
        todo!()
    }

    /// The offline queues as the policy would see them now, in order of their ids.
    pub fn offline(&self) -> Vec<OfflineQueue> {
        todo!()
    }

    /// The queues that are registered as online.
    pub fn online_queues(&self) -> Vec<QueueId> {
        todo!()
    }

    /// First error since the last call, of any thread (the background thread's too).
    pub fn take_error(&self) -> Option<Error> {
        todo!()
    }

    /// Nodes that are left alone after ETIME or EIO, until [`Scheduler::readmit`].
    pub fn tripped(&self) -> Vec<GpuId> {
        todo!()
    }

    /// Says that a node may be touched again, and brings its queues where they belong.
    pub fn readmit(&self, gpu: GpuId) -> Step {
        todo!()
    }

    /// The policy.
    pub fn policy(&self) -> &dyn Policy {
        todo!()
    }

    /// The latencies so far.
    pub fn stats(&self) -> &Arc<Stats> {
        todo!()
    }
}
