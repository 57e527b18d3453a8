//! The simulator behind the seam. Every actor is a guest of the scenario.

use std::collections::HashSet;
use std::path::PathBuf;

use gpreempt_sim::config::{
    Caller, ClockKind, Config, ConfigError, CostModel, GpuModel, Hardware, Partition, ProcessSpec, Scenario,
};
use gpreempt_sim::{Task, UserMemory, Work};
use gpreempt_sys::{AMDKFD_IOC_ACQUIRE_VM, kfd_ioctl_acquire_vm_args};
use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::machine::{Buffers, Machine, SCRATCH_BASE, Scratch, SysResult};

/// How long a call's consequences have to come about, ns of the machine's clock.
const SETTLE: u64 = 50_000_000;
/// Packets that no test lives to see the end of.
const ENDLESS: Work = Work { packets: u32::MAX, packet_ns: 1_000_000_000, occupancy: 0.01 };
/// Size of a ring.
pub const RING_BYTES: u32 = 8192;
/// The first pid that guests get.
const FIRST_PID: u32 = 5000;

/// The simulated machine; it boots anew for every list.
pub struct SimMachine {
    hardware: Hardware,
    machine: gpreempt_sim::Machine,
    pids: Vec<u32>,
    /// Who has a VM where.
    acquired: HashSet<(usize, u32)>,
    /// Where the next buffer goes.
    next: u64,
}

impl SimMachine {
    /// A machine of so many GPUs.
    ///
    /// # Errors
    /// As [`gpreempt_sim::Machine::boot`].
    pub fn of_model(gpus: u32) -> Result<SimMachine, ConfigError> {
        SimMachine::of(Hardware::Model { model: GpuModel::named("mi308x")?, gpus, partition: Partition::Spx })
    }

    /// The machine that this topology tree tells of.
    ///
    /// # Errors
    /// As [`gpreempt_sim::Machine::boot`].
    pub fn of_tree(path: impl Into<PathBuf>) -> Result<SimMachine, ConfigError> {
        SimMachine::of(Hardware::Tree { path: path.into(), model: GpuModel::named("mi308x")? })
    }

    fn of(hardware: Hardware) -> Result<SimMachine, ConfigError> {
        let machine = boot(&hardware)?;
        Ok(SimMachine { hardware, machine, pids: Vec::new(), acquired: HashSet::new(), next: 0 })
    }

    fn task(&self, actor: usize) -> Task {
        Task { pid: self.pids[actor] }
    }

    fn settle(&mut self) {
        self.machine.advance_to(self.machine.now() + SETTLE);
    }
}

fn boot(hardware: &Hardware) -> Result<gpreempt_sim::Machine, ConfigError> {
    gpreempt_sim::Machine::boot(Config {
        hardware: hardware.clone(),
        cost: CostModel::named("design")?,
        scenario: Scenario::empty(),
        clock: ClockKind::Virtual,
        seed: 1,
        patched: true,
        caller: Caller { pid: 1, uid: 0, privileged: true, root: true, name: "init".to_owned() },
    })
}

impl UserMemory for Scratch {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        bytes.copy_from_slice(&self.0[range(self, address, bytes.len())?]);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let range = range(self, address, bytes.len())?;
        self.0[range].copy_from_slice(bytes);
        Ok(())
    }
}

fn range(memory: &Scratch, address: u64, length: usize) -> Result<std::ops::Range<usize>, Errno> {
    let start = address.checked_sub(SCRATCH_BASE).and_then(|start| usize::try_from(start).ok()).ok_or(Errno::EFAULT)?;
    let end = start.checked_add(length).filter(|end| *end <= memory.0.len()).ok_or(Errno::EFAULT)?;
    Ok(start..end)
}

impl Machine for SimMachine {
    fn name(&self) -> &'static str {
        "simulator"
    }

    fn gpus(&self) -> Vec<u32> {
        let read = |path: String| self.machine.read_text(Task { pid: 1 }, &path).ok()?.trim().parse::<u32>().ok();
        let nodes = "/sys/class/kfd/kfd/topology/nodes";
        (0..).map_while(|node| read(format!("{nodes}/{node}/gpu_id"))).filter(|gpu| *gpu != 0).collect()
    }

    fn begin(&mut self, uids: &[u32]) -> SysResult<()> {
        self.machine = boot(&self.hardware).map_err(|_| Errno::EIO)?;
        (self.next, self.pids) = (0x7f00_0000_0000, Vec::new());
        self.acquired.clear();
        for (actor, uid) in (0u32..).zip(uids) {
            let spec = ProcessSpec {
                name: format!("a{actor}"),
                pid: FIRST_PID + actor,
                namespace_pid: None,
                caller: false,
                uid: Some(*uid),
                cgroup: "/".to_owned(),
                command: vec![format!("a{actor}")],
                runtime_enabled: false,
                queues: Vec::new(),
            };
            let pid = self.machine.spawn(&spec)?;
            self.pids.push(pid);
        }
        Ok(())
    }

    fn end(&mut self) -> SysResult<()> {
        Ok(())
    }

    fn pid(&self, actor: usize) -> u32 {
        self.pids[actor]
    }

    fn open(&mut self, actor: usize, path: &str) -> SysResult<i32> {
        self.machine.open(self.task(actor), path)
    }

    fn ioctl(
        &mut self,
        actor: usize,
        file: i32,
        request: u32,
        argument: &mut [u8],
        memory: &mut Scratch,
    ) -> SysResult<i32> {
        let answer = self.machine.ioctl(self.task(actor), file, request, argument, memory);
        self.settle();
        answer
    }

    fn read(&mut self, actor: usize, file: i32, room: usize) -> SysResult<Vec<u8>> {
        let mut buffer = vec![0; room];
        let count = self.machine.read(self.task(actor), file, &mut buffer)?;
        buffer.truncate(count);
        Ok(buffer)
    }

    fn poll(&mut self, actor: usize, file: i32) -> SysResult<(bool, bool)> {
        self.machine.poll(self.task(actor), file).map(|found| (found.readable, found.hung_up))
    }

    fn close(&mut self, actor: usize, file: i32) -> SysResult<()> {
        self.machine.close(self.task(actor), file)?;
        self.settle();
        Ok(())
    }

    fn lend(&mut self, _owner: usize, file: i32, _to: usize) -> SysResult<i32> {
        // File numbers are those of the machine, whoever uses them.
        Ok(file)
    }

    fn take_back(&mut self, _actor: usize, _file: i32) -> SysResult<()> {
        Ok(())
    }

    fn buffers(&mut self, actor: usize, gpu: u32, compute: bool) -> SysResult<Buffers> {
        if self.acquired.insert((actor, gpu)) {
            let task = self.task(actor);
            let kfd = self.machine.open(task, "/dev/kfd")?;
            let mut args = kfd_ioctl_acquire_vm_args { drm_fd: 0, gpu_id: gpu };
            let memory = &mut Scratch::default();
            self.machine.ioctl(task, kfd, AMDKFD_IOC_ACQUIRE_VM, args.as_mut_bytes(), memory)?;
            self.machine.close(task, kfd)?;
        }
        let base = self.next;
        self.next += 0x10_0000;
        let property = |name: &str| {
            let text = self.properties(gpu)?;
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            value.ok_or(Errno::ENOENT)
        };
        let mut buffers = Buffers {
            ring: base,
            ring_bytes: RING_BYTES,
            read: base + 0x2000,
            write: base + 0x2040,
            ..Buffers::default()
        };
        if compute {
            buffers.save = base + 0x4000;
            (buffers.save_bytes, buffers.stack_bytes) = (property("cwsr_size ")?, property("ctl_stack_size ")?);
        }
        Ok(buffers)
    }

    fn fill(&mut self, actor: usize, _kind: u32, queue: u32, _buffers: &Buffers) -> SysResult<()> {
        self.machine.submit(self.pids[actor], queue, ENDLESS).map(|_| ())
    }

    fn recycle(&mut self, _actor: usize, _gpu: u32, _compute: bool, _buffers: Buffers) {}

    fn set_uid(&mut self, actor: usize, uid: u32) -> SysResult<()> {
        self.machine.set_uid(self.pids[actor], uid)
    }

    fn kill(&mut self, actor: usize) -> SysResult<()> {
        self.machine.kill(self.pids[actor])?;
        self.settle();
        Ok(())
    }

    fn exec(&mut self, actor: usize) -> SysResult<bool> {
        self.machine.exec(self.pids[actor])?;
        self.acquired.retain(|(owner, _)| *owner != actor);
        self.settle();
        Ok(true)
    }

    fn evict(&mut self, actor: usize, evict: bool) -> SysResult<bool> {
        self.machine.evict(self.pids[actor], evict)?;
        self.settle();
        Ok(true)
    }

    fn trace(&mut self, actor: usize, target: usize, on: bool) -> SysResult<()> {
        let pid = self.pids[target];
        let task = self.task(actor);
        if on { self.machine.ptrace_seize(task, pid) } else { self.machine.ptrace_detach(task, pid) }
    }

    fn read_text(&mut self, actor: usize, path: &str) -> SysResult<String> {
        self.machine.read_text(self.task(actor), path)
    }

    fn list(&mut self, actor: usize, path: &str) -> SysResult<Vec<String>> {
        self.machine.list(self.task(actor), path)
    }

    fn sleep(&mut self, ms: u32) {
        self.machine.advance_to(self.machine.now() + u64::from(ms) * 1_000_000);
    }

    fn state_of(&mut self, actor: usize, queue: u32) -> Option<u32> {
        self.machine.queue_state(self.pids[actor], queue).ok()
    }
}

impl SimMachine {
    fn properties(&self, gpu: u32) -> SysResult<String> {
        let read = |path: &str| self.machine.read_text(Task { pid: 1 }, path);
        let nodes = "/sys/class/kfd/kfd/topology/nodes";
        for node in self.machine.list(Task { pid: 1 }, nodes)? {
            if read(&format!("{nodes}/{node}/gpu_id"))?.trim() == gpu.to_string() {
                return read(&format!("{nodes}/{node}/properties"));
            }
        }
        Err(Errno::ENOENT)
    }
}
