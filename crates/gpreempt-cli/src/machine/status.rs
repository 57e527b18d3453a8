//! `gpreempt status`: the queue slots of every GPU.

use std::io::Write;

use gpreempt::discover::Discovery;
use gpreempt::{GpuId, HqdStatus, NodeFlags};
use serde::Serialize;

use super::{basis, open, print_json, tier};
use crate::Failure;
use crate::args::MachineArgs;
use crate::table::Table;

#[derive(Serialize)]
struct Status {
    schema_version: u32,
    machine: String,
    tier: String,
    basis: String,
    nodes: Vec<NodeStatus>,
    total: HqdStatus,
}

#[derive(Serialize)]
struct NodeStatus {
    node: u32,
    gpu_id: GpuId,
    status: HqdStatus,
}

/// Runs `gpreempt status`.
pub(crate) fn status(args: &MachineArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let session = open()?;
    let mut nodes = Vec::new();
    for node in Discovery::new(&**session.host()).nodes()? {
        nodes.push(NodeStatus { node: node.index, gpu_id: node.gpu, status: session.status(node.gpu)? });
    }
    let status = Status {
        schema_version: 1,
        machine: session.host().describe(),
        tier: tier(&session),
        basis: basis(&session),
        nodes,
        total: session.status(GpuId::ALL)?,
    };
    if args.json {
        return print_json(&status, out);
    }
    writeln!(out, "{} (tier {})", status.machine, status.tier)?;
    let mut table = Table::new(&[
        &[
            "", "gpu_id", "slots", "active", "free", "online", "offline", "offline", "held", "left", "queues", "unmap",
            "",
        ],
        &["node", "", "", "", "", "reserved", "mapped", "max", "off", "out", "", "rounds", "state"],
    ]);
    for node in &status.nodes {
        table.row(row(node.node.to_string(), node.gpu_id.0.to_string(), &node.status));
    }
    table.row(row("all".into(), String::new(), &status.total));
    table.print(out)?;
    Ok(())
}

fn row(node: String, gpu: String, status: &HqdStatus) -> Vec<String> {
    let numbers = [
        status.total,
        status.active,
        status.free,
        status.online_reserved,
        status.offline_used,
        status.offline_max,
        status.preempted,
        status.throttled,
        status.queues_total,
    ];
    let mut row = vec![node, gpu];
    row.extend(numbers.iter().map(u32::to_string));
    row.push(status.unmap_rounds.to_string());
    row.push(state(NodeFlags::from_bits_truncate(status.flags)));
    row
}

fn state(flags: NodeFlags) -> String {
    let words = [
        (NodeFlags::OVERSUBSCRIBED, "oversubscribed"),
        (NodeFlags::RESETTING, "resetting"),
        (NodeFlags::STOPPED, "stopped"),
    ];
    let found: Vec<&str> = words.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, word)| *word).collect();
    if found.is_empty() { "ok".into() } else { found.join(", ") }
}
