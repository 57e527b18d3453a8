//! Rounds: UNMAP_QUEUES, QUERY_STATUS, a fence, and a new runlist, under the lock of the device queue manager.
//!
//! A round takes every dynamic queue of every process off its node, whatever asked for it. The caller is free once the
//! runlist is submitted; when the queues run again is up to the firmware (see [`super::firmware`]).

use nix::errno::Errno;

use crate::config::FaultKind;
use crate::kfd::{Look, Seen};
use crate::node::{NodeIndex, SHADERS};
use crate::orders::{Order, Touched};
use crate::queue::QueueKey;
use crate::timeline::Event;
use crate::world::World;

/// Names a round that somebody waits for.
pub(crate) type RoundId = u64;

/// What the driver wants of a node while it holds the lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    /// What is done to queues before the round.
    pub(crate) orders: Vec<Order>,
    /// What the caller wants to know at the end.
    pub(crate) look: Look,
    /// Queues looked at and marked besides those of the orders.
    pub(crate) marks: u64,
    /// Driver work before the packets, ns.
    pub(crate) extra_ns: u64,
    /// Executes the node even if the orders change nothing.
    pub(crate) execute: bool,
    /// Where nothing is mapped, does not ask whether a reset is under way: nothing is sent then.
    pub(crate) lenient: bool,
    /// Grace period in 1000 engine clocks; None = the hardware's default, which is none.
    pub(crate) grace: Option<u32>,
    /// Ends after the unmap and leaves the node without a runlist, as a stock driver does where it should not.
    pub(crate) leave_unmapped: bool,
}

impl Job {
    /// One order, and a round if it changes something.
    pub(crate) fn of(order: Order) -> Job {
        Job { orders: vec![order], ..Job::default() }
    }
}

/// How a job went.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// From taking the lock to giving it back, ns.
    pub(crate) duration: u64,
    /// Whether the node had a runlist and was unmapped.
    pub(crate) round: bool,
    pub(crate) result: Result<(), Errno>,
    /// Queues that entries named.
    pub(crate) touched: Vec<Touched>,
    pub(crate) seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The driver marks queues and writes packets.
    Marking,
    /// Waves have time to finish by themselves; ns.
    Grace(u64),
    /// The firmware saves waves.
    Saving,
    /// The firmware does not answer.
    Hung,
    /// The driver builds and submits a runlist.
    Submitting,
    /// The lock is given back.
    Leaving,
}

/// A job in the making.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    id: RoundId,
    watched: bool,
    job: Job,
    phase: Phase,
    started: u64,
    round: bool,
    result: Result<(), Errno>,
    touched: Vec<Touched>,
}

impl World {
    /// Hands a job to a node. Jobs of one node run one after the other, those of several nodes in parallel.
    /// The report of a watched one is collected with [`World::report`].
    pub(crate) fn begin(&mut self, node: NodeIndex, job: Job, watched: bool) -> RoundId {
        let it = &mut self.nodes[node.0];
        it.next_round += 1;
        let id = it.next_round;
        it.waiting.push_back(Round {
            id,
            watched,
            job,
            phase: Phase::Marking,
            started: 0,
            round: false,
            result: Ok(()),
            touched: Vec::new(),
        });
        if it.current.is_none() {
            self.start_next(node);
        }
        id
    }

    /// The report of a job, once it is done.
    pub(crate) fn report(&mut self, node: NodeIndex, id: RoundId) -> Option<Report> {
        self.nodes[node.0].reports.remove(&id)
    }

    pub(crate) fn is_reported(&self, node: NodeIndex, id: RoundId) -> bool {
        self.node(node).reports.contains_key(&id)
    }

    fn start_next(&mut self, node: NodeIndex) {
        let Some(mut round) = self.nodes[node.0].waiting.pop_front() else { return };
        round.started = self.now;
        let done = self.carry_out(node, &round.job.orders);
        round.touched = done.touched;
        let cost = &self.config.cost;
        let (unmap, runlist) = (cost.submit_unmap.ns, cost.submit_runlist.ns);
        let mut time = (round.job.marks + done.marks) * cost.mark_queue.ns + round.job.extra_ns;
        let it = &self.nodes[node.0];
        let nothing_to_send = it.resetting && !it.active_runlist && round.job.lenient;
        if (!round.job.execute && !done.changed) || nothing_to_send {
            round.phase = Phase::Leaving;
        } else if it.resetting {
            round.phase = Phase::Leaving;
            round.result = Err(Errno::EIO);
        } else if it.active_runlist {
            round.round = true;
            time += unmap;
        } else {
            round.phase = Phase::Submitting;
            time += runlist;
        }
        if round.phase == Phase::Submitting && !self.build_runlist(node) {
            // Nothing was mapped and nothing is to be: no packet at all.
            round.phase = Phase::Leaving;
            time -= runlist;
        }
        self.nodes[node.0].current = Some(round);
        self.next_phase(node, time);
    }

    /// Plans the end of the current round's phase.
    fn next_phase(&mut self, node: NodeIndex, after: u64) {
        let it = &mut self.nodes[node.0];
        it.round_generation += 1;
        let generation = it.round_generation;
        self.timeline.plan(self.now + after, Event::Round { node, generation });
    }

    fn enter(&mut self, node: NodeIndex, phase: Phase, after: u64) {
        self.nodes[node.0].current.as_mut().expect("a round is under way").phase = phase;
        self.next_phase(node, after);
    }

    pub(crate) fn round_event(&mut self, node: NodeIndex, generation: u64) {
        let it = &self.nodes[node.0];
        if it.round_generation != generation {
            return;
        }
        let round = it.current.as_ref().expect("only a current round plans phases");
        let (grace, leave_unmapped) = (round.job.grace, round.job.leave_unmapped);
        match round.phase {
            Phase::Marking if self.now < it.firmware_free => {
                // The HIQ is in order: UNMAP_QUEUES waits until the last RUN_LIST is through.
                let wait = it.firmware_free - self.now;
                self.next_phase(node, wait);
            }
            Phase::Marking => self.unmap(node, grace),
            Phase::Grace(ns) => self.save(node, ns),
            Phase::Saving => self.unmapped(node, grace.is_some(), leave_unmapped),
            Phase::Hung => self.hung(node),
            Phase::Submitting => {
                self.submit_runlist(node);
                self.finish_round(node);
            }
            Phase::Leaving => self.finish_round(node),
        }
    }

    /// The firmware takes UNMAP_QUEUES off the HIQ.
    fn unmap(&mut self, node: NodeIndex, grace: Option<u32>) {
        self.nodes[node.0].unmaps += 1;
        self.counters.unmap_rounds += 1;
        if grace.is_some() {
            self.send_grace(node, grace);
        }
        self.send_unmap(node);
        let nth = self.node(node).unmaps;
        // What is mapped stays so until the packet is through, and for ever if the firmware hangs in it.
        self.freeze_firmware(node);
        for fault in self.faults_of_round(node, nth) {
            match fault {
                FaultKind::HwsTimeout { .. } => {
                    let timeout = u64::from(self.preempt_timeout_ms()) * 1_000_000;
                    return self.enter(node, Phase::Hung, timeout);
                }
                FaultKind::NodeReset { .. } => return self.reset_node(node, Errno::EIO),
                other => self.strike(&other),
            }
        }
        let longest = self.longest_wave(node);
        let grace = grace.map_or(0, |clocks| self.node(node).grace_ns(clocks)).min(longest);
        if grace > 0 { self.enter(node, Phase::Grace(grace), grace) } else { self.save(node, 0) }
    }

    /// No running wave has longer to go than this, ns.
    fn longest_wave(&mut self, node: NodeIndex) -> u64 {
        self.serve(node, SHADERS);
        let pool = &self.node(node).pools[SHADERS];
        pool.running().iter().map(|key| self.queue(*key).feed.packet_ns()).max().unwrap_or(0)
    }

    /// Every queue of the node stops, and the waves that are still there after the grace period are saved.
    fn save(&mut self, node: NodeIndex, grace_ns: u64) {
        let mapped = self.node(node).mapped.iter().copied();
        let stubborn: Vec<QueueKey> = mapped.filter(|key| self.queue(*key).stubborn).collect();
        let waves = self.stop_mapped(node, None, grace_ns);
        let saving = self.save_ns(node, waves) + self.config.cost.hws_unmap.ns + self.reset_queues(&stubborn);
        self.enter(node, Phase::Saving, saving);
    }

    /// The fence is there: all HQDs of the node are free.
    fn unmapped(&mut self, node: NodeIndex, restore_grace: bool, leave_unmapped: bool) {
        let started = self.nodes[node.0].current.as_ref().expect("a round is under way").started;
        if restore_grace {
            self.send_grace(node, None);
        }
        let it = &mut self.nodes[node.0];
        it.last_unmap_ns = self.now - started;
        it.active_runlist = false;
        if leave_unmapped {
            it.runlist.clear();
            self.finish_round(node);
        } else if self.build_runlist(node) {
            self.enter(node, Phase::Submitting, self.config.cost.submit_runlist.ns);
        } else {
            self.finish_round(node);
        }
    }

    /// The preemption timed out: the driver resets the node.
    fn hung(&mut self, node: NodeIndex) {
        let it = &mut self.nodes[node.0];
        it.last_unmap_ns = self.now - it.current.as_ref().expect("a round is under way").started;
        let all: Vec<QueueKey> = self.queues_of(node).collect();
        for key in all {
            self.mark_reset(key);
        }
        self.reset_node(node, Errno::ETIME);
    }

    /// Ends the current round early, as a reset does; those that wait find the node under reset when their turn comes.
    pub(crate) fn abort_rounds(&mut self, node: NodeIndex, current: Errno) {
        if let Some(round) = self.nodes[node.0].current.as_mut() {
            round.result = Err(current);
            self.finish_round(node);
        }
    }

    fn finish_round(&mut self, node: NodeIndex) {
        let now = self.now;
        let it = &mut self.nodes[node.0];
        it.round_generation += 1;
        let mut round = it.current.take().expect("a round is under way");
        self.conclude(node, &round.job.orders, &mut round.touched);
        if round.watched {
            let report = Report {
                duration: now - round.started,
                round: round.round,
                result: round.result,
                touched: round.touched,
                seen: self.look(node, &round.job.look),
            };
            self.nodes[node.0].reports.insert(round.id, report);
        }
        self.start_next(node);
    }

    /// `KFD_UNMAP_LATENCY_MS`: how long HWS waits for a queue to yield.
    pub(crate) fn unmap_latency_ms(&self) -> u64 {
        let timeout = u64::from(self.preempt_timeout_ms());
        (timeout - timeout / 10) / 2
    }

    /// `queue_preemption_timeout_ms`.
    pub(crate) fn preempt_timeout_ms(&self) -> u32 {
        self.config.scenario.preempt_timeout_ms.unwrap_or(9000)
    }
}
