//! GPU models: what a node of a named product looks like.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::source::{self, Source};
use crate::topology::MODEL_PROPERTIES;

/// The models that are built in, by name.
const BUILTIN: &[(&str, &str)] = &[
    ("mi308x", include_str!("../../models/gpu/mi308x.toml")),
    ("mi300x", include_str!("../../models/gpu/mi300x.toml")),
];

/// Pipes of MEC 1.
const PIPES: u32 = 4;
/// Queues of one pipe.
const QUEUES_PER_PIPE: u32 = 8;
/// VMIDs of a GPU; compute has the upper ones.
const VMIDS: u32 = 16;
/// VMIDs 4-9 and 10-15 serve two CPX nodes each.
const CPX_PROCESS_SLOTS: u32 = 6;

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

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Partition, String> {
        match text.to_ascii_lowercase().as_str() {
            "spx" => Ok(Partition::Spx),
            "dpx" => Ok(Partition::Dpx),
            "qpx" => Ok(Partition::Qpx),
            "cpx" => Ok(Partition::Cpx),
            _ => Err(format!("`{text}` is no partition mode: spx, dpx, qpx or cpx")),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Partition::Spx => "spx",
            Partition::Dpx => "dpx",
            Partition::Qpx => "qpx",
            Partition::Cpx => "cpx",
        })
    }
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
    /// Width of the memory bus, bits.
    pub vram_bits: u32,
    /// `mem_clk_max`, MHz.
    pub vram_mhz: u32,
    /// CWSR area of one queue and XCC, bytes.
    pub cwsr_bytes: u64,
    /// Control stack of one queue and XCC, bytes.
    pub ctl_stack_bytes: u32,
    /// Values of further topology properties that are the same for every node.
    pub properties: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGpuModel {
    name: Spanned<String>,
    about: String,
    device_id: Spanned<u32>,
    gfx_target_version: Spanned<u32>,
    xccs: Spanned<u32>,
    cus_per_xcc: Spanned<u32>,
    simds_per_cu: Spanned<u32>,
    waves_per_simd: Spanned<u32>,
    shader_engines: Spanned<u32>,
    engine_mhz: Spanned<u32>,
    kernel_queues: Spanned<u32>,
    sdma_engines: Spanned<u32>,
    sdma_queues: Spanned<u32>,
    process_slots: Spanned<u32>,
    gws: Spanned<u32>,
    vram_bytes: Spanned<u64>,
    vram_bits: Spanned<u32>,
    vram_mhz: Spanned<u32>,
    cwsr_bytes: Spanned<u64>,
    ctl_stack_bytes: Spanned<u32>,
    #[serde(default)]
    properties: BTreeMap<Spanned<String>, u64>,
}

impl GpuModel {
    /// The names of the models that are built in.
    pub fn builtin() -> Vec<&'static str> {
        BUILTIN.iter().map(|(name, _)| *name).collect()
    }

    /// A built-in model by its name, or the model of a file by its path.
    ///
    /// # Errors
    /// Unknown name, unreadable file, or a file that says something impossible (with its line).
    pub fn named(name_or_path: &str) -> Result<GpuModel, ConfigError> {
        GpuModel::parse(name_or_path, &source::find("GPU model", name_or_path, BUILTIN, &GpuModel::builtin())?)
    }

    /// A model from the text of a file; `path` is for error messages.
    ///
    /// # Errors
    /// What is wrong in the text, with its line.
    pub fn parse(path: &str, text: &str) -> Result<GpuModel, ConfigError> {
        let file = Source { path, text };
        let raw: RawGpuModel = file.parse()?;
        let within = |value: Spanned<u32>, least: u32, most: u32| {
            file.check(value, |v| (least..=most).contains(v), &format!("must be {least} to {most}"))
        };
        let bytes = |value: Spanned<u64>, least: u64, most: u64| {
            file.check(value, |v| (least..=most).contains(v), &format!("must be {least} to {most} bytes"))
        };
        let mut properties = BTreeMap::new();
        for (key, value) in raw.properties {
            let known = "not a property that a model gives as it is";
            let key = file.check(key, |k| MODEL_PROPERTIES.contains(&k.as_str()), known)?;
            properties.insert(key, value);
        }
        Ok(GpuModel {
            name: file.check(raw.name, |n| !n.trim().is_empty(), "a model has a name")?,
            about: raw.about,
            device_id: within(raw.device_id, 1, 0xffff)?,
            gfx_target_version: within(raw.gfx_target_version, 90_000, 99_999)?,
            xccs: within(raw.xccs, 1, 8)?,
            cus_per_xcc: within(raw.cus_per_xcc, 1, 256)?,
            simds_per_cu: within(raw.simds_per_cu, 1, 16)?,
            waves_per_simd: within(raw.waves_per_simd, 1, 64)?,
            shader_engines: within(raw.shader_engines, 1, 32)?,
            engine_mhz: within(raw.engine_mhz, 1, 100_000)?,
            kernel_queues: within(raw.kernel_queues, 0, 31)?,
            sdma_engines: within(raw.sdma_engines, 0, 16)?,
            sdma_queues: within(raw.sdma_queues, 0, 16)?,
            process_slots: within(raw.process_slots, 1, 15)?,
            gws: within(raw.gws, 0, 64)?,
            vram_bytes: bytes(raw.vram_bytes, 1 << 20, 1 << 50)?,
            vram_bits: within(raw.vram_bits, 1, 1 << 20)?,
            vram_mhz: within(raw.vram_mhz, 1, 100_000)?,
            cwsr_bytes: bytes(raw.cwsr_bytes, 4096, 1 << 32)?,
            ctl_stack_bytes: within(raw.ctl_stack_bytes, 4096, 1 << 20)?,
            properties,
        })
    }

    /// KFD nodes per GPU in this mode; None where the XCCs do not divide evenly.
    pub fn nodes_per_gpu(&self, partition: Partition) -> Option<u32> {
        let nodes = match partition {
            Partition::Spx => 1,
            Partition::Dpx => 2,
            Partition::Qpx => 4,
            Partition::Cpx => self.xccs,
        };
        self.xccs.is_multiple_of(nodes).then_some(nodes)
    }

    /// Compute processes that one node maps at a time, where its GPU has `nodes` nodes: the VMIDs are split only where
    /// every node is a single XCC.
    pub fn process_slots_with(&self, nodes: u32) -> u32 {
        if nodes > 1 && self.xccs <= nodes { CPX_PROCESS_SLOTS.min(self.process_slots) } else { self.process_slots }
    }

    /// The first VMID of compute processes on the node at `position` of a GPU with `nodes` nodes. The ones below are the
    /// graphics driver's; in CPX mode two neighbours share what is left, and the odd one is not used.
    pub(crate) fn first_vmid(&self, nodes: u32, position: u32) -> u32 {
        let slots = self.process_slots_with(nodes);
        if slots < self.process_slots { VMIDS - (2 - position % 2) * slots } else { VMIDS - slots }
    }

    /// Queue slots of one node: what `num_cp_queues` says.
    pub fn slots(&self) -> u32 {
        PIPES * QUEUES_PER_PIPE - self.kernel_queues
    }

    /// Wave slots of one XCC.
    pub fn waves_per_xcc(&self) -> u32 {
        self.cus_per_xcc * self.simds_per_cu * self.waves_per_simd
    }
}

/// Pipe and queue of each of the `slots` that KFD may use, in the order debugfs prints them: the kernel spreads its own
/// queues over the pipes, lowest queues first.
pub fn slot_places(slots: u32) -> Vec<(u32, u32)> {
    let kernel_queues = (PIPES * QUEUES_PER_PIPE).saturating_sub(slots);
    let all = (0..PIPES).flat_map(|pipe| (0..QUEUES_PER_PIPE).map(move |queue| (pipe, queue)));
    all.filter(|(pipe, queue)| queue * PIPES + pipe >= kernel_queues).collect()
}
