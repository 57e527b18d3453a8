//! The rules that every surface shares, on the simulated machine.

mod machine;

use std::time::Duration;

use gpreempt::host::Host;
use gpreempt::session::{FIRST_HANDLE, MAX_QUEUES};
use gpreempt::{Error, ErrorKind, GpuId, HqdStatus, PolicyFlags, QueueClass, QueueId, QueueState, UnmapFlags};
use gpreempt_sim::config::{Fault, FaultKind, FaultPoint, ProcessSpec};
use machine::*;
use nix::errno::Errno;

const NOW: Duration = Duration::ZERO;

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn unmap_then_remap_is_the_identity_and_the_work_goes_on() {
    let (host, session) = machine(2).guest(guest(100, [busy(0, 3), busy(1, 2)])).session();
    let queues = offline(&session, 100);
    let before = states(session.driver().as_ref(), 100);
    let unmapped = session.unmap(&queues, NOW).unwrap();
    assert_eq!((unmapped.nodes, unmapped.rounds), (2, 2));
    assert_eq!(active(session.driver().as_ref(), 100), [false; 5]);
    let stopped = host.machine().executed(100, 0).unwrap();
    host.sleep(ms(100));
    assert_eq!(host.machine().executed(100, 0).unwrap(), stopped);
    session.remap(&queues).unwrap();
    assert_eq!(states(session.driver().as_ref(), 100), before);
    host.sleep(ms(100));
    assert!(host.machine().executed(100, 0).unwrap() > stopped);
}

#[test]
fn unmapping_and_mapping_twice_changes_nothing_and_costs_no_round() {
    let (_host, session) = machine(1).guest(guest(100, [busy(0, 2)])).guest(guest(200, [busy(0, 1)])).session();
    let queues = offline(&session, 100);
    assert_eq!(session.unmap(&queues, NOW).unwrap().rounds, 1);
    assert_eq!(session.unmap(&queues, NOW).unwrap().rounds, 0);
    assert_eq!(session.remap(&queues).unwrap().rounds, 1);
    assert_eq!(session.remap(&queues).unwrap().rounds, 0);
}

#[test]
fn a_queue_has_one_handle_and_an_own_queue_its_kfd_id() {
    let own = ProcessSpec { caller: true, ..guest(ME, [quiet(0, 2)]) };
    let (_host, session) = machine(1).guest(own).guest(guest(100, [quiet(0, 2)])).session();
    let handle = session.register(100, 1, GpuId::ALL).unwrap();
    assert!(handle >= FIRST_HANDLE);
    assert_eq!(session.register(100, 1, GpuId::ALL).unwrap(), handle);
    assert_ne!(session.register(100, 0, GpuId::ALL).unwrap(), handle);
    assert_eq!(session.resolve(handle).unwrap(), QueueId { pid: 100, id: 1 });
    assert_eq!(session.register(ME, 1, GpuId::ALL).unwrap(), 1);
    assert_eq!(session.resolve(1).unwrap(), QueueId { pid: ME, id: 1 });
}

#[test]
fn what_cannot_be_registered_is_said_plainly() {
    let foreign = ProcessSpec { uid: Some(UID + 1), ..guest(200, [quiet(0, 1)]) };
    let (host, session) = machine(2).guest(guest(100, [quiet(0, 1)])).guest(foreign).session();
    assert_eq!(kind(session.register(100, 1024, GpuId::ALL)), ErrorKind::InvalidArgument);
    assert_eq!(kind(session.register(100, 7, GpuId::ALL)), ErrorKind::NotFound);
    assert_eq!(kind(session.register(100, 0, gpu(&host, 1))), ErrorKind::NotFound);
    assert_eq!(kind(session.register(999, 0, GpuId::ALL)), ErrorKind::ProcessGone);
    assert_eq!(kind(session.register(200, 0, GpuId::ALL)), ErrorKind::NotPermitted);
    assert_eq!(kind(session.register(ME, 3, GpuId::ALL)), ErrorKind::NotFound);
    assert_eq!(
        session.register(999, 0, GpuId::ALL).unwrap_err().to_string(),
        "attaching a process (pid 999): the process is gone (ESRCH); forget its queues"
    );
}

#[test]
fn a_batch_with_a_wrong_argument_changes_nothing() {
    let (_host, session) = machine(1).guest(guest(100, [busy(0, 2)])).session();
    let queues = offline(&session, 100);
    let unknown = FIRST_HANDLE + 77;
    let many: Vec<u32> = (0..=MAX_QUEUES as u32).collect();
    for (wrong, expected) in [
        (vec![], ErrorKind::InvalidArgument),
        (many, ErrorKind::InvalidArgument),
        (vec![queues[0], queues[1], queues[0]], ErrorKind::InvalidArgument),
        (vec![queues[0], 1024], ErrorKind::InvalidArgument),
        (vec![queues[0], FIRST_HANDLE - 1], ErrorKind::InvalidArgument),
        (vec![queues[0], unknown], ErrorKind::NotFound),
        (vec![queues[0], 5], ErrorKind::NotFound),
    ] {
        assert_eq!(kind(session.unmap(&wrong, NOW)), expected, "{wrong:?}");
        assert_eq!(active(session.driver().as_ref(), 100), [true, true], "{wrong:?}");
    }
    let error = session.unmap(&[unknown], NOW).unwrap_err().to_string();
    assert!(error.contains(&format!("handle {unknown:#x}")), "{error}");
}

#[test]
fn a_queue_that_vanished_counts_as_unmapped_and_as_mapped() {
    let (host, session) = machine(1).guest(guest(100, [busy(0, 2)])).guest(guest(200, [busy(0, 1)])).session();
    let mut queues = offline(&session, 100);
    queues.extend(offline(&session, 200));
    host.machine().destroy_queue(100, 0).unwrap();
    host.machine().kill(200).unwrap();
    let batch = session.unmap(&queues, NOW).unwrap();
    assert_eq!(
        batch.outcomes.iter().map(|outcome| (outcome.errno, outcome.queues)).collect::<Vec<_>>(),
        [(None, 0), (None, 1), (None, 0)]
    );
    assert_eq!(active(session.driver().as_ref(), 100), [false]);
    session.remap(&queues).unwrap();
    assert_eq!(active(session.driver().as_ref(), 100), [true]);
}

#[test]
fn a_queue_that_may_not_be_unmapped_fails_the_batch_and_is_named() {
    let (_host, session) = machine(1).guest(guest(100, [busy(0, 3)])).guest(guest(200, [busy(0, 1)])).session();
    let offline = offline(&session, 100);
    let not_preemptible = session.register(200, 0, GpuId::ALL).unwrap();
    session.unmap(&offline[..1], NOW).unwrap();
    let batch = [offline[0], offline[1], not_preemptible, offline[2]];
    let error = session.unmap(&batch, NOW).unwrap_err();
    assert_eq!(error.errno(), Errno::EPERM);
    assert_eq!(error.target(), Some("queue 0 of pid 200"));
    assert_eq!(
        error.to_string(),
        "unmapping 4 queues (queue 0 of pid 200): not allowed, or the queue is not in the offline class (EPERM); make the \
         queue PREEMPTIBLE first, and run as its owner's user or with CAP_SYS_NICE"
    );
    assert_eq!(active(session.driver().as_ref(), 100), [false, true, true], "what was unmapped before stays so");
    assert_eq!(active(session.driver().as_ref(), 200), [true]);
}

#[test]
fn a_queue_of_another_lease_is_busy() {
    let (host, session) = machine(1).guest(guest(100, [busy(0, 1)])).guest(guest(200, [busy(0, 1)])).session();
    let mine = offline(&session, 100);
    let other = session_on(&host);
    let theirs = offline(&other, 200);
    other.unmap(&theirs, NOW).unwrap();
    let batch = [mine[0], session.register(200, 0, GpuId::ALL).unwrap()];
    assert_eq!(kind(session.unmap(&batch, NOW)), ErrorKind::Busy);
    assert_eq!(active(session.driver().as_ref(), 100), [true]);
    assert_eq!(active(session.driver().as_ref(), 200), [false]);
    drop(other);
    assert_eq!(active(session.driver().as_ref(), 200), [true], "a dead lease holds nothing");
}

#[test]
fn a_node_that_times_out_is_not_touched_again_and_the_others_are_restored() {
    let hang = Fault { at: FaultPoint::Round { nth: 1 }, kind: FaultKind::HwsTimeout { node: 0 } };
    let (host, session) =
        machine(2).guest(guest(100, [busy(0, 1), busy(1, 1)])).fault(hang).preempt_timeout_ms(50).session();
    let queues = offline(&session, 100);
    let rounds = |node| session.status(gpu(&host, node)).unwrap().unmap_rounds;
    let before = [rounds(0), rounds(1)];
    let error = session.unmap(&queues, NOW).unwrap_err();
    assert_eq!(error.errno(), Errno::ETIME);
    assert_eq!(error.target(), Some("queue 0 of pid 100"));
    assert_eq!(rounds(0) - before[0], 1, "the hung node saw this call's round and no other");
    // The reset that follows evicts the process from the other node too; what the call held there is given back.
    let state = states(session.driver().as_ref(), 100)[1];
    assert_eq!(state, QueueState::PREEMPTIBLE);
}

#[test]
fn dropping_the_session_restores_everything() {
    let (host, session) = machine(2).guest(guest(100, [busy(0, 2), busy(1, 2)])).session();
    let queues = offline(&session, 100);
    session.unmap(&queues, NOW).unwrap();
    drop(session);
    let witness = lease(&host);
    assert_eq!(active(witness.as_ref(), 100), [true; 4]);
}

#[test]
fn an_online_queue_is_not_unmapped_and_classifying_maps_what_was_held() {
    let (_host, session) = machine(1).guest(guest(100, [busy(0, 2)])).session();
    let queues = offline(&session, 100);
    session.unmap(&queues, NOW).unwrap();
    session.classify(queues[0], QueueClass::Online).unwrap();
    assert_eq!(active(session.driver().as_ref(), 100), [true, false]);
    let error = session.unmap(&queues, NOW).unwrap_err();
    assert_eq!((error.errno(), error.target()), (Errno::EPERM, Some("queue 0 of pid 100")));
    session.classify(queues[0], QueueClass::Offline).unwrap();
    session.unmap(&queues, NOW).unwrap();
    assert_eq!(active(session.driver().as_ref(), 100), [false, false]);
}

#[test]
fn own_queues_need_no_mark() {
    let own = ProcessSpec { caller: true, ..guest(ME, [quiet(0, 2)]) };
    let (_host, session) = machine(1).guest(own).session();
    session.unmap(&[1], NOW).unwrap();
    assert_eq!(active(session.driver().as_ref(), ME), [true, false]);
    session.remap(&[1]).unwrap();
    assert_eq!(active(session.driver().as_ref(), ME), [true, true]);
}

#[test]
fn a_later_process_with_the_same_pid_is_another_owner() {
    let (host, session) = machine(1).guest(guest(100, [busy(0, 1)])).session();
    let old = offline(&session, 100);
    host.machine().kill(100).unwrap();
    host.sleep(ms(10));
    host.machine().spawn(&guest(100, [busy(0, 1)])).unwrap();
    let new = offline_again(&session, 100);
    assert_ne!(new, old);
    session.unmap(&old, NOW).unwrap();
    assert_eq!(active(session.driver().as_ref(), 100), [true], "the old handle reaches nobody");
    session.unmap(&new, NOW).unwrap();
    assert_eq!(active(session.driver().as_ref(), 100), [false]);
}

/// Registering binds the pid to the process that has it now.
fn offline_again(session: &gpreempt::Session, pid: u32) -> Vec<u32> {
    let first = session.register(pid, 0, GpuId::ALL).unwrap();
    session.classify(first, QueueClass::Offline).unwrap();
    vec![first]
}

#[test]
fn an_idle_only_unmap_leaves_a_working_queue_where_it_is() {
    let (_host, session) = machine(1).guest(guest(100, [busy(0, 1), quiet(0, 1)])).session();
    let queues = offline(&session, 100);
    session.selective_unmap(&queues, UnmapFlags::NO_CWSR).unwrap();
    assert_eq!(active(session.driver().as_ref(), 100), [true, false]);
    session.selective_unmap(&queues, UnmapFlags::KEEP_MQD | UnmapFlags::KEEP_STATE).unwrap();
    assert_eq!(active(session.driver().as_ref(), 100), [false, false]);
    let unknown = UnmapFlags::from_bits_retain(8);
    assert_eq!(kind(session.selective_unmap(&queues, unknown)), ErrorKind::InvalidArgument);
}

#[test]
fn one_queue_is_mapped_to_any_slot_and_to_no_other() {
    let (_host, session) = machine(1).guest(guest(100, [busy(0, 1)])).session();
    let queue = offline(&session, 100)[0];
    session.set_state(queue, 1).unwrap();
    assert!(!session.is_active(queue).unwrap());
    assert_eq!(kind(session.fast_remap(queue, 3)), ErrorKind::Unsupported);
    assert_eq!(kind(session.fast_remap(queue, -2)), ErrorKind::InvalidArgument);
    assert!(!session.is_active(queue).unwrap());
    session.fast_remap(queue, -1).unwrap();
    assert!(session.is_active(queue).unwrap());
    session.set_state(queue, 1).unwrap();
    session.set_state(queue, 0).unwrap();
    assert!(session.is_active(queue).unwrap());
    assert_eq!(kind(session.set_state(queue, 3)), ErrorKind::InvalidArgument);
}

#[test]
fn a_policy_is_replaced_as_a_whole() {
    let (_host, session) = machine(1).guest(guest(100, [busy(0, 1)])).session();
    let queue = session.register(100, 0, GpuId::ALL).unwrap();
    session.set_state(queue, 2).unwrap();
    let both = PolicyFlags::PREEMPTIBLE | PolicyFlags::AUTO_DEACTIVATION;
    assert_eq!(session.set_policy(queue, both).unwrap(), both);
    assert_eq!(session.set_policy(queue, PolicyFlags::PREEMPTIBLE).unwrap(), PolicyFlags::PREEMPTIBLE);
    let unknown = PolicyFlags::from_bits_retain(1 << 9);
    assert_eq!(kind(session.set_policy(queue, unknown)), ErrorKind::InvalidArgument);
}

#[test]
fn the_status_of_all_nodes_is_their_sum() {
    let (host, session) = machine(2).guest(guest(100, [busy(0, 3), busy(1, 30)])).session();
    let mut sum = HqdStatus::default();
    for node in 0..2 {
        let one = session.status(gpu(&host, node)).unwrap();
        assert_eq!(one.free, one.total - one.active.min(one.total));
        assert_eq!(one.nodes, 1);
        sum.add(&one);
    }
    assert_eq!(session.status(GpuId::ALL).unwrap(), sum);
    assert_eq!((sum.active, sum.nodes), (33, 2));
    assert_eq!(kind(session.status(GpuId(1))), ErrorKind::NotFound);
}

#[test]
fn percentages_over_a_hundred_are_refused_and_reserving_needs_privilege() {
    let (_host, session) = machine(1).session();
    for (online, offline) in [(101, 0), (0, 101), (60, 41), (u32::MAX, 1)] {
        assert_eq!(kind(session.set_reservation(GpuId::ALL, online, offline)), ErrorKind::InvalidArgument);
    }
    assert_eq!(kind(session.set_reservation(GpuId::ALL, 25, 50)), ErrorKind::NotPermitted);
    let (_host, session) = machine(1).privileged().session();
    let reserved = session.set_reservation(GpuId::ALL, 25, 50).unwrap();
    let total = session.status(GpuId::ALL).unwrap().total;
    assert_eq!((reserved.online_reserved, reserved.offline_max, reserved.nodes), (total / 4, total / 2, 1));
    let unknown = session.set_reservation(GpuId(1), 25, 50).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert!(unknown.to_string().contains("no such GPU"), "{unknown}");
}

#[test]
fn only_idle_mapped_queues_of_the_offline_class_are_idle_offline() {
    let foreign = ProcessSpec { uid: Some(UID + 1), ..guest(300, [quiet(0, 1)]) };
    let (host, session) = machine(1)
        .guest(guest(100, [busy(0, 1), quiet(0, 2)]))
        .guest(guest(200, [quiet(0, 1)]))
        .guest(foreign)
        .session();
    let queues = offline(&session, 100);
    host.sleep(ms(5));
    assert_eq!(session.idle_offline().unwrap(), queues[1..]);
    session.unmap(&queues[1..2], NOW).unwrap();
    assert_eq!(session.idle_offline().unwrap(), queues[2..]);
}

#[test]
fn discovery_names_every_visible_queue_and_tells_what_the_driver_knows() {
    let foreign = ProcessSpec { uid: Some(UID + 1), ..guest(300, [quiet(0, 1)]) };
    let (host, session) = machine(1).guest(guest(100, [busy(0, 2)])).guest(foreign).session();
    let queues = offline(&session, 100);
    session.unmap(&queues[..1], NOW).unwrap();
    let found = session.queues().unwrap();
    let ours: Vec<_> = found.iter().filter(|(_, info)| info.queue.pid == 100).collect();
    assert_eq!(ours.iter().map(|(handle, _)| *handle).collect::<Vec<_>>(), queues);
    assert_eq!(ours.iter().map(|(_, info)| info.active).collect::<Vec<_>>(), [Some(false), Some(true)]);
    assert!(ours.iter().all(|(_, info)| info.gpu == gpu(&host, 0) && info.priority == Some(7)));
    let theirs = found.iter().find(|(_, info)| info.queue.pid == 300);
    assert!(theirs.is_none_or(|(_, info)| info.active.is_none()), "another user's queues stay unknown");
}

#[test]
fn an_abandoned_session_answers_bad_handle() {
    let (_host, session) = machine(1).guest(guest(100, [busy(0, 1)])).session();
    let queues = offline(&session, 100);
    session.abandon_after_fork();
    assert_eq!(kind(session.unmap(&queues, NOW)), ErrorKind::BadHandle);
    assert_eq!(kind(session.status(gpu(&_host, 0))), ErrorKind::BadHandle);
    let text = session.driver().attach(100).unwrap_err().to_string();
    assert!(text.contains("open the session again"), "{text}");
}

#[test]
fn an_unmapped_queue_that_is_offline_no_longer_is_mapped() {
    for class in [QueueClass::Unclassified, QueueClass::Online] {
        let (_host, session) = machine(1).guest(guest(100, [busy(0, 1)])).session();
        let queue = session.register(100, 0, GpuId::ALL).unwrap();
        session.classify(queue, QueueClass::Offline).unwrap();
        session.unmap(&[queue], NOW).unwrap();
        session.classify(queue, class).unwrap();
        assert_eq!(states(session.driver().as_ref(), 100), [QueueState::ACTIVE], "{class:?}");
    }
}
