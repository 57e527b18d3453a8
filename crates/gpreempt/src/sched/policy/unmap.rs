//! All offline queues leave in one batch when online work arrives, and come back in one batch when it is done.

use std::fmt;
use std::time::Duration;

use super::parameter::{Given, Parameter, show};
use super::{Decision, Kind, Policy, Setup, View, ids};
use crate::error::Result;
use crate::queue::PolicyFlags;

pub(super) const KIND: Kind = Kind {
    name: "unmap",
    summary: "unmaps all offline queues in one batch when online work arrives, maps them when it is done",
    parameters: &[Parameter {
        name: "linger",
        default: "0",
        summary: "how long the domain must be quiet before offline queues come back",
    }],
    make: |given| Ok(Box::new(Unmap::from_given(given)?)),
};

/// Unmaps on arrival, maps when quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmap {
    /// How long the domain must be quiet before offline queues come back.
    pub linger: Duration,
}

impl Unmap {
    fn from_given(given: &Given<'_>) -> Result<Unmap> {
        Ok(Unmap { linger: given.duration("linger", Duration::ZERO)? })
    }
}

impl fmt::Display for Unmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:linger={}", KIND.name, show(self.linger))
    }
}

impl Policy for Unmap {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn setup(&self) -> Setup {
        Setup { queue_policy: PolicyFlags::PREEMPTIBLE, ..Setup::default() }
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        if view.online > 0 {
            return Decision { unmap: ids(view.mapped()), ..Decision::default() };
        }
        let due = view.quiet_since.map_or(view.now, |quiet| quiet.saturating_add(self.linger));
        if view.now >= due {
            return Decision { remap: ids(view.held()), ..Decision::default() };
        }
        Decision { again_at: view.held().next().map(|_| due), ..Decision::default() }
    }
}
