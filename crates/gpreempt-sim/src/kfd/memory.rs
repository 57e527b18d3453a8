//! Buffers: counted, not modelled. Queues take any address as mapped.

use gpreempt_sys::{
    KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL, KFD_IOC_ALLOC_MEM_FLAGS_GTT, KFD_IOC_ALLOC_MEM_FLAGS_USERPTR,
    KFD_IOC_ALLOC_MEM_FLAGS_VRAM, kfd_ioctl_acquire_vm_args, kfd_ioctl_alloc_memory_of_gpu_args,
    kfd_ioctl_free_memory_of_gpu_args, kfd_ioctl_map_memory_to_gpu_args, kfd_ioctl_unmap_memory_from_gpu_args,
};
use nix::errno::Errno;

use super::stock::own;
use crate::call::Call;
use crate::process::Buffer;

pub(super) fn acquire_vm(call: &mut Call<'_>, args: &mut kfd_ioctl_acquire_vm_args) -> Result<i32, Errno> {
    let node = call.node_by_gpu(args.gpu_id).ok_or(Errno::EINVAL)?;
    own(call)?.device_mut(node).vm = true;
    Ok(0)
}

pub(super) fn alloc(call: &mut Call<'_>, args: &mut kfd_ioctl_alloc_memory_of_gpu_args) -> Result<i32, Errno> {
    let node = call.node_by_gpu(args.gpu_id).ok_or(Errno::EINVAL)?;
    let kinds = KFD_IOC_ALLOC_MEM_FLAGS_VRAM
        | KFD_IOC_ALLOC_MEM_FLAGS_GTT
        | KFD_IOC_ALLOC_MEM_FLAGS_USERPTR
        | KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL;
    if args.size == 0 || args.flags & kinds == 0 {
        return Err(Errno::EINVAL);
    }
    let (gpu_id, bytes) = (u64::from(args.gpu_id), args.size);
    let vram = args.flags & KFD_IOC_ALLOC_MEM_FLAGS_VRAM != 0;
    let kfd = own(call)?;
    let number = kfd.next_buffer;
    kfd.next_buffer += 1;
    args.handle = gpu_id << 32 | number;
    args.mmap_offset = number << 12;
    kfd.buffers.insert(args.handle, Buffer { node, bytes, vram });
    Ok(0)
}

pub(super) fn free(call: &mut Call<'_>, args: &mut kfd_ioctl_free_memory_of_gpu_args) -> Result<i32, Errno> {
    own(call)?.buffers.remove(&args.handle).map(|_| 0).ok_or(Errno::EINVAL)
}

pub(super) fn map(call: &mut Call<'_>, args: &mut kfd_ioctl_map_memory_to_gpu_args) -> Result<i32, Errno> {
    args.n_success = walk(call, args.handle, args.device_ids_array_ptr, args.n_devices, args.n_success)?;
    Ok(0)
}

pub(super) fn unmap(call: &mut Call<'_>, args: &mut kfd_ioctl_unmap_memory_from_gpu_args) -> Result<i32, Errno> {
    args.n_success = walk(call, args.handle, args.device_ids_array_ptr, args.n_devices, args.n_success)?;
    Ok(0)
}

/// Checks a buffer and the list of its nodes. Returns how many nodes are done.
fn walk(call: &mut Call<'_>, handle: u64, list: u64, count: u32, done: u32) -> Result<u32, Errno> {
    if count == 0 || done > count || count as usize > call.nodes.len() {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; count as usize * 4];
    call.memory.read(list, &mut bytes)?;
    if !own(call)?.buffers.contains_key(&handle) {
        return Err(Errno::EINVAL);
    }
    for gpu_id in bytes.chunks_exact(4).skip(done as usize) {
        let gpu_id = u32::from_le_bytes(gpu_id.try_into().expect("a chunk has four bytes"));
        call.node_by_gpu(gpu_id).ok_or(Errno::EINVAL)?;
    }
    Ok(count)
}
