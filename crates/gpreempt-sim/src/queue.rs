//! A queue: what its owner asked for, why it may not run, and what the hardware holds of it.

use gpreempt_sys::{KFD_IOC_QUEUE_TYPE_COMPUTE, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL};
use rand_chacha::ChaCha8Rng;

use crate::config::{QueueType, Workload};
use crate::hw::feed::Feed;
use crate::node::{COPY, NodeIndex, SHADERS};
use crate::world::LeaseId;

/// Names a queue over the machine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueKey(pub(crate) usize);

/// What CREATE_QUEUE takes, under the names of the ioctl.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Properties {
    /// `KFD_IOC_QUEUE_TYPE_*`.
    pub(crate) kind: u32,
    pub(crate) percent: u32,
    pub(crate) target_xcc: u32,
    pub(crate) priority: u32,
    pub(crate) ring: u64,
    pub(crate) ring_bytes: u32,
    pub(crate) read_pointer: u64,
    pub(crate) write_pointer: u64,
    pub(crate) save_area: u64,
    pub(crate) save_area_bytes: u32,
    pub(crate) ctl_stack_bytes: u32,
    /// The SDMA engine that it asks for, if any.
    pub(crate) sdma_engine: Option<u32>,
}

/// A lease keeps a queue off the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) lease: LeaseId,
    /// When the hold began.
    pub(crate) since: u64,
    /// When the holder last named it: the watchdog counts from here.
    pub(crate) touched: u64,
}

/// What a lease said about a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Whose marks these are; a dead lease's count as none.
    pub(crate) lease: LeaseId,
    /// `KFD_GPREEMPT_POLICY_*`.
    pub(crate) policy: u32,
}

/// One queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) pid: u32,
    pub(crate) id: u32,
    pub(crate) node: NodeIndex,
    pub(crate) properties: Properties,
    /// Ring as it was created: the only one that is mapped on the GPU.
    pub(crate) ring: (u64, u32),
    /// Doorbell index within the doorbell slice of its process.
    pub(crate) doorbell: u32,
    /// GPU address of its MQD.
    pub(crate) mqd: u64,
    /// SDMA engine and queue of it, for SDMA queues.
    pub(crate) engine: (u32, u32),
    pub(crate) gws: bool,
    pub(crate) alive: bool,
    pub(crate) being_destroyed: bool,
    /// The driver takes it out of the runlist for good, and unlinks it when the round has ended.
    pub(crate) leaving: bool,
    /// Its owner destroys it as soon as the debugger lets go.
    pub(crate) destroy_on_resume: bool,
    pub(crate) suspended: bool,
    pub(crate) reset: bool,
    /// It will not yield to the next unmap.
    pub(crate) stubborn: bool,
    /// Evictions of its process on its node that are not restored yet.
    pub(crate) evicted: u32,
    pub(crate) hold: Option<Hold>,
    pub(crate) marks: Marks,
    /// The reservation leaves it out of the current runlist.
    pub(crate) throttled: bool,
    /// When the reservation last let it in.
    pub(crate) served: u64,
    /// Raised exceptions, for the debugger.
    pub(crate) exceptions: u64,

    /// Slot that the firmware has it in.
    pub(crate) slot: Option<u32>,
    /// Packets read and written when it was last unmapped: what its MQD says.
    pub(crate) pointers: (u64, u64),
    /// Waves in its save area.
    pub(crate) saved_waves: u64,
    pub(crate) feed: Feed,
    pub(crate) workload: Workload,
    pub(crate) random: Option<ChaCha8Rng>,
}

impl Queue {
    /// Whether the driver puts it into the runlist: KFD's `QUEUE_IS_ACTIVE` with the series' reason bit.
    pub(crate) fn is_active(&self) -> bool {
        let wanted = self.alive && !self.leaving && !self.is_disabled();
        wanted && self.evicted == 0 && !self.suspended && self.hold.is_none() && !self.reset
    }

    /// Its owner switched it off.
    pub(crate) fn is_disabled(&self) -> bool {
        self.properties.ring == 0 || self.properties.ring_bytes == 0 || self.properties.percent == 0
    }

    pub(crate) fn is_compute(&self) -> bool {
        matches!(self.properties.kind, KFD_IOC_QUEUE_TYPE_COMPUTE | KFD_IOC_QUEUE_TYPE_COMPUTE_AQL)
    }

    /// The engine it runs on.
    pub(crate) fn pool(&self) -> usize {
        if self.is_compute() { SHADERS } else { COPY + self.engine.0 as usize }
    }

    /// Read and write pointer are equal and no wave is running or saved.
    pub(crate) fn is_idle(&self) -> bool {
        self.feed.is_empty()
    }

    pub(crate) fn kind(&self) -> QueueType {
        match self.properties.kind {
            gpreempt_sys::KFD_IOC_QUEUE_TYPE_SDMA => QueueType::Sdma,
            gpreempt_sys::KFD_IOC_QUEUE_TYPE_SDMA_XGMI => QueueType::SdmaXgmi,
            _ => QueueType::Compute,
        }
    }

    /// What one packet adds to the ring pointers: AQL counts packets, PM4 dwords, SDMA bytes.
    pub(crate) fn pointer_unit(&self) -> u64 {
        match self.properties.kind {
            KFD_IOC_QUEUE_TYPE_COMPUTE_AQL => 1,
            KFD_IOC_QUEUE_TYPE_COMPUTE => 16,
            _ => 64,
        }
    }
}
