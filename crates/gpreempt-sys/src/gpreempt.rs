//! The commands of the gpreempt kernel series: a lease on other processes' queues.
//!
//! `/dev/kfd` gets one new number, [`AMDKFD_IOC_GPREEMPT_OPEN`]. It returns the lease fd, and every
//! other command is an ioctl on that fd. What the lease preempts or sets ends with it.
//!
//! Rules for every struct: pads, reserved fields and unknown flags must be zero on input (EINVAL);
//! out fields are ignored on input. A shorter struct is zero-extended, a longer one must have a
//! zero tail. All commands are in the series for Linux 6.12; where it is absent the open answers
//! ENOTTY, or EINVAL from AMD's DKMS driver.
//!
//! Errors that every lease command shares: EBADF (the caller is not the process that opened the
//! lease, or the lease is dead), EFAULT, EINVAL, ENOMEM, ENOTTY (no such command).

use nix::request_code_readwrite;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::stock::AMDKFD_IOCTL_BASE;

/// Version of this ABI, for `abi_version` of [`kfd_ioctl_gpreempt_open_args`].
pub const KFD_GPREEMPT_ABI_VERSION: u32 = 1;
/// Most entries that one call takes in version 1; the driver reports its own in `max_entries`.
pub const KFD_GPREEMPT_MAX_ENTRIES: u32 = 1024;
/// Longest grace period in version 1, in 1000 GPU clocks; the driver reports its own in
/// `grace_max`.
pub const KFD_GPREEMPT_GRACE_MAX: u32 = 255;
/// Target handle of the holder's own process.
pub const KFD_GPREEMPT_TARGET_SELF: u32 = 0;
/// Queue id that names every queue of the target.
pub const KFD_GPREEMPT_ALL_QUEUES: u32 = 0xffff_ffff;

/// Entry flag, with [`KFD_GPREEMPT_ALL_QUEUES`]: queues that the target creates later start held by
/// this lease.
pub const KFD_GPREEMPT_ENTRY_HOLD_NEW: u32 = 1 << 0;
/// Entry flag: unmap only a queue that is idle.
pub const KFD_GPREEMPT_ENTRY_IF_IDLE: u32 = 1 << 1;

/// Capability: [`AMDKFD_IOC_SET_HQD_RESERVATION`] works.
pub const KFD_GPREEMPT_CAP_RESERVATION: u64 = 1 << 0;
/// Capability: `read()` of the lease fd returns events.
pub const KFD_GPREEMPT_CAP_EVENTS: u64 = 1 << 1;
/// Capability: queue status can report read and write pointers.
pub const KFD_GPREEMPT_CAP_POINTERS: u64 = 1 << 2;
/// Capability: queue status can report the number of waves.
pub const KFD_GPREEMPT_CAP_WAVES: u64 = 1 << 3;
/// Capability: [`AMDKFD_IOC_SWAP_QUEUES`] works.
pub const KFD_GPREEMPT_CAP_SWAP: u64 = 1 << 4;

/// State bit: the queue is in the runlist.
pub const KFD_GPREEMPT_STATE_ACTIVE: u32 = 1 << 0;
/// State bit: the driver evicted the queue (memory management, suspend, reset).
pub const KFD_GPREEMPT_STATE_EVICTED: u32 = 1 << 1;
/// State bit: a debugger suspended the queue.
pub const KFD_GPREEMPT_STATE_SUSPENDED: u32 = 1 << 2;
/// State bit: a lease holds the queue unmapped.
pub const KFD_GPREEMPT_STATE_PREEMPTED: u32 = 1 << 3;
/// State bit: the lease that holds the queue is the caller's.
pub const KFD_GPREEMPT_STATE_MINE: u32 = 1 << 4;
/// State bit: the owner set percentage 0 or no ring.
pub const KFD_GPREEMPT_STATE_DISABLED: u32 = 1 << 5;
/// State bit: the queue is being destroyed.
pub const KFD_GPREEMPT_STATE_BEING_DESTROYED: u32 = 1 << 6;
/// State bit: the reservation leaves the queue out of the runlist for now.
pub const KFD_GPREEMPT_STATE_THROTTLED: u32 = 1 << 7;
/// State bit: this queue was reset and cannot run again.
pub const KFD_GPREEMPT_STATE_RESET: u32 = 1 << 8;
/// State bit: the queue is of the offline class.
pub const KFD_GPREEMPT_STATE_PREEMPTIBLE: u32 = 1 << 9;
/// State bit: lazy activation is in force for the queue.
pub const KFD_GPREEMPT_STATE_LAZY: u32 = 1 << 10;
/// State bit: read and write pointer are equal and no wave is running.
pub const KFD_GPREEMPT_STATE_IDLE: u32 = 1 << 11;

/// Flag of [`kfd_ioctl_selective_unmap_args`]: keep the queue descriptor in memory (always so).
pub const KFD_GPREEMPT_UNMAP_KEEP_MQD: u32 = 1 << 0;
/// Flag of [`kfd_ioctl_selective_unmap_args`]: keep the wave state (always so).
pub const KFD_GPREEMPT_UNMAP_KEEP_STATE: u32 = 1 << 1;
/// Flag of [`kfd_ioctl_selective_unmap_args`]: unmap only if the queue is idle, so that no wave is
/// saved.
pub const KFD_GPREEMPT_UNMAP_NO_CWSR: u32 = 1 << 2;

/// Value of `state` in [`kfd_ioctl_queue_state_args`]: give the queue back to the hardware.
pub const KFD_GPREEMPT_QUEUE_STATE_ACTIVE: u32 = 0;
/// Value of `state` in [`kfd_ioctl_queue_state_args`]: unmap the queue and hold it.
pub const KFD_GPREEMPT_QUEUE_STATE_INACTIVE: u32 = 1;
/// Value of `state` in [`kfd_ioctl_queue_state_args`]: put the queue into the offline class.
pub const KFD_GPREEMPT_QUEUE_STATE_PREEMPTIBLE: u32 = 2;

/// Policy bit: new queues of a target start held; an existing queue is unmapped when idle.
pub const KFD_GPREEMPT_POLICY_LAZY_ACTIVATION: u32 = 1 << 0;
/// Policy bit: the library may unmap the queue while it is idle.
pub const KFD_GPREEMPT_POLICY_AUTO_DEACTIVATION: u32 = 1 << 1;
/// Policy bit: the offline class; without it no other process's queue can be unmapped.
pub const KFD_GPREEMPT_POLICY_PREEMPTIBLE: u32 = 1 << 2;

/// Node flag: the runlist holds more than the hardware has room for.
pub const KFD_GPREEMPT_HQD_OVERSUBSCRIBED: u32 = 1 << 0;
/// Node flag: the hardware scheduler (HWS) runs this node.
pub const KFD_GPREEMPT_HQD_HWS: u32 = 1 << 1;
/// Node flag: the MES firmware runs this node; version 1 cannot unmap there.
pub const KFD_GPREEMPT_HQD_MES: u32 = 1 << 2;
/// Node flag: the scheduler of this node is stopped.
pub const KFD_GPREEMPT_HQD_STOPPED: u32 = 1 << 3;
/// Node flag: a GPU reset is under way.
pub const KFD_GPREEMPT_HQD_RESETTING: u32 = 1 << 4;

/// Flag of [`kfd_ioctl_queue_status_args`]: fill the read and write pointers.
pub const KFD_GPREEMPT_WANT_POINTERS: u32 = 1 << 0;
/// Flag of [`kfd_ioctl_queue_status_args`]: count the waves; slow, not for polling.
pub const KFD_GPREEMPT_WANT_WAVES: u32 = 1 << 1;

/// Flag of [`kfd_gpreempt_queue_status`]: `read_ptr` and `write_ptr` are filled.
pub const KFD_GPREEMPT_POINTERS_VALID: u32 = 1 << 0;
/// Flag of [`kfd_gpreempt_queue_status`]: `waves` is filled.
pub const KFD_GPREEMPT_WAVES_VALID: u32 = 1 << 1;

/// Event: a target created a queue.
pub const KFD_GPREEMPT_EVENT_QUEUE_CREATED: u32 = 1;
/// Event: a target destroyed a queue.
pub const KFD_GPREEMPT_EVENT_QUEUE_DESTROYED: u32 = 2;
/// Event: a target has exited.
pub const KFD_GPREEMPT_EVENT_TARGET_EXITED: u32 = 3;
/// Event: the watchdog gave a held queue back.
pub const KFD_GPREEMPT_EVENT_HOLD_EXPIRED: u32 = 4;
/// Event: a GPU was reset.
pub const KFD_GPREEMPT_EVENT_NODE_RESET: u32 = 5;
/// Event: a node became oversubscribed.
pub const KFD_GPREEMPT_EVENT_OVERSUBSCRIBED: u32 = 6;

/// Argument of [`AMDKFD_IOC_GPREEMPT_OPEN`]: probe, capabilities and lease in one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_gpreempt_open_args {
    /// In: the caller's version; out: the driver's.
    pub abi_version: u32,
    /// In: 0.
    pub flags: u32,
    /// In: watchdog in milliseconds, 0 for the driver's default; out: the one in force.
    pub max_hold_ms: u32,
    /// Out: the lease fd, close-on-exec.
    pub lease_fd: i32,
    /// Out: id of the lease, never reused.
    pub lease_id: u64,
    /// Out: `KFD_GPREEMPT_CAP_*`.
    pub caps: u64,
    /// Out: most entries that one call takes.
    pub max_entries: u32,
    /// Out: longest grace period, in 1000 GPU clocks.
    pub grace_max: u32,
    /// Out: bytes of [`kfd_gpreempt_entry`] that this driver fills.
    pub entry_size: u32,
    /// Out: bytes of [`kfd_ioctl_hqd_status_args`] that this driver fills.
    pub hqd_status_size: u32,
    /// Out: bytes of [`kfd_gpreempt_queue_status`] that this driver fills.
    pub queue_status_size: u32,
    /// Out: bytes of [`kfd_gpreempt_event`] that this driver fills.
    pub event_size: u32,
    /// 0.
    pub reserved: u64,
}

/// Argument of [`AMDKFD_IOC_GPREEMPT_ATTACH`] and [`AMDKFD_IOC_GPREEMPT_DETACH`] (`target` in, the
/// rest 0).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_gpreempt_attach_args {
    /// In: process id in the caller's pid namespace, 0 for the caller.
    pub pid: u32,
    /// In: 0.
    pub flags: u32,
    /// Out (DETACH: in): handle of the target, 1 or more.
    pub target: u32,
    /// Out: queues that the target has now.
    pub num_queues: u32,
    /// Out: start of the process in nanoseconds since boot, its identity beside the pid.
    pub start_boottime_ns: u64,
    /// 0.
    pub reserved: u64,
}

/// One queue, or all queues of a target, in a batch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_gpreempt_entry {
    /// In: handle from ATTACH, or [`KFD_GPREEMPT_TARGET_SELF`].
    pub target: u32,
    /// In: topology gpu_id, 0 for every GPU of the target.
    pub gpu_id: u32,
    /// In: KFD queue id, or [`KFD_GPREEMPT_ALL_QUEUES`].
    pub queue_id: u32,
    /// In: `KFD_GPREEMPT_ENTRY_*`.
    pub flags: u32,
    /// Out: 0 or a negative errno.
    pub result: i32,
    /// Out: queues that are now in the wanted state.
    pub num_queues: u32,
    /// Out: `KFD_GPREEMPT_STATE_*` of the last queue.
    pub state: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`AMDKFD_IOC_BATCH_UNMAP_QUEUES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_batch_unmap_args {
    /// In: address of the array of [`kfd_gpreempt_entry`].
    pub entries_ptr: u64,
    /// In: 1 to `max_entries`.
    pub num_entries: u32,
    /// In: bytes of one entry.
    pub entry_size: u32,
    /// In: 0.
    pub flags: u32,
    /// In: in 1000 GPU clocks, 1 to `grace_max`; 0 for the driver's default.
    pub grace_period: u32,
    /// Out: entries with result 0.
    pub num_ok: u32,
    /// Out: entries with another result.
    pub num_failed: u32,
    /// Out: nodes with at least one named queue, changed or not.
    pub num_nodes: u32,
    /// Out: nodes that had a runlist and executed a round.
    pub num_rounds: u32,
    /// Out: duration of the whole call in nanoseconds.
    pub elapsed_ns: u64,
    /// Out: duration of the slowest node in nanoseconds.
    pub max_node_ns: u64,
    /// 0.
    pub reserved: u64,
}

/// Argument of [`AMDKFD_IOC_FAST_REMAP`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_fast_remap_args {
    /// In: address of the array of [`kfd_gpreempt_entry`].
    pub entries_ptr: u64,
    /// In: 1 to `max_entries`.
    pub num_entries: u32,
    /// In: bytes of one entry.
    pub entry_size: u32,
    /// In: 0.
    pub flags: u32,
    /// In: for the round that remapping costs, in 1000 GPU clocks; 0 for the driver's default.
    pub grace_period: u32,
    /// Out: entries with result 0.
    pub num_ok: u32,
    /// Out: entries with another result.
    pub num_failed: u32,
    /// Out: nodes with at least one named queue, changed or not.
    pub num_nodes: u32,
    /// Out: nodes that had a runlist and executed a round.
    pub num_rounds: u32,
    /// Out: duration of the whole call in nanoseconds.
    pub elapsed_ns: u64,
    /// Out: duration of the slowest node in nanoseconds.
    pub max_node_ns: u64,
    /// 0.
    pub reserved: u64,
}

/// Argument of [`AMDKFD_IOC_SWAP_QUEUES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_swap_queues_args {
    /// In: address of the [`kfd_gpreempt_entry`] array to unmap.
    pub unmap_ptr: u64,
    /// In: address of the [`kfd_gpreempt_entry`] array to map.
    pub remap_ptr: u64,
    /// In: entries to unmap.
    pub num_unmap: u32,
    /// In: entries to map; the sum of both is 1 to `max_entries`.
    pub num_remap: u32,
    /// In: bytes of one entry.
    pub entry_size: u32,
    /// In: 0.
    pub flags: u32,
    /// In: in 1000 GPU clocks, 1 to `grace_max`; 0 for the driver's default.
    pub grace_period: u32,
    /// 0.
    pub pad: u32,
    /// Out: entries with result 0.
    pub num_ok: u32,
    /// Out: entries with another result.
    pub num_failed: u32,
    /// Out: nodes with at least one named queue, changed or not.
    pub num_nodes: u32,
    /// Out: nodes that had a runlist and executed a round.
    pub num_rounds: u32,
    /// Out: duration of the whole call in nanoseconds.
    pub elapsed_ns: u64,
    /// Out: duration of the slowest node in nanoseconds.
    pub max_node_ns: u64,
    /// 0.
    pub reserved: u64,
}

/// Argument of [`AMDKFD_IOC_SELECTIVE_UNMAP`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_selective_unmap_args {
    /// In and out: the queue.
    pub queue: kfd_gpreempt_entry,
    /// In: `KFD_GPREEMPT_UNMAP_*`.
    pub flags: u32,
    /// In: in 1000 GPU clocks, 1 to `grace_max`; 0 for the driver's default.
    pub grace_period: u32,
    /// Out: duration of the whole call in nanoseconds.
    pub elapsed_ns: u64,
    /// 0.
    pub reserved: u64,
}

/// Argument of [`AMDKFD_IOC_SET_QUEUE_STATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_queue_state_args {
    /// In and out: the queue.
    pub queue: kfd_gpreempt_entry,
    /// In: `KFD_GPREEMPT_QUEUE_STATE_*`.
    pub state: u32,
    /// In: in 1000 GPU clocks, 1 to `grace_max`; 0 for the driver's default.
    pub grace_period: u32,
    /// Out: duration of the whole call in nanoseconds.
    pub elapsed_ns: u64,
    /// 0.
    pub reserved: u64,
}

/// Argument of [`AMDKFD_IOC_SET_QUEUE_POLICY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_queue_policy_args {
    /// In and out: the queue, or all queues of a target.
    pub queue: kfd_gpreempt_entry,
    /// In: `KFD_GPREEMPT_POLICY_*` to set.
    pub set_flags: u32,
    /// In: `KFD_GPREEMPT_POLICY_*` to clear.
    pub clear_flags: u32,
    /// Out: `KFD_GPREEMPT_POLICY_*` in force.
    pub policy_flags: u32,
    /// 0.
    pub pad: u32,
    /// 0.
    pub reserved: u64,
}

/// Argument of [`AMDKFD_IOC_SET_HQD_RESERVATION`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_hqd_reservation_args {
    /// In: topology gpu_id, 0 for every node.
    pub gpu_id: u32,
    /// In: share of the queue slots kept for online work, in percent.
    pub online_percent: u32,
    /// In: share that offline work may use, in percent; the sum of both is at most 100.
    pub offline_percent: u32,
    /// In: 0.
    pub flags: u32,
    /// Out: slots kept for online work on the smallest node, rounded down.
    pub online_reserved: u32,
    /// Out: slots that offline work may use on the smallest node, rounded down.
    pub offline_max: u32,
    /// Out: nodes that the reservation covers.
    pub num_nodes: u32,
    /// 0.
    pub pad: u32,
    /// 0.
    pub reserved: [u64; 2],
}

/// Argument of [`AMDKFD_IOC_GET_HQD_STATUS`]: the queue slots of one node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_hqd_status_args {
    /// In: topology gpu_id.
    pub gpu_id: u32,
    /// Out: `KFD_GPREEMPT_HQD_*`.
    pub flags: u32,
    /// Out: compute queue slots of the node.
    pub total_hqd: u32,
    /// Out: compute queues in the runlist without the throttled ones; may exceed `total_hqd`.
    pub active_hqd: u32,
    /// Out: slots that no active queue needs.
    pub free_hqd: u32,
    /// Out: slots kept for online work.
    pub online_reserved: u32,
    /// Out: slots that offline work may use.
    pub offline_max: u32,
    /// Out: active queues of the offline class without the throttled ones.
    pub offline_used: u32,
    /// Out: compute dies; the hardware has `total_hqd` times this many HQDs.
    pub num_xcc: u32,
    /// Out: queues that any lease holds unmapped.
    pub preempted: u32,
    /// Out: queues that the reservation leaves out.
    pub throttled: u32,
    /// Out: queues of every kind on the node.
    pub queues_total: u32,
    /// Out: SDMA queue slots.
    pub sdma_slots: u32,
    /// Out: active SDMA queues.
    pub sdma_active: u32,
    /// Out: processes that can be on the hardware at once.
    pub proc_slots: u32,
    /// Out: processes with queues on the node.
    pub procs: u32,
    /// Out: active queues that use global wave sync.
    pub gws_active: u32,
    /// Out: limit of one preemption in milliseconds.
    pub preempt_timeout_ms: u32,
    /// Out: runlists sent since the driver was loaded.
    pub runlist_seq: u64,
    /// Out: unmap rounds since the driver was loaded.
    pub unmap_seq: u64,
    /// Out: duration of the last unmap round in nanoseconds.
    pub last_unmap_ns: u64,
    /// 0.
    pub reserved: [u64; 4],
}

/// One queue as [`AMDKFD_IOC_GET_QUEUE_STATUS`] reports it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_gpreempt_queue_status {
    /// Out: KFD queue id within its process.
    pub queue_id: u32,
    /// Out: topology gpu_id.
    pub gpu_id: u32,
    /// Out: `KFD_IOC_QUEUE_TYPE_*`.
    pub r#type: u32,
    /// Out: `KFD_GPREEMPT_STATE_*`.
    pub state: u32,
    /// Out: priority, 0 to 15.
    pub priority: u32,
    /// Out: queue percentage, 0 to 100.
    pub percent: u32,
    /// Out: `KFD_GPREEMPT_POLICY_*` in force.
    pub policy_flags: u32,
    /// Out: [`KFD_GPREEMPT_POINTERS_VALID`], [`KFD_GPREEMPT_WAVES_VALID`].
    pub flags: u32,
    /// Out: read pointer, in the units of the queue type.
    pub read_ptr: u64,
    /// Out: write pointer, in the units of the queue type.
    pub write_ptr: u64,
    /// Out: address of the ring in its process.
    pub ring_base: u64,
    /// Out: id of the lease that holds the queue, 0 for none.
    pub owner_lease: u64,
    /// Out: how long the queue has been held, in nanoseconds.
    pub preempted_ns: u64,
    /// Out: process of that lease in the caller's pid namespace, 0 if not visible.
    pub owner_pid: u32,
    /// Out: running waves.
    pub waves: u32,
    /// Out: doorbell index.
    pub doorbell: u32,
    /// 0.
    pub pad: u32,
    /// 0.
    pub reserved: u64,
}

/// Argument of [`AMDKFD_IOC_GET_QUEUE_STATUS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_queue_status_args {
    /// In: address of the array of [`kfd_gpreempt_queue_status`].
    pub status_ptr: u64,
    /// In: handle from ATTACH, or [`KFD_GPREEMPT_TARGET_SELF`].
    pub target: u32,
    /// In: topology gpu_id, 0 for every GPU.
    pub gpu_id: u32,
    /// In: KFD queue id, or [`KFD_GPREEMPT_ALL_QUEUES`].
    pub queue_id: u32,
    /// In: room in the array; out: queues that there are.
    pub num_entries: u32,
    /// In: bytes of one element.
    pub entry_size: u32,
    /// In: [`KFD_GPREEMPT_WANT_POINTERS`], [`KFD_GPREEMPT_WANT_WAVES`].
    pub flags: u32,
    /// 0.
    pub reserved: u64,
}

/// One event, read from the lease fd.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_gpreempt_event {
    /// `KFD_GPREEMPT_EVENT_*`.
    pub r#type: u32,
    /// 0 in version 1.
    pub flags: u32,
    /// Handle of the target concerned, 0 where none is.
    pub target: u32,
    /// Topology gpu_id concerned, 0 where none is.
    pub gpu_id: u32,
    /// KFD queue id concerned.
    pub queue_id: u32,
    /// Events that were dropped before this one.
    pub lost: u32,
    /// Time of the event on CLOCK_BOOTTIME, in nanoseconds.
    pub time_ns: u64,
    /// 0.
    pub reserved: u64,
}

/// Opens a lease; also the probe for this ABI.
///
/// * fd: `/dev/kfd`. Since: ABI version 1.
/// * Permissions: none beyond access to `/dev/kfd`.
/// * Errors: ENOTTY or EINVAL without the series; EBADF where the fd was kept over exec or a fork.
pub const AMDKFD_IOC_GPREEMPT_OPEN: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x60, size_of::<kfd_ioctl_gpreempt_open_args>()) as u32;

/// Resolves a pid to a target handle of this lease.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: own process; another with the same uid, or with CAP_SYS_NICE over its user
///   namespace.
/// * Errors: ESRCH no such process; EPERM.
pub const AMDKFD_IOC_GPREEMPT_ATTACH: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x61, size_of::<kfd_ioctl_gpreempt_attach_args>()) as u32;

/// Forgets a target and restores what the lease held of it.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: none: giving back is always allowed.
/// * Errors: ESRCH unknown handle.
pub const AMDKFD_IOC_GPREEMPT_DETACH: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x62, size_of::<kfd_ioctl_gpreempt_attach_args>()) as u32;

/// Unmaps queues and holds them, with at most one round per node.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: as ATTACH, checked again; a queue of another process must be PREEMPTIBLE.
/// * Errors: per entry in `result`: ESRCH, ENOENT, EBUSY, EPERM, EOPNOTSUPP, EIO, ETIME, EACCES.
pub const AMDKFD_IOC_BATCH_UNMAP_QUEUES: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x63, size_of::<kfd_ioctl_batch_unmap_args>()) as u32;

/// Gives held queues back, with at most one round per node.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: none: giving back is always allowed.
/// * Errors: per entry in `result`: ESRCH, ENOENT, EBUSY, EOPNOTSUPP, EIO, ETIME, EACCES.
pub const AMDKFD_IOC_FAST_REMAP: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x64, size_of::<kfd_ioctl_fast_remap_args>()) as u32;

/// Unmaps some queues and maps others in the same round.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: as BATCH_UNMAP_QUEUES for the queues to unmap.
/// * Errors: as BATCH_UNMAP_QUEUES; EINVAL where a queue is in both arrays.
pub const AMDKFD_IOC_SWAP_QUEUES: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x65, size_of::<kfd_ioctl_swap_queues_args>()) as u32;

/// Unmaps one queue and holds it.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: as BATCH_UNMAP_QUEUES.
/// * Errors: as BATCH_UNMAP_QUEUES, in `queue.result`.
pub const AMDKFD_IOC_SELECTIVE_UNMAP: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x66, size_of::<kfd_ioctl_selective_unmap_args>()) as u32;

/// Maps, unmaps or marks one queue.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: as BATCH_UNMAP_QUEUES to unmap, as ATTACH to mark, none to map.
/// * Errors: as BATCH_UNMAP_QUEUES, in `queue.result`.
pub const AMDKFD_IOC_SET_QUEUE_STATE: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x67, size_of::<kfd_ioctl_queue_state_args>()) as u32;

/// Sets the policy of a queue or of a target's queues, present and later.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: as ATTACH, checked again.
/// * Errors: in `queue.result`: EBUSY where another lease has marked it, EPERM, ESRCH, ENOENT.
pub const AMDKFD_IOC_SET_QUEUE_POLICY: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x68, size_of::<kfd_ioctl_queue_policy_args>()) as u32;

/// Limits how many queue slots offline queues may use.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: CAP_SYS_NICE.
/// * Errors: EPERM; EBUSY where another lease owns the reservation; EINVAL where the sum exceeds
///   100; ENOENT no such GPU.
pub const AMDKFD_IOC_SET_HQD_RESERVATION: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x69, size_of::<kfd_ioctl_hqd_reservation_args>()) as u32;

/// Reads the queue slots of one node.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: access to that GPU.
/// * Errors: ENOENT no such GPU.
pub const AMDKFD_IOC_GET_HQD_STATUS: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x6a, size_of::<kfd_ioctl_hqd_status_args>()) as u32;

/// Reads the state of a target's queues.
///
/// * fd: the lease fd. Since: ABI version 1.
/// * Permissions: those that ATTACH asked for; no further check.
/// * Errors: ESRCH unknown or detached handle; ENOENT no such queue or GPU.
pub const AMDKFD_IOC_GET_QUEUE_STATUS: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x6b, size_of::<kfd_ioctl_queue_status_args>()) as u32;
