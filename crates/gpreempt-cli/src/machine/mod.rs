//! The commands that look at a machine: the real one, or the simulated one where there is none.

mod queues;
mod status;

use std::io::{self, Write};

use gpreempt::session::SessionBuilder;
use gpreempt::{Backend, Session};
use serde::Serialize;

pub(crate) use queues::queues;
pub(crate) use status::status;

use crate::Failure;

/// Opens the machine that the environment names. The simulated one stands still: these commands look, they do not run it.
fn open() -> Result<Session, Failure> {
    let mut builder = SessionBuilder::from_env().map_err(|error| Failure::Usage(error.to_string()))?;
    if builder.backend != Backend::Patched {
        builder.sim_virtual_clock = true;
    }
    Ok(builder.open()?)
}

pub(crate) fn print_json(value: &impl Serialize, out: &mut dyn Write) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// How queues are reached, in the words of `gpreempt doctor`: the simulated machine speaks the patched ABI and is `sim`
/// all the same.
fn tier(session: &Session) -> String {
    match session.host().cost_model() {
        Some(_) => "sim".to_owned(),
        None => session.driver().tiers().iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// A label for everything a machine says.
fn basis(session: &Session) -> String {
    session
        .host()
        .cost_model()
        .map_or_else(|| "measured here".to_owned(), |name| format!("modelled (cost model {name})"))
}
