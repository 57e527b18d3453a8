//! Attaching a job of 64 processes, stopping and restoring it: real processes and sockets, a `/dev/kfd` that costs nothing.

#[path = "../tests/kit/mod.rs"]
mod kit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gpreempt::driver::agent::AgentDriver;
use gpreempt::driver::{Driver, Selector};
use gpreempt::host::os::OsHost;

const RANKS: usize = 64;
const QUEUES: u32 = 4;
const ROUNDS: usize = 51;

fn main() {
    let folder = tempfile::tempdir().expect("a folder for sockets");
    let job = kit::job(folder.path(), RANKS, QUEUES);
    let leader = job[0].pid();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let driver = AgentDriver::open(Arc::new(OsHost::with_agents(folder.path())));
        let all = [Selector::process(leader)];
        let mut note = |step: usize, begin: Instant, queues: u32| {
            times[step].push(begin.elapsed());
            assert_eq!(queues, RANKS as u32 * QUEUES);
        };
        let begin = Instant::now();
        note(0, begin, driver.attach(leader).expect("agents"));
        let begin = Instant::now();
        note(1, begin, driver.unmap(&all, Duration::ZERO).expect("agents").outcomes[0].queues);
        let begin = Instant::now();
        note(2, begin, driver.remap(&all).expect("agents").outcomes[0].queues);
    }
    let [attach, stop, restore] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    println!("attach a job of {RANKS} processes: p50 {attach:.2} ms (measured on this machine)");
    println!(
        "stop {} queues of it: p50 {stop:.2} ms, restore them: p50 {restore:.2} ms (measured on this machine, without a kernel)",
        RANKS as u32 * QUEUES
    );
}
