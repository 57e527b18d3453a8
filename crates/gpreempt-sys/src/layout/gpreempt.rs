// The expected layout and numbers of the commands of the kernel series: one list for the
// compile-time assertions of layout.rs and for the tests that compare it with C and with the docs.

macro_rules! gpreempt_abi {
    ($then:ident) => {
        $then! {
            structs {
                kfd_ioctl_gpreempt_open_args: size 64, align 8 {
                    abi_version: 0, flags: 4, max_hold_ms: 8, lease_fd: 12, lease_id: 16,
                    caps: 24, max_entries: 32, grace_max: 36, entry_size: 40, hqd_status_size: 44,
                    queue_status_size: 48, event_size: 52, reserved: 56,
                }
                kfd_ioctl_gpreempt_attach_args: size 32, align 8 {
                    pid: 0, flags: 4, target: 8, num_queues: 12, start_boottime_ns: 16,
                    reserved: 24,
                }
                kfd_gpreempt_entry: size 32, align 4 {
                    target: 0, gpu_id: 4, queue_id: 8, flags: 12, result: 16, num_queues: 20,
                    state: 24, pad: 28,
                }
                kfd_ioctl_batch_unmap_args: size 64, align 8 {
                    entries_ptr: 0, num_entries: 8, entry_size: 12, flags: 16, grace_period: 20,
                    num_ok: 24, num_failed: 28, num_nodes: 32, num_rounds: 36, elapsed_ns: 40,
                    max_node_ns: 48, reserved: 56,
                }
                kfd_ioctl_fast_remap_args: size 64, align 8 {
                    entries_ptr: 0, num_entries: 8, entry_size: 12, flags: 16, grace_period: 20,
                    num_ok: 24, num_failed: 28, num_nodes: 32, num_rounds: 36, elapsed_ns: 40,
                    max_node_ns: 48, reserved: 56,
                }
                kfd_ioctl_swap_queues_args: size 80, align 8 {
                    unmap_ptr: 0, remap_ptr: 8, num_unmap: 16, num_remap: 20, entry_size: 24,
                    flags: 28, grace_period: 32, pad: 36, num_ok: 40, num_failed: 44,
                    num_nodes: 48, num_rounds: 52, elapsed_ns: 56, max_node_ns: 64, reserved: 72,
                }
                kfd_ioctl_selective_unmap_args: size 56, align 8 {
                    queue: 0, flags: 32, grace_period: 36, elapsed_ns: 40, reserved: 48,
                }
                kfd_ioctl_queue_state_args: size 56, align 8 {
                    queue: 0, state: 32, grace_period: 36, elapsed_ns: 40, reserved: 48,
                }
                kfd_ioctl_queue_policy_args: size 56, align 8 {
                    queue: 0, set_flags: 32, clear_flags: 36, policy_flags: 40, pad: 44,
                    reserved: 48,
                }
                kfd_ioctl_hqd_reservation_args: size 48, align 8 {
                    gpu_id: 0, online_percent: 4, offline_percent: 8, flags: 12,
                    online_reserved: 16, offline_max: 20, num_nodes: 24, pad: 28, reserved: 32,
                }
                kfd_ioctl_hqd_status_args: size 128, align 8 {
                    gpu_id: 0, flags: 4, total_hqd: 8, active_hqd: 12, free_hqd: 16,
                    online_reserved: 20, offline_max: 24, offline_used: 28, num_xcc: 32,
                    preempted: 36, throttled: 40, queues_total: 44, sdma_slots: 48,
                    sdma_active: 52, proc_slots: 56, procs: 60, gws_active: 64,
                    preempt_timeout_ms: 68, runlist_seq: 72, unmap_seq: 80, last_unmap_ns: 88,
                    reserved: 96,
                }
                kfd_gpreempt_queue_status: size 96, align 8 {
                    queue_id: 0, gpu_id: 4, r#type: 8, state: 12, priority: 16, percent: 20,
                    policy_flags: 24, flags: 28, read_ptr: 32, write_ptr: 40, ring_base: 48,
                    owner_lease: 56, preempted_ns: 64, owner_pid: 72, waves: 76, doorbell: 80,
                    pad: 84, reserved: 88,
                }
                kfd_ioctl_queue_status_args: size 40, align 8 {
                    status_ptr: 0, target: 8, gpu_id: 12, queue_id: 16, num_entries: 20,
                    entry_size: 24, flags: 28, reserved: 32,
                }
                kfd_gpreempt_event: size 40, align 8 {
                    r#type: 0, flags: 4, target: 8, gpu_id: 12, queue_id: 16, lost: 20,
                    time_ns: 24, reserved: 32,
                }
            }
            requests {
                AMDKFD_IOC_GPREEMPT_OPEN: 0xc040_4b60 of kfd_ioctl_gpreempt_open_args,
                AMDKFD_IOC_GPREEMPT_ATTACH: 0xc020_4b61 of kfd_ioctl_gpreempt_attach_args,
                AMDKFD_IOC_GPREEMPT_DETACH: 0xc020_4b62 of kfd_ioctl_gpreempt_attach_args,
                AMDKFD_IOC_BATCH_UNMAP_QUEUES: 0xc040_4b63 of kfd_ioctl_batch_unmap_args,
                AMDKFD_IOC_FAST_REMAP: 0xc040_4b64 of kfd_ioctl_fast_remap_args,
                AMDKFD_IOC_SWAP_QUEUES: 0xc050_4b65 of kfd_ioctl_swap_queues_args,
                AMDKFD_IOC_SELECTIVE_UNMAP: 0xc038_4b66 of kfd_ioctl_selective_unmap_args,
                AMDKFD_IOC_SET_QUEUE_STATE: 0xc038_4b67 of kfd_ioctl_queue_state_args,
                AMDKFD_IOC_SET_QUEUE_POLICY: 0xc038_4b68 of kfd_ioctl_queue_policy_args,
                AMDKFD_IOC_SET_HQD_RESERVATION: 0xc030_4b69 of kfd_ioctl_hqd_reservation_args,
                AMDKFD_IOC_GET_HQD_STATUS: 0xc080_4b6a of kfd_ioctl_hqd_status_args,
                AMDKFD_IOC_GET_QUEUE_STATUS: 0xc028_4b6b of kfd_ioctl_queue_status_args,
            }
            constants {
                KFD_GPREEMPT_ABI_VERSION,
                KFD_GPREEMPT_MAX_ENTRIES,
                KFD_GPREEMPT_GRACE_MAX,
                KFD_GPREEMPT_TARGET_SELF,
                KFD_GPREEMPT_ALL_QUEUES,
                KFD_GPREEMPT_ENTRY_HOLD_NEW,
                KFD_GPREEMPT_ENTRY_IF_IDLE,
                KFD_GPREEMPT_CAP_RESERVATION,
                KFD_GPREEMPT_CAP_EVENTS,
                KFD_GPREEMPT_CAP_POINTERS,
                KFD_GPREEMPT_CAP_WAVES,
                KFD_GPREEMPT_CAP_SWAP,
                KFD_GPREEMPT_STATE_ACTIVE,
                KFD_GPREEMPT_STATE_EVICTED,
                KFD_GPREEMPT_STATE_SUSPENDED,
                KFD_GPREEMPT_STATE_PREEMPTED,
                KFD_GPREEMPT_STATE_MINE,
                KFD_GPREEMPT_STATE_DISABLED,
                KFD_GPREEMPT_STATE_BEING_DESTROYED,
                KFD_GPREEMPT_STATE_THROTTLED,
                KFD_GPREEMPT_STATE_RESET,
                KFD_GPREEMPT_STATE_PREEMPTIBLE,
                KFD_GPREEMPT_STATE_LAZY,
                KFD_GPREEMPT_STATE_IDLE,
                KFD_GPREEMPT_UNMAP_KEEP_MQD,
                KFD_GPREEMPT_UNMAP_KEEP_STATE,
                KFD_GPREEMPT_UNMAP_NO_CWSR,
                KFD_GPREEMPT_QUEUE_STATE_ACTIVE,
                KFD_GPREEMPT_QUEUE_STATE_INACTIVE,
                KFD_GPREEMPT_QUEUE_STATE_PREEMPTIBLE,
                KFD_GPREEMPT_POLICY_LAZY_ACTIVATION,
                KFD_GPREEMPT_POLICY_AUTO_DEACTIVATION,
                KFD_GPREEMPT_POLICY_PREEMPTIBLE,
                KFD_GPREEMPT_HQD_OVERSUBSCRIBED,
                KFD_GPREEMPT_HQD_HWS,
                KFD_GPREEMPT_HQD_MES,
                KFD_GPREEMPT_HQD_STOPPED,
                KFD_GPREEMPT_HQD_RESETTING,
                KFD_GPREEMPT_WANT_POINTERS,
                KFD_GPREEMPT_WANT_WAVES,
                KFD_GPREEMPT_POINTERS_VALID,
                KFD_GPREEMPT_WAVES_VALID,
                KFD_GPREEMPT_EVENT_QUEUE_CREATED,
                KFD_GPREEMPT_EVENT_QUEUE_DESTROYED,
                KFD_GPREEMPT_EVENT_TARGET_EXITED,
                KFD_GPREEMPT_EVENT_HOLD_EXPIRED,
                KFD_GPREEMPT_EVENT_NODE_RESET,
                KFD_GPREEMPT_EVENT_OVERSUBSCRIBED,
            }
        }
    };
}
