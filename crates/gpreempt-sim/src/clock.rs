//! How machine time relates to the wall.

use std::time::{Duration, Instant};

use crate::config::ClockKind;

/// Below this the operating system's sleep is too coarse, and a waiter yields instead.
const COARSE: Duration = Duration::from_micros(100);

/// Tells and makes time.
#[derive(Debug)]
pub(crate) enum Clock {
    /// Machine time is the time since this instant.
    Real(Instant),
    /// Machine time is what the machine says it is.
    Virtual,
}

impl Clock {
    pub(crate) fn new(kind: ClockKind) -> Clock {
        match kind {
            ClockKind::Real => Clock::Real(Instant::now()),
            ClockKind::Virtual => Clock::Virtual,
        }
    }

    /// The wall's idea of machine time, ns; None where the machine decides.
    pub(crate) fn wall(&self) -> Option<u64> {
        match self {
            Clock::Real(boot) => Some(u64::try_from(boot.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            Clock::Virtual => None,
        }
    }

    /// On a real clock, waits for the wall to reach `time`.
    pub(crate) fn sleep_until(&self, time: u64) {
        let Clock::Real(boot) = self else { return };
        let end = *boot + Duration::from_nanos(time);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if left > COARSE { std::thread::sleep(left - COARSE) } else { std::thread::yield_now() }
        }
    }
}
