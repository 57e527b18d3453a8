//! Waking one background thread: early by another thread, or by a virtual clock.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why a parked thread woke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The deadline passed.
    Deadline,
    /// Somebody rang the alarm.
    Rung,
}

/// Wakes one background thread early, for example to stop it.
#[derive(Debug, Default)]
pub struct Alarm {
    pending: Mutex<Pending>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    /// Somebody rang.
    rung: bool,
    /// A virtual clock reached the deadline.
    due: bool,
}

impl Alarm {
    /// A quiet alarm.
    pub fn new() -> Arc<Alarm> {
        Arc::new(Alarm::default())
    }

    /// Wakes the thread parked on it, or the next one that parks.
    pub fn ring(&self) {
        self.lock().rung = true;
        self.bell.notify_all();
    }

    /// Waits on the wall clock until the alarm rings or `left` says that no time is left (None: wait for ever).
    pub(super) fn wait(&self, left: impl Fn() -> Option<Duration>) -> Wake {
        self.wait_pending(left);
        self.take()
    }

    /// Like [`Alarm::wait`], but leaves the reason for [`Alarm::take`].
    pub(super) fn wait_pending(&self, left: impl Fn() -> Option<Duration>) {
        let mut pending = self.lock();
        while !pending.rung && !pending.due {
            pending = match left() {
                None => self.bell.wait(pending).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return,
                Some(left) => self.bell.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// Why the thread that waited wakes.
    pub(super) fn take(&self) -> Wake {
        let pending = std::mem::take(&mut *self.lock());
        if pending.rung { Wake::Rung } else { Wake::Deadline }
    }

    /// A virtual clock reached the deadline of the thread parked on it.
    pub(super) fn due(&self) {
        self.lock().due = true;
        self.bell.notify_all();
    }

    /// Whether the thread parked on it is about to wake.
    pub(super) fn is_pending(&self) -> bool {
        let pending = self.lock();
        pending.rung || pending.due
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
