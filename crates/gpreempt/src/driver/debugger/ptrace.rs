//! The right to trace a process: who has it, and who could give it.

use crate::discover::proc::{self, Status};
use crate::host::Host;
use crate::queue::Pid;

/// Bit of CAP_SYS_PTRACE in a capability mask.
const CAP_SYS_PTRACE: u32 = 19;

const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// What decides whether this process may trace others, as `/proc` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// Has CAP_SYS_PTRACE, where `/proc/self/status` says.
    pub capable: bool,
    /// Effective user id.
    pub euid: u32,
    /// `kernel.yama.ptrace_scope`; 0, the most open, where the kernel has no Yama.
    pub scope: u32,
}

impl Right {
    /// Of this process.
    pub fn of_self(host: &dyn Host) -> Right {
        let scope = host.read_text(SCOPE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let status = proc::status(host, "self").ok().flatten().unwrap_or_default();
        Right { capable: status.effective_capabilities >> CAP_SYS_PTRACE & 1 == 1, euid: host.identity().euid, scope }
    }

    /// What stands in the way of tracing any process of this user: the reason, and the command that removes it.
    pub fn obstacle(&self) -> Option<(String, &'static str)> {
        match (self.scope, self.capable) {
            (3.., _) => Some((
                format!("kernel.yama.ptrace_scope is {}: nobody traces until the next boot", self.scope),
                "set kernel.yama.ptrace_scope=0 in /etc/sysctl.d and reboot",
            )),
            (0, _) | (_, true) => None,
            (scope, false) => Some((
                format!("kernel.yama.ptrace_scope is {scope} and this process has no CAP_SYS_PTRACE"),
                "sudo sysctl kernel.yama.ptrace_scope=0 (in a container: start it with --cap-add SYS_PTRACE)",
            )),
        }
    }

    /// Why a process could not be traced, and what to do.
    pub(super) fn refused(&self, host: &dyn Host, pid: Pid) -> (String, String) {
        let target = proc::status(host, &pid.to_string()).ok().flatten();
        match target {
            Some(Status { tracer, .. }) if tracer != 0 => {
                (format!("pid {tracer} traces it already"), "end that debugger first".to_owned())
            }
            Some(Status { uid, .. }) if uid != self.euid && !self.capable => (
                format!("it belongs to uid {uid}, this process to uid {}, without CAP_SYS_PTRACE", self.euid),
                format!("run as uid {uid}, or as root (in a container: start it with --cap-add SYS_PTRACE)"),
            ),
            _ => match self.obstacle() {
                Some((because, remedy)) => (because, remedy.to_owned()),
                None => (
                    "no ptrace right on it (it may have given up being dumped)".to_owned(),
                    "run as root, with CAP_SYS_PTRACE".to_owned(),
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::os::OsHost;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, OsHost) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = OsHost::with_root(root.path());
        (root, host)
    }

    const NO_CAPABILITY: &str = "Uid:\t7\t7\t7\t7\nCapEff:\t0000000000000000\n";
    const ALL_CAPABILITIES: &str = "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n";

    #[test]
    fn a_kernel_without_yama_lets_a_user_trace_its_own() {
        let (_root, host) = host(&[("/proc/self/status", NO_CAPABILITY)]);
        assert_eq!(Right::of_self(&host).obstacle(), None);
    }

    #[test]
    fn yama_is_named_with_the_command_that_opens_it_and_a_capability_passes_it() {
        let (_root, refused) = host(&[("/proc/self/status", NO_CAPABILITY), (SCOPE, "1\n")]);
        let (because, remedy) = Right::of_self(&refused).obstacle().unwrap();
        assert!(because.contains("ptrace_scope is 1") && remedy.starts_with("sudo sysctl"), "{because}; {remedy}");
        let (_root, passed) = host(&[("/proc/self/status", ALL_CAPABILITIES), (SCOPE, "2\n")]);
        assert_eq!(Right::of_self(&passed).obstacle(), None);
    }

    #[test]
    fn a_scope_of_3_stops_root_too() {
        let (_root, host) = host(&[("/proc/self/status", ALL_CAPABILITIES), (SCOPE, "3\n")]);
        assert!(Right::of_self(&host).obstacle().unwrap().1.contains("reboot"));
    }

    #[test]
    fn a_refusal_names_the_other_user_or_the_other_tracer() {
        let uid = nix::unistd::geteuid().as_raw() + 1;
        let foreign = format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nTracerPid:\t0\n");
        let traced = "Uid:\t1\t1\t1\t1\nTracerPid:\t77\n";
        let (_root, host) =
            host(&[("/proc/self/status", NO_CAPABILITY), ("/proc/5/status", &foreign), ("/proc/6/status", traced)]);
        let right = Right::of_self(&host);
        assert!(right.refused(&host, 5).0.contains(&format!("uid {uid}")));
        assert!(right.refused(&host, 6).0.contains("pid 77"));
    }
}
