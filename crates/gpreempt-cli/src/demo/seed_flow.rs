//! `gpreempt demo --seed-flow`: the test script at the end of the seed, step by step, on the default scenario.

use std::io::Write;
use std::time::Duration;

use gpreempt::monitor::HqdMonitor;
use gpreempt::sched::Scheduler;
use gpreempt::session::SessionBuilder;
use gpreempt::stats::{Operation, Phase, Report};
use gpreempt::{Backend, GpuId, PolicyFlags, QueueInfo, Session};

use crate::Failure;
use crate::args::DemoArgs;

const ROUNDS: u32 = 20;
/// The seed's online inference takes 10 ms.
const ONLINE: Duration = Duration::from_millis(10);
const PERIOD: Duration = Duration::from_millis(500);
/// The seed's reservation: 10% of the slots for online queues, at most 80% for offline ones.
const RESERVATION: (u32, u32) = (10, 80);
/// The policy 0x7 that the seed gives to an offline queue.
const OFFLINE: PolicyFlags = PolicyFlags::all();
/// The seed's grace period.
const GRACE: Duration = Duration::from_micros(100);

/// Runs the flow on a virtual clock: its pauses cost machine time, not ours.
pub(super) fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let session = SessionBuilder {
        backend: Backend::Sim,
        sim_virtual_clock: true,
        sim_cost_model: Some(args.cost_model.clone()),
        sim_scenario: args.scenario.as_ref().map(Into::into),
        sim_topology: args.topology.clone(),
        sim_seed: args.seed,
        ..SessionBuilder::default()
    }
    .open()?;
    let host = session.host().clone();
    writeln!(out, "{}", host.describe())?;

    let (online_percent, offline_percent) = RESERVATION;
    session.set_reservation(GpuId::ALL, online_percent, offline_percent)?;
    let scheduler = Scheduler::on(&session).grace(GRACE).build()?;
    let monitor = HqdMonitor::builder(host.clone(), session.driver().clone())
        .claims(session.claims().clone())
        .clean_idle(true)
        .serve_lazy(true)
        .start()?;
    let label = format!("modelled (cost model {})", host.cost_model().expect("the machine is simulated"));
    let status = monitor.current_status();
    writeln!(out, "\nHQD status at the start:")?;
    writeln!(out, "  total: {}", status.total)?;
    writeln!(out, "  online reserved: {} ({online_percent}%)", status.online_reserved)?;
    writeln!(out, "  offline max: {} ({offline_percent}%)", status.offline_max)?;

    // The training processes of the scenario are already there, as after the seed's two seconds of waiting.
    host.sleep(Duration::from_secs(2));
    let offline = by_priority(&session, 0, 5)?;
    writeln!(out, "\nfound {} offline queues (priority 0 to 5)", offline.len())?;
    for (handle, info) in &offline {
        scheduler.register_offline(info.queue, info.gpu)?;
        session.set_policy(*handle, OFFLINE)?;
    }
    host.sleep(Duration::from_secs(1));
    let online = by_priority(&session, 10, 15)?;
    writeln!(out, "found {} online queues (priority 10 to 15)", online.len())?;
    for (_, info) in &online {
        scheduler.register_online(info.queue)?;
    }

    for round in 1..=ROUNDS {
        writeln!(out, "\n--- round {round}/{ROUNDS} ---")?;
        let start = host.now();
        let guard = scheduler.online();
        let entered = guard.entered().clone();
        if let Some(error) = entered.error {
            return Err(error.into());
        }
        writeln!(
            out,
            "  batch unmap of {} queues: {:.3} ms, {} rounds; {label}",
            entered.unmapped,
            ms(entered.elapsed),
            entered.rounds
        )?;
        host.sleep(ONLINE);
        let left = guard.leave();
        if let Some(error) = left.error {
            return Err(error.into());
        }
        writeln!(
            out,
            "  fast remap of {} queues: {:.3} ms, {} rounds; {label}",
            left.remapped,
            ms(left.elapsed),
            left.rounds
        )?;
        writeln!(
            out,
            "  end-to-end latency: {:.2} ms (of which {} ms online work); {label}",
            ms(host.now() - start),
            ONLINE.as_millis()
        )?;
        host.sleep(PERIOD);
        let status = monitor.current_status();
        writeln!(out, "  HQD status: active={}, free={}", status.active, status.free)?;
    }

    let report = scheduler.stats().report();
    writeln!(out, "\nstatistics:")?;
    operation(&report, Operation::Unmap, ("batch unmaps", &label), out)?;
    operation(&report, Operation::Remap, ("fast remaps", &label), out)?;
    let status = monitor.current_status();
    writeln!(out, "HQD status at the end:")?;
    writeln!(out, "  total: {}", status.total)?;
    writeln!(out, "  active: {}", status.active)?;
    writeln!(out, "  free: {}", status.free)?;
    writeln!(out, "  online reserved: {}", status.online_reserved)?;
    writeln!(out, "  offline used: {}", status.offline_used)?;
    drop(scheduler);
    monitor.stop();
    Ok(())
}

/// The seed's `scan_queues_by_priority`.
fn by_priority(session: &Session, least: u32, most: u32) -> Result<Vec<(u32, QueueInfo)>, Failure> {
    let queues = session.queues()?.into_iter();
    Ok(queues.filter(|(_, info)| info.priority.is_some_and(|priority| (least..=most).contains(&priority))).collect())
}

fn operation(
    report: &Report,
    operation: Operation,
    (name, label): (&str, &str),
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let Some(found) = report.operations.get(&operation) else { return Ok(writeln!(out, "{name}: 0")?) };
    writeln!(out, "{name}: {}", found.calls)?;
    if let Some(total) = found.phases.get(&Phase::Total) {
        writeln!(out, "  mean: {:.3} ms; {label}", total.mean_us / 1e3)?;
        writeln!(out, "  max:  {:.3} ms; {label}", total.max_us / 1e3)?;
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
