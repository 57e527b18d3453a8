//! The commands that look at a machine, as programs, on the simulated one.

use std::process::{Command, Output};

use serde_json::Value;

fn gpreempt(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpreempt"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GPREEMPT_")) {
        command.env_remove(name);
    }
    command.args(args).env("GPREEMPT_BACKEND", "sim").envs(environment.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = gpreempt(args, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn status_counts_the_slots_of_every_gpu() {
    let status = json(&["status", "--json"]);
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 8);
    for node in nodes {
        let status = &node["status"];
        let count = |name: &str| status[name].as_u64().unwrap();
        assert_eq!(count("total"), 24);
        assert_eq!(count("free"), 24 - count("active").min(24));
    }
    let sum = |name: &str| nodes.iter().map(|node| node["status"][name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(status["total"]["total"], sum("total"));
    assert_eq!(status["total"]["active"], sum("active"));
    assert!(sum("active") > 0, "the default scenario has queues");

    let table = gpreempt(&["status"], &[]);
    let last = text(&table.stdout).lines().last().unwrap().split_whitespace().map(String::from).collect::<Vec<_>>();
    assert_eq!(last[..2], ["all".to_owned(), sum("total").to_string()]);
}

#[test]
fn queues_lists_both_sides_with_their_owners() {
    let queues = json(&["queues", "--json"]);
    let queues = queues["queues"].as_array().unwrap();
    let of = |low: u64, high: u64| {
        queues.iter().filter(|queue| queue["priority"].as_u64().is_some_and(|p| (low..=high).contains(&p))).count()
    };
    assert!(of(0, 5) > 0 && of(10, 15) > 0);
    let table = gpreempt(&["queues"], &[]);
    assert_eq!(
        text(&table.stdout).lines().count(),
        queues.len() + 3,
        "machine, head and rule above one line per queue"
    );
}

#[test]
fn doctor_names_the_tier_and_why_not_a_better_one() {
    let diagnosis = json(&["doctor", "--json"]);
    assert_eq!(diagnosis["chosen"], "sim");
    let tiers: Vec<&str> =
        diagnosis["tiers"].as_array().unwrap().iter().map(|rung| rung["name"].as_str().unwrap()).collect();
    assert_eq!(tiers, ["patched", "agent", "debugger", "sim"]);
    let plain = gpreempt(&["doctor"], &[]);
    assert!(text(&plain.stdout).starts_with("gpreempt would use tier `sim`: GPREEMPT_BACKEND=sim asks for it"));
}

#[test]
fn status_queues_and_doctor_name_one_tier_and_one_basis() {
    for command in ["status", "queues"] {
        let found = json(&[command, "--json"]);
        assert_eq!((&found["tier"], &found["basis"]), (&"sim".into(), &"modelled (cost model design)".into()));
        assert!(text(&gpreempt(&[command], &[]).stdout).lines().next().unwrap().ends_with("(tier sim)"), "{command}");
    }
}

#[test]
fn doctor_calls_a_machine_that_cannot_boot_unusable() {
    for (name, value) in [("GPREEMPT_SIM_COST_MODEL", "nope"), ("GPREEMPT_SIM_SCENARIO", "/no/such.toml")] {
        let output = gpreempt(&["doctor", "--json"], &[(name, value)]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(diagnosis["chosen"], Value::Null);
        let sim = diagnosis["tiers"].as_array().unwrap().iter().find(|rung| rung["name"] == "sim").unwrap();
        assert_eq!(sim["yes"], false);
        assert!(sim["evidence"][0].as_str().unwrap().contains(value), "{sim}");
    }
}

#[test]
fn a_wrong_environment_is_wrong_usage() {
    let output = gpreempt(&["status"], &[("GPREEMPT_BACKEND", "kvm")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("debugger or sim"), "{}", text(&output.stderr));
}
