//! What happens when: the machine's future, ordered by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::world::{LeaseId, NodeIndex, QueueKey};

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A queue of this pool finishes the work at the head of its ring.
    Work { node: NodeIndex, pool: usize, generation: u64 },
    /// The current round of a node reaches its next phase.
    Round { node: NodeIndex, generation: u64 },
    /// The firmware has mapped what it was mapping.
    Mapped { node: NodeIndex, generation: u64 },
    /// An over-subscribed runlist changes its mapped set.
    Slice { node: NodeIndex, generation: u64 },
    /// The owner of a queue rings its doorbell.
    Arrival { queue: QueueKey },
    /// A lease looks for holds that are too old.
    Watchdog { lease: LeaseId },
    /// An injected fault strikes.
    Fault { index: usize },
    /// A node has been reset; `reset` counts its resets.
    ResetDone { node: NodeIndex, reset: u32 },
}

/// A priority queue of events. Events at the same time happen in the order in which they were planned.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
}

impl Timeline {
    pub(crate) fn plan(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse((time, self.sequence, event)));
    }

    /// Time of the next event.
    pub(crate) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((time, _, _))| *time)
    }

    /// Takes the next event if it is due at `time`.
    pub(crate) fn take(&mut self, time: u64) -> Option<(u64, Event)> {
        if self.next()? > time {
            return None;
        }
        self.heap.pop().map(|Reverse((time, _, event))| (time, event))
    }
}
