//! The few facts of the sysfs topology that drivers need.

use nix::errno::Errno;

use crate::host::{Host, SysResult};
use crate::queue::GpuId;

const NODES: &str = "/sys/class/kfd/kfd/topology/nodes";

/// A KFD node with a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GpuNode {
    /// Its id.
    pub gpu: GpuId,
    /// Engine clock, MHz; 0 where the kernel does not say.
    pub engine_mhz: u32,
}

/// All GPU nodes, in the order of their folders.
pub(crate) fn gpu_nodes(host: &dyn Host) -> SysResult<Vec<GpuNode>> {
    let mut folders: Vec<u32> = host.list(NODES)?.iter().filter_map(|name| name.parse().ok()).collect();
    folders.sort_unstable();
    let mut nodes = Vec::with_capacity(folders.len());
    for folder in folders {
        // A node whose device this process may not use has an empty or unreadable gpu_id: it is not ours to name.
        let gpu = match host.read_text(&format!("{NODES}/{folder}/gpu_id")) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(Errno::EPERM | Errno::EACCES | Errno::ENOENT) => 0,
            Err(errno) => return Err(errno),
        };
        if gpu != 0 {
            let properties = host.read_text(&format!("{NODES}/{folder}/properties")).unwrap_or_default();
            nodes.push(GpuNode { gpu: GpuId(gpu), engine_mhz: property(&properties, "max_engine_clk_fcompute") });
        }
    }
    Ok(nodes)
}

fn property(text: &str, name: &str) -> u32 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
