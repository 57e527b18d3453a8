//! `/proc`: names, owners and cgroups of processes, and what their pids are in this pid namespace.
//!
//! KFD's files name processes by their pid in the init namespace. A program in a container knows them, and is known to
//! drivers, by other numbers. `NSpid` in `/proc/<pid>/status` lists one number per namespace, from the one that `/proc`
//! was mounted in to the process's own.

use std::time::Duration;

use nix::errno::Errno;

use super::text::{list_unless_gone, malformed, read_unless_gone};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::Pid;

/// What `/proc/<pid>/status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Effective user id.
    pub uid: u32,
    /// Its pid in every namespace from that of `/proc` to its own.
    pub namespace_pids: Vec<Pid>,
    /// Who traces it, 0 = nobody.
    pub tracer: Pid,
    /// Effective capabilities, one bit each.
    pub effective_capabilities: u64,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Reads `/proc/<pid>/status`.
///
/// # Errors
/// EBADMSG with path and line.
pub fn parse_status(path: &str, text: &str) -> Result<Status> {
    let mut status = Status::default();
    for (index, line) in text.lines().enumerate() {
        let wrong = |expected| malformed(path, index + 1, line, expected);
        if let Some(ids) = line.strip_prefix("Uid:") {
            // Real, effective, saved, file system.
            let effective = ids.split_ascii_whitespace().nth(1).and_then(|id| id.parse().ok());
            status.uid = effective.ok_or_else(|| wrong("a line of four user ids"))?;
        } else if let Some(pids) = line.strip_prefix("NSpid:") {
            let pids: Option<Vec<Pid>> = pids.split_ascii_whitespace().map(|pid| pid.parse().ok()).collect();
            status.namespace_pids = pids.ok_or_else(|| wrong("a line of pids"))?;
        } else if let Some(pid) = line.strip_prefix("TracerPid:") {
            status.tracer = pid.trim().parse().map_err(|_| wrong("a pid"))?;
        } else if let Some(mask) = line.strip_prefix("CapEff:") {
            status.effective_capabilities =
                u64::from_str_radix(mask.trim(), 16).map_err(|_| wrong("a hexadecimal mask"))?;
        } else if let Some(groups) = line.strip_prefix("Groups:") {
            let groups: Option<Vec<u32>> = groups.split_ascii_whitespace().map(|id| id.parse().ok()).collect();
            status.groups = groups.ok_or_else(|| wrong("a line of group ids"))?;
        }
    }
    Ok(status)
}

/// The cgroup v2 path in `/proc/<pid>/cgroup`; empty where there is none.
pub fn parse_cgroup(text: &str) -> &str {
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default()
}

/// Pids of the processes that have a file open, and of those that do not tell.
///
/// # Errors
/// What reading `/proc` answers.
pub(super) fn users_of(host: &dyn Host, file: &str) -> Result<Vec<Pid>> {
    let has_it = |pid: &Pid| match host.list(&format!("/proc/{pid}/fd")) {
        Ok(fds) => fds.iter().any(|fd| host.link(&format!("/proc/{pid}/fd/{fd}")).as_deref() == Ok(file)),
        // Another user's, or gone.
        Err(Errno::EACCES | Errno::EPERM | Errno::ESRCH) => false,
        Err(_) => true,
    };
    let names = list_unless_gone(host, "/proc")?.unwrap_or_default();
    let mut pids: Vec<Pid> = names.iter().filter_map(|name| name.parse().ok()).filter(has_it).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// When a process started, after boot; None where it is gone or `/proc` does not say.
pub fn started(host: &dyn Host, pid: Pid) -> Option<Duration> {
    let stat = host.read_text(&format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, brackets too.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    // USER_HZ is 100 on every architecture that amdgpu runs on.
    Some(Duration::from_millis(ticks * 10))
}

/// Whether `/proc` shows another pid namespace than the init namespace, whose pids KFD's files print.
pub fn is_foreign(host: &dyn Host) -> bool {
    // Pid 2 of the init namespace is kthreadd, always; no container has that.
    host.read_text("/proc/2/comm").is_ok_and(|name| name.trim_end() != "kthreadd")
}

/// `/proc/<pid>/status` of a process that may be gone or hidden (None); `name` is its pid or `self`.
///
/// # Errors
/// EBADMSG for a malformed file.
pub fn status(host: &dyn Host, name: &str) -> Result<Option<Status>> {
    let path = format!("/proc/{name}/status");
    match host.read_text(&path) {
        Ok(text) => parse_status(&path, &text).map(Some),
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EACCES | Errno::EPERM) => Ok(None),
        Err(errno) => Err(Error::new("reading", errno).on(path)),
    }
}

/// `/proc/<pid>/comm` and cgroup of a process that may be gone.
pub(crate) fn names(host: &dyn Host, pid: u32) -> Result<Option<(String, String)>> {
    let Some(command) = read_unless_gone(host, &format!("/proc/{pid}/comm"))? else { return Ok(None) };
    let cgroup = read_unless_gone(host, &format!("/proc/{pid}/cgroup"))?.unwrap_or_default();
    Ok(Some((command.trim_end_matches('\n').to_owned(), parse_cgroup(&cgroup).to_owned())))
}

/// Turns pids of the init namespace, as KFD prints them, into pids of this process's namespace.
#[derive(Debug)]
pub struct PidTranslator {
    /// Levels between the namespace of `/proc` and ours; None where `/proc` is not the init namespace's.
    depth: Option<usize>,
    /// With depth > 0: `NSpid` of every process, to tell ours from those of sibling namespaces.
    everyone: Vec<Vec<Pid>>,
}

impl PidTranslator {
    /// Looks at how `/proc` relates to this process and to the init namespace.
    ///
    /// # Errors
    /// EBADMSG for a malformed status file.
    pub fn new(host: &dyn Host) -> Result<PidTranslator> {
        if is_foreign(host) {
            return Ok(PidTranslator { depth: None, everyone: Vec::new() });
        }
        let depth = status(host, "self")?.map_or(0, |own| own.namespace_pids.len().saturating_sub(1));
        let mut everyone = Vec::new();
        if depth > 0 {
            for name in list_unless_gone(host, "/proc")?.unwrap_or_default() {
                if name.bytes().all(|byte| byte.is_ascii_digit()) {
                    everyone.extend(status(host, &name)?.map(|status| status.namespace_pids));
                }
            }
        }
        Ok(PidTranslator { depth: Some(depth), everyone })
    }

    /// The pid here of a process with this pid in the init namespace; None where it has none, or where a process of
    /// another container would answer to the same number.
    pub fn translate(&self, kfd_pid: u32, status: &Status) -> Option<Pid> {
        let depth = self.depth?;
        if depth == 0 {
            return Some(kfd_pid);
        }
        let pid = *status.namespace_pids.get(depth)?;
        let namesakes = self.everyone.iter().filter(|pids| pids.get(depth) == Some(&pid)).count();
        (namesakes == 1).then_some(pid)
    }
}
