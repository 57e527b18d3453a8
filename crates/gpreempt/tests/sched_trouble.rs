//! What the scheduler does when the driver, the policy or another user of the driver does not play along.

mod sched_fake;

use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::Duration;

use gpreempt::driver::{Capabilities, Driver, Selector};
use gpreempt::host::Host;
use gpreempt::monitor::{Claims, Window};
use gpreempt::sched::policy::{Decision, Policy, Setup, Unmap, View};
use gpreempt::sched::{Scheduler, Scope};
use gpreempt::stats::Operation;
use gpreempt::trace::{Record, Recorder};
use gpreempt::{GpuId, PolicyFlags};
use nix::errno::Errno;

use sched_fake::{A, B, Call, Fake, MAX_HOLD, builder, ms, pass, q, scheduler};

/// Runs it elsewhere, so that a deadlock fails the test instead of hanging it.
fn ends(what: impl FnOnce() + Send + 'static) -> bool {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        what();
        done.send(()).unwrap();
    });
    // It ends at once or never.
    let ended = ended.recv_timeout(Duration::from_secs(20)).is_ok();
    if ended {
        thread.join().unwrap();
    }
    ended
}

#[test]
fn queues_that_go_one_by_one_do_not_clash_with_a_whole_process_on_another_node() {
    let fake = Fake::with(&[7], 6, 2);
    let scheduler = scheduler(&fake, "lazy:idle=10ms,poll=5ms", &[7]);
    for id in [0, 1, 3, 5] {
        fake.machine().queues.get_mut(&q(7, id)).unwrap().pointers = (0, 64);
    }
    pass(&fake, &scheduler, ms(20));
    assert_eq!(fake.machine().held(), [q(7, 2), q(7, 4)].into(), "one of node A woke up, and all of node B");
    let last = fake.machine().calls.last().cloned();
    let wake = vec![Selector { gpu: A, ..Selector::queue(q(7, 0)) }, Selector { gpu: B, ..Selector::process(7) }];
    assert_eq!(last, Some(Call::Remap(wake)));
    assert_eq!(scheduler.take_error(), None);
}

#[test]
fn a_held_queue_of_any_node_wakes_up_when_it_has_work() {
    let fake = Fake::with(&[7], 6, 2);
    let scheduler = builder(&fake, "lazy").scope(Scope::Gpu).build().unwrap();
    scheduler.register_offline_process(7).unwrap();
    pass(&fake, &scheduler, ms(50));
    assert_eq!(fake.machine().held().len(), 6);
    for id in 0..6 {
        fake.machine().queues.get_mut(&q(7, id)).unwrap().pointers.1 += 64;
    }
    pass(&fake, &scheduler, ms(50));
    assert!(fake.machine().held().is_empty(), "{:?}", fake.machine().held());
}

/// Unmaps while somebody is online, but panics once queues are held.
#[derive(Debug)]
struct Panics;

impl std::fmt::Display for Panics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("panics")
    }
}

impl Policy for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn setup(&self) -> Setup {
        Setup::default()
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        assert!(view.online == 0 || view.held().next().is_none(), "a defect of the policy");
        let all = view.offline.iter().map(|queue| queue.id).collect();
        if view.online > 0 {
            Decision { unmap: all, ..Decision::default() }
        } else {
            Decision { remap: all, ..Decision::default() }
        }
    }
}

#[test]
fn a_policy_that_panics_gives_everything_back_and_hangs_nobody() {
    let fake = Fake::with(&[7], 2, 1);
    let of_thread = fake.clone();
    assert!(ends(move || {
        let fake = of_thread;
        let scheduler = Scheduler::builder(fake.clone(), fake.clone()).policy(Box::new(Panics)).build().unwrap();
        scheduler.register_offline_process(7).unwrap();
        let first = scheduler.online();
        assert_eq!((&first.entered().error, fake.machine().held().len()), (&None, 2));
        let second = scheduler.online();
        assert_eq!(second.entered().error.as_ref().unwrap().errno(), Errno::ENOTRECOVERABLE);
        assert!(fake.machine().held().is_empty());
        drop((first, second));
        assert_eq!(scheduler.online().entered().unmapped, 2, "requests were counted all the same");
    }));
    assert!(fake.machine().held().is_empty());
}

#[test]
fn a_refused_renewal_is_tried_again_a_few_times_and_not_for_ever_at_once() {
    for whole_call in [false, true] {
        let fake = Fake::with(&[7], 2, 1);
        let scheduler = builder(&fake, "unmap").build().unwrap();
        scheduler.register_offline(q(7, 0), A).unwrap();
        let _online = scheduler.online();
        fake.pass(MAX_HOLD / 2);
        if whole_call {
            fake.machine().fail_next = Some(Errno::ENOMEM);
        } else {
            // Another user of the driver clears the mark, so that the queue may no longer be held.
            fake.set_policy(Selector::queue(q(7, 0)), PolicyFlags::empty(), PolicyFlags::all()).unwrap();
        }
        let before = fake.calls().0;
        scheduler.tick();
        assert!(scheduler.next_wakeup().unwrap() > fake.now(), "it does not spin");
        assert_eq!(fake.calls().0 - before, 1);
        pass(&fake, &scheduler, ms(1000));
        let again = fake.calls().0 - before;
        assert!(if whole_call { again == 2 } else { (2..=11).contains(&again) }, "{again} calls in a second");
    }
}

#[test]
fn a_queue_born_held_and_declared_online_is_mapped_inside_the_window() {
    let fake = Fake::with(&[7], 2, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let _online = scheduler.online();
    fake.machine().create(q(7, 5), A);
    assert!(fake.machine().queues[&q(7, 5)].held);
    scheduler.register_online(q(7, 5)).unwrap();
    assert_eq!(fake.machine().held(), [q(7, 0), q(7, 1)].into());
}

#[test]
fn an_online_queue_that_is_held_comes_back_with_the_scheduler() {
    let fake = Fake::with(&[7], 2, 1);
    fake.set_policy(Selector::process(7), PolicyFlags::PREEMPTIBLE, PolicyFlags::empty()).unwrap();
    fake.unmap(&[Selector::process(7)], Duration::ZERO).unwrap();
    let scheduler = builder(&fake, "unmap").build().unwrap();
    for id in 0..2 {
        scheduler.register_online(q(7, id)).unwrap();
    }
    assert_eq!(fake.machine().held().len(), 2, "no window is open");
    scheduler.unregister(q(7, 0)).unwrap();
    assert_eq!(fake.machine().held(), [q(7, 1)].into());
    drop(scheduler);
    assert!(fake.machine().held().is_empty());
}

/// A driver that knows neither nodes nor a watchdog, as the debugger tier; four queues on two nodes.
fn plain_driver() -> Arc<Fake> {
    let fake = Fake::without(Capabilities::all());
    fake.machine().no_watchdog = true;
    for id in 0..4 {
        fake.machine().create(q(7, id), GpuId(100 + id % 2));
        fake.set_policy(Selector::queue(q(7, id)), PolicyFlags::PREEMPTIBLE, PolicyFlags::empty()).unwrap();
    }
    fake
}

#[test]
fn where_nodes_are_not_known_only_the_queue_that_failed_is_left_alone() {
    let fake = plain_driver();
    let scheduler = builder(&fake, "unmap").build().unwrap();
    for id in 0..4 {
        scheduler.register_offline(q(7, id), GpuId::ALL).unwrap();
    }
    fake.machine().broken.insert(B, Errno::EIO);
    let online = scheduler.online();
    assert_eq!(scheduler.tripped(), [GpuId::ALL], "a node without a name");
    fake.machine().create(q(7, 4), A);
    fake.set_policy(Selector::queue(q(7, 4)), PolicyFlags::PREEMPTIBLE, PolicyFlags::empty()).unwrap();
    scheduler.register_offline(q(7, 4), GpuId::ALL).unwrap();
    assert!(fake.machine().held().contains(&q(7, 4)), "others are served");
    drop(online);
    assert!(fake.machine().held().iter().all(|queue| queue.id % 2 == 1), "{:?}", fake.machine().held());
    scheduler.readmit(GpuId::ALL);
    assert!(scheduler.tripped().is_empty());
}

#[test]
fn without_a_watchdog_a_node_that_failed_gets_its_queues_back_when_it_can() {
    let fake = plain_driver();
    let scheduler = builder(&fake, "unmap").build().unwrap();
    for id in 0..4 {
        scheduler.register_offline(q(7, id), GpuId(100 + id % 2)).unwrap();
    }
    fake.machine().broken.insert(B, Errno::EIO);
    let online = scheduler.online();
    assert_eq!((scheduler.tripped(), fake.machine().held().len()), (vec![B], 4));
    let calls = fake.machine().calls.len();
    pass(&fake, &scheduler, ms(5000));
    assert_eq!(fake.machine().calls.len(), calls, "nothing touches it inside the window");
    fake.machine().broken.clear();
    drop(online);
    assert!(fake.machine().held().is_empty(), "{:?}", fake.machine().held());
    assert_eq!(scheduler.tripped(), [B], "but it is not preempted again");
    drop(scheduler.online());
    assert_eq!(scheduler.online().entered().unmapped, 2);
}

#[test]
fn dropping_the_scheduler_tries_nodes_that_were_left_alone() {
    let fake = Fake::with(&[7], 2, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    fake.machine().broken.insert(A, Errno::EIO);
    let online = scheduler.online();
    assert_eq!(scheduler.tripped(), [A]);
    fake.machine().broken.clear();
    drop(online);
    fake.machine().create(q(7, 5), B);
    assert_eq!(fake.machine().held(), [q(7, 0), q(7, 1)].into(), "new queues start mapped after the window");
    drop(scheduler);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn a_swap_lets_new_queues_start_mapped_again() {
    let fake = Fake::new();
    for id in 0..2 {
        fake.machine().create(q(7, id), A);
        fake.machine().create(q(8, id), B);
    }
    let scheduler = builder(&fake, "unmap:linger=1s").scope(Scope::Gpu).build().unwrap();
    for pid in [7, 8] {
        scheduler.register_offline_process(pid).unwrap();
    }
    let on_b = scheduler.online_on(&[B]);
    fake.pass(ms(3000));
    drop(scheduler.online_on(&[A]));
    fake.pass(ms(1001));
    scheduler.tick();
    assert!(matches!(fake.machine().calls.last(), Some(Call::Swap(_, _))), "A comes back while B is renewed");
    fake.machine().create(q(7, 5), A);
    fake.machine().create(q(8, 5), B);
    assert_eq!(fake.machine().held(), [q(8, 0), q(8, 1), q(8, 5)].into());
    drop(on_b);
}

#[test]
fn new_queues_start_mapped_even_if_saying_so_failed_once() {
    let fake = Fake::with(&[7], 2, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let online = scheduler.online();
    fake.machine().fail_policy = Some(Errno::EINTR);
    drop(online);
    pass(&fake, &scheduler, ms(200));
    fake.machine().create(q(7, 5), A);
    assert!(fake.machine().held().is_empty());
}

#[test]
fn a_node_that_failed_is_not_asked_again_in_the_same_step() {
    let fake = Fake::new();
    let scheduler = builder(&fake, "unmap").build().unwrap();
    for pid in [7, 8] {
        for id in 0..700 {
            fake.machine().create(q(pid, id), if id % 2 == 0 { A } else { B });
            scheduler.register_offline(q(pid, id), GpuId::ALL).unwrap();
        }
    }
    fake.machine().broken.insert(A, Errno::ETIME);
    let online = scheduler.online();
    assert_eq!(fake.machine().unmaps(), 2);
    let calls = fake.machine().calls.clone();
    let Call::Unmap(second) = calls.last().unwrap() else { panic!("{calls:?}") };
    assert!(!second.is_empty() && second.iter().all(|selector| selector.gpu == B), "the other node goes on");
    drop(online);
    assert!(fake.machine().held().iter().all(|queue| queue.id % 2 == 0));
}

#[test]
fn registering_fails_only_for_what_is_wrong_with_the_queue_itself() {
    let fake = Fake::with(&[7, 8], 2, 1);
    let scheduler = builder(&fake, "unmap").build().unwrap();
    let _online = scheduler.online();
    scheduler.register_offline(q(7, 0), A).unwrap();
    // Another user of the driver: from now on, renewing that hold fails.
    fake.set_policy(Selector::process(7), PolicyFlags::empty(), PolicyFlags::PREEMPTIBLE).unwrap();
    fake.pass(MAX_HOLD / 2);
    scheduler.register_offline(q(8, 0), A).unwrap();
    assert_eq!(scheduler.register_offline_process(8).unwrap(), 2);
    assert_eq!(scheduler.take_error().unwrap().errno(), Errno::EPERM, "it is told all the same");
    fake.machine().fail_next = Some(Errno::ENOMEM);
    assert_eq!(scheduler.register_offline(q(7, 1), A).unwrap_err().errno(), Errno::ENOMEM);
}

#[test]
fn a_queue_unregistered_from_a_whole_process_stays_out_of_it() {
    let fake = Fake::with(&[7], 3, 1);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    scheduler.unregister(q(7, 1)).unwrap();
    assert_eq!(fake.machine().policy(q(7, 1)), PolicyFlags::empty(), "its mark is cleared");
    let online = scheduler.online();
    assert_eq!(fake.machine().held(), [q(7, 0), q(7, 2)].into());
    fake.machine().create(q(7, 5), A);
    fake.machine().lose_events();
    pass(&fake, &scheduler, ms(200));
    assert_eq!(fake.machine().held(), [q(7, 0), q(7, 2), q(7, 5)].into(), "nor does a look at all queues catch it");
    drop(online);
    assert_eq!(scheduler.register_offline_process(7).unwrap(), 4);
    let _online = scheduler.online();
    assert_eq!(fake.machine().held().len(), 4, "until the process is registered again");
}

#[test]
fn new_queues_of_a_process_with_an_online_queue_are_caught() {
    for lost in [false, true] {
        let fake = Fake::with(&[7], 2, 1);
        let scheduler = builder(&fake, "unmap").build().unwrap();
        scheduler.register_online(q(7, 0)).unwrap();
        scheduler.register_offline_process(7).unwrap();
        let online = scheduler.online();
        fake.machine().create(q(7, 5), B);
        if lost {
            fake.machine().lose_events();
        }
        pass(&fake, &scheduler, ms(200));
        assert_eq!(fake.machine().held(), [q(7, 1), q(7, 5)].into());
        drop(online);
        assert!(fake.machine().held().is_empty());
    }
}

#[test]
fn a_process_that_got_the_pid_of_another_is_not_taken_for_it() {
    let fake = Fake::with(&[7], 2, 1);
    fake.machine().reuse(7, ms(1));
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let online = scheduler.online();
    assert_eq!(fake.machine().held().len(), 2);
    // It exits, and before anybody reads of that, another user of the driver attaches the next process with its pid.
    let mut machine = fake.machine();
    machine.exit(7);
    machine.reuse(7, ms(2));
    machine.create(q(7, 0), A);
    machine.create(q(7, 1), A);
    drop(machine);
    fake.set_policy(Selector::process(7), PolicyFlags::PREEMPTIBLE, PolicyFlags::empty()).unwrap();
    drop(online);
    drop(scheduler.online());
    assert_eq!(scheduler.offline(), []);
    let calls = fake.machine().calls.clone();
    let named = |selectors: &[Selector]| selectors.iter().all(|selector| selector.started == Some(ms(1)));
    assert!(calls.iter().all(|call| matches!(call, Call::Unmap(it) | Call::Remap(it) if named(it))), "{calls:?}");
}

#[test]
fn registering_a_pid_anew_forgets_what_was_said_of_its_last_process() {
    let fake = Fake::with(&[7], 3, 1);
    fake.machine().reuse(7, ms(1));
    let scheduler = scheduler(&fake, "unmap", &[7]);
    let mut machine = fake.machine();
    machine.exit(7);
    machine.reuse(7, ms(2));
    machine.create(q(7, 0), A);
    drop(machine);
    assert_eq!(scheduler.register_offline_process(7).unwrap(), 1);
    // Its exit is read only now, and is not that of the process that is registered.
    scheduler.tick();
    assert_eq!(scheduler.online().entered().unmapped, 1);
}

#[test]
fn rotating_spares_what_others_keep_away() {
    let fake = Fake::new();
    for id in 0..30 {
        fake.machine().create(q(7, id), A);
    }
    let claims = Claims::new();
    let scheduler = builder(&fake, "reserve:online=10%,offline=80%").claims(claims.clone()).build().unwrap();
    scheduler.register_offline_process(7).unwrap();
    let window = claims.window(&[Selector::queue(q(7, 3))]);
    fake.unmap(&[Selector::queue(q(7, 3))], Duration::ZERO).unwrap();
    for _ in 0..20 {
        pass(&fake, &scheduler, ms(100));
        assert_eq!(fake.machine().held(), [q(7, 3)].into());
    }
    drop(window);
}

#[test]
fn a_window_leaves_to_another_what_that_holds_too() {
    let fake = Fake::with(&[7], 3, 1);
    let claims = Claims::new();
    let scheduler = builder(&fake, "unmap").claims(claims.clone()).build().unwrap();
    scheduler.register_offline_process(7).unwrap();
    let window = claims.window(&[Selector::queue(q(7, 1))]);
    fake.unmap(&[Selector::queue(q(7, 1))], Duration::ZERO).unwrap();
    drop(scheduler.online());
    assert_eq!(fake.machine().held(), [q(7, 1)].into());
    let online = scheduler.online();
    drop(window);
    drop(online);
    assert!(fake.machine().held().is_empty(), "whoever lets go last maps it");
}

/// Ticks the scheduler from within the recorder.
#[derive(Debug, Default)]
struct Ticks(Mutex<Weak<Scheduler>>);

impl Recorder for Ticks {
    fn record(&self, _: &Record) {
        if let Some(scheduler) = self.0.lock().unwrap().upgrade() {
            scheduler.tick();
        }
    }
}

#[test]
fn a_recorder_may_tick_whatever_it_hears_of() {
    let fake = Fake::with(&[7], 2, 1);
    let of_thread = fake.clone();
    assert!(ends(move || {
        let ticks = Arc::new(Ticks::default());
        let scheduler = Arc::new(builder(&of_thread, "unmap").recorder(ticks.clone()).build().unwrap());
        *ticks.0.lock().unwrap() = Arc::downgrade(&scheduler);
        scheduler.register_offline_process(7).unwrap();
        of_thread.machine().create(q(7, 5), A);
        drop(scheduler.online());
        *ticks.0.lock().unwrap() = Weak::new();
    }));
    assert!(fake.machine().held().is_empty());
}

#[test]
fn a_node_is_touched_again_after_its_reset() {
    let fake = Fake::with(&[7], 4, 2);
    let scheduler = scheduler(&fake, "unmap", &[7]);
    fake.machine().broken.insert(B, Errno::ETIME);
    drop(scheduler.online());
    pass(&fake, &scheduler, ms(3000));
    assert_eq!(scheduler.tripped(), [B], "time alone does not mend it");
    fake.machine().reset(B);
    pass(&fake, &scheduler, ms(900));
    assert_eq!(scheduler.tripped(), [B]);
    pass(&fake, &scheduler, ms(300));
    assert_eq!(scheduler.tripped(), []);
    assert!(fake.machine().held().is_empty());
    fake.machine().broken.insert(B, Errno::ETIME);
    drop(scheduler.online());
    pass(&fake, &scheduler, ms(3000));
    assert_eq!(scheduler.tripped(), [B], "it failed again");
}

/// `unmap`, but somebody else lets go of a window while it decides that queues come back.
#[derive(Debug)]
struct LetsGo(Mutex<Option<Window>>);

impl std::fmt::Display for LetsGo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("lets-go")
    }
}

impl Policy for LetsGo {
    fn name(&self) -> &'static str {
        "lets-go"
    }

    fn setup(&self) -> Setup {
        Unmap::default().setup()
    }

    fn decide(&self, view: &View<'_>) -> Decision {
        if view.online == 0 && view.held().next().is_some() {
            drop(self.0.lock().unwrap().take());
        }
        Unmap::default().decide(view)
    }
}

#[test]
fn a_queue_that_two_windows_let_go_of_at_once_is_mapped() {
    let fake = Fake::with(&[7], 3, 1);
    let claims = Claims::new();
    let policy = LetsGo(Mutex::new(Some(claims.window(&[Selector::queue(q(7, 1))]))));
    let builder = Scheduler::builder(fake.clone(), fake.clone()).policy(Box::new(policy));
    let scheduler = builder.claims(claims).build().unwrap();
    scheduler.register_offline_process(7).unwrap();
    drop(scheduler.online());
    assert!(scheduler.next_wakeup().unwrap() <= fake.now());
    scheduler.tick();
    assert!(fake.machine().held().is_empty());
}

/// Begins another online request when it hears of a queue that came back.
#[derive(Debug, Default)]
struct Hurries(Mutex<Weak<Scheduler>>);

impl Recorder for Hurries {
    fn record(&self, record: &Record) {
        let scheduler = self.0.lock().unwrap().upgrade();
        if let (Record::Call { operation: Operation::Remap, .. }, Some(scheduler)) = (record, scheduler) {
            scheduler.online().leave();
        }
    }
}

#[test]
fn an_unregistered_queue_is_not_taken_again_by_a_request_that_comes_at_once() {
    let fake = Fake::with(&[7], 2, 1);
    let hurries = Arc::new(Hurries::default());
    let scheduler = Arc::new(builder(&fake, "unmap").recorder(hurries.clone()).build().unwrap());
    for id in 0..2 {
        scheduler.register_offline(q(7, id), A).unwrap();
    }
    let online = scheduler.online();
    *hurries.0.lock().unwrap() = Arc::downgrade(&scheduler);
    scheduler.unregister(q(7, 1)).unwrap();
    *hurries.0.lock().unwrap() = Weak::new();
    assert_eq!(fake.machine().held(), [q(7, 0)].into());
    drop(online);
    assert!(fake.machine().held().is_empty());
}
