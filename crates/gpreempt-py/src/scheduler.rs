//! The scheduler and its online windows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gpreempt::sched::{OnlineGuard, Scheduler, Step, policy};
use gpreempt::stats::Operation;
use gpreempt::trace::{Record, Recorder};
use gpreempt::{GpuId, Result};
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use crate::convert::{Number, Queue, Seconds, detached, raise, unavailable};
use crate::session::{Dependent, Session, check_process};

/// What every call of the driver took, milliseconds.
#[derive(Debug, Default)]
struct Calls {
    unmaps: Mutex<Vec<f64>>,
    remaps: Mutex<Vec<f64>>,
}

impl Recorder for Calls {
    fn record(&self, record: &Record) {
        if let Record::Call { operation, elapsed, failed: false, .. } = record {
            let ms = elapsed.as_secs_f64() * 1e3;
            if matches!(operation, Operation::Unmap | Operation::Swap) {
                lock(&self.unmaps).push(ms);
            }
            if matches!(operation, Operation::Remap | Operation::Swap) {
                lock(&self.remaps).push(ms);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Running {
    scheduler: Mutex<Option<Arc<Scheduler>>>,
}

impl Dependent for Running {
    fn end(&self) {
        let scheduler = lock(&self.scheduler).take();
        drop(scheduler);
    }
}

/// Unmaps offline queues while online work is in flight. `gpreempt.SmartQueueScheduler` is what users see of it.
#[pyclass(frozen, name = "Scheduler", module = "gpreempt._gpreempt")]
pub(crate) struct PyScheduler {
    pid: u32,
    session: Py<Session>,
    running: Arc<Running>,
    calls: Arc<Calls>,
}

impl PyScheduler {
    fn get(&self) -> PyResult<Arc<Scheduler>> {
        check_process(self.pid)?;
        lock(&self.running.scheduler).clone().ok_or_else(|| unavailable("the scheduler is closed"))
    }

    fn on_queue<T: Send>(
        &self,
        py: Python<'_>,
        queue: &Queue,
        call: impl FnOnce(&Scheduler, gpreempt::QueueId) -> Result<T> + Send,
    ) -> PyResult<T> {
        let session = self.session.get().get()?;
        let scheduler = self.get()?;
        let number = queue.0;
        detached(py, || call(&scheduler, session.resolve(number)?))
    }
}

#[pymethods]
impl PyScheduler {
    #[new]
    fn new(py: Python<'_>, session: Py<Session>, policy: &str, grace: Seconds) -> PyResult<PyScheduler> {
        let opened = session.get().get()?;
        let calls = Arc::new(Calls::default());
        let recorder: Arc<dyn Recorder> = calls.clone();
        let scheduler = detached(py, || {
            Scheduler::on(&opened).policy(policy::named(policy)?).grace(grace.0).recorder(recorder).start()
        })?;
        let running = Arc::new(Running { scheduler: Mutex::new(Some(Arc::new(scheduler))) });
        let dependent: Arc<dyn Dependent> = running.clone();
        session.get().adopt(Arc::downgrade(&dependent) as Weak<dyn Dependent>)?;
        Ok(PyScheduler { pid: std::process::id(), session, running, calls })
    }

    fn register_offline(&self, py: Python<'_>, queue: Queue) -> PyResult<()> {
        self.on_queue(py, &queue, |scheduler, id| scheduler.register_offline(id, GpuId::ALL))
    }

    fn register_online(&self, py: Python<'_>, queue: Queue) -> PyResult<()> {
        self.on_queue(py, &queue, Scheduler::register_online)
    }

    fn register_offline_process(&self, py: Python<'_>, pid: Number) -> PyResult<u32> {
        let scheduler = self.get()?;
        detached(py, || scheduler.register_offline_process(pid.0))
    }

    fn unregister(&self, py: Python<'_>, queue: Queue) -> PyResult<()> {
        self.on_queue(py, &queue, Scheduler::unregister)
    }

    /// Enters an online request.
    fn enter(&self, py: Python<'_>) -> PyResult<Online> {
        let scheduler = self.get()?;
        let guard = detached(py, || Ok(scheduler.online()))?;
        let entered = guard.entered().clone();
        Ok(Online { pid: self.pid, entered, guard: Mutex::new(Some(guard)) })
    }

    /// Latencies so far of unmaps and of remaps, milliseconds of the machine's clock.
    fn latencies_ms(&self) -> (Vec<f64>, Vec<f64>) {
        (lock(&self.calls.unmaps).clone(), lock(&self.calls.remaps).clone())
    }

    /// GPUs, by gpu_id, that are left alone after a timeout or a reset.
    fn tripped(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        let scheduler = self.get()?;
        detached(py, || Ok(scheduler.tripped().iter().map(|gpu| gpu.0).collect()))
    }

    /// Takes such a GPU back; how many of its queues moved.
    fn readmit(&self, py: Python<'_>, gpu_id: Number) -> PyResult<u32> {
        let scheduler = self.get()?;
        detached(py, || {
            let step = scheduler.readmit(GpuId(gpu_id.0));
            step.error.map_or(Ok(step.unmapped + step.remapped), Err)
        })
    }

    /// The statistics as JSON.
    fn report(&self, py: Python<'_>) -> PyResult<String> {
        let scheduler = self.get()?;
        detached(py, || Ok(serde_json::to_string(&scheduler.stats().report()).expect("a report is plain data")))
    }

    /// First error since the last call, of any thread.
    fn take_error(&self, py: Python<'_>) -> PyResult<Option<Py<PyBaseException>>> {
        let scheduler = self.get()?;
        let error = detached(py, || Ok(scheduler.take_error()))?;
        Ok(error.map(|error| raise(&error).into_value(py)))
    }

    fn close(&self, py: Python<'_>) {
        if check_process(self.pid).is_ok() {
            py.detach(|| self.running.end());
        }
    }
}

impl Drop for PyScheduler {
    fn drop(&mut self) {
        if check_process(self.pid).is_err() {
            // The parent's: its thread and its lease are not here.
            std::mem::forget(Arc::clone(&self.running));
            return;
        }
        Python::attach(|py| py.detach(|| self.running.end()));
    }
}

/// One online request in flight; ends when left or collected.
#[pyclass(frozen, module = "gpreempt._gpreempt")]
pub(crate) struct Online {
    pid: u32,
    entered: Step,
    guard: Mutex<Option<OnlineGuard>>,
}

#[pymethods]
impl Online {
    /// Queues unmapped on entering.
    #[getter]
    fn unmapped(&self) -> u32 {
        self.entered.unmapped
    }

    /// HWS rounds that took.
    #[getter]
    fn rounds(&self) -> u32 {
        self.entered.rounds
    }

    /// Time in the driver on entering, seconds of the machine's clock.
    #[getter]
    fn elapsed_s(&self) -> f64 {
        self.entered.elapsed.as_secs_f64()
    }

    /// What the driver could not do on entering; the request goes on.
    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        self.entered.error.as_ref().map(|error| raise(error).into_value(py))
    }

    /// Ends the request; leaving twice is fine. Returns what the driver could not do.
    fn leave(&self, py: Python<'_>) -> PyResult<Option<Py<PyBaseException>>> {
        check_process(self.pid)?;
        let guard = lock(&self.guard).take();
        let error = detached(py, || Ok(guard.and_then(|guard| guard.leave().error)))?;
        Ok(error.map(|error| raise(&error).into_value(py)))
    }
}

impl Drop for Online {
    fn drop(&mut self) {
        let guard = self.guard.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if check_process(self.pid).is_err() {
            std::mem::forget(guard);
            return;
        }
        if guard.is_some() {
            Python::attach(|py| py.detach(|| drop(guard)));
        }
    }
}
