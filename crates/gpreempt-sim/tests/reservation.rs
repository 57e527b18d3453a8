//! The reservation: how many offline queues take part at a time, and that all have their turn.

mod kit;

use gpreempt_sim::Machine;
use gpreempt_sim::config::{Config, ProcessSpec, QueueSpec, QueueType};
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;

fn root(processes: Vec<ProcessSpec>) -> Config {
    let mut config = config(processes);
    config.caller.privileged = true;
    config
}

#[test]
fn offline_queues_beyond_the_limit_are_left_out_and_online_ones_never() {
    let machine =
        Machine::boot(root(vec![guest(10, vec![queues(30, light())]), guest(11, vec![queues(10, light())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let answer = lease.reserve(25, 50).unwrap();
    assert_eq!((answer.online_reserved, answer.offline_max, answer.num_nodes), (6, 12, 1));
    let status = lease.status();
    assert_eq!((status.active_hqd, status.offline_used, status.throttled, status.free_hqd), (22, 12, 18, 2));
    assert_eq!((status.online_reserved, status.offline_max), (6, 12));
    assert_eq!(status.flags & KFD_GPREEMPT_HQD_OVERSUBSCRIBED, 0);
    let throttled =
        lease.queues(target, ALL).unwrap().iter().filter(|q| q.state & KFD_GPREEMPT_STATE_THROTTLED != 0).count();
    assert_eq!(throttled, 18);
    // Its owner gone, the reservation is gone.
    lease.close();
    let lease = User::new(&machine, ME).lease();
    let status = lease.status();
    assert_eq!((status.active_hqd, status.throttled, status.offline_max), (40, 0, 24));
    assert_ne!(status.flags & KFD_GPREEMPT_HQD_OVERSUBSCRIBED, 0);
}

#[test]
fn throttled_queues_rotate_by_least_recent_service_whoever_is_named() {
    let machine = Machine::boot(root(vec![guest(10, vec![queues(30, light())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.reserve(50, 50).unwrap();
    let turns = 10;
    for _ in 0..turns {
        // Names all of them: that must not change whose turn it is.
        assert_eq!(lease.remap(&[entry(target, ALL)]).rounds, 1);
        pass(&machine, 20 * MS);
    }
    let executed: Vec<u64> = (0..30).map(|queue| machine.executed(10, queue).unwrap()).collect();
    // 12 of 30 at a time: in 10 turns of 20 ms each has 4, and one more or less where stamps are equal.
    assert!(executed.iter().all(|packets| (55..=100).contains(packets)), "{executed:?}");
}

#[test]
fn naming_a_queue_that_is_not_throttled_asks_for_no_round() {
    let machine = Machine::boot(root(vec![guest(10, vec![queues(2, light())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.reserve(50, 50).unwrap();
    assert_eq!(lease.remap(&[entry(target, ALL)]).rounds, 0);
}

/// A way to end what a lease said about a target.
type Way = (&'static str, fn(Lease<'_>, u32));

#[test]
fn a_throttled_queue_comes_in_as_soon_as_it_is_no_offline_queue_any_more() {
    const PREEMPTIBLE: u32 = KFD_GPREEMPT_POLICY_PREEMPTIBLE;
    let ways: [Way; 3] = [
        ("its lease ends", |lease, _| lease.close()),
        ("its mark is cleared", |lease, target| {
            assert_eq!(lease.policy(entry(target, ALL), 0, PREEMPTIBLE).queue.result, 0);
        }),
        ("it is detached", |lease, target| assert_eq!(lease.detach(target), Ok(0))),
    ];
    for (way, end) in ways {
        let machine = Machine::boot(root(vec![guest(10, vec![queues(20, light())])])).unwrap();
        let user = User::new(&machine, ME);
        let (owner, lease) = (user.lease(), user.lease());
        let target = lease.offline(10);
        owner.reserve(50, 50).unwrap();
        assert_eq!(owner.status().throttled, 8);
        end(lease, target);
        let status = owner.status();
        assert_eq!((status.throttled, status.active_hqd), (0, 20), "{way}");
        pass(&machine, 10 * MS);
        for queue in 0..20 {
            assert!(progress(&machine, 10, queue, 10 * MS) > 0, "{way}: queue {queue}");
        }
    }
}

#[test]
fn a_throttled_queue_that_gets_global_wave_sync_comes_in() {
    let mut mine = guest(0, vec![queues(2, light())]);
    mine.caller = true;
    let machine = Machine::boot(root(vec![mine])).unwrap();
    let user = User::new(&machine, ME);
    let lease = user.lease();
    lease.policy(entry(0, ALL), KFD_GPREEMPT_POLICY_PREEMPTIBLE, 0);
    lease.reserve(0, 4).unwrap();
    assert_eq!(lease.status().throttled, 2);
    let mut args = kfd_ioctl_alloc_queue_gws_args { queue_id: 0, num_gws: 64, ..Default::default() };
    assert_eq!(user.call(AMDKFD_IOC_ALLOC_QUEUE_GWS, &mut args), Ok(0));
    assert_eq!(lease.status().throttled, 1);
    pass(&machine, 10 * MS);
    assert!(progress(&machine, ME, 0, 10 * MS) > 0);
}

#[test]
fn a_held_queue_leaves_its_turn_to_another() {
    let machine = Machine::boot(root(vec![guest(10, vec![queues(13, light())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.reserve(50, 50).unwrap();
    assert_eq!(lease.status().throttled, 1);
    lease.unmap(&[entry(target, 3)]);
    let status = lease.status();
    assert_eq!((status.throttled, status.offline_used, status.preempted), (0, 12, 1));
}

#[test]
fn a_reservation_needs_the_right_and_has_one_owner() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, light())])])).unwrap();
    assert_eq!(User::new(&machine, ME).lease().reserve(10, 50).map(|_| ()), Err(Errno::EPERM));
    let machine = Machine::boot(root(vec![guest(10, vec![queues(1, light())])])).unwrap();
    let user = User::new(&machine, ME);
    let (mine, other) = (user.lease(), user.lease());
    assert_eq!(mine.reserve(60, 41).map(|_| ()), Err(Errno::EINVAL));
    // 3 % of 24 slots round down to none, and the caller is told.
    assert_eq!(mine.reserve(3, 90).map(|r| r.online_reserved), Ok(0));
    assert_eq!(other.reserve(10, 50).map(|_| ()), Err(Errno::EBUSY));
    mine.close();
    assert_eq!(other.reserve(10, 50).map(|r| r.offline_max), Ok(12));
    assert_eq!(other.reserve(0, 0).map(|r| r.offline_max), Ok(24), "lifted: offline work may use every slot");
    assert_eq!(user.lease().reserve(10, 50).map(|r| r.offline_max), Ok(12));
}

#[test]
fn queues_with_global_wave_sync_and_sdma_queues_are_never_left_out() {
    let gws = QueueSpec { gws: true, ..queues(1, light()) };
    let copy = QueueSpec { kind: QueueType::Sdma, ..queues(1, light()) };
    let machine = Machine::boot(root(vec![guest(10, vec![queues(2, light()), gws, copy])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    // 4 % of 24 slots: none.
    assert_eq!(lease.reserve(0, 4).map(|r| r.offline_max), Ok(0));
    let throttled = |queue| lease.state(target, queue) & KFD_GPREEMPT_STATE_THROTTLED != 0;
    assert_eq!([0, 1, 2, 3].map(throttled), [true, true, false, false]);
}
