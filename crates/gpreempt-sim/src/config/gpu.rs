//! GPU models: what a node of a named product looks like.

/// How a GPU is split into KFD nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Partition {
    /// One node with all XCCs.
    #[default]
    Spx,
    /// Two nodes.
    Dpx,
    /// Four nodes.
    Qpx,
    /// One node per XCC.
    Cpx,
}

/// One product, as amdkfd reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuModel {
    /// Built-in name, for example `mi308x`.
    pub name: String,
    /// One sentence with the source of the figures.
    pub about: String,
    /// PCI device id.
    pub device_id: u32,
    /// `gfx_target_version`, for example 90402.
    pub gfx_target_version: u32,
    /// XCCs per GPU.
    pub xccs: u32,
    /// Compute units per XCC.
    pub cus_per_xcc: u32,
    /// SIMDs per compute unit.
    pub simds_per_cu: u32,
    /// Waves per SIMD.
    pub waves_per_simd: u32,
    /// Shader engines per XCC.
    pub shader_engines: u32,
    /// `max_engine_clk_fcompute`, MHz; grace periods are in 1000 of its cycles.
    pub engine_mhz: u32,
    /// Compute queues that the kernel keeps for itself, of 32 per XCC (`amdgpu.num_kcq`).
    pub kernel_queues: u32,
    /// SDMA engines per GPU.
    pub sdma_engines: u32,
    /// Queues per SDMA engine.
    pub sdma_queues: u32,
    /// VMIDs for compute processes of one node in SPX; CPX with several nodes has 6.
    pub process_slots: u32,
    /// Global wave sync entries.
    pub gws: u32,
    /// `local_mem` of the GPU in bytes.
    pub vram_bytes: u64,
    /// CWSR area of one queue and XCC, bytes.
    pub cwsr_bytes: u64,
    /// Control stack of one queue and XCC, bytes.
    pub ctl_stack_bytes: u32,
}
