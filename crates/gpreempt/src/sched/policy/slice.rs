//! Online and offline share time: an online window is bounded by a slice, and pays for itself.
//!
//! However long online work lasts, offline queues come back after the online slice. Before the next online window
//! they get their share of what the last one took, so a short window costs online work a short wait, and under
//! saturation the two sides get exactly their shares.

use std::fmt;
use std::time::Duration;

use super::parameter::{Given, Parameter, show};
use super::{Decision, Kind, Policy, Setup, View, ids};
use crate::error::Result;
use crate::queue::PolicyFlags;

pub(super) const KIND: Kind = Kind {
    name: "slice",
    summary: "shares time between online and offline work by fixed shares",
    parameters: &[
        Parameter { name: "period", default: "20ms", summary: "an online slice and an offline slice together" },
        Parameter { name: "online", default: "75%", summary: "share of the period that online work gets, 1% to 99%" },
    ],
    make: |given| Ok(Box::new(Slice::from_given(given)?)),
};

/// Shares time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// An online slice and an offline slice together.
    pub period: Duration,
    /// Share of the period that online work gets, percent, 1 to 99.
    pub online_percent: u32,
}

impl Default for Slice {
    fn default() -> Slice {
        Slice { period: Duration::from_millis(20), online_percent: 75 }
    }
}

impl Slice {
    fn from_given(given: &Given<'_>) -> Result<Slice> {
        let default = Slice::default();
        Ok(Slice {
            period: given.positive("period", default.period)?,
            online_percent: given.percent("online", default.online_percent, 1..=99)?,
        })
    }

    fn online_slice(&self) -> Duration {
        self.period * self.online_percent / 100
    }

    /// What offline queues are owed for having been held this long.
    fn owed(&self, held: Duration) -> Duration {
        held * (100 - self.online_percent) / self.online_percent
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:period={},online={}%", KIND.name, show(self.period), self.online_percent)
    }
}

impl Policy for Slice {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn setup(&self) -> Setup {
        Setup { queue_policy: PolicyFlags::PREEMPTIBLE, ..Setup::default() }
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        let remap = || Decision { remap: ids(view.held()), ..Decision::default() };
        if view.online == 0 {
            return remap();
        }
        if view.held().next().is_some() {
            let end = view.last_unmap.map_or(view.now, |taken| taken + self.online_slice());
            if view.now < end {
                return Decision { unmap: ids(view.mapped()), again_at: Some(end), ..Decision::default() };
            }
            // Asking again is what ends the offline slice: its length is known once the remap is done.
            return Decision { again_at: Some(view.now + self.owed(self.online_slice())), ..remap() };
        }
        let begin = match (view.last_unmap, view.last_remap) {
            (Some(taken), Some(back)) => back + self.owed(back.saturating_sub(taken)),
            _ => view.now,
        };
        if view.now < begin {
            return Decision { again_at: Some(begin), ..Decision::default() };
        }
        Decision { unmap: ids(view.mapped()), again_at: Some(view.now + self.online_slice()), ..Decision::default() }
    }
}
