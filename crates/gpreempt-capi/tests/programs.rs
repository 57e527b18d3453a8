//! C and C++ programs use the library; each program of `tests/c` checks its own answers and ends with 0.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{library, program, root, run, simulated};

#[test]
fn every_function_works_once_from_c() {
    run(&mut simulated(program("smoke")));
}

#[test]
fn every_function_works_once_from_cplusplus() {
    run(&mut simulated(program("smoke++")));
}

#[test]
fn a_program_that_loads_the_library_needs_no_link_time_dependency() {
    for name in ["dlopen", "dlopen++"] {
        let text = run(simulated(program(name)).arg(library()));
        assert!(text.contains(" slots, "), "{text}");
    }
}

#[test]
fn every_wrong_argument_is_answered_and_explained() {
    run(&mut simulated(program("arguments")));
}

#[test]
fn threads_may_call_while_the_session_is_opened_and_closed_under_them() {
    run(&mut simulated(program("threads")));
}

#[test]
fn a_forked_child_answers_ebadf_until_it_opens_its_own_session() {
    run(&mut simulated(program("fork")));
}

#[test]
fn the_monitor_calls_back_until_it_is_stopped_from_wherever() {
    run(simulated(program("monitor")).env("GPREEMPT_SIM_CLOCK", "real"));
}

#[test]
fn the_monitor_keeps_what_policies_promise_and_gives_queues_back() {
    let machine = root().join("tests/conformance/machines/pair.toml");
    run(simulated(program("lazy")).env("GPREEMPT_SIM_CLOCK", "real").env("GPREEMPT_SIM_SCENARIO", machine));
}

#[test]
fn no_call_reads_or_writes_what_is_not_its_own() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        // Past the capture of the test harness, so that the skip is seen and counted.
        writeln!(std::io::stderr(), "skipped: no_call_reads_or_writes_what_is_not_its_own: valgrind is not installed")
            .expect("standard error is open");
        return;
    }
    run(simulated("valgrind").args(["--quiet", "--error-exitcode=9", "--leak-check=no"]).arg(program("smoke")));
}

#[test]
fn the_conformance_player_answers_line_by_line() {
    let mut player = simulated(program("conformance"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let script =
        "# a comment\n\nstatus\ninit\nunmap 0\nunmap 0 0x7fff0000\nremap_one 1024 -1\nnonsense 1\nactive x\ncleanup\n";
    player.stdin.take().expect("it is a pipe").write_all(script.as_bytes()).expect("it reads");
    let output = player.wait_with_output().expect("it ends");
    let answers = String::from_utf8(output.stdout).expect("it writes ASCII");
    let expected =
        "-19\n0\n-22\n-2\n-22\n? no such command, or not with 1 arguments: nonsense\n? x is not a number\n0\n";
    assert_eq!(answers, expected);
    assert_eq!(output.status.code(), Some(1), "wrong lines show in the exit status");
}
