//! What the scheduler does when the driver, the policy or another user of the driver does not play along.

mod sched_fake;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use gpreempt::driver::{Driver, Selector};
use gpreempt::host::Host;
use gpreempt::sched::policy::{Decision, Policy, Setup, View, named};
use gpreempt::sched::{Scheduler, SchedulerBuilder, Scope};
use gpreempt::{GpuId, PolicyFlags};
use nix::errno::Errno;

use sched_fake::{Call, Fake, MAX_HOLD, ms, q};

const A: GpuId = GpuId(100);
const B: GpuId = GpuId(101);

fn builder(fake: &Arc<Fake>, policy: &str) -> SchedulerBuilder {
    Scheduler::builder(fake.clone(), fake.clone()).policy(named(policy).unwrap())
}

/// A scheduler whose offline processes are registered.
fn scheduler(fake: &Arc<Fake>, policy: &str, pids: &[u32]) -> Scheduler {
    let scheduler = builder(fake, policy).build().unwrap();
    for pid in pids {
        scheduler.register_offline_process(*pid).unwrap();
    }
    scheduler
}

/// Lets time pass, ticking when a tick is due.
fn pass(fake: &Fake, scheduler: &Scheduler, time: Duration) {
    let end = fake.now() + time;
    while fake.now() < end {
        let wakeup = scheduler.next_wakeup().map_or(end, |wakeup| wakeup.min(end));
        fake.pass(wakeup.saturating_sub(fake.now()));
        scheduler.tick();
    }
}

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
