//! Synthetic arrivals: exponential gaps from a seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Arrivals, Request, ServiceModel, ns_of};

/// Uniform in [0, 1), from the upper 53 bits, so that every platform draws the same.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Exponential gaps of a Poisson process, ns.
pub(super) struct Gaps {
    rng: ChaCha8Rng,
    per_second: f64,
}

impl Gaps {
    pub(super) fn new(per_second: f64, seed: u64) -> Gaps {
        Gaps { rng: ChaCha8Rng::seed_from_u64(seed), per_second }
    }
}

impl Iterator for Gaps {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        Some(ns_of(-(1.0 - uniform(&mut self.rng)).ln() / self.per_second * 1e9))
    }
}

/// `count` equal requests with exponential gaps, `per_second` of them on average.
pub fn poisson(per_second: f64, count: usize, service: &ServiceModel, seed: u64) -> Arrivals {
    let mut now = 0u64;
    let requests: Vec<Request> = Gaps::new(per_second, seed)
        .take(count)
        .map(|gap| {
            now = now.saturating_add(gap);
            Request { at_ns: now, work: service.request() }
        })
        .collect();
    Arrivals {
        source: format!("synthetic Poisson, {per_second} requests/s"),
        assumptions: vec![service.request_assumption()],
        requests,
        span_ns: now,
        ..Arrivals::default()
    }
}
