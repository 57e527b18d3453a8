//! DBG_TRAP on a stock kernel: what there is without the series, for the comparison.
//!
//! The driver becomes the KFD debugger of each target. That takes the ptrace right on it (and, for a moment, its ptrace
//! slot), keeps ROCgdb out, and needs a runtime that called RUNTIME_ENABLE before its first queue, as ROCr does. KFD resumes
//! what a debugger suspended when the session ends or the debugger dies; nobody watches a debugger that hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gpreempt_sys::*;
use nix::errno::Errno;
use tracing::debug;
use zerocopy::IntoBytes;

use super::call::{array, call};
use super::grace::Grace;
use super::probe::{KFD, cannot_open};
use super::vm_guard::VmGuard;
use super::{Batch, Capabilities, Driver, Event, Outcome, QueueStatus, Selector, Tier, Want};
use crate::error::{Error, Result};
use crate::host::{Host, OwnedFile, SysResult};
use crate::queue::{GpuId, HqdStatus, Pid, PolicyFlags, QueueState, Reservation};

const OPENING: &str = "opening the KFD debugger";

/// Queues that a snapshot has room for at first.
const SNAPSHOT_ROOM: usize = 64;

/// Grace periods are an 8-bit field of the hardware; the stock driver cuts longer ones silently.
const GRACE_MAX: u32 = 255;

/// The kernel's `USE_DEFAULT_GRACE_PERIOD`; 0 would be the shortest one.
const DEFAULT_GRACE: u32 = u32::MAX;

/// How a batch is turned into calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Calls {
    /// One queue at a time: a round for each.
    PerQueue,
    /// All queues of a process at once: a round for each of its nodes, one node after the other.
    PerProcess,
}

/// A KFD debugger of its targets.
#[derive(Debug)]
pub struct DebuggerDriver {
    host: Arc<dyn Host>,
    kfd: OwnedFile,
    calls: Calls,
    own_pid: Pid,
    process: u32,
    vm_guard: Option<VmGuard>,
    grace: OnceLock<Grace>,
    targets: Mutex<BTreeMap<Pid, Target>>,
}

/// What is known of a process that is being debugged.
#[derive(Debug, Default)]
struct Target {
    /// Its queues at the last snapshot.
    queues: BTreeMap<u32, GpuId>,
}

impl DebuggerDriver {
    /// Opens `/dev/kfd` for a stock kernel, which has a NULL dereference in suspend (see [`Driver::unmap`] of this type):
    /// processes that could trigger it are refused.
    ///
    /// # Errors
    /// ENODEV without amdkfd; EPERM where the user may not open `/dev/kfd`.
    pub fn open(host: Arc<dyn Host>, calls: Calls) -> Result<DebuggerDriver> {
        let vm_guard = VmGuard::new(host.as_ref())?;
        DebuggerDriver::with_guard(host, calls, Some(vm_guard))
    }

    /// As [`DebuggerDriver::open`] for a kernel that the caller knows to be without that bug: the simulated machine, or a
    /// kernel with the fix from `kernel-patch/`. No process is refused.
    ///
    /// # Errors
    /// As [`DebuggerDriver::open`].
    pub fn open_fixed(host: Arc<dyn Host>, calls: Calls) -> Result<DebuggerDriver> {
        DebuggerDriver::with_guard(host, calls, None)
    }

    fn with_guard(host: Arc<dyn Host>, calls: Calls, vm_guard: Option<VmGuard>) -> Result<DebuggerDriver> {
        let kfd = OwnedFile::open(&host, KFD).map_err(|errno| cannot_open(OPENING, errno))?;
        Ok(DebuggerDriver {
            own_pid: host.identity().pid,
            process: std::process::id(),
            host,
            kfd,
            calls,
            vm_guard,
            grace: OnceLock::new(),
            targets: Mutex::default(),
        })
    }

    /// One debug operation. KFD lets a debugger in that it knows; for the first operation, and on kernels that ask every
    /// time, this thread becomes the ptracer for the moment. Not longer: a traced process stops at every signal until its
    /// tracer has seen it.
    fn trap<T: DbgTrapOp + Copy>(
        &self,
        pid: Pid,
        operation: &mut T,
        mut list: Option<(usize, &mut [u8])>,
    ) -> SysResult<i32> {
        let mut args = kfd_ioctl_dbg_trap_args::new(pid, *operation);
        let mut issue = |args: &mut kfd_ioctl_dbg_trap_args| {
            let field = |offset| offset_of!(kfd_ioctl_dbg_trap_args, payload) + offset;
            match &mut list {
                Some((offset, bytes)) => {
                    let mut arrays = [array(field(*offset), bytes)];
                    call(self.host.as_ref(), self.kfd.raw(), AMDKFD_IOC_DBG_TRAP, args, &mut arrays)
                }
                None => call(self.host.as_ref(), self.kfd.raw(), AMDKFD_IOC_DBG_TRAP, args, &mut []),
            }
        };
        let mut answer = issue(&mut args);
        if answer == Err(Errno::EPERM) && pid != self.own_pid {
            self.host.trace(pid)?;
            answer = issue(&mut args);
            // Where it fails the process is gone.
            let _ = self.host.untrace(pid);
        }
        if let Some(answered) = args.get::<T>() {
            *operation = answered;
        }
        answer
    }

    fn enable(&self, pid: Pid) -> SysResult<()> {
        let mut info = [kfd_runtime_info::default()];
        let mut enable = kfd_ioctl_dbg_trap_enable_args {
            // No exception is asked for, so nothing is ever written to this file: any open one will do.
            exception_mask: 0,
            rinfo_size: size_of::<kfd_runtime_info>() as u32,
            dbg_fd: self.kfd.raw().cast_unsigned(),
            ..Default::default()
        };
        let offset = offset_of!(kfd_ioctl_dbg_trap_enable_args, rinfo_ptr);
        self.trap(pid, &mut enable, Some((offset, info.as_mut_bytes())))?;
        if info[0].runtime_state == DEBUG_RUNTIME_STATE_ENABLED {
            return Ok(());
        }
        // A runtime that enables itself now would wait for its debugger, and this one does not answer.
        let _ = self.disable(pid);
        Err(Errno::EOPNOTSUPP)
    }

    fn disable(&self, pid: Pid) -> SysResult<()> {
        let mut args = kfd_ioctl_dbg_trap_args { pid, op: KFD_IOC_DBG_TRAP_DISABLE, ..Default::default() };
        call(self.host.as_ref(), self.kfd.raw(), AMDKFD_IOC_DBG_TRAP, &mut args, &mut []).map(drop)
    }

    /// Reads the target's queues; new ones can be suspended from now on.
    fn snapshot(&self, pid: Pid, target: &mut Target) -> SysResult<()> {
        let mut room = SNAPSHOT_ROOM;
        loop {
            let mut entries = vec![kfd_queue_snapshot_entry::default(); room];
            let mut snapshot = kfd_ioctl_dbg_trap_queue_snapshot_args {
                exception_mask: KFD_EC_MASK(EC_QUEUE_NEW),
                num_queues: room as u32,
                entry_size: size_of::<kfd_queue_snapshot_entry>() as u32,
                ..Default::default()
            };
            let offset = offset_of!(kfd_ioctl_dbg_trap_queue_snapshot_args, snapshot_buf_ptr);
            self.trap(pid, &mut snapshot, Some((offset, entries.as_mut_bytes())))?;
            let there_are = snapshot.num_queues as usize;
            if there_are <= room {
                target.queues =
                    entries[..there_are].iter().map(|entry| (entry.queue_id, GpuId(entry.gpu_id))).collect();
                return Ok(());
            }
            room = there_are + SNAPSHOT_ROOM;
        }
    }

    fn attached<'a>(&self, targets: &'a mut BTreeMap<Pid, Target>, pid: Pid) -> SysResult<&'a mut Target> {
        use std::collections::btree_map::Entry;
        match targets.entry(pid) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                self.enable(pid)?;
                let mut target = Target::default();
                if let Err(errno) = self.snapshot(pid, &mut target) {
                    let _ = self.disable(pid);
                    return Err(errno);
                }
                Ok(new.insert(target))
            }
        }
    }

    /// The queues that a selector names, with their nodes.
    fn named(&self, target: &mut Target, selector: &Selector) -> SysResult<Vec<(u32, GpuId)>> {
        if selector.hold_new || selector.if_idle {
            return Err(Errno::EOPNOTSUPP);
        }
        let here = |gpu: GpuId| selector.gpu == GpuId::ALL || selector.gpu == gpu;
        let Some(id) = selector.queue else {
            self.snapshot(selector.pid, target)?;
            return Ok(target.queues.iter().map(|(&id, &gpu)| (id, gpu)).filter(|&(_, gpu)| here(gpu)).collect());
        };
        if !target.queues.contains_key(&id) {
            self.snapshot(selector.pid, target)?;
        }
        match target.queues.get(&id) {
            Some(&gpu) if here(gpu) => Ok(vec![(id, gpu)]),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Suspends or resumes queues of one process in one call. The ids come back with the kernel's failure bits.
    fn move_queues(&self, pid: Pid, ids: &mut [u32], motion: Motion) -> SysResult<i32> {
        let num_queues = ids.len() as u32;
        let bytes = ids.as_mut_bytes();
        match motion {
            Motion::Suspend { grace_period } => {
                let offset = offset_of!(kfd_ioctl_dbg_trap_suspend_queues_args, queue_array_ptr);
                let mut args =
                    kfd_ioctl_dbg_trap_suspend_queues_args { num_queues, grace_period, ..Default::default() };
                self.trap(pid, &mut args, Some((offset, bytes)))
            }
            Motion::Resume => {
                let offset = offset_of!(kfd_ioctl_dbg_trap_resume_queues_args, queue_array_ptr);
                let mut args = kfd_ioctl_dbg_trap_resume_queues_args { num_queues, ..Default::default() };
                self.trap(pid, &mut args, Some((offset, bytes)))
            }
        }
    }

    /// Moves some queues of one process, in as many calls as this driver is told to make.
    fn move_some(&self, pid: Pid, target: &mut Target, queues: &[(u32, GpuId)], motion: Motion, work: &mut Work) {
        if let (Motion::Suspend { .. }, Some(guard)) = (motion, &self.vm_guard) {
            let gpus = |queues: &[(u32, GpuId)]| queues.iter().map(|&(_, gpu)| gpu).collect::<BTreeSet<GpuId>>();
            let has_queue: BTreeSet<GpuId> = target.queues.values().copied().collect();
            if !guard.allows(self.host.as_ref(), pid, &gpus(queues), &has_queue) {
                work.fail(pid, queues, Errno::EOPNOTSUPP);
                return;
            }
        }
        let at_once = match self.calls {
            Calls::PerQueue => 1,
            Calls::PerProcess => queues.len(),
        };
        for some in queues.chunks(at_once.max(1)) {
            let mut ids: Vec<u32> = some.iter().map(|&(id, _)| id).collect();
            let mut answer = self.move_queues(pid, &mut ids, motion);
            let refused = |ids: &[u32]| ids.iter().any(|id| id & KFD_DBG_QUEUE_INVALID_MASK != 0);
            if answer.is_ok() && refused(&ids) && self.snapshot(pid, target).is_ok() {
                // A queue is new until a snapshot has seen it. Asking again for the others does no harm.
                let mut again: Vec<u32> = some.iter().map(|&(id, _)| id).collect();
                answer = self.move_queues(pid, &mut again, motion);
                ids = again;
                work.count(some);
            }
            work.count(some);
            match answer {
                Err(errno) => work.fail(pid, some, errno),
                Ok(moved) => {
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
                        work.results.insert((pid, queue), errno);
                    }
                }
            }
        }
    }

    fn run(&self, selectors: &[Selector], motion: Motion) -> Result<Batch> {
        if selectors.is_empty() {
            return Err(Error::new(motion.operation(), Errno::EINVAL).because("no queues"));
        }
        let began = self.host.now();
        let mut targets = self.lock();
        // Resolve first, so that a process's queues go into one call however the selectors are ordered.
        let mut named: Vec<SysResult<Vec<(u32, GpuId)>>> = Vec::with_capacity(selectors.len());
        let mut by_process: BTreeMap<Pid, BTreeMap<u32, GpuId>> = BTreeMap::new();
        for selector in selectors {
            let queues = self.attached(&mut targets, selector.pid).and_then(|target| self.named(target, selector));
            if let Ok(queues) = &queues {
                by_process.entry(selector.pid).or_default().extend(queues.iter().copied());
            }
            named.push(queues);
        }
        let mut work = Work::default();
        for (pid, queues) in &by_process {
            let Some(target) = targets.get_mut(pid) else { continue };
            let queues: Vec<(u32, GpuId)> = queues.iter().map(|(&id, &gpu)| (id, gpu)).collect();
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
            if errno == Some(Errno::ESRCH) {
                targets.remove(&selector.pid);
            }
            let state = match motion {
                Motion::Suspend { .. } if moved > 0 => QueueState::SUSPENDED,
                _ => QueueState::empty(),
            };
            outcomes.push(Outcome { selector: *selector, errno, queues: moved as u32, state });
        }
        Ok(Batch {
            outcomes,
            nodes: work.nodes.len() as u32,
            rounds: work.rounds,
            elapsed: self.host.now().saturating_sub(began),
            ..Batch::default()
        })
    }

    fn grace_units(&self, grace: Duration) -> (u32, Duration) {
        if grace.is_zero() {
            return (DEFAULT_GRACE, Duration::ZERO);
        }
        let clock = Grace::of(&self.grace, self.host.as_ref(), GRACE_MAX);
        let units = clock.units(grace);
        (units, clock.duration(units))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pid, Target>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which way queues go.
#[derive(Clone, Copy, Debug)]
enum Motion {
    Suspend { grace_period: u32 },
    Resume,
}

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
    fn fail(&mut self, pid: Pid, queues: &[(u32, GpuId)], errno: Errno) {
        self.results.extend(queues.iter().map(|&(id, _)| ((pid, id), Some(errno))));
    }

    /// The kernel reports no rounds; it makes one for each node with a queue that was named.
    fn count(&mut self, queues: &[(u32, GpuId)]) {
        let nodes: BTreeSet<GpuId> = queues.iter().map(|&(_, gpu)| gpu).collect();
        self.rounds += nodes.len() as u32;
        self.nodes.extend(nodes);
    }
}

fn not_here<T>(operation: &'static str) -> Result<T> {
    Err(Error::new(operation, Errno::EOPNOTSUPP)
        .because("a KFD debugger cannot do it")
        .remedy("use a kernel with the series in kernel-patch/ (tier patched)"))
}

impl Driver for DebuggerDriver {
    fn tier(&self) -> Tier {
        Tier::Debugger
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::empty()
    }

    /// None: a debugger that hangs leaves its targets stopped.
    fn max_hold(&self) -> Option<Duration> {
        None
    }

    /// As many as there are.
    fn max_batch(&self) -> usize {
        usize::MAX
    }

    /// ioctl: `AMDKFD_IOC_DBG_TRAP` ENABLE and GET_QUEUE_SNAPSHOT. Permissions: the ptrace right on the process.
    fn attach(&self, pid: Pid) -> Result<u32> {
        let mut targets = self.lock();
        let result = self.attached(&mut targets, pid).and_then(|target| {
            self.snapshot(pid, target)?;
            Ok(target.queues.len() as u32)
        });
        result.map_err(|errno| {
            let error = Error::new("debugging a process", errno).on(format_args!("pid {pid}"));
            match errno {
                Errno::EOPNOTSUPP => error
                    .because("its runtime did not call RUNTIME_ENABLE before its first queue")
                    .remedy("start it with a ROCr that supports debugging"),
                Errno::EPERM => error
                    .because("no ptrace right on it")
                    .remedy("run as its user with kernel.yama.ptrace_scope 0, or with CAP_SYS_PTRACE"),
                Errno::EALREADY | Errno::EBUSY => Error::new("debugging a process", Errno::EBUSY)
                    .on(format_args!("pid {pid}"))
                    .because("another debugger has it, or it uses global wave sync")
                    .remedy("end the other debugger first"),
                _ => error,
            }
        })
    }

    /// ioctl: `AMDKFD_IOC_DBG_TRAP` DISABLE, which resumes everything.
    fn detach(&self, pid: Pid) -> Result<()> {
        let result = match self.lock().remove(&pid) {
            Some(_) => self.disable(pid),
            None => Err(Errno::ESRCH),
        };
        result.map_err(|errno| Error::new("ending a debug session", errno).on(format_args!("pid {pid}")))
    }

    /// ioctl: `AMDKFD_IOC_DBG_TRAP` SUSPEND_QUEUES, one call per process or per queue.
    ///
    /// The kernel (6.12) dereferences NULL with the target's lock held where a node on which the target has no VM follows, in
    /// the topology, one whose queue it has just suspended. So a target must be seen to have a VM on all nodes that follow:
    /// a queue or memory there shows it. Else the outcome is EOPNOTSUPP.
    fn unmap(&self, selectors: &[Selector], grace: Duration) -> Result<Batch> {
        let (grace_period, used) = self.grace_units(grace);
        let mut batch = self.run(selectors, Motion::Suspend { grace_period })?;
        batch.grace = used;
        Ok(batch)
    }

    /// ioctl: `AMDKFD_IOC_DBG_TRAP` RESUME_QUEUES.
    fn remap(&self, selectors: &[Selector]) -> Result<Batch> {
        self.run(selectors, Motion::Resume)
    }

    fn swap(&self, _unmap: &[Selector], _remap: &[Selector], _grace: Duration) -> Result<Batch> {
        not_here("swapping queues")
    }

    fn set_policy(&self, _selector: Selector, _set: PolicyFlags, _clear: PolicyFlags) -> Result<PolicyFlags> {
        not_here("setting a queue policy")
    }

    fn set_reservation(&self, _gpu: GpuId, _online_percent: u32, _offline_percent: u32) -> Result<Reservation> {
        not_here("reserving queue slots")
    }

    fn node_status(&self, _gpu: GpuId) -> Result<HqdStatus> {
        not_here("reading queue slots")
    }

    fn queue_status(&self, _selector: Selector, _want: Want) -> Result<Vec<QueueStatus>> {
        not_here("reading queue status")
    }

    fn events(&self) -> Result<Vec<Event>> {
        not_here("reading events")
    }

    fn abandon(&self) {
        self.kfd.abandon();
    }
}

impl Drop for DebuggerDriver {
    fn drop(&mut self) {
        // A forked child is nobody's debugger.
        if std::process::id() == self.process {
            let targets = std::mem::take(self.targets.get_mut().unwrap_or_else(PoisonError::into_inner));
            for pid in targets.into_keys() {
                // Where it fails the process is gone.
                let _ = self.disable(pid);
            }
        }
    }
}
