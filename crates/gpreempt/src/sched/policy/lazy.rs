//! Offline queues start inactive and hold a slot only while they have work and no online work is in flight.

use std::fmt;
use std::time::Duration;

use super::parameter::{Given, Parameter, show};
use super::{Decision, Kind, Policy, Setup, View, ids};
use crate::error::Result;
use crate::queue::PolicyFlags;

pub(super) const KIND: Kind = Kind {
    name: "lazy",
    summary: "maps an offline queue only while it has work and nobody is online",
    parameters: &[
        Parameter {
            name: "linger",
            default: "0",
            summary: "how long the domain must be quiet before offline queues come back",
        },
        Parameter { name: "idle", default: "10ms", summary: "how long a queue must have no work before it leaves" },
        Parameter {
            name: "poll",
            default: "5ms",
            summary: "how often queues are looked at; a waking queue waits that long",
        },
    ],
    make: |given| Ok(Box::new(Lazy::from_given(given)?)),
};

/// Maps on work, unmaps on idleness and on online work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lazy {
    /// How long the domain must be quiet before offline queues come back.
    pub linger: Duration,
    /// How long a queue must have no work before it leaves.
    pub idle: Duration,
    /// How often queues are looked at.
    pub poll: Duration,
}

impl Default for Lazy {
    fn default() -> Lazy {
        Lazy { linger: Duration::ZERO, idle: Duration::from_millis(10), poll: Duration::from_millis(5) }
    }
}

impl Lazy {
    fn from_given(given: &Given<'_>) -> Result<Lazy> {
        let default = Lazy::default();
        Ok(Lazy {
            linger: given.duration("linger", default.linger)?,
            idle: given.duration("idle", default.idle)?,
            poll: given.positive("poll", default.poll)?,
        })
    }
}

impl fmt::Display for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lazy { linger, idle, poll } = self;
        write!(f, "{}:linger={},idle={},poll={}", KIND.name, show(*linger), show(*idle), show(*poll))
    }
}

impl Policy for Lazy {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn setup(&self) -> Setup {
        Setup { queue_policy: PolicyFlags::all(), idle_poll: Some(self.poll), ..Setup::default() }
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        if view.online > 0 {
            return Decision { unmap: ids(view.mapped()), ..Decision::default() };
        }
        let mut decision = Decision::default();
        let mut again = |at: Duration| decision.again_at = Some(decision.again_at.map_or(at, |other| other.min(at)));

        let back = view.quiet_since.map_or(view.now, |quiet| quiet.saturating_add(self.linger));
        let mut waking = view.held().filter(|queue| queue.idle_since.is_none()).peekable();
        if view.now >= back {
            decision.remap = ids(waking);
        } else if waking.peek().is_some() {
            again(back);
        }
        for queue in view.mapped() {
            let Some(idle_since) = queue.idle_since else { continue };
            let leave = idle_since + self.idle;
            if view.now >= leave { decision.unmap.push(queue.id) } else { again(leave) }
        }
        decision
    }
}
