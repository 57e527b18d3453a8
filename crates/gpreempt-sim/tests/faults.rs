//! Faults: hung firmware, resets, and targets that vanish in the middle of a call.

mod kit;

use gpreempt_sim::Machine;
use gpreempt_sim::config::{Config, Fault, FaultKind, FaultPoint};
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;

fn with_fault(mut config: Config, at: FaultPoint, kind: FaultKind) -> Config {
    config.scenario.preempt_timeout_ms = Some(2000);
    config.scenario.faults.push(Fault { at, kind });
    config
}

fn two_nodes() -> Config {
    with_gpus(config(vec![guest(10, vec![queues(2, busy())]), guest(11, vec![queues(1, busy())])]), 2)
}

#[test]
fn hung_firmware_costs_its_node_the_timeout_and_the_other_node_nothing() {
    let config = with_fault(two_nodes(), FaultPoint::Round { nth: 1 }, FaultKind::HwsTimeout { node: 0 });
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let gpus = gpu_ids(&machine);
    let on = |gpu_id| kfd_gpreempt_entry { gpu_id, ..entry(target, ALL) };
    let batch = lease.unmap(&[on(gpus[0]), on(gpus[1])]);
    assert_eq!(batch.results(), [minus(Errno::ETIME), 0]);
    assert_eq!((batch.ok, batch.failed, batch.nodes, batch.rounds), (1, 1, 2, 2));
    // The marks stay.
    assert_eq!((batch.entries[0].num_queues, batch.entries[1].num_queues), (2, 2));
    assert_eq!(batch.max_node_ns, 200 + 10 * US + 2000 * MS);
    let status = lease.node_status(gpus[0]).unwrap();
    assert_eq!(status.flags, KFD_GPREEMPT_HQD_HWS | KFD_GPREEMPT_HQD_STOPPED | KFD_GPREEMPT_HQD_RESETTING);
    assert!(lease.events().iter().any(|e| e.r#type == KFD_GPREEMPT_EVENT_NODE_RESET && e.gpu_id == gpus[0]));
    // This one answers that it is being reset, and then takes runlists again.
    assert_eq!(lease.unmap(&[on(gpus[0])]).results(), [minus(Errno::EACCES)]);
    pass(&machine, 200 * MS);
    assert_eq!(lease.node_status(gpus[0]).unwrap().flags, KFD_GPREEMPT_HQD_HWS);
}

#[test]
fn a_reset_of_one_gpu_evicts_every_process_from_all_gpus_for_ever() {
    let machine = Machine::boot(with_fault(two_nodes(), FaultPoint::Time(50 * MS), FaultKind::NodeReset { node: 0 }));
    let machine = machine.unwrap();
    let task = gpreempt_sim::Task { pid: ME };
    machine.advance_to(51 * MS);
    // Meanwhile KFD takes no process.
    assert_eq!(machine.open(task, "/dev/kfd"), Err(Errno::EINVAL));
    assert_eq!(machine.spawn(&guest(12, vec![queues(1, busy())])), Err(Errno::EINVAL));
    assert_eq!(machine.executed(12, 0), Err(Errno::ESRCH));
    machine.advance_to(200 * MS);
    for (pid, queue) in [(10, 0), (10, 2), (11, 0), (11, 1)] {
        assert_eq!(progress(&machine, pid, queue, 20 * MS), 0, "queue {queue} of {pid}");
    }
    // Newcomers run, on the GPU that was reset too.
    machine.spawn(&guest(12, vec![queues(1, busy())])).unwrap();
    pass(&machine, 10 * MS);
    assert_eq!((progress(&machine, 12, 0, 10 * MS), progress(&machine, 12, 1, 10 * MS)), (10, 10));
    assert!(machine.open(task, "/dev/kfd").is_ok());
}

#[test]
fn a_reset_stops_all_partitions_of_its_gpu() {
    let mut config = with_fault(two_nodes(), FaultPoint::Time(50 * MS), FaultKind::NodeReset { node: 1 });
    let gpreempt_sim::config::Hardware::Model { partition, .. } = &mut config.hardware else { unreachable!() };
    *partition = gpreempt_sim::config::Partition::Cpx;
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let gpus = gpu_ids(&machine);
    machine.advance_to(51 * MS);
    let resetting = |gpu: &u32| lease.node_status(*gpu).unwrap().flags & KFD_GPREEMPT_HQD_RESETTING != 0;
    assert_eq!(gpus.iter().map(resetting).collect::<Vec<_>>(), [true, true, true, true, false, false, false, false]);
    let events: Vec<u32> = lease.events().iter().map(|e| e.gpu_id).collect();
    assert_eq!(events, gpus[..4]);
}

#[test]
fn a_reset_that_meets_another_lasts_as_long_as_any() {
    let mut config = with_fault(two_nodes(), FaultPoint::Time(50 * MS), FaultKind::NodeReset { node: 0 });
    config.scenario.faults.push(Fault { at: FaultPoint::Time(120 * MS), kind: FaultKind::NodeReset { node: 0 } });
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let gpu = gpu_ids(&machine)[0];
    for (ms, resetting) in [(149, true), (151, true), (219, true), (221, false)] {
        machine.advance_to(ms * MS);
        assert_eq!(lease.node_status(gpu).unwrap().flags & KFD_GPREEMPT_HQD_RESETTING != 0, resetting, "after {ms} ms");
    }
}

#[test]
fn hung_firmware_loses_every_queue_of_its_node_mapped_or_not() {
    let config = with_fault(two_nodes(), FaultPoint::Round { nth: 2 }, FaultKind::HwsTimeout { node: 0 });
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    assert_eq!(lease.unmap(&[entry(target, 0)]).results(), [0]);
    assert_eq!(lease.unmap(&[entry(target, 1)]).results(), [minus(Errno::ETIME)]);
    let reset: Vec<bool> =
        lease.queues(target, ALL).unwrap().iter().map(|q| q.state & KFD_GPREEMPT_STATE_RESET != 0).collect();
    // Two on the hung node, of which one was held; two on the other.
    assert_eq!(reset, [true, true, false, false]);
}

#[test]
fn hung_firmware_changes_no_mapped_set() {
    let crowd = config(vec![guest(10, vec![queues(30, light())])]);
    let config = with_fault(crowd, FaultPoint::Round { nth: 1 }, FaultKind::HwsTimeout { node: 0 });
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    pass(&machine, 100 * MS);
    let slices = machine.counters().slices;
    assert!(slices > 0);
    assert_eq!(lease.unmap(&[entry(target, 0)]).results(), [minus(Errno::ETIME)]);
    assert_eq!(machine.counters().slices, slices);
}

#[test]
fn a_process_with_a_queue_that_was_reset_can_never_update_another_there() {
    let mut mine = guest(0, vec![queues(2, busy())]);
    mine.caller = true;
    let fault = FaultKind::QueueReset { pid: ME, queue: 1 };
    let machine = Machine::boot(with_fault(config(vec![mine]), FaultPoint::Round { nth: 1 }, fault)).unwrap();
    let user = User::new(&machine, ME);
    let ring = (user.lease().queues(0, 0).unwrap()[0].ring_base, 65536);
    assert_eq!(user.update(0, ring, 100), Ok(0));
    assert_eq!(user.update(0, ring, 100), Err(Errno::EACCES));
    let mut args = kfd_ioctl_destroy_queue_args { queue_id: 1, pad: 0 };
    assert_eq!(user.call(AMDKFD_IOC_DESTROY_QUEUE, &mut args), Ok(0));
    assert_eq!(user.update(0, ring, 100), Err(Errno::EACCES));
}

#[test]
fn a_call_that_meets_a_reset_says_so_and_leaves_its_marks() {
    let config = with_fault(two_nodes(), FaultPoint::Batch { nth: 1, entry: 0 }, FaultKind::NodeReset { node: 0 });
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let (first, second) = (gpu_ids(&machine)[0], gpu_ids(&machine)[1]);
    machine.create_queues(10, &gpreempt_sim::config::QueueSpec { nodes: vec![0], ..queues(1, busy()) }).unwrap();
    pass(&machine, 10 * MS);
    let on = |gpu_id| kfd_gpreempt_entry { gpu_id, ..entry(target, ALL) };
    let batch = lease.unmap(&[on(second), on(first)]);
    // Its queues were evicted by the reset before they were marked, so nothing of that node changed.
    assert_eq!(batch.results(), [0, 0]);
    assert_ne!(batch.entries[1].state & KFD_GPREEMPT_STATE_EVICTED, 0);
    assert_ne!(batch.entries[1].state & KFD_GPREEMPT_STATE_PREEMPTED, 0);
}

#[test]
fn a_round_that_a_reset_cuts_short_answers_eio() {
    let config = with_fault(two_nodes(), FaultPoint::Round { nth: 1 }, FaultKind::NodeReset { node: 1 });
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let gpus = gpu_ids(&machine);
    let on = |gpu_id| kfd_gpreempt_entry { gpu_id, ..entry(target, ALL) };
    let batch = lease.unmap(&[on(gpus[0]), on(gpus[1])]);
    assert_eq!(batch.results(), [0, minus(Errno::EIO)]);
    assert_ne!(batch.entries[1].state & KFD_GPREEMPT_STATE_PREEMPTED, 0);
}

#[test]
fn an_update_during_a_reset_finds_nothing_to_unmap_and_succeeds() {
    let config = with_fault(two_nodes(), FaultPoint::Time(50 * MS), FaultKind::NodeReset { node: 0 });
    let machine = Machine::boot(config).unwrap();
    let gpu = gpu_ids(&machine)[0];
    let user = User::new(&machine, ME);
    let lease = user.lease();
    let mut queue = compute_queue(gpu);
    user.call(AMDKFD_IOC_CREATE_QUEUE, &mut queue).unwrap();
    machine.advance_to(60 * MS);
    assert_ne!(lease.node_status(gpu).unwrap().flags & KFD_GPREEMPT_HQD_RESETTING, 0);
    let (rounds, runlists) = (machine.counters().unmap_rounds, lease.node_status(gpu).unwrap().runlist_seq);
    let ring = (queue.ring_base_address, queue.ring_size);
    assert_eq!(user.update(queue.queue_id, ring, 50), Ok(0));
    assert_eq!(machine.counters().unmap_rounds, rounds);
    assert_eq!(lease.node_status(gpu).unwrap().runlist_seq, runlists);
}

#[test]
fn a_round_that_is_asked_for_during_a_reset_answers_eio() {
    let config = with_fault(two_nodes(), FaultPoint::Time(50 * MS), FaultKind::NodeReset { node: 0 });
    let machine = Machine::boot(config).unwrap();
    let user = User::new(&machine, ME);
    machine.ptrace_seize(user.task, 10).unwrap();
    user.debug_enable(10).unwrap();
    user.snapshot(10);
    machine.advance_to(60 * MS);
    let rounds = machine.counters().unmap_rounds;
    // To the debugger that is an error of the hardware.
    assert_eq!(user.suspend(10, &[0]), (Ok(0), vec![KFD_DBG_QUEUE_ERROR_MASK]));
    assert_eq!(machine.counters().unmap_rounds, rounds);
    pass(&machine, 200 * MS);
    assert_eq!(user.suspend(10, &[0]), (Ok(1), vec![0]));
}

#[test]
fn a_queue_that_the_round_reset_answers_eacces_every_time_and_the_others_live() {
    let fault = FaultKind::QueueReset { pid: 10, queue: 1 };
    let machine = Machine::boot(with_fault(two_nodes(), FaultPoint::Round { nth: 1 }, fault)).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let entries = [entry(target, 0), entry(target, 1)];
    let eacces = [0, minus(Errno::EACCES)];
    assert_eq!(lease.unmap(&entries).results(), eacces);
    assert_ne!(lease.state(target, 1) & KFD_GPREEMPT_STATE_RESET, 0);
    for _ in 0..2 {
        assert_eq!(lease.remap(&entries).results(), eacces);
    }
    pass(&machine, 10 * MS);
    assert!(progress(&machine, 10, 0, 10 * MS) > 0);
    assert_eq!(progress(&machine, 10, 1, 10 * MS), 0);
    assert_eq!(lease.status().preempted, 0);
}

#[test]
fn a_queue_that_will_not_yield_holds_up_the_next_unmap_of_its_node_and_is_reset_there() {
    let fault = FaultKind::QueueReset { pid: 11, queue: 0 };
    let machine = Machine::boot(with_fault(two_nodes(), FaultPoint::Time(MS), fault)).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let own = lease.attach(11).unwrap();
    // Until somebody unmaps the node nobody notices.
    pass(&machine, 10 * MS);
    assert!(progress(&machine, 11, 0, 10 * MS) > 0);
    assert_eq!(lease.state(own, 0) & KFD_GPREEMPT_STATE_RESET, 0);
    let before = machine.counters();
    let batch = lease.unmap(&[entry(target, 0)]);
    assert_eq!(batch.results(), [0]);
    assert_eq!((batch.entries[0].num_queues, batch.rounds), (1, 1));
    // Three queues had a third of 2560 waves each; those of the one that is reset are not saved.
    let waves = machine.counters().waves_saved - before.waves_saved;
    assert_eq!(waves, 2 * (2560 / 3));
    // HWS gives up after (2000 - 200) / 2 ms.
    let unmap = 10 * US + 200 * US + waves.div_ceil(4) * US;
    assert_eq!(batch.max_node_ns, 100 + unmap + 900 * MS + 3 * MS + 20 * US);
    assert_ne!(lease.state(own, 0) & KFD_GPREEMPT_STATE_RESET, 0);
    pass(&machine, 10 * MS);
    assert_eq!(progress(&machine, 11, 0, 10 * MS), 0);
    assert!(progress(&machine, 10, 2, 10 * MS) > 0);
}

#[test]
fn a_queue_or_process_that_vanishes_in_the_middle_of_a_batch_fails_its_entries_alone() {
    for (kind, results) in [
        (FaultKind::QueueDestroyed { pid: 10, queue: 1 }, [0, minus(Errno::ENOENT), 0]),
        // Both of its queues are gone when the node is locked, though one was named before it died.
        (FaultKind::ProcessGone { pid: 10 }, [minus(Errno::ESRCH), minus(Errno::ESRCH), 0]),
    ] {
        let config = with_fault(two_nodes(), FaultPoint::Batch { nth: 1, entry: 1 }, kind.clone());
        let machine = Machine::boot(config).unwrap();
        let lease = User::new(&machine, ME).lease();
        let (a, b) = (lease.offline(10), lease.offline(11));
        let batch = lease.unmap(&[entry(a, 0), entry(a, 1), entry(b, 0)]);
        assert_eq!(batch.answer, Ok(0));
        assert_eq!(batch.results(), results, "{kind:?}");
        assert_eq!(progress(&machine, 11, 0, 10 * MS), 0);
        // All that is left is given back.
        lease.close();
        pass(&machine, 10 * MS);
        assert!(progress(&machine, 11, 0, 10 * MS) > 0);
    }
}

#[test]
fn a_fault_strikes_at_its_time() {
    let config = with_fault(two_nodes(), FaultPoint::Time(50 * MS), FaultKind::NodeReset { node: 0 });
    let machine = Machine::boot(config).unwrap();
    let user = User::new(&machine, ME);
    let gpuid = gpu_ids(&machine)[0];
    let mut args = kfd_ioctl_smi_events_args { gpuid, anon_fd: 0 };
    user.call(AMDKFD_IOC_SMI_EVENTS, &mut args).unwrap();
    let smi = args.anon_fd as i32;
    let mask = KFD_SMI_EVENT_MASK_FROM_INDEX(KFD_SMI_EVENT_GPU_PRE_RESET)
        | KFD_SMI_EVENT_MASK_FROM_INDEX(KFD_SMI_EVENT_GPU_POST_RESET)
        | KFD_SMI_EVENT_MASK_FROM_INDEX(KFD_SMI_EVENT_QUEUE_EVICTION);
    machine.write(user.task, smi, &mask.to_le_bytes()).unwrap();
    machine.advance_to(49 * MS);
    assert_eq!(machine.read(user.task, smi, &mut [0; 64]), Err(Errno::EAGAIN));
    machine.advance_to(200 * MS);
    assert!(machine.poll(user.task, smi).unwrap().readable);
    let mut bytes = [0; 64];
    let count = machine.read(user.task, smi, &mut bytes).unwrap();
    // The driver suspends all processes for it: trigger 3.
    let told = format!("3 1 \n9 {} -{ME} {gpuid:x} 3\n4 1 \n", 50 * MS);
    assert_eq!(std::str::from_utf8(&bytes[..count]), Ok(told.as_str()));
}

#[test]
fn a_guest_that_has_the_pid_of_the_caller_gets_another_one_and_its_faults_with_it() {
    // 4000 is the first pid that the machine would choose.
    let guests = vec![guest(ME, vec![queues(2, busy())]), guest(4000, vec![queues(1, busy())])];
    let fault = FaultKind::QueueDestroyed { pid: ME, queue: 1 };
    let machine = Machine::boot(with_fault(config(guests), FaultPoint::Time(MS), fault)).unwrap();
    assert_eq!(machine.executed(ME, 0), Err(Errno::ENOENT), "the number is the caller's");
    assert_eq!(machine.executed(4000, 0), Ok(0));
    assert_eq!(machine.executed(4001, 1), Ok(0));
    pass(&machine, 10 * MS);
    assert_eq!(machine.executed(4001, 1), Err(Errno::ENOENT), "the fault follows its guest");
    assert!(machine.executed(4001, 0).unwrap() > 0);
}
