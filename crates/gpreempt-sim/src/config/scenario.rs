//! Scenarios: the guest processes of a machine, their queues and their work.

use std::path::Path;

use serde::Deserialize;

use super::source::{self, Source};
use super::{ConfigError, Fault, scenario_file};

/// The scenarios that are built in as files, by name.
const BUILTIN: &[(&str, &str)] = &[
    ("demo", include_str!("../../models/scenarios/demo.toml")),
    ("oversubscribed", include_str!("../../models/scenarios/oversubscribed.toml")),
];

/// Kind of a queue, as `CREATE_QUEUE` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

/// One queue (or `count` equal ones on each named node).
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

impl Default for QueueSpec {
    /// What ROCr creates: one compute queue of normal priority and 64 KiB on every node, with nothing to do.
    fn default() -> QueueSpec {
        QueueSpec {
            nodes: Vec::new(),
            count: 1,
            kind: QueueType::Compute,
            priority: 7,
            percent: 100,
            ring_bytes: 64 << 10,
            gws: false,
            work: Workload::Manual,
        }
    }
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

/// One GEMM of a training step, ns: 127,644 iterations at 1.41 ms on an MI308X (a public run log).
const GEMM_NS: u64 = 1_410_000;

/// Training jobs of the default scenario: pid, pid inside its container, priority.
const TRAINING: [(u32, Option<u32>, u32); 3] = [(41207, None, 2), (41208, None, 2), (52119, Some(23), 5)];

/// Why the caller has no `namespace_pid`: the pids that ioctls take and report are those of the init namespace.
pub(crate) const CALLER_IN_A_NAMESPACE: &str = "the caller lives in the init pid namespace: it has no namespace_pid";

impl Scenario {
    /// The names of the scenarios that are built in, `default` and `empty` included.
    pub fn builtin() -> Vec<&'static str> {
        ["default", "empty"].into_iter().chain(BUILTIN.iter().map(|(name, _)| *name)).collect()
    }

    /// What a machine with this many KFD nodes comes up with: three offline training jobs at priorities 2 to 5, dealt
    /// over the nodes (all on every node where there are fewer than three), and one online service at 12 with a queue
    /// on each node.
    pub fn builtin_default(nodes: u32) -> Scenario {
        let jobs = TRAINING.len() as u32;
        let mut processes: Vec<_> = (0..jobs)
            .zip(TRAINING)
            .map(|(rank, (pid, namespace_pid, priority))| {
                let mine = if nodes < jobs { 0..nodes } else { rank..nodes };
                let mine: Vec<u32> = mine.step_by(if nodes < jobs { 1 } else { jobs as usize }).collect();
                training_job(rank, pid, namespace_pid, priority, mine)
            })
            .collect();
        processes.push(ProcessSpec {
            name: "python3".into(),
            pid: 60311,
            namespace_pid: Some(1),
            caller: false,
            uid: None,
            cgroup: "/kubepods.slice/guaranteed/online-inference".into(),
            command: ["python3", "online_inference.py"].map(String::from).into(),
            runtime_enabled: true,
            queues: vec![QueueSpec {
                priority: 12,
                work: Workload::Periodic { period_ns: 50_000_000, packets: 4, packet_ns: 500_000, occupancy: 0.25 },
                ..QueueSpec::default()
            }],
        });
        Scenario {
            name: "default".into(),
            about: "Three offline training jobs (priorities 2 to 5) and one online service (priority 12).".into(),
            processes,
            ..Scenario::default()
        }
    }

    /// Nobody.
    pub fn empty() -> Scenario {
        Scenario { name: "empty".into(), about: "No guests.".into(), ..Scenario::default() }
    }

    /// A built-in scenario by its name, or the scenario of a file by its path, for a machine with this many KFD nodes.
    ///
    /// # Errors
    /// Unknown name, unreadable file, or a file that says something impossible (with its line), such as a node that the
    /// machine does not have.
    pub fn named(name_or_path: &str, nodes: u32) -> Result<Scenario, ConfigError> {
        match name_or_path {
            "default" => Ok(Scenario::builtin_default(nodes)),
            "empty" => Ok(Scenario::empty()),
            _ => {
                let text = source::find("scenario", name_or_path, BUILTIN, &Scenario::builtin())?;
                scenario_file::parse(Source { path: name_or_path, text: &text }, Some(nodes))
            }
        }
    }

    /// The scenario of a file.
    ///
    /// # Errors
    /// Unreadable file, or a file that says something impossible (with its line).
    pub fn load(path: &Path) -> Result<Scenario, ConfigError> {
        let path = path.to_string_lossy();
        Scenario::parse(&path, &source::read(&path)?)
    }

    /// A scenario from the text of a file; `path` is for error messages.
    ///
    /// # Errors
    /// What is wrong in the text, with its line.
    pub fn parse(path: &str, text: &str) -> Result<Scenario, ConfigError> {
        scenario_file::parse(Source { path, text }, None)
    }
}

/// One rank of a training job: compute queues for two streams and the runtime's own, and one for copies.
fn training_job(rank: u32, pid: u32, namespace_pid: Option<u32>, priority: u32, nodes: Vec<u32>) -> ProcessSpec {
    let queue =
        |kind, count, work| QueueSpec { nodes: nodes.clone(), kind, count, priority, work, ..QueueSpec::default() };
    let gemm = Workload::Continuous { packet_ns: GEMM_NS, occupancy: 0.3, depth: 4 };
    let copy = Workload::Periodic { period_ns: 10_000_000, packets: 1, packet_ns: 300_000, occupancy: 0.01 };
    ProcessSpec {
        name: "python3".into(),
        pid,
        namespace_pid,
        caller: false,
        uid: None,
        cgroup: format!("/kubepods.slice/besteffort/offline-training-{rank}"),
        command: ["python3", "offline_training.py", "--rank", &rank.to_string()].map(String::from).into(),
        runtime_enabled: true,
        queues: vec![
            queue(QueueType::Compute, 2, gemm),
            queue(QueueType::Compute, 1, Workload::Manual),
            queue(QueueType::Sdma, 1, copy),
        ],
    }
}
