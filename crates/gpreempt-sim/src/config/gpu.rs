//! GPU models: what a node of a named product looks like.

use std::fmt;
use std::str::FromStr;

use super::ConfigError;

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

impl GpuModel {
    /// The names of the models that are built in.
    pub fn builtin() -> &'static [&'static str] {
        &["mi308x", "mi300x"]
    }

    /// A built-in model by its name, or the model of a file by its path.
    ///
    /// # Errors
    /// Unknown name, unreadable file, or a file that says something impossible (with its line).
    pub fn named(_name_or_path: &str) -> Result<GpuModel, ConfigError> {
        todo!()
    }

    /// A model from the text of a file; `path` is for error messages.
    ///
    /// # Errors
    /// What is wrong in the text, with its line.
    pub fn parse(_path: &str, _text: &str) -> Result<GpuModel, ConfigError> {
        todo!()
    }

    /// KFD nodes per GPU in this mode; None where the XCCs do not divide evenly.
    pub fn nodes_per_gpu(&self, _partition: Partition) -> Option<u32> {
        todo!()
    }

    /// Compute processes that one node maps at a time, where its GPU has `nodes` nodes.
    pub fn process_slots_with(&self, _nodes: u32) -> u32 {
        todo!()
    }

    /// Queue slots of one node: what `num_cp_queues` says.
    pub fn slots(&self) -> u32 {
        32 - self.kernel_queues
    }

    /// Pipe and queue of each slot, in the order debugfs prints them.
    pub fn slot_places(&self) -> Vec<(u32, u32)> {
        todo!()
    }

    /// Wave slots of one XCC.
    pub fn waves_per_xcc(&self) -> u32 {
        self.cus_per_xcc * self.simds_per_cu * self.waves_per_simd
    }
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(_text: &str) -> Result<Partition, String> {
        todo!()
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
