/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * A lease on other processes' compute queues.
 *
 * /dev/kfd answers one new number, AMDKFD_IOC_GPREEMPT_OPEN, with a lease fd.
 * Every other command is an ioctl on that fd. What a lease preempts or sets
 * ends with it: at its last close, or when the opener's address space goes.
 *
 * Pads, reserved fields and unknown flags must be zero on input, else EINVAL.
 * Fields marked Out are ignored on input. A shorter struct is zero-extended; a
 * longer one must have a zero tail.
 */
#ifndef KFD_IOCTL_GPREEMPT_H_INCLUDED
#define KFD_IOCTL_GPREEMPT_H_INCLUDED

#include <linux/ioctl.h>
#include <linux/types.h>

#define KFD_GPREEMPT_ABI_VERSION		1u

/* Limits of version 1; the open reports those of the driver. */
#define KFD_GPREEMPT_MAX_ENTRIES		1024u
#define KFD_GPREEMPT_GRACE_MAX			255u	/* 1000 GPU clocks */

/* Target handle of the holder's own process. */
#define KFD_GPREEMPT_TARGET_SELF		0u
/* Queue id that names every queue of the target. */
#define KFD_GPREEMPT_ALL_QUEUES			0xffffffffu

/* kfd_gpreempt_entry.flags */
#define KFD_GPREEMPT_ENTRY_HOLD_NEW		(1u << 0) /* with ALL: later ones start held */
#define KFD_GPREEMPT_ENTRY_IF_IDLE		(1u << 1) /* unmap only if idle */

/* kfd_ioctl_gpreempt_open_args.caps */
#define KFD_GPREEMPT_CAP_RESERVATION		(1ull << 0)
#define KFD_GPREEMPT_CAP_EVENTS			(1ull << 1)
#define KFD_GPREEMPT_CAP_POINTERS		(1ull << 2)
#define KFD_GPREEMPT_CAP_WAVES			(1ull << 3)
#define KFD_GPREEMPT_CAP_SWAP			(1ull << 4)

/* kfd_gpreempt_entry.state, kfd_gpreempt_queue_status.state */
#define KFD_GPREEMPT_STATE_ACTIVE		(1u << 0) /* in the runlist */
#define KFD_GPREEMPT_STATE_EVICTED		(1u << 1) /* by the driver */
#define KFD_GPREEMPT_STATE_SUSPENDED		(1u << 2) /* by a debugger */
#define KFD_GPREEMPT_STATE_PREEMPTED		(1u << 3) /* held by a lease */
#define KFD_GPREEMPT_STATE_MINE			(1u << 4) /* that lease is the caller's */
#define KFD_GPREEMPT_STATE_DISABLED		(1u << 5) /* percentage 0 or no ring */
#define KFD_GPREEMPT_STATE_BEING_DESTROYED	(1u << 6)
#define KFD_GPREEMPT_STATE_THROTTLED		(1u << 7) /* left out by the reservation */
#define KFD_GPREEMPT_STATE_RESET		(1u << 8) /* was reset, cannot run again */
#define KFD_GPREEMPT_STATE_PREEMPTIBLE		(1u << 9) /* offline class */
#define KFD_GPREEMPT_STATE_LAZY			(1u << 10)
#define KFD_GPREEMPT_STATE_IDLE			(1u << 11) /* pointers equal and no waves */

/* kfd_ioctl_selective_unmap_args.flags */
#define KFD_GPREEMPT_UNMAP_KEEP_MQD		(1u << 0) /* always so */
#define KFD_GPREEMPT_UNMAP_KEEP_STATE		(1u << 1) /* always so */
#define KFD_GPREEMPT_UNMAP_NO_CWSR		(1u << 2) /* unmap only if idle */

/* kfd_ioctl_queue_state_args.state */
#define KFD_GPREEMPT_QUEUE_STATE_ACTIVE		0u
#define KFD_GPREEMPT_QUEUE_STATE_INACTIVE	1u
#define KFD_GPREEMPT_QUEUE_STATE_PREEMPTIBLE	2u

/* kfd_ioctl_queue_policy_args, kfd_gpreempt_queue_status.policy_flags */
#define KFD_GPREEMPT_POLICY_LAZY_ACTIVATION	(1u << 0)
#define KFD_GPREEMPT_POLICY_AUTO_DEACTIVATION	(1u << 1)
#define KFD_GPREEMPT_POLICY_PREEMPTIBLE		(1u << 2)

/* kfd_ioctl_hqd_status_args.flags */
#define KFD_GPREEMPT_HQD_OVERSUBSCRIBED		(1u << 0)
#define KFD_GPREEMPT_HQD_HWS			(1u << 1)
#define KFD_GPREEMPT_HQD_MES			(1u << 2)
#define KFD_GPREEMPT_HQD_STOPPED		(1u << 3)
#define KFD_GPREEMPT_HQD_RESETTING		(1u << 4)

/* kfd_ioctl_queue_status_args.flags */
#define KFD_GPREEMPT_WANT_POINTERS		(1u << 0)
#define KFD_GPREEMPT_WANT_WAVES			(1u << 1) /* slow, not for polling */

/* kfd_gpreempt_queue_status.flags */
#define KFD_GPREEMPT_POINTERS_VALID		(1u << 0)
#define KFD_GPREEMPT_WAVES_VALID		(1u << 1)

/* kfd_gpreempt_event.type */
#define KFD_GPREEMPT_EVENT_QUEUE_CREATED	1u
#define KFD_GPREEMPT_EVENT_QUEUE_DESTROYED	2u
#define KFD_GPREEMPT_EVENT_TARGET_EXITED	3u
#define KFD_GPREEMPT_EVENT_HOLD_EXPIRED		4u
#define KFD_GPREEMPT_EVENT_NODE_RESET		5u
#define KFD_GPREEMPT_EVENT_OVERSUBSCRIBED	6u

/**
 * struct kfd_ioctl_gpreempt_open_args - argument of %AMDKFD_IOC_GPREEMPT_OPEN:
 *     probe, capabilities and lease in one
 * @abi_version: In: the caller's version; out: the driver's
 * @flags: In: 0
 * @max_hold_ms: In: watchdog in milliseconds, 0 for the driver's default; out:
 *     the one in force
 * @lease_fd: Out: the lease fd, close-on-exec
 * @lease_id: Out: id of the lease, never reused
 * @caps: Out: KFD_GPREEMPT_CAP_*
 * @max_entries: Out: most entries that one call takes
 * @grace_max: Out: longest grace period, in 1000 GPU clocks
 * @entry_size: Out: bytes of &struct kfd_gpreempt_entry that this driver fills
 * @hqd_status_size: Out: bytes of &struct kfd_ioctl_hqd_status_args that this
 *     driver fills
 * @queue_status_size: Out: bytes of &struct kfd_gpreempt_queue_status that this
 *     driver fills
 * @event_size: Out: bytes of &struct kfd_gpreempt_event that this driver fills
 * @reserved: zero
 */
struct kfd_ioctl_gpreempt_open_args {
	__u32 abi_version;
	__u32 flags;
	__u32 max_hold_ms;
	__s32 lease_fd;
	__aligned_u64 lease_id;
	__aligned_u64 caps;
	__u32 max_entries;
	__u32 grace_max;
	__u32 entry_size;
	__u32 hqd_status_size;
	__u32 queue_status_size;
	__u32 event_size;
	__aligned_u64 reserved;
};

/**
 * struct kfd_ioctl_gpreempt_attach_args - argument of
 *     %AMDKFD_IOC_GPREEMPT_ATTACH and %AMDKFD_IOC_GPREEMPT_DETACH (@target in,
 *     the rest 0)
 * @pid: In: process id in the caller's pid namespace, 0 for the caller
 * @flags: In: 0
 * @target: Out (DETACH: in): handle of the target, 1 or more
 * @num_queues: Out: queues that the target has now
 * @start_boottime_ns: Out: start of the process in nanoseconds since boot, its
 *     identity beside the pid
 * @reserved: zero
 */
struct kfd_ioctl_gpreempt_attach_args {
	__u32 pid;
	__u32 flags;
	__u32 target;
	__u32 num_queues;
	__aligned_u64 start_boottime_ns;
	__aligned_u64 reserved;
};

/**
 * struct kfd_gpreempt_entry - one queue, or all queues of a target, in a batch
 * @target: In: handle from ATTACH, or %KFD_GPREEMPT_TARGET_SELF
 * @gpu_id: In: topology gpu_id, 0 for every GPU of the target
 * @queue_id: In: KFD queue id, or %KFD_GPREEMPT_ALL_QUEUES
 * @flags: In: KFD_GPREEMPT_ENTRY_*
 * @result: Out: 0 or a negative errno
 * @num_queues: Out: queues that are now in the wanted state
 * @state: Out: KFD_GPREEMPT_STATE_* of the last queue
 * @pad: zero
 */
struct kfd_gpreempt_entry {
	__u32 target;
	__u32 gpu_id;
	__u32 queue_id;
	__u32 flags;
	__s32 result;
	__u32 num_queues;
	__u32 state;
	__u32 pad;
};

/**
 * struct kfd_ioctl_batch_unmap_args - argument of
 *     %AMDKFD_IOC_BATCH_UNMAP_QUEUES
 * @entries_ptr: In: address of the array of &struct kfd_gpreempt_entry
 * @num_entries: In: 1 to max_entries
 * @entry_size: In: bytes of one entry
 * @flags: In: 0
 * @grace_period: In: in 1000 GPU clocks, 1 to grace_max; 0 for the driver's
 *     default
 * @num_ok: Out: entries with result 0
 * @num_failed: Out: entries with another result
 * @num_nodes: Out: nodes with at least one named queue, changed or not
 * @num_rounds: Out: nodes that had a runlist and executed a round
 * @elapsed_ns: Out: duration of the whole call in nanoseconds
 * @max_node_ns: Out: duration of the slowest node in nanoseconds
 * @reserved: zero
 */
struct kfd_ioctl_batch_unmap_args {
	__aligned_u64 entries_ptr;
	__u32 num_entries;
	__u32 entry_size;
	__u32 flags;
	__u32 grace_period;
	__u32 num_ok;
	__u32 num_failed;
	__u32 num_nodes;
	__u32 num_rounds;
	__aligned_u64 elapsed_ns;
	__aligned_u64 max_node_ns;
	__aligned_u64 reserved;
};

/**
 * struct kfd_ioctl_fast_remap_args - argument of %AMDKFD_IOC_FAST_REMAP
 * @entries_ptr: In: address of the array of &struct kfd_gpreempt_entry
 * @num_entries: In: 1 to max_entries
 * @entry_size: In: bytes of one entry
 * @flags: In: 0
 * @grace_period: In: for the round that remapping costs, in 1000 GPU clocks; 0
 *     for the driver's default
 * @num_ok: Out: entries with result 0
 * @num_failed: Out: entries with another result
 * @num_nodes: Out: nodes with at least one named queue, changed or not
 * @num_rounds: Out: nodes that had a runlist and executed a round
 * @elapsed_ns: Out: duration of the whole call in nanoseconds
 * @max_node_ns: Out: duration of the slowest node in nanoseconds
 * @reserved: zero
 */
struct kfd_ioctl_fast_remap_args {
	__aligned_u64 entries_ptr;
	__u32 num_entries;
	__u32 entry_size;
	__u32 flags;
	__u32 grace_period;
	__u32 num_ok;
	__u32 num_failed;
	__u32 num_nodes;
	__u32 num_rounds;
	__aligned_u64 elapsed_ns;
	__aligned_u64 max_node_ns;
	__aligned_u64 reserved;
};

/**
 * struct kfd_ioctl_swap_queues_args - argument of %AMDKFD_IOC_SWAP_QUEUES
 * @unmap_ptr: In: address of the &struct kfd_gpreempt_entry array to unmap
 * @remap_ptr: In: address of the &struct kfd_gpreempt_entry array to map
 * @num_unmap: In: entries to unmap
 * @num_remap: In: entries to map; the sum of both is 1 to max_entries
 * @entry_size: In: bytes of one entry
 * @flags: In: 0
 * @grace_period: In: in 1000 GPU clocks, 1 to grace_max; 0 for the driver's
 *     default
 * @pad: zero
 * @num_ok: Out: entries with result 0
 * @num_failed: Out: entries with another result
 * @num_nodes: Out: nodes with at least one named queue, changed or not
 * @num_rounds: Out: nodes that had a runlist and executed a round
 * @elapsed_ns: Out: duration of the whole call in nanoseconds
 * @max_node_ns: Out: duration of the slowest node in nanoseconds
 * @reserved: zero
 */
struct kfd_ioctl_swap_queues_args {
	__aligned_u64 unmap_ptr;
	__aligned_u64 remap_ptr;
	__u32 num_unmap;
	__u32 num_remap;
	__u32 entry_size;
	__u32 flags;
	__u32 grace_period;
	__u32 pad;
	__u32 num_ok;
	__u32 num_failed;
	__u32 num_nodes;
	__u32 num_rounds;
	__aligned_u64 elapsed_ns;
	__aligned_u64 max_node_ns;
	__aligned_u64 reserved;
};

/**
 * struct kfd_ioctl_selective_unmap_args - argument of
 *     %AMDKFD_IOC_SELECTIVE_UNMAP
 * @queue: In and out: the queue
 * @flags: In: KFD_GPREEMPT_UNMAP_*
 * @grace_period: In: in 1000 GPU clocks, 1 to grace_max; 0 for the driver's
 *     default
 * @elapsed_ns: Out: duration of the whole call in nanoseconds
 * @reserved: zero
 */
struct kfd_ioctl_selective_unmap_args {
	struct kfd_gpreempt_entry queue;
	__u32 flags;
	__u32 grace_period;
	__aligned_u64 elapsed_ns;
	__aligned_u64 reserved;
};

/**
 * struct kfd_ioctl_queue_state_args - argument of %AMDKFD_IOC_SET_QUEUE_STATE
 * @queue: In and out: the queue
 * @state: In: KFD_GPREEMPT_QUEUE_STATE_*
 * @grace_period: In: in 1000 GPU clocks, 1 to grace_max; 0 for the driver's
 *     default
 * @elapsed_ns: Out: duration of the whole call in nanoseconds
 * @reserved: zero
 */
struct kfd_ioctl_queue_state_args {
	struct kfd_gpreempt_entry queue;
	__u32 state;
	__u32 grace_period;
	__aligned_u64 elapsed_ns;
	__aligned_u64 reserved;
};

/**
 * struct kfd_ioctl_queue_policy_args - argument of %AMDKFD_IOC_SET_QUEUE_POLICY
 * @queue: In and out: the queue, or all queues of a target
 * @set_flags: In: KFD_GPREEMPT_POLICY_* to set
 * @clear_flags: In: KFD_GPREEMPT_POLICY_* to clear
 * @policy_flags: Out: KFD_GPREEMPT_POLICY_* in force
 * @pad: zero
 * @reserved: zero
 */
struct kfd_ioctl_queue_policy_args {
	struct kfd_gpreempt_entry queue;
	__u32 set_flags;
	__u32 clear_flags;
	__u32 policy_flags;
	__u32 pad;
	__aligned_u64 reserved;
};

/**
 * struct kfd_ioctl_hqd_reservation_args - argument of
 *     %AMDKFD_IOC_SET_HQD_RESERVATION
 * @gpu_id: In: topology gpu_id, 0 for every node
 * @online_percent: In: share of the queue slots kept for online work, in
 *     percent
 * @offline_percent: In: share that offline work may use, in percent; the sum of
 *     both is at most 100
 * @flags: In: 0
 * @online_reserved: Out: slots kept for online work on the smallest node,
 *     rounded down
 * @offline_max: Out: slots that offline work may use on the smallest node,
 *     rounded down
 * @num_nodes: Out: nodes that the reservation covers
 * @pad: zero
 * @reserved: zero
 */
struct kfd_ioctl_hqd_reservation_args {
	__u32 gpu_id;
	__u32 online_percent;
	__u32 offline_percent;
	__u32 flags;
	__u32 online_reserved;
	__u32 offline_max;
	__u32 num_nodes;
	__u32 pad;
	__aligned_u64 reserved[2];
};

/**
 * struct kfd_ioctl_hqd_status_args - argument of %AMDKFD_IOC_GET_HQD_STATUS:
 *     the queue slots of one node
 * @gpu_id: In: topology gpu_id
 * @flags: Out: KFD_GPREEMPT_HQD_*
 * @total_hqd: Out: compute queue slots of the node
 * @active_hqd: Out: compute queues in the runlist without the throttled ones;
 *     may exceed @total_hqd
 * @free_hqd: Out: slots that no active queue needs
 * @online_reserved: Out: slots kept for online work
 * @offline_max: Out: slots that offline work may use
 * @offline_used: Out: active queues of the offline class without the throttled
 *     ones
 * @num_xcc: Out: compute dies; the hardware has @total_hqd times this many HQDs
 * @preempted: Out: queues that any lease holds unmapped
 * @throttled: Out: queues that the reservation leaves out
 * @queues_total: Out: queues of every kind on the node
 * @sdma_slots: Out: SDMA queue slots
 * @sdma_active: Out: active SDMA queues
 * @proc_slots: Out: processes that can be on the hardware at once
 * @procs: Out: processes with queues on the node
 * @gws_active: Out: active queues that use global wave sync
 * @preempt_timeout_ms: Out: limit of one preemption in milliseconds
 * @runlist_seq: Out: runlists sent since the driver was loaded
 * @unmap_seq: Out: unmap rounds since the driver was loaded
 * @last_unmap_ns: Out: duration of the last unmap round in nanoseconds
 * @reserved: zero
 */
struct kfd_ioctl_hqd_status_args {
	__u32 gpu_id;
	__u32 flags;
	__u32 total_hqd;
	__u32 active_hqd;
	__u32 free_hqd;
	__u32 online_reserved;
	__u32 offline_max;
	__u32 offline_used;
	__u32 num_xcc;
	__u32 preempted;
	__u32 throttled;
	__u32 queues_total;
	__u32 sdma_slots;
	__u32 sdma_active;
	__u32 proc_slots;
	__u32 procs;
	__u32 gws_active;
	__u32 preempt_timeout_ms;
	__aligned_u64 runlist_seq;
	__aligned_u64 unmap_seq;
	__aligned_u64 last_unmap_ns;
	__aligned_u64 reserved[4];
};

/**
 * struct kfd_gpreempt_queue_status - one queue as %AMDKFD_IOC_GET_QUEUE_STATUS
 *     reports it
 * @queue_id: Out: KFD queue id within its process
 * @gpu_id: Out: topology gpu_id
 * @type: Out: KFD_IOC_QUEUE_TYPE_*
 * @state: Out: KFD_GPREEMPT_STATE_*
 * @priority: Out: priority, 0 to 15
 * @percent: Out: queue percentage, 0 to 100
 * @policy_flags: Out: KFD_GPREEMPT_POLICY_* in force
 * @flags: Out: %KFD_GPREEMPT_POINTERS_VALID, %KFD_GPREEMPT_WAVES_VALID
 * @read_ptr: Out: read pointer, in the units of the queue type
 * @write_ptr: Out: write pointer, in the units of the queue type
 * @ring_base: Out: address of the ring in its process
 * @owner_lease: Out: id of the lease that holds the queue, 0 for none
 * @preempted_ns: Out: how long the queue has been held, in nanoseconds
 * @owner_pid: Out: process of that lease in the caller's pid namespace, 0 if
 *     not visible
 * @waves: Out: running waves
 * @doorbell: Out: doorbell index
 * @pad: zero
 * @reserved: zero
 */
struct kfd_gpreempt_queue_status {
	__u32 queue_id;
	__u32 gpu_id;
	__u32 type;
	__u32 state;
	__u32 priority;
	__u32 percent;
	__u32 policy_flags;
	__u32 flags;
	__aligned_u64 read_ptr;
	__aligned_u64 write_ptr;
	__aligned_u64 ring_base;
	__aligned_u64 owner_lease;
	__aligned_u64 preempted_ns;
	__u32 owner_pid;
	__u32 waves;
	__u32 doorbell;
	__u32 pad;
	__aligned_u64 reserved;
};

/**
 * struct kfd_ioctl_queue_status_args - argument of %AMDKFD_IOC_GET_QUEUE_STATUS
 * @status_ptr: In: address of the array of &struct kfd_gpreempt_queue_status
 * @target: In: handle from ATTACH, or %KFD_GPREEMPT_TARGET_SELF
 * @gpu_id: In: topology gpu_id, 0 for every GPU
 * @queue_id: In: KFD queue id, or %KFD_GPREEMPT_ALL_QUEUES
 * @num_entries: In: room in the array; out: queues that there are
 * @entry_size: In: bytes of one element
 * @flags: In: %KFD_GPREEMPT_WANT_POINTERS, %KFD_GPREEMPT_WANT_WAVES
 * @reserved: zero
 */
struct kfd_ioctl_queue_status_args {
	__aligned_u64 status_ptr;
	__u32 target;
	__u32 gpu_id;
	__u32 queue_id;
	__u32 num_entries;
	__u32 entry_size;
	__u32 flags;
	__aligned_u64 reserved;
};

/**
 * struct kfd_gpreempt_event - one event, read from the lease fd
 * @type: KFD_GPREEMPT_EVENT_*
 * @flags: 0 in version 1
 * @target: Handle of the target concerned, 0 where none is
 * @gpu_id: Topology gpu_id concerned, 0 where none is
 * @queue_id: KFD queue id concerned
 * @lost: Events that were dropped before this one
 * @time_ns: Time of the event on CLOCK_BOOTTIME, in nanoseconds
 * @reserved: zero
 */
struct kfd_gpreempt_event {
	__u32 type;
	__u32 flags;
	__u32 target;
	__u32 gpu_id;
	__u32 queue_id;
	__u32 lost;
	__aligned_u64 time_ns;
	__aligned_u64 reserved;
};

#define KFD_GPREEMPT_IOWR(nr, type)	_IOWR('K', nr, type)

/* On /dev/kfd. */
#define AMDKFD_IOC_GPREEMPT_OPEN \
	KFD_GPREEMPT_IOWR(0x60, struct kfd_ioctl_gpreempt_open_args)
/* On the lease fd. */
#define AMDKFD_IOC_GPREEMPT_ATTACH \
	KFD_GPREEMPT_IOWR(0x61, struct kfd_ioctl_gpreempt_attach_args)
#define AMDKFD_IOC_GPREEMPT_DETACH \
	KFD_GPREEMPT_IOWR(0x62, struct kfd_ioctl_gpreempt_attach_args)
#define AMDKFD_IOC_BATCH_UNMAP_QUEUES \
	KFD_GPREEMPT_IOWR(0x63, struct kfd_ioctl_batch_unmap_args)
#define AMDKFD_IOC_FAST_REMAP \
	KFD_GPREEMPT_IOWR(0x64, struct kfd_ioctl_fast_remap_args)
#define AMDKFD_IOC_SWAP_QUEUES \
	KFD_GPREEMPT_IOWR(0x65, struct kfd_ioctl_swap_queues_args)
#define AMDKFD_IOC_SELECTIVE_UNMAP \
	KFD_GPREEMPT_IOWR(0x66, struct kfd_ioctl_selective_unmap_args)
#define AMDKFD_IOC_SET_QUEUE_STATE \
	KFD_GPREEMPT_IOWR(0x67, struct kfd_ioctl_queue_state_args)
#define AMDKFD_IOC_SET_QUEUE_POLICY \
	KFD_GPREEMPT_IOWR(0x68, struct kfd_ioctl_queue_policy_args)
#define AMDKFD_IOC_SET_HQD_RESERVATION \
	KFD_GPREEMPT_IOWR(0x69, struct kfd_ioctl_hqd_reservation_args)
#define AMDKFD_IOC_GET_HQD_STATUS \
	KFD_GPREEMPT_IOWR(0x6a, struct kfd_ioctl_hqd_status_args)
#define AMDKFD_IOC_GET_QUEUE_STATUS \
	KFD_GPREEMPT_IOWR(0x6b, struct kfd_ioctl_queue_status_args)

#endif /* KFD_IOCTL_GPREEMPT_H_INCLUDED */
