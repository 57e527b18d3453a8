//! Whatever program and schedulers do in whatever order: a held queue is off, and all others are as their program wants.

mod kit;

use std::collections::BTreeMap;

use gpreempt_agent_core::protocol::*;
use kit::*;
use nix::errno::Errno;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Create { gpu: u32, percentage: u32, priority: u32 },
    Set { id: u32, percentage: u32, priority: u32 },
    Destroy { id: u32 },
    Stop { from: u64, ids: Vec<u32> },
    StopAll { from: u64, hold_new: bool, gpu: u32 },
    Restore { from: u64, ids: Vec<u32> },
    RestoreAll { from: u64 },
    Policy { from: u64, hold_new: bool },
    Heartbeat { from: u64 },
    Close { from: u64 },
    Pass { ms: u64 },
    Trouble(Option<Errno>),
}

fn step(trouble: bool) -> impl Strategy<Value = Step> {
    let gpu = prop_oneof![Just(10u32), Just(20)];
    let any_gpu = prop_oneof![Just(0u32), Just(10), Just(20)];
    let percentage = prop_oneof![Just(0u32), Just(100), Just(0x230), Just(101)];
    let from = 1u64..4;
    let ids = prop::collection::vec(0u32..6, 1..4);
    let errno = prop_oneof![Just(Errno::ENOMEM), Just(Errno::ETIME), Just(Errno::EIO)];
    let create = (gpu, percentage.clone(), 0u32..16).prop_map(|(gpu, percentage, priority)| Step::Create {
        gpu,
        percentage,
        priority,
    });
    let fail = if trouble { prop::option::of(errno).boxed() } else { Just(None).boxed() };
    prop_oneof![
        3 => create,
        3 => (0u32..6, percentage, 0u32..17).prop_map(|(id, percentage, priority)| Step::Set { id, percentage, priority }),
        2 => (0u32..6).prop_map(|id| Step::Destroy { id }),
        2 => (from.clone(), ids.clone()).prop_map(|(from, ids)| Step::Stop { from, ids }),
        2 => (from.clone(), any::<bool>(), any_gpu).prop_map(|(from, hold_new, gpu)| Step::StopAll { from, hold_new, gpu }),
        2 => (from.clone(), ids).prop_map(|(from, ids)| Step::Restore { from, ids }),
        1 => from.clone().prop_map(|from| Step::RestoreAll { from }),
        1 => (from.clone(), any::<bool>()).prop_map(|(from, hold_new)| Step::Policy { from, hold_new }),
        1 => from.clone().prop_map(|from| Step::Heartbeat { from }),
        1 => from.prop_map(|from| Step::Close { from }),
        1 => (0u64..12_000).prop_map(|ms| Step::Pass { ms }),
        1 => fail.prop_map(Step::Trouble),
    ]
}

/// What the program was told that it has: percentage and priority by queue.
type Wanted = BTreeMap<u32, (u32, u32)>;

fn play(process: &mut Process, wanted: &mut Wanted, step: &Step) {
    match step.clone() {
        Step::Create { gpu, percentage, priority } => {
            if let Some(id) = process.create(gpu, percentage, priority) {
                wanted.insert(id, (percentage, priority));
            }
        }
        Step::Set { id, percentage, priority } => {
            if process.set(id, percentage, priority).is_ok() {
                wanted.insert(id, (percentage, priority));
            }
        }
        Step::Destroy { id } => {
            process.destroy(id);
            wanted.remove(&id);
        }
        Step::Stop { from, ids } => drop(process.stop(from, &ids)),
        Step::StopAll { from, hold_new, gpu } => {
            let flags = FLAG_ALL | if hold_new { FLAG_HOLD_NEW } else { 0 };
            process.ask(from, Request { operation: STOP, flags, gpu_id: gpu, ..Default::default() }, &[]);
        }
        Step::Restore { from, ids } => drop(process.restore(from, &ids)),
        Step::RestoreAll { from } => drop(process.restore_all(from)),
        Step::Policy { from, hold_new } => {
            let flags = if hold_new { FLAG_HOLD_NEW } else { 0 };
            process.ask(from, Request { operation: POLICY, flags, ..Default::default() }, &[]);
        }
        Step::Heartbeat { from } => drop(process.say(from, HEARTBEAT)),
        Step::Close { from } => process.close(from),
        Step::Pass { ms } => process.pass(ms * 1_000_000),
        Step::Trouble(errno) => process.kernel.fail = errno,
    }
}

fn assert_as_wanted(process: &Process, wanted: &Wanted) -> Result<(), TestCaseError> {
    let kernel = &process.kernel.queues;
    prop_assert_eq!(kernel.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (id, &(percentage, priority)) in wanted {
        let queue = &process.server.book().queues()[id];
        let expected = if queue.held.is_some() { percentage & !0xff } else { percentage };
        prop_assert_eq!((kernel[id].0.queue_percentage, kernel[id].0.queue_priority), (expected, priority));
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_held_queue_is_off_and_every_other_is_as_its_program_wants(steps in prop::collection::vec(step(false), 1..60)) {
        let (mut process, mut wanted) = (Process::new(), Wanted::new());
        for step in &steps {
            play(&mut process, &mut wanted, step);
            assert_as_wanted(&process, &wanted)?;
            let quiet = process.server.next().is_none();
            prop_assert!(!quiet || !process.server.book().holds_any(), "somebody watches over whatever is held");
        }
    }

    #[test]
    fn when_every_scheduler_has_gone_all_runs_again_however_often_the_kernel_failed(
        steps in prop::collection::vec(step(true), 1..60)
    ) {
        let (mut process, mut wanted) = (Process::new(), Wanted::new());
        steps.iter().for_each(|step| play(&mut process, &mut wanted, step));
        (1..4).for_each(|scheduler| process.close(scheduler));
        process.kernel.fail = None;
        process.pass(60 * SECOND);
        prop_assert!(!process.server.book().holds_any());
        prop_assert_eq!(process.server.next(), None);
        assert_as_wanted(&process, &wanted)?;
    }
}
