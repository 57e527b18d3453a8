//! Processes of one machine that are reached by different tiers, on a simulated stock kernel.

mod machine;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gpreempt::driver::agent::AgentDriver;
use gpreempt::driver::debugger::{Calls, DebuggerDriver};
use gpreempt::driver::tiered::TieredDriver;
use gpreempt::driver::{Batch, Capabilities, Driver, Event, QueueStatus, Selector, Tier, Want};
use gpreempt::host::Host;
use gpreempt::host::sim::SimHost;
use gpreempt::sched::{Scheduler, policy};
use gpreempt::{Error, ErrorKind, GpuId, HqdStatus, Pid, PolicyFlags, QueueState, Reservation, Result, Session};
use gpreempt_sim::config::ProcessSpec;
use machine::*;
use nix::errno::Errno;

const NOW: Duration = Duration::ZERO;
const MARK: PolicyFlags = PolicyFlags::PREEMPTIBLE;

/// A tier that reaches some processes only, as an agent does, over the one way that a stock kernel has.
#[derive(Debug)]
struct Only {
    pids: BTreeSet<Pid>,
    inner: DebuggerDriver,
    /// Its next unmap does nothing and fails as a whole.
    broken: AtomicBool,
}

impl Driver for Only {
    fn tier(&self) -> Tier {
        Tier::Agent
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn max_hold(&self) -> Option<Duration> {
        Some(Duration::from_secs(10))
    }

    fn max_batch(&self) -> usize {
        self.inner.max_batch()
    }

    fn attach(&self, pid: Pid) -> Result<u32> {
        match self.pids.contains(&pid) {
            true => self.inner.attach(pid),
            false => Err(Error::new("attaching", Errno::EOPNOTSUPP).because("no agent in it").remedy("start it so")),
        }
    }

    fn started(&self, pid: Pid) -> Option<Duration> {
        self.inner.started(pid)
    }

    fn detach(&self, pid: Pid) -> Result<()> {
        self.inner.detach(pid)
    }

    fn unmap(&self, selectors: &[Selector], grace: Duration) -> Result<Batch> {
        match self.broken.swap(false, Ordering::Relaxed) {
            true => Err(Error::new("unmapping", Errno::EIO)),
            false => self.inner.unmap(selectors, grace),
        }
    }

    fn remap(&self, selectors: &[Selector]) -> Result<Batch> {
        self.inner.remap(selectors)
    }

    fn swap(&self, unmap: &[Selector], remap: &[Selector], grace: Duration) -> Result<Batch> {
        self.inner.swap(unmap, remap, grace)
    }

    fn set_policy(&self, selector: Selector, set: PolicyFlags, clear: PolicyFlags) -> Result<PolicyFlags> {
        self.inner.set_policy(selector, set, clear)
    }

    fn set_reservation(&self, gpu: GpuId, online: u32, offline: u32) -> Result<Reservation> {
        self.inner.set_reservation(gpu, online, offline)
    }

    fn node_status(&self, gpu: GpuId) -> Result<HqdStatus> {
        self.inner.node_status(gpu)
    }

    fn queue_status(&self, selector: Selector, want: Want) -> Result<Vec<QueueStatus>> {
        self.inner.queue_status(selector, want)
    }

    fn events(&self) -> Result<Vec<Event>> {
        self.inner.events()
    }

    fn abandon(&self) {
        self.inner.abandon();
    }
}

struct Rig {
    host: Arc<SimHost>,
    first: Arc<Only>,
    driver: Arc<TieredDriver>,
    session: Session,
}

/// `preferred`: the processes that the first tier reaches; the debugger reaches all.
fn rig(host: Arc<SimHost>, preferred: &[Pid]) -> Rig {
    let debugger = || DebuggerDriver::open_fixed(host.clone(), Calls::PerProcess).unwrap();
    let pids = preferred.iter().copied().collect();
    let first = Arc::new(Only { pids, inner: debugger(), broken: AtomicBool::new(false) });
    let rungs: Vec<Arc<dyn Driver>> = vec![first.clone(), Arc::new(debugger())];
    let absent = vec![(Tier::Patched, Error::new("opening", Errno::EOPNOTSUPP).because("no series"))];
    let driver = Arc::new(TieredDriver::new(host.clone(), rungs, absent).unwrap());
    let session = Session::with(host.clone(), driver.clone());
    Rig { host, first, driver, session }
}

fn two_processes() -> Rig {
    rig(machine(2).stock().guest(guest(100, [busy(0, 2)])).guest(guest(200, [busy(1, 2)])).boot(), &[100])
}

impl Rig {
    /// Handles of all queues of a process.
    fn handles(&self, pid: Pid, queues: u32) -> Vec<u32> {
        (0..queues).map(|id| self.session.register(pid, id, GpuId::ALL).unwrap()).collect()
    }

    fn mark(&self, pid: Pid) {
        self.driver.set_policy(Selector::process(pid), MARK, PolicyFlags::empty()).unwrap();
    }

    /// Which queues of a process work in the next 100 ms.
    fn progress(&self, pid: Pid, queues: u32) -> Vec<bool> {
        let executed = || (0..queues).map(|id| self.host.machine().executed(pid, id).unwrap()).collect::<Vec<_>>();
        let before = executed();
        self.host.sleep(ms(100));
        executed().iter().zip(before).map(|(after, before)| *after > before).collect()
    }
}

#[test]
fn each_process_is_reached_by_the_first_tier_that_is_there_for_it() {
    let rig = two_processes();
    assert_eq!(rig.driver.tiers(), [Tier::Agent, Tier::Debugger]);
    assert_eq!(rig.driver.tier_of(100), None, "nobody asked yet");
    assert_eq!((rig.driver.attach(100).unwrap(), rig.driver.attach(200).unwrap()), (2, 2));
    assert_eq!([100, 200].map(|pid| rig.driver.tier_of(pid)), [Some(Tier::Agent), Some(Tier::Debugger)]);
}

#[test]
fn one_batch_unmaps_queues_of_both_tiers_and_answers_in_the_callers_order() {
    let rig = two_processes();
    let (a, b) = (rig.handles(100, 2), rig.handles(200, 2));
    rig.mark(100);
    rig.mark(200);
    let batch = rig.session.unmap(&[b[0], a[1], b[1]], NOW).unwrap();
    let pids: Vec<_> = batch.outcomes.iter().map(|it| (it.selector.pid, it.queues)).collect();
    assert_eq!((pids, batch.rounds), (vec![(200, 1), (100, 1), (200, 1)], 2));
    assert_eq!((rig.progress(100, 2), rig.progress(200, 2)), (vec![true, false], vec![false, false]));
    rig.session.remap(&[a[1], b[0], b[1]]).unwrap();
    assert_eq!((rig.progress(100, 2), rig.progress(200, 2)), (vec![true; 2], vec![true; 2]));
}

#[test]
fn a_tier_that_fails_leaves_nothing_stopped_on_the_others() {
    let rig = two_processes();
    let queues = [rig.handles(200, 2), rig.handles(100, 2)].concat();
    rig.mark(100);
    rig.mark(200);
    rig.first.broken.store(true, Ordering::Relaxed);
    let error = rig.session.unmap(&queues, NOW).unwrap_err();
    assert_eq!((error.errno(), error.target()), (Errno::EIO, Some("queue 0 of pid 100")));
    assert_eq!((rig.progress(100, 2), rig.progress(200, 2)), (vec![true; 2], vec![true; 2]));
    rig.session.unmap(&queues, NOW).unwrap();
    assert_eq!((rig.progress(100, 2), rig.progress(200, 2)), (vec![false; 2], vec![false; 2]));
}

#[test]
fn what_is_not_of_the_offline_class_is_not_unmapped_where_the_kernel_knows_no_class() {
    let rig = two_processes();
    let queues = rig.handles(200, 2);
    rig.session.set_policy(queues[0], MARK).unwrap();
    let error = rig.session.unmap(&queues, NOW).unwrap_err();
    assert_eq!((error.errno(), error.target()), (Errno::EPERM, Some("queue 1 of pid 200")));
    assert_eq!(rig.progress(200, 2), [true, true], "the first one was put back");
    rig.session.unmap(&queues[..1], NOW).unwrap();
    rig.session.set_policy(queues[0], PolicyFlags::empty()).unwrap();
    rig.session.remap(&queues[..1]).unwrap();
    assert_eq!(rig.session.unmap(&queues[..1], NOW).unwrap_err().errno(), Errno::EPERM);
}

#[test]
fn the_callers_own_queues_need_no_mark_on_any_tier() {
    let own = ProcessSpec { caller: true, ..guest(ME, [quiet(0, 2)]) };
    let rig = rig(machine(1).stock().guest(own).boot(), &[]);
    rig.session.unmap(&[1], NOW).unwrap();
    assert!(rig.session.is_active(0).unwrap() && !rig.session.is_active(1).unwrap());
    rig.session.remap(&[1]).unwrap();
    assert!(rig.session.is_active(1).unwrap());
}

#[test]
fn slots_are_counted_from_sysfs_less_what_is_held() {
    let rig = two_processes();
    let queues = rig.handles(200, 2);
    rig.mark(200);
    let node = gpu(&rig.host, 1);
    let before = rig.session.status(node).unwrap();
    assert_eq!((before.total, before.active, before.free, before.offline_used), (24, 2, 22, 2));
    rig.session.unmap(&queues[..1], NOW).unwrap();
    let held = rig.session.status(node).unwrap();
    assert_eq!((held.active, held.preempted, held.offline_used, held.queues_total), (1, 1, 1, 2));
    assert_eq!(rig.session.status(GpuId::ALL).unwrap().active, 3);
    assert_eq!(rig.session.status(GpuId(4242)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_process_that_no_tier_reaches_is_told_why_by_each() {
    let foreign = ProcessSpec { uid: Some(UID + 1), ..guest(300, [busy(0, 1)]) };
    let rig = rig(machine(1).stock().guest(foreign).boot(), &[]);
    let error = rig.session.register(300, 0, GpuId::ALL).unwrap_err();
    assert_eq!(error.errno(), Errno::EPERM);
    let says = error.to_string();
    for reason in ["(pid 300)", "patched: no series", "agent: no agent in it", "debugger: it belongs to uid 1001"] {
        assert!(says.contains(reason), "{reason}: {says}");
    }
    assert!(says.ends_with("; start it so"), "the remedy that needs nobody else: {says}");
    assert_eq!(rig.session.register(999, 0, GpuId::ALL).unwrap_err().errno(), Errno::ESRCH);
}

#[test]
fn looking_for_queues_attaches_nobody_who_would_be_disturbed() {
    let rig = two_processes();
    let found = rig.session.queues().unwrap();
    let about = |pid| found.iter().find(|(_, info)| info.queue.pid == pid).unwrap().1.active;
    assert_eq!((found.len(), about(100), about(200)), (4, Some(true), None));
    assert_eq!(rig.driver.tier_of(200), None);
    rig.handles(200, 1);
    let found = rig.session.queues().unwrap();
    assert!(found.iter().all(|(_, info)| info.active == Some(true)), "attached by now");
}

#[test]
fn what_no_tier_can_do_is_said_to_be_unsupported() {
    let rig = two_processes();
    let queue = rig.handles(200, 1)[0];
    let unsupported = |error: Error| assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    unsupported(rig.session.set_reservation(GpuId::ALL, 10, 80).unwrap_err());
    unsupported(rig.session.set_policy(queue, MARK | PolicyFlags::LAZY_ACTIVATION).unwrap_err());
    unsupported(rig.session.idle_offline().unwrap_err());
    unsupported(rig.driver.swap(&[Selector::process(100)], &[Selector::process(200)], NOW).unwrap_err());
    unsupported(rig.driver.events().unwrap_err());
    assert_eq!(rig.session.unmap(&[queue], NOW).unwrap_err().errno(), Errno::EPERM, "nor was it marked");
}

#[test]
fn a_scheduler_serves_processes_of_both_tiers_and_gives_everything_back() {
    let rig = two_processes();
    let driver: Arc<dyn Driver> = rig.driver.clone();
    let builder = Scheduler::builder(rig.host.clone(), driver).policy(policy::named("unmap").unwrap());
    let scheduler = builder.build().unwrap();
    assert_eq!([100, 200].map(|pid| scheduler.register_offline_process(pid).unwrap()), [2, 2]);
    let online = scheduler.online();
    assert_eq!((rig.progress(100, 2), rig.progress(200, 2)), (vec![false; 2], vec![false; 2]));
    let new = rig.host.machine().create_queues(200, &busy(1, 1)).unwrap();
    assert_eq!(new, [2]);
    rig.host.sleep(ms(200));
    scheduler.tick();
    assert_eq!(rig.progress(200, 3), [false; 3], "a new queue is found by the next look");
    drop(online);
    assert_eq!((rig.progress(100, 2), rig.progress(200, 3)), (vec![true; 2], vec![true; 3]));
    let online = scheduler.online();
    assert!(
        rig.driver
            .queue_status(Selector::process(200), Want::default())
            .unwrap()
            .iter()
            .all(|status| { status.state.contains(QueueState::PREEMPTED) })
    );
    std::mem::forget(online);
    drop(scheduler);
    assert_eq!((rig.progress(100, 2), rig.progress(200, 3)), (vec![true; 2], vec![true; 3]));
}

#[test]
fn a_caller_that_dies_leaves_nothing_stopped_on_any_tier() {
    let rig = two_processes();
    rig.mark(100);
    rig.mark(200);
    rig.driver.unmap(&[Selector::process(100), Selector::process(200)], NOW).unwrap();
    assert_eq!((rig.progress(100, 2), rig.progress(200, 2)), (vec![false; 2], vec![false; 2]));
    rig.host.machine().kill(ME).unwrap();
    rig.host.sleep(ms(10));
    assert_eq!((rig.progress(100, 2), rig.progress(200, 2)), (vec![true; 2], vec![true; 2]));
    std::mem::forget(rig);
}

#[test]
fn a_job_that_is_registered_by_its_first_process_leaves_and_comes_back_as_a_whole() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).guest(guest(101, [busy(0, 2)])).boot();
    let _agents = [host.start_agent_of(100, 100).unwrap(), host.start_agent_of(100, 101).unwrap()];
    let agents: Arc<dyn Driver> = Arc::new(AgentDriver::open(host.clone()));
    let driver: Arc<dyn Driver> = Arc::new(TieredDriver::new(host.clone(), vec![agents], Vec::new()).unwrap());
    let builder = Scheduler::builder(host.clone(), driver.clone()).policy(policy::named("unmap").unwrap());
    let scheduler = builder.build().unwrap();
    scheduler.register_offline_process(100).unwrap();
    let held = || {
        let statuses = driver.queue_status(Selector::process(100), Want::default()).unwrap();
        let held = |status: &QueueStatus| status.state.contains(QueueState::PREEMPTED);
        statuses.iter().map(|status| (status.queue.pid, held(status))).collect::<Vec<_>>()
    };
    let online = scheduler.online();
    assert_eq!(held(), [(100, true), (101, true), (101, true)], "{:?}", online.entered());
    drop(online);
    assert_eq!(held(), [(100, false), (101, false), (101, false)]);
}
