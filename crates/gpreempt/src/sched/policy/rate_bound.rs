//! `unmap` with bounds: preemption costs a round on every node, so it may not happen often, and training may not
//! starve.
//!
//! A burst is a run of online requests whose gaps are shorter than `coalesce`; it is preempted for once. Offline queues
//! that came back stay for `residency` at least. And in every full `window` they are mapped for the `floor` at least
//! (up to the time that one remap takes): a burst that lasts is interrupted, which ends it as a quiet gap does. There
//! are as many short interruptions in a window as the residency admits, rather than a long one.

use std::fmt;
use std::time::Duration;

use super::parameter::{Given, Parameter, show};
use super::{Decision, Kind, Policy, Setup, View, ids};
use crate::error::Result;
use crate::queue::PolicyFlags;

pub(super) const KIND: Kind = Kind {
    name: "rate-bound",
    summary: "unmap, at most once per burst, with a minimum residency and a floor for offline work",
    parameters: &[
        Parameter {
            name: "residency",
            default: "5ms",
            summary: "shortest time that offline queues stay once they are back",
        },
        Parameter { name: "coalesce", default: "2ms", summary: "requests with shorter gaps than this are one burst" },
        Parameter {
            name: "floor",
            default: "10%",
            summary: "least share of the window that offline queues are mapped",
        },
        Parameter { name: "window", default: "100ms", summary: "length of the sliding window of the floor" },
    ],
    make: |given| Ok(Box::new(RateBound::from_given(given)?)),
};

/// `unmap` with bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateBound {
    /// Shortest time that offline queues stay once they are back.
    pub residency: Duration,
    /// Requests with shorter gaps than this are one burst.
    pub coalesce: Duration,
    /// Least share of the window that offline queues are mapped, percent; 0 = no floor.
    pub floor_percent: u32,
    /// Length of the sliding window of the floor.
    pub window: Duration,
}

impl Default for RateBound {
    fn default() -> RateBound {
        RateBound {
            residency: Duration::from_millis(5),
            coalesce: Duration::from_millis(2),
            floor_percent: 10,
            window: Duration::from_millis(100),
        }
    }
}

impl RateBound {
    fn from_given(given: &Given<'_>) -> Result<RateBound> {
        let default = RateBound::default();
        let policy = RateBound {
            residency: given.duration("residency", default.residency)?,
            coalesce: given.duration("coalesce", default.coalesce)?,
            floor_percent: given.percent("floor", default.floor_percent, 0..=99)?,
            window: given.positive("window", default.window)?,
        };
        if policy.budget().is_zero() {
            let (window, floor) = (show(policy.window), policy.floor_percent);
            return Err(given.wrong(format!("a window of {window} leaves no time beside a floor of {floor}%")));
        }
        Ok(policy)
    }

    /// How long offline queues may be held in a window.
    fn budget(&self) -> Duration {
        self.window * (100 - self.floor_percent) / 100
    }

    /// Part of the budget that steady interruptions leave alone; with none, every hold would begin with nothing left.
    fn margin(&self) -> Duration {
        self.budget().min(self.window - self.budget()) / 8
    }

    /// Interruptions of a burst in one window.
    fn interruptions(&self) -> u32 {
        let floor = self.window - self.budget();
        let most = floor.as_nanos() / self.residency.as_nanos().max(1);
        u32::try_from(most).unwrap_or(u32::MAX).clamp(1, 64)
    }

    /// Longest hold. Holds of this length, each with what it owes, keep the floor in every window.
    fn longest(&self) -> Duration {
        (self.budget() - self.margin()) / self.interruptions()
    }

    /// What a hold owes to offline queues before the next one.
    fn owed(&self, held: Duration) -> Duration {
        if self.floor_percent == 0 {
            return Duration::ZERO;
        }
        let mapped = self.window - self.budget() + self.margin();
        held.mul_f64(mapped.as_secs_f64() / (self.budget() - self.margin()).as_secs_f64())
    }

    /// What is left of the budget; None = there is no floor.
    fn left(&self, view: &View<'_>) -> Option<Duration> {
        let held = view.window.saturating_sub(view.offline_ran);
        (self.floor_percent > 0).then(|| self.budget().saturating_sub(held))
    }

    fn while_held(&self, view: &View<'_>) -> Decision {
        let quiet_until = match view.quiet_since {
            _ if view.online > 0 => None,
            None => Some(view.now),
            Some(quiet) => Some(quiet + self.coalesce),
        };
        let interrupted_at = self.left(view).map(|left| {
            let longest = view.last_unmap.map_or(view.now, |taken| taken + self.longest());
            longest.min(view.now + left)
        });
        let end = [quiet_until, interrupted_at].into_iter().flatten().min();
        if end.is_some_and(|end| view.now >= end) {
            // Asking again is what ends the interruption: its length is known once the remap is done.
            let again_at = (view.online > 0).then(|| view.now + self.residency.max(self.margin()));
            return Decision { remap: ids(view.held()), again_at, ..Decision::default() };
        }
        let stragglers = if view.online > 0 { ids(view.mapped()) } else { Vec::new() };
        Decision { unmap: stragglers, again_at: end, ..Decision::default() }
    }

    fn while_mapped(&self, view: &View<'_>) -> Decision {
        if view.online == 0 || view.offline.is_empty() {
            return Decision::default();
        }
        let resident_until = match (view.last_unmap, view.last_remap) {
            (Some(taken), Some(back)) => back + self.residency.max(self.owed(back.saturating_sub(taken))),
            _ => view.now,
        };
        let short = self.left(view).filter(|left| *left < self.margin() / 2);
        let paid_until = short.map_or(view.now, |_| view.now + self.margin() / 2);
        let begin = resident_until.max(paid_until);
        if view.now < begin {
            return Decision { again_at: Some(begin), ..Decision::default() };
        }
        let again_at = self.left(view).map(|left| view.now + left.min(self.longest()));
        Decision { unmap: ids(view.mapped()), again_at, ..Decision::default() }
    }
}

impl fmt::Display for RateBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RateBound { residency, coalesce, floor_percent, window } = self;
        let (residency, coalesce, window) = (show(*residency), show(*coalesce), show(*window));
        write!(f, "{}:residency={residency},coalesce={coalesce},floor={floor_percent}%,window={window}", KIND.name)
    }
}

impl Policy for RateBound {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn setup(&self) -> Setup {
        Setup { queue_policy: PolicyFlags::PREEMPTIBLE, window: Some(self.window), ..Setup::default() }
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        if view.held().next().is_some() { self.while_held(view) } else { self.while_mapped(view) }
    }
}
