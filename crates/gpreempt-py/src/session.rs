//! One opened machine.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use gpreempt::driver::Want;
use gpreempt::{Backend, GpuId, PolicyFlags, SessionBuilder, UnmapFlags};
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::convert::{Number, Policy, Queue, Queues, Seconds, detached, invalid, stale, unavailable};
use crate::value::{Batch, HQDStatus, QueueInfo, QueueStatus, Reservation};

/// Something that runs on a session and ends with it.
pub(crate) trait Dependent: Send + Sync {
    /// Ends it. Called without the GIL.
    fn end(&self);
}

/// One opened machine. All methods may be called from any thread; a context manager closes it.
///
/// Wherever a queue is asked for, its number or its `QueueInfo` will do: below 1024 a number is the KFD id of a queue of
/// this process, from 0x10000 on it is the handle that discovery or `register_queue` gave to another process's queue.
///
/// None in an argument means: as the environment says, and without that the default.
///
/// Args:
///     backend: `auto` (for each process the best tier of the real machine that reaches it, or the simulated machine only
///         where there is no /dev/kfd), `patched`, `debugger` or `sim`; `GPREEMPT_BACKEND`.
///     clock: of the simulated machine: `real` or `virtual`; `GPREEMPT_SIM_CLOCK`.
///     cost_model: its cost model, a name or a file; `GPREEMPT_SIM_COST_MODEL`.
///     scenario: its scenario file; `GPREEMPT_SIM_SCENARIO`.
///     empty: no process on it at all.
///     topology: a recorded topology tree that it takes its GPUs from; `GPREEMPT_SIM_TOPOLOGY`.
///     seed: of everything random on it; `GPREEMPT_SIM_SEED`.
///
/// Raises:
///     BackendUnavailableError: there is no such machine, or it cannot be used; the text says what to do.
///     InvalidArgumentError: an argument, a variable or a file is wrong; the text says where.
#[pyclass(frozen, weakref, module = "gpreempt")]
pub(crate) struct Session {
    pid: u32,
    /// Of the simulated machine, if it is one.
    virtual_clock: bool,
    open: Mutex<Option<Open>>,
}

struct Open {
    session: Arc<gpreempt::Session>,
    dependents: Vec<Weak<dyn Dependent>>,
}

impl Session {
    /// The library's session, for one call.
    pub(crate) fn get(&self) -> PyResult<Arc<gpreempt::Session>> {
        // Before the lock: it may be held for ever by a thread that did not come along into the child.
        check_process(self.pid)?;
        match &*self.open.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(open) => Ok(Arc::clone(&open.session)),
            None => Err(unavailable("the session is closed")),
        }
    }

    /// Ends `dependent` when this session is closed, if it is still there then.
    pub(crate) fn adopt(&self, dependent: Weak<dyn Dependent>) -> PyResult<()> {
        check_process(self.pid)?;
        match &mut *self.open.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(open) => {
                open.dependents.retain(|known| known.strong_count() > 0);
                open.dependents.push(dependent);
                Ok(())
            }
            None => Err(unavailable("the session is closed")),
        }
    }

    fn end(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(open) = open {
            open.dependents.iter().filter_map(Weak::upgrade).for_each(|dependent| dependent.end());
        }
    }
}

/// The sessions of this process. Locked with the GIL held and for moments only, so that no thread holds it when Python forks.
static LIVE: Mutex<Vec<Weak<gpreempt::Session>>> = Mutex::new(Vec::new());

fn remember(session: &Arc<gpreempt::Session>) {
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    live.retain(|known| known.strong_count() > 0);
    live.push(Arc::downgrade(session));
}

/// Closes in a forked child what it inherited: held open there, it would outlive the parent and keep queues unmapped.
#[pyfunction]
pub(crate) fn _abandon_after_fork() {
    let inherited = std::mem::take(&mut *LIVE.lock().unwrap_or_else(PoisonError::into_inner));
    for session in inherited.iter().filter_map(Weak::upgrade) {
        session.abandon_after_fork();
        std::mem::forget(session);
    }
}

/// What belongs to the parent of a forked process is not touched: its locks, threads and lease stayed behind.
pub(crate) fn check_process(pid: u32) -> PyResult<()> {
    match pid == std::process::id() {
        true => Ok(()),
        false => Err(stale("this belongs to the parent of this forked process; open a session of its own")),
    }
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (backend=None, *, clock=None, cost_model=None, scenario=None, empty=false, topology=None, seed=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        backend: Option<&str>,
        clock: Option<&str>,
        cost_model: Option<String>,
        scenario: Option<PathBuf>,
        empty: bool,
        topology: Option<PathBuf>,
        seed: Option<u64>,
    ) -> PyResult<Session> {
        let mut builder = detached(py, SessionBuilder::from_env)?;
        if let Some(name) = backend {
            builder.backend = detached(py, || Backend::named(name))?;
        }
        match clock {
            None => {}
            Some("real") => builder.sim_virtual_clock = false,
            Some("virtual") => builder.sim_virtual_clock = true,
            Some(other) => return Err(invalid(format!("clock {other:?}: it may be real or virtual"))),
        }
        if empty && scenario.is_some() {
            return Err(invalid("a machine is either empty or has a scenario"));
        }
        if empty || scenario.is_some() {
            builder.sim_empty = empty;
            builder.sim_scenario = scenario;
        }
        builder.sim_cost_model = cost_model.or(builder.sim_cost_model);
        builder.sim_topology = topology.or(builder.sim_topology);
        builder.sim_seed = seed.unwrap_or(builder.sim_seed);
        let session = detached(py, || builder.open())?;
        let session = Arc::new(session);
        remember(&session);
        let open = Open { session, dependents: Vec::new() };
        Ok(Session { pid: std::process::id(), virtual_clock: builder.sim_virtual_clock, open: Mutex::new(Some(open)) })
    }

    /// Ends the session: queues that it unmapped run again, and its monitors and schedulers stop.
    ///
    /// Closing twice does nothing. In a forked child nothing happens to what the parent holds.
    fn close(&self, py: Python<'_>) {
        if check_process(self.pid).is_ok() {
            py.detach(|| self.end());
        }
    }

    /// Whether it is of no use any more: after `close`, and in a forked child.
    #[getter]
    fn closed(&self) -> bool {
        self.get().is_err()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyType>>,
        _error: Option<&Bound<'_, PyBaseException>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        match self.get() {
            Ok(session) => format!("<gpreempt.Session: {}>", session.host().describe()),
            Err(_) => String::from("<gpreempt.Session: closed>"),
        }
    }

    /// The tiers that processes can be reached by, best first; docs/tiers.md says what each can do.
    fn tiers(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let session = self.get()?;
        detached(py, || Ok(session.driver().tiers().iter().map(ToString::to_string).collect()))
    }

    /// The tier that a queue's process is reached by.
    fn tier_of(&self, py: Python<'_>, queue: Queue) -> PyResult<String> {
        let session = self.get()?;
        detached(py, || session.tier_of(queue.0).map(|tier| tier.to_string()))
    }

    /// One line that says what machine this is.
    fn describe(&self, py: Python<'_>) -> PyResult<String> {
        let session = self.get()?;
        detached(py, || Ok(session.host().describe()))
    }

    /// The cost model of a simulated machine; None where times are measured. On a `real` clock the times that a program
    /// sees also contain what this machine itself takes.
    #[getter]
    fn cost_model(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let session = self.get()?;
        detached(py, || Ok(session.host().cost_model()))
    }

    /// `real`, or `virtual` where time passes on a simulated machine only as it is modelled to.
    #[getter]
    fn clock(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(if self.virtual_clock && self.cost_model(py)?.is_some() { "virtual" } else { "real" })
    }

    /// All queues that discovery finds, ordered by owner and KFD id.
    ///
    /// Raises:
    ///     BackendUnavailableError: there is no amdkfd any more.
    fn queues(&self, py: Python<'_>) -> PyResult<Vec<QueueInfo>> {
        let session = self.get()?;
        Ok(detached(py, || session.queues())?.into_iter().map(QueueInfo::from).collect())
    }

    /// The number of a queue of another process: a handle, the same one every time; an own queue's number is its KFD id.
    ///
    /// Args:
    ///     pid: owner, in this process's pid namespace.
    ///     queue_id: KFD queue id, 0 to 1023.
    ///     gpu_id: GPU, where it matters; 0 = whichever it is on.
    ///
    /// Raises:
    ///     InvalidArgumentError: the id is over 1023.
    ///     ProcessGoneError, PermissionDenied, QueueNotFoundError: as the machine answers.
    #[pyo3(signature = (pid, queue_id, gpu_id=Number(0)))]
    fn register_queue(&self, py: Python<'_>, pid: Number, queue_id: Number, gpu_id: Number) -> PyResult<u32> {
        let session = self.get()?;
        detached(py, || session.register(pid.0, queue_id.0, GpuId(gpu_id.0)))
    }

    /// Takes queues off the hardware, all or nothing, with at most one HWS round per GPU.
    ///
    /// Their MQDs stay in memory, their work is saved. A registered queue that vanished counts as unmapped. Unmapping
    /// twice is fine; the queues run again at the latest when this process ends, or some seconds after it hangs.
    ///
    /// Args:
    ///     queues: 1 to 1024 different queues.
    ///     grace: seconds (or a timedelta) that waves may finish by themselves before their state is saved; 0 = the
    ///         driver's default.
    ///
    /// Raises:
    ///     InvalidArgumentError: no queue, too many, or one twice.
    ///     QueueNotFoundError, PermissionDenied, BusyError: nothing was changed; the text names the queue.
    ///     PreemptTimeoutError, ResettingError: the GPU is being reset.
    #[pyo3(signature = (queues, grace=Seconds(Duration::ZERO)))]
    fn unmap(&self, py: Python<'_>, queues: Queues, grace: Seconds) -> PyResult<Batch> {
        let session = self.get()?;
        detached(py, || session.unmap(&queues.0, grace.0)).map(Batch::from)
    }

    /// Puts queues back on the hardware in one batch; mapping twice is fine.
    ///
    /// Args:
    ///     queues: 1 to 1024 different queues.
    ///
    /// Raises:
    ///     GpreemptError: as `unmap`.
    fn remap(&self, py: Python<'_>, queues: Queues) -> PyResult<Batch> {
        let session = self.get()?;
        detached(py, || session.remap(&queues.0)).map(Batch::from)
    }

    /// As `unmap`, without grace.
    ///
    /// Args:
    ///     queues: 1 to 1024 different queues.
    ///     flags: `UnmapFlag`; NO_CWSR leaves queues that have work where they are, the others are always so.
    ///
    /// Raises:
    ///     InvalidArgumentError: unknown flags.
    ///     GpreemptError: as `unmap`.
    #[pyo3(signature = (queues, flags=Number(0)))]
    fn selective_unmap(&self, py: Python<'_>, queues: Queues, flags: Number) -> PyResult<Batch> {
        let session = self.get()?;
        let flags = UnmapFlags::from_bits_retain(flags.0);
        detached(py, || session.selective_unmap(&queues.0, flags)).map(Batch::from)
    }

    /// Puts one queue back on the hardware.
    ///
    /// Args:
    ///     queue: which.
    ///     slot: -1; the firmware picks the slot.
    ///
    /// Raises:
    ///     UnsupportedError: any other slot was asked for.
    ///     GpreemptError: as `remap`.
    #[pyo3(signature = (queue, slot=-1))]
    fn fast_remap(&self, py: Python<'_>, queue: Queue, slot: i32) -> PyResult<Batch> {
        let session = self.get()?;
        detached(py, || session.fast_remap(queue.0, slot)).map(Batch::from)
    }

    /// Brings a queue into a state (`QueueState`): mapped, unmapped, or in the offline class.
    ///
    /// Raises:
    ///     InvalidArgumentError: there is no such state.
    ///     GpreemptError: as `unmap`.
    fn set_queue_state(&self, py: Python<'_>, queue: Queue, state: Number) -> PyResult<()> {
        let session = self.get()?;
        detached(py, || session.set_state(queue.0, state.0))
    }

    /// Replaces the policy of a queue: flags (`QueuePolicy`) that are given are set, the others cleared.
    ///
    /// Returns:
    ///     What is in force.
    ///
    /// Raises:
    ///     InvalidArgumentError: unknown flags.
    ///     BusyError: another program set one.
    ///     QueueNotFoundError, ProcessGoneError, PermissionDenied: as the machine answers.
    fn set_policy(&self, py: Python<'_>, queue: Queue, policy: Number) -> PyResult<Policy> {
        let session = self.get()?;
        let flags = PolicyFlags::from_bits_retain(policy.0);
        detached(py, || session.set_policy(queue.0, flags)).map(Policy)
    }

    /// Keeps a share of the slots for online queues and caps those that offline queues take; the rest take turns.
    ///
    /// 0, 0 lifts the reservation, cap and all; 0 after any other `online_percent` stops all offline queues.
    ///
    /// Args:
    ///     gpu_id: GPU; 0 = all.
    ///     online_percent: 0 to 100.
    ///     offline_percent: 0 to 100, together with the other no more than 100.
    ///
    /// Raises:
    ///     InvalidArgumentError: not such percentages.
    ///     QueueNotFoundError: no such GPU.
    ///     PermissionDenied: this needs CAP_SYS_NICE.
    ///     BusyError: another program reserves.
    fn set_reservation(
        &self,
        py: Python<'_>,
        gpu_id: Number,
        online_percent: Number,
        offline_percent: Number,
    ) -> PyResult<Reservation> {
        let session = self.get()?;
        detached(py, || session.set_reservation(GpuId(gpu_id.0), online_percent.0, offline_percent.0))
            .map(Reservation::from)
    }

    /// Slots of a GPU; 0 = the sum over all.
    ///
    /// Raises:
    ///     QueueNotFoundError: no such GPU.
    #[pyo3(signature = (gpu_id=Number(0)))]
    fn status(&self, py: Python<'_>, gpu_id: Number) -> PyResult<HQDStatus> {
        let session = self.get()?;
        detached(py, || session.status(GpuId(gpu_id.0))).map(HQDStatus::from)
    }

    /// Whether a queue is in the runlist.
    ///
    /// Raises:
    ///     QueueNotFoundError, ProcessGoneError: it is gone.
    fn is_active(&self, py: Python<'_>, queue: Queue) -> PyResult<bool> {
        let session = self.get()?;
        detached(py, || session.is_active(queue.0))
    }

    /// What the driver reports of a queue: state, policy, and how far its work has come.
    ///
    /// Args:
    ///     queue: which.
    ///     waves: count its live waves, too (slow).
    ///
    /// Raises:
    ///     QueueNotFoundError, ProcessGoneError: it is gone.
    ///     UnsupportedError: this tier cannot tell.
    #[pyo3(signature = (queue, *, waves=false))]
    fn queue_status(&self, py: Python<'_>, queue: Queue, waves: bool) -> PyResult<QueueStatus> {
        let session = self.get()?;
        detached(py, || session.queue_status(queue.0, Want { pointers: true, waves })).map(QueueStatus::from)
    }

    /// Numbers of the offline queues that are mapped although they have no work.
    fn idle_offline_queues(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        let session = self.get()?;
        detached(py, || session.idle_offline())
    }

    /// Seconds since the machine booted, on its clock.
    fn now(&self, py: Python<'_>) -> PyResult<f64> {
        let session = self.get()?;
        detached(py, || Ok(session.host().now().as_secs_f64()))
    }

    /// Lets time pass on the machine's clock: on the wall, or in no time where the clock is virtual. Ctrl-C ends it.
    ///
    /// Args:
    ///     seconds: how long; or a timedelta.
    fn sleep(&self, py: Python<'_>, seconds: Seconds) -> PyResult<()> {
        let session = self.get()?;
        let deadline = session.host().now() + seconds.0;
        while !detached(py, || Ok(sleep_towards(&session, deadline)))? {
            py.check_signals()?;
        }
        Ok(())
    }

    /// The time of the machine's clock when `seconds` will have passed.
    fn _deadline(&self, py: Python<'_>, seconds: Seconds) -> PyResult<f64> {
        Ok(self.now(py)? + seconds.0.as_secs_f64())
    }

    /// Sleeps towards `deadline`, about 20 ms of wall time at most; whether it was reached. For waits that must notice
    /// something between two steps.
    fn _sleep_towards(&self, py: Python<'_>, deadline: Seconds) -> PyResult<bool> {
        let session = self.get()?;
        detached(py, || Ok(sleep_towards(&session, deadline.0)))
    }
}

/// On a virtual clock hours pass in moments, so the step is measured on the wall and not on the machine.
fn sleep_towards(session: &gpreempt::Session, deadline: Duration) -> bool {
    const STEP: Duration = Duration::from_millis(20);
    let start = Instant::now();
    let mut step = STEP;
    loop {
        let left = deadline.saturating_sub(session.host().now());
        if left.is_zero() {
            return true;
        }
        session.host().sleep(left.min(step));
        if start.elapsed() >= STEP {
            return session.host().now() >= deadline;
        }
        step = step.saturating_mul(2);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if check_process(self.pid).is_err() {
            let parents = self.open.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            std::mem::forget(parents);
            return;
        }
        Python::attach(|py| py.detach(|| self.end()));
    }
}
