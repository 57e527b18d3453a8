//! Three troubles that everybody meets: what is seen of each now, and what to do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::facts::{Facts, Use};

/// Queues of a process on one node (GFX 9.4.3).
const QUEUES_PER_PROCESS: u32 = 255;

/// Share of a limit from which it is called near.
const NEAR: u32 = 90;

/// An unmap round that takes longer is slow, whatever GPU it is.
const SLOW: Duration = Duration::from_millis(10);

/// A trouble.
#[derive(Debug, Serialize)]
pub(super) struct Trouble {
    pub name: &'static str,
    pub symptom: &'static str,
    /// Whether its cause is there now.
    pub seen: bool,
    pub evidence: Vec<String>,
    pub remedy: String,
}

pub(super) fn troubles(facts: &Facts) -> Vec<Trouble> {
    vec![refused(facts), no_slot(facts), slow(facts)]
}

/// The process with most queues in a use, as the one to look at first.
fn greediest<'a>(uses: impl IntoIterator<Item = &'a Use>) -> Option<(u32, u32)> {
    let mut by_owner: BTreeMap<u32, u32> = BTreeMap::new();
    for (&pid, &queues) in uses.into_iter().flat_map(|node| &node.owners) {
        *by_owner.entry(pid).or_default() += queues;
    }
    by_owner.into_iter().max_by_key(|&(pid, queues)| (queues, std::cmp::Reverse(pid)))
}

pub(super) fn refused(facts: &Facts) -> Trouble {
    let limit = facts.parameter("max_num_of_queues_per_device").and_then(|value| u32::try_from(value).ok());
    let policy = facts.parameter("sched_policy");
    let mut seen = false;
    let mut evidence = vec![facts.parameter_words("max_num_of_queues_per_device")];
    for node in facts.nodes() {
        let found = facts.use_of(node.gpu);
        let near = |count: u32, limit: u32| u64::from(count) * 100 >= u64::from(limit) * u64::from(NEAR);
        let full = limit.is_some_and(|limit| near(found.queues, limit));
        let most = found.owners.values().copied().max().unwrap_or(0);
        let no_more = policy == Some(1) && found.compute_queues >= node.num_cp_queues;
        seen |= full || near(most, QUEUES_PER_PROCESS) || no_more;
        evidence.push(format!(
            "node {}: {} queues; most of one process: {most} of {QUEUES_PER_PROCESS}{}",
            node.index,
            found.queues,
            if no_more { "; sched_policy=1 allows no more than its slots" } else { "" },
        ));
    }
    let greedy = greediest(facts.uses.values()).map_or_else(String::new, |(pid, queues)| {
        format!("end or fix the process that has most (pid {pid}: {queues}), or ")
    });
    Trouble {
        name: "creation-refused",
        symptom: "a program cannot create a queue (\"Can't create new usermode queue\" in the kernel log)",
        seen,
        evidence,
        remedy: format!(
            "{greedy}boot with amdgpu.max_num_of_queues_per_device=8192{}; unmapped queues count, too",
            if policy == Some(1) { " and amdgpu.sched_policy=0" } else { "" }
        ),
    }
}

pub(super) fn no_slot(facts: &Facts) -> Trouble {
    let mut seen = false;
    let mut evidence = Vec::new();
    for node in facts.nodes() {
        let active = facts.use_of(node.gpu).compute_queues;
        seen |= node.num_cp_queues > 0 && active >= node.num_cp_queues;
        evidence.push(format!(
            "node {}: {} of {} slots have a queue",
            node.index,
            active.min(node.num_cp_queues),
            node.num_cp_queues
        ));
    }
    evidence.push(facts.parameter_words("num_kcq"));
    Trouble {
        name: "no-free-slot",
        symptom: "queues take turns (firmware schedules in slices) and online requests wait for one",
        seen,
        evidence,
        remedy:
            "register the offline processes with the scheduler so that they leave when online work comes; have idle \
                 queues unmapped (LAZY_ACTIVATION, tier patched); or boot with amdgpu.num_kcq=2"
                .to_owned(),
    }
}

pub(super) fn slow(facts: &Facts) -> Trouble {
    let mut seen = false;
    let mut evidence = vec![facts.parameter_words("queue_preemption_timeout_ms"), facts.parameter_words("cwsr_enable")];
    let series = facts.look.as_ref().ok().and_then(|look| look.series.as_ref().ok());
    match series {
        Some(series) => {
            for (gpu, took) in &series.last_unmap {
                seen |= *took >= SLOW;
                evidence.push(format!("{gpu}: the last unmap round took {} us", took.as_micros()));
            }
        }
        None => evidence.push("how long rounds take is told by tier patched only".to_owned()),
    }
    for node in facts.nodes() {
        let found = facts.use_of(node.gpu);
        seen |= found.evicted_ms > 0;
        if found.evicted_ms > 0 {
            evidence.push(format!(
                "node {}: memory management kept queues of one process off it for {} ms in all",
                node.index, found.evicted_ms
            ));
        }
    }
    Trouble {
        name: "slow-map",
        symptom: "unmapping or mapping takes milliseconds, or times out (ETIME)",
        seen,
        evidence,
        remedy: "look for a hang of the firmware (sudo dmesg | grep -iE 'hws|preempt|hiq'); unmap in one batch, not queue by \
                 queue; keep the memory of all processes below the GPU's, so that none is evicted"
            .to_owned(),
    }
}
