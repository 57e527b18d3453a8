//! Guests: processes of the scenario, their queues, and the work they feed them.

use gpreempt_sys::{
    DEBUG_RUNTIME_STATE_ENABLED, EC_QUEUE_NEW, KFD_EC_MASK, KFD_GPREEMPT_EVENT_QUEUE_CREATED,
    KFD_GPREEMPT_EVENT_TARGET_EXITED, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, KFD_IOC_QUEUE_TYPE_SDMA,
    KFD_IOC_QUEUE_TYPE_SDMA_XGMI, KFD_MAX_QUEUE_PERCENTAGE, KFD_MAX_QUEUE_PRIORITY, KFD_MIN_QUEUE_RING_SIZE,
    KFD_QUEUE_EVICTION_TRIGGER_TTM,
};
use nix::errno::Errno;
use rand_chacha::rand_core::Rng;

use crate::config::{ProcessSpec, QueueSpec, QueueType, Workload};
use crate::file::File;
use crate::hw::feed::{Batch, Feed};
use crate::hw::rounds::Job;
use crate::machine::{Task, Ticket, Work};
use crate::node::NodeIndex;
use crate::orders::Order;
use crate::process::{KfdProcess, Process};
use crate::queue::{Marks, Properties, Queue, QueueKey};
use crate::timeline::Event;
use crate::world::World;

/// First pid that the machine chooses.
pub(crate) const FIRST_PID: u32 = 4000;
/// Queues of one node over all processes (`max_num_of_queues_per_device`).
pub(crate) const QUEUES_PER_NODE: usize = 4096;
/// Doorbells in the slice of one process.
const DOORBELLS: usize = 1024;

impl World {
    // --- processes ------------------------------------------------------------------------------------------------

    /// Starts a process with its queues. At boot (`settled`) they have been there for a while; later, every queue costs
    /// its node a round, as CREATE_QUEUE does.
    pub(crate) fn spawn(&mut self, spec: &ProcessSpec, settled: bool) -> Result<u32, Errno> {
        let pid = if spec.caller {
            self.config.caller.pid
        } else {
            let pid = self.choose_pid(spec.pid)?;
            self.bury(pid);
            let uid = spec.uid.unwrap_or(self.config.caller.uid);
            let process = Process {
                pid,
                namespace_pid: spec.namespace_pid,
                uid,
                privileged: uid == 0,
                root: uid == 0,
                name: spec.name.clone(),
                cgroup: spec.cgroup.clone(),
                command: spec.command.clone(),
                started: self.now.max(1),
                alive: true,
                tracer: None,
                kfd: None,
            };
            self.processes.insert(pid, process);
            pid
        };
        if let Err(errno) = self.begin_program(pid, spec, settled) {
            // A program that cannot have its queues ends.
            self.exit(pid)?;
            return Err(errno);
        }
        Ok(pid)
    }

    fn begin_program(&mut self, pid: u32, spec: &ProcessSpec, settled: bool) -> Result<(), Errno> {
        if spec.runtime_enabled {
            let kfd = self.open_kfd(pid)?;
            kfd.runtime_state = DEBUG_RUNTIME_STATE_ENABLED;
            kfd.ttmp_setup = true;
            // A runtime uses every GPU that it finds.
            kfd.devices.iter_mut().for_each(|device| device.vm = true);
        }
        spec.queues.iter().try_for_each(|queue| self.create_queues(pid, queue, settled).map(|_| ()))
    }

    fn choose_pid(&self, wanted: u32) -> Result<u32, Errno> {
        if wanted != 0 {
            let taken = self.processes.get(&wanted).is_some_and(|process| process.alive);
            return if taken { Err(Errno::EEXIST) } else { Ok(wanted) };
        }
        (FIRST_PID..).find(|pid| !self.processes.contains_key(pid)).ok_or(Errno::EAGAIN)
    }

    /// What is left of a dead process goes before another takes its pid.
    fn bury(&mut self, pid: u32) {
        for node in self.node_indices() {
            for key in self.queues_of_process(pid, node) {
                self.unlink_queue(key);
            }
        }
    }

    /// What KFD keeps of a process, made when it first opens `/dev/kfd`.
    pub(crate) fn open_kfd(&mut self, pid: u32) -> Result<&mut KfdProcess, Errno> {
        if self.process(pid)?.kfd.is_none() {
            if self.is_locked() {
                return Err(Errno::EINVAL);
            }
            let mut kfd = KfdProcess::new(self.next_pasid, self.nodes.len());
            self.next_pasid += 1;
            // A lease that attached earlier remembered what it wants of this process.
            // Only as long as the process is the same user's.
            let uid = self.process(pid)?.uid;
            for (id, lease) in self.leases.iter().filter(|(_, l)| l.alive) {
                for target in lease.targets.iter().filter(|t| t.pid == pid && t.is_attached() && t.uid == uid) {
                    for (device, policy) in kfd.devices.iter_mut().zip(&target.policy).filter(|(_, p)| **p != 0) {
                        device.marks = Marks { lease: *id, policy: *policy };
                    }
                }
            }
            self.process_mut(pid)?.kfd = Some(kfd);
        }
        Ok(self.process_mut(pid)?.kfd.as_mut().expect("made above"))
    }

    /// A process is gone, however that came about. Its teardown runs beside the caller.
    pub(crate) fn exit(&mut self, pid: u32) -> Result<(), Errno> {
        let known = self.process(pid)?.kfd.is_some();
        self.end_image(pid)?;
        self.process_mut(pid)?.alive = false;
        for other in self.processes.values_mut().filter(|p| p.tracer == Some(pid)) {
            other.tracer = None;
        }
        // The driver hears of the ends of processes that have opened /dev/kfd.
        if known {
            self.announce(KFD_GPREEMPT_EVENT_TARGET_EXITED, pid, None);
        }
        // A handle names this process, not a later one with its pid.
        for target in self.leases.values_mut().flat_map(|lease| &mut lease.targets).filter(|t| t.pid == pid) {
            target.gone = true;
        }
        Ok(())
    }

    /// A process executes another image: its files close, and KFD forgets the old one.
    pub(crate) fn exec(&mut self, pid: u32) -> Result<(), Errno> {
        self.process(pid)?;
        self.end_image(pid)
    }

    /// An address space is torn down.
    fn end_image(&mut self, pid: u32) -> Result<(), Errno> {
        for file in self.files.remove_all(Task { pid }) {
            if let File::Lease(lease) = file {
                for (node, job) in self.close_lease(lease) {
                    self.begin(node, job, false);
                }
            }
        }
        self.end_debugger(pid);
        let nodes = self.nodes.len();
        if let Some(kfd) = self.process_mut(pid)?.kfd.as_mut() {
            kfd.leaving = Some(nodes);
            // KFD executes every node at the end of every process, with queues there or without.
            for node in self.node_indices() {
                self.begin(node, Job { execute: true, ..Job::of(Order::Terminate { pid }) }, false);
            }
        }
        Ok(())
    }

    /// Whether the address space of a process, or its last one, is being torn down.
    pub(crate) fn is_leaving(&self, pid: u32) -> bool {
        self.processes.get(&pid).and_then(|p| p.kfd.as_ref()).is_some_and(|kfd| kfd.leaving.is_some())
    }

    /// A node has done its part of a teardown.
    pub(crate) fn left(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Some(kfd) = process.kfd.as_mut() else { return };
        let Some(nodes) = kfd.leaving.as_mut() else { return };
        *nodes -= 1;
        // Of a dead process the last image stays, for those who look back.
        if *nodes == 0 && process.alive {
            process.kfd = None;
        }
    }

    /// TTM evicts or restores a process: on every node where it has a VM, whether it has queues there or not.
    pub(crate) fn evict(&mut self, pid: u32, evict: bool) -> Result<(), Errno> {
        let trigger = evict.then_some(KFD_QUEUE_EVICTION_TRIGGER_TTM);
        if self.process(pid)?.kfd.is_some() {
            for node in self.node_indices() {
                self.begin(node, Job::of(Order::Evict { pid, trigger }), false);
            }
        }
        Ok(())
    }

    /// Counts one eviction of a process on a node up, for the reason that SMI events tell, or down (None); true where
    /// that changed the state of its queues.
    pub(crate) fn shift_eviction(&mut self, pid: u32, node: NodeIndex, trigger: Option<u32>) -> bool {
        let now = self.now;
        self.smi_eviction(pid, node, trigger);
        let Some(kfd) = self.processes.get_mut(&pid).and_then(|p| p.kfd.as_mut()) else { return false };
        let device = kfd.device_mut(node);
        let before = device.evicted;
        device.evicted = if trigger.is_some() { before + 1 } else { before.saturating_sub(1) };
        let after = device.evicted;
        if !device.vm {
            return false;
        }
        if before == 0 && after == 1 {
            device.evicted_since = now;
        } else if before == 1 && after == 0 {
            device.evicted_ns += now - device.evicted_since;
        }
        for key in device.queues.clone() {
            self.queues[key.0].evicted = after;
        }
        (before == 0) != (after == 0)
    }

    // --- queues ---------------------------------------------------------------------------------------------------

    /// A guest creates `count` queues on each of the nodes that the specification names.
    pub(crate) fn create_queues(&mut self, pid: u32, spec: &QueueSpec, settled: bool) -> Result<Vec<u32>, Errno> {
        if spec.percent > KFD_MAX_QUEUE_PERCENTAGE
            || spec.priority > KFD_MAX_QUEUE_PRIORITY
            || !spec.ring_bytes.is_power_of_two()
            || !is_sane(&spec.work)
        {
            return Err(Errno::EINVAL);
        }
        let nodes: Vec<NodeIndex> = if spec.nodes.is_empty() {
            self.node_indices().collect()
        } else {
            spec.nodes.iter().map(|n| NodeIndex(*n as usize)).collect()
        };
        if nodes.iter().any(|n| n.0 >= self.nodes.len()) {
            return Err(Errno::EINVAL);
        }
        self.open_kfd(pid)?.devices.iter_mut().for_each(|device| device.vm = true);
        let mut ids = Vec::new();
        for node in nodes {
            let (save_area_bytes, ctl_stack_bytes) = (self.node(node).save_area_bytes, self.node(node).ctl_stack_bytes);
            for _ in 0..spec.count {
                let kfd = self.open_kfd(pid)?;
                let ring_bytes = spec.ring_bytes.max(KFD_MIN_QUEUE_RING_SIZE);
                let properties = Properties {
                    kind: match spec.kind {
                        QueueType::Compute => KFD_IOC_QUEUE_TYPE_COMPUTE_AQL,
                        QueueType::Sdma => KFD_IOC_QUEUE_TYPE_SDMA,
                        QueueType::SdmaXgmi => KFD_IOC_QUEUE_TYPE_SDMA_XGMI,
                    },
                    percent: spec.percent,
                    target_xcc: 0,
                    priority: spec.priority,
                    ring: kfd.take_address(u64::from(ring_bytes)),
                    ring_bytes,
                    read_pointer: kfd.take_address(8),
                    write_pointer: kfd.take_address(8),
                    save_area: kfd.take_address(u64::from(save_area_bytes)),
                    save_area_bytes,
                    ctl_stack_bytes,
                    sdma_engine: None,
                };
                let key = self.create_queue(pid, node, properties, spec.gws)?;
                if !settled {
                    if self.queue(key).is_active() {
                        self.begin(node, Job { execute: true, ..Job::default() }, false);
                    }
                    self.announce(KFD_GPREEMPT_EVENT_QUEUE_CREATED, pid, Some(key));
                }
                self.queues[key.0].workload = spec.work.clone();
                self.begin_workload(key);
                ids.push(self.queue(key).id);
            }
        }
        Ok(ids)
    }

    /// What CREATE_QUEUE does once its arguments are checked, but for the round that maps the queue.
    pub(crate) fn create_queue(
        &mut self,
        pid: u32,
        node: NodeIndex,
        properties: Properties,
        gws: bool,
    ) -> Result<QueueKey, Errno> {
        let service = self.node(node).service;
        let total = self.queues_of(node).count();
        let per_process = self.node(node).queues_per_process;
        let kfd = self.open_kfd(pid)?;
        // The machine does not ask for ACQUIRE_VM first.
        kfd.device_mut(node).vm = true;
        if kfd.device(node).queues.len() >= per_process {
            return Err(Errno::ENOSPC);
        }
        let id = kfd.free_id().ok_or(Errno::ENOMEM)?;
        if total >= QUEUES_PER_NODE {
            return Err(Errno::EPERM);
        }
        let doorbells = &mut kfd.device_mut(node).doorbells;
        let doorbell = doorbells.iter().position(|used| !used).unwrap_or(doorbells.len());
        if doorbell >= DOORBELLS {
            return Err(Errno::EBUSY);
        }
        let evicted = kfd.device(node).evicted;
        let key = QueueKey(self.queues.len());
        let mut queue = Queue {
            pid,
            id,
            node,
            properties,
            ring: (properties.ring, properties.ring_bytes),
            doorbell: u32::try_from(doorbell).expect("below 1024"),
            mqd: 0,
            engine: (0, 0),
            gws,
            alive: true,
            being_destroyed: false,
            leaving: false,
            destroy_on_resume: false,
            suspended: false,
            reset: false,
            stubborn: false,
            evicted,
            hold: None,
            marks: Marks::default(),
            throttled: false,
            served: service,
            exceptions: KFD_EC_MASK(EC_QUEUE_NEW),
            slot: None,
            pointers: (0, 0),
            saved_waves: 0,
            feed: Feed::default(),
            workload: Workload::Manual,
            random: None,
        };
        if !queue.is_compute() {
            queue.engine = self.free_sdma(node, &queue).ok_or(Errno::ENOMEM)?;
        }
        let it = &mut self.nodes[node.0];
        queue.mqd = it.next_mqd;
        it.next_mqd += 0x4000 * u64::from(it.xccs.max(1));
        if !it.processes.contains(&pid) {
            it.processes.insert(0, pid);
        }
        self.queues.push(queue);
        let kfd = self.open_kfd(pid)?;
        kfd.queues.insert(id, key);
        let device = kfd.device_mut(node);
        device.gws |= gws;
        device.queues.insert(0, key);
        if doorbell == device.doorbells.len() {
            device.doorbells.push(true);
        } else {
            device.doorbells[doorbell] = true;
        }
        self.inherit(key);
        Ok(key)
    }

    /// A free SDMA queue: engines of the wanted kind take turns, or the one engine that was asked for.
    fn free_sdma(&self, node: NodeIndex, queue: &Queue) -> Option<(u32, u32)> {
        let it = self.node(node);
        let engines = match (queue.properties.sdma_engine, queue.kind()) {
            (Some(engine), _) => engine..engine + 1,
            (None, QueueType::SdmaXgmi) => it.sdma_engines..it.sdma_engines + it.sdma_xgmi_engines,
            (None, _) => 0..it.sdma_engines,
        };
        let copies = self.queues_of(node).map(|key| self.queue(key)).filter(|queue| !queue.is_compute());
        let used: Vec<(u32, u32)> = copies.map(|queue| queue.engine).collect();
        (0..it.sdma_queues)
            .flat_map(|rlc| engines.clone().map(move |engine| (engine, rlc)))
            .find(|place| !used.contains(place))
    }

    /// What DESTROY_QUEUE does. Returns the job that it costs; EINTR where a debugger has the queue suspended and the
    /// owner would have to wait.
    pub(crate) fn destroy_queue(&mut self, key: QueueKey) -> Result<(NodeIndex, Job), Errno> {
        let queue = self.queue(key);
        if queue.being_destroyed {
            return Err(Errno::EBUSY);
        }
        let debugged = self.process(queue.pid)?.kfd.as_ref().is_some_and(|kfd| kfd.debug.is_some());
        if debugged && queue.suspended {
            return Err(Errno::EINTR);
        }
        let queue = self.queue_mut(key);
        queue.being_destroyed = true;
        Ok((queue.node, Job::of(Order::Destroy { key })))
    }

    /// A queue leaves the machine. What was in its ring is gone.
    pub(crate) fn unlink_queue(&mut self, key: QueueKey) {
        self.settle(key);
        self.stop_queue(key);
        let queue = &mut self.queues[key.0];
        queue.alive = false;
        queue.feed.clear();
        queue.slot = None;
        queue.saved_waves = 0;
        let (pid, id, node, doorbell, gws) = (queue.pid, queue.id, queue.node, queue.doorbell, queue.gws);
        let it = &mut self.nodes[node.0];
        it.mapped.retain(|k| *k != key);
        it.runlist.retain(|k| *k != key);
        it.count_slots(self.now);
        for user in it.slot_users.iter_mut().filter(|user| **user == Some(key)) {
            *user = None;
        }
        if let Some(kfd) = self.processes.get_mut(&pid).and_then(|p| p.kfd.as_mut()) {
            kfd.queues.remove(&id);
            let device = kfd.device_mut(node);
            device.gws &= !gws;
            device.queues.retain(|k| *k != key);
            device.doorbells[doorbell as usize] = false;
            if device.queues.is_empty() {
                it.processes.retain(|p| *p != pid);
            }
        }
    }

    // --- work -----------------------------------------------------------------------------------------------------

    /// Puts work into a ring on behalf of its owner.
    pub(crate) fn submit(&mut self, pid: u32, id: u32, work: Work) -> Result<Ticket, Errno> {
        let key = self.find_queue(pid, id)?;
        if work.packets == 0 || !is_packet(work.packet_ns, work.occupancy) {
            return Err(Errno::EINVAL);
        }
        let ticket = self.issue();
        self.push_work(key, Batch::new(work.packets, work.packet_ns, work.occupancy, Some(ticket)));
        Ok(ticket)
    }

    /// The owner of a new queue begins to feed it.
    fn begin_workload(&mut self, key: QueueKey) {
        match self.queue(key).workload {
            Workload::Manual => {}
            Workload::Continuous { packet_ns, occupancy, depth } => {
                self.push_work(key, Batch::endless(depth.max(1), packet_ns, occupancy));
            }
            Workload::Periodic { .. } => self.timeline.plan(self.now, Event::Arrival { queue: key }),
            Workload::Poisson { .. } => {
                self.queues[key.0].random = Some(self.random(key));
                self.next_arrival(key);
            }
        }
    }

    pub(crate) fn arrival_event(&mut self, key: QueueKey) {
        let queue = self.queue(key);
        if !queue.alive || self.process(queue.pid).is_err() {
            return;
        }
        let (packets, packet_ns, occupancy) = match queue.workload {
            Workload::Periodic { packets, packet_ns, occupancy, .. }
            | Workload::Poisson { packets, packet_ns, occupancy, .. } => (packets, packet_ns, occupancy),
            Workload::Manual | Workload::Continuous { .. } => return,
        };
        if packets > 0 {
            self.push_work(key, Batch::new(packets, packet_ns, occupancy, None));
        }
        self.next_arrival(key);
    }

    fn next_arrival(&mut self, key: QueueKey) {
        let queue = &mut self.queues[key.0];
        let gap = match queue.workload {
            Workload::Periodic { period_ns, .. } => period_ns,
            Workload::Poisson { rate, .. } if rate > 0.0 => {
                let random = queue.random.as_mut().expect("begin_workload made it");
                // 53 random bits in (0, 1].
                let uniform = ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
                (-uniform.ln() / rate * 1e9) as u64
            }
            _ => return,
        };
        self.timeline.plan(self.now.saturating_add(gap.max(1)), Event::Arrival { queue: key });
    }
}

/// Whether a packet takes time and a part of its node.
fn is_packet(packet_ns: u64, occupancy: f64) -> bool {
    packet_ns > 0 && occupancy > 0.0 && occupancy <= 1.0
}

/// Whether a workload moves at all.
fn is_sane(work: &Workload) -> bool {
    match *work {
        Workload::Manual => true,
        Workload::Continuous { packet_ns, occupancy, .. } => is_packet(packet_ns, occupancy),
        Workload::Periodic { period_ns, packet_ns, occupancy, .. } => period_ns > 0 && is_packet(packet_ns, occupancy),
        Workload::Poisson { rate, packet_ns, occupancy, .. } => {
            rate.is_finite() && rate > 0.0 && is_packet(packet_ns, occupancy)
        }
    }
}
