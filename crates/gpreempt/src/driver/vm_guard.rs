//! Keeps the debugger driver away from a NULL dereference of the stock kernel.
//!
//! SUSPEND_QUEUES walks the target's nodes in topology order. Once a node suspended something, each later node without a
//! named queue gets its TLB flushed, without asking whether the target has a VM there (`suspend_queues()`, Linux 6.12.117).
//! The kernel does not say where a process has a VM; what shows it is a queue there, or memory there.

use std::collections::BTreeSet;

use crate::discover::sysfs;
use crate::error::Result;
use crate::host::Host;
use crate::queue::GpuId;

/// Knows the order of the nodes.
#[derive(Debug)]
pub(super) struct VmGuard {
    order: Vec<GpuId>,
}

impl VmGuard {
    pub(super) fn new(host: &dyn Host) -> Result<VmGuard> {
        let nodes = sysfs::nodes(host)?;
        Ok(VmGuard { order: nodes.into_iter().map(|node| node.gpu).collect() })
    }

    /// Whether suspending queues on `named` is safe for a process with queues on `has_queue`.
    /// `kfd_pid`: its name in KFD's files, where known.
    pub(super) fn allows(
        &self,
        host: &dyn Host,
        kfd_pid: Option<u32>,
        named: &BTreeSet<GpuId>,
        has_queue: &BTreeSet<GpuId>,
    ) -> bool {
        let first = self.order.iter().position(|gpu| named.contains(gpu));
        let Some(first) = first else { return false };
        self.order[first..]
            .iter()
            .all(|&gpu| has_queue.contains(&gpu) || kfd_pid.is_some_and(|pid| shows_vm(host, pid, gpu)))
    }
}

/// A node that the process may not use has no `vram` file: the kernel does not visit it.
fn shows_vm(host: &dyn Host, pid: u32, gpu: GpuId) -> bool {
    match host.read_text(&format!("/sys/class/kfd/kfd/proc/{pid}/vram_{}", gpu.0)) {
        Ok(bytes) => bytes.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0),
        Err(nix::errno::Errno::ENOENT) => host.list(&format!("/sys/class/kfd/kfd/proc/{pid}")).is_ok(),
        Err(_) => false,
    }
}
