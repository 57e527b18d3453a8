//! What a demo found, as its JSON report holds it. Times are in the unit that the field's name ends with.

use serde::Serialize;

/// Layout of the report; grows when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Program and version.
    pub program: String,
    /// What was run.
    pub config: Config,
    /// Online requests on the same machine without any offline process.
    pub online_alone: Spread,
    /// One entry per way of preemption.
    pub modes: Vec<Mode>,
}

/// What was run. Equal configurations give equal reports.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// The machine in one line.
    pub machine: String,
    /// Name of the cost model.
    pub cost_model: String,
    /// What it stands for.
    pub cost_model_about: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Where arrivals are from.
    pub trace: String,
    /// What was assumed where the trace says nothing.
    pub assumptions: Vec<String>,
    /// Open-loop requests.
    pub requests: u64,
    /// Closed-loop clients.
    pub closed_loops: u64,
    /// Requests of the closed loops while nobody trains.
    pub closed_requests: u64,
    /// From the first to the last arrival, s.
    pub span_s: f64,
    /// Work of all requests over span and nodes: below 1, or queues grow without bound.
    pub online_load: f64,
    /// Who trains.
    pub offline: String,
    /// KFD nodes that take requests.
    pub nodes: u32,
    /// Offline queues of all nodes.
    pub offline_queues: u32,
}

/// One way of preemption.
#[derive(Clone, Debug, Serialize)]
pub struct Mode {
    /// Its name on the command line.
    pub mode: String,
    /// Policy, and how queues were reached.
    pub how: String,
    /// `modelled (cost model NAME)`: nothing in this entry was measured on a GPU.
    pub basis: String,
    /// From arrival to completion.
    pub online: Spread,
    /// Work that offline queues did per second, over what they do per second alone on the machine; null where they do
    /// none there.
    pub offline_throughput: Option<f64>,
    /// Slots with a mapped queue over all slots, averaged over time.
    pub hqd_use: f64,
    /// Taking the offline queues of a node off, as the scheduler saw it.
    pub unmap: Spread,
    /// Putting them back.
    pub remap: Spread,
    /// UNMAP rounds of all nodes during the run.
    pub rounds: u64,
    /// Times that the offline queues of a node were taken off.
    pub preemptions: u64,
    /// ioctls during the run.
    pub ioctls: u64,
    /// Waves that CWSR saved during the run.
    pub waves_saved: u64,
    /// Operations that failed for at least one queue.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Requests that were never answered: their queue was reset, evicted for good or is gone.
    pub lost_requests: u64,
    /// Offline queues that were reset, evicted for good or are gone at the end; what they did until then counts.
    pub lost_queues: u64,
    /// Machine time from the start of the trace to the last answer, s.
    pub elapsed_s: f64,
    /// Whether the last answer came about as soon as it does while nobody trains, or some never came. Where not, requests queued up all the time, and the
    /// percentiles say how long the trace is rather than how long a request takes.
    pub kept_up: bool,
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Samples.
    pub count: u64,
    /// Mean, ms.
    pub mean_ms: f64,
    /// Median, ms.
    pub p50_ms: f64,
    /// 90th percentile, ms.
    pub p90_ms: f64,
    /// 99th percentile, ms.
    pub p99_ms: f64,
    /// 99.9th percentile, ms.
    pub p999_ms: f64,
    /// Largest, ms.
    pub max_ms: f64,
}

impl Spread {
    /// Of exact samples in ns; percentiles are samples (nearest rank).
    pub fn of(mut samples: Vec<u64>) -> Spread {
        samples.sort_unstable();
        let Some(max) = samples.last() else { return Spread::default() };
        let ms = |ns: u64| ns as f64 / 1e6;
        let rank = |thousandths: usize| ms(samples[(samples.len() * thousandths).div_ceil(1000).max(1) - 1]);
        Spread {
            count: samples.len() as u64,
            mean_ms: samples.iter().map(|ns| ms(*ns)).sum::<f64>() / samples.len() as f64,
            p50_ms: rank(500),
            p90_ms: rank(900),
            p99_ms: rank(990),
            p999_ms: rank(999),
            max_ms: ms(*max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let spread = Spread::of((1..=1000).rev().map(|ms| ms * 1_000_000).collect());
        assert_eq!((spread.p50_ms, spread.p90_ms, spread.p99_ms, spread.p999_ms), (500.0, 900.0, 990.0, 999.0));
        assert_eq!((spread.count, spread.mean_ms, spread.max_ms), (1000, 500.5, 1000.0));
        let one = Spread::of(vec![2_000_000]);
        assert_eq!((one.p50_ms, one.p999_ms), (2.0, 2.0));
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
