//! One look of the monitor: read, decide, act.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::discover::{Discovery, sysfs};
use crate::driver::{Batch, Capabilities, Driver, Outcome, QueueStatus, Selector, Want};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::monitor::claims::Claims;
use crate::monitor::idle::{Candidate, Idle, Look, Plan, Rule};
use crate::monitor::watch::{Alert, NodeStatus, Watch};
use crate::queue::{GpuId, HqdStatus, Pid, QueueId, QueueState};

/// What one tick of the monitor saw and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonitorReport {
    /// Machine time at which the look was due.
    pub at: Duration,
    /// Every node that answered.
    pub nodes: Vec<NodeStatus>,
    /// Their sum.
    pub total: HqdStatus,
    /// Crossings since the last tick.
    pub alerts: Vec<Alert>,
    /// Idle offline queues unmapped since the last tick.
    pub cleaned: Vec<QueueId>,
    /// Queues mapped since the last tick because they got work.
    pub restored: Vec<QueueId>,
    /// What went wrong since the last tick; the monitor goes on.
    pub errors: Vec<Error>,
}

/// A queue that an unmap names.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// To be unmapped.
    Fresh(Candidate),
    /// Unmapped before; named again so that its hold goes on.
    Renewed(QueueId),
}

impl Leaving {
    fn queue(&self) -> QueueId {
        match *self {
            Leaving::Fresh(candidate) => candidate.queue,
            Leaving::Renewed(queue) => queue,
        }
    }
}

/// Everything that the monitor's thread works with.
pub(super) struct Engine {
    pub(super) host: Arc<dyn Host>,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) claims: Arc<Claims>,
    /// Names this monitor in the claims.
    id: u64,
    pub(super) rule: Rule,
    pub(super) watch: Watch,
    idle: Idle,
    gpus: Vec<GpuId>,
    generation: Option<u32>,
    /// Collects until the next tick takes it.
    pending: MonitorReport,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("rule", &self.rule).field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn new(
        host: Arc<dyn Host>,
        driver: Arc<dyn Driver>,
        claims: Arc<Claims>,
        rule: Rule,
        watch: Watch,
    ) -> Engine {
        let id = claims.lock().next_id();
        let (idle, pending) = (Idle::default(), MonitorReport::default());
        Engine { host, driver, claims, id, rule, watch, idle, gpus: Vec::new(), generation: None, pending }
    }

    /// Whether there are holds to renew.
    pub(super) fn holds(&self) -> bool {
        self.idle.held().next().is_some()
    }

    /// Looks once. What it did goes into the next report. Idle times count from the time a look was due, so that two
    /// looks are one interval apart however late each of them came.
    pub(super) fn look(&mut self, due: Duration) {
        self.pending.at = due;
        if let Err(error) = self.read_nodes() {
            self.report_error(error);
        }
        let alerts = self.watch.observe(&self.pending.nodes);
        for alert in &alerts {
            tracing::info!(gpu = alert.gpu.0, free = alert.free, total = alert.total, "HQD slots: {:?}", alert.kind);
        }
        self.pending.alerts.extend(alerts);
        if (self.rule.clean || self.rule.lazy)
            && let Err(error) = self.tend_queues()
        {
            self.report_error(error);
        }
    }

    /// What was seen and done since the last call.
    pub(super) fn take_report(&mut self) -> MonitorReport {
        std::mem::take(&mut self.pending)
    }

    fn read_nodes(&mut self) -> Result<()> {
        let generation = sysfs::generation(&*self.host).ok();
        if self.gpus.is_empty() || generation != self.generation {
            self.gpus = Discovery::new(&*self.host).nodes()?.into_iter().map(|node| node.gpu).collect();
            self.generation = generation;
        }
        self.pending.nodes.clear();
        for &gpu in &self.gpus {
            match self.driver.node_status(gpu) {
                Ok(status) => self.pending.nodes.push(NodeStatus { gpu, status }),
                Err(error) => {
                    tracing::warn!("{error}");
                    self.pending.errors.push(error);
                }
            }
        }
        self.pending.total = HqdStatus::default();
        self.pending.nodes.iter().for_each(|node| self.pending.total.add(&node.status));
        Ok(())
    }

    fn tend_queues(&mut self) -> Result<()> {
        let (queues, unread) = self.read_queues()?;
        let now = self.pending.at;
        let plan = {
            let claims = self.claims.lock();
            let is_low = |gpu| self.watch.is_low(gpu);
            let in_window = |queue, gpu| claims.in_window(queue, gpu);
            let look = Look { now, queues: &queues, unread: &unread, is_low: &is_low, in_window: &in_window };
            self.idle.plan(&self.rule, &look)
        };
        if plan.is_empty() {
            self.claims.lock().set_cleaned(self.id, self.idle.held().map(|(queue, _)| queue));
            return Ok(());
        }
        let plan = self.without_waves(plan);
        self.carry_out(&plan, &queues);
        Ok(())
    }

    /// Queues of all processes that this one may look at, with their pointers; and processes that would not tell.
    fn read_queues(&mut self) -> Result<(Vec<QueueStatus>, BTreeSet<Pid>)> {
        let (mut queues, mut unread) = (Vec::new(), BTreeSet::new());
        let want = Want { pointers: true, waves: false };
        for pid in Discovery::new(&*self.host).pids()? {
            match self.read_process(pid, want) {
                Ok(statuses) => queues.extend(statuses),
                // Gone, another user's, or not to be disturbed.
                Err(error)
                    if matches!(error.errno(), Errno::ESRCH | Errno::ENOENT | Errno::EPERM | Errno::EOPNOTSUPP) => {}
                Err(error) => {
                    unread.insert(pid);
                    self.report_error(error);
                }
            }
        }
        Ok((queues, unread))
    }

    fn read_process(&self, pid: Pid, want: Want) -> Result<Vec<QueueStatus>> {
        match self.driver.queue_status(Selector::process(pid), want) {
            // A driver stays with the process that had the pid when it first met it. This one is new.
            Err(error) if error.errno() == Errno::ESRCH => {
                self.driver.glance(pid)?;
                self.driver.queue_status(Selector::process(pid), want)
            }
            answer => answer,
        }
    }

    /// Leaves those to be unmapped that are idle indeed. Waves are slow to count, so only candidates are asked.
    fn without_waves(&mut self, mut plan: Plan) -> Plan {
        let want = Want { pointers: true, waves: true };
        plan.unmap.retain(|&Candidate { queue, write_pointer, .. }| {
            let status = self.driver.queue_status(Selector::queue(queue), want);
            let idle = status.is_ok_and(|statuses| {
                statuses.iter().any(|status| {
                    status.queue == queue
                        && status.pointers == Some((write_pointer, write_pointer))
                        && status.waves == Some(0)
                })
            });
            if !idle {
                self.idle.refused(queue);
            }
            idle
        });
        plan
    }

    fn carry_out(&mut self, plan: &Plan, queues: &[QueueStatus]) {
        let claims = Arc::clone(&self.claims);
        // A window that opens now waits for this batch, so that it comes after it in the driver, too.
        let mut claims = claims.lock();
        let node =
            |id: QueueId| queues.iter().find(|status| status.queue == id).map_or(GpuId::ALL, |status| status.gpu);
        let free = |id: QueueId| !claims.in_window(id, node(id));
        let renew = plan.renew.iter().copied().map(Leaving::Renewed);
        let leaving: Vec<Leaving> = plan
            .unmap
            .iter()
            .copied()
            .map(Leaving::Fresh)
            .chain(renew)
            .filter(|leaving| free(leaving.queue()))
            .collect();
        let coming: Vec<QueueId> = plan.remap.iter().copied().filter(|&queue| free(queue)).collect();
        let unmap: Vec<Selector> =
            leaving.iter().map(|leaving| Selector { if_idle: true, ..Selector::queue(leaving.queue()) }).collect();
        let remap: Vec<Selector> = coming.iter().copied().map(Selector::queue).collect();

        let most = self.driver.max_batch();
        let both = !unmap.is_empty() && !remap.is_empty() && unmap.len() + remap.len() <= most;
        if both && self.driver.capabilities().contains(Capabilities::SWAP) {
            if let Some(batch) = self.checked(self.driver.swap(&unmap, &remap, Duration::ZERO)) {
                let (left, came) = batch.outcomes.split_at(unmap.len().min(batch.outcomes.len()));
                self.book_unmapped(&leaving, left);
                self.book_mapped(&coming, came);
            }
        } else {
            for (coming, remap) in coming.chunks(most).zip(remap.chunks(most)) {
                if let Some(batch) = self.checked(self.driver.remap(remap)) {
                    self.book_mapped(coming, &batch.outcomes);
                }
            }
            for (leaving, unmap) in leaving.chunks(most).zip(unmap.chunks(most)) {
                if let Some(batch) = self.checked(self.driver.unmap(unmap, Duration::ZERO)) {
                    self.book_unmapped(leaving, &batch.outcomes);
                }
            }
        }
        claims.set_cleaned(self.id, self.idle.held().map(|(queue, _)| queue));
    }

    fn book_unmapped(&mut self, leaving: &[Leaving], outcomes: &[Outcome]) {
        let now = self.host.now();
        for (leaving, outcome) in leaving.iter().zip(outcomes) {
            match (leaving, outcome.errno) {
                (&Leaving::Renewed(queue), None) => self.idle.renewed(queue, now),
                (&Leaving::Renewed(queue), Some(errno)) => {
                    self.report_outcome("renewing the hold of an idle queue", queue, errno);
                }
                (&Leaving::Fresh(candidate), None) if outcome.state.contains(QueueState::PREEMPTED) => {
                    self.idle.unmapped(candidate, now);
                    self.pending.cleaned.push(candidate.queue);
                }
                // It got work just now.
                (Leaving::Fresh(candidate), None) => self.idle.refused(candidate.queue),
                (Leaving::Fresh(candidate), Some(errno)) => {
                    self.idle.refused(candidate.queue);
                    self.report_outcome("unmapping an idle queue", candidate.queue, errno);
                }
            }
        }
    }

    fn book_mapped(&mut self, queues: &[QueueId], outcomes: &[Outcome]) {
        for (&queue, outcome) in queues.iter().zip(outcomes) {
            match outcome.errno {
                None => {
                    self.idle.released(queue);
                    self.pending.restored.push(queue);
                }
                // Worth trying again: the node is being reset, or its scheduler did not answer.
                Some(errno @ (Errno::EIO | Errno::ETIME)) => {
                    self.report_outcome("mapping a queue with work", queue, errno)
                }
                Some(errno) => {
                    self.idle.released(queue);
                    self.report_outcome("mapping a queue with work", queue, errno);
                }
            }
        }
    }

    /// Maps everything that was unmapped here and that no online window holds now; who closes that window maps the rest.
    fn restore(&mut self) {
        let claims = Arc::clone(&self.claims);
        let mut claims = claims.lock();
        claims.end_cleaned(self.id);
        let free = self.idle.held().filter(|&(queue, gpu)| !claims.in_window(queue, gpu));
        let queues: Vec<QueueId> = free.map(|(queue, _)| queue).collect();
        let most = self.driver.max_batch();
        for queues in queues.chunks(most) {
            let selectors: Vec<Selector> = queues.iter().copied().map(Selector::queue).collect();
            if let Some(batch) = self.checked(self.driver.remap(&selectors)) {
                self.book_mapped(queues, &batch.outcomes);
            }
        }
        self.idle = Idle::default();
    }

    fn checked(&mut self, batch: Result<Batch>) -> Option<Batch> {
        batch.map_err(|error| self.report_error(error)).ok()
    }

    fn report_outcome(&mut self, operation: &'static str, queue: QueueId, errno: Errno) {
        if !matches!(errno, Errno::ESRCH | Errno::ENOENT) {
            self.report_error(Error::new(operation, errno).on(queue));
        }
    }

    fn report_error(&mut self, error: Error) {
        tracing::warn!("{error}");
        self.pending.errors.push(error);
    }
}

/// However a monitor ends: else windows would leave its queues to somebody who no longer is.
impl Drop for Engine {
    fn drop(&mut self) {
        // What made the thread panic may do so again, which while unwinding would end the program.
        if catch_unwind(AssertUnwindSafe(|| self.restore())).is_err() {
            tracing::error!("mapping what the HQD monitor held panicked; the driver's watchdog maps it");
        }
    }
}

#[cfg(test)]
mod tests;
