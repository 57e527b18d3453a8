//! Several tiers on one machine: each process is reached by the first that is really there for it.
//!
//! A process is bound to a rung of the ladder when it is attached, and stays there until it is gone. What a kernel does not
//! keep is kept here: on rungs without policies the mark PREEMPTIBLE, so that a queue of another process is unmapped only
//! where somebody said that it may be; on machines without node status the count of slots.

mod batch;
mod binding;
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use self::batch::Way;
use self::binding::Bindings;
use super::{Batch, Capabilities, Driver, Event, Outcome, QueueStatus, Selector, Tier, Want};
use crate::discover::proc;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::queue::{GpuId, HqdStatus, Pid, PolicyFlags, QueueState, Reservation};

const ATTACHING: &str = "attaching a process";

/// The tiers of one machine.
#[derive(Debug)]
pub struct TieredDriver {
    host: Arc<dyn Host>,
    /// Best first.
    rungs: Vec<Arc<dyn Driver>>,
    /// Tiers that are not there at all, and why.
    absent: Vec<(Tier, Error)>,
    own_pid: Pid,
    bindings: Bindings,
    said_debugged: AtomicBool,
}

impl TieredDriver {
    /// `rungs`: best first, one at least. `absent`: tiers that are not there, and why.
    ///
    /// # Errors
    /// EOPNOTSUPP where there is no rung; says why each tier is absent.
    pub fn new(host: Arc<dyn Host>, rungs: Vec<Arc<dyn Driver>>, absent: Vec<(Tier, Error)>) -> Result<TieredDriver> {
        if rungs.is_empty() {
            return Err(none_of("opening this machine", absent));
        }
        let own_pid = host.identity().pid;
        Ok(TieredDriver {
            host,
            rungs,
            absent,
            own_pid,
            bindings: Bindings::default(),
            said_debugged: AtomicBool::new(false),
        })
    }

    /// Binds a process to the first rung that reaches it; returns the rung and how many queues it has.
    fn bind(&self, pid: Pid) -> Result<(usize, u32)> {
        self.bind_with(pid, |rung| rung.attach(pid))
    }

    fn bind_with(&self, pid: Pid, attach: impl Fn(&dyn Driver) -> Result<u32>) -> Result<(usize, u32)> {
        // A process stays with the tier that holds its queues.
        let known = self.bindings.rung(pid);
        let order = known.into_iter().chain((0..self.rungs.len()).filter(|&at| Some(at) != known));
        let mut refused = Vec::new();
        for at in order {
            let rung = &self.rungs[at];
            match attach(rung.as_ref()) {
                Ok(queues) => {
                    if known.is_none() && rung.tier() == Tier::Debugger {
                        self.say_debugged(pid);
                    }
                    self.bindings.bind(pid, at, rung.started(pid));
                    return Ok((at, queues));
                }
                Err(error) if matches!(error.kind(), ErrorKind::ProcessGone | ErrorKind::BadHandle) => {
                    self.bindings.remove(pid);
                    return Err(error);
                }
                Err(error) => refused.push((rung.tier(), error)),
            }
        }
        match (refused.len(), self.absent.is_empty()) {
            (1, true) => Err(refused.remove(0).1),
            _ => {
                refused.extend(self.absent.iter().cloned());
                refused.sort_by_key(|(tier, _)| *tier);
                Err(none_of(ATTACHING, refused).on(format_args!("pid {pid}")))
            }
        }
    }

    /// What being debugged takes from a process, once: it has no say in it. Nobody is there to lose anything where the
    /// machine is simulated.
    fn say_debugged(&self, pid: Pid) {
        if self.host.cost_model().is_none() && !self.said_debugged.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                pid,
                "reached by the KFD debugger: it keeps ROCgdb and rocprof out of the process, and if this program hangs, \
                 queues that it stopped stay stopped until it is killed; `gpreempt offline` has neither limit"
            );
        }
    }

    fn rung(&self, pid: Pid) -> Result<&dyn Driver> {
        let at = match self.bindings.rung(pid) {
            Some(at) => at,
            None => self.bind(pid)?.0,
        };
        Ok(self.rungs[at].as_ref())
    }

    fn with(&self, wanted: Capabilities) -> Option<&dyn Driver> {
        self.rungs.iter().find(|rung| rung.capabilities().contains(wanted)).map(AsRef::as_ref)
    }

    /// Queues of the processes that are attached, as far as they answer.
    fn known_queues(&self) -> Vec<QueueStatus> {
        let mut known = Vec::new();
        for (at, rung) in self.rungs.iter().enumerate() {
            for (pid, _) in self.bindings.of_rung(at) {
                let selector = Selector::process(pid);
                known.extend(rung.queue_status(selector, Want::default()).unwrap_or_default());
            }
        }
        known.iter_mut().for_each(|status| self.add_marks(status));
        // The queues of a job are told by each of its processes that is a target, too.
        known.sort_unstable_by_key(|status| status.queue);
        known.dedup_by_key(|status| status.queue);
        known
    }

    /// What is asked about one process may be told of others: those of its job.
    fn note_jobs(&self, asked: Pid, statuses: &[QueueStatus]) {
        let Some(rung) = self.bindings.rung(asked) else { return };
        let mut last = asked;
        for pid in statuses.iter().map(|status| status.queue.pid).filter(|&pid| pid != asked) {
            if pid != last {
                self.bindings.join(pid, asked, rung, proc::started(self.host.as_ref(), pid));
                last = pid;
            }
        }
    }

    fn add_marks(&self, status: &mut QueueStatus) {
        let policy = self.bindings.policy(status.queue);
        if !policy.is_empty() {
            status.policy |= policy;
            status.state |= QueueState::PREEMPTIBLE;
        }
    }
}

/// Why no tier will do: all reasons, the most telling errno, and the remedy of the best tier that one user alone can have.
fn none_of(operation: &'static str, refused: Vec<(Tier, Error)>) -> Error {
    let weight = |errno: Errno| match errno {
        Errno::EBUSY => 3,
        Errno::EPERM => 2,
        Errno::ENODEV => 1,
        _ => 0,
    };
    let errno = refused.iter().map(|(_, error)| error.errno()).max_by_key(|&errno| weight(errno));
    let reasons: Vec<String> = refused.iter().map(|(tier, error)| format!("{tier}: {}", error.words())).collect();
    let by_ease = [Tier::Agent, Tier::Debugger, Tier::Patched];
    let remedy = by_ease.iter().find_map(|wanted| {
        let (_, error) = refused.iter().find(|(tier, _)| tier == wanted)?;
        error.remedy_words().map(str::to_owned)
    });
    let error = Error::new(operation, errno.unwrap_or(Errno::EOPNOTSUPP)).because(reasons.join("; "));
    error.remedy(remedy.unwrap_or_else(|| "`gpreempt doctor` says what each tier needs".to_owned()))
}

/// A batch that failed as a whole, as part of a greater one.
fn failed(selectors: &[Selector], errno: Errno) -> Batch {
    let outcome = |&selector| Outcome { selector, errno: Some(errno), queues: 0, state: QueueState::empty() };
    Batch { outcomes: selectors.iter().map(outcome).collect(), ..Batch::default() }
}

fn unsupported<T>(operation: &'static str, detail: &'static str) -> Result<T> {
    Err(Error::new(operation, Errno::EOPNOTSUPP)
        .because(detail)
        .remedy("use a kernel with the series in kernel-patch/ (tier patched)"))
}

impl Driver for TieredDriver {
    /// The best one.
    fn tier(&self) -> Tier {
        self.rungs[0].tier()
    }

    fn tiers(&self) -> Vec<Tier> {
        self.rungs.iter().map(|rung| rung.tier()).collect()
    }

    fn tier_of(&self, pid: Pid) -> Option<Tier> {
        self.bindings.rung(pid).map(|at| self.rungs[at].tier())
    }

    /// What one of the tiers can do, and what is done here for those that cannot.
    fn capabilities(&self) -> Capabilities {
        let here = Capabilities::POLICY | Capabilities::SLOTS;
        self.rungs.iter().fold(here, |all, rung| all | rung.capabilities())
    }

    fn capabilities_of(&self, pid: Pid) -> Capabilities {
        let here = Capabilities::POLICY | Capabilities::SLOTS;
        self.bindings.rung(pid).map_or_else(|| self.capabilities(), |at| self.rungs[at].capabilities() | here)
    }

    /// The shortest: a heartbeat that is often enough for one tier is for all.
    fn max_hold(&self) -> Option<Duration> {
        self.rungs.iter().filter_map(|rung| rung.max_hold()).min()
    }

    fn max_batch(&self) -> usize {
        self.rungs.iter().map(|rung| rung.max_batch()).min().unwrap_or(usize::MAX)
    }

    /// By the first tier that reaches the process.
    fn attach(&self, pid: Pid) -> Result<u32> {
        self.bind(pid).map(|(_, queues)| queues)
    }

    fn glance(&self, pid: Pid) -> Result<u32> {
        self.bind_with(pid, |rung| rung.glance(pid)).map(|(_, queues)| queues)
    }

    fn started(&self, pid: Pid) -> Option<Duration> {
        // One name for a queue, whether its process was attached when it was found or later.
        self.bindings.get(pid).map_or_else(|| proc::started(self.host.as_ref(), pid), |binding| binding.started)
    }

    fn detach(&self, pid: Pid) -> Result<()> {
        match self.bindings.remove(pid) {
            Some(binding) => self.rungs[binding.rung].detach(pid),
            None => Err(Error::of_driver("detaching a process", Errno::ESRCH).on(format_args!("pid {pid}"))),
        }
    }

    /// One call per tier, best first. A tier that fails as a whole fails for its own processes alone.
    fn unmap(&self, selectors: &[Selector], grace: Duration) -> Result<Batch> {
        self.batch(selectors, Way::Unmap(grace))
    }

    fn remap(&self, selectors: &[Selector]) -> Result<Batch> {
        self.batch(selectors, Way::Remap)
    }

    /// In one round where one tier reaches all; else unmaps first, which is what somebody waits for.
    fn swap(&self, unmap: &[Selector], remap: &[Selector], grace: Duration) -> Result<Batch> {
        let rungs: Vec<Option<usize>> =
            unmap.iter().chain(remap).map(|selector| self.bindings.rung(selector.pid)).collect();
        if let Some(&Some(at)) = rungs.first()
            && rungs.iter().all(|other| *other == Some(at))
            && self.rungs[at].capabilities().contains(Capabilities::SWAP | Capabilities::POLICY)
        {
            return self.rungs[at].swap(unmap, remap, grace);
        }
        if self.with(Capabilities::SWAP).is_none() {
            return unsupported("swapping queues", "no tier of this machine does both in one call");
        }
        let mut batch = if unmap.is_empty() { Batch::default() } else { self.unmap(unmap, grace)? };
        if !remap.is_empty() {
            let gone = |error: Error| failed(remap, error.errno());
            let back = self.remap(remap).unwrap_or_else(gone);
            batch.outcomes.extend(back.outcomes);
            batch.nodes = batch.nodes.max(back.nodes);
            batch.rounds += back.rounds;
            batch.elapsed += back.elapsed;
            batch.slowest_node = batch.slowest_node.max(back.slowest_node);
        }
        Ok(batch)
    }

    fn set_policy(&self, selector: Selector, set: PolicyFlags, clear: PolicyFlags) -> Result<PolicyFlags> {
        const OPERATION: &str = "setting a queue policy";
        let rung = self.rung(selector.pid)?;
        if rung.capabilities().contains(Capabilities::POLICY) {
            return rung.set_policy(selector, set, clear);
        }
        let lazy = PolicyFlags::LAZY_ACTIVATION;
        if selector.queue.is_none()
            && rung.capabilities().contains(Capabilities::HOLD_NEW)
            && (set | clear).contains(lazy)
        {
            let held = rung.set_policy(selector, set & lazy, clear & lazy)?;
            return Ok(held | self.set_policy(selector, set - lazy, clear - lazy)?);
        }
        if set.intersects(PolicyFlags::LAZY_ACTIVATION | PolicyFlags::AUTO_DEACTIVATION) {
            return unsupported(OPERATION, "on this tier nobody sees a queue become idle or busy")
                .map_err(|error: Error| error.on(selector));
        }
        // So that what is not there is not marked.
        let queues = rung.queue_status(Selector { queue: None, ..selector }, Want::default())?;
        self.note_jobs(selector.pid, &queues);
        if let Some(id) = selector.queue
            && !queues.iter().any(|status| status.queue.id == id)
        {
            return Err(Error::of_driver(OPERATION, Errno::ENOENT).on(selector));
        }
        Ok(self.bindings.mark(&selector, set, clear, queues.iter().map(|status| status.queue.id)))
    }

    fn set_reservation(&self, gpu: GpuId, online_percent: u32, offline_percent: u32) -> Result<Reservation> {
        match self.with(Capabilities::RESERVATION) {
            Some(rung) => rung.set_reservation(gpu, online_percent, offline_percent),
            None => unsupported("reserving queue slots", "a stock kernel maps every queue that there is"),
        }
    }

    fn node_status(&self, gpu: GpuId) -> Result<HqdStatus> {
        match self.with(Capabilities::SLOTS) {
            Some(rung) => rung.node_status(gpu),
            None => slots::node_status(self.host.as_ref(), gpu, &self.known_queues()),
        }
    }

    fn queue_status(&self, selector: Selector, want: Want) -> Result<Vec<QueueStatus>> {
        // Who asks about a queue wants to know; who looks through processes must not disturb them.
        if selector.queue.is_none() && selector.pid != self.own_pid && self.bindings.rung(selector.pid).is_none() {
            self.glance(selector.pid)?;
        }
        let mut statuses = self.rung(selector.pid)?.queue_status(selector, want)?;
        self.note_jobs(selector.pid, &statuses);
        statuses.iter_mut().for_each(|status| self.add_marks(status));
        Ok(statuses)
    }

    fn events(&self) -> Result<Vec<Event>> {
        let mut rungs = self.rungs.iter().filter(|rung| rung.capabilities().contains(Capabilities::EVENTS)).peekable();
        if rungs.peek().is_none() {
            return unsupported("reading events", "no tier of this machine reports any");
        }
        let mut events = Vec::new();
        for rung in rungs {
            events.extend(rung.events()?);
        }
        events.sort_by_key(|event| event.time);
        Ok(events)
    }

    fn abandon(&self) {
        self.rungs.iter().for_each(|rung| rung.abandon());
    }
}
