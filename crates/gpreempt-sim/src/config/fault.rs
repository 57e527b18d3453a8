//! Faults that a scenario injects.

/// When a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultPoint {
    /// At this machine time, ns.
    Time(u64),
    /// In the nth (1 = first) batch command of a lease, after its arguments were checked and before entry `entry` is
    /// looked up.
    Batch {
        /// Which batch command, counted over the machine's life.
        nth: u64,
        /// Which entry, 0 first.
        entry: u32,
    },
    /// In the nth (1 = first) unmap round of the node.
    Round {
        /// Which round of that node.
        nth: u64,
    },
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// HWS of the node stops answering: the round times out and the node is reset.
    HwsTimeout {
        /// KFD node by index.
        node: u32,
    },
    /// The node is reset for another reason.
    NodeReset {
        /// KFD node by index.
        node: u32,
    },
    /// One queue does not yield to the next unmap of its node that finds it mapped, and is reset by the driver.
    QueueReset {
        /// Owner.
        pid: u32,
        /// KFD queue id.
        queue: u32,
    },
    /// The owner destroys a queue.
    QueueDestroyed {
        /// Owner.
        pid: u32,
        /// KFD queue id.
        queue: u32,
    },
    /// The process is gone.
    ProcessGone {
        /// Which.
        pid: u32,
    },
}

/// One injected fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub at: FaultPoint,
    /// What.
    pub kind: FaultKind,
}
