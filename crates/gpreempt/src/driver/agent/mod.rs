//! Agents in offline programs on a stock kernel: no privilege, no `/dev/kfd` of the scheduler's own.
//!
//! A program that was started with `gpreempt offline` carries an agent, which sets its queues to 0 % and back when this
//! driver asks over a socket. A target is a process or a job: the process that `gpreempt offline` became, with all that
//! descend from it. Every process is asked at once, each of its queues costs its node a round. When the connection closes
//! or nothing is heard for [`Driver::max_hold`], the agent gives everything back; each unmap is a sign of life.

mod library;
mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gpreempt_agent_core::protocol::*;
use gpreempt_sys::{KFD_IOC_QUEUE_TYPE_SDMA, KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID, KFD_IOC_QUEUE_TYPE_SDMA_XGMI};
use nix::errno::Errno;

pub use self::library::{LIBRARY, library};
use self::peers::{Answer, Peers};
use super::{Batch, Capabilities, Driver, Event, Outcome, QueueStatus, Selector, Tier, Want};
use crate::discover::proc;
use crate::error::{Error, Result};
use crate::host::{AgentAddress, Host};
use crate::queue::{GpuId, HqdStatus, Pid, PolicyFlags, QueueId, QueueState, QueueType, Reservation};

const ATTACHING: &str = "attaching a process";
const REMEDY: &str = "start the program with `gpreempt offline -- COMMAND`";

/// The agents of this user's offline programs.
#[derive(Debug)]
pub struct AgentDriver {
    host: Arc<dyn Host>,
    state: Mutex<State>,
    abandoned: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    targets: BTreeMap<Pid, Target>,
    peers: Peers,
}

/// What a pid is bound to.
#[derive(Debug)]
struct Target {
    started: Option<Duration>,
    /// Processes with agents: itself, and those of its job.
    ranks: BTreeSet<Pid>,
}

/// One request to one process: its queues on one node (or on all), by id or as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Share {
    rank: Pid,
    gpu: u32,
    /// All queues, with these flags; None = by id.
    all: Option<u32>,
}

impl AgentDriver {
    /// Opens nothing yet: agents come and go with their programs.
    pub fn open(host: Arc<dyn Host>) -> AgentDriver {
        AgentDriver { host, state: Mutex::default(), abandoned: AtomicBool::new(false) }
    }

    /// Whether a process, or some process of its job, has an agent. Asks nobody.
    pub fn reaches(&self, pid: Pid) -> bool {
        self.host.agents().iter().any(|address| address.pid == pid || address.job == pid)
    }

    /// The agents that there are, gone ones too.
    pub fn agents(&self) -> Vec<AgentAddress> {
        self.host.agents()
    }

    /// Connects to the agents of a target that are not connected yet. Returns how many queues it has.
    fn connect(&self, state: &mut State, pid: Pid) -> Result<u32> {
        let started = proc::started(self.host.as_ref(), pid);
        let addresses = self.host.agents();
        let of_target: Vec<&AgentAddress> =
            addresses.iter().filter(|address| address.pid == pid || address.job == pid).collect();
        let refused = state.peers.connect(self.host.as_ref(), &of_target);
        let ranks: BTreeSet<Pid> =
            of_target.iter().map(|address| address.pid).filter(|rank| state.peers.knows(*rank)).collect();
        if !ranks.iter().any(|rank| state.peers.has(*rank)) {
            if started.is_none() {
                state.targets.remove(&pid);
                return Err(Error::of_driver(ATTACHING, Errno::ESRCH).on(format_args!("pid {pid}")));
            }
            match refused.into_iter().find(|(_, errno)| !matches!(errno, Errno::ECONNREFUSED | Errno::ENOENT)) {
                Some((_, errno)) => return Err(self.no_agent(pid, Some(errno))),
                None if !library::is_preloaded(self.host.as_ref(), pid) || self.is_foreign(pid) => {
                    return Err(self.no_agent(pid, None));
                }
                // It has not opened /dev/kfd yet.
                None => {}
            }
        }
        let queues = ranks.iter().filter_map(|rank| state.peers.queues(*rank)).sum();
        state.targets.insert(pid, Target { started, ranks });
        Ok(queues)
    }

    /// Whether a process runs as another user.
    fn is_foreign(&self, pid: Pid) -> bool {
        let status = proc::status(self.host.as_ref(), &pid.to_string()).ok().flatten();
        status.is_some_and(|status| status.uid != self.host.identity().euid)
    }

    fn no_agent(&self, pid: Pid, errno: Option<Errno>) -> Error {
        let error = |errno: Errno| Error::new(ATTACHING, errno).on(format_args!("pid {pid}"));
        match errno {
            _ if self.is_foreign(pid) => error(Errno::EPERM)
                .because("it is another user's, and an agent obeys its own user alone")
                .remedy("run the scheduler as the user of the offline program"),
            Some(Errno::EPERM) => error(Errno::EPERM).because("its agent runs as another user"),
            Some(Errno::ETIME) => error(Errno::ETIME)
                .because("its agent does not answer")
                .remedy("the process may be stopped: send it SIGCONT"),
            Some(errno) => error(errno).because("its agent cannot be reached"),
            None => error(Errno::EOPNOTSUPP).because("no agent in it").remedy(REMEDY),
        }
    }

    /// The processes that a selector is about.
    fn ranks(&self, state: &mut State, selector: &Selector) -> Result<Vec<Pid>, Errno> {
        let pid = selector.pid;
        match state.targets.get(&pid) {
            None => drop(self.connect(state, pid).map_err(|error| error.errno())?),
            Some(target) => {
                let started = proc::started(self.host.as_ref(), pid);
                if started.is_none() || started != target.started {
                    return Err(Errno::ESRCH);
                }
                let lost = target.ranks.iter().any(|rank| !state.peers.has(*rank));
                // A job may have got more processes, one that called exec has another agent.
                if lost || (selector.queue.is_none() && self.has_new(state, pid)) {
                    self.connect(state, pid).map_err(|error| error.errno())?;
                }
            }
        }
        let target = state.targets.get(&pid).ok_or(Errno::ESRCH)?;
        if selector.started.is_some() && selector.started != target.started {
            return Err(Errno::ESRCH);
        }
        match selector.queue {
            None => Ok(target.ranks.iter().copied().collect()),
            Some(_) if target.ranks.contains(&pid) => Ok(vec![pid]),
            Some(_) => Err(Errno::ENOENT),
        }
    }

    fn has_new(&self, state: &State, pid: Pid) -> bool {
        let of_target = |address: &AgentAddress| address.pid == pid || address.job == pid;
        self.host.agents().iter().any(|address| of_target(address) && !state.peers.has(address.pid))
    }

    fn run(&self, operation: u32, selectors: &[Selector]) -> Result<Batch> {
        let what = if operation == STOP { "unmapping" } else { "mapping" };
        self.check(what)?;
        if selectors.is_empty() {
            return Err(Error::new(what, Errno::EINVAL).because("no queues"));
        }
        let began = self.host.now();
        let mut state = self.lock();
        let mut wanted: BTreeMap<Share, Vec<u32>> = BTreeMap::new();
        let named: Vec<Result<Vec<Share>, Errno>> = selectors
            .iter()
            .map(|selector| {
                if selector.if_idle {
                    return Err(Errno::EOPNOTSUPP);
                }
                let flags = FLAG_ALL | if selector.hold_new && operation == STOP { FLAG_HOLD_NEW } else { 0 };
                let all = selector.queue.is_none().then_some(flags);
                let ranks = self.ranks(&mut state, selector)?;
                let shares: Vec<Share> =
                    ranks.into_iter().map(|rank| Share { rank, gpu: selector.gpu.0, all }).collect();
                for share in &shares {
                    wanted.entry(*share).or_default().extend(selector.queue);
                }
                Ok(shares)
            })
            .collect();
        let requests: Vec<(Pid, Request, Vec<u32>)> =
            wanted.iter().map(|(share, ids)| (share.rank, request(operation, share), ids.clone())).collect();
        let answers: BTreeMap<Share, Result<Answer, Errno>> =
            wanted.into_keys().zip(state.peers.ask(&requests)).collect();
        let outcome = |(selector, shares): (&Selector, &Result<Vec<Share>, Errno>)| {
            let mut outcome = Outcome { selector: *selector, errno: None, queues: 0, state: QueueState::empty() };
            match shares {
                Err(errno) => outcome.errno = Some(*errno),
                Ok(shares) => shares.iter().for_each(|share| judge(&mut outcome, share.rank, &answers[share])),
            }
            outcome
        };
        let outcomes = selectors.iter().zip(&named).map(outcome).collect();
        let done: Vec<&Answer> = answers.values().filter_map(|answer| answer.as_ref().ok()).collect();
        let nodes: BTreeSet<u32> =
            done.iter().flat_map(|answer| &answer.outcomes).map(|it| it.gpu_id).filter(|&gpu| gpu != 0).collect();
        let elapsed = self.host.now().saturating_sub(began);
        Ok(Batch {
            outcomes,
            nodes: nodes.len() as u32,
            rounds: done.iter().map(|answer| answer.reply.rounds).sum(),
            elapsed,
            slowest_node: elapsed,
            grace: Duration::ZERO,
        })
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        match self.abandoned.load(Ordering::Relaxed) {
            true => Err(Error::of_driver(operation, Errno::EBADF)),
            false => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(operation: u32, share: &Share) -> Request {
    Request { operation, gpu_id: share.gpu, flags: share.all.unwrap_or(0), ..Request::default() }
}

/// Adds what one process answered to the outcome of a selector.
fn judge(outcome: &mut Outcome, rank: Pid, answer: &Result<Answer, Errno>) {
    match answer {
        // One process of a job may go.
        Err(Errno::ESRCH) if rank != outcome.selector.pid => {}
        Err(errno) => outcome.errno = outcome.errno.or(Some(*errno)),
        Ok(answer) => {
            let id = outcome.selector.queue;
            for entry in answer.outcomes.iter().filter(|entry| id.is_none_or(|id| entry.queue_id == id)) {
                match entry.errno {
                    0 => {
                        outcome.queues += 1;
                        outcome.state = state(entry.flags, answer.reply.flags);
                    }
                    errno => outcome.errno = outcome.errno.or(Some(Errno::from_raw(errno.cast_signed()))),
                }
            }
        }
    }
}

fn state(queue: u32, reply: u32) -> QueueState {
    let bit = |on: bool, state: QueueState| if on { state } else { QueueState::empty() };
    let (wanted, held) = (queue & QUEUE_WANTED != 0, queue & QUEUE_HELD != 0);
    bit(wanted && queue & QUEUE_OFF == 0, QueueState::ACTIVE)
        | bit(!wanted, QueueState::DISABLED)
        | bit(held, QueueState::PREEMPTED)
        | bit(held && reply & REPLY_HOLDER != 0, QueueState::MINE)
}

fn status(rank: Pid, entry: &QueueEntry, reply: u32) -> QueueStatus {
    QueueStatus {
        queue: QueueId { pid: rank, id: entry.queue_id },
        gpu: GpuId(entry.gpu_id),
        kind: match entry.kind {
            KFD_IOC_QUEUE_TYPE_SDMA | KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID => QueueType::Sdma,
            KFD_IOC_QUEUE_TYPE_SDMA_XGMI => QueueType::SdmaXgmi,
            _ => QueueType::Compute,
        },
        state: state(entry.flags, reply),
        policy: PolicyFlags::empty(),
        priority: Some(entry.priority),
        percent: Some(entry.percentage & 0xff),
        ring_base: entry.ring_base,
        pointers: (entry.flags & QUEUE_POINTERS != 0).then_some((entry.read_ptr, entry.write_ptr)),
        waves: None,
        held: Duration::from_nanos(entry.held_ns),
    }
}

fn not_here<T>(operation: &'static str) -> Result<T> {
    Err(Error::new(operation, Errno::EOPNOTSUPP)
        .because("an agent sees its own process alone")
        .remedy("use a kernel with the series in kernel-patch/ (tier patched)"))
}

impl Driver for AgentDriver {
    fn tier(&self) -> Tier {
        Tier::Agent
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::STATUS | Capabilities::POINTERS | Capabilities::HOLD_NEW
    }

    fn max_hold(&self) -> Option<Duration> {
        Some(Duration::from_millis(MAX_HOLD_MS.into()))
    }

    /// As many as there are.
    fn max_batch(&self) -> usize {
        usize::MAX
    }

    /// Connects to the agent of a process, or to those of a job. A program with an agent that has not opened `/dev/kfd`
    /// yet has 0 queues.
    fn attach(&self, pid: Pid) -> Result<u32> {
        self.check(ATTACHING)?;
        let mut state = self.lock();
        let known = state.targets.get(&pid).map(|target| target.ranks.clone()).unwrap_or_default();
        state.peers.refresh(known.into_iter());
        self.connect(&mut state, pid)
    }

    fn started(&self, pid: Pid) -> Option<Duration> {
        self.lock().targets.get(&pid).and_then(|target| target.started)
    }

    fn detach(&self, pid: Pid) -> Result<()> {
        const OPERATION: &str = "detaching a process";
        self.check(OPERATION)?;
        let mut state = self.lock();
        let Some(target) = state.targets.remove(&pid) else {
            return Err(Error::of_driver(OPERATION, Errno::ESRCH).on(format_args!("pid {pid}")));
        };
        let kept: BTreeSet<Pid> = state.targets.values().flat_map(|target| &target.ranks).copied().collect();
        let requests: Vec<_> = target
            .ranks
            .iter()
            .map(|&rank| (rank, Request { operation: RESTORE, flags: FLAG_ALL, ..Request::default() }, Vec::new()))
            .collect();
        // Where it fails the process is gone, or closing the connection does it.
        let _ = state.peers.ask(&requests);
        target.ranks.difference(&kept).for_each(|rank| state.peers.drop(*rank));
        Ok(())
    }

    /// `AMDKFD_IOC_UPDATE_QUEUE` with percentage 0 in each process, one per queue. There is no grace on this way.
    fn unmap(&self, selectors: &[Selector], _grace: Duration) -> Result<Batch> {
        self.run(STOP, selectors)
    }

    /// `AMDKFD_IOC_UPDATE_QUEUE` with what the program wants. All of a process ends the hold on its new queues, too.
    fn remap(&self, selectors: &[Selector]) -> Result<Batch> {
        self.run(RESTORE, selectors)
    }

    fn swap(&self, _unmap: &[Selector], _remap: &[Selector], _grace: Duration) -> Result<Batch> {
        not_here("swapping queues")
    }

    /// LAZY_ACTIVATION of a whole target and nothing else: queues that it creates from now on start stopped.
    fn set_policy(&self, selector: Selector, set: PolicyFlags, clear: PolicyFlags) -> Result<PolicyFlags> {
        const OPERATION: &str = "setting a queue policy";
        let lazy = PolicyFlags::LAZY_ACTIVATION;
        self.check(OPERATION)?;
        if selector.queue.is_some() || !lazy.contains(set) {
            return not_here(OPERATION);
        }
        if !(set | clear).contains(lazy) {
            return Ok(PolicyFlags::empty());
        }
        let failed = |errno: Errno| Error::of_driver(OPERATION, errno).on(selector);
        let mut state = self.lock();
        let ranks = self.ranks(&mut state, &selector).map_err(failed)?;
        let flags = if set.contains(lazy) { FLAG_HOLD_NEW } else { 0 };
        let policy = Request { operation: POLICY, flags, gpu_id: selector.gpu.0, ..Request::default() };
        let requests: Vec<_> = ranks.into_iter().map(|rank| (rank, policy, Vec::new())).collect();
        let answers = state.peers.ask(&requests).into_iter().collect::<Result<Vec<_>, Errno>>().map_err(failed)?;
        let held = answers.iter().any(|answer| answer.reply.flags & REPLY_HOLDS_NEW != 0);
        Ok(if held { lazy } else { PolicyFlags::empty() })
    }

    fn set_reservation(&self, _gpu: GpuId, _online_percent: u32, _offline_percent: u32) -> Result<Reservation> {
        not_here("reserving queue slots")
    }

    fn node_status(&self, _gpu: GpuId) -> Result<HqdStatus> {
        not_here("reading queue slots")
    }

    fn queue_status(&self, selector: Selector, want: Want) -> Result<Vec<QueueStatus>> {
        const OPERATION: &str = "reading queue status";
        self.check(OPERATION)?;
        let failed = |errno: Errno| Error::of_driver(OPERATION, errno).on(selector);
        let mut state = self.lock();
        let ranks = self.ranks(&mut state, &selector).map_err(failed)?;
        let flags = if want.pointers { FLAG_POINTERS } else { 0 };
        let list = Request { operation: LIST, flags, gpu_id: selector.gpu.0, ..Request::default() };
        let requests: Vec<_> = ranks.iter().map(|&rank| (rank, list, Vec::new())).collect();
        let mut found = Vec::new();
        for (rank, answer) in ranks.iter().zip(state.peers.ask(&requests)) {
            let answer = match answer {
                // One process of a job may go.
                Err(Errno::ESRCH) if *rank != selector.pid => continue,
                answer => answer.map_err(failed)?,
            };
            let named = answer.queues.iter().filter(|entry| selector.queue.is_none_or(|id| entry.queue_id == id));
            found.extend(named.map(|entry| status(*rank, entry, answer.reply.flags)));
        }
        match selector.queue {
            Some(_) if found.is_empty() => Err(failed(Errno::ENOENT)),
            _ => Ok(found),
        }
    }

    fn events(&self) -> Result<Vec<Event>> {
        not_here("reading events")
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        // The copies of the sockets would keep the agents from noticing that the parent has gone; where another thread had
        // the lock when the process forked they stay open, and the agents' deadline does it.
        if let Ok(mut state) = self.state.try_lock() {
            *state = State::default();
        }
    }
}
