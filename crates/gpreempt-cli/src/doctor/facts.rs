//! What the rungs look at, read once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use gpreempt::discover::proc::{self, Status};
use gpreempt::discover::sysfs::{self, Node};
use gpreempt::driver::look::{Look, look};
use gpreempt::host::{Host, Owner};
use gpreempt::{Error, GpuId, QueueType};

pub(super) const KFD: &str = "/dev/kfd";

/// Who uses a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    pub compute_queues: u32,
    pub queues: u32,
    /// Queues by owner, as KFD names it.
    pub owners: BTreeMap<u32, u32>,
    /// Longest time that one process was evicted here, ms.
    pub evicted_ms: u64,
}

/// This machine.
#[derive(Debug)]
pub(super) struct Facts {
    pub host: Arc<dyn Host>,
    pub kernel: String,
    /// Whether there is a `/dev/kfd`.
    pub kfd: bool,
    pub owner: Option<Owner>,
    pub groups: BTreeMap<u32, String>,
    pub me: Status,
    pub nodes: Result<Vec<Node>, Error>,
    /// What `/dev/kfd` says; the one time that it is opened.
    pub look: Result<Look, Error>,
    pub uses: BTreeMap<GpuId, Use>,
    /// Where the agent's library is.
    pub agent: Result<PathBuf, Error>,
    /// Processes that have an agent now.
    pub agents: usize,
}

impl Facts {
    pub fn of(host: Arc<dyn Host>) -> Facts {
        let read = |path: &str| host.read_text(path).unwrap_or_default();
        let nodes = sysfs::nodes(&*host);
        let gpus: Vec<GpuId> = nodes.iter().flatten().map(|node| node.gpu).collect();
        let dev = host.list("/dev").unwrap_or_default();
        Facts {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            kfd: dev.iter().any(|name| name == "kfd"),
            owner: host.owner(KFD).ok(),
            groups: groups(&read("/etc/group")),
            me: proc::status(&*host, "self").ok().flatten().unwrap_or_default(),
            look: look(&host, &gpus),
            uses: uses(&*host),
            agent: gpreempt::driver::agent::library(),
            agents: host.agents().len(),
            nodes,
            host,
        }
    }

    /// A parameter of a module as sysfs shows it; None where the module is not loaded or has none of that name.
    pub fn parameter(&self, name: &str) -> Option<i64> {
        let text = self.host.read_text(&format!("/sys/module/amdgpu/parameters/{name}")).ok()?;
        text.trim().parse().ok()
    }

    /// The same as evidence.
    pub fn parameter_words(&self, name: &str) -> String {
        let value = self.parameter(name).map_or_else(|| "not readable".to_owned(), |value| value.to_string());
        format!("amdgpu.{name} is {value}")
    }

    pub fn nodes(&self) -> &[Node] {
        self.nodes.as_deref().unwrap_or_default()
    }

    pub fn use_of(&self, gpu: GpuId) -> Use {
        self.uses.get(&gpu).cloned().unwrap_or_default()
    }

    /// The name of a group, or its number.
    pub fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }

    pub fn in_container(&self) -> bool {
        proc::is_foreign(&*self.host) || self.me.namespace_pids.len() > 1
    }
}

/// `/etc/group`.
fn groups(text: &str) -> BTreeMap<u32, String> {
    let group = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(group).collect()
}

fn uses(host: &dyn Host) -> BTreeMap<GpuId, Use> {
    let mut uses: BTreeMap<GpuId, Use> = BTreeMap::new();
    for kfd_pid in sysfs::processes(host).unwrap_or_default() {
        for queue in sysfs::queues(host, kfd_pid).unwrap_or_default() {
            let node = uses.entry(queue.gpu).or_default();
            node.queues += 1;
            node.compute_queues += u32::from(queue.kind == QueueType::Compute);
            *node.owners.entry(kfd_pid).or_default() += 1;
        }
        for of_node in sysfs::usage(host, kfd_pid).unwrap_or_default() {
            let evicted_ms = u64::try_from(of_node.evicted.as_millis()).unwrap_or(u64::MAX);
            let node = uses.entry(of_node.gpu).or_default();
            node.evicted_ms = node.evicted_ms.max(evicted_ms);
        }
    }
    uses
}
