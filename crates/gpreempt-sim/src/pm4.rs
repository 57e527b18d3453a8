//! PM4 packets of the HIQ and of runlists, in the layouts of GFX 9.4.3.
//!
//! Bit positions are those of the kernel's `kfd_pm4_headers_ai.h` and, for MAP_PROCESS, `kfd_pm4_headers_aldebaran.h`.

/// MAP_PROCESS in dwords.
pub const MAP_PROCESS_DWORDS: usize = 21;
/// MAP_QUEUES in dwords.
pub const MAP_QUEUES_DWORDS: usize = 7;
/// RUN_LIST in dwords.
pub const RUN_LIST_DWORDS: usize = 4;
/// UNMAP_QUEUES in dwords.
pub const UNMAP_QUEUES_DWORDS: usize = 6;
/// QUERY_STATUS in dwords.
pub const QUERY_STATUS_DWORDS: usize = 7;
/// WRITE_DATA to a register, in dwords.
pub const WRITE_DATA_DWORDS: usize = 5;
/// SET_RESOURCES in dwords.
pub const SET_RESOURCES_DWORDS: usize = 8;

/// Which engine a MAP_QUEUES packet names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The compute micro engine.
    Compute,
    /// An SDMA engine by number, 0 to 15.
    Sdma(u32),
}

/// SET_RESOURCES: what HWS may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetResources {
    /// VMIDs for processes of the runlist.
    pub vmid_mask: u16,
    /// In 100 ms.
    pub unmap_latency: u8,
    /// Bit 8 * pipe + queue of MEC 1.
    pub queue_mask: u64,
    /// Global wave sync entries.
    pub gws_mask: u64,
}

/// RUN_LIST: where the runlist is; inside a runlist, the chain that makes HWS start over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunList {
    /// GPU address of the indirect buffer.
    pub ib: u64,
    /// Size of the indirect buffer in dwords.
    pub ib_dwords: u32,
    /// True where it is the last packet of an over-subscribed runlist.
    pub chain: bool,
    /// Processes that HWS maps together.
    pub processes: u8,
}

/// MAP_PROCESS: opens the queues of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapProcess {
    /// PASID.
    pub pasid: u16,
    /// Process quantum; the driver writes 10.
    pub quantum: u8,
    /// Physical address of the page table, with its flag bits.
    pub page_table_base: u64,
    /// All queues of the process on the node, mapped or not.
    pub num_queues: u16,
    /// Global wave sync entries, 0 where no queue of the process holds them.
    pub num_gws: u8,
    /// Trap handler code address (256-byte aligned).
    pub trap_base: u64,
    /// Trap handler memory address (256-byte aligned).
    pub trap_memory: u64,
}

/// MAP_QUEUES: one queue of the process that the last MAP_PROCESS opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapQueues {
    /// Engine.
    pub engine: Engine,
    /// Whether it holds global wave sync.
    pub gws: bool,
    /// Doorbell offset in dwords of the doorbell BAR.
    pub doorbell: u32,
    /// GPU address of the MQD.
    pub mqd: u64,
    /// User address of the write pointer.
    pub wptr: u64,
}

/// Which queues an UNMAP_QUEUES packet takes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapSelect {
    /// Those of one process.
    Pasid(u16),
    /// All.
    All,
    /// All but static (debug) queues: what every KFD round uses.
    AllNonStatic,
}

/// UNMAP_QUEUES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapQueues {
    /// Which queues.
    pub select: UnmapSelect,
    /// True kills waves instead of saving them.
    pub reset: bool,
}

/// QUERY_STATUS: writes a fence when everything before it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryStatus {
    /// GPU address of the fence.
    pub address: u64,
    /// What to write.
    pub data: u64,
}

/// WRITE_DATA to a register (the grace period).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteData {
    /// Register, dword offset.
    pub register: u32,
    /// Value.
    pub value: u32,
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// SET_RESOURCES.
    SetResources(SetResources),
    /// RUN_LIST.
    RunList(RunList),
    /// MAP_PROCESS.
    MapProcess(MapProcess),
    /// MAP_QUEUES.
    MapQueues(MapQueues),
    /// UNMAP_QUEUES.
    UnmapQueues(UnmapQueues),
    /// QUERY_STATUS.
    QueryStatus(QueryStatus),
    /// WRITE_DATA.
    WriteData(WriteData),
}

/// A word sequence that is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dword {at}: {header:#010x} starts no complete packet")]
pub struct Malformed {
    /// Index of the header.
    pub at: usize,
    /// The header.
    pub header: u32,
}

impl Packet {
    /// Length in dwords.
    pub fn dwords(&self) -> usize {
        todo!()
    }

    /// Appends the packet.
    pub fn encode(&self, _out: &mut Vec<u32>) {
        todo!()
    }
}

/// The packets of a buffer, in order.
pub fn decode(words: &[u32]) -> Decoder<'_> {
    Decoder { words, at: 0 }
}

/// Iterator over packets; ends at the end of the buffer or after the first malformed header.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    words: &'a [u32],
    at: usize,
}

impl Iterator for Decoder<'_> {
    type Item = Result<Packet, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let _ = (self.words, self.at);
        todo!()
    }
}
