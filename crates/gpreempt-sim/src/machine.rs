//! The machine as its users see it: system calls, guests' work, and time.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard};

use gpreempt_sys::kfd_ioctl_create_queue_args;
use nix::errno::Errno;

use crate::call::{self, Call};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, ProcessSpec, QueueSpec};
use crate::file::File;
use crate::kfd;
use crate::queue::QueueKey;
use crate::world::World;

/// Who makes a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    /// Thread group id in the machine's init namespace.
    pub pid: u32,
}

/// An open file of one process (a file descriptor number).
pub type FileId = i32;

/// The memory that pointers in ioctl structs refer to.
pub trait UserMemory {
    /// Copies from user memory.
    ///
    /// # Errors
    /// EFAULT where the range is not the caller's.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Errno>;
    /// Copies to user memory.
    ///
    /// # Errors
    /// EFAULT where the range is not the caller's.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno>;
}

/// What `poll` found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// POLLIN.
    pub readable: bool,
    /// POLLHUP.
    pub hung_up: bool,
}

/// Packets to put into a ring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// How many.
    pub packets: u32,
    /// Duration of one of them alone on its node, ns.
    pub packet_ns: u64,
    /// Share of the node's wave slots that it fills while it runs, 0 < o <= 1.
    pub occupancy: f64,
}

/// Names one [`Work`] that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A simulated machine. All methods may be called from any thread.
///
/// Time is in nanoseconds since boot. On a real clock `now` follows the wall and calls sleep for what they are
/// modelled to take. On a virtual clock a call moves the machine's time by what it takes, and [`Machine::advance_to`]
/// moves it on.
pub struct Machine {
    clock: Clock,
    world: Mutex<World>,
    /// Rung whenever a command gives back the lock of its lease.
    turns: Condvar,
}

impl Machine {
    /// Boots a machine and starts the scenario's processes.
    ///
    /// # Errors
    /// Where the configuration contradicts itself or a topology tree cannot be read.
    pub fn boot(config: Config) -> Result<Machine, ConfigError> {
        let kind = config.clock;
        let world = World::boot(config)?;
        Ok(Machine { clock: Clock::new(kind), world: Mutex::new(world), turns: Condvar::new() })
    }

    fn enter(&self) -> MutexGuard<'_, World> {
        call::enter(&self.clock, &self.world)
    }

    /// One line that says what this machine is made of, for reports: model, nodes, cost model, clock, and what did not
    /// come from a loaded topology tree.
    pub fn describe(&self) -> String {
        self.enter().describe()
    }

    /// Nanoseconds since boot.
    pub fn now(&self) -> u64 {
        self.enter().now
    }

    /// Lets a virtual clock run to `time` (no earlier than now). On a real clock: sleeps until then.
    pub fn advance_to(&self, time: u64) {
        self.clock.sleep_until(time);
        let mut world = self.enter();
        if self.clock.wall().is_none() {
            world.run_to(time);
        }
    }

    /// Like [`Machine::advance_to`], but stops at the first completion of a [`Work`] on the way and returns it with its
    /// time. Every completion is returned once, those that happened during other calls too.
    pub fn run_until(&self, time: u64) -> Option<(Ticket, u64)> {
        loop {
            let mut world = self.enter();
            if let Some(completion) = world.completions.pop_front() {
                return Some(completion);
            }
            if self.clock.wall().is_none() {
                if world.timeline.next().is_some_and(|next| next <= time) {
                    world.step();
                    continue;
                }
                world.run_to(time);
                return None;
            }
            if world.now >= time {
                return None;
            }
            // Others may submit in the meantime, so look again after at most a millisecond.
            let next = world.timeline.next().unwrap_or(time).min(time).min(world.now + 1_000_000);
            drop(world);
            self.clock.sleep_until(next);
        }
    }

    // --- system calls -------------------------------------------------------------------------------------------

    /// `open(path, O_RDWR | O_CLOEXEC)`; only `/dev/kfd` and `/dev/null` are devices.
    ///
    /// # Errors
    /// ENOENT, ESRCH (no such task), EINVAL (`/dev/kfd` while a GPU is reset).
    pub fn open(&self, task: Task, path: &str) -> Result<FileId, Errno> {
        let mut world = self.enter();
        world.process(task.pid)?;
        let file = match path {
            "/dev/kfd" if world.is_locked() => return Err(Errno::EINVAL),
            "/dev/kfd" => {
                world.open_kfd(task.pid)?;
                File::Kfd
            }
            "/dev/null" => File::Null,
            _ => return Err(Errno::ENOENT),
        };
        Ok(world.files.insert(task, file))
    }

    /// `ioctl`. `argument` is the struct (its length is the size in `request`), `memory` is where its pointers point.
    /// Returns the call's (non-negative) return value.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn ioctl(
        &self,
        task: Task,
        file: FileId,
        request: u32,
        argument: &mut [u8],
        memory: &mut dyn UserMemory,
    ) -> Result<i32, Errno> {
        let mut call = Call::new(&self.clock, &self.world, &self.turns, task, memory);
        kfd::ioctl(&mut call, file, request, argument)
    }

    /// `read` from a lease or SMI event file, as if O_NONBLOCK were set.
    ///
    /// # Errors
    /// EAGAIN, EINVAL (short buffer, or a file without `read`), EBADF.
    pub fn read(&self, task: Task, file: FileId, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.enter().read_file(task, file, buffer)
    }

    /// `write` to an SMI event file (selects its events).
    ///
    /// # Errors
    /// EFAULT (fewer than 8 bytes), EINVAL (a file without `write`), EBADF.
    pub fn write(&self, _task: Task, file: FileId, buffer: &[u8]) -> Result<usize, Errno> {
        self.enter().write_file(file, buffer)
    }

    /// `poll` without waiting.
    ///
    /// # Errors
    /// EBADF.
    pub fn poll(&self, task: Task, file: FileId) -> Result<Readiness, Errno> {
        self.enter().poll_file(task, file)
    }

    /// `close`.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&self, task: Task, file: FileId) -> Result<(), Errno> {
        let mut memory = NoMemory;
        let mut call = Call::new(&self.clock, &self.world, &self.turns, task, &mut memory);
        if let File::Lease(lease) = call.files.remove(task, file)? {
            // Restoring is part of the last close.
            let jobs = call.close_lease(lease);
            call.run(jobs);
        }
        Ok(())
    }

    /// The text of a sysfs, debugfs or proc file.
    ///
    /// # Errors
    /// ENOENT, EACCES, EISDIR.
    pub fn read_text(&self, task: Task, path: &str) -> Result<String, Errno> {
        self.enter().read_text(task, path)
    }

    /// The names in a sysfs, debugfs or proc folder, sorted.
    ///
    /// # Errors
    /// ENOENT, EACCES, ENOTDIR.
    pub fn list(&self, task: Task, path: &str) -> Result<Vec<String>, Errno> {
        self.enter().list(task, path)
    }

    /// `ptrace(PTRACE_SEIZE, pid)`.
    ///
    /// # Errors
    /// ESRCH, EPERM.
    pub fn ptrace_seize(&self, task: Task, pid: u32) -> Result<(), Errno> {
        self.enter().ptrace_seize(task, pid)
    }

    /// `ptrace(PTRACE_DETACH, pid)`.
    ///
    /// # Errors
    /// ESRCH.
    pub fn ptrace_detach(&self, task: Task, pid: u32) -> Result<(), Errno> {
        self.enter().ptrace_detach(task, pid)
    }

    // --- guests -------------------------------------------------------------------------------------------------

    /// Starts another guest process; returns its pid.
    ///
    /// # Errors
    /// What `CREATE_QUEUE` answers; EEXIST where its pid is taken.
    pub fn spawn(&self, process: &ProcessSpec) -> Result<u32, Errno> {
        self.enter().spawn(process, false)
    }

    /// `kill -9` of a guest (or of the caller: its files close).
    ///
    /// # Errors
    /// ESRCH.
    pub fn kill(&self, pid: u32) -> Result<(), Errno> {
        self.enter().exit(pid)
    }

    /// `execve` of a guest: the files of the process close, and KFD forgets it; its pid and its handles stay.
    ///
    /// # Errors
    /// ESRCH.
    pub fn exec(&self, pid: u32) -> Result<(), Errno> {
        self.enter().exec(pid)
    }

    /// A guest creates queues; returns their ids.
    ///
    /// # Errors
    /// What `CREATE_QUEUE` answers.
    pub fn create_queues(&self, pid: u32, queue: &QueueSpec) -> Result<Vec<u32>, Errno> {
        self.enter().create_queues(pid, queue, false)
    }

    /// What a guest passed to CREATE_QUEUE for each of its queues, as an agent in it would have seen it.
    ///
    /// # Errors
    /// ESRCH.
    pub fn queue_arguments(&self, pid: u32) -> Result<Vec<kfd_ioctl_create_queue_args>, Errno> {
        let world = self.enter();
        let queues = world.process(pid)?.kfd.as_ref().map(|kfd| kfd.queues.values().copied().collect::<Vec<_>>());
        let arguments = |key: QueueKey| {
            let queue = world.queue(key);
            let it = &queue.properties;
            kfd_ioctl_create_queue_args {
                ring_base_address: queue.ring.0,
                write_pointer_address: it.write_pointer,
                read_pointer_address: it.read_pointer,
                ring_size: queue.ring.1,
                gpu_id: world.node(queue.node).gpu_id,
                queue_type: it.kind,
                queue_percentage: it.percent | it.target_xcc << 8,
                queue_priority: it.priority,
                queue_id: queue.id,
                ..Default::default()
            }
        };
        Ok(queues.unwrap_or_default().into_iter().map(arguments).collect())
    }

    /// A guest destroys a queue. Where a debugger has it suspended the guest waits, and the queue goes when it is
    /// resumed.
    ///
    /// # Errors
    /// What `DESTROY_QUEUE` answers; ENOENT where there is no such queue.
    pub fn destroy_queue(&self, pid: u32, queue: u32) -> Result<(), Errno> {
        self.enter().guest_destroys(pid, queue)
    }

    /// A guest writes packets into its ring and rings the doorbell; they run when HWS gets to them.
    ///
    /// # Errors
    /// ESRCH, ENOENT, EINVAL.
    pub fn submit(&self, pid: u32, queue: u32, work: Work) -> Result<Ticket, Errno> {
        self.enter().submit(pid, queue, work)
    }

    /// When a ticket's last packet finished, if it has.
    pub fn completed_at(&self, ticket: Ticket) -> Option<u64> {
        let world = self.enter();
        usize::try_from(ticket.0).ok().and_then(|number| world.tickets.get(number).copied()).flatten()
    }

    /// Packets that a queue has executed so far (its read pointer, in packets).
    ///
    /// # Errors
    /// ESRCH, ENOENT.
    pub fn executed(&self, pid: u32, queue: u32) -> Result<u64, Errno> {
        let mut world = self.enter();
        let key = world.find_queue(pid, queue)?;
        world.settle(key);
        Ok(world.queue(key).feed.executed())
    }

    /// Packets that a queue's owner has submitted so far (its write pointer, in packets).
    ///
    /// # Errors
    /// ESRCH, ENOENT.
    pub fn submitted(&self, pid: u32, queue: u32) -> Result<u64, Errno> {
        let mut world = self.enter();
        let key = world.find_queue(pid, queue)?;
        world.settle(key);
        Ok(world.queue(key).feed.submitted())
    }

    /// Busy time of a queue so far: what its executed packets (and the part of the running one) would take alone, ns. A
    /// queue that is gone keeps what it had, until another one takes its place.
    ///
    /// # Errors
    /// ESRCH, ENOENT.
    pub fn service(&self, pid: u32, queue: u32) -> Result<u64, Errno> {
        let mut world = self.enter();
        let key = world.find_queue(pid, queue).or_else(|errno| {
            let last = world.queues.iter().rposition(|it| (it.pid, it.id) == (pid, queue));
            last.map(QueueKey).ok_or(errno)
        })?;
        if world.queue(key).alive {
            world.settle(key);
        }
        Ok(world.queue(key).feed.service_ns())
    }

    /// `KFD_GPREEMPT_STATE_*` of a queue, as a lease sees it that holds nothing.
    ///
    /// # Errors
    /// ESRCH, ENOENT.
    pub fn queue_state(&self, pid: u32, queue: u32) -> Result<u32, Errno> {
        let mut world = self.enter();
        let key = world.find_queue(pid, queue)?;
        Ok(world.state_of(key, 0))
    }

    /// Whether a queue would run its packets once it is mapped: it is there, was not reset, and is not evicted (which is
    /// what a reset of its node leaves it).
    pub fn runnable(&self, pid: u32, queue: u32) -> bool {
        let world = self.enter();
        world.find_queue(pid, queue).is_ok_and(|key| {
            let it = world.queue(key);
            !it.reset && it.evicted == 0
        })
    }

    /// `setuid` of a guest. Who was root and is no more has lost root's rights.
    ///
    /// # Errors
    /// ESRCH.
    pub fn set_uid(&self, pid: u32, uid: u32) -> Result<(), Errno> {
        let mut world = self.enter();
        let process = world.process_mut(pid)?;
        if (process.uid == 0) != (uid == 0) {
            (process.privileged, process.root) = (uid == 0, uid == 0);
        }
        process.uid = uid;
        Ok(())
    }

    /// TTM evicts (true) or restores (false) all queues of a process.
    ///
    /// # Errors
    /// ESRCH.
    pub fn evict(&self, pid: u32, evict: bool) -> Result<(), Errno> {
        self.enter().evict(pid, evict)
    }

    /// What the driver last wrote into the HIQ of a node, oldest packet first, as far as the ring's 2048 bytes go back:
    /// for reports and tests, with [`crate::pm4::decode`].
    ///
    /// # Errors
    /// ENOENT where no node has this gpu_id.
    pub fn hiq(&self, gpu_id: u32) -> Result<Vec<u32>, Errno> {
        let world = self.enter();
        let node = world.node_by_gpu(gpu_id).ok_or(Errno::ENOENT)?;
        Ok(world.node(node).hiq.words())
    }

    /// Machine-wide counters for reports and tests.
    pub fn counters(&self) -> Counters {
        let mut world = self.enter();
        let now = world.now;
        world.nodes.iter_mut().for_each(|node| node.count_slots(now));
        Counters { slot_ns: world.nodes.iter().map(|node| node.slot_ns).sum(), ..world.counters }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({})", self.describe())
    }
}

/// The memory of a call without pointers.
struct NoMemory;

impl UserMemory for NoMemory {
    fn read(&mut self, _address: u64, _bytes: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn write(&mut self, _address: u64, _bytes: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
}

/// What the machine counted since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// ioctls answered.
    pub ioctls: u64,
    /// UNMAP rounds of all nodes.
    pub unmap_rounds: u64,
    /// Runlists of all nodes.
    pub runlists: u64,
    /// HIQ packets of all nodes.
    pub packets: u64,
    /// Waves saved by CWSR.
    pub waves_saved: u64,
    /// Waves restored by CWSR.
    pub waves_restored: u64,
    /// Changes of the mapped set of over-subscribed runlists.
    pub slices: u64,
    /// Compute queue slots in use, summed over nodes and time, ns.
    pub slot_ns: u64,
}
