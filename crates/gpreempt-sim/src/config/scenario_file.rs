//! The scenario file: what TOML says, checked and turned into a [`Scenario`].

use std::collections::BTreeSet;

use serde::Deserialize;
use toml::Spanned;

use super::source::Source;
use super::{
    CALLER_IN_A_NAMESPACE, ConfigError, Fault, FaultKind, FaultPoint, ProcessSpec, QueueSpec, QueueType, Scenario,
    Workload,
};

/// KFD gives a process at most 1024 queue ids.
const MAX_QUEUES: u32 = 1024;
/// The largest pid of a 64-bit kernel.
const MAX_PID: u32 = 1 << 22;
/// A ring of the largest size still has its packets counted in 32 bits.
const MAX_RING_BYTES: u32 = 1 << 30;
/// AQL packets are 64 bytes, so more can never be in the largest ring.
const MAX_PACKETS: u32 = MAX_RING_BYTES / 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    name: Spanned<String>,
    #[serde(default)]
    about: String,
    preempt_timeout_ms: Option<Spanned<u32>>,
    max_hold_ms: Option<Spanned<u32>>,
    #[serde(default)]
    process: Vec<Spanned<RawProcess>>,
    #[serde(default)]
    fault: Vec<RawFault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProcess {
    name: Spanned<String>,
    pid: Option<Spanned<u32>>,
    namespace_pid: Option<Spanned<u32>>,
    #[serde(default)]
    caller: bool,
    uid: Option<u32>,
    cgroup: Option<Spanned<String>>,
    command: Option<Spanned<Vec<String>>>,
    #[serde(default = "yes")]
    runtime_enabled: bool,
    #[serde(default)]
    queue: Vec<RawQueue>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQueue {
    #[serde(default)]
    nodes: Vec<Spanned<u32>>,
    count: Option<Spanned<u32>>,
    #[serde(default)]
    kind: QueueType,
    priority: Option<Spanned<u32>>,
    percent: Option<Spanned<u32>>,
    ring_bytes: Option<Spanned<u32>>,
    gws: Option<Spanned<bool>>,
    work: Option<RawWork>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum RawWork {
    Manual,
    Continuous(RawContinuous),
    Periodic(RawPeriodic),
    Poisson(RawPoisson),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContinuous {
    packet_us: Spanned<f64>,
    occupancy: Spanned<f64>,
    depth: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeriodic {
    period_ms: Spanned<f64>,
    packets: Spanned<u32>,
    packet_us: Spanned<f64>,
    occupancy: Spanned<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPoisson {
    per_second: Spanned<f64>,
    packets: Spanned<u32>,
    packet_us: Spanned<f64>,
    occupancy: Spanned<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    at: RawPoint,
    what: RawKind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum RawPoint {
    TimeMs(Spanned<f64>),
    Batch(RawBatch),
    Round(Spanned<u64>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch {
    nth: Spanned<u64>,
    #[serde(default)]
    entry: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum RawKind {
    HwsTimeout(OfNode),
    NodeReset(OfNode),
    QueueReset(OfQueue),
    QueueDestroyed(OfQueue),
    ProcessGone(OfProcess),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNode {
    node: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfQueue {
    pid: u32,
    queue: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfProcess {
    pid: u32,
}

/// Reads a scenario; `nodes`: of the machine that it is for, where that is known.
pub(super) fn parse(file: Source<'_>, nodes: Option<u32>) -> Result<Scenario, ConfigError> {
    let raw: RawScenario = file.parse()?;
    let mut pids = BTreeSet::new();
    let mut callers = 0;
    let mut processes = Vec::new();
    for raw in raw.process {
        let span = raw.span();
        let process = process(raw.into_inner(), file, nodes)?;
        callers += u32::from(process.caller);
        if callers > 1 {
            return Err(file.blame(span, "only one process can be the caller"));
        }
        if process.caller && process.namespace_pid.is_some() {
            return Err(file.blame(span, CALLER_IN_A_NAMESPACE));
        }
        if process.pid != 0 && !pids.insert(process.pid) {
            return Err(file.blame(span, format!("pid {} is taken by an earlier process", process.pid)));
        }
        processes.push(process);
    }
    let positive = |value: Option<Spanned<u32>>| {
        value.map(|v| file.check(v, |v| *v > 0, "a timeout is at least 1 ms")).transpose()
    };
    Ok(Scenario {
        name: file.check(raw.name, |n| !n.trim().is_empty(), "a scenario has a name")?,
        about: raw.about,
        processes,
        faults: raw.fault.into_iter().map(|raw| fault(raw, file, nodes)).collect::<Result<_, _>>()?,
        preempt_timeout_ms: positive(raw.preempt_timeout_ms)?,
        max_hold_ms: positive(raw.max_hold_ms)?,
    })
}

fn process(raw: RawProcess, file: Source<'_>, nodes: Option<u32>) -> Result<ProcessSpec, ConfigError> {
    let pid = |value: Option<Spanned<u32>>| {
        let message = format!("a pid is 1 to {MAX_PID}");
        value.map(|v| file.check(v, |v| (1..=MAX_PID).contains(v), &message)).transpose()
    };
    let printable = |text: &str| !text.chars().any(char::is_control);
    let name = file.check(raw.name, |n| !n.is_empty() && printable(n), "a process has a printable name")?;
    let cgroup = raw.cgroup.map(|c| file.check(c, |c| c.starts_with('/') && printable(c), "a cgroup is a path from /"));
    let command = raw.command.map(|c| file.check(c, |c| !c.iter().any(|w| w.contains('\0')), "a word holds no NUL"));
    Ok(ProcessSpec {
        pid: pid(raw.pid)?.unwrap_or(0),
        namespace_pid: pid(raw.namespace_pid)?,
        caller: raw.caller,
        uid: raw.uid,
        cgroup: cgroup.transpose()?.unwrap_or_else(|| "/".to_owned()),
        command: command.transpose()?.unwrap_or_else(|| vec![name.clone()]),
        runtime_enabled: raw.runtime_enabled,
        queues: raw.queue.into_iter().map(|raw| queue(raw, file, nodes)).collect::<Result<_, _>>()?,
        name,
    })
}

fn queue(raw: RawQueue, file: Source<'_>, nodes: Option<u32>) -> Result<QueueSpec, ConfigError> {
    let usual = QueueSpec::default();
    let within = |value: Option<Spanned<u32>>, usual: u32, least: u32, most: u32| match value {
        Some(value) => file.check(value, |v| (least..=most).contains(v), &format!("must be {least} to {most}")),
        None => Ok(usual),
    };
    let ring_bytes = match raw.ring_bytes {
        Some(bytes) => file.check(
            bytes,
            |b| b.is_power_of_two() && (1024..=MAX_RING_BYTES).contains(b),
            "a ring is a power of two of 1024 bytes to 1 GiB",
        )?,
        None => usual.ring_bytes,
    };
    let compute = raw.kind == QueueType::Compute;
    let gws = match raw.gws {
        Some(gws) => file.check(gws, |g| compute || !*g, "only a compute queue can hold global wave sync")?,
        None => usual.gws,
    };
    Ok(QueueSpec {
        nodes: raw.nodes.into_iter().map(|raw| node(raw, file, nodes)).collect::<Result<_, _>>()?,
        count: within(raw.count, usual.count, 1, MAX_QUEUES)?,
        kind: raw.kind,
        priority: within(raw.priority, usual.priority, 0, 15)?,
        percent: within(raw.percent, usual.percent, 0, 100)?,
        ring_bytes,
        gws,
        work: raw.work.map_or(Ok(usual.work), |work| workload(work, file))?,
    })
}

fn node(raw: Spanned<u32>, file: Source<'_>, nodes: Option<u32>) -> Result<u32, ConfigError> {
    match nodes {
        Some(nodes) => {
            let message = format!("there is no node {}: the machine has {nodes}, counted from 0", raw.get_ref());
            file.check(raw, |node| *node < nodes, &message)
        }
        None => Ok(raw.into_inner()),
    }
}

fn workload(raw: RawWork, file: Source<'_>) -> Result<Workload, ConfigError> {
    let occupancy = |value: Spanned<f64>| {
        file.check(value, |o| *o > 0.0 && *o <= 1.0, "occupancy is a share of the wave slots, above 0 and at most 1")
    };
    let packets = |value: Spanned<u32>| {
        file.check(value, |p| (1..=MAX_PACKETS).contains(p), "at least one packet, and few enough for a ring")
    };
    Ok(match raw {
        RawWork::Manual => Workload::Manual,
        RawWork::Continuous(raw) => Workload::Continuous {
            packet_ns: file.duration(raw.packet_us, 1e3, 1)?,
            occupancy: occupancy(raw.occupancy)?,
            depth: packets(raw.depth)?,
        },
        RawWork::Periodic(raw) => Workload::Periodic {
            period_ns: file.duration(raw.period_ms, 1e6, 1)?,
            packets: packets(raw.packets)?,
            packet_ns: file.duration(raw.packet_us, 1e3, 1)?,
            occupancy: occupancy(raw.occupancy)?,
        },
        RawWork::Poisson(raw) => Workload::Poisson {
            rate: file.check(raw.per_second, |r| *r > 0.0 && *r <= 1e6, "a rate is above 0 and at most a million")?,
            packets: packets(raw.packets)?,
            packet_ns: file.duration(raw.packet_us, 1e3, 1)?,
            occupancy: occupancy(raw.occupancy)?,
        },
    })
}

fn fault(raw: RawFault, file: Source<'_>, nodes: Option<u32>) -> Result<Fault, ConfigError> {
    let nth = |value: Spanned<u64>| file.check(value, |n| *n > 0, "counted from 1");
    Ok(Fault {
        at: match raw.at {
            RawPoint::TimeMs(ms) => FaultPoint::Time(file.duration(ms, 1e6, 0)?),
            RawPoint::Batch(batch) => FaultPoint::Batch { nth: nth(batch.nth)?, entry: batch.entry },
            RawPoint::Round(round) => FaultPoint::Round { nth: nth(round)? },
        },
        kind: match raw.what {
            RawKind::HwsTimeout(of) => FaultKind::HwsTimeout { node: node(of.node, file, nodes)? },
            RawKind::NodeReset(of) => FaultKind::NodeReset { node: node(of.node, file, nodes)? },
            RawKind::QueueReset(of) => FaultKind::QueueReset { pid: of.pid, queue: of.queue },
            RawKind::QueueDestroyed(of) => FaultKind::QueueDestroyed { pid: of.pid, queue: of.queue },
            RawKind::ProcessGone(of) => FaultKind::ProcessGone { pid: of.pid },
        },
    })
}
