//! What a scheduler and an agent say to each other, over a UNIX socket of type SOCK_SEQPACKET: one request or one reply
//! per message, in the machine's byte order.
//!
//! A request is a [`Request`], followed by [`Request::num_ids`] queue ids of 32 bits. A reply is a [`Reply`], followed by
//! [`Reply::num_entries`] of [`QueueEntry`] (after LIST) or [`OutcomeEntry`] (after STOP and RESTORE). Fields and flags
//! that this version does not know must be 0.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the protocol.
pub const VERSION: u32 = 1;

/// Longest time that queues stay stopped without a word from the scheduler, and the default, ms.
pub const MAX_HOLD_MS: u32 = 10_000;

/// Most queue ids in one request: as many as a process can have.
pub const MAX_IDS: usize = 1024;

/// Longest request.
pub const MAX_REQUEST: usize = size_of::<Request>() + MAX_IDS * size_of::<u32>();

/// Longest reply.
pub const MAX_REPLY: usize = size_of::<Reply>() + MAX_IDS * size_of::<QueueEntry>();

/// Who are you? Changes nothing.
pub const HELLO: u32 = 1;
/// Which queues are there? Changes nothing.
pub const LIST: u32 = 2;
/// Take queues off the hardware. Whoever stopped something is the holder; others get EBUSY until it let go.
pub const STOP: u32 = 3;
/// Give queues back. All of them: queues that are created from now on are not held any more, either.
pub const RESTORE: u32 = 4;
/// I am alive: what I hold may stay stopped for another while.
pub const HEARTBEAT: u32 = 5;
/// Let queues that are created from now on start held ([`FLAG_HOLD_NEW`] set) or not. Makes a holder, like STOP.
pub const POLICY: u32 = 6;

/// STOP, RESTORE: every queue, not a list of ids.
pub const FLAG_ALL: u32 = 1;
/// STOP with [`FLAG_ALL`], POLICY: queues that are created from now on start held.
pub const FLAG_HOLD_NEW: u32 = 2;
/// LIST: read the pointers, too.
pub const FLAG_POINTERS: u32 = 4;

/// [`Reply::flags`]: the asker is the holder.
pub const REPLY_HOLDER: u32 = 1;
/// [`Reply::flags`]: queues that are created now start held.
pub const REPLY_HOLDS_NEW: u32 = 2;

/// [`QueueEntry::flags`]: it would run if nobody held it.
pub const QUEUE_WANTED: u32 = 1;
/// [`QueueEntry::flags`]: a scheduler holds it.
pub const QUEUE_HELD: u32 = 2;
/// [`QueueEntry::flags`]: the kernel has it switched off by the agent, or may have.
pub const QUEUE_OFF: u32 = 4;
/// [`QueueEntry::flags`]: the pointers are filled.
pub const QUEUE_POINTERS: u32 = 8;

/// What a scheduler asks: 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// [`HELLO`] to [`POLICY`].
    pub operation: u32,
    /// Comes back in the reply.
    pub sequence: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Queues on this node alone; 0 = on all.
    pub gpu_id: u32,
    /// STOP, HEARTBEAT, POLICY: give everything back this long after the last such request; 0 = [`MAX_HOLD_MS`], which is
    /// also the most.
    pub hold_ms: u32,
    /// Ids that follow.
    pub num_ids: u32,
    /// 0.
    pub pad: u32,
}

/// What an agent answers: 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Reply {
    /// The agent's version.
    pub version: u32,
    /// Of the request.
    pub operation: u32,
    /// Of the request.
    pub sequence: u32,
    /// The request as a whole: 0, or a positive errno (EINVAL, EBUSY, EPROTONOSUPPORT); entries have their own.
    pub errno: u32,
    /// `REPLY_*`.
    pub flags: u32,
    /// Entries that follow.
    pub num_entries: u32,
    /// Bytes of one.
    pub entry_size: u32,
    /// Process, in its own pid namespace.
    pub pid: u32,
    /// Queues that the process has now.
    pub num_queues: u32,
    /// Queues that are held.
    pub num_held: u32,
    /// How long queues stay stopped without a word, ms.
    pub hold_ms: u32,
    /// How often that time ran out since the process started.
    pub expired: u32,
    /// UPDATE_QUEUEs that this request took; each costs its node a round.
    pub rounds: u32,
    /// 0.
    pub pad: u32,
    /// When the process started, ns since boot.
    pub started_ns: u64,
}

/// One queue: 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct QueueEntry {
    /// KFD queue id.
    pub queue_id: u32,
    /// Topology gpu_id.
    pub gpu_id: u32,
    /// `KFD_IOC_QUEUE_TYPE_*`.
    pub kind: u32,
    /// `QUEUE_*`.
    pub flags: u32,
    /// As the program wants it.
    pub priority: u32,
    /// As the program wants it.
    pub percentage: u32,
    /// In bytes.
    pub ring_size: u32,
    /// 0.
    pub pad: u32,
    /// Address of the ring in the process.
    pub ring_base: u64,
    /// Read pointer.
    pub read_ptr: u64,
    /// Write pointer.
    pub write_ptr: u64,
    /// For how long it has been held, ns.
    pub held_ns: u64,
}

/// What was done to one queue: 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OutcomeEntry {
    /// KFD queue id.
    pub queue_id: u32,
    /// Its node, 0 where there is no such queue.
    pub gpu_id: u32,
    /// 0, or a positive errno.
    pub errno: u32,
    /// `QUEUE_*` afterwards.
    pub flags: u32,
}

/// The name of a process's socket in its folder. `job`: the process that `gpreempt offline` became.
pub fn socket_name(job: u32, pid: u32) -> String {
    format!("{job}.{pid}.sock")
}

/// The job and the process of a socket.
pub fn parse_socket_name(name: &str) -> Option<(u32, u32)> {
    let (job, pid) = name.strip_suffix(".sock")?.split_once('.')?;
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| number.to_string() == text);
    Some((number(job)?, number(pid)?))
}

/// Environment variable that tells processes their job's pid.
pub const JOB_VARIABLE: &str = "GPREEMPT_AGENT_JOB";

/// Environment variable that names the folder for sockets, instead of [`folders`].
pub const FOLDER_VARIABLE: &str = "GPREEMPT_AGENT_DIR";

/// Where sockets may be, the best place first. `chosen` and `runtime` are the environment's [`FOLDER_VARIABLE`] and
/// `XDG_RUNTIME_DIR`: they need not be the same for a job and its scheduler, so a scheduler looks in all.
pub fn folders(chosen: Option<&str>, runtime: Option<&str>, uid: u32) -> Vec<String> {
    let absolute = |path: &&str| path.starts_with('/');
    let mut folders = Vec::new();
    folders.extend(chosen.filter(absolute).map(str::to_owned));
    folders.extend(runtime.filter(absolute).map(|runtime| format!("{}/gpreempt", runtime.trim_end_matches('/'))));
    folders.push(format!("/run/user/{uid}/gpreempt"));
    folders.push(format!("/tmp/gpreempt-{uid}"));
    let mut seen = Vec::with_capacity(folders.len());
    folders.retain(|folder| {
        let new = !seen.contains(folder);
        seen.push(folder.clone());
        new
    });
    folders
}

/// Splits a request into its head and its ids.
pub fn parse_request(message: &[u8]) -> Option<(Request, Vec<u32>)> {
    let (request, rest) = Request::read_from_prefix(message).ok()?;
    let ids = parse_entries::<u32>(rest, request.num_ids, size_of::<u32>() as u32)?;
    (ids.len() <= MAX_IDS && ids.len() * size_of::<u32>() == rest.len()).then_some((request, ids))
}

/// Splits a reply into its head and what follows.
pub fn parse_reply(message: &[u8]) -> Option<(Reply, &[u8])> {
    Reply::read_from_prefix(message).ok()
}

/// Entries of a later version may be longer than this one knows.
pub fn parse_entries<T: FromBytes>(bytes: &[u8], count: u32, entry_size: u32) -> Option<Vec<T>> {
    let stride = entry_size as usize;
    if stride < size_of::<T>() || (count as usize).checked_mul(stride)? > bytes.len() {
        return (count == 0).then(Vec::new);
    }
    bytes
        .chunks_exact(stride)
        .take(count as usize)
        .map(|chunk| T::read_from_prefix(chunk).ok().map(|it| it.0))
        .collect()
}

/// Puts a message together.
pub fn message<T: IntoBytes + Immutable>(head: &(impl IntoBytes + Immutable), entries: &[T]) -> Vec<u8> {
    let mut message = head.as_bytes().to_vec();
    message.extend_from_slice(entries.as_bytes());
    message
}
