//! Text files: which path is which file, and who may read it.

use std::collections::BTreeSet;

use nix::errno::Errno;

use crate::config::{ClockKind, Hardware};
use crate::machine::Task;
use crate::process::Process;
use crate::text::{debugfs, proc, sysfs};
use crate::world::World;

const TOPOLOGY: &str = "sys/class/kfd/kfd/topology";
const KFD_PROC: &str = "sys/class/kfd/kfd/proc";
const DEBUG: &str = "sys/kernel/debug";
const DEBUG_KFD: &str = "sys/kernel/debug/kfd";
const DEBUG_FILES: [&str; 4] = ["hang_hws", "hqds", "mqds", "rls"];
const PROC_FILES: [&str; 5] = ["cgroup", "cmdline", "comm", "stat", "status"];

/// What a path names.
enum Entry {
    File(String),
    Folder(Vec<String>),
}

impl World {
    pub(crate) fn read_text(&mut self, task: Task, path: &str) -> Result<String, Errno> {
        match self.entry(task, path)? {
            Entry::File(text) => Ok(text),
            Entry::Folder(_) => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn list(&mut self, task: Task, path: &str) -> Result<Vec<String>, Errno> {
        match self.entry(task, path)? {
            Entry::Folder(names) => Ok(names),
            Entry::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn entry(&mut self, task: Task, path: &str) -> Result<Entry, Errno> {
        let path = path.strip_prefix('/').ok_or(Errno::ENOENT)?.trim_end_matches('/');
        let below = |folder: &str| match path.strip_prefix(folder)? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        };
        if let Some(rest) = below(TOPOLOGY) {
            let file = self.topology.read(rest).map(Entry::File);
            return file.or_else(|| self.topology.list(rest).map(Entry::Folder)).ok_or(Errno::ENOENT);
        }
        if let Some(rest) = below(KFD_PROC) {
            return self.kfd_entry(rest).ok_or(Errno::ENOENT);
        }
        if below(DEBUG).is_some() {
            if !self.process(task.pid)?.root {
                return Err(Errno::EACCES);
            }
            return self.debug_entry(below(DEBUG_KFD).ok_or(Errno::ENOENT)?);
        }
        if let Some(rest) = below("proc") {
            return self.proc_entry(task, rest).ok_or(Errno::ENOENT);
        }
        match path {
            "dev" => Ok(folder(["kfd", "null"])),
            "sys/class/kfd/kfd" => Ok(folder(["proc", "topology"])),
            "sys/class/kfd" => Ok(folder(["kfd"])),
            _ => Err(Errno::ENOENT),
        }
    }

    // --- /sys/class/kfd/kfd/proc ----------------------------------------------------------------------------------

    fn kfd_entry(&mut self, rest: &str) -> Option<Entry> {
        if rest.is_empty() {
            let known = self.processes.values().filter(|p| p.alive && p.kfd.is_some());
            return Some(folder(known.map(|p| p.pid.to_string())));
        }
        let (pid, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let pid = number(pid)?;
        let kfd = self.process(pid).ok()?.kfd.as_ref()?;
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [] => {
                let gpus = self.nodes.iter().map(|node| node.gpu_id);
                let per_gpu = gpus.flat_map(|gpu| ["vram", "sdma", "stats"].map(|kind| format!("{kind}_{gpu}")));
                Some(folder(per_gpu.chain(["pasid".to_owned(), "queues".to_owned()])))
            }
            ["pasid"] => Some(Entry::File(sysfs::pasid(kfd.pasid))),
            ["queues"] => Some(folder(kfd.queues.keys().map(u32::to_string))),
            ["queues", id] => kfd.queues.get(&number(id)?).map(|_| folder(["gpuid", "size", "type"])),
            ["queues", id, file] => {
                let queue = self.queue(*kfd.queues.get(&number(id)?)?);
                Some(Entry::File(match *file {
                    "size" => sysfs::queue_size(u64::from(queue.properties.ring_bytes)),
                    "type" => sysfs::queue_type(queue.kind()),
                    "gpuid" => sysfs::queue_gpuid(self.node(queue.node).gpu_id),
                    _ => return None,
                }))
            }
            [folder_or_file, rest @ ..] => {
                let (kind, gpu_id) = folder_or_file.split_once('_')?;
                self.kfd_counter(pid, kind, number(gpu_id)?, rest)
            }
        }
    }

    /// `vram_<gpu>`, `sdma_<gpu>` and `stats_<gpu>/`.
    fn kfd_counter(&mut self, pid: u32, kind: &str, gpu_id: u32, rest: &[&str]) -> Option<Entry> {
        let node = self.node_by_gpu(gpu_id)?;
        self.serve_node(node);
        let kfd = self.process(pid).ok()?.kfd.as_ref()?;
        let device = kfd.device(node);
        let text = match (kind, rest) {
            ("vram", []) => {
                let held = kfd.buffers.values().filter(|buffer| buffer.vram && buffer.node == node);
                sysfs::vram(held.map(|buffer| buffer.bytes).sum())
            }
            ("sdma", []) => {
                let busy = device.queues.iter().map(|key| self.queue(*key)).filter(|queue| !queue.is_compute());
                sysfs::sdma(busy.map(|queue| queue.feed.service_ns()).sum::<u64>() / 1000)
            }
            ("stats", []) => return Some(folder(["cu_occupancy", "evicted_ms"])),
            ("stats", ["evicted_ms"]) => {
                let running = if device.evicted > 0 { self.now - device.evicted_since } else { 0 };
                sysfs::evicted_ms((device.evicted_ns + running) / 1_000_000)
            }
            ("stats", ["cu_occupancy"]) => {
                let waves: u64 = device.queues.iter().map(|key| self.live_waves(*key)).sum();
                let it = self.node(node);
                let per_unit = (it.wave_slots / u64::from(it.compute_units.max(1))).max(1);
                sysfs::cu_occupancy(u32::try_from(waves.div_ceil(per_unit)).unwrap_or(u32::MAX))
            }
            _ => return None,
        };
        Some(Entry::File(text))
    }

    // --- /sys/kernel/debug/kfd ------------------------------------------------------------------------------------

    fn debug_entry(&mut self, rest: &str) -> Result<Entry, Errno> {
        Ok(Entry::File(match rest {
            "" => return Ok(folder(DEBUG_FILES)),
            "mqds" => debugfs::mqds(&self.mqds()),
            "hqds" => debugfs::hqds(&self.hqds()),
            "rls" => debugfs::rls(&self.runlists()),
            "hang_hws" => debugfs::hang_hws(),
            _ => return Err(Errno::ENOENT),
        }))
    }

    // --- /proc ----------------------------------------------------------------------------------------------------

    fn proc_entry(&self, task: Task, rest: &str) -> Option<Entry> {
        if rest.is_empty() {
            let pids = self.processes.values().filter(|p| p.alive).map(|p| p.pid.to_string());
            return Some(folder(pids.chain(["self".to_owned()])));
        }
        let (pid, file) = rest.split_once('/').unwrap_or((rest, ""));
        let pid = if pid == "self" { task.pid } else { number(pid)? };
        let process = proc_of(self.process(pid).ok()?);
        Some(Entry::File(match file {
            "" => return Some(folder(PROC_FILES)),
            "comm" => process.comm(),
            "status" => process.status(),
            "stat" => process.stat(),
            "cgroup" => process.cgroup(),
            "cmdline" => process.cmdline(),
            _ => return None,
        }))
    }

    // --- the whole machine ----------------------------------------------------------------------------------------

    /// What this machine is made of, in one line.
    pub(crate) fn describe(&self) -> String {
        let config = &self.config;
        let hardware = match &config.hardware {
            Hardware::Model { model, gpus, partition } => format!("{gpus} x {} ({partition})", model.name),
            Hardware::Tree { path, model } => {
                let supplied: BTreeSet<&str> = self
                    .topology
                    .nodes
                    .iter()
                    .flat_map(|n| n.from_model.iter().map(|(name, _)| name.as_str()))
                    .collect();
                let supplied: Vec<&str> = supplied.into_iter().collect();
                let note = if supplied.is_empty() {
                    String::new()
                } else {
                    format!(", from model {}: {}", model.name, supplied.join(" "))
                };
                format!("topology of {}{note}", path.display())
            }
        };
        let clock = match config.clock {
            ClockKind::Real => "real clock",
            ClockKind::Virtual => "virtual clock",
        };
        let kernel = if config.patched { "patched KFD" } else { "stock KFD" };
        format!(
            "simulated machine: {hardware}, {} nodes, {kernel}, scenario {}, cost model {}, {clock}, seed {}",
            self.nodes.len(),
            config.scenario.name,
            config.cost.name,
            config.seed,
        )
    }
}

fn folder<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Entry {
    let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
    names.sort();
    Entry::Folder(names)
}

/// A number as the kernel names a folder: decimal, no sign, no leading zero.
fn number(text: &str) -> Option<u32> {
    let value: u32 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

fn proc_of(process: &Process) -> proc::Process {
    proc::Process {
        pid: process.pid,
        namespace_pids: process.namespace_pid.into_iter().collect(),
        ppid: 1,
        uid: process.uid,
        gid: process.uid,
        name: process.name.clone(),
        command: process.command.clone(),
        cgroup: process.cgroup.clone(),
        start_ticks: process.started / 10_000_000,
        tracer: process.tracer.unwrap_or(0),
    }
}
