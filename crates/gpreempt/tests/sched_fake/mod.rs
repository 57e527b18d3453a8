//! A small driver in memory: what the scheduler needs to know of a machine, and nothing of its timing.
//!
//! It keeps the rules of the kernel ABI that the scheduler leans on: entries may not overlap, only PREEMPTIBLE queues can be
//! held, new queues of a LAZY target start held, a hold that is not renewed expires, throttled queues take turns.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gpreempt::driver::{Batch, Capabilities, Driver, Event, EventKind, Outcome, QueueStatus, Selector, Tier, Want};
use gpreempt::host::{Alarm, Array, Host, Identity, RawFile, Readiness, SysResult, Wake};
use gpreempt::sched::policy::named;
use gpreempt::sched::{Scheduler, SchedulerBuilder};
use gpreempt::{Error, GpuId, HqdStatus, Pid, PolicyFlags, QueueId, QueueState, QueueType, Reservation, Result};
use nix::errno::Errno;

pub const MAX_HOLD: Duration = Duration::from_secs(10);
pub const SLOTS: u32 = 24;

/// What one round takes.
pub const ROUND: Duration = Duration::from_micros(500);

pub fn q(pid: Pid, id: u32) -> QueueId {
    QueueId { pid, id }
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Clone, Debug)]
pub struct FakeQueue {
    pub gpu: GpuId,
    pub held: bool,
    renewed: Duration,
    pub policy: PolicyFlags,
    pub throttled: bool,
    served: u64,
    pub pointers: (u64, u64),
    pub waves: u32,
    /// Time it was in the runlist.
    pub ran: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Unmap(Vec<Selector>),
    Remap(Vec<Selector>),
    Swap(Vec<Selector>, Vec<Selector>),
}

#[derive(Debug, Default)]
pub struct Machine {
    now: Duration,
    pub queues: BTreeMap<QueueId, FakeQueue>,
    targets: BTreeMap<Pid, PolicyFlags>,
    dead: BTreeSet<Pid>,
    /// When processes started, as far as the driver can tell.
    pub started: BTreeMap<Pid, Duration>,
    offline_max: Option<u32>,
    service: u64,
    events: Vec<Event>,
    pub calls: Vec<Call>,
    /// Every batch on this node fails with this errno after its marks are made.
    pub broken: BTreeMap<GpuId, Errno>,
    /// Most selectors in one call; None: as many as the kernel takes.
    pub most: Option<usize>,
    /// Holds last until they end.
    pub no_watchdog: bool,
    /// The next change of a policy fails with this errno.
    pub fail_policy: Option<Errno>,
    /// The next call fails as a whole.
    pub fail_next: Option<Errno>,
    /// Called in the middle of every batch.
    pub during: Option<fn(&mut Machine)>,
    /// Process groups, as `/proc/<pid>/stat` tells them.
    pub groups: BTreeMap<Pid, u32>,
}

impl Machine {
    pub fn create(&mut self, queue: QueueId, gpu: GpuId) {
        let policy = self.targets.get(&queue.pid).copied();
        let held = policy.is_some_and(|policy| policy.contains(PolicyFlags::LAZY_ACTIVATION));
        self.service += 1;
        let new = FakeQueue {
            gpu,
            held,
            renewed: self.now,
            policy: policy.unwrap_or_default(),
            throttled: false,
            served: self.service,
            pointers: (0, 0),
            waves: 0,
            ran: Duration::ZERO,
        };
        assert!(self.queues.insert(queue, new).is_none(), "{queue} exists");
        if policy.is_some() {
            self.event(EventKind::QueueCreated, queue, gpu);
        }
        self.rebuild(gpu);
    }

    pub fn destroy(&mut self, queue: QueueId) {
        let gpu = self.queues.remove(&queue).expect("it exists").gpu;
        self.event(EventKind::QueueDestroyed, queue, gpu);
    }

    pub fn exit(&mut self, pid: Pid) {
        self.queues.retain(|queue, _| queue.pid != pid);
        self.targets.remove(&pid);
        self.dead.insert(pid);
        let (time, gpu) = (self.now, GpuId::ALL);
        let started = self.started.get(&pid).copied();
        self.events.push(Event {
            kind: EventKind::TargetExited,
            pid: Some(pid),
            started,
            gpu,
            queue: None,
            lost: 0,
            time,
        });
    }

    /// The node is reset.
    pub fn reset(&mut self, gpu: GpuId) {
        self.broken.remove(&gpu);
        let time = self.now;
        self.events.push(Event {
            kind: EventKind::NodeReset,
            pid: None,
            started: None,
            gpu,
            queue: None,
            lost: 0,
            time,
        });
    }

    /// Another process gets the pid of one that exited.
    pub fn reuse(&mut self, pid: Pid, started: Duration) {
        self.dead.remove(&pid);
        self.started.insert(pid, started);
    }

    /// Forgets what happened, as a full event buffer does.
    pub fn lose_events(&mut self) {
        let lost = u32::try_from(self.events.len()).unwrap();
        let mut last = self.events.pop().expect("there are events");
        last.lost = lost;
        last.kind = EventKind::Oversubscribed;
        self.events = vec![last];
    }

    fn event(&mut self, kind: EventKind, queue: QueueId, gpu: GpuId) {
        let time = self.now;
        self.events.push(Event {
            kind,
            pid: Some(queue.pid),
            started: None,
            gpu,
            queue: Some(queue.id),
            lost: 0,
            time,
        });
    }

    pub fn held(&self) -> BTreeSet<QueueId> {
        self.queues.iter().filter(|(_, queue)| queue.held).map(|(id, _)| *id).collect()
    }

    pub fn policy(&self, queue: QueueId) -> PolicyFlags {
        self.queues[&queue].policy
    }

    pub fn unmaps(&self) -> usize {
        self.calls.iter().filter(|call| matches!(call, Call::Unmap(_))).count()
    }

    pub fn remaps(&self) -> usize {
        self.calls.iter().filter(|call| matches!(call, Call::Remap(_))).count()
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        for queue in self.queues.values_mut().filter(|queue| !queue.held && !queue.throttled) {
            queue.ran += time;
        }
        let expired = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.held && queue.renewed + MAX_HOLD <= self.now && !self.no_watchdog);
        let expired: Vec<_> = expired.map(|(id, queue)| (*id, queue.gpu)).collect();
        for (id, gpu) in expired {
            self.queues.get_mut(&id).unwrap().held = false;
            self.event(EventKind::HoldExpired, id, gpu);
        }
    }

    /// A new runlist: offline queues beyond the cap wait, least recently served first.
    fn rebuild(&mut self, gpu: GpuId) {
        let Some(cap) = self.offline_max else { return };
        let on_node =
            |queue: &FakeQueue| queue.gpu == gpu && !queue.held && queue.policy.contains(PolicyFlags::PREEMPTIBLE);
        let mut order: Vec<_> =
            self.queues.iter().filter(|(_, queue)| on_node(queue)).map(|(id, q)| (q.served, *id)).collect();
        order.sort_unstable();
        for (position, (_, id)) in order.into_iter().enumerate() {
            self.service += 1;
            let queue = self.queues.get_mut(&id).unwrap();
            queue.throttled = position >= cap as usize;
            if !queue.throttled {
                queue.served = self.service;
            }
        }
    }

    fn named(&self, selector: &Selector) -> Vec<QueueId> {
        let fits = |id: &QueueId, queue: &FakeQueue| {
            id.pid == selector.pid
                && (selector.started.is_none() || selector.started == self.started.get(&id.pid).copied())
                && selector.queue.is_none_or(|number| number == id.id)
                && (selector.gpu == GpuId::ALL || selector.gpu == queue.gpu)
        };
        self.queues.iter().filter(|(id, queue)| fits(id, queue)).map(|(id, _)| *id).collect()
    }

    fn batch(&mut self, unmap: &[Selector], remap: &[Selector]) -> Result<Batch> {
        if let Some(errno) = self.fail_next.take() {
            return Err(Error::new("moving queues", errno));
        }
        if overlap(unmap.iter().chain(remap)) {
            return Err(Error::new("moving queues", Errno::EINVAL).because("entries may overlap"));
        }
        let mut seen = BTreeSet::new();
        for id in unmap.iter().chain(remap).flat_map(|selector| self.named(selector)) {
            if !seen.insert(id) {
                return Err(Error::new("moving queues", Errno::EINVAL).on(id).because("it is named twice"));
            }
        }
        if seen.len() > 1024 || unmap.len() + remap.len() > self.most.unwrap_or(1024) {
            return Err(Error::new("moving queues", Errno::EINVAL));
        }
        if let Some(during) = self.during {
            during(self);
        }
        let mut batch = Batch::default();
        let (mut touched, mut changed) = (BTreeSet::new(), BTreeSet::new());
        let directions =
            unmap.iter().map(|selector| (selector, true)).chain(remap.iter().map(|selector| (selector, false)));
        for (selector, hold) in directions {
            let mut outcome = Outcome { selector: *selector, errno: None, queues: 0, state: QueueState::empty() };
            let named = self.named(selector);
            let replaced = selector.started.is_some_and(|started| self.started.get(&selector.pid) != Some(&started));
            if self.dead.contains(&selector.pid) || replaced {
                outcome.errno = Some(Errno::ESRCH);
            } else if named.is_empty() && selector.queue.is_some() {
                outcome.errno = Some(Errno::ENOENT);
            }
            if hold && selector.hold_new {
                *self.targets.entry(selector.pid).or_default() |= PolicyFlags::LAZY_ACTIVATION;
            }
            for id in named {
                let now = self.now;
                let queue = self.queues.get_mut(&id).unwrap();
                touched.insert(queue.gpu);
                if hold && !queue.policy.contains(PolicyFlags::PREEMPTIBLE) {
                    outcome.errno = Some(Errno::EPERM);
                    continue;
                }
                outcome.queues += 1;
                if hold {
                    queue.renewed = now;
                }
                if queue.held != hold || (!hold && queue.throttled) {
                    queue.held = hold;
                    changed.insert(queue.gpu);
                    if let Some(errno) = self.broken.get(&queue.gpu) {
                        outcome.errno = Some(*errno);
                    }
                }
            }
            batch.outcomes.push(outcome);
        }
        batch.nodes = u32::try_from(touched.len()).unwrap();
        batch.rounds = u32::try_from(changed.len()).unwrap();
        for gpu in &changed {
            self.rebuild(*gpu);
        }
        if !changed.is_empty() {
            // Nodes work in parallel.
            self.advance(ROUND);
            batch.elapsed = ROUND;
            batch.slowest_node = ROUND;
        }
        Ok(batch)
    }
}

/// The kernel's rule, which looks at names alone: a queue named on all nodes overlaps all queues of any node.
fn overlap<'a>(entries: impl Iterator<Item = &'a Selector>) -> bool {
    let entries: Vec<&Selector> = entries.collect();
    let whole = |pid: Pid| entries.iter().filter(move |entry| entry.pid == pid && entry.queue.is_none());
    let clash = |a: GpuId, b: GpuId| a == b || a == GpuId::ALL || b == GpuId::ALL;
    let mut nodes = BTreeSet::new();
    entries.iter().any(|entry| match entry.queue {
        Some(_) => whole(entry.pid).any(|all| clash(all.gpu, entry.gpu)),
        None => {
            !nodes.insert((entry.pid, entry.gpu))
                || whole(entry.pid).any(|all| all != entry && clash(all.gpu, entry.gpu))
        }
    })
}

/// Something that happens while a call is under way.
pub struct Hook(pub Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

/// The machine behind both seams.
#[derive(Debug, Default)]
pub struct Fake {
    machine: Mutex<Machine>,
    /// Called once, when the next unmap has begun.
    pub unmapping: Mutex<Option<Hook>>,
    pub without: Capabilities,
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        Arc::default()
    }

    pub fn without(without: Capabilities) -> Arc<Fake> {
        Arc::new(Fake { without, ..Fake::default() })
    }

    /// `queues` queues of each process, spread over `gpus` nodes.
    pub fn with(pids: &[Pid], queues: u32, gpus: u32) -> Arc<Fake> {
        let fake = Fake::new();
        for pid in pids {
            for id in 0..queues {
                fake.machine().create(q(*pid, id), GpuId(100 + id % gpus));
            }
        }
        fake
    }

    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unmap and remap calls so far.
    pub fn calls(&self) -> (usize, usize) {
        let machine = self.machine();
        (machine.unmaps(), machine.remaps())
    }

    pub fn pass(&self, time: Duration) {
        self.machine().advance(time);
    }
}

impl Host for Fake {
    fn open(&self, _: &str) -> SysResult<RawFile> {
        Err(Errno::ENOSYS)
    }
    fn ioctl(&self, _: RawFile, _: u32, _: &mut [u8], _: &mut [Array<'_>]) -> SysResult<i32> {
        Err(Errno::ENOSYS)
    }
    fn read(&self, _: RawFile, _: &mut [u8]) -> SysResult<usize> {
        Err(Errno::ENOSYS)
    }
    fn write(&self, _: RawFile, _: &[u8]) -> SysResult<usize> {
        Err(Errno::ENOSYS)
    }
    fn poll(&self, _: RawFile) -> SysResult<Readiness> {
        Err(Errno::ENOSYS)
    }
    fn close(&self, _: RawFile) {}
    fn abandon(&self, _: RawFile) {}
    fn read_text(&self, path: &str) -> SysResult<String> {
        let pid =
            path.strip_prefix("/proc/").and_then(|rest| rest.strip_suffix("/stat")).and_then(|pid| pid.parse().ok());
        let pid: Pid = pid.ok_or(Errno::ENOENT)?;
        let group = *self.machine().groups.get(&pid).ok_or(Errno::ENOENT)?;
        Ok(format!("{pid} (python train) S 1 {group} {group} 0 -1"))
    }
    fn list(&self, _: &str) -> SysResult<Vec<String>> {
        Err(Errno::ENOSYS)
    }
    fn identity(&self) -> Identity {
        Identity { pid: 1, euid: 0 }
    }
    fn trace(&self, _: Pid) -> SysResult<()> {
        Err(Errno::ENOSYS)
    }
    fn untrace(&self, _: Pid) -> SysResult<()> {
        Err(Errno::ENOSYS)
    }
    fn now(&self) -> Duration {
        self.machine().now
    }
    fn sleep(&self, duration: Duration) {
        self.pass(duration);
    }
    fn park(&self, _: &Arc<Alarm>, _: Option<Duration>) -> Wake {
        unreachable!("the tests tick by themselves")
    }
    fn describe(&self) -> String {
        "a driver in memory".to_owned()
    }
    fn cost_model(&self) -> Option<String> {
        None
    }
}

impl Driver for Fake {
    fn tier(&self) -> Tier {
        Tier::Patched
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::all() - self.without
    }
    fn max_hold(&self) -> Option<Duration> {
        (!self.machine().no_watchdog).then_some(MAX_HOLD)
    }
    fn max_batch(&self) -> usize {
        self.machine().most.unwrap_or(1024)
    }
    fn attach(&self, pid: Pid) -> Result<u32> {
        let mut machine = self.machine();
        if machine.dead.contains(&pid) {
            return Err(Error::new("attaching", Errno::ESRCH));
        }
        machine.targets.entry(pid).or_default();
        Ok(u32::try_from(machine.named(&Selector::process(pid)).len()).unwrap())
    }
    fn started(&self, pid: Pid) -> Option<Duration> {
        self.machine().started.get(&pid).copied()
    }
    fn detach(&self, _: Pid) -> Result<()> {
        Ok(())
    }
    fn unmap(&self, selectors: &[Selector], _: Duration) -> Result<Batch> {
        let hook = self.unmapping.lock().unwrap().take();
        if let Some(Hook(hook)) = hook {
            hook();
        }
        let mut machine = self.machine();
        machine.calls.push(Call::Unmap(selectors.to_vec()));
        machine.batch(selectors, &[])
    }
    fn remap(&self, selectors: &[Selector]) -> Result<Batch> {
        let mut machine = self.machine();
        machine.calls.push(Call::Remap(selectors.to_vec()));
        machine.batch(&[], selectors)
    }
    fn swap(&self, unmap: &[Selector], remap: &[Selector], _: Duration) -> Result<Batch> {
        let mut machine = self.machine();
        machine.calls.push(Call::Swap(unmap.to_vec(), remap.to_vec()));
        machine.batch(unmap, remap)
    }
    fn set_policy(&self, selector: Selector, set: PolicyFlags, clear: PolicyFlags) -> Result<PolicyFlags> {
        let mut machine = self.machine();
        if let Some(errno) = machine.fail_policy.take() {
            return Err(Error::new("setting a policy", errno));
        }
        let mut policy = PolicyFlags::empty();
        if selector.queue.is_none() {
            let target = machine.targets.entry(selector.pid).or_default();
            *target = (*target - clear) | set;
            policy = *target;
        }
        for id in machine.named(&selector) {
            let now = machine.now;
            let queue = machine.queues.get_mut(&id).unwrap();
            queue.policy = (queue.policy - clear) | set;
            policy = queue.policy;
            let idle = queue.pointers.0 == queue.pointers.1 && queue.waves == 0;
            if set.contains(PolicyFlags::LAZY_ACTIVATION) && idle {
                (queue.held, queue.renewed) = (true, now);
            }
        }
        Ok(policy)
    }
    fn set_reservation(&self, _: GpuId, online_percent: u32, offline_percent: u32) -> Result<Reservation> {
        let mut machine = self.machine();
        let offline_max = SLOTS * offline_percent / 100;
        let none = (online_percent, offline_percent) == (0, 0);
        machine.offline_max = (!none).then_some(offline_max);
        if none {
            machine.queues.values_mut().for_each(|queue| queue.throttled = false);
        }
        Ok(Reservation { online_reserved: SLOTS * online_percent / 100, offline_max, nodes: 1 })
    }
    fn node_status(&self, _: GpuId) -> Result<HqdStatus> {
        Ok(HqdStatus::default())
    }
    fn queue_status(&self, selector: Selector, want: Want) -> Result<Vec<QueueStatus>> {
        let machine = self.machine();
        if machine.dead.contains(&selector.pid) {
            return Err(Error::new("reading queues", Errno::ESRCH));
        }
        let status = |id: QueueId| {
            let queue = &machine.queues[&id];
            QueueStatus {
                queue: id,
                gpu: queue.gpu,
                kind: QueueType::Compute,
                state: if queue.held { QueueState::PREEMPTED | QueueState::MINE } else { QueueState::ACTIVE },
                policy: queue.policy,
                priority: Some(0),
                percent: Some(100),
                ring_base: 0,
                pointers: want.pointers.then_some(queue.pointers),
                waves: want.waves.then_some(queue.waves),
                held: Duration::ZERO,
            }
        };
        Ok(machine.named(&selector).into_iter().map(status).collect())
    }
    fn abandon(&self) {}
    fn events(&self) -> Result<Vec<Event>> {
        Ok(std::mem::take(&mut self.machine().events))
    }
}

/// The nodes of a [`Fake`] with two.
pub const A: GpuId = GpuId(100);
pub const B: GpuId = GpuId(101);

pub fn builder(fake: &Arc<Fake>, policy: &str) -> SchedulerBuilder {
    Scheduler::builder(fake.clone(), fake.clone()).policy(named(policy).unwrap())
}

/// A scheduler whose offline processes are registered.
pub fn scheduler(fake: &Arc<Fake>, policy: &str, pids: &[u32]) -> Scheduler {
    let scheduler = builder(fake, policy).build().unwrap();
    for pid in pids {
        scheduler.register_offline_process(*pid).unwrap();
    }
    scheduler
}

/// Lets time pass, ticking when a tick is due.
pub fn pass(fake: &Fake, scheduler: &Scheduler, time: Duration) {
    let end = fake.now() + time;
    while fake.now() < end {
        let wakeup = scheduler.next_wakeup().map_or(end, |wakeup| wakeup.min(end));
        fake.pass(wakeup.saturating_sub(fake.now()));
        scheduler.tick();
    }
}
