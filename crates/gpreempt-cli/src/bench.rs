//! `gpreempt bench`: what this library itself costs, measured on this machine.
//!
//! The simulated machine stands in for the kernel; the time inside the seam is taken off wherever a line says so.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use gpreempt::discover::{self, debugfs};
use gpreempt::driver::patched::PatchedDriver;
use gpreempt::host::sim::SimHost;
use gpreempt::host::{Alarm, Array, Host, Identity, RawFile, Readiness, SysResult, Wake};
use gpreempt::sched::policy::{self, OfflineQueue, View};
use gpreempt::{GpuId, Pid, QueueClass, QueueId, Session};
use gpreempt_sim::config::{
    Caller, ClockKind, Config, CostModel, GpuModel, Hardware, Partition, ProcessSpec, QueueSpec, Scenario,
};

use crate::args::{BenchArgs, Cli, Command};
use crate::table::Table;
use crate::{Failure, demo};

const QUEUES: u32 = 64;
const PIDS: u32 = 100;

/// Runs `gpreempt bench`.
pub(crate) fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let mut table = Table::new(&[&["what", "p50 us", "p99 us", "basis"]]);
    let build = if cfg!(debug_assertions) { ", debug build" } else { "" };
    let basis = format!("measured on this machine ({}{build})", cpu());
    let mut line = |what: String, samples: &mut Vec<Duration>| {
        samples.sort_unstable();
        let us = |rank: usize| format!("{:.2}", samples[(samples.len() * rank).div_ceil(100) - 1].as_secs_f64() * 1e6);
        table.row(vec![what, us(50), us(99), basis.clone()]);
    };
    let samples = args.samples as usize;

    let (mut seam, mut library) = calls(samples)?;
    line(format!("unmap or remap of {QUEUES} queues: the seam's own cost"), &mut seam);
    line(format!("unmap or remap of {QUEUES} queues: what the library adds"), &mut library);
    line(format!("decision of policy unmap on {QUEUES} queues"), &mut decisions(samples)?);
    let host = boot(8, PIDS, 1)?;
    line(format!("scan of {PIDS} processes"), &mut repeat(samples.min(200), || discover::scan(&*host).map(drop))?);
    let dump = host
        .read_text("/sys/kernel/debug/kfd/hqds")
        .map_err(|errno| Failure::Failed(format!("reading the simulated hqds: {}", errno.desc())))?;
    line(
        format!("parse of an 8-GPU hqds dump of {} kB", dump.len() / 1000),
        &mut repeat(samples.min(200), || debugfs::parse_hqds("hqds", &dump).map(drop))?,
    );
    table.print(out)?;

    match args.trace.clone().or_else(default_trace) {
        Some(path) => replay(path, &basis, out),
        None => Ok(writeln!(out, "skipped: replay of the LLM trace (no file; name one with --trace)")?),
    }
}

/// Time inside the seam and time outside of it, of calls on [`QUEUES`] queues.
fn calls(samples: usize) -> Result<(Vec<Duration>, Vec<Duration>), Failure> {
    let machine = boot(1, 4, QUEUES / 4)?;
    let host = Arc::new(Metered { inner: machine, inside_ns: AtomicU64::new(0) });
    let session = Session::with(host.clone(), Arc::new(PatchedDriver::open(host.clone())?));
    let handles: Vec<u32> = session.queues()?.into_iter().map(|(handle, _)| handle).collect();
    for handle in &handles {
        session.classify(*handle, QueueClass::Offline)?;
    }
    let (mut seam, mut library) = (Vec::with_capacity(samples), Vec::with_capacity(samples));
    for nth in 0..samples {
        host.inside_ns.store(0, Ordering::Relaxed);
        let start = Instant::now();
        let done = if nth % 2 == 0 { session.unmap(&handles, Duration::ZERO) } else { session.remap(&handles) };
        let total = start.elapsed();
        done?;
        let inside = Duration::from_nanos(host.inside_ns.load(Ordering::Relaxed));
        seam.push(inside);
        library.push(total.saturating_sub(inside));
    }
    Ok((seam, library))
}

fn decisions(samples: usize) -> Result<Vec<Duration>, Failure> {
    let policy = policy::named("unmap")?;
    let offline: Vec<OfflineQueue> = (0..QUEUES)
        .map(|id| OfflineQueue {
            id: QueueId { pid: 1, id },
            gpu: GpuId(1),
            held: false,
            since: Duration::ZERO,
            idle_since: None,
        })
        .collect();
    let view = View {
        now: Duration::from_secs(1),
        online: 1,
        online_since: Some(Duration::from_secs(1)),
        quiet_since: None,
        offline: &offline,
        last_unmap: None,
        last_remap: None,
        last_rotate: None,
        offline_max: None,
        offline_ran: Duration::from_secs(1),
        window: Duration::from_secs(1),
    };
    repeat(samples, || {
        std::hint::black_box(policy.decide(std::hint::black_box(&view)));
        Ok::<(), Failure>(())
    })
}

fn repeat<E: Into<Failure>>(
    samples: usize,
    mut action: impl FnMut() -> Result<(), E>,
) -> Result<Vec<Duration>, Failure> {
    (0..samples)
        .map(|_| {
            let start = Instant::now();
            action().map_err(Into::into)?;
            Ok(start.elapsed())
        })
        .collect()
}

/// Replays the trace as `gpreempt demo --modes gpreempt --trace FILE` does.
fn replay(path: PathBuf, basis: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let words = ["gpreempt", "demo", "--modes=gpreempt", "--trace"].map(OsString::from);
    let Ok(Cli { command: Command::Demo(args) }) =
        Cli::try_parse_from(words.into_iter().chain([path.into_os_string()]))
    else {
        return Err(Failure::Usage("--trace: this is not a file name".into()));
    };
    let start = Instant::now();
    let arrivals = demo::arrivals(&args)?;
    let loaded = start.elapsed();
    let played = demo::play_one(&args, &arrivals)?;
    let total = start.elapsed();
    writeln!(
        out,
        "virtual replay of {} requests over {} GPUs: {:.2} s (of which loading {:.2} s), {} preemptions; peak memory {}; {basis}",
        played.online.count,
        args.gpus,
        total.as_secs_f64(),
        loaded.as_secs_f64(),
        played.preemptions,
        peak_memory().map_or_else(|| "unknown".into(), |bytes| format!("{} MB", bytes / 1_000_000)),
    )?;
    Ok(())
}

/// Largest resident set of this process so far, bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The LLM trace beside the checkout, where it is.
fn default_trace() -> Option<PathBuf> {
    let folder = std::env::var_os("GPREEMPT_DATA").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from);
    Some(folder.join("traces/azure/llm-2023-conv.csv")).filter(|path| path.is_file())
}

fn boot(gpus: u32, processes: u32, queues: u32) -> Result<Arc<SimHost>, Failure> {
    let process = |nth: u32| ProcessSpec {
        name: format!("train-{nth}"),
        pid: 0,
        namespace_pid: None,
        caller: false,
        uid: None,
        cgroup: "/offline".into(),
        command: vec!["train".into()],
        runtime_enabled: true,
        queues: vec![QueueSpec { nodes: vec![nth % gpus], count: queues, ..QueueSpec::default() }],
    };
    Ok(Arc::new(SimHost::boot(Config {
        hardware: Hardware::Model { model: GpuModel::named("mi308x")?, gpus, partition: Partition::Spx },
        cost: CostModel::named("design")?,
        scenario: Scenario {
            name: "bench".into(),
            processes: (0..processes).map(process).collect(),
            ..Scenario::default()
        },
        clock: ClockKind::Virtual,
        seed: 1,
        patched: true,
        caller: Caller { pid: 900, uid: 1000, privileged: true, root: true, name: "gpreempt".into() },
    })?))
}

/// `model name` of /proc/cpuinfo.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(": ")));
    model.map_or_else(|| "unknown CPU".into(), |(_, name)| name.trim().to_owned())
}

/// Passes everything on and takes the time inside `ioctl`.
struct Metered {
    inner: Arc<SimHost>,
    inside_ns: AtomicU64,
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Host for Metered {
    fn open(&self, path: &str) -> SysResult<RawFile> {
        self.inner.open(path)
    }

    fn ioctl(&self, file: RawFile, request: u32, argument: &mut [u8], arrays: &mut [Array<'_>]) -> SysResult<i32> {
        let start = Instant::now();
        let answer = self.inner.ioctl(file, request, argument, arrays);
        let inside = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.inside_ns.fetch_add(inside, Ordering::Relaxed);
        answer
    }

    fn read(&self, file: RawFile, buffer: &mut [u8]) -> SysResult<usize> {
        self.inner.read(file, buffer)
    }

    fn write(&self, file: RawFile, buffer: &[u8]) -> SysResult<usize> {
        self.inner.write(file, buffer)
    }

    fn poll(&self, file: RawFile) -> SysResult<Readiness> {
        self.inner.poll(file)
    }

    fn close(&self, file: RawFile) {
        self.inner.close(file);
    }

    fn abandon(&self, file: RawFile) {
        self.inner.abandon(file);
    }

    fn read_text(&self, path: &str) -> SysResult<String> {
        self.inner.read_text(path)
    }

    fn list(&self, path: &str) -> SysResult<Vec<String>> {
        self.inner.list(path)
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn trace(&self, pid: Pid) -> SysResult<()> {
        self.inner.trace(pid)
    }

    fn untrace(&self, pid: Pid) -> SysResult<()> {
        self.inner.untrace(pid)
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration);
    }

    fn park(&self, alarm: &Arc<Alarm>, deadline: Option<Duration>) -> Wake {
        self.inner.park(alarm, deadline)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn cost_model(&self) -> Option<String> {
        self.inner.cost_model()
    }
}
