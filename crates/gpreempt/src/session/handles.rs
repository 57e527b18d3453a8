//! Numbers that name queues across the C and Python boundary.
//!
//! KFD numbers queues per process, 0 to 1023, so below 1024 a number names a queue of the calling process. A queue of
//! another process gets a handle, which also remembers which process that was: a later process with the same pid is
//! another owner, and the handle does not reach its queues. Handles are never reused.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use nix::errno::Errno;

use super::{FIRST_HANDLE, OWN_QUEUES};
use crate::driver::Selector;
use crate::error::{Error, Result};
use crate::queue::{GpuId, Pid, QueueClass, QueueId};

/// What is known of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its name.
    pub queue: QueueId,
    /// When its owner started; None for this process and where the driver cannot tell.
    pub started: Option<Duration>,
    /// Its node, [`GpuId::ALL`] where nobody said.
    pub gpu: GpuId,
    /// What the caller said it is.
    pub class: QueueClass,
    /// Unmapped through this session and not mapped since: what the caller wants, whatever the watchdog did.
    pub held: bool,
}

impl Known {
    pub(super) fn selector(&self) -> Selector {
        Selector { started: self.started, ..Selector::queue(self.queue) }
    }
}

/// All queues that this session has named.
#[derive(Debug)]
pub(super) struct Handles {
    own_pid: Pid,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Handle - [`FIRST_HANDLE`] is the index.
    others: Vec<Known>,
    by_name: HashMap<(QueueId, Option<Duration>), u32>,
    /// By KFD id, as far as something is known.
    own: Vec<Known>,
}

impl Handles {
    pub(super) fn new(own_pid: Pid) -> Handles {
        Handles { own_pid, table: RwLock::default() }
    }

    /// The handle of a queue; the same queue of the same process always gets the same one.
    pub(super) fn name(&self, queue: QueueId, started: Option<Duration>, gpu: GpuId) -> u32 {
        if queue.pid == self.own_pid {
            return queue.id;
        }
        if let Some(&handle) = self.read().by_name.get(&(queue, started)) {
            return handle;
        }
        let mut table = self.write();
        let table = &mut *table;
        *table.by_name.entry((queue, started)).or_insert_with(|| {
            table.others.push(Known { queue, started, gpu, class: QueueClass::Unclassified, held: false });
            FIRST_HANDLE + (table.others.len() - 1) as u32
        })
    }

    /// What is behind a handle or own KFD id.
    pub(super) fn get(&self, handle: u32) -> Result<Known> {
        self.read().get(self.own_pid, handle).ok_or_else(|| unknown(handle))
    }

    /// What is behind many, under one lock.
    pub(super) fn get_all(&self, handles: &[u32]) -> Result<Vec<Known>> {
        let table = self.read();
        let mut known = Vec::with_capacity(handles.len());
        for &handle in handles {
            known.push(table.get(self.own_pid, handle).ok_or_else(|| unknown(handle))?);
        }
        Ok(known)
    }

    pub(super) fn set_class(&self, handle: u32, class: QueueClass) {
        self.update([handle], |known| known.class = class);
    }

    pub(super) fn set_held(&self, handles: impl IntoIterator<Item = u32>, held: bool) {
        self.update(handles, |known| known.held = held);
    }

    /// Processes of the registered queues.
    pub(super) fn pids(&self) -> BTreeSet<Pid> {
        self.read().others.iter().map(|known| known.queue.pid).collect()
    }

    fn update(&self, handles: impl IntoIterator<Item = u32>, change: impl Fn(&mut Known)) {
        let mut table = self.write();
        for handle in handles {
            if handle >= OWN_QUEUES {
                if let Some(known) = table.others.get_mut(index(handle)) {
                    change(known);
                }
                continue;
            }
            let next = table.own.len() as u32;
            table.own.extend((next..=handle).map(|id| Known::own(self.own_pid, id)));
            change(&mut table.own[handle as usize]);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn get(&self, own_pid: Pid, handle: u32) -> Option<Known> {
        if handle < OWN_QUEUES {
            return Some(self.own.get(handle as usize).copied().unwrap_or_else(|| Known::own(own_pid, handle)));
        }
        self.others.get(index(handle)).copied()
    }
}

#[cold]
fn unknown(handle: u32) -> Error {
    const OPERATION: &str = "looking up a queue";
    if handle < FIRST_HANDLE {
        return Error::new(OPERATION, Errno::EINVAL)
            .on(format_args!("number {handle}"))
            .because("1024 to 65535 name no queue")
            .remedy("a queue of another process has a handle, from discovery or from registering it");
    }
    Error::new(OPERATION, Errno::ENOENT)
        .on(format_args!("handle {handle:#x}"))
        .because("no queue was given this handle")
        .remedy("handles come from discovery or from registering a queue, and end with the session")
}

impl Known {
    fn own(pid: Pid, id: u32) -> Known {
        Known {
            queue: QueueId { pid, id },
            started: None,
            gpu: GpuId::ALL,
            class: QueueClass::Unclassified,
            held: false,
        }
    }
}

fn index(handle: u32) -> usize {
    handle.wrapping_sub(FIRST_HANDLE) as usize
}
