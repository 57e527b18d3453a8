//! Watches the queue slots of every node, warns when they run low, and takes idle offline queues off them.
//!
//! Decisions are pure: [`watch`] says when slots are low, [`idle`] which queues leave and which come back. One background
//! thread reads the machine, asks them, and acts. An unmapped queue whose write pointer moves is mapped again within one
//! period; an idle one stays unmapped (its hold is renewed before the driver's watchdog ends it) until the monitor stops.

mod blame;
mod claims;
mod engine;
pub mod idle;
pub mod watch;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use nix::errno::Errno;

pub use blame::{SlotHolder, blame, blame_stock};
pub use claims::{Claims, Window};
pub use engine::MonitorReport;
pub use watch::{Alert, AlertKind, NodeStatus};

use crate::driver::{Capabilities, Driver};
use crate::error::{Error, Result};
use crate::host::{Alarm, Host, Wake, spawn_background};
use crate::queue::HqdStatus;

use engine::Engine;

type ReportCallback = Box<dyn FnMut(&MonitorReport) + Send>;
type AlertCallback = Box<dyn FnMut(&Alert) + Send>;

/// Configures an [`HqdMonitor`].
pub struct MonitorBuilder {
    host: Arc<dyn Host>,
    driver: Arc<dyn Driver>,
    interval: Duration,
    low: f64,
    high: f64,
    clean: bool,
    lazy: bool,
    claims: Arc<Claims>,
    callbacks: Callbacks,
}

impl fmt::Debug for MonitorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorBuilder")
            .field("interval", &self.interval)
            .field("water_marks", &(self.low, self.high))
            .field("clean_idle", &self.clean)
            .field("serve_lazy", &self.lazy)
            .finish_non_exhaustive()
    }
}

impl MonitorBuilder {
    /// Time between two looks; 1 s unless said.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> MonitorBuilder {
        self.interval = interval;
        self
    }

    /// Marks as fractions of a node's slots: warn when the free ones fall below `low`, re-arm at `high` (0.1 and 0.2).
    #[must_use]
    pub fn water_marks(mut self, low: f64, high: f64) -> MonitorBuilder {
        (self.low, self.high) = (low, high);
        self
    }

    /// Whether idle offline queues are unmapped on nodes that are low (off unless said).
    #[must_use]
    pub fn clean_idle(mut self, on: bool) -> MonitorBuilder {
        self.clean = on;
        self
    }

    /// Whether LAZY_ACTIVATION queues are unmapped as soon as they were idle for one interval, low or not, and mapped on
    /// their first work (off unless said).
    #[must_use]
    pub fn serve_lazy(mut self, on: bool) -> MonitorBuilder {
        self.lazy = on;
        self
    }

    /// Shares claims with a scheduler on the same driver.
    #[must_use]
    pub fn claims(mut self, claims: Arc<Claims>) -> MonitorBuilder {
        self.claims = claims;
        self
    }

    /// Called on the monitor's thread after every tick, the first included. A panic in it is logged, not passed on.
    #[must_use]
    pub fn on_report(mut self, callback: impl FnMut(&MonitorReport) + Send + 'static) -> MonitorBuilder {
        self.callbacks.report = Some(Box::new(callback));
        self
    }

    /// Called on the monitor's thread for every crossing, before the report of its tick. As to panics, the same.
    #[must_use]
    pub fn on_alert(mut self, callback: impl FnMut(&Alert) + Send + 'static) -> MonitorBuilder {
        self.callbacks.alert = Some(Box::new(callback));
        self
    }

    /// Takes the first status, then starts the thread.
    ///
    /// # Errors
    /// EINVAL for an interval of zero or for marks outside 0 to 1 or crossed; EOPNOTSUPP where the driver cannot tell
    /// what was asked for; what the machine answers where it does not answer at all.
    pub fn start(self) -> Result<HqdMonitor> {
        self.check()?;
        // A third: one look may come late without a hold ending.
        let renew_after = self.driver.max_hold().map(|hold| hold / 3);
        let rule = idle::Rule { idle_for: self.interval, clean: self.clean, lazy: self.lazy, renew_after };
        let watch = watch::Watch::new(self.low, self.high);
        let mut engine = Engine::new(self.host, self.driver, self.claims, rule, watch);
        engine.look(engine.host.now());
        let first = engine.take_report();
        if let (true, Some(error)) = (first.nodes.is_empty(), first.errors.first()) {
            return Err(error.clone());
        }
        HqdMonitor::spawn(engine, self.interval, self.callbacks, first)
    }

    fn check(&self) -> Result<()> {
        let fail = |errno| Error::new("starting the HQD monitor", errno);
        if self.interval.is_zero() {
            return Err(fail(Errno::EINVAL).because("the interval is zero"));
        }
        if !(0.0 <= self.low && self.low <= self.high && self.high <= 1.0) {
            let marks = format!("marks {} and {} are not 0 <= low <= high <= 1", self.low, self.high);
            return Err(fail(Errno::EINVAL).because(marks));
        }
        let mut needed = Capabilities::SLOTS;
        if self.clean || self.lazy {
            needed |= Capabilities::STATUS | Capabilities::POINTERS | Capabilities::WAVES;
        }
        let missing = needed - self.driver.capabilities();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter_names().map(|(name, _)| name).collect();
            let what = format!("the {} tier lacks {}", self.driver.tier(), names.join(" and "));
            return Err(fail(Errno::EOPNOTSUPP).because(what).remedy("`gpreempt doctor` says what each tier can do"));
        }
        Ok(())
    }
}

/// A background thread (`gpreempt-monitor`) that watches the slots. Dropping it stops it.
#[derive(Debug)]
pub struct HqdMonitor {
    latest: Arc<Mutex<Arc<MonitorReport>>>,
    alarm: Arc<Alarm>,
    process: u32,
    thread_id: ThreadId,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl HqdMonitor {
    /// A monitor of all nodes of a machine.
    pub fn builder(host: Arc<dyn Host>, driver: Arc<dyn Driver>) -> MonitorBuilder {
        MonitorBuilder {
            host,
            driver,
            interval: Duration::from_secs(1),
            low: 0.1,
            high: 0.2,
            clean: false,
            lazy: false,
            claims: Claims::new(),
            callbacks: Callbacks::default(),
        }
    }

    fn spawn(engine: Engine, interval: Duration, callbacks: Callbacks, first: MonitorReport) -> Result<HqdMonitor> {
        let first = Arc::new(first);
        let latest = Arc::new(Mutex::new(Arc::clone(&first)));
        let alarm = Alarm::new();
        engine.host.enlist(&alarm);
        let worker = Worker { engine, interval, callbacks, latest: Arc::clone(&latest), alarm: Arc::clone(&alarm) };
        let thread = spawn_background("gpreempt-monitor", move || worker.run(&first))
            .map_err(|errno| Error::new("starting the HQD monitor's thread", errno))?;
        let process = std::process::id();
        Ok(HqdMonitor { latest, alarm, process, thread_id: thread.thread().id(), thread: Mutex::new(Some(thread)) })
    }

    /// Slots of all nodes together at the last tick.
    pub fn current_status(&self) -> HqdStatus {
        self.report().total
    }

    /// The last tick.
    pub fn report(&self) -> Arc<MonitorReport> {
        Arc::clone(&lock(&self.latest))
    }

    /// Whether the thread is there. False in a forked child.
    pub fn running(&self) -> bool {
        !self.forked() && lock(&self.thread).as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Maps what was unmapped, ends the thread and waits for it. Stopping twice is fine; from within a callback it does
    /// not wait. In a forked child, which has no such thread, it does nothing.
    pub fn stop(&self) {
        if self.forked() {
            return;
        }
        self.alarm.ring();
        if thread::current().id() == self.thread_id {
            return;
        }
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the HQD monitor's thread panicked");
        }
    }

    fn forked(&self) -> bool {
        std::process::id() != self.process
    }
}

impl Drop for HqdMonitor {
    fn drop(&mut self) {
        if self.forked() {
            // Joining or detaching a thread that the fork left behind is undefined.
            let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(thread.take());
        } else {
            self.stop();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Callbacks {
    report: Option<ReportCallback>,
    alert: Option<AlertCallback>,
}

impl Callbacks {
    fn call(&mut self, report: &MonitorReport) {
        let guarded = |call: &mut dyn FnMut()| {
            if catch_unwind(AssertUnwindSafe(call)).is_err() {
                tracing::error!("a callback of the HQD monitor panicked");
            }
        };
        if let Some(callback) = &mut self.alert {
            for alert in &report.alerts {
                guarded(&mut || callback(alert));
            }
        }
        if let Some(callback) = &mut self.report {
            guarded(&mut || callback(report));
        }
    }
}

/// What the thread owns.
struct Worker {
    engine: Engine,
    interval: Duration,
    callbacks: Callbacks,
    latest: Arc<Mutex<Arc<MonitorReport>>>,
    alarm: Arc<Alarm>,
}

impl Worker {
    fn run(mut self, first: &MonitorReport) {
        let host = Arc::clone(&self.engine.host);
        let mut tick = first.at + self.interval;
        self.callbacks.call(first);
        loop {
            // Holds may need renewing more often than anybody wants reports.
            let renewal = self.engine.rule.renew_after.filter(|_| self.engine.holds());
            let look = renewal.map_or(tick, |after| tick.min(host.now() + after));
            if host.park(&self.alarm, Some(look)) == Wake::Rung {
                break;
            }
            self.engine.look(look);
            if look < tick {
                continue;
            }
            let report = Arc::new(self.engine.take_report());
            *lock(&self.latest) = Arc::clone(&report);
            self.callbacks.call(&report);
            // A late tick is not made up for.
            tick = (tick + self.interval).max(host.now());
        }
    }
}
