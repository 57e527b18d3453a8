//! The sysfs topology of a machine: made from a GPU model, or loaded from a recorded tree.

mod load;
mod synthetic;

use std::collections::BTreeSet;
use std::fmt::Write;

/// Properties of a node in the order in which the kernel prints them (`node_show` of `kfd_topology.c`).
pub const PROPERTIES: [&str; 39] = [
    "cpu_cores_count",
    "simd_count",
    "mem_banks_count",
    "caches_count",
    "io_links_count",
    "p2p_links_count",
    "cpu_core_id_base",
    "simd_id_base",
    "max_waves_per_simd",
    "lds_size_in_kb",
    "gds_size_in_kb",
    "num_gws",
    "wave_front_size",
    "array_count",
    "simd_arrays_per_engine",
    "cu_per_simd_array",
    "simd_per_cu",
    "max_slots_scratch_cu",
    "gfx_target_version",
    "vendor_id",
    "device_id",
    "location_id",
    "domain",
    "drm_render_minor",
    "hive_id",
    "num_sdma_engines",
    "num_sdma_xgmi_engines",
    "num_sdma_queues_per_engine",
    "num_cp_queues",
    "cwsr_size",
    "ctl_stack_size",
    "max_engine_clk_fcompute",
    "local_mem_size",
    "fw_version",
    "capability",
    "debug_prop",
    "sdma_fw_version",
    "unique_id",
    "num_xcc",
];
/// The last property of every node; [`PROPERTIES`] from `max_engine_clk_fcompute` on belong to GPU nodes alone.
pub const LAST_PROPERTY: &str = "max_engine_clk_ccompute";

/// Properties that are the same for every node of a product, so that a model file gives them as they are.
pub const MODEL_PROPERTIES: [&str; 11] = [
    "lds_size_in_kb",
    "gds_size_in_kb",
    "wave_front_size",
    "simd_arrays_per_engine",
    "cu_per_simd_array",
    "max_slots_scratch_cu",
    "vendor_id",
    "fw_version",
    "capability",
    "debug_prop",
    "sdma_fw_version",
];

/// One folder of `topology/nodes/`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopologyNode {
    /// Folder number.
    pub index: u32,
    /// `gpu_id`, 0 for a CPU node.
    pub gpu_id: u32,
    /// `name`.
    pub name: String,
    /// `properties`, in file order.
    pub properties: Vec<(String, u64)>,
    /// Text of every other file of the folder by relative path, for example `mem_banks/0/properties`.
    pub files: Vec<(String, String)>,
    /// Properties that a loaded tree lacked and the model supplied; the `properties` file stays as recorded.
    pub from_model: Vec<(String, u64)>,
}

/// A whole topology.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// `generation_id`.
    pub generation_id: u32,
    /// `system_properties`, in file order.
    pub system_properties: Vec<(String, u64)>,
    /// All nodes, CPU nodes included, by index.
    pub nodes: Vec<TopologyNode>,
}

impl TopologyNode {
    /// A property's value, recorded or supplied by the model; 0 where absent, as the kernel prints for what it does not
    /// know.
    pub fn property(&self, name: &str) -> u64 {
        let mut all = self.properties.iter().chain(&self.from_model);
        all.find(|(n, _)| n == name).map_or(0, |(_, value)| *value)
    }

    fn read(&self, file: &str) -> Option<String> {
        match file {
            "gpu_id" => Some(format!("{}\n", self.gpu_id)),
            "name" => Some(format!("{}\n", self.name)),
            "properties" => Some(lines(&self.properties)),
            _ => self.files.iter().find(|(path, _)| path == file).map(|(_, text)| text.clone()),
        }
    }

    fn paths(&self) -> impl Iterator<Item = &str> {
        let own = ["gpu_id", "name", "properties"];
        own.into_iter().chain(self.files.iter().map(|(path, _)| path.as_str()))
    }
}

impl Topology {
    /// The GPU nodes, in index order.
    pub fn gpus(&self) -> impl Iterator<Item = &TopologyNode> {
        self.nodes.iter().filter(|n| n.gpu_id != 0)
    }

    /// The nodes of the same physical GPU, in index order, `node` among them.
    pub fn siblings(&self, node: &TopologyNode) -> impl Iterator<Item = &TopologyNode> {
        let (index, unique_id) = (node.index, node.property("unique_id"));
        self.gpus().filter(move |n| n.index == index || (unique_id != 0 && n.property("unique_id") == unique_id))
    }

    /// The number of a node's first XCC on its GPU; debugfs counts instances of the GPU, not of the node.
    pub fn first_xcc(&self, node: &TopologyNode) -> u32 {
        let before = self.siblings(node).filter(|n| n.index < node.index);
        before.map(|n| n.property("num_xcc") as u32).sum()
    }

    /// The text of a file by its path below `/sys/class/kfd/kfd/topology/`, or None.
    pub fn read(&self, path: &str) -> Option<String> {
        match path {
            "generation_id" => Some(format!("{}\n", self.generation_id)),
            "system_properties" => Some(lines(&self.system_properties)),
            _ => {
                let (index, file) = path.strip_prefix("nodes/")?.split_once('/')?;
                self.node(index)?.read(file)
            }
        }
    }

    /// The names in a folder below `/sys/class/kfd/kfd/topology/` ("" is the top), sorted, or None.
    pub fn list(&self, path: &str) -> Option<Vec<String>> {
        let names: BTreeSet<String> = match path {
            "" => ["generation_id", "nodes", "system_properties"].map(String::from).into(),
            "nodes" => self.nodes.iter().map(|n| n.index.to_string()).collect(),
            _ => {
                let (index, folder) = path.strip_prefix("nodes/").map(|p| p.split_once('/').unwrap_or((p, "")))?;
                let below = self.node(index)?.paths().filter_map(|p| match folder {
                    "" => Some(p),
                    _ => p.strip_prefix(folder)?.strip_prefix('/'),
                });
                below.map(|p| p.split('/').next().unwrap_or(p).to_owned()).collect()
            }
        };
        (!names.is_empty()).then(|| names.into_iter().collect())
    }

    /// A node by its folder name, which has no leading zeros.
    fn node(&self, name: &str) -> Option<&TopologyNode> {
        self.nodes.iter().find(|n| n.index.to_string() == name)
    }
}

fn lines(properties: &[(String, u64)]) -> String {
    let mut text = String::new();
    for (name, value) in properties {
        writeln!(text, "{name} {value}").expect("a String takes what is written");
    }
    text
}
