//! Open files: `/dev/kfd`, leases, SMI event files.

use std::collections::{BTreeMap, VecDeque};

use nix::errno::Errno;

use crate::machine::{FileId, Task};
use crate::node::NodeIndex;
use crate::world::LeaseId;

/// Bytes that an SMI event file keeps (`MAX_KFIFO_SIZE`).
const SMI_FIFO: usize = 1024;

/// What a file is.
#[derive(Debug)]
pub(crate) enum File {
    /// `/dev/kfd`.
    Kfd,
    /// `/dev/null`: somewhere for a debugger's notifications to go.
    Null,
    /// An anon-inode lease.
    Lease(LeaseId),
    /// An anon-inode SMI event file of one node.
    Smi(SmiClient),
}

/// A reader of SMI events.
#[derive(Debug)]
pub(crate) struct SmiClient {
    pub(crate) node: NodeIndex,
    pub(crate) pid: u32,
    /// May see the events of every process.
    pub(crate) root: bool,
    /// Events that it asked for, by `KFD_SMI_EVENT_MASK_FROM_INDEX`.
    pub(crate) mask: u64,
    pub(crate) fifo: VecDeque<u8>,
}

impl SmiClient {
    /// Takes a line in; drops it where there is no room, as the kernel does.
    pub(crate) fn take(&mut self, line: &str) {
        if self.fifo.len() + line.len() <= SMI_FIFO {
            self.fifo.extend(line.bytes());
        }
    }
}

/// All open files, by descriptor. Descriptors are unique over the machine: a forked child that uses its parent's is a
/// task that uses a file of somebody else.
#[derive(Debug, Default)]
pub(crate) struct Files {
    open: BTreeMap<FileId, (Task, File)>,
    next: FileId,
}

impl Files {
    pub(crate) fn insert(&mut self, owner: Task, file: File) -> FileId {
        self.next += 1;
        // 0 to 2 are taken in every process.
        let id = self.next + 2;
        self.open.insert(id, (owner, file));
        id
    }

    /// Who opened the file, and what it is.
    pub(crate) fn get(&self, id: FileId) -> Result<(Task, &File), Errno> {
        self.open.get(&id).map(|(task, file)| (*task, file)).ok_or(Errno::EBADF)
    }

    pub(crate) fn get_mut(&mut self, id: FileId) -> Result<(Task, &mut File), Errno> {
        self.open.get_mut(&id).map(|(task, file)| (*task, file)).ok_or(Errno::EBADF)
    }

    /// Takes a file out of its owner's table.
    pub(crate) fn remove(&mut self, owner: Task, id: FileId) -> Result<File, Errno> {
        if self.get(id)?.0 != owner {
            return Err(Errno::EBADF);
        }
        self.open.remove(&id).map(|(_, file)| file).ok_or(Errno::EBADF)
    }

    /// Takes all files of a process.
    pub(crate) fn remove_all(&mut self, owner: Task) -> Vec<File> {
        let ids: Vec<FileId> = self.open.iter().filter(|(_, (task, _))| *task == owner).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.open.remove(&id)).map(|(_, file)| file).collect()
    }

    pub(crate) fn smi_clients(&mut self) -> impl Iterator<Item = &mut SmiClient> {
        self.open.values_mut().filter_map(|(_, file)| match file {
            File::Smi(client) => Some(client),
            _ => None,
        })
    }
}
