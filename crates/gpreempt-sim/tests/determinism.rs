//! Equal machines and equal calls give equal answers, and the machine's clock is nobody's but its own.

mod kit;

use gpreempt_sim::config::{ClockKind, Scenario, Workload};
use gpreempt_sim::{Machine, Task};
use kit::*;

/// Plays a fixed list of calls and writes down every answer and every text.
fn play(seed: u64) -> Vec<String> {
    let mut config = with_gpus(config(vec![]), 2);
    config.scenario = Scenario::builtin_default(2);
    config.scenario.processes.iter_mut().for_each(|p| p.uid = None);
    let random = Workload::Poisson { rate: 500.0, packets: 3, packet_ns: 400 * US, occupancy: 0.3 };
    config.scenario.processes.push(guest(77, vec![queues(2, random)]));
    (config.caller.privileged, config.caller.root) = (true, true);
    config.seed = seed;
    let machine = Machine::boot(config).unwrap();
    let me = Task { pid: ME };
    let lease = User::new(&machine, ME).lease();
    let pids: Vec<u32> =
        machine.list(me, "/sys/class/kfd/kfd/proc").unwrap().iter().map(|p| p.parse().unwrap()).collect();
    let mut log = Vec::new();
    for round in 0..5 {
        for pid in pids.iter().filter(|pid| **pid != ME) {
            let target = lease.offline(*pid);
            log.push(format!("{:?}", lease.unmap(&[entry(target, ALL)])));
            pass(&machine, 3 * MS + round);
            log.push(format!("{:?}", lease.remap(&[entry(target, ALL)])));
            log.push(format!("{:?}", lease.queues(target, ALL)));
        }
        log.push(format!("{:?} {:?} {}", lease.status(), machine.counters(), machine.now()));
    }
    for file in ["hqds", "mqds", "rls"] {
        log.push(machine.read_text(me, &format!("/sys/kernel/debug/kfd/{file}")).unwrap());
    }
    log
}

#[test]
fn two_machines_with_equal_seeds_and_calls_are_equal_in_every_answer_and_text() {
    let (first, second) = (play(1), play(1));
    assert!(first.len() > 20);
    assert_eq!(first, second);
    assert_ne!(first, play(2));
}

#[test]
fn on_a_real_clock_a_call_takes_on_the_wall_what_it_is_modelled_to_take() {
    let mut config = config(vec![guest(10, vec![queues(1, busy())])]);
    config.clock = ClockKind::Real;
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let start = std::time::Instant::now();
    let batch = lease.unmap(&[entry(target, ALL)]);
    let wall = start.elapsed().as_nanos() as u64;
    // Never sooner than modelled; a busy host may be later, and the call reports that.
    let modelled = US + 100 + 10 * US + 200 * US + 640 * US;
    assert!(batch.elapsed_ns >= modelled, "{}", batch.elapsed_ns);
    assert!(wall >= modelled, "{wall}");
    assert_eq!(progress(&machine, 10, 0, 5 * MS), 0);
}

/// What the firmware of a slow machine takes to unmap, ns: long enough for a busy host to come in between.
const UNMAP: u64 = 200 * MS;

/// Two nodes on a real clock, each with one queue of process 10, where the firmware takes its time.
fn slow() -> Machine {
    let mut config = with_gpus(config(vec![guest(10, vec![queues(1, busy())])]), 2);
    config.clock = ClockKind::Real;
    config.cost.hws_unmap.ns = UNMAP;
    Machine::boot(config).unwrap()
}

fn wait_for_round(machine: &Machine) {
    while machine.counters().unmap_rounds == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn status_waits_for_a_round_of_its_node_and_of_no_other() {
    let machine = slow();
    let user = User::new(&machine, ME);
    let leases = [user.lease(), user.lease()];
    let gpus = gpu_ids(&machine);
    let target = leases[0].offline(10);
    let other = leases[1].attach(10).unwrap();
    let start = machine.now();
    std::thread::scope(|scope| {
        let unmap = scope.spawn(|| leases[0].unmap(&[entry(target, 0)]));
        wait_for_round(&machine);
        assert_eq!(leases[1].node_status(gpus[1]).unwrap().unmap_seq, 0);
        assert!(machine.now() - start < UNMAP);
        // In the middle of the round nothing would be mapped; after it, one queue is held.
        let status = leases[1].node_status(gpus[0]).unwrap();
        assert!(machine.now() - start >= UNMAP);
        assert_eq!((status.unmap_seq, status.preempted, status.active_hqd), (1, 1, 0));
        assert_ne!(leases[1].state(other, 0) & gpreempt_sys::KFD_GPREEMPT_STATE_PREEMPTED, 0);
        assert_eq!(unmap.join().unwrap().ok, 1);
    });
}

#[test]
fn commands_of_one_lease_run_one_after_the_other_and_those_of_two_side_by_side() {
    let machine = slow();
    let user = User::new(&machine, ME);
    let (lease, other) = (user.lease(), user.lease());
    let target = lease.offline(10);
    let start = machine.now();
    std::thread::scope(|scope| {
        let unmap = scope.spawn(|| lease.unmap(&[entry(target, 0)]));
        wait_for_round(&machine);
        other.attach(10).unwrap();
        assert!(machine.now() - start < UNMAP);
        // On the other node: but for the lease's lock, nothing to wait for.
        assert_eq!(lease.unmap(&[entry(target, 1)]).results(), [0]);
        assert!(machine.now() - start >= 2 * UNMAP);
        assert_eq!(unmap.join().unwrap().ok, 1);
    });
}

#[test]
fn a_lease_that_is_closed_in_the_middle_of_a_call_ends_with_the_call() {
    let mut config = config(vec![guest(10, vec![queues(1, busy())])]);
    config.clock = ClockKind::Real;
    config.cost.ioctl.ns = 20 * MS;
    let machine = Machine::boot(config).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let (task, file) = (lease.user.task, lease.file);
    let ioctls = machine.counters().ioctls;
    std::thread::scope(|scope| {
        let unmap = scope.spawn(|| lease.unmap(&[entry(target, 0)]));
        while machine.counters().ioctls == ioctls {
            std::thread::yield_now();
        }
        machine.close(task, file).unwrap();
        assert_eq!(unmap.join().unwrap().results(), [0]);
    });
    pass(&machine, 10 * MS);
    assert!(progress(&machine, 10, 0, 10 * MS) > 0);
}
