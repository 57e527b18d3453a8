//! Cost models: what each elementary step takes, and who says so.

use super::ConfigError;

/// One elementary cost with its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Nanoseconds.
    pub ns: u64,
    /// The page or measurement the figure is from.
    pub source: String,
}

/// A named set of elementary costs. Every modelled time is a sum of these times what was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostModel {
    /// The name that every figure made with it is labelled with.
    pub name: String,
    /// One sentence: what this model stands for.
    pub about: String,
    /// Entering and leaving any KFD ioctl, per call.
    pub ioctl: Figure,
    /// Marking one queue under the dqm lock.
    pub mark_queue: Figure,
    /// Driver time to write the packets of one UNMAP round (UNMAP_QUEUES, QUERY_STATUS, fence), per round.
    pub submit_unmap: Figure,
    /// Driver time to build and submit one runlist, per round.
    pub submit_runlist: Figure,
    /// Firmware: taking all dynamic queues of a node off its HQDs, per round, without wave save.
    pub hws_unmap: Figure,
    /// Firmware: picking up a runlist, per RUN_LIST.
    pub hws_runlist: Figure,
    /// Firmware: mapping one queue of a runlist.
    pub hws_map_queue: Figure,
    /// CWSR: saving the state of one live wave (the XCCs of a node save in parallel).
    pub wave_save: Figure,
    /// CWSR: restoring one saved wave (the XCCs of a node restore in parallel).
    pub wave_restore: Figure,
    /// Firmware: changing the mapped set of an over-subscribed runlist, per slice, without wave save.
    pub hws_slice: Figure,
    /// How long an over-subscribed runlist keeps one mapped set.
    pub slice: Figure,
    /// DBG_TRAP ENABLE, once per target.
    pub debug_enable: Figure,
    /// What DBG_TRAP SUSPEND_QUEUES takes on top of its rounds, per call.
    pub debug_suspend: Figure,
    /// What DBG_TRAP RESUME_QUEUES takes on top of its rounds, per call.
    pub debug_resume: Figure,
    /// Copying the saved wave state of one queue to user memory (SUSPEND copies all queues of the process).
    pub debug_copy_queue: Figure,
    /// DBG_TRAP GET_QUEUE_SNAPSHOT, per queue.
    pub debug_snapshot_queue: Figure,
    /// What UPDATE_QUEUE takes on top of its round (root BO reservation, MQD rewrite), per call.
    pub update_queue: Figure,
    /// Reset of one node after HWS stopped answering.
    pub node_reset: Figure,
}

impl CostModel {
    /// The names of the models that are built in.
    pub fn builtin() -> &'static [&'static str] {
        &["design", "hws", "conservative", "stock-debug"]
    }

    /// A built-in model by its name, or the model of a file by its path.
    ///
    /// # Errors
    /// Unknown name, unreadable file, or a file that says something impossible (with its line).
    pub fn named(_name_or_path: &str) -> Result<CostModel, ConfigError> {
        todo!()
    }

    /// A model from the text of a file; `path` is for error messages.
    ///
    /// # Errors
    /// What is wrong in the text, with its line.
    pub fn parse(_path: &str, _text: &str) -> Result<CostModel, ConfigError> {
        todo!()
    }
}
