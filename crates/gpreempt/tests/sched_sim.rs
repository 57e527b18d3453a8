//! The scheduler on the simulated machine: through the patched driver, the ioctls and the model of KFD.

mod machine;

use std::sync::Arc;
use std::time::Duration;

use gpreempt::driver::Selector;
use gpreempt::host::Host;
use gpreempt::host::sim::SimHost;
use gpreempt::monitor::HqdMonitor;
use gpreempt::sched::policy::named;
use gpreempt::sched::{Scheduler, Scope};
use gpreempt::{GpuId, QueueClass, QueueId, Session};
use gpreempt_sim::Work;
use gpreempt_sim::config::ProcessSpec;
use machine::*;

fn service(host: &SimHost, guest: &ProcessSpec) -> Vec<u64> {
    let queues: u32 = guest.queues.iter().map(|queues| queues.count).sum();
    (0..queues).map(|id| host.machine().service(guest.pid, id).unwrap()).collect()
}

fn all_active(session: &Session, pid: u32) -> bool {
    active(session.driver().as_ref(), pid).iter().all(|active| *active)
}

fn none_active(session: &Session, pid: u32) -> bool {
    active(session.driver().as_ref(), pid).iter().all(|active| !*active)
}

#[test]
fn offline_work_stands_still_in_a_window_and_goes_on_after_it() {
    let train = guest(5000, [busy(0, 3), busy(1, 3)]);
    let (host, session) = machine(2).guest(train.clone()).session();
    let scheduler = Scheduler::on(&session).build().unwrap();
    assert_eq!(scheduler.register_offline_process(5000).unwrap(), 6);
    let online = scheduler.online();
    assert_eq!((online.entered().unmapped, online.entered().rounds), (6, 2));
    let before = service(&host, &train);
    host.sleep(ms(50));
    assert_eq!(service(&host, &train), before);
    assert_eq!(online.leave().remapped, 6);
    host.sleep(ms(50));
    assert!(service(&host, &train).iter().zip(&before).all(|(now, before)| now > before));
}

#[test]
fn the_thread_renews_a_window_longer_than_the_watchdog() {
    let train = guest(5000, [busy(0, 2)]);
    let (host, session) = machine(1).guest(train.clone()).session();
    let max_hold = session.driver().max_hold().unwrap();
    let scheduler = Scheduler::on(&session).start().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    let online = scheduler.online();
    let before = service(&host, &train);
    host.sleep(max_hold * 3);
    assert_eq!(service(&host, &train), before, "not one wave ran in three watchdog periods");
    drop(online);
    assert!(all_active(&session, 5000));
    assert_eq!(scheduler.take_error(), None);
}

#[test]
fn the_thread_carries_out_what_a_policy_asked_for_later() {
    let train = guest(5000, [busy(0, 2)]);
    let (host, session) = machine(1).guest(train).session();
    let scheduler = Scheduler::on(&session).policy(named("unmap:linger=20ms").unwrap()).start().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    drop(scheduler.online());
    host.sleep(ms(10));
    assert!(none_active(&session, 5000), "it lingers");
    host.sleep(ms(15));
    assert!(all_active(&session, 5000));
}

#[test]
fn a_queue_created_inside_a_window_waits_for_its_end() {
    let (host, session) = machine(2).guest(guest(5000, [busy(0, 2)])).session();
    let scheduler = Scheduler::on(&session).build().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    let online = scheduler.online();
    host.machine().create_queues(5000, &busy(0, 1)).unwrap();
    host.machine().create_queues(5000, &busy(1, 1)).unwrap();
    host.sleep(ms(5));
    let ran = |id| host.machine().service(5000, id).unwrap();
    assert_eq!(ran(2), 0, "born held");
    scheduler.tick();
    let other_node = ran(3);
    host.sleep(ms(5));
    assert_eq!(ran(3), other_node, "on a node new to the process, from the next look on");
    drop(online);
    assert!(all_active(&session, 5000));
    host.machine().create_queues(5000, &busy(0, 1)).unwrap();
    assert!(all_active(&session, 5000), "outside of windows queues start mapped");
}

#[test]
fn a_hundred_offline_queues_on_24_slots_all_progress_while_online_work_runs() {
    let train: Vec<ProcessSpec> = (0..10).map(|n| guest(5000 + n, [busy(0, 10)])).collect();
    let builder = train.iter().cloned().fold(machine(1).privileged(), Builder::guest);
    let (host, session) = builder.guest(guest(6000, [busy(0, 2)])).session();
    let scheduler = Scheduler::on(&session).policy(named("reserve:slice=50ms").unwrap()).start().unwrap();
    for guest in &train {
        scheduler.register_offline_process(guest.pid).unwrap();
    }
    let progress = || -> Vec<u64> { train.iter().flat_map(|guest| service(&host, guest)).collect() };
    // 80 % of 24 slots are 19, so each of 100 queues is served once in 6 slices.
    let bound = ms(50) * 6 + ms(50);
    let online = scheduler.online();
    let (mut before, online_before) = (progress(), host.machine().service(6000, 0).unwrap());
    for _ in 0..4 {
        host.sleep(bound);
        let now = progress();
        let starved: Vec<usize> = (0..100).filter(|n| now[*n] == before[*n]).collect();
        assert!(starved.is_empty(), "no progress in {bound:?}: {starved:?}");
        before = now;
    }
    drop(online);
    assert!(host.machine().service(6000, 0).unwrap() > online_before);
    assert!(all_active(&session, 6000), "the reservation leaves online queues in");
    drop(scheduler);
    for guest in &train {
        assert!(all_active(&session, guest.pid), "dropping the scheduler lifts the reservation");
    }
}

#[test]
fn lazy_queues_leave_when_idle_and_come_with_work() {
    let (host, session) = machine(1).guest(guest(5000, [quiet(0, 2)])).session();
    let scheduler = Scheduler::on(&session).policy(named("lazy").unwrap()).start().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    host.sleep(ms(50));
    assert!(none_active(&session, 5000));
    let work = Work { packets: 20, packet_ns: 1_000_000, occupancy: 0.5 };
    let ticket = host.machine().submit(5000, 1, work).unwrap();
    host.sleep(ms(8));
    assert_eq!(active(session.driver().as_ref(), 5000), [false, true]);
    host.sleep(ms(60));
    assert!(host.machine().completed_at(ticket).is_some(), "it ran to its end");
    assert!(none_active(&session, 5000), "and left");
}

#[test]
fn a_target_that_exits_inside_a_window_is_forgotten() {
    let (host, session) = machine(1).guest(guest(5000, [busy(0, 2)])).guest(guest(5001, [busy(0, 2)])).session();
    let scheduler = Scheduler::on(&session).build().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    scheduler.register_offline_process(5001).unwrap();
    let online = scheduler.online();
    host.machine().kill(5000).unwrap();
    let left = online.leave();
    assert_eq!((left.remapped, left.error), (2, None));
    assert_eq!(scheduler.offline().len(), 2);
}

#[test]
fn an_online_queue_of_a_training_process_keeps_running() {
    let train = guest(5000, [busy(0, 3)]);
    let (host, session) = machine(1).guest(train.clone()).session();
    let scheduler = Scheduler::on(&session).build().unwrap();
    scheduler.register_online(QueueId { pid: 5000, id: 1 }).unwrap();
    assert_eq!(scheduler.register_offline_process(5000).unwrap(), 2);
    let _online = scheduler.online();
    assert_eq!(active(session.driver().as_ref(), 5000), [false, true, false]);
    let before = service(&host, &train);
    host.sleep(ms(10));
    let ran: Vec<bool> = service(&host, &train).iter().zip(&before).map(|(now, before)| now > before).collect();
    assert_eq!(ran, [false, true, false]);
}

#[test]
fn requests_on_one_node_leave_the_others_running() {
    let (host, session) = machine(2).guest(guest(5000, [busy(0, 1), busy(1, 1)])).session();
    let scheduler = Scheduler::on(&session).scope(Scope::Gpu).build().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    let online = scheduler.online_on(&[gpu(&host, 1)]);
    assert_eq!(active(session.driver().as_ref(), 5000), [true, false]);
    drop(online);
    assert!(all_active(&session, 5000));
}

#[test]
fn a_window_leaves_to_the_monitor_what_the_monitor_cleaned() {
    // Two idle queues among 23 busy ones: the node is low on slots.
    let (host, session) = machine(1).guest(guest(5000, [quiet(0, 2), busy(0, 21)])).session();
    let scheduler = Scheduler::on(&session).start().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    let monitor = HqdMonitor::builder(session.host().clone(), session.driver().clone())
        .interval(ms(10))
        .clean_idle(true)
        .claims(session.claims().clone());
    let _monitor = monitor.start().unwrap();
    let cleaned = |id: usize| !active(session.driver().as_ref(), 5000)[id];
    host.sleep(ms(50));
    assert!(cleaned(0) && cleaned(1) && !cleaned(2));
    let online = scheduler.online();
    host.machine().submit(5000, 0, Work { packets: 1, packet_ns: 50_000_000, occupancy: 0.5 }).unwrap();
    host.sleep(ms(50));
    assert!(none_active(&session, 5000), "work does not bring a queue back while a window holds it");
    drop(online);
    assert!(cleaned(1) && !cleaned(2), "still idle");
    host.sleep(ms(25));
    assert!(!cleaned(0), "it has work");
    host.sleep(session.driver().max_hold().unwrap() * 2);
    assert!(cleaned(1), "the monitor renews it");
}

#[test]
fn dropping_the_scheduler_inside_a_window_restores_everything() {
    let (_host, session) = machine(2).privileged().guest(guest(5000, [busy(0, 3), busy(1, 3)])).session();
    for policy in ["unmap", "reserve", "lazy", "slice", "rate-bound"] {
        let scheduler = Scheduler::on(&session).policy(named(policy).unwrap()).start().unwrap();
        scheduler.register_offline_process(5000).unwrap();
        let online = scheduler.online();
        drop(scheduler);
        assert!(all_active(&session, 5000), "{policy}");
        drop(online);
        let marked = statuses(session.driver().as_ref(), 5000).iter().any(|status| !status.policy.is_empty());
        assert!(!marked, "{policy}");
    }
}

#[test]
fn a_loop_of_requests_leaves_nothing_held() {
    let (host, session) = machine(2).guest(guest(5000, [busy(0, 3), busy(1, 3)])).session();
    let scheduler = Scheduler::on(&session).policy(named("rate-bound").unwrap()).start().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    let shared = Arc::new(scheduler);
    for round in 0..200_u64 {
        let _online = shared.online();
        host.sleep(Duration::from_micros(300 * (round % 7)));
    }
    host.sleep(ms(10));
    assert!(all_active(&session, 5000));
    assert_eq!(shared.take_error(), None);
    let status = session.driver().queue_status(Selector::process(5000), Default::default()).unwrap();
    assert!(status.iter().all(|status| status.held.is_zero()));
}

#[test]
fn a_batch_that_fails_maps_nothing_that_an_online_window_holds() {
    let (_host, session) = machine(1).guest(guest(5000, [busy(0, 2)])).guest(guest(6000, [busy(0, 1)])).session();
    let queues = offline(&session, 5000);
    let not_preemptible = session.register(6000, 0, GpuId::ALL).unwrap();
    let scheduler = Scheduler::on(&session).build().unwrap();
    scheduler.register_offline_process(5000).unwrap();
    let online = scheduler.online();
    let error = session.unmap(&[queues[0], queues[1], not_preemptible], Duration::ZERO).unwrap_err();
    assert_eq!(error.target(), Some("queue 0 of pid 6000"));
    assert!(none_active(&session, 5000));
    drop(online);
    assert!(all_active(&session, 5000));
}

#[test]
fn what_a_session_classifies_as_online_no_scheduler_unmaps() {
    let (_host, session) = machine(1).guest(guest(5000, [busy(0, 3)])).session();
    let queues = offline(&session, 5000);
    session.classify(queues[0], QueueClass::Online).unwrap();
    let scheduler = Scheduler::on(&session).build().unwrap();
    assert_eq!(scheduler.register_offline_process(5000).unwrap(), 2);
    let in_window = || {
        let online = scheduler.online();
        let states = active(session.driver().as_ref(), 5000);
        drop(online);
        assert!(all_active(&session, 5000));
        states
    };
    assert_eq!(in_window(), [true, false, false]);
    let error = scheduler.register_offline(session.resolve(queues[0]).unwrap(), GpuId::ALL).unwrap_err();
    assert!(error.to_string().contains("registered as online"), "{error}");
    // Also one that the scheduler had as offline, until it is classified anew.
    session.classify(queues[1], QueueClass::Online).unwrap();
    assert_eq!(in_window(), [true, true, false]);
    session.classify(queues[0], QueueClass::Offline).unwrap();
    scheduler.register_offline_process(5000).unwrap();
    assert_eq!(in_window(), [false, true, false]);
}

#[test]
fn what_a_scheduler_has_as_online_no_session_unmaps() {
    let (_host, session) = machine(1).guest(guest(5000, [busy(0, 1)])).session();
    let queue = offline(&session, 5000)[0];
    let scheduler = Scheduler::on(&session).build().unwrap();
    scheduler.register_online(session.resolve(queue).unwrap()).unwrap();
    let error = session.unmap(&[queue], Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("it is classified as online"), "{error}");
    scheduler.unregister(session.resolve(queue).unwrap()).unwrap();
    session.unmap(&[queue], Duration::ZERO).unwrap();
    assert!(none_active(&session, 5000));
}
