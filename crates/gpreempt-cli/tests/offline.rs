//! `gpreempt offline` starts real programs with the real agent in them.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The agent of this very build: cargo puts it beside the test programs.
fn agent() -> PathBuf {
    let library = std::env::current_exe().unwrap().with_file_name("libgpreempt_agent.so");
    assert!(library.exists(), "{} was not built", library.display());
    library
}

fn offline(command: &[&str]) -> Output {
    let mut offline = Command::new(env!("CARGO_BIN_EXE_gpreempt"));
    offline.env_remove("LD_PRELOAD").env("GPREEMPT_AGENT_LIBRARY", agent());
    offline.args(["offline", "--"]).args(command).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_program_has_the_agent_its_own_arguments_and_its_own_exit_status() {
    let output =
        offline(&["sh", "-c", "grep -c libgpreempt_agent /proc/self/maps; printf '%s' \"$1\"; exit 7", "-", "--x"]);
    let text = text(&output.stdout);
    let (mappings, argument) = text.split_once('\n').unwrap();
    assert!(mappings.parse::<u32>().unwrap() > 0, "{output:?}");
    assert_eq!((argument, output.status.code()), ("--x", Some(7)));
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_job_is_known_by_the_pid_that_the_program_gets() {
    let output = offline(&["sh", "-c", "echo $$ $GPREEMPT_AGENT_JOB; sh -c 'echo $GPREEMPT_AGENT_JOB'"]);
    let words: Vec<&str> = text(&output.stdout).split_whitespace().collect();
    assert_eq!((words[0], words[0]), (words[1], words[2]), "the same in its children");
}

#[test]
fn what_cannot_be_started_with_an_agent_is_refused_in_one_line() {
    let no_agent = |command: &[&str]| {
        let output = offline(command);
        assert_eq!(text(&output.stderr).lines().count(), 1, "{output:?}");
        (output.status.code(), text(&output.stderr).to_owned())
    };
    let (status, line) = no_agent(&["no-such-program"]);
    assert!(status == Some(2) && line.contains("no-such-program"), "{line}");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("static");
    let mut elf = b"\x7fELF\x02\x01".to_vec();
    elf.resize(64, 0);
    std::fs::write(&program, elf).unwrap();
    let (status, line) = no_agent(&[program.to_str().unwrap()]);
    assert!(status == Some(1) && line.contains("is statically linked, and so cannot be preloaded: "), "{line}");
}

#[test]
fn the_help_shows_an_example() {
    let output = Command::new(env!("CARGO_BIN_EXE_gpreempt")).args(["offline", "--help"]).output().unwrap();
    assert!(text(&output.stdout).contains("gpreempt offline -- python train.py"));
}
