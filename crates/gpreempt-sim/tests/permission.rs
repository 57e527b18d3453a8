//! Who may: whose queue it is, whose lease, and what the right to hold does not include.

mod kit;

use gpreempt_sim::config::Caller;
use gpreempt_sim::{Machine, Task};
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;

#[test]
fn a_queue_answers_to_one_lease_at_a_time() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let user = User::new(&machine, ME);
    let (first, second) = (user.lease(), user.lease());
    let a = first.offline(10);
    let b = second.attach(10).unwrap();
    let busy = minus(Errno::EBUSY);
    assert_eq!(second.policy(entry(b, ALL), KFD_GPREEMPT_POLICY_PREEMPTIBLE, 0).queue.result, busy);
    assert_eq!(second.policy(entry(b, 0), KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, 0).queue.result, busy);
    assert_eq!(second.unmap(&[entry(b, 0)]).results(), [busy]);
    first.unmap(&[entry(a, 0)]);
    assert_eq!(second.remap(&[entry(b, 0)]).results(), [busy]);
    let seen = second.queues(b, 0).unwrap()[0];
    assert_eq!(seen.owner_lease, first.args.lease_id);
    assert_eq!(seen.owner_pid, ME);
    assert_eq!(seen.state & (KFD_GPREEMPT_STATE_PREEMPTED | KFD_GPREEMPT_STATE_MINE), KFD_GPREEMPT_STATE_PREEMPTED);
    first.close();
    let b = second.offline(10);
    assert_eq!(second.unmap(&[entry(b, 0)]).results(), [0]);
}

#[test]
fn a_lease_obeys_its_holder_alone() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let child = User { machine: &machine, task: Task { pid: 10 }, kfd: lease.user.kfd };
    let mut args = kfd_ioctl_gpreempt_attach_args::default();
    let mut memory = Memory::new(&[]);
    assert_eq!(child.ioctl(lease.file, AMDKFD_IOC_GPREEMPT_ATTACH, &mut args, &mut memory), Err(Errno::EBADF));
    assert_eq!(machine.read(child.task, lease.file, &mut [0; 40]), Err(Errno::EBADF));
    assert!(machine.poll(child.task, lease.file).unwrap().hung_up);
    // Nobody but the holder closes it.
    assert_eq!(machine.close(child.task, lease.file), Err(Errno::EBADF));
    assert!(!machine.poll(lease.user.task, lease.file).unwrap().hung_up);
    let (task, file) = (lease.user.task, lease.file);
    lease.close();
    assert_eq!(machine.poll(task, file), Err(Errno::EBADF));
}

#[test]
fn who_may_hold_is_the_same_user_or_a_privileged_one() {
    let mut config = config(vec![guest(10, vec![queues(1, busy())])]);
    config.caller = Caller { uid: 3000, ..config.caller };
    config.scenario.processes[0].uid = Some(1000);
    let plain = Machine::boot(config.clone()).unwrap();
    assert_eq!(User::new(&plain, ME).lease().attach(10), Err(Errno::EPERM));
    config.caller.privileged = true;
    let nice = Machine::boot(config).unwrap();
    let lease = User::new(&nice, ME).lease();
    let target = lease.offline(10);
    assert_eq!(lease.attach(10), Ok(target));
    assert_eq!(lease.unmap(&[entry(target, ALL)]).ok, 1);
}

#[test]
fn the_right_to_hold_is_asked_for_each_time_and_never_for_giving_back() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let preemptible = KFD_GPREEMPT_POLICY_PREEMPTIBLE;
    assert_eq!(lease.unmap(&[entry(target, 0)]).results(), [0]);
    machine.set_uid(10, 2000).unwrap();
    let eperm = minus(Errno::EPERM);
    assert_eq!(lease.unmap(&[entry(target, 0), entry(target, 1)]).results(), [eperm; 2]);
    assert_eq!(lease.policy(entry(target, ALL), preemptible, 0).queue.result, eperm);
    // Looking, and giving back what it holds, needs no right.
    assert_eq!(lease.policy(entry(target, 1), 0, 0).policy_flags, preemptible);
    assert_eq!(lease.remap(&[entry(target, 0)]).results(), [0]);
    pass(&machine, 10 * MS);
    assert!(progress(&machine, 10, 0, 10 * MS) > 0);
    machine.set_uid(10, 1000).unwrap();
    assert_eq!(lease.unmap(&[entry(target, 0)]).results(), [0]);
}

#[test]
fn a_handle_is_the_process_that_was_attached_and_no_later_one_with_its_pid() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let first = lease.offline(10);
    machine.kill(10).unwrap();
    machine.spawn(&guest(10, vec![queues(1, busy())])).unwrap();
    assert_eq!(lease.unmap(&[entry(first, ALL)]).results(), [minus(Errno::ESRCH)]);
    assert_eq!(lease.queues(first, ALL).unwrap_err(), Errno::ESRCH);
    let second = lease.attach(10).unwrap();
    assert_ne!(second, first);
    // What was said of the first does not hold for the second.
    assert_eq!(lease.unmap(&[entry(second, ALL)]).results(), [minus(Errno::EPERM)]);
}

#[test]
fn root_only_text_needs_more_than_the_right_to_hold() {
    let rls = "/sys/kernel/debug/kfd/rls";
    for (uid, root, answer) in [(1000, false, Err(Errno::EACCES)), (1000, true, Ok(())), (0, false, Ok(()))] {
        let mut config = config(vec![guest(10, vec![queues(1, busy())])]);
        config.caller = Caller { uid, root, privileged: true, ..config.caller };
        let machine = Machine::boot(config).unwrap();
        let me = Task { pid: ME };
        assert_eq!(machine.read_text(me, rls).map(drop), answer, "{uid} {root}");
        assert_eq!(machine.list(me, "/sys/kernel/debug/kfd").map(drop), answer, "{uid} {root}");
        // One of another user may be traced by root alone.
        machine.spawn(&gpreempt_sim::config::ProcessSpec { uid: Some(2000), ..guest(11, vec![]) }).unwrap();
        assert_eq!(machine.ptrace_seize(me, 11), answer.map_err(|_| Errno::EPERM), "{uid} {root}");
    }
}
