//! The report as text.

use std::io::Write;

use crate::Failure;
use crate::demo::report::{Config, Mode, Report, Spread};
use crate::table::Table;

/// Prints the table; `quiet`: without what was run and how to read it.
pub(super) fn print(report: &Report, quiet: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let config = &report.config;
    if !quiet {
        writeln!(out, "machine     {}", config.machine)?;
        writeln!(out, "cost model  {}: {}", config.cost_model, config.cost_model_about)?;
        let open = (config.requests > 0).then(|| format!("{} requests", config.requests));
        let closed = (config.closed_loops > 0).then(|| {
            let loops = if config.closed_loops == 1 { "loop" } else { "loops" };
            format!("{} closed {loops} ({} requests while nobody trains)", config.closed_loops, config.closed_requests)
        });
        let sent: Vec<String> = open.into_iter().chain(closed).collect();
        writeln!(
            out,
            "online      {} in {:.1} s ({}), seed {}, load {:.0}% of {} GPU nodes",
            sent.join(" and "),
            config.span_s,
            config.trace,
            config.seed,
            config.online_load * 100.0,
            config.nodes
        )?;
        for assumption in &config.assumptions {
            writeln!(out, "            {assumption}")?;
        }
        writeln!(out, "offline     {}; {} queues in all", config.offline, config.offline_queues)?;
        for mode in &report.modes {
            writeln!(out, "{:<11} {}", mode.mode, mode.how)?;
        }
        writeln!(out)?;
    }
    let mut table = Table::new(&[
        &["", "online", "ms", "", "offline", "HQD", "unmap", "ms", "remap", "ms", "", "preemp-", ""],
        &["way", "p50", "p99", "p99.9", "work", "use", "p50", "p99", "p50", "p99", "rounds", "tions", "figures"],
    ]);
    let blank = || String::from("-");
    let alone = &report.online_alone;
    let basis = format!("modelled (cost model {})", config.cost_model);
    table.row(vec![
        "(online alone)".into(),
        ms(alone.p50_ms),
        ms(alone.p99_ms),
        ms(alone.p999_ms),
        blank(),
        blank(),
        blank(),
        blank(),
        blank(),
        blank(),
        blank(),
        blank(),
        basis,
    ]);
    for mode in &report.modes {
        let latency = |spread: &Spread, value: f64| if spread.count == 0 { blank() } else { ms(value) };
        table.row(vec![
            mode.mode.clone(),
            latency(&mode.online, mode.online.p50_ms),
            latency(&mode.online, mode.online.p99_ms),
            latency(&mode.online, mode.online.p999_ms),
            mode.offline_throughput.map_or_else(blank, percent),
            percent(mode.hqd_use),
            latency(&mode.unmap, mode.unmap.p50_ms),
            latency(&mode.unmap, mode.unmap.p99_ms),
            latency(&mode.remap, mode.remap.p50_ms),
            latency(&mode.remap, mode.remap.p99_ms),
            mode.rounds.to_string(),
            mode.preemptions.to_string(),
            mode.basis.clone(),
        ]);
    }
    table.print(out)?;
    for mode in &report.modes {
        remarks(mode, config, out)?;
    }
    if !quiet {
        writeln!(out)?;
        writeln!(
            out,
            "No figure here was measured on a GPU: the simulator counts packets, rounds and waves, and `{}` says what each takes.",
            config.cost_model
        )?;
        writeln!(
            out,
            "All ways had the same arrivals, work and seed, each through its own ioctls; --cost-model NAME|FILE changes the costs."
        )?;
        writeln!(out, "offline work: per second, over what the same queues do per second with no request coming in.")?;
    }
    Ok(())
}

/// What the figures of a mode do not say.
fn remarks(mode: &Mode, config: &Config, out: &mut dyn Write) -> std::io::Result<()> {
    let name = &mode.mode;
    if let Some(first) = &mode.first_error {
        writeln!(out, "{name}: {} operations failed, first: {first}", mode.errors)?;
    }
    if mode.lost_requests > 0 {
        let sent = mode.lost_requests + mode.online.count;
        let lost = mode.lost_requests;
        writeln!(
            out,
            "{name}: {lost} of {sent} requests were not answered: their queue was reset, evicted or is gone"
        )?;
    }
    if mode.lost_queues > 0 {
        let (lost, all) = (mode.lost_queues, config.offline_queues);
        writeln!(
            out,
            "{name}: {lost} of {all} offline queues were reset, evicted or are gone; what they did until then counts"
        )?;
    }
    if !mode.kept_up {
        writeln!(
            out,
            "{name}: did not keep up with the arrivals ({:.0} s for a trace of {:.0} s), so its percentiles grow with the trace",
            mode.elapsed_s, config.span_s
        )?;
    }
    Ok(())
}

fn ms(value: f64) -> String {
    format!("{value:.2}")
}

fn percent(fraction: f64) -> String {
    format!("{:.1}%", fraction * 100.0)
}
