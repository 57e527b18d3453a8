//! Arrivals: when requests come and how much work each one is, synthetic or from a recorded trace.
//!
//! A trace says when; what a request costs the GPU is in no public trace, so [`ServiceModel`] says it, and every
//! assumption made on the way is kept in [`Arrivals::assumptions`] for the report.

mod azure;
mod disb;
mod orion;
mod synthetic;

use std::fmt;
use std::path::Path;

pub use synthetic::poisson;

/// Most requests that one trace may hold.
pub const MAX_REQUESTS: usize = 4_000_000;

/// Longest trace: 30 days, in ns.
const MAX_TIME_NS: u64 = 30 * 24 * 3600 * 1_000_000_000;

/// Equal packets one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// How many.
    pub packets: u32,
    /// Duration of one of them alone on its node, ns.
    pub packet_ns: u64,
    /// Share of the node's wave slots that it fills, 0 < o <= 1.
    pub occupancy: f64,
}

impl Burst {
    /// `total_ns` of work in `packets` equal packets (at least 1 ns each).
    pub fn split(total_ns: u64, packets: u32, occupancy: f64) -> Burst {
        let packets = packets.max(1);
        Burst { packets, packet_ns: (total_ns / u64::from(packets)).max(1), occupancy }
    }

    /// What the burst takes alone on its node, ns.
    pub fn alone_ns(&self) -> u64 {
        self.packet_ns.saturating_mul(u64::from(self.packets))
    }
}

/// One online request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Arrival, ns from the start of the trace.
    pub at_ns: u64,
    /// Its work, in order.
    pub work: Vec<Burst>,
}

impl Request {
    /// What the request takes alone on its node, ns.
    pub fn alone_ns(&self) -> u64 {
        alone_ns(&self.work)
    }
}

fn alone_ns(work: &[Burst]) -> u64 {
    work.iter().map(Burst::alone_ns).fold(0, u64::saturating_add)
}

/// A client that sends its next request when the last one is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosedLoop {
    /// Its name in the trace.
    pub name: String,
    /// The work of each request.
    pub work: Vec<Burst>,
}

/// Best-effort work that a trace brings along.
#[derive(Clone, Debug, PartialEq)]
pub struct OfflineTask {
    /// Its name in the trace.
    pub name: String,
    /// One inference or training step.
    pub step: Burst,
    /// Distance of two steps, ns; None: the next one starts when the last one ends.
    pub period_ns: Option<u64>,
}

/// Everything that one trace says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arrivals {
    /// Where it is from.
    pub source: String,
    /// What was assumed where the trace says nothing.
    pub assumptions: Vec<String>,
    /// Open-loop requests, by arrival.
    pub requests: Vec<Request>,
    /// Closed-loop clients.
    pub closed: Vec<ClosedLoop>,
    /// Best-effort tasks; empty where the trace has none.
    pub offline: Vec<OfflineTask>,
    /// For how long closed loops send, ns.
    pub span_ns: u64,
    /// Most requests that are sent, those of closed loops included; None: all.
    pub most: Option<usize>,
}

impl Arrivals {
    /// Keeps the first `requests` requests and those before `span_ns`.
    pub fn limit(&mut self, requests: Option<usize>, span_ns: Option<u64>) {
        if let Some(count) = requests {
            self.requests.truncate(count);
            self.most = Some(count);
        }
        if let Some(span) = span_ns {
            self.requests.retain(|request| request.at_ns < span);
            self.span_ns = self.span_ns.min(span);
        }
        if let Some(last) = self.requests.last()
            && self.closed.is_empty()
        {
            self.span_ns = last.at_ns;
        }
    }

    /// How many requests there will be where each is answered as fast as on a GPU of its own.
    pub fn expected(&self) -> u64 {
        let of_loop = |client: &ClosedLoop| self.span_ns.div_ceil(alone_ns(&client.work).max(1));
        let closed = self.closed.iter().map(of_loop).fold(0, u64::saturating_add);
        closed.saturating_add(self.requests.len() as u64).min(self.most.map_or(u64::MAX, |most| most as u64))
    }

    /// Mean work of a request, ns of one node alone.
    pub fn mean_work_ns(&self) -> f64 {
        let all = self.requests.iter().map(Request::alone_ns).chain(self.closed.iter().map(|it| alone_ns(&it.work)));
        let count = self.requests.len() + self.closed.len();
        all.map(|ns| ns as f64).sum::<f64>() / count.max(1) as f64
    }

    fn sort(&mut self) {
        self.requests.sort_by_key(|request| request.at_ns);
    }
}

/// What a request costs where the trace does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceModel {
    /// A request that the trace says nothing about, ms alone on one node.
    pub request_ms: f64,
    /// Packets (kernels) that such a request is split into.
    pub packets: u32,
    /// Share of the wave slots that an online packet fills.
    pub occupancy: f64,
    /// LLM: prefill per context token, us.
    pub prefill_us: f64,
    /// LLM: decode per generated token, us.
    pub decode_us: f64,
}

impl Default for ServiceModel {
    fn default() -> ServiceModel {
        ServiceModel { request_ms: 10.0, packets: 32, occupancy: 1.0, prefill_us: 20.0, decode_us: 500.0 }
    }
}

impl ServiceModel {
    fn request(&self) -> Vec<Burst> {
        vec![Burst::split(ns_of(self.request_ms * 1e6), self.packets, self.occupancy)]
    }

    fn request_assumption(&self) -> String {
        format!("each request: {} ms alone on one GPU, {} packets", self.request_ms, self.packets)
    }
}

/// A trace file could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceError {
    /// The file.
    pub path: String,
    /// 1-based line, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl std::error::Error for TraceError {}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// A fault within a trace, before its path is known.
#[derive(Debug)]
struct Fault {
    line: Option<usize>,
    message: String,
}

impl Fault {
    fn at(line: usize, message: impl Into<String>) -> Fault {
        Fault { line: Some(line), message: message.into() }
    }

    fn whole(message: impl Into<String>) -> Fault {
        Fault { line: None, message: message.into() }
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Fault {
        // serde_json appends " at line L column C", and the line is ours to print.
        let text = error.to_string();
        let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
        Fault { line: (error.line() > 0).then(|| error.line()), message }
    }
}

/// Reads a trace: Azure LLM CSV, DISB JSON or Orion's list of gaps, told apart by their content.
///
/// # Errors
/// A file that cannot be read or is none of these, with path and line.
pub fn load(path: &Path, service: &ServiceModel, seed: u64) -> Result<Arrivals, TraceError> {
    let bytes = std::fs::read(path).map_err(|error| TraceError {
        path: path.display().to_string(),
        line: None,
        message: format!("cannot be read: {error}"),
    })?;
    parse(&path.display().to_string(), &bytes, service, seed)
}

/// Reads a trace from memory; `name` stands for its path.
///
/// # Errors
/// As [`load`].
pub fn parse(name: &str, bytes: &[u8], service: &ServiceModel, seed: u64) -> Result<Arrivals, TraceError> {
    let located = |fault: Fault| TraceError { path: name.to_owned(), line: fault.line, message: fault.message };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        located(Fault::at(line, "is not UTF-8 text"))
    })?;
    let mut arrivals = match text.trim_start_matches('\u{feff}').trim_start().chars().next() {
        Some('[') => orion::parse(text, service),
        Some('{') => disb::parse(text, service, seed),
        Some(_) => azure::parse(text, service),
        None => Err(Fault::whole("is empty")),
    }
    .map_err(located)?;
    if arrivals.requests.is_empty() && arrivals.closed.is_empty() {
        return Err(located(Fault::whole("holds no online request")));
    }
    arrivals.sort();
    arrivals.source = format!("{}, {name}", arrivals.source);
    Ok(arrivals)
}

/// Nanoseconds of a finite, non-negative float; saturates.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float-to-int casts saturate, as wanted")]
fn ns_of(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Arrivals, TraceError> {
        parse("t", text.as_bytes(), &ServiceModel::default(), 1)
    }

    #[test]
    fn azure_rows_become_a_prefill_and_one_packet_per_generated_token() {
        let arrivals = read(
            "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.5000000,100,3\r\n2023-11-17 00:00:00.2500000,10,0\r\n",
        )
        .unwrap();
        assert_eq!(arrivals.requests.len(), 2);
        assert_eq!(arrivals.requests[0].at_ns, 0);
        assert_eq!(arrivals.requests[1].at_ns, 750_000_000, "across midnight");
        assert_eq!(arrivals.requests[0].alone_ns(), 100 * 20_000 + 3 * 500_000);
        assert_eq!(arrivals.requests[0].work[1].packets, 3);
        assert_eq!(arrivals.requests[1].work.len(), 1, "nothing generated, no decode");
    }

    #[test]
    fn a_malformed_trace_names_path_and_line() {
        let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        for (text, want) in [
            (String::from("a,b,c\n"), "t:1: "),
            (format!("{head}2023-11-16 18:15:46.6,1,1\n2023-11-16 18:15:46.6,1\n"), "t:3: "),
            (format!("{head}2023-11-16 18:15:46.6,x,1\n"), "t:2: ContextTokens"),
            (format!("{head}2023-13-16 18:15:46.6,1,1\n"), "t:2: TIMESTAMP"),
            (format!("{head}2023-11-16 18:15:46.6,99999999999,1\n"), "t:2: ContextTokens"),
            (String::from("[0.1,\n0.2,\n-1]"), "t:3: "),
            (String::from("[0.1,\n\"x\"]"), "t:2: "),
            (
                String::from(
                    "{\"time\": 1, \"tasks\": [\n{\"load\": {\"type\": \"periodic\", \"frequency\": 0},\n \"client\": {\"model_name\": \"vgg\"}}]}",
                ),
                "t:2: ",
            ),
            (
                String::from(
                    "{\"time\": 1, \"tasks\": [\n{\"load\": {\"type\": \"continuous\"},\n \"client\": {\"model_name\": \"m\"}}]}",
                ),
                "t:3: no service time is known for model `m`",
            ),
            (String::new(), "t: is empty"),
            (String::from("[]"), "t: holds no online request"),
        ] {
            let message = read(&text).unwrap_err().to_string();
            assert!(message.starts_with(want), "{text:?} gave {message:?}, wanted {want:?}");
        }
        let broken = parse("t", b"TIMESTAMP\n\xff", &ServiceModel::default(), 1).unwrap_err();
        assert_eq!(broken.to_string(), "t:2: is not UTF-8 text");
    }

    #[test]
    fn orion_gaps_add_up() {
        let arrivals = read("[0.5, 0.25, 0]").unwrap();
        let at: Vec<u64> = arrivals.requests.iter().map(|request| request.at_ns).collect();
        assert_eq!(at, [500_000_000, 750_000_000, 750_000_000]);
    }

    #[test]
    fn disb_tasks_are_online_or_offline_by_priority_or_name() {
        let arrivals = read(
            r#"{"time": 2, "tasks": [
            {"id": "vgg19_rt", "load": {"type": "periodic", "frequency": 10}, "client": {"model_name": "vgg19-imagenet"}},
            {"id": "a_rt", "load": {"type": "continuous"}, "client": {"model_name": "bert"}},
            {"id": "b_be", "load": {"type": "continuous"}, "client": {"model_name": "resnet152"}},
            {"load": {"type": "trace", "priority": 0, "trace": [5, 1]}, "client": {"model_name": "densenet"}},
            {"load": {"type": "periodic", "priority": 1, "frequency": 100}, "client": {"model_name": "inception"}}]}"#,
        )
        .unwrap();
        assert_eq!(arrivals.requests.len(), 20 + 2);
        assert_eq!(arrivals.closed.len(), 1);
        let offline: Vec<(&str, Option<u64>)> =
            arrivals.offline.iter().map(|task| (task.name.as_str(), task.period_ns)).collect();
        assert_eq!(offline, [("b_be", None), ("inception", Some(10_000_000))]);
        assert!(arrivals.requests.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
    }

    #[test]
    fn a_seed_gives_the_same_arrivals_and_another_seed_others() {
        let model = ServiceModel::default();
        assert_eq!(poisson(80.0, 100, &model, 7), poisson(80.0, 100, &model, 7));
        assert_ne!(poisson(80.0, 100, &model, 7).requests, poisson(80.0, 100, &model, 8).requests);
    }

    #[test]
    fn poisson_gaps_have_the_rate_asked_for() {
        let arrivals = poisson(200.0, 20_000, &ServiceModel::default(), 3);
        let seconds = arrivals.requests.last().unwrap().at_ns as f64 / 1e9;
        assert!((seconds - 100.0).abs() < 3.0, "20,000 requests at 200/s took {seconds} s");
    }

    #[test]
    fn the_published_traces_load() {
        let Some(data) = crate::data::folder() else { return };
        let traces = data.join("traces");
        let load = |name: &str| load(&traces.join(name), &ServiceModel::default(), 1).unwrap();
        let azure = load("azure/llm-2023-conv.csv");
        assert_eq!(azure.requests.len(), 19_366);
        assert_eq!(azure.span_ns / 1_000_000_000, 3501);
        let orion = load("orion/inter-arrival-times.json");
        assert_eq!(orion.requests.len(), 6_240);
        let real = load("disb/REAL.json");
        assert_eq!((real.requests.len(), real.offline.len()), (375 + 202 + 560 + 374 + 173, 5));
        for name in ["A", "B", "C", "D", "E", "samples_reef_E"] {
            load(&format!("disb/{name}.json"));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_loader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse("t", &bytes, &ServiceModel::default(), 1);
        }

        #[test]
        fn no_near_miss_makes_a_loader_panic(
            which in 0usize..3,
            cut in 0usize..400,
            splice in "[-0-9eE.,:\\[\\]{}\"a-z\\n\\r ]{0,12}",
        ) {
            let sample = [
                "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
                "{\"time\": 60, \"tasks\": [{\"id\": \"v_rt\", \"load\": {\"type\": \"poisson\", \"frequency\": 20}, \"client\": {\"model_name\": \"vgg\"}}]}",
                "[0.031, 0.012, 0.073, 1e3, 0]",
            ][which];
            let at = cut % sample.len();
            let text = format!("{}{splice}{}", &sample[..at], &sample[(at + splice.len() / 2).min(sample.len())..]);
            if let Ok(arrivals) = parse("t", text.as_bytes(), &ServiceModel::default(), 1) {
                prop_assert!(arrivals.requests.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
            }
        }
    }
}
