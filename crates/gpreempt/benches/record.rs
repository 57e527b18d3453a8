//! What it costs to record one batch in the statistics.

use std::time::{Duration, Instant};

use gpreempt::driver::{Batch, Outcome, Selector};
use gpreempt::stats::{Operation, Stats};
use gpreempt::{QueueState, session};

const CALLS: u64 = 1_000_000;

fn main() {
    let selector = Selector::process(7);
    let outcome = Outcome { selector, errno: None, queues: session::MAX_QUEUES as u32, state: QueueState::empty() };
    let us = Duration::from_micros;
    let batch = Batch {
        outcomes: vec![outcome],
        nodes: 2,
        rounds: 2,
        elapsed: us(400),
        slowest_node: us(390),
        ..Batch::default()
    };
    let stats = Stats::new();
    let begin = Instant::now();
    for call in 0..CALLS {
        stats.record_batch(Operation::Unmap, us(500 + call % 100), &batch);
    }
    let each = begin.elapsed().as_nanos() as f64 / CALLS as f64;
    assert_eq!(stats.report().operations[&Operation::Unmap].calls, CALLS);
    println!("record a batch in the statistics: mean of {CALLS} {each:.0} ns (measured on this machine)");
}
