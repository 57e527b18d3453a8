//! Plays lists of calls to the simulator and to the driver of the running kernel, and compares every answer.
//! Exit code 1 where one differs.

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use gpreempt_vm_tests::call::Sequence;
use gpreempt_vm_tests::coverage::Coverage;
use gpreempt_vm_tests::differ::{self, Difference};
use gpreempt_vm_tests::generate::{Abilities, generate};
use gpreempt_vm_tests::kfd::KfdMachine;
use gpreempt_vm_tests::machine::Machine;
use gpreempt_vm_tests::player::Player;
use gpreempt_vm_tests::shrink::shrink;
use gpreempt_vm_tests::sim::SimMachine;
use gpreempt_vm_tests::{actor, list};

/// The same calls to the simulator and to the real driver.
#[derive(Parser)]
struct Options {
    /// Lists of calls to play, files.
    lists: Vec<PathBuf>,
    /// How many random lists.
    #[arg(long, default_value_t = 0)]
    sequences: u64,
    /// The first one's seed; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most calls of a random list.
    #[arg(long, default_value_t = 30)]
    calls: u32,
    /// Most queues of a random list; 0 for a machine whose GPUs take none.
    #[arg(long, default_value_t = 12)]
    queues: usize,
    /// Most lists to try for a smaller one with the same difference; 0 for none.
    #[arg(long, default_value_t = 200)]
    shrink: u32,
    /// What the machines cannot do: debug, evict, exec.
    #[arg(long)]
    without: Vec<String>,
    /// Differences to report before it ends.
    #[arg(long, default_value_t = 1)]
    differences: u32,
    /// Plays a list to both and prints what they say, all of it.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Every cell of the coverage instead of a table.
    #[arg(long)]
    cells: bool,
    /// Plays to two simulators instead: for this program's own sake.
    #[arg(long)]
    simulators: bool,
    /// This process is an actor: its socket and the memory of calls.
    #[arg(long, num_args = 2, hide = true)]
    actor: Vec<i32>,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<std::process::ExitCode, Failure> {
    let options = Options::parse();
    if let [socket, scratch] = options.actor[..] {
        actor::resume(socket, scratch)?;
    }
    let (mut sim, mut other): (SimMachine, Box<dyn Machine>) = if options.simulators {
        (SimMachine::of_model(2)?, Box::new(SimMachine::of_model(2)?))
    } else {
        let driver = KfdMachine::new().map_err(|errno| format!("no driver with leases here: {errno}"))?;
        (SimMachine::of_tree("/sys/class/kfd/kfd/topology")?, Box::new(driver))
    };
    let mut run = Run {
        sim: &mut sim,
        other: &mut *other,
        coverage: Coverage::default(),
        found: 0,
        compared: 0,
        shrink: options.shrink,
        calls: 0,
    };
    if let Some(path) = &options.replay {
        return run.replay(&read(path)?).map(exit);
    }
    for (number, path) in (1..).zip(&options.lists) {
        run.list(number, path)?;
    }
    let before = run.found;
    run.random(&options)?;
    print!("{}", run.coverage.table());
    if options.cells {
        for ((name, errno, state), count) in run.coverage.cells() {
            println!("cell {name} {errno} {state} {count}");
        }
    }
    if options.sequences > 0 {
        let sign = if run.found > before { "not ok" } else { "ok" };
        let (number, last, calls) = (options.lists.len() + 1, options.seed + options.sequences - 1, run.calls);
        println!(
            "{sign} {number} {} random sequences of seeds {} to {last}: {calls} calls answered alike",
            run.compared, options.seed
        );
    }
    println!("conform: {} lists, {} random sequences, {} differences", options.lists.len(), run.compared, run.found);
    Ok(exit(run.found > 0))
}

fn exit(failed: bool) -> std::process::ExitCode {
    std::process::ExitCode::from(u8::from(failed))
}

fn read(path: &PathBuf) -> Result<Sequence, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(list::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}

struct Run<'m> {
    sim: &'m mut dyn Machine,
    other: &'m mut dyn Machine,
    coverage: Coverage,
    found: u32,
    compared: u64,
    shrink: u32,
    calls: usize,
}

impl Run<'_> {
    fn replay(&mut self, sequence: &Sequence) -> Result<bool, Failure> {
        let answers = [Player::play(self.sim, sequence)?, Player::play(self.other, sequence)?];
        let mut differs = false;
        for (number, step) in sequence.calls.iter().enumerate() {
            println!("{number:3} {}", serde_json::to_string(step)?);
            let (one, other) = (&answers[0][number].text, &answers[1][number].text);
            if one == other {
                println!("      => {one}");
            } else {
                differs = true;
                println!("    ! {} => {one}\n    ! {} => {other}", self.sim.name(), self.other.name());
            }
        }
        Ok(differs)
    }

    fn list(&mut self, number: usize, path: &PathBuf) -> Result<(), Failure> {
        let sequence = read(path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let nodes = self.other.gpus().len() as u32;
        if nodes < sequence.nodes {
            return Err(format!("{name} needs {} GPU nodes, and there are {nodes}", sequence.nodes).into());
        }
        match differ::compare(self.sim, self.other, &sequence)? {
            Ok(answers) => {
                sequence.calls.iter().zip(&answers).for_each(|(step, answer)| self.coverage.add(step, answer));
                println!("ok {number} {name}: {} calls answered alike", sequence.calls.len());
            }
            Err(difference) => {
                self.found += 1;
                println!("not ok {number} {name}\n{}", difference.report());
            }
        }
        Ok(())
    }

    fn random(&mut self, options: &Options) -> Result<(), Failure> {
        if options.sequences == 0 {
            return Ok(());
        }
        println!("conform: seeds {} to {}", options.seed, options.seed + options.sequences - 1);
        let can = |what: &str| !options.without.iter().any(|it| it == what);
        let abilities = Abilities {
            calls: options.calls,
            queues: options.queues,
            evict: can("evict"),
            exec: can("exec"),
            debug: can("debug"),
        };
        let started = Instant::now();
        for seed in options.seed..options.seed + options.sequences {
            let (sequence, expected) = generate(self.sim, seed, abilities)?;
            let answers = Player::play(self.other, &sequence)?;
            sequence.calls.iter().zip(&expected).for_each(|(step, answer)| self.coverage.add(step, answer));
            self.compared += 1;
            self.calls += answers.iter().filter(|answer| answer.made).count();
            let complaints = self.other.complaints();
            if !complaints.is_empty() {
                println!("{} complains after {}: {complaints:?}", self.other.name(), sequence.about);
                println!("{}", list::print(&sequence));
                self.found += 1;
                break;
            }
            if let Some(at) = differ::first_difference(&expected, &answers) {
                let machines = [self.sim.name(), self.other.name()];
                self.difference(Difference { sequence, at, answers: [expected, answers], machines })?;
                if self.found >= options.differences {
                    break;
                }
            }
            if self.compared.is_multiple_of(25) {
                let rate = self.compared as f64 / started.elapsed().as_secs_f64();
                println!("conform: {} sequences, {rate:.1} per second, {} differences", self.compared, self.found);
            }
        }
        Ok(())
    }

    fn difference(&mut self, first: Difference) -> Result<(), Failure> {
        self.found += 1;
        println!("difference in {}, call {}:", first.sequence.about, first.at);
        println!("  {}", serde_json::to_string(&first.sequence.calls[first.at])?);
        for (machine, answers) in first.machines.iter().zip(&first.answers) {
            println!("  {machine} => {}", answers[first.at].text);
        }
        if self.shrink == 0 {
            return Ok(());
        }
        let (sim, other) = (&mut *self.sim, &mut *self.other);
        let mut sequence = first.sequence.clone();
        sequence.calls.truncate(first.at + 1);
        let small =
            shrink(sequence, self.shrink, |candidate| matches!(differ::compare(sim, other, candidate), Ok(Err(_))));
        match differ::compare(self.sim, self.other, &small)? {
            Err(difference) => println!("{}", difference.report()),
            Ok(_) => println!("it does not come again; this is how it looked\n{}", first.report()),
        }
        Ok(())
    }
}
