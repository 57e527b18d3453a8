//! The library's driver and the agent in real processes.

mod kit;

use std::sync::Arc;
use std::time::Duration;

use gpreempt::driver::agent::AgentDriver;
use gpreempt::driver::{Driver, Selector, Want};
use gpreempt::host::os::OsHost;
use gpreempt::{ErrorKind, QueueId, QueueState};
use kit::*;
use nix::errno::Errno;
use nix::sys::signal::Signal;

const NOW: Duration = Duration::ZERO;

fn driver(folder: &tempfile::TempDir) -> AgentDriver {
    AgentDriver::open(Arc::new(OsHost::with_agents(folder.path())))
}

#[test]
fn a_job_of_eight_processes_is_one_target() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), 8, 2);
    let leader = job[0].pid();
    let driver = driver(&folder);
    assert_eq!(driver.attach(leader).unwrap(), 16);
    let all = [Selector::process(leader)];
    let batch = driver.unmap(&all, NOW).unwrap();
    assert_eq!((batch.outcomes[0].errno, batch.outcomes[0].queues, batch.rounds), (None, 16, 16));
    assert!(job.iter_mut().all(|program| program.percentages(2) == [0, 0]));
    let statuses = driver.queue_status(all[0], Want { pointers: true, waves: false }).unwrap();
    assert_eq!(statuses.len(), 16);
    let held = QueueState::PREEMPTED | QueueState::MINE;
    assert!(statuses.iter().all(|status| status.state == held && status.pointers == Some((5, 9))));
    driver.remap(&all).unwrap();
    assert!(job.iter_mut().all(|program| program.percentages(2) == [100, 100]));
}

#[test]
fn one_rank_of_a_job_may_go_or_stand_still_without_harm_to_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), 3, 1);
    let all = [Selector::process(job[0].pid())];
    let driver = driver(&folder);
    driver.attach(job[0].pid()).unwrap();
    job[1].signal(Signal::SIGKILL);
    // Whether it is noticed in the middle of a call or before, the others are stopped.
    assert_eq!(driver.unmap(&all, NOW).unwrap().outcomes[0].errno, None);
    assert_eq!((job[0].percentages(1), job[2].percentages(1)), (vec![0], vec![0]));
    driver.remap(&all).unwrap();
    job[2].signal(Signal::SIGSTOP);
    assert_eq!(driver.unmap(&all, NOW).unwrap().outcomes[0].errno, Some(Errno::ETIME));
    assert_eq!(job[0].percentages(1), [0]);
    job[2].signal(Signal::SIGCONT);
    drop(driver);
    job[0].wait_for_percentages(&[100]);
    job[2].wait_for_percentages(&[100]);
}

#[test]
fn a_program_that_has_not_opened_kfd_yet_is_a_target_with_no_queues() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Start { agent: true, uid: None, job: None, folder: Some(folder.path().to_owned()) }.program();
    assert_eq!(program.number("tasks"), 1);
    let driver = driver(&folder);
    let all = [Selector { hold_new: true, ..Selector::process(program.pid()) }];
    assert_eq!(driver.attach(program.pid()).unwrap(), 0);
    assert_eq!(driver.unmap(&all, NOW).unwrap().outcomes[0].errno, None);
    program.create(2);
    wait_for("its agent", || (driver.unmap(&all, NOW).unwrap().outcomes[0].queues == 2).then_some(()));
    assert_eq!(program.percentages(2), [0, 0]);
}

#[test]
fn who_cannot_be_reached_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let driver = driver(&folder);
    let mut plain = Start { agent: false, uid: None, job: None, folder: None }.program();
    plain.create(1);
    let error = driver.attach(plain.pid()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("gpreempt offline -- "), "{error}");
    let gone = plain.pid();
    plain.end();
    assert_eq!(driver.attach(gone).unwrap_err().kind(), ErrorKind::ProcessGone);
    if nix::unistd::geteuid().is_root() {
        let foreign = Start { agent: true, uid: Some(65534), job: None, folder: None }.program();
        assert_eq!(driver.attach(foreign.pid()).unwrap_err().kind(), ErrorKind::NotPermitted);
    }
}

#[test]
fn a_program_that_calls_exec_stays_the_same_target() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), 1, 2);
    let pid = job[0].pid();
    let driver = driver(&folder);
    driver.attach(pid).unwrap();
    driver.unmap(&[Selector::process(pid)], NOW).unwrap();
    job[0].tell("exec");
    job[0].create(1);
    let unmap = || driver.unmap(&[Selector::queue(QueueId { pid, id: 0 })], NOW).unwrap().outcomes[0];
    wait_for("the new program's agent", || unmap().errno.is_none().then_some(()));
    assert_eq!(job[0].percentages(1), [0]);
}
