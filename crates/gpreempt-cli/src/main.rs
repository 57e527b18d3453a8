//! The `gpreempt` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(gpreempt_cli::main(std::env::args_os()))
}
