//! A batch as a debugger carries it out: one call per process, or one per queue.

use std::collections::{BTreeMap, BTreeSet};

use gpreempt_sys::{KFD_DBG_QUEUE_ERROR_MASK, KFD_DBG_QUEUE_INVALID_MASK};
use nix::errno::Errno;
use tracing::debug;

use super::target::{HELD, Target};
use super::trap::Motion;
use super::{Calls, DebuggerDriver};
use crate::driver::{Batch, Outcome, Selector};
use crate::error::{Error, Result};
use crate::host::SysResult;
use crate::queue::{GpuId, Pid, QueueState};

impl Motion {
    fn operation(self) -> &'static str {
        match self {
            Motion::Suspend { .. } => "suspending queues",
            Motion::Resume => "resuming queues",
        }
    }
}

/// What the calls of one batch came to.
#[derive(Debug, Default)]
struct Work {
    results: BTreeMap<(Pid, u32), Option<Errno>>,
    nodes: BTreeSet<GpuId>,
    rounds: u32,
}

impl Work {
    fn note(&mut self, pid: Pid, queues: &[(u32, GpuId)], errno: Option<Errno>) {
        self.results.extend(queues.iter().map(|&(id, _)| ((pid, id), errno)));
    }

    /// The kernel reports no rounds; it makes one for each node with a queue that was named.
    fn count(&mut self, queues: &[(u32, GpuId)]) {
        let nodes: BTreeSet<GpuId> = queues.iter().map(|&(_, gpu)| gpu).collect();
        self.rounds += nodes.len() as u32;
    }
}

impl DebuggerDriver {
    pub(super) fn run(&self, selectors: &[Selector], motion: Motion) -> Result<Batch> {
        if selectors.is_empty() {
            return Err(Error::new(motion.operation(), Errno::EINVAL).because("no queues"));
        }
        let began = self.trap.host.now();
        let mut targets = self.lock();
        // Resolve first, so that a process's queues go into one call however the selectors are ordered.
        let mut named: Vec<SysResult<Vec<(u32, GpuId)>>> = Vec::with_capacity(selectors.len());
        let mut by_process: BTreeMap<Pid, BTreeMap<u32, GpuId>> = BTreeMap::new();
        for selector in selectors {
            let queues = self.named(&mut targets, selector, motion);
            if let Ok(queues) = &queues {
                by_process.entry(selector.pid).or_default().extend(queues.iter().copied());
            }
            named.push(queues);
        }
        let mut work = Work::default();
        for (pid, queues) in &by_process {
            let Some(target) = targets.get_mut(pid) else { continue };
            let queues: Vec<(u32, GpuId)> = queues.iter().map(|(&id, &gpu)| (id, gpu)).collect();
            work.nodes.extend(queues.iter().map(|&(_, gpu)| gpu));
            self.move_some(*pid, target, &queues, motion, &mut work);
        }
        let mut outcomes = Vec::with_capacity(selectors.len());
        for (selector, queues) in selectors.iter().zip(&named) {
            let (errno, moved) = match queues {
                Err(errno) => (Some(*errno), 0),
                Ok(queues) => {
                    let results = || {
                        queues.iter().map(|&(id, _)| {
                            work.results.get(&(selector.pid, id)).copied().unwrap_or(Some(Errno::ESRCH))
                        })
                    };
                    (results().flatten().next(), results().filter(Option::is_none).count())
                }
            };
            let state = match motion {
                Motion::Suspend { .. } if moved > 0 => HELD,
                Motion::Resume if moved > 0 => QueueState::ACTIVE,
                _ => QueueState::empty(),
            };
            outcomes.push(Outcome { selector: *selector, errno, queues: moved as u32, state });
        }
        for (selector, outcome) in selectors.iter().zip(&outcomes) {
            // A selector may name an earlier process with this pid: that says nothing of this one.
            let gone = outcome.errno == Some(Errno::ESRCH);
            if gone && targets.get(&selector.pid).is_some_and(|target| !self.is_current(selector.pid, target)) {
                targets.remove(&selector.pid);
            }
        }
        Ok(Batch {
            outcomes,
            nodes: work.nodes.len() as u32,
            rounds: work.rounds,
            elapsed: self.trap.host.now().saturating_sub(began),
            ..Batch::default()
        })
    }

    /// The queues that a selector names, with their nodes.
    fn named(
        &self,
        targets: &mut BTreeMap<Pid, Target>,
        selector: &Selector,
        motion: Motion,
    ) -> SysResult<Vec<(u32, GpuId)>> {
        if selector.hold_new || selector.if_idle {
            return Err(Errno::EOPNOTSUPP);
        }
        let target = self.attached(targets, selector.pid)?;
        if selector.started.is_some_and(|started| target.started.is_some_and(|own| own != started)) {
            return Err(Errno::ESRCH);
        }
        let here = |gpu: GpuId| selector.gpu == GpuId::ALL || selector.gpu == gpu;
        let Some(id) = selector.queue else {
            self.snapshot(selector.pid, target)?;
            return Ok(target.queues.iter().map(|(&id, seen)| (id, seen.gpu)).filter(|&(_, gpu)| here(gpu)).collect());
        };
        // A queue that is where it shall be is not named to the kernel, so this is where it is seen to exist.
        let there_already = target.suspended.contains_key(&id) == matches!(motion, Motion::Suspend { .. });
        if there_already || !target.queues.contains_key(&id) {
            self.snapshot(selector.pid, target)?;
        }
        match target.queues.get(&id) {
            Some(seen) if here(seen.gpu) => Ok(vec![(id, seen.gpu)]),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Moves some queues of one process, in as many calls as this driver is told to make. Those that are where they shall be
    /// stay: naming them costs their node a round.
    fn move_some(&self, pid: Pid, target: &mut Target, queues: &[(u32, GpuId)], motion: Motion, work: &mut Work) {
        let suspending = matches!(motion, Motion::Suspend { .. });
        let is_there = |id: &u32| target.suspended.contains_key(id) == suspending;
        let there: Vec<_> = queues.iter().copied().filter(|(id, _)| is_there(id)).collect();
        let queues: Vec<_> = queues.iter().copied().filter(|(id, _)| !is_there(id)).collect();
        work.note(pid, &there, None);
        if let (true, Some(guard)) = (suspending, &self.vm_guard) {
            let named: BTreeSet<GpuId> = queues.iter().map(|&(_, gpu)| gpu).collect();
            let has_queue: BTreeSet<GpuId> = target.queues.values().map(|seen| seen.gpu).collect();
            if !named.is_empty() && !guard.allows(self.trap.host.as_ref(), target.kfd_pid, &named, &has_queue) {
                work.note(pid, &queues, Some(Errno::EOPNOTSUPP));
                return;
            }
        }
        let at_once = match self.calls {
            Calls::PerQueue => 1,
            Calls::PerProcess => queues.len().max(1),
        };
        for some in queues.chunks(at_once) {
            self.move_at_once(pid, target, some, motion, work);
        }
    }

    /// One call, or two where a queue was created since the last snapshot.
    fn move_at_once(&self, pid: Pid, target: &mut Target, some: &[(u32, GpuId)], motion: Motion, work: &mut Work) {
        let now = self.trap.host.now();
        let mut ids: Vec<u32> = some.iter().map(|&(id, _)| id).collect();
        let mut answer = self.trap.move_queues(pid, &mut ids, motion);
        let refused = |ids: &[u32]| ids.iter().any(|id| id & KFD_DBG_QUEUE_INVALID_MASK != 0);
        if answer.is_ok() && refused(&ids) && self.snapshot(pid, target).is_ok() {
            // A queue is new until a snapshot has seen it. Asking again for the others does no harm.
            let mut again: Vec<u32> = some.iter().map(|&(id, _)| id).collect();
            answer = self.trap.move_queues(pid, &mut again, motion);
            ids = again;
            work.count(some);
        }
        work.count(some);
        let moved = match answer {
            Ok(moved) => moved,
            Err(errno) => {
                let errno = self.meant(pid, target, errno);
                return work.note(pid, some, Some(errno));
            }
        };
        debug!(pid, asked = some.len(), moved, ?motion, "debugger");
        for (&(queue, _), &marked) in some.iter().zip(&ids) {
            let errno = if marked & KFD_DBG_QUEUE_ERROR_MASK != 0 {
                Some(Errno::EIO)
            } else if marked & KFD_DBG_QUEUE_INVALID_MASK == 0 {
                None
            } else if target.queues.contains_key(&queue) {
                Some(Errno::EBUSY)
            } else {
                Some(Errno::ENOENT)
            };
            match (motion, errno) {
                // The kernel keeps the mark of a queue whose round failed.
                (Motion::Suspend { .. }, None | Some(Errno::EIO)) => drop(target.suspended.insert(queue, now)),
                (Motion::Resume, None | Some(Errno::ENOENT)) => drop(target.suspended.remove(&queue)),
                _ => {}
            }
            work.results.insert((pid, queue), errno);
        }
    }
}
