//! Memory queue descriptors: the v9 compute MQD (one image per XCC) and the SDMA MQD.

/// Dwords of one compute MQD image (2048 bytes).
pub const COMPUTE_DWORDS: usize = 512;
/// Dwords of one SDMA MQD image (512 bytes).
pub const SDMA_DWORDS: usize = 128;

/// The MQD has a page of its own, and so has the control stack behind it.
const PAGE: u64 = 4096;
/// Read and write pointer of the ring in a compute MQD, in dwords; the write pointer has 64 bits.
pub(crate) const PQ_RPTR: usize = 138;
pub(crate) const PQ_WPTR: usize = 182;
/// The first of the dwords that CP loads into the registers of a slot.
const FIRST_REGISTER: usize = 128;
/// An AQL packet in dwords; CP counts its pointers in dwords.
const AQL_DWORDS: u64 = 16;

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
    pub fn images(&self, xccs: u32) -> Vec<u32> {
        (0..xccs).flat_map(|xcc| self.image(xcc)).collect()
    }

    /// Bytes from one XCC's MQD to the next in GPU memory: the MQD and its control stack, in pages.
    pub fn stride(&self) -> u64 {
        PAGE + u64::from(self.ctl_stack_bytes).next_multiple_of(PAGE)
    }

    /// The image of one XCC, as `init_mqd_v9_4_3` and `update_mqd_v9_4_3` fill it and CP saves it.
    pub fn image(&self, xcc: u32) -> [u32; COMPUTE_DWORDS] {
        let address = self.address + u64::from(xcc) * self.stride();
        let cwsr = self.cwsr_address + u64::from(xcc) * u64::from(self.cwsr_bytes);
        let (rptr, wptr) = (self.rptr * AQL_DWORDS, self.wptr * AQL_DWORDS);
        let mut m = [0; COMPUTE_DWORDS];
        m[0] = 0xc031_0800; // header
        m[11] = 1; // compute_pipelinestat_enable
        m[20] = 1 << 6; // compute_pgm_rsrc2: a trap handler is present
        m[22] = u32::from(self.gws) << 23; // compute_resource_limits: FORCE_SIMD_DIST
        for thread_mgmt in [23, 24, 26, 27] {
            m[thread_mgmt] = u32::MAX; // every CU of the shader engine
        }
        m[39] = xcc; // compute_current_logic_xcc_id
        m[40] = u32::MAX;
        m[41] = 1; // compute_tg_chunk_size
        m[42] = u32::MAX;
        put(&mut m, 128, address); // cp_mqd_base_addr
        m[130] = self.active.into();
        m[131] = self.vmid;
        m[132] = 1 | 0x53 << 8 | 1 << 30; // cp_hqd_persistent_state: PRELOAD, QSWITCH_MODE
        m[133] = pipe_priority(self.priority);
        m[134] = self.priority;
        m[135] = 0x111; // cp_hqd_quantum
        put(&mut m, 136, self.ring >> 8);
        m[PQ_RPTR] = rptr as u32;
        put(&mut m, 139, self.rptr_address);
        put(&mut m, 141, self.wptr_address);
        m[143] = self.doorbell << 2 | 1 << 1; // cp_hqd_pq_doorbell_control: DOORBELL_BIF_DROP
        m[145] = self.pq_control(xcc);
        m[149] = 3 << 20 | 1 << 23; // cp_hqd_ib_control
        m[160] = 1 << 14; // cp_hqd_hq_status0: set up the dispatch pointer for a debugger
        m[162] = 1 << 8; // cp_mqd_control: PRIV_STATE
        put(&mut m, 171, cwsr);
        // The control stack grows down from its end, the wave state up from there.
        m[174] = self.ctl_stack_bytes - self.saved_ctl_bytes.min(self.ctl_stack_bytes);
        m[175] = self.ctl_stack_bytes;
        m[176] = self.ctl_stack_bytes + self.saved_wave_bytes;
        m[177] = self.cwsr_bytes;
        m[181] = 1; // cp_hqd_aql_control
        put(&mut m, PQ_WPTR, wptr);
        m[226] = self.stride() as u32; // cp_mqd_stride_size
        m
    }

    fn pq_control(&self, xcc: u32) -> u32 {
        let size = (self.ring_bytes / 4).max(2).ilog2() - 1;
        let aql = 2 << 25 | 1 << 14 | 1 << 16; // SLOT_BASED_WPTR, QUEUE_FULL_EN, WPP_CLAMP_EN
        // Only the first XCC reports the read pointer.
        let no_update_rptr = if xcc == 0 { 0 } else { 1 << 27 };
        size | 5 << 8 | aql | no_update_rptr | 1 << 28
    }
}

/// The kernel's map from queue priority to pipe priority: low, medium, high.
fn pipe_priority(priority: u32) -> u32 {
    match priority {
        0..=6 => 0,
        7..=10 => 1,
        _ => 2,
    }
}

/// Puts a 64-bit value into two dwords.
fn put(words: &mut [u32], at: usize, value: u64) {
    words[at] = value as u32;
    words[at + 1] = (value >> 32) as u32;
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
    /// The image, as `update_mqd_sdma` fills it and the engine saves it.
    pub fn image(&self) -> [u32; SDMA_DWORDS] {
        let mut m = [0; SDMA_DWORDS];
        let size = (self.ring_bytes / 4).max(1).ilog2();
        m[0] = size << 1 | 1 << 12 | 6 << 16 | self.vmid << 24; // rb_cntl: size, RPTR write-back and its timer, VMID
        put(&mut m, 1, self.ring >> 8);
        put(&mut m, 3, self.rptr);
        put(&mut m, 5, self.wptr);
        m[8] = (self.rptr_address >> 32) as u32;
        m[9] = self.rptr_address as u32;
        m[22] = self.doorbell << 2;
        m[27] = 0xf; // dummy_reg
        m[126] = self.engine;
        m[127] = self.queue;
        m
    }
}

/// What the CP registers of a slot hold while the queue of this image (of one XCC) is mapped to it: the part of the MQD
/// that CP loads, in the same order.
pub fn hqd_registers(image: &[u32; COMPUTE_DWORDS]) -> HqdRegisters {
    std::array::from_fn(|i| image[FIRST_REGISTER + i])
}

/// What the RLC registers hold while the SDMA queue of this image is mapped: the image's first 32 dwords are the
/// registers from RB_CNTL to MINOR_PTR_UPDATE; the mid-command ones behind them are 0.
pub fn sdma_registers(image: &[u32; SDMA_DWORDS]) -> SdmaRegisters {
    std::array::from_fn(|i| if i < 32 { image[i] } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> ComputeMqd {
        ComputeMqd {
            address: 0x7f00_0041_0000,
            active: true,
            vmid: 8,
            priority: 12,
            ring: 0x7fa9_266d_0000,
            ring_bytes: 64 << 10,
            rptr: 3,
            wptr: 1 << 30,
            doorbell: 0x802,
            cwsr_address: 0x7fa9_0000_0000,
            cwsr_bytes: 12_214_272,
            ctl_stack_bytes: 8192,
            ..ComputeMqd::default()
        }
    }

    #[test]
    fn each_xcc_has_its_own_mqd_and_save_area() {
        let images = queue().images(4);
        assert_eq!(images.len(), 4 * COMPUTE_DWORDS);
        for xcc in 0..4 {
            let image = &images[xcc * COMPUTE_DWORDS..][..COMPUTE_DWORDS];
            // 0x3000: a page for the MQD and two for the control stack, as in dumps of a real MI308X.
            assert_eq!(image[128] as usize, 0x41_0000 + xcc * 0x3000);
            assert_eq!(image[171] as usize, xcc * 12_214_272);
            assert_eq!(image[39] as usize, xcc);
        }
    }

    #[test]
    fn pointers_are_in_dwords_and_ring_addresses_in_256_bytes() {
        let image = queue().image(0);
        assert_eq!(image[138], 3 * 16);
        assert_eq!((image[182], image[183]), (0, 4));
        assert_eq!((image[136], image[137]), (0xa926_6d00, 0x7f));
        assert_eq!(image[143] >> 2 & 0x3ff_ffff, 0x802);
        assert_eq!(image[145] & 0x3f, 13);
    }

    #[test]
    fn saved_waves_show_as_a_control_stack_below_its_end() {
        let mut saved = queue();
        assert_eq!((saved.image(0)[174], saved.image(0)[176]), (8192, 8192));
        saved.saved_ctl_bytes = 800;
        saved.saved_wave_bytes = 4096;
        assert_eq!((saved.image(0)[174], saved.image(0)[175], saved.image(0)[176]), (7392, 8192, 12288));
    }

    #[test]
    fn a_mapped_queue_shows_its_mqd_address_and_doorbell_in_the_registers() {
        let registers = hqd_registers(&queue().image(0));
        assert_eq!(registers[..4], [0x41_0000, 0x7f00, 1, 8]);
        assert_eq!(registers[6], 12);
        assert_eq!(registers[15], 0x802 << 2 | 2);
        assert_eq!(registers[54..], [0, 4]);
    }

    #[test]
    fn an_sdma_queue_names_its_engine_and_ring() {
        let queue = SdmaMqd {
            engine: 5,
            queue: 3,
            vmid: 8,
            ring: 0x1234_5600,
            ring_bytes: 4096,
            doorbell: 0x40,
            ..Default::default()
        };
        let image = queue.image();
        assert_eq!(image[0], 10 << 1 | 1 << 12 | 6 << 16 | 8 << 24);
        assert_eq!((image[1], image[22], image[126], image[127]), (0x12_3456, 0x100, 5, 3));
        assert_eq!(sdma_registers(&image)[1], 0x12_3456);
    }
}
