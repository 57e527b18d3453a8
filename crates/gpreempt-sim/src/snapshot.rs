//! What debugfs shows of the machine: MQD memory, HQD registers, runlists.

use crate::config::slot_places;
use crate::mqd::{COMPUTE_DWORDS, ComputeMqd, PQ_RPTR, PQ_WPTR, SdmaMqd, SdmaRegisters, hqd_registers, sdma_registers};
use crate::node::{Node, NodeIndex};
use crate::pm4::{Engine, MapProcess, MapQueues, Packet, RunList};
use crate::process::KfdProcess;
use crate::queue::{Queue, QueueKey};
use crate::text::debugfs::{NodeHqds, NodeRunlist, ProcessMqds, QueueMqd, SdmaHqd, SlotHqd, XccHqds};
use crate::world::World;

/// Doorbell slice of one process, dwords.
const DOORBELL_SLICE: u32 = 2048;
/// Bytes of control stack per wave.
const CONTROL_BYTES: u64 = 8;
/// `process_quantum` that the driver writes.
const QUANTUM: u8 = 10;

impl World {
    /// Every process's MQDs, as they lie in memory: what the hardware wrote when it last unmapped each queue.
    pub(crate) fn mqds(&self) -> Vec<ProcessMqds> {
        let mut processes = Vec::new();
        for process in self.processes.values().filter(|p| p.alive) {
            let Some(kfd) = &process.kfd else { continue };
            let queues = process.queues_newest_first().into_iter().map(|key| {
                let queue = self.queue(key);
                let image = if queue.is_compute() {
                    self.compute_mqd(queue, kfd, false).images(self.node(queue.node).xccs)
                } else {
                    self.sdma_mqd(queue, kfd, false).image().to_vec()
                };
                QueueMqd { gpu_id: self.node(queue.node).gpu_id, sdma: !queue.is_compute(), image }
            });
            processes.push(ProcessMqds { pid: process.pid, pasid: kfd.pasid, queues: queues.collect() });
        }
        processes
    }

    /// Every node's hardware queue slots.
    pub(crate) fn hqds(&mut self) -> Vec<NodeHqds> {
        for node in self.node_indices() {
            self.serve_node(node);
        }
        self.node_indices().map(|node| self.node_hqds(node)).collect()
    }

    fn node_hqds(&self, node: NodeIndex) -> NodeHqds {
        let it = self.node(node);
        let stopped = NodeHqds { index: it.topology_index, gpu_id: it.gpu_id, xccs: None, sdma: Vec::new() };
        if it.resetting {
            return stopped;
        }
        let places = slot_places(it.slots);
        let xccs = (0..it.xccs).map(|xcc| {
            let slots = places.iter().zip(&it.slot_users).map(|((pipe, queue), user)| {
                let image = user.and_then(|key| self.mapped_image(key, xcc));
                let registers = image.map_or([0; 56], |image| hqd_registers(&image));
                SlotHqd { pipe: *pipe, queue: *queue, registers }
            });
            XccHqds { instance: it.first_xcc + xcc, hiq: hqd_registers(&hiq_image(it, xcc)), slots: slots.collect() }
        });
        NodeHqds { xccs: Some(xccs.collect()), sdma: self.sdma_hqds(it), ..stopped }
    }

    fn mapped_image(&self, key: QueueKey, xcc: u32) -> Option<[u32; COMPUTE_DWORDS]> {
        let queue = self.queue(key);
        let kfd = self.processes.get(&queue.pid)?.kfd.as_ref()?;
        Some(self.compute_mqd(queue, kfd, true).image(xcc))
    }

    fn sdma_hqds(&self, it: &Node) -> Vec<SdmaHqd> {
        let engines = it.sdma_engines + it.sdma_xgmi_engines;
        let first = it.first_xcc / it.xccs.max(1) * engines;
        let mapped = |engine: u32, rlc: u32| -> Option<SdmaRegisters> {
            let key =
                it.mapped.iter().find(|k| !self.queue(**k).is_compute() && self.queue(**k).engine == (engine, rlc))?;
            let queue = self.queue(*key);
            let kfd = self.processes.get(&queue.pid)?.kfd.as_ref()?;
            Some(sdma_registers(&self.sdma_mqd(queue, kfd, true).image()))
        };
        (0..engines)
            .flat_map(|engine| (0..it.sdma_queues).map(move |rlc| (engine, rlc)))
            .map(|(engine, rlc)| SdmaHqd {
                engine: first + engine,
                rlc,
                registers: mapped(engine, rlc).unwrap_or([0; 44]),
            })
            .collect()
    }

    /// Every node's runlist, as the firmware was last given it.
    pub(crate) fn runlists(&self) -> Vec<NodeRunlist> {
        self.node_indices()
            .map(|node| {
                let it = self.node(node);
                let ib = it.active_runlist.then(|| it.ib.clone());
                NodeRunlist { index: it.topology_index, gpu_id: it.gpu_id, ib }
            })
            .collect()
    }

    /// The runlist of a node, as the driver would write it now. A process whose queue is being destroyed still has it.
    pub(crate) fn runlist_packets(&self, node: NodeIndex) -> Vec<u32> {
        let it = self.node(node);
        let mut ib = Vec::new();
        for pid in &it.processes {
            let Some(kfd) = self.processes.get(pid).and_then(|p| p.kfd.as_ref()) else { continue };
            let mine = || it.runlist.iter().map(|key| self.queue(*key)).filter(|queue| queue.pid == *pid);
            let gws = kfd.device(node).gws && mine().any(|queue| queue.gws);
            Packet::MapProcess(MapProcess {
                pasid: kfd.pasid as u16,
                quantum: QUANTUM,
                page_table_base: u64::from(kfd.pasid) << 12 | 1,
                num_queues: kfd.device(node).queues.len() as u16,
                num_gws: if gws { it.gws as u8 } else { 0 },
                ..MapProcess::default()
            })
            .encode(&mut ib);
            for queue in mine() {
                let engine = if queue.is_compute() { Engine::Compute } else { Engine::Sdma(queue.engine.0) };
                Packet::MapQueues(MapQueues {
                    engine,
                    gws: queue.gws,
                    doorbell: doorbell(queue, kfd),
                    mqd: queue.mqd,
                    wptr: queue.properties.write_pointer,
                })
                .encode(&mut ib);
            }
        }
        if it.oversubscribed {
            let processes = (it.process_slots as usize).min(it.processes.len()) as u8;
            let chain = RunList { ib: RUNLIST_ADDRESS, ib_dwords: 0, chain: true, processes };
            let size = ib.len() + crate::pm4::RUN_LIST_DWORDS;
            Packet::RunList(RunList { ib_dwords: size as u32, ..chain }).encode(&mut ib);
        }
        ib
    }

    fn compute_mqd(&self, queue: &Queue, kfd: &KfdProcess, mapped: bool) -> ComputeMqd {
        let xccs = u64::from(self.node(queue.node).xccs.max(1));
        let saved = queue.saved_waves.div_ceil(xccs);
        let wave_places = self.node(queue.node).wave_slots / xccs;
        let wave_bytes = u64::from(queue.properties.save_area_bytes) / wave_places.max(1);
        let (rptr, wptr) = if mapped { (queue.feed.executed(), queue.feed.submitted()) } else { queue.pointers };
        ComputeMqd {
            address: queue.mqd,
            active: mapped,
            vmid: if mapped { self.vmid(queue) } else { 0 },
            priority: queue.properties.priority,
            ring: queue.properties.ring,
            ring_bytes: queue.properties.ring_bytes,
            rptr_address: queue.properties.read_pointer,
            wptr_address: queue.properties.write_pointer,
            rptr,
            wptr,
            doorbell: doorbell(queue, kfd),
            cwsr_address: queue.properties.save_area,
            cwsr_bytes: queue.properties.save_area_bytes,
            ctl_stack_bytes: queue.properties.ctl_stack_bytes,
            saved_ctl_bytes: (saved * CONTROL_BYTES).min(u64::from(queue.properties.ctl_stack_bytes)) as u32,
            saved_wave_bytes: (saved * wave_bytes) as u32,
            gws: queue.gws,
        }
    }

    fn sdma_mqd(&self, queue: &Queue, kfd: &KfdProcess, mapped: bool) -> SdmaMqd {
        let (rptr, wptr) = if mapped { (queue.feed.executed(), queue.feed.submitted()) } else { queue.pointers };
        SdmaMqd {
            engine: queue.engine.0,
            queue: queue.engine.1,
            vmid: if mapped { self.vmid(queue) } else { 0 },
            ring: queue.properties.ring,
            ring_bytes: queue.properties.ring_bytes,
            rptr_address: queue.properties.read_pointer,
            rptr: rptr * queue.pointer_unit(),
            wptr: wptr * queue.pointer_unit(),
            doorbell: doorbell(queue, kfd),
        }
    }

    /// VMIDs go to the mapped processes in the order of the runlist.
    fn vmid(&self, queue: &Queue) -> u32 {
        let it = self.node(queue.node);
        let mut pids: Vec<u32> = Vec::new();
        for key in &it.mapped {
            let pid = self.queue(*key).pid;
            if !pids.contains(&pid) {
                pids.push(pid);
            }
        }
        it.first_vmid + pids.iter().position(|pid| *pid == queue.pid).unwrap_or(0) as u32
    }
}

/// The HIQ's MQD: everything in it has been read.
fn hiq_image(node: &Node, xcc: u32) -> [u32; COMPUTE_DWORDS] {
    let mut image = ComputeMqd { active: true, priority: 15, ..ComputeMqd::default() }.image(xcc);
    image[PQ_RPTR] = node.hiq.position();
    image[PQ_WPTR] = node.hiq.written as u32;
    image[PQ_WPTR + 1] = (node.hiq.written >> 32) as u32;
    image
}

/// Where runlists lie in GPU memory.
pub(crate) const RUNLIST_ADDRESS: u64 = 0x7ffe_0000_0000;

/// Doorbell offset in dwords of the doorbell BAR: each process has a slice, each doorbell two dwords.
fn doorbell(queue: &Queue, kfd: &KfdProcess) -> u32 {
    let slice = kfd.pasid - crate::boot::FIRST_PASID + 1;
    slice * DOORBELL_SLICE + queue.doorbell * 2
}
