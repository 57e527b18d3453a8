//! `rls`: the runlists, the one authoritative list of what KFD has asked to be mapped.

use nix::errno::Errno;

use super::{Lines, node_header, row, wide};
use crate::error::{Error, Result};
use crate::queue::GpuId;

const MAP_PROCESS: u32 = 0xa1;
const MAP_QUEUES: u32 = 0xa2;
const RUN_LIST: u32 = 0xa5;

/// All runlists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunlistDump {
    /// By topology index.
    pub nodes: Vec<Runlist>,
    /// The text ended in the middle.
    pub truncated: bool,
}

/// The runlist of a node; without processes where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runlist {
    /// Topology index.
    pub index: u32,
    /// Which node.
    pub gpu: GpuId,
    /// In runlist order.
    pub processes: Vec<RunlistProcess>,
    /// Chained to itself: it holds more than the node can map, so HWS takes turns.
    pub oversubscribed: bool,
}

impl Runlist {
    /// The queues of all its processes.
    pub fn queues(&self) -> impl Iterator<Item = &RunlistQueue> {
        self.processes.iter().flat_map(|process| &process.queues)
    }

    /// How many compute queues it holds.
    pub fn compute_queues(&self) -> usize {
        self.queues().filter(|queue| queue.compute).count()
    }
}

/// One process of a runlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunlistProcess {
    /// Its PASID.
    pub pasid: u32,
    /// Its queues that are to be mapped.
    pub queues: Vec<RunlistQueue>,
}

/// One queue of a runlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunlistQueue {
    /// Compute, not SDMA.
    pub compute: bool,
    /// Doorbell offset, in words.
    pub doorbell: u32,
    /// Address of its MQD.
    pub mqd_address: u64,
    /// Where its write pointer is kept.
    pub write_pointer_address: u64,
}

/// Reads `rls`.
///
/// # Errors
/// EBADMSG with `path` and line.
pub fn parse_rls(path: &str, text: &str) -> Result<RunlistDump> {
    let mut lines = Lines::new(path, text);
    let mut dump = RunlistDump { nodes: Vec::new(), truncated: lines.truncated };
    let mut words: Vec<u32> = Vec::new();
    while let Some(line) = lines.next() {
        if let Some((offset, mut row)) = row(line) {
            if dump.nodes.is_empty() || offset as usize != words.len() * 4 {
                return Err(lines.malformed(line, "the next row of a runlist"));
            }
            while let Some(word) = row.next() {
                words.push(word.ok_or_else(|| lines.malformed(line, "a row of words"))?);
            }
        } else if let Some((index, gpu)) = node_header(line) {
            if !finish(path, &mut dump, &words)? {
                return Err(lines.malformed(line, "a row of words: the runlist before ends within a packet"));
            }
            words.clear();
            dump.nodes.push(Runlist { index, gpu, processes: Vec::new(), oversubscribed: false });
        } else if dump.nodes.is_empty() || line.trim() != "No active runlist" {
            return Err(lines.malformed(line, "a node, a row of words or `No active runlist`"));
        }
    }
    dump.truncated |= !finish(path, &mut dump, &words)?;
    Ok(dump)
}

/// Decodes the packets of the last node's runlist. False where it ends within one.
fn finish(path: &str, dump: &mut RunlistDump, words: &[u32]) -> Result<bool> {
    let Some(node) = dump.nodes.last_mut() else { return Ok(true) };
    let mut at = 0;
    while at < words.len() {
        let wrong = |what| {
            Err(Error::new("parsing", Errno::EBADMSG).on(path).because(format!(
                "dword {at} ({:#010x}) of the runlist of node {} is not {what}",
                words[at], node.index
            )))
        };
        let header = words[at];
        if header >> 30 != 3 {
            return wrong("a type-3 packet");
        }
        let end = at + ((header >> 16) & 0x3fff) as usize + 2;
        let Some(packet) = words.get(at..end) else { return Ok(false) };
        match ((header >> 8) & 0xff, packet) {
            (MAP_PROCESS, [_, pasid, ..]) => {
                node.processes.push(RunlistProcess { pasid: pasid & 0xffff, queues: Vec::new() });
            }
            (MAP_QUEUES, &[_, select, doorbell, mqd_low, mqd_high, write_low, write_high, ..]) => {
                let Some(process) = node.processes.last_mut() else { return wrong("a MAP_PROCESS") };
                process.queues.push(RunlistQueue {
                    // engine_sel and extended_engine_sel: 0 and 0 are the compute microengine.
                    compute: (select >> 26) & 7 == 0 && (select >> 2) & 3 == 0,
                    doorbell: (doorbell >> 2) & 0x3ff_ffff,
                    mqd_address: wide(mqd_low, mqd_high),
                    write_pointer_address: wide(write_low, write_high),
                });
            }
            (MAP_QUEUES, _) => return wrong("a MAP_QUEUES of 7 dwords"),
            (RUN_LIST, _) => node.oversubscribed = true,
            _ => {}
        }
        at = end;
    }
    Ok(true)
}
