//! Which kernel handle stands for which process.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
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
#[derive(Debug, Default)]
pub(super) struct Targets {
    by_pid: RwLock<BTreeMap<Pid, Target>>,
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
        let old = self.by_pid.write().unwrap_or_else(PoisonError::into_inner).insert(pid, target);
        old.filter(|old| old.handle != target.handle)
    }

    pub(super) fn remove(&self, pid: Pid) -> Option<Target> {
        self.by_pid.write().unwrap_or_else(PoisonError::into_inner).remove(&pid)
    }

    /// The pid that a handle was attached as.
    pub(super) fn pid(&self, handle: u32) -> Option<Pid> {
        self.read().iter().find(|(_, target)| target.handle == handle).map(|(&pid, _)| pid)
    }
}
