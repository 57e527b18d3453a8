//! The machine as its users see it: system calls, guests' work, and time.

use nix::errno::Errno;

use crate::config::{Config, ConfigError, ProcessSpec, QueueSpec};

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
#[derive(Debug)]
pub struct Machine {}

impl Machine {
    /// Boots a machine and starts the scenario's processes.
    ///
    /// # Errors
    /// Where the configuration contradicts itself or a topology tree cannot be read.
    pub fn boot(_config: Config) -> Result<Machine, ConfigError> {
        todo!()
    }

    /// One line that says what this machine is made of, for reports: model, nodes, cost model, clock, and what did not
    /// come from a loaded topology tree.
    pub fn describe(&self) -> String {
        todo!()
    }

    /// Nanoseconds since boot.
    pub fn now(&self) -> u64 {
        todo!()
    }

    /// Lets a virtual clock run to `time` (no earlier than now). On a real clock: sleeps until then.
    pub fn advance_to(&self, _time: u64) {
        todo!()
    }

    /// Like [`Machine::advance_to`], but stops at the first completion of a [`Work`] on the way and returns it.
    pub fn run_until(&self, _time: u64) -> Option<(Ticket, u64)> {
        todo!()
    }

    // --- system calls -------------------------------------------------------------------------------------------

    /// `open(path, O_RDWR | O_CLOEXEC)`; only `/dev/kfd` is a device.
    ///
    /// # Errors
    /// ENOENT, EACCES.
    pub fn open(&self, _task: Task, _path: &str) -> Result<FileId, Errno> {
        todo!()
    }

    /// `ioctl`. `argument` is the struct (its length is the size in `request`), `memory` is where its pointers point.
    /// Returns the call's (non-negative) return value.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn ioctl(
        &self,
        _task: Task,
        _file: FileId,
        _request: u32,
        _argument: &mut [u8],
        _memory: &mut dyn UserMemory,
    ) -> Result<i32, Errno> {
        todo!()
    }

    /// `read` from a lease or SMI event file, as if O_NONBLOCK were set.
    ///
    /// # Errors
    /// EAGAIN, EINVAL (short buffer), EBADF.
    pub fn read(&self, _task: Task, _file: FileId, _buffer: &mut [u8]) -> Result<usize, Errno> {
        todo!()
    }

    /// `write` to an SMI event file (selects its events).
    ///
    /// # Errors
    /// EINVAL, EBADF.
    pub fn write(&self, _task: Task, _file: FileId, _buffer: &[u8]) -> Result<usize, Errno> {
        todo!()
    }

    /// `poll` without waiting.
    ///
    /// # Errors
    /// EBADF.
    pub fn poll(&self, _task: Task, _file: FileId) -> Result<Readiness, Errno> {
        todo!()
    }

    /// `close`.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&self, _task: Task, _file: FileId) -> Result<(), Errno> {
        todo!()
    }

    /// The text of a sysfs, debugfs or proc file.
    ///
    /// # Errors
    /// ENOENT, EACCES, EISDIR.
    pub fn read_text(&self, _task: Task, _path: &str) -> Result<String, Errno> {
        todo!()
    }

    /// The names in a sysfs, debugfs or proc folder, sorted.
    ///
    /// # Errors
    /// ENOENT, EACCES, ENOTDIR.
    pub fn list(&self, _task: Task, _path: &str) -> Result<Vec<String>, Errno> {
        todo!()
    }

    /// `ptrace(PTRACE_SEIZE, pid)`.
    ///
    /// # Errors
    /// ESRCH, EPERM.
    pub fn ptrace_seize(&self, _task: Task, _pid: u32) -> Result<(), Errno> {
        todo!()
    }

    /// `ptrace(PTRACE_DETACH, pid)`.
    ///
    /// # Errors
    /// ESRCH.
    pub fn ptrace_detach(&self, _task: Task, _pid: u32) -> Result<(), Errno> {
        todo!()
    }

    // --- guests -------------------------------------------------------------------------------------------------

    /// Starts another guest process; returns its pid.
    ///
    /// # Errors
    /// What `CREATE_QUEUE` answers.
    pub fn spawn(&self, _process: &ProcessSpec) -> Result<u32, Errno> {
        todo!()
    }

    /// `kill -9` of a guest (or of the caller: its files close).
    ///
    /// # Errors
    /// ESRCH.
    pub fn kill(&self, _pid: u32) -> Result<(), Errno> {
        todo!()
    }

    /// A guest creates queues; returns their ids.
    ///
    /// # Errors
    /// What `CREATE_QUEUE` answers.
    pub fn create_queues(&self, _pid: u32, _queue: &QueueSpec) -> Result<Vec<u32>, Errno> {
        todo!()
    }

    /// A guest destroys a queue.
    ///
    /// # Errors
    /// What `DESTROY_QUEUE` answers.
    pub fn destroy_queue(&self, _pid: u32, _queue: u32) -> Result<(), Errno> {
        todo!()
    }

    /// A guest writes packets into its ring and rings the doorbell; they run when HWS gets to them.
    ///
    /// # Errors
    /// ESRCH, ENOENT, EINVAL.
    pub fn submit(&self, _pid: u32, _queue: u32, _work: Work) -> Result<Ticket, Errno> {
        todo!()
    }

    /// When a ticket's last packet finished, if it has.
    pub fn completed_at(&self, _ticket: Ticket) -> Option<u64> {
        todo!()
    }

    /// Packets that a queue has executed so far (its read pointer, in packets).
    ///
    /// # Errors
    /// ESRCH, ENOENT.
    pub fn executed(&self, _pid: u32, _queue: u32) -> Result<u64, Errno> {
        todo!()
    }

    /// Busy time of a queue so far: what its executed packets (and the part of the running one) would take alone, ns.
    ///
    /// # Errors
    /// ESRCH, ENOENT.
    pub fn service(&self, _pid: u32, _queue: u32) -> Result<u64, Errno> {
        todo!()
    }

    /// TTM evicts (true) or restores (false) all queues of a process.
    ///
    /// # Errors
    /// ESRCH.
    pub fn evict(&self, _pid: u32, _evict: bool) -> Result<(), Errno> {
        todo!()
    }

    /// Machine-wide counters for reports and tests.
    pub fn counters(&self) -> Counters {
        todo!()
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
}
