//! Watches the queue slots of every node, warns when they run low, and takes idle offline queues off them.

mod claims;

use std::sync::Arc;
use std::time::Duration;

pub use claims::{Claims, Window};

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::{GpuId, HqdStatus, QueueId};

/// Slots of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Which.
    pub gpu: GpuId,
    /// Its slots.
    pub status: HqdStatus,
}

/// A node's free slots crossed a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Which node.
    pub gpu: GpuId,
    /// Which way.
    pub kind: AlertKind,
    /// Its free slots.
    pub free: u32,
    /// Its slots.
    pub total: u32,
}

/// Which way a node's free slots went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertKind {
    /// Below the low-water mark.
    Low,
    /// Back at or above the high-water mark.
    Recovered,
}

/// What one tick of the monitor saw and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonitorReport {
    /// Machine time.
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

/// Configures an [`HqdMonitor`].
pub struct MonitorBuilder {}

/// A background thread that watches the slots. Dropping it stops it and maps what it had unmapped.
#[derive(Debug)]
pub struct HqdMonitor {}

#[expect(unused_variables, reason = "signatures first")]
impl MonitorBuilder {
    /// Time between two looks; 1 s unless said.
    #[must_use]
    pub fn interval(self, interval: Duration) -> MonitorBuilder {
        todo!()
    }

    /// Marks as fractions of a node's slots: warn when the free ones fall below `low`, re-arm at `high` (0.1 and 0.2).
    #[must_use]
    pub fn water_marks(self, low: f64, high: f64) -> MonitorBuilder {
        todo!()
    }

    /// Whether idle offline queues are unmapped on nodes that are low (off unless said).
    #[must_use]
    pub fn clean_idle(self, on: bool) -> MonitorBuilder {
        todo!()
    }

    /// Whether LAZY_ACTIVATION queues are unmapped as soon as they idle, low or not, and mapped on their first work
    /// (off unless said).
    #[must_use]
    pub fn serve_lazy(self, on: bool) -> MonitorBuilder {
        todo!()
    }

    /// Shares claims with a scheduler on the same driver.
    #[must_use]
    pub fn claims(self, claims: Arc<Claims>) -> MonitorBuilder {
        todo!()
    }

    /// Called on the monitor's thread after every tick, the first included. A panic in it is reported, not passed on.
    #[must_use]
    pub fn on_report(self, callback: impl FnMut(&MonitorReport) + Send + 'static) -> MonitorBuilder {
        todo!()
    }

    /// Called on the monitor's thread for every crossing, before the report of its tick.
    #[must_use]
    pub fn on_alert(self, callback: impl FnMut(&Alert) + Send + 'static) -> MonitorBuilder {
        todo!()
    }

    /// Takes the first status, then starts the thread.
    ///
    /// # Errors
    /// EINVAL for an interval of zero or marks outside 0 to 1 or crossed; what the driver answers where no node does.
    pub fn start(self) -> Result<HqdMonitor> {
        todo!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl HqdMonitor {
    /// A monitor of all nodes of a machine.
    pub fn builder(host: Arc<dyn Host>, driver: Arc<dyn Driver>) -> MonitorBuilder {
        todo!()
    }

    /// Slots of all nodes together at the last tick.
    pub fn current_status(&self) -> HqdStatus {
        todo!()
    }

    /// The last tick.
    pub fn report(&self) -> Arc<MonitorReport> {
        todo!()
    }

    /// Whether the thread is there. False in a forked child.
    pub fn running(&self) -> bool {
        todo!()
    }

    /// Maps what was unmapped, ends the thread and waits for it. Stopping twice is fine.
    pub fn stop(&self) {
        todo!()
    }
}
