//! `/sys/kernel/debug/kfd/{mqds,hqds,rls}`.

use crate::mqd::{COMPUTE_DWORDS, HqdRegisters, SDMA_DWORDS, SdmaRegisters};

/// One process of `mqds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessMqds {
    /// Thread group id in the init namespace.
    pub pid: u32,
    /// PASID.
    pub pasid: u32,
    /// Its queues, newest first, as KFD links them.
    pub queues: Vec<QueueMqd>,
}

/// One queue of `mqds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMqd {
    /// `gpu_id` of its node.
    pub gpu_id: u32,
    /// Whether it is an SDMA queue (PCIe or XGMI).
    pub sdma: bool,
    /// The image: [`crate::mqd::COMPUTE_DWORDS`] per XCC, or [`crate::mqd::SDMA_DWORDS`].
    pub image: Vec<u32>,
}

/// One node of `hqds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHqds {
    /// Topology index.
    pub index: u32,
    /// `gpu_id`.
    pub gpu_id: u32,
    /// Its XCCs; None where the scheduler is stopped.
    pub xccs: Option<Vec<XccHqds>>,
    /// Its SDMA queues, mapped or not, by engine and RLC.
    pub sdma: Vec<SdmaHqd>,
}

/// The CP slots of one XCC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XccHqds {
    /// Instance number on the GPU.
    pub instance: u32,
    /// Registers of the HIQ's slot.
    pub hiq: HqdRegisters,
    /// Every slot that KFD may use, mapped or not, by pipe and queue.
    pub slots: Vec<SlotHqd>,
}

/// One CP slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotHqd {
    /// Pipe of MEC 1.
    pub pipe: u32,
    /// Queue of the pipe.
    pub queue: u32,
    /// Its registers, all 0 where nothing is mapped.
    pub registers: HqdRegisters,
}

/// One SDMA RLC queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdmaHqd {
    /// Engine number on the GPU.
    pub engine: u32,
    /// Queue of the engine.
    pub rlc: u32,
    /// Its registers, all 0 where nothing is mapped.
    pub registers: SdmaRegisters,
}

/// One node of `rls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRunlist {
    /// Topology index.
    pub index: u32,
    /// `gpu_id`.
    pub gpu_id: u32,
    /// The runlist that HWS was given last; None where there is none.
    pub ib: Option<Vec<u32>>,
}

/// The compute engine that KFD gives the HIQ: pipe 4 counted over the MECs, so MEC 2.
const HIQ_PLACE: &str = "HIQ on MEC 2 Pipe 0 Queue 0";
/// CP_MQD_BASE_ADDR of the first XCC, in bytes.
const CP_REGISTERS: u32 = 0xc914;
/// SDMA_RLC0_RB_CNTL and its neighbours, in dwords from the engine's base, as `(first, count)` of each run.
const SDMA_RUNS: [(u32, usize); 4] = [(0x130, 19), (0x158, 6), (0x15f, 7), (0x170, 12)];
/// Dwords from one RLC queue to the next.
const RLC_STRIDE: u32 = 0x58;
/// Base of the first engine's registers in dwords, and the assumed distance of two engines (no public dump shows one).
const SDMA_BASE: u32 = 0x1260;
const SDMA_STRIDE: u32 = 0x4_0000;

/// The text of `mqds`.
pub fn mqds(processes: &[ProcessMqds]) -> String {
    let mut text = String::new();
    for process in processes {
        text += &format!("Process {} PASID 0x{:x}:\n", process.pid, process.pasid);
        // The kernel does not go back to one block after a compute queue: an SDMA queue behind it is followed by the
        // memory of its neighbours.
        let mut blocks = 1;
        for queue in &process.queues {
            let (kind, dwords) = if queue.sdma { ("SDMA", SDMA_DWORDS) } else { ("Compute", COMPUTE_DWORDS) };
            text += &format!("  {kind} queue on device {:x}\n", queue.gpu_id);
            if !queue.sdma {
                blocks = queue.image.len() / COMPUTE_DWORDS;
            }
            let memory = queue.image.iter().copied().chain(std::iter::repeat(0));
            let memory: Vec<u32> = memory.take(blocks * dwords).collect();
            memory.chunks(dwords).for_each(|block| hex_dump(&mut text, "    ", block));
        }
    }
    text
}

/// The text of `hqds`.
pub fn hqds(nodes: &[NodeHqds]) -> String {
    let mut text = String::new();
    for node in nodes {
        text += &format!("Node {}, gpu_id {:x}:\n", node.index, node.gpu_id);
        let Some(xccs) = &node.xccs else {
            text += " Device is stopped\n";
            continue;
        };
        for xcc in xccs {
            let base = cp_registers(xcc.instance);
            text += &format!("   Inst {}, {HIQ_PLACE}\n", xcc.instance);
            cp_dump(&mut text, base, &xcc.hiq);
            for slot in &xcc.slots {
                text += &format!(" Inst {},  CP Pipe {}, Queue {}\n", xcc.instance, slot.pipe, slot.queue);
                cp_dump(&mut text, base, &slot.registers);
            }
        }
        for queue in &node.sdma {
            text += &format!("  SDMA Engine {}, RLC {}\n", queue.engine, queue.rlc);
            sdma_dump(&mut text, queue);
        }
    }
    text
}

/// The text of `rls`.
pub fn rls(nodes: &[NodeRunlist]) -> String {
    let mut text = String::new();
    for node in nodes {
        text += &format!("Node {}, gpu_id {:x}:\n", node.index, node.gpu_id);
        match &node.ib {
            Some(ib) => hex_dump(&mut text, "  ", ib),
            None => text += "  No active runlist\n",
        }
    }
    text
}

/// The text of `hang_hws`.
pub fn hang_hws() -> String {
    "echo gpu_id > hang_hws\n".to_owned()
}

/// Where an XCC's CP registers are: two XCCs per die, as dumps of a real MI308X show for its four.
fn cp_registers(instance: u32) -> u32 {
    CP_REGISTERS + instance / 2 * 0x10_0000 + instance % 2 * 0xc_0000
}

fn cp_dump(text: &mut String, base: u32, registers: &HqdRegisters) {
    registers_dump(text, (0..).map(|i| base + 4 * i).zip(registers.iter().copied()));
}

fn sdma_dump(text: &mut String, queue: &SdmaHqd) {
    let base = SDMA_BASE + queue.engine * SDMA_STRIDE + queue.rlc * RLC_STRIDE;
    let addresses = SDMA_RUNS.iter().flat_map(|(first, count)| (*first..).take(*count));
    registers_dump(text, addresses.map(|a| (base + a) << 2).zip(queue.registers.iter().copied()));
}

/// Registers with their addresses, eight to a line; a gap in the addresses starts a new one (`seq_reg_dump`).
fn registers_dump(text: &mut String, registers: impl Iterator<Item = (u32, u32)>) {
    let mut next = None;
    let mut left = 0;
    for (address, value) in registers {
        if left == 0 || next != Some(address) {
            if next.is_some() {
                text.push('\n');
            }
            text.push_str("    ");
            hex(text, address);
            text.push(':');
            left = 8;
        }
        text.push(' ');
        hex(text, value);
        left -= 1;
        next = Some(address + 4);
    }
    text.push('\n');
}

/// Words with their byte offset, eight to a line (`seq_hex_dump`, 32 bytes per row in groups of 4).
fn hex_dump(text: &mut String, prefix: &str, words: &[u32]) {
    for (row, words) in (0..).step_by(32).zip(words.chunks(8)) {
        text.push_str(prefix);
        hex(text, row);
        text.push(':');
        for word in words {
            text.push(' ');
            hex(text, *word);
        }
        text.push('\n');
    }
}

/// Eight hex digits. A dump of a whole machine has a million of these, and `write!` takes five times as long.
fn hex(text: &mut String, value: u32) {
    for shift in (0..8).rev() {
        text.push(char::from(b"0123456789abcdef"[(value >> (4 * shift) & 15) as usize]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::slot_places;
    use crate::mqd::{ComputeMqd, hqd_registers};

    #[test]
    fn rls_prints_packets_with_byte_offsets() {
        let nodes = [
            NodeRunlist { index: 1, gpu_id: 48136, ib: Some((0xc013_a100..).take(10).collect()) },
            NodeRunlist { index: 2, gpu_id: 12059, ib: None },
        ];
        let expected = "Node 1, gpu_id bc08:
  00000000: c013a100 c013a101 c013a102 c013a103 c013a104 c013a105 c013a106 c013a107
  00000020: c013a108 c013a109
Node 2, gpu_id 2f1b:
  No active runlist
";
        assert_eq!(rls(&nodes), expected);
    }

    #[test]
    fn mqds_prints_one_block_per_xcc_and_keeps_the_count_for_a_following_sdma_queue() {
        let sdma = QueueMqd { gpu_id: 0xf7bc, sdma: true, image: vec![0; SDMA_DWORDS] };
        let compute = QueueMqd { gpu_id: 0xf7bc, sdma: false, image: ComputeMqd::default().images(4) };
        let text = mqds(&[ProcessMqds { pid: 143, pasid: 0x8001, queues: vec![sdma.clone(), compute, sdma] }]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "Process 143 PASID 0x8001:");
        assert_eq!(lines[1], "  SDMA queue on device f7bc");
        assert_eq!(lines[2], "    00000000: 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000");
        assert_eq!(lines[17], "    000001e0: 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000");
        assert_eq!(lines[18], "  Compute queue on device f7bc");
        assert_eq!(&lines[19][..22], "    00000000: c0310800");
        assert_eq!(&lines[19 + 63][..13], "    000007e0:");
        assert_eq!(&lines[19 + 64][..22], "    00000000: c0310800");
        assert_eq!(lines[19 + 256], "  SDMA queue on device f7bc");
        assert_eq!(lines.len(), 19 + 256 + 1 + 4 * 16);
    }

    #[test]
    fn hqds_prints_every_usable_slot_with_its_registers_at_the_addresses_of_its_xcc() {
        let queue = ComputeMqd { address: 0x7f00_0041_0000, active: true, vmid: 8, ..ComputeMqd::default() };
        let mapped = hqd_registers(&queue.image(0));
        let slot = |(pipe, queue)| SlotHqd { pipe, queue, registers: if pipe == 0 { mapped } else { [0; 56] } };
        let slots: Vec<_> = slot_places(24).into_iter().filter(|(_, queue)| *queue == 2).map(slot).collect();
        let xcc = |instance| XccHqds { instance, hiq: [0; 56], slots: slots.clone() };
        let sdma = vec![SdmaHqd { engine: 1, rlc: 2, registers: [7; 44] }];
        let text = hqds(&[
            NodeHqds { index: 2, gpu_id: 0xf7bc, xccs: Some((0..4).map(xcc).collect()), sdma },
            NodeHqds { index: 3, gpu_id: 0xf05b, xccs: None, sdma: Vec::new() },
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "Node 2, gpu_id f7bc:");
        assert_eq!(lines[1], "   Inst 0, HIQ on MEC 2 Pipe 0 Queue 0");
        assert_eq!(lines[2], "    0000c914: 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000");
        assert_eq!(lines[9], " Inst 0,  CP Pipe 0, Queue 2");
        assert_eq!(&lines[10][..49], "    0000c914: 00410000 00007f00 00000001 00000008");
        assert_eq!(&lines[16][..13], "    0000c9d4:");
        assert_eq!(lines[17], " Inst 0,  CP Pipe 1, Queue 2");
        let first_of_xcc = |n: usize| &lines[1 + n * 40 + 1][..13];
        assert_eq!((1..4).map(first_of_xcc).collect::<Vec<_>>(), ["    000cc914:", "    0010c914:", "    001cc914:"]);
        assert_eq!(lines[161], "  SDMA Engine 1, RLC 2");
        // Runs of 19, 6, 7 and 12 registers: 3 + 1 + 1 + 2 lines.
        assert_eq!(lines[164], "    00105140: 00000007 00000007 00000007");
        assert_eq!(&lines[165][..13], "    001051a0:");
        assert_eq!(lines[165].split(' ').filter(|w| *w == "00000007").count(), 6);
        assert_eq!(lines[169..], ["Node 3, gpu_id f05b:", " Device is stopped"]);
    }

    #[test]
    fn kfd_has_24_slots_behind_the_kernels_queues_of_each_pipe() {
        let places = slot_places(24);
        assert_eq!(places.len(), 24);
        assert!(places.iter().all(|(_, queue)| (2..8).contains(queue)));
        let thirty = slot_places(30);
        let kernel_owns = |place| !thirty.contains(&place);
        assert!(kernel_owns((0, 0)) && kernel_owns((1, 0)));
        assert_eq!(thirty.len(), 30);
    }
}
