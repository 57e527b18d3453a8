//! The seam: what a list of calls needs of a machine.

use nix::errno::Errno;

/// What a system call answers.
pub type SysResult<T> = Result<T, Errno>;

/// Where the memory begins that pointers of calls refer to: the same address in every actor of every machine.
pub const SCRATCH_BASE: u64 = 0x2000_0000_0000;
/// Its length. What is behind it belongs to nobody.
pub const SCRATCH_BYTES: usize = 0x2_0000;
/// Where the arrays of a call lie in it.
pub const ARRAYS: [usize; 2] = [0x1000, 0x1_0000];

/// The memory of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch(pub Vec<u8>);

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch(vec![0; SCRATCH_BYTES])
    }
}

impl Scratch {
    /// Puts an array into place and returns its address.
    pub fn place(&mut self, array: usize, bytes: &[u8]) -> u64 {
        let at = ARRAYS[array];
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        SCRATCH_BASE + at as u64
    }

    /// The bytes of an array.
    pub fn array(&self, array: usize, bytes: usize) -> &[u8] {
        &self.0[ARRAYS[array]..ARRAYS[array] + bytes]
    }
}

/// Buffers of one queue, in the owner's address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Ring.
    pub ring: u64,
    /// Its size.
    pub ring_bytes: u32,
    /// Read pointer.
    pub read: u64,
    /// Write pointer.
    pub write: u64,
    /// Context save area, of a compute queue.
    pub save: u64,
    /// Its size per XCC, as the topology tells it.
    pub save_bytes: u32,
    /// Control stack size, as the topology tells it.
    pub stack_bytes: u32,
}

/// A machine that actors make calls on. Actors are numbered from 0.
pub trait Machine {
    /// For reports.
    fn name(&self) -> &'static str;

    /// `gpu_id` of every GPU node, in topology order.
    fn gpus(&self) -> Vec<u32>;

    /// Starts one process per uid on a machine where nothing else is going on.
    fn begin(&mut self, uids: &[u32]) -> SysResult<()>;

    /// Ends all actors.
    fn end(&mut self) -> SysResult<()>;

    /// What the hardware of the machine has found wrong.
    fn complaints(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// The process id of an actor, dead or alive.
    fn pid(&self, actor: usize) -> u32;

    /// `open(path, O_RDWR | O_CLOEXEC)`.
    fn open(&mut self, actor: usize, path: &str) -> SysResult<i32>;

    /// `ioctl`; `argument` has the size that `request` says.
    fn ioctl(
        &mut self,
        actor: usize,
        file: i32,
        request: u32,
        argument: &mut [u8],
        memory: &mut Scratch,
    ) -> SysResult<i32>;

    /// `read` of at most this many bytes, without waiting.
    fn read(&mut self, actor: usize, file: i32, room: usize) -> SysResult<Vec<u8>>;

    /// `poll` without waiting: readable, hung up.
    fn poll(&mut self, actor: usize, file: i32) -> SysResult<(bool, bool)>;

    /// `close`.
    fn close(&mut self, actor: usize, file: i32) -> SysResult<()>;

    /// Gives an actor a copy of a file of another.
    fn lend(&mut self, owner: usize, file: i32, to: usize) -> SysResult<i32>;

    /// Takes such a copy back.
    fn take_back(&mut self, actor: usize, file: i32) -> SysResult<()>;

    /// Buffers for a queue on a GPU that are mapped there; `compute` ones with a save area.
    fn buffers(&mut self, actor: usize, gpu: u32, compute: bool) -> SysResult<Buffers>;

    /// Gives the queue more work than it can ever do.
    fn fill(&mut self, actor: usize, kind: u32, queue: u32, buffers: &Buffers) -> SysResult<()>;

    /// Takes the buffers of a queue that is gone back.
    fn recycle(&mut self, actor: usize, gpu: u32, compute: bool, buffers: Buffers);

    /// `setresuid`.
    fn set_uid(&mut self, actor: usize, uid: u32) -> SysResult<()>;

    /// `kill -9`; returns when it is gone for good.
    fn kill(&mut self, actor: usize) -> SysResult<()>;

    /// The actor executes another program image; false where the machine cannot do that.
    fn exec(&mut self, actor: usize) -> SysResult<bool>;

    /// Memory management evicts the queues of an actor, or restores them; false where the machine cannot do that.
    fn evict(&mut self, actor: usize, evict: bool) -> SysResult<bool>;

    /// `ptrace(PTRACE_SEIZE)` or `PTRACE_DETACH`.
    fn trace(&mut self, actor: usize, target: usize, on: bool) -> SysResult<()>;

    /// Text of a file as the actor may read it.
    fn read_text(&mut self, actor: usize, path: &str) -> SysResult<String>;

    /// Names in a folder, sorted.
    fn list(&mut self, actor: usize, path: &str) -> SysResult<Vec<String>>;

    /// Lets time pass.
    fn sleep(&mut self, ms: u32);

    /// State of a queue as its owner sees it (`KFD_GPREEMPT_STATE_*`), where the machine can tell without a call.
    fn state_of(&mut self, _actor: usize, _queue: u32) -> Option<u32> {
        None
    }
}
