//! `/sys/class/kfd/kfd/proc/<pid>`: values of a process. Queue values have no newline; the kernel prints none.

use crate::config::QueueType;

/// `queues/<id>/size`.
pub fn queue_size(bytes: u64) -> String {
    bytes.to_string()
}

/// `queues/<id>/type`: `enum kfd_queue_type`, which is not the ioctl's constant.
pub fn queue_type(kind: QueueType) -> String {
    match kind {
        QueueType::Compute => "0",
        QueueType::Sdma => "1",
        QueueType::SdmaXgmi => "4",
    }
    .to_owned()
}

/// `queues/<id>/gpuid`, decimal.
pub fn queue_gpuid(gpu_id: u32) -> String {
    gpu_id.to_string()
}

/// `pasid`.
pub fn pasid(pasid: u32) -> String {
    format!("{pasid}\n")
}

/// `vram_<gpuid>`: bytes in use.
pub fn vram(bytes: u64) -> String {
    format!("{bytes}\n")
}

/// `sdma_<gpuid>`: microseconds of SDMA activity.
pub fn sdma(microseconds: u64) -> String {
    format!("{microseconds}\n")
}

/// `stats_<gpuid>/evicted_ms`.
pub fn evicted_ms(milliseconds: u64) -> String {
    format!("{milliseconds}\n")
}

/// `stats_<gpuid>/cu_occupancy`: compute units with a wave of the process.
pub fn cu_occupancy(compute_units: u32) -> String {
    format!("{compute_units}\n")
}
