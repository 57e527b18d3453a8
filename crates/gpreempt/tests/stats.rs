//! Statistics: what was recorded is what is reported, in the units that the names say.

use std::time::Duration;

use gpreempt::QueueState;
use gpreempt::driver::{Batch, Outcome, Selector};
use gpreempt::stats::{Operation, Phase, Stats};
use nix::errno::Errno;

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn batch(elapsed: u64, queues: u32, errno: Option<Errno>) -> Batch {
    let outcome = Outcome { selector: Selector::process(7), errno, queues, state: QueueState::empty() };
    Batch {
        outcomes: vec![outcome],
        nodes: 2,
        rounds: 2,
        elapsed: us(elapsed),
        slowest_node: us(elapsed - 10),
        ..Batch::default()
    }
}

#[test]
fn a_call_is_split_into_its_phases() {
    let stats = Stats::new();
    for n in 1..=1000 {
        stats.record_batch(Operation::Unmap, us(500 + n), &batch(400 + n, 12, None));
    }
    let report = stats.report();
    let unmap = &report.operations[&Operation::Unmap];
    assert_eq!((unmap.calls, unmap.failed, report.operations.len()), (1000, 0, 1));
    let close = |phase, p50: f64, p999: f64| {
        let latency = unmap.phases[&phase];
        assert_eq!(latency.count, 1000);
        assert!((latency.p50_us / p50 - 1.0).abs() < 2e-3, "{phase:?}: {}", latency.p50_us);
        assert!((latency.p999_us / p999 - 1.0).abs() < 2e-3, "{phase:?}: {}", latency.p999_us);
        assert!(
            latency.min_us <= latency.p50_us && latency.p99_us <= latency.p999_us && latency.p999_us <= latency.max_us
        );
    };
    close(Phase::Total, 1000.0, 1499.0);
    close(Phase::Driver, 900.0, 1399.0);
    close(Phase::SlowestNode, 890.0, 1389.0);
    close(Phase::Overhead, 100.0, 100.0);
    assert!(!unmap.phases.contains_key(&Phase::Wait));
    assert_eq!((unmap.queues.total, unmap.queues.p50, unmap.rounds.max, unmap.nodes.mean), (12_000, 12, 2, 2.0));
}

#[test]
fn failures_are_counted_and_do_not_pollute_the_driver_phase() {
    let stats = Stats::new();
    stats.record_batch(Operation::Remap, us(600), &batch(500, 0, Some(Errno::EPERM)));
    stats.record_failure(Operation::Remap, us(3));
    let remap = &stats.report().operations[&Operation::Remap];
    assert_eq!((remap.calls, remap.failed), (2, 2));
    assert_eq!((remap.phases[&Phase::Total].count, remap.phases[&Phase::Driver].count), (2, 1));
}

#[test]
fn merging_adds_and_resetting_forgets() {
    let (one, other) = (Stats::new(), Stats::new());
    one.record_online(us(5), us(2000));
    other.record_online(us(50), us(900_000_000));
    one.merge(&other);
    one.merge(&Stats::new());
    let online = &one.report().operations[&Operation::Online];
    assert_eq!((online.calls, online.phases[&Phase::Wait].count), (2, 2));
    assert!((online.phases[&Phase::Total].max_us / 9e8 - 1.0).abs() < 2e-3, "15 minutes fit");
    other.merge(&other);
    assert_eq!(other.report().operations[&Operation::Online].calls, 2, "even with itself");
    one.reset();
    assert!(one.report().operations.is_empty());
}

#[test]
fn the_report_is_json_with_units_in_its_names() {
    let stats = Stats::new();
    stats.record_batch(Operation::Swap, us(100), &batch(90, 3, None));
    let json = serde_json::to_value(stats.report()).unwrap();
    let swap = &json["operations"]["swap"];
    assert_eq!(swap["phases"]["slowest-node"]["count"], 1);
    assert!(swap["phases"]["total"]["p99_us"].as_f64().is_some_and(|p99| (p99 - 100.0).abs() < 0.1));
    assert_eq!(swap["queues"]["total"], 3);
}
