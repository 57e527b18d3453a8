//! What the machine's tests share: a round machine, memory for ioctl pointers, and each command as a function.
#![allow(dead_code)] // every test file uses its own part

use gpreempt_sim::config::{
    Caller, ClockKind, Config, CostModel, Figure, GpuModel, Hardware, Partition, ProcessSpec, QueueSpec, QueueType,
    Scenario, Workload,
};
use gpreempt_sim::{FileId, Machine, Task, UserMemory, Work};
use gpreempt_sys::*;
use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub const MS: u64 = 1_000_000;
pub const US: u64 = 1_000;
/// The pid of the process that calls.
pub const ME: u32 = 1000;
pub const ALL: u32 = KFD_GPREEMPT_ALL_QUEUES;

/// A cost model whose figures are easy to add up and all different.
pub fn cost() -> CostModel {
    let figure = |ns: u64| Figure { ns, source: "round figures for tests".into() };
    CostModel {
        name: "test".into(),
        about: "Round figures.".into(),
        ioctl: figure(US),
        mark_queue: figure(100),
        submit_unmap: figure(10 * US),
        submit_runlist: figure(20 * US),
        hws_unmap: figure(200 * US),
        hws_runlist: figure(50 * US),
        hws_map_queue: figure(5 * US),
        wave_save: figure(1000),
        wave_restore: figure(2000),
        hws_slice: figure(30 * US),
        slice: figure(10 * MS),
        debug_enable: figure(3 * US),
        debug_suspend: figure(400 * US),
        debug_resume: figure(500 * US),
        debug_copy_queue: figure(60 * US),
        debug_snapshot_queue: figure(7 * US),
        update_queue: figure(11 * US),
        queue_reset: figure(3 * MS),
        node_reset: figure(100 * MS),
    }
}

pub fn config(processes: Vec<ProcessSpec>) -> Config {
    Config {
        hardware: Hardware::Model { model: GpuModel::named("mi308x").unwrap(), gpus: 1, partition: Partition::Spx },
        cost: cost(),
        scenario: Scenario { name: "test".into(), processes, ..Scenario::default() },
        clock: ClockKind::Virtual,
        seed: 7,
        patched: true,
        caller: Caller { pid: ME, uid: 1000, privileged: false, root: false, name: "tester".into() },
    }
}

/// `gpus` GPUs instead of one.
pub fn with_gpus(mut config: Config, gpus: u32) -> Config {
    let Hardware::Model { gpus: count, .. } = &mut config.hardware else { unreachable!() };
    *count = gpus;
    config
}

/// A guest of the caller's user.
pub fn guest(pid: u32, queues: Vec<QueueSpec>) -> ProcessSpec {
    ProcessSpec {
        name: format!("guest-{pid}"),
        pid,
        namespace_pid: None,
        caller: false,
        uid: None,
        cgroup: format!("/test/{pid}"),
        command: vec!["python3".into(), "train.py".into()],
        runtime_enabled: true,
        queues,
    }
}

/// `count` compute queues on every node.
pub fn queues(count: u32, work: Workload) -> QueueSpec {
    QueueSpec {
        nodes: vec![],
        count,
        kind: QueueType::Compute,
        priority: 2,
        percent: 100,
        ring_bytes: 65536,
        gws: false,
        work,
    }
}

/// Packets of 1 ms that fill the node, for ever.
pub fn busy() -> Workload {
    Workload::Continuous { packet_ns: MS, occupancy: 1.0, depth: 4 }
}

/// Small kernels, so that queues do not crowd each other out of the shaders.
pub fn light() -> Workload {
    Workload::Continuous { packet_ns: MS, occupancy: 0.01, depth: 4 }
}

pub fn work(packets: u32, packet_ns: u64) -> Work {
    Work { packets, packet_ns, occupancy: 1.0 }
}

/// Memory that is one array at one address.
pub struct Memory {
    pub base: u64,
    pub bytes: Vec<u8>,
}

pub const BASE: u64 = 0x1_0000;

impl Memory {
    pub fn new(bytes: &[u8]) -> Memory {
        Memory { base: BASE, bytes: bytes.to_vec() }
    }

    fn range(&self, address: u64, length: usize) -> Result<std::ops::Range<usize>, Errno> {
        let start = address.checked_sub(self.base).ok_or(Errno::EFAULT)? as usize;
        let end = start.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(Errno::EFAULT)?;
        Ok(start..end)
    }
}

impl UserMemory for Memory {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let range = self.range(address, bytes.len())?;
        bytes.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let range = self.range(address, bytes.len())?;
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// Array elements from bytes.
pub fn elements<T: FromBytes>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(|chunk| T::read_from_bytes(chunk).unwrap()).collect()
}

/// A process with `/dev/kfd` open.
pub struct User<'m> {
    pub machine: &'m Machine,
    pub task: Task,
    pub kfd: FileId,
}

impl<'m> User<'m> {
    pub fn new(machine: &'m Machine, pid: u32) -> User<'m> {
        let task = Task { pid };
        User { machine, task, kfd: machine.open(task, "/dev/kfd").unwrap() }
    }

    pub fn ioctl<T>(&self, file: FileId, request: u32, args: &mut T, memory: &mut Memory) -> Result<i32, Errno>
    where
        T: FromBytes + IntoBytes,
    {
        self.machine.ioctl(self.task, file, request, args.as_mut_bytes(), memory)
    }

    /// An ioctl on `/dev/kfd` without pointers.
    pub fn call<T: FromBytes + IntoBytes>(&self, request: u32, args: &mut T) -> Result<i32, Errno> {
        self.ioctl(self.kfd, request, args, &mut Memory::new(&[]))
    }

    pub fn lease(&self) -> Lease<'m> {
        self.lease_for(0)
    }

    pub fn lease_for(&self, max_hold_ms: u32) -> Lease<'m> {
        let mut args = kfd_ioctl_gpreempt_open_args { abi_version: 1, max_hold_ms, ..Default::default() };
        self.call(AMDKFD_IOC_GPREEMPT_OPEN, &mut args).unwrap();
        Lease { user: User { machine: self.machine, task: self.task, kfd: self.kfd }, file: args.lease_fd, args }
    }

    /// UPDATE_QUEUE of an own queue.
    pub fn update(&self, queue: u32, ring: (u64, u32), percent: u32) -> Result<i32, Errno> {
        let mut args = kfd_ioctl_update_queue_args {
            ring_base_address: ring.0,
            queue_id: queue,
            ring_size: ring.1,
            queue_percentage: percent,
            queue_priority: 2,
        };
        self.call(AMDKFD_IOC_UPDATE_QUEUE, &mut args)
    }

    /// DBG_TRAP with an array of queue ids; returns the count and the array.
    pub fn debug<T: DbgTrapOp>(&self, pid: u32, args: T, ids: &[u32]) -> (Result<i32, Errno>, Vec<u32>) {
        let mut memory = Memory::new(ids.as_bytes());
        let mut args = kfd_ioctl_dbg_trap_args::new(pid, args);
        let answer = self.ioctl(self.kfd, AMDKFD_IOC_DBG_TRAP, &mut args, &mut memory);
        (answer, elements(&memory.bytes))
    }

    pub fn debug_enable(&self, pid: u32) -> Result<i32, Errno> {
        let mut memory = Memory::new(&[0; 16]);
        let enable = kfd_ioctl_dbg_trap_enable_args {
            exception_mask: 0,
            rinfo_ptr: BASE,
            rinfo_size: 16,
            dbg_fd: self.kfd as u32,
        };
        let mut args = kfd_ioctl_dbg_trap_args::new(pid, enable);
        self.ioctl(self.kfd, AMDKFD_IOC_DBG_TRAP, &mut args, &mut memory)
    }

    pub fn debug_disable(&self, pid: u32) -> Result<i32, Errno> {
        let mut args = kfd_ioctl_dbg_trap_args { pid, op: KFD_IOC_DBG_TRAP_DISABLE, ..Default::default() };
        self.call(AMDKFD_IOC_DBG_TRAP, &mut args)
    }

    /// Clears EC_QUEUE_NEW; returns the queues, newest first.
    pub fn snapshot(&self, pid: u32) -> Vec<kfd_queue_snapshot_entry> {
        let mut memory = Memory::new(&[0; 64 * 64]);
        let args = kfd_ioctl_dbg_trap_queue_snapshot_args {
            exception_mask: KFD_EC_MASK(EC_QUEUE_NEW),
            snapshot_buf_ptr: BASE,
            num_queues: 64,
            entry_size: 64,
        };
        let mut args = kfd_ioctl_dbg_trap_args::new(pid, args);
        self.ioctl(self.kfd, AMDKFD_IOC_DBG_TRAP, &mut args, &mut memory).unwrap();
        let count = args.get::<kfd_ioctl_dbg_trap_queue_snapshot_args>().unwrap().num_queues;
        elements(&memory.bytes)[..count as usize].to_vec()
    }

    pub fn suspend(&self, pid: u32, ids: &[u32]) -> (Result<i32, Errno>, Vec<u32>) {
        let args = kfd_ioctl_dbg_trap_suspend_queues_args {
            exception_mask: 0,
            queue_array_ptr: BASE,
            num_queues: ids.len() as u32,
            grace_period: u32::MAX,
        };
        self.debug(pid, args, ids)
    }

    pub fn resume(&self, pid: u32, ids: &[u32]) -> (Result<i32, Errno>, Vec<u32>) {
        let args =
            kfd_ioctl_dbg_trap_resume_queues_args { queue_array_ptr: BASE, num_queues: ids.len() as u32, pad: 0 };
        self.debug(pid, args, ids)
    }
}

/// CREATE_QUEUE of a compute queue on a node of an MI308X, with all buffers that it needs.
pub fn compute_queue(gpu_id: u32) -> kfd_ioctl_create_queue_args {
    kfd_ioctl_create_queue_args {
        ring_base_address: 0x7000_0000,
        write_pointer_address: 0x7100_0000,
        read_pointer_address: 0x7100_0008,
        ctx_save_restore_address: 0x7200_0000,
        ctx_save_restore_size: 12_214_272,
        ctl_stack_size: 8192,
        ring_size: 1024,
        gpu_id,
        queue_type: KFD_IOC_QUEUE_TYPE_COMPUTE_AQL,
        queue_percentage: 100,
        queue_priority: 7,
        ..Default::default()
    }
}

/// An open lease.
pub struct Lease<'m> {
    pub user: User<'m>,
    pub file: FileId,
    pub args: kfd_ioctl_gpreempt_open_args,
}

/// What a batch command answered.
#[derive(Clone, Debug)]
pub struct Batch {
    pub answer: Result<i32, Errno>,
    pub entries: Vec<kfd_gpreempt_entry>,
    pub ok: u32,
    pub failed: u32,
    pub nodes: u32,
    pub rounds: u32,
    pub elapsed_ns: u64,
    pub max_node_ns: u64,
}

/// The three batch structs answer in the same fields.
macro_rules! batch {
    ($answer:ident, $memory:ident, $args:ident) => {
        Batch {
            answer: $answer,
            entries: elements(&$memory.bytes),
            ok: $args.num_ok,
            failed: $args.num_failed,
            nodes: $args.num_nodes,
            rounds: $args.num_rounds,
            elapsed_ns: $args.elapsed_ns,
            max_node_ns: $args.max_node_ns,
        }
    };
}

impl Batch {
    pub fn results(&self) -> Vec<i32> {
        self.entries.iter().map(|entry| entry.result).collect()
    }
}

pub fn entry(target: u32, queue_id: u32) -> kfd_gpreempt_entry {
    kfd_gpreempt_entry { target, queue_id, ..Default::default() }
}

pub fn minus(errno: Errno) -> i32 {
    -(errno as i32)
}

impl Lease<'_> {
    pub fn call<T: FromBytes + IntoBytes>(&self, request: u32, args: &mut T) -> Result<i32, Errno> {
        self.user.ioctl(self.file, request, args, &mut Memory::new(&[]))
    }

    pub fn attach(&self, pid: u32) -> Result<u32, Errno> {
        let mut args = kfd_ioctl_gpreempt_attach_args { pid, ..Default::default() };
        self.call(AMDKFD_IOC_GPREEMPT_ATTACH, &mut args).map(|_| args.target)
    }

    /// Attaches and marks the whole process PREEMPTIBLE.
    pub fn offline(&self, pid: u32) -> u32 {
        let target = self.attach(pid).unwrap();
        assert_eq!(self.policy(entry(target, ALL), KFD_GPREEMPT_POLICY_PREEMPTIBLE, 0).queue.result, 0);
        target
    }

    pub fn detach(&self, target: u32) -> Result<i32, Errno> {
        let mut args = kfd_ioctl_gpreempt_attach_args { target, ..Default::default() };
        self.call(AMDKFD_IOC_GPREEMPT_DETACH, &mut args)
    }

    pub fn policy(&self, queue: kfd_gpreempt_entry, set_flags: u32, clear_flags: u32) -> kfd_ioctl_queue_policy_args {
        let mut args = kfd_ioctl_queue_policy_args { queue, set_flags, clear_flags, ..Default::default() };
        assert_eq!(self.call(AMDKFD_IOC_SET_QUEUE_POLICY, &mut args), Ok(0));
        args
    }

    pub fn unmap(&self, entries: &[kfd_gpreempt_entry]) -> Batch {
        self.unmap_with(entries, 0)
    }

    pub fn unmap_with(&self, entries: &[kfd_gpreempt_entry], grace_period: u32) -> Batch {
        let mut memory = Memory::new(entries.as_bytes());
        let mut args = kfd_ioctl_batch_unmap_args {
            entries_ptr: BASE,
            num_entries: entries.len() as u32,
            entry_size: 32,
            grace_period,
            ..Default::default()
        };
        let answer = self.user.ioctl(self.file, AMDKFD_IOC_BATCH_UNMAP_QUEUES, &mut args, &mut memory);
        batch!(answer, memory, args)
    }

    pub fn remap(&self, entries: &[kfd_gpreempt_entry]) -> Batch {
        let mut memory = Memory::new(entries.as_bytes());
        let mut args = kfd_ioctl_fast_remap_args {
            entries_ptr: BASE,
            num_entries: entries.len() as u32,
            entry_size: 32,
            ..Default::default()
        };
        let answer = self.user.ioctl(self.file, AMDKFD_IOC_FAST_REMAP, &mut args, &mut memory);
        batch!(answer, memory, args)
    }

    pub fn swap(&self, unmap: &[kfd_gpreempt_entry], remap: &[kfd_gpreempt_entry]) -> Batch {
        let all = [unmap, remap].concat();
        let mut memory = Memory::new(all.as_bytes());
        let mut args = kfd_ioctl_swap_queues_args {
            unmap_ptr: BASE,
            remap_ptr: BASE + 32 * unmap.len() as u64,
            num_unmap: unmap.len() as u32,
            num_remap: remap.len() as u32,
            entry_size: 32,
            ..Default::default()
        };
        let answer = self.user.ioctl(self.file, AMDKFD_IOC_SWAP_QUEUES, &mut args, &mut memory);
        batch!(answer, memory, args)
    }

    pub fn selective(&self, queue: kfd_gpreempt_entry, flags: u32) -> kfd_ioctl_selective_unmap_args {
        let mut args = kfd_ioctl_selective_unmap_args { queue, flags, ..Default::default() };
        assert_eq!(self.call(AMDKFD_IOC_SELECTIVE_UNMAP, &mut args), Ok(0));
        args
    }

    pub fn set_state(&self, queue: kfd_gpreempt_entry, state: u32) -> kfd_ioctl_queue_state_args {
        let mut args = kfd_ioctl_queue_state_args { queue, state, ..Default::default() };
        assert_eq!(self.call(AMDKFD_IOC_SET_QUEUE_STATE, &mut args), Ok(0));
        args
    }

    pub fn reserve(&self, online: u32, offline: u32) -> Result<kfd_ioctl_hqd_reservation_args, Errno> {
        let mut args =
            kfd_ioctl_hqd_reservation_args { online_percent: online, offline_percent: offline, ..Default::default() };
        self.call(AMDKFD_IOC_SET_HQD_RESERVATION, &mut args).map(|_| args)
    }

    pub fn node_status(&self, gpu_id: u32) -> Result<kfd_ioctl_hqd_status_args, Errno> {
        let mut args = kfd_ioctl_hqd_status_args { gpu_id, ..Default::default() };
        self.call(AMDKFD_IOC_GET_HQD_STATUS, &mut args).map(|_| args)
    }

    /// The first node.
    pub fn status(&self) -> kfd_ioctl_hqd_status_args {
        self.node_status(gpu_ids(self.user.machine)[0]).unwrap()
    }

    pub fn queues(&self, target: u32, queue_id: u32) -> Result<Vec<kfd_gpreempt_queue_status>, Errno> {
        let mut memory = Memory::new(&[0; 96 * 256]);
        let mut args = kfd_ioctl_queue_status_args {
            status_ptr: BASE,
            target,
            queue_id,
            num_entries: 256,
            entry_size: 96,
            flags: KFD_GPREEMPT_WANT_POINTERS | KFD_GPREEMPT_WANT_WAVES,
            ..Default::default()
        };
        self.user.ioctl(self.file, AMDKFD_IOC_GET_QUEUE_STATUS, &mut args, &mut memory)?;
        let mut found: Vec<kfd_gpreempt_queue_status> = elements(&memory.bytes)[..args.num_entries as usize].to_vec();
        // The driver lists them newest first on each node.
        found.sort_by_key(|status| status.queue_id);
        Ok(found)
    }

    pub fn state(&self, target: u32, queue: u32) -> u32 {
        self.queues(target, queue).unwrap()[0].state
    }

    pub fn events(&self) -> Vec<kfd_gpreempt_event> {
        let mut bytes = [0; 40 * 64];
        match self.user.machine.read(self.user.task, self.file, &mut bytes) {
            Ok(count) => elements(&bytes[..count]),
            Err(Errno::EAGAIN) => vec![],
            Err(errno) => panic!("reading events: {errno}"),
        }
    }

    pub fn close(self) {
        self.user.machine.close(self.user.task, self.file).unwrap();
    }
}

/// gpu_id of every node, in order.
pub fn gpu_ids(machine: &Machine) -> Vec<u32> {
    let user = User::new(machine, ME);
    let mut memory = Memory::new(&[0; 56 * 64]);
    let mut args =
        kfd_ioctl_get_process_apertures_new_args { kfd_process_device_apertures_ptr: BASE, num_of_nodes: 1, pad: 0 };
    let mut count = kfd_ioctl_get_process_apertures_new_args::default();
    user.call(AMDKFD_IOC_GET_PROCESS_APERTURES_NEW, &mut count).unwrap();
    args.num_of_nodes = count.num_of_nodes;
    user.ioctl(user.kfd, AMDKFD_IOC_GET_PROCESS_APERTURES_NEW, &mut args, &mut memory).unwrap();
    machine.close(user.task, user.kfd).unwrap();
    let found = elements::<kfd_process_device_apertures>(&memory.bytes);
    found[..args.num_of_nodes as usize].iter().map(|aperture| aperture.gpu_id).collect()
}

pub fn as_bytes<T: IntoBytes + Immutable>(value: &T) -> Vec<u8> {
    value.as_bytes().to_vec()
}

/// Lets `ns` pass.
pub fn pass(machine: &Machine, ns: u64) {
    machine.advance_to(machine.now() + ns);
}

/// Packets executed by a queue in the next `ns`.
pub fn progress(machine: &Machine, pid: u32, queue: u32, ns: u64) -> u64 {
    let before = machine.executed(pid, queue).unwrap();
    pass(machine, ns);
    machine.executed(pid, queue).unwrap() - before
}
