//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What is taken from the environment; the demo makes machines of its own. Lines of at most 80 columns.
const ENVIRONMENT: &str = "\
Environment:
  GPREEMPT_LOG             log on stderr: error, warn (default), info, debug, trace
 of status, queues, doctor and the libraries:
  GPREEMPT_BACKEND         auto (default), patched, agent, debugger or sim
  GPREEMPT_SIM_TIER        simulated machine: patched (default), debugger or auto
  GPREEMPT_SIM_COST_MODEL  simulated machine: cost model, by name or TOML file
  GPREEMPT_SIM_SCENARIO    simulated machine: scenario, by name or TOML file
  GPREEMPT_SIM_TOPOLOGY    simulated machine: a recorded topology tree
  GPREEMPT_SIM_SEED        simulated machine: seed of every random choice
  GPREEMPT_SIM_CLOCK       simulated machine: real (default) or virtual";

/// Queue-level preemption of offline training by online inference on AMD Instinct GPUs.
///
/// Without a GPU every command works on a simulated machine; what it then prints is modelled, and says so.
#[derive(Debug, Parser)]
#[command(name = "gpreempt", version, max_term_width = 100, arg_required_else_help = true, after_help = ENVIRONMENT)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replay online requests against offline training on a simulated machine, under four ways of preemption
    Demo(Box<DemoArgs>),
    /// Show the queue slots of every GPU
    Status(MachineArgs),
    /// List the queues of all processes
    Queues(MachineArgs),
    /// Start a program with an agent in it, so that a scheduler of the same user can stop its queues on a stock kernel
    #[command(after_help = OFFLINE)]
    Offline(OfflineArgs),
    /// Say how queues would be reached on this machine, why not in a better way, and what to do about it
    Doctor(MachineArgs),
    /// Measure this library's own overhead on this machine
    #[command(hide = true)]
    Bench(BenchArgs),
}

/// What `gpreempt offline --help` adds.
const OFFLINE: &str = "\
Example:
  gpreempt offline -- python train.py --epochs 3
  gpreempt offline -- torchrun --nproc-per-node 8 train.py

The program keeps this command's pid; every process that it starts belongs to
the same job. A scheduler (Python, C, Rust) registers that pid, or the pid of
one rank, with GPREEMPT_BACKEND=auto or agent. Without a scheduler, and after
it has died, the program runs as if it had been started without this command.

Environment:
  GPREEMPT_AGENT_LIBRARY  the agent, where it is not installed with this command
  GPREEMPT_AGENT_DIR      folder for the agents' sockets, mode 0700, instead of
                          $XDG_RUNTIME_DIR/gpreempt or /tmp/gpreempt-UID";

/// Options of `gpreempt offline`.
#[derive(Debug, Args)]
pub struct OfflineArgs {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

/// Options of the commands that look at a machine.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A way of preemption that the demo compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// No preemption: online and offline queues share the GPU
    None,
    /// Stock kernel, debugger: one queue per call (the traditional way)
    OneByOne,
    /// Stock kernel, debugger: all queues of a process in one call
    StockBatch,
    /// gpreempt kernel: a lease, all queues of a GPU in one batch
    Gpreempt,
}

impl Mode {
    /// All, in the order of the table.
    pub const ALL: [Mode; 4] = [Mode::None, Mode::OneByOne, Mode::StockBatch, Mode::Gpreempt];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::None => "none",
            Mode::OneByOne => "one-by-one",
            Mode::StockBatch => "stock-batch",
            Mode::Gpreempt => "gpreempt",
        }
    }
}

/// Options of `gpreempt demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Ways of preemption to compare, by comma
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Mode::ALL, value_name = "MODE")]
    pub modes: Vec<Mode>,
    /// When offline queues leave and come back [unmap, reserve, lazy, slice, rate-bound; NAME:key=value,... sets parameters]
    #[arg(long, default_value = "unmap", value_name = "NAME[:PARAMS]")]
    pub policy: String,
    /// What each elementary step costs [design, hws, conservative, stock-debug, or a TOML file]
    #[arg(long, default_value = "design", value_name = "NAME|FILE")]
    pub cost_model: String,
    /// Simulated MI308X GPUs
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64), conflicts_with = "topology")]
    pub gpus: u32,
    /// Take the machine from a recorded topology tree (the folder that holds nodes/)
    #[arg(long, value_name = "DIR")]
    pub topology: Option<PathBuf>,
    /// Take processes, queues and faults from a scenario [default, empty, demo, oversubscribed, or a TOML file];
    /// requests go to its
    /// processes with a queue of priority 10 to 15, or to an added one
    #[arg(long, value_name = "NAME|FILE")]
    pub scenario: Option<String>,
    /// Offline training processes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64), conflicts_with = "scenario", value_name = "N")]
    pub offline_processes: u32,
    /// Queues of each offline process on each GPU; a GPU takes 4096 of all processes, a process has 1024 on all GPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), conflicts_with = "scenario", value_name = "N")]
    pub offline_queues: u32,
    /// Take arrivals from a file: Azure LLM CSV, DISB JSON, or a JSON list of gaps in seconds (Orion)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Without a trace: Poisson requests per second over all GPUs
    #[arg(long, default_value_t = 8.0, value_parser = positive, conflicts_with = "trace", value_name = "HZ")]
    pub rate: f64,
    /// Stop after so many requests [default: 2000, or the whole trace]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4_000_000), value_name = "N")]
    pub requests: Option<u32>,
    /// Only requests that arrive within so many seconds
    #[arg(long, value_parser = positive, value_name = "S")]
    pub duration: Option<f64>,
    /// A request alone on one GPU, ms, where the trace does not say
    #[arg(long, default_value_t = 20.0, value_parser = positive, value_name = "MS")]
    pub service_ms: f64,
    /// LLM trace: prefill per context token, us
    #[arg(long, default_value_t = 20.0, value_parser = positive, value_name = "US")]
    pub prefill_us: f64,
    /// LLM trace: decode per generated token, us
    #[arg(long, default_value_t = 500.0, value_parser = positive, value_name = "US")]
    pub decode_us: f64,
    /// Seed of every random choice; the same seed gives the same report, byte for byte
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Write the report as JSON ("-" = stdout, instead of the table)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the run of `gpreempt` (or of the last mode, where that is left out) as a trace for ui.perfetto.dev ("-" = stdout,
    /// instead of the table)
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,
    /// Run the seed's own test script instead: 20 online requests, 500 ms apart, on the default scenario
    #[arg(long, conflicts_with_all = ["modes", "policy", "gpus", "offline_processes", "offline_queues", "trace", "rate",
        "requests", "duration", "service_ms", "prefill_us", "decode_us", "json", "perfetto", "quiet"])]
    pub seed_flow: bool,
    /// No progress bar, no explanations: the table alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// Options of `gpreempt bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The LLM trace to replay (Azure CSV); skipped where absent
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Samples per line
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(10..=1_000_000), value_name = "N")]
    pub samples: u32,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 && value <= 1e9 => Ok(value),
        _ => Err("must be a number above 0 and at most 1e9".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_the_environment() {
        let help = super::Cli::command().render_help().to_string();
        // The variables that `SessionBuilder::from_env` reads, and the log's.
        for name in
            ["BACKEND", "SIM_TIER", "SIM_COST_MODEL", "SIM_SCENARIO", "SIM_TOPOLOGY", "SIM_SEED", "SIM_CLOCK", "LOG"]
        {
            assert!(help.contains(&format!("  GPREEMPT_{name} ")), "{name}: {help}");
        }
        assert_eq!(help.matches("GPREEMPT_").count(), 8);
    }

    #[test]
    fn the_names_that_help_lists_are_names() {
        let demo = super::Cli::command().find_subcommand("demo").unwrap().clone();
        let listed = |option: &str| {
            let help = demo.get_arguments().find(|argument| argument.get_id() == option).unwrap().get_help().unwrap();
            let help = help.to_string();
            let list = help[help.find('[').unwrap() + 1..].split([';', ']']).next().unwrap().to_owned();
            list.split(", ").filter(|name| !name.contains(' ')).map(String::from).collect::<Vec<_>>()
        };
        let policies = listed("policy");
        assert_eq!(policies.len(), 5);
        policies.iter().for_each(|name| drop(gpreempt::sched::policy::named(name).unwrap()));
        assert_eq!(listed("cost_model"), gpreempt_sim::config::CostModel::builtin());
        assert_eq!(listed("scenario"), gpreempt_sim::config::Scenario::builtin());
    }
}
