//! Wrong arguments: each answers what the kernel answers, and changes nothing.

mod kit;

use gpreempt_sim::config::Workload;
use gpreempt_sim::{FileId, Machine, Task};
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;
use zerocopy::IntoBytes;

fn machine() -> Machine {
    let mut mine = guest(0, vec![queues(1, Workload::Manual)]);
    mine.caller = true;
    let mut foreign = guest(12, vec![queues(1, busy())]);
    foreign.uid = Some(2000);
    Machine::boot(config(vec![mine, guest(10, vec![queues(2, busy())]), guest(11, vec![queues(1, busy())]), foreign]))
        .unwrap()
}

/// Sends `request` with these bytes; pointers lead to `array` at [`BASE`].
fn send(user: &User<'_>, file: FileId, request: u32, bytes: &[u8], array: &[u8]) -> Result<i32, Errno> {
    user.machine.ioctl(user.task, file, request, &mut bytes.to_vec(), &mut Memory::new(array))
}

#[test]
fn wrong_arguments_of_dev_kfd_answer_the_kernels_errno() {
    let machine = machine();
    let user = User::new(&machine, ME);
    let gpu_id = gpu_ids(&machine)[0];
    let create = compute_queue(gpu_id);
    let beyond = 1 << 47;
    let creates = [
        (kfd_ioctl_create_queue_args { queue_percentage: 101, ..create }, Errno::EINVAL),
        (kfd_ioctl_create_queue_args { queue_priority: 16, ..create }, Errno::EINVAL),
        (kfd_ioctl_create_queue_args { ring_size: 5000, ..create }, Errno::EINVAL),
        (kfd_ioctl_create_queue_args { gpu_id: 1, ..create }, Errno::EINVAL),
        (kfd_ioctl_create_queue_args { gpu_id: 0, ..create }, Errno::EINVAL),
        (kfd_ioctl_create_queue_args { queue_type: 9, ..create }, Errno::EOPNOTSUPP),
        (kfd_ioctl_create_queue_args { ring_base_address: 0, ..create }, Errno::EINVAL),
        (kfd_ioctl_create_queue_args { ctl_stack_size: 4096, ..create }, Errno::EINVAL),
        (kfd_ioctl_create_queue_args { ctx_save_restore_size: 12_214_271, ..create }, Errno::EINVAL),
        (kfd_ioctl_create_queue_args { ctx_save_restore_address: 0, ..create }, Errno::EINVAL),
        (
            kfd_ioctl_create_queue_args { eop_buffer_address: 0x7300_0000, eop_buffer_size: 2048, ..create },
            Errno::EINVAL,
        ),
        (kfd_ioctl_create_queue_args { ring_base_address: beyond, ..create }, Errno::EFAULT),
        (kfd_ioctl_create_queue_args { write_pointer_address: beyond, ..create }, Errno::EFAULT),
        (kfd_ioctl_create_queue_args { read_pointer_address: beyond, ..create }, Errno::EFAULT),
        (
            kfd_ioctl_create_queue_args { queue_type: KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID, sdma_engine_id: 8, ..create },
            Errno::EINVAL,
        ),
    ];
    for (args, errno) in creates {
        assert_eq!(user.call(AMDKFD_IOC_CREATE_QUEUE, &mut args.clone()), Err(errno), "{args:?}");
    }
    let known = machine.list(user.task, &format!("/sys/class/kfd/kfd/proc/{ME}/queues")).unwrap();
    assert_eq!(known, ["0"]);

    let update = kfd_ioctl_update_queue_args { queue_id: 9, ring_size: 4096, ..Default::default() };
    let cu_mask = kfd_ioctl_set_cu_mask_args { queue_id: 0, num_cu_mask: 32, cu_mask_ptr: BASE };
    let gws = |queue_id, num_gws| kfd_ioctl_alloc_queue_gws_args { queue_id, num_gws, ..Default::default() };
    let apertures = kfd_ioctl_get_process_apertures_new_args { num_of_nodes: 1, ..Default::default() };
    let debug = |pid, op| kfd_ioctl_dbg_trap_args { pid, op, ..Default::default() };
    let cases: [(&str, u32, Vec<u8>, Errno); 25] = [
        (
            "a percentage over 100",
            AMDKFD_IOC_UPDATE_QUEUE,
            as_bytes(&kfd_ioctl_update_queue_args { queue_percentage: 101, ..update }),
            Errno::EINVAL,
        ),
        (
            "a priority over 15",
            AMDKFD_IOC_UPDATE_QUEUE,
            as_bytes(&kfd_ioctl_update_queue_args { queue_priority: 16, ..update }),
            Errno::EINVAL,
        ),
        (
            "an odd ring size",
            AMDKFD_IOC_UPDATE_QUEUE,
            as_bytes(&kfd_ioctl_update_queue_args { ring_size: 4095, ..update }),
            Errno::EINVAL,
        ),
        ("an unknown queue", AMDKFD_IOC_UPDATE_QUEUE, as_bytes(&update), Errno::EFAULT),
        (
            "an unknown queue",
            AMDKFD_IOC_DESTROY_QUEUE,
            as_bytes(&kfd_ioctl_destroy_queue_args { queue_id: 9, pad: 0 }),
            Errno::EINVAL,
        ),
        (
            "an unknown queue",
            AMDKFD_IOC_SET_CU_MASK,
            as_bytes(&kfd_ioctl_set_cu_mask_args { queue_id: 9, ..cu_mask }),
            Errno::EFAULT,
        ),
        (
            "an empty mask",
            AMDKFD_IOC_SET_CU_MASK,
            as_bytes(&kfd_ioctl_set_cu_mask_args { num_cu_mask: 0, ..cu_mask }),
            Errno::EINVAL,
        ),
        (
            "a mask of 31 bits",
            AMDKFD_IOC_SET_CU_MASK,
            as_bytes(&kfd_ioctl_set_cu_mask_args { num_cu_mask: 31, ..cu_mask }),
            Errno::EINVAL,
        ),
        (
            "a mask that is not there",
            AMDKFD_IOC_SET_CU_MASK,
            as_bytes(&kfd_ioctl_set_cu_mask_args { cu_mask_ptr: 8, ..cu_mask }),
            Errno::EFAULT,
        ),
        ("an unknown queue", AMDKFD_IOC_ALLOC_QUEUE_GWS, as_bytes(&gws(9, 1)), Errno::EINVAL),
        ("giving back what one has not", AMDKFD_IOC_ALLOC_QUEUE_GWS, as_bytes(&gws(0, 0)), Errno::EINVAL),
        (
            "more nodes than there are",
            AMDKFD_IOC_GET_PROCESS_APERTURES_NEW,
            as_bytes(&kfd_ioctl_get_process_apertures_new_args { num_of_nodes: 3, ..apertures }),
            Errno::EINVAL,
        ),
        ("an array that is not there", AMDKFD_IOC_GET_PROCESS_APERTURES_NEW, as_bytes(&apertures), Errno::EFAULT),
        (
            "no such GPU",
            AMDKFD_IOC_SMI_EVENTS,
            as_bytes(&kfd_ioctl_smi_events_args { gpuid: 1, anon_fd: 0 }),
            Errno::EINVAL,
        ),
        (
            "enabled already",
            AMDKFD_IOC_RUNTIME_ENABLE,
            as_bytes(&kfd_ioctl_runtime_enable_args { mode_mask: 1, ..Default::default() }),
            Errno::EBUSY,
        ),
        (
            "no such GPU",
            AMDKFD_IOC_ACQUIRE_VM,
            as_bytes(&kfd_ioctl_acquire_vm_args { drm_fd: 0, gpu_id: 1 }),
            Errno::EINVAL,
        ),
        (
            "no such GPU",
            AMDKFD_IOC_ALLOC_MEMORY_OF_GPU,
            as_bytes(&kfd_ioctl_alloc_memory_of_gpu_args { size: 4096, gpu_id: 1, flags: 1, ..Default::default() }),
            Errno::EINVAL,
        ),
        (
            "no such buffer",
            AMDKFD_IOC_FREE_MEMORY_OF_GPU,
            as_bytes(&kfd_ioctl_free_memory_of_gpu_args { handle: 5 }),
            Errno::EINVAL,
        ),
        (
            "no such buffer",
            AMDKFD_IOC_MAP_MEMORY_TO_GPU,
            as_bytes(&kfd_ioctl_map_memory_to_gpu_args {
                handle: 5,
                device_ids_array_ptr: BASE,
                n_devices: 1,
                n_success: 0,
            }),
            Errno::EINVAL,
        ),
        (
            "a process that is not traced",
            AMDKFD_IOC_DBG_TRAP,
            as_bytes(&debug(10, KFD_IOC_DBG_TRAP_ENABLE)),
            Errno::EPERM,
        ),
        ("no process", AMDKFD_IOC_DBG_TRAP, as_bytes(&debug(0, KFD_IOC_DBG_TRAP_ENABLE)), Errno::ESRCH),
        ("no session", AMDKFD_IOC_DBG_TRAP, as_bytes(&debug(ME, KFD_IOC_DBG_TRAP_SUSPEND_QUEUES)), Errno::EINVAL),
        (
            "a file that is not open",
            AMDKFD_IOC_DBG_TRAP,
            as_bytes(&kfd_ioctl_dbg_trap_args::new(
                ME,
                kfd_ioctl_dbg_trap_enable_args { dbg_fd: 999, ..Default::default() },
            )),
            Errno::EBADF,
        ),
        ("no version", AMDKFD_IOC_GPREEMPT_OPEN, as_bytes(&kfd_ioctl_gpreempt_open_args::default()), Errno::EINVAL),
        (
            "a lease that is to do more than is known",
            AMDKFD_IOC_GPREEMPT_OPEN,
            [as_bytes(&kfd_ioctl_gpreempt_open_args { abi_version: 1, ..Default::default() }), vec![0, 1, 0, 0]]
                .concat(),
            Errno::EINVAL,
        ),
    ];
    for (what, request, bytes, errno) in cases {
        assert_eq!(send(&user, user.kfd, request, &bytes, &[0; 32]), Err(errno), "{request:#x}: {what}");
    }
}

#[test]
fn suspend_and_snapshot_check_their_arrays() {
    let machine = machine();
    let user = User::new(&machine, ME);
    user.debug_enable(ME).unwrap();
    let suspend = kfd_ioctl_dbg_trap_suspend_queues_args {
        queue_array_ptr: BASE,
        num_queues: 1,
        grace_period: u32::MAX,
        exception_mask: 0,
    };
    for (args, answer) in [
        (kfd_ioctl_dbg_trap_suspend_queues_args { num_queues: 1025, ..suspend }, Err(Errno::EINVAL)),
        (kfd_ioctl_dbg_trap_suspend_queues_args { queue_array_ptr: 0, ..suspend }, Err(Errno::EINVAL)),
        (kfd_ioctl_dbg_trap_suspend_queues_args { queue_array_ptr: 8, ..suspend }, Err(Errno::EFAULT)),
        (kfd_ioctl_dbg_trap_suspend_queues_args { queue_array_ptr: 0, num_queues: 0, ..suspend }, Ok(0)),
    ] {
        assert_eq!(user.debug(ME, args, &[0]).0, answer, "{args:?}");
    }
    let snapshot =
        kfd_ioctl_dbg_trap_queue_snapshot_args { snapshot_buf_ptr: BASE, num_queues: 1, ..Default::default() };
    assert_eq!(user.debug(ME, snapshot, &[0; 16]).0, Err(Errno::EINVAL));
    let unreadable = kfd_ioctl_dbg_trap_queue_snapshot_args { snapshot_buf_ptr: 8, entry_size: 64, ..snapshot };
    assert_eq!(user.debug(ME, unreadable, &[0; 16]).0, Err(Errno::EFAULT));
    // No event that anybody asked for.
    let query = kfd_ioctl_dbg_trap_query_debug_event_args::default();
    assert_eq!(user.debug(ME, query, &[]).0, Err(Errno::EAGAIN));
    let unknown = kfd_ioctl_dbg_trap_args { pid: ME, op: 99, ..Default::default() };
    assert_eq!(user.call(AMDKFD_IOC_DBG_TRAP, &mut unknown.clone()), Err(Errno::EINVAL));
}

#[test]
fn holes_answer_before_the_file_is_asked_whose_it_is() {
    let machine = machine();
    let user = User::new(&machine, ME);
    let child = User { machine: &machine, task: Task { pid: 10 }, kfd: user.kfd };
    let request = |nr: u32| 0xc000_0000 | 8 << 16 | u32::from(AMDKFD_IOCTL_BASE) << 8 | nr;
    for nr in [0x00, 0x27, 0x28, 0x5f, 0x61, 0x6b, 0x80, 0xff] {
        assert_eq!(send(&user, user.kfd, request(nr), &[0; 8], &[]), Err(Errno::ENOTTY), "{nr:#x}");
        assert_eq!(send(&child, user.kfd, request(nr), &[0; 8], &[]), Err(Errno::ENOTTY), "{nr:#x}");
    }
    for nr in [0x01, 0x02, 0x26, 0x60] {
        assert_eq!(send(&child, user.kfd, request(nr), &[0; 64], &[]), Err(Errno::EBADF), "{nr:#x}");
    }
    assert_eq!(send(&user, 999, AMDKFD_IOC_GET_VERSION, &[0; 8], &[]), Err(Errno::EBADF));
    assert_eq!(machine.open(user.task, "/dev/dri/renderD128"), Err(Errno::ENOENT));
    assert_eq!(machine.open(Task { pid: 99 }, "/dev/kfd"), Err(Errno::ESRCH));
    // The dispatcher looks at the number alone: direction, type and size are the caller's affair.
    let mut version = [0; 4];
    let answer = machine.ioctl(user.task, user.kfd, 0x4004_5a01, &mut version, &mut Memory::new(&[]));
    assert_eq!((answer, version), (Ok(0), [1, 0, 0, 0]));
}

#[test]
fn wrong_arguments_of_a_lease_answer_einval_before_anything_is_marked() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    let entries = [entry(target, 0)];
    let array = entries.as_bytes();
    let batch = kfd_ioctl_batch_unmap_args { entries_ptr: BASE, num_entries: 1, entry_size: 32, ..Default::default() };
    let swap = kfd_ioctl_swap_queues_args { unmap_ptr: BASE, num_unmap: 1, entry_size: 32, ..Default::default() };
    let queue = entry(target, 0);
    let policy = kfd_ioctl_queue_policy_args { queue, ..Default::default() };
    let reserve = kfd_ioctl_hqd_reservation_args { offline_percent: 50, ..Default::default() };
    let status = kfd_ioctl_queue_status_args { target, queue_id: ALL, entry_size: 96, ..Default::default() };
    let attach = kfd_ioctl_gpreempt_attach_args { pid: 10, ..Default::default() };
    use Errno::{EFAULT, EINVAL, ENOENT, EPERM, ESRCH};
    let unmap = AMDKFD_IOC_BATCH_UNMAP_QUEUES;
    let mut cases: Vec<(&str, u32, Vec<u8>, Errno)> = vec![
        ("no entries", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { num_entries: 0, ..batch }), EINVAL),
        ("1025 entries", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { num_entries: 1025, ..batch }), EINVAL),
        ("unknown flags", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { flags: 1, ..batch }), EINVAL),
        ("reserved", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { reserved: 1, ..batch }), EINVAL),
        ("grace over 255", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { grace_period: 256, ..batch }), EINVAL),
        ("short entries", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { entry_size: 24, ..batch }), EINVAL),
        ("huge entries", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { entry_size: 1 << 20, ..batch }), EINVAL),
        ("NULL", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { entries_ptr: 0, ..batch }), EFAULT),
        ("a short array", unmap, as_bytes(&kfd_ioctl_batch_unmap_args { num_entries: 2, ..batch }), EFAULT),
        (
            "an address that wraps",
            unmap,
            as_bytes(&kfd_ioctl_batch_unmap_args { entries_ptr: u64::MAX - 7, ..batch }),
            EFAULT,
        ),
        ("no entries", AMDKFD_IOC_SWAP_QUEUES, as_bytes(&kfd_ioctl_swap_queues_args { num_unmap: 0, ..swap }), EINVAL),
        (
            "a sum over the limit",
            AMDKFD_IOC_SWAP_QUEUES,
            as_bytes(&kfd_ioctl_swap_queues_args { num_remap: u32::MAX, ..swap }),
            EINVAL,
        ),
        ("pad", AMDKFD_IOC_SWAP_QUEUES, as_bytes(&kfd_ioctl_swap_queues_args { pad: 1, ..swap }), EINVAL),
        (
            "unknown flags",
            AMDKFD_IOC_SELECTIVE_UNMAP,
            as_bytes(&kfd_ioctl_selective_unmap_args { queue, flags: 8, ..Default::default() }),
            EINVAL,
        ),
        (
            "an unknown state",
            AMDKFD_IOC_SET_QUEUE_STATE,
            as_bytes(&kfd_ioctl_queue_state_args { queue, state: 3, ..Default::default() }),
            EINVAL,
        ),
        (
            "unknown policy",
            AMDKFD_IOC_SET_QUEUE_POLICY,
            as_bytes(&kfd_ioctl_queue_policy_args { set_flags: 8, ..policy }),
            EINVAL,
        ),
        (
            "set and cleared",
            AMDKFD_IOC_SET_QUEUE_POLICY,
            as_bytes(&kfd_ioctl_queue_policy_args { set_flags: 1, clear_flags: 1, ..policy }),
            EINVAL,
        ),
        (
            "a sum over 100",
            AMDKFD_IOC_SET_HQD_RESERVATION,
            as_bytes(&kfd_ioctl_hqd_reservation_args { online_percent: 51, ..reserve }),
            EINVAL,
        ),
        (
            "a sum that wraps",
            AMDKFD_IOC_SET_HQD_RESERVATION,
            as_bytes(&kfd_ioctl_hqd_reservation_args { online_percent: u32::MAX - 40, ..reserve }),
            EINVAL,
        ),
        (
            "no such GPU",
            AMDKFD_IOC_SET_HQD_RESERVATION,
            as_bytes(&kfd_ioctl_hqd_reservation_args { gpu_id: 1, ..reserve }),
            ENOENT,
        ),
        ("no right", AMDKFD_IOC_SET_HQD_RESERVATION, as_bytes(&reserve), EPERM),
        ("no GPU", AMDKFD_IOC_GET_HQD_STATUS, as_bytes(&kfd_ioctl_hqd_status_args::default()), ENOENT),
        (
            "no such GPU",
            AMDKFD_IOC_GET_HQD_STATUS,
            as_bytes(&kfd_ioctl_hqd_status_args { gpu_id: 1, ..Default::default() }),
            ENOENT,
        ),
        (
            "unknown flags",
            AMDKFD_IOC_GET_QUEUE_STATUS,
            as_bytes(&kfd_ioctl_queue_status_args { flags: 4, ..status }),
            EINVAL,
        ),
        (
            "short elements",
            AMDKFD_IOC_GET_QUEUE_STATUS,
            as_bytes(&kfd_ioctl_queue_status_args { entry_size: 64, num_entries: 1, ..status }),
            EINVAL,
        ),
        (
            "no such GPU, and no such target",
            AMDKFD_IOC_GET_QUEUE_STATUS,
            as_bytes(&kfd_ioctl_queue_status_args { gpu_id: 5, target: 9, ..status }),
            ENOENT,
        ),
        ("nothing at all", AMDKFD_IOC_GET_QUEUE_STATUS, vec![], EINVAL),
        (
            "no such target",
            AMDKFD_IOC_GET_QUEUE_STATUS,
            as_bytes(&kfd_ioctl_queue_status_args { target: 9, ..status }),
            ESRCH,
        ),
        (
            "no such queue",
            AMDKFD_IOC_GET_QUEUE_STATUS,
            as_bytes(&kfd_ioctl_queue_status_args { queue_id: 9, ..status }),
            ENOENT,
        ),
        (
            "NULL",
            AMDKFD_IOC_GET_QUEUE_STATUS,
            as_bytes(&kfd_ioctl_queue_status_args { num_entries: 1, ..status }),
            EFAULT,
        ),
        ("flags", AMDKFD_IOC_GPREEMPT_ATTACH, as_bytes(&kfd_ioctl_gpreempt_attach_args { flags: 1, ..attach }), EINVAL),
        (
            "no such process",
            AMDKFD_IOC_GPREEMPT_ATTACH,
            as_bytes(&kfd_ioctl_gpreempt_attach_args { pid: 99, ..attach }),
            ESRCH,
        ),
        (
            "somebody else's",
            AMDKFD_IOC_GPREEMPT_ATTACH,
            as_bytes(&kfd_ioctl_gpreempt_attach_args { pid: 12, ..attach }),
            EPERM,
        ),
        (
            "no such target",
            AMDKFD_IOC_GPREEMPT_DETACH,
            as_bytes(&kfd_ioctl_gpreempt_attach_args { target: 9, ..Default::default() }),
            ESRCH,
        ),
        ("the holder itself", AMDKFD_IOC_GPREEMPT_DETACH, as_bytes(&kfd_ioctl_gpreempt_attach_args::default()), ESRCH),
        ("no such command", AMDKFD_IOC_GPREEMPT_OPEN, vec![0; 64], Errno::ENOTTY),
        ("no such command", AMDKFD_IOC_GET_VERSION, vec![0; 8], Errno::ENOTTY),
    ];
    let longer = |value: u8| [as_bytes(&batch), vec![0, value, 0, 0, 0, 0, 0, 0]].concat();
    cases.push(("a longer struct that says something", unmap, longer(1), EINVAL));
    for (what, request, bytes, errno) in &cases {
        assert_eq!(send(&lease.user, lease.file, *request, bytes, array), Err(*errno), "{request:#x}: {what}");
    }
    // A longer struct that says nothing more is as good as a shorter one without what is 0 anyway.
    assert_eq!(lease.state(target, 0) & KFD_GPREEMPT_STATE_PREEMPTED, 0);
    assert_eq!(send(&lease.user, lease.file, unmap, &longer(0), array), Ok(0));
    assert_ne!(lease.state(target, 0) & KFD_GPREEMPT_STATE_PREEMPTED, 0);
    assert_eq!(send(&lease.user, lease.file, AMDKFD_IOC_FAST_REMAP, &as_bytes(&batch)[..24], array), Ok(0));
    assert_eq!(lease.state(target, 0) & KFD_GPREEMPT_STATE_PREEMPTED, 0);
}

#[test]
fn entries_that_overlap_or_say_too_much_are_refused_as_a_whole() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let (a, b, me) = (lease.offline(10), lease.offline(11), lease.attach(ME).unwrap());
    let gpu_id = gpu_ids(&machine)[0];
    let on = |entry: kfd_gpreempt_entry| kfd_gpreempt_entry { gpu_id, ..entry };
    let flagged = |queue_id, flags| kfd_gpreempt_entry { flags, ..entry(a, queue_id) };
    for entries in [
        vec![entry(a, 0), entry(b, 0), entry(a, 0)],
        vec![entry(a, 0), on(entry(a, 0))],
        vec![entry(a, ALL), entry(a, 1)],
        vec![on(entry(a, ALL)), entry(a, 1)],
        vec![on(entry(a, ALL)), on(entry(a, 1))],
        vec![entry(a, ALL), on(entry(a, ALL))],
        // 0 is the holder, and so is its handle.
        vec![entry(0, 0), entry(me, 0)],
        vec![flagged(0, KFD_GPREEMPT_ENTRY_HOLD_NEW)],
        vec![flagged(0, 4)],
        vec![kfd_gpreempt_entry { pad: 1, ..entry(a, 0) }],
    ] {
        assert_eq!(lease.unmap(&entries).answer, Err(Errno::EINVAL), "{entries:?}");
    }
    assert_eq!(lease.swap(&[entry(a, 0)], &[entry(a, 0)]).answer, Err(Errno::EINVAL));
    assert_eq!(lease.remap(&[flagged(0, KFD_GPREEMPT_ENTRY_IF_IDLE)]).answer, Err(Errno::EINVAL));
    assert!(lease.queues(a, ALL).unwrap().iter().all(|q| q.state & KFD_GPREEMPT_STATE_PREEMPTED == 0));
    // Different queues, and ALL of different processes, do not overlap.
    assert_eq!(lease.unmap(&[entry(a, 1), entry(b, ALL), entry(a, 0)]).ok, 3);
}

#[test]
fn an_entry_that_fails_says_why_and_the_others_go_on() {
    let machine = machine();
    let lease = User::new(&machine, ME).lease();
    let (a, b) = (lease.offline(10), lease.attach(11).unwrap());
    // On a GPU that does not exist it is no queue, and so not the first one again.
    let elsewhere = kfd_gpreempt_entry { gpu_id: 5, ..entry(a, 0) };
    let batch = lease.unmap(&[entry(a, 0), entry(a, 7), entry(9, 0), entry(b, 0), elsewhere, entry(0, 0)]);
    let wanted = [0, minus(Errno::ENOENT), minus(Errno::ESRCH), minus(Errno::EPERM), minus(Errno::ENOENT), 0];
    assert_eq!((batch.answer, batch.results()), (Ok(0), wanted.to_vec()));
    assert_eq!((batch.ok, batch.failed, batch.nodes, batch.rounds), (2, 4, 1, 1));
}
