//! How a machine comes up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nix::errno::Errno;

use crate::config::{CALLER_IN_A_NAMESPACE, Config, ConfigError, FaultKind, Hardware, Scenario};
use crate::file::Files;
use crate::guest::FIRST_PID;
use crate::guest::QUEUES_PER_NODE;
use crate::hw::hiq::Hiq;
use crate::hw::pool::Pool;
use crate::machine::Counters;
use crate::node::Node;
use crate::process::{MAX_QUEUE_IDS, Process};
use crate::timeline::Timeline;
use crate::topology::{Topology, TopologyNode};
use crate::world::World;

/// The first PASID that amdgpu hands out.
pub(crate) const FIRST_PASID: u32 = 0x8000;
/// Queues of one process on a node of GFX 9.4.3 and 9.4.4, and of others.
const QUEUES_PER_PROCESS: (usize, usize) = (255, 127);
/// Where MQDs begin in GPU memory.
const FIRST_MQD: u64 = 0x7fff_0000_0000;

impl World {
    /// A machine whose guests have been running for a while.
    pub(crate) fn boot(mut config: Config) -> Result<World, ConfigError> {
        keep_off(config.caller.pid, &mut config.scenario);
        let (model, topology) = match &config.hardware {
            Hardware::Model { model, gpus, partition } => (model, Topology::from_model(model, *gpus, *partition)?),
            Hardware::Tree { path, model } => (model, Topology::load(path, model)?),
        };
        let nodes: Vec<Node> = topology
            .gpus()
            .map(|gpu| {
                let partitions = topology.siblings(gpu).count().try_into().unwrap_or(u32::MAX);
                let before = topology.siblings(gpu).take_while(|other| other.index != gpu.index).count() as u32;
                let vmids = (model.first_vmid(partitions, before), model.process_slots_with(partitions));
                build_node(gpu, topology.first_xcc(gpu), vmids)
            })
            .collect();
        if nodes.is_empty() {
            return Err(ConfigError {
                path: config.scenario.name.clone(),
                line: None,
                message: "the machine has no GPU node; a machine needs at least one".to_owned(),
            });
        }
        let mut world = World {
            topology,
            now: 0,
            timeline: Timeline::default(),
            nodes,
            processes: BTreeMap::new(),
            queues: Vec::new(),
            files: Files::default(),
            leases: BTreeMap::new(),
            next_lease: 1,
            next_pasid: FIRST_PASID,
            tickets: Vec::new(),
            completions: VecDeque::new(),
            counters: Counters::default(),
            batches: 0,
            faults: config.scenario.faults.iter().cloned().map(Some).collect(),
            config,
        };
        if world.config.scenario.processes.iter().any(|p| p.caller && p.namespace_pid.is_some()) {
            return Err(ConfigError {
                path: world.config.scenario.name.clone(),
                line: None,
                message: CALLER_IN_A_NAMESPACE.to_owned(),
            });
        }
        world.add_caller();
        let scenario = world.config.scenario.clone();
        for process in &scenario.processes {
            world.spawn(process, true).map_err(|errno| ConfigError {
                path: scenario.name.clone(),
                line: None,
                message: format!("process {:?} cannot start: {}", process.name, refusal(errno)),
            })?;
        }
        world.settle_down();
        world.plan_faults();
        Ok(world)
    }

    fn add_caller(&mut self) {
        let caller = &self.config.caller;
        let spec = self.config.scenario.processes.iter().find(|p| p.caller);
        let process = Process {
            pid: caller.pid,
            namespace_pid: None,
            uid: caller.uid,
            privileged: caller.privileged || caller.uid == 0,
            root: caller.root || caller.uid == 0,
            name: caller.name.clone(),
            cgroup: spec.map_or_else(|| "/".to_owned(), |s| s.cgroup.clone()),
            command: spec.map_or_else(|| vec![caller.name.clone()], |s| s.command.clone()),
            started: 1,
            alive: true,
            tracer: None,
            kfd: None,
        };
        self.processes.insert(caller.pid, process);
    }

    /// The queues of the scenario are mapped, as they would be a moment after the last CREATE_QUEUE.
    fn settle_down(&mut self) {
        for node in self.node_indices() {
            self.send_resources(node);
            if self.build_runlist(node) {
                self.submit_runlist(node);
                let it = &mut self.nodes[node.0];
                it.firmware_free = 0;
                let generation = it.firmware_generation;
                self.mapped_event(node, generation);
            }
        }
    }
}

/// What CREATE_QUEUE means by an errno, where a limit is behind it.
fn refusal(errno: Errno) -> String {
    match errno {
        Errno::EPERM => format!("a GPU node takes at most {QUEUES_PER_NODE} queues of all processes (EPERM)"),
        Errno::ENOSPC => {
            let (most, least) = QUEUES_PER_PROCESS;
            format!("a process takes at most {most} queues of a GPU node, {least} before GFX 9.4.3 (ENOSPC)")
        }
        Errno::ENOMEM => {
            format!("a process has at most {MAX_QUEUE_IDS} queues, and a GPU node those of its SDMA engines (ENOMEM)")
        }
        _ => errno.desc().to_owned(),
    }
}

/// Gives a guest that has the caller's pid another one: who wrote the scenario could not know it.
fn keep_off(caller: u32, scenario: &mut Scenario) {
    let wanted: BTreeSet<u32> = scenario.processes.iter().map(|process| process.pid).collect();
    let mut free = (FIRST_PID..).filter(|pid| *pid != caller && !wanted.contains(pid));
    let guests = scenario.processes.iter_mut().filter(|process| !process.caller && process.pid == caller);
    for (guest, other) in guests.zip(&mut free) {
        guest.pid = other;
        for fault in &mut scenario.faults {
            match &mut fault.kind {
                FaultKind::QueueReset { pid, .. }
                | FaultKind::QueueDestroyed { pid, .. }
                | FaultKind::ProcessGone { pid }
                    if *pid == caller =>
                {
                    *pid = other;
                }
                _ => {}
            }
        }
    }
}

/// `vmids`: the first one of compute processes, and how many there are.
fn build_node(gpu: &TopologyNode, first_xcc: u32, vmids: (u32, u32)) -> Node {
    let property = |name: &str| u32::try_from(gpu.property(name)).unwrap_or(u32::MAX);
    let xccs = property("num_xcc").max(1);
    let slots = property("num_cp_queues").clamp(1, 128);
    let gfx = property("gfx_target_version");
    let simds = property("simd_count");
    let (sdma_engines, sdma_xgmi_engines) = (property("num_sdma_engines"), property("num_sdma_xgmi_engines"));
    let wave_slots = u64::from(simds) * u64::from(property("max_waves_per_simd"));
    Node {
        topology_index: gpu.index,
        gpu_id: gpu.gpu_id,
        slots,
        xccs,
        first_xcc,
        process_slots: vmids.1,
        first_vmid: vmids.0,
        sdma_engines,
        sdma_xgmi_engines,
        sdma_queues: property("num_sdma_queues_per_engine"),
        gws: property("num_gws"),
        save_area_bytes: property("cwsr_size"),
        ctl_stack_bytes: property("ctl_stack_size"),
        wave_slots: wave_slots.max(1),
        compute_units: simds / property("simd_per_cu").max(1),
        engine_mhz: property("max_engine_clk_fcompute"),
        queues_per_process: if (90_402..=90_500).contains(&gfx) { QUEUES_PER_PROCESS.0 } else { QUEUES_PER_PROCESS.1 },
        processes: Vec::new(),
        reservation: None,
        service: 0,
        resetting: false,
        resets: 0,
        hung: false,
        active_runlist: false,
        runlists: 0,
        unmaps: 0,
        last_unmap_ns: 0,
        current: None,
        waiting: VecDeque::new(),
        reports: BTreeMap::new(),
        next_round: 0,
        hiq: Hiq::default(),
        round_generation: 0,
        ib: Vec::new(),
        runlist: Vec::new(),
        oversubscribed: false,
        mapped: Vec::new(),
        mapping: None,
        firmware_free: 0,
        next: None,
        firmware_generation: 0,
        pools: (0..=sdma_engines + sdma_xgmi_engines).map(|_| Pool::default()).collect(),
        slot_users: vec![None; slots as usize],
        slot_ns: 0,
        slots_counted: 0,
        next_mqd: FIRST_MQD,
    }
}
