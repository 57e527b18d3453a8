//! The `gpreempt` command as a library, so that the Python package can offer it too.

pub mod args;
pub mod arrivals;
#[cfg(test)]
mod data;
mod failure;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

pub use failure::Failure;

/// Runs the command on the process's own streams. `args[0]` is the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(run(args, &mut io::stdout().lock(), &mut io::stderr()))
}

/// Runs the command; returns its exit status: 0, 1 for a failure, 2 for wrong usage. A reader that went away
/// (a broken pipe) is no failure.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let cli = match args::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render();
            // Nobody is left to tell if this fails.
            let _ = if error.use_stderr() { write!(err, "{text}") } else { write!(out, "{text}") };
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    let result = dispatch(cli.command, out, err).and_then(|()| out.flush().map_err(Failure::from));
    match result {
        Ok(()) => 0,
        Err(failure) if failure.broken_pipe() => 0,
        Err(failure) => {
            let _ = writeln!(err, "gpreempt: {failure}");
            failure.status()
        }
    }
}

fn dispatch(_command: args::Command, _out: &mut dyn Write, _err: &mut dyn Write) -> Result<(), Failure> {
    Ok(())
}
