//! Memory queue descriptors: the v9 compute MQD (one image per XCC) and the SDMA MQD.

/// Dwords of one compute MQD image (2048 bytes).
pub const COMPUTE_DWORDS: usize = 512;
/// Dwords of one SDMA MQD image (512 bytes).
pub const SDMA_DWORDS: usize = 128;
/// Distance of two XCCs' images of one compute queue in GPU memory, without the control stack behind each, bytes.
pub const COMPUTE_PAGE: u64 = 4096;

/// The CP registers that debugfs `hqds` prints for one slot: CP_MQD_BASE_ADDR to CP_HQD_PQ_WPTR_HI.
pub type HqdRegisters = [u32; 56];
/// The SDMA registers that debugfs `hqds` prints for one RLC queue.
pub type SdmaRegisters = [u32; 44];

/// State of a compute queue, as its MQD tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComputeMqd {
    /// GPU address of the first XCC's MQD.
    pub address: u64,
    /// CP_HQD_ACTIVE.
    pub active: bool,
    /// VMID while mapped.
    pub vmid: u32,
    /// KFD priority, 0 to 15.
    pub priority: u32,
    /// Ring address.
    pub ring: u64,
    /// Ring size, bytes.
    pub ring_bytes: u32,
    /// User address of the read pointer.
    pub rptr_address: u64,
    /// User address of the write pointer.
    pub wptr_address: u64,
    /// Packets read.
    pub rptr: u64,
    /// Packets written.
    pub wptr: u64,
    /// Doorbell offset in dwords of the doorbell BAR.
    pub doorbell: u32,
    /// CWSR area address.
    pub cwsr_address: u64,
    /// CWSR area of one XCC, bytes.
    pub cwsr_bytes: u32,
    /// Control stack of one XCC, bytes.
    pub ctl_stack_bytes: u32,
    /// Control stack that saved waves fill on each XCC, bytes; 0 = no saved waves.
    pub saved_ctl_bytes: u32,
    /// Save area that saved waves fill on each XCC, bytes.
    pub saved_wave_bytes: u32,
    /// Whether it holds global wave sync.
    pub gws: bool,
}

impl ComputeMqd {
    /// The images of all `xccs` XCCs, [`COMPUTE_DWORDS`] each, XCC 0 first.
    pub fn images(&self, _xccs: u32) -> Vec<u32> {
        todo!()
    }

    /// Bytes from one XCC's MQD to the next in GPU memory.
    pub fn stride(&self) -> u64 {
        todo!()
    }
}

/// State of an SDMA queue, as its MQD tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SdmaMqd {
    /// Engine number on the GPU.
    pub engine: u32,
    /// RLC queue of the engine.
    pub queue: u32,
    /// VMID while mapped.
    pub vmid: u32,
    /// Ring address.
    pub ring: u64,
    /// Ring size, bytes.
    pub ring_bytes: u32,
    /// User address of the read pointer.
    pub rptr_address: u64,
    /// Bytes read.
    pub rptr: u64,
    /// Bytes written.
    pub wptr: u64,
    /// Doorbell offset in dwords of the doorbell BAR.
    pub doorbell: u32,
}

impl SdmaMqd {
    /// The image.
    pub fn image(&self) -> [u32; SDMA_DWORDS] {
        todo!()
    }
}

/// What the CP registers of a slot hold while the queue of this image (of one XCC) is mapped to it.
pub fn hqd_registers(_image: &[u32]) -> HqdRegisters {
    todo!()
}

/// What the RLC registers hold while the SDMA queue of this image is mapped.
pub fn sdma_registers(_image: &[u32; SDMA_DWORDS]) -> SdmaRegisters {
    todo!()
}
