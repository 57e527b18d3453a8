//! Which machine a session opens, and what it says where it cannot.

use std::path::PathBuf;

use gpreempt::{Backend, ErrorKind, GpuId, SessionBuilder};

fn sim() -> SessionBuilder {
    SessionBuilder { backend: Backend::Sim, sim_virtual_clock: true, ..SessionBuilder::default() }
}

#[test]
fn the_default_machine_has_offline_and_online_queues_and_an_empty_one_has_none() {
    let session = sim().open().unwrap();
    let queues = session.queues().unwrap();
    let with = |low, high| queues.iter().filter(|(_, info)| (low..=high).contains(&info.priority.unwrap())).count();
    assert!(with(0, 5) > 0 && with(10, 15) > 0);
    assert_eq!(session.status(GpuId::ALL).unwrap().nodes, 8);
    assert!(session.host().describe().contains("design"), "{}", session.host().describe());
    let empty = SessionBuilder { sim_empty: true, ..sim() }.open().unwrap();
    assert_eq!(empty.queues().unwrap(), []);
}

#[test]
fn a_scenario_file_replaces_the_default_and_a_wrong_one_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "name = \"mine\"\nnonsense = 3\n").unwrap();
    let error = SessionBuilder { sim_scenario: Some(file.clone()), ..sim() }.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains(&format!("{}:2", file.display())), "{error}");
    let missing = PathBuf::from("no/such/scenario.toml");
    let error = SessionBuilder { sim_scenario: Some(missing), ..sim() }.open().unwrap_err();
    assert!(error.to_string().contains("no/such/scenario.toml"), "{error}");
}

#[test]
fn an_unknown_cost_model_or_topology_is_named() {
    let error = SessionBuilder { sim_cost_model: Some("guess".into()), ..sim() }.open().unwrap_err();
    assert!(error.to_string().contains("guess") && error.to_string().contains("design"), "{error}");
    let error = SessionBuilder { sim_topology: Some("no/such/tree".into()), ..sim() }.open().unwrap_err();
    assert!(error.to_string().contains("no/such/tree"), "{error}");
}

#[test]
fn equal_builders_open_equal_machines() {
    let found = || sim().open().unwrap().queues().unwrap();
    assert_eq!(found(), found());
}
