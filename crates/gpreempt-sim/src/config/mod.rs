//! What a machine is made of: GPU model, cost model, scenario. Each is a TOML file, and some are built in.

mod cost;
mod fault;
mod gpu;
mod scenario;
mod scenario_file;
mod source;

use std::path::PathBuf;

pub use cost::{CostModel, Figure};
pub use fault::{Fault, FaultKind, FaultPoint};
pub use gpu::{GpuModel, Partition, slot_places};
pub(crate) use scenario::CALLER_IN_A_NAMESPACE;
pub use scenario::{ProcessSpec, QueueSpec, QueueType, Scenario, Workload};

/// Where the nodes of the machine come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Hardware {
    /// So many GPUs of a named model, all in one partition mode.
    Model {
        /// A built-in model name or the path of a model file.
        model: GpuModel,
        /// Number of GPUs, 1 to 64.
        gpus: u32,
        /// How each GPU is split into KFD nodes.
        partition: Partition,
    },
    /// A recorded `/sys/class/kfd/kfd/topology` tree; what the tree lacks comes from the model.
    Tree {
        /// The folder that holds `nodes/`.
        path: PathBuf,
        /// Fills what the tree does not say.
        model: GpuModel,
    },
}

/// How the machine's time relates to the wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockKind {
    /// Machine time is wall time: a call that is modelled to take 2 ms returns 2 ms later.
    #[default]
    Real,
    /// Machine time moves only when somebody waits for it: deterministic, and as fast as the host can compute.
    Virtual,
}

/// The process that uses the machine, as the machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its pid in the machine's init namespace.
    pub pid: u32,
    /// Its real and effective user id.
    pub uid: u32,
    /// Whether it has CAP_SYS_NICE; user 0 has it anyway.
    pub privileged: bool,
    /// Whether it has root's other rights: reading root-only files, tracing any process, and hearing of everybody's
    /// SMI events. User 0 has them anyway.
    pub root: bool,
    /// `/proc/<pid>/comm`.
    pub name: String,
}

/// Everything that decides how a machine behaves. Two machines with equal configurations and a virtual clock,
/// given the same calls, give the same answers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The nodes.
    pub hardware: Hardware,
    /// What each step costs.
    pub cost: CostModel,
    /// Who runs on it.
    pub scenario: Scenario,
    /// How time passes.
    pub clock: ClockKind,
    /// Seeds every random choice.
    pub seed: u64,
    /// False removes the gpreempt commands: a stock kernel.
    pub patched: bool,
    /// Who is calling.
    pub caller: Caller,
}

/// A file of this crate could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}{}: {message}", line.map(|l| format!(":{l}")).unwrap_or_default())]
pub struct ConfigError {
    /// The file or built-in name.
    pub path: String,
    /// 1-based line, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}
