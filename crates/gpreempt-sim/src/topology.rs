//! The sysfs topology of a machine: made from a GPU model, or loaded from a recorded tree.

use std::path::Path;

use crate::config::{ConfigError, GpuModel, Partition};

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
    /// Properties that a loaded tree lacked and the model supplied.
    pub from_model: Vec<String>,
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
    /// Which slice of its GPU this node is: 0 for the first (or only) partition.
    pub fn partition_index(&self) -> u32 {
        todo!()
    }

    /// A property's value; 0 where absent, as the kernel prints for what it does not know.
    pub fn property(&self, _name: &str) -> u64 {
        todo!()
    }
}

impl Topology {
    /// The topology of `gpus` GPUs of one model in one partition mode, behind one CPU node.
    pub fn from_model(_model: &GpuModel, _gpus: u32, _partition: Partition) -> Topology {
        todo!()
    }

    /// Reads a recorded tree; `model` fills what an older driver did not print.
    ///
    /// # Errors
    /// A file that is missing or malformed, with path and line.
    pub fn load(_path: &Path, _model: &GpuModel) -> Result<Topology, ConfigError> {
        todo!()
    }

    /// The text of a file by its path below `/sys/class/kfd/kfd/topology/`, or None.
    pub fn read(&self, _path: &str) -> Option<String> {
        todo!()
    }

    /// The GPU nodes, in index order.
    pub fn gpus(&self) -> impl Iterator<Item = &TopologyNode> {
        self.nodes.iter().filter(|n| n.gpu_id != 0)
    }

    /// The names in a folder below `/sys/class/kfd/kfd/topology/` ("" is the top), or None.
    pub fn list(&self, _path: &str) -> Option<Vec<String>> {
        todo!()
    }
}
