//! `/sys/class/kfd/kfd`: nodes, and the queues of every process that opened `/dev/kfd`.

use std::time::Duration;

use nix::errno::Errno;

use super::text::{list_unless_gone, malformed, number, read, read_unless_gone};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::{GpuId, QueueType};

const NODES: &str = "/sys/class/kfd/kfd/topology/nodes";
const PROCESSES: &str = "/sys/class/kfd/kfd/proc";

/// One GPU node of the topology (a partitioned GPU has several).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Folder number; debugfs names nodes by it.
    pub index: u32,
    /// Its `gpu_id`.
    pub gpu: GpuId,
    /// `name`, for example "ip discovery".
    pub name: String,
    /// Queue slots per XCC, which is queue slots of the node: a queue takes one on every XCC.
    pub num_cp_queues: u32,
    /// XCCs (1 where an older driver does not say).
    pub num_xcc: u32,
    /// SIMDs of all XCCs.
    pub simd_count: u32,
    /// SIMDs per compute unit.
    pub simd_per_cu: u32,
    /// Wave slots per SIMD.
    pub max_waves_per_simd: u32,
    /// SDMA engines, PCIe and XGMI.
    pub sdma_engines: u32,
    /// Queues per SDMA engine.
    pub sdma_queues_per_engine: u32,
    /// Highest shader clock, MHz; grace periods count 1000 of its cycles.
    pub max_engine_clk_fcompute: u32,
    /// Serial number; nodes of one GPU share it.
    pub unique_id: u64,
    /// `/dev/dri/renderD<minor>`.
    pub render_minor: u32,
    /// GFX version as KFD prints it: 90402 is gfx9.4.2.
    pub gfx_target_version: u32,
}

/// One queue of a process, as sysfs shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// KFD queue id within its process.
    pub id: u32,
    /// Its node.
    pub gpu: GpuId,
    /// Kind.
    pub kind: QueueType,
    /// Ring size, bytes.
    pub ring_bytes: u64,
}

/// What a process uses of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeUse {
    /// Which node.
    pub gpu: GpuId,
    /// Compute units with at least one wave of the process, where this GPU can tell.
    pub cu_occupancy: Option<u32>,
    /// Time that its queues were evicted.
    pub evicted: Duration,
}

/// All GPU nodes by index.
///
/// # Errors
/// ENODEV where there is no amdkfd; EBADMSG with path and line for a malformed file.
pub fn nodes(host: &dyn Host) -> Result<Vec<Node>> {
    let folders = host.list(NODES).map_err(|errno| match errno {
        Errno::ENOENT => Error::new("reading the topology", Errno::ENODEV)
            .on(NODES)
            .because("this machine has no amdkfd")
            .remedy("load amdgpu (modprobe amdgpu), or use the simulated machine (GPREEMPT_BACKEND=sim)"),
        errno => Error::new("reading the topology", errno).on(NODES),
    })?;
    let mut nodes = Vec::with_capacity(folders.len());
    for folder in numbers(&folders) {
        nodes.extend(node(host, folder)?);
    }
    nodes.sort_by_key(|node: &Node| node.index);
    Ok(nodes)
}

fn node(host: &dyn Host, index: u32) -> Result<Option<Node>> {
    let path = format!("{NODES}/{index}/gpu_id");
    let gpu: u32 = match host.read_text(&path) {
        Ok(text) => number(&path, &text)?,
        // The device cgroup hides the GPUs of others: EPERM.
        Err(Errno::ENOENT | Errno::ENODEV | Errno::EPERM | Errno::EACCES) => return Ok(None),
        Err(errno) => return Err(Error::new("reading", errno).on(path)),
    };
    let path = format!("{NODES}/{index}/properties");
    let text = match host.read_text(&path) {
        Ok(text) => text,
        Err(Errno::ENOENT | Errno::ENODEV | Errno::EPERM | Errno::EACCES) => return Ok(None),
        Err(errno) => return Err(Error::new("reading", errno).on(path)),
    };
    if gpu == 0 {
        return Ok(None);
    }
    let mut node = parse_properties(&path, &text)?;
    node.index = index;
    node.gpu = GpuId(gpu);
    let path = format!("{NODES}/{index}/name");
    node.name = read_unless_gone(host, &path)?.unwrap_or_default().trim_end().to_owned();
    Ok(Some(node))
}

/// Reads a node's `properties`; `index`, `gpu` and `name` are in other files and stay empty.
///
/// # Errors
/// EBADMSG with path and line.
pub fn parse_properties(path: &str, text: &str) -> Result<Node> {
    let mut node = Node { num_xcc: 1, ..Node::default() };
    for (index, line) in text.lines().enumerate() {
        let wrong = || malformed(path, index + 1, line, "a property name and a decimal number");
        let (name, value) = line.split_once(' ').ok_or_else(wrong)?;
        let wide: u64 = value.trim().parse().map_err(|_| wrong())?;
        let narrow = || u32::try_from(wide).map_err(|_| malformed(path, index + 1, line, "a 32-bit number"));
        match name {
            "num_cp_queues" => node.num_cp_queues = narrow()?,
            "num_xcc" => node.num_xcc = narrow()?.max(1),
            "simd_count" => node.simd_count = narrow()?,
            "simd_per_cu" => node.simd_per_cu = narrow()?,
            "max_waves_per_simd" => node.max_waves_per_simd = narrow()?,
            "num_sdma_engines" | "num_sdma_xgmi_engines" => {
                node.sdma_engines = node.sdma_engines.saturating_add(narrow()?);
            }
            "num_sdma_queues_per_engine" => node.sdma_queues_per_engine = narrow()?,
            "max_engine_clk_fcompute" => node.max_engine_clk_fcompute = narrow()?,
            "unique_id" => node.unique_id = wide,
            "drm_render_minor" => node.render_minor = narrow()?,
            "gfx_target_version" => node.gfx_target_version = narrow()?,
            _ => {}
        }
    }
    Ok(node)
}

/// Every process that has `/dev/kfd` open, by its pid in the init namespace; none where there is no amdkfd.
///
/// # Errors
/// EACCES and the like.
pub fn processes(host: &dyn Host) -> Result<Vec<u32>> {
    let names = list_unless_gone(host, PROCESSES)?.unwrap_or_default();
    let mut pids: Vec<u32> = numbers(&names).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The user queues of a process by its pid in the init namespace, by id; none where it is gone.
///
/// # Errors
/// EBADMSG with path for a malformed file.
pub fn queues(host: &dyn Host, kfd_pid: u32) -> Result<Vec<Queue>> {
    let folder = format!("{PROCESSES}/{kfd_pid}/queues");
    let names = list_unless_gone(host, &folder)?.unwrap_or_default();
    let mut queues = Vec::with_capacity(names.len());
    for id in numbers(&names) {
        queues.extend(queue(host, &format!("{folder}/{id}"), id)?);
    }
    queues.sort_by_key(|queue: &Queue| queue.id);
    Ok(queues)
}

fn queue(host: &dyn Host, folder: &str, id: u32) -> Result<Option<Queue>> {
    // A queue may be destroyed between any two of these.
    let path = format!("{folder}/type");
    let Some(text) = read_unless_gone(host, &path)? else { return Ok(None) };
    let kind = match number::<u32>(&path, &text)? {
        0 => QueueType::Compute,
        // 5: an SDMA queue that named its engine (Linux 6.13 and later).
        1 | 5 => QueueType::Sdma,
        4 => QueueType::SdmaXgmi,
        // 2 and 3 are the kernel's own (HIQ, DIQ).
        _ => return Ok(None),
    };
    let path = format!("{folder}/gpuid");
    let Some(text) = read_unless_gone(host, &path)? else { return Ok(None) };
    let gpu = GpuId(number(&path, &text)?);
    let path = format!("{folder}/size");
    let Some(text) = read_unless_gone(host, &path)? else { return Ok(None) };
    Ok(Some(Queue { id, gpu, kind, ring_bytes: number(&path, &text)? }))
}

/// What a process uses of each node, by `gpu_id`; none where it is gone.
///
/// # Errors
/// EBADMSG with path for a malformed file.
pub fn usage(host: &dyn Host, kfd_pid: u32) -> Result<Vec<NodeUse>> {
    let folder = format!("{PROCESSES}/{kfd_pid}");
    let mut usage = Vec::new();
    for name in list_unless_gone(host, &folder)?.unwrap_or_default() {
        let Some(gpu) = name.strip_prefix("stats_").and_then(|gpu| gpu.parse().ok()) else { continue };
        let path = format!("{folder}/{name}/evicted_ms");
        let Some(text) = read_unless_gone(host, &path)? else { continue };
        let evicted = Duration::from_millis(number(&path, &text)?);
        let path = format!("{folder}/{name}/cu_occupancy");
        let cu_occupancy = read_unless_gone(host, &path)?.map(|text| number(&path, &text)).transpose()?;
        usage.push(NodeUse { gpu: GpuId(gpu), cu_occupancy, evicted });
    }
    usage.sort_by_key(|node| node.gpu);
    Ok(usage)
}

/// Value of `topology/generation_id`, which changes when nodes come or go.
///
/// # Errors
/// ENOENT where there is no amdkfd; EBADMSG.
pub fn generation(host: &dyn Host) -> Result<u32> {
    let path = "/sys/class/kfd/kfd/topology/generation_id";
    number(path, &read(host, path)?)
}

fn numbers(names: &[String]) -> impl Iterator<Item = u32> + '_ {
    names.iter().filter_map(|name| name.parse().ok())
}
