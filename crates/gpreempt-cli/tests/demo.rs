//! `gpreempt demo` as its user sees it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A cost model in which the debugger's calls cost what a lease's calls cost: rounds, marks and nothing else.
const EQUAL_ROUNDS: &str = r#"
name = "equal-rounds"
about = "Every round costs the same, whoever asks for it."
base = "design"

[debug_suspend]
us = 0
source = "the test's premise"
[debug_resume]
us = 0
source = "the test's premise"
[debug_copy_queue]
us = 0
source = "the test's premise"
[debug_snapshot_queue]
us = 0
source = "the test's premise"
"#;

fn run(args: &[&str]) -> (u8, String, String) {
    let args = std::iter::once("gpreempt").chain(args.iter().copied()).map(OsString::from);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = gpreempt_cli::run(args, &mut out, &mut err);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn report(args: &[&str]) -> Value {
    let (status, out, err) = run(&[&["demo", "--json", "-"], args].concat());
    assert_eq!(status, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn mode<'a>(report: &'a Value, name: &str) -> &'a Value {
    let modes = report["modes"].as_array().unwrap();
    modes.iter().find(|mode| mode["mode"] == name).unwrap_or_else(|| panic!("no mode {name}"))
}

fn figure(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn equal_rounds(folder: &Path) -> PathBuf {
    let path = folder.join("equal-rounds.toml");
    std::fs::write(&path, EQUAL_ROUNDS).unwrap();
    path
}

#[test]
fn with_equal_round_cost_and_one_queue_no_way_wins() {
    let folder = tempfile::tempdir().unwrap();
    let cost = equal_rounds(folder.path());
    let report = report(&[
        "--gpus=1",
        "--offline-processes=1",
        "--offline-queues=1",
        "--requests=200",
        "--rate=10",
        "--cost-model",
        cost.to_str().unwrap(),
    ]);
    let (one, batch, ours) = (mode(&report, "one-by-one"), mode(&report, "stock-batch"), mode(&report, "gpreempt"));
    assert_eq!(one["online"], batch["online"]);
    assert_eq!((&one["rounds"], &one["unmap"]), (&batch["rounds"], &batch["unmap"]));
    assert_eq!(one["rounds"], ours["rounds"]);
    // The ways differ in how many ioctls they make and in nothing else; a few ioctls of 50 us are 0.3 ms.
    for (path, tolerance) in [("p50_ms", 0.3), ("p99_ms", 0.6)] {
        for operation in ["unmap", "remap", "online"] {
            let (theirs, ours) = (figure(&batch[operation][path]), figure(&ours[operation][path]));
            assert!((theirs - ours).abs() <= tolerance, "{operation} {path}: {theirs} and {ours}");
        }
    }
    let (theirs, ours) = (figure(&batch["offline_throughput"]), figure(&ours["offline_throughput"]));
    assert!((theirs - ours).abs() < 0.01, "offline work: {theirs} and {ours}");
}

#[test]
fn with_many_queues_a_batch_needs_fewer_rounds() {
    let folder = tempfile::tempdir().unwrap();
    let cost = equal_rounds(folder.path());
    let report = report(&["--gpus=2", "--requests=100", "--rate=4", "--cost-model", cost.to_str().unwrap()]);
    let rounds = |name: &str| mode(&report, name)["rounds"].as_u64().unwrap();
    assert_eq!(rounds("none"), 0);
    assert!(
        rounds("gpreempt") * 2 < rounds("stock-batch"),
        "3 processes: {} {}",
        rounds("gpreempt"),
        rounds("stock-batch")
    );
    assert!(rounds("stock-batch") * 3 < rounds("one-by-one") * 2, "2 queues each: {}", rounds("one-by-one"));
    let p99 = |name: &str| figure(&mode(&report, name)["online"]["p99_ms"]);
    assert!(p99("gpreempt") < p99("stock-batch") && p99("stock-batch") < p99("one-by-one"));
}

#[test]
fn preemption_protects_online_latency_and_offline_work_pays_for_it() {
    let report = report(&["--requests=200", "--modes=none,gpreempt"]);
    let (none, ours) = (mode(&report, "none"), mode(&report, "gpreempt"));
    let alone = figure(&report["online_alone"]["p50_ms"]);
    assert!(figure(&none["online"]["p50_ms"]) > 1.5 * alone, "sharing must slow the requests down");
    assert!(figure(&ours["online"]["p50_ms"]) < 1.2 * alone);
    assert!(figure(&ours["offline_throughput"]) < figure(&none["offline_throughput"]));
    assert!(figure(&ours["offline_throughput"]) > 0.5, "training must go on");
    // Six offline queues and an online one on every node of 24 slots; unmapped ones leave theirs.
    assert!((figure(&none["hqd_use"]) - 7.0 / 24.0).abs() < 1e-6);
    assert!(figure(&ours["hqd_use"]) < figure(&none["hqd_use"]));
    for mode in [none, ours] {
        assert_eq!(mode["basis"], "modelled (cost model design)");
        assert_eq!(mode["errors"], 0);
    }
}

#[test]
fn a_way_that_cannot_keep_up_is_said_to_be_so() {
    // One queue after the other takes 90 ms of calls per request on one thread: 11 requests per second at most.
    let report = report(&["--requests=200", "--rate=30", "--modes=one-by-one,gpreempt"]);
    assert_eq!(mode(&report, "one-by-one")["kept_up"], false);
    assert_eq!(mode(&report, "gpreempt")["kept_up"], true);
    let (_, out, _) = run(&["demo", "--requests=200", "--rate=30", "--modes=one-by-one", "--quiet"]);
    assert!(out.contains("one-by-one: did not keep up with the arrivals"), "{out}");
}

#[test]
fn a_short_run_keeps_up() {
    let report = report(&["--requests=1"]);
    assert!(report["modes"].as_array().unwrap().iter().all(|mode| mode["kept_up"] == true), "{report}");
}

#[test]
fn a_fault_costs_its_victims_and_not_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fault.toml");
    let args = ["--gpus=2", "--requests=20", "--scenario", file.to_str().unwrap()];
    for (fault, loses_requests) in [
        ("{ process-gone = { pid = 500 } }", false),
        ("{ node-reset = { node = 0 } }", true),
        ("{ hws-timeout = { node = 0 } }", true),
    ] {
        let text = format!(
            "name = \"fault\"\n[[process]]\nname = \"t\"\npid = 500\n[[process.queue]]\ncount = 2\npriority = 2\n\
             work = {{ continuous = {{ packet_us = 1410, occupancy = 0.35, depth = 4 }} }}\n\
             [[fault]]\nat = {{ time-ms = 500 }}\nwhat = {fault}\n"
        );
        std::fs::write(&file, text).unwrap();
        let report = report(&args);
        assert_eq!(report["online_alone"]["count"], 20, "{fault}: nothing goes wrong in the references");
        let modes = report["modes"].as_array().unwrap();
        assert_eq!(modes.len(), 4);
        // A node that hangs is reset when the next round meets it, and without preemption there is none.
        for mode in modes.iter().filter(|mode| !(fault.contains("hws") && mode["mode"] == "none")) {
            let (lost, answered) = (mode["lost_requests"].as_u64().unwrap(), mode["online"]["count"].as_u64().unwrap());
            assert_eq!(lost + answered, 20, "{fault}: {mode}");
            assert_eq!(lost > 0, loses_requests, "{fault}: {mode}");
            assert!(answered > 0, "{fault}: requests came before it: {mode}");
            assert_eq!(mode["lost_queues"], 4, "{fault}: {mode}");
            assert!(figure(&mode["offline_throughput"]) > 0.0, "{fault}: {mode}");
            assert!(figure(&mode["elapsed_s"]) < 60.0, "{fault}: nobody waits for the dead: {mode}");
        }
        let (status, out, _) = run(&[&["demo", "--quiet"], &args[..]].concat());
        assert_eq!(status, 0);
        assert!(out.contains("gpreempt: 4 of 4 offline queues were reset, evicted or are gone"), "{out}");
        assert_eq!(out.contains("requests were not answered"), loses_requests, "{out}");
    }
}

#[test]
fn requests_spread_over_the_gpus() {
    // Four GPUs' worth of requests on eight GPUs: on one queue they would wait for ever.
    let report = report(&["--requests=400", "--rate=200", "--modes=gpreempt"]);
    assert!(figure(&report["online_alone"]["p99_ms"]) < 60.0, "{}", report["online_alone"]);
}

#[test]
fn a_scenario_without_an_online_process_gets_one() {
    let report = report(&["--requests=20", "--scenario=oversubscribed", "--gpus=1", "--modes=gpreempt"]);
    assert_eq!(mode(&report, "gpreempt")["online"]["count"], 20);
    assert_eq!(report["config"]["nodes"], 1);
}

#[test]
fn the_same_seed_gives_the_same_report_byte_for_byte() {
    let args = ["demo", "--requests=100", "--json", "-", "--policy=rate-bound", "--seed=7"];
    assert_eq!(run(&args), run(&args));
    let other = run(&["demo", "--requests=100", "--json", "-", "--policy=rate-bound", "--seed=8"]);
    assert_ne!(run(&args).1, other.1);
}

#[test]
fn the_table_labels_every_row_and_says_what_is_modelled() {
    let (status, out, err) = run(&["demo", "--requests=50", "--gpus=2"]);
    assert_eq!((status, err.as_str()), (0, ""));
    for row in ["(online alone)", "none", "one-by-one", "stock-batch", "gpreempt"] {
        let mut table = out.lines().skip_while(|line| !line.starts_with("----"));
        let line = table.find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no row {row}:\n{out}"));
        assert!(line.ends_with("modelled (cost model design)"), "{line}");
    }
    assert!(out.contains("No figure here was measured on a GPU"));
}

#[test]
fn wrong_input_says_where_and_exits_with_the_right_status() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("bad.csv");
    std::fs::write(&trace, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6,1,x\n").unwrap();
    let path = trace.to_str().unwrap();
    let (status, out, err) = run(&["demo", "--trace", path]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.contains(&format!("{path}:2: GeneratedTokens `x`")), "{err}");

    for (args, status, words) in [
        (vec!["demo", "--policy=none-such"], 2, "none-such"),
        (vec!["demo", "--cost-model=none-such"], 1, "none-such"),
        (vec!["demo", "--scenario=none-such"], 1, "(default, empty, demo, oversubscribed)"),
        (vec!["demo", "--trace=/nowhere"], 1, "/nowhere: cannot be read"),
        (vec!["demo", "--gpus=0"], 2, "--gpus"),
        (vec!["demo", "--rate=-1"], 2, "--rate"),
        (vec!["demo", "--duration=0.000001"], 2, "--duration"),
        (vec!["fly"], 2, "fly"),
    ] {
        let (found, out, err) = run(&args);
        assert_eq!((found, out.as_str()), (status, ""), "{args:?}: {err}");
        assert!(err.contains(words), "{args:?}: {err}");
    }
    assert_eq!(run(&["--version"]).1, concat!("gpreempt ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_machine_that_cannot_have_so_many_queues_names_the_limit() {
    let (status, out, err) = run(&["demo", "--gpus=1", "--offline-processes=64", "--offline-queues=64"]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.contains("at most 4096 queues"), "{err}");
    let (status, _, err) = run(&["demo", "--gpus=64", "--offline-queues=64"]);
    assert_eq!(status, 1);
    assert!(err.contains("at most 1024 queues"), "{err}");
}

#[test]
fn a_node_that_the_machine_does_not_have_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    let path = file.to_str().unwrap();
    let process = "name = \"x\"\n[[process]]\nname = \"t\"\n[[process.queue]]\n";
    let fault = "nodes = [1]\n[[fault]]\nat = { time-ms = 1 }\n";
    for (text, line, node) in [
        ("nodes = [1,\n 9]\n".to_owned(), 6, 9),
        (format!("{fault}what = {{ node-reset = {{ node = 8 }} }}\n"), 8, 8),
        (format!("{fault}what = {{ hws-timeout = {{ node = 2 }} }}\n"), 8, 2),
    ] {
        std::fs::write(&file, format!("{process}{text}")).unwrap();
        let (status, out, err) = run(&["demo", "--gpus=2", "--scenario", path]);
        assert_eq!((status, out.as_str()), (1, ""), "{text}");
        assert!(err.contains(&format!("{path}:{line}: there is no node {node}: the machine has 2")), "{err}");
    }
}

/// A stream that no byte can be written to.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is_one() {
    let demo = ["gpreempt", "demo", "--requests=5", "--gpus=1"];
    for args in
        [&[&demo[..], &["--json", "-"]].concat(), &demo[..], &["gpreempt", "--help"], &["gpreempt", "--version"]]
    {
        let run = |kind: io::ErrorKind| {
            let mut err = Vec::new();
            let status = gpreempt_cli::run(args.iter().map(OsString::from), &mut Broken(kind), &mut err);
            (status, String::from_utf8(err).unwrap())
        };
        assert_eq!(run(io::ErrorKind::BrokenPipe), (0, String::new()), "{args:?}");
        let (status, err) = run(io::ErrorKind::StorageFull);
        assert_eq!(status, 1, "{args:?}");
        assert!(err.starts_with("gpreempt: writing the output:"), "{args:?}: {err}");
    }
}

#[test]
fn a_perfetto_trace_holds_requests_and_calls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    report(&["--requests=20", "--gpus=1", "--perfetto", path.to_str().unwrap()]);
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().or_else(|| trace.as_array()).unwrap();
    let requests = events.iter().filter(|event| event["name"] == "request").count();
    assert_eq!(requests, 20);
}

#[test]
fn one_of_report_and_trace_may_go_to_stdout() {
    let demo = ["demo", "--requests=20", "--gpus=1", "--modes=gpreempt", "--perfetto", "-"];
    let (status, out, err) = run(&demo);
    assert_eq!(status, 0, "{err}");
    let trace: Value = serde_json::from_str(&out).unwrap();
    let requests = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["name"] == "request").count();
    assert_eq!(requests, 20);
    assert!(!Path::new("-").exists());
    let (status, out, err) = run(&[&demo[..], &["--json", "-"]].concat());
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.contains("--json and --perfetto"), "{err}");
}

#[test]
fn without_offline_queues_there_is_no_share_of_offline_work() {
    let args = ["--requests=20", "--gpus=1", "--modes=none,gpreempt", "--scenario=empty"];
    let report = report(&args);
    assert_eq!(mode(&report, "none")["offline_throughput"], Value::Null);
    let (_, out, _) = run(&[&["demo", "--quiet"], &args[..]].concat());
    let line = out.lines().find(|line| line.starts_with("none")).unwrap();
    assert_eq!(line.split_whitespace().nth(4), Some("-"), "{line}");
}

#[test]
fn closed_loops_and_best_effort_tasks_of_a_trace_run() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("b.json");
    std::fs::write(
        &trace,
        r#"{"time": 2, "tasks": [
        {"id": "vgg19_rt", "load": {"type": "continuous"}, "client": {"model_name": "vgg19"}},
        {"id": "resnet152_be", "load": {"type": "continuous"}, "client": {"model_name": "resnet152"}}]}"#,
    )
    .unwrap();
    let report = report(&["--gpus=2", "--trace", trace.to_str().unwrap()]);
    assert_eq!(report["config"]["offline_queues"], 2);
    let ours = mode(&report, "gpreempt");
    let requests = figure(&ours["online"]["count"]);
    assert!((30.0..=41.0).contains(&requests), "a closed loop of 50 ms for 2 s gave {requests} requests");
    // A closed loop has one request under way, so one GPU is always left to training.
    assert!(figure(&ours["offline_throughput"]) > 0.4);

    let few = ["--gpus=2", "--requests=5", "--trace", trace.to_str().unwrap()];
    let report = self::report(&few);
    let modes = report["modes"].as_array().unwrap();
    assert!(modes.iter().all(|mode| mode["online"]["count"] == 5), "{report}");
    assert_eq!((&report["config"]["requests"], &report["config"]["closed_requests"]), (&0.into(), &5.into()));
    let load = figure(&report["config"]["online_load"]);
    assert!((0.49..=0.5).contains(&load), "one of two GPUs is busy, found {load}");
    let (_, out, _) = run(&[&["demo"], &few[..]].concat());
    assert!(out.contains("online      1 closed loop (5 requests while nobody trains) in"), "{out}");
}

#[test]
fn the_recorded_machine_runs_the_demo() {
    let folder = std::env::var_os("GPREEMPT_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")), PathBuf::from);
    let tree = folder.join("topology/mi308x");
    if !tree.is_dir() {
        eprintln!("skipped: no recorded machine at {} (GPREEMPT_DATA names another folder)", tree.display());
        return;
    }
    let report = report(&["--requests=100", "--modes=gpreempt", "--topology", tree.to_str().unwrap()]);
    assert_eq!(report["config"]["nodes"], 32);
    assert_eq!(mode(&report, "gpreempt")["online"]["count"], 100);
}

#[test]
fn the_seed_flow_runs_twenty_rounds_and_prints_statistics() {
    let (status, out, err) = run(&["demo", "--seed-flow"]);
    assert_eq!(status, 0, "{err}");
    assert_eq!(out.matches("end-to-end latency").count(), 20, "{out}");
    assert!(out.contains("batch unmaps: 20") && out.contains("fast remaps: 20"), "{out}");
    // 16 busy offline queues and 8 online ones: what the script in Python ends with, the idle ones being away.
    assert_eq!(out.matches("HQD status: active=24, free=168").count(), 20, "{out}");
    for line in out.lines().filter(|line| line.contains(" ms")) {
        assert!(line.ends_with("; modelled (cost model design)"), "{line}");
    }
}
