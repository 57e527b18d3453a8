//! The part of the unpatched KFD ABI (Linux 6.12, interface 1.17) that gpreempt speaks.
//!
//! Every request here goes to `/dev/kfd`. The driver looks a command up by its number alone and
//! ignores direction and size, so a wrong size is not an error there: it is a wrong answer. An
//! unknown number answers ENOTTY (EINVAL from AMD's DKMS driver). The fd is bound to the process
//! that opened it; elsewhere every request answers EBADF.
//!
//! The debug ioctl carries a C union. It is [`kfd_ioctl_dbg_trap_args`] here, with the union as
//! plain words and one [`DbgTrapOp`] impl per member.

use nix::{request_code_read, request_code_readwrite, request_code_write};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Type byte of every KFD request.
pub const AMDKFD_IOCTL_BASE: u8 = b'K';
/// First request number of the stock driver.
pub const AMDKFD_COMMAND_START: u32 = 0x01;
/// One past the last request number of the stock driver.
pub const AMDKFD_COMMAND_END: u32 = 0x27;
/// Major version that Linux 6.12 answers to GET_VERSION.
pub const KFD_IOCTL_MAJOR_VERSION: u32 = 1;
/// Minor version that Linux 6.12 answers to GET_VERSION.
pub const KFD_IOCTL_MINOR_VERSION: u32 = 17;

/// Queue type: compute, PM4 packets.
pub const KFD_IOC_QUEUE_TYPE_COMPUTE: u32 = 0;
/// Queue type: SDMA copy engine.
pub const KFD_IOC_QUEUE_TYPE_SDMA: u32 = 1;
/// Queue type: compute, AQL packets (what ROCr creates).
pub const KFD_IOC_QUEUE_TYPE_COMPUTE_AQL: u32 = 2;
/// Queue type: SDMA engine on the XGMI links.
pub const KFD_IOC_QUEUE_TYPE_SDMA_XGMI: u32 = 3;
/// Queue type: SDMA engine chosen by its id.
pub const KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID: u32 = 4;
/// Largest queue percentage.
pub const KFD_MAX_QUEUE_PERCENTAGE: u32 = 100;
/// Highest queue priority.
pub const KFD_MAX_QUEUE_PRIORITY: u32 = 15;
/// Smallest ring, in bytes.
pub const KFD_MIN_QUEUE_RING_SIZE: u32 = 1024;

/// Memory kind: on the GPU.
pub const KFD_IOC_ALLOC_MEM_FLAGS_VRAM: u32 = 1 << 0;
/// Memory kind: system memory that the driver allocates.
pub const KFD_IOC_ALLOC_MEM_FLAGS_GTT: u32 = 1 << 1;
/// Memory kind: pages of the caller.
pub const KFD_IOC_ALLOC_MEM_FLAGS_USERPTR: u32 = 1 << 2;
/// Memory kind: doorbell page.
pub const KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL: u32 = 1 << 3;
/// Memory access: the GPU may write.
pub const KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE: u32 = 1 << 31;
/// Memory access: the GPU may execute.
pub const KFD_IOC_ALLOC_MEM_FLAGS_EXECUTABLE: u32 = 1 << 30;
/// Memory access: the CPU may map VRAM.
pub const KFD_IOC_ALLOC_MEM_FLAGS_PUBLIC: u32 = 1 << 29;
/// Memory access: no other kind may take its place.
pub const KFD_IOC_ALLOC_MEM_FLAGS_NO_SUBSTITUTE: u32 = 1 << 28;
/// Memory access: ring mapped twice in a row.
pub const KFD_IOC_ALLOC_MEM_FLAGS_AQL_QUEUE_MEM: u32 = 1 << 27;
/// Memory access: fine-grained coherence.
pub const KFD_IOC_ALLOC_MEM_FLAGS_COHERENT: u32 = 1 << 26;
/// Memory access: not cached.
pub const KFD_IOC_ALLOC_MEM_FLAGS_UNCACHED: u32 = 1 << 25;

/// SMI event: page fault in a compute VM.
pub const KFD_SMI_EVENT_VMFAULT: u32 = 1;
/// SMI event: the GPU slows down for heat or power.
pub const KFD_SMI_EVENT_THERMAL_THROTTLE: u32 = 2;
/// SMI event: a GPU reset begins.
pub const KFD_SMI_EVENT_GPU_PRE_RESET: u32 = 3;
/// SMI event: a GPU reset has ended.
pub const KFD_SMI_EVENT_GPU_POST_RESET: u32 = 4;
/// SMI event: a page migration begins.
pub const KFD_SMI_EVENT_MIGRATE_START: u32 = 5;
/// SMI event: a page migration has ended.
pub const KFD_SMI_EVENT_MIGRATE_END: u32 = 6;
/// SMI event: recovery of a page fault begins.
pub const KFD_SMI_EVENT_PAGE_FAULT_START: u32 = 7;
/// SMI event: recovery of a page fault has ended.
pub const KFD_SMI_EVENT_PAGE_FAULT_END: u32 = 8;
/// SMI event: the queues of a process were evicted.
pub const KFD_SMI_EVENT_QUEUE_EVICTION: u32 = 9;
/// SMI event: the queues of a process were restored.
pub const KFD_SMI_EVENT_QUEUE_RESTORE: u32 = 10;
/// SMI event: a buffer was unmapped from a GPU.
pub const KFD_SMI_EVENT_UNMAP_FROM_GPU: u32 = 11;
/// SMI mask bit, not an event: those of every process (needs privilege).
pub const KFD_SMI_EVENT_ALL_PROCESS: u32 = 64;
/// Longest line of an SMI event, in bytes.
pub const KFD_SMI_EVENT_MSG_SIZE: u32 = 96;

/// Mask bit of an SMI event, as written to the event fd.
#[allow(non_snake_case)] // the kernel's macro
pub const fn KFD_SMI_EVENT_MASK_FROM_INDEX(event: u32) -> u64 {
    1 << (event - 1)
}

/// Eviction trigger: migration of shared virtual memory.
pub const KFD_QUEUE_EVICTION_TRIGGER_SVM: u32 = 0;
/// Eviction trigger: pages of the process moved.
pub const KFD_QUEUE_EVICTION_TRIGGER_USERPTR: u32 = 1;
/// Eviction trigger: a buffer object moved.
pub const KFD_QUEUE_EVICTION_TRIGGER_TTM: u32 = 2;
/// Eviction trigger: suspend of the GPU.
pub const KFD_QUEUE_EVICTION_TRIGGER_SUSPEND: u32 = 3;
/// Eviction trigger: checkpoint of the process.
pub const KFD_QUEUE_EVICTION_CRIU_CHECKPOINT: u32 = 4;
/// Eviction trigger: restore of a checkpoint.
pub const KFD_QUEUE_EVICTION_CRIU_RESTORE: u32 = 5;

/// Mode of RUNTIME_ENABLE: enable; without it, disable.
pub const KFD_RUNTIME_ENABLE_MODE_ENABLE_MASK: u32 = 1;
/// Mode of RUNTIME_ENABLE: save the trap temporaries.
pub const KFD_RUNTIME_ENABLE_MODE_TTMP_SAVE_MASK: u32 = 2;
/// Runtime state: RUNTIME_ENABLE was not called.
pub const DEBUG_RUNTIME_STATE_DISABLED: u32 = 0;
/// Runtime state: enabled, queues can be suspended.
pub const DEBUG_RUNTIME_STATE_ENABLED: u32 = 1;
/// Runtime state: being enabled, waits for the debugger.
pub const DEBUG_RUNTIME_STATE_ENABLED_BUSY: u32 = 2;
/// Runtime state: enabling failed.
pub const DEBUG_RUNTIME_STATE_ENABLED_ERROR: u32 = 3;

/// Bit set in a queue id that the hardware failed to suspend or resume.
pub const KFD_DBG_QUEUE_ERROR_BIT: u32 = 30;
/// Bit set in a queue id that does not exist, is new or is being destroyed.
pub const KFD_DBG_QUEUE_INVALID_BIT: u32 = 31;
/// Mask of [`KFD_DBG_QUEUE_ERROR_BIT`].
pub const KFD_DBG_QUEUE_ERROR_MASK: u32 = 1 << KFD_DBG_QUEUE_ERROR_BIT;
/// Mask of [`KFD_DBG_QUEUE_INVALID_BIT`].
pub const KFD_DBG_QUEUE_INVALID_MASK: u32 = 1 << KFD_DBG_QUEUE_INVALID_BIT;

/// Exception code: none.
pub const EC_NONE: u32 = 0;
/// Exception code of a queue: a wave aborted.
pub const EC_QUEUE_WAVE_ABORT: u32 = 1;
/// Exception code of a queue: a wave trapped.
pub const EC_QUEUE_WAVE_TRAP: u32 = 2;
/// Exception code of a queue: a wave touched bad memory.
pub const EC_QUEUE_WAVE_MEMORY_VIOLATION: u32 = 5;
/// Exception code of a queue: preemption failed.
pub const EC_QUEUE_PREEMPTION_ERROR: u32 = 30;
/// Exception code of a queue: created and not yet seen by the debugger; cannot be suspended until
/// cleared.
pub const EC_QUEUE_NEW: u32 = 31;
/// Exception code of a device: a queue was deleted.
pub const EC_DEVICE_QUEUE_DELETE: u32 = 32;
/// Exception code of a device: memory violation.
pub const EC_DEVICE_MEMORY_VIOLATION: u32 = 33;
/// Exception code of a device: memory error.
pub const EC_DEVICE_RAS_ERROR: u32 = 34;
/// Exception code of a device: it halted.
pub const EC_DEVICE_FATAL_HALT: u32 = 35;
/// Exception code of a device: not yet seen by the debugger.
pub const EC_DEVICE_NEW: u32 = 36;
/// Exception code of a process: its runtime was enabled or disabled.
pub const EC_PROCESS_RUNTIME: u32 = 48;
/// Exception code of a process: a device was removed.
pub const EC_PROCESS_DEVICE_REMOVE: u32 = 49;

/// Mask bit of an exception code (`EC_*`, not [`EC_NONE`]).
#[allow(non_snake_case)] // the kernel's macro
pub const fn KFD_EC_MASK(ecode: u32) -> u64 {
    1 << (ecode - 1)
}

/// Debug operation: start a session on the target.
pub const KFD_IOC_DBG_TRAP_ENABLE: u32 = 0;
/// Debug operation: end the session; takes no arguments.
pub const KFD_IOC_DBG_TRAP_DISABLE: u32 = 1;
/// Debug operation: raise an exception to the target's runtime.
pub const KFD_IOC_DBG_TRAP_SEND_RUNTIME_EVENT: u32 = 2;
/// Debug operation: choose the exceptions to be told of.
pub const KFD_IOC_DBG_TRAP_SET_EXCEPTIONS_ENABLED: u32 = 3;
/// Debug operation: override traps at wave launch.
pub const KFD_IOC_DBG_TRAP_SET_WAVE_LAUNCH_OVERRIDE: u32 = 4;
/// Debug operation: set the wave launch mode.
pub const KFD_IOC_DBG_TRAP_SET_WAVE_LAUNCH_MODE: u32 = 5;
/// Debug operation: suspend queues; the ioctl returns how many.
pub const KFD_IOC_DBG_TRAP_SUSPEND_QUEUES: u32 = 6;
/// Debug operation: resume queues; the ioctl returns how many.
pub const KFD_IOC_DBG_TRAP_RESUME_QUEUES: u32 = 7;
/// Debug operation: set an address watch.
pub const KFD_IOC_DBG_TRAP_SET_NODE_ADDRESS_WATCH: u32 = 8;
/// Debug operation: clear an address watch.
pub const KFD_IOC_DBG_TRAP_CLEAR_NODE_ADDRESS_WATCH: u32 = 9;
/// Debug operation: set wave flags.
pub const KFD_IOC_DBG_TRAP_SET_FLAGS: u32 = 10;
/// Debug operation: find raised exceptions.
pub const KFD_IOC_DBG_TRAP_QUERY_DEBUG_EVENT: u32 = 11;
/// Debug operation: read what an exception carries.
pub const KFD_IOC_DBG_TRAP_QUERY_EXCEPTION_INFO: u32 = 12;
/// Debug operation: read the target's queues and clear exceptions.
pub const KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT: u32 = 13;
/// Debug operation: read the target's devices.
pub const KFD_IOC_DBG_TRAP_GET_DEVICE_SNAPSHOT: u32 = 14;

/// Argument of [`AMDKFD_IOC_GET_VERSION`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_get_version_args {
    /// Out: major version of the interface.
    pub major_version: u32,
    /// Out: minor version of the interface.
    pub minor_version: u32,
}

/// Argument of [`AMDKFD_IOC_CREATE_QUEUE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_create_queue_args {
    /// In: address of the ring.
    pub ring_base_address: u64,
    /// In: address of the write pointer.
    pub write_pointer_address: u64,
    /// In: address of the read pointer.
    pub read_pointer_address: u64,
    /// Out: offset of the doorbell for `mmap` of `/dev/kfd`.
    pub doorbell_offset: u64,
    /// In: ring size in bytes, a power of two.
    pub ring_size: u32,
    /// In: topology gpu_id.
    pub gpu_id: u32,
    /// In: `KFD_IOC_QUEUE_TYPE_*`.
    pub queue_type: u32,
    /// In: bits 0 to 7 percent, bits 8 to 15 the XCC that runs PM4.
    pub queue_percentage: u32,
    /// In: priority, 0 to [`KFD_MAX_QUEUE_PRIORITY`].
    pub queue_priority: u32,
    /// Out: id of the queue within the process.
    pub queue_id: u32,
    /// In: address of the end-of-pipe buffer.
    pub eop_buffer_address: u64,
    /// In: its size in bytes.
    pub eop_buffer_size: u64,
    /// In: address of the area for saved wave state.
    pub ctx_save_restore_address: u64,
    /// In: its size per XCC in bytes.
    pub ctx_save_restore_size: u32,
    /// In: size of the control stack in bytes.
    pub ctl_stack_size: u32,
    /// In: engine, for [`KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID`].
    pub sdma_engine_id: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`AMDKFD_IOC_DESTROY_QUEUE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_destroy_queue_args {
    /// In: id of the queue.
    pub queue_id: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`AMDKFD_IOC_UPDATE_QUEUE`]: replaces all four properties.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_update_queue_args {
    /// In: address of the ring; 0 disables the queue.
    pub ring_base_address: u64,
    /// In: id of the queue.
    pub queue_id: u32,
    /// In: ring size in bytes.
    pub ring_size: u32,
    /// In: bits 0 to 7 percent (0 disables the queue), bits 8 to 15 the XCC that runs PM4.
    pub queue_percentage: u32,
    /// In: priority, 0 to [`KFD_MAX_QUEUE_PRIORITY`].
    pub queue_priority: u32,
}

/// Argument of [`AMDKFD_IOC_SET_CU_MASK`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_set_cu_mask_args {
    /// In: id of the queue.
    pub queue_id: u32,
    /// In: bits in the mask, a multiple of 32.
    pub num_cu_mask: u32,
    /// In: address of the mask, an array of 32-bit words.
    pub cu_mask_ptr: u64,
}

/// The address ranges of one GPU in the process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_process_device_apertures {
    /// Out: first address of the LDS aperture.
    pub lds_base: u64,
    /// Out: last address of the LDS aperture.
    pub lds_limit: u64,
    /// Out: first address of the scratch aperture.
    pub scratch_base: u64,
    /// Out: last address of the scratch aperture.
    pub scratch_limit: u64,
    /// Out: first address of the GPU VM.
    pub gpuvm_base: u64,
    /// Out: last address of the GPU VM.
    pub gpuvm_limit: u64,
    /// Out: topology gpu_id.
    pub gpu_id: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`AMDKFD_IOC_GET_PROCESS_APERTURES_NEW`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_get_process_apertures_new_args {
    /// In: address of the array of [`kfd_process_device_apertures`].
    pub kfd_process_device_apertures_ptr: u64,
    /// In: room in the array, 0 to ask for the count; out: elements filled, or the count.
    pub num_of_nodes: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`AMDKFD_IOC_ACQUIRE_VM`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_acquire_vm_args {
    /// In: fd of the GPU's render node.
    pub drm_fd: u32,
    /// In: topology gpu_id.
    pub gpu_id: u32,
}

/// Argument of [`AMDKFD_IOC_ALLOC_MEMORY_OF_GPU`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_alloc_memory_of_gpu_args {
    /// In: GPU virtual address.
    pub va_addr: u64,
    /// In: size in bytes.
    pub size: u64,
    /// Out: handle of the buffer.
    pub handle: u64,
    /// In: CPU address, for [`KFD_IOC_ALLOC_MEM_FLAGS_USERPTR`]; out: offset for `mmap` of the
    /// render node.
    pub mmap_offset: u64,
    /// In: topology gpu_id.
    pub gpu_id: u32,
    /// In: `KFD_IOC_ALLOC_MEM_FLAGS_*`.
    pub flags: u32,
}

/// Argument of [`AMDKFD_IOC_FREE_MEMORY_OF_GPU`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_free_memory_of_gpu_args {
    /// In: handle of the buffer.
    pub handle: u64,
}

/// Argument of [`AMDKFD_IOC_MAP_MEMORY_TO_GPU`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_map_memory_to_gpu_args {
    /// In: handle of the buffer.
    pub handle: u64,
    /// In: address of the array of gpu_ids, 32 bits each.
    pub device_ids_array_ptr: u64,
    /// In: elements of the array.
    pub n_devices: u32,
    /// In: elements to skip; out: elements done.
    pub n_success: u32,
}

/// Argument of [`AMDKFD_IOC_UNMAP_MEMORY_FROM_GPU`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_unmap_memory_from_gpu_args {
    /// In: handle of the buffer.
    pub handle: u64,
    /// In: address of the array of gpu_ids, 32 bits each.
    pub device_ids_array_ptr: u64,
    /// In: elements of the array.
    pub n_devices: u32,
    /// In: elements to skip; out: elements done.
    pub n_success: u32,
}

/// Argument of [`AMDKFD_IOC_ALLOC_QUEUE_GWS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_alloc_queue_gws_args {
    /// In: id of the queue.
    pub queue_id: u32,
    /// In: global wave sync entries, 0 to give them back.
    pub num_gws: u32,
    /// Out: index of the first one.
    pub first_gws: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`AMDKFD_IOC_SMI_EVENTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_smi_events_args {
    /// In: topology gpu_id.
    pub gpuid: u32,
    /// Out: fd to write the event mask to and to read the lines from.
    pub anon_fd: u32,
}

/// What the driver knows of the target's runtime.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_runtime_info {
    /// Address of the runtime's debug structure in the target.
    pub r_debug: u64,
    /// `DEBUG_RUNTIME_STATE_*`.
    pub runtime_state: u32,
    /// 1 where the trap temporaries are saved.
    pub ttmp_setup: u32,
}

/// Argument of [`AMDKFD_IOC_RUNTIME_ENABLE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_runtime_enable_args {
    /// In: address of the runtime's debug structure.
    pub r_debug: u64,
    /// In: `KFD_RUNTIME_ENABLE_MODE_*`.
    pub mode_mask: u32,
    /// Out: capabilities of the driver.
    pub capabilities_mask: u32,
}

/// One queue of the target, as [`KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT`] reports it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_queue_snapshot_entry {
    /// Raised exceptions, bits of [`KFD_EC_MASK`].
    pub exception_status: u64,
    /// Address of the ring.
    pub ring_base_address: u64,
    /// Address of the write pointer.
    pub write_pointer_address: u64,
    /// Address of the read pointer.
    pub read_pointer_address: u64,
    /// Address of the area for saved wave state.
    pub ctx_save_restore_address: u64,
    /// Id of the queue within its process.
    pub queue_id: u32,
    /// Topology gpu_id.
    pub gpu_id: u32,
    /// Ring size in bytes.
    pub ring_size: u32,
    /// `KFD_IOC_QUEUE_TYPE_*`.
    pub queue_type: u32,
    /// Size of the area for saved wave state in bytes.
    pub ctx_save_restore_area_size: u32,
    /// 0.
    pub reserved: u32,
}

/// Arguments of [`KFD_IOC_DBG_TRAP_ENABLE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_enable_args {
    /// In: exceptions to be told of, bits of [`KFD_EC_MASK`].
    pub exception_mask: u64,
    /// In: address of a [`kfd_runtime_info`] to fill.
    pub rinfo_ptr: u64,
    /// In: its size in bytes; out: bytes filled.
    pub rinfo_size: u32,
    /// In: fd that the driver writes to when an exception is raised.
    pub dbg_fd: u32,
}

/// Arguments of [`KFD_IOC_DBG_TRAP_SEND_RUNTIME_EVENT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_send_runtime_event_args {
    /// In: exceptions to raise, bits of [`KFD_EC_MASK`].
    pub exception_mask: u64,
    /// In: GPU concerned.
    pub gpu_id: u32,
    /// In: queue concerned.
    pub queue_id: u32,
}

/// Arguments of [`KFD_IOC_DBG_TRAP_SET_EXCEPTIONS_ENABLED`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_set_exceptions_enabled_args {
    /// In: exceptions to be told of, bits of [`KFD_EC_MASK`].
    pub exception_mask: u64,
}

/// Arguments of [`KFD_IOC_DBG_TRAP_SUSPEND_QUEUES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_suspend_queues_args {
    /// In: exceptions to clear, bits of [`KFD_EC_MASK`].
    pub exception_mask: u64,
    /// In: address of the array of queue ids, 32 bits each; failures are marked in it.
    pub queue_array_ptr: u64,
    /// In: elements of the array.
    pub num_queues: u32,
    /// In: time to finish before preemption, in 1000 GPU clocks.
    pub grace_period: u32,
}

/// Arguments of [`KFD_IOC_DBG_TRAP_RESUME_QUEUES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_resume_queues_args {
    /// In: address of the array of queue ids, 32 bits each; failures are marked in it; 0 for all
    /// queues.
    pub queue_array_ptr: u64,
    /// In: elements of the array.
    pub num_queues: u32,
    /// 0.
    pub pad: u32,
}

/// Arguments of [`KFD_IOC_DBG_TRAP_QUERY_DEBUG_EVENT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_query_debug_event_args {
    /// In: exceptions to clear; out: exceptions raised.
    pub exception_mask: u64,
    /// Out: GPU concerned.
    pub gpu_id: u32,
    /// Out: queue concerned.
    pub queue_id: u32,
}

/// Arguments of [`KFD_IOC_DBG_TRAP_QUERY_EXCEPTION_INFO`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_query_exception_info_args {
    /// In: address of the buffer to fill.
    pub info_ptr: u64,
    /// In: its size in bytes; out: bytes that there are.
    pub info_size: u32,
    /// In: gpu_id or queue id concerned.
    pub source_id: u32,
    /// In: `EC_*`.
    pub exception_code: u32,
    /// In: 1 to clear the exception.
    pub clear_exception: u32,
}

/// Arguments of [`KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_queue_snapshot_args {
    /// In: exceptions to clear, bits of [`KFD_EC_MASK`].
    pub exception_mask: u64,
    /// In: address of the array of [`kfd_queue_snapshot_entry`].
    pub snapshot_buf_ptr: u64,
    /// In: room in the array; out: queues that there are.
    pub num_queues: u32,
    /// In: bytes of one element; out: bytes filled of each.
    pub entry_size: u32,
}

/// Argument of [`AMDKFD_IOC_DBG_TRAP`]; `payload` is the C header's anonymous union.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kfd_ioctl_dbg_trap_args {
    /// In: target process in the caller's pid namespace.
    pub pid: u32,
    /// In: `KFD_IOC_DBG_TRAP_*`; it says which member of the union is in `payload`.
    pub op: u32,
    /// In and out: the arguments of the operation; use [`DbgTrapOp`].
    pub payload: [u64; 3],
}

/// The arguments of one debug operation, a member of the union in [`kfd_ioctl_dbg_trap_args`].
pub trait DbgTrapOp: FromBytes + IntoBytes + Immutable {
    /// The operation that takes these arguments, `KFD_IOC_DBG_TRAP_*`.
    const OP: u32;
}

macro_rules! dbg_trap_op {
    ($($args:ty => $op:ident,)*) => {$(
        impl DbgTrapOp for $args {
            const OP: u32 = $op;
        }
    )*};
}

dbg_trap_op! {
    kfd_ioctl_dbg_trap_enable_args => KFD_IOC_DBG_TRAP_ENABLE,
    kfd_ioctl_dbg_trap_send_runtime_event_args => KFD_IOC_DBG_TRAP_SEND_RUNTIME_EVENT,
    kfd_ioctl_dbg_trap_set_exceptions_enabled_args => KFD_IOC_DBG_TRAP_SET_EXCEPTIONS_ENABLED,
    kfd_ioctl_dbg_trap_suspend_queues_args => KFD_IOC_DBG_TRAP_SUSPEND_QUEUES,
    kfd_ioctl_dbg_trap_resume_queues_args => KFD_IOC_DBG_TRAP_RESUME_QUEUES,
    kfd_ioctl_dbg_trap_query_debug_event_args => KFD_IOC_DBG_TRAP_QUERY_DEBUG_EVENT,
    kfd_ioctl_dbg_trap_query_exception_info_args => KFD_IOC_DBG_TRAP_QUERY_EXCEPTION_INFO,
    kfd_ioctl_dbg_trap_queue_snapshot_args => KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT,
}

impl kfd_ioctl_dbg_trap_args {
    /// The argument that asks for one operation on process `pid`.
    ///
    /// [`KFD_IOC_DBG_TRAP_DISABLE`] takes no arguments: fill `pid` and `op` of a default value.
    pub fn new<T: DbgTrapOp>(pid: u32, args: T) -> Self {
        let mut this = Self { pid, op: T::OP, ..Self::default() };
        this.store(args);
        this
    }

    /// The arguments of operation `T`, or `None` where `op` is another one.
    pub fn get<T: DbgTrapOp>(&self) -> Option<T> {
        if self.op != T::OP {
            return None;
        }
        let (args, _rest) = T::read_from_prefix(self.payload.as_bytes()).expect("a union member fits the union");
        Some(args)
    }

    /// Replaces the arguments of operation `T`, as the kernel does on return.
    ///
    /// # Panics
    ///
    /// Where `op` is not the operation that takes a `T`.
    pub fn set<T: DbgTrapOp>(&mut self, args: T) {
        assert_eq!(self.op, T::OP, "arguments of another debug operation");
        self.store(args);
    }

    fn store<T: DbgTrapOp>(&mut self, args: T) {
        args.write_to_prefix(self.payload.as_mut_bytes()).expect("a union member fits the union");
    }
}

/// Reads the version of the interface.
///
/// * fd: `/dev/kfd`. Since: Linux 3.19.
/// * Permissions: none.
/// * Errors: none of its own.
pub const AMDKFD_IOC_GET_VERSION: u32 =
    request_code_read!(AMDKFD_IOCTL_BASE, 0x01, size_of::<kfd_ioctl_get_version_args>()) as u32;

/// Creates a queue of the calling process.
///
/// * fd: `/dev/kfd`. Since: Linux 3.19.
/// * Permissions: none.
/// * Errors: EINVAL bad argument or no such GPU; ENOMEM no room.
pub const AMDKFD_IOC_CREATE_QUEUE: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x02, size_of::<kfd_ioctl_create_queue_args>()) as u32;

/// Destroys a queue of the calling process.
///
/// * fd: `/dev/kfd`. Since: Linux 3.19.
/// * Permissions: none.
/// * Errors: EINVAL no such queue; ETIME preemption timed out.
pub const AMDKFD_IOC_DESTROY_QUEUE: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x03, size_of::<kfd_ioctl_destroy_queue_args>()) as u32;

/// Replaces ring, percentage and priority of a queue of the calling process.
///
/// * fd: `/dev/kfd`. Since: Linux 3.19.
/// * Permissions: none.
/// * Errors: EFAULT no such queue; EINVAL bad argument; ETIME preemption timed out.
pub const AMDKFD_IOC_UPDATE_QUEUE: u32 =
    request_code_write!(AMDKFD_IOCTL_BASE, 0x07, size_of::<kfd_ioctl_update_queue_args>()) as u32;

/// Reads the GPUs that the process can use and their address ranges.
///
/// * fd: `/dev/kfd`. Since: Linux 4.16.
/// * Permissions: none.
/// * Errors: EINVAL more room than there are GPUs.
pub const AMDKFD_IOC_GET_PROCESS_APERTURES_NEW: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x14, size_of::<kfd_ioctl_get_process_apertures_new_args>()) as u32;

/// Binds the GPU's VM to the process; needed before a queue.
///
/// * fd: `/dev/kfd`. Since: Linux 4.17.
/// * Permissions: access to the render node.
/// * Errors: EINVAL no such GPU or fd; EBUSY bound to another fd.
pub const AMDKFD_IOC_ACQUIRE_VM: u32 =
    request_code_write!(AMDKFD_IOCTL_BASE, 0x15, size_of::<kfd_ioctl_acquire_vm_args>()) as u32;

/// Allocates a buffer that a GPU can reach.
///
/// * fd: `/dev/kfd`. Since: Linux 4.17.
/// * Permissions: none.
/// * Errors: EINVAL; ENOMEM.
pub const AMDKFD_IOC_ALLOC_MEMORY_OF_GPU: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x16, size_of::<kfd_ioctl_alloc_memory_of_gpu_args>()) as u32;

/// Frees a buffer.
///
/// * fd: `/dev/kfd`. Since: Linux 4.17.
/// * Permissions: none.
/// * Errors: EINVAL no such buffer.
pub const AMDKFD_IOC_FREE_MEMORY_OF_GPU: u32 =
    request_code_write!(AMDKFD_IOCTL_BASE, 0x17, size_of::<kfd_ioctl_free_memory_of_gpu_args>()) as u32;

/// Maps a buffer on GPUs.
///
/// * fd: `/dev/kfd`. Since: Linux 4.17.
/// * Permissions: none.
/// * Errors: EINVAL; ENOMEM.
pub const AMDKFD_IOC_MAP_MEMORY_TO_GPU: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x18, size_of::<kfd_ioctl_map_memory_to_gpu_args>()) as u32;

/// Unmaps a buffer from GPUs.
///
/// * fd: `/dev/kfd`. Since: Linux 4.17.
/// * Permissions: none.
/// * Errors: EINVAL; ENOMEM.
pub const AMDKFD_IOC_UNMAP_MEMORY_FROM_GPU: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x19, size_of::<kfd_ioctl_unmap_memory_from_gpu_args>()) as u32;

/// Limits a queue of the calling process to some compute units.
///
/// * fd: `/dev/kfd`. Since: Linux 4.19.
/// * Permissions: none.
/// * Errors: EFAULT no such queue; EINVAL bad mask.
pub const AMDKFD_IOC_SET_CU_MASK: u32 =
    request_code_write!(AMDKFD_IOCTL_BASE, 0x1a, size_of::<kfd_ioctl_set_cu_mask_args>()) as u32;

/// Gives a queue global wave sync.
///
/// * fd: `/dev/kfd`. Since: Linux 5.3.
/// * Permissions: none.
/// * Errors: ENODEV not supported; EINVAL no such queue; EBUSY taken.
pub const AMDKFD_IOC_ALLOC_QUEUE_GWS: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x1e, size_of::<kfd_ioctl_alloc_queue_gws_args>()) as u32;

/// Opens an fd for events of one GPU.
///
/// * fd: `/dev/kfd`. Since: Linux 5.8.
/// * Permissions: none for own events, privilege for those of every process.
/// * Errors: EINVAL no such GPU.
pub const AMDKFD_IOC_SMI_EVENTS: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x1f, size_of::<kfd_ioctl_smi_events_args>()) as u32;

/// Tells the driver that the runtime is ready to be debugged.
///
/// * fd: `/dev/kfd`. Since: Linux 6.5.
/// * Permissions: none.
/// * Errors: EBUSY enabled already; EEXIST a queue exists already; EINVAL cannot debug.
pub const AMDKFD_IOC_RUNTIME_ENABLE: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x25, size_of::<kfd_ioctl_runtime_enable_args>()) as u32;

/// Debugs a process; suspending and resuming queues returns their number.
///
/// * fd: `/dev/kfd`. Since: Linux 6.5.
/// * Permissions: the calling thread traces the target or is its debugger; for oneself none.
/// * Errors: ESRCH no such process; EPERM not allowed, or its runtime is not enabled; EINVAL no
///   session or no HWS; EAGAIN no event.
pub const AMDKFD_IOC_DBG_TRAP: u32 =
    request_code_readwrite!(AMDKFD_IOCTL_BASE, 0x26, size_of::<kfd_ioctl_dbg_trap_args>()) as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_a_debug_operation_come_back_as_they_went_in() {
        let suspend = kfd_ioctl_dbg_trap_suspend_queues_args {
            exception_mask: KFD_EC_MASK(EC_QUEUE_NEW),
            queue_array_ptr: 0x1000,
            num_queues: 3,
            grace_period: 7,
        };
        let args = kfd_ioctl_dbg_trap_args::new(4711, suspend);
        assert_eq!((args.pid, args.op), (4711, KFD_IOC_DBG_TRAP_SUSPEND_QUEUES));
        assert_eq!(args.payload, [1 << 30, 0x1000, 7 << 32 | 3]);
        assert_eq!(args.get(), Some(suspend));
    }

    #[test]
    fn the_arguments_of_another_debug_operation_are_not_handed_out() {
        let args = kfd_ioctl_dbg_trap_args::new(1, kfd_ioctl_dbg_trap_enable_args::default());
        assert_eq!(args.get::<kfd_ioctl_dbg_trap_queue_snapshot_args>(), None);
    }

    #[test]
    fn setting_a_shorter_member_leaves_the_rest_of_the_union_alone() {
        let mut args = kfd_ioctl_dbg_trap_args {
            op: KFD_IOC_DBG_TRAP_SET_EXCEPTIONS_ENABLED,
            payload: [1, 2, 3],
            ..Default::default()
        };
        args.set(kfd_ioctl_dbg_trap_set_exceptions_enabled_args { exception_mask: 9 });
        assert_eq!(args.payload, [9, 2, 3]);
    }
}
