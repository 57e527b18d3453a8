//! The debugger driver on a simulated stock kernel.

mod machine;

use std::sync::Arc;
use std::time::Duration;

use gpreempt::driver::debugger::{Calls, DebuggerDriver};
use gpreempt::driver::{Capabilities, Driver, Selector, Tier, Want};
use gpreempt::host::Host;
use gpreempt::host::sim::SimHost;
use gpreempt::{ErrorKind, GpuId, PolicyFlags, QueueId, QueueState};
use gpreempt_sim::config::ProcessSpec;
use machine::*;
use nix::errno::Errno;

const NOW: Duration = Duration::ZERO;

fn queue(pid: u32, id: u32) -> Selector {
    Selector::queue(QueueId { pid, id })
}

fn debugger(host: &Arc<SimHost>, calls: Calls) -> DebuggerDriver {
    DebuggerDriver::open_fixed(host.clone(), calls).unwrap()
}

/// Packets that each queue of a process executes in the next 100 ms.
fn progress(host: &Arc<SimHost>, pid: u32, queues: u32) -> Vec<bool> {
    let executed = || (0..queues).map(|id| host.machine().executed(pid, id).unwrap()).collect::<Vec<_>>();
    let before = executed();
    host.sleep(ms(100));
    executed().iter().zip(before).map(|(after, before)| *after > before).collect()
}

#[test]
fn suspended_queues_stand_still_until_they_are_resumed() {
    for calls in [Calls::PerQueue, Calls::PerProcess] {
        let host = machine(1).stock().guest(guest(100, [busy(0, 3)])).boot();
        let driver = debugger(&host, calls);
        assert_eq!(driver.attach(100).unwrap(), 3);
        let batch = driver.unmap(&[queue(100, 0), queue(100, 2)], NOW).unwrap();
        assert_eq!(
            batch.outcomes.iter().map(|outcome| (outcome.errno, outcome.queues)).collect::<Vec<_>>(),
            [(None, 1), (None, 1)]
        );
        assert_eq!(progress(&host, 100, 3), [false, true, false], "{calls:?}");
        driver.remap(&[Selector::process(100)]).unwrap();
        assert_eq!(progress(&host, 100, 3), [true; 3], "{calls:?}");
    }
}

#[test]
fn one_queue_at_a_time_costs_a_round_each_and_an_array_a_round_per_node() {
    for (calls, expected) in [(Calls::PerQueue, 6), (Calls::PerProcess, 3)] {
        let host =
            machine(2).stock().guest(guest(100, [busy(0, 2), busy(1, 2)])).guest(guest(200, [busy(0, 2)])).boot();
        let driver = debugger(&host, calls);
        driver.attach(100).unwrap();
        driver.attach(200).unwrap();
        let before = host.machine().counters().unmap_rounds;
        let batch = driver.unmap(&[Selector::process(100), Selector::process(200)], NOW).unwrap();
        assert_eq!((batch.rounds, batch.nodes), (expected, 2), "{calls:?}");
        assert_eq!(host.machine().counters().unmap_rounds - before, u64::from(expected), "the machine agrees");
    }
}

#[test]
fn a_queue_that_is_new_can_be_suspended_all_the_same() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    let driver = debugger(&host, Calls::PerProcess);
    driver.attach(100).unwrap();
    let new = host.machine().create_queues(100, &busy(0, 1)).unwrap()[0];
    assert_eq!(driver.unmap(&[queue(100, new)], NOW).unwrap().outcomes[0].errno, None);
    assert_eq!(progress(&host, 100, 2), [true, false]);
    host.machine().destroy_queue(100, 0).unwrap();
    host.sleep(ms(10));
    assert_eq!(host.machine().create_queues(100, &busy(0, 1)).unwrap(), [0], "a new queue with a known number");
    assert_eq!(driver.unmap(&[queue(100, 0)], NOW).unwrap().outcomes[0].errno, None);
    assert_eq!(progress(&host, 100, 2), [false, false]);
}

#[test]
fn what_is_not_there_is_said_per_selector() {
    let foreign = ProcessSpec { uid: Some(UID + 1), ..guest(300, [busy(0, 1)]) };
    let host = machine(2).stock().guest(guest(100, [busy(0, 1)])).guest(foreign).boot();
    let driver = debugger(&host, Calls::PerProcess);
    let elsewhere = Selector { gpu: gpu(&host, 1), ..queue(100, 0) };
    let idle_only = Selector { if_idle: true, ..queue(100, 0) };
    let selectors = [queue(100, 9), queue(999, 0), queue(300, 0), elsewhere, idle_only, queue(100, 0)];
    let batch = driver.unmap(&selectors, NOW).unwrap();
    let errnos: Vec<_> = batch.outcomes.iter().map(|outcome| outcome.errno).collect();
    assert_eq!(
        errnos,
        [
            Some(Errno::ENOENT),
            Some(Errno::ESRCH),
            Some(Errno::EPERM),
            Some(Errno::ENOENT),
            Some(Errno::EOPNOTSUPP),
            None
        ]
    );
}

#[test]
fn dropping_the_driver_or_detaching_leaves_nothing_stopped() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).guest(guest(200, [busy(0, 1)])).boot();
    let driver = debugger(&host, Calls::PerProcess);
    driver.unmap(&[Selector::process(100), Selector::process(200)], NOW).unwrap();
    driver.detach(100).unwrap();
    assert_eq!((progress(&host, 100, 1), progress(&host, 200, 1)), (vec![true], vec![false]));
    drop(driver);
    assert_eq!(progress(&host, 200, 1), [true]);
    assert_eq!(debugger(&host, Calls::PerProcess).attach(100).unwrap(), 1, "the debug slot is free again");
}

#[test]
fn a_target_without_an_enabled_runtime_is_refused_and_left_undebugged() {
    let plain = ProcessSpec { runtime_enabled: false, ..guest(100, [busy(0, 1)]) };
    let host = machine(1).stock().guest(plain).boot();
    let driver = debugger(&host, Calls::PerProcess);
    let error = driver.attach(100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("RUNTIME_ENABLE"), "{error}");
    assert_eq!(driver.detach(100).unwrap_err().kind(), ErrorKind::ProcessGone, "no session was left behind");
}

#[test]
fn a_target_of_another_debugger_is_busy() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    let first = debugger(&host, Calls::PerProcess);
    first.attach(100).unwrap();
    let second = debugger(&host, Calls::PerProcess);
    assert_eq!(second.attach(100).unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn a_stock_kernel_is_spared_a_target_that_may_lack_a_vm_on_a_later_node() {
    let host = machine(3).stock().guest(guest(100, [busy(0, 1), busy(2, 1)])).guest(guest(200, [busy(2, 1)])).boot();
    let driver = DebuggerDriver::open(host.clone(), Calls::PerProcess).unwrap();
    driver.attach(100).unwrap();
    let rounds = host.machine().counters().unmap_rounds;
    let batch = driver.unmap(&[queue(100, 0)], NOW).unwrap();
    assert_eq!(batch.outcomes[0].errno, Some(Errno::EOPNOTSUPP));
    assert_eq!(host.machine().counters().unmap_rounds, rounds, "the kernel was not asked");
    let on_last = driver.unmap(&[queue(100, 1), queue(200, 0)], NOW).unwrap();
    assert!(on_last.outcomes.iter().all(|outcome| outcome.errno.is_none()), "no node follows");
}

#[test]
fn what_a_debugger_cannot_do_names_the_tier_that_can() {
    let host = machine(1).stock().boot();
    let driver = debugger(&host, Calls::PerProcess);
    assert_eq!((driver.tier(), driver.capabilities(), driver.max_hold()), (Tier::Debugger, Capabilities::STATUS, None));
    let none = PolicyFlags::empty();
    for error in [
        driver.swap(&[], &[], NOW).unwrap_err(),
        driver.set_policy(queue(100, 0), none, none).unwrap_err(),
        driver.set_reservation(GpuId::ALL, 1, 1).unwrap_err(),
        driver.node_status(GpuId(1)).unwrap_err(),
        driver.events().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().ends_with("use a kernel with the series in kernel-patch/ (tier patched)"), "{error}");
    }
}

#[test]
fn a_status_says_what_this_debugger_holds_and_not_what_it_cannot_see() {
    let host = machine(2).stock().guest(guest(100, [busy(0, 1), busy(1, 1)])).boot();
    let driver = debugger(&host, Calls::PerProcess);
    driver.unmap(&[queue(100, 1)], NOW).unwrap();
    host.sleep(ms(5));
    let statuses = driver.queue_status(Selector::process(100), Want { pointers: true, waves: true }).unwrap();
    let about: Vec<_> = statuses.iter().map(|status| (status.queue.id, status.gpu, status.state)).collect();
    let held = QueueState::SUSPENDED | QueueState::PREEMPTED | QueueState::MINE;
    assert_eq!(about, [(0, gpu(&host, 0), QueueState::ACTIVE), (1, gpu(&host, 1), held)]);
    assert!(statuses[1].held >= ms(5) && statuses[0].held.is_zero());
    assert!(statuses.iter().all(|it| it.priority.is_none() && it.pointers.is_none() && it.waves.is_none()));
    driver.remap(&[queue(100, 1)]).unwrap();
    assert_eq!(driver.queue_status(queue(100, 1), Want::default()).unwrap()[0].state, QueueState::ACTIVE);
    assert_eq!(driver.queue_status(queue(100, 9), Want::default()).unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn what_is_where_it_shall_be_costs_no_round() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 2)])).boot();
    let driver = debugger(&host, Calls::PerProcess);
    driver.remap(&[queue(100, 0)]).unwrap();
    let rounds = || host.machine().counters().unmap_rounds;
    let before = rounds();
    assert_eq!(driver.remap(&[queue(100, 0)]).unwrap().rounds, 0);
    assert_eq!(driver.unmap(&[queue(100, 0)], NOW).unwrap().rounds, 1);
    let again = driver.unmap(&[queue(100, 0)], NOW).unwrap();
    assert_eq!((again.rounds, again.outcomes[0].errno, again.outcomes[0].queues), (0, None, 1));
    assert_eq!(rounds() - before, 1);
    assert_eq!(driver.unmap(&[queue(100, 0), queue(100, 1)], NOW).unwrap().rounds, 1);
    assert_eq!(progress(&host, 100, 2), [false, false]);
}

#[test]
fn a_debugger_that_dies_leaves_nothing_stopped() {
    let host = machine(2).stock().guest(guest(100, [busy(0, 1), busy(1, 1)])).boot();
    let driver = debugger(&host, Calls::PerProcess);
    driver.unmap(&[Selector::process(100)], NOW).unwrap();
    assert_eq!(progress(&host, 100, 2), [false, false]);
    host.machine().kill(ME).unwrap();
    host.sleep(ms(10));
    assert_eq!(progress(&host, 100, 2), [true, true]);
    std::mem::forget(driver);
}

#[test]
fn a_later_process_with_the_same_pid_is_another_one() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    let driver = debugger(&host, Calls::PerProcess);
    driver.attach(100).unwrap();
    let first = driver.started(100).unwrap();
    let of_first = Selector { started: Some(first), ..queue(100, 0) };
    driver.unmap(&[of_first], NOW).unwrap();
    host.machine().kill(100).unwrap();
    assert_eq!(driver.unmap(&[of_first], NOW).unwrap().outcomes[0].errno, Some(Errno::ESRCH));
    host.sleep(ms(100));
    host.machine().spawn(&guest(100, [busy(0, 1)])).unwrap();
    assert_eq!(driver.attach(100).unwrap(), 1);
    assert_ne!(driver.started(100).unwrap(), first);
    assert_eq!(driver.unmap(&[of_first], NOW).unwrap().outcomes[0].errno, Some(Errno::ESRCH));
    assert_eq!(progress(&host, 100, 1), [true], "the old name reaches nobody");
    assert_eq!(driver.unmap(&[queue(100, 0)], NOW).unwrap().outcomes[0].errno, None);
    assert_eq!(progress(&host, 100, 1), [false]);
}

#[test]
fn a_process_that_may_not_be_traced_is_refused_with_the_reason_and_a_remedy() {
    let foreign = ProcessSpec { uid: Some(UID + 1), ..guest(300, [busy(0, 1)]) };
    let host = machine(1).stock().guest(foreign).boot();
    let error = debugger(&host, Calls::PerProcess).attach(300).unwrap_err();
    assert_eq!(error.errno(), Errno::EPERM);
    let says = error.to_string();
    assert!(
        says.contains("belongs to uid 1001, this process to uid 1000") && says.contains("run as uid 1001"),
        "{says}"
    );
}

#[test]
fn looking_at_a_process_does_not_debug_it() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    let driver = debugger(&host, Calls::PerProcess);
    assert_eq!(driver.glance(100).unwrap_err().errno(), Errno::EOPNOTSUPP);
    assert_eq!(debugger(&host, Calls::PerProcess).attach(100).unwrap(), 1, "nobody debugs it");
    driver.attach(100).unwrap();
    assert_eq!(driver.glance(100).unwrap(), 1, "a target already");
}

#[test]
fn a_grace_period_is_rounded_up_to_the_units_of_the_hardware_and_cut_where_it_cannot_count() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    let driver = debugger(&host, Calls::PerProcess);
    let batch = driver.unmap(&[queue(100, 0)], Duration::from_micros(100)).unwrap();
    // 100 us are 142 units of 1000 clocks at 1420 MHz.
    assert_eq!(batch.grace, Duration::from_nanos(142 * 1_000_000 / 1420));
    let long = driver.unmap(&[queue(100, 0)], Duration::from_secs(1)).unwrap();
    assert_eq!(long.grace, Duration::from_nanos(255 * 1_000_000 / 1420));
}
