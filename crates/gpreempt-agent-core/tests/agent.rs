//! What the agent does to the queues of its process.

mod kit;

use gpreempt_agent_core::protocol::*;
use gpreempt_sys::{KFD_IOC_QUEUE_TYPE_SDMA, kfd_ioctl_create_queue_args};
use kit::*;
use nix::errno::Errno;
use zerocopy::IntoBytes;

const A: u64 = 1;
const B: u64 = 2;

/// A process with queues at 100 % and priority 7, one per node given.
fn with(nodes: &[u32]) -> Process {
    let mut process = Process::new();
    nodes.iter().for_each(|&node| assert!(process.create(node, 100, 7).is_some()));
    process
}

#[test]
fn stopped_queues_are_off_until_they_are_restored() {
    let mut process = with(&[10, 10, 10]);
    let answer = process.stop(A, &[0, 2]);
    assert_eq!((answer.errnos(), answer.reply.rounds, answer.reply.num_held), (vec![0, 0], 2, 2));
    assert_eq!(process.runs(), [false, true, false]);
    assert_eq!(process.restore(A, &[0]).errnos(), [0]);
    assert_eq!(process.runs(), [true, true, false]);
    process.restore_all(A);
    assert_eq!(process.runs(), [true; 3]);
}

#[test]
fn stopping_and_restoring_twice_changes_nothing_and_costs_nothing() {
    let mut process = with(&[10]);
    process.stop_all(A, 0);
    let again = process.stop_all(A, 0);
    assert_eq!((again.errnos(), again.reply.rounds), (vec![0], 0));
    process.restore_all(A);
    assert_eq!(process.restore_all(A).reply.rounds, 0);
    assert_eq!(process.kernel.updates, 2);
}

#[test]
fn a_restore_gives_back_ring_percentage_xcc_and_priority_as_they_were() {
    let mut process = Process::new();
    process.create(10, 0x300 | 50, 11);
    let before = process.kernel.queues.clone();
    process.stop_all(A, 0);
    assert_eq!(process.kernel.queues[&0].0.queue_percentage, 0x300, "the XCC stays in its bits");
    process.restore_all(A);
    assert_eq!(process.kernel.queues, before);
}

#[test]
fn what_the_program_sets_in_a_window_is_kept_and_comes_with_the_restore() {
    let mut process = with(&[10, 10]);
    process.stop_all(A, 0);
    process.set(0, 40, 3).unwrap();
    assert_eq!(process.runs(), [false, false], "it stays stopped");
    assert_eq!(process.kernel.queues[&0].0.queue_priority, 3, "the kernel has checked and taken the rest");
    process.set(1, 0, 7).unwrap();
    process.restore_all(A);
    assert_eq!(process.kernel.queues[&0].0.queue_percentage, 40);
    assert_eq!(process.runs(), [true, false], "the program itself has switched the other off");
}

#[test]
fn a_queue_that_its_program_switched_off_costs_no_round_and_is_not_switched_on() {
    let mut process = with(&[10]);
    process.set(0, 0, 7).unwrap();
    process.stop_all(A, 0);
    process.restore_all(A);
    assert_eq!((process.runs(), process.kernel.updates), (vec![false], 1));
    process.stop_all(A, 0);
    process.set(0, 100, 7).unwrap();
    assert_eq!(process.runs(), [false], "it may not run in a window, whoever switches it on");
    process.restore_all(A);
    assert_eq!(process.runs(), [true]);
}

#[test]
fn a_wrong_percentage_reaches_the_kernel_and_its_answer_the_program() {
    let mut process = with(&[10]);
    process.stop_all(A, FLAG_HOLD_NEW);
    assert_eq!(process.set(0, 101, 7), Err(Errno::EINVAL));
    assert_eq!(process.set(9, 50, 7), Err(Errno::EFAULT));
    assert_eq!(process.create(10, 200, 7), None);
    process.restore_all(A);
    assert_eq!((process.runs(), process.kernel.queues[&0].0.queue_percentage), (vec![true], 100));
}

#[test]
fn a_program_with_older_headers_passes_a_shorter_struct() {
    let mut process = with(&[]);
    process.stop_all(A, FLAG_HOLD_NEW);
    let mut args = kfd_ioctl_create_queue_args {
        ring_base_address: 0x1000,
        ring_size: 4096,
        gpu_id: 10,
        queue_type: KFD_IOC_QUEUE_TYPE_SDMA,
        queue_percentage: 100,
        queue_id: 5,
        ..Default::default()
    };
    // Without eop_buffer_address and all that follows it.
    let short = &mut args.as_mut_bytes()[..56];
    let creating = process.server.book().creating(short);
    process.server.created(creating, short, Ok(()), process.now);
    let queue = process.server.book().queues()[&5];
    assert_eq!((queue.kind, queue.held.is_some(), queue.off), (KFD_IOC_QUEUE_TYPE_SDMA, true, true));
    assert_eq!(args.queue_percentage, 100);
}

#[test]
fn queues_that_are_created_in_a_window_start_stopped_where_the_scheduler_asked_for_it() {
    for (flags, expected) in [(0, [false, true]), (FLAG_HOLD_NEW, [false, false])] {
        let mut process = with(&[10]);
        process.stop_all(A, flags);
        process.create(10, 100, 7);
        assert_eq!(process.runs(), expected);
        assert_eq!(process.kernel.updates, 1, "the new one never ran");
        process.restore(A, &[0, 1]);
        assert_eq!(process.runs(), [true, true]);
        process.restore_all(A);
        process.create(10, 100, 7);
        assert_eq!(process.runs(), [true; 3]);
    }
}

#[test]
fn holding_new_queues_can_be_for_one_node() {
    let mut process = with(&[]);
    process.ask(A, Request { operation: POLICY, flags: FLAG_HOLD_NEW, gpu_id: 20, ..Default::default() }, &[]);
    process.create(10, 100, 7);
    process.create(20, 100, 7);
    assert_eq!(process.runs(), [true, false]);
    process.close(A);
    process.create(20, 100, 7);
    assert_eq!(process.runs(), [true; 3], "with its scheduler gone the policy is gone, too");
}

#[test]
fn a_queue_destroyed_in_a_window_is_gone_and_its_id_is_free_for_another() {
    let mut process = with(&[10, 10]);
    process.stop_all(A, 0);
    process.destroy(0);
    assert_eq!(process.create(10, 100, 7), Some(0));
    assert_eq!(process.runs(), [true, false], "the new one was never stopped");
    assert_eq!(process.restore(A, &[0, 1, 5]).errnos(), [0, 0, Errno::ENOENT as u32]);
    assert_eq!(process.runs(), [true, true]);
}

#[test]
fn a_destroy_on_its_way_does_not_remove_the_queue_that_took_its_id() {
    let mut process = with(&[10]);
    process.destroy_while(0, Ok(()), |process| {
        assert_eq!(process.stop(A, &[0]).errnos(), [Errno::ENOENT as u32], "the kernel knows it no more");
        assert_eq!(process.create(10, 100, 7), Some(0));
    });
    assert_eq!(process.say(A, HELLO).reply.num_queues, 1);
    process.stop_all(A, 0);
    assert_eq!(process.runs(), [false]);
}

#[test]
fn a_destroy_that_timed_out_has_destroyed_and_one_that_failed_has_not() {
    for (answer, queues) in [(Err(Errno::ETIME), 0), (Err(Errno::EBUSY), 1)] {
        let mut process = with(&[10]);
        process.destroy_while(0, answer, |_| {});
        assert_eq!(process.say(A, HELLO).reply.num_queues, queues, "{answer:?}");
        assert_eq!(process.stop_all(A, 0).reply.num_held, queues);
    }
}

#[test]
fn a_node_in_trouble_is_left_alone_for_the_rest_of_the_call() {
    for errno in [Errno::EIO, Errno::ETIME, Errno::EACCES] {
        let mut process = with(&[10, 10, 10]);
        process.kernel.fail = Some(errno);
        let answer = process.stop_all(A, 0);
        assert_eq!((answer.errnos(), process.kernel.updates), (vec![errno as u32; 3], 1));
        assert_eq!(answer.reply.num_held, 0);
    }
}

#[test]
fn what_could_not_be_given_back_is_tried_again_until_it_runs() {
    let mut process = with(&[10, 20]);
    process.stop_all(A, 0);
    process.kernel.fail = Some(Errno::ENOMEM);
    process.close(A);
    process.pass(SECOND);
    assert_eq!(process.runs(), [false, false]);
    process.kernel.fail = None;
    process.pass(10 * SECOND);
    assert_eq!(process.runs(), [true, true]);
    assert_eq!(process.server.next(), None, "and then no more");
}

#[test]
fn a_failed_stop_is_undone_for_the_kernel_may_have_taken_the_percentage() {
    let mut process = with(&[10]);
    process.kernel.fail = Some(Errno::ETIME);
    process.stop_all(A, 0);
    // The kernel stores what it is told before it fails to apply it.
    process.kernel.queues.get_mut(&0).unwrap().0.queue_percentage = 0;
    process.kernel.fail = None;
    process.pass(SECOND);
    assert_eq!(process.runs(), [true]);
}

#[test]
fn a_queue_that_was_reset_is_not_asked_for_again() {
    let mut process = with(&[10]);
    process.stop_all(A, 0);
    process.kernel.fail = Some(Errno::EACCES);
    process.close(A);
    process.pass(100 * SECOND);
    assert!(process.kernel.updates <= 3, "{}", process.kernel.updates);
}

#[test]
fn everything_runs_again_when_the_schedulers_connection_closes() {
    let mut process = with(&[10, 20]);
    process.stop_all(A, FLAG_HOLD_NEW);
    process.create(10, 100, 7);
    process.close(B);
    assert_eq!(process.runs(), [false; 3], "it was not B's");
    process.close(A);
    assert_eq!(process.runs(), [true; 3]);
}

#[test]
fn everything_runs_again_when_the_scheduler_says_nothing_for_too_long() {
    let mut process = with(&[10, 20]);
    let request = Request { operation: STOP, flags: FLAG_ALL, hold_ms: 1000, ..Default::default() };
    process.ask(A, request, &[]);
    process.pass(SECOND - 1);
    assert_eq!(process.runs(), [false, false]);
    process.ask(A, Request { operation: HEARTBEAT, hold_ms: 1000, ..Default::default() }, &[]);
    process.pass(SECOND - 1);
    assert_eq!(process.runs(), [false, false], "a heartbeat gives it the whole time again");
    process.say(B, HEARTBEAT);
    process.say(A, LIST);
    process.pass(1);
    assert_eq!(process.runs(), [true, true]);
    let hello = process.say(B, HELLO).reply;
    assert_eq!((hello.expired, hello.num_held), (1, 0));
    assert_eq!(process.stop_all(B, 0).reply.errno, 0, "another may stop them now");
}

#[test]
fn no_scheduler_gets_more_time_than_the_maximum() {
    let mut process = with(&[10]);
    let answer =
        process.ask(A, Request { operation: STOP, flags: FLAG_ALL, hold_ms: u32::MAX, ..Default::default() }, &[]);
    assert_eq!(answer.reply.hold_ms, MAX_HOLD_MS);
    process.pass(u64::from(MAX_HOLD_MS) * 1_000_000);
    assert_eq!(process.runs(), [true]);
}

#[test]
fn a_queue_that_starts_held_gets_its_holder_the_full_time_and_no_more() {
    let mut process = with(&[]);
    let policy = Request { operation: POLICY, flags: FLAG_HOLD_NEW, hold_ms: 1000, ..Default::default() };
    process.ask(A, policy, &[]);
    process.pass(100 * SECOND);
    process.create(10, 100, 7);
    process.pass(SECOND - 1);
    assert_eq!(process.runs(), [false]);
    process.pass(1);
    assert_eq!(process.runs(), [true]);
}

#[test]
fn a_process_that_was_stopped_past_the_deadline_restores_before_it_answers() {
    let mut process = with(&[10]);
    process.stop_all(A, 0);
    // Nobody ticks: the whole process stood still.
    process.now += 11 * SECOND;
    let hello = process.say(B, HELLO).reply;
    assert_eq!((hello.num_held, hello.expired, process.runs()), (0, 1, vec![true]));
}

#[test]
fn one_scheduler_holds_and_others_are_told_that_it_is_busy() {
    let mut process = with(&[10, 10]);
    assert_eq!(process.stop(A, &[0]).reply.flags & REPLY_HOLDER, REPLY_HOLDER);
    for answer in [process.stop(B, &[1]), process.stop_all(B, 0), process.restore_all(B), process.restore(B, &[0])] {
        assert_eq!((answer.reply.errno, answer.reply.flags & REPLY_HOLDER), (Errno::EBUSY as u32, 0));
    }
    let policy = process.ask(B, Request { operation: POLICY, flags: FLAG_HOLD_NEW, ..Default::default() }, &[]);
    assert_eq!(policy.reply.errno, Errno::EBUSY as u32);
    assert_eq!(process.say(B, LIST).queues.len(), 2, "looking is free");
    assert_eq!(process.runs(), [false, true]);
    process.restore(A, &[0]);
    assert_eq!(process.stop(B, &[1]).reply.errno, 0, "who holds nothing stands in nobody's way");
}

#[test]
fn the_list_says_what_each_queue_is_and_why_it_does_not_run() {
    let mut process = with(&[10, 20]);
    process.set(1, 0, 7).unwrap();
    process.stop(A, &[0]);
    process.pass(SECOND);
    let plain = process.say(A, LIST).queues;
    let flags: Vec<u32> = plain.iter().map(|queue| queue.flags).collect();
    assert_eq!(flags, [QUEUE_WANTED | QUEUE_HELD | QUEUE_OFF, 0]);
    assert_eq!((plain[0].gpu_id, plain[0].priority, plain[0].percentage, plain[0].held_ns), (10, 7, 100, SECOND));
    let there = Request { operation: LIST, flags: FLAG_POINTERS, gpu_id: 20, ..Default::default() };
    let there = process.ask(A, there, &[]).queues;
    assert_eq!(there.len(), 1);
    assert_eq!((there[0].flags, there[0].read_ptr, there[0].write_ptr), (QUEUE_POINTERS, 0x1001, 0x2002));
}

#[test]
fn a_request_that_is_not_understood_changes_nothing() {
    let mut process = with(&[10]);
    let stop = Request { operation: STOP, flags: FLAG_ALL, ..Default::default() };
    let wrong: [(Request, &[u32]); 8] = [
        (Request { operation: 0, ..Default::default() }, &[]),
        (Request { operation: 99, ..Default::default() }, &[]),
        (Request { flags: FLAG_ALL | 64, ..stop }, &[]),
        (Request { pad: 1, ..stop }, &[]),
        (stop, &[0]),
        (Request { flags: 0, ..stop }, &[]),
        (Request { flags: FLAG_HOLD_NEW, ..stop }, &[0]),
        (Request { operation: HELLO, ..Default::default() }, &[0]),
    ];
    for (request, ids) in wrong {
        assert_eq!(process.ask(A, request, ids).reply.errno, Errno::EINVAL as u32, "{request:?}");
    }
    let mut kernel = Kernel::default();
    let head = Request { version: VERSION, num_ids: 2, ..stop };
    for bytes in [&[][..], &[0; 31], &message(&head, &[1u32]), &message(&head, &[1u32, 2, 3])] {
        let reply = process.server.message(A, bytes, process.now, &mut kernel);
        assert_eq!(parse_reply(&reply).unwrap().0.errno, Errno::EINVAL as u32);
    }
    let later = Request { version: VERSION + 1, ..stop };
    let reply = process.server.message(A, later.as_bytes(), process.now, &mut kernel);
    let reply = parse_reply(&reply).unwrap().0;
    assert_eq!((reply.version, reply.errno), (VERSION, Errno::EPROTONOSUPPORT as u32));
    assert_eq!(process.runs(), [true]);
}

#[test]
fn sockets_are_named_by_job_and_process() {
    assert_eq!(parse_socket_name(&socket_name(12, 345)), Some((12, 345)));
    for other in ["12.sock", "12.345", "12.345.sock.sock", "+12.345.sock", "012.345.sock", "a.b.sock", ""] {
        assert_eq!(parse_socket_name(other), None, "{other}");
    }
}

#[test]
fn a_scheduler_looks_wherever_a_job_with_another_environment_may_listen() {
    assert_eq!(
        folders(Some("/x"), Some("/run/user/7/"), 7),
        ["/x", "/run/user/7/gpreempt", "/tmp/gpreempt-7"],
        "each once"
    );
    assert_eq!(folders(Some("relative"), Some(""), 7), ["/run/user/7/gpreempt", "/tmp/gpreempt-7"]);
}
