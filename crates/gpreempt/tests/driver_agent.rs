//! Agents in guests of a simulated stock kernel.

mod machine;

use std::sync::Arc;
use std::time::Duration;

use gpreempt::driver::agent::AgentDriver;
use gpreempt::driver::{Capabilities, Driver, Selector, Tier, Want};
use gpreempt::host::Host;
use gpreempt::host::sim::SimHost;
use gpreempt::host::sim_agent::SimAgent;
use gpreempt::{ErrorKind, GpuId, PolicyFlags, QueueId, QueueState};
use gpreempt_sim::config::ProcessSpec;
use gpreempt_sys::{AMDKFD_IOC_UPDATE_QUEUE, kfd_ioctl_update_queue_args};
use machine::*;
use nix::errno::Errno;
use zerocopy::IntoBytes;

const NOW: Duration = Duration::ZERO;

fn queue(pid: u32, id: u32) -> Selector {
    Selector::queue(QueueId { pid, id })
}

fn driver(host: &Arc<SimHost>) -> AgentDriver {
    AgentDriver::open(host.clone())
}

/// Which queues of a process execute packets in the next 100 ms.
fn progress(host: &Arc<SimHost>, pid: u32, queues: u32) -> Vec<bool> {
    let executed = || (0..queues).map(|id| host.machine().executed(pid, id).unwrap()).collect::<Vec<_>>();
    let before = executed();
    host.sleep(ms(100));
    executed().iter().zip(before).map(|(after, before)| *after > before).collect()
}

fn update(agent: &SimAgent, host: &Arc<SimHost>, pid: u32, id: u32, percent: u32) {
    let created = host.machine().queue_arguments(pid).unwrap().into_iter().find(|it| it.queue_id == id).unwrap();
    let mut args = kfd_ioctl_update_queue_args {
        ring_base_address: created.ring_base_address,
        queue_id: id,
        ring_size: created.ring_size,
        queue_percentage: percent,
        queue_priority: created.queue_priority,
    };
    agent.ioctl(AMDKFD_IOC_UPDATE_QUEUE, args.as_mut_bytes()).unwrap();
}

#[test]
fn stopped_queues_stand_still_until_they_are_restored() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 3)])).boot();
    host.start_agent(100).unwrap();
    let driver = driver(&host);
    assert_eq!(driver.attach(100).unwrap(), 3);
    let batch = driver.unmap(&[queue(100, 0), queue(100, 2)], NOW).unwrap();
    assert_eq!(batch.outcomes.iter().map(|it| (it.errno, it.queues)).collect::<Vec<_>>(), [(None, 1), (None, 1)]);
    assert_eq!((batch.nodes, batch.rounds), (1, 2), "a round for each");
    assert_eq!(progress(&host, 100, 3), [false, true, false]);
    driver.remap(&[Selector::process(100)]).unwrap();
    assert_eq!(progress(&host, 100, 3), [true; 3]);
}

#[test]
fn all_processes_of_a_job_are_one_target_and_each_of_them_is_one_too() {
    let ranks = [101, 102, 103];
    let mut builder = machine(2).stock().guest(guest(100, []));
    for rank in ranks {
        builder = builder.guest(guest(rank, [busy(0, 1), busy(1, 1)]));
    }
    let host = builder.boot();
    for rank in &ranks[..2] {
        host.start_agent_of(100, *rank).unwrap();
    }
    let driver = driver(&host);
    driver.attach(100).unwrap();
    // A rank that starts later belongs to the job, too.
    host.start_agent_of(100, ranks[2]).unwrap();
    let batch = driver.unmap(&[Selector::process(100)], NOW).unwrap();
    assert_eq!((batch.outcomes[0].errno, batch.outcomes[0].queues, batch.nodes, batch.rounds), (None, 6, 2, 6));
    assert!(ranks.iter().all(|rank| progress(&host, *rank, 2) == [false, false]));
    let statuses = driver.queue_status(Selector::process(100), Want::default()).unwrap();
    assert_eq!(statuses.iter().map(|status| status.queue.pid).collect::<Vec<_>>(), [101, 101, 102, 102, 103, 103]);
    driver.remap(&[Selector::process(102)]).unwrap();
    assert_eq!(progress(&host, 102, 2), [true, true]);
    host.machine().kill(103).unwrap();
    let batch = driver.remap(&[Selector::process(100)]).unwrap();
    assert_eq!(batch.outcomes[0].errno, None, "the end of one rank is not the end of the job");
    assert_eq!(progress(&host, 101, 2), [true, true]);
}

#[test]
fn one_node_of_a_process_can_be_stopped_alone() {
    let host = machine(2).stock().guest(guest(100, [busy(0, 1), busy(1, 1)])).boot();
    host.start_agent(100).unwrap();
    let driver = driver(&host);
    let on_second = Selector { gpu: gpu(&host, 1), ..Selector::process(100) };
    assert_eq!(driver.unmap(&[on_second], NOW).unwrap().outcomes[0].queues, 1);
    assert_eq!(progress(&host, 100, 2), [true, false]);
    let elsewhere = Selector { gpu: gpu(&host, 1), ..queue(100, 0) };
    assert_eq!(driver.unmap(&[elsewhere], NOW).unwrap().outcomes[0].errno, Some(Errno::ENOENT));
}

#[test]
fn queues_that_are_created_in_a_window_start_stopped_where_that_was_asked_for() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    let agent = host.start_agent(100).unwrap();
    let driver = driver(&host);
    driver.unmap(&[Selector { hold_new: true, ..Selector::process(100) }], NOW).unwrap();
    agent.create_queues(&busy(0, 1)).unwrap();
    assert_eq!(progress(&host, 100, 2), [false, false]);
    driver.remap(&[Selector::process(100)]).unwrap();
    agent.create_queues(&busy(0, 1)).unwrap();
    assert_eq!(progress(&host, 100, 3), [true; 3]);
    let lazy = PolicyFlags::LAZY_ACTIVATION;
    assert_eq!(driver.set_policy(Selector::process(100), lazy, PolicyFlags::empty()).unwrap(), lazy);
    agent.create_queues(&busy(0, 1)).unwrap();
    assert_eq!(driver.set_policy(Selector::process(100), PolicyFlags::empty(), lazy).unwrap(), PolicyFlags::empty());
    agent.create_queues(&busy(0, 1)).unwrap();
    assert_eq!(progress(&host, 100, 5), [true, true, true, false, true]);
}

#[test]
fn what_the_program_sets_in_a_window_comes_with_the_restore() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 2)])).boot();
    let agent = host.start_agent(100).unwrap();
    let driver = driver(&host);
    driver.unmap(&[Selector::process(100)], NOW).unwrap();
    update(&agent, &host, 100, 0, 0);
    update(&agent, &host, 100, 1, 50);
    assert_eq!(progress(&host, 100, 2), [false, false]);
    driver.remap(&[Selector::process(100)]).unwrap();
    assert_eq!(progress(&host, 100, 2), [false, true], "it has switched one off itself");
    let statuses = driver.queue_status(Selector::process(100), Want::default()).unwrap();
    assert_eq!(statuses.iter().map(|it| it.percent).collect::<Vec<_>>(), [Some(0), Some(50)]);
    assert_eq!(statuses.iter().map(|it| it.state).collect::<Vec<_>>(), [QueueState::DISABLED, QueueState::ACTIVE]);
}

#[test]
fn everything_runs_again_when_the_driver_is_dropped_or_lets_go() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).guest(guest(200, [busy(0, 1)])).boot();
    host.start_agent(100).unwrap();
    host.start_agent(200).unwrap();
    let driver = driver(&host);
    driver.unmap(&[Selector::process(100), Selector::process(200)], NOW).unwrap();
    driver.detach(100).unwrap();
    assert_eq!((progress(&host, 100, 1), progress(&host, 200, 1)), (vec![true], vec![false]));
    assert_eq!(driver.detach(100).unwrap_err().kind(), ErrorKind::ProcessGone);
    drop(driver);
    assert_eq!(progress(&host, 200, 1), [true]);
}

#[test]
fn everything_runs_again_when_the_scheduler_says_nothing_for_too_long() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 2)])).boot();
    host.start_agent(100).unwrap();
    let driver = driver(&host);
    let max_hold = driver.max_hold().unwrap();
    driver.unmap(&[Selector::process(100)], NOW).unwrap();
    host.sleep(max_hold - ms(200));
    assert_eq!(progress(&host, 100, 2), [false, false]);
    driver.unmap(&[queue(100, 0)], NOW).unwrap();
    host.sleep(max_hold - ms(200));
    assert_eq!(progress(&host, 100, 2), [false, false], "naming a queue again is a sign of life");
    host.sleep(ms(100));
    assert_eq!(progress(&host, 100, 2), [true, true]);
}

#[test]
fn a_target_of_another_scheduler_is_busy_until_that_lets_go() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    host.start_agent(100).unwrap();
    let (first, second) = (driver(&host), driver(&host));
    first.unmap(&[Selector::process(100)], NOW).unwrap();
    for batch in [second.unmap(&[queue(100, 0)], NOW).unwrap(), second.remap(&[queue(100, 0)]).unwrap()] {
        assert_eq!(batch.outcomes[0].errno, Some(Errno::EBUSY));
    }
    let seen = |driver: &AgentDriver| driver.queue_status(queue(100, 0), Want::default()).unwrap()[0].state;
    assert_eq!(seen(&first), QueueState::PREEMPTED | QueueState::MINE);
    assert_eq!(seen(&second), QueueState::PREEMPTED);
    drop(first);
    assert_eq!(second.unmap(&[queue(100, 0)], NOW).unwrap().outcomes[0].errno, None);
}

#[test]
fn who_has_no_agent_is_told_how_to_get_one() {
    let foreign = ProcessSpec { uid: Some(UID + 1), ..guest(300, [busy(0, 1)]) };
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).guest(foreign).boot();
    let driver = driver(&host);
    assert!(!driver.reaches(100));
    let error = driver.attach(100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("gpreempt offline"), "{error}");
    assert_eq!(driver.attach(300).unwrap_err().kind(), ErrorKind::NotPermitted);
    assert_eq!(driver.attach(999).unwrap_err().kind(), ErrorKind::ProcessGone);
    let selectors = [queue(100, 0), queue(300, 0), queue(999, 0)];
    let errnos: Vec<_> = driver.unmap(&selectors, NOW).unwrap().outcomes.iter().map(|it| it.errno).collect();
    assert_eq!(errnos, [Some(Errno::EOPNOTSUPP), Some(Errno::EPERM), Some(Errno::ESRCH)]);
}

#[test]
fn a_pid_stays_bound_to_the_process_that_was_attached() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    host.start_agent(100).unwrap();
    let driver = driver(&host);
    driver.attach(100).unwrap();
    let started = driver.started(100);
    assert!(started.is_some());
    host.machine().kill(100).unwrap();
    host.sleep(ms(100));
    let answer = |driver: &AgentDriver| driver.unmap(&[Selector::process(100)], NOW).unwrap().outcomes[0].errno;
    assert_eq!(answer(&driver), Some(Errno::ESRCH));
    host.machine().spawn(&guest(100, [busy(0, 1)])).unwrap();
    host.start_agent(100).unwrap();
    assert_eq!(answer(&driver), Some(Errno::ESRCH), "another process with its pid");
    driver.attach(100).unwrap();
    assert_ne!(driver.started(100), started);
    assert_eq!(answer(&driver), None);
}

#[test]
fn queues_that_are_not_there_and_wishes_that_cannot_be_met_are_said_per_selector() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    host.start_agent(100).unwrap();
    let driver = driver(&host);
    let selectors = [queue(100, 9), Selector { if_idle: true, ..queue(100, 0) }, queue(100, 0)];
    let errnos: Vec<_> = driver.unmap(&selectors, NOW).unwrap().outcomes.iter().map(|it| it.errno).collect();
    assert_eq!(errnos, [Some(Errno::ENOENT), Some(Errno::EOPNOTSUPP), None]);
    assert_eq!(driver.unmap(&[], NOW).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(driver.queue_status(queue(100, 9), Want::default()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn pointers_tell_which_queue_has_work() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1), quiet(0, 1)])).boot();
    host.start_agent(100).unwrap();
    let driver = driver(&host);
    let want = Want { pointers: true, waves: false };
    let statuses = driver.queue_status(Selector::process(100), want).unwrap();
    let work: Vec<bool> = statuses.iter().map(|it| it.pointers.is_some_and(|(read, write)| read != write)).collect();
    assert_eq!(work, [true, false]);
}

#[test]
fn a_forked_child_has_no_part_in_it() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    host.start_agent(100).unwrap();
    let driver = driver(&host);
    driver.attach(100).unwrap();
    driver.abandon();
    assert_eq!(driver.attach(100).unwrap_err().kind(), ErrorKind::BadHandle);
    assert_eq!(driver.unmap(&[queue(100, 0)], NOW).unwrap_err().kind(), ErrorKind::BadHandle);
}

#[test]
fn what_an_agent_cannot_do_names_the_tier_that_can() {
    let host = machine(1).stock().guest(guest(100, [busy(0, 1)])).boot();
    host.start_agent(100).unwrap();
    let driver = driver(&host);
    let can = Capabilities::STATUS | Capabilities::POINTERS | Capabilities::HOLD_NEW;
    assert_eq!((driver.tier(), driver.capabilities()), (Tier::Agent, can));
    let none = PolicyFlags::empty();
    for error in [
        driver.swap(&[], &[], NOW).unwrap_err(),
        driver.set_policy(queue(100, 0), PolicyFlags::LAZY_ACTIVATION, none).unwrap_err(),
        driver.set_policy(Selector::process(100), PolicyFlags::AUTO_DEACTIVATION, none).unwrap_err(),
        driver.set_reservation(GpuId::ALL, 1, 1).unwrap_err(),
        driver.node_status(GpuId(1)).unwrap_err(),
        driver.events().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().ends_with("use a kernel with the series in kernel-patch/ (tier patched)"), "{error}");
    }
}
