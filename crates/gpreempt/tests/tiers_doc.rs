//! The table of docs/tiers.md says what the drivers say.

mod machine;

use std::collections::BTreeMap;
use std::sync::Arc;

use gpreempt::driver::Capabilities;
use gpreempt::driver::Driver;
use gpreempt::driver::agent::AgentDriver;
use gpreempt::driver::debugger::{Calls, DebuggerDriver};
use gpreempt::driver::tiered::TieredDriver;
use machine::*;

/// Cells of the table whose head starts with `capability`, by tier and capability.
fn table() -> BTreeMap<(String, String), String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tiers.md")).unwrap();
    let rows =
        page.lines().skip_while(|line| !line.starts_with("| capability |")).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut rows = rows.map(cells);
    let head = rows.next().expect("the table is there");
    let body = rows.filter(|row| !row[0].starts_with('-'));
    body.flat_map(|row| {
        let names: Vec<(String, String)> = head[1..].iter().map(|tier| (tier.clone(), row[0].clone())).collect();
        names.into_iter().zip(row.into_iter().skip(1)).collect::<Vec<_>>()
    })
    .collect()
}

/// What a tier does itself, and what it can do through the library.
fn check(tier: &str, own: Capabilities, with_library: Capabilities) {
    let table = table();
    for (name, capability) in Capabilities::all().iter_names() {
        let expected = match (own.contains(capability), with_library.contains(capability)) {
            (true, _) => "yes",
            (false, true) => "library",
            (false, false) => "no",
        };
        let cell = table.get(&(tier.to_owned(), name.to_owned()));
        assert_eq!(cell.map(String::as_str), Some(expected), "{tier}, {name}");
    }
    assert_eq!(table.len(), 3 * Capabilities::all().iter_names().count(), "a capability that is none is in the table");
}

#[test]
fn the_patched_column_is_what_the_patched_driver_can_do() {
    let can = lease(&machine(1).boot()).capabilities();
    check("patched", can, can);
}

#[test]
fn the_debugger_column_is_what_the_debugger_can_do_and_what_the_library_adds() {
    let host = machine(1).stock().boot();
    let debugger: Arc<dyn Driver> = Arc::new(DebuggerDriver::open_fixed(host.clone(), Calls::PerProcess).unwrap());
    let own = debugger.capabilities();
    let tiered = TieredDriver::new(host, vec![debugger], Vec::new()).unwrap();
    check("debugger", own, tiered.capabilities());
}

#[test]
fn the_agent_column_is_what_agents_can_do_and_what_the_library_adds() {
    let host = machine(1).stock().boot();
    let agents: Arc<dyn Driver> = Arc::new(AgentDriver::open(host.clone()));
    let own = agents.capabilities();
    let tiered = TieredDriver::new(host, vec![agents], Vec::new()).unwrap();
    check("agent", own, tiered.capabilities());
}
