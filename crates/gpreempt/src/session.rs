//! One opened machine: what the C library and the Python package are thin skins of.
//!
//! Here live the rules every surface shares: queue handles, argument checks, and what a batch on a partly dead set does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::driver::{Batch, Driver};
use crate::error::Result;
use crate::host::Host;
use crate::queue::{GpuId, HqdStatus, Pid, PolicyFlags, QueueClass, QueueId, QueueInfo, Reservation, UnmapFlags};

/// First handle of a queue of another process; numbers below 1024 are KFD ids of this process's own queues.
pub const FIRST_HANDLE: u32 = 0x1_0000;

/// Most queues in one call.
pub const MAX_QUEUES: usize = 1024;

/// Which machine to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The best tier of the real machine; the simulated machine only where there is no `/dev/kfd` (said once on stderr).
    #[default]
    Auto,
    /// The gpreempt KFD series, or an error.
    Patched,
    /// The simulated machine.
    Sim,
}

/// Chooses and configures the machine of a [`Session`].
#[derive(Clone, Debug, Default)]
pub struct SessionBuilder {
    /// Which machine.
    pub backend: Backend,
    /// Simulated machine: `real` or `virtual` clock.
    pub sim_virtual_clock: bool,
    /// Simulated machine: cost model, by name or path; None = `design`.
    pub sim_cost_model: Option<String>,
    /// Simulated machine: scenario file; None = the built-in default.
    pub sim_scenario: Option<PathBuf>,
    /// Simulated machine: no processes at all.
    pub sim_empty: bool,
    /// Simulated machine: a recorded topology tree.
    pub sim_topology: Option<PathBuf>,
    /// Simulated machine: seed.
    pub sim_seed: u64,
}

/// One opened machine. All methods may be called from any thread.
#[derive(Debug)]
pub struct Session {}

#[expect(unused_variables, reason = "signatures first")]
impl SessionBuilder {
    /// As the environment says: `GPREEMPT_BACKEND` (auto, patched, sim), `GPREEMPT_SIM_CLOCK` (real, virtual),
    /// `GPREEMPT_SIM_COST_MODEL`, `GPREEMPT_SIM_SCENARIO` (a file, or `empty`), `GPREEMPT_SIM_TOPOLOGY`, `GPREEMPT_SIM_SEED`.
    ///
    /// # Errors
    /// EINVAL names the variable and what it may be.
    pub fn from_env() -> Result<SessionBuilder> {
        todo!()
    }

    /// Opens the machine.
    ///
    /// # Errors
    /// ENODEV with a remedy where there is none; EINVAL with path and line for a bad file.
    pub fn open(&self) -> Result<Session> {
        todo!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl Session {
    /// A session on a host and driver of the caller's making (tests, the demo).
    pub fn with(host: Arc<dyn Host>, driver: Arc<dyn Driver>) -> Session {
        todo!()
    }

    /// The seam.
    pub fn host(&self) -> &Arc<dyn Host> {
        todo!()
    }

    /// The verbs.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        todo!()
    }

    /// Gives a queue of another process a handle (0x10000 or more); the same queue always gets the same handle. The
    /// calling process's own queue gets its KFD id.
    ///
    /// # Errors
    /// EINVAL (id over 1023), ESRCH, EPERM, ENOENT.
    pub fn register(&self, pid: Pid, queue_id: u32, gpu: GpuId) -> Result<u32> {
        todo!()
    }

    /// The queue behind a handle or own KFD id.
    ///
    /// # Errors
    /// ENOENT for an unknown handle; EINVAL for 1024 to 0xffff.
    pub fn resolve(&self, handle: u32) -> Result<QueueId> {
        todo!()
    }

    /// All queues that discovery finds, each with its handle.
    ///
    /// # Errors
    /// ENODEV.
    pub fn queues(&self) -> Result<Vec<(u32, QueueInfo)>> {
        todo!()
    }

    /// Unmaps queues in one batch, all or nothing: a registered queue that vanished counts as unmapped; EPERM, EBUSY or an
    /// unknown handle restore what this call changed and fail it, naming the queue; after EIO or ETIME that node is not
    /// touched again in this call and the error is returned.
    ///
    /// # Errors
    /// EINVAL for none, more than [`MAX_QUEUES`] or duplicate queues; else the first queue's error.
    pub fn unmap(&self, handles: &[u32], grace: Duration) -> Result<Batch> {
        todo!()
    }

    /// Maps queues in one batch; same rules as [`Session::unmap`].
    ///
    /// # Errors
    /// As [`Session::unmap`].
    pub fn remap(&self, handles: &[u32]) -> Result<Batch> {
        todo!()
    }

    /// Reserves slots for online queues and caps offline ones; [`GpuId::ALL`] = every node.
    ///
    /// # Errors
    /// EINVAL where a percentage or the sum is over 100; EPERM, EBUSY, ENOENT.
    pub fn set_reservation(&self, gpu: GpuId, online_percent: u32, offline_percent: u32) -> Result<Reservation> {
        todo!()
    }

    /// Slots of one node, or summed over all.
    ///
    /// # Errors
    /// ENOENT.
    pub fn status(&self, gpu: GpuId) -> Result<HqdStatus> {
        todo!()
    }

    /// Replaces the policy of a queue: flags that are set are set, the others cleared. Returns what is in force.
    ///
    /// # Errors
    /// EINVAL for unknown flags; else as [`Driver::set_policy`].
    pub fn set_policy(&self, handle: u32, flags: PolicyFlags) -> Result<PolicyFlags> {
        todo!()
    }

    /// Whether a queue is in the runlist.
    ///
    /// # Errors
    /// ENOENT, ESRCH.
    pub fn is_active(&self, handle: u32) -> Result<bool> {
        todo!()
    }

    /// PREEMPTIBLE queues of registered or discovered processes that are mapped and idle.
    ///
    /// # Errors
    /// ENODEV.
    pub fn idle_offline(&self) -> Result<Vec<u32>> {
        todo!()
    }

    /// Says on which side a queue is; an offline queue is made PREEMPTIBLE.
    ///
    /// # Errors
    /// As [`Session::set_policy`].
    pub fn classify(&self, handle: u32, class: QueueClass) -> Result<()> {
        todo!()
    }

    /// As [`Session::unmap`] without grace, with flags.
    /// MQD and state are kept whatever the flags say; NO_CWSR leaves a queue with work where it is, and that is no error.
    ///
    /// # Errors
    /// EINVAL for unknown flags; else as [`Session::unmap`].
    pub fn selective_unmap(&self, handles: &[u32], flags: UnmapFlags) -> Result<Batch> {
        todo!()
    }

    /// Maps one queue. `slot` -1 = any: HWS firmware picks the HQD.
    ///
    /// # Errors
    /// EOPNOTSUPP for any other slot from 0 on, EINVAL below -1; else as [`Session::remap`].
    pub fn fast_remap(&self, handle: u32, slot: i32) -> Result<Batch> {
        todo!()
    }

    /// Brings a queue into a state: `0` ACTIVE = mapped, `1` INACTIVE = unmapped, `2` PREEMPTIBLE = in the offline class
    /// (which does not move it).
    ///
    /// # Errors
    /// EINVAL for another number; else as [`Session::unmap`].
    pub fn set_state(&self, handle: u32, state: u32) -> Result<()> {
        todo!()
    }
}
