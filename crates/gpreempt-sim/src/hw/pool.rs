//! An engine that running queues share: the shader array of a node, or one of its SDMA engines.
//!
//! Every running queue progresses at the same rate: 1 while the engine has room for all of them, else what is left
//! per wave. So one service clock serves the whole pool, and a change of the running set costs the number of running
//! queues, not the number of packets.

use crate::hw::feed::{Feed, TICKS, WHOLE};
use crate::machine::Ticket;
use crate::world::{Queue, QueueKey};

/// An engine and the queues that run on it.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    running: Vec<QueueKey>,
    /// Sum of the running queues' shares.
    load: u64,
    /// When the running queues were last served.
    at: u64,
    /// Outdates planned events.
    pub(crate) generation: u64,
}

impl Pool {
    pub(crate) fn running(&self) -> &[QueueKey] {
        &self.running
    }

    /// Brings every running queue to `now`. Returns whether one has run empty or changed its share, so that the
    /// running set must be looked at again.
    pub(crate) fn serve(&mut self, now: u64, queues: &mut [Queue], mut done: impl FnMut(Ticket)) -> bool {
        let elapsed = now - self.at;
        self.at = now;
        if elapsed == 0 || self.running.is_empty() {
            return false;
        }
        let ticks = u128::from(elapsed) * u128::from(TICKS) * u128::from(WHOLE) / u128::from(self.load.max(WHOLE));
        let ticks = u64::try_from(ticks).expect("a node does not run for centuries");
        let mut changed = false;
        for key in &self.running {
            let feed = &mut queues[key.0].feed;
            let share = feed.share();
            feed.serve(ticks, &mut done);
            changed |= feed.share() != share;
        }
        changed
    }

    /// Lets a queue run. The pool must have been served up to now.
    pub(crate) fn start(&mut self, key: QueueKey, feed: &Feed) {
        debug_assert!(!self.running.contains(&key));
        self.running.push(key);
        self.load += feed.share();
    }

    /// Stops a queue; false where it did not run. The pool must have been served up to now.
    pub(crate) fn stop(&mut self, key: QueueKey, queues: &[Queue]) -> bool {
        let Some(position) = self.running.iter().position(|k| *k == key) else { return false };
        self.running.remove(position);
        self.weigh(queues);
        true
    }

    /// Stops all queues.
    pub(crate) fn stop_all(&mut self) {
        self.running.clear();
        self.load = 0;
    }

    /// Drops queues that ran empty and adds up the load anew.
    pub(crate) fn tidy(&mut self, queues: &[Queue]) {
        self.running.retain(|key| !queues[key.0].feed.is_empty());
        self.weigh(queues);
    }

    fn weigh(&mut self, queues: &[Queue]) {
        self.load = self.running.iter().map(|key| queues[key.0].feed.share()).sum();
    }

    /// When the first running queue finishes the work at its head, if all stays as it is.
    pub(crate) fn next_change(&self, queues: &[Queue]) -> Option<u64> {
        let ticks = self.running.iter().filter_map(|key| queues[key.0].feed.remaining()).min()?;
        let scaled = u128::from(ticks) * u128::from(self.load.max(WHOLE));
        let ns = scaled.div_ceil(u128::from(TICKS) * u128::from(WHOLE));
        Some(self.at.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX)))
    }

    /// Of `places` wave slots, those that a running queue with `share` fills now.
    pub(crate) fn waves(&self, share: u64, places: u64) -> u64 {
        let waves = u128::from(places) * u128::from(share) / u128::from(self.load.max(WHOLE));
        u64::try_from(waves).expect("fewer waves than places").max(1)
    }
}
