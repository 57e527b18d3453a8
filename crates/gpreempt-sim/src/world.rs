//! The state of the whole machine, and what makes it change with time.

use std::collections::{BTreeMap, VecDeque};

use nix::errno::Errno;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::config::{Config, Fault};
use crate::file::Files;
use crate::lease::Lease;
use crate::machine::{Counters, Ticket};
pub(crate) use crate::node::{Node, NodeIndex};
pub(crate) use crate::process::Process;
pub(crate) use crate::queue::{Queue, QueueKey};
use crate::timeline::{Event, Timeline};
use crate::topology::Topology;

/// A lease, by its id: never reused.
pub(crate) type LeaseId = u64;

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) topology: Topology,
    pub(crate) now: u64,
    pub(crate) timeline: Timeline,
    pub(crate) nodes: Vec<Node>,
    /// Every process by pid, the dead too until a guest asks for their pid; the machine itself chooses new ones.
    pub(crate) processes: BTreeMap<u32, Process>,
    /// Every queue that ever was.
    pub(crate) queues: Vec<Queue>,
    pub(crate) files: Files,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) next_lease: LeaseId,
    pub(crate) next_pasid: u32,
    /// Completion time of each ticket, by number.
    pub(crate) tickets: Vec<Option<u64>>,
    /// Completions that `run_until` has not reported yet.
    pub(crate) completions: VecDeque<(Ticket, u64)>,
    pub(crate) counters: Counters,
    /// Batch commands of leases so far.
    pub(crate) batches: u64,
    /// Faults that have not struck yet.
    pub(crate) faults: Vec<Option<Fault>>,
}

impl World {
    /// Moves on to `time`, event by event.
    pub(crate) fn run_to(&mut self, time: u64) {
        while let Some((at, event)) = self.timeline.take(time) {
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = self.now.max(time);
    }

    /// Moves to the next event and lets it happen; false where nothing is planned.
    pub(crate) fn step(&mut self) -> bool {
        let Some((at, event)) = self.timeline.take(u64::MAX) else { return false };
        self.now = self.now.max(at);
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Work { node, pool, generation } => self.work_event(node, pool, generation),
            Event::Round { node, generation } => self.round_event(node, generation),
            Event::Mapped { node, generation } => self.mapped_event(node, generation),
            Event::Slice { node, generation } => self.slice_event(node, generation),
            Event::Arrival { queue } => self.arrival_event(queue),
            Event::Watchdog { lease } => self.watchdog_event(lease),
            Event::Fault { index } => self.fault_event(index),
            Event::ResetDone { node, reset } => self.reset_done(node, reset),
        }
    }

    /// A stream of random numbers of its own for a queue, so that one more queue changes nobody else's arrivals.
    pub(crate) fn random(&self, queue: QueueKey) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.config.seed);
        random.set_stream(queue.0 as u64);
        random
    }

    pub(crate) fn queue(&self, key: QueueKey) -> &Queue {
        &self.queues[key.0]
    }

    pub(crate) fn queue_mut(&mut self, key: QueueKey) -> &mut Queue {
        &mut self.queues[key.0]
    }

    pub(crate) fn node(&self, node: NodeIndex) -> &Node {
        &self.nodes[node.0]
    }

    pub(crate) fn node_indices(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        (0..self.nodes.len()).map(NodeIndex)
    }

    /// The node with this topology gpu_id.
    pub(crate) fn node_by_gpu(&self, gpu_id: u32) -> Option<NodeIndex> {
        if gpu_id == 0 {
            return None;
        }
        self.nodes.iter().position(|n| n.gpu_id == gpu_id).map(NodeIndex)
    }

    /// A living process.
    pub(crate) fn process(&self, pid: u32) -> Result<&Process, Errno> {
        self.processes.get(&pid).filter(|p| p.alive).ok_or(Errno::ESRCH)
    }

    pub(crate) fn process_mut(&mut self, pid: u32) -> Result<&mut Process, Errno> {
        self.processes.get_mut(&pid).filter(|p| p.alive).ok_or(Errno::ESRCH)
    }

    /// A queue of a process by its KFD id.
    pub(crate) fn find_queue(&self, pid: u32, id: u32) -> Result<QueueKey, Errno> {
        let process = self.process(pid)?;
        process.kfd.as_ref().and_then(|kfd| kfd.queues.get(&id)).copied().ok_or(Errno::ENOENT)
    }

    pub(crate) fn lease_lives(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some_and(|l| l.alive)
    }

    /// A new ticket for work that is to be reported.
    pub(crate) fn issue(&mut self) -> Ticket {
        self.tickets.push(None);
        Ticket(self.tickets.len() as u64 - 1)
    }
}
