//! The monitor behind `gpreempt_monitor_hqd_status()`.
#![allow(unsafe_code, reason = "calls back into C")]

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gpreempt::driver::Capabilities;
use gpreempt::monitor::{HqdMonitor, MonitorReport};
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
    /// Never locked while a monitor is stopped: that waits for the callback, which may be on its way here.
    place: Mutex<Option<Arc<Place>>>,
    /// Who starts or stops the monitor has it to the end, so that "stopped" is true when either of two stops returns. A
    /// callback goes without: it must not wait for whoever waits for it.
    turn: Mutex<()>,
}

/// A monitor that is starting, running or stopped.
#[derive(Debug, Default)]
struct Place {
    stopped: Arc<AtomicBool>,
    monitor: OnceLock<HqdMonitor>,
}

impl Watch {
    /// Calls `function` every `interval` from now on, and no other callback.
    pub(crate) fn start(&self, session: &Session, interval: Duration, function: Function, user: User) -> Result<()> {
        let _turn = self.turn();
        let place = Arc::new(Place::default());
        // The first callback may come before `start` below returns, and stop what it finds here.
        if let Some(previous) = lock(&self.place).replace(Arc::clone(&place)) {
            previous.stop();
        }
        let serves = session.driver().capabilities().contains(Capabilities::POINTERS | Capabilities::WAVES);
        let callback = Callback { function, user, stopped: Arc::clone(&place.stopped) };
        let monitor = HqdMonitor::builder(Arc::clone(session.host()), Arc::clone(session.driver()))
            .interval(interval)
            .clean_idle(serves)
            .serve_lazy(serves)
            .claims(Arc::clone(session.claims()))
            .on_report(move |report| callback.call(report))
            .start()?;
        // Where it has been stopped already, nobody else keeps the place, and with it goes the monitor.
        place.monitor.set(monitor).expect("only this call sets it");
        Ok(())
    }

    /// No callback runs once this has returned, unless it is a callback that asks.
    pub(crate) fn stop(&self) {
        let _turn = self.turn();
        let place = lock(&self.place).take();
        if let Some(place) = place {
            place.stop();
        }
    }

    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        (!CALLING_BACK.get()).then(|| lock(&self.turn))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Place {
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(monitor) = self.monitor.get() {
            monitor.stop();
        }
    }
}

/// What C calls the callback.
pub(crate) type Function = unsafe extern "C" fn(*const gpreempt_hqd_status, *mut c_void);

/// What the caller wants its callback to be told.
pub(crate) struct User(pub(crate) *mut c_void);

// SAFETY: the header says that the callback runs on a thread of the library, so whoever passes `user` has agreed to that.
unsafe impl Send for User {}

struct Callback {
    function: Function,
    user: User,
    stopped: Arc<AtomicBool>,
}

impl Callback {
    fn call(&self, report: &MonitorReport) {
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        let status = gpreempt_hqd_status::from(report.total);
        CALLING_BACK.set(true);
        // SAFETY: the caller's promise that the function takes these until the monitor is stopped.
        unsafe { (self.function)(&raw const status, self.user.0) };
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
