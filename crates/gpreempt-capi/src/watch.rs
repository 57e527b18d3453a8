//! The monitor behind `gpreempt_monitor_hqd_status()`.
#![allow(unsafe_code, reason = "calls back into C")]

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gpreempt::monitor::{HqdMonitor, MonitorReport};
use gpreempt::{Result, Session};

use crate::global;
use crate::types::gpreempt_hqd_status;

/// Where a session keeps its monitor. The lock is never held while a monitor is stopped: that waits for a callback, which
/// may be on its way here.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    monitor: Mutex<Option<Arc<HqdMonitor>>>,
}

impl Watch {
    /// Calls `callback` every `interval` from now on, and no other callback.
    pub(crate) fn start(&self, session: &Session, interval: Duration, callback: Callback) -> Result<()> {
        self.stop();
        let monitor = HqdMonitor::builder(Arc::clone(session.host()), Arc::clone(session.driver()))
            .interval(interval)
            .on_report(move |report| callback.call(report))
            .start()?;
        let raced = self.lock().replace(Arc::new(monitor));
        if let Some(raced) = raced {
            raced.stop();
        }
        Ok(())
    }

    /// No callback runs once this has returned, unless it is the callback that asks.
    pub(crate) fn stop(&self) {
        let Some(monitor) = self.lock().clone() else { return };
        // It stays in its place until it has stopped, so that whoever stops it at the same time waits as well.
        monitor.stop();
        let mut place = self.lock();
        if place.as_ref().is_some_and(|current| Arc::ptr_eq(current, &monitor)) {
            *place = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<HqdMonitor>>> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A C function and what it wants to be told.
pub(crate) struct Callback {
    pub(crate) function: unsafe extern "C" fn(*const gpreempt_hqd_status, *mut c_void),
    pub(crate) user: *mut c_void,
}

// SAFETY: the header says that the callback runs on a thread of the library, so whoever passes `user` has agreed to that.
unsafe impl Send for Callback {}

impl Callback {
    fn call(&self, report: &MonitorReport) {
        let status = gpreempt_hqd_status::from(report.total);
        // SAFETY: the caller's promise that the function takes these until the monitor is stopped.
        unsafe { (self.function)(&raw const status, self.user) };
        if global::forked() {
            // The callback forked and returned in the child, where this thread is the only one and has nothing to watch.
            // SAFETY: takes no pointers.
            unsafe { libc::_exit(0) };
        }
    }
}
