//! The monitor behind `gpreempt_monitor_hqd_status()`, and what callers unmapped while it runs, which it leaves to them.
#![allow(unsafe_code, reason = "calls back into C")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gpreempt::driver::{Batch, Capabilities, Selector};
use gpreempt::monitor::{Claims, HqdMonitor, MonitorReport, Window};
use gpreempt::{Result, Session};

use crate::global;
use crate::types::gpreempt_hqd_status;

thread_local! {
    /// This is the monitor's thread, in the middle of the callback.
    static CALLING_BACK: Cell<bool> = const { Cell::new(false) };
}

/// Where a session keeps its monitor.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    claims: Arc<Claims>,
    /// Never locked while a monitor is stopped: that waits for the callback, which may be on its way here.
    monitor: Mutex<Option<Arc<HqdMonitor>>>,
    /// Lets two threads that stop the monitor at once both wait for it.
    stopping: Mutex<()>,
    windows: Mutex<Vec<(BTreeSet<u32>, Window)>>,
}

impl Watch {
    /// Calls `callback` every `interval` from now on, and no other callback.
    pub(crate) fn start(&self, session: &Session, interval: Duration, callback: Callback) -> Result<()> {
        self.stop();
        let serves = session.driver().capabilities().contains(Capabilities::POINTERS | Capabilities::WAVES);
        let monitor = HqdMonitor::builder(Arc::clone(session.host()), Arc::clone(session.driver()))
            .interval(interval)
            .clean_idle(serves)
            .serve_lazy(serves)
            .claims(Arc::clone(&self.claims))
            .on_report(move |report| callback.call(report))
            .start()?;
        let raced = lock(&self.monitor).replace(Arc::new(monitor));
        if let Some(raced) = raced {
            raced.stop();
        }
        Ok(())
    }

    /// No callback runs once this has returned, unless it is a callback that asks.
    pub(crate) fn stop(&self) {
        // The callback must not wait for whoever waits for it.
        let _both_wait = if CALLING_BACK.get() { None } else { Some(lock(&self.stopping)) };
        let monitor = lock(&self.monitor).take();
        if let Some(monitor) = monitor {
            monitor.stop();
        }
    }

    /// Unmaps `queues` by `call`. Should one of them be off already because the monitor found it idle, then the monitor
    /// does not map it before the caller does.
    pub(crate) fn unmap(&self, session: &Session, queues: &[u32], call: impl FnOnce() -> Result<Batch>) -> Result<()> {
        if lock(&self.monitor).is_none() {
            return call().map(drop);
        }
        // What cannot be resolved is the call's to explain.
        let selectors = queues.iter().filter_map(|&queue| session.resolve(queue).ok()).map(Selector::queue);
        let window = self.claims.window(&selectors.collect::<Vec<Selector>>());
        call()?;
        let queues = BTreeSet::from_iter(queues.iter().copied());
        let mut windows = lock(&self.windows);
        windows.retain(|(earlier, _)| !earlier.is_subset(&queues));
        windows.push((queues, window));
        Ok(())
    }

    /// Maps `queues` by `call` and leaves them to the monitor again.
    pub(crate) fn remap(&self, queues: &[u32], call: impl FnOnce() -> Result<Batch>) -> Result<()> {
        call()?;
        lock(&self.windows).retain_mut(|(held, _)| {
            for queue in queues {
                held.remove(queue);
            }
            !held.is_empty()
        });
        Ok(())
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
        CALLING_BACK.set(true);
        // SAFETY: the caller's promise that the function takes these until the monitor is stopped.
        unsafe { (self.function)(&raw const status, self.user) };
        CALLING_BACK.set(false);
        if global::forked() {
            // The callback forked and returned in the child, where this thread is the only one and has nothing to watch.
            // SAFETY: takes no pointers.
            unsafe { libc::_exit(0) };
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
