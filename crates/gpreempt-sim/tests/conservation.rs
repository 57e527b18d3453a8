//! Work is conserved: what was submitted is executed exactly once, whatever happens to the queues.

mod kit;

use gpreempt_sim::config::{QueueType, Workload};
use gpreempt_sim::{Machine, Ticket, Work};
use gpreempt_sys::*;
use kit::*;
use proptest::prelude::*;

/// Something that happens to a machine.
#[derive(Clone, Debug)]
enum Step {
    Submit { queue: u32, packets: u32, packet_us: u64, occupancy: f64 },
    Pass { us: u64 },
    Unmap { queue: u32, grace: u32 },
    Remap { queue: u32 },
    UnmapAll,
    RemapAll,
    Evict(bool),
    Suspend { queue: u32 },
    Resume { queue: u32 },
    Crowd,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u32, 1..20u32, 1..3000u64, 0.01..=1.0f64)
            .prop_map(|(queue, packets, packet_us, occupancy)| Step::Submit { queue, packets, packet_us, occupancy }),
        4 => (1..20_000u64).prop_map(|us| Step::Pass { us }),
        2 => (0..4u32, 0..256u32).prop_map(|(queue, grace)| Step::Unmap { queue, grace }),
        2 => (0..4u32).prop_map(|queue| Step::Remap { queue }),
        1 => Just(Step::UnmapAll),
        1 => Just(Step::RemapAll),
        1 => any::<bool>().prop_map(Step::Evict),
        1 => (0..4u32).prop_map(|queue| Step::Suspend { queue }),
        1 => (0..4u32).prop_map(|queue| Step::Resume { queue }),
        1 => Just(Step::Crowd),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_submitted_is_executed_exactly_once_however_often_it_was_preempted(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let copy = gpreempt_sim::config::QueueSpec { kind: QueueType::Sdma, ..queues(1, Workload::Manual) };
        let machine = Machine::boot(config(vec![
            guest(10, vec![queues(3, Workload::Manual), copy]),
            guest(11, vec![queues(2, busy())]),
        ])).unwrap();
        let user = User::new(&machine, ME);
        let lease = user.lease();
        let target = lease.offline(10);
        machine.ptrace_seize(user.task, 10).unwrap();
        user.debug_enable(10).unwrap();
        user.snapshot(10);

        let mut submitted = [0u64; 4];
        let mut service = [0u64; 4];
        let mut tickets: Vec<(u32, Ticket)> = Vec::new();
        let mut evictions = 0;
        for step in steps {
            match step {
                Step::Submit { queue, packets, packet_us, occupancy } => {
                    let work = Work { packets, packet_ns: packet_us * US, occupancy };
                    tickets.push((queue, machine.submit(10, queue, work).unwrap()));
                    submitted[queue as usize] += u64::from(packets);
                    service[queue as usize] += u64::from(packets) * packet_us * US;
                }
                Step::Pass { us } => pass(&machine, us * US),
                Step::Unmap { queue, grace } => prop_assert_eq!(lease.unmap_with(&[entry(target, queue)], grace).ok, 1),
                Step::Remap { queue } => prop_assert_eq!(lease.remap(&[entry(target, queue)]).ok, 1),
                Step::UnmapAll => prop_assert_eq!(lease.unmap(&[entry(target, ALL)]).ok, 1),
                Step::RemapAll => prop_assert_eq!(lease.remap(&[entry(target, ALL)]).ok, 1),
                Step::Evict(evict) => {
                    if evict || evictions > 0 {
                        machine.evict(10, evict).unwrap();
                        evictions = if evict { evictions + 1 } else { evictions - 1 };
                    }
                }
                Step::Suspend { queue } => prop_assert_eq!(user.suspend(10, &[queue]).0, Ok(1)),
                Step::Resume { queue } => prop_assert_eq!(user.resume(10, &[queue]).0, Ok(1)),
                Step::Crowd => {
                    machine.create_queues(11, &queues(5, busy())).unwrap();
                }
            }
            for queue in 0..4 {
                prop_assert!(machine.executed(10, queue).unwrap() <= submitted[queue as usize]);
                prop_assert_eq!(machine.submitted(10, queue).unwrap(), submitted[queue as usize]);
                prop_assert!(machine.service(10, queue).unwrap() <= service[queue as usize]);
            }
        }

        // Let everything go and finish.
        user.debug_disable(10).unwrap();
        (0..evictions).for_each(|_| machine.evict(10, false).unwrap());
        lease.close();
        machine.kill(11).unwrap();
        pass(&machine, 3_600_000 * MS);
        for queue in 0..4 {
            prop_assert_eq!(machine.executed(10, queue).unwrap(), submitted[queue as usize]);
            prop_assert_eq!(machine.service(10, queue).unwrap(), service[queue as usize]);
        }
        // Packets of one ring finish in their order, and each was reported once.
        for queue in 0..4 {
            let times: Vec<u64> = tickets.iter().filter(|(q, _)| *q == queue)
                .map(|(_, ticket)| machine.completed_at(*ticket).expect("finished")).collect();
            prop_assert!(times.is_sorted());
        }
        let mut reported: Vec<Ticket> = std::iter::from_fn(|| machine.run_until(machine.now())).map(|(t, _)| t).collect();
        reported.sort();
        let all: Vec<Ticket> = tickets.iter().map(|(_, ticket)| *ticket).collect();
        prop_assert_eq!(reported, all);
    }
}

#[test]
fn queues_share_a_node_by_the_waves_they_have() {
    let half = Workload::Continuous { packet_ns: MS, occupancy: 0.5, depth: 4 };
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy()), queues(2, half)])])).unwrap();
    // 1 + 1/2 + 1/2 of the wave slots: each wave has half of its time.
    pass(&machine, 100 * MS);
    assert_eq!([0, 1, 2].map(|queue| machine.executed(10, queue).unwrap()), [50, 50, 50]);
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let waves: Vec<u32> = lease.queues(target, ALL).unwrap().iter().map(|q| q.waves).collect();
    assert_eq!(waves, [1280, 640, 640]);
    lease.unmap(&[entry(target, 0)]);
    pass(&machine, 10 * MS);
    // The two halves fit beside each other.
    assert_eq!([1, 2].map(|queue| progress(&machine, 10, queue, 100 * MS)), [100, 100]);
}

#[test]
fn a_ring_runs_its_packets_in_order_and_reports_the_last_of_each_submission() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, Workload::Manual)])])).unwrap();
    let first = machine.submit(10, 0, work(3, MS)).unwrap();
    let second = machine.submit(10, 0, work(1, 5 * MS)).unwrap();
    assert_eq!(machine.run_until(100 * MS), Some((first, 3 * MS)));
    assert_eq!(machine.now(), 3 * MS);
    assert_eq!(machine.run_until(7 * MS), None);
    assert_eq!(machine.now(), 7 * MS);
    assert_eq!(machine.run_until(100 * MS), Some((second, 8 * MS)));
    assert_eq!((machine.completed_at(first), machine.completed_at(second)), (Some(3 * MS), Some(8 * MS)));
    assert_eq!(machine.executed(10, 0), Ok(4));
}

#[test]
fn work_put_into_a_closed_loop_runs_after_what_is_in_flight() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())])])).unwrap();
    machine.advance_to(10 * MS + 1);
    // The packet under way and three behind it, then ours.
    let ticket = machine.submit(10, 0, work(2, MS)).unwrap();
    assert_eq!(machine.submitted(10, 0), Ok(10 + 4 + 2 + 4));
    assert_eq!(machine.run_until(100 * MS), Some((ticket, 16 * MS)));
    assert_eq!(progress(&machine, 10, 0, 10 * MS), 10);
}

#[test]
fn guests_ring_their_doorbells_by_their_own_clocks() {
    let periodic = Workload::Periodic { period_ns: 10 * MS, packets: 2, packet_ns: MS, occupancy: 1.0 };
    let poisson = Workload::Poisson { rate: 200.0, packets: 1, packet_ns: US, occupancy: 0.01 };
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, periodic), queues(2, poisson)])])).unwrap();
    machine.advance_to(1_000_005 * US);
    assert_eq!(machine.submitted(10, 0), Ok(202));
    assert_eq!(machine.executed(10, 0), Ok(200));
    let bursts = [1, 2].map(|queue| machine.executed(10, queue).unwrap());
    assert!(bursts.iter().all(|n| (150..250).contains(n)), "{bursts:?}");
    assert_ne!(bursts[0], bursts[1]);
    // Held, their work piles up; then all of it runs.
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.unmap(&[entry(target, ALL)]);
    let (executed, submitted) = (machine.executed(10, 0).unwrap(), machine.submitted(10, 0).unwrap());
    pass(&machine, 100 * MS);
    assert_eq!(machine.executed(10, 0), Ok(executed));
    assert_eq!(machine.submitted(10, 0), Ok(submitted + 20));
    let status = lease.queues(target, 0).unwrap()[0];
    assert_eq!((status.read_ptr, status.write_ptr), (executed, submitted + 20));
    assert_eq!(status.flags, KFD_GPREEMPT_POINTERS_VALID | KFD_GPREEMPT_WAVES_VALID);
    lease.remap(&[entry(target, ALL)]);
    pass(&machine, 100 * MS);
    assert!(machine.submitted(10, 0).unwrap() - machine.executed(10, 0).unwrap() <= 2);
}

#[test]
fn a_submission_that_makes_no_sense_is_refused() {
    use nix::errno::Errno;
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, Workload::Manual)])])).unwrap();
    let good = work(1, MS);
    for (pid, queue, work, errno) in [
        (99, 0, good, Errno::ESRCH),
        (10, 9, good, Errno::ENOENT),
        (10, 0, Work { packets: 0, ..good }, Errno::EINVAL),
        (10, 0, Work { packet_ns: 0, ..good }, Errno::EINVAL),
        (10, 0, Work { occupancy: 0.0, ..good }, Errno::EINVAL),
        (10, 0, Work { occupancy: 1.01, ..good }, Errno::EINVAL),
        (10, 0, Work { occupancy: f64::NAN, ..good }, Errno::EINVAL),
    ] {
        assert_eq!(machine.submit(pid, queue, work), Err(errno), "{work:?}");
    }
}
