//! Queue slots on a kernel that does not report them: what sysfs shows, less what is held.

use crate::discover::sysfs;
use crate::driver::QueueStatus;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::{GpuId, HqdStatus, NodeFlags, QueueState, QueueType};

/// Slots of one node. A queue counts as active where nothing of ours keeps it off: that memory management evicted it, or
/// that its owner set it to 0 %, is not seen. `known`: the queues of attached processes.
pub(super) fn node_status(host: &dyn Host, gpu: GpuId, known: &[QueueStatus]) -> Result<HqdStatus> {
    const OPERATION: &str = "reading queue slots";
    let nodes = sysfs::nodes(host)?;
    let Some(node) = nodes.iter().find(|node| node.gpu == gpu) else {
        return Err(Error::of_driver(OPERATION, nix::errno::Errno::ENOENT).on(gpu).because("no such GPU"));
    };
    let (mut queues_total, mut compute) = (0, 0);
    for kfd_pid in sysfs::processes(host)? {
        for queue in sysfs::queues(host, kfd_pid)?.iter().filter(|queue| queue.gpu == gpu) {
            queues_total += 1;
            compute += u32::from(queue.kind == QueueType::Compute);
        }
    }
    let here = || known.iter().filter(|status| status.gpu == gpu);
    let held = |status: &&QueueStatus| status.state.contains(QueueState::PREEMPTED);
    let is_compute = |status: &&QueueStatus| status.kind == QueueType::Compute;
    let preempted = here().filter(held).count() as u32;
    let held_compute = here().filter(held).filter(is_compute).count() as u32;
    let offline = |status: &&QueueStatus| status.state.contains(QueueState::PREEMPTIBLE) && !held(status);
    let active = compute.saturating_sub(held_compute);
    let total = node.num_cp_queues;
    let flags = if active > total { NodeFlags::OVERSUBSCRIBED } else { NodeFlags::empty() };
    Ok(HqdStatus {
        total,
        active,
        free: total.saturating_sub(active),
        offline_used: here().filter(is_compute).filter(offline).count() as u32,
        offline_max: total,
        num_xcc: node.num_xcc,
        preempted,
        queues_total,
        nodes: 1,
        flags: flags.bits(),
        ..HqdStatus::default()
    })
}
