//! What a batch on a partly dead set does: the useful thing, or nothing.
//!
//! * A registered queue that vanished counts as done: it is off the hardware.
//! * Any other failure fails the call, names the queue, and puts back what this call changed.
//! * After EIO or ETIME the node is not touched again in the call: a reset is under way there, and whatever the call
//!   marked stays marked until it is mapped again or the lease ends.
//!
//! Changed by this call means: in the wanted state now, and not by this caller's wish before. A queue that the caller
//! had unmapped earlier and not mapped since stays unmapped when a later unmap fails.

use nix::errno::Errno;

use crate::queue::GpuId;

/// One queue of a batch after the driver has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// What the driver answered for it.
    pub errno: Option<Errno>,
    /// Whether the driver found it and brought it into the wanted state.
    pub done: bool,
    /// Whether the caller had wanted that state already.
    pub wanted_before: bool,
    /// Whether it has a handle (a queue of another process), so that it once existed.
    pub registered: bool,
    /// Its node, [`GpuId::ALL`] where unknown.
    pub gpu: GpuId,
}

/// What to make of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Everything that exists is in the wanted state.
    Done,
    /// The call failed.
    Failed {
        /// The queue to name.
        item: usize,
        /// Its error.
        errno: Errno,
        /// Queues to put back.
        restore: Vec<usize>,
    },
}

/// Whether this is the answer for a queue that has gone, alone or with its process.
pub(super) fn vanished(item: &Item) -> bool {
    item.registered && matches!(item.errno, Some(Errno::ENOENT | Errno::ESRCH))
}

/// Judges a batch.
pub(super) fn judge(items: &[Item]) -> Verdict {
    let failed = |item: &Item| if vanished(item) { None } else { item.errno };
    let first = items.iter().enumerate().find_map(|(index, item)| failed(item).map(|errno| (index, errno)));
    let Some((item, errno)) = first else { return Verdict::Done };
    let sick = |gpu: GpuId| {
        gpu != GpuId::ALL
            && items.iter().any(|item| item.gpu == gpu && matches!(item.errno, Some(Errno::EIO | Errno::ETIME)))
    };
    let changed = |item: &Item| item.errno.is_none() && item.done && !item.wanted_before;
    let restore = items.iter().enumerate().filter(|(_, item)| changed(item) && !sick(item.gpu));
    Verdict::Failed { item, errno, restore: restore.map(|(index, _)| index).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(errno: Option<Errno>) -> Item {
        Item { errno, done: errno.is_none(), wanted_before: false, registered: true, gpu: GpuId(1) }
    }

    fn failed(index: usize, errno: Errno, restore: &[usize]) -> Verdict {
        Verdict::Failed { item: index, errno, restore: restore.to_vec() }
    }

    #[test]
    fn a_registered_queue_that_vanished_counts_as_done() {
        assert_eq!(judge(&[item(Some(Errno::ENOENT)), item(None), item(Some(Errno::ESRCH))]), Verdict::Done);
    }

    #[test]
    fn an_own_number_that_names_no_queue_fails_the_call() {
        let unknown = Item { registered: false, ..item(Some(Errno::ENOENT)) };
        assert_eq!(judge(&[item(None), unknown]), failed(1, Errno::ENOENT, &[0]));
    }

    #[test]
    fn the_first_failure_is_named_and_only_what_the_call_changed_is_put_back() {
        let before = Item { wanted_before: true, ..item(None) };
        let busy = Item { done: false, ..item(None) };
        let items = [before, item(None), item(Some(Errno::EPERM)), busy, item(Some(Errno::EBUSY)), item(None)];
        assert_eq!(judge(&items), failed(2, Errno::EPERM, &[1, 5]));
    }

    #[test]
    fn a_node_that_timed_out_or_resets_is_not_touched_again() {
        for errno in [Errno::ETIME, Errno::EIO] {
            let healthy = Item { gpu: GpuId(2), ..item(None) };
            assert_eq!(judge(&[item(None), item(Some(errno)), healthy]), failed(1, errno, &[2]));
        }
    }
}
