//! The language of calls.

use serde::{Deserialize, Serialize};

/// A list of calls and who makes them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    /// One sentence.
    #[serde(default)]
    pub about: String,
    /// User of each actor.
    pub actors: Vec<u32>,
    /// GPU nodes that it needs.
    #[serde(default = "one")]
    pub nodes: u32,
    /// The calls, in order.
    pub calls: Vec<Step>,
}

fn one() -> u32 {
    1
}

/// One call of one actor.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Step {
    /// Who calls.
    pub actor: usize,
    /// What.
    #[serde(flatten)]
    pub call: Call,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twist: Option<Twist>,
}

/// A wrong argument.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Twist {
    /// The word at this offset of the struct is another.
    Word {
        /// Offset in bytes.
        at: u32,
        /// Instead.
        value: u32,
    },
    /// The word at this offset of the first array is another.
    Element {
        /// Offset in bytes.
        at: u32,
        /// Instead.
        value: u32,
    },
    /// The struct has another size; what is beyond is this.
    Size {
        /// Bytes.
        bytes: u32,
        /// Bytes beyond the struct.
        tail: u8,
    },
    /// The command has another number.
    Number(u8),
    /// Another actor makes the call on the file of this one.
    By(usize),
}

/// Queues that an entry names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Handle, 0 for oneself.
    pub target: u32,
    /// Position of the node; none for every node, one that does not exist for an unknown gpu_id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// Queue id; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// `KFD_GPREEMPT_ENTRY_*`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flags: u32,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// What UPDATE_QUEUE says of the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ring {
    /// The one that the queue was created with.
    #[default]
    Same,
    /// None: the queue is switched off.
    Without,
    /// A part of it.
    Part,
}

/// A text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Text {
    /// debugfs `kfd/mqds`.
    Mqds,
    /// debugfs `kfd/rls`.
    Rls,
    /// The actors in sysfs `proc/`.
    Processes,
    /// Everything of the actor in sysfs `proc/<pid>/`.
    Process(usize),
}

/// A call. Lease files are in numbered places of their actor.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
#[allow(missing_docs)] // the fields are those of the commands
pub enum Call {
    /// Opens `/dev/kfd`.
    OpenKfd,
    /// Closes it.
    CloseKfd,
    /// Dies.
    Kill,
    /// Executes another image.
    Exec,
    /// Gives up being root.
    SetUid { uid: u32 },
    /// Waits.
    Sleep { ms: u32 },
    /// GET_VERSION.
    Version,
    /// CREATE_QUEUE; `busy` ones get work for ever.
    CreateQueue { node: u32, kind: u32, percent: u32, priority: u32, busy: bool },
    /// UPDATE_QUEUE.
    UpdateQueue {
        queue: u32,
        percent: u32,
        priority: u32,
        #[serde(default)]
        ring: Ring,
    },
    /// SET_CU_MASK.
    CuMask { queue: u32, bits: u32 },
    /// ALLOC_QUEUE_GWS.
    Gws { queue: u32, count: u32 },
    /// DESTROY_QUEUE.
    DestroyQueue { queue: u32 },
    /// RUNTIME_ENABLE.
    Runtime { mode: u32 },
    /// Memory management evicts or restores the actor.
    Evict { evict: bool },
    /// ptrace.
    Trace { of: usize, on: bool },
    /// DBG_TRAP ENABLE.
    DebugEnable { of: usize },
    /// DBG_TRAP DISABLE.
    DebugDisable { of: usize },
    /// DBG_TRAP SUSPEND_QUEUES.
    Suspend { of: usize, queues: Vec<u32>, grace: u32 },
    /// DBG_TRAP RESUME_QUEUES; none: all.
    Resume { of: usize, queues: Option<Vec<u32>> },
    /// DBG_TRAP GET_QUEUE_SNAPSHOT.
    Snapshot { of: usize, room: u32, clear: u64 },
    /// GPREEMPT_OPEN.
    OpenLease { lease: u32, version: u32, hold_ms: u32 },
    /// Closes a lease.
    CloseLease { lease: u32 },
    /// GPREEMPT_ATTACH.
    Attach { lease: u32, of: usize },
    /// GPREEMPT_DETACH.
    Detach { lease: u32, target: u32 },
    /// BATCH_UNMAP_QUEUES.
    Unmap { lease: u32, entries: Vec<Entry>, grace: u32 },
    /// FAST_REMAP.
    Remap { lease: u32, entries: Vec<Entry>, grace: u32 },
    /// SWAP_QUEUES.
    Swap { lease: u32, unmap: Vec<Entry>, remap: Vec<Entry>, grace: u32 },
    /// SELECTIVE_UNMAP.
    Selective { lease: u32, entry: Entry, flags: u32, grace: u32 },
    /// SET_QUEUE_STATE.
    State { lease: u32, entry: Entry, state: u32, grace: u32 },
    /// SET_QUEUE_POLICY.
    Policy { lease: u32, entry: Entry, set: u32, clear: u32 },
    /// SET_HQD_RESERVATION; without a node: all.
    Reserve { lease: u32, node: Option<u32>, online: u32, offline: u32 },
    /// GET_HQD_STATUS.
    HqdStatus { lease: u32, node: u32 },
    /// GET_QUEUE_STATUS.
    QueueStatus { lease: u32, entry: Entry, room: u32, want: u32 },
    /// `read` of events.
    Events { lease: u32, room: u32 },
    /// `poll` of a lease.
    Poll { lease: u32 },
    /// Reads a text file.
    Read { text: Text },
}

impl Call {
    /// The own queue that it concerns.
    pub fn queue(&self) -> Option<u32> {
        match self {
            Call::UpdateQueue { queue, .. }
            | Call::CuMask { queue, .. }
            | Call::Gws { queue, .. }
            | Call::DestroyQueue { queue } => Some(*queue),
            Call::Suspend { queues, .. } => queues.first().copied(),
            Call::Resume { queues, .. } => queues.as_ref()?.first().copied(),
            _ => None,
        }
    }

    /// What it is called in lists and reports.
    pub fn name(&self) -> String {
        let value = serde_json::to_value(self).expect("a call is plain data");
        value["call"].as_str().expect("the tag").to_owned()
    }
}
