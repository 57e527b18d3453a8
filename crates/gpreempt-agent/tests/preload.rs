//! The agent in programs: what it does for a scheduler, and what it must not do to the program.

mod kit;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;

use gpreempt_agent_core::protocol::*;
use kit::*;
use nix::errno::Errno;
use nix::sys::signal::Signal;

#[test]
fn it_exports_ioctl_and_nothing_else() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(agent()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["ioctl"]);
}

#[test]
fn a_program_sees_the_same_answers_with_it_and_without() {
    let script = [
        "tty",
        "version",
        "create 100",
        "open",
        "tty",
        "version",
        "create 100",
        "create 50",
        "create 101",
        "create 0",
        "state 0",
        "state 1",
        "state 2",
        "set 0 40 3",
        "state 0",
        "set 0 101 3",
        "set 9 40 3",
        "bad 2",
        "bad 3",
        "bad 7",
        "bad 99",
        "destroy 1",
        "destroy 1",
        "create 512",
        "state 1",
        "threads 8 50",
        "dup 3",
        "closeall",
        "set 0 10 1",
    ];
    let mut programs = [true, false].map(|agent| Start { agent, uid: None, job: None, folder: None }.program());
    for command in script {
        let [with, without] = programs.each_mut().map(|program| program.say(command));
        assert_eq!(with, without, "{command}");
    }
}

#[test]
fn a_program_without_kfd_has_no_thread_no_file_and_no_socket_of_its() {
    let mut program = start();
    program.say("tty");
    assert_eq!(program.number("tasks"), 1);
    assert_eq!(program.number("open"), 3, "the lowest number is free");
    assert_eq!(program.number("tasks"), 1, "an open file alone is no command");
    assert!(!program.home.path().join("gpreempt").exists());
}

#[test]
fn a_scheduler_stops_and_restores_every_queue() {
    let mut program = start();
    program.create(3);
    let scheduler = program.connect();
    let hello = scheduler.hello();
    assert_eq!((hello.pid, hello.num_queues, hello.num_held), (program.pid(), 3, 0));
    assert!(hello.started_ns > 0);
    assert_eq!(scheduler.stop_all(0), [0, 0, 0]);
    assert_eq!(program.percentages(3), [0, 0, 0]);
    assert_eq!(program.say("create 100"), "3 100");
    assert_eq!(program.percentages(4), [0, 0, 0, 100], "new queues were not asked for");
    assert_eq!(scheduler.restore_all(), [0, 0, 0, 0]);
    assert_eq!(program.percentages(4), [100; 4]);
    program.end();
}

#[test]
fn what_the_program_does_in_a_window_takes_effect_at_its_end() {
    let mut program = start();
    program.create(3);
    let scheduler = program.connect();
    scheduler.stop_all(FLAG_HOLD_NEW);
    assert_eq!(program.say("create 80"), "3 80", "it sees what it asked for");
    assert_eq!(program.number("set 0 40 3"), 0);
    assert_eq!(program.number("destroy 1"), 0);
    assert_eq!(program.number("set 0 101 3"), -22);
    assert_eq!(program.percentages(4), [0, -1, 0, 0]);
    assert_eq!(program.say("state 0"), "0 3", "the priority is in force");
    drop(scheduler);
    program.wait_for_percentages(&[40, -1, 100, 80]);
}

#[test]
fn the_list_tells_queues_and_their_pointers() {
    let mut program = start();
    program.create(2);
    let scheduler = program.connect();
    let list = Request { operation: LIST, flags: FLAG_POINTERS, ..Default::default() };
    let queues = scheduler.ask(list, &[]).unwrap().2;
    let expected = (10, 7, 100, 0x10_0000, QUEUE_WANTED | QUEUE_POINTERS, 5, 9);
    for queue in queues {
        let found = (queue.gpu_id, queue.priority, queue.percentage, queue.ring_base, queue.flags);
        assert_eq!((found.0, found.1, found.2, found.3, found.4, queue.read_ptr, queue.write_ptr), expected);
    }
}

#[test]
fn it_does_not_matter_how_the_program_gets_and_loses_its_descriptors() {
    let mut program = start();
    program.create(1);
    let scheduler = program.connect();
    let copy = program.number("dup 3");
    assert_eq!(program.number("close 3"), 0);
    program.number(&format!("use {copy}"));
    assert_eq!(program.say("create 100"), "1 100");
    let second = program.number("open");
    assert_eq!(second, 3, "the agent keeps its files out of the way");
    assert_eq!(program.say("create 100"), "2 100");
    assert_eq!(scheduler.stop_all(0), [0; 3]);
    program.number(&format!("close {copy}"));
    program.number("close 3");
    assert_eq!(scheduler.restore_all(), [0; 3], "with no descriptor of the program's left");
    assert_eq!(program.percentages(3), [100; 3]);
}

#[test]
fn a_program_that_closes_the_agents_files_gets_its_queues_back_and_can_be_reached_again() {
    let mut program = start();
    program.create(2);
    let scheduler = program.connect();
    scheduler.stop_all(0);
    program.number("closeall");
    program.wait_for_percentages(&[100, 100]);
    scheduler.wait_for_end();
    let scheduler = program.connect();
    assert_eq!(scheduler.stop_all(0), [0, 0]);
    assert_eq!(program.percentages(2), [0, 0]);
}

#[test]
fn a_vfork_child_that_closes_everything_closes_nothing_of_the_parents() {
    let mut program = start();
    program.create(2);
    let scheduler = program.connect();
    scheduler.stop_all(0);
    assert_eq!(program.number("vfork"), 0);
    assert_eq!(scheduler.restore_all(), [0, 0]);
    assert_eq!(program.percentages(2), [100, 100]);
}

#[test]
fn a_forked_child_has_no_queues_until_it_opens_kfd_itself() {
    let mut program = Start { agent: true, uid: None, job: Some(77), folder: None }.program();
    program.create(2);
    let of_parent = Scheduler::connect(&program.socket_of(77, program.pid()));
    of_parent.stop_all(0);
    let child = program.number("fork") as u32;
    assert_eq!(program.say("set 0 100 7"), "-9", "the parent's descriptor is none of the child's");
    program.create(1);
    let of_child = Scheduler::connect(&program.socket_of(77, child));
    assert_eq!((of_child.hello().pid, of_child.hello().num_queues), (child, 1), "it belongs to the same job");
    assert_eq!(of_child.stop_all(0), [0]);
    assert_eq!((of_parent.hello().num_queues, of_parent.hello().num_held), (2, 2));
    assert_eq!(of_parent.restore_all(), [0, 0]);
    program.signal(Signal::SIGKILL);
    of_parent.wait_for_end();
    assert_eq!(of_child.restore_all(), [0], "the child lives on");
}

#[test]
fn exec_ends_the_agent_and_the_next_program_has_its_own() {
    let mut program = start();
    program.create(2);
    let before = program.connect();
    before.stop_all(0);
    program.tell("exec");
    before.wait_for_end();
    program.create(1);
    let after = wait_for("the new agent", || {
        let scheduler = Scheduler::try_connect(&program.socket()).ok()?;
        (scheduler.hello().num_queues == 1).then_some(scheduler)
    });
    assert_eq!(after.stop_all(0), [0]);
    assert_eq!(program.percentages(1), [0]);
}

#[test]
fn threads_create_and_destroy_queues_while_a_scheduler_stops_and_restores_them() {
    let mut program = start();
    program.create(2);
    let scheduler = program.connect();
    let hammer = std::thread::spawn(move || {
        for round in 0..100 {
            // A queue may go in the middle of it.
            let gone = |errno: &u32| matches!(*errno, 0) || *errno == Errno::ENOENT as u32;
            assert!(scheduler.stop_all(if round % 2 == 0 { FLAG_HOLD_NEW } else { 0 }).iter().all(gone));
            assert!(scheduler.restore_all().iter().all(gone));
        }
        scheduler
    });
    while !hammer.is_finished() {
        assert_eq!(program.number("threads 4 25"), 0);
    }
    drop(hammer.join().unwrap());
    program.wait_for_percentages(&[100, 100, -1]);
}

#[test]
fn a_scheduler_that_is_killed_leaves_nothing_stopped() {
    let mut program = start();
    program.create(2);
    for _ in 0..20 {
        drop(program.connect());
        let mut scheduler = hold_from_outside(&program.socket(), 0);
        assert_eq!(program.percentages(2), [0, 0]);
        scheduler.kill().unwrap();
        scheduler.wait().unwrap();
        program.wait_for_percentages(&[100, 100]);
    }
}

#[test]
fn a_scheduler_that_hangs_leaves_nothing_stopped_for_longer_than_it_was_given() {
    let mut program = start();
    program.create(2);
    drop(program.connect());
    let mut scheduler = hold_from_outside(&program.socket(), 300);
    let pid = nix::unistd::Pid::from_raw(scheduler.id().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
    program.wait_for_percentages(&[100, 100]);
    assert_eq!(program.connect().hello().expired, 1);
    assert_eq!(program.say("create 100"), "2 100");
    program.wait_for_percentages(&[100, 100, 100]);
    scheduler.kill().unwrap();
    scheduler.wait().unwrap();
}

#[test]
fn a_program_that_was_stopped_itself_past_the_deadline_restores_when_it_goes_on() {
    let mut program = start();
    program.create(1);
    let scheduler = program.connect();
    let request = Request { operation: STOP, flags: FLAG_ALL, hold_ms: 200, ..Default::default() };
    scheduler.ask(request, &[]).unwrap();
    program.signal(Signal::SIGSTOP);
    std::thread::sleep(std::time::Duration::from_millis(400));
    program.signal(Signal::SIGCONT);
    program.wait_for_percentages(&[100]);
}

#[test]
fn a_second_scheduler_is_told_that_the_first_one_holds() {
    let mut program = start();
    program.create(1);
    let (first, second) = (program.connect(), program.connect());
    first.stop_all(0);
    let request = Request { operation: STOP, flags: FLAG_ALL, ..Default::default() };
    assert_eq!(second.ask(request, &[]).unwrap().0.errno, Errno::EBUSY as u32);
    drop(second);
    assert_eq!(program.percentages(1), [0]);
}

#[test]
fn a_kernel_that_refuses_is_reported_and_asked_again_for_what_should_run() {
    let mut program = start();
    program.create(2);
    let scheduler = program.connect();
    program.number(&format!("fail 1 {}", Errno::ENOMEM as i32));
    assert_eq!(scheduler.stop_all(0), [Errno::ENOMEM as u32, 0]);
    assert_eq!(scheduler.stop_all(0), [0, 0]);
    program.number(&format!("fail 3 {}", Errno::EBUSY as i32));
    drop(scheduler);
    program.wait_for_percentages(&[100, 100]);
}

#[test]
fn the_socket_is_for_its_user_alone_and_goes_with_the_program() {
    let mut program = start();
    program.create(1);
    drop(program.connect());
    let socket = program.socket();
    let (file, folder) = (std::fs::metadata(&socket).unwrap(), std::fs::metadata(socket.parent().unwrap()).unwrap());
    assert!(file.file_type().is_socket());
    assert_eq!((file.mode() & 0o777, folder.mode() & 0o777), (0o600, 0o700));
    program.end();
    assert!(!socket.exists());
}

#[test]
fn a_folder_that_others_can_write_is_not_used() {
    let chosen = tempfile::tempdir().unwrap();
    std::fs::set_permissions(chosen.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let start = Start { agent: true, uid: None, job: None, folder: Some(chosen.path().to_owned()) };
    let mut program = start.program();
    program.create(1);
    assert_eq!(program.connect().hello().num_queues, 1, "it is in the next folder");
    assert_eq!(std::fs::read_dir(chosen.path()).unwrap().count(), 0);
}

#[test]
fn a_scheduler_of_another_user_is_turned_away() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a scheduler of another user: only root can be two users");
        return;
    }
    let mut program = Start { agent: true, uid: Some(65534), job: None, folder: None }.program();
    program.create(1);
    // Root may open the folder and connect; it is another user all the same.
    program.connect().wait_for_end();
    assert_eq!(program.percentages(1), [100]);
}
