//! The HIQ: the ring in which the driver tells the firmware what to do.

use std::collections::VecDeque;

use crate::config::slot_places;
use crate::node::NodeIndex;
use crate::pm4::{Packet, QueryStatus, RunList, SetResources, UnmapQueues, UnmapSelect, WriteData};
use crate::snapshot::RUNLIST_ADDRESS;
use crate::world::World;

/// Size of the ring in dwords (`KFD_KERNEL_QUEUE_SIZE` is 2048 bytes).
const RING_DWORDS: usize = 512;
/// Where the fence of a round lies in GPU memory, and what the firmware writes there (`KFD_FENCE_COMPLETED`).
const FENCE_ADDRESS: u64 = 0x7ffd_0000_0000;
const FENCE_COMPLETED: u64 = 100;
/// CP_IQ_WAIT_TIME2: 0x10b0 of the GC block, whose first segment begins at 0x2000. The grace period is its second byte;
/// the other fields, and the whole register by default, are taken as 0.
const CP_IQ_WAIT_TIME2: u32 = 0x2000 + 0x10b0;
const GRACE_SHIFT: u32 = 8;

/// One node's HIQ.
#[derive(Debug, Default)]
pub(crate) struct Hiq {
    /// Packets that the ring still holds, oldest first.
    packets: VecDeque<Vec<u32>>,
    /// Dwords written so far: the write pointer.
    pub(crate) written: u64,
}

impl Hiq {
    fn write(&mut self, packet: Packet) {
        let mut words = Vec::with_capacity(packet.dwords());
        packet.encode(&mut words);
        self.written += words.len() as u64;
        self.packets.push_back(words);
        while self.packets.iter().map(Vec::len).sum::<usize>() > RING_DWORDS {
            self.packets.pop_front();
        }
    }

    /// What the ring holds, oldest first.
    pub(crate) fn words(&self) -> Vec<u32> {
        self.packets.iter().flatten().copied().collect()
    }

    /// Where the next packet goes, in dwords from the start of the ring.
    pub(crate) fn position(&self) -> u32 {
        (self.written % RING_DWORDS as u64) as u32
    }
}

impl World {
    fn send(&mut self, node: NodeIndex, packet: Packet) {
        self.nodes[node.0].hiq.write(packet);
        self.counters.packets += 1;
    }

    /// SET_RESOURCES, when the scheduler of a node starts: its VMIDs and slots.
    pub(crate) fn send_resources(&mut self, node: NodeIndex) {
        let it = self.node(node);
        let resources = SetResources {
            vmid_mask: (((1u32 << it.process_slots) - 1) << it.first_vmid) as u16,
            unmap_latency: (self.unmap_latency_ms() / 100) as u8,
            queue_mask: slot_places(it.slots).iter().fold(0, |mask, (pipe, queue)| mask | 1 << (8 * pipe + queue)),
            gws_mask: u64::MAX,
        };
        self.send(node, Packet::SetResources(resources));
    }

    /// UNMAP_QUEUES of all dynamic queues, and the fence that says that they are off.
    pub(crate) fn send_unmap(&mut self, node: NodeIndex) {
        self.send(node, Packet::UnmapQueues(UnmapQueues { select: UnmapSelect::AllNonStatic, reset: false }));
        self.send(node, Packet::QueryStatus(QueryStatus { address: FENCE_ADDRESS, data: FENCE_COMPLETED }));
    }

    /// Sets the grace period, in 1000 engine clocks, before an unmap; None sets the default again after it.
    pub(crate) fn send_grace(&mut self, node: NodeIndex, clocks: Option<u32>) {
        // CP takes 0 for no end.
        let value = clocks.map_or(0, |clocks| clocks.max(1) << GRACE_SHIFT);
        self.send(node, Packet::WriteData(WriteData { register: CP_IQ_WAIT_TIME2, value }));
    }

    /// RUN_LIST of the runlist that the driver has built.
    pub(crate) fn send_runlist(&mut self, node: NodeIndex) {
        let it = self.node(node);
        let processes = (it.process_slots as usize).min(it.processes.len()) as u8;
        let ib = self.runlist_packets(node);
        let ib_dwords = ib.len() as u32;
        self.nodes[node.0].ib = ib;
        self.send(node, Packet::RunList(RunList { ib: RUNLIST_ADDRESS, ib_dwords, chain: false, processes }));
    }
}
