//! What operations took: HDR histograms per operation and phase.
//!
//! Times are taken on the machine's clock: measured where the clock is real, modelled where it is virtual.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
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

impl Operation {
    /// Its name in reports and traces.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Unmap => "unmap",
            Operation::Remap => "remap",
            Operation::Swap => "swap",
            Operation::Online => "online",
        }
    }
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

const OPERATIONS: [Operation; 4] = [Operation::Unmap, Operation::Remap, Operation::Swap, Operation::Online];

const PHASES: [Phase; 5] = [Phase::Total, Phase::Driver, Phase::SlowestNode, Phase::Overhead, Phase::Wait];

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
pub struct Stats {
    operations: Mutex<[OperationCounts; 4]>,
}

#[derive(Clone, Debug, Default)]
struct OperationCounts {
    calls: u64,
    failed: u64,
    phases: [Times; 5],
    rounds: Counts,
    nodes: Counts,
    queues: Counts,
}

/// Nanoseconds, to three digits. Made when first used, grown as needed: most phases of most runs stay small.
#[derive(Clone, Debug, Default)]
struct Times(Option<Histogram<u64>>);

#[derive(Clone, Debug, Default)]
struct Counts {
    histogram: Option<Histogram<u64>>,
    total: u64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("3 is a legal number of digits")
}

impl Times {
    fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        self.0.get_or_insert_with(histogram).record(ns).expect("it grows as needed");
    }

    fn report(&self) -> Option<Latency> {
        let times = self.0.as_ref().filter(|times| !times.is_empty())?;
        let us = |ns: u64| ns as f64 / 1e3;
        Some(Latency {
            count: times.len(),
            mean_us: times.mean() / 1e3,
            min_us: us(times.min()),
            p50_us: us(times.value_at_quantile(0.5)),
            p90_us: us(times.value_at_quantile(0.9)),
            p99_us: us(times.value_at_quantile(0.99)),
            p999_us: us(times.value_at_quantile(0.999)),
            max_us: us(times.max()),
        })
    }
}

impl Counts {
    fn record(&mut self, count: u32) {
        self.total += u64::from(count);
        self.histogram.get_or_insert_with(histogram).record(u64::from(count)).expect("it grows as needed");
    }

    fn merge(&mut self, other: &Counts) {
        self.total += other.total;
        merge(&mut self.histogram, &other.histogram);
    }

    fn report(&self) -> Count {
        let Some(counts) = &self.histogram else { return Count::default() };
        Count { total: self.total, mean: counts.mean(), p50: counts.value_at_quantile(0.5), max: counts.max() }
    }
}

fn merge(into: &mut Option<Histogram<u64>>, from: &Option<Histogram<u64>>) {
    if let Some(from) = from {
        into.get_or_insert_with(histogram).add(from).expect("histograms that grow add up");
    }
}

impl OperationCounts {
    fn phase(&mut self, phase: Phase) -> &mut Times {
        &mut self.phases[phase as usize]
    }

    fn merge(&mut self, other: &OperationCounts) {
        self.calls += other.calls;
        self.failed += other.failed;
        for (into, from) in self.phases.iter_mut().zip(&other.phases) {
            merge(&mut into.0, &from.0);
        }
        self.rounds.merge(&other.rounds);
        self.nodes.merge(&other.nodes);
        self.queues.merge(&other.queues);
    }

    fn report(&self) -> OperationReport {
        let phases = PHASES.iter().filter_map(|phase| Some((*phase, self.phases[*phase as usize].report()?)));
        OperationReport {
            calls: self.calls,
            failed: self.failed,
            phases: phases.collect(),
            rounds: self.rounds.report(),
            nodes: self.nodes.report(),
            queues: self.queues.report(),
        }
    }
}

impl Stats {
    /// Nothing counted yet.
    pub fn new() -> Stats {
        Stats::default()
    }

    fn lock(&self) -> MutexGuard<'_, [OperationCounts; 4]> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a driver call that took `total` as the caller saw it.
    pub fn record_batch(&self, operation: Operation, total: Duration, batch: &Batch) {
        let mut operations = self.lock();
        let counts = &mut operations[operation as usize];
        counts.calls += 1;
        counts.failed += u64::from(batch.outcomes.iter().any(|outcome| outcome.errno.is_some()));
        counts.phase(Phase::Total).record(total);
        counts.phase(Phase::Driver).record(batch.elapsed);
        counts.phase(Phase::SlowestNode).record(batch.slowest_node);
        counts.phase(Phase::Overhead).record(total.saturating_sub(batch.elapsed));
        counts.rounds.record(batch.rounds);
        counts.nodes.record(batch.nodes);
        counts.queues.record(batch.outcomes.iter().map(|outcome| outcome.queues).sum());
    }

    /// Counts a call that failed as a whole.
    pub fn record_failure(&self, operation: Operation, total: Duration) {
        let mut operations = self.lock();
        let counts = &mut operations[operation as usize];
        counts.calls += 1;
        counts.failed += 1;
        counts.phase(Phase::Total).record(total);
    }

    /// Counts an online request that waited `wait` before it began and took `total` in all.
    pub fn record_online(&self, wait: Duration, total: Duration) {
        let mut operations = self.lock();
        let counts = &mut operations[Operation::Online as usize];
        counts.calls += 1;
        counts.phase(Phase::Total).record(total);
        counts.phase(Phase::Wait).record(wait);
    }

    /// Adds another's counts to these.
    pub fn merge(&self, other: &Stats) {
        // Copied first, so that no two locks are held and a merge with oneself does not hang.
        let other = other.lock().clone();
        for (into, from) in self.lock().iter_mut().zip(&other) {
            into.merge(from);
        }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.lock() = Default::default();
    }

    /// What was counted.
    pub fn report(&self) -> Report {
        let operations = self.lock();
        let counted = OPERATIONS.iter().map(|operation| (*operation, &operations[*operation as usize]));
        let reports =
            counted.filter(|(_, counts)| counts.calls > 0).map(|(operation, counts)| (operation, counts.report()));
        Report { operations: reports.collect() }
    }
}
