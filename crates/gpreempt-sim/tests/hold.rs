//! Holds: new queues that start held, idle ones, the watchdog, and the end of a lease.

mod kit;

use gpreempt_sim::config::Workload;
use gpreempt_sim::{Machine, Task};
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;

fn one_guest() -> Machine {
    Machine::boot(config(vec![guest(10, vec![queues(1, busy())])])).unwrap()
}

#[test]
fn a_queue_created_under_hold_new_starts_held_and_runs_when_it_is_mapped() {
    let machine = one_guest();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let hold_new = kfd_gpreempt_entry { flags: KFD_GPREEMPT_ENTRY_HOLD_NEW, ..entry(target, ALL) };
    assert_eq!(lease.unmap(&[hold_new]).results(), [0]);
    assert_eq!(machine.create_queues(10, &queues(1, busy())), Ok(vec![1]));
    pass(&machine, 10 * MS);
    assert_eq!(machine.executed(10, 1), Ok(0));
    let state = lease.state(target, 1);
    let wanted = KFD_GPREEMPT_STATE_PREEMPTED
        | KFD_GPREEMPT_STATE_MINE
        | KFD_GPREEMPT_STATE_PREEMPTIBLE
        | KFD_GPREEMPT_STATE_LAZY;
    assert_eq!(state, wanted);
    lease.remap(&[entry(target, ALL)]);
    pass(&machine, 10 * MS);
    assert_eq!(progress(&machine, 10, 1, 10 * MS), 5);
    // Both queues were seen coming by events.
    let events: Vec<(u32, u32)> = lease.events().iter().map(|e| (e.r#type, e.queue_id)).collect();
    assert_eq!(events, [(KFD_GPREEMPT_EVENT_QUEUE_CREATED, 1)]);
}

#[test]
fn a_policy_reaches_a_process_that_opens_kfd_later() {
    let mut late = guest(11, vec![]);
    late.runtime_enabled = false;
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), late])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.attach(11).unwrap();
    let lazy = KFD_GPREEMPT_POLICY_LAZY_ACTIVATION | KFD_GPREEMPT_POLICY_PREEMPTIBLE;
    let answer = lease.policy(entry(target, ALL), lazy, 0);
    assert_eq!((answer.queue.result, answer.queue.num_queues, answer.policy_flags), (0, 0, lazy));
    // ALL of a process without queues is nothing, an id of it is none.
    assert_eq!(lease.unmap(&[entry(target, ALL)]).results(), [0]);
    assert_eq!(lease.unmap(&[entry(target, 0)]).results(), [minus(Errno::ENOENT)]);
    machine.create_queues(11, &queues(1, busy())).unwrap();
    pass(&machine, 10 * MS);
    assert_eq!(machine.executed(11, 0), Ok(0));
    lease.close();
    pass(&machine, 10 * MS);
    assert!(progress(&machine, 11, 0, 10 * MS) > 0);
}

#[test]
fn only_an_idle_queue_is_unmapped_if_idle() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, Workload::Manual)])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    machine.submit(10, 1, work(100, MS)).unwrap();
    let if_idle = kfd_gpreempt_entry { flags: KFD_GPREEMPT_ENTRY_IF_IDLE, ..entry(target, ALL) };
    let batch = lease.unmap(&[if_idle]);
    assert_eq!((batch.entries[0].result, batch.entries[0].num_queues), (0, 1));
    assert_ne!(lease.state(target, 0) & KFD_GPREEMPT_STATE_PREEMPTED, 0);
    assert_eq!(lease.state(target, 1) & KFD_GPREEMPT_STATE_PREEMPTED, 0);
    // NO_CWSR of SELECTIVE_UNMAP is the same question.
    let busy = lease.selective(entry(target, 1), KFD_GPREEMPT_UNMAP_NO_CWSR);
    assert_eq!((busy.queue.result, busy.queue.num_queues, busy.queue.flags), (0, 0, 0));
    let anyhow = lease.selective(entry(target, 1), KFD_GPREEMPT_UNMAP_KEEP_MQD | KFD_GPREEMPT_UNMAP_KEEP_STATE);
    assert_eq!((anyhow.queue.result, anyhow.queue.num_queues), (0, 1));
}

#[test]
fn who_asks_for_idle_queues_is_refused_busy_ones_as_well_and_renews_what_it_holds() {
    let mut mine = guest(0, vec![queues(1, busy())]);
    mine.caller = true;
    let machine = Machine::boot(config(vec![mine, guest(10, vec![queues(2, busy())])])).unwrap();
    let user = User::new(&machine, ME);
    let (lease, other) = (user.lease(), user.lease());
    let target = lease.attach(10).unwrap();
    let if_idle = |target, queue| kfd_gpreempt_entry { flags: KFD_GPREEMPT_ENTRY_IF_IDLE, ..entry(target, queue) };
    assert_eq!(lease.unmap(&[if_idle(target, 0)]).results(), [minus(Errno::EPERM)]);
    other.unmap(&[entry(0, 0)]);
    assert_eq!(lease.unmap(&[if_idle(0, 0)]).results(), [minus(Errno::EBUSY)]);
    // What is held is renewed, whatever is in its ring by now; the other queue is busy and stays.
    let lease = user.lease_for(500);
    let target = lease.offline(10);
    lease.unmap(&[entry(target, 0)]);
    pass(&machine, 400 * MS);
    let batch = lease.unmap(&[if_idle(target, ALL)]);
    pass(&machine, 200 * MS);
    assert_ne!(lease.state(target, 0) & KFD_GPREEMPT_STATE_PREEMPTED, 0);
    assert_eq!((batch.entries[0].result, batch.entries[0].num_queues), (0, 1));
}

#[test]
fn lazy_activation_of_an_existing_queue_unmaps_it_only_while_idle() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, Workload::Manual)])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    machine.submit(10, 1, work(100, MS)).unwrap();
    for queue in [0, 1] {
        let answer = lease.policy(entry(target, queue), KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, 0);
        assert_eq!(answer.queue.result, 0);
        assert_eq!(answer.queue.state & KFD_GPREEMPT_STATE_PREEMPTED != 0, queue == 0);
        assert_ne!(answer.queue.state & KFD_GPREEMPT_STATE_LAZY, 0);
    }
    // Doorbells bypass the kernel: work for the held queue waits for its mapping.
    let ticket = machine.submit(10, 0, work(1, MS)).unwrap();
    pass(&machine, 10 * MS);
    assert_eq!(machine.completed_at(ticket), None);
    lease.remap(&[entry(target, 0)]);
    pass(&machine, 10 * MS);
    assert!(machine.completed_at(ticket).is_some());
}

#[test]
fn a_hold_ends_after_max_hold_unless_it_is_named_again() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let lease = User::new(&machine, ME).lease_for(500);
    assert_eq!(lease.args.max_hold_ms, 500);
    let target = lease.offline(10);
    lease.unmap(&[entry(target, ALL)]);
    for _ in 0..5 {
        pass(&machine, 300 * MS);
        assert_eq!(lease.unmap(&[entry(target, 1)]).rounds, 0);
    }
    // Queue 0 was named 1.5 s ago, queue 1 just now.
    assert_eq!(lease.state(target, 0) & KFD_GPREEMPT_STATE_PREEMPTED, 0);
    assert_ne!(lease.state(target, 1) & KFD_GPREEMPT_STATE_PREEMPTED, 0);
    assert!(machine.executed(10, 0).unwrap() > 900);
    let executed = machine.executed(10, 1).unwrap();
    pass(&machine, 480 * MS);
    assert_eq!(machine.executed(10, 1), Ok(executed));
    pass(&machine, 40 * MS);
    assert!(machine.executed(10, 1).unwrap() > executed);
    let expired: Vec<u32> =
        lease.events().iter().filter(|e| e.r#type == KFD_GPREEMPT_EVENT_HOLD_EXPIRED).map(|e| e.queue_id).collect();
    assert_eq!(expired, [0, 1]);
    // The lease lives on.
    assert_eq!(lease.unmap(&[entry(target, ALL)]).ok, 1);
}

#[test]
fn the_watchdog_frees_a_queue_that_was_born_held() {
    let machine = one_guest();
    let lease = User::new(&machine, ME).lease_for(500);
    let target = lease.attach(10).unwrap();
    lease.policy(entry(target, ALL), KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, 0);
    pass(&machine, 1500 * MS);
    machine.create_queues(10, &queues(1, busy())).unwrap();
    pass(&machine, 490 * MS);
    assert_eq!(machine.executed(10, 1), Ok(0));
    pass(&machine, 20 * MS);
    assert!(machine.executed(10, 1).unwrap() > 0);
}

#[test]
fn max_hold_is_clamped_to_the_drivers_and_reported() {
    let machine = one_guest();
    let user = User::new(&machine, ME);
    assert_eq!(user.lease().args.max_hold_ms, 10_000);
    assert_eq!(user.lease_for(3_600_000).args.max_hold_ms, 10_000);
    assert_ne!(user.lease().args.lease_id, user.lease().args.lease_id);
}

#[test]
fn closing_a_lease_or_killing_its_holder_gives_everything_back() {
    let machine =
        Machine::boot(with_gpus(config(vec![guest(10, vec![queues(2, busy())]), guest(20, vec![])]), 2)).unwrap();
    for kill in [false, true] {
        let user = User::new(&machine, 20);
        let lease = user.lease();
        let target = lease.offline(10);
        lease.policy(entry(target, ALL), KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, 0);
        lease.unmap(&[entry(target, ALL)]);
        assert_eq!(progress(&machine, 10, 3, 10 * MS), 0);
        let file = lease.file;
        if kill {
            machine.kill(20).unwrap()
        } else {
            lease.close()
        }
        pass(&machine, 10 * MS);
        assert_eq!((0..4).map(|queue| progress(&machine, 10, queue, 10 * MS)).collect::<Vec<_>>(), [5, 5, 5, 5]);
        // A queue that comes later runs at once: a dead lease's mark counts as none.
        let new = machine.create_queues(10, &queues(1, busy())).unwrap();
        pass(&machine, 10 * MS);
        assert!(progress(&machine, 10, new[0], 10 * MS) > 0);
        new.iter().for_each(|id| machine.destroy_queue(10, *id).unwrap());
        pass(&machine, 10 * MS);
        let mut bytes = [0; 64];
        assert_eq!(
            machine.ioctl(Task { pid: 20 }, file, AMDKFD_IOC_GPREEMPT_ATTACH, &mut bytes[..32], &mut Memory::new(&[])),
            Err(Errno::EBADF)
        );
    }
}

#[test]
fn detaching_gives_back_what_was_held_of_that_target_alone() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), guest(11, vec![queues(1, busy())])]));
    let machine = machine.unwrap();
    let lease = User::new(&machine, ME).lease();
    let (a, b) = (lease.offline(10), lease.offline(11));
    lease.unmap(&[entry(a, ALL), entry(b, ALL)]);
    assert_eq!(lease.detach(a), Ok(0));
    assert_eq!(lease.detach(a), Err(Errno::ESRCH));
    pass(&machine, 10 * MS);
    assert_eq!((progress(&machine, 10, 0, 10 * MS), progress(&machine, 11, 0, 10 * MS)), (10, 0));
    assert_eq!(lease.unmap(&[entry(a, ALL)]).results(), [minus(Errno::ESRCH)]);
    // Attached anew it has no mark any more.
    let a = lease.attach(10).unwrap();
    assert_eq!(lease.unmap(&[entry(a, ALL)]).results(), [minus(Errno::EPERM)]);
}

#[test]
fn events_that_nobody_reads_are_counted_not_lost_in_silence() {
    let machine = one_guest();
    let lease = User::new(&machine, ME).lease();
    lease.offline(10);
    let spec = queues(1, Workload::Manual);
    for _ in 0..600 {
        let ids = machine.create_queues(10, &spec).unwrap();
        machine.destroy_queue(10, ids[0]).unwrap();
        pass(&machine, 10 * MS);
    }
    let mut seen = 0;
    loop {
        let events = lease.events();
        if events.is_empty() {
            break;
        }
        seen += events.len();
    }
    assert_eq!(seen, 1024);
    machine.create_queues(10, &spec).unwrap();
    let events = lease.events();
    assert_eq!((events.len(), events[0].lost), (1, 1200 - 1024));
    let task = lease.user.task;
    assert_eq!(machine.read(task, lease.file, &mut [0; 39]), Err(Errno::EINVAL));
    assert_eq!(machine.read(task, lease.file, &mut [0; 40]), Err(Errno::EAGAIN));
}

#[test]
fn a_queue_is_the_callers_while_the_caller_holds_it() {
    let machine = one_guest();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let held = KFD_GPREEMPT_STATE_PREEMPTED | KFD_GPREEMPT_STATE_MINE | KFD_GPREEMPT_STATE_PREEMPTIBLE;
    assert_eq!(lease.unmap(&[entry(target, 0)]).entries[0].state, held);
    let mapped = KFD_GPREEMPT_STATE_ACTIVE | KFD_GPREEMPT_STATE_PREEMPTIBLE;
    assert_eq!(lease.remap(&[entry(target, 0)]).entries[0].state, mapped);
}

#[test]
fn a_process_without_kfd_carries_the_mark_of_one_lease() {
    let mut late = guest(11, vec![]);
    late.runtime_enabled = false;
    let machine = Machine::boot(config(vec![late])).unwrap();
    let user = User::new(&machine, ME);
    let (first, second) = (user.lease(), user.lease());
    let preemptible = KFD_GPREEMPT_POLICY_PREEMPTIBLE;
    first.offline(11);
    let target = second.attach(11).unwrap();
    assert_eq!(second.policy(entry(target, ALL), preemptible, 0).queue.result, minus(Errno::EBUSY));
    first.close();
    assert_eq!(second.policy(entry(target, ALL), preemptible, 0).queue.result, 0);
}

#[test]
fn a_process_that_is_gone_can_still_be_detached_once() {
    let machine = one_guest();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    machine.kill(10).unwrap();
    assert_eq!(lease.unmap(&[entry(target, ALL)]).results(), [minus(Errno::ESRCH)]);
    assert_eq!(lease.detach(target), Ok(0));
    assert_eq!(lease.detach(target), Err(Errno::ESRCH));
    assert_eq!(lease.detach(target + 1), Err(Errno::ESRCH));
}
