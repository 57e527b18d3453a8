// The expected layout and numbers of the stock commands that gpreempt needs: one list for the
// compile-time assertions of layout.rs and for the tests that compare it with C and with the docs.

macro_rules! stock_abi {
    ($then:ident) => {
        $then! {
            structs {
                kfd_ioctl_get_version_args: size 8, align 4 {
                    major_version: 0, minor_version: 4,
                }
                kfd_ioctl_create_queue_args: size 96, align 8 {
                    ring_base_address: 0, write_pointer_address: 8, read_pointer_address: 16,
                    doorbell_offset: 24, ring_size: 32, gpu_id: 36, queue_type: 40,
                    queue_percentage: 44, queue_priority: 48, queue_id: 52,
                    eop_buffer_address: 56, eop_buffer_size: 64, ctx_save_restore_address: 72,
                    ctx_save_restore_size: 80, ctl_stack_size: 84, sdma_engine_id: 88, pad: 92,
                }
                kfd_ioctl_destroy_queue_args: size 8, align 4 {
                    queue_id: 0, pad: 4,
                }
                kfd_ioctl_update_queue_args: size 24, align 8 {
                    ring_base_address: 0, queue_id: 8, ring_size: 12, queue_percentage: 16,
                    queue_priority: 20,
                }
                kfd_ioctl_set_cu_mask_args: size 16, align 8 {
                    queue_id: 0, num_cu_mask: 4, cu_mask_ptr: 8,
                }
                kfd_process_device_apertures: size 56, align 8 {
                    lds_base: 0, lds_limit: 8, scratch_base: 16, scratch_limit: 24,
                    gpuvm_base: 32, gpuvm_limit: 40, gpu_id: 48, pad: 52,
                }
                kfd_ioctl_get_process_apertures_new_args: size 16, align 8 {
                    kfd_process_device_apertures_ptr: 0, num_of_nodes: 8, pad: 12,
                }
                kfd_ioctl_acquire_vm_args: size 8, align 4 {
                    drm_fd: 0, gpu_id: 4,
                }
                kfd_ioctl_alloc_memory_of_gpu_args: size 40, align 8 {
                    va_addr: 0, size: 8, handle: 16, mmap_offset: 24, gpu_id: 32, flags: 36,
                }
                kfd_ioctl_free_memory_of_gpu_args: size 8, align 8 {
                    handle: 0,
                }
                kfd_ioctl_map_memory_to_gpu_args: size 24, align 8 {
                    handle: 0, device_ids_array_ptr: 8, n_devices: 16, n_success: 20,
                }
                kfd_ioctl_unmap_memory_from_gpu_args: size 24, align 8 {
                    handle: 0, device_ids_array_ptr: 8, n_devices: 16, n_success: 20,
                }
                kfd_ioctl_alloc_queue_gws_args: size 16, align 4 {
                    queue_id: 0, num_gws: 4, first_gws: 8, pad: 12,
                }
                kfd_ioctl_smi_events_args: size 8, align 4 {
                    gpuid: 0, anon_fd: 4,
                }
                kfd_runtime_info: size 16, align 8 {
                    r_debug: 0, runtime_state: 8, ttmp_setup: 12,
                }
                kfd_ioctl_runtime_enable_args: size 16, align 8 {
                    r_debug: 0, mode_mask: 8, capabilities_mask: 12,
                }
                kfd_queue_snapshot_entry: size 64, align 8 {
                    exception_status: 0, ring_base_address: 8, write_pointer_address: 16,
                    read_pointer_address: 24, ctx_save_restore_address: 32, queue_id: 40,
                    gpu_id: 44, ring_size: 48, queue_type: 52, ctx_save_restore_area_size: 56,
                    reserved: 60,
                }
                kfd_ioctl_dbg_trap_enable_args: size 24, align 8 {
                    exception_mask: 0, rinfo_ptr: 8, rinfo_size: 16, dbg_fd: 20,
                }
                kfd_ioctl_dbg_trap_send_runtime_event_args: size 16, align 8 {
                    exception_mask: 0, gpu_id: 8, queue_id: 12,
                }
                kfd_ioctl_dbg_trap_set_exceptions_enabled_args: size 8, align 8 {
                    exception_mask: 0,
                }
                kfd_ioctl_dbg_trap_suspend_queues_args: size 24, align 8 {
                    exception_mask: 0, queue_array_ptr: 8, num_queues: 16, grace_period: 20,
                }
                kfd_ioctl_dbg_trap_resume_queues_args: size 16, align 8 {
                    queue_array_ptr: 0, num_queues: 8, pad: 12,
                }
                kfd_ioctl_dbg_trap_query_debug_event_args: size 16, align 8 {
                    exception_mask: 0, gpu_id: 8, queue_id: 12,
                }
                kfd_ioctl_dbg_trap_query_exception_info_args: size 24, align 8 {
                    info_ptr: 0, info_size: 8, source_id: 12, exception_code: 16,
                    clear_exception: 20,
                }
                kfd_ioctl_dbg_trap_queue_snapshot_args: size 24, align 8 {
                    exception_mask: 0, snapshot_buf_ptr: 8, num_queues: 16, entry_size: 20,
                }
                kfd_ioctl_dbg_trap_args: size 32, align 8 {
                    pid: 0, op: 4, payload: 8,
                }
            }
            requests {
                AMDKFD_IOC_GET_VERSION: 0x8008_4b01 of kfd_ioctl_get_version_args,
                AMDKFD_IOC_CREATE_QUEUE: 0xc060_4b02 of kfd_ioctl_create_queue_args,
                AMDKFD_IOC_DESTROY_QUEUE: 0xc008_4b03 of kfd_ioctl_destroy_queue_args,
                AMDKFD_IOC_UPDATE_QUEUE: 0x4018_4b07 of kfd_ioctl_update_queue_args,
                AMDKFD_IOC_GET_PROCESS_APERTURES_NEW: 0xc010_4b14 of kfd_ioctl_get_process_apertures_new_args,
                AMDKFD_IOC_ACQUIRE_VM: 0x4008_4b15 of kfd_ioctl_acquire_vm_args,
                AMDKFD_IOC_ALLOC_MEMORY_OF_GPU: 0xc028_4b16 of kfd_ioctl_alloc_memory_of_gpu_args,
                AMDKFD_IOC_FREE_MEMORY_OF_GPU: 0x4008_4b17 of kfd_ioctl_free_memory_of_gpu_args,
                AMDKFD_IOC_MAP_MEMORY_TO_GPU: 0xc018_4b18 of kfd_ioctl_map_memory_to_gpu_args,
                AMDKFD_IOC_UNMAP_MEMORY_FROM_GPU: 0xc018_4b19 of kfd_ioctl_unmap_memory_from_gpu_args,
                AMDKFD_IOC_SET_CU_MASK: 0x4010_4b1a of kfd_ioctl_set_cu_mask_args,
                AMDKFD_IOC_ALLOC_QUEUE_GWS: 0xc010_4b1e of kfd_ioctl_alloc_queue_gws_args,
                AMDKFD_IOC_SMI_EVENTS: 0xc008_4b1f of kfd_ioctl_smi_events_args,
                AMDKFD_IOC_RUNTIME_ENABLE: 0xc010_4b25 of kfd_ioctl_runtime_enable_args,
                AMDKFD_IOC_DBG_TRAP: 0xc020_4b26 of kfd_ioctl_dbg_trap_args,
            }
            constants {
                AMDKFD_IOCTL_BASE,
                AMDKFD_COMMAND_START,
                AMDKFD_COMMAND_END,
                KFD_IOCTL_MAJOR_VERSION,
                KFD_IOCTL_MINOR_VERSION,
                KFD_IOC_QUEUE_TYPE_COMPUTE,
                KFD_IOC_QUEUE_TYPE_SDMA,
                KFD_IOC_QUEUE_TYPE_COMPUTE_AQL,
                KFD_IOC_QUEUE_TYPE_SDMA_XGMI,
                KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID,
                KFD_MAX_QUEUE_PERCENTAGE,
                KFD_MAX_QUEUE_PRIORITY,
                KFD_MIN_QUEUE_RING_SIZE,
                KFD_IOC_ALLOC_MEM_FLAGS_VRAM,
                KFD_IOC_ALLOC_MEM_FLAGS_GTT,
                KFD_IOC_ALLOC_MEM_FLAGS_USERPTR,
                KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL,
                KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE,
                KFD_IOC_ALLOC_MEM_FLAGS_EXECUTABLE,
                KFD_IOC_ALLOC_MEM_FLAGS_PUBLIC,
                KFD_IOC_ALLOC_MEM_FLAGS_NO_SUBSTITUTE,
                KFD_IOC_ALLOC_MEM_FLAGS_AQL_QUEUE_MEM,
                KFD_IOC_ALLOC_MEM_FLAGS_COHERENT,
                KFD_IOC_ALLOC_MEM_FLAGS_UNCACHED,
                KFD_SMI_EVENT_VMFAULT,
                KFD_SMI_EVENT_THERMAL_THROTTLE,
                KFD_SMI_EVENT_GPU_PRE_RESET,
                KFD_SMI_EVENT_GPU_POST_RESET,
                KFD_SMI_EVENT_MIGRATE_START,
                KFD_SMI_EVENT_MIGRATE_END,
                KFD_SMI_EVENT_PAGE_FAULT_START,
                KFD_SMI_EVENT_PAGE_FAULT_END,
                KFD_SMI_EVENT_QUEUE_EVICTION,
                KFD_SMI_EVENT_QUEUE_RESTORE,
                KFD_SMI_EVENT_UNMAP_FROM_GPU,
                KFD_SMI_EVENT_ALL_PROCESS,
                KFD_SMI_EVENT_MSG_SIZE,
                KFD_QUEUE_EVICTION_TRIGGER_SVM,
                KFD_QUEUE_EVICTION_TRIGGER_USERPTR,
                KFD_QUEUE_EVICTION_TRIGGER_TTM,
                KFD_QUEUE_EVICTION_TRIGGER_SUSPEND,
                KFD_QUEUE_EVICTION_CRIU_CHECKPOINT,
                KFD_QUEUE_EVICTION_CRIU_RESTORE,
                KFD_RUNTIME_ENABLE_MODE_ENABLE_MASK,
                KFD_RUNTIME_ENABLE_MODE_TTMP_SAVE_MASK,
                DEBUG_RUNTIME_STATE_DISABLED,
                DEBUG_RUNTIME_STATE_ENABLED,
                DEBUG_RUNTIME_STATE_ENABLED_BUSY,
                DEBUG_RUNTIME_STATE_ENABLED_ERROR,
                KFD_DBG_QUEUE_ERROR_BIT,
                KFD_DBG_QUEUE_INVALID_BIT,
                KFD_DBG_QUEUE_ERROR_MASK,
                KFD_DBG_QUEUE_INVALID_MASK,
                EC_NONE,
                EC_QUEUE_WAVE_ABORT,
                EC_QUEUE_WAVE_TRAP,
                EC_QUEUE_WAVE_MEMORY_VIOLATION,
                EC_QUEUE_PREEMPTION_ERROR,
                EC_QUEUE_NEW,
                EC_DEVICE_QUEUE_DELETE,
                EC_DEVICE_MEMORY_VIOLATION,
                EC_DEVICE_RAS_ERROR,
                EC_DEVICE_FATAL_HALT,
                EC_DEVICE_NEW,
                EC_PROCESS_RUNTIME,
                EC_PROCESS_DEVICE_REMOVE,
                KFD_IOC_DBG_TRAP_ENABLE,
                KFD_IOC_DBG_TRAP_DISABLE,
                KFD_IOC_DBG_TRAP_SEND_RUNTIME_EVENT,
                KFD_IOC_DBG_TRAP_SET_EXCEPTIONS_ENABLED,
                KFD_IOC_DBG_TRAP_SET_WAVE_LAUNCH_OVERRIDE,
                KFD_IOC_DBG_TRAP_SET_WAVE_LAUNCH_MODE,
                KFD_IOC_DBG_TRAP_SUSPEND_QUEUES,
                KFD_IOC_DBG_TRAP_RESUME_QUEUES,
                KFD_IOC_DBG_TRAP_SET_NODE_ADDRESS_WATCH,
                KFD_IOC_DBG_TRAP_CLEAR_NODE_ADDRESS_WATCH,
                KFD_IOC_DBG_TRAP_SET_FLAGS,
                KFD_IOC_DBG_TRAP_QUERY_DEBUG_EVENT,
                KFD_IOC_DBG_TRAP_QUERY_EXCEPTION_INFO,
                KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT,
                KFD_IOC_DBG_TRAP_GET_DEVICE_SNAPSHOT,
            }
        }
    };
}
