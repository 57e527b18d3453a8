//! `/proc/<pid>/{status,stat,comm,cgroup,cmdline}`: the fields that a reader of processes needs.

/// What procfs says of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Pid in the init namespace.
    pub pid: u32,
    /// Pids in the nested namespaces below the init namespace, outermost first.
    pub namespace_pids: Vec<u32>,
    /// Parent.
    pub ppid: u32,
    /// Real, effective, saved and file system user id.
    pub uid: u32,
    /// The same of the group.
    pub gid: u32,
    /// `comm`; printed with at most 15 bytes.
    pub name: String,
    /// Words of the command line.
    pub command: Vec<String>,
    /// Path of the v2 cgroup.
    pub cgroup: String,
    /// Start after boot in clock ticks (100 per second).
    pub start_ticks: u64,
    /// Pid of the tracer, 0 = none.
    pub tracer: u32,
}

impl Process {
    /// The text of `status`, up to the fields that discovery reads.
    pub fn status(&self) -> String {
        todo!()
    }

    /// The text of `stat` (52 fields).
    pub fn stat(&self) -> String {
        todo!()
    }

    /// The text of `comm`.
    pub fn comm(&self) -> String {
        todo!()
    }

    /// The text of `cgroup`.
    pub fn cgroup(&self) -> String {
        todo!()
    }

    /// The text of `cmdline`: words that end with NUL.
    pub fn cmdline(&self) -> String {
        todo!()
    }
}
