//! What can this machine do to a queue? One implementation per tier, one set of verbs.
//!
//! A driver knows how, never when or why: it has no queue classes, no policies and no clock. Each verb is idempotent.

pub mod agent;
mod call;
pub mod debugger;
mod grace;
pub mod look;
pub mod patched;
pub(crate) mod probe;
mod targets;
pub mod tiered;
mod vm_guard;

use std::fmt;
use std::time::Duration;

use bitflags::bitflags;
use nix::errno::Errno;

use crate::error::Result;
use crate::queue::{GpuId, HqdStatus, Pid, PolicyFlags, QueueId, QueueState, QueueType, Reservation};

/// How a target's queues are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The gpreempt KFD series.
    Patched,
    /// An agent in the target on a stock kernel.
    Agent,
    /// DBG_TRAP on a stock kernel.
    Debugger,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Patched => "patched",
            Tier::Agent => "agent",
            Tier::Debugger => "debugger",
        })
    }
}

bitflags! {
    /// What a driver can do beyond unmap and remap.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Capabilities: u32 {
        /// Slot reservation.
        const RESERVATION = 1;
        /// Events.
        const EVENTS = 2;
        /// Read and write pointers in queue status.
        const POINTERS = 4;
        /// Live wave counts in queue status.
        const WAVES = 8;
        /// Unmap and remap in one round.
        const SWAP = 16;
        /// Queue and target policies.
        const POLICY = 32;
        /// Queue status.
        const STATUS = 64;
        /// Node status.
        const SLOTS = 128;
        /// Queues that a target creates during a hold of all its queues start held.
        const HOLD_NEW = 256;
    }
}

/// Names queues: one queue, or all of a process; on one node, or on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Owner.
    pub pid: Pid,
    /// One queue, or None for all of the process.
    pub queue: Option<u32>,
    /// One node, or [`GpuId::ALL`].
    pub gpu: GpuId,
    /// With all queues: queues created later start held, too.
    pub hold_new: bool,
    /// Only where idle.
    pub if_idle: bool,
    /// The process that started then ([`Driver::started`]) and no later one that got its pid. None: the process that
    /// had the pid when it was attached.
    pub started: Option<Duration>,
}

impl Selector {
    /// One queue.
    pub fn queue(queue: QueueId) -> Selector {
        Selector { queue: Some(queue.id), ..Selector::process(queue.pid) }
    }

    /// All queues of a process.
    pub fn process(pid: Pid) -> Selector {
        Selector { pid, queue: None, gpu: GpuId::ALL, hold_new: false, if_idle: false, started: None }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.queue {
            Some(id) => write!(f, "queue {id} of pid {}", self.pid)?,
            None => write!(f, "all queues of pid {}", self.pid)?,
        }
        if self.gpu != GpuId::ALL {
            write!(f, " on {}", self.gpu)?;
        }
        Ok(())
    }
}

/// What a batch did to one selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was asked for.
    pub selector: Selector,
    /// None: done.
    pub errno: Option<Errno>,
    /// Queues now in the wanted state.
    pub queues: u32,
    /// State of the last of them.
    pub state: QueueState,
}

/// What one batch command did, and what it cost as the driver reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// One per selector, in order.
    pub outcomes: Vec<Outcome>,
    /// Nodes with at least one named queue.
    pub nodes: u32,
    /// Nodes whose runlist was executed.
    pub rounds: u32,
    /// The whole call.
    pub elapsed: Duration,
    /// The slowest node of it.
    pub slowest_node: Duration,
    /// The grace period that was used, on the fastest node; zero = the driver's default.
    pub grace: Duration,
}

/// State of one queue as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// Which.
    pub queue: QueueId,
    /// Its node.
    pub gpu: GpuId,
    /// Kind.
    pub kind: QueueType,
    /// State.
    pub state: QueueState,
    /// Policy in force.
    pub policy: PolicyFlags,
    /// KFD priority, 0 to 15, where the driver can tell.
    pub priority: Option<u32>,
    /// KFD percentage, where the driver can tell.
    pub percent: Option<u32>,
    /// Ring address in the owner.
    pub ring_base: u64,
    /// Read and write pointer, where asked for and readable.
    pub pointers: Option<(u64, u64)>,
    /// Live waves, where asked for and readable.
    pub waves: Option<u32>,
    /// How long it has been held.
    pub held: Duration,
}

/// What to read for a queue status beyond its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Read and write pointers.
    pub pointers: bool,
    /// Live waves (slow: not for polling).
    pub waves: bool,
}

/// Something happened on an attached target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// On which target, where known.
    pub pid: Option<Pid>,
    /// When that process started ([`Driver::started`]), where the driver can tell: a later process may have its pid.
    pub started: Option<Duration>,
    /// On which node, [`GpuId::ALL`] where it has none.
    pub gpu: GpuId,
    /// Which queue, where it is about one.
    pub queue: Option<u32>,
    /// Events dropped before this one.
    pub lost: u32,
    /// Machine time.
    pub time: Duration,
}

/// Kinds of [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A target created a queue.
    QueueCreated,
    /// A target destroyed a queue.
    QueueDestroyed,
    /// A target exited.
    TargetExited,
    /// The watchdog gave a queue back.
    HoldExpired,
    /// A node was reset.
    NodeReset,
    /// A node's runlist holds more than it can map.
    Oversubscribed,
}

/// The verbs. Implementations are thread-safe; a call may block for as long as the hardware takes.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Which tier this is.
    fn tier(&self) -> Tier;

    /// What it can do, for some target at least.
    fn capabilities(&self) -> Capabilities;

    /// All tiers that processes can be reached by, best first.
    fn tiers(&self) -> Vec<Tier> {
        vec![self.tier()]
    }

    /// Which tier a process is reached by. None where it is not attached and several are possible.
    fn tier_of(&self, _pid: Pid) -> Option<Tier> {
        Some(self.tier())
    }

    /// What it can do to the queues of a process.
    fn capabilities_of(&self, _pid: Pid) -> Capabilities {
        self.capabilities()
    }

    /// Longest hold without a heartbeat, after which queues run again by themselves; None where there is no watchdog.
    fn max_hold(&self) -> Option<Duration>;

    /// Most selectors that one call takes.
    fn max_batch(&self) -> usize;

    /// Makes a process a target; returns how many queues it has. Attaching twice is fine. Other verbs attach by
    /// themselves; attach early to get events and to hold new queues. A pid stays bound to the process that had it when
    /// it was attached: after that process is gone the other verbs answer ESRCH, and only attaching again binds the pid
    /// to a process that got it since.
    ///
    /// # Errors
    /// ESRCH, EPERM.
    fn attach(&self, pid: Pid) -> Result<u32>;

    /// As [`Driver::attach`] for looking only: does not attach where that would disturb the process or others.
    ///
    /// # Errors
    /// EOPNOTSUPP where it would; else as [`Driver::attach`].
    fn glance(&self, pid: Pid) -> Result<u32> {
        self.attach(pid)
    }

    /// When the process that a pid is bound to started: its identity beside the pid. None where it is not attached and
    /// attaching it would tell something else than now is known.
    fn started(&self, _pid: Pid) -> Option<Duration> {
        None
    }

    /// Gives back everything held of a target and forgets it.
    ///
    /// # Errors
    /// ESRCH where it was never attached.
    fn detach(&self, pid: Pid) -> Result<()>;

    /// Unmaps. `grace`: how long waves may finish by themselves before CWSR saves them; zero = the driver's default.
    ///
    /// # Errors
    /// The call as a whole; what befell one selector is in its [`Outcome`].
    fn unmap(&self, selectors: &[Selector], grace: Duration) -> Result<Batch>;

    /// Maps what this driver unmapped.
    ///
    /// # Errors
    /// As [`Driver::unmap`].
    fn remap(&self, selectors: &[Selector]) -> Result<Batch>;

    /// Unmaps some and maps others, in one round where all their owners are reached by a tier that can. Outcomes: first those of `unmap`, then those of `remap`.
    ///
    /// # Errors
    /// As [`Driver::unmap`]; EOPNOTSUPP without [`Capabilities::SWAP`].
    fn swap(&self, unmap: &[Selector], remap: &[Selector], grace: Duration) -> Result<Batch>;

    /// Changes the policy of a queue or of all queues of a target, present and future; returns what is in force.
    ///
    /// # Errors
    /// EOPNOTSUPP without [`Capabilities::POLICY`]; EBUSY where another lease set one; EPERM, ESRCH, ENOENT.
    fn set_policy(&self, selector: Selector, set: PolicyFlags, clear: PolicyFlags) -> Result<PolicyFlags>;

    /// Caps the active PREEMPTIBLE queues of a node (or of all) at `offline_percent` of its slots.
    ///
    /// # Errors
    /// EOPNOTSUPP without [`Capabilities::RESERVATION`]; EINVAL where percentages sum to over 100; EPERM, EBUSY, ENOENT.
    fn set_reservation(&self, gpu: GpuId, online_percent: u32, offline_percent: u32) -> Result<Reservation>;

    /// Slots of one node.
    ///
    /// # Errors
    /// EOPNOTSUPP without [`Capabilities::SLOTS`]; ENOENT.
    fn node_status(&self, gpu: GpuId) -> Result<HqdStatus>;

    /// State of the queues that a selector names.
    ///
    /// # Errors
    /// EOPNOTSUPP without [`Capabilities::STATUS`]; ESRCH, ENOENT, EPERM.
    fn queue_status(&self, selector: Selector, want: Want) -> Result<Vec<QueueStatus>>;

    /// Events since the last call, without waiting.
    ///
    /// # Errors
    /// EOPNOTSUPP without [`Capabilities::EVENTS`]; EBADF where the lease is dead.
    fn events(&self) -> Result<Vec<Event>>;

    /// Closes this driver's files in a forked child, without a lock and without a command: what the parent holds stays
    /// held. Every verb answers EBADF afterwards.
    fn abandon(&self);
}
