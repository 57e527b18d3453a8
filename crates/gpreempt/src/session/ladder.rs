//! Which tiers a machine has: each one is asked, best first.

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use crate::driver::agent::AgentDriver;
use crate::driver::debugger::{Calls, DebuggerDriver};
use crate::driver::patched::PatchedDriver;
use crate::driver::probe::open_kfd;
use crate::driver::tiered::TieredDriver;
use crate::driver::{Driver, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Host, OwnedFile};

/// What was found on the way down.
#[derive(Debug, Default)]
struct Ladder {
    rungs: Vec<Arc<dyn Driver>>,
    absent: Vec<(Tier, Error)>,
}

impl Ladder {
    fn try_rung<D: Driver + 'static>(&mut self, tier: Tier, opened: Result<D>) {
        match opened {
            Ok(driver) => self.rungs.push(Arc::new(driver)),
            Err(error) => self.absent.push((tier, error)),
        }
    }
}

/// All tiers that there are. `fixed`: the kernel is known to be without the bug that the debugger tier keeps away from.
pub(super) fn open_all(host: Arc<dyn Host>, fixed: bool) -> Result<Session> {
    // One file for all: a machine without it has no tier, whatever else it has.
    let kfd = match open_kfd(&host) {
        // Agents have it open: this process need not.
        Err(error) if error.kind() == ErrorKind::NotPermitted && !host.agents().is_empty() => return open_agent(host),
        kfd => kfd?,
    };
    let mut ladder = Ladder::default();
    ladder.try_rung(Tier::Patched, PatchedDriver::on(Arc::clone(&host), Arc::clone(&kfd), Duration::ZERO));
    let series = !ladder.rungs.is_empty();
    ladder.rungs.push(Arc::new(AgentDriver::open(Arc::clone(&host))));
    // The series fixes that bug.
    let fixed = fixed || series;
    ladder.try_rung(Tier::Debugger, debugger(&host, kfd, fixed));
    let driver = TieredDriver::new(Arc::clone(&host), ladder.rungs, ladder.absent)?;
    Ok(Session::with(host, Arc::new(driver)))
}

/// The agent tier alone, with what [`TieredDriver`] adds to it. It needs no `/dev/kfd` of its own.
pub(super) fn open_agent(host: Arc<dyn Host>) -> Result<Session> {
    let rung: Arc<dyn Driver> = Arc::new(AgentDriver::open(Arc::clone(&host)));
    let driver = TieredDriver::new(Arc::clone(&host), vec![rung], Vec::new())?;
    Ok(Session::with(host, Arc::new(driver)))
}

/// The debugger tier alone, with what [`TieredDriver`] adds to it.
pub(super) fn open_debugger(host: Arc<dyn Host>, fixed: bool) -> Result<Session> {
    let kfd = open_kfd(&host)?;
    let rung: Arc<dyn Driver> = Arc::new(debugger(&host, kfd, fixed)?);
    let driver = TieredDriver::new(Arc::clone(&host), vec![rung], Vec::new())?;
    Ok(Session::with(host, Arc::new(driver)))
}

fn debugger(host: &Arc<dyn Host>, kfd: Arc<OwnedFile>, fixed: bool) -> Result<DebuggerDriver> {
    match fixed {
        true => Ok(DebuggerDriver::on_fixed(Arc::clone(host), kfd, Calls::PerProcess)),
        false => DebuggerDriver::on(Arc::clone(host), kfd, Calls::PerProcess),
    }
}
