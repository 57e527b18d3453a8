//! `gpreempt queues`: whose queues there are.

use std::io::Write;

use gpreempt::QueueInfo;
use serde::Serialize;

use super::{basis, open, print_json, tier};
use crate::Failure;
use crate::args::MachineArgs;
use crate::table::Table;

#[derive(Serialize)]
struct Queues {
    schema_version: u32,
    machine: String,
    tier: String,
    basis: String,
    queues: Vec<QueueInfo>,
}

/// Runs `gpreempt queues`.
pub(crate) fn queues(args: &MachineArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let session = open()?;
    let queues = Queues {
        schema_version: 1,
        machine: session.host().describe(),
        tier: tier(&session),
        basis: basis(&session),
        queues: session.queues()?.into_iter().map(|(_, info)| info).collect(),
    };
    if args.json {
        return print_json(&queues, out);
    }
    writeln!(out, "{} (tier {})", queues.machine, queues.tier)?;
    let mut table = Table::new(&[&[
        "command", "pid", "queue", "gpu_id", "kind", "ring KiB", "priority", "mapped", "idle", "cgroup",
    ]]);
    for info in &queues.queues {
        let kind = match info.kind {
            gpreempt::QueueType::Compute => "compute",
            gpreempt::QueueType::Sdma => "sdma",
            gpreempt::QueueType::SdmaXgmi => "sdma-xgmi",
        };
        table.row(vec![
            info.command.clone(),
            info.queue.pid.to_string(),
            info.queue.id.to_string(),
            info.gpu.0.to_string(),
            kind.to_owned(),
            (info.ring_bytes / 1024).to_string(),
            info.priority.map_or_else(unknown, |priority| priority.to_string()),
            info.active.map_or_else(unknown, yes_no),
            info.idle.map_or_else(unknown, yes_no),
            info.cgroup.clone(),
        ]);
    }
    table.print(out)?;
    Ok(())
}

/// What this tier does not tell.
fn unknown() -> String {
    "?".into()
}

fn yes_no(yes: bool) -> String {
    if yes { "yes".into() } else { "no".into() }
}
