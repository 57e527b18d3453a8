//! Plays requests against a machine in its own time, on one thread, so that equal seeds give equal runs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use gpreempt::sched::{OnlineGuard, Scheduler};
use gpreempt_sim::{Ticket, Work};

use super::rig::Rig;
use crate::arrivals::{Arrivals, Burst};

/// A machine on which nothing completes for so long will never complete anything.
const STALL_NS: u64 = 3600 * 1_000_000_000;

/// How often requests look whether their queue is still there.
const LOOK_NS: u64 = 1_000_000_000;

/// What one run came to.
#[derive(Debug, Default)]
pub(super) struct Played {
    /// Latency of every request from arrival to completion, ns.
    pub(super) latencies: Vec<u64>,
    /// From the first arrival's origin to the end of the last request, ns.
    pub(super) elapsed_ns: u64,
    /// Those of closed loops.
    pub(super) closed: u64,
    /// Requests that ended without an answer.
    pub(super) lost: u64,
    /// Work of the answered ones, ns alone on one node.
    pub(super) work_ns: u64,
    /// Operations that failed for at least one queue.
    pub(super) errors: u64,
    /// The first of them.
    pub(super) first_error: Option<String>,
}

/// One request on its way.
#[derive(Debug)]
struct InFlight {
    lane: usize,
    arrival: u64,
    alone_ns: u64,
    client: Option<usize>,
    guard: Option<OnlineGuard>,
}

/// Told about every completed request: its lane, arrival and completion in machine time.
pub(super) type OnCompletion<'a> = dyn FnMut(usize, u64, u64) + 'a;

/// Plays `arrivals`. A request ends without an answer where its queue is reset or goes away, as ROCr tells its owner, who
/// sends no more there. One thread serves all nodes, as a scheduling process would: while a call of the driver lasts, later
/// arrivals wait, and their latency says so.
pub(super) fn play(
    rig: &Rig,
    scheduler: Option<&Scheduler>,
    arrivals: &Arrivals,
    on_completion: &mut OnCompletion<'_>,
) -> Played {
    let origin = now(rig);
    let mut replay = Replay {
        rig,
        scheduler,
        origin,
        load: vec![Some(0); rig.lanes.len()],
        in_flight: BTreeMap::new(),
        played: Played { latencies: Vec::with_capacity(arrivals.requests.len()), ..Played::default() },
    };
    let mut open = arrivals.requests.iter().peekable();
    let mut closed: BinaryHeap<Reverse<(u64, usize)>> =
        (0..arrivals.closed.len()).map(|client| Reverse((0, client))).collect();
    let mut stalled_at = origin.saturating_add(arrivals.span_ns).saturating_add(STALL_NS);
    let mut left = arrivals.most.unwrap_or(usize::MAX);
    loop {
        replay.bury();
        let next_open = open.peek().filter(|_| left > 0).map(|request| request.at_ns);
        let next_closed = closed.peek().filter(|_| left > 0).map(|Reverse((at, _))| *at);
        let arrival = next_open.into_iter().chain(next_closed).min().map(|at| origin.saturating_add(at));
        if arrival.is_none() && replay.in_flight.is_empty() {
            break;
        }
        let wakeup = scheduler.and_then(Scheduler::next_wakeup).map(ns);
        let now = self::now(rig);
        let look = now.saturating_add(LOOK_NS).min(stalled_at);
        let target = arrival.into_iter().chain(wakeup).min().unwrap_or(look).min(look).max(now);
        if let Some((ticket, at)) = rig.host.sleep_until_completion(Duration::from_nanos(target)) {
            let at = ns(at);
            if let Some(client) = replay.complete(ticket, at, on_completion) {
                let next = at - origin;
                if next < arrivals.span_ns {
                    closed.push(Reverse((next, client)));
                }
                stalled_at = stalled_at.max(at.saturating_add(STALL_NS));
            }
            continue;
        }
        let now = self::now(rig);
        if now >= stalled_at {
            replay.lose(|_| true);
        } else if arrival.is_some_and(|at| at <= now) {
            left -= 1;
            match (next_open, next_closed) {
                (Some(at), other) if other.is_none_or(|other| at <= other) => {
                    let request = open.next().expect("it was peeked");
                    replay.arrive(origin + at, &request.work, None);
                }
                _ => {
                    let Reverse((at, client)) = closed.pop().expect("it was peeked");
                    replay.arrive(origin + at, &arrivals.closed[client].work, Some(client));
                }
            }
        } else if let (Some(scheduler), Some(due)) = (scheduler, wakeup)
            && due <= now
        {
            let step = scheduler.tick();
            replay.note(step.error);
        }
    }
    let mut played = replay.played;
    played.elapsed_ns = now(rig) - origin;
    played
}

struct Replay<'a> {
    rig: &'a Rig,
    scheduler: Option<&'a Scheduler>,
    origin: u64,
    /// Work under way on every lane, ns; None where its queue can run nothing any more.
    load: Vec<Option<u64>>,
    /// By the ticket of the last burst.
    in_flight: BTreeMap<Ticket, InFlight>,
    played: Played,
}

impl Replay<'_> {
    /// A request goes to the node with the least work under way, the first of equals.
    fn arrive(&mut self, arrival: u64, work: &[Burst], client: Option<usize>) {
        let lanes = self.load.iter().enumerate().filter_map(|(lane, load)| load.map(|load| (load, lane)));
        let Some((load, lane)) = lanes.min() else {
            self.played.lost += 1;
            return;
        };
        let place = self.rig.lanes[lane];
        let guard = self.scheduler.map(|scheduler| scheduler.online_on(&[place.gpu]));
        let error = guard.as_ref().and_then(|guard| guard.entered().error.clone());
        self.note(error);
        let mut last = None;
        for burst in work {
            let work = Work { packets: burst.packets, packet_ns: burst.packet_ns, occupancy: burst.occupancy };
            last = self.rig.host.machine().submit(place.pid, place.queue, work).ok();
        }
        let Some(ticket) = last else {
            // The queue went away while offline work was taken off its node.
            self.played.lost += 1;
            self.leave(guard);
            return;
        };
        let alone_ns = work.iter().map(Burst::alone_ns).sum();
        self.load[lane] = Some(load + alone_ns);
        self.in_flight.insert(ticket, InFlight { lane, arrival, alone_ns, client, guard });
    }

    /// Ends the request that `ticket` completes, if it completes one; tells which closed-loop client may go on.
    fn complete(&mut self, ticket: Ticket, at: u64, on_completion: &mut OnCompletion<'_>) -> Option<usize> {
        let request = self.in_flight.remove(&ticket)?;
        if let Some(load) = &mut self.load[request.lane] {
            *load -= request.alone_ns;
        }
        self.played.work_ns += request.alone_ns;
        self.played.closed += u64::from(request.client.is_some());
        self.played.latencies.push(at.saturating_sub(request.arrival.max(self.origin)));
        on_completion(request.lane, request.arrival, at);
        self.leave(request.guard);
        request.client
    }

    /// Ends what is under way on lanes whose queue can run nothing any more, and sends nothing there from now on.
    fn bury(&mut self) {
        let machine = self.rig.host.machine();
        let mut dead = false;
        for (load, lane) in self.load.iter_mut().zip(&self.rig.lanes) {
            if load.is_some() && !machine.runnable(lane.pid, lane.queue) {
                *load = None;
                dead = true;
            }
        }
        if dead {
            let load = self.load.clone();
            self.lose(|lane| load[lane].is_none());
        }
    }

    /// Ends the requests on some lanes without an answer.
    fn lose(&mut self, on: impl Fn(usize) -> bool) {
        let (lost, kept) = std::mem::take(&mut self.in_flight).into_iter().partition(|(_, request)| on(request.lane));
        self.in_flight = kept;
        let lost: BTreeMap<Ticket, InFlight> = lost;
        for request in lost.into_values() {
            self.played.lost += 1;
            self.leave(request.guard);
        }
    }

    fn leave(&mut self, guard: Option<OnlineGuard>) {
        if let Some(guard) = guard {
            let step = guard.leave();
            self.note(step.error);
        }
    }

    fn note(&mut self, error: Option<gpreempt::Error>) {
        if let Some(error) = error {
            self.played.errors += 1;
            self.played.first_error.get_or_insert_with(|| error.to_string());
        }
    }
}

/// Machine time, ns.
fn now(rig: &Rig) -> u64 {
    rig.host.machine().now()
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
