//! Small things that the real driver does in one way and not in another, as playing the same calls to both has shown.

mod kit;

use gpreempt_sim::Machine;
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;

const LAZY: u32 = KFD_GPREEMPT_POLICY_LAZY_ACTIVATION;
const PREEMPTIBLE: u32 = KFD_GPREEMPT_POLICY_PREEMPTIBLE;

/// Two processes of two quiet queues and one that works, on two nodes.
fn machine() -> Machine {
    let quiet = queues(2, gpreempt_sim::config::Workload::Manual);
    let machine =
        with_gpus(config(vec![guest(10, vec![quiet.clone(), queues(1, light())]), guest(11, vec![quiet])]), 2);
    Machine::boot(machine).unwrap()
}

#[test]
fn a_handle_that_was_given_back_is_not_given_out_again() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let (a, b) = (lease.attach(10).unwrap(), lease.attach(11).unwrap());
    lease.detach(a).unwrap();
    assert_eq!(lease.attach(ME), Ok(b + 1));
    assert_eq!(lease.attach(10), Ok(b + 2));
    assert_eq!(lease.unmap(&[entry(a, ALL)]).results(), [minus(Errno::ESRCH)]);
}

#[test]
fn queues_are_listed_newest_first_node_after_node_and_the_last_one_tells_the_state_of_an_entry() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let mut memory = Memory::new(&[0; 96 * 2]);
    let mut args = kfd_ioctl_queue_status_args {
        status_ptr: BASE,
        target,
        queue_id: ALL,
        num_entries: 2,
        entry_size: 96,
        ..Default::default()
    };
    lease.user.ioctl(lease.file, AMDKFD_IOC_GET_QUEUE_STATUS, &mut args, &mut memory).unwrap();
    let listed: Vec<kfd_gpreempt_queue_status> = elements(&memory.bytes);
    assert_eq!((listed[0].queue_id, listed[1].queue_id, args.num_entries), (4, 1, 6));
    // The queues of the second node are 2, 3 and 5: the oldest is last.
    lease.policy(entry(target, 2), PREEMPTIBLE | KFD_GPREEMPT_POLICY_AUTO_DEACTIVATION, 0);
    lease.policy(entry(target, 2), 0, PREEMPTIBLE);
    let all = lease.unmap(&[entry(target, ALL)]).entries[0];
    assert_eq!((all.result, all.num_queues), (minus(Errno::EPERM), 5));
    assert_eq!(all.state, KFD_GPREEMPT_STATE_ACTIVE);
}

#[test]
fn only_who_looks_at_pointers_and_waves_sees_that_a_queue_is_idle() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    assert_ne!(lease.state(target, 0) & KFD_GPREEMPT_STATE_IDLE, 0);
    assert_eq!(lease.unmap(&[entry(target, 0)]).entries[0].state & KFD_GPREEMPT_STATE_IDLE, 0);
}

#[test]
fn clearing_a_policy_and_reading_it_need_no_permission_and_setting_does() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    machine.set_uid(10, 4242).unwrap();
    assert_eq!(lease.policy(entry(target, 0), 0, 0).policy_flags, PREEMPTIBLE);
    assert_eq!(lease.policy(entry(target, 0), 0, PREEMPTIBLE).queue.result, 0);
    assert_eq!(lease.policy(entry(target, 0), PREEMPTIBLE, 0).queue.result, minus(Errno::EPERM));
}

#[test]
fn a_policy_is_remembered_for_a_later_image_node_by_node() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let pid = machine.spawn(&guest(0, vec![])).unwrap();
    let target = lease.attach(pid).unwrap();
    let gpus = gpu_ids(&machine);
    let say = |gpu_id, set| lease.policy(kfd_gpreempt_entry { gpu_id, ..entry(target, ALL) }, set, 0).policy_flags;
    assert_eq!(say(gpus[0], PREEMPTIBLE), PREEMPTIBLE);
    assert_eq!([say(gpus[1], 0), say(0, 0)], [0, PREEMPTIBLE]);
    let on = |node| gpreempt_sim::config::QueueSpec { nodes: vec![node], ..queues(1, light()) };
    let ids: Vec<u32> = [0, 1].iter().flat_map(|node| machine.create_queues(pid, &on(*node)).unwrap()).collect();
    let offline = |id| lease.state(target, id) & KFD_GPREEMPT_STATE_PREEMPTIBLE != 0;
    assert_eq!([offline(ids[0]), offline(ids[1])], [true, false]);
}

#[test]
fn a_policy_that_was_refused_is_not_told() {
    let machine = machine();
    let user = User::new(&machine, ME);
    let (first, second) = (user.lease(), user.lease());
    let (target, mine) = (first.offline(10), second.attach(10).unwrap());
    assert_eq!(first.policy(entry(target, 0), 0, 0).policy_flags, PREEMPTIBLE);
    let refused = second.policy(entry(mine, 0), LAZY, 0);
    assert_eq!((refused.queue.result, refused.policy_flags), (minus(Errno::EBUSY), 0));
}

#[test]
fn who_executes_another_program_keeps_its_handle_and_loses_its_queues() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    machine.exec(10).unwrap();
    pass(&machine, 50 * MS);
    assert_eq!(lease.queues(target, ALL).unwrap(), []);
    assert!(lease.events().iter().all(|event| event.r#type != KFD_GPREEMPT_EVENT_TARGET_EXITED));
    machine.create_queues(10, &queues(1, light())).unwrap();
    pass(&machine, 50 * MS);
    assert_ne!(
        lease.state(target, 0) & KFD_GPREEMPT_STATE_PREEMPTIBLE,
        0,
        "what was said of the process is remembered"
    );
}

#[test]
fn evictions_of_a_process_without_a_vm_are_counted_and_cost_no_round() {
    let machine = machine();
    let user = User::new(&machine, 11);
    let watcher = User::new(&machine, ME).lease();
    let bare =
        machine.spawn(&gpreempt_sim::config::ProcessSpec { runtime_enabled: false, ..guest(0, vec![]) }).unwrap();
    let _kfd = User::new(&machine, bare);
    // Something to unmap.
    assert!(user.machine.submit(11, 0, work(1, MS)).is_ok());
    let before = watcher.status().unmap_seq;
    for evict in [true, false] {
        machine.evict(bare, evict).unwrap();
        pass(&machine, 50 * MS);
    }
    assert_eq!(watcher.status().unmap_seq, before);
    machine.evict(11, true).unwrap();
    pass(&machine, 50 * MS);
    assert_eq!(watcher.status().unmap_seq, before + 1);
}

#[test]
fn the_runlist_after_a_destroy_still_counts_the_queue_that_went() {
    let mut config = config(vec![guest(10, vec![queues(2, light())]), guest(11, vec![queues(1, light())])]);
    config.caller.root = true;
    let machine = Machine::boot(config).unwrap();
    machine.destroy_queue(11, 0).unwrap();
    pass(&machine, 50 * MS);
    let text = machine.read_text(gpreempt_sim::Task { pid: ME }, "/sys/kernel/debug/kfd/rls").unwrap();
    let words = text.lines().skip(1).flat_map(|line| line.split_whitespace().skip(1));
    let words: Vec<u32> = words.map(|word| u32::from_str_radix(word, 16).unwrap()).collect();
    let processes: Vec<u16> = gpreempt_sim::pm4::decode(&words)
        .filter_map(|packet| match packet.unwrap() {
            gpreempt_sim::pm4::Packet::MapProcess(it) => Some(it.num_queues),
            _ => None,
        })
        .collect();
    assert_eq!(processes, [1, 2]);
}

#[test]
fn a_queue_that_exists_becomes_lazy_when_idle_and_is_counted_only_if_it_left() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let (offline, other) = (lease.offline(10), lease.attach(11).unwrap());
    let left = lease.policy(entry(offline, 0), LAZY, 0).queue;
    assert_eq!((left.result, left.num_queues), (0, 1));
    assert_ne!(left.state & KFD_GPREEMPT_STATE_PREEMPTED, 0);
    let stayed = lease.policy(entry(offline, 4), LAZY, 0).queue;
    assert_eq!((stayed.result, stayed.num_queues), (0, 0));
    assert_ne!(stayed.state & KFD_GPREEMPT_STATE_ACTIVE, 0);
    // Marked, but it may not be unmapped.
    let online = lease.policy(entry(other, 0), LAZY, 0).queue;
    assert_eq!(online.result, minus(Errno::EPERM));
    assert_ne!(online.state & KFD_GPREEMPT_STATE_LAZY, 0);
}

#[test]
fn an_id_on_two_different_nodes_names_nothing_twice() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let gpus = gpu_ids(&machine);
    let on = |node: usize| kfd_gpreempt_entry { gpu_id: gpus[node], ..entry(target, 0) };
    assert_eq!(lease.unmap(&[on(0), on(1)]).results(), [0, minus(Errno::ENOENT)]);
    assert_eq!(lease.unmap(&[on(0), entry(target, 0)]).answer, Err(Errno::EINVAL));
}

#[test]
fn hold_new_of_every_node_fails_where_another_lease_has_marked_the_process_on_one() {
    let machine = machine();
    let user = User::new(&machine, ME);
    let (first, second) = (user.lease(), user.lease());
    let (target, mine) = (first.attach(10).unwrap(), second.attach(10).unwrap());
    let gpus = gpu_ids(&machine);
    let on_first = kfd_gpreempt_entry { gpu_id: gpus[0], ..entry(target, ALL) };
    assert_eq!(first.policy(on_first, PREEMPTIBLE, 0).queue.result, 0);
    let hold_new = kfd_gpreempt_entry { flags: KFD_GPREEMPT_ENTRY_HOLD_NEW, ..entry(mine, ALL) };
    assert_eq!(second.unmap(&[hold_new]).results(), [minus(Errno::EBUSY)]);
    let on = |node| gpreempt_sim::config::QueueSpec { nodes: vec![node], ..queues(1, light()) };
    let ids: Vec<u32> = [0, 1].iter().flat_map(|node| machine.create_queues(10, &on(*node)).unwrap()).collect();
    pass(&machine, 50 * MS);
    let held = |id| second.state(mine, id) & KFD_GPREEMPT_STATE_MINE != 0;
    assert_eq!([held(ids[0]), held(ids[1])], [false, false]);
    let elsewhere = kfd_gpreempt_entry { gpu_id: gpus[1], ..hold_new };
    assert_eq!(
        second.unmap(&[elsewhere]).results(),
        [minus(Errno::EPERM)],
        "the mark is set, though none may be unmapped"
    );
    let id = machine.create_queues(10, &on(1)).unwrap()[0];
    pass(&machine, 50 * MS);
    assert!(held(id));
}

#[test]
fn who_may_not_stop_a_queue_sees_its_state_and_not_its_pointers() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    assert_ne!(lease.queues(target, 4).unwrap()[0].flags & KFD_GPREEMPT_POINTERS_VALID, 0);
    machine.set_uid(10, 4242).unwrap();
    let seen = lease.queues(target, 4).unwrap()[0];
    assert_eq!(seen.flags & KFD_GPREEMPT_POINTERS_VALID, 0);
    assert_eq!((seen.write_ptr, seen.state & KFD_GPREEMPT_STATE_PREEMPTIBLE != 0), (0, true));
}

#[test]
fn holds_that_end_together_are_told_newest_queue_first() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease_for(100);
    let target = lease.offline(11);
    lease.unmap(&[entry(target, ALL)]);
    pass(&machine, 200 * MS);
    let expired: Vec<u32> = lease.events().iter().map(|event| event.queue_id).collect();
    // 0 and 1 are on the first node, 2 and 3 on the second.
    assert_eq!((expired[0] > expired[1], expired[2] > expired[3]), (true, true), "{expired:?}");
}

#[test]
fn the_end_of_a_debugger_costs_three_rounds_of_every_node() {
    let machine = machine();
    let user = User::new(&machine, ME);
    let lease = user.lease();
    machine.ptrace_seize(user.task, 11).unwrap();
    user.debug_enable(11).unwrap();
    let before = lease.status().unmap_seq;
    user.debug_disable(11).unwrap();
    assert_eq!(lease.status().unmap_seq - before, 1 + 3, "its queues are resumed, and three more");
    user.debug_enable(11).unwrap();
    let before = lease.status().unmap_seq;
    machine.kill(11).unwrap();
    pass(&machine, 100 * MS);
    assert_eq!(lease.status().unmap_seq - before, 1 + 3 + 1, "as much, and one for the process");
}

#[test]
fn the_first_global_wave_sync_entry_is_told_where_there_is_none_to_have() {
    let machine = machine();
    let user = User::new(&machine, ME);
    let gpu_id = gpu_ids(&machine)[0];
    for _ in 0..2 {
        user.call(AMDKFD_IOC_CREATE_QUEUE, &mut compute_queue(gpu_id)).unwrap();
    }
    let ask = |queue_id| {
        let mut args = kfd_ioctl_alloc_queue_gws_args { queue_id, num_gws: 32, first_gws: 8, pad: 0 };
        (user.call(AMDKFD_IOC_ALLOC_QUEUE_GWS, &mut args), args.first_gws)
    };
    assert_eq!([ask(0), ask(1), ask(9)], [(Ok(0), 0), (Err(Errno::EBUSY), 0), (Err(Errno::EINVAL), 8)]);
}

#[test]
fn global_wave_sync_entries_can_be_given_back_by_a_queue_that_did_not_get_them() {
    let machine = machine();
    let user = User::new(&machine, ME);
    let gpu_id = gpu_ids(&machine)[0];
    for _ in 0..2 {
        user.call(AMDKFD_IOC_CREATE_QUEUE, &mut compute_queue(gpu_id)).unwrap();
    }
    let ask = |queue_id, num_gws| {
        let mut args = kfd_ioctl_alloc_queue_gws_args { queue_id, num_gws, ..Default::default() };
        user.call(AMDKFD_IOC_ALLOC_QUEUE_GWS, &mut args)
    };
    assert_eq!([ask(0, 32), ask(1, 0), ask(1, 0), ask(1, 32)], [Ok(0), Ok(0), Err(Errno::EINVAL), Ok(0)]);
}

#[test]
fn the_end_of_a_process_that_never_opened_kfd_is_not_told() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let stranger = gpreempt_sim::config::ProcessSpec { runtime_enabled: false, ..guest(0, vec![]) };
    let pid = machine.spawn(&stranger).unwrap();
    lease.attach(pid).unwrap();
    lease.attach(10).unwrap();
    machine.kill(pid).unwrap();
    machine.kill(10).unwrap();
    assert_eq!(lease.events().iter().map(|event| event.target).collect::<Vec<_>>(), [2]);
}
