//! Who uses this machine: nodes, processes and queues, read from sysfs, debugfs and proc.
//!
//! Everything goes through [`Host::read_text`] and [`Host::list`], so it works alike on the running system, on a recorded
//! tree and on the simulated machine. What vanishes while it is being read is left out.

pub mod classify;
pub mod debugfs;
pub mod proc;
pub mod sysfs;
mod text;

use std::fmt;

use nix::errno::Errno;

pub use classify::{Rule, Rules, Selector};
pub use sysfs::Node;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::{Pid, QueueId, QueueInfo};

/// A process that has `/dev/kfd` open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid in the init namespace, as KFD's files name it.
    pub kfd_pid: u32,
    /// Its pid in this process's namespace; None where it is not visible from here.
    pub pid: Option<Pid>,
    /// Its pids from the init namespace down to its own, where known.
    pub namespace_pids: Vec<Pid>,
    /// Effective user id, where visible.
    pub uid: Option<u32>,
    /// `/proc/<pid>/comm`, empty where not visible.
    pub command: String,
    /// cgroup v2 path, empty where unknown.
    pub cgroup: String,
}

/// Reads one machine.
#[derive(Clone, Copy)]
pub struct Discovery<'h> {
    host: &'h dyn Host,
}

impl fmt::Debug for Discovery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("host", &self.host).finish()
    }
}

impl<'h> Discovery<'h> {
    /// Of this host.
    pub fn new(host: &'h dyn Host) -> Discovery<'h> {
        Discovery { host }
    }

    /// All GPU nodes by index.
    ///
    /// # Errors
    /// As [`sysfs::nodes`].
    pub fn nodes(&self) -> Result<Vec<Node>> {
        sysfs::nodes(self.host)
    }

    /// Every process that has `/dev/kfd` open, by `kfd_pid`.
    ///
    /// # Errors
    /// EBADMSG with path and line for a malformed file.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let kfd_pids = sysfs::processes(self.host)?;
        if kfd_pids.is_empty() {
            return Ok(Vec::new());
        }
        let translator = proc::PidTranslator::new(self.host)?;
        kfd_pids.into_iter().map(|kfd_pid| self.process(kfd_pid, &translator)).collect()
    }

    /// The processes that may be asked for their queues, by their pid here. In a container, where KFD's files name pids of
    /// the host, these are the processes of the container that have `/dev/kfd` open.
    ///
    /// # Errors
    /// EBADMSG with path and line for a malformed file.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        if !proc::is_foreign(self.host) {
            return Ok(self.processes()?.into_iter().filter_map(|process| process.pid).collect());
        }
        proc::users_of(self.host, "/dev/kfd")
    }

    fn process(&self, kfd_pid: u32, translator: &proc::PidTranslator) -> Result<Process> {
        let mut process = Process {
            kfd_pid,
            pid: None,
            namespace_pids: Vec::new(),
            uid: None,
            command: String::new(),
            cgroup: String::new(),
        };
        let Some(status) = proc::status(self.host, &kfd_pid.to_string())? else { return Ok(process) };
        process.pid = translator.translate(kfd_pid, &status);
        if process.pid.is_some()
            && let Some((command, cgroup)) = proc::names(self.host, kfd_pid)?
        {
            process.command = command;
            process.cgroup = cgroup;
            process.uid = Some(status.uid);
            process.namespace_pids = status.namespace_pids;
        }
        Ok(process)
    }

    /// All user queues whose owners are visible from here, ordered by owner and queue id.
    ///
    /// # Errors
    /// EBADMSG with path and line for a malformed file.
    pub fn scan(&self) -> Result<Vec<QueueInfo>> {
        let mut queues = Vec::new();
        for process in self.processes()? {
            let Some(pid) = process.pid else { continue };
            queues.extend(sysfs::queues(self.host, process.kfd_pid)?.into_iter().map(|queue| QueueInfo {
                queue: QueueId { pid, id: queue.id },
                gpu: queue.gpu,
                kind: queue.kind,
                ring_bytes: queue.ring_bytes,
                priority: None,
                ring_base: None,
                active: None,
                idle: None,
                command: process.command.clone(),
                cgroup: process.cgroup.clone(),
            }));
        }
        queues.sort_by_key(|queue| queue.queue);
        Ok(queues)
    }

    /// The pid here of the KFD process that somebody calls `pid`: its pid here, or, where only one process answers to
    /// it, its pid inside a container.
    ///
    /// # Errors
    /// ESRCH where no KFD process has it; EINVAL where several containers do, naming them.
    pub fn resolve_pid(&self, pid: Pid) -> Result<Pid> {
        let processes = self.processes()?;
        if processes.iter().any(|process| process.pid == Some(pid)) {
            return Ok(pid);
        }
        let named = processes.iter().filter(|process| process.namespace_pids.last() == Some(&pid));
        let here: Vec<Pid> = named.filter_map(|process| process.pid).collect();
        let fail = |errno| Error::new("looking for a GPU process", errno).on(format_args!("pid {pid}"));
        match here[..] {
            [one] => Ok(one),
            [] => Err(fail(Errno::ESRCH).because("no process of that pid has /dev/kfd open")),
            _ => {
                let here: Vec<String> = here.iter().map(Pid::to_string).collect();
                Err(fail(Errno::EINVAL)
                    .because(format!("several containers have it: pids {} here", here.join(", ")))
                    .remedy("name one of these"))
            }
        }
    }
}

/// All user queues of the machine whose owners this process can see, ordered by owner and queue id.
///
/// # Errors
/// EBADMSG where a file says what no amdkfd prints, with path and line.
pub fn scan(host: &dyn Host) -> Result<Vec<QueueInfo>> {
    Discovery::new(host).scan()
}
