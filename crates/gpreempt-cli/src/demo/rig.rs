//! The machine that a run of the demo boots, and who is on it.

use std::collections::BTreeSet;
use std::sync::Arc;

use gpreempt::discover::Discovery;
use gpreempt::host::sim::SimHost;
use gpreempt::{GpuId, Pid, QueueInfo};
use gpreempt_sim::config::{
    Caller, ClockKind, Config, CostModel, GpuModel, Hardware, Partition, ProcessSpec, QueueSpec, Scenario, Workload,
};

use gpreempt_sim::topology::Topology;

use crate::Failure;
use crate::args::DemoArgs;
use crate::arrivals::{Arrivals, OfflineTask};

/// One kernel of the training jobs: the GEMM of the seed's author on an MI308X (127,644 iterations at 1.41 ms).
const TRAINING_PACKET_NS: u64 = 1_410_000;

/// Share of the wave slots that one such kernel fills; an assumption, the same as in the built-in scenarios.
const TRAINING_OCCUPANCY: f64 = 0.35;

/// Name of the demo's own scenario.
const TRAINING: &str = "training";

/// The demo's own pid, and the first one for guests.
const CALLER: Pid = 900;
const FIRST_PID: Pid = 10_001;

/// Lowest priority of a queue that requests go to.
const ONLINE_PRIORITY: u32 = 10;

/// Who is on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guests {
    /// Everybody.
    All,
    /// The online processes alone.
    Online,
    /// The offline processes alone.
    Offline,
}

/// What every run of one demo has in common.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) hardware: Hardware,
    pub(super) cost: CostModel,
    pub(super) scenario: Scenario,
    pub(super) seed: u64,
}

/// A queue that requests go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) gpu: GpuId,
    pub(super) pid: Pid,
    pub(super) queue: u32,
}

/// A freshly booted machine.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) host: Arc<SimHost>,
    pub(super) offline: Vec<QueueInfo>,
    /// One per node, in the machine's order.
    pub(super) lanes: Vec<Lane>,
    /// Queue slots of all nodes.
    pub(super) slots: u32,
}

impl Plan {
    /// What the command line asks for.
    pub(super) fn new(args: &DemoArgs, arrivals: &Arrivals) -> Result<Plan, Failure> {
        let model = GpuModel::named("mi308x")?;
        let (hardware, nodes) = match &args.topology {
            Some(path) => {
                let nodes = Topology::load(path, &model)?.nodes.iter().filter(|node| node.gpu_id != 0).count();
                (Hardware::Tree { path: path.clone(), model }, u32::try_from(nodes).unwrap_or(u32::MAX))
            }
            None => (Hardware::Model { model, gpus: args.gpus, partition: Partition::Spx }, args.gpus),
        };
        let scenario = match &args.scenario {
            Some(name) => Scenario::named(name, nodes)?,
            None => training(args, &arrivals.offline),
        };
        let mut plan = Plan { hardware, cost: CostModel::named(&args.cost_model)?, scenario, seed: args.seed };
        if !plan.scenario.processes.iter().any(online) {
            plan.scenario.processes.push(serving());
        }
        Ok(plan.with_pids())
    }

    /// Every guest gets a pid, so that the two sides can be told apart on the machine; requests are the online guests' only
    /// work.
    fn with_pids(mut self) -> Plan {
        let mut free = FIRST_PID;
        let mut taken: BTreeSet<u32> = self.scenario.processes.iter().map(|process| process.pid).collect();
        for process in &mut self.scenario.processes {
            if process.caller {
                process.pid = CALLER;
            } else if process.pid == 0 {
                while !taken.insert(free) {
                    free += 1;
                }
                process.pid = free;
            }
            if online(process) {
                process.queues.iter_mut().for_each(|queue| queue.work = Workload::Manual);
            }
        }
        self
    }

    /// Boots a machine; one without some of its guests is a reference, on which nothing goes wrong. `patched` says whether its kernel has the gpreempt commands.
    pub(super) fn boot(&self, guests: Guests, patched: bool) -> Result<Rig, Failure> {
        let mut scenario = self.scenario.clone();
        scenario.processes.retain(|process| match guests {
            Guests::All => true,
            Guests::Online => online(process),
            Guests::Offline => !online(process),
        });
        if guests != Guests::All {
            scenario.faults.clear();
        }
        let host = Arc::new(SimHost::boot(Config {
            hardware: self.hardware.clone(),
            cost: self.cost.clone(),
            scenario,
            clock: ClockKind::Virtual,
            seed: self.seed,
            patched,
            caller: Caller { pid: CALLER, uid: 1000, privileged: true, root: false, name: "gpreempt".into() },
        })?);
        let online: BTreeSet<Pid> =
            self.scenario.processes.iter().filter(|process| online(process)).map(|process| process.pid).collect();
        let discovery = Discovery::new(&*host);
        let slots = discovery.nodes()?.iter().map(|node| node.num_cp_queues).sum();
        let (serving, offline): (Vec<QueueInfo>, Vec<QueueInfo>) =
            discovery.scan()?.into_iter().partition(|info| online.contains(&info.queue.pid));
        let mut lanes: Vec<Lane> = Vec::new();
        for info in serving.into_iter().filter(|info| info.kind == gpreempt::QueueType::Compute) {
            if lanes.iter().all(|lane| lane.gpu != info.gpu) {
                lanes.push(Lane { gpu: info.gpu, pid: info.queue.pid, queue: info.queue.id });
            }
        }
        if lanes.is_empty() && guests != Guests::Offline {
            return Err(Failure::Failed(
                "discovery found no queue of an online process on the simulated machine".into(),
            ));
        }
        Ok(Rig { host, offline, lanes, slots })
    }

    /// Who trains, in one line.
    pub(super) fn offline_summary(&self) -> String {
        let processes = self.scenario.processes.iter().filter(|process| !online(process)).count();
        let kernels = if self.scenario.name == TRAINING {
            format!(
                ", each always busy with kernels of {} ms that fill {TRAINING_OCCUPANCY} of a GPU",
                TRAINING_PACKET_NS as f64 / 1e6
            )
        } else {
            String::new()
        };
        format!("scenario `{}`: {processes} offline processes{kernels}", self.scenario.name)
    }
}

/// A process is online where one of its queues has an online priority.
fn online(process: &ProcessSpec) -> bool {
    process.queues.iter().any(|queue| queue.priority >= ONLINE_PRIORITY)
}

/// A process of the demo's own making.
fn process(name: String, cgroup: &str, queue: QueueSpec) -> ProcessSpec {
    ProcessSpec {
        command: vec![name.clone()],
        name,
        pid: 0,
        namespace_pid: None,
        caller: false,
        uid: None,
        cgroup: cgroup.to_owned(),
        runtime_enabled: true,
        queues: vec![queue],
    }
}

/// The online process: one queue on every node.
fn serving() -> ProcessSpec {
    process("serve".into(), "/online", QueueSpec { priority: ONLINE_PRIORITY + 1, ..QueueSpec::default() })
}

/// Training processes, or the best-effort tasks of a trace.
fn training(args: &DemoArgs, tasks: &[OfflineTask]) -> Scenario {
    let queue =
        |count: u32, nth: u32, work: Workload| QueueSpec { count, priority: nth % 6, work, ..QueueSpec::default() };
    let processes = if tasks.is_empty() {
        let work = Workload::Continuous { packet_ns: TRAINING_PACKET_NS, occupancy: TRAINING_OCCUPANCY, depth: 4 };
        (0..args.offline_processes)
            .map(|nth| process(format!("train-{nth}"), "/offline", queue(args.offline_queues, nth, work.clone())))
            .collect()
    } else {
        let work = |task: &OfflineTask| match task.period_ns {
            None => Workload::Continuous { packet_ns: task.step.packet_ns, occupancy: task.step.occupancy, depth: 4 },
            Some(period_ns) => Workload::Periodic {
                period_ns,
                packets: task.step.packets,
                packet_ns: task.step.packet_ns,
                occupancy: task.step.occupancy,
            },
        };
        (0..).zip(tasks).map(|(nth, task)| process(task.name.clone(), "/offline", queue(1, nth, work(task)))).collect()
    };
    Scenario {
        name: if tasks.is_empty() { TRAINING.into() } else { "trace".into() },
        about: "Offline processes with queues on every GPU.".into(),
        processes,
        ..Scenario::default()
    }
}
