//! What operations took: HDR histograms per operation and phase.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::driver::Batch;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Batch unmap.
    Unmap,
    /// Batch remap.
    Remap,
    /// Unmap and remap in one round.
    Swap,
    /// An online request, from entering to leaving.
    Online,
}

/// A part of an operation's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// All of it, as the caller saw it.
    Total,
    /// The driver's own measure of its call.
    Driver,
    /// The slowest node of that call.
    SlowestNode,
    /// `Total` minus `Driver`: what this library added.
    Overhead,
    /// Online: how long the request waited before it could begin.
    Wait,
}

/// A distribution of times, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Smallest.
    pub min_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Largest.
    pub max_us: f64,
}

/// A distribution of counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Count {
    /// Sum over all calls.
    pub total: u64,
    /// Mean per call.
    pub mean: f64,
    /// Median per call.
    pub p50: u64,
    /// Largest in one call.
    pub max: u64,
}

/// What is known of one operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OperationReport {
    /// Calls, failed ones included.
    pub calls: u64,
    /// Calls that failed for at least one queue.
    pub failed: u64,
    /// Times, by phase.
    pub phases: BTreeMap<Phase, Latency>,
    /// HWS rounds per call.
    pub rounds: Count,
    /// Nodes per call.
    pub nodes: Count,
    /// Queues per call.
    pub queues: Count,
}

/// Everything counted since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// By operation; one that never happened is left out.
    pub operations: BTreeMap<Operation, OperationReport>,
}

/// Counts; shared between threads.
#[derive(Debug, Default)]
pub struct Stats {}

#[expect(unused_variables, reason = "signatures first")]
impl Stats {
    /// Nothing counted yet.
    pub fn new() -> Stats {
        todo!()
    }

    /// Counts a driver call that took `total` as the caller saw it.
    pub fn record_batch(&self, operation: Operation, total: Duration, batch: &Batch) {
        todo!()
    }

    /// Counts a call that failed as a whole.
    pub fn record_failure(&self, operation: Operation, total: Duration) {
        todo!()
    }

    /// Counts an online request that waited `wait` before it began and took `total` in all.
    pub fn record_online(&self, wait: Duration, total: Duration) {
        todo!()
    }

    /// Adds another's counts to these.
    pub fn merge(&self, other: &Stats) {
        todo!()
    }

    /// Forgets everything.
    pub fn reset(&self) {
        todo!()
    }

    /// What was counted.
    pub fn report(&self) -> Report {
        todo!()
    }
}
