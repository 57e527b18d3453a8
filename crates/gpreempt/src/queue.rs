//! Queues, nodes and their states, as every layer names them.

use std::fmt;

use bitflags::bitflags;
use serde::Serialize;

/// A process, by its pid in this process's pid namespace.
pub type Pid = u32;

/// A KFD node, by its topology `gpu_id`. In calls that take one, 0 means every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct GpuId(pub u32);

impl GpuId {
    /// Every node.
    pub const ALL: GpuId = GpuId(0);
}

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == GpuId::ALL { f.write_str("all GPUs") } else { write!(f, "GPU {}", self.0) }
    }
}

/// A queue. KFD numbers queues per process (0 to 1023), so a queue's name needs its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct QueueId {
    /// Owner.
    pub pid: Pid,
    /// KFD queue id within the owner.
    pub id: u32,
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {} of pid {}", self.id, self.pid)
    }
}

/// Kind of a queue, as KFD's sysfs tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueType {
    /// Compute (PM4 or AQL).
    #[default]
    Compute,
    /// SDMA over PCIe.
    Sdma,
    /// SDMA over XGMI.
    SdmaXgmi,
}

/// Which side of the bargain a queue is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueClass {
    /// Never unmapped by us.
    Online,
    /// Leaves the hardware when online work arrives.
    Offline,
    /// Neither was said.
    Unclassified,
}

bitflags! {
    /// State of a queue (`KFD_GPREEMPT_STATE_*`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct QueueState: u32 {
        /// In the runlist.
        const ACTIVE = 1;
        /// Evicted by memory management.
        const EVICTED = 2;
        /// Suspended by a debugger.
        const SUSPENDED = 4;
        /// Held unmapped by a lease.
        const PREEMPTED = 8;
        /// That lease is this one.
        const MINE = 16;
        /// Percentage 0 or no ring.
        const DISABLED = 32;
        /// Being destroyed.
        const BEING_DESTROYED = 64;
        /// Left out of the runlist by a reservation.
        const THROTTLED = 128;
        /// Was reset.
        const RESET = 256;
        /// Belongs to the offline class.
        const PREEMPTIBLE = 512;
        /// Starts unmapped, or is unmapped when idle.
        const LAZY = 1024;
        /// Pointers equal and no waves.
        const IDLE = 2048;
    }

    /// Queue policy (`KFD_GPREEMPT_POLICY_*`; `GPREEMPT_QUEUE_*` in C).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PolicyFlags: u32 {
        /// Unmapped at once when idle; new queues of a target start unmapped.
        const LAZY_ACTIVATION = 1;
        /// May be unmapped when idle; mapped again when its write pointer moves.
        const AUTO_DEACTIVATION = 2;
        /// The offline class: may be unmapped.
        const PREEMPTIBLE = 4;
    }

    /// How to take a queue off the hardware (`KFD_GPREEMPT_UNMAP_*`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct UnmapFlags: u32 {
        /// Keep the MQD in memory; always so.
        const KEEP_MQD = 1;
        /// Keep the state of the queue; always so.
        const KEEP_STATE = 2;
        /// Save no waves: only where the queue is idle.
        const NO_CWSR = 4;
    }

    /// State of a node (`flags` of `kfd_ioctl_hqd_status_args`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct NodeFlags: u32 {
        /// The runlist holds more than the node can map.
        const OVERSUBSCRIBED = 1;
        /// Scheduled by HWS firmware.
        const HWS = 2;
        /// Scheduled by MES firmware.
        const MES = 4;
        /// Not running.
        const STOPPED = 8;
        /// Reset under way.
        const RESETTING = 16;
    }
}

/// A queue as discovery found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueInfo {
    /// Its name.
    pub queue: QueueId,
    /// The node it lives on.
    pub gpu: GpuId,
    /// Kind.
    pub kind: QueueType,
    /// Ring size, bytes.
    pub ring_bytes: u64,
    /// KFD priority 0 to 15, where the machine tells it (tier `patched`).
    pub priority: Option<u32>,
    /// Ring address in the owner, where the machine tells it.
    pub ring_base: Option<u64>,
    /// In the runlist, where the machine tells it.
    pub active: Option<bool>,
    /// Pointers equal and no waves, where the machine tells it.
    pub idle: Option<bool>,
    /// `/proc/<pid>/comm` of the owner.
    pub command: String,
    /// cgroup v2 path of the owner, empty where unknown.
    pub cgroup: String,
}

/// Slots of one node, or the sum over nodes. Counts are queues: a multi-XCC queue takes one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HqdStatus {
    /// Queue slots (24 with the driver's default of 8 kernel queues, 30 with 2).
    pub total: u32,
    /// Compute queues in the runlist; may exceed `total`.
    pub active: u32,
    /// `total - min(active, total)`, summed per node.
    pub free: u32,
    /// Slots reserved for online queues.
    pub online_reserved: u32,
    /// Active PREEMPTIBLE queues.
    pub offline_used: u32,
    /// Cap on active PREEMPTIBLE queues.
    pub offline_max: u32,
    /// XCCs per node; physical HQDs = slots x XCCs.
    pub num_xcc: u32,
    /// Queues held unmapped by any lease.
    pub preempted: u32,
    /// Queues left out by the reservation.
    pub throttled: u32,
    /// Queues created.
    pub queues_total: u32,
    /// Nodes in this status.
    pub nodes: u32,
    /// UNMAP rounds since boot.
    pub unmap_rounds: u64,
    /// Duration of the last UNMAP round, ns (the longest, where summed).
    pub last_unmap_ns: u64,
    /// `NodeFlags` bits (OR over nodes).
    pub flags: u32,
}

impl HqdStatus {
    /// Adds the slots of another node.
    pub fn add(&mut self, node: &HqdStatus) {
        self.total += node.total;
        self.active += node.active;
        self.free += node.free;
        self.online_reserved += node.online_reserved;
        self.offline_used += node.offline_used;
        self.offline_max += node.offline_max;
        self.num_xcc = self.num_xcc.max(node.num_xcc);
        self.preempted += node.preempted;
        self.throttled += node.throttled;
        self.queues_total += node.queues_total;
        self.nodes += node.nodes;
        self.unmap_rounds += node.unmap_rounds;
        self.last_unmap_ns = self.last_unmap_ns.max(node.last_unmap_ns);
        self.flags |= node.flags;
    }
}

/// What a reservation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reservation {
    /// Slots kept for online queues, smallest node.
    pub online_reserved: u32,
    /// Cap on active PREEMPTIBLE queues, smallest node.
    pub offline_max: u32,
    /// Nodes it applies to.
    pub nodes: u32,
}
