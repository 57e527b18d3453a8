//! The monitor's thread and the Python callable it calls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gpreempt::monitor::{AlertKind, HqdMonitor, MonitorReport};
use pyo3::prelude::*;

use crate::convert::{Seconds, detached, unavailable};
use crate::session::{Dependent, Session, check_process};
use crate::value::HQDStatus;

struct Running {
    monitor: Mutex<Option<Arc<HqdMonitor>>>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<HqdMonitor>>> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dependent for Running {
    fn end(&self) {
        let monitor = self.lock().take();
        if let Some(monitor) = monitor {
            monitor.stop();
        }
    }
}

/// A running monitor. `gpreempt.HQDResourceMonitor` is what users see of it.
#[pyclass(frozen, name = "Monitor", module = "gpreempt._gpreempt")]
pub(crate) struct PyMonitor {
    pid: u32,
    running: Arc<Running>,
}

impl PyMonitor {
    fn get(&self) -> PyResult<Arc<HqdMonitor>> {
        check_process(self.pid)?;
        self.running.lock().clone().ok_or_else(|| unavailable("the monitor has stopped"))
    }
}

#[pymethods]
impl PyMonitor {
    /// Takes the first status, then starts the thread. `on_low` is called on it with the node's `gpu_id` and `HQDStatus`.
    #[new]
    fn new(
        py: Python<'_>,
        session: &Bound<'_, Session>,
        interval: Seconds,
        low_water: f64,
        high_water: f64,
        clean_idle: bool,
        on_low: Option<Py<PyAny>>,
    ) -> PyResult<PyMonitor> {
        let opened = session.get().get()?;
        let monitor = detached(py, || {
            let mut builder = HqdMonitor::builder(opened.host().clone(), opened.driver().clone())
                .interval(interval.0)
                .water_marks(low_water, high_water)
                .clean_idle(clean_idle)
                .serve_lazy(clean_idle)
                .claims(opened.claims().clone());
            if let Some(on_low) = on_low {
                builder = builder.on_report(move |report| call(&on_low, report));
            }
            builder.start()
        })?;
        let running = Arc::new(Running { monitor: Mutex::new(Some(Arc::new(monitor))) });
        let dependent: Arc<dyn Dependent> = running.clone();
        session.get().adopt(Arc::downgrade(&dependent) as Weak<dyn Dependent>)?;
        Ok(PyMonitor { pid: std::process::id(), running })
    }

    fn status(&self, py: Python<'_>) -> PyResult<HQDStatus> {
        let monitor = self.get()?;
        detached(py, || Ok(monitor.current_status())).map(HQDStatus::from)
    }

    #[getter]
    fn running(&self) -> bool {
        self.get().is_ok_and(|monitor| monitor.running())
    }

    /// Maps what it had unmapped and ends its thread; stopping twice is fine.
    fn stop(&self, py: Python<'_>) {
        if check_process(self.pid).is_ok() {
            py.detach(|| self.running.end());
        }
    }
}

/// Nobody can catch an exception of a callback, so it goes to `sys.unraisablehook`.
fn call(on_low: &Py<PyAny>, report: &MonitorReport) {
    for alert in report.alerts.iter().filter(|alert| alert.kind == AlertKind::Low) {
        let Some(node) = report.nodes.iter().find(|node| node.gpu == alert.gpu) else { continue };
        Python::attach(|py| {
            if let Err(error) = on_low.call1(py, (node.gpu.0, HQDStatus::from(node.status))) {
                error.write_unraisable(py, Some(on_low.bind(py)));
            }
        });
    }
}

impl Drop for PyMonitor {
    fn drop(&mut self) {
        if check_process(self.pid).is_err() {
            // The parent's: its thread is not here and cannot be joined.
            std::mem::forget(Arc::clone(&self.running));
            return;
        }
        Python::attach(|py| py.detach(|| self.running.end()));
    }
}
