//! Without the series the machine is a stock kernel.

mod kit;

use gpreempt_sim::Machine;
use gpreempt_sim::config::{Fault, FaultKind, FaultPoint};
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;

#[test]
fn a_stock_kernel_has_no_lease_and_works_on() {
    let mut config = config(vec![guest(10, vec![queues(2, busy())])]);
    config.patched = false;
    let machine = Machine::boot(config).unwrap();
    let user = User::new(&machine, ME);
    let mut open = kfd_ioctl_gpreempt_open_args { abi_version: 1, ..Default::default() };
    let before = open;
    assert_eq!(user.call(AMDKFD_IOC_GPREEMPT_OPEN, &mut open), Err(Errno::ENOTTY));
    assert_eq!(open, before);
    let mut version = kfd_ioctl_get_version_args::default();
    assert_eq!(user.call(AMDKFD_IOC_GET_VERSION, &mut version), Ok(0));
    assert_eq!((version.major_version, version.minor_version), (1, 17));
    // The traditional way works.
    machine.ptrace_seize(user.task, 10).unwrap();
    user.debug_enable(10).unwrap();
    user.snapshot(10);
    assert_eq!(user.suspend(10, &[0, 1]).0, Ok(2));
    assert_eq!(progress(&machine, 10, 0, 10 * MS), 0);
    assert_eq!(user.resume(10, &[0, 1]).0, Ok(2));
    pass(&machine, 10 * MS);
    assert!(progress(&machine, 10, 0, 10 * MS) > 0);
}

#[test]
fn the_debugger_has_to_see_a_queue_before_it_can_stop_it() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(3, busy())])])).unwrap();
    let user = User::new(&machine, ME);
    machine.ptrace_seize(user.task, 10).unwrap();
    assert_eq!(user.debug_enable(10), Ok(0));
    let invalid = KFD_DBG_QUEUE_INVALID_MASK;
    assert_eq!(user.suspend(10, &[0, 1, 77]), (Ok(0), vec![invalid, 1 | invalid, 77 | invalid]));
    let snapshot = user.snapshot(10);
    assert_eq!(snapshot.iter().map(|q| q.queue_id).collect::<Vec<_>>(), [2, 1, 0]);
    assert!(snapshot.iter().all(|q| q.exception_status == KFD_EC_MASK(EC_QUEUE_NEW)));
    assert_eq!(user.suspend(10, &[0, 1, 77]), (Ok(2), vec![0, 1, 77 | invalid]));
    // Suspending again counts them again, and costs a round again.
    let rounds = machine.counters().unmap_rounds;
    assert_eq!(user.suspend(10, &[1]).0, Ok(1));
    assert_eq!(machine.counters().unmap_rounds, rounds + 1);
    let new = machine.create_queues(10, &queues(1, busy())).unwrap()[0];
    assert_eq!(user.suspend(10, &[new]), (Ok(0), vec![new | invalid]));
}

#[test]
fn resume_without_an_array_resumes_all() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(3, busy())])])).unwrap();
    let user = User::new(&machine, ME);
    machine.ptrace_seize(user.task, 10).unwrap();
    user.debug_enable(10).unwrap();
    user.snapshot(10);
    assert_eq!(user.suspend(10, &[0, 2]).0, Ok(2));
    let all = kfd_ioctl_dbg_trap_resume_queues_args::default();
    // Those that were not suspended count too.
    assert_eq!(user.debug(10, all, &[]).0, Ok(3));
    pass(&machine, 10 * MS);
    assert!((0..3).all(|queue| progress(&machine, 10, queue, 10 * MS) > 0));
}

#[test]
fn debugging_needs_the_ptrace_right_once_and_an_enabled_runtime() {
    let mut plain = guest(11, vec![queues(1, busy())]);
    plain.runtime_enabled = false;
    let mut foreign = guest(12, vec![queues(1, busy())]);
    foreign.uid = Some(2000);
    let machine = Machine::boot(config(vec![guest(10, vec![queues(1, busy())]), plain, foreign])).unwrap();
    let user = User::new(&machine, ME);
    assert_eq!(user.debug_enable(10), Err(Errno::EPERM));
    assert_eq!(user.debug_enable(99), Err(Errno::ESRCH));
    assert_eq!(machine.ptrace_seize(user.task, 12), Err(Errno::EPERM));
    assert_eq!(machine.ptrace_seize(user.task, ME), Err(Errno::EPERM));
    assert_eq!(machine.ptrace_seize(user.task, 99), Err(Errno::ESRCH));
    machine.ptrace_seize(user.task, 10).unwrap();
    assert_eq!(machine.ptrace_seize(gpreempt_sim::Task { pid: 11 }, 10), Err(Errno::EPERM));
    assert_eq!(user.suspend(10, &[0]).0, Err(Errno::EINVAL));
    assert_eq!(user.debug_enable(10), Ok(0));
    assert_eq!(user.debug_enable(10), Err(Errno::EALREADY));
    // Once enabled, being the debugger is enough.
    machine.ptrace_detach(user.task, 10).unwrap();
    assert_eq!(machine.ptrace_detach(user.task, 10), Err(Errno::ESRCH));
    user.snapshot(10);
    assert_eq!(user.suspend(10, &[0]).0, Ok(1));
    assert_eq!(user.debug_disable(10), Ok(0));
    pass(&machine, 10 * MS);
    assert!(progress(&machine, 10, 0, 10 * MS) > 0);
    // A target whose runtime is not enabled can be attached to and looked at, not stopped.
    machine.ptrace_seize(user.task, 11).unwrap();
    assert_eq!(user.debug_enable(11), Ok(0));
    assert_eq!(user.snapshot(11).len(), 1);
    assert_eq!(user.suspend(11, &[0]).0, Err(Errno::EPERM));
}

#[test]
fn a_stock_driver_leaves_a_node_without_a_runlist_where_it_refuses_an_update() {
    for patched in [false, true] {
        let mut mine = guest(0, vec![queues(2, busy())]);
        mine.caller = true;
        let mut config = config(vec![mine, guest(11, vec![queues(1, busy())])]);
        config.patched = patched;
        let kind = FaultKind::QueueReset { pid: ME, queue: 1 };
        config.scenario.faults.push(Fault { at: FaultPoint::Time(MS), kind });
        let machine = Machine::boot(config).unwrap();
        let user = User::new(&machine, ME);
        pass(&machine, 10 * MS);
        user.debug_enable(ME).unwrap();
        let ring = user.snapshot(ME).iter().find(|q| q.queue_id == 0).unwrap().ring_base_address;
        assert_eq!(user.update(0, (ring, 65536), 100), Err(Errno::EACCES));
        pass(&machine, 10 * MS);
        assert_eq!(progress(&machine, 11, 0, 10 * MS) > 0, patched);
    }
}

#[test]
fn queues_are_made_changed_and_destroyed_by_ioctl() {
    let machine = Machine::boot(config(vec![])).unwrap();
    let user = User::new(&machine, ME);
    let mut enable = kfd_ioctl_runtime_enable_args { mode_mask: 3, ..Default::default() };
    assert_eq!(user.call(AMDKFD_IOC_RUNTIME_ENABLE, &mut enable), Ok(0));
    assert_eq!(user.call(AMDKFD_IOC_RUNTIME_ENABLE, &mut enable), Err(Errno::EBUSY));
    let gpu_id = gpu_ids(&machine)[0];
    let mut create = kfd_ioctl_create_queue_args { ring_size: 512, queue_priority: 15, ..compute_queue(gpu_id) };
    assert_eq!(user.call(AMDKFD_IOC_CREATE_QUEUE, &mut create), Ok(0));
    // The smallest ring there is; a doorbell of this GPU.
    assert_eq!((create.queue_id, create.ring_size), (0, 1024));
    assert_eq!(create.doorbell_offset >> 62, 3);
    let ticket = machine.submit(ME, 0, work(10, MS)).unwrap();
    pass(&machine, 20 * MS);
    assert!(machine.completed_at(ticket).is_some());
    let ring = (0x7000_0000, 1024);
    assert_eq!(user.update(0, ring, 0), Ok(0));
    machine.submit(ME, 0, work(10, MS)).unwrap();
    assert_eq!(progress(&machine, ME, 0, 20 * MS), 0);
    assert_eq!(user.update(0, ring, 100), Ok(0));
    pass(&machine, 20 * MS);
    assert_eq!(machine.executed(ME, 0), Ok(20));
    // Only the whole ring that is mapped is a ring, by pages, of which this one has none; none at all switches the queue off.
    assert_eq!(user.update(0, (0x7000_0000, 8192), 100), Err(Errno::EFAULT));
    assert_eq!(user.update(0, (0x7000_0000, 2048), 100), Ok(0));
    assert_eq!(user.update(0, (0x7000_1000, 1024), 100), Err(Errno::EFAULT));
    assert_eq!(user.update(0, (0, 1024), 100), Ok(0));
    let mut destroy = kfd_ioctl_destroy_queue_args { queue_id: 0, pad: 0 };
    assert_eq!(user.call(AMDKFD_IOC_DESTROY_QUEUE, &mut destroy), Ok(0));
    assert_eq!(user.call(AMDKFD_IOC_DESTROY_QUEUE, &mut destroy), Err(Errno::EINVAL));
}

#[test]
fn an_sdma_queue_by_engine_takes_that_engine_alone() {
    let machine = Machine::boot(config(vec![])).unwrap();
    let user = User::new(&machine, ME);
    let gpu_id = gpu_ids(&machine)[0];
    let create = |queue_type, sdma_engine_id| {
        let mut args = kfd_ioctl_create_queue_args { queue_type, sdma_engine_id, ..compute_queue(gpu_id) };
        user.call(AMDKFD_IOC_CREATE_QUEUE, &mut args).map(|_| args.queue_id)
    };
    let by_engine = KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID;
    // Engine 1 is one of the two that serve PCIe, 5 one of the six that serve XGMI; each has eight queues.
    for engine in [1, 5] {
        let made = (0..8).filter(|_| create(by_engine, engine).is_ok()).count();
        assert_eq!((made, create(by_engine, engine)), (8, Err(Errno::ENOMEM)));
    }
    // Who asks for no engine gets what is left of its kind: engine 0, and five XGMI engines.
    let rest = |kind| (0..100).take_while(|_| create(kind, 0) != Err(Errno::ENOMEM)).count();
    assert_eq!((rest(KFD_IOC_QUEUE_TYPE_SDMA), rest(KFD_IOC_QUEUE_TYPE_SDMA_XGMI)), (8, 40));
}
