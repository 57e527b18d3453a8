//! The `gpreempt` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    gpreempt_cli::main(std::env::args_os())
}
