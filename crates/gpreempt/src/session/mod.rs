//! One opened machine: what the C library and the Python package are thin skins of.
//!
//! Here live the rules every surface shares: queue handles, argument checks, and what a batch on a partly dead set does.

mod batch;
mod builder;
mod handles;
mod ladder;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tracing::debug;

pub use builder::{Backend, SessionBuilder, SimTier};

use self::batch::{Item, Verdict, judge, vanished};
use self::handles::{Handles, Known};
use crate::discover;
use crate::driver::{Batch, Capabilities, Driver, QueueStatus, Selector, Tier, Want};
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::monitor::{Claims, Window};
use crate::queue::{
    GpuId, HqdStatus, Pid, PolicyFlags, QueueClass, QueueId, QueueInfo, QueueState, Reservation, UnmapFlags,
};

/// First handle of a queue of another process; numbers below [`OWN_QUEUES`] are KFD ids of this process's own queues.
pub const FIRST_HANDLE: u32 = 0x1_0000;

/// KFD queue ids of one process are below this.
pub const OWN_QUEUES: u32 = 1024;

/// Most queues in one call.
pub const MAX_QUEUES: usize = 1024;

/// One opened machine. All methods may be called from any thread; in a forked child they answer EBADF.
///
/// What this session unmapped runs again when its driver is dropped, with the session and whoever else shares the driver.
#[derive(Debug)]
pub struct Session {
    host: Arc<dyn Host>,
    driver: Arc<dyn Driver>,
    handles: Handles,
    /// The nodes; amdkfd does not change them while a process has `/dev/kfd` open.
    gpus: OnceLock<Vec<GpuId>>,
    /// A batch and the restore that its failure asks for are one step for other threads.
    batch: Mutex<()>,
    /// Shared with monitors and schedulers.
    claims: Arc<Claims>,
    /// Queues unmapped through this session and not mapped since: no monitor maps them.
    explicit: Window,
    /// The process that opened it.
    process: u32,
}

/// What a batch brings its queues to.
#[derive(Clone, Copy, Debug)]
enum Towards {
    Unmapped { grace: Duration, if_idle: bool },
    Mapped,
}

impl Towards {
    fn verb(self) -> &'static str {
        match self {
            Towards::Unmapped { .. } => "unmapping",
            Towards::Mapped => "mapping",
        }
    }

    fn operation(self, queues: usize) -> String {
        format!("{} {queues} {}", self.verb(), if queues == 1 { "queue" } else { "queues" })
    }
}

impl Session {
    /// A session on a host and driver of the caller's making (tests, the demo).
    pub fn with(host: Arc<dyn Host>, driver: Arc<dyn Driver>) -> Session {
        let handles = Handles::new(host.identity().pid);
        let claims = Claims::new();
        let explicit = claims.window(&[]);
        Session {
            host,
            driver,
            handles,
            gpus: OnceLock::new(),
            batch: Mutex::new(()),
            claims,
            explicit,
            process: std::process::id(),
        }
    }

    /// The seam.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// The verbs.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// What monitors and schedulers on this session share, so that they undo neither each other's work nor the caller's.
    pub fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }

    /// Gives a queue of another process a handle (0x10000 or more); the same queue always gets the same handle. The
    /// calling process's own queue gets its KFD id.
    ///
    /// # Errors
    /// EINVAL (id over 1023), ESRCH, EPERM, ENOENT.
    pub fn register(&self, pid: Pid, queue_id: u32, gpu: GpuId) -> Result<u32> {
        const OPERATION: &str = "registering a queue";
        self.check_process(OPERATION)?;
        let queue = QueueId { pid, id: queue_id };
        if queue_id >= OWN_QUEUES {
            return Err(Error::new(OPERATION, Errno::EINVAL).on(queue).because("KFD queue ids are below 1024"));
        }
        self.driver.attach(pid)?;
        let gpu = match self.can(pid, Capabilities::STATUS) {
            true => self.one_status(&Selector { gpu, ..Selector::queue(queue) }, Want::default())?.gpu,
            false => gpu,
        };
        let handle = self.handles.name(queue, self.driver.started(pid), gpu);
        debug!(%queue, %gpu, handle, "registered");
        Ok(handle)
    }

    /// The tier that a queue's process is reached by; attaches it where it is not attached yet.
    ///
    /// # Errors
    /// ENOENT, EINVAL for an unknown number; else as [`Driver::attach`].
    pub fn tier_of(&self, handle: u32) -> Result<Tier> {
        self.check_process("looking for a tier")?;
        let pid = self.handles.get(handle)?.queue.pid;
        if let Some(tier) = self.driver.tier_of(pid) {
            return Ok(tier);
        }
        self.driver.attach(pid)?;
        Ok(self.driver.tier_of(pid).unwrap_or_else(|| self.driver.tier()))
    }

    /// The queue behind a handle or own KFD id.
    ///
    /// # Errors
    /// ENOENT for an unknown handle; EINVAL for 1024 to 0xffff.
    pub fn resolve(&self, handle: u32) -> Result<QueueId> {
        self.handles.get(handle).map(|known| known.queue)
    }

    /// All queues that discovery finds, each with its handle. What the driver tells of a queue beyond sysfs is filled in
    /// where this process may ask.
    ///
    /// # Errors
    /// ENODEV.
    pub fn queues(&self) -> Result<Vec<(u32, QueueInfo)>> {
        self.check_process("looking for queues")?;
        if discover::proc::is_foreign(self.host.as_ref()) {
            return self.queues_of_container();
        }
        let mut found = discover::scan(self.host.as_ref())?;
        // Where the driver tells nothing of a queue, attaching would be a side effect for nothing.
        if self.has(Capabilities::STATUS) {
            for of_one in found.chunk_by_mut(|a, b| a.queue.pid == b.queue.pid) {
                let told = self.statuses(of_one[0].queue.pid, Want { pointers: true, waves: false })?;
                for info in of_one {
                    if let Some(status) = told.iter().find(|status| status.queue == info.queue) {
                        fill_in(info, status);
                    }
                }
            }
        }
        let name =
            |info: QueueInfo| (self.handles.name(info.queue, self.driver.started(info.queue.pid), info.gpu), info);
        Ok(found.into_iter().map(name).collect())
    }

    /// KFD's files name pids of the host, so the processes that this container shows are asked, as far as that disturbs
    /// nobody. How large a ring is stays unknown: 0.
    fn queues_of_container(&self) -> Result<Vec<(u32, QueueInfo)>> {
        let mut found = Vec::new();
        for pid in discover::Discovery::new(self.host.as_ref()).pids()? {
            let told = self.statuses(pid, Want { pointers: true, waves: false })?;
            let (command, cgroup) = discover::proc::names(self.host.as_ref(), pid)?.unwrap_or_default();
            for status in told {
                let mut info = QueueInfo {
                    queue: status.queue,
                    gpu: status.gpu,
                    kind: status.kind,
                    ring_bytes: 0,
                    priority: None,
                    ring_base: None,
                    active: None,
                    idle: None,
                    command: command.clone(),
                    cgroup: cgroup.clone(),
                };
                fill_in(&mut info, &status);
                found.push((self.handles.name(info.queue, self.driver.started(pid), info.gpu), info));
            }
        }
        found.sort_by_key(|(_, info)| info.queue);
        Ok(found)
    }

    /// Unmaps queues in one batch, all or nothing: a registered queue that vanished counts as unmapped; EPERM, EBUSY or an
    /// unknown handle restore what this call changed and fail it, naming the queue; after EIO or ETIME that node is not
    /// touched again in this call and the error is returned. What this caller had unmapped before stays unmapped.
    ///
    /// # Errors
    /// EINVAL for none, more than [`MAX_QUEUES`] or duplicate queues; EPERM for a queue classified as online; else the
    /// first queue's error.
    pub fn unmap(&self, handles: &[u32], grace: Duration) -> Result<Batch> {
        self.run(Towards::Unmapped { grace, if_idle: false }, handles)
    }

    /// Maps queues in one batch; same rules as [`Session::unmap`].
    ///
    /// # Errors
    /// As [`Session::unmap`].
    pub fn remap(&self, handles: &[u32]) -> Result<Batch> {
        self.run(Towards::Mapped, handles)
    }

    /// As [`Session::unmap`] without grace, with flags. MQD and state are kept whatever the flags say; NO_CWSR leaves a
    /// queue with work where it is, and that is no error.
    ///
    /// # Errors
    /// EINVAL for unknown flags; else as [`Session::unmap`].
    pub fn selective_unmap(&self, handles: &[u32], flags: UnmapFlags) -> Result<Batch> {
        let unknown = flags - UnmapFlags::all();
        if !unknown.is_empty() {
            return Err(
                Error::new("unmapping queues", Errno::EINVAL).because(format!("unknown flags {:#x}", unknown.bits()))
            );
        }
        let if_idle = flags.contains(UnmapFlags::NO_CWSR);
        self.run(Towards::Unmapped { grace: Duration::ZERO, if_idle }, handles)
    }

    /// Maps one queue. `slot` -1 = any: HWS firmware picks the HQD.
    ///
    /// # Errors
    /// EOPNOTSUPP for any other slot from 0 on, EINVAL below -1; else as [`Session::remap`].
    pub fn fast_remap(&self, handle: u32, slot: i32) -> Result<Batch> {
        let wrong = |errno, detail: &'static str| {
            Err(Error::new(Towards::Mapped.operation(1), errno)
                .on(format_args!("HQD slot {slot}"))
                .because(detail)
                .remedy("pass -1, any slot"))
        };
        match slot {
            -1 => self.remap(&[handle]),
            ..-1 => wrong(Errno::EINVAL, "no such slot"),
            0.. => wrong(Errno::EOPNOTSUPP, "HWS firmware picks the HQD"),
        }
    }

    /// Brings a queue into a state: `0` ACTIVE = mapped, `1` INACTIVE = unmapped, `2` PREEMPTIBLE = in the offline class
    /// (which does not move it).
    ///
    /// # Errors
    /// EINVAL for another number; else as [`Session::unmap`].
    pub fn set_state(&self, handle: u32, state: u32) -> Result<()> {
        match state {
            0 => self.remap(&[handle]).map(drop),
            1 => self.unmap(&[handle], Duration::ZERO).map(drop),
            2 => self.classify(handle, QueueClass::Offline),
            other => Err(Error::new("setting a queue state", Errno::EINVAL)
                .because(format!("{other} is no state; 0 is active, 1 inactive, 2 preemptible"))),
        }
    }

    /// Reserves slots for online queues and caps offline ones; [`GpuId::ALL`] = every node.
    ///
    /// # Errors
    /// EINVAL where a percentage or the sum is over 100; EPERM, EBUSY, ENOENT.
    pub fn set_reservation(&self, gpu: GpuId, online_percent: u32, offline_percent: u32) -> Result<Reservation> {
        const OPERATION: &str = "reserving queue slots";
        self.check_process(OPERATION)?;
        if online_percent.checked_add(offline_percent).is_none_or(|sum| sum > 100) {
            return Err(Error::new(OPERATION, Errno::EINVAL)
                .on(gpu)
                .because(format!("{online_percent} % online and {offline_percent} % offline are more than 100 %")));
        }
        self.driver.set_reservation(gpu, online_percent, offline_percent)
    }

    /// Slots of one node, or summed over all.
    ///
    /// # Errors
    /// ENOENT.
    pub fn status(&self, gpu: GpuId) -> Result<HqdStatus> {
        const OPERATION: &str = "reading queue slots";
        self.check_process(OPERATION)?;
        if gpu != GpuId::ALL {
            return self.driver.node_status(gpu);
        }
        let mut sum = HqdStatus::default();
        for &gpu in self.gpus(OPERATION)? {
            sum.add(&self.driver.node_status(gpu)?);
        }
        Ok(sum)
    }

    /// Replaces the policy of a queue: flags that are set are set, the others cleared. Returns what is in force.
    ///
    /// # Errors
    /// EINVAL for unknown flags; else as [`Driver::set_policy`].
    pub fn set_policy(&self, handle: u32, flags: PolicyFlags) -> Result<PolicyFlags> {
        const OPERATION: &str = "setting a queue policy";
        self.check_process(OPERATION)?;
        let known = self.handles.get(handle)?;
        let unknown = flags - PolicyFlags::all();
        if !unknown.is_empty() {
            return Err(Error::new(OPERATION, Errno::EINVAL)
                .on(known.queue)
                .because(format!("unknown flags {:#x}", unknown.bits())));
        }
        self.driver.set_policy(known.selector(), flags, PolicyFlags::all() - flags)
    }

    /// Whether a queue is in the runlist.
    ///
    /// # Errors
    /// ENOENT, ESRCH.
    pub fn is_active(&self, handle: u32) -> Result<bool> {
        self.check_process("reading queue status")?;
        let known = self.handles.get(handle)?;
        Ok(self.one_status(&known.selector(), Want::default())?.state.contains(QueueState::ACTIVE))
    }

    /// What the driver reports of one queue.
    ///
    /// # Errors
    /// ENOENT, ESRCH; EOPNOTSUPP where the driver cannot tell.
    pub fn queue_status(&self, handle: u32, want: Want) -> Result<QueueStatus> {
        self.check_process("reading queue status")?;
        let known = self.handles.get(handle)?;
        self.one_status(&known.selector(), want)
    }

    /// PREEMPTIBLE queues of registered or discovered processes that are mapped and idle.
    ///
    /// # Errors
    /// ENODEV; EOPNOTSUPP where the driver cannot see pointers and waves.
    pub fn idle_offline(&self) -> Result<Vec<u32>> {
        const OPERATION: &str = "looking for idle queues";
        self.check_process(OPERATION)?;
        if !self.has(Capabilities::STATUS | Capabilities::POINTERS | Capabilities::WAVES) {
            return Err(Error::new(OPERATION, Errno::EOPNOTSUPP)
                .because(format!("tier {} cannot see pointers and waves", self.driver.tier())));
        }
        let mut pids = self.handles.pids();
        pids.extend(discover::Discovery::new(self.host.as_ref()).pids()?);
        let wanted = QueueState::PREEMPTIBLE | QueueState::ACTIVE | QueueState::IDLE;
        let mut idle = Vec::new();
        for pid in pids {
            let told = self.statuses(pid, Want { pointers: true, waves: true })?;
            let started = self.driver.started(pid);
            for status in told.iter().filter(|status| status.state.contains(wanted)) {
                idle.push(self.handles.name(status.queue, started, status.gpu));
            }
        }
        Ok(idle)
    }

    /// Says on which side a queue is. An offline queue is made PREEMPTIBLE; a queue that no longer is one is mapped and its
    /// mark removed. An online queue is not unmapped until it is classified anew.
    ///
    /// # Errors
    /// As [`Session::set_policy`].
    pub fn classify(&self, handle: u32, class: QueueClass) -> Result<()> {
        self.check_process("classifying a queue")?;
        let known = self.handles.get(handle)?;
        if self.can(known.queue.pid, Capabilities::POLICY) {
            let (set, clear) = (PolicyFlags::PREEMPTIBLE, PolicyFlags::empty());
            match (class, known.class) {
                (QueueClass::Offline, _) => drop(self.driver.set_policy(known.selector(), set, clear)?),
                (_, QueueClass::Offline) => drop(self.driver.set_policy(known.selector(), clear, set)?),
                _ => {}
            }
        }
        let no_longer_offline = known.class == QueueClass::Offline && class != QueueClass::Offline;
        if known.held && (no_longer_offline || class == QueueClass::Online) {
            self.remap(&[handle])?;
        }
        if class == QueueClass::Online || known.class == QueueClass::Online {
            self.claims.set_online(known.queue, known.started, class == QueueClass::Online);
        }
        self.handles.set_class(handle, class);
        Ok(())
    }

    /// Closes this session's files in a forked child, without a lock and without a command; what the parent holds stays
    /// held. Afterwards every method answers EBADF. A skin that calls this should forget the session, not drop it: what it
    /// shares may have been locked by another thread of the parent.
    pub fn abandon_after_fork(&self) {
        self.driver.abandon();
    }

    fn run(&self, towards: Towards, handles: &[u32]) -> Result<Batch> {
        self.check_process(towards.verb())?;
        let _batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.check_batch(towards, handles)?;
        let unmapping = matches!(towards, Towards::Unmapped { .. });
        let if_idle = matches!(towards, Towards::Unmapped { if_idle: true, .. });
        let selectors: Vec<Selector> = known.iter().map(|known| Selector { if_idle, ..known.selector() }).collect();
        // Claimed before they are unmapped, so that no monitor maps them in between.
        let claimed_now = if unmapping { pick(&selectors, |at| !known[at].held) } else { Cow::Borrowed(&[][..]) };
        if !claimed_now.is_empty() {
            self.explicit.extend(&claimed_now);
        }
        let result = self.execute(towards, handles, &known, &selectors);
        // A queue that vanished, or that an idle-only unmap passed over, is not held.
        let free = match &result {
            Err(_) => claimed_now,
            Ok(batch) if unmapping => {
                let reached = |at: usize| batch.outcomes[at].queues > 0;
                let taken = (0..known.len()).filter(|&at| !known[at].held && reached(at));
                self.handles.set_held(taken.map(|at| handles[at]), true);
                pick(&selectors, |at| !known[at].held && !reached(at))
            }
            Ok(_) => {
                let given_back = (0..known.len()).filter(|&at| known[at].held);
                self.handles.set_held(given_back.map(|at| handles[at]), false);
                pick(&selectors, |at| known[at].held)
            }
        };
        if !free.is_empty() {
            self.explicit.release(&free);
        }
        result
    }

    /// The call itself, and what a failure in it asks for.
    fn execute(&self, towards: Towards, handles: &[u32], known: &[Known], selectors: &[Selector]) -> Result<Batch> {
        let mut batch = match towards {
            Towards::Unmapped { grace, .. } => self.driver.unmap(selectors, grace)?,
            Towards::Mapped => self.driver.remap(selectors)?,
        };
        if batch.outcomes.iter().all(|outcome| outcome.errno.is_none()) {
            return Ok(batch);
        }
        let item = |at: usize| Item {
            errno: batch.outcomes[at].errno,
            done: batch.outcomes[at].queues > 0,
            wanted_before: known[at].held == matches!(towards, Towards::Unmapped { .. }),
            registered: handles[at] >= FIRST_HANDLE,
            gpu: known[at].gpu,
        };
        let items: Vec<Item> = (0..handles.len()).map(item).collect();
        let Verdict::Failed { item, errno, restore } = judge(&items) else {
            for (outcome, item) in batch.outcomes.iter_mut().zip(&items) {
                outcome.errno = outcome.errno.filter(|_| !vanished(item));
            }
            return Ok(batch);
        };
        let mut error = Error::of_driver(towards.operation(handles.len()), errno).on(known[item].queue);
        let back = self.not_claimed_elsewhere(towards, known, &restore);
        if let Err(second) = self.put_back(towards, &back) {
            error = error.and(format_args!("putting the others back failed too: {second}"));
        }
        debug!(%error, restored = back.len(), "batch failed");
        Err(error)
    }

    /// Of queues to put back, those that are nobody else's: an online window that began before or since keeps its own.
    fn not_claimed_elsewhere(&self, towards: Towards, known: &[Known], restore: &[usize]) -> Vec<Selector> {
        let selectors: Vec<Selector> = restore.iter().map(|&at| known[at].selector()).collect();
        if matches!(towards, Towards::Mapped) {
            return selectors;
        }
        self.explicit.release(&selectors);
        let theirs = |at: usize| self.explicit.claimed_elsewhere(known[at].queue, known[at].gpu);
        selectors.into_iter().zip(restore).filter(|&(_, &at)| !theirs(at)).map(|(selector, _)| selector).collect()
    }

    fn put_back(&self, towards: Towards, selectors: &[Selector]) -> Result<()> {
        if selectors.is_empty() {
            return Ok(());
        }
        let batch = match towards {
            Towards::Unmapped { .. } => self.driver.remap(selectors)?,
            Towards::Mapped => self.driver.unmap(selectors, Duration::ZERO)?,
        };
        let gone = |errno| matches!(errno, Errno::ENOENT | Errno::ESRCH);
        match batch.outcomes.iter().find_map(|outcome| Some((outcome, outcome.errno.filter(|&errno| !gone(errno))?))) {
            Some((outcome, errno)) => Err(Error::of_driver(towards.verb(), errno).on(outcome.selector)),
            None => Ok(()),
        }
    }

    /// Looks all handles up; nothing has been changed where one of them is wrong.
    fn check_batch(&self, towards: Towards, handles: &[u32]) -> Result<Vec<Known>> {
        let wrong = |detail: String| Err(Error::new(towards.operation(handles.len()), Errno::EINVAL).because(detail));
        let most = MAX_QUEUES.min(self.driver.max_batch());
        if !(1..=most).contains(&handles.len()) {
            return wrong(format!("a call takes 1 to {most} queues"));
        }
        let known = self.handles.get_all(handles)?;
        if let Some(twice) = named_twice(handles) {
            return wrong(format!("queue {twice:#x} is named twice"));
        }
        let online = match towards {
            Towards::Mapped => None,
            Towards::Unmapped { .. } => {
                let claims = self.claims.lock();
                let is_online = |known: &&Known| claims.is_online(known.queue, known.started);
                known.iter().find(|known| known.class == QueueClass::Online || is_online(known))
            }
        };
        match online {
            Some(online) => Err(Error::new(towards.operation(handles.len()), Errno::EPERM)
                .on(online.queue)
                .because("it is classified as online")
                .remedy("classify it as offline first")),
            None => Ok(known),
        }
    }

    fn check_process(&self, operation: &'static str) -> Result<()> {
        if std::process::id() == self.process { Ok(()) } else { Err(Error::of_driver(operation, Errno::EBADF)) }
    }

    fn gpus(&self, operation: &'static str) -> Result<&[GpuId]> {
        if let Some(gpus) = self.gpus.get() {
            return Ok(gpus);
        }
        let gpus: Vec<GpuId> = discover::sysfs::nodes(self.host.as_ref())?.iter().map(|node| node.gpu).collect();
        if gpus.is_empty() {
            return Err(Error::new(operation, Errno::ENODEV).because("no GPU in the topology"));
        }
        Ok(self.gpus.get_or_init(|| gpus))
    }

    fn has(&self, capabilities: Capabilities) -> bool {
        self.driver.capabilities().contains(capabilities)
    }

    fn can(&self, pid: Pid, capabilities: Capabilities) -> bool {
        self.driver.capabilities_of(pid).contains(capabilities)
    }

    fn one_status(&self, selector: &Selector, want: Want) -> Result<QueueStatus> {
        let found = self.driver.queue_status(*selector, want)?;
        found.into_iter().next().ok_or_else(|| Error::of_driver("reading queue status", Errno::ENOENT).on(selector))
    }

    /// What the driver tells of the process that has a discovered pid now; nothing where this process may not ask, where
    /// asking would disturb it, or where it is gone.
    fn statuses(&self, pid: Pid, want: Want) -> Result<Vec<QueueStatus>> {
        let told = self.driver.glance(pid).and_then(|_| self.driver.queue_status(Selector::process(pid), want));
        match told {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotPermitted | ErrorKind::ProcessGone | ErrorKind::NotFound | ErrorKind::Unsupported
                ) =>
            {
                Ok(Vec::new())
            }
            told => told,
        }
    }
}

/// Those at the positions that `wanted` says; most often all or none.
fn pick(selectors: &[Selector], wanted: impl Fn(usize) -> bool) -> Cow<'_, [Selector]> {
    if (0..selectors.len()).all(&wanted) {
        return Cow::Borrowed(selectors);
    }
    (0..selectors.len()).filter(|&at| wanted(at)).map(|at| selectors[at]).collect()
}

fn named_twice(handles: &[u32]) -> Option<u32> {
    if handles.is_sorted_by(|a, b| a < b) {
        return None;
    }
    let mut sorted = handles.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn fill_in(info: &mut QueueInfo, status: &QueueStatus) {
    info.priority = status.priority;
    info.ring_base = Some(status.ring_base);
    info.active = Some(status.state.contains(QueueState::ACTIVE));
    info.idle = match status.pointers {
        Some((read, write)) if read != write => Some(false),
        // Equal pointers do not make an idle queue: its last packet may still run.
        _ => status.state.contains(QueueState::IDLE).then_some(true),
    };
}
