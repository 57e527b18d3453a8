//! `/sys/kernel/debug/kfd`: what the hardware and the runlists really hold (root only).
//!
//! Three files, three views: `mqds`, the memory image of every queue, by process and without queue ids; `hqds`, the
//! registers of every slot of every XCC, mapped or not; `rls`, the runlists, which is what KFD has asked to be mapped.
//! They join by MQD address: [`Mqd::address`] = [`Hqd::mqd_address`] on the first XCC = [`RunlistQueue::mqd_address`].
//! Reading `hqds` costs thousands of register reads under a lock: look, do not poll.
//!
//! A dump that stops in the middle, as a copied one may, gives what it has and says so; one whose middle makes no sense
//! is an error with path and line.

mod hqds;
mod mqds;
mod rls;

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

pub use hqds::{Hqd, HqdDump, HqdNode, HqdSlot, Registers, parse_hqds};
pub use mqds::{Mqd, MqdDump, MqdFields, MqdKind, MqdProcess, parse_mqds};
pub use rls::{Runlist, RunlistDump, RunlistProcess, RunlistQueue, parse_rls};

use super::text::{hex32, malformed};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::GpuId;

const HQDS: &str = "/sys/kernel/debug/kfd/hqds";
const MQDS: &str = "/sys/kernel/debug/kfd/mqds";
const RLS: &str = "/sys/kernel/debug/kfd/rls";

/// The registers of every slot.
///
/// # Errors
/// EACCES, ENOENT with a remedy; EBADMSG with path and line.
pub fn hqds(host: &dyn Host) -> Result<HqdDump> {
    parse_hqds(HQDS, &read(host, HQDS)?)
}

/// The memory image of every queue.
///
/// # Errors
/// As [`hqds`].
pub fn mqds(host: &dyn Host) -> Result<MqdDump> {
    parse_mqds(MQDS, &read(host, MQDS)?)
}

/// The runlist of every node.
///
/// # Errors
/// As [`hqds`].
pub fn rls(host: &dyn Host) -> Result<RunlistDump> {
    parse_rls(RLS, &read(host, RLS)?)
}

fn read(host: &dyn Host, path: &str) -> Result<String> {
    host.read_text(path).map_err(|errno| {
        let error = Error::new("reading", errno).on(path);
        match errno {
            Errno::EACCES | Errno::EPERM => error.remedy("debugfs is for root only: run as root"),
            Errno::ENOENT => error.remedy(
                "mount it (mount -t debugfs none /sys/kernel/debug) on a kernel with CONFIG_DEBUG_FS and amdkfd",
            ),
            _ => error,
        }
    })
}

/// Compute queues of one process on one node, and how many of them are in the runlist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Created.
    pub queues: u32,
    /// In the runlist.
    pub active: u32,
}

/// Joins images and runlists: compute queues by process (init namespace) and node. This is what a stock kernel can tell
/// of who is mapped.
pub fn mapped(mqds: &MqdDump, rls: &RunlistDump) -> BTreeMap<(u32, GpuId), Mapped> {
    let in_runlist: BTreeSet<(GpuId, u64)> =
        rls.nodes.iter().flat_map(|node| node.queues().map(|queue| (node.gpu, queue.mqd_address))).collect();
    let mut mapped: BTreeMap<(u32, GpuId), Mapped> = BTreeMap::new();
    for process in &mqds.processes {
        for queue in process.queues.iter().filter(|queue| queue.kind == MqdKind::Compute) {
            let counts = mapped.entry((process.kfd_pid, queue.gpu)).or_default();
            counts.queues += 1;
            let active = queue.fields.is_some_and(|fields| in_runlist.contains(&(queue.gpu, fields.address)));
            counts.active += u32::from(active);
        }
    }
    mapped
}

/// The lines of a dump, with a last one that was cut off set apart.
struct Lines<'t> {
    path: &'t str,
    lines: std::str::Split<'t, char>,
    number: usize,
    truncated: bool,
}

impl<'t> Lines<'t> {
    fn new(path: &'t str, text: &'t str) -> Lines<'t> {
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        // The split leaves one empty piece after the last newline, skipped with all other empty lines.
        Lines { path, lines: text[..complete].split('\n'), number: 0, truncated: complete < text.len() }
    }

    fn next(&mut self) -> Option<&'t str> {
        loop {
            let line = self.lines.next()?;
            self.number += 1;
            if !line.is_empty() {
                return Some(line);
            }
        }
    }

    fn malformed(&self, line: &str, expected: &str) -> Error {
        malformed(self.path, self.number, line, expected)
    }
}

/// `Node 2, gpu_id f7bc:`
fn node_header(line: &str) -> Option<(u32, GpuId)> {
    let (index, gpu) = line.strip_prefix("Node ")?.strip_suffix(':')?.split_once(", gpu_id ")?;
    Some((index.parse().ok()?, GpuId(hex32(gpu)?)))
}

/// `    0000c914: 00000000 ...`: a number and up to eight words. Register addresses and offsets look alike.
fn row(line: &str) -> Option<(u32, Words<'_>)> {
    let bytes = line.trim_start_matches(' ').as_bytes();
    let (head, rest) = bytes.split_at_checked(8)?;
    let address = word(head)?;
    let rest = rest.strip_prefix(b":")?;
    // Words are all of one width: a row is well formed or not by its length alone, and then by its digits.
    (!rest.is_empty() && rest.len() % 9 == 0).then_some((address, Words { rest }))
}

struct Words<'t> {
    rest: &'t [u8],
}

impl Words<'_> {
    /// Next word; Some(None) where it is none.
    fn next(&mut self) -> Option<Option<u32>> {
        let (head, rest) = self.rest.split_at_checked(9)?;
        self.rest = rest;
        Some(if head[0] == b' ' { word(&head[1..]) } else { None })
    }
}

/// Eight lower-case hexadecimal digits.
fn word(digits: &[u8]) -> Option<u32> {
    let mut value = 0;
    for &digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = (value << 4) | u32::from(nibble);
    }
    Some(value)
}

fn wide(low: u32, high: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}
