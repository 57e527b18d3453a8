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

/// `comm` keeps 15 bytes.
const COMM_BYTES: usize = 15;

impl Process {
    /// The text of `status`: the identity of the process, up to its threads. Memory, signals and capabilities are not
    /// modelled.
    pub fn status(&self) -> String {
        // As `string_escape_str` prints a name: one line, and no backslash that starts nothing.
        let name = self.short_name().replace('\\', "\\\\").replace('\n', "\\n");
        let ids = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
        let nested: String = self.namespace_pids.iter().map(|pid| format!("\t{pid}")).collect();
        let pids = format!("{}{nested}", self.pid);
        let fields = [
            ("Name", name),
            ("Umask", "0022".to_owned()),
            ("State", "S (sleeping)".to_owned()),
            ("Tgid", self.pid.to_string()),
            ("Ngid", "0".to_owned()),
            ("Pid", self.pid.to_string()),
            ("PPid", self.ppid.to_string()),
            ("TracerPid", self.tracer.to_string()),
            ("Uid", ids(self.uid)),
            ("Gid", ids(self.gid)),
            ("FDSize", "64".to_owned()),
            ("Groups", format!("{} ", self.gid)),
            ("NStgid", pids.clone()),
            ("NSpid", pids.clone()),
            ("NSpgid", pids.clone()),
            ("NSsid", pids),
            ("Kthread", "0".to_owned()),
            ("Threads", "1".to_owned()),
        ];
        fields.iter().map(|(key, value)| format!("{key}:\t{value}\n")).collect()
    }

    /// The text of `stat`: 52 fields, of which pid, comm, state, parent, group, session, threads and start time say
    /// something.
    pub fn stat(&self) -> String {
        let (pid, name) = (self.pid, self.short_name());
        let before_threads = "0 -1 4194304 0 0 0 0 0 0 0 0 20 0";
        let after_start = vec!["0"; 30].join(" ");
        format!("{pid} ({name}) S {} {pid} {pid} {before_threads} 1 0 {} {after_start}\n", self.ppid, self.start_ticks)
    }

    /// The text of `comm`.
    pub fn comm(&self) -> String {
        format!("{}\n", self.short_name())
    }

    /// The text of `cgroup`.
    pub fn cgroup(&self) -> String {
        format!("0::{}\n", self.cgroup)
    }

    /// The text of `cmdline`: words that end with NUL.
    pub fn cmdline(&self) -> String {
        self.command.iter().map(|word| format!("{word}\0")).collect()
    }

    /// The name cut to what `comm` keeps, never inside a character.
    fn short_name(&self) -> &str {
        let fits = self.name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= COMM_BYTES);
        &self.name[..fits.last().unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training() -> Process {
        Process {
            pid: 52119,
            namespace_pids: vec![23],
            ppid: 1,
            uid: 1000,
            gid: 1000,
            name: "offline training (rank 0)".into(),
            command: vec!["python3".into(), "offline_training.py".into()],
            cgroup: "/kubepods.slice/besteffort".into(),
            start_ticks: 4242,
            tracer: 7,
        }
    }

    #[test]
    fn status_names_every_namespace_and_the_tracer() {
        let status = training().status();
        assert!(status.starts_with("Name:\toffline trainin\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t52119\n"));
        for line in ["TracerPid:\t7", "Uid:\t1000\t1000\t1000\t1000", "Groups:\t1000 ", "NSpid:\t52119\t23"] {
            assert!(status.lines().any(|l| l == line), "{line}");
        }
    }

    #[test]
    fn stat_has_52_fields_with_the_start_time_in_the_22nd() {
        let mut process = training();
        process.name = "a) b (c".into();
        let stat = process.stat();
        let (before, after) = stat.rsplit_once(") ").expect("comm is in brackets");
        assert_eq!(before, "52119 (a) b (c");
        let fields: Vec<_> = after.trim_end().split(' ').collect();
        assert_eq!(fields.len(), 50);
        assert_eq!((fields[0], fields[1], fields[22 - 3]), ("S", "1", "4242"));
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        let mut process = training();
        process.name = "einslängeresProz".into();
        assert_eq!(process.comm(), "einslängeresPr\n");
        assert_eq!(process.cmdline(), "python3\0offline_training.py\0");
        assert_eq!(process.cgroup(), "0::/kubepods.slice/besteffort\n");
    }
}
