//! A timeline that Perfetto opens.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::driver::EventKind;
use crate::queue::GpuId;
use crate::stats::Operation;

/// Something on the timeline. Times are machine time. [`GpuId::ALL`] stands for the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// An online request.
    Online {
        /// Where.
        gpu: GpuId,
        /// When it entered.
        from: Duration,
        /// When it left.
        until: Duration,
    },
    /// Offline queues were held.
    Held {
        /// Where.
        gpu: GpuId,
        /// When the first of them was taken.
        from: Duration,
        /// When the last of them came back.
        until: Duration,
        /// Most that were held at once.
        queues: u32,
    },
    /// A call of the driver.
    Call {
        /// Which.
        operation: Operation,
        /// Where.
        gpu: GpuId,
        /// When it began.
        from: Duration,
        /// How long it took as the caller saw it.
        elapsed: Duration,
        /// How long it took as the driver reports it.
        driver: Duration,
        /// Queues it named or found.
        queues: u32,
        /// Rounds.
        rounds: u32,
        /// Whether it failed for at least one of them.
        failed: bool,
    },
    /// An event of the driver.
    Event {
        /// What.
        kind: EventKind,
        /// Where.
        gpu: GpuId,
        /// When.
        at: Duration,
    },
    /// Slots of a node.
    Slots {
        /// Where.
        gpu: GpuId,
        /// When.
        at: Duration,
        /// Queues that have a slot.
        active: u32,
        /// Free slots.
        free: u32,
    },
    /// Offline queues of a node changed.
    Offline {
        /// Where.
        gpu: GpuId,
        /// When.
        at: Duration,
        /// How many are mapped.
        mapped: u32,
        /// How many are held.
        held: u32,
    },
}

/// Takes the timeline. Called from any thread, without any lock of the scheduler, and not always in order of time.
pub trait Recorder: fmt::Debug + Send + Sync {
    /// Takes one record.
    fn record(&self, record: &Record);
}

/// Writes Chrome trace event JSON as records come, so that memory does not grow with the run.
///
/// A node is a process of the trace (the machine as a whole is process 0), with threads for online requests, holds and
/// calls. Slices that overlap, such as concurrent requests, get a thread each, so that every thread's slices nest.
pub struct ChromeTrace<W: Write + Send> {
    writer: Mutex<Writer<W>>,
}

struct Writer<W> {
    out: W,
    error: Option<io::Error>,
    first: bool,
    nodes: BTreeMap<GpuId, u32>,
    tracks: BTreeMap<(u32, String), Track>,
    threads: u32,
}

/// The threads of one kind of slice on one node.
#[derive(Debug, Default)]
struct Track {
    lanes: Vec<(u32, Duration)>,
}

impl<W: Write + Send> fmt::Debug for ChromeTrace<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChromeTrace").finish_non_exhaustive()
    }
}

/// One line of the trace. <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU> names the
/// fields.
#[derive(Debug, Serialize)]
struct Line<'a> {
    name: &'a str,
    ph: char,
    pid: u32,
    tid: u32,
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    /// Scope of an instant: the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<char>,
    #[serde(skip_serializing_if = "Value::is_null")]
    args: Value,
}

/// The format's unit. Nanoseconds stay exact for a hundred days.
fn us(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

impl<W: Write> Writer<W> {
    fn line(&mut self, line: &Line<'_>) {
        if self.error.is_some() {
            return;
        }
        let separator: &[u8] = if std::mem::take(&mut self.first) { b"\n" } else { b",\n" };
        let written = self.out.write_all(separator);
        let written = written.and_then(|()| serde_json::to_writer(&mut self.out, line).map_err(io::Error::from));
        self.error = written.err();
    }

    fn name(&mut self, kind: &str, pid: u32, tid: u32, name: &str) {
        self.line(&Line { name: kind, ph: 'M', pid, tid, ts: 0.0, dur: None, s: None, args: json!({ "name": name }) });
    }

    fn process(&mut self, gpu: GpuId) -> u32 {
        if let Some(pid) = self.nodes.get(&gpu) {
            return *pid;
        }
        // Viewers take process 0 for the idle task.
        let pid = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX) + 1;
        self.nodes.insert(gpu, pid);
        let name = if gpu == GpuId::ALL { "machine".to_owned() } else { gpu.to_string() };
        self.name("process_name", pid, 0, &name);
        pid
    }

    fn lane(&mut self, pid: u32, track: &str, from: Duration, until: Duration) -> u32 {
        let key = (pid, track.to_owned());
        let lanes = &mut self.tracks.entry(key).or_default().lanes;
        if let Some((tid, free)) = lanes.iter_mut().find(|(_, free)| *free <= from) {
            *free = until;
            return *tid;
        }
        let number = lanes.len() + 1;
        let tid = self.threads + 1;
        lanes.push((tid, until));
        self.threads = tid;
        let name = if number == 1 { track.to_owned() } else { format!("{track} {number}") };
        self.name("thread_name", pid, tid, &name);
        tid
    }

    fn slice(&mut self, gpu: GpuId, track: &str, name: &str, from: Duration, until: Duration, args: Value) {
        let pid = self.process(gpu);
        let tid = self.lane(pid, track, from, until);
        let dur = Some(us(until.saturating_sub(from)));
        self.line(&Line { name, ph: 'X', pid, tid, ts: us(from), dur, s: None, args });
    }

    fn counter(&mut self, gpu: GpuId, name: &str, at: Duration, args: Value) {
        let pid = self.process(gpu);
        self.line(&Line { name, ph: 'C', pid, tid: 0, ts: us(at), dur: None, s: None, args });
    }
}

impl<W: Write + Send> ChromeTrace<W> {
    /// Begins a trace; `title` says what machine and cost model it is of. The writer should be buffered.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(mut out: W, title: &str) -> io::Result<ChromeTrace<W>> {
        write!(out, r#"{{"displayTimeUnit":"ns","otherData":{{"title":{}}},"traceEvents":["#, json!(title))?;
        let (nodes, tracks) = (BTreeMap::new(), BTreeMap::new());
        Ok(ChromeTrace { writer: Mutex::new(Writer { out, error: None, first: true, nodes, tracks, threads: 0 }) })
    }

    fn lock(&self) -> MutexGuard<'_, Writer<W>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slice of the caller's own on a named track of a node, for example one request's service.
    pub fn slice(&self, gpu: GpuId, track: &str, name: &str, from: Duration, until: Duration) {
        self.lock().slice(gpu, track, name, from, until, Value::Null);
    }

    /// Ends the trace and gives the writer back.
    ///
    /// # Errors
    /// The first error of the writer since the beginning.
    pub fn finish(self) -> io::Result<W> {
        let Writer { mut out, error, .. } = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => Err(error),
            None => out.write_all(b"\n]}\n").and_then(|()| out.flush()).map(|()| out),
        }
    }
}

impl<W: Write + Send> Recorder for ChromeTrace<W> {
    fn record(&self, record: &Record) {
        let mut writer = self.lock();
        match *record {
            Record::Online { gpu, from, until } => {
                writer.slice(gpu, "online requests", "online", from, until, Value::Null)
            }
            Record::Held { gpu, from, until, queues } => {
                writer.slice(gpu, "offline held", "held", from, until, json!({ "queues": queues }));
            }
            Record::Call { operation, gpu, from, elapsed, driver, queues, rounds, failed } => {
                let args = json!({ "queues": queues, "rounds": rounds, "driver_us": us(driver), "failed": failed });
                writer.slice(gpu, "driver calls", operation.name(), from, from + elapsed, args);
            }
            Record::Event { kind, gpu, at } => {
                let pid = writer.process(gpu);
                let name = event_name(kind);
                writer.line(&Line {
                    name,
                    ph: 'i',
                    pid,
                    tid: 0,
                    ts: us(at),
                    dur: None,
                    s: Some('p'),
                    args: Value::Null,
                });
            }
            Record::Slots { gpu, at, active, free } => {
                writer.counter(gpu, "slots", at, json!({ "active": active, "free": free }));
            }
            Record::Offline { gpu, at, mapped, held } => {
                writer.counter(gpu, "offline queues", at, json!({ "mapped": mapped, "held": held }));
            }
        }
    }
}

fn event_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::QueueCreated => "queue created",
        EventKind::QueueDestroyed => "queue destroyed",
        EventKind::TargetExited => "target exited",
        EventKind::HoldExpired => "hold expired",
        EventKind::NodeReset => "node reset",
        EventKind::Oversubscribed => "oversubscribed",
    }
}
