//! Who holds the slots of a node.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::discover::{Process, debugfs};
use crate::queue::{GpuId, Pid, QueueInfo, QueueType};

/// One process's share of a node's slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotHolder {
    /// Owner; where it is not visible from here, its pid in the init namespace.
    pub pid: Pid,
    /// `/proc/<pid>/comm` of the owner, empty where unknown.
    pub command: String,
    /// Compute queues it created there.
    pub queues: u32,
    /// Those in the runlist; None where the machine does not tell.
    pub active: Option<u32>,
}

/// Who holds the slots of a node, the largest holder first, from queues whose activity is known
/// ([`crate::Session::queues`]).
pub fn blame(gpu: GpuId, queues: &[QueueInfo]) -> Vec<SlotHolder> {
    let mut holders: BTreeMap<Pid, SlotHolder> = BTreeMap::new();
    for queue in queues.iter().filter(|queue| queue.gpu == gpu && queue.kind == QueueType::Compute) {
        let pid = queue.queue.pid;
        let holder = holders.entry(pid).or_insert_with(|| SlotHolder {
            pid,
            command: queue.command.clone(),
            queues: 0,
            active: Some(0),
        });
        holder.queues += 1;
        holder.active = holder.active.zip(queue.active).map(|(sum, active)| sum + u32::from(active));
    }
    largest_first(holders.into_values())
}

/// The same on a stock kernel, from debugfs (root only).
pub fn blame_stock(
    gpu: GpuId,
    mqds: &debugfs::MqdDump,
    rls: &debugfs::RunlistDump,
    processes: &[Process],
) -> Vec<SlotHolder> {
    let mapped = debugfs::mapped(mqds, rls);
    let here = mapped.into_iter().filter(|((_, node), _)| *node == gpu);
    largest_first(here.map(|((kfd_pid, _), counts)| {
        let process = processes.iter().find(|process| process.kfd_pid == kfd_pid);
        SlotHolder {
            pid: process.and_then(|process| process.pid).unwrap_or(kfd_pid),
            command: process.map(|process| process.command.clone()).unwrap_or_default(),
            queues: counts.queues,
            active: Some(counts.active),
        }
    }))
}

fn largest_first(holders: impl Iterator<Item = SlotHolder>) -> Vec<SlotHolder> {
    let mut holders: Vec<SlotHolder> = holders.collect();
    holders.sort_by_key(|holder| (Reverse(holder.active), Reverse(holder.queues), holder.pid));
    holders
}
