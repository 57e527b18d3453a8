//! Injected faults, and what a reset does.

use gpreempt_sys::{KFD_QUEUE_EVICTION_TRIGGER_SUSPEND, KFD_SMI_EVENT_GPU_POST_RESET, KFD_SMI_EVENT_GPU_PRE_RESET};
use nix::errno::Errno;

use crate::config::{FaultKind, FaultPoint};
use crate::hw::rounds::Job;
use crate::node::NodeIndex;
use crate::orders::Order;
use crate::queue::QueueKey;
use crate::timeline::Event;
use crate::world::World;

impl World {
    /// Plans the faults of the scenario that have a time.
    pub(crate) fn plan_faults(&mut self) {
        for (index, fault) in self.faults.iter().enumerate() {
            if let Some(FaultPoint::Time(time)) = fault.as_ref().map(|f| &f.at) {
                self.timeline.plan(*time, Event::Fault { index });
            }
        }
    }

    pub(crate) fn fault_event(&mut self, index: usize) {
        if let Some(fault) = self.faults[index].take() {
            self.strike(&fault.kind);
        }
    }

    /// What strikes in this round of a node.
    pub(crate) fn faults_of_round(&mut self, node: NodeIndex, round: u64) -> Vec<FaultKind> {
        if std::mem::take(&mut self.nodes[node.0].hung) {
            return vec![FaultKind::HwsTimeout { node: node.0 as u32 }];
        }
        self.take_faults(|world, at, kind| *at == FaultPoint::Round { nth: round } && world.concerns(kind, node))
    }

    /// What strikes before entry `entry` of the current batch command is looked up.
    pub(crate) fn strike_in_batch(&mut self, entry: u32) {
        let nth = self.batches;
        for kind in self.take_faults(|_, at, _| *at == FaultPoint::Batch { nth, entry }) {
            self.strike(&kind);
        }
    }

    fn take_faults(&mut self, due: impl Fn(&World, &FaultPoint, &FaultKind) -> bool) -> Vec<FaultKind> {
        let mut struck = Vec::new();
        for index in 0..self.faults.len() {
            if self.faults[index].as_ref().is_some_and(|f| due(self, &f.at, &f.kind)) {
                struck.extend(self.faults[index].take().map(|f| f.kind));
            }
        }
        struck
    }

    /// Whether a fault belongs to this node. One that names a queue or a process belongs to its first node.
    fn concerns(&self, kind: &FaultKind, node: NodeIndex) -> bool {
        match kind {
            FaultKind::HwsTimeout { node: n } | FaultKind::NodeReset { node: n } => *n as usize == node.0,
            FaultKind::QueueReset { pid, queue } | FaultKind::QueueDestroyed { pid, queue } => {
                self.find_queue(*pid, *queue).is_ok_and(|key| self.queue(key).node == node)
            }
            FaultKind::ProcessGone { pid } => self.node(node).processes.contains(pid),
        }
    }

    /// A fault strikes. One that names somebody who is not there does nothing.
    pub(crate) fn strike(&mut self, kind: &FaultKind) {
        match *kind {
            FaultKind::HwsTimeout { node } => {
                if let Some(it) = self.nodes.get_mut(node as usize) {
                    it.hung = true;
                }
            }
            FaultKind::NodeReset { node } => {
                if (node as usize) < self.nodes.len() {
                    self.reset_node(NodeIndex(node as usize), Errno::EIO);
                }
            }
            FaultKind::QueueReset { pid, queue } => {
                if let Ok(key) = self.find_queue(pid, queue) {
                    self.queues[key.0].stubborn = true;
                }
            }
            FaultKind::QueueDestroyed { pid, queue } => {
                // A queue that cannot be destroyed now is none that a fault can destroy.
                if let Ok((node, job)) = self.find_queue(pid, queue).and_then(|key| self.destroy_queue(key)) {
                    self.begin(node, job, false);
                }
            }
            FaultKind::ProcessGone { pid } => {
                // Who is gone already cannot go again.
                let _ = self.exit(pid);
            }
        }
    }

    /// The driver resets queues that did not yield, at the end of the unmap that found them. Returns what that takes: the
    /// latency after which HWS gives up on a queue, and each reset.
    pub(crate) fn reset_queues(&mut self, stubborn: &[QueueKey]) -> u64 {
        if stubborn.is_empty() {
            return 0;
        }
        for key in stubborn {
            self.queues[key.0].stubborn = false;
            self.mark_reset(*key);
        }
        self.unmap_latency_ms() * 1_000_000 + stubborn.len() as u64 * self.config.cost.queue_reset.ns
    }

    /// The GPU of a node is reset: everything on all its nodes stops, and calls that meet the reset fail; the one that
    /// caused it with `cause`. KFD evicts every process from every GPU for it, and restores none of them ever.
    pub(crate) fn reset_node(&mut self, node: NodeIndex, cause: Errno) {
        let partitions = self.partitions(node);
        let locked = self.is_locked();
        for partition in &partitions {
            self.smi_reset(*partition, KFD_SMI_EVENT_GPU_PRE_RESET);
            self.nodes[partition.0].resetting = true;
        }
        if !locked {
            self.evict_all(&partitions);
        }
        for partition in partitions {
            self.stop_node(partition, if partition == node { cause } else { Errno::EIO });
        }
    }

    /// Whether KFD takes no new process: a reset is under way.
    pub(crate) fn is_locked(&self) -> bool {
        self.nodes.iter().any(|it| it.resetting)
    }

    /// The nodes of the same GPU.
    fn partitions(&self, node: NodeIndex) -> Vec<NodeIndex> {
        let gpu = self.topology.gpus().nth(node.0).expect("nodes are the topology's GPUs");
        let siblings: Vec<u32> = self.topology.siblings(gpu).map(|sibling| sibling.index).collect();
        self.node_indices().filter(|n| siblings.contains(&self.node(*n).topology_index)).collect()
    }

    /// Evicts every process from every node, without a round on those that are `stopped`.
    fn evict_all(&mut self, stopped: &[NodeIndex]) {
        let pids: Vec<u32> = self.processes.values().filter(|p| p.alive && p.kfd.is_some()).map(|p| p.pid).collect();
        let trigger = Some(KFD_QUEUE_EVICTION_TRIGGER_SUSPEND);
        for pid in pids {
            for node in self.node_indices() {
                if stopped.contains(&node) {
                    self.shift_eviction(pid, node, trigger);
                } else {
                    self.begin(node, Job::of(Order::Evict { pid, trigger }), false);
                }
            }
        }
    }

    fn stop_node(&mut self, node: NodeIndex, cause: Errno) {
        self.freeze_firmware(node);
        for pool in 0..self.node(node).pools.len() {
            self.serve(node, pool);
        }
        let it = &mut self.nodes[node.0];
        it.hung = false;
        it.active_runlist = false;
        it.firmware_free = self.now;
        it.runlist.clear();
        for key in std::mem::take(&mut it.mapped) {
            self.queues[key.0].slot = None;
        }
        it.count_slots(self.now);
        it.slot_users.fill(None);
        for pool in &mut it.pools {
            pool.stop_all();
            pool.generation += 1;
        }
        let reset = it.resets;
        self.announce_reset(node);
        self.abort_rounds(node, cause);
        self.timeline.plan(self.now + self.config.cost.node_reset.ns, Event::ResetDone { node, reset });
    }

    /// A node has been reset and takes runlists again, unless another reset has begun meanwhile.
    pub(crate) fn reset_done(&mut self, node: NodeIndex, reset: u32) {
        if self.node(node).resets == reset {
            self.nodes[node.0].resetting = false;
            self.smi_reset(node, KFD_SMI_EVENT_GPU_POST_RESET);
        }
    }

    /// A queue was reset: it never runs again, and its process can update no queue of the node any more.
    pub(crate) fn mark_reset(&mut self, key: QueueKey) {
        let queue = self.queue_mut(key);
        queue.reset = true;
        let (pid, node) = (queue.pid, queue.node);
        if let Some(kfd) = self.processes.get_mut(&pid).and_then(|p| p.kfd.as_mut()) {
            kfd.device_mut(node).has_reset_queue = true;
        }
    }
}
