//! Which kernel handle stands for which process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use crate::queue::Pid;

/// A process as the lease knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Kernel handle.
    pub handle: u32,
    /// When the process started.
    pub started: Duration,
}

/// The attached processes by pid. A binding is only ever replaced by attaching the pid again.
///
/// A process whose pid another one got is remembered until its exit has been reported: events about it may still be
/// unread.
#[derive(Debug, Default)]
pub(super) struct Targets {
    by_pid: RwLock<BTreeMap<Pid, Target>>,
    by_handle: Mutex<BTreeMap<u32, (Pid, Duration)>>,
}

impl Targets {
    pub(super) fn get(&self, pid: Pid) -> Option<Target> {
        self.read().get(&pid).copied()
    }

    /// All bindings, for many look-ups in a row. Nothing can be bound while the guard lives.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Pid, Target>> {
        self.by_pid.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds a pid; returns what it was bound to where that is another process.
    pub(super) fn bind(&self, pid: Pid, target: Target) -> Option<Target> {
        self.names().insert(target.handle, (pid, target.started));
        let old = self.by_pid.write().unwrap_or_else(PoisonError::into_inner).insert(pid, target);
        old.filter(|old| old.handle != target.handle)
    }

    pub(super) fn remove(&self, pid: Pid) -> Option<Target> {
        let removed = self.by_pid.write().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        if let Some(target) = removed {
            self.names().remove(&target.handle);
        }
        removed
    }

    /// Which process a handle was attached as, and when that started.
    pub(super) fn name(&self, handle: u32) -> Option<(Pid, Duration)> {
        self.names().get(&handle).copied()
    }

    /// No event about this process will follow.
    pub(super) fn exited(&self, handle: u32) {
        self.names().remove(&handle);
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<u32, (Pid, Duration)>> {
        self.by_handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
