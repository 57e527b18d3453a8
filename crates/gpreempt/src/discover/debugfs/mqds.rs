//! `mqds`: the memory image of every queue.

use super::{Lines, row, wide};
use crate::discover::text::hex32;
use crate::error::Result;
use crate::queue::GpuId;

/// Words of `struct v9_mqd`, one per XCC.
const WORDS: usize = 512;

/// All processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MqdDump {
    /// As printed.
    pub processes: Vec<MqdProcess>,
    /// The text ended in the middle.
    pub truncated: bool,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqdProcess {
    /// Its pid in the init namespace.
    pub kfd_pid: u32,
    /// Its PASID, which the runlist names it by.
    pub pasid: u32,
    /// Its queues, the newest first. No queue id is printed.
    pub queues: Vec<Mqd>,
}

/// Kind of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqdKind {
    /// A compute queue.
    Compute,
    /// An SDMA queue.
    Sdma,
    /// The debugger's interface queue.
    Diq,
    /// A kind that the kernel did not know either.
    Bad,
}

/// One queue's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mqd {
    /// Kind.
    pub kind: MqdKind,
    /// Its node.
    pub gpu: GpuId,
    /// Blocks printed: one per XCC for compute (meaningless for SDMA, where the kernel prints neighbours too).
    pub copies: u32,
    /// First XCC's block; None for other kinds, and where the dump ended before.
    pub fields: Option<MqdFields>,
}

impl Mqd {
    /// Address of the image, which names the queue in the other dumps; 0 where unknown.
    pub fn address(&self) -> u64 {
        self.fields.map_or(0, |fields| fields.address)
    }
}

/// What a compute image tells. It is as of the last unmap: stale while the queue is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MqdFields {
    /// Its address.
    pub address: u64,
    /// Pipe priority.
    pub pipe_priority: u32,
    /// Queue priority.
    pub queue_priority: u32,
    /// Ring address.
    pub ring_base: u64,
    /// Read pointer.
    pub read_pointer: u32,
    /// Write pointer.
    pub write_pointer: u64,
    /// Doorbell offset, in words.
    pub doorbell: u32,
    /// Offset of the first saved wave's control stack, bytes.
    pub control_stack_offset: u32,
    /// Size of the control stack, bytes.
    pub control_stack_size: u32,
}

impl MqdFields {
    /// Whether CWSR saved waves at the last unmap: the control stack grows downwards from its end.
    pub fn has_saved_waves(&self) -> bool {
        self.control_stack_offset < self.control_stack_size
    }
}

/// Reads `mqds`.
///
/// # Errors
/// EBADMSG with `path` and line.
pub fn parse_mqds(path: &str, text: &str) -> Result<MqdDump> {
    let mut lines = Lines::new(path, text);
    let mut dump = MqdDump { processes: Vec::new(), truncated: lines.truncated };
    let mut words = Box::new([0; WORDS]);
    let mut filled = 0;
    while let Some(line) = lines.next() {
        if let Some((offset, mut row)) = row(line) {
            let Some(queue) = dump.processes.last_mut().and_then(|process| process.queues.last_mut()) else {
                return Err(lines.malformed(line, "a process or queue: words of nothing"));
            };
            queue.copies += u32::from(offset == 0);
            let mut position = offset as usize / 4;
            while let Some(word) = row.next() {
                let word = word.ok_or_else(|| lines.malformed(line, "a row of words"))?;
                // Only as far as rows follow one another; so those of the second block, which start anew, are left out.
                if position == filled && filled < WORDS {
                    words[filled] = word;
                    filled += 1;
                }
                position += 1;
            }
            continue;
        }
        if !finish(&mut dump, &words, filled) {
            return Err(lines.malformed(line, "a row of words: the queue before has too few"));
        }
        filled = 0;
        if let Some((kfd_pid, pasid)) = process_header(line) {
            dump.processes.push(MqdProcess { kfd_pid, pasid, queues: Vec::new() });
        } else if let Some((kind, gpu)) = queue_header(line) {
            let Some(process) = dump.processes.last_mut() else {
                return Err(lines.malformed(line, "a process header"));
            };
            process.queues.push(Mqd { kind, gpu, copies: 0, fields: None });
        } else {
            return Err(lines.malformed(line, "a process, a queue or a row of words"));
        }
    }
    dump.truncated |= !finish(&mut dump, &words, filled);
    Ok(dump)
}

/// Puts words into the queue they were printed for. False where a compute queue lacks some.
fn finish(dump: &mut MqdDump, words: &[u32; WORDS], filled: usize) -> bool {
    let queue = dump.processes.last_mut().and_then(|process| process.queues.last_mut());
    let Some(queue) = queue.filter(|queue| queue.kind == MqdKind::Compute) else { return true };
    if filled < WORDS {
        return false;
    }
    queue.fields = Some(MqdFields {
        address: wide(words[128], words[129]),
        pipe_priority: words[133],
        queue_priority: words[134],
        ring_base: wide(words[136], words[137]) << 8,
        read_pointer: words[138],
        write_pointer: wide(words[182], words[183]),
        doorbell: (words[143] >> 2) & 0x3ff_ffff,
        control_stack_offset: words[174],
        control_stack_size: words[175],
    });
    true
}

/// `Process 4711 PASID 0x8001:`
fn process_header(line: &str) -> Option<(u32, u32)> {
    let (pid, pasid) = line.strip_prefix("Process ")?.strip_suffix(':')?.split_once(" PASID ")?;
    // Some kernels print the PASID in decimal.
    let pasid = match pasid.strip_prefix("0x") {
        Some(digits) => hex32(digits)?,
        None => pasid.parse().ok()?,
    };
    Some((pid.parse().ok()?, pasid))
}

/// `  Compute queue on device f7bc`
fn queue_header(line: &str) -> Option<(MqdKind, GpuId)> {
    let (kind, gpu) = line.trim_start().split_once(" on device ")?;
    let kind = match kind {
        "Compute queue" => MqdKind::Compute,
        "SDMA queue" => MqdKind::Sdma,
        "DIQ" => MqdKind::Diq,
        _ if kind.starts_with("Bad user queue type ") => MqdKind::Bad,
        _ => return None,
    };
    Some((kind, GpuId(hex32(gpu)?)))
}
