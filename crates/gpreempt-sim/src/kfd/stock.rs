//! The commands of the stock driver that concern a process's own queues.

use gpreempt_sys::{
    AMDKFD_COMMAND_END, AMDKFD_COMMAND_START, AMDKFD_IOC_ACQUIRE_VM, AMDKFD_IOC_ALLOC_MEMORY_OF_GPU,
    AMDKFD_IOC_ALLOC_QUEUE_GWS, AMDKFD_IOC_CREATE_QUEUE, AMDKFD_IOC_DBG_TRAP, AMDKFD_IOC_DESTROY_QUEUE,
    AMDKFD_IOC_FREE_MEMORY_OF_GPU, AMDKFD_IOC_GET_PROCESS_APERTURES_NEW, AMDKFD_IOC_GET_VERSION,
    AMDKFD_IOC_MAP_MEMORY_TO_GPU, AMDKFD_IOC_RUNTIME_ENABLE, AMDKFD_IOC_SET_CU_MASK, AMDKFD_IOC_SMI_EVENTS,
    AMDKFD_IOC_UNMAP_MEMORY_FROM_GPU, AMDKFD_IOC_UPDATE_QUEUE, DEBUG_RUNTIME_STATE_DISABLED,
    DEBUG_RUNTIME_STATE_ENABLED, KFD_GPREEMPT_EVENT_QUEUE_CREATED, KFD_IOC_QUEUE_TYPE_COMPUTE,
    KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, KFD_IOC_QUEUE_TYPE_SDMA, KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID,
    KFD_IOC_QUEUE_TYPE_SDMA_XGMI, KFD_IOCTL_MAJOR_VERSION, KFD_IOCTL_MINOR_VERSION, KFD_MAX_QUEUE_PERCENTAGE,
    KFD_MAX_QUEUE_PRIORITY, KFD_MIN_QUEUE_RING_SIZE, KFD_RUNTIME_ENABLE_MODE_ENABLE_MASK,
    KFD_RUNTIME_ENABLE_MODE_TTMP_SAVE_MASK, kfd_ioctl_alloc_queue_gws_args, kfd_ioctl_create_queue_args,
    kfd_ioctl_destroy_queue_args, kfd_ioctl_get_process_apertures_new_args, kfd_ioctl_get_version_args,
    kfd_ioctl_runtime_enable_args, kfd_ioctl_set_cu_mask_args, kfd_ioctl_update_queue_args,
    kfd_process_device_apertures,
};
use nix::errno::Errno;

use super::arguments::{Direction, loose, write_array};
use super::{debug, memory, number, smi};
use crate::call::Call;
use crate::hw::rounds::{Job, Report};
use crate::node::NodeIndex;
use crate::process::KfdProcess;
use crate::queue::{Properties, QueueKey};

/// End of user addresses on x86-64 (`TASK_SIZE_MAX`).
const USER_END: u64 = 0x7fff_ffff_f000;
/// Type bits of a doorbell's `mmap` offset, and where its gpu_id is.
const MMAP_DOORBELL: u64 = 3 << 62;
const MMAP_GPU_ID_SHIFT: u32 = 46;
const MMAP_GPU_ID_MASK: u32 = 0xffff;
/// `AMDGPU_GPU_PAGE_SHIFT`.
const PAGE_SHIFT: u32 = 12;
/// Smallest EOP buffer of a compute queue that has one (GFX 8 and later).
const EOP_BYTES: u64 = 4096;
/// Most bits of a CU mask that the driver looks at.
const CU_MASK_BITS: u32 = 1024;

/// Whether the stock driver has a command of this number.
pub(super) fn is_command(nr: u32) -> bool {
    (AMDKFD_COMMAND_START..AMDKFD_COMMAND_END).contains(&nr)
}

/// A command on `/dev/kfd`. Those that have nothing to do with queues are not modelled and answer EOPNOTSUPP.
pub(super) fn dispatch(call: &mut Call<'_>, nr: u32, argument: &mut [u8]) -> Result<i32, Errno> {
    const GET_VERSION: u32 = number(AMDKFD_IOC_GET_VERSION);
    const CREATE_QUEUE: u32 = number(AMDKFD_IOC_CREATE_QUEUE);
    const DESTROY_QUEUE: u32 = number(AMDKFD_IOC_DESTROY_QUEUE);
    const UPDATE_QUEUE: u32 = number(AMDKFD_IOC_UPDATE_QUEUE);
    const APERTURES: u32 = number(AMDKFD_IOC_GET_PROCESS_APERTURES_NEW);
    const ACQUIRE_VM: u32 = number(AMDKFD_IOC_ACQUIRE_VM);
    const ALLOC_MEMORY: u32 = number(AMDKFD_IOC_ALLOC_MEMORY_OF_GPU);
    const FREE_MEMORY: u32 = number(AMDKFD_IOC_FREE_MEMORY_OF_GPU);
    const MAP_MEMORY: u32 = number(AMDKFD_IOC_MAP_MEMORY_TO_GPU);
    const UNMAP_MEMORY: u32 = number(AMDKFD_IOC_UNMAP_MEMORY_FROM_GPU);
    const SET_CU_MASK: u32 = number(AMDKFD_IOC_SET_CU_MASK);
    const ALLOC_GWS: u32 = number(AMDKFD_IOC_ALLOC_QUEUE_GWS);
    const SMI_EVENTS: u32 = number(AMDKFD_IOC_SMI_EVENTS);
    const RUNTIME_ENABLE: u32 = number(AMDKFD_IOC_RUNTIME_ENABLE);
    const DBG_TRAP: u32 = number(AMDKFD_IOC_DBG_TRAP);
    use Direction::{Both, In, Out};
    match nr {
        GET_VERSION => loose(argument, Out, get_version),
        CREATE_QUEUE => loose(argument, Both, |args| create_queue(call, args)),
        DESTROY_QUEUE => loose(argument, Both, |args| destroy_queue(call, args)),
        UPDATE_QUEUE => loose(argument, In, |args| update_queue(call, args)),
        APERTURES => loose(argument, Both, |args| apertures(call, args)),
        ACQUIRE_VM => loose(argument, In, |args| memory::acquire_vm(call, args)),
        ALLOC_MEMORY => loose(argument, Both, |args| memory::alloc(call, args)),
        FREE_MEMORY => loose(argument, In, |args| memory::free(call, args)),
        MAP_MEMORY => loose(argument, Both, |args| memory::map(call, args)),
        UNMAP_MEMORY => loose(argument, Both, |args| memory::unmap(call, args)),
        SET_CU_MASK => loose(argument, In, |args| set_cu_mask(call, args)),
        ALLOC_GWS => loose(argument, Both, |args| alloc_gws(call, args)),
        SMI_EVENTS => loose(argument, Both, |args| smi::open(call, args)),
        RUNTIME_ENABLE => loose(argument, Both, |args| runtime_enable(call, args)),
        DBG_TRAP => loose(argument, Both, |args| debug::trap(call, args)),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn get_version(args: &mut kfd_ioctl_get_version_args) -> Result<i32, Errno> {
    args.major_version = KFD_IOCTL_MAJOR_VERSION;
    args.minor_version = KFD_IOCTL_MINOR_VERSION;
    Ok(0)
}

/// The kernel's `access_ok`: looks at the range, not at what is there.
fn check_address(address: u64, bytes: u64) -> Result<(), Errno> {
    if address <= USER_END - bytes { Ok(()) } else { Err(Errno::EFAULT) }
}

/// What CREATE_QUEUE and UPDATE_QUEUE check of a ring. Returns the ring size in force.
fn check_ring(percentage: u32, priority: u32, ring: u64, bytes: u32) -> Result<u32, Errno> {
    if percentage & 0xff > KFD_MAX_QUEUE_PERCENTAGE || priority > KFD_MAX_QUEUE_PRIORITY {
        return Err(Errno::EINVAL);
    }
    check_address(ring, 8)?;
    if bytes != 0 && !bytes.is_power_of_two() {
        return Err(Errno::EINVAL);
    }
    Ok(bytes.max(KFD_MIN_QUEUE_RING_SIZE))
}

fn create_queue(call: &mut Call<'_>, args: &mut kfd_ioctl_create_queue_args) -> Result<i32, Errno> {
    args.ring_size = check_ring(args.queue_percentage, args.queue_priority, args.ring_base_address, args.ring_size)?;
    for address in
        [args.read_pointer_address, args.write_pointer_address, args.eop_buffer_address, args.ctx_save_restore_address]
    {
        check_address(address, 4)?;
    }
    if args.queue_type > KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID {
        // The kernel lets its internal ENOTSUPP out here, which has no name in user space.
        return Err(Errno::EOPNOTSUPP);
    }
    let node = call.node_by_gpu(args.gpu_id).ok_or(Errno::EINVAL)?;
    let it = call.node(node);
    let mut kind = args.queue_type;
    let by_engine = kind == KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID;
    if by_engine {
        if args.sdma_engine_id >= it.sdma_engines + it.sdma_xgmi_engines {
            return Err(Errno::EINVAL);
        }
        let xgmi = args.sdma_engine_id >= it.sdma_engines;
        kind = if xgmi { KFD_IOC_QUEUE_TYPE_SDMA_XGMI } else { KFD_IOC_QUEUE_TYPE_SDMA };
    }
    // Buffers that the process has not mapped on the GPU; the machine takes any other address as mapped.
    if args.ring_base_address == 0 || args.read_pointer_address == 0 || args.write_pointer_address == 0 {
        return Err(Errno::EINVAL);
    }
    if matches!(kind, KFD_IOC_QUEUE_TYPE_COMPUTE | KFD_IOC_QUEUE_TYPE_COMPUTE_AQL) {
        let it = call.node(node);
        let eop = args.eop_buffer_address != 0 && args.eop_buffer_size < EOP_BYTES;
        let stack = args.ctl_stack_size != it.ctl_stack_bytes;
        let area = args.ctx_save_restore_address == 0 || args.ctx_save_restore_size < it.save_area_bytes;
        if eop || stack || area {
            return Err(Errno::EINVAL);
        }
    }
    let properties = Properties {
        kind,
        percent: args.queue_percentage & 0xff,
        target_xcc: args.queue_percentage >> 8 & 0xff,
        priority: args.queue_priority,
        ring: args.ring_base_address,
        ring_bytes: args.ring_size,
        read_pointer: args.read_pointer_address,
        write_pointer: args.write_pointer_address,
        save_area: args.ctx_save_restore_address,
        save_area_bytes: args.ctx_save_restore_size,
        ctl_stack_bytes: args.ctl_stack_size,
        sdma_engine: by_engine.then_some(args.sdma_engine_id),
    };
    let pid = call.task.pid;
    let key = call.create_queue(pid, node, properties, false)?;
    if call.queue(key).is_active() {
        let report = call.run_one(node, Job { execute: true, ..Job::default() });
        if let Err(errno) = report.result {
            call.unlink_queue(key);
            return Err(errno);
        }
    }
    call.announce(KFD_GPREEMPT_EVENT_QUEUE_CREATED, pid, Some(key));
    let queue = call.queue(key);
    args.queue_id = queue.id;
    let gpu = u64::from(args.gpu_id & MMAP_GPU_ID_MASK) << MMAP_GPU_ID_SHIFT;
    args.doorbell_offset = MMAP_DOORBELL | gpu | (u64::from(queue.doorbell) * 8);
    Ok(0)
}

fn destroy_queue(call: &mut Call<'_>, args: &mut kfd_ioctl_destroy_queue_args) -> Result<i32, Errno> {
    let key = call.find_queue(call.task.pid, args.queue_id).map_err(|_| Errno::EINVAL)?;
    let (node, job) = call.destroy_queue(key)?;
    call.run_one(node, job).result.map(|()| 0)
}

fn update_queue(call: &mut Call<'_>, args: &mut kfd_ioctl_update_queue_args) -> Result<i32, Errno> {
    let bytes = check_ring(args.queue_percentage, args.queue_priority, args.ring_base_address, args.ring_size)?;
    let key = call.find_queue(call.task.pid, args.queue_id).map_err(|_| Errno::EFAULT)?;
    // A ring has to be a buffer that is mapped, as a whole; address 0 switches the queue off.
    // The driver counts in pages: what is less than one has no size.
    let (ring, size) = call.queue(key).ring;
    let whole =
        args.ring_base_address == ring && (bytes >> PAGE_SHIFT == 0 || bytes >> PAGE_SHIFT == size >> PAGE_SHIFT);
    if args.ring_base_address != 0 && !whole {
        return Err(Errno::EFAULT);
    }
    let properties = &mut call.queue_mut(key).properties;
    properties.ring = args.ring_base_address;
    properties.ring_bytes = bytes;
    properties.percent = args.queue_percentage & 0xff;
    properties.target_xcc = args.queue_percentage >> 8 & 0xff;
    properties.priority = args.queue_priority;
    execute_update(call, key)
}

/// The round of every change of an MQD: the node is unmapped first, whatever state the queue is in.
fn execute_update(call: &mut Call<'_>, key: QueueKey) -> Result<i32, Errno> {
    let queue = call.queue(key);
    let (pid, node) = (queue.pid, queue.node);
    let has_reset = call.open_kfd(pid)?.device(node).has_reset_queue;
    let job = Job {
        extra_ns: call.config.cost.update_queue.ns,
        execute: true,
        lenient: true,
        // A stock driver forgets to map again where it refuses; the series mends that.
        leave_unmapped: has_reset && !call.config.patched,
        ..Job::default()
    };
    let report = call.run_one(node, job);
    if has_reset { Err(Errno::EACCES) } else { report.result.map(|()| 0) }
}

fn set_cu_mask(call: &mut Call<'_>, args: &mut kfd_ioctl_set_cu_mask_args) -> Result<i32, Errno> {
    if args.num_cu_mask == 0 || !args.num_cu_mask.is_multiple_of(32) {
        return Err(Errno::EINVAL);
    }
    let mut mask = vec![0; args.num_cu_mask.min(CU_MASK_BITS) as usize / 8];
    call.memory.read(args.cu_mask_ptr, &mut mask)?;
    let key = call.find_queue(call.task.pid, args.queue_id).map_err(|_| Errno::EFAULT)?;
    execute_update(call, key)
}

fn alloc_gws(call: &mut Call<'_>, args: &mut kfd_ioctl_alloc_queue_gws_args) -> Result<i32, Errno> {
    let pid = call.task.pid;
    let key = call.find_queue(pid, args.queue_id).map_err(|_| Errno::EINVAL)?;
    let node = call.queue(key).node;
    if call.node(node).gws == 0 {
        return Err(Errno::ENODEV);
    }
    let taken = call.open_kfd(pid)?.device(node).gws;
    // Told whether or not there is one.
    args.first_gws = 0;
    match (args.num_gws > 0, taken) {
        (true, true) => return Err(Errno::EBUSY),
        (false, false) => return Err(Errno::EINVAL),
        (gws, _) => {
            call.queue_mut(key).gws = gws;
            call.open_kfd(pid)?.device_mut(node).gws = gws;
        }
    }
    execute_update(call, key)
}

fn apertures(call: &mut Call<'_>, args: &mut kfd_ioctl_get_process_apertures_new_args) -> Result<i32, Errno> {
    let nodes = call.nodes.len() as u32;
    if args.num_of_nodes == 0 {
        args.num_of_nodes = nodes;
        return Ok(0);
    }
    if args.num_of_nodes as usize > call.topology.nodes.len() {
        return Err(Errno::EINVAL);
    }
    let found: Vec<kfd_process_device_apertures> = call
        .nodes
        .iter()
        .take(args.num_of_nodes as usize)
        .map(|node| kfd_process_device_apertures {
            lds_base: 0x0001_0000_0000_0000,
            lds_limit: 0x0001_0000_ffff_ffff,
            scratch_base: 0x0002_0000_0000_0000,
            scratch_limit: 0x0002_0000_ffff_ffff,
            gpuvm_base: 0x0000_0000_0001_0000,
            gpuvm_limit: 0x0000_7fff_ffff_ffff,
            gpu_id: node.gpu_id,
            pad: 0,
        })
        .collect();
    args.num_of_nodes = found.len() as u32;
    let stride = size_of::<kfd_process_device_apertures>() as u64;
    write_array(call, args.kfd_process_device_apertures_ptr, &found, stride)?;
    Ok(0)
}

fn runtime_enable(call: &mut Call<'_>, args: &mut kfd_ioctl_runtime_enable_args) -> Result<i32, Errno> {
    let kfd = own(call)?;
    if args.mode_mask & KFD_RUNTIME_ENABLE_MODE_ENABLE_MASK != 0 {
        if kfd.runtime_state != DEBUG_RUNTIME_STATE_DISABLED {
            return Err(Errno::EBUSY);
        }
        if !kfd.queues.is_empty() {
            return Err(Errno::EEXIST);
        }
        kfd.runtime_state = DEBUG_RUNTIME_STATE_ENABLED;
        kfd.runtime_debug = args.r_debug;
        kfd.ttmp_setup = args.mode_mask & KFD_RUNTIME_ENABLE_MODE_TTMP_SAVE_MASK != 0;
        return Ok(0);
    }
    kfd.runtime_state = DEBUG_RUNTIME_STATE_DISABLED;
    kfd.runtime_debug = 0;
    kfd.ttmp_setup = false;
    refresh_runlists(call);
    Ok(0)
}

/// `debug_refresh_runlist` on every node, one after the other.
pub(super) fn refresh_runlists(call: &mut Call<'_>) -> Vec<(NodeIndex, Report)> {
    let job = || Job { execute: true, ..Job::default() };
    call.node_indices().map(|node| (node, call.run_one(node, job()))).collect()
}

/// What KFD keeps of the calling process.
pub(super) fn own<'c>(call: &'c mut Call<'_>) -> Result<&'c mut KfdProcess, Errno> {
    let pid = call.task.pid;
    call.open_kfd(pid)
}
