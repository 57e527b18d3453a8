//! Policies: pure functions from what is to what to do.
//!
//! A policy owns no driver, clock or thread. The scheduler shows it a [`View`] whenever something happened (online work
//! arrived or ended, a queue appeared, a wake-up it asked for is due) and carries out its [`Decision`]. So every
//! policy is tested on values and replayed from a trace.

use std::fmt;
use std::time::Duration;

use crate::queue::{GpuId, PolicyFlags, QueueId};

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
    /// Pointers equal and no waves, as far as known.
    pub idle: bool,
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
    /// When this domain was last unmapped.
    pub last_unmap: Option<Duration>,
    /// When this domain was last mapped.
    pub last_remap: Option<Duration>,
    /// How long the domain's offline queues could run (were mapped) in the current accounting window.
    pub offline_ran: Duration,
    /// Length of the accounting window so far.
    pub window: Duration,
}

/// What to do. Queues named twice or in the wrong state do no harm: the verbs are idempotent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Take these off the hardware.
    pub unmap: Vec<QueueId>,
    /// Put these back.
    pub remap: Vec<QueueId>,
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
}

/// Decides when offline queues leave the hardware and when they come back.
pub trait Policy: fmt::Debug + Send + Sync {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// What it wants before the first request.
    fn setup(&self) -> Setup;

    /// What to do now. Pure: equal views give equal decisions.
    fn decide(&self, view: &View<'_>) -> Decision;
}
