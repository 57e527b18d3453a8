//! `gpreempt doctor`: how queues would be reached on this machine, what is missing for better, and what to do about it.

mod facts;
mod rungs;
#[cfg(test)]
mod tests;
mod troubles;

use std::io::Write;
use std::sync::Arc;

use gpreempt::Backend;
use gpreempt::host::Host;
use gpreempt::host::os::OsHost;
use gpreempt::session::SessionBuilder;
use serde::Serialize;

use self::facts::Facts;
use self::rungs::Rung;
use self::troubles::Trouble;
use crate::Failure;
use crate::args::MachineArgs;
use crate::machine::print_json;

/// Why the one look at `/dev/kfd` is worth telling.
const OPENED: &str =
    "/dev/kfd was opened once: at the exit of a process that had it open, every node with queues makes one round";

#[derive(Debug, Serialize)]
struct Diagnosis {
    schema_version: u32,
    /// Whether `/dev/kfd` was there to be opened, which was tried once.
    kfd: bool,
    /// The tier that would be tried first, `sim` for the simulated machine; none where the main job cannot run.
    chosen: Option<&'static str>,
    why: String,
    /// From the ground up.
    rungs: Vec<Rung>,
    /// Best first.
    tiers: Vec<Rung>,
    troubles: Vec<Trouble>,
}

/// Runs `gpreempt doctor`.
pub(crate) fn doctor(args: &MachineArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let asked = SessionBuilder::from_env().map_err(|error| Failure::Usage(error.to_string()))?;
    let diagnosis = diagnose(&asked, Arc::new(OsHost::new()));
    if args.json {
        print_json(&diagnosis, out)?;
    } else {
        print(&diagnosis, out)?;
    }
    match diagnosis.chosen {
        Some(_) => Ok(()),
        None => Err(Failure::Failed(format!("queues cannot be preempted here: {}", diagnosis.why))),
    }
}

fn diagnose(asked: &SessionBuilder, host: Arc<dyn Host>) -> Diagnosis {
    let facts = Facts::of(host);
    let ground = rungs::ground(&facts);
    let tiers = vec![rungs::patched(&facts), rungs::agent(&facts), rungs::debugger(&facts), sim(asked)];
    // Its programs have /dev/kfd open, so the scheduler need not.
    let by_agents = facts.agents > 0 || asked.backend == Backend::Agent;
    let needed: Vec<&Rung> =
        ground[..rungs::NEEDED].iter().filter(|rung| !(by_agents && rung.name == "access")).collect();
    let (chosen, why) = choose(asked.backend, facts.kfd, &needed, &tiers);
    let troubles = troubles::troubles(&facts);
    Diagnosis { schema_version: 2, kfd: facts.kfd, chosen, why, rungs: ground, tiers, troubles }
}

/// What the environment names may be no machine at all.
fn sim(asked: &SessionBuilder) -> Rung {
    let booted = SessionBuilder { backend: Backend::Sim, sim_virtual_clock: true, ..asked.clone() }.open();
    let enable = "mend or unset the GPREEMPT_SIM_ variable that the error names";
    Rung {
        name: "sim",
        question: "Does the simulated machine boot?",
        yes: booted.is_ok(),
        enable: booted.is_err().then(|| enable.to_owned()),
        evidence: vec![booted.map_or_else(
            |error| error.to_string(),
            |session| format!("{}; everything it says is modelled", session.host().describe()),
        )],
    }
}

fn choose(backend: Backend, kfd: bool, needed: &[&Rung], tiers: &[Rung]) -> (Option<&'static str>, String) {
    let asked = Backend::NAMES.iter().find(|(_, known)| *known == backend).map_or("auto", |(name, _)| *name);
    let reason = |rung: &Rung| rung.evidence.first().cloned().unwrap_or_default();
    let missing = needed.iter().find(|rung| !rung.yes);
    let take = |rung: &Rung, why: String| match rung.yes {
        true => (Some(rung.name), why),
        false => (None, format!("GPREEMPT_BACKEND={asked}, but {}", reason(rung))),
    };
    let named = tiers.iter().find(|rung| rung.name == asked);
    match (named, missing) {
        (Some(sim), _) if sim.name == "sim" => take(sim, "GPREEMPT_BACKEND=sim asks for it".to_owned()),
        (None, _) if !kfd => {
            let sim = tiers.last().expect("the simulated machine is the last tier");
            match sim.yes {
                true => (Some("sim"), "this machine has no /dev/kfd, so there is no AMD GPU to use".to_owned()),
                false => (None, format!("this machine has no /dev/kfd, and {}", reason(sim))),
            }
        }
        (_, Some(missing)) => (None, format!("{}: no ({})", missing.question, missing.evidence.join("; "))),
        (Some(tier), None) => take(tier, format!("GPREEMPT_BACKEND={asked} asks for it")),
        (None, None) => match tiers.iter().find(|rung| rung.yes && rung.name != "sim") {
            Some(tier) => (Some(tier.name), format!("the first of the tiers that is there: {}", reason(tier))),
            None => (None, "no tier of this machine is there".to_owned()),
        },
    }
}

fn print(diagnosis: &Diagnosis, out: &mut dyn Write) -> std::io::Result<()> {
    match diagnosis.chosen {
        Some(tier) => writeln!(out, "gpreempt would use tier `{tier}`: {}", diagnosis.why)?,
        None => writeln!(out, "gpreempt can use no tier here: {}", diagnosis.why)?,
    }
    writeln!(out, "\nThis machine, from the ground up:")?;
    diagnosis.rungs.iter().try_for_each(|rung| print_rung(rung, out))?;
    writeln!(out, "\nTiers, best first (each process is reached by the first that is there for it):")?;
    diagnosis.tiers.iter().try_for_each(|rung| print_rung(rung, out))?;
    writeln!(out, "\nTroubles:")?;
    for trouble in &diagnosis.troubles {
        let seen = if trouble.seen { "SEEN" } else { "not seen" };
        writeln!(out, "  {:<8}  {}: {}", seen, trouble.name, trouble.symptom)?;
        trouble.evidence.iter().try_for_each(|line| writeln!(out, "              {line}"))?;
        writeln!(out, "           -> {}", trouble.remedy)?;
    }
    if diagnosis.kfd {
        writeln!(out, "\n{OPENED}.")?;
    }
    Ok(())
}

fn print_rung(rung: &Rung, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "  {:<3}  {}: {}", if rung.yes { "yes" } else { "no" }, rung.name, rung.question)?;
    rung.evidence.iter().try_for_each(|line| writeln!(out, "         {line}"))?;
    match &rung.enable {
        Some(command) => writeln!(out, "      -> {command}"),
        None => Ok(()),
    }
}
