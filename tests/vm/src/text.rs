//! The driver's own text, with the names of [`crate::names`].

use std::fmt::Write;

use gpreempt_sim::pm4::{Engine, Packet, decode};

use crate::names::Names;

/// `mqds`: which process has which queues on which node, in the order of each process. The images of the queues are left
/// out: most of their words are addresses, and the hardware's own state is a model on both sides.
pub fn mqds(text: &str, names: &mut Names) -> String {
    let mut processes: Vec<String> = Vec::new();
    let mut listed = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Process ") {
            let (pid, pasid) = rest.split_once(" PASID ").unwrap_or((rest, ""));
            // Others than the actors have no queues.
            listed = pid.parse().ok().and_then(|pid| names.actor_of(pid)).is_some();
            if listed {
                let known = pasid.starts_with("0x") && pasid.ends_with(':');
                let pid = pid.parse().map_or_else(|_| pid.to_owned(), |pid| names.pid(pid));
                processes.push(format!("{pid}{}", if known { "" } else { " without PASID" }));
            }
        } else if let Some((kind, gpu)) = line.trim_start().split_once(" queue on device ") {
            let gpu = u32::from_str_radix(gpu, 16).map_or_else(|_| gpu.to_owned(), |gpu| names.gpu(gpu));
            match processes.last_mut() {
                Some(last) if listed => last.push_str(&format!(" {kind}@{gpu}")),
                _ => processes.push(format!("? {line}")),
            }
        } else if !line.starts_with("    ") {
            processes.push(format!("? {line}"));
        }
    }
    // The kernel lists processes by the hash of their address space.
    processes.sort();
    processes.join("; ")
}

/// Which queue of an actor has its write pointer at this address.
pub type Owner<'a> = &'a dyn Fn(usize, u64) -> Option<u32>;

/// `rls`: the packets of every node's runlist.
pub fn rls(text: &str, names: &mut Names, owner: Owner<'_>) -> String {
    let mut nodes: Vec<(String, Option<Vec<u32>>)> = Vec::new();
    for line in text.lines() {
        if let Some((_, gpu)) = line.strip_prefix("Node ").and_then(|rest| rest.split_once(", gpu_id ")) {
            let gpu = gpu.trim_end_matches(':');
            let gpu = u32::from_str_radix(gpu, 16).map_or_else(|_| gpu.to_owned(), |gpu| names.gpu(gpu));
            nodes.push((gpu, None));
        } else if let Some((_, words)) = line.split_once(": ")
            && let Some((_, ib)) = nodes.last_mut()
        {
            let words = words.split_whitespace().filter_map(|word| u32::from_str_radix(word, 16).ok());
            ib.get_or_insert_default().extend(words);
        }
    }
    let nodes: Vec<String> = nodes
        .into_iter()
        .map(|(gpu, ib)| match ib {
            None => format!("{gpu}: nothing"),
            Some(ib) => format!("{gpu}:{}", packets(&ib, names, owner)),
        })
        .collect();
    nodes.join("; ")
}

fn packets(ib: &[u32], names: &mut Names, owner: Owner<'_>) -> String {
    let mut text = String::new();
    let mut actor = None;
    for packet in decode(ib) {
        let _ = match packet {
            Ok(Packet::MapProcess(it)) => {
                actor = names.actor_of_pasid(it.pasid.into());
                let who = actor.map_or_else(|| "somebody".to_owned(), |actor| format!("a{actor}"));
                write!(text, " {who}(queues={} gws={} quantum={})", it.num_queues, it.num_gws, it.quantum)
            }
            Ok(Packet::MapQueues(it)) => {
                let queue = actor.and_then(|actor| owner(actor, it.wptr));
                let queue = queue.map_or_else(|| "?".to_owned(), |id| id.to_string());
                let engine = match it.engine {
                    Engine::Compute => "",
                    Engine::Sdma(_) => " sdma",
                };
                write!(text, " q{queue}{engine}{}", if it.gws { " gws" } else { "" })
            }
            Ok(Packet::RunList(it)) => write!(text, " chain({} processes)", it.processes),
            Ok(other) => write!(text, " {other:?}"),
            Err(it) => write!(text, " malformed({:#x})", it.header),
        };
    }
    text
}
