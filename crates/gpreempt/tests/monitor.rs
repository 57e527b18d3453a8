//! The monitor on the simulated machine, on its virtual clock: nothing here waits for the wall.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gpreempt::driver::debugger::{Calls, DebuggerDriver};
use gpreempt::driver::patched::PatchedDriver;
use gpreempt::driver::{Driver, Selector, Want};
use gpreempt::host::Host;
use gpreempt::host::sim::SimHost;
use gpreempt::monitor::{AlertKind, Claims, HqdMonitor, MonitorBuilder, MonitorReport, blame, blame_stock};
use gpreempt::{GpuId, PolicyFlags, QueueId, QueueState, Session, discover};
use gpreempt_sim::Work;
use gpreempt_sim::config::{
    Caller, ClockKind, Config, CostModel, GpuModel, Hardware, Partition, ProcessSpec, QueueSpec, Scenario, Workload,
};
use nix::errno::Errno;

const OFFLINE: u32 = 4711;
const ONLINE: u32 = 4712;
const SECOND: Duration = Duration::from_secs(1);

/// One GPU with 24 slots: `offline` idle queues of a training job, `online` busy ones of a server.
struct Bench {
    host: Arc<SimHost>,
    driver: Arc<dyn Driver>,
    gpu: GpuId,
}

fn queues(count: u32, work: Workload) -> QueueSpec {
    QueueSpec { count, work, ..QueueSpec::default() }
}

fn process(pid: u32, name: &str, queues: Vec<QueueSpec>) -> ProcessSpec {
    ProcessSpec {
        name: name.to_owned(),
        pid,
        namespace_pid: None,
        caller: false,
        uid: None,
        cgroup: "/".to_owned(),
        command: vec![name.to_owned()],
        runtime_enabled: true,
        queues,
    }
}

impl Bench {
    fn new(offline: u32, online: u32) -> Bench {
        Bench::with_hold(offline, online, None)
    }

    fn with_hold(offline: u32, online: u32, max_hold_ms: Option<u32>) -> Bench {
        // Idle, too: what keeps an online queue on the hardware is its class and not its load.
        let processes = [(OFFLINE, "train", offline), (ONLINE, "serve", online)];
        let processes = processes.into_iter().filter(|(_, _, count)| *count > 0);
        let processes = processes.map(|(pid, name, count)| process(pid, name, vec![queues(count, Workload::Manual)]));
        let bench = Bench::boot(Scenario { processes: processes.collect(), max_hold_ms, ..Scenario::empty() });
        if offline > 0 {
            bench.set_policy(PolicyFlags::PREEMPTIBLE);
        }
        bench
    }

    fn boot(scenario: Scenario) -> Bench {
        let host = SimHost::boot(Config {
            hardware: Hardware::Model { model: GpuModel::named("mi308x").unwrap(), gpus: 1, partition: Partition::Spx },
            cost: CostModel::named("design").unwrap(),
            scenario,
            clock: ClockKind::Virtual,
            seed: 1,
            patched: true,
            caller: Caller { pid: 100, uid: 0, privileged: true, root: true, name: "test".to_owned() },
        });
        let host = Arc::new(host.unwrap());
        let driver: Arc<dyn Driver> = Arc::new(PatchedDriver::open(Arc::clone(&host) as Arc<dyn Host>).unwrap());
        let gpu = discover::Discovery::new(&*host).nodes().unwrap()[0].gpu;
        Bench { host, driver, gpu }
    }

    fn set_policy(&self, flags: PolicyFlags) {
        self.driver.set_policy(Selector::process(OFFLINE), flags, PolicyFlags::empty()).unwrap();
    }

    fn monitor(&self) -> MonitorBuilder {
        // Low below 6 free slots of 24, high at 12.
        HqdMonitor::builder(self.host.clone(), self.driver.clone()).water_marks(0.25, 0.5)
    }

    fn pass(&self, time: Duration) {
        self.host.sleep(time);
    }

    fn submit(&self, pid: u32, queue: u32) -> gpreempt_sim::Ticket {
        let work = Work { packets: 1, packet_ns: 1_000_000, occupancy: 0.1 };
        self.host.machine().submit(pid, queue, work).unwrap()
    }

    fn state(&self, pid: u32, queue: u32) -> QueueState {
        let selector = Selector::queue(QueueId { pid, id: queue });
        self.driver.queue_status(selector, Want::default()).unwrap()[0].state
    }

    /// How many queues of a process are off the hardware.
    fn held(&self, pid: u32) -> usize {
        let statuses = self.driver.queue_status(Selector::process(pid), Want::default()).unwrap();
        statuses.iter().filter(|status| status.state.contains(QueueState::PREEMPTED)).count()
    }
}

/// Reports as they come.
fn collect() -> (Arc<Mutex<Vec<MonitorReport>>>, impl FnMut(&MonitorReport) + Send + 'static) {
    let reports: Arc<Mutex<Vec<MonitorReport>>> = Arc::default();
    let into = Arc::clone(&reports);
    (reports, move |report: &MonitorReport| into.lock().unwrap().push(report.clone()))
}

#[test]
fn has_a_status_once_started_and_looks_once_per_interval() {
    let bench = Bench::new(20, 2);
    let (reports, callback) = collect();
    let monitor = bench.monitor().on_report(callback).start().unwrap();
    let status = monitor.current_status();
    assert_eq!((status.total, status.active, status.free, status.offline_used, status.nodes), (24, 22, 2, 20, 1));
    assert!(monitor.running());
    bench.pass(SECOND * 7 / 2);
    let reports = reports.lock().unwrap();
    let start = reports[0].at;
    let after: Vec<Duration> = reports.iter().map(|report| report.at - start).collect();
    assert_eq!(after, [Duration::ZERO, SECOND, SECOND * 2, SECOND * 3]);
    assert!(reports.iter().all(|report| report.errors.is_empty() && report.total == status));
}

#[test]
fn warns_once_per_crossing() {
    let bench = Bench::new(0, 18);
    let alerts: Arc<Mutex<Vec<(AlertKind, u32)>>> = Arc::default();
    let into = Arc::clone(&alerts);
    let callback = move |alert: &gpreempt::monitor::Alert| into.lock().unwrap().push((alert.kind, alert.free));
    let _monitor = bench.monitor().on_alert(callback).start().unwrap();
    let machine = bench.host.machine();
    bench.pass(SECOND * 3);
    let more = machine.create_queues(ONLINE, &queues(2, Workload::Manual)).unwrap();
    bench.pass(SECOND * 3);
    // Between the marks: nothing to say.
    machine.destroy_queue(ONLINE, more[0]).unwrap();
    machine.destroy_queue(ONLINE, more[1]).unwrap();
    bench.pass(SECOND * 3);
    let burst = machine.create_queues(ONLINE, &queues(2, Workload::Manual)).unwrap();
    bench.pass(SECOND * 3);
    assert_eq!(*alerts.lock().unwrap(), [(AlertKind::Low, 4)]);
    machine.kill(ONLINE).unwrap();
    bench.pass(SECOND * 3);
    assert_eq!(*alerts.lock().unwrap(), [(AlertKind::Low, 4), (AlertKind::Recovered, 24)]);
    assert_eq!(burst.len(), 2);
}

#[test]
fn takes_idle_offline_queues_off_a_node_that_is_low_and_never_an_online_one() {
    let bench = Bench::new(20, 2);
    let monitor = bench.monitor().clean_idle(true).start().unwrap();
    assert_eq!(bench.held(OFFLINE), 0, "not before a full interval of idleness");
    bench.pass(SECOND * 3 / 2);
    assert_eq!((bench.held(OFFLINE), bench.held(ONLINE)), (20, 0));
    assert_eq!(monitor.report().cleaned.len(), 20);
    bench.pass(SECOND);
    assert_eq!(monitor.current_status().free, 22);
    assert!(monitor.report().cleaned.is_empty() && monitor.report().errors.is_empty());
}

#[test]
fn leaves_idle_queues_where_they_are_while_slots_abound() {
    let bench = Bench::new(10, 2);
    let monitor = bench.monitor().clean_idle(true).start().unwrap();
    bench.pass(SECOND * 5);
    assert_eq!(bench.held(OFFLINE), 0);
    assert!(monitor.report().alerts.is_empty());
}

#[test]
fn leaves_a_working_queue_on_a_node_that_is_low() {
    let busy = Workload::Continuous { packet_ns: 1_000_000, occupancy: 0.1, depth: 2 };
    let queues = vec![queues(18, Workload::Manual), queues(2, busy)];
    let bench = Bench::boot(Scenario { processes: vec![process(OFFLINE, "train", queues)], ..Scenario::empty() });
    bench.set_policy(PolicyFlags::PREEMPTIBLE);
    let _monitor = bench.monitor().clean_idle(true).start().unwrap();
    bench.pass(SECOND * 3);
    assert_eq!(bench.held(OFFLINE), 18);
}

#[test]
fn maps_a_queue_again_within_one_period_of_new_work() {
    let bench = Bench::new(20, 2);
    let (reports, callback) = collect();
    let _monitor = bench.monitor().clean_idle(true).on_report(callback).start().unwrap();
    bench.pass(SECOND * 5 / 2);
    let ticket = bench.submit(OFFLINE, 3);
    let at = bench.host.now();
    bench.pass(SECOND);
    let done = Duration::from_nanos(bench.host.machine().completed_at(ticket).expect("it ran"));
    assert!(done - at <= SECOND, "{:?}", done - at);
    assert_eq!(bench.held(OFFLINE), 19, "the others stay where they are");
    assert_eq!(reports.lock().unwrap().last().unwrap().restored, [QueueId { pid: OFFLINE, id: 3 }]);
}

#[test]
fn one_look_costs_at_most_one_round_per_node() {
    let bench = Bench::new(20, 2);
    let _monitor = bench.monitor().clean_idle(true).start().unwrap();
    let rounds = || bench.host.machine().counters().unmap_rounds;
    let before = rounds();
    bench.pass(SECOND * 3 / 2);
    assert_eq!(rounds() - before, 1, "20 queues");
    bench.pass(SECOND * 30);
    assert_eq!(rounds() - before, 1, "renewing a hold costs none");
    for queue in 0..5 {
        bench.submit(OFFLINE, queue);
    }
    bench.pass(SECOND);
    assert_eq!(rounds() - before, 2);
}

#[test]
fn a_lazy_queue_leaves_as_soon_as_it_idles_and_starts_unmapped() {
    let bench = Bench::new(2, 0);
    // On a target it is for queues to come, so those that are there have it set one by one.
    bench.set_policy(PolicyFlags::LAZY_ACTIVATION);
    for id in 0..2 {
        let queue = Selector::queue(QueueId { pid: OFFLINE, id });
        bench.driver.set_policy(queue, PolicyFlags::LAZY_ACTIVATION, PolicyFlags::empty()).unwrap();
    }
    let _monitor = bench.monitor().serve_lazy(true).start().unwrap();
    bench.pass(SECOND * 3 / 2);
    assert_eq!(bench.held(OFFLINE), 2);
    let fresh = bench.host.machine().create_queues(OFFLINE, &queues(1, Workload::Manual)).unwrap()[0];
    bench.pass(SECOND * 20);
    assert!(bench.state(OFFLINE, fresh).contains(QueueState::PREEMPTED), "the watchdog does not map what has no work");
    let ticket = bench.submit(OFFLINE, fresh);
    bench.pass(SECOND);
    assert!(bench.host.machine().completed_at(ticket).is_some());
}

#[test]
fn holds_outlast_the_watchdog_even_where_looks_are_rare() {
    let bench = Bench::with_hold(20, 2, Some(2000));
    let monitor = bench.monitor().interval(SECOND * 60).clean_idle(true).start().unwrap();
    bench.pass(SECOND * 61);
    for _ in 0..100 {
        assert_eq!(bench.held(OFFLINE), 20);
        bench.pass(SECOND / 2);
    }
    assert_eq!(monitor.report().at.as_secs() / 60, 1, "reports keep their interval");
}

#[test]
fn a_queue_in_an_online_window_is_left_to_whoever_opened_it() {
    let bench = Bench::new(20, 2);
    let claims = Claims::new();
    let _monitor = bench.monitor().clean_idle(true).claims(claims.clone()).start().unwrap();
    bench.pass(SECOND * 3 / 2);
    let cleaned = QueueId { pid: OFFLINE, id: 3 };
    assert!(claims.cleaned().contains(&cleaned));
    let window = claims.window(&[Selector::process(OFFLINE)]);
    bench.driver.unmap(&[Selector::process(OFFLINE)], Duration::ZERO).unwrap();
    let ticket = bench.submit(OFFLINE, cleaned.id);
    bench.pass(SECOND * 5);
    assert_eq!(bench.held(OFFLINE), 20, "its work waits for the window's end");
    drop(window);
    bench.pass(SECOND);
    assert_eq!(bench.held(OFFLINE), 19);
    assert!(bench.host.machine().completed_at(ticket).is_some());
}

#[test]
fn queues_that_somebody_else_unmapped_stay_unmapped() {
    let bench = Bench::new(20, 2);
    let _monitor = bench.monitor().clean_idle(true).start().unwrap();
    bench.driver.unmap(&[Selector::process(OFFLINE)], Duration::ZERO).unwrap();
    bench.submit(OFFLINE, 3);
    bench.pass(SECOND * 5);
    assert_eq!(bench.held(OFFLINE), 20);
}

#[test]
fn stopping_maps_what_was_unmapped_and_so_does_dropping() {
    for drop_it in [false, true] {
        let bench = Bench::new(20, 2);
        let monitor = bench.monitor().clean_idle(true).start().unwrap();
        bench.pass(SECOND * 3 / 2);
        assert_eq!(bench.held(OFFLINE), 20);
        let before = bench.host.now();
        if drop_it {
            drop(monitor);
        } else {
            monitor.stop();
            assert!(!monitor.running());
            monitor.stop();
            assert_eq!(monitor.current_status().total, 24, "the last status stays");
        }
        assert_eq!(bench.held(OFFLINE), 0);
        assert!(bench.host.now() - before < SECOND, "it does not wait for the next look");
    }
}

#[test]
fn a_callback_that_panics_does_not_end_the_monitor() {
    let bench = Bench::new(20, 2);
    let (reports, mut callback) = collect();
    let panicking = move |report: &MonitorReport| {
        callback(report);
        panic!("a callback panics on purpose");
    };
    let monitor =
        bench.monitor().on_alert(|_| panic!("an alert panics on purpose")).on_report(panicking).start().unwrap();
    bench.pass(SECOND * 5 / 2);
    assert!(monitor.running());
    assert_eq!(reports.lock().unwrap().len(), 3);
}

#[test]
fn a_callback_may_stop_the_monitor_that_calls_it() {
    let bench = Bench::new(20, 2);
    let slot: Arc<Mutex<Option<Arc<HqdMonitor>>>> = Arc::default();
    let (reports, mut collect) = collect();
    let inside = Arc::clone(&slot);
    let callback = move |report: &MonitorReport| {
        collect(report);
        if let Some(monitor) = &*inside.lock().unwrap() {
            monitor.stop();
        }
    };
    let monitor = Arc::new(bench.monitor().on_report(callback).start().unwrap());
    *slot.lock().unwrap() = Some(Arc::clone(&monitor));
    bench.pass(SECOND * 5);
    slot.lock().unwrap().take();
    monitor.stop();
    assert!((1..=2).contains(&reports.lock().unwrap().len()), "one report after it could stop, none later");
}

#[test]
fn an_empty_machine_has_all_its_slots_free() {
    let bench = Bench::boot(Scenario::empty());
    let monitor = bench.monitor().clean_idle(true).serve_lazy(true).start().unwrap();
    bench.pass(SECOND * 3);
    let report = monitor.report();
    assert_eq!((report.total.total, report.total.free, report.total.active), (24, 24, 0));
    assert!(report.errors.is_empty() && report.alerts.is_empty());
}

#[test]
fn queues_and_processes_may_go_while_they_are_held() {
    let bench = Bench::new(20, 2);
    let claims = Claims::new();
    let monitor = bench.monitor().clean_idle(true).claims(claims.clone()).start().unwrap();
    bench.pass(SECOND * 3 / 2);
    bench.host.machine().destroy_queue(OFFLINE, 0).unwrap();
    bench.pass(SECOND);
    assert_eq!(claims.cleaned().len(), 19);
    bench.host.machine().kill(OFFLINE).unwrap();
    bench.pass(SECOND);
    assert_eq!(claims.cleaned().len(), 0);
    assert!(monitor.running() && monitor.report().errors.is_empty());
}

#[test]
fn a_pid_that_another_process_got_is_watched_again() {
    let bench = Bench::new(20, 2);
    let _monitor = bench.monitor().clean_idle(true).start().unwrap();
    bench.pass(SECOND * 3 / 2);
    bench.host.machine().kill(OFFLINE).unwrap();
    bench.pass(SECOND * 2);
    bench.host.machine().spawn(&process(OFFLINE, "train", vec![queues(20, Workload::Manual)])).unwrap();
    bench.driver.attach(OFFLINE).unwrap();
    bench.set_policy(PolicyFlags::PREEMPTIBLE);
    bench.pass(SECOND * 3);
    assert_eq!(bench.held(OFFLINE), 20);
}

#[test]
fn wrong_settings_are_refused_before_a_thread_starts() {
    let bench = Bench::boot(Scenario::empty());
    let refused = |builder: MonitorBuilder| builder.start().unwrap_err();
    for error in [
        refused(bench.monitor().interval(Duration::ZERO)),
        refused(bench.monitor().water_marks(0.5, 0.25)),
        refused(bench.monitor().water_marks(-0.1, 0.25)),
        refused(bench.monitor().water_marks(0.1, 1.5)),
        refused(bench.monitor().water_marks(f64::NAN, 0.5)),
    ] {
        assert_eq!(error.errno(), Errno::EINVAL, "{error}");
    }
}

#[test]
fn a_stock_kernel_cannot_be_monitored_and_the_error_says_what_is_missing() {
    let bench = Bench::boot(Scenario::empty());
    let debugger: Arc<dyn Driver> = Arc::new(DebuggerDriver::open(bench.host.clone(), Calls::PerProcess).unwrap());
    let error = HqdMonitor::builder(bench.host.clone(), debugger).clean_idle(true).start().unwrap_err();
    assert_eq!(error.errno(), Errno::EOPNOTSUPP);
    assert!(error.to_string().contains("the debugger tier lacks POINTERS and WAVES and SLOTS"), "{error}");
}

#[test]
fn the_thread_has_a_name_and_takes_no_signals() {
    let bench = Bench::boot(Scenario::empty());
    let (sender, masks) = std::sync::mpsc::channel();
    let callback = move |_: &MonitorReport| {
        let name = std::thread::current().name().map(str::to_owned);
        let mask = nix::sys::signal::SigSet::thread_get_mask().unwrap();
        sender.send((name, mask)).unwrap();
    };
    let _monitor = bench.monitor().on_report(callback).start().unwrap();
    let (name, mask) = masks.recv().unwrap();
    assert_eq!(name.as_deref(), Some("gpreempt-monitor"));
    use nix::sys::signal::Signal::{SIGCHLD, SIGINT, SIGTERM, SIGUSR1};
    assert!([SIGINT, SIGTERM, SIGCHLD, SIGUSR1].into_iter().all(|signal| mask.contains(signal)));
    let own = nix::sys::signal::SigSet::thread_get_mask().unwrap();
    assert!(!own.contains(SIGINT), "the program's own mask is as it was");
}

#[test]
fn the_same_machine_gives_the_same_reports() {
    let run = || {
        let bench = Bench::new(20, 2);
        let (reports, callback) = collect();
        let _monitor = bench.monitor().clean_idle(true).on_report(callback).start().unwrap();
        bench.pass(SECOND * 3 / 2);
        bench.submit(OFFLINE, 5);
        bench.pass(SECOND * 3);
        let reports = reports.lock().unwrap();
        format!("{reports:?}")
    };
    assert_eq!(run(), run());
}

#[test]
fn blame_says_who_holds_the_slots_by_status_and_by_debugfs_alike() {
    let bench = Bench::new(20, 2);
    bench.driver.unmap(&[Selector { queue: Some(3), ..Selector::process(OFFLINE) }], Duration::ZERO).unwrap();
    let session = Session::with(bench.host.clone(), bench.driver.clone());
    let queues: Vec<_> = session.queues().unwrap().into_iter().map(|(_, queue)| queue).collect();
    let holders = blame(bench.gpu, &queues);
    let shown: Vec<_> = holders.iter().map(|h| (h.pid, &*h.command, h.queues, h.active)).collect();
    assert_eq!(shown, [(OFFLINE, "train", 20, Some(19)), (ONLINE, "serve", 2, Some(2))]);

    let host = &*bench.host;
    let mqds = discover::debugfs::mqds(host).unwrap();
    let rls = discover::debugfs::rls(host).unwrap();
    let processes = discover::Discovery::new(host).processes().unwrap();
    assert_eq!(blame_stock(bench.gpu, &mqds, &rls, &processes), holders);
    assert_eq!(blame(GpuId(1), &queues), []);

    // And the hardware agrees: 21 queues on each of four XCCs.
    let hqds = discover::debugfs::hqds(host).unwrap();
    assert_eq!((hqds.nodes[0].mapped_queues(), hqds.nodes[0].active_hqds()), (21, 84));
}
