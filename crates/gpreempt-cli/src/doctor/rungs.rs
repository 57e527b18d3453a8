//! The rungs of the ladder: each asks one question and says what it saw.

use gpreempt::driver::debugger::Right;
use gpreempt::driver::look::DEBUG_VERSION;
use serde::Serialize;

use super::facts::{Facts, KFD};

/// The processes that HWS maps at once where the GPU is not partitioned: VMIDs 3 to 15.
const PROCESS_SLOTS: usize = 13;

/// Major GFX version from which MES schedules.
const FIRST_MES: u32 = 11;

/// One rung.
#[derive(Debug, Serialize)]
pub(super) struct Rung {
    pub name: &'static str,
    pub question: &'static str,
    pub yes: bool,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What would make it a yes.
    pub enable: Option<String>,
}

fn rung(name: &'static str, question: &'static str, yes: bool, evidence: Vec<String>, enable: &str) -> Rung {
    Rung { name, question, yes, evidence, enable: (!yes).then(|| enable.to_owned()) }
}

/// All but the tiers, from the ground up. The first four are needed by every tier of a real machine.
pub(super) fn ground(facts: &Facts) -> Vec<Rung> {
    vec![amdkfd(facts), access(facts), gpu(facts), hws(facts), cwsr(facts), subscription(facts), pids(facts)]
}

/// How many of [`ground`] every tier needs.
pub(super) const NEEDED: usize = 4;

pub(super) fn amdkfd(facts: &Facts) -> Rung {
    let module = facts.host.list("/sys/module/amdgpu").is_ok();
    let yes = facts.kfd && facts.nodes.is_ok();
    let evidence = vec![
        format!("Linux {}", facts.kernel),
        format!("{KFD} {}", if facts.kfd { "exists" } else { "does not exist (ENOENT)" }),
        format!("module amdgpu is {}", if module { "loaded" } else { "not loaded" }),
        match &facts.nodes {
            Ok(_) => "/sys/class/kfd/kfd/topology is there".to_owned(),
            Err(error) => format!("/sys/class/kfd/kfd/topology: {:?}", error.errno()),
        },
    ];
    let enable = match (facts.in_container(), module) {
        (true, true) => "start the container with --device /dev/kfd --device /dev/dri",
        (_, true) => "load an amdgpu that was built with CONFIG_HSA_AMD",
        (_, false) => "sudo modprobe amdgpu",
    };
    rung("amdkfd", "Is the GPU compute driver there?", yes, evidence, enable)
}

pub(super) fn access(facts: &Facts) -> Rung {
    let yes = facts.look.is_ok();
    let mut evidence = vec![match &facts.look {
        Ok(_) => format!("{KFD} opens"),
        Err(error) => format!("{KFD} does not open ({:?})", error.errno()),
    }];
    let mut group = "render".to_owned();
    if let Some(owner) = facts.owner {
        group = facts.group(owner.gid);
        let member = facts.me.groups.contains(&owner.gid);
        evidence.push(format!(
            "it belongs to uid {}, group {group} ({}), mode {:04o}; this process has uid {} and is {}in that group",
            owner.uid,
            owner.gid,
            owner.mode,
            facts.host.identity().euid,
            if member { "" } else { "not " },
        ));
    }
    let enable = match (facts.kfd, facts.in_container()) {
        (false, _) => "see amdkfd".to_owned(),
        (true, true) => format!("start the container with --group-add {group} (the number on the host)"),
        (true, false) => format!("sudo usermod -aG {group} $USER, then log in again"),
    };
    rung("access", "May this user open it?", yes, evidence, &enable)
}

pub(super) fn gpu(facts: &Facts) -> Rung {
    let nodes = facts.nodes();
    let evidence = match &facts.nodes {
        Err(error) => vec![format!("no topology to look at ({:?})", error.errno())],
        Ok(nodes) if nodes.is_empty() => vec!["the topology has no node with a gpu_id".to_owned()],
        Ok(nodes) => nodes
            .iter()
            .map(|node| {
                let version = node.gfx_target_version;
                format!(
                    "node {}: gpu_id {}, {} (gfx {}.{}.{}), {} XCCs, {} queue slots",
                    node.index,
                    node.gpu.0,
                    if node.name.is_empty() { "unnamed" } else { &node.name },
                    version / 10_000,
                    version / 100 % 100,
                    version % 100,
                    node.num_xcc,
                    node.num_cp_queues,
                )
            })
            .collect(),
    };
    let enable = match facts.in_container() {
        true => "start the container with --device /dev/dri, whose device cgroup may hide the GPUs",
        false => "use a machine with an AMD Instinct GPU, or the simulated one (GPREEMPT_BACKEND=sim)",
    };
    rung("gpu", "Does it drive a GPU?", !nodes.is_empty(), evidence, enable)
}

pub(super) fn hws(facts: &Facts) -> Rung {
    let policy = facts.parameter("sched_policy");
    let mes: Vec<_> = facts.nodes().iter().filter(|node| node.gfx_target_version / 10_000 >= FIRST_MES).collect();
    let yes = policy != Some(2) && mes.is_empty() && !facts.nodes().is_empty();
    let mut evidence = vec![format!(
        "{} (0: HWS, 1: HWS without over-subscription, 2: no HWS)",
        facts.parameter_words("sched_policy")
    )];
    evidence.extend(mes.iter().map(|node| format!("node {} is scheduled by MES", node.index)));
    let enable = match (facts.nodes().is_empty(), mes.is_empty()) {
        (true, _) => "see gpu",
        (false, false) => "use a GPU that HWS schedules (gfx9); MES is not supported",
        (false, true) => "boot with amdgpu.sched_policy=0",
    };
    rung("hws", "Does firmware (HWS) schedule its queues?", yes, evidence, enable)
}

pub(super) fn cwsr(facts: &Facts) -> Rung {
    let yes = facts.parameter("cwsr_enable").is_some_and(|value| value != 0);
    let evidence = vec![facts.parameter_words("cwsr_enable")];
    let enable = match facts.parameter("cwsr_enable") {
        Some(_) => "boot with amdgpu.cwsr_enable=1: without it a queue leaves only when its waves have ended",
        None => "sudo modprobe amdgpu",
    };
    rung("cwsr", "Are running waves saved when a queue leaves (CWSR)?", yes, evidence, enable)
}

pub(super) fn subscription(facts: &Facts) -> Rung {
    let mut over = false;
    let mut evidence = vec![format!("{} (-1: 8)", facts.parameter_words("num_kcq"))];
    let runlists = gpreempt::discover::debugfs::rls(&*facts.host);
    for node in facts.nodes() {
        let found = facts.use_of(node.gpu);
        let chained =
            runlists.iter().flat_map(|dump| &dump.nodes).any(|list| list.gpu == node.gpu && list.oversubscribed);
        let too_many = found.compute_queues > node.num_cp_queues || found.owners.len() > PROCESS_SLOTS;
        over |= chained || too_many;
        evidence.push(format!(
            "node {}: {} compute queues for {} slots, {} processes for {PROCESS_SLOTS}{}",
            node.index,
            found.compute_queues,
            node.num_cp_queues,
            found.owners.len(),
            if chained { "; its runlist is chained" } else { "" },
        ));
    }
    if let Err(error) = runlists {
        evidence.push(format!("runlists not readable ({:?}), so only counts were looked at", error.errno()));
    }
    let enable = "unmap or end queues that are not needed (`gpreempt queues` lists them), or boot with amdgpu.num_kcq=2 for \
                  30 slots instead of 24";
    rung("subscription", "Do all queues fit at once (no over-subscription)?", !over, evidence, enable)
}

pub(super) fn pids(facts: &Facts) -> Rung {
    let foreign = gpreempt::discover::proc::is_foreign(&*facts.host);
    let levels = facts.me.namespace_pids.len().max(1);
    let evidence = vec![match (foreign, levels) {
        (true, _) => "/proc is that of a container, KFD's files name pids of the host".to_owned(),
        (false, 1) => "this process lives in the host's pid namespace".to_owned(),
        (false, _) => format!("/proc is the host's, this process lives {} pid namespaces below", levels - 1),
    }];
    let enable =
        "start the container with --pid=host; without it only processes of this container are found, by attaching them";
    rung("pids", "Do the pids in KFD's files mean the same here?", !foreign, evidence, enable)
}

pub(super) fn patched(facts: &Facts) -> Rung {
    let (yes, evidence) = match &facts.look {
        Err(_) => (false, format!("{KFD} does not open, so it was not asked")),
        Ok(look) => match &look.series {
            Err(error) => (false, error.to_string()),
            Ok(series) => {
                let can: Vec<String> =
                    series.capabilities.iter_names().map(|(name, _)| name.to_lowercase().replace('_', "-")).collect();
                (true, format!("a lease with a watchdog of {} ms: {}", series.max_hold.as_millis(), can.join(", ")))
            }
        },
    };
    let enable =
        if facts.look.is_ok() { "build a kernel with the series: see kernel-patch/README.md" } else { "see access" };
    rung("patched", "Does the kernel have the gpreempt series?", yes, vec![evidence], enable)
}

pub(super) fn agent(facts: &Facts) -> Rung {
    let yes = facts.kfd && facts.agent.is_ok();
    let evidence = vec![
        match &facts.agent {
            Ok(path) => format!("{} is there", path.display()),
            Err(error) => error.to_string(),
        },
        match facts.agents {
            0 => "no program of this user has one now: start offline programs with `gpreempt offline -- COMMAND`"
                .to_owned(),
            count => format!("{count} processes of this user have one now"),
        },
    ];
    let enable = match &facts.agent {
        Ok(_) => "see amdkfd",
        Err(_) => "install the package again, or build the agent (make lib)",
    };
    rung("agent", "Can programs be started with an agent in them?", yes, evidence, enable)
}

pub(super) fn debugger(facts: &Facts) -> Rung {
    let right = Right::of_self(&*facts.host);
    let version = facts.look.as_ref().ok().and_then(|look| look.version);
    let debuggable = version.is_some_and(|version| version >= DEBUG_VERSION);
    let obstacle = right.obstacle();
    let evidence = vec![
        version.map_or_else(
            || format!("{KFD} does not open, so its version is not known"),
            |(major, minor)| {
                format!("KFD {major}.{minor} (DBG_TRAP came with {}.{})", DEBUG_VERSION.0, DEBUG_VERSION.1)
            },
        ),
        format!(
            "kernel.yama.ptrace_scope is {}, this process has {}CAP_SYS_PTRACE",
            right.scope,
            if right.capable { "" } else { "no " }
        ),
        "it keeps ROCgdb and rocprof out of the process, and has no watchdog".to_owned(),
    ];
    let enable = match (&obstacle, version) {
        (Some((_, remedy)), _) => *remedy,
        (None, None) => "see access",
        (None, Some(_)) => "use Linux 6.5 or later, or AMD's DKMS driver of ROCm 5.7 or later",
    };
    let question = "May this user debug its processes, and does KFD let it stop their queues?";
    rung("debugger", question, debuggable && obstacle.is_none(), evidence, enable)
}
