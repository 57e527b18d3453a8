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

#[test]
fn two_threads_of_a_real_machine_work_on_different_nodes_at_the_same_time() {
    let mut config = with_gpus(config(vec![guest(10, vec![queues(1, busy())])]), 2);
    config.clock = ClockKind::Real;
    config.cost.hws_unmap.ns = 50 * MS;
    let machine = Machine::boot(config).unwrap();
    let user = User::new(&machine, ME);
    let leases = [user.lease(), user.lease()];
    let start = machine.now();
    let target = leases[0].offline(10);
    std::thread::scope(|scope| {
        let machine = &machine;
        let unmap = scope.spawn(|| leases[0].unmap(&[entry(target, 0)]));
        while machine.counters().unmap_rounds == 0 {
            std::thread::yield_now();
        }
        // A status call does not wait for the round of another caller.
        let status = leases[1].status();
        assert_eq!(status.unmap_seq, 1);
        assert!(machine.now() - start < 50 * MS);
        assert_eq!(unmap.join().unwrap().ok, 1);
    });
    assert!(machine.now() - start >= 50 * MS);
}
