//! Small simulated machines for tests: one caller without privilege, a few guests, a virtual clock.
#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::Arc;
use std::time::Duration;

use gpreempt::driver::patched::PatchedDriver;
use gpreempt::driver::{Driver, QueueStatus, Selector, Want};
use gpreempt::host::Host;
use gpreempt::host::sim::SimHost;
use gpreempt::{GpuId, PolicyFlags, QueueState, Session};
use gpreempt_sim::config::{
    Caller, ClockKind, Config, CostModel, Fault, GpuModel, Hardware, Partition, ProcessSpec, QueueSpec, Scenario,
    Workload,
};

/// The calling process.
pub const ME: u32 = 4000;
/// Its user, who owns the guests unless said otherwise.
pub const UID: u32 = 1000;

/// Starts describing a machine.
pub fn machine(gpus: u32) -> Builder {
    Builder {
        config: Config {
            hardware: Hardware::Model { model: GpuModel::named("mi308x").unwrap(), gpus, partition: Partition::Spx },
            cost: CostModel::named("design").unwrap(),
            scenario: Scenario::empty(),
            clock: ClockKind::Virtual,
            seed: 1,
            patched: true,
            caller: Caller { pid: ME, uid: UID, privileged: false, root: false, name: "scheduler".into() },
        },
    }
}

pub struct Builder {
    config: Config,
}

impl Builder {
    pub fn guest(mut self, guest: ProcessSpec) -> Builder {
        self.config.scenario.processes.push(guest);
        self
    }

    pub fn fault(mut self, fault: Fault) -> Builder {
        self.config.scenario.faults.push(fault);
        self
    }

    pub fn preempt_timeout_ms(mut self, ms: u32) -> Builder {
        self.config.scenario.preempt_timeout_ms = Some(ms);
        self
    }

    pub fn privileged(mut self) -> Builder {
        self.config.caller.privileged = true;
        self
    }

    pub fn stock(mut self) -> Builder {
        self.config.patched = false;
        self
    }

    pub fn boot(self) -> Arc<SimHost> {
        Arc::new(SimHost::boot(self.config).unwrap())
    }

    /// Boots, and opens a session with the default watchdog.
    pub fn session(self) -> (Arc<SimHost>, Session) {
        let host = self.boot();
        let session = session_on(&host);
        (host, session)
    }
}

pub fn lease(host: &Arc<SimHost>) -> Arc<PatchedDriver> {
    let host: Arc<dyn Host> = host.clone();
    Arc::new(PatchedDriver::open(host).unwrap())
}

pub fn session_on(host: &Arc<SimHost>) -> Session {
    Session::with(host.clone(), lease(host))
}

/// A guest of the caller's user with these queues.
pub fn guest(pid: u32, queues: impl IntoIterator<Item = QueueSpec>) -> ProcessSpec {
    ProcessSpec {
        name: "train".into(),
        pid,
        namespace_pid: None,
        caller: false,
        uid: None,
        cgroup: "/offline".into(),
        command: vec!["train".into()],
        runtime_enabled: true,
        queues: queues.into_iter().collect(),
    }
}

/// Busy queues on one node.
pub fn busy(node: u32, count: u32) -> QueueSpec {
    let work = Workload::Continuous { packet_ns: 1_000_000, occupancy: 0.5, depth: 4 };
    QueueSpec { nodes: vec![node], count, work, ..QueueSpec::default() }
}

/// Queues on one node that nobody feeds.
pub fn quiet(node: u32, count: u32) -> QueueSpec {
    QueueSpec { nodes: vec![node], count, ..QueueSpec::default() }
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// gpu_id of a node by its index.
pub fn gpu(host: &Arc<SimHost>, node: usize) -> GpuId {
    gpreempt::discover::sysfs::nodes(host.as_ref()).unwrap()[node].gpu
}

/// All queues of a process.
pub fn statuses(driver: &dyn Driver, pid: u32) -> Vec<QueueStatus> {
    driver.queue_status(Selector::process(pid), Want::default()).unwrap()
}

/// State bits that say whether and why a queue runs.
pub fn states(driver: &dyn Driver, pid: u32) -> Vec<QueueState> {
    let about = QueueState::ACTIVE | QueueState::PREEMPTED | QueueState::MINE | QueueState::PREEMPTIBLE;
    statuses(driver, pid).iter().map(|status| status.state & about).collect()
}

pub fn active(driver: &dyn Driver, pid: u32) -> Vec<bool> {
    states(driver, pid).iter().map(|state| state.contains(QueueState::ACTIVE)).collect()
}

/// Registers every queue of a process and puts it into the offline class.
pub fn offline(session: &Session, pid: u32) -> Vec<u32> {
    session.driver().set_policy(Selector::process(pid), PolicyFlags::PREEMPTIBLE, PolicyFlags::empty()).unwrap();
    let queues = statuses(session.driver().as_ref(), pid);
    queues.iter().map(|status| session.register(pid, status.queue.id, GpuId::ALL).unwrap()).collect()
}
