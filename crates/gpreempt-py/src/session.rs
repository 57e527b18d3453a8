//! One opened machine.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use gpreempt::{Backend, GpuId, PolicyFlags, SessionBuilder, UnmapFlags};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::convert::{Number, Queue, Queues, Seconds, closed, detached, invalid};
use crate::value::{Batch, HQDStatus, QueueInfo, Reservation};

/// Something that runs on a session and ends with it.
pub(crate) trait Dependent: Send + Sync {
    /// Ends it. Called without the GIL.
    fn end(&self);
}

/// One opened machine. All methods may be called from any thread.
#[pyclass(frozen, weakref, module = "gpreempt")]
pub(crate) struct Session {
    pid: u32,
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
            None => Err(closed("the session is closed")),
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
            None => Err(closed("the session is closed")),
        }
    }

    fn end(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(open) = open {
            open.dependents.iter().filter_map(Weak::upgrade).for_each(|dependent| dependent.end());
        }
    }
}

/// What belongs to the parent of a forked process is not touched: its locks, threads and lease stayed behind.
pub(crate) fn check_process(pid: u32) -> PyResult<()> {
    match pid == std::process::id() {
        true => Ok(()),
        false => Err(closed("this belongs to the parent of this forked process; open a session of its own")),
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
        match backend {
            None => {}
            Some("auto") => builder.backend = Backend::Auto,
            Some("patched") => builder.backend = Backend::Patched,
            Some("sim") => builder.backend = Backend::Sim,
            Some(other) => return Err(invalid(format!("backend {other:?}: it may be auto, patched or sim"))),
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
        let open = Open { session: Arc::new(session), dependents: Vec::new() };
        Ok(Session { pid: std::process::id(), open: Mutex::new(Some(open)) })
    }

    fn close(&self, py: Python<'_>) {
        if check_process(self.pid).is_ok() {
            py.detach(|| self.end());
        }
    }

    #[getter]
    fn closed(&self) -> bool {
        self.get().is_err()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, pyo3::types::PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        match self.get() {
            Ok(session) => format!("<gpreempt.Session: {}>", session.host().describe()),
            Err(_) => String::from("<gpreempt.Session: closed>"),
        }
    }

    fn describe(&self, py: Python<'_>) -> PyResult<String> {
        let session = self.get()?;
        detached(py, || Ok(session.host().describe()))
    }

    #[getter]
    fn cost_model(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let session = self.get()?;
        detached(py, || Ok(session.host().cost_model()))
    }

    fn queues(&self, py: Python<'_>) -> PyResult<Vec<QueueInfo>> {
        let session = self.get()?;
        Ok(detached(py, || session.queues())?.into_iter().map(QueueInfo::from).collect())
    }

    #[pyo3(signature = (pid, queue_id, gpu_id=Number(0)))]
    fn register_queue(&self, py: Python<'_>, pid: Number, queue_id: Number, gpu_id: Number) -> PyResult<u32> {
        let session = self.get()?;
        detached(py, || session.register(pid.0, queue_id.0, GpuId(gpu_id.0)))
    }

    #[pyo3(signature = (queues, grace=Seconds(Duration::ZERO)))]
    fn unmap(&self, py: Python<'_>, queues: Queues, grace: Seconds) -> PyResult<Batch> {
        let session = self.get()?;
        detached(py, || session.unmap(&queues.0, grace.0)).map(Batch::from)
    }

    fn remap(&self, py: Python<'_>, queues: Queues) -> PyResult<Batch> {
        let session = self.get()?;
        detached(py, || session.remap(&queues.0)).map(Batch::from)
    }

    #[pyo3(signature = (queues, *, if_idle=false))]
    fn selective_unmap(&self, py: Python<'_>, queues: Queues, if_idle: bool) -> PyResult<Batch> {
        let session = self.get()?;
        let mut flags = UnmapFlags::KEEP_MQD | UnmapFlags::KEEP_STATE;
        flags.set(UnmapFlags::NO_CWSR, if_idle);
        detached(py, || session.selective_unmap(&queues.0, flags)).map(Batch::from)
    }

    #[pyo3(signature = (queue, slot=-1))]
    fn fast_remap(&self, py: Python<'_>, queue: Queue, slot: i32) -> PyResult<Batch> {
        let session = self.get()?;
        detached(py, || session.fast_remap(queue.0, slot)).map(Batch::from)
    }

    fn set_queue_state(&self, py: Python<'_>, queue: Queue, state: Number) -> PyResult<()> {
        let session = self.get()?;
        detached(py, || session.set_state(queue.0, state.0))
    }

    fn set_policy(&self, py: Python<'_>, queue: Queue, policy: Number) -> PyResult<Py<PyAny>> {
        static POLICY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let session = self.get()?;
        let flags = PolicyFlags::from_bits_retain(policy.0);
        let in_force = detached(py, || session.set_policy(queue.0, flags))?;
        Ok(POLICY.import(py, "gpreempt.flags", "QueuePolicy")?.call1((in_force.bits(),))?.unbind())
    }

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

    #[pyo3(signature = (gpu_id=Number(0)))]
    fn status(&self, py: Python<'_>, gpu_id: Number) -> PyResult<HQDStatus> {
        let session = self.get()?;
        detached(py, || session.status(GpuId(gpu_id.0))).map(HQDStatus::from)
    }

    fn is_active(&self, py: Python<'_>, queue: Queue) -> PyResult<bool> {
        let session = self.get()?;
        detached(py, || session.is_active(queue.0))
    }

    fn idle_offline_queues(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        let session = self.get()?;
        detached(py, || session.idle_offline())
    }

    fn now(&self, py: Python<'_>) -> PyResult<f64> {
        let session = self.get()?;
        detached(py, || Ok(session.host().now().as_secs_f64()))
    }

    fn sleep(&self, py: Python<'_>, seconds: Seconds) -> PyResult<()> {
        let session = self.get()?;
        let deadline = session.host().now() + seconds.0;
        while !detached(py, || Ok(sleep_towards(&session, deadline)))? {
            py.check_signals()?;
        }
        Ok(())
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
