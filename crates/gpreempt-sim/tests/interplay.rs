//! What else may happen to a queue while a lease holds it: the reasons not to run are independent of each other.

mod kit;

use gpreempt_sim::Machine;
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;

/// A caller with two queues of its own, one of which it holds, and a bystander.
fn mine() -> Machine {
    let mut mine = guest(0, vec![queues(2, busy())]);
    mine.caller = true;
    Machine::boot(config(vec![mine, guest(11, vec![queues(1, busy())])])).unwrap()
}

fn runs(machine: &Machine, pid: u32, queue: u32) -> bool {
    pass(machine, 10 * MS);
    progress(machine, pid, queue, 20 * MS) > 0
}

#[test]
fn nothing_but_a_remap_runs_a_held_queue() {
    let machine = mine();
    let user = User::new(&machine, ME);
    let lease = user.lease();
    // An own queue needs no mark.
    assert_eq!(lease.unmap(&[entry(0, 0)]).results(), [0]);
    let ring = (lease.queues(0, 0).unwrap()[0].ring_base, 65536);
    let mask = [0xffu32; 4];
    let set_cu_mask = || {
        let mut memory = Memory::new(zerocopy::IntoBytes::as_bytes(&mask));
        let mut args = kfd_ioctl_set_cu_mask_args { queue_id: 0, num_cu_mask: 128, cu_mask_ptr: BASE };
        assert_eq!(user.ioctl(user.kfd, AMDKFD_IOC_SET_CU_MASK, &mut args, &mut memory), Ok(0));
    };
    let gws = |num_gws| {
        let mut args = kfd_ioctl_alloc_queue_gws_args { queue_id: 0, num_gws, ..Default::default() };
        assert_eq!(user.call(AMDKFD_IOC_ALLOC_QUEUE_GWS, &mut args), Ok(0));
    };
    let debugged = || {
        user.debug_enable(ME).unwrap();
        user.snapshot(ME);
        assert_eq!(user.suspend(ME, &[0]).0, Ok(1));
        assert_eq!(user.resume(ME, &[0]).0, Ok(1));
        user.debug_disable(ME).unwrap();
    };
    let changes: [(&str, &dyn Fn()); 6] = [
        ("UPDATE_QUEUE 100", &|| assert_eq!(user.update(0, ring, 100), Ok(0))),
        ("UPDATE_QUEUE 0, then 100", &|| {
            assert_eq!(user.update(0, ring, 0), Ok(0));
            assert_eq!(user.update(0, ring, 100), Ok(0));
        }),
        ("SET_CU_MASK", &set_cu_mask),
        ("ALLOC_QUEUE_GWS", &|| {
            gws(64);
            gws(0);
        }),
        ("evict and restore", &|| {
            machine.evict(ME, true).unwrap();
            machine.evict(ME, false).unwrap();
        }),
        ("debugger suspend and resume", &debugged),
    ];
    for (name, change) in changes {
        change();
        assert!(!runs(&machine, ME, 0), "{name}");
        assert!(runs(&machine, ME, 1) && runs(&machine, 11, 0), "{name}: a bystander stands still");
    }
    lease.remap(&[entry(0, 0)]);
    assert!(runs(&machine, ME, 0));
}

/// Another reason not to run: its state bit, how it begins, how it ends.
type Reason<'a> = (u32, &'a dyn Fn(), &'a dyn Fn());

#[test]
fn a_remapped_queue_waits_for_every_other_reason_to_end() {
    let machine = mine();
    let user = User::new(&machine, ME);
    let lease = user.lease();
    let ring = (lease.queues(0, 0).unwrap()[0].ring_base, 65536);
    user.debug_enable(ME).unwrap();
    user.snapshot(ME);
    let reasons: [Reason<'_>; 3] = [
        (KFD_GPREEMPT_STATE_DISABLED, &|| assert_eq!(user.update(0, ring, 0), Ok(0)), &|| {
            assert_eq!(user.update(0, ring, 100), Ok(0))
        }),
        (KFD_GPREEMPT_STATE_EVICTED, &|| machine.evict(ME, true).unwrap(), &|| machine.evict(ME, false).unwrap()),
        (KFD_GPREEMPT_STATE_SUSPENDED, &|| assert_eq!(user.suspend(ME, &[0]).0, Ok(1)), &|| {
            assert_eq!(user.resume(ME, &[0]).0, Ok(1))
        }),
    ];
    for (bit, begin, end) in reasons {
        for hold_first in [true, false] {
            if hold_first {
                lease.unmap(&[entry(0, 0)]);
                begin();
            } else {
                begin();
                lease.unmap(&[entry(0, 0)]);
            }
            assert_eq!(lease.state(0, 0) & !KFD_GPREEMPT_STATE_MINE, bit | KFD_GPREEMPT_STATE_PREEMPTED);
            // Nothing changes in the runlist, so there is no round.
            let batch = lease.remap(&[entry(0, 0)]);
            assert_eq!((batch.rounds, batch.entries[0].state), (0, bit));
            assert!(!runs(&machine, ME, 0), "{bit:#x}");
            end();
            assert!(runs(&machine, ME, 0), "{bit:#x}");
        }
    }
}

#[test]
fn evictions_nest() {
    let machine = mine();
    machine.evict(ME, true).unwrap();
    machine.evict(ME, true).unwrap();
    machine.evict(ME, false).unwrap();
    assert!(!runs(&machine, ME, 0));
    // A queue created meanwhile is evicted too.
    let new = machine.create_queues(ME, &queues(1, busy())).unwrap()[0];
    assert!(!runs(&machine, ME, new));
    machine.evict(ME, false).unwrap();
    assert!(runs(&machine, ME, 0) && runs(&machine, ME, new));
    let task = gpreempt_sim::Task { pid: ME };
    let gpu = gpu_ids(&machine)[0];
    let text = machine.read_text(task, &format!("/sys/class/kfd/kfd/proc/{ME}/stats_{gpu}/evicted_ms")).unwrap();
    // 30 ms of trying queue 0 and 30 ms of trying the new one.
    assert_eq!(text, "60\n");
}

#[test]
fn an_eviction_is_of_the_process_on_every_node_with_queues_there_or_without() {
    let machine = Machine::boot(config(vec![guest(10, vec![]), guest(11, vec![queues(1, busy())])])).unwrap();
    // Evicted without a queue: one that comes meanwhile waits.
    machine.evict(10, true).unwrap();
    let queue = machine.create_queues(10, &queues(1, busy())).unwrap()[0];
    assert!(!runs(&machine, 10, queue));
    machine.evict(10, false).unwrap();
    assert!(runs(&machine, 10, queue));
    // Restored without a queue: the next one runs.
    machine.evict(10, true).unwrap();
    machine.destroy_queue(10, queue).unwrap();
    pass(&machine, 10 * MS);
    machine.evict(10, false).unwrap();
    let queue = machine.create_queues(10, &queues(1, busy())).unwrap()[0];
    assert!(runs(&machine, 10, queue));
}

#[test]
fn smi_events_tell_a_process_of_its_own_evictions_and_root_of_all() {
    for (root, all, heard) in [(false, true, false), (true, false, false), (true, true, true)] {
        let mut config = config(vec![guest(10, vec![queues(1, busy())])]);
        (config.caller.privileged, config.caller.root) = (true, root);
        let machine = Machine::boot(config).unwrap();
        let user = User::new(&machine, ME);
        let gpuid = gpu_ids(&machine)[0];
        let mut args = kfd_ioctl_smi_events_args { gpuid, anon_fd: 0 };
        assert_eq!(user.call(AMDKFD_IOC_SMI_EVENTS, &mut args), Ok(0));
        let smi = args.anon_fd as i32;
        let both = [KFD_SMI_EVENT_QUEUE_EVICTION, KFD_SMI_EVENT_QUEUE_RESTORE];
        let mask = both.map(KFD_SMI_EVENT_MASK_FROM_INDEX).iter().sum::<u64>()
            | if all { KFD_SMI_EVENT_MASK_FROM_INDEX(KFD_SMI_EVENT_ALL_PROCESS) } else { 0 };
        assert_eq!(machine.write(user.task, smi, &[0; 7]), Err(Errno::EFAULT));
        assert_eq!(machine.write(user.task, smi, &mask.to_le_bytes()), Ok(8));
        let evicted = machine.now();
        machine.evict(10, true).unwrap();
        pass(&machine, MS);
        machine.evict(10, false).unwrap();
        let restored = machine.now();
        let mut bytes = [0; 256];
        let answer = machine.read(user.task, smi, &mut bytes);
        let lines = format!("9 {evicted} -10 {gpuid:x} 2\na {restored} -10 {gpuid:x} 0\n");
        let expected = if heard { Ok(lines.len()) } else { Err(Errno::EAGAIN) };
        assert_eq!(answer, expected);
        if heard {
            assert_eq!(std::str::from_utf8(&bytes[..lines.len()]), Ok(lines.as_str()));
        }
    }
}

#[test]
fn a_held_queue_leaves_without_another_round() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())]), guest(11, vec![queues(1, busy())])]));
    let machine = machine.unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.unmap(&[entry(target, ALL)]);
    let rounds = lease.status().unmap_seq;
    machine.destroy_queue(10, 0).unwrap();
    pass(&machine, 10 * MS);
    let status = lease.status();
    assert_eq!((status.unmap_seq, status.queues_total, status.preempted), (rounds, 2, 1));
    assert_eq!(lease.remap(&[entry(target, 0)]).results(), [minus(Errno::ENOENT)]);
    machine.kill(10).unwrap();
    let status = lease.status();
    assert_eq!((status.queues_total, status.preempted, status.procs), (1, 0, 1));
    assert_eq!(lease.remap(&[entry(target, ALL)]).results(), [minus(Errno::ESRCH)]);
    let kinds: Vec<u32> = lease.events().iter().map(|e| e.r#type).collect();
    assert_eq!(kinds, [KFD_GPREEMPT_EVENT_QUEUE_DESTROYED, KFD_GPREEMPT_EVENT_TARGET_EXITED]);
}

#[test]
fn the_end_of_a_lease_leaves_the_debuggers_suspension() {
    let machine = mine();
    let user = User::new(&machine, ME);
    let lease = user.lease();
    user.debug_enable(ME).unwrap();
    user.snapshot(ME);
    lease.unmap(&[entry(0, 0)]);
    assert_eq!(user.suspend(ME, &[0]).0, Ok(1));
    lease.close();
    assert!(!runs(&machine, ME, 0));
    user.debug_disable(ME).unwrap();
    assert!(runs(&machine, ME, 0));
}

#[test]
fn a_queue_that_waits_to_be_destroyed_cannot_be_held() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let user = User::new(&machine, ME);
    let lease = user.lease();
    let target = lease.offline(10);
    machine.ptrace_seize(user.task, 10).unwrap();
    user.debug_enable(10).unwrap();
    user.snapshot(10);
    assert_eq!(user.suspend(10, &[0]).0, Ok(1));
    machine.destroy_queue(10, 0).unwrap();
    assert_ne!(lease.state(target, 0) & KFD_GPREEMPT_STATE_BEING_DESTROYED, 0);
    let batch = lease.unmap(&[entry(target, 0), entry(target, 1)]);
    assert_eq!(batch.results(), [minus(Errno::EBUSY), 0]);
    assert_eq!(user.resume(10, &[0]).0, Ok(1));
    pass(&machine, 10 * MS);
    assert_eq!(machine.executed(10, 0), Err(Errno::ENOENT));
}

#[test]
fn the_death_of_a_debugger_resumes_its_target() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), guest(20, vec![])])).unwrap();
    let debugger = User::new(&machine, 20);
    machine.ptrace_seize(debugger.task, 10).unwrap();
    debugger.debug_enable(10).unwrap();
    debugger.snapshot(10);
    assert_eq!(debugger.suspend(10, &[0]).0, Ok(1));
    // Who is debugged waits with destroying a suspended queue.
    machine.destroy_queue(10, 0).unwrap();
    assert_eq!(machine.destroy_queue(10, 0), Err(Errno::EBUSY));
    assert!(machine.executed(10, 0).is_ok());
    machine.kill(20).unwrap();
    pass(&machine, 10 * MS);
    assert_eq!(machine.executed(10, 0), Err(Errno::ENOENT));
    assert_eq!(machine.ptrace_seize(gpreempt_sim::Task { pid: ME }, 10), Ok(()));
}
