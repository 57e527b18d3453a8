//! The timeline: a golden file, and what trace viewers demand of any file.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use gpreempt::GpuId;
use gpreempt::driver::EventKind;
use gpreempt::stats::Operation;
use gpreempt::trace::{ChromeTrace, Record, Recorder};
use proptest::prelude::*;
use serde_json::Value;

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn parse(trace: &[u8]) -> Value {
    serde_json::from_slice(trace).unwrap()
}

#[test]
fn every_kind_of_record_is_written_as_the_golden_file_has_it() {
    let gpu = GpuId(51234);
    let trace = ChromeTrace::new(Vec::new(), "1 x MI308X \"simulated\"").unwrap();
    for record in [
        Record::Call {
            operation: Operation::Unmap,
            gpu,
            from: us(100),
            elapsed: Duration::from_nanos(520_125),
            driver: us(518),
            queues: 12,
            rounds: 1,
            failed: false,
        },
        Record::Offline { gpu, at: us(620), mapped: 0, held: 12 },
        Record::Event { kind: EventKind::QueueCreated, gpu, at: us(700) },
        Record::Slots { gpu, at: us(710), active: 3, free: 21 },
        Record::Held { gpu, from: us(100), until: us(2600), queues: 12 },
        Record::Online { gpu, from: us(90), until: us(2000) },
        Record::Online { gpu, from: us(1000), until: us(2100) },
        Record::Online { gpu, from: us(2050), until: us(2200) },
        Record::Online { gpu: GpuId::ALL, from: us(5000), until: us(5001) },
    ] {
        trace.record(&record);
    }
    trace.slice(gpu, "requests", "decode", us(95), us(300));
    let written = String::from_utf8(trace.finish().unwrap()).unwrap();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/trace_golden.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &written).unwrap();
    }
    assert_eq!(written, std::fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 rewrites it");
    assert_eq!(parse(written.as_bytes())["otherData"]["title"], "1 x MI308X \"simulated\"");
}

#[test]
fn an_empty_trace_is_valid() {
    let trace = ChromeTrace::new(Vec::new(), "").unwrap().finish().unwrap();
    assert_eq!(parse(&trace)["traceEvents"], Value::Array(Vec::new()));
}

/// Fails after some bytes, as a full disk does.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_first_error_of_the_writer_comes_out_at_the_end() {
    let trace = ChromeTrace::new(Full(200), "full").unwrap();
    for n in 0..10 {
        trace.record(&Record::Online { gpu: GpuId(1), from: us(n), until: us(n + 1) });
    }
    assert_eq!(trace.finish().err().unwrap().kind(), io::ErrorKind::StorageFull);
}

proptest! {
    /// Viewers nest the slices of a thread by time, so those of one thread may not overlap.
    #[test]
    fn slices_of_one_thread_never_overlap(requests in prop::collection::vec((0..3_u32, 0..500_u64, 0..90_u64), 0..60)) {
        let trace = ChromeTrace::new(Vec::new(), "").unwrap();
        let mut ended = requests.clone();
        ended.sort_by_key(|(_, from, length)| from + length);
        for (gpu, from, length) in ended {
            trace.record(&Record::Online { gpu: GpuId(gpu), from: us(from), until: us(from + length) });
        }
        let json = parse(&trace.finish().unwrap());
        let mut threads: BTreeMap<(u64, u64), Vec<(f64, f64)>> = BTreeMap::new();
        for event in json["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X") {
            let number = |key: &str| event[key].as_f64().unwrap();
            let thread = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
            threads.entry(thread).or_default().push((number("ts"), number("ts") + number("dur")));
        }
        prop_assert_eq!(threads.values().map(Vec::len).sum::<usize>(), requests.len());
        for slices in threads.values_mut() {
            slices.sort_by(|a, b| a.partial_cmp(b).unwrap());
            prop_assert!(slices.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{slices:?}");
        }
    }
}
