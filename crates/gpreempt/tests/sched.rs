//! The scheduler, against a driver in memory and in virtual time.

mod sched_fake;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex, Weak};
use std::time::Duration;

use gpreempt::driver::{Capabilities, Selector};
use gpreempt::sched::{Scheduler, Scope};
use gpreempt::stats::{Operation, Phase};
use gpreempt::trace::{Record, Recorder};
use gpreempt::{ErrorKind, GpuId, PolicyFlags, QueueId};
use nix::errno::Errno;
use proptest::prelude::*;

use sched_fake::{A, B, Call, Fake, Hook, MAX_HOLD, ROUND, SLOTS, builder, ms, pass, q, scheduler};

#[test]
fn nested_requests_of_many_threads_unmap_once_and_remap_once() {
    let fake = Fake::with(&[7, 8], 6, 2);
    let scheduler = scheduler(&fake, "unmap", &[7, 8]);
    let inside = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let outer = scheduler.online();
                assert_eq!(fake.machine().held().len(), 12, "a request begins when the offline queues are gone");
                let inner = scheduler.online();
                inside.wait();
                drop(inner);
                assert_eq!(fake.machine().held().len(), 12);
                inside.wait();
                drop(outer);
            });
        }
    });
    let machine = fake.machine();
    assert_eq!((machine.unmaps(), machine.remaps()), (1, 1), "{:?}", machine.calls);
    assert!(machine.held().is_empty());
}

#[test]
fn a_request_that_comes_during_the_unmap_waits_for_its_end() {
    let fake = Fake::with(&[7], 4, 1);
    let scheduler = Arc::new(scheduler(&fake, "unmap", &[7]));
    let second = Arc::new(Mutex::new(None));
    let (of_hook, of_scheduler, of_fake) = (second.clone(), scheduler.clone(), fake.clone());
    *fake.unmapping.lock().unwrap() = Some(Hook(Box::new(move || {
        let thread = std::thread::spawn(move || {
            let _online = of_scheduler.online();
            of_fake.machine().held().len()
        });
        // All the time that it needs to get ahead, if nothing holds it back.
        for _ in 0..20_000 {
            std::thread::yield_now();
        }
        *of_hook.lock().unwrap() = Some(thread);
    })));
    let online = scheduler.online();
    let thread = second.lock().unwrap().take().unwrap();
    assert_eq!(thread.join().unwrap(), 4, "it began when the offline queues were gone");
    drop(online);
    assert_eq!(fake.calls(), (1, 1));
}

#[test]
fn one_batch_names_a_whole_process_once_per_node() {
    let fake = Fake::with(&[7], 6, 2);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let guard = scheduler.online();
    assert_eq!((guard.entered().unmapped, guard.entered().rounds), (6, 2));
    assert_eq!((guard.entered().elapsed, guard.wait()), (ROUND, ROUND));
    let all = |gpu| Selector { gpu, hold_new: true, ..Selector::process(7) };
    assert_eq!(fake.machine().calls, [Call::Unmap(vec![all(A), all(B)])]);
    assert_eq!(guard.leave().remapped, 6);
}

#[test]
fn a_panic_inside_the_guard_restores() {
    let fake = Fake::with(&[7], 4, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _online = scheduler.online();
        assert_eq!(fake.machine().held().len(), 4);
        panic!("the request failed");
    }));
    assert!(panic.is_err());
    assert!(fake.machine().held().is_empty());
    drop(scheduler.online());
    assert!(fake.machine().held().is_empty(), "the scheduler still works");
}

#[test]
fn a_queue_created_inside_a_window_is_caught_and_released() {
    let fake = Fake::with(&[7], 2, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let online = scheduler.online();
    fake.machine().create(q(7, 50), B);
    assert!(fake.machine().queues[&q(7, 50)].held, "it was born held");
    drop(online);
    assert!(fake.machine().held().is_empty());
    fake.machine().create(q(7, 51), A);
    assert!(!fake.machine().queues[&q(7, 51)].held, "between windows queues start mapped");
    let online = scheduler.online();
    assert_eq!(online.entered().unmapped, 4);
    assert_eq!(fake.machine().held().len(), 4);
}

#[test]
fn without_holding_new_queues_the_next_tick_catches_them() {
    let fake = Fake::without(Capabilities::POLICY | Capabilities::HOLD_NEW);
    fake.machine().create(q(7, 0), A);
    let preemptible = |fake: &Fake| {
        use gpreempt::driver::Driver;
        fake.set_policy(Selector::process(7), PolicyFlags::PREEMPTIBLE, PolicyFlags::empty()).unwrap();
    };
    preemptible(&fake);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let online = scheduler.online();
    fake.machine().create(q(7, 1), A);
    assert_eq!(fake.machine().held().len(), 1);
    preemptible(&fake);
    pass(&fake, &scheduler, ms(101));
    assert_eq!(fake.machine().held().len(), 2);
    drop(online);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn lost_events_lead_to_a_rescan() {
    let fake = Fake::with(&[7], 3, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    fake.machine().destroy(q(7, 0));
    fake.machine().create(q(7, 9), B);
    fake.machine().lose_events();
    scheduler.tick();
    let known: Vec<QueueId> = scheduler.offline().iter().map(|queue| queue.id).collect();
    assert_eq!(known, [q(7, 1), q(7, 2), q(7, 9)]);
}

#[test]
fn events_keep_the_set_right() {
    let fake = Fake::with(&[7, 8], 2, 1);
    let scheduler = scheduler(&fake, "unmap", &[7, 8]);
    let online = scheduler.online();
    fake.machine().destroy(q(7, 0));
    fake.machine().exit(8);
    pass(&fake, &scheduler, ms(100));
    let known: Vec<QueueId> = scheduler.offline().iter().map(|queue| queue.id).collect();
    assert_eq!(known, [q(7, 1)]);
    let left = online.leave();
    assert_eq!((left.remapped, left.error), (1, None));
}

#[test]
fn a_queue_that_vanishes_in_the_middle_counts_as_unmapped() {
    let fake = Fake::with(&[7], 3, 1);
    let scheduler = builder(&fake, "unmap").build().unwrap();
    for id in 0..3 {
        scheduler.register_offline(q(7, id), GpuId::ALL).unwrap();
    }
    fake.machine().during = Some(|machine| {
        machine.during = None;
        machine.destroy(q(7, 1));
    });
    let online = scheduler.online();
    assert_eq!((online.entered().unmapped, &online.entered().error), (2, &None));
    assert_eq!(scheduler.offline().len(), 2);
}

#[test]
fn an_online_queue_of_an_offline_process_is_never_named() {
    let fake = Fake::with(&[7], 4, 1);
    let scheduler = builder(&fake, "unmap").build().unwrap();
    scheduler.register_online(q(7, 2)).unwrap();
    assert_eq!(scheduler.register_offline_process(7).unwrap(), 3);
    let online = scheduler.online();
    assert_eq!(fake.machine().held(), [q(7, 0), q(7, 1), q(7, 3)].into());
    assert_eq!(fake.machine().policy(q(7, 2)), PolicyFlags::empty());
    drop(online);
    let error = scheduler.register_offline(q(7, 2), A).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(scheduler.register_online(q(7, 0)).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn an_inactive_online_queue_comes_in_the_round_that_takes_the_offline_ones() {
    use gpreempt::driver::Driver;
    let fake = Fake::with(&[7, 9], 1, 1);
    fake.set_policy(Selector::process(9), PolicyFlags::PREEMPTIBLE, PolicyFlags::empty()).unwrap();
    fake.unmap(&[Selector::process(9)], Duration::ZERO).unwrap();
    let scheduler = scheduler(&fake, "unmap", &[7]);
    scheduler.register_online(q(9, 0)).unwrap();
    let online = scheduler.online();
    assert_eq!(online.entered().rounds, 1);
    assert_eq!(fake.machine().held(), [q(7, 0)].into());
    assert!(matches!(fake.machine().calls.last(), Some(Call::Swap(_, _))));
}

#[test]
fn a_long_window_is_not_cut_short_by_the_watchdog() {
    let fake = Fake::with(&[7], 3, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let online = scheduler.online();
    for _ in 0..10 {
        pass(&fake, &scheduler, MAX_HOLD / 3);
        assert_eq!(fake.machine().held().len(), 3);
    }
    let renewals = fake.machine().unmaps() - 1;
    assert!((5..=10).contains(&renewals), "{renewals} renewals in 33 s of a 10 s watchdog");
    drop(online);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn a_hold_that_expired_is_noticed_and_taken_again() {
    let fake = Fake::with(&[7], 3, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let online = scheduler.online();
    fake.pass(MAX_HOLD); // nobody ticked
    assert!(fake.machine().held().is_empty());
    assert_eq!(scheduler.tick().unmapped, 3);
    assert_eq!(fake.machine().held().len(), 3);
    drop(online);
    fake.pass(MAX_HOLD);
    assert_eq!(scheduler.tick().unmapped, 0, "nobody is online");
}

#[test]
fn a_hundred_offline_queues_on_24_slots_all_progress() {
    let fake = Fake::new();
    for id in 0..100 {
        fake.machine().create(q(7, id), A);
    }
    let scheduler = scheduler(&fake, "reserve:online=10%,offline=80%,slice=100ms", &[7]);
    let cap = SLOTS * 80 / 100;
    let bound = ms(100) * 100_u32.div_ceil(cap) + ms(1);
    let mut before: Vec<Duration> = fake.machine().queues.values().map(|queue| queue.ran).collect();
    for _ in 0..5 {
        let online = scheduler.online();
        pass(&fake, &scheduler, bound);
        drop(online);
        let now: Vec<Duration> = fake.machine().queues.values().map(|queue| queue.ran).collect();
        assert!(now.iter().zip(&before).all(|(now, before)| now > before), "a queue waited longer than {bound:?}");
        before = now;
    }
    assert!(fake.machine().held().is_empty(), "this policy unmaps nothing");
    drop(scheduler);
    assert!(fake.machine().queues.values().all(|queue| !queue.throttled), "the reservation ends with the scheduler");
}

#[test]
fn few_queues_under_a_reservation_cost_no_wakeups() {
    let fake = Fake::with(&[7], 10, 1);
    let scheduler = scheduler(&fake, "reserve", &[7]);
    pass(&fake, &scheduler, ms(2000));
    assert!(fake.machine().calls.is_empty());
}

#[test]
fn a_burst_is_preempted_for_once() {
    let fake = Fake::with(&[7], 4, 1);
    let scheduler = scheduler(&fake, "rate-bound:floor=0%", &[7]);
    for burst in 1..=5 {
        for _ in 0..20 {
            let online = scheduler.online();
            pass(&fake, &scheduler, ms(1));
            drop(online);
            pass(&fake, &scheduler, ms(1));
        }
        pass(&fake, &scheduler, ms(20));
        assert_eq!(fake.calls(), (burst, burst));
    }
}

#[test]
fn the_floor_holds_while_online_work_never_ends() {
    let fake = Fake::with(&[7], 4, 1);
    let scheduler = scheduler(&fake, "rate-bound:floor=20%,window=100ms", &[7]);
    let _online = scheduler.online();
    pass(&fake, &scheduler, ms(200));
    for _ in 0..50 {
        let before = fake.machine().queues[&q(7, 0)].ran;
        pass(&fake, &scheduler, ms(100));
        let ran = fake.machine().queues[&q(7, 0)].ran - before;
        assert!(ran >= ms(20) - 2 * ROUND, "only {ran:?} of a 100 ms window");
        assert!(ran <= ms(30), "{ran:?}: online work gets nearly all of the rest");
    }
}

#[test]
fn slices_share_time_by_their_shares() {
    let fake = Fake::with(&[7], 2, 1);
    let scheduler = scheduler(&fake, "slice:period=100ms,online=75%", &[7]);
    let _online = scheduler.online();
    pass(&fake, &scheduler, ms(4000));
    let share = fake.machine().queues[&q(7, 0)].ran.as_secs_f64() / 4.0;
    assert!((0.23..=0.27).contains(&share), "offline had {share:.3} of the time");
}

#[test]
fn lazy_queues_are_mapped_only_while_they_have_work() {
    let fake = Fake::with(&[7], 2, 1);
    let scheduler = scheduler(&fake, "lazy:idle=10ms,poll=5ms", &[7]);
    assert_eq!(fake.machine().held().len(), 2, "they start inactive");
    pass(&fake, &scheduler, ms(50));
    assert_eq!(fake.machine().held().len(), 2, "and stay so without work");
    fake.machine().queues.get_mut(&q(7, 0)).unwrap().pointers = (0, 64);
    pass(&fake, &scheduler, ms(6));
    assert_eq!(fake.machine().held(), [q(7, 1)].into(), "one has work");
    fake.machine().queues.get_mut(&q(7, 0)).unwrap().pointers = (64, 64);
    fake.machine().queues.get_mut(&q(7, 0)).unwrap().waves = 3;
    pass(&fake, &scheduler, ms(50));
    assert_eq!(fake.machine().held(), [q(7, 1)].into(), "waves are work");
    let online = scheduler.online();
    assert_eq!(fake.machine().held().len(), 2, "online work comes first");
    drop(online);
    assert_eq!(fake.machine().held(), [q(7, 1)].into());
    fake.machine().queues.get_mut(&q(7, 0)).unwrap().waves = 0;
    pass(&fake, &scheduler, ms(20));
    assert_eq!(fake.machine().held().len(), 2, "it ran dry");
}

#[test]
fn requests_on_one_node_leave_the_others_alone() {
    let fake = Fake::with(&[7], 6, 2);
    let scheduler = builder(&fake, "unmap").scope(Scope::Gpu).build().unwrap();
    scheduler.register_offline_process(7).unwrap();
    let on_a = scheduler.online_on(&[A]);
    assert_eq!(fake.machine().held(), [q(7, 0), q(7, 2), q(7, 4)].into());
    let everywhere = scheduler.online();
    assert_eq!(fake.machine().held().len(), 6);
    drop(on_a);
    assert_eq!(fake.machine().held().len(), 6);
    drop(everywhere);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn a_node_first_seen_inside_a_window_on_all_nodes_joins_it() {
    let fake = Fake::with(&[7], 1, 1);
    let scheduler = builder(&fake, "unmap").scope(Scope::Gpu).build().unwrap();
    scheduler.register_offline_process(7).unwrap();
    let online = scheduler.online();
    fake.machine().create(q(8, 0), B);
    scheduler.register_offline_process(8).unwrap();
    assert_eq!(fake.machine().held().len(), 2);
    drop(online);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn a_gang_leaves_and_returns_as_one() {
    let fake = Fake::with(&[7, 8, 9], 2, 2);
    fake.machine().groups = [(7, 7), (8, 7), (9, 9)].into();
    let scheduler = builder(&fake, "unmap").scope(Scope::Gpu).gang(true).build().unwrap();
    // Ranks 7 and 8 are one job, each with queues on both nodes; 9 is alone.
    for pid in [7, 8, 9] {
        scheduler.register_offline_process(pid).unwrap();
    }
    fake.machine().destroy(q(7, 1));
    fake.machine().destroy(q(8, 0));
    let on_a = scheduler.online_on(&[A]);
    assert_eq!(fake.machine().held(), [q(7, 0), q(8, 1), q(9, 0), q(9, 1)].into(), "rank 8 lives on the other node");
    let on_b = scheduler.online_on(&[B]);
    drop(on_a);
    assert_eq!(fake.machine().held(), [q(7, 0), q(8, 1), q(9, 0), q(9, 1)].into(), "the other node keeps them");
    drop(on_b);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn after_a_timeout_the_node_is_left_alone_until_told() {
    let fake = Fake::with(&[7], 4, 2);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    fake.machine().broken.insert(B, Errno::ETIME);
    let online = scheduler.online();
    assert_eq!(online.entered().error.as_ref().unwrap().kind(), ErrorKind::TimedOut);
    assert_eq!(scheduler.tripped(), [B]);
    let calls = fake.machine().calls.len();
    drop(online);
    let last = fake.machine().calls[calls..].to_vec();
    assert_eq!(last, [Call::Remap(vec![Selector { gpu: A, ..Selector::process(7) }])], "everything else is restored");
    drop(scheduler.online());
    let named_b = |call: &Call| matches!(call, Call::Unmap(s) | Call::Remap(s) if s.iter().any(|s| s.gpu != A));
    assert!(!fake.machine().calls[calls..].iter().any(named_b), "nothing touches it");
    assert_eq!(
        scheduler.take_error().unwrap().to_string(),
        format!(
            "unmapping (all queues of pid 7 on {B}): the preemption timed out (ETIME); {B} is left alone until its reset is over, or \
             the scheduler's readmit({}) is called",
            B.0
        )
    );
    assert_eq!(scheduler.take_error(), None);

    fake.machine().broken.clear();
    assert_eq!(scheduler.readmit(B).remapped, 2);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn a_call_that_fails_as_a_whole_is_tried_again() {
    for errno in [Errno::ENOMEM, Errno::ESRCH, Errno::ENOENT, Errno::EIO] {
        let fake = Fake::with(&[7], 2, 1);
        let scheduler = scheduler(&fake, "unmap", &[7]);
        fake.machine().fail_next = Some(errno);
        let online = scheduler.online();
        assert_eq!(online.entered().error.as_ref().unwrap().errno(), errno);
        pass(&fake, &scheduler, ms(200));
        assert_eq!(fake.machine().held().len(), 2);
        fake.machine().fail_next = Some(errno);
        assert_eq!(online.leave().error.unwrap().errno(), errno);
        assert_eq!(fake.machine().held().len(), 2);
        pass(&fake, &scheduler, ms(200));
        assert!(fake.machine().held().is_empty(), "{errno}");
    }
}

#[test]
fn a_queue_that_may_not_be_held_does_not_keep_the_others() {
    use gpreempt::driver::Driver;
    let fake = Fake::with(&[7, 8], 1, 1);
    let scheduler = builder(&fake, "unmap").build().unwrap();
    scheduler.register_offline(q(7, 0), A).unwrap();
    scheduler.register_offline(q(8, 0), A).unwrap();
    fake.set_policy(Selector::process(7), PolicyFlags::empty(), PolicyFlags::PREEMPTIBLE).unwrap();
    let online = scheduler.online();
    assert_eq!(online.entered().unmapped, 1);
    assert_eq!(online.entered().error.as_ref().unwrap().kind(), ErrorKind::NotPermitted);
    assert_eq!(fake.machine().held(), [q(8, 0)].into());
    assert_eq!(online.leave().error, None);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn more_queues_than_one_call_takes_go_in_several() {
    let fake = Fake::new();
    let scheduler = builder(&fake, "unmap").build().unwrap();
    for pid in [7, 8] {
        for id in 0..600 {
            fake.machine().create(q(pid, id), A);
            scheduler.register_offline(q(pid, id), A).unwrap();
        }
    }
    let online = scheduler.online();
    assert_eq!((online.entered().unmapped, fake.machine().unmaps()), (1200, 2));
    drop(online);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn unregistering_gives_back_and_forgets() {
    let fake = Fake::with(&[7, 8], 2, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    scheduler.register_offline(q(8, 0), GpuId::ALL).unwrap();
    let _online = scheduler.online();
    scheduler.unregister(q(8, 0)).unwrap();
    assert_eq!(fake.machine().held(), [q(7, 0), q(7, 1)].into());
    assert_eq!(fake.machine().policy(q(8, 0)), PolicyFlags::empty());
    scheduler.unregister_process(7).unwrap();
    assert!(fake.machine().held().is_empty());
    assert_eq!(scheduler.unregister(q(8, 0)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(scheduler.unregister_process(7).unwrap_err().kind(), ErrorKind::ProcessGone);
}

#[test]
fn dropping_the_scheduler_restores_everything() {
    for policy in ["unmap", "reserve", "lazy", "slice", "rate-bound"] {
        let fake = Fake::with(&[7, 8], 30, 2);
        let scheduler = scheduler(&fake, policy, &[7, 8]);
        let online = scheduler.online();
        drop(scheduler);
        assert!(fake.machine().held().is_empty(), "{policy}");
        assert!(fake.machine().queues.values().all(|queue| !queue.throttled), "{policy}");
        let calls = fake.machine().calls.len();
        drop(online);
        assert_eq!(fake.machine().calls.len(), calls, "a late guard touches nothing");
        let marked = fake.machine().queues.values().any(|queue| !queue.policy.is_empty());
        assert!(!marked, "{policy}: marks are cleared");
        fake.machine().create(q(7, 99), A);
        assert!(!fake.machine().queues[&q(7, 99)].held, "{policy}: new queues run");
    }
}

/// Keeps what it is told, and asks the scheduler back: that would hang if a lock were held.
#[derive(Debug, Default)]
struct Listener {
    scheduler: Mutex<Weak<Scheduler>>,
    records: Mutex<Vec<Record>>,
}

impl Recorder for Listener {
    fn record(&self, record: &Record) {
        if let Some(scheduler) = self.scheduler.lock().unwrap().upgrade() {
            scheduler.next_wakeup();
        }
        self.records.lock().unwrap().push(*record);
    }
}

#[test]
fn the_recorder_hears_of_every_window_and_call_with_no_lock_held() {
    let fake = Fake::with(&[7], 3, 2);
    let listener = Arc::new(Listener::default());
    let scheduler = Arc::new(builder(&fake, "unmap").recorder(listener.clone()).build().unwrap());
    *listener.scheduler.lock().unwrap() = Arc::downgrade(&scheduler);
    scheduler.register_offline_process(7).unwrap();
    let online = scheduler.online();
    fake.pass(ms(4));
    drop(online);
    let call = |operation, from| Record::Call {
        operation,
        gpu: GpuId::ALL,
        from,
        elapsed: ROUND,
        driver: ROUND,
        queues: 3,
        rounds: 2,
        failed: false,
    };
    let (back, end) = (ROUND + ms(4), ROUND + ms(4) + ROUND);
    let offline = |gpu, at, mapped, held| Record::Offline { gpu, at, mapped, held };
    let held = |gpu, queues| Record::Held { gpu, from: Duration::ZERO, until: end, queues };
    assert_eq!(
        *listener.records.lock().unwrap(),
        [
            call(Operation::Unmap, Duration::ZERO),
            offline(A, ROUND, 0, 2),
            offline(B, ROUND, 0, 1),
            call(Operation::Remap, back),
            held(A, 2),
            offline(A, end, 2, 0),
            held(B, 1),
            offline(B, end, 1, 0),
            Record::Online { gpu: GpuId::ALL, from: Duration::ZERO, until: back },
        ]
    );
}

#[test]
fn statistics_tell_calls_and_requests_apart() {
    let fake = Fake::with(&[7], 3, 2);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    for _ in 0..3 {
        let _online = scheduler.online();
        let _nested = scheduler.online();
        fake.pass(ms(4));
    }
    let operations = scheduler.stats().report().operations;
    let calls = |operation| operations[&operation].calls;
    assert_eq!((calls(Operation::Unmap), calls(Operation::Remap), calls(Operation::Online)), (3, 3, 6));
    assert_eq!(operations[&Operation::Unmap].queues.total, 9);
    let wait = operations[&Operation::Online].phases[&Phase::Wait];
    assert_eq!(
        (wait.min_us, wait.max_us.round()),
        (0.0, ROUND.as_secs_f64() * 1e6),
        "nested requests wait for nothing"
    );
}

#[derive(Clone, Debug)]
enum Op {
    Enter(u8),
    Leave,
    Pass(u32),
    Create(u8),
    Destroy(u8),
    Exit,
    Unregister,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_u8).prop_map(Op::Enter),
        4 => Just(Op::Leave),
        4 => (1..40_000_u32).prop_map(Op::Pass),
        2 => (0..6_u8).prop_map(Op::Create),
        1 => any::<u8>().prop_map(Op::Destroy),
        1 => Just(Op::Exit),
        1 => Just(Op::Unregister),
    ]
}

const POLICIES: [&str; 6] = ["unmap", "unmap:linger=3ms", "reserve", "lazy", "slice", "rate-bound"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, an online queue is never held, and once it is quiet nothing stays held that has work.
    #[test]
    fn any_history_spares_online_queues_and_ends_with_everything_restored(
        ops in prop::collection::vec(op(), 1..60),
        policy in 0..POLICIES.len(),
        per_gpu in any::<bool>(),
        gang in any::<bool>(),
    ) {
        let fake = Fake::with(&[7, 8, 9], 4, 2);
        fake.machine().groups = [(7, 7), (8, 7)].into();
        for queue in fake.machine().queues.values_mut() {
            (queue.pointers, queue.waves) = ((0, 64), 1);
        }
        let scope = if per_gpu { Scope::Gpu } else { Scope::Machine };
        let scheduler = builder(&fake, POLICIES[policy]).scope(scope).gang(gang).build().unwrap();
        // Process 8 has an online queue, 9 is online as a whole.
        let online_queues: Vec<QueueId> = (0..4).map(|id| q(9, id)).chain([q(8, 1)]).collect();
        for queue in &online_queues {
            scheduler.register_online(*queue).unwrap();
        }
        scheduler.register_offline_process(7).unwrap();
        scheduler.register_offline_process(8).unwrap();
        let (mut guards, mut next) = (Vec::new(), 100);
        for op in ops {
            match op {
                Op::Enter(0) => guards.push(scheduler.online()),
                Op::Enter(gpu) => guards.push(scheduler.online_on(&[GpuId(99 + u32::from(gpu))])),
                Op::Leave if guards.is_empty() => {}
                Op::Leave => drop(guards.remove(guards.len() / 2)),
                Op::Pass(us) => pass(&fake, &scheduler, Duration::from_micros(u64::from(us))),
                Op::Create(kind) => {
                    let pid = 7 + u32::from(kind) % 3;
                    if fake.machine().queues.keys().any(|queue| queue.pid == pid) {
                        fake.machine().create(q(pid, next), GpuId(100 + u32::from(kind) % 2));
                        let mut machine = fake.machine();
                        machine.queues.get_mut(&q(pid, next)).unwrap().pointers = (0, 64);
                        next += 1;
                    }
                }
                Op::Destroy(which) => {
                    let offline: Vec<_> = fake.machine().queues.keys().filter(|id| !online_queues.contains(id)).copied().collect();
                    if !offline.is_empty() {
                        fake.machine().destroy(offline[usize::from(which) % offline.len()]);
                    }
                }
                Op::Exit if fake.machine().queues.keys().any(|queue| queue.pid == 7) => fake.machine().exit(7),
                Op::Exit => {}
                Op::Unregister => drop(scheduler.unregister(q(8, 0))),
            }
            let held = fake.machine().held();
            prop_assert!(online_queues.iter().all(|queue| !held.contains(queue)), "{held:?}");
        }
        guards.clear();
        pass(&fake, &scheduler, ms(250));
        prop_assert!(fake.machine().held().is_empty(), "{:?} {:?}", fake.machine().held(), scheduler.offline());
        prop_assert_eq!(scheduler.take_error(), None);
        drop(scheduler);
    }
}

#[test]
fn more_queues_than_one_call_of_the_driver_takes_go_in_several() {
    let fake = Fake::with(&[7], 5, 1);
    fake.machine().most = Some(2);
    let scheduler = Scheduler::builder(fake.clone(), fake.clone()).build().unwrap();
    for id in 0..5 {
        scheduler.register_offline(q(7, id), GpuId::ALL).unwrap();
    }
    let online = scheduler.online();
    assert_eq!((online.entered().unmapped, online.entered().error.clone()), (5, None));
    assert_eq!((online.leave().remapped, fake.machine().held().len()), (5, 0));
    assert_eq!(fake.machine().calls.len(), 6);
}
