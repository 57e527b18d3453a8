//! Scenarios: the guest processes of a machine, their queues and their work.

use std::path::Path;

use super::{ConfigError, Fault};

/// Kind of a queue, as `CREATE_QUEUE` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueType {
    /// AQL compute.
    #[default]
    Compute,
    /// SDMA over PCIe.
    Sdma,
    /// SDMA over XGMI.
    SdmaXgmi,
}

/// What the owner of a queue feeds into it. Durations are of one packet alone on its node.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// Nothing by itself; a program submits with [`crate::Machine::submit`].
    Manual,
    /// Closed loop: always `depth` packets in the ring.
    Continuous {
        /// Duration of one packet, ns.
        packet_ns: u64,
        /// Share of the node's wave slots that one running packet fills, 0 < o <= 1.
        occupancy: f64,
        /// Packets kept in flight.
        depth: u32,
    },
    /// Open loop: a burst every period.
    Periodic {
        /// Distance of two bursts, ns.
        period_ns: u64,
        /// Packets per burst.
        packets: u32,
        /// Duration of one packet, ns.
        packet_ns: u64,
        /// Share of the node's wave slots, 0 < o <= 1.
        occupancy: f64,
    },
    /// Open loop: bursts with exponential gaps.
    Poisson {
        /// Bursts per second.
        rate: f64,
        /// Packets per burst.
        packets: u32,
        /// Duration of one packet, ns.
        packet_ns: u64,
        /// Share of the node's wave slots, 0 < o <= 1.
        occupancy: f64,
    },
}

/// One queue (or `count` equal ones on each named GPU).
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSpec {
    /// KFD nodes by index over the machine's GPU nodes, 0 first; empty = every node.
    pub nodes: Vec<u32>,
    /// How many of these on each node.
    pub count: u32,
    /// Kind.
    pub kind: QueueType,
    /// KFD queue priority, 0 to 15.
    pub priority: u32,
    /// KFD queue percentage, 0 to 100.
    pub percent: u32,
    /// Ring size, bytes, a power of two.
    pub ring_bytes: u32,
    /// Whether it holds global wave sync.
    pub gws: bool,
    /// What its owner feeds it.
    pub work: Workload,
}

/// One guest process.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessSpec {
    /// `/proc/<pid>/comm`.
    pub name: String,
    /// Pid in the init namespace; 0 = chosen by the machine. Ignored for `caller`.
    pub pid: u32,
    /// The innermost pid of `NSpid`, where it lives in a pid namespace of its own.
    pub namespace_pid: Option<u32>,
    /// This process is the calling process itself.
    pub caller: bool,
    /// User id; None = the caller's.
    pub uid: Option<u32>,
    /// The path of `/proc/<pid>/cgroup` (v2), for example `/kubepods.slice/besteffort`.
    pub cgroup: String,
    /// `/proc/<pid>/cmdline` words.
    pub command: Vec<String>,
    /// Whether it did RUNTIME_ENABLE before its first queue, as ROCr does.
    pub runtime_enabled: bool,
    /// Its queues, in creation order.
    pub queues: Vec<QueueSpec>,
}

/// The guests of a machine and what goes wrong on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scenario {
    /// Name, for reports.
    pub name: String,
    /// One sentence.
    pub about: String,
    /// The guests, in start order.
    pub processes: Vec<ProcessSpec>,
    /// Injected faults.
    pub faults: Vec<Fault>,
    /// `queue_preemption_timeout_ms`; None = the driver's 9000.
    pub preempt_timeout_ms: Option<u32>,
    /// The lease watchdog's default and maximum; None = the driver's 10000.
    pub max_hold_ms: Option<u32>,
}

impl Scenario {
    /// The names of the scenarios that are built in, `default` and `empty` included.
    pub fn builtin() -> &'static [&'static str] {
        &["default", "empty", "demo", "oversubscribed"]
    }

    /// What a machine with this many KFD nodes comes up with: offline training at priorities 0 to 5 and one online
    /// service at 10 to 15, all with queues and work.
    pub fn builtin_default(_nodes: u32) -> Scenario {
        todo!()
    }

    /// Nobody.
    pub fn empty() -> Scenario {
        Scenario { name: "empty".into(), about: "No guests.".into(), ..Scenario::default() }
    }

    /// A built-in scenario by its name (`nodes` shapes `default`), or the scenario of a file by its path.
    ///
    /// # Errors
    /// Unknown name, unreadable file, or a file that says something impossible (with its line).
    pub fn named(_name_or_path: &str, _nodes: u32) -> Result<Scenario, ConfigError> {
        todo!()
    }

    /// The scenario of a file.
    ///
    /// # Errors
    /// Unreadable file, or a file that says something impossible (with its line).
    pub fn load(_path: &Path) -> Result<Scenario, ConfigError> {
        todo!()
    }

    /// A scenario from the text of a file; `path` is for error messages.
    ///
    /// # Errors
    /// What is wrong in the text, with its line.
    pub fn parse(_path: &str, _text: &str) -> Result<Scenario, ConfigError> {
        todo!()
    }
}
