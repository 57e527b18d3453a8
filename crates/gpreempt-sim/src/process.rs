//! A process: who it is, and what KFD knows of it.

use std::collections::BTreeMap;

use crate::node::NodeIndex;
use crate::queue::{Marks, QueueKey};

/// One process of the machine.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) namespace_pid: Option<u32>,
    pub(crate) uid: u32,
    /// CAP_SYS_NICE.
    pub(crate) privileged: bool,
    /// CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
    pub(crate) root: bool,
    pub(crate) name: String,
    pub(crate) cgroup: String,
    pub(crate) command: Vec<String>,
    /// Nanoseconds since boot.
    pub(crate) started: u64,
    pub(crate) alive: bool,
    pub(crate) tracer: Option<u32>,
    /// What KFD keeps since the process first opened `/dev/kfd`.
    pub(crate) kfd: Option<KfdProcess>,
}

/// KFD's `struct kfd_process`.
#[derive(Debug)]
pub(crate) struct KfdProcess {
    pub(crate) pasid: u32,
    /// Queues by id.
    pub(crate) queues: BTreeMap<u32, QueueKey>,
    /// Its process-device data, one per node.
    pub(crate) devices: Vec<Device>,
    /// `DEBUG_RUNTIME_STATE_*`.
    pub(crate) runtime_state: u32,
    pub(crate) runtime_debug: u64,
    pub(crate) ttmp_setup: bool,
    pub(crate) debug: Option<DebugSession>,
    /// Next free address for the rings and save areas of guests.
    pub(crate) next_address: u64,
    /// Nodes that have yet to forget it, once its address space is gone.
    pub(crate) leaving: Option<usize>,
    /// Buffers that it allocated, by handle.
    pub(crate) buffers: BTreeMap<u64, Buffer>,
    pub(crate) next_buffer: u64,
}

/// A buffer object.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) node: NodeIndex,
    pub(crate) bytes: u64,
    pub(crate) vram: bool,
}

/// KFD's `struct kfd_process_device` with its `qpd`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Device {
    /// Queues on this node, newest first, as KFD links them.
    pub(crate) queues: Vec<QueueKey>,
    pub(crate) evicted: u32,
    /// The process has global wave sync entries here: whoever gives them back, the queue that got them or another.
    pub(crate) gws: bool,
    /// The process has a VM here; where it has none, evictions are counted and nothing else.
    pub(crate) vm: bool,
    /// When the current eviction began.
    pub(crate) evicted_since: u64,
    /// Time spent evicted before that, ns.
    pub(crate) evicted_ns: u64,
    /// What a lease wants of queues that are created here from now on.
    pub(crate) marks: Marks,
    /// One of its queues here was reset, now or once (`pdd->has_reset_queue`): nothing clears that.
    pub(crate) has_reset_queue: bool,
    /// Doorbells in use.
    pub(crate) doorbells: Vec<bool>,
}

/// A debugger is attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DebugSession {
    /// The debugging process, which may be the target itself.
    pub(crate) debugger: u32,
    /// Exceptions that it wants to be told of.
    pub(crate) enabled: u64,
}

impl Process {
    /// All its queues on all nodes, newest first.
    pub(crate) fn queues_newest_first(&self) -> Vec<QueueKey> {
        let mut keys: Vec<QueueKey> = self.kfd.iter().flat_map(|kfd| kfd.queues.values().copied()).collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys
    }
}

impl KfdProcess {
    pub(crate) fn new(pasid: u32, nodes: usize) -> KfdProcess {
        KfdProcess {
            pasid,
            queues: BTreeMap::new(),
            devices: vec![Device::default(); nodes],
            runtime_state: 0,
            runtime_debug: 0,
            ttmp_setup: false,
            debug: None,
            next_address: 0x7f00_0000_0000,
            leaving: None,
            buffers: BTreeMap::new(),
            next_buffer: 1,
        }
    }

    /// The lowest free queue id of 1024.
    pub(crate) fn free_id(&self) -> Option<u32> {
        let gap = self.queues.keys().zip(0u32..).find(|(id, expected)| **id != *expected).map(|(_, expected)| expected);
        gap.or_else(|| u32::try_from(self.queues.len()).ok()).filter(|id| *id < MAX_QUEUE_IDS)
    }

    /// Address space for a guest's buffer.
    pub(crate) fn take_address(&mut self, bytes: u64) -> u64 {
        let address = self.next_address;
        self.next_address += bytes.next_multiple_of(0x1000);
        address
    }

    pub(crate) fn device(&self, node: NodeIndex) -> &Device {
        &self.devices[node.0]
    }

    pub(crate) fn device_mut(&mut self, node: NodeIndex) -> &mut Device {
        &mut self.devices[node.0]
    }
}

/// Queue ids per process, over all nodes (`KFD_MAX_NUM_OF_QUEUES_PER_PROCESS`).
pub(crate) const MAX_QUEUE_IDS: u32 = 1024;
