//! Policies: pure functions from what is to what to do.
//!
//! A policy owns no driver, clock or thread. The scheduler shows it a [`View`] whenever something happened (online work
//! arrived or ended, a queue appeared, a wake-up it asked for is due) and carries out its [`Decision`]. So every
//! policy is tested on values and replayed from a trace.
//!
//! [`named`] makes one from text, for example `rate-bound:residency=5ms,floor=10%`; its `Display` writes that text
//! again.

mod lazy;
mod parameter;
mod rate_bound;
mod reserve;
mod slice;
mod unmap;

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::queue::{GpuId, PolicyFlags, QueueId};

pub use lazy::Lazy;
pub use parameter::Parameter;
pub use rate_bound::RateBound;
pub use reserve::Reserve;
pub use slice::Slice;
pub use unmap::Unmap;

use parameter::Given;

/// One offline queue as a policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfflineQueue {
    /// Its name.
    pub id: QueueId,
    /// Its node.
    pub gpu: GpuId,
    /// Whether this scheduler holds it unmapped.
    pub held: bool,
    /// When that last changed (machine time).
    pub since: Duration,
    /// Since when it is known to have no work (mapped: pointers equal and no waves; held: it was so when taken, and its
    /// write pointer has not moved); None = it has work, or nobody looked.
    pub idle_since: Option<Duration>,
}

/// What a policy decides on. All times are machine time.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Now.
    pub now: Duration,
    /// Online requests in flight in this domain.
    pub online: u32,
    /// When `online` last became non-zero.
    pub online_since: Option<Duration>,
    /// When `online` last became zero.
    pub quiet_since: Option<Duration>,
    /// The offline queues of this domain.
    pub offline: &'a [OfflineQueue],
    /// When a queue of this domain was last taken while none was held.
    pub last_unmap: Option<Duration>,
    /// When the last held queue of this domain came back.
    pub last_remap: Option<Duration>,
    /// When a rotation was last asked for.
    pub last_rotate: Option<Duration>,
    /// Most offline queues that a node maps at once, where a reservation is in force.
    pub offline_max: Option<u32>,
    /// How long the domain's offline queues were mapped in the sliding window (mean over its queues).
    pub offline_ran: Duration,
    /// Length of the sliding window, or the time since the domain began, if that is shorter.
    pub window: Duration,
}

impl View<'_> {
    /// The queues that are on the hardware.
    pub fn mapped(&self) -> impl Iterator<Item = &OfflineQueue> {
        self.offline.iter().filter(|queue| !queue.held)
    }

    /// The queues that are held.
    pub fn held(&self) -> impl Iterator<Item = &OfflineQueue> {
        self.offline.iter().filter(|queue| queue.held)
    }
}

pub(super) fn ids<'a>(queues: impl Iterator<Item = &'a OfflineQueue>) -> Vec<QueueId> {
    queues.map(|queue| queue.id).collect()
}

/// What to do. Queues named twice or in the wrong state do no harm: the verbs are idempotent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Take these off the hardware.
    pub unmap: Vec<QueueId>,
    /// Put these back.
    pub remap: Vec<QueueId>,
    /// Let those of these that are mapped but left out by a reservation take turns.
    pub rotate: Vec<QueueId>,
    /// Ask again at this time, if nothing happens before.
    pub again_at: Option<Duration>,
}

/// What a policy wants before the first request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Set on every offline queue.
    pub queue_policy: PolicyFlags,
    /// Percent of the slots for online queues and cap for offline queues.
    pub reservation: Option<(u32, u32)>,
    /// Length of the sliding window of [`View::offline_ran`].
    pub window: Option<Duration>,
    /// How often [`OfflineQueue::idle_since`] is found out; None = the policy does not use it.
    pub idle_poll: Option<Duration>,
}

/// Decides when offline queues leave the hardware and when they come back. Its `Display` is what [`named`] reads.
pub trait Policy: fmt::Debug + fmt::Display + Send + Sync {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// What it wants before the first request.
    fn setup(&self) -> Setup;

    /// What to do now. Pure: equal views give equal decisions.
    fn decide(&self, view: &View<'_>) -> Decision;
}

/// A policy that [`named`] knows.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    make: fn(&Given<'_>) -> Result<Box<dyn Policy>>,
}

/// Every policy that [`named`] knows.
pub const ALL: &[Kind] = &[unmap::KIND, reserve::KIND, lazy::KIND, slice::KIND, rate_bound::KIND];

/// A policy from its name and, after a colon, parameters: `slice:period=20ms,online=75%`.
///
/// # Errors
/// EINVAL names what is wrong and what it may be.
///
/// # Examples
/// ```
/// let policy = gpreempt::sched::policy::named("rate-bound:residency=10ms")?;
/// assert_eq!(policy.to_string(), "rate-bound:residency=10ms,coalesce=2ms,floor=10%,window=100ms");
/// # Ok::<(), gpreempt::Error>(())
/// ```
pub fn named(text: &str) -> Result<Box<dyn Policy>> {
    let (name, parameters) = text.split_once(':').unwrap_or((text, ""));
    let name = name.trim();
    let Some(kind) = ALL.iter().find(|kind| kind.name == name) else {
        let names: Vec<&str> = ALL.iter().map(|kind| kind.name).collect();
        return Err(Error::new("choosing a policy", Errno::EINVAL)
            .because(format!("there is no policy `{name}`"))
            .remedy(format!("policies: {}", names.join(", "))));
    };
    (kind.make)(&Given::parse(kind.name, kind.parameters, parameters)?)
}
