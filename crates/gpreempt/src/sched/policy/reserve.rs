//! A reservation keeps slots free, so online work never waits and offline work stays mapped, within a cap.
//!
//! Where more offline queues exist than the cap admits, the driver leaves some out; this policy sets the pace at which
//! they take turns, so that each makes progress within (queues / cap, rounded up) slices.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::parameter::{Given, Parameter, show};
use super::{Decision, Kind, Policy, Setup, View, ids};
use crate::error::Result;
use crate::queue::{GpuId, PolicyFlags};

pub(super) const KIND: Kind = Kind {
    name: "reserve",
    summary: "keeps slots free for online queues and offline queues mapped within a cap, taking turns",
    parameters: &[
        Parameter { name: "online", default: "10%", summary: "share of a node's slots kept for online queues" },
        Parameter { name: "offline", default: "80%", summary: "share of a node's slots that offline queues may use" },
        Parameter { name: "slice", default: "100ms", summary: "how often offline queues beyond the cap take turns" },
    ],
    make: |given| Ok(Box::new(Reserve::from_given(given)?)),
};

/// Reserves slots; unmaps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Share of a node's slots kept for online queues, percent.
    pub online_percent: u32,
    /// Share of a node's slots that offline queues may use, percent.
    pub offline_percent: u32,
    /// How often offline queues beyond the cap take turns.
    pub slice: Duration,
}

impl Default for Reserve {
    fn default() -> Reserve {
        Reserve { online_percent: 10, offline_percent: 80, slice: Duration::from_millis(100) }
    }
}

impl Reserve {
    fn from_given(given: &Given<'_>) -> Result<Reserve> {
        let default = Reserve::default();
        let online_percent = given.percent("online", default.online_percent, 0..=100)?;
        let offline_percent = given.percent("offline", default.offline_percent, 0..=100)?;
        if online_percent + offline_percent > 100 {
            return Err(given.wrong(format!("online {online_percent}% and offline {offline_percent}% exceed 100%")));
        }
        Ok(Reserve { online_percent, offline_percent, slice: given.positive("slice", default.slice)? })
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reserve { online_percent, offline_percent, slice } = self;
        write!(f, "{}:online={online_percent}%,offline={offline_percent}%,slice={}", KIND.name, show(*slice))
    }
}

impl Policy for Reserve {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn setup(&self) -> Setup {
        Setup {
            queue_policy: PolicyFlags::PREEMPTIBLE,
            reservation: Some((self.online_percent, self.offline_percent)),
            ..Setup::default()
        }
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        let mut decision = Decision { remap: ids(view.held()), ..Decision::default() };
        let Some(cap) = view.offline_max else { return decision };
        let mut per_node: BTreeMap<GpuId, u32> = BTreeMap::new();
        for queue in view.offline {
            *per_node.entry(queue.gpu).or_default() += 1;
        }
        per_node.retain(|_, queues| *queues > cap);
        if per_node.is_empty() {
            return decision;
        }
        let due = view.last_rotate.map_or(view.now, |last| last + self.slice);
        if view.now >= due {
            decision.rotate = ids(view.mapped().filter(|queue| per_node.contains_key(&queue.gpu)));
            decision.again_at = Some(view.now + self.slice);
        } else {
            decision.again_at = Some(due);
        }
        decision
    }
}
