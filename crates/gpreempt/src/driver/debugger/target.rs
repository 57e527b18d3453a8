//! What is known of a process that is being debugged.

use std::collections::BTreeMap;
use std::time::Duration;

use gpreempt_sys::{
    KFD_IOC_QUEUE_TYPE_SDMA, KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID, KFD_IOC_QUEUE_TYPE_SDMA_XGMI, kfd_queue_snapshot_entry,
};

use crate::driver::QueueStatus;
use crate::queue::{GpuId, Pid, PolicyFlags, QueueId, QueueState, QueueType};

/// A process that this driver debugs.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// When it started; tells it from a later process with its pid.
    pub started: Option<Duration>,
    /// Its pid in the init namespace, as KFD's files name it, where that can be known.
    pub kfd_pid: Option<u32>,
    /// Its queues at the last snapshot.
    pub queues: BTreeMap<u32, Seen>,
    /// Queues that this driver suspended, or may have, and when.
    pub suspended: BTreeMap<u32, Duration>,
}

/// A queue as the last snapshot shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub gpu: GpuId,
    kind: QueueType,
    ring_base: u64,
}

impl Target {
    pub fn see(&mut self, entries: &[kfd_queue_snapshot_entry]) {
        let kind = |number| match number {
            KFD_IOC_QUEUE_TYPE_SDMA | KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID => QueueType::Sdma,
            KFD_IOC_QUEUE_TYPE_SDMA_XGMI => QueueType::SdmaXgmi,
            _ => QueueType::Compute,
        };
        let seen = |entry: &kfd_queue_snapshot_entry| Seen {
            gpu: GpuId(entry.gpu_id),
            kind: kind(entry.queue_type),
            ring_base: entry.ring_base_address,
        };
        self.queues = entries.iter().map(|entry| (entry.queue_id, seen(entry))).collect();
        let queues = &self.queues;
        self.suspended.retain(|id, _| queues.contains_key(id));
    }

    /// What can be said of a queue: a debugger sees neither evictions nor percentages, so ACTIVE means that it does not
    /// keep the queue off the hardware.
    pub fn status(&self, pid: Pid, id: u32, seen: &Seen, now: Duration) -> QueueStatus {
        let since = self.suspended.get(&id);
        QueueStatus {
            queue: QueueId { pid, id },
            gpu: seen.gpu,
            kind: seen.kind,
            state: since.map_or(QueueState::ACTIVE, |_| HELD),
            policy: PolicyFlags::empty(),
            priority: None,
            percent: None,
            ring_base: seen.ring_base,
            pointers: None,
            waves: None,
            held: since.map_or(Duration::ZERO, |&since| now.saturating_sub(since)),
        }
    }
}

/// State of a queue that this driver has suspended.
pub(super) const HELD: QueueState = QueueState::SUSPENDED.union(QueueState::PREEMPTED).union(QueueState::MINE);
