//! `hqds`: the registers of every slot.

use super::{Lines, node_header, row, wide};
use crate::error::Result;
use crate::queue::GpuId;

/// Registers of a CP slot, from CP_MQD_BASE_ADDR to CP_HQD_PQ_WPTR_HI.
const CP_REGISTERS: usize = 56;

/// All slots of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HqdDump {
    /// By topology index.
    pub nodes: Vec<HqdNode>,
    /// The text ended in the middle.
    pub truncated: bool,
}

/// All slots of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HqdNode {
    /// Topology index.
    pub index: u32,
    /// Which node.
    pub gpu: GpuId,
    /// Its scheduler does not run, so nothing was read.
    pub stopped: bool,
    /// Every slot, mapped or not, as printed.
    pub slots: Vec<Hqd>,
}

impl HqdNode {
    /// Active compute HQDs over all XCCs. A queue of a node with four XCCs is four of them.
    pub fn active_hqds(&self) -> usize {
        self.active_compute().count()
    }

    /// Mapped compute queues: active HQDs of one XCC.
    pub fn mapped_queues(&self) -> usize {
        let first = self.slots.iter().map(|slot| slot.xcc).min();
        self.active_compute().filter(|slot| Some(slot.xcc) == first).count()
    }

    fn active_compute(&self) -> impl Iterator<Item = &Hqd> {
        self.slots.iter().filter(|slot| matches!(slot.slot, HqdSlot::Compute { .. }) && slot.active == Some(true))
    }
}

/// Which slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HqdSlot {
    /// The queue that KFD itself talks to HWS by.
    Hiq {
        /// Microengine, from 1.
        mec: u32,
        /// Pipe.
        pipe: u32,
        /// Queue.
        queue: u32,
    },
    /// A compute slot of the first microengine.
    Compute {
        /// Pipe.
        pipe: u32,
        /// Queue.
        queue: u32,
    },
    /// An SDMA slot.
    Sdma {
        /// Engine.
        engine: u32,
        /// Queue of that engine.
        queue: u32,
    },
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hqd {
    /// XCC instance (0 for SDMA).
    pub xcc: u32,
    /// Which.
    pub slot: HqdSlot,
    /// Whether a queue is mapped there; None where the dump ended before it said.
    pub active: Option<bool>,
    /// What it holds; None for SDMA, and where the dump ended before.
    pub registers: Option<Registers>,
}

/// The registers of a CP slot that tell whose it is and how far it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Address of the MQD. On XCC n it is that XCC's copy, n strides further on.
    pub mqd_address: u64,
    /// VMID.
    pub vmid: u32,
    /// Ring address.
    pub ring_base: u64,
    /// Read pointer.
    pub read_pointer: u32,
    /// Write pointer.
    pub write_pointer: u64,
    /// Doorbell offset, in words.
    pub doorbell: u32,
}

impl Hqd {
    /// Address of the MQD that is mapped there; 0 where unknown.
    pub fn mqd_address(&self) -> u64 {
        self.registers.map_or(0, |registers| registers.mqd_address)
    }
}

/// Reads `hqds`. Registers are told apart by position: their addresses differ from XCC to XCC.
///
/// # Errors
/// EBADMSG with `path` and line.
pub fn parse_hqds(path: &str, text: &str) -> Result<HqdDump> {
    let mut lines = Lines::new(path, text);
    let mut dump = HqdDump { nodes: Vec::new(), truncated: lines.truncated };
    let mut registers = [0; CP_REGISTERS];
    let mut count = 0;
    while let Some(line) = lines.next() {
        if let Some((_, mut words)) = row(line) {
            if dump.nodes.last().is_none_or(|node| node.slots.is_empty()) {
                return Err(lines.malformed(line, "a node or slot: registers of nothing"));
            }
            while let Some(word) = words.next() {
                let word = word.ok_or_else(|| lines.malformed(line, "a row of registers"))?;
                if let Some(register) = registers.get_mut(count) {
                    *register = word;
                }
                count += 1;
            }
            continue;
        }
        if !finish(&mut dump, &registers, count) {
            return Err(lines.malformed(line, "a row of registers: the slot before has too few"));
        }
        count = 0;
        if let Some((index, gpu)) = node_header(line) {
            dump.nodes.push(HqdNode { index, gpu, stopped: false, slots: Vec::new() });
        } else if let Some(node) = dump.nodes.last_mut() {
            if line.trim() == "Device is stopped" {
                node.stopped = true;
            } else if let Some((xcc, slot)) = slot_header(line) {
                node.slots.push(Hqd { xcc, slot, active: None, registers: None });
            } else {
                return Err(lines.malformed(line, "a node, a slot or a row of registers"));
            }
        } else {
            return Err(lines.malformed(line, "a node header"));
        }
    }
    // The last slot may be cut at a line's end, too.
    dump.truncated |= !finish(&mut dump, &registers, count);
    Ok(dump)
}

/// Puts registers into the slot they were printed for. False where a slot lacks some.
fn finish(dump: &mut HqdDump, registers: &[u32; CP_REGISTERS], count: usize) -> bool {
    let Some(hqd) = dump.nodes.last_mut().and_then(|node| node.slots.last_mut()) else { return true };
    if matches!(hqd.slot, HqdSlot::Sdma { .. }) {
        // SDMA_RLC_RB_CNTL comes first; bit 0 is RB_ENABLE.
        hqd.active = (count > 0).then_some(registers[0] & 1 != 0);
        return count > 0;
    }
    hqd.active = (count > 2).then_some(registers[2] & 1 != 0);
    if count < CP_REGISTERS {
        return false;
    }
    hqd.registers = Some(Registers {
        mqd_address: wide(registers[0], registers[1]),
        vmid: registers[3],
        ring_base: wide(registers[8], registers[9]) << 8,
        read_pointer: registers[10],
        write_pointer: wide(registers[54], registers[55]),
        doorbell: (registers[15] >> 2) & 0x3ff_ffff,
    });
    true
}

/// ` Inst 0,  CP Pipe 0, Queue 2`, `   Inst 0, HIQ on MEC 2 Pipe 0 Queue 0`, `  SDMA Engine 0, RLC 1`. Kernels before 6.5
/// print no instance.
fn slot_header(line: &str) -> Option<(u32, HqdSlot)> {
    let line = line.trim_start();
    let (xcc, line) = match line.strip_prefix("Inst ") {
        Some(rest) => {
            let (xcc, rest) = rest.split_once(',')?;
            (xcc.parse().ok()?, rest.trim_start())
        }
        None => (0, line),
    };
    let pair = |rest: &str, between: &str| -> Option<(u32, u32)> {
        let (a, b) = rest.split_once(between)?;
        Some((a.parse().ok()?, b.parse().ok()?))
    };
    let slot = if let Some(rest) = line.strip_prefix("CP Pipe ") {
        let (pipe, queue) = pair(rest, ", Queue ")?;
        HqdSlot::Compute { pipe, queue }
    } else if let Some(rest) = line.strip_prefix("HIQ on MEC ") {
        let (mec, rest) = rest.split_once(" Pipe ")?;
        let (pipe, queue) = pair(rest, " Queue ")?;
        HqdSlot::Hiq { mec: mec.parse().ok()?, pipe, queue }
    } else if let Some(rest) = line.strip_prefix("SDMA Engine ") {
        let (engine, queue) = pair(rest, ", RLC ")?;
        HqdSlot::Sdma { engine, queue }
    } else {
        return None;
    };
    Some((xcc, slot))
}
