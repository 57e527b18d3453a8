//! `gpreempt demo`: the same requests against the same offline work under four ways of preemption.
//!
//! Every way gets a fresh machine with the same scenario, arrivals and seed, and reaches queues through its own ioctls:
//! nothing but rounds and their costs can make a difference.

mod replay;
pub mod report;
mod rig;
mod seed_flow;
mod text;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gpreempt::PolicyFlags;
use gpreempt::driver::Driver;
use gpreempt::driver::debugger::{Calls, DebuggerDriver};
use gpreempt::driver::patched::PatchedDriver;
use gpreempt::host::Host;
use gpreempt::sched::policy::{self, Policy};
use gpreempt::sched::{Scheduler, Scope};
use gpreempt::stats::{Operation, OperationReport, Phase};
use gpreempt::trace::{ChromeTrace, Recorder};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::{DemoArgs, Mode};
use crate::arrivals::{self, Arrivals, ServiceModel};
use crate::demo::replay::{Played, play};
use crate::demo::report::{Report, Spread};
use crate::demo::rig::{Guests, Plan, Rig};
use crate::{Failure, Streams};

/// Requests of a run without a trace, unless said.
const DEFAULT_REQUESTS: u32 = 2000;

/// What every run assumes.
const ASSUMPTIONS: [&str; 2] = [
    "a request goes to the GPU with the least work under way, the first of equals, and waits in its queue",
    "one scheduling thread serves all GPUs: a request that arrives during a call of the driver waits for it",
];

/// A run did not keep up with the arrivals where it took longer than this many times the run without offline work, and
/// by more than this many mean requests.
const KEEPS_UP: (f64, f64) = (1.05, 5.0);

/// Runs `gpreempt demo`.
pub(crate) fn run(args: &DemoArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if args.seed_flow {
        return seed_flow::run(args, streams.out);
    }
    let (json, perfetto) = (args.json.as_deref(), args.perfetto.as_deref());
    if is_stdout(json) && is_stdout(perfetto) {
        return Err(Failure::Usage("--json and --perfetto cannot both go to stdout".into()));
    }
    let arrivals = arrivals(args)?;
    let bar = progress(args, streams, &arrivals);
    let (report, trace) = compare(args, &arrivals, &bar)?;
    bar.finish_and_clear();
    if let Some(path) = json.filter(|_| !is_stdout(json)) {
        let mut file = create(path)?;
        write_json(&report, &mut file).map_err(|error| cannot_write(path, &error))?;
    }
    if is_stdout(json) {
        return Ok(write_json(&report, streams.out)?);
    }
    match trace {
        Some(Sink::Memory(trace)) => Ok(streams.out.write_all(&trace)?),
        Some(Sink::File(_)) | None => text::print(&report, args.quiet, streams.out),
    }
}

fn is_stdout(path: Option<&Path>) -> bool {
    path == Some(Path::new("-"))
}

/// Where a trace for Perfetto goes while its run lasts.
#[derive(Debug)]
enum Sink {
    File(BufWriter<File>),
    /// On its way to stdout, which a failed run leaves empty.
    Memory(Vec<u8>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Sink::File(file) => file.write(bytes),
            Sink::Memory(memory) => memory.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Sink::File(file) => file.flush(),
            Sink::Memory(_) => Ok(()),
        }
    }
}

/// The arrivals that the command line asks for.
pub(crate) fn arrivals(args: &DemoArgs) -> Result<Arrivals, Failure> {
    let service = ServiceModel {
        request_ms: args.service_ms,
        prefill_us: args.prefill_us,
        decode_us: args.decode_us,
        ..ServiceModel::default()
    };
    let requests = args.requests.map(|count| count as usize);
    let mut arrivals = match &args.trace {
        Some(path) => arrivals::load(path, &service, args.seed)?,
        None => arrivals::poisson(args.rate, requests.unwrap_or(DEFAULT_REQUESTS as usize), &service, args.seed),
    };
    arrivals.limit(requests, args.duration.map(|seconds| Duration::from_secs_f64(seconds).as_nanos() as u64));
    if arrivals.requests.is_empty() && arrivals.closed.is_empty() {
        return Err(Failure::Usage("no request arrives within --duration; make it longer".into()));
    }
    Ok(arrivals)
}

/// Runs everything and gathers the report, and the trace where one was asked for.
///
/// # Errors
/// Where the machine cannot be made, the policy is unknown, or requests are never answered.
fn compare(args: &DemoArgs, arrivals: &Arrivals, bar: &ProgressBar) -> Result<(Report, Option<Sink>), Failure> {
    policy::named(&args.policy).map_err(|error| Failure::Usage(error.to_string()))?;
    let plan = Plan::new(args, arrivals)?;

    // A machine that cannot have all its guests says so before any part of it runs.
    let rig = plan.boot(Guests::All, true)?;
    let machine = rig.host.describe();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (nodes, offline_queues) = (count(rig.lanes.len()), count(rig.offline.len()));
    drop(rig);

    bar.set_message("online alone");
    let rig = plan.boot(Guests::Online, true)?;
    let alone = play(&rig, None, arrivals, &mut |_, _, _| bar.inc(1));
    if alone.lost > 0 {
        return Err(Failure::Failed(format!(
            "{} requests were not answered within an hour of machine time with nobody else there; is their queue ever mapped?",
            alone.lost
        )));
    }
    drop(rig);

    bar.set_message("offline alone");
    let rig = plan.boot(Guests::Offline, true)?;
    let (from, before) = (rig.host.now(), offline_service(&rig)?);
    rig.host.sleep(Duration::from_nanos(alone.elapsed_ns.max(1_000_000_000)));
    let offline_rate = rate(offline_service(&rig)? - before, rig.host.now() - from);
    drop(rig);

    let answered = alone.latencies.len() as u64;
    let alone_s = alone.elapsed_ns as f64 / 1e9;
    let late_s = (KEEPS_UP.0 * alone_s).max(alone_s + KEEPS_UP.1 * arrivals.mean_work_ns() / 1e9);
    let recorded = args.modes.iter().rposition(|mode| *mode == Mode::Gpreempt).unwrap_or(args.modes.len() - 1);
    let mut modes = Vec::with_capacity(args.modes.len());
    let mut written = None;
    for (nth, mode) in args.modes.iter().enumerate() {
        bar.set_message(mode.name());
        // A closed loop sends as many requests as the way before let it.
        bar.set_length(bar.position() + (args.modes.len() - nth) as u64 * answered);
        let perfetto = args.perfetto.as_deref().filter(|_| nth == recorded);
        let (mut found, trace) = run_mode(*mode, args, &plan, arrivals, offline_rate, perfetto, bar)?;
        written = written.or(trace);
        found.kept_up = found.elapsed_s <= late_s || found.lost_requests > 0;
        modes.push(found);
    }
    bar.set_length(bar.position());
    let span_s = arrivals.span_ns as f64 / 1e9;
    let span_s = if arrivals.closed.is_empty() { span_s } else { span_s.min(alone_s) };
    let report = Report {
        schema_version: report::SCHEMA_VERSION,
        program: concat!("gpreempt ", env!("CARGO_PKG_VERSION")).into(),
        config: report::Config {
            machine,
            cost_model: plan.cost.name.clone(),
            cost_model_about: plan.cost.about.clone(),
            seed: args.seed,
            trace: arrivals.source.clone(),
            assumptions: arrivals.assumptions.iter().map(String::as_str).chain(ASSUMPTIONS).map(String::from).collect(),
            requests: answered - alone.closed,
            closed_loops: arrivals.closed.len() as u64,
            closed_requests: alone.closed,
            span_s,
            online_load: alone.work_ns as f64 / 1e9 / span_s.max(1e-9) / f64::from(nodes),
            offline: plan.offline_summary(),
            nodes,
            offline_queues,
        },
        online_alone: Spread::of(alone.latencies),
        modes,
    };
    Ok((report, written))
}

/// Plays the arrivals under `gpreempt` alone, without the reference runs, so without an offline throughput.
///
/// # Errors
/// As `gpreempt demo`.
pub(crate) fn play_one(args: &DemoArgs, arrivals: &Arrivals) -> Result<report::Mode, Failure> {
    let plan = Plan::new(args, arrivals)?;
    run_mode(Mode::Gpreempt, args, &plan, arrivals, 0.0, None, &ProgressBar::hidden()).map(|(mode, _)| mode)
}

/// One row of the table: a fresh machine, and its own ioctls.
fn run_mode(
    mode: Mode,
    args: &DemoArgs,
    plan: &Plan,
    arrivals: &Arrivals,
    offline_rate: f64,
    perfetto: Option<&Path>,
    bar: &ProgressBar,
) -> Result<(report::Mode, Option<Sink>), Failure> {
    let rig = plan.boot(Guests::All, mode == Mode::Gpreempt)?;
    let trace = match perfetto {
        Some(path) => {
            let title = format!("{}: {}", mode.name(), rig.host.describe());
            let sink = match is_stdout(perfetto) {
                true => Sink::Memory(Vec::new()),
                false => Sink::File(create(path)?),
            };
            let trace = ChromeTrace::new(sink, &title).map_err(|error| cannot_write(path, &error))?;
            Some((path, Arc::new(trace)))
        }
        None => None,
    };
    let recorder = trace.as_ref().map(|(_, trace)| trace.clone() as Arc<dyn Recorder>);
    let scheduler = scheduler(mode, args, &rig, recorder)?;
    let how = match &scheduler {
        None => "queues share the GPUs; no call of the driver".to_owned(),
        Some(scheduler) => match mode {
            Mode::OneByOne => format!("stock KFD, debugger calls, one queue per call; policy {}", scheduler.policy()),
            Mode::StockBatch => {
                format!("stock KFD, debugger calls, all queues of a process per call; policy {}", scheduler.policy())
            }
            Mode::None | Mode::Gpreempt => {
                format!("gpreempt KFD, a lease, all queues of a GPU per call; policy {}", scheduler.policy())
            }
        },
    };

    let before = rig.host.machine().counters();
    let (from, service) = (rig.host.now(), offline_service(&rig)?);
    let mut tracks = vec![Tracks::default(); rig.lanes.len()];
    let played = play(&rig, scheduler.as_ref(), arrivals, &mut |lane, arrival, done| {
        bar.inc(1);
        if let Some((_, trace)) = &trace {
            let track = tracks[lane].place(arrival, done);
            let (arrival, done) = (Duration::from_nanos(arrival), Duration::from_nanos(done));
            trace.slice(rig.lanes[lane].gpu, &track, "request", arrival, done);
        }
    });
    let elapsed = rig.host.now() - from;
    let after = rig.host.machine().counters();
    let service = offline_service(&rig)? - service;

    let stats = scheduler.as_ref().map(|scheduler| scheduler.stats().report()).unwrap_or_default();
    drop(scheduler);
    let trace = match trace {
        Some((path, trace)) => {
            let trace = Arc::into_inner(trace).expect("the scheduler that shared it is gone");
            Some(trace.finish().map_err(|error| cannot_write(path, &error))?)
        }
        None => None,
    };
    let machine = rig.host.machine();
    let lost_queues = rig.offline.iter().filter(|info| !machine.runnable(info.queue.pid, info.queue.id)).count();
    let Played { latencies, errors, first_error, elapsed_ns, lost, .. } = played;
    let mode = report::Mode {
        mode: mode.name().into(),
        how,
        basis: format!("modelled (cost model {})", plan.cost.name),
        online: Spread::of(latencies),
        offline_throughput: (offline_rate > 0.0).then(|| rate(service, elapsed) / offline_rate),
        hqd_use: (after.slot_ns - before.slot_ns) as f64 / elapsed.as_nanos() as f64 / f64::from(rig.slots.max(1)),
        unmap: operation(stats.operations.get(&Operation::Unmap)),
        remap: operation(stats.operations.get(&Operation::Remap)),
        rounds: after.unmap_rounds - before.unmap_rounds,
        preemptions: stats.operations.get(&Operation::Unmap).map_or(0, |unmap| unmap.calls),
        ioctls: after.ioctls - before.ioctls,
        waves_saved: after.waves_saved - before.waves_saved,
        errors,
        first_error,
        lost_requests: lost,
        lost_queues: lost_queues as u64,
        elapsed_s: elapsed_ns as f64 / 1e9,
        kept_up: true,
    };
    Ok((mode, trace))
}

/// Slices of one track may not overlap, requests may: each goes to the first track that is free again.
#[derive(Clone, Debug, Default)]
struct Tracks {
    free_at: Vec<u64>,
}

impl Tracks {
    fn place(&mut self, from: u64, until: u64) -> String {
        let track = self.free_at.iter().position(|free| *free <= from).unwrap_or(self.free_at.len());
        if track == self.free_at.len() {
            self.free_at.push(0);
        }
        self.free_at[track] = until;
        format!("requests {}", track + 1)
    }
}

/// The scheduler of a mode, with every offline queue registered. None: nobody preempts.
fn scheduler(
    mode: Mode,
    args: &DemoArgs,
    rig: &Rig,
    recorder: Option<Arc<dyn Recorder>>,
) -> Result<Option<Scheduler>, Failure> {
    let host: Arc<dyn Host> = rig.host.clone();
    let driver: Arc<dyn Driver> = match mode {
        Mode::None => return Ok(None),
        Mode::OneByOne => Arc::new(DebuggerDriver::open_fixed(host.clone(), Calls::PerQueue)?),
        Mode::StockBatch => Arc::new(DebuggerDriver::open_fixed(host.clone(), Calls::PerProcess)?),
        Mode::Gpreempt => Arc::new(PatchedDriver::open(host.clone())?),
    };
    let mut policy = policy::named(&args.policy)?;
    if mode != Mode::Gpreempt && !on_stock(&*policy) {
        // The stock kernel has no reservation and no lazy activation: the plain policy is what is left there.
        policy = policy::named("unmap")?;
    }
    let mut builder = Scheduler::builder(host, driver).policy(policy).scope(Scope::Gpu);
    if let Some(recorder) = recorder {
        builder = builder.recorder(recorder);
    }
    let scheduler = builder.build()?;
    for info in &rig.offline {
        scheduler.register_offline(info.queue, info.gpu)?;
    }
    Ok(Some(scheduler))
}

/// Whether a policy asks for nothing that a stock kernel cannot do.
fn on_stock(policy: &dyn Policy) -> bool {
    let setup = policy.setup();
    setup.reservation.is_none() && setup.idle_poll.is_none() && PolicyFlags::PREEMPTIBLE.contains(setup.queue_policy)
}

/// Work that the offline queues have done, ns alone on their nodes.
fn offline_service(rig: &Rig) -> Result<u64, Failure> {
    rig.offline.iter().try_fold(0, |sum, info| match rig.host.machine().service(info.queue.pid, info.queue.id) {
        Ok(service) => Ok(sum + service),
        Err(errno) => Err(Failure::Failed(format!("{}: reading its service: {errno}", info.queue))),
    })
}

fn rate(service_ns: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { service_ns as f64 / elapsed.as_nanos() as f64 }
}

fn operation(report: Option<&OperationReport>) -> Spread {
    let Some(total) = report.and_then(|report| report.phases.get(&Phase::Total)) else { return Spread::default() };
    Spread {
        count: total.count,
        mean_ms: total.mean_us / 1e3,
        p50_ms: total.p50_us / 1e3,
        p90_ms: total.p90_us / 1e3,
        p99_ms: total.p99_us / 1e3,
        p999_ms: total.p999_us / 1e3,
        max_ms: total.max_us / 1e3,
    }
}

fn progress(args: &DemoArgs, streams: &Streams<'_>, arrivals: &Arrivals) -> ProgressBar {
    let runs = args.modes.len() as u64 + 1;
    let bar = ProgressBar::with_draw_target(
        Some(runs * arrivals.expected()),
        if streams.terminal && !args.quiet { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    let style =
        ProgressStyle::with_template("{msg:14} [{wide_bar}] {pos}/{len} requests").expect("the template is valid");
    bar.set_style(style.progress_chars("=> "));
    bar
}

fn write_json(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)?;
    out.flush()
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    File::create(path).map(BufWriter::new).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("{}: cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn the_bar_ends_full_where_closed_loops_send_as_many_requests_as_they_can() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("closed.json");
        let task = r#"{"id": "vgg19_rt", "load": {"type": "continuous"}, "client": {"model_name": "vgg19"}}"#;
        std::fs::write(&trace, format!(r#"{{"time": 1, "tasks": [{task}]}}"#)).unwrap();
        let cli = Cli::parse_from(["gpreempt", "demo", "--gpus=1", "--trace", trace.to_str().unwrap()]);
        let Command::Demo(args) = cli.command else { panic!("it is the demo") };
        let arrivals = arrivals(&args).unwrap();
        let bar = ProgressBar::hidden();
        let (report, _) = compare(&args, &arrivals, &bar).unwrap();
        let answered: u64 = report.modes.iter().map(|mode| mode.online.count).sum();
        assert!(report.modes[0].online.count < report.online_alone.count, "sharing slows the loop down");
        assert_eq!(bar.position(), report.online_alone.count + answered);
        assert_eq!(bar.length(), Some(bar.position()));
        assert_eq!(arrivals.expected(), report.online_alone.count);
    }
}
