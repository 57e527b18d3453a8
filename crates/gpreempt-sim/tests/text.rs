//! Text files: what a program that discovers queues reads.

mod kit;

use std::collections::BTreeSet;

use gpreempt_sim::config::{Hardware, Partition, QueueSpec, QueueType, Scenario, Workload};
use gpreempt_sim::pm4::{Packet, decode};
use gpreempt_sim::{Machine, Task};
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;

#[test]
fn every_file_that_a_folder_lists_can_be_read() {
    let mut config = with_gpus(config(vec![]), 2);
    config.scenario = Scenario::builtin_default(2);
    config.caller.root = true;
    let machine = Machine::boot(config).unwrap();
    let me = Task { pid: ME };
    let mut folders = vec!["/sys/class/kfd/kfd".to_owned(), "/proc".to_owned(), "/sys/kernel/debug/kfd".to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for name in machine.list(me, &folder).unwrap() {
            let path = format!("{folder}/{name}");
            match machine.read_text(me, &path) {
                Err(Errno::EISDIR) => folders.push(path),
                Ok(_) => {
                    assert_eq!(machine.list(me, &path), Err(Errno::ENOTDIR), "{path}");
                    files += 1;
                }
                Err(errno) => panic!("{path}: {errno}"),
            }
        }
    }
    assert!(files > 100, "{files}");
    assert_eq!(machine.read_text(me, "/sys/module/amdgpu/version"), Err(Errno::ENOENT));
    assert_eq!(machine.read_text(me, "/proc/99999/comm"), Err(Errno::ENOENT));
}

/// The words of the hex dumps in a text, one list per header line that `starts` accepts.
fn dumps(text: &str, starts: impl Fn(&str) -> bool) -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<u32>> = Vec::new();
    for line in text.lines() {
        if starts(line) {
            all.push(Vec::new());
        } else if let (Some(dump), Some((_, words))) = (all.last_mut(), line.split_once(": ")) {
            dump.extend(words.split_whitespace().filter_map(|word| u32::from_str_radix(word, 16).ok()));
        }
    }
    all
}

#[test]
fn debugfs_shows_what_the_driver_listed_and_what_the_firmware_mapped() {
    let copy = QueueSpec { kind: QueueType::Sdma, ..queues(1, busy()) };
    let mut config = config(vec![guest(10, vec![queues(2, busy())]), guest(11, vec![queues(1, busy()), copy])]);
    config.caller.root = true;
    let machine = Machine::boot(config).unwrap();
    let me = Task { pid: ME };
    let read = |name: &str| machine.read_text(me, &format!("/sys/kernel/debug/kfd/{name}")).unwrap();
    let listed = || -> (usize, usize) {
        let ibs = dumps(&read("rls"), |line| line.starts_with("Node"));
        let packets: Vec<Packet> = ibs.iter().flat_map(|ib| decode(ib)).map(|packet| packet.unwrap()).collect();
        let processes = packets.iter().filter(|p| matches!(p, Packet::MapProcess(_))).count();
        (processes, packets.iter().filter(|p| matches!(p, Packet::MapQueues(_))).count())
    };
    // CP_HQD_ACTIVE is the third register of a slot.
    let mapped =
        || dumps(&read("hqds"), |line| line.contains("CP Pipe")).iter().filter(|regs| regs[2] & 1 == 1).count();
    // A queue is on all four XCCs.
    assert_eq!((listed(), mapped()), ((2, 4), 3 * 4));

    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.unmap(&[entry(target, 0)]);
    // The runlist is there before the firmware has mapped it.
    assert_eq!((listed(), mapped()), ((2, 3), 0));
    pass(&machine, 10 * MS);
    assert_eq!(mapped(), 2 * 4);
    lease.unmap(&[entry(target, 1)]);
    pass(&machine, 10 * MS);
    // A process without active queues keeps its MAP_PROCESS.
    assert_eq!((listed(), mapped()), ((2, 2), 4));

    // MQDs, newest queue first: 1 and 0 of pid 10. Both were stopped with waves, which their save areas keep.
    let mqds = dumps(&read("mqds"), |line| line.contains("queue on device"));
    assert_eq!(mqds.len(), 4);
    let (offset, size, read_pointer) = (174, 175, 138);
    for mqd in &mqds[..2] {
        assert!(mqd[offset] < mqd[size], "{:#x} {:#x}", mqd[offset], mqd[size]);
    }
    let status = lease.queues(target, ALL).unwrap();
    assert_eq!(u64::from(mqds[1][read_pointer]), status[0].read_ptr * 16, "AQL packets are 16 dwords");
}

#[test]
fn an_oversubscribed_runlist_ends_with_a_chain_to_its_own_start() {
    let runlist = |processes: u32, queues_each: u32| {
        let guests = (0..processes).map(|n| guest(10 + n, vec![queues(queues_each, Workload::Manual)])).collect();
        let mut config = config(guests);
        config.caller.root = true;
        let machine = Machine::boot(config).unwrap();
        let text = machine.read_text(Task { pid: ME }, "/sys/kernel/debug/kfd/rls").unwrap();
        dumps(&text, |line| line.starts_with("Node")).remove(0)
    };
    // 25 queues of one process, and 14 processes of which the hardware takes 13.
    for (processes, each, together) in [(1, 25, 1), (14, 1, 13)] {
        let ib = runlist(processes, each);
        let packets: Vec<Packet> = decode(&ib).map(|packet| packet.unwrap()).collect();
        let last = *packets.last().unwrap();
        let Packet::RunList(chain) = last else { panic!("{last:?}") };
        assert_eq!((chain.chain, chain.processes, chain.ib_dwords as usize), (true, together, ib.len()));
    }
    let ib = runlist(13, 1);
    assert!(!decode(&ib).any(|packet| matches!(packet.unwrap(), Packet::RunList(_))));
}

#[test]
fn processes_have_the_vmids_that_amdgpu_leaves_to_compute() {
    let vmids = |partition, processes: u32| {
        let guests = (0..processes).map(|n| guest(10 + n, vec![queues(1, Workload::Manual)])).collect();
        let mut config = config(guests);
        config.caller.root = true;
        let Hardware::Model { partition: mode, .. } = &mut config.hardware else { unreachable!() };
        *mode = partition;
        let machine = Machine::boot(config).unwrap();
        let text = machine.read_text(Task { pid: ME }, "/sys/kernel/debug/kfd/hqds").unwrap();
        let per_node = text.split("Node ").skip(1).map(|node| -> BTreeSet<u32> {
            let slots = dumps(node, |line| line.contains("CP Pipe"));
            // CP_HQD_ACTIVE and CP_HQD_VMID.
            slots.iter().filter(|regs| regs[2] & 1 == 1).map(|regs| regs[3]).collect()
        });
        per_node.collect::<Vec<_>>()
    };
    assert_eq!(vmids(Partition::Spx, 13), [BTreeSet::from_iter(3..=15)]);
    let (even, odd) = (BTreeSet::from_iter(4..=9), BTreeSet::from_iter(10..=15));
    assert_eq!(vmids(Partition::Cpx, 6), [even.clone(), odd.clone(), even, odd]);
}

#[test]
fn slots_in_use_are_counted_over_time() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let used = |ns| {
        let before = machine.counters().slot_ns;
        pass(&machine, ns);
        machine.counters().slot_ns - before
    };
    assert_eq!(used(MS), 2 * MS);
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    lease.unmap(&[entry(target, 0)]);
    // RUN_LIST, MAP_QUEUES and 1280 waves on four XCCs come first.
    let mapping = 50 * US + 5 * US + 320 * 2 * US;
    assert_eq!(used(mapping), 0);
    assert_eq!(used(MS), MS);
}

#[test]
fn sysfs_counts_a_processes_memory_copies_and_compute_units() {
    let copy = QueueSpec { kind: QueueType::Sdma, ..queues(1, busy()) };
    let half = Workload::Continuous { packet_ns: MS, occupancy: 0.5, depth: 4 };
    let mut mine = guest(0, vec![queues(1, half), copy]);
    mine.caller = true;
    let machine = Machine::boot(config(vec![mine])).unwrap();
    let user = User::new(&machine, ME);
    let gpu_id = gpu_ids(&machine)[0];
    let read = |name: &str| {
        machine
            .read_text(user.task, &format!("/sys/class/kfd/kfd/proc/{ME}/{}", name.replace('*', &gpu_id.to_string())))
    };
    let alloc = |size, flags| {
        let mut args = kfd_ioctl_alloc_memory_of_gpu_args { size, gpu_id, flags, ..Default::default() };
        user.call(AMDKFD_IOC_ALLOC_MEMORY_OF_GPU, &mut args).unwrap();
        args.handle
    };
    let first = alloc(1 << 20, KFD_IOC_ALLOC_MEM_FLAGS_VRAM);
    alloc(1 << 21, KFD_IOC_ALLOC_MEM_FLAGS_VRAM);
    alloc(1 << 22, KFD_IOC_ALLOC_MEM_FLAGS_GTT);
    assert_eq!(read("vram_*").unwrap(), "3145728\n");
    let mut free = kfd_ioctl_free_memory_of_gpu_args { handle: first };
    assert_eq!(user.call(AMDKFD_IOC_FREE_MEMORY_OF_GPU, &mut free), Ok(0));
    assert_eq!(read("vram_*").unwrap(), "2097152\n");
    let before: u64 = read("sdma_*").unwrap().trim().parse().unwrap();
    pass(&machine, 5 * MS);
    assert_eq!(read("sdma_*").unwrap(), format!("{}\n", before + 5000));
    // Half of the waves of 80 compute units.
    assert_eq!(read("stats_*/cu_occupancy").unwrap(), "40\n");
    assert_eq!(read("queues/1/type").unwrap(), "1");
    assert_eq!(read("queues/0/gpuid").unwrap(), gpu_id.to_string());
    assert_eq!(read("queues/00/gpuid"), Err(Errno::ENOENT));
}
