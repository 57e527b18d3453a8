//! A KFD node: one device queue manager, one HIQ, one hardware scheduler, one set of engines.

use std::collections::{BTreeMap, VecDeque};

use crate::hw::hiq::Hiq;
use crate::hw::pool::Pool;
use crate::hw::rounds::{Report, Round, RoundId};
use crate::queue::QueueKey;
use crate::world::LeaseId;

/// A node by its position among the machine's GPU nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeIndex(pub(crate) usize);

/// Index of the pool that runs compute queues.
pub(crate) const SHADERS: usize = 0;
/// Index of the pool of SDMA engine 0; the other engines follow.
pub(crate) const COPY: usize = 1;

/// What is reserved on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) lease: LeaseId,
    pub(crate) online_reserved: u32,
    pub(crate) offline_max: u32,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    // What it is.
    pub(crate) topology_index: u32,
    pub(crate) gpu_id: u32,
    /// Logical compute queue slots.
    pub(crate) slots: u32,
    pub(crate) xccs: u32,
    /// First XCC of the GPU that belongs to this node.
    pub(crate) first_xcc: u32,
    pub(crate) process_slots: u32,
    /// VMID of the first compute process; the others follow.
    pub(crate) first_vmid: u32,
    pub(crate) sdma_engines: u32,
    pub(crate) sdma_xgmi_engines: u32,
    pub(crate) sdma_queues: u32,
    pub(crate) gws: u32,
    /// CWSR area and control stack that one queue needs per XCC.
    pub(crate) save_area_bytes: u32,
    pub(crate) ctl_stack_bytes: u32,
    /// Wave slots of all XCCs.
    pub(crate) wave_slots: u64,
    pub(crate) compute_units: u32,
    pub(crate) engine_mhz: u32,
    /// Queues that one process may have here.
    pub(crate) queues_per_process: usize,

    // What the driver knows.
    /// Processes with queues here, newest first.
    pub(crate) processes: Vec<u32>,
    pub(crate) reservation: Option<Reservation>,
    /// Sequence of service under the reservation.
    pub(crate) service: u64,
    pub(crate) resetting: bool,
    pub(crate) resets: u32,
    /// The firmware does not answer the next round.
    pub(crate) hung: bool,
    pub(crate) active_runlist: bool,
    pub(crate) runlists: u64,
    pub(crate) unmaps: u64,
    pub(crate) last_unmap_ns: u64,
    pub(crate) current: Option<Round>,
    pub(crate) waiting: VecDeque<Round>,
    pub(crate) reports: BTreeMap<RoundId, Report>,
    pub(crate) next_round: RoundId,
    pub(crate) hiq: Hiq,
    pub(crate) round_generation: u64,

    // What the firmware has.
    /// The last runlist, as it lies in GPU memory.
    pub(crate) ib: Vec<u32>,
    /// The runlist, in its order.
    pub(crate) runlist: Vec<QueueKey>,
    pub(crate) oversubscribed: bool,
    pub(crate) mapped: Vec<QueueKey>,
    /// What is being mapped.
    pub(crate) mapping: Option<Vec<QueueKey>>,
    /// When the firmware has done what it was told.
    pub(crate) firmware_free: u64,
    /// Whose turn is next: the first queue of the runlist that did not fit; None where all did.
    pub(crate) next: Option<QueueKey>,
    pub(crate) firmware_generation: u64,
    /// The shader array, then every SDMA engine.
    pub(crate) pools: Vec<Pool>,
    /// Slots in use, by slot.
    pub(crate) slot_users: Vec<Option<QueueKey>>,
    /// Slots in use, summed over time until `slots_counted`, ns.
    pub(crate) slot_ns: u64,
    pub(crate) slots_counted: u64,
    pub(crate) next_mqd: u64,
}

impl Node {
    /// Brings `slot_ns` to `now`; called before every change of `slot_users`.
    pub(crate) fn count_slots(&mut self, now: u64) {
        let used = self.slot_users.iter().flatten().count() as u64;
        self.slot_ns += used * (now - self.slots_counted);
        self.slots_counted = now;
    }

    /// SDMA queues that it has room for.
    pub(crate) fn sdma_slots(&self) -> u32 {
        (self.sdma_engines + self.sdma_xgmi_engines) * self.sdma_queues
    }

    /// Length of a grace period in 1000 engine clocks, ns.
    pub(crate) fn grace_ns(&self, clocks: u32) -> u64 {
        u64::from(clocks) * 1_000_000 / u64::from(self.engine_mhz.max(1))
    }
}
