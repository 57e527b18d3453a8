//! Numbers and structs of the C interface.
#![allow(non_camel_case_types, reason = "the names of the header")]

use std::ffi::c_void;
use std::mem::size_of;

use gpreempt::{HqdStatus, QueueInfo};

/// Major version of this interface, the "v2" of the library's name. It never changes.
pub const GPREEMPT_POC_VERSION_MAJOR: u32 = 2;
/// Minor version of this interface: grows when functions are added.
pub const GPREEMPT_POC_VERSION_MINOR: u32 = 0;

/// Most queues in one call.
pub const GPREEMPT_MAX_QUEUES: u32 = 1024;
/// Handles of other processes' queues start here; a number below 1024 is a KFD queue id of the calling process.
pub const GPREEMPT_FIRST_HANDLE: u32 = 0x10000;
/// In calls that take a gpu_id: every GPU.
pub const GPREEMPT_ALL_GPUS: u32 = 0;
/// The scheduler firmware chooses the HQD slot, the only choice it leaves.
pub const GPREEMPT_HQD_ANY: i32 = -1;
/// Priority of a queue where the machine does not tell it.
pub const GPREEMPT_PRIORITY_UNKNOWN: u32 = 0xffffffff;

/// Queue policy: unmapped whenever idle. Who sets it sees to it that the queue is mapped for its next work: by
/// gpreempt_monitor_hqd_status(), or by a call. (The driver's watchdog does after 10 s.)
pub const GPREEMPT_QUEUE_LAZY_ACTIVATION: u32 = 1 << 0;
/// Queue policy: may be unmapped when idle, by gpreempt_monitor_hqd_status(), which maps it again for its next work.
pub const GPREEMPT_QUEUE_AUTO_DEACTIVATION: u32 = 1 << 1;
/// Queue policy: belongs to the offline class, so it may be unmapped.
pub const GPREEMPT_QUEUE_PREEMPTIBLE: u32 = 1 << 2;

/// Queue state: mapped, as far as there is room.
pub const GPREEMPT_STATE_ACTIVE: u32 = 0;
/// Queue state: held unmapped.
pub const GPREEMPT_STATE_INACTIVE: u32 = 1;
/// Queue state: of the offline class; says nothing about being mapped.
pub const GPREEMPT_STATE_PREEMPTIBLE: u32 = 2;

/// Selective unmap: keep the MQD in memory. Always so; accepted for older callers.
pub const GPREEMPT_UNMAP_KEEP_MQD: u32 = 1 << 0;
/// Selective unmap: keep the state of the queue. Always so; accepted for older callers.
pub const GPREEMPT_UNMAP_KEEP_STATE: u32 = 1 << 1;
/// Selective unmap: only queues that are idle, so that no wave has to be saved (CWSR).
pub const GPREEMPT_UNMAP_NO_CWSR: u32 = 1 << 2;

/// Hardware queue slots, summed over all GPUs. Frozen: five 32-bit numbers, 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct gpreempt_hqd_status {
    /// Queue slots.
    pub total: u32,
    /// Compute queues in the runlist; more than total where the slots are over-subscribed.
    pub active: u32,
    /// total - min(active, total), summed per GPU.
    pub free: u32,
    /// Slots reserved for online queues.
    pub online_reserved: u32,
    /// Active queues of the offline class.
    pub offline_used: u32,
}

/// Hardware queue slots of one GPU, or the sum over all. Grows at the end only; see gpreempt_get_hqd_status_ex().
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct gpreempt_hqd_status_ex {
    /// Queue slots.
    pub total: u32,
    /// Compute queues in the runlist; more than total where the slots are over-subscribed.
    pub active: u32,
    /// total - min(active, total), summed per GPU.
    pub free: u32,
    /// Slots reserved for online queues.
    pub online_reserved: u32,
    /// Active queues of the offline class.
    pub offline_used: u32,
    /// Most active queues of the offline class that the reservation allows.
    pub offline_max: u32,
    /// XCCs of one GPU; a queue takes one HQD on each.
    pub num_xcc: u32,
    /// Queues held unmapped, by any program.
    pub preempted: u32,
    /// Queues that the reservation leaves out for now.
    pub throttled: u32,
    /// Queues created.
    pub queues_total: u32,
    /// GPUs in this status.
    pub nodes: u32,
    /// Bits OVERSUBSCRIBED 1, HWS 2, MES 4, STOPPED 8, RESETTING 16, of any of these GPUs.
    pub flags: u32,
    /// Unmap rounds since boot.
    pub unmap_rounds: u64,
    /// Duration of the last unmap round, nanoseconds; the longest where several GPUs are summed.
    pub last_unmap_ns: u64,
}

/// A queue, as discovery found it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct gpreempt_queue_info {
    /// The number that the other calls take: a handle, or the KFD queue id of a queue of the calling process.
    pub queue_id: u32,
    /// KFD priority, 0 to 15, or GPREEMPT_PRIORITY_UNKNOWN.
    pub priority: u32,
    /// GPU, by its KFD topology gpu_id.
    pub gpu_id: u32,
    /// Owner, as a pid of the calling process's pid namespace.
    pub process_id: u32,
    /// 1 in the runlist, 0 not, -1 not known.
    pub is_active: i32,
    /// KFD queue id, 0 to 1023, which is unique only within the owner.
    pub kfd_queue_id: u32,
    /// Address of the ring in the owner, 0 where not known.
    pub queue_address: u64,
}

/// Called by the monitor, on a thread of its own, once per interval. The status is valid during the call only.
/// A C++ callback lets no exception out.
pub type gpreempt_hqd_callback = Option<unsafe extern "C" fn(status: *const gpreempt_hqd_status, user: *mut c_void)>;

// What is compiled into callers cannot change.
const _: () = assert!(size_of::<gpreempt_hqd_status>() == 20);
const _: () = assert!(size_of::<gpreempt_hqd_status_ex>() == 64);
const _: () = assert!(size_of::<gpreempt_queue_info>() == 32);

impl From<HqdStatus> for gpreempt_hqd_status {
    fn from(status: HqdStatus) -> Self {
        gpreempt_hqd_status {
            total: status.total,
            active: status.active,
            free: status.free,
            online_reserved: status.online_reserved,
            offline_used: status.offline_used,
        }
    }
}

impl From<HqdStatus> for gpreempt_hqd_status_ex {
    fn from(status: HqdStatus) -> Self {
        gpreempt_hqd_status_ex {
            total: status.total,
            active: status.active,
            free: status.free,
            online_reserved: status.online_reserved,
            offline_used: status.offline_used,
            offline_max: status.offline_max,
            num_xcc: status.num_xcc,
            preempted: status.preempted,
            throttled: status.throttled,
            queues_total: status.queues_total,
            nodes: status.nodes,
            flags: status.flags,
            unmap_rounds: status.unmap_rounds,
            last_unmap_ns: status.last_unmap_ns,
        }
    }
}

impl gpreempt_queue_info {
    pub(crate) fn new(handle: u32, info: &QueueInfo) -> Self {
        gpreempt_queue_info {
            queue_id: handle,
            priority: info.priority.unwrap_or(GPREEMPT_PRIORITY_UNKNOWN),
            gpu_id: info.gpu.0,
            process_id: info.queue.pid,
            is_active: info.active.map_or(-1, i32::from),
            kfd_queue_id: info.queue.id,
            queue_address: info.ring_base.unwrap_or(0),
        }
    }
}
