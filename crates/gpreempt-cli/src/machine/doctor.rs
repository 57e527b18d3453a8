//! `gpreempt doctor`: which tier would be used on this machine, why not a better one, and what to do.

use std::io::Write;
use std::sync::Arc;

use gpreempt::host::Host;
use gpreempt::host::os::OsHost;
use gpreempt::session::SessionBuilder;
use gpreempt::{Backend, discover};
use serde::Serialize;

use super::print_json;
use crate::Failure;
use crate::args::MachineArgs;
use crate::table::Table;

#[derive(Serialize)]
struct Diagnosis {
    schema_version: u32,
    kfd: bool,
    chosen: Option<&'static str>,
    why: String,
    tiers: Vec<Rung>,
}

/// One tier of the ladder, best first.
#[derive(Serialize)]
struct Rung {
    tier: &'static str,
    usable: bool,
    reaches: &'static str,
    says: String,
}

/// Runs `gpreempt doctor`.
pub(crate) fn doctor(args: &MachineArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let diagnosis = diagnose()?;
    if args.json {
        print_json(&diagnosis, out)?;
    } else {
        match diagnosis.chosen {
            Some(tier) => writeln!(out, "gpreempt would use tier `{tier}`: {}", diagnosis.why)?,
            None => writeln!(out, "gpreempt can use no tier here: {}", diagnosis.why)?,
        }
        writeln!(out)?;
        let mut table = Table::new(&[&["tier", "usable", "reaches"]]);
        for rung in &diagnosis.tiers {
            table.row(vec![
                rung.tier.into(),
                if rung.usable { "yes".into() } else { "no".into() },
                rung.reaches.into(),
            ]);
        }
        table.print(out)?;
        writeln!(out)?;
        for rung in &diagnosis.tiers {
            writeln!(out, "{}: {}", rung.tier, rung.says)?;
        }
    }
    if diagnosis.chosen.is_none() {
        return Err(Failure::Failed("no tier can be used on this machine".into()));
    }
    Ok(())
}

fn diagnose() -> Result<Diagnosis, Failure> {
    let asked = SessionBuilder::from_env().map_err(|error| Failure::Usage(error.to_string()))?;
    let host: Arc<dyn Host> = Arc::new(OsHost::new());
    let kfd = std::path::Path::new("/dev/kfd").exists();
    let patched = SessionBuilder { backend: Backend::Patched, ..SessionBuilder::default() }.open();
    let patched = Rung {
        tier: "patched",
        usable: patched.is_ok(),
        reaches: "any process of this user (of everybody with CAP_SYS_NICE); one round per GPU",
        says: patched.map_or_else(|error| error.to_string(), |_| "the kernel answers with a lease".into()),
    };
    let debugger = debugger(&*host, kfd);
    // What the environment names may be no machine at all.
    let sim = SessionBuilder { backend: Backend::Sim, sim_virtual_clock: true, ..asked.clone() }.open();
    let sim = Rung {
        tier: "sim",
        usable: sim.is_ok(),
        reaches: "the processes of its scenario; everything it says is modelled",
        says: sim.map_or_else(
            |error| error.to_string(),
            |_| "always there; taken by itself only where there is no /dev/kfd".into(),
        ),
    };
    let (chosen, why) = match asked.backend {
        Backend::Sim if !sim.usable => (None, format!("GPREEMPT_BACKEND=sim, but {}", sim.says)),
        Backend::Sim => (Some("sim"), "GPREEMPT_BACKEND=sim asks for it".to_owned()),
        _ if patched.usable => (Some("patched"), patched.says.clone()),
        Backend::Patched => (None, format!("GPREEMPT_BACKEND=patched, but {}", patched.says)),
        Backend::Auto | Backend::Debugger if debugger.usable => (Some("debugger"), debugger.says.clone()),
        Backend::Debugger => (None, format!("GPREEMPT_BACKEND=debugger, but {}", debugger.says)),
        Backend::Auto if !kfd && !sim.usable => (None, format!("this machine has no /dev/kfd, and {}", sim.says)),
        Backend::Auto if !kfd => {
            (Some("sim"), "this machine has no /dev/kfd, so there is no AMD GPU to use".to_owned())
        }
        Backend::Auto => (None, patched.says.clone()),
    };
    Ok(Diagnosis { schema_version: 1, kfd, chosen, why, tiers: vec![patched, debugger, sim] })
}

fn debugger(host: &dyn Host, kfd: bool) -> Rung {
    let (usable, says) = if !kfd {
        (false, "there is no /dev/kfd; load amdgpu (sudo modprobe amdgpu)".to_owned())
    } else if let Err(errno) = host.open("/dev/kfd").map(|file| host.close(file)) {
        (false, format!("/dev/kfd: {}; sudo usermod -aG render $USER, then log in again", errno.desc()))
    } else {
        let queues = discover::scan(host).map(|queues| queues.len());
        let found = queues.map_or_else(|error| error.to_string(), |count| format!("{count} queues are visible"));
        (
            true,
            format!(
                "{found}; it needs the right to ptrace each target (kernel.yama.ptrace_scope is {}), takes the place of a \
                 debugger or profiler, and has no watchdog",
                std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
                    .map_or_else(|_| "not set".into(), |text| text.trim().to_owned())
            ),
        )
    };
    Rung { tier: "debugger", usable, reaches: "one process this user may ptrace; one round per GPU and process", says }
}
