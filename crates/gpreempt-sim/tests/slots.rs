//! Slots: what fits on a node at a time, and how the firmware rotates the rest.

mod kit;

use gpreempt_sim::Machine;
use gpreempt_sim::config::{Hardware, Partition, QueueSpec, QueueType, Workload};
use gpreempt_sys::*;
use kit::*;

#[test]
fn twenty_four_queues_fit_and_the_twenty_fifth_makes_the_firmware_rotate() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(24, light())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    pass(&machine, 100 * MS);
    assert_eq!(machine.counters().slices, 0);
    let status = lease.status();
    assert_eq!((status.total_hqd, status.active_hqd, status.free_hqd), (24, 24, 0));
    assert_eq!(status.flags & KFD_GPREEMPT_HQD_OVERSUBSCRIBED, 0);
    for queue in 0..24 {
        assert_eq!(machine.executed(10, queue), Ok(100));
    }
    assert!(lease.events().is_empty());
    machine.create_queues(10, &queues(2, light())).unwrap();
    pass(&machine, 100 * MS);
    // Told once: when it begins, not with each queue more.
    let events: Vec<_> = lease.events().iter().map(|event| (event.r#type, event.gpu_id)).collect();
    assert_eq!(events, [(KFD_GPREEMPT_EVENT_OVERSUBSCRIBED, gpu_ids(&machine)[0])]);
    machine.destroy_queue(10, 24).unwrap();
    pass(&machine, 100 * MS);
    assert!(machine.counters().slices >= 8);
    let status = lease.status();
    assert_eq!((status.total_hqd, status.active_hqd, status.free_hqd), (24, 25, 0));
    assert_ne!(status.flags & KFD_GPREEMPT_HQD_OVERSUBSCRIBED, 0);
}

#[test]
fn a_hundred_queues_on_twenty_four_slots_all_make_progress_within_five_slices() {
    let machine =
        Machine::boot(config(vec![guest(10, vec![queues(50, light())]), guest(11, vec![queues(50, light())])]));
    let machine = machine.unwrap();
    // Each turn is a slice of 10 ms and the change to it: some waves to restore and 24 queues to map.
    let turn = 10 * MS + MS;
    for _ in 0..4 {
        let before: Vec<u64> = all(&machine);
        pass(&machine, 5 * turn);
        for (index, (before, after)) in before.iter().zip(all(&machine)).enumerate() {
            assert!(after >= before + 9, "queue {index}: {before} to {after}");
        }
    }

    fn all(machine: &Machine) -> Vec<u64> {
        [10, 11].iter().flat_map(|pid| (0..50).map(|queue| machine.executed(*pid, queue).unwrap())).collect()
    }
}

#[test]
fn the_rotation_goes_on_over_rounds_that_come_more_often_than_slices() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(40, light())]), guest(11, vec![])])).unwrap();
    let before: Vec<u64> = (0..40).map(|queue| machine.executed(10, queue).unwrap()).collect();
    for _ in 0..40 {
        // A slice is 10 ms.
        let ids = machine.create_queues(11, &queues(1, Workload::Manual)).unwrap();
        pass(&machine, 5 * MS);
        machine.destroy_queue(11, ids[0]).unwrap();
        pass(&machine, 5 * MS);
    }
    for queue in 0..40 {
        let packets = machine.executed(10, queue).unwrap() - before[queue as usize];
        // 24 of 40 at a time, less what the rounds take.
        assert!((100..=300).contains(&packets), "queue {queue}: {packets}");
    }
}

#[test]
fn a_slice_changes_only_the_queues_that_leave_and_come() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(25, light())])])).unwrap();
    pass(&machine, 10 * MS);
    // The first slice is over: 23 queues stay, one leaves, one comes.
    let silent: Vec<u32> = {
        let before: Vec<u64> = (0..25).map(|q| machine.service(10, q).unwrap()).collect();
        pass(&machine, 20 * US);
        (0..25).filter(|q| machine.service(10, *q).unwrap() == before[*q as usize]).collect()
    };
    assert_eq!(silent.len(), 2, "{silent:?}");
}

#[test]
fn more_processes_than_process_slots_rotate_too() {
    let guests = (0..14).map(|n| guest(10 + n, vec![queues(1, light())])).collect();
    let machine = Machine::boot(config(guests)).unwrap();
    let lease = User::new(&machine, ME).lease();
    let status = lease.status();
    assert_eq!((status.proc_slots, status.procs, status.active_hqd), (13, 14, 14));
    assert_ne!(status.flags & KFD_GPREEMPT_HQD_OVERSUBSCRIBED, 0);
    pass(&machine, 300 * MS);
    for n in 0..14 {
        assert!(machine.executed(10 + n, 0).unwrap() > 200);
    }
}

#[test]
fn no_more_processes_are_on_the_hardware_than_there_are_process_slots() {
    for (guests, together) in [(13, 13), (14, 13), (20, 13)] {
        let mut config = config((0..guests).map(|n| guest(10 + n, vec![queues(1, light())])).collect());
        config.caller.root = true;
        let machine = Machine::boot(config).unwrap();
        let mut most = 0;
        for _ in 0..20 {
            pass(&machine, 7 * MS);
            most = most.max(mapped(&machine));
        }
        assert_eq!(most, together, "{guests} processes");
        assert_eq!(machine.counters().slices > 0, guests > together);
    }
}

/// Queues that are in a slot now, of a machine with one node of four XCCs.
fn mapped(machine: &Machine) -> u32 {
    let text = machine.read_text(gpreempt_sim::Task { pid: ME }, "/sys/kernel/debug/kfd/hqds").unwrap();
    let slots = text.split("CP Pipe").skip(1);
    // The third register of a slot, after the address of the line and two others, is CP_HQD_ACTIVE.
    let active = slots.filter(|slot| {
        let words = slot.lines().nth(1).and_then(|line| line.split_once(": "));
        words.is_some_and(|(_, words)| words.split(' ').nth(2) == Some("00000001"))
    });
    active.count() as u32 / 4
}

#[test]
fn a_node_of_one_xcc_has_six_process_slots() {
    for guests in [6, 7] {
        let mut config = config((0..guests).map(|n| guest(10 + n, vec![queues(1, light())])).collect());
        let Hardware::Model { partition, .. } = &mut config.hardware else { unreachable!() };
        *partition = Partition::Cpx;
        let machine = Machine::boot(config).unwrap();
        let lease = User::new(&machine, ME).lease();
        for gpu_id in gpu_ids(&machine) {
            let status = lease.node_status(gpu_id).unwrap();
            assert_eq!((status.num_xcc, status.total_hqd, status.proc_slots), (1, 24, 6));
            assert_eq!(status.flags & KFD_GPREEMPT_HQD_OVERSUBSCRIBED != 0, guests > 6);
        }
    }
}

#[test]
fn two_queues_with_global_wave_sync_take_turns() {
    let gws = |n| {
        guest(
            n,
            vec![{
                let mut q = queues(1, light());
                q.gws = true;
                q
            }],
        )
    };
    let machine = Machine::boot(config(vec![gws(10), gws(11), guest(12, vec![queues(1, light())])])).unwrap();
    pass(&machine, 200 * MS);
    let share = |pid| machine.executed(pid, 0).unwrap();
    assert!((80..=110).contains(&share(10)) && (80..=110).contains(&share(11)), "{} {}", share(10), share(11));
    assert_eq!(share(12), 200);
}

#[test]
fn sdma_queues_have_slots_and_engines_of_their_own() {
    let mut copies = queues(16, Workload::Continuous { packet_ns: MS, occupancy: 1.0, depth: 2 });
    copies.kind = QueueType::Sdma;
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy()), copies])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let status = lease.status();
    assert_eq!((status.sdma_slots, status.sdma_active, status.active_hqd), (64, 16, 1));
    pass(&machine, 100 * MS);
    assert_eq!(machine.executed(10, 0), Ok(100));
    // 16 queues on the two engines that serve PCIe: the six that serve XGMI do not help.
    assert_eq!((1..=16).map(|queue| machine.executed(10, queue)).collect::<Vec<_>>(), [Ok(12); 16]);
    let more = QueueSpec { kind: QueueType::Sdma, ..queues(1, Workload::Manual) };
    assert_eq!(machine.create_queues(10, &more), Err(nix::errno::Errno::ENOMEM));
}

#[test]
fn an_sdma_queue_waits_for_those_on_its_own_engine_alone() {
    let mut copies = queues(3, busy());
    copies.kind = QueueType::Sdma;
    let machine = Machine::boot(config(vec![guest(10, vec![copies])])).unwrap();
    pass(&machine, 100 * MS);
    // Engines 0, 1 and 0 again.
    assert_eq!([0, 1, 2].map(|queue| machine.executed(10, queue)), [Ok(50), Ok(100), Ok(50)]);
}

#[test]
fn a_queue_of_a_full_node_is_refused_as_the_kernel_refuses_it() {
    use nix::errno::Errno;
    let machine = Machine::boot(config(vec![guest(10, vec![])])).unwrap();
    assert_eq!(machine.create_queues(10, &queues(255, Workload::Manual)).map(|ids| ids.len()), Ok(255));
    assert_eq!(machine.create_queues(10, &queues(1, Workload::Manual)), Err(Errno::ENOSPC));
    let mut copies = queues(65, Workload::Manual);
    copies.kind = QueueType::Sdma;
    machine.spawn(&guest(11, vec![])).unwrap();
    assert_eq!(machine.create_queues(11, &copies), Err(Errno::ENOMEM));
    // Ids are the lowest free ones.
    machine.destroy_queue(10, 7).unwrap();
    // Once the rounds of all that were created are through.
    pass(&machine, 1000 * MS);
    assert_eq!(machine.create_queues(10, &queues(1, Workload::Manual)), Ok(vec![7]));
}

#[test]
fn a_process_has_1024_queue_ids_over_all_nodes() {
    let machine = Machine::boot(with_gpus(config(vec![guest(10, vec![])]), 5)).unwrap();
    assert_eq!(machine.create_queues(10, &queues(204, Workload::Manual)).map(|ids| ids.len()), Ok(1020));
    let here = |count| QueueSpec { nodes: vec![0], ..queues(count, Workload::Manual) };
    assert_eq!(machine.create_queues(10, &here(4)).map(|ids| ids.len()), Ok(4));
    assert_eq!(machine.create_queues(10, &here(1)), Err(nix::errno::Errno::ENOMEM));
}

#[test]
fn a_guest_that_cannot_have_its_queues_ends_and_leaves_nothing() {
    use nix::errno::Errno;
    let machine = Machine::boot(config(vec![guest(10, vec![])])).unwrap();
    let spec = queues(1, Workload::Manual);
    let endless = Workload::Periodic { period_ns: 0, packets: 1, packet_ns: MS, occupancy: 0.5 };
    let nothing = Workload::Continuous { packet_ns: 0, occupancy: 0.5, depth: 1 };
    let more = Workload::Poisson { rate: f64::INFINITY, packets: 1, packet_ns: MS, occupancy: 0.5 };
    let wrong = [
        QueueSpec { percent: 101, ..spec.clone() },
        QueueSpec { priority: 16, ..spec.clone() },
        QueueSpec { ring_bytes: 5000, ..spec.clone() },
        QueueSpec { nodes: vec![1], ..spec.clone() },
        QueueSpec { work: endless, ..spec.clone() },
        QueueSpec { work: nothing, ..spec.clone() },
        QueueSpec { work: more, ..spec.clone() },
    ];
    for (n, wrong) in wrong.into_iter().enumerate() {
        let pid = 20 + n as u32;
        assert_eq!(machine.spawn(&guest(pid, vec![spec.clone(), wrong.clone()])), Err(Errno::EINVAL), "{wrong:?}");
        assert_eq!(machine.executed(pid, 0), Err(Errno::ESRCH));
        assert_eq!(machine.create_queues(10, &wrong), Err(Errno::EINVAL), "{wrong:?}");
    }
    let status = User::new(&machine, ME).lease().status();
    assert_eq!((status.queues_total, status.procs), (0, 0));
    assert_eq!(machine.spawn(&guest(10, vec![])), Err(Errno::EEXIST));
}
