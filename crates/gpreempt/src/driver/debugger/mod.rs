//! DBG_TRAP on a stock kernel: what there is for a process that was not started through us.
//!
//! The driver becomes the KFD debugger of each target. That takes the ptrace right on it (and, for a moment, its ptrace
//! slot), keeps ROCgdb and every profiler that stops waves out, and needs a runtime that called RUNTIME_ENABLE before its
//! first queue, as ROCr does. KFD resumes what a debugger suspended when the session ends or the debugger dies; nobody
//! watches a debugger that hangs.

mod batch;
mod ptrace;
mod target;
mod trap;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

pub use ptrace::Right;

use self::target::Target;
use self::trap::{Motion, Trap};
use super::grace::Grace;
use super::probe::open_kfd;
use super::vm_guard::VmGuard;
use super::{Batch, Capabilities, Driver, Event, QueueStatus, Selector, Tier, Want};
use crate::discover::{Discovery, proc};
use crate::error::{Error, Result};
use crate::host::{Host, OwnedFile, SysResult};
use crate::queue::{GpuId, HqdStatus, Pid, PolicyFlags, Reservation};

const ATTACHING: &str = "debugging a process";

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
    trap: Trap,
    calls: Calls,
    process: u32,
    vm_guard: Option<VmGuard>,
    grace: OnceLock<Grace>,
    targets: Mutex<BTreeMap<Pid, Target>>,
}

impl DebuggerDriver {
    /// Opens `/dev/kfd` for a stock kernel, which has a NULL dereference in suspend (see [`Driver::unmap`] of this type):
    /// processes that could trigger it are refused.
    ///
    /// # Errors
    /// ENODEV without amdkfd; EPERM where the user may not open `/dev/kfd`.
    pub fn open(host: Arc<dyn Host>, calls: Calls) -> Result<DebuggerDriver> {
        let kfd = open_kfd(&host)?;
        DebuggerDriver::on(host, kfd, calls)
    }

    /// As [`DebuggerDriver::open`] on a `/dev/kfd` that is open already.
    pub(crate) fn on(host: Arc<dyn Host>, kfd: Arc<OwnedFile>, calls: Calls) -> Result<DebuggerDriver> {
        let vm_guard = VmGuard::new(host.as_ref())?;
        Ok(DebuggerDriver::with_guard(host, kfd, calls, Some(vm_guard)))
    }

    /// As [`DebuggerDriver::open`] for a kernel that the caller knows to be without that bug: the simulated machine, or a
    /// kernel with the fix from `kernel-patch/`. No process is refused.
    ///
    /// # Errors
    /// As [`DebuggerDriver::open`].
    pub fn open_fixed(host: Arc<dyn Host>, calls: Calls) -> Result<DebuggerDriver> {
        let kfd = open_kfd(&host)?;
        Ok(DebuggerDriver::on_fixed(host, kfd, calls))
    }

    /// As [`DebuggerDriver::open_fixed`] on a `/dev/kfd` that is open already.
    pub(crate) fn on_fixed(host: Arc<dyn Host>, kfd: Arc<OwnedFile>, calls: Calls) -> DebuggerDriver {
        DebuggerDriver::with_guard(host, kfd, calls, None)
    }

    fn with_guard(host: Arc<dyn Host>, kfd: Arc<OwnedFile>, calls: Calls, vm_guard: Option<VmGuard>) -> DebuggerDriver {
        let own_pid = host.identity().pid;
        DebuggerDriver {
            trap: Trap { host, kfd, own_pid },
            calls,
            process: std::process::id(),
            vm_guard,
            grace: OnceLock::new(),
            targets: Mutex::default(),
        }
    }

    fn snapshot(&self, pid: Pid, target: &mut Target) -> SysResult<()> {
        match self.trap.snapshot(pid) {
            Ok(entries) => {
                target.see(&entries);
                Ok(())
            }
            Err(errno) => Err(self.meant(pid, target, errno)),
        }
    }

    fn attached<'a>(&self, targets: &'a mut BTreeMap<Pid, Target>, pid: Pid) -> SysResult<&'a mut Target> {
        use std::collections::btree_map::Entry;
        match targets.entry(pid) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let host = self.trap.host.as_ref();
                let mut target =
                    Target { started: proc::started(host, pid), kfd_pid: kfd_pid(host, pid), ..Target::default() };
                self.trap.enable(pid)?;
                if let Err(errno) = self.snapshot(pid, &mut target) {
                    let _ = self.trap.disable(pid);
                    return Err(errno);
                }
                Ok(new.insert(target))
            }
        }
    }

    /// Whether the process that has the pid now is the one that was attached.
    fn is_current(&self, pid: Pid, target: &Target) -> bool {
        proc::started(self.trap.host.as_ref(), pid) == target.started
    }

    /// What an errno on a process that was attached says of it. One whose image or pid another took over is gone, and what
    /// was suspended with it.
    fn meant(&self, pid: Pid, target: &mut Target, errno: Errno) -> Errno {
        if errno == Errno::ESRCH || !self.is_current(pid, target) {
            return Errno::ESRCH;
        }
        if errno != Errno::EINVAL {
            return errno;
        }
        // KFD knows no session of ours: the process called exec, and its queues went with the old image.
        target.queues.clear();
        target.suspended.clear();
        match self.trap.enable(pid).and_then(|()| self.trap.snapshot(pid)) {
            Ok(entries) => {
                target.see(&entries);
                Errno::ENOENT
            }
            Err(_) => Errno::ENOENT,
        }
    }

    fn grace_units(&self, grace: Duration) -> Result<(u32, Duration)> {
        if grace.is_zero() {
            return Ok((DEFAULT_GRACE, Duration::ZERO));
        }
        match Grace::of(&self.grace, self.trap.host.as_ref(), GRACE_MAX) {
            Grace { mhz: 0, .. } => Err(Error::new("suspending queues", Errno::EOPNOTSUPP)
                .because("the topology does not say the clock of any node, so the grace period has no unit")
                .remedy("use a grace period of 0, the driver's default")),
            clock => {
                let units = clock.units(grace);
                Ok((units, clock.duration(units)))
            }
        }
    }

    fn refused(&self, pid: Pid, errno: Errno) -> Error {
        let error = |errno| Error::new(ATTACHING, errno).on(format_args!("pid {pid}"));
        match errno {
            Errno::EOPNOTSUPP => error(errno)
                .because("its runtime did not call RUNTIME_ENABLE before its first queue")
                .remedy("start it with a ROCr that supports debugging, or with `gpreempt offline -- CMD`"),
            Errno::EPERM => {
                let host = self.trap.host.as_ref();
                let (because, remedy) = Right::of_self(host).refused(host, pid);
                error(errno).because(because).remedy(remedy)
            }
            Errno::EALREADY | Errno::EBUSY => error(Errno::EBUSY)
                .because("another debugger or profiler has it, or it uses global wave sync")
                .remedy("end rocgdb, rocprof or the other scheduler first"),
            Errno::ESRCH => error(errno)
                .because("there is no such process, or it does not use a GPU")
                .remedy("look the pid up again; in a container, use the pid that the process has there"),
            errno => error(errno),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pid, Target>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a process in KFD's files. None where it cannot be known: the number would name somebody else there.
fn kfd_pid(host: &dyn Host, pid: Pid) -> Option<u32> {
    let processes = Discovery::new(host).processes().ok()?;
    processes.into_iter().find(|process| process.pid == Some(pid)).map(|process| process.kfd_pid)
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
        Capabilities::STATUS
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
        if targets.get(&pid).is_some_and(|target| !self.is_current(pid, target)) {
            targets.remove(&pid);
        }
        let result = self.attached(&mut targets, pid).and_then(|target| {
            self.snapshot(pid, target)?;
            Ok(target.queues.len() as u32)
        });
        result.map_err(|errno| self.refused(pid, errno))
    }

    /// Being debugged costs a process its other debuggers, and its nodes a round.
    fn glance(&self, pid: Pid) -> Result<u32> {
        if self.lock().contains_key(&pid) { self.attach(pid) } else { not_here("looking at a process") }
    }

    fn started(&self, pid: Pid) -> Option<Duration> {
        self.lock().get(&pid).and_then(|target| target.started)
    }

    /// ioctl: `AMDKFD_IOC_DBG_TRAP` DISABLE, which resumes everything.
    fn detach(&self, pid: Pid) -> Result<()> {
        let result = match self.lock().remove(&pid) {
            Some(_) => self.trap.disable(pid),
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
        let (grace_period, used) = self.grace_units(grace)?;
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

    /// ioctl: `AMDKFD_IOC_DBG_TRAP` GET_QUEUE_SNAPSHOT. Neither pointers nor waves.
    fn queue_status(&self, selector: Selector, _want: Want) -> Result<Vec<QueueStatus>> {
        const OPERATION: &str = "reading queue status";
        let now = self.trap.host.now();
        let mut targets = self.lock();
        let target = self.attached(&mut targets, selector.pid).map_err(|errno| self.refused(selector.pid, errno))?;
        let stale = selector.started.is_some_and(|started| target.started.is_some_and(|own| own != started));
        let read = if stale { Err(Errno::ESRCH) } else { self.snapshot(selector.pid, target) };
        read.map_err(|errno| Error::of_driver(OPERATION, errno).on(selector))?;
        let named = |id: u32, gpu: GpuId| {
            selector.queue.is_none_or(|queue| queue == id) && (selector.gpu == GpuId::ALL || selector.gpu == gpu)
        };
        let queues = target.queues.iter().filter(|(id, seen)| named(**id, seen.gpu));
        let statuses: Vec<_> = queues.map(|(&id, seen)| target.status(selector.pid, id, seen, now)).collect();
        match (selector.queue, statuses.is_empty()) {
            (Some(_), true) => Err(Error::of_driver(OPERATION, Errno::ENOENT).on(selector)),
            _ => Ok(statuses),
        }
    }

    fn events(&self) -> Result<Vec<Event>> {
        not_here("reading events")
    }

    fn abandon(&self) {
        self.trap.kfd.abandon();
    }
}

impl Drop for DebuggerDriver {
    fn drop(&mut self) {
        // A forked child is nobody's debugger.
        if std::process::id() == self.process {
            let targets = std::mem::take(self.targets.get_mut().unwrap_or_else(PoisonError::into_inner));
            for pid in targets.into_keys() {
                // Where it fails the process is gone.
                let _ = self.trap.disable(pid);
            }
        }
    }
}
