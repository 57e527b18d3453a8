//! `/sys/kernel/debug/kfd/{mqds,hqds,rls}`.

use crate::mqd::{HqdRegisters, SdmaRegisters};

/// One process of `mqds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessMqds {
    /// Thread group id in the init namespace.
    pub pid: u32,
    /// PASID.
    pub pasid: u32,
    /// Its queues, newest first, as KFD links them.
    pub queues: Vec<QueueMqd>,
}

/// One queue of `mqds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMqd {
    /// `gpu_id` of its node.
    pub gpu_id: u32,
    /// Whether it is an SDMA queue (PCIe or XGMI).
    pub sdma: bool,
    /// The image: [`crate::mqd::COMPUTE_DWORDS`] per XCC, or [`crate::mqd::SDMA_DWORDS`].
    pub image: Vec<u32>,
}

/// One node of `hqds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHqds {
    /// Topology index.
    pub index: u32,
    /// `gpu_id`.
    pub gpu_id: u32,
    /// Its XCCs; None where the scheduler is stopped.
    pub xccs: Option<Vec<XccHqds>>,
    /// Its SDMA queues, mapped or not, by engine and RLC.
    pub sdma: Vec<SdmaHqd>,
}

/// The CP slots of one XCC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XccHqds {
    /// Instance number on the GPU.
    pub instance: u32,
    /// Registers of the HIQ's slot.
    pub hiq: HqdRegisters,
    /// Every slot that KFD may use, mapped or not, by pipe and queue.
    pub slots: Vec<SlotHqd>,
}

/// One CP slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotHqd {
    /// Pipe of MEC 1.
    pub pipe: u32,
    /// Queue of the pipe.
    pub queue: u32,
    /// Its registers, all 0 where nothing is mapped.
    pub registers: HqdRegisters,
}

/// One SDMA RLC queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdmaHqd {
    /// Engine number on the GPU.
    pub engine: u32,
    /// Queue of the engine.
    pub rlc: u32,
    /// Its registers, all 0 where nothing is mapped.
    pub registers: SdmaRegisters,
}

/// One node of `rls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRunlist {
    /// Topology index.
    pub index: u32,
    /// `gpu_id`.
    pub gpu_id: u32,
    /// The runlist that HWS was given last; None where there is none.
    pub ib: Option<Vec<u32>>,
}

/// The text of `mqds`.
pub fn mqds(_processes: &[ProcessMqds]) -> String {
    todo!()
}

/// The text of `hqds`.
pub fn hqds(_nodes: &[NodeHqds]) -> String {
    todo!()
}

/// The text of `rls`.
pub fn rls(_nodes: &[NodeRunlist]) -> String {
    todo!()
}

/// The text of `hang_hws`.
pub fn hang_hws() -> String {
    todo!()
}
