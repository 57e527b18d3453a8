//! The topology of a machine that is made from a GPU model.

use super::{LAST_PROPERTY, PROPERTIES, Topology, TopologyNode};
use crate::config::{ConfigError, GpuModel, Partition};

/// More GPUs than any machine has.
const MAX_GPUS: u32 = 64;
/// The host of the recorded MI308X tree: cores of one CPU node, its memory and its clock.
const CPU_CORES: u64 = 112;
const CPU_MEMORY: &str = "heap_type 0\nsize_in_bytes 1081864880128\nflags 0\nwidth 64\nmem_clk_max 5600\n";
const CPU_MHZ: u64 = 3800;
/// Where the kernel starts to number SIMDs of GPUs.
const FIRST_SIMD: u64 = 0x8000_1000;
/// Where render nodes start, and how many numbers one GPU keeps for its partitions.
const FIRST_RENDER_MINOR: u64 = 128;
const RENDER_MINORS: u64 = 8;
/// GPUs of one PCI domain, and the distance of their buses.
const DOMAIN_GPUS: u64 = 8;
const FIRST_BUS: u64 = 0x05;
const BUS_STEP: u64 = 0x20;

/// One node of one GPU, by numbers.
struct Place {
    gpu: u64,
    partition: u64,
    /// Nodes of the GPU.
    nodes: u64,
}

impl Topology {
    /// The topology of `gpus` GPUs of one model in one partition mode, behind one CPU node. Caches and links are not
    /// modelled, and the counts say so.
    ///
    /// # Errors
    /// A mode that does not divide the model's XCCs, and a number of GPUs that is not 1 to 64.
    pub fn from_model(model: &GpuModel, gpus: u32, partition: Partition) -> Result<Topology, ConfigError> {
        let refuse = |message: String| ConfigError { path: model.name.clone(), line: None, message };
        let Some(nodes) = model.nodes_per_gpu(partition) else {
            return Err(refuse(format!("{} XCCs cannot be split into {partition} nodes", model.xccs)));
        };
        if !(1..=MAX_GPUS).contains(&gpus) {
            return Err(refuse(format!("a machine has 1 to {MAX_GPUS} GPUs, not {gpus}")));
        }
        let nodes = u64::from(nodes);
        let mut topology = Topology {
            generation_id: 2,
            system_properties: ["platform_oem", "platform_id", "platform_rev"].map(|n| (n.to_owned(), 0)).into(),
            nodes: vec![cpu_node()],
        };
        for gpu in 0..u64::from(gpus) {
            for partition in 0..nodes {
                let place = Place { gpu, partition, nodes };
                let taken: Vec<u32> = topology.gpus().map(|n| n.gpu_id).collect();
                let index = topology.nodes.len() as u32;
                topology.nodes.push(gpu_node(model, &place, index, &taken));
            }
        }
        Ok(topology)
    }
}

fn cpu_node() -> TopologyNode {
    let own = |name: &str| match name {
        "cpu_cores_count" => CPU_CORES,
        "mem_banks_count" => 1,
        _ => 0,
    };
    // The properties from max_engine_clk_fcompute on are printed for GPUs alone.
    let common = PROPERTIES.iter().take_while(|n| **n != "max_engine_clk_fcompute");
    let mut properties: Vec<_> = common.map(|n| ((*n).to_owned(), own(n))).collect();
    properties.push((LAST_PROPERTY.to_owned(), CPU_MHZ));
    TopologyNode {
        index: 0,
        gpu_id: 0,
        name: String::new(),
        properties,
        files: vec![("mem_banks/0/properties".to_owned(), CPU_MEMORY.to_owned())],
        from_model: Vec::new(),
    }
}

fn gpu_node(model: &GpuModel, place: &Place, index: u32, taken: &[u32]) -> TopologyNode {
    let xccs = u64::from(model.xccs) / place.nodes;
    let properties: Vec<_> = PROPERTIES
        .iter()
        .chain([&LAST_PROPERTY])
        .map(|name| ((*name).to_owned(), value(model, place, xccs, name)))
        .collect();
    let memory = format!(
        "heap_type 1\nsize_in_bytes {}\nflags 0\nwidth {}\nmem_clk_max {}\n",
        model.vram_bytes / place.nodes,
        model.vram_bits,
        model.vram_mhz
    );
    TopologyNode {
        index,
        gpu_id: gpu_id(model, place, xccs, taken),
        name: "ip discovery".to_owned(),
        properties,
        files: vec![("mem_banks/0/properties".to_owned(), memory)],
        from_model: Vec::new(),
    }
}

/// What the model says about a property that a node of `xccs` XCCs may lack; places and identities are the tree's own.
pub(super) fn supply(model: &GpuModel, xccs: u64, nodes: u64, name: &str) -> u64 {
    value(model, &Place { gpu: 0, partition: 0, nodes }, xccs, name)
}

fn value(model: &GpuModel, place: &Place, xccs: u64, name: &str) -> u64 {
    let constant = |name: &str| model.properties.get(name).copied().unwrap_or(0);
    let engines = u64::from(model.sdma_engines) / place.nodes;
    // KFD gives two engines of a node to PCIe and the rest to XGMI.
    let pcie_engines = engines.min(2);
    match name {
        "simd_count" => xccs * u64::from(model.cus_per_xcc * model.simds_per_cu),
        "mem_banks_count" => 1,
        "simd_id_base" => {
            // Physical compute units, harvested ones included, as the kernel counts them.
            let arrays = u64::from(model.shader_engines) * constant("simd_arrays_per_engine");
            let units = xccs * arrays * constant("cu_per_simd_array");
            FIRST_SIMD + (place.gpu * place.nodes + place.partition) * units
        }
        "max_waves_per_simd" => model.waves_per_simd.into(),
        "num_gws" => model.gws.into(),
        "array_count" => xccs * u64::from(model.shader_engines) * constant("simd_arrays_per_engine"),
        "simd_per_cu" => model.simds_per_cu.into(),
        "gfx_target_version" => model.gfx_target_version.into(),
        "device_id" => model.device_id.into(),
        "location_id" => location(place),
        "domain" => place.gpu / DOMAIN_GPUS,
        "drm_render_minor" => FIRST_RENDER_MINOR + place.gpu * RENDER_MINORS + place.partition,
        "hive_id" => identity(model, u64::MAX),
        "num_sdma_engines" => pcie_engines,
        "num_sdma_xgmi_engines" => engines - pcie_engines,
        "num_sdma_queues_per_engine" => model.sdma_queues.into(),
        "num_cp_queues" => model.slots().into(),
        "cwsr_size" => model.cwsr_bytes,
        "ctl_stack_size" => model.ctl_stack_bytes.into(),
        "max_engine_clk_fcompute" => model.engine_mhz.into(),
        "unique_id" => identity(model, place.gpu),
        "num_xcc" => xccs,
        LAST_PROPERTY => CPU_MHZ,
        _ => constant(name),
    }
}

/// Bus, device and function; partitions are functions of one device.
fn location(place: &Place) -> u64 {
    let bus = FIRST_BUS + place.gpu % DOMAIN_GPUS * BUS_STEP;
    bus << 8 | place.partition
}

/// A number that looks like a serial number and is always the same for the same GPU (SplitMix64).
fn identity(model: &GpuModel, gpu: u64) -> u64 {
    let mut z = (u64::from(model.device_id) << 32 ^ gpu).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31) | 1
}

/// As the kernel makes it: a CRC-16 over place, device and memory, moved on while it is 0 or taken.
fn gpu_id(model: &GpuModel, place: &Place, xccs: u64, taken: &[u32]) -> u32 {
    let memory = model.vram_bytes / place.nodes;
    let words = [
        0,
        model.properties.get("vendor_id").copied().unwrap_or(0) | u64::from(model.device_id) << 16,
        place.gpu / DOMAIN_GPUS,
        model.device_id.into(),
        location(place) >> 8,
        memory & 0xffff_ffff,
        memory >> 32,
        (place.partition * xccs) | (xccs << 16),
    ];
    let bytes = words.iter().flat_map(|w| (*w as u32).to_le_bytes());
    let mut id = u32::from(bytes.fold(0, crc16));
    while id == 0 || taken.contains(&id) {
        id = (id + 1) & 0xffff;
    }
    id
}

/// The CRC-16 of the kernel's `lib/crc16.c` (polynomial 0x8005, reflected).
fn crc16(crc: u16, byte: u8) -> u16 {
    (0..8).fold(crc ^ u16::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xa001 } else { c >> 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_gpu_id_is_moved_on_and_never_becomes_0() {
        let model = GpuModel::named("mi308x").expect("built in");
        let place = Place { gpu: 0, partition: 0, nodes: 1 };
        let first = gpu_id(&model, &place, 4, &[]);
        assert_eq!(gpu_id(&model, &place, 4, &[first]), first + 1);
        let all_above: Vec<u32> = (first..=0xffff).collect();
        assert_eq!(gpu_id(&model, &place, 4, &all_above), 1);
    }

    #[test]
    fn the_checksum_is_the_kernels() {
        // The check value of CRC-16/ARC.
        assert_eq!(b"123456789".iter().fold(0, |crc, byte| crc16(crc, *byte)), 0xbb3d);
    }
}
