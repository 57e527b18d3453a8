//! The `gpreempt` command as a library, so that the Python package can offer it too.

pub mod args;
pub mod arrivals;
mod bench;
#[cfg(test)]
mod data;
pub mod demo;
mod doctor;
mod failure;
mod machine;
mod offline;
mod table;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use clap::Parser;

pub use failure::Failure;

/// Where a command writes.
struct Streams<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Whether the process's stderr is a terminal and may show a progress bar.
    terminal: bool,
}

/// Runs the command on the process's own streams and returns its exit status. `args[0]` is the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let log = tracing_subscriber::EnvFilter::try_from_env("GPREEMPT_LOG").unwrap_or_else(|_| "warn".into());
    // A host program (Python) may have set its own logger before.
    let _ = tracing_subscriber::fmt().with_env_filter(log).with_writer(io::stderr).try_init();
    let terminal = io::stderr().is_terminal();
    execute(args, &mut Streams { out: &mut io::stdout(), err: &mut io::stderr(), terminal })
}

/// Runs the command on these streams; returns its exit status: 0, 1 for a failure, 2 for wrong usage. A reader that
/// went away (a broken pipe) is no failure.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    execute(args, &mut Streams { out, err, terminal: false })
}

fn execute(args: impl IntoIterator<Item = OsString>, streams: &mut Streams<'_>) -> u8 {
    let cli = match args::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                // Nobody is left to tell if this fails.
                let _ = write!(streams.err, "{}", error.render());
                return 2;
            }
            let shown = write!(streams.out, "{}", error.render()).and_then(|()| streams.out.flush());
            return status(shown.map_err(Failure::from), streams);
        }
    };
    let result = dispatch(&cli.command, streams).and_then(|()| streams.out.flush().map_err(Failure::from));
    status(result, streams)
}

/// The exit status of what came out; says why it failed.
fn status(result: Result<(), Failure>, streams: &mut Streams<'_>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(failure) if failure.broken_pipe() => 0,
        Err(failure) => {
            let _ = writeln!(streams.err, "gpreempt: {failure}");
            failure.status()
        }
    }
}

fn dispatch(command: &args::Command, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        args::Command::Demo(args) => demo::run(args, streams),
        args::Command::Status(args) => machine::status(args, streams.out),
        args::Command::Queues(args) => machine::queues(args, streams.out),
        args::Command::Offline(args) => offline::run(args),
        args::Command::Doctor(args) => doctor::doctor(args, streams.out),
        args::Command::Bench(args) => bench::run(args, streams.out),
    }
}
