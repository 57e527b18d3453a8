//! Rounds: what one call costs a node, and what stops and goes on.

mod kit;

use gpreempt_sim::Machine;
use gpreempt_sim::config::Workload;
use gpreempt_sim::pm4::{Packet, UnmapSelect, decode};
use gpreempt_sys::*;
use kit::*;

/// Wave slots of an MI308X in SPX mode: 4 XCCs x 20 CUs x 4 SIMDs x 8 waves.
const WAVES: u64 = 4 * 20 * 4 * 8;
/// Saving or restoring all of them, XCCs in parallel, with the test's cost model.
const SAVE: u64 = WAVES / 4 * 1000;
const RESTORE: u64 = WAVES / 4 * 2000;

#[test]
fn an_unmapped_queue_stands_still_and_goes_on_where_it_was() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    // Two queues share the node: each gets half.
    assert_eq!(progress(&machine, 10, 0, 100 * MS), 50);
    let batch = lease.unmap(&[entry(target, 0), entry(target, 1)]);
    assert_eq!((batch.answer, batch.ok, batch.failed, batch.nodes, batch.rounds), (Ok(0), 2, 0, 1, 1));
    assert_eq!(progress(&machine, 10, 0, 100 * MS), 0);
    let batch = lease.remap(&[entry(target, 1)]);
    // Nothing was mapped, so there was no round: only a runlist.
    assert_eq!((batch.ok, batch.rounds), (1, 0));
    pass(&machine, 10 * MS);
    assert_eq!(progress(&machine, 10, 0, 100 * MS), 0);
    assert_eq!(progress(&machine, 10, 1, 100 * MS), 100);
}

#[test]
fn a_round_takes_what_its_packets_and_waves_take() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), guest(11, vec![queues(1, busy())])]));
    let machine = machine.unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let before = machine.counters();
    let start = machine.now();
    let batch = lease.unmap(&[entry(target, ALL)]);
    let unmap = 10 * US + 200 * US + SAVE;
    // ioctl, one mark, the unmap, the runlist for the queue that stays.
    assert_eq!(batch.max_node_ns, 100 + unmap + 20 * US);
    assert_eq!(batch.elapsed_ns, US + batch.max_node_ns);
    assert_eq!(machine.now() - start, batch.elapsed_ns);
    assert_eq!(lease.status().last_unmap_ns, 100 + unmap);
    let after = machine.counters();
    // UNMAP_QUEUES, QUERY_STATUS, RUN_LIST.
    assert_eq!(after.packets - before.packets, 3);
    assert_eq!(after.waves_saved - before.waves_saved, WAVES);
    // Nothing is left of the second round but marks: both queues are where they should be.
    let again = lease.unmap(&[entry(target, ALL)]);
    assert_eq!((again.ok, again.rounds, again.max_node_ns), (1, 0, 100));
}

#[test]
fn the_call_returns_before_the_rest_of_the_node_runs_again() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), guest(11, vec![queues(1, busy())])]));
    let machine = machine.unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.unmap(&[entry(target, ALL)]);
    let at_return = machine.service(11, 0).unwrap();
    // RUN_LIST, one MAP_QUEUES, and the half of the waves that the bystander had.
    let silent = 50 * US + 5 * US + RESTORE / 2;
    pass(&machine, silent);
    assert_eq!(machine.service(11, 0).unwrap(), at_return);
    pass(&machine, MS);
    assert_eq!(machine.service(11, 0).unwrap(), at_return + MS);
}

#[test]
fn nodes_of_one_lease_call_work_in_parallel_and_stock_calls_one_after_the_other() {
    let machine = Machine::boot(with_gpus(config(vec![guest(10, vec![queues(1, busy())])]), 4)).unwrap();
    let user = User::new(&machine, ME);
    let lease = user.lease();
    let target = lease.offline(10);
    let batch = lease.unmap(&[entry(target, ALL)]);
    assert_eq!((batch.nodes, batch.rounds), (4, 4));
    assert_eq!(batch.elapsed_ns, US + batch.max_node_ns);
    lease.remap(&[entry(target, ALL)]);
    lease.close();
    pass(&machine, 10 * MS);

    machine.ptrace_seize(user.task, 10).unwrap();
    user.debug_enable(10).unwrap();
    user.snapshot(10);
    pass(&machine, 10 * MS);
    let start = machine.now();
    assert_eq!(user.suspend(10, &[0, 1, 2, 3]).0, Ok(4));
    let node = 100 + 10 * US + 200 * US + SAVE;
    assert_eq!(machine.now() - start, US + 400 * US + 4 * node + 4 * 60 * US);
}

#[test]
fn a_grace_period_lets_waves_finish_instead_of_saving_them() {
    let short = Workload::Continuous { packet_ns: 100 * US, occupancy: 1.0, depth: 4 };
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, short)])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let before = machine.counters();
    // 71 x 1000 clocks of 1420 MHz are 50 us: half of a packet, so half of the waves are done by then.
    let batch = lease.unmap_with(&[entry(target, ALL)], 71);
    let after = machine.counters();
    assert_eq!(after.waves_saved - before.waves_saved, WAVES / 2);
    assert_eq!(batch.max_node_ns, 100 + 10 * US + 50 * US + 200 * US + SAVE / 2);
    // The grace period is set, and set back after the unmap; nothing is left for a runlist.
    assert_eq!(after.packets - before.packets, 4);
    let packets = hiq(&machine);
    let [.., Packet::WriteData(set), Packet::UnmapQueues(unmap), Packet::QueryStatus(_), Packet::WriteData(reset)] =
        packets.as_slice()
    else {
        panic!("{packets:?}")
    };
    // CP_IQ_WAIT_TIME2 with SCH_WAVE.
    assert_eq!((set.register, set.value, reset.register, reset.value), (0x30b0, 71 << 8, 0x30b0, 0));
    assert_eq!((unmap.select, unmap.reset), (UnmapSelect::AllNonStatic, false));
}

#[test]
fn a_grace_period_lasts_no_longer_than_the_longest_wave() {
    let short = Workload::Continuous { packet_ns: 100 * US, occupancy: 1.0, depth: 4 };
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, short)])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let before = machine.counters().waves_saved;
    // 255 x 1000 clocks of 1420 MHz are 180 us.
    let batch = lease.unmap_with(&[entry(target, ALL)], 255);
    assert_eq!(machine.counters().waves_saved, before);
    assert_eq!(batch.max_node_ns, 100 + 10 * US + 100 * US + 200 * US);
}

/// The packets in the HIQ of the first node.
fn hiq(machine: &Machine) -> Vec<Packet> {
    decode(&machine.hiq(gpu_ids(machine)[0]).unwrap()).map(Result::unwrap).collect()
}

#[test]
fn the_hiq_tells_the_firmware_what_it_may_use_and_which_runlist_is_next() {
    let machine =
        Machine::boot(config(vec![guest(10, vec![queues(2, busy())]), guest(11, vec![queues(1, busy())])])).unwrap();
    let packets = hiq(&machine);
    let [Packet::SetResources(resources), Packet::RunList(first)] = packets.as_slice() else { panic!("{packets:?}") };
    assert_eq!((resources.vmid_mask, resources.queue_mask.count_ones()), (0xfff8, 24));
    // Of 9 s, 10 % are the firmware's own and the rest is for two engines; in 100 ms.
    assert_eq!(resources.unmap_latency, 40);
    // Two MAP_PROCESS and three MAP_QUEUES.
    assert_eq!((first.ib_dwords, first.processes, first.chain), (2 * 21 + 3 * 7, 2, false));
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    for turn in 0..40 {
        let entries = [entry(target, turn % 2)];
        lease.unmap(&entries);
        lease.remap(&entries);
    }
    // The ring is 512 dwords long: 30 rounds of UNMAP_QUEUES, QUERY_STATUS and RUN_LIST.
    let packets = hiq(&machine);
    assert_eq!(packets.iter().filter(|p| matches!(p, Packet::UnmapQueues(_))).count(), 30);
    assert!(matches!(packets.last(), Some(Packet::RunList(list)) if list.ib_dwords == first.ib_dwords));
    assert_eq!(machine.hiq(1), Err(nix::errno::Errno::ENOENT));
}

#[test]
fn a_swap_is_one_round() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), guest(11, vec![queues(1, busy())])]));
    let machine = machine.unwrap();
    let lease = User::new(&machine, ME).lease();
    let (a, b) = (lease.offline(10), lease.offline(11));
    lease.unmap(&[entry(b, ALL)]);
    pass(&machine, 10 * MS);
    let rounds = machine.counters().unmap_rounds;
    let batch = lease.swap(&[entry(a, ALL)], &[entry(b, ALL)]);
    assert_eq!((batch.ok, batch.rounds), (2, 1));
    assert_eq!(machine.counters().unmap_rounds, rounds + 1);
    pass(&machine, 10 * MS);
    assert_eq!((progress(&machine, 10, 0, 10 * MS), progress(&machine, 11, 0, 10 * MS)), (0, 10));
}

#[test]
fn every_update_of_a_queue_costs_its_node_a_round() {
    let mut mine = guest(0, vec![queues(1, busy())]);
    mine.caller = true;
    let machine = Machine::boot(config(vec![mine, guest(11, vec![queues(1, busy())])])).unwrap();
    let user = User::new(&machine, ME);
    let lease = user.lease();
    let ring = (lease.queues(0, 0).unwrap()[0].ring_base, 65536);
    for percent in [0, 0, 100, 100] {
        let rounds = lease.status().unmap_seq;
        assert_eq!(user.update(0, ring, percent), Ok(0));
        assert_eq!(lease.status().unmap_seq, rounds + 1, "percent {percent}");
        pass(&machine, 10 * MS);
        let expected = if percent == 0 { 0 } else { 5 };
        assert_eq!(progress(&machine, ME, 0, 10 * MS), expected);
    }
}

#[test]
fn a_round_asks_nothing_of_other_nodes() {
    let machine = Machine::boot(with_gpus(config(vec![guest(10, vec![queues(1, busy())])]), 2)).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let before = machine.service(10, 1).unwrap();
    let start = machine.now();
    let gpu_id = gpu_ids(&machine)[0];
    let batch = lease.unmap(&[kfd_gpreempt_entry { gpu_id, ..entry(target, ALL) }]);
    assert_eq!((batch.nodes, batch.entries[0].num_queues), (1, 1));
    assert_eq!(machine.service(10, 1).unwrap() - before, machine.now() - start);
}

#[test]
fn the_teardown_of_any_process_that_opened_kfd_costs_every_node_a_round() {
    let machine = Machine::boot(with_gpus(
        config(vec![guest(10, vec![queues(1, busy())]), guest(11, vec![]), {
            let mut never_opened = guest(12, vec![]);
            never_opened.runtime_enabled = false;
            never_opened
        }]),
        2,
    ))
    .unwrap();
    machine.kill(12).unwrap();
    pass(&machine, 10 * MS);
    assert_eq!(machine.counters().unmap_rounds, 0);
    machine.kill(11).unwrap();
    pass(&machine, 10 * MS);
    assert_eq!(machine.counters().unmap_rounds, 2);
}

#[test]
fn an_unmap_waits_until_the_runlist_before_it_is_through() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.unmap(&[entry(target, 0)]);
    // The firmware is still mapping queue 1 with its half of the waves when the next call comes.
    let mapping = 50 * US + 5 * US + RESTORE / 2;
    let batch = lease.unmap(&[entry(target, 1)]);
    // Mapped a moment ago, its waves leave as they came.
    assert_eq!(batch.elapsed_ns, mapping + 200 * US + SAVE);
    assert_eq!(progress(&machine, 10, 1, 10 * MS), 0);
}

#[test]
fn a_queue_is_marked_when_its_node_is_locked_not_before() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), guest(11, vec![])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    // The round of this one is under way when the call comes.
    machine.create_queues(11, &queues(1, busy())).unwrap();
    let batch = lease.unmap(&[entry(target, 0)]);
    assert!(batch.elapsed_ns > US + batch.max_node_ns);
    assert_eq!(lease.queues(target, 0).unwrap()[0].preempted_ns, batch.max_node_ns + US);
}

/// A way for queue 0 of process 10 to end.
type End = (&'static str, fn(&Machine));

#[test]
fn a_queue_that_ends_runs_until_a_round_has_saved_its_waves() {
    let two = || Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), guest(11, vec![queues(1, busy())])]));
    let ways: [End; 2] = [
        ("destroyed", |machine| machine.destroy_queue(10, 0).unwrap()),
        ("its owner killed", |machine| machine.kill(10).unwrap()),
    ];
    for (way, end) in ways {
        let machine = two().unwrap();
        let lease = User::new(&machine, ME).lease();
        end(&machine);
        let before = machine.service(11, 0).unwrap();
        // While the driver writes the packets, both share the node.
        pass(&machine, 10 * US);
        assert_eq!(machine.service(11, 0).unwrap() - before, 5 * US, "{way}");
        pass(&machine, 200 * US + SAVE + 20 * US);
        assert_eq!(machine.counters().waves_saved, WAVES, "{way}");
        assert_eq!(lease.status().queues_total, 1, "{way}");
    }
}

#[test]
fn every_call_of_a_debugger_and_every_update_takes_its_figure() {
    let mut mine = guest(0, vec![queues(2, Workload::Manual)]);
    mine.caller = true;
    let machine = Machine::boot(config(vec![mine, guest(11, vec![queues(1, Workload::Manual)])])).unwrap();
    let user = User::new(&machine, ME);
    let ring = (user.lease().queues(0, 0).unwrap()[0].ring_base, 65536);
    let took = |call: &dyn Fn()| {
        pass(&machine, 10 * MS);
        let start = machine.now();
        call();
        machine.now() - start
    };
    // Nothing runs, so a round saves no wave.
    let round = 10 * US + 200 * US + 20 * US;
    assert_eq!(took(&|| assert_eq!(user.debug_enable(ME), Ok(0))), US + 3 * US + round);
    assert_eq!(took(&|| assert_eq!(user.snapshot(ME).len(), 2)), US + 2 * 7 * US);
    let suspend = took(&|| assert_eq!(user.suspend(ME, &[0]).0, Ok(1)));
    // One is marked; the states of both are copied.
    assert_eq!(suspend, US + 400 * US + 100 + round + 2 * 60 * US);
    assert_eq!(took(&|| assert_eq!(user.resume(ME, &[0]).0, Ok(1))), US + 500 * US + 100 + round);
    assert_eq!(took(&|| assert_eq!(user.update(0, ring, 100), Ok(0))), US + 11 * US + round);
}
