//! The ring of a queue: what was submitted, how far it got.
//!
//! Work is divisible: the packet at the head of a ring progresses by *service*, the time it would have taken alone on
//! its node. Service is counted in [`TICKS`] per nanosecond so that sharing a node loses less than a nanosecond.

use std::collections::VecDeque;

use crate::machine::Ticket;

/// Units of service per nanosecond.
pub(crate) const TICKS: u64 = 1 << 10;
/// One whole node (or one whole copy engine) as a share.
pub(crate) const WHOLE: u64 = 1 << 20;
/// A batch that never ends: the closed loop of a continuous workload.
const ENDLESS: u64 = u64::MAX;

/// Equal packets, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// How many are left of those submitted, the running one included.
    packets: u64,
    /// Service of one packet.
    packet: u64,
    /// Share of the node that one packet fills, of [`WHOLE`].
    share: u64,
    /// Packets in flight of a closed loop.
    depth: u32,
    ticket: Option<Ticket>,
}

impl Batch {
    /// `packets` packets of `packet_ns` each.
    pub(crate) fn new(packets: u32, packet_ns: u64, occupancy: f64, ticket: Option<Ticket>) -> Batch {
        Batch {
            packets: u64::from(packets),
            packet: packet_ns.max(1).saturating_mul(TICKS),
            share: share(occupancy),
            depth: 0,
            ticket,
        }
    }

    /// A closed loop that keeps `depth` packets in the ring.
    pub(crate) fn endless(depth: u32, packet_ns: u64, occupancy: f64) -> Batch {
        Batch { packets: ENDLESS, depth, ..Batch::new(0, packet_ns, occupancy, None) }
    }

    fn is_endless(&self) -> bool {
        self.packets == ENDLESS
    }

    /// Whether `other` continues this batch without a visible seam.
    fn continues(&self, other: &Batch) -> bool {
        !self.is_endless()
            && !other.is_endless()
            && self.ticket.is_none()
            && other.ticket.is_none()
            && self.packet == other.packet
            && self.share == other.share
    }

    fn total(&self) -> Option<u64> {
        (!self.is_endless()).then(|| self.packets.saturating_mul(self.packet))
    }
}

fn share(occupancy: f64) -> u64 {
    // In range by the check in `submit` and in the scenario reader; the clamp keeps a node from standing still.
    ((occupancy * WHOLE as f64) as u64).clamp(1, WHOLE)
}

/// All work of one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed {
    batches: VecDeque<Batch>,
    /// Service that the head batch has had.
    progress: u64,
    /// Packets of batches that are through.
    executed: u64,
    /// Service of batches that are through.
    service: u64,
}

impl Feed {
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Puts a batch behind what is there. A closed loop lets it in after the packets it has in flight, and goes on.
    pub(crate) fn push(&mut self, batch: Batch) {
        let looping = self.batches.back().copied().filter(Batch::is_endless);
        if let Some(looping) = looping {
            self.batches.pop_back();
            let under_way = if self.batches.is_empty() { self.progress / looping.packet } else { 0 };
            let in_flight = under_way + u64::from(looping.depth.max(1));
            self.batches.push_back(Batch { packets: in_flight, ..looping });
        }
        match self.batches.back_mut() {
            Some(tail) if tail.continues(&batch) => tail.packets += batch.packets,
            _ => self.batches.push_back(batch),
        }
        if let Some(looping) = looping {
            self.batches.push_back(looping);
        }
    }

    /// Throws away what has not run, as the end of a queue does.
    pub(crate) fn clear(&mut self) {
        self.executed = self.executed();
        self.service = self.service_ticks();
        self.progress = 0;
        self.batches = VecDeque::new();
    }

    /// Share of the node that the head fills, of [`WHOLE`].
    pub(crate) fn share(&self) -> u64 {
        self.batches.front().map_or(0, |b| b.share)
    }

    /// Duration of one packet of the head, ns.
    pub(crate) fn packet_ns(&self) -> u64 {
        self.batches.front().map_or(0, |b| b.packet / TICKS)
    }

    /// Service until the head is through; None for a closed loop and an empty ring.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.batches.front()?.total().map(|total| total.saturating_sub(self.progress))
    }

    /// Serves the head, and what comes after it once it is through. Calls `done` for every ticket that completed.
    pub(crate) fn serve(&mut self, mut ticks: u64, mut done: impl FnMut(Ticket)) {
        while let Some(head) = self.batches.front() {
            let Some(total) = head.total() else {
                self.progress += ticks;
                return;
            };
            let left = total.saturating_sub(self.progress);
            if ticks < left {
                self.progress += ticks;
                return;
            }
            ticks -= left;
            self.executed += head.packets;
            self.service += total;
            self.progress = 0;
            if let Some(ticket) = head.ticket {
                done(ticket);
            }
            self.batches.pop_front();
        }
    }

    /// Packets that were executed to the end: the read pointer.
    pub(crate) fn executed(&self) -> u64 {
        self.executed + self.batches.front().map_or(0, |head| self.progress / head.packet)
    }

    /// Packets that were submitted: the write pointer. A closed loop tops its ring up whenever a packet is through.
    pub(crate) fn submitted(&self) -> u64 {
        let finite: u64 = self.batches.iter().filter(|b| !b.is_endless()).map(|b| b.packets).sum();
        let looped = self.batches.back().filter(|b| b.is_endless()).map_or(0, |tail| {
            let under_way = if self.batches.len() == 1 { self.progress / tail.packet } else { 0 };
            under_way + u64::from(tail.depth)
        });
        self.executed + finite + looped
    }

    /// Service had so far, ns.
    pub(crate) fn service_ns(&self) -> u64 {
        self.service_ticks() / TICKS
    }

    fn service_ticks(&self) -> u64 {
        self.service + self.progress
    }
}
