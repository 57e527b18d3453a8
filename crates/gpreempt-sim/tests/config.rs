//! Cost models, GPU models and scenarios: the built-in ones say what they claim, and a wrong file is named with its line.

use std::fs;
use std::path::Path;

use gpreempt_sim::config::{
    ConfigError, CostModel, FaultKind, FaultPoint, GpuModel, Partition, QueueType, Scenario, Workload,
};
use proptest::prelude::*;

/// What a parser made of a text: nothing but its complaint is of interest.
fn complaint(parsed: Result<(), ConfigError>) -> String {
    parsed.expect_err("the text is wrong").to_string()
}

fn cost(text: &str) -> Result<(), ConfigError> {
    CostModel::parse("my.toml", text).map(drop)
}

fn gpu(text: &str) -> Result<(), ConfigError> {
    GpuModel::parse("my.toml", text).map(drop)
}

fn scenario(text: &str) -> Result<(), ConfigError> {
    Scenario::parse("my.toml", text).map(drop)
}

#[test]
fn every_figure_of_every_built_in_cost_model_names_its_source() {
    for name in CostModel::builtin() {
        let model = CostModel::named(name).expect("a built-in model parses");
        assert_eq!(model.name, name);
        for (figure, value) in model.figures() {
            let says =
                ["seed ", "README", "driver", ".c", "assumed", "derived"].iter().any(|s| value.source.contains(s));
            assert!(says, "{name}.{figure}: {}", value.source);
        }
    }
}

#[test]
fn the_design_model_adds_up_to_the_seeds_own_totals() {
    let m = CostModel::named("design").expect("built in");
    let call = m.ioctl.ns + m.mark_queue.ns + m.submit_unmap.ns + m.hws_unmap.ns + m.submit_runlist.ns;
    assert_eq!(call + m.debug_suspend.ns, 5_000_000);
    assert_eq!(call + m.debug_resume.ns + m.hws_runlist.ns, 10_000_000);
    assert!((450_000..=550_000).contains(&call), "a batch unmap is about 0.5 ms, found {call} ns");
}

#[test]
fn the_hws_and_stock_debug_models_add_up_to_what_their_documents_say() {
    let m = CostModel::named("hws").expect("built in");
    assert!((20_000..=25_000).contains(&(m.submit_unmap.ns + m.hws_unmap.ns)));
    let map = m.mark_queue.ns + m.submit_runlist.ns + m.hws_runlist.ns + m.hws_map_queue.ns;
    assert!((20_000..=30_000).contains(&map));
    let m = CostModel::named("stock-debug").expect("built in");
    let call = m.ioctl.ns + m.mark_queue.ns + m.submit_unmap.ns + m.hws_unmap.ns + m.submit_runlist.ns;
    assert_eq!(call + m.debug_suspend.ns, 450_000);
    assert_eq!(call + m.debug_resume.ns + m.hws_runlist.ns + m.hws_map_queue.ns, 350_000);
}

#[test]
fn saving_the_waves_of_a_full_xcc_is_a_visible_part_of_a_modelled_round() {
    let m = CostModel::named("design").expect("built in");
    let waves = u64::from(GpuModel::named("mi308x").expect("built in").waves_per_xcc());
    assert_eq!(waves, 640);
    let round = m.submit_unmap.ns + m.hws_unmap.ns;
    let save = waves * m.wave_save.ns;
    assert!(save * 10 > round && save < round, "{save} ns of {round} ns");
}

#[test]
fn a_user_model_changes_some_figures_of_a_base_and_keeps_the_others() {
    let text = "name = \"mine\"\nabout = \"\"\nbase = \"design\"\n[hws_unmap]\nus = 1.5\nsource = \"measured\"\n";
    let model = CostModel::parse("my.toml", text).expect("a model with a base");
    assert_eq!((model.name.as_str(), model.hws_unmap.ns), ("mine", 1500));
    assert_eq!(model.ioctl, CostModel::named("design").expect("built in").ioctl);
}

#[test]
fn a_wrong_cost_model_is_named_with_its_line() {
    let head = "name = \"mine\"\nabout = \"\"\nbase = \"design\"\n";
    let with = |figure: &str| complaint(cost(&format!("{head}{figure}")));
    assert!(with("[hws_unmap]\nus = -1\nsource = \"x\"").starts_with("my.toml:5: "));
    assert!(with("[hws_unmap]\nus = nan\nsource = \"x\"").starts_with("my.toml:5: "));
    assert!(with("[hws_unmap]\nms = 3600001\nsource = \"x\"").starts_with("my.toml:5: "));
    assert!(with("[hws_unmap]\nus = 1\nns = 1\nsource = \"x\"").contains("exactly one of ns, us and ms"));
    assert!(with("[hws_unmap]\nus = 1").starts_with("my.toml:4: missing field `source`"));
    assert!(with("[hws_unmap]\nus = 1\nsource = \" \"").starts_with("my.toml:6: "));
    assert!(with("[hws_unmapp]\nus = 1\nsource = \"x\"").starts_with("my.toml:4: unknown field `hws_unmapp`"));
    assert!(with("[slice]\nns = 0\nsource = \"x\"").starts_with("my.toml:4: "));
    assert!(complaint(cost("name = \"mine\"\nabout = \"\"\nbase = \"mine\"")).starts_with("my.toml:3: base is one of"));
    assert_eq!(complaint(cost("name = \"mine\"\nabout = \"\"")), "my.toml: no [ioctl], and no base to take it from");
}

#[test]
fn an_unknown_name_lists_the_known_ones_and_a_path_says_what_is_wrong_with_it() {
    let unknown = complaint(CostModel::named("desing").map(drop));
    assert!(unknown.contains("design, hws, conservative, stock-debug"), "{unknown}");
    let absent = complaint(Scenario::named("./no/such.toml", 1).map(drop));
    assert!(absent.starts_with("./no/such.toml: ") && !absent.contains("built-in"), "{absent}");
    let folder = tempfile::tempdir().expect("a folder");
    assert!(complaint(Scenario::load(folder.path()).map(drop)).contains("not a regular file"));
}

#[test]
fn gpu_models_derive_what_the_driver_derives() {
    let mi308x = GpuModel::named("mi308x").expect("built in");
    let mi300x = GpuModel::named("mi300x").expect("built in");
    assert_eq!((mi308x.slots(), mi300x.slots()), (24, 24));
    for model in [&mi308x, &mi300x] {
        // kfd_queue.c: 0x95000 bytes per CU and the control stack.
        assert_eq!(model.cwsr_bytes, u64::from(model.cus_per_xcc) * 0x95000 + u64::from(model.ctl_stack_bytes));
        let waves = (model.cus_per_xcc * 40).min(model.shader_engines * 512);
        assert_eq!(model.ctl_stack_bytes, (waves * 8 + 48).next_multiple_of(4096));
    }
    let nodes = [Partition::Spx, Partition::Dpx, Partition::Qpx, Partition::Cpx].map(|p| mi300x.nodes_per_gpu(p));
    assert_eq!(nodes, [Some(1), Some(2), Some(4), Some(8)]);
    assert_eq!([1, 2, 4].map(|nodes| mi308x.process_slots_with(nodes)), [13, 13, 6]);
}

#[test]
fn a_wrong_gpu_model_is_named_with_its_line() {
    let good = include_str!("../models/gpu/mi308x.toml");
    let with = |from: &str, to: &str| complaint(gpu(&good.replace(from, to)));
    let line = |key: &str| 1 + good.lines().position(|l| l.starts_with(key)).expect("a line of the model");
    assert!(with("xccs = 4", "xccs = 9").starts_with(&format!("my.toml:{}: must be 1 to 8", line("xccs"))));
    assert!(
        with("kernel_queues = 8", "kernel_queues = -1").starts_with(&format!("my.toml:{}: ", line("kernel_queues")))
    );
    assert!(
        with("fw_version = 149", "num_xcc = 149")
            .starts_with(&format!("my.toml:{}: not a property", line("fw_version")))
    );
}

#[test]
fn partition_modes_are_written_as_they_are_read() {
    for mode in ["spx", "dpx", "qpx", "cpx"] {
        assert_eq!(mode.parse::<Partition>().expect("a mode").to_string(), mode);
        assert_eq!(mode.to_uppercase().parse::<Partition>().map(|p| p.to_string()).as_deref(), Ok(mode));
    }
    assert!("tpx".parse::<Partition>().is_err());
}

/// Compute queues and processes of each node.
fn load(scenario: &Scenario, nodes: u32) -> Vec<(u32, usize)> {
    let of = |node: u32, on: &[u32]| on.is_empty() || on.contains(&node);
    let queues = |node| {
        let all = scenario.processes.iter().flat_map(|p| &p.queues);
        all.filter(|q| q.kind == QueueType::Compute && of(node, &q.nodes)).map(|q| q.count).sum()
    };
    let processes = |node| scenario.processes.iter().filter(|p| p.queues.iter().any(|q| of(node, &q.nodes))).count();
    (0..nodes).map(|node| (queues(node), processes(node))).collect()
}

#[test]
fn the_default_scenario_fills_every_node_and_oversubscribes_none() {
    for nodes in [1, 2, 3, 8, 32] {
        let scenario = Scenario::named("default", nodes).expect("built in");
        for (queues, processes) in load(&scenario, nodes) {
            assert!((4..=24).contains(&queues) && (2..=6).contains(&processes), "{nodes} nodes: {queues}, {processes}");
        }
        let offline = scenario.processes.iter().filter(|p| p.queues.iter().all(|q| q.priority <= 5));
        let online = scenario.processes.iter().filter(|p| p.queues.iter().all(|q| (10..=15).contains(&q.priority)));
        assert_eq!((offline.count(), online.count()), (3, 1));
        assert!(scenario.processes.iter().all(|p| p.runtime_enabled && !p.command.is_empty()));
    }
}

#[test]
fn the_built_in_scenarios_are_what_their_names_say() {
    let over = Scenario::named("oversubscribed", 1).expect("built in");
    assert_eq!(load(&over, 2), [(100, 4), (0, 0)]);
    let demo = Scenario::named("demo", 8).expect("built in");
    assert_eq!(load(&demo, 8), [(4, 1); 8]);
    assert!(Scenario::named("empty", 8).expect("built in").processes.is_empty());
    for name in Scenario::builtin() {
        assert_eq!(Scenario::named(name, 8).expect("built in").name, name);
    }
}

#[test]
fn every_word_of_a_scenario_file_arrives() {
    let text = r#"
name = "all"
about = "Everything."
preempt_timeout_ms = 300
max_hold_ms = 500
[[process]]
name = "trainer"
pid = 4242
namespace_pid = 7
uid = 1000
cgroup = "/a/b"
command = ["x", "y"]
runtime_enabled = false
[[process.queue]]
nodes = [0, 3]
count = 2
kind = "sdma-xgmi"
priority = 3
percent = 50
ring_bytes = 4096
work = { poisson = { per_second = 20.8, packets = 3, packet_us = 0.5, occupancy = 1 } }
[[process.queue]]
gws = true
work = "manual"
[[process]]
name = "me"
caller = true
[[fault]]
at = { time-ms = 1.5 }
what = { hws-timeout = { node = 1 } }
[[fault]]
at = { batch = { nth = 2, entry = 3 } }
what = { queue-destroyed = { pid = 4242, queue = 1 } }
[[fault]]
at = { round = 4 }
what = { process-gone = { pid = 4242 } }
"#;
    let all = Scenario::parse("my.toml", text).expect("a scenario");
    assert_eq!((all.preempt_timeout_ms, all.max_hold_ms), (Some(300), Some(500)));
    let [trainer, me] = all.processes.as_slice() else { panic!("two processes") };
    assert_eq!((trainer.pid, trainer.namespace_pid, trainer.uid), (4242, Some(7), Some(1000)));
    assert_eq!((trainer.cgroup.as_str(), trainer.runtime_enabled, trainer.command.len()), ("/a/b", false, 2));
    let queue = &trainer.queues[0];
    assert_eq!((queue.nodes.as_slice(), queue.count, queue.kind), (&[0, 3][..], 2, QueueType::SdmaXgmi));
    assert_eq!((queue.priority, queue.percent, queue.ring_bytes, queue.gws), (3, 50, 4096, false));
    assert_eq!(queue.work, Workload::Poisson { rate: 20.8, packets: 3, packet_ns: 500, occupancy: 1.0 });
    assert!(trainer.queues[1].gws);
    assert!(me.caller && me.pid == 0 && me.command == ["me"]);
    assert_eq!(all.faults[0].at, FaultPoint::Time(1_500_000));
    assert_eq!(all.faults[0].kind, FaultKind::HwsTimeout { node: 1 });
    assert_eq!(all.faults[1].at, FaultPoint::Batch { nth: 2, entry: 3 });
    assert_eq!(all.faults[2].at, FaultPoint::Round { nth: 4 });
}

#[test]
fn a_wrong_scenario_is_named_with_its_line() {
    let queue = |line: &str| {
        complaint(scenario(&format!("name = \"x\"\n[[process]]\nname = \"p\"\n[[process.queue]]\n{line}\n")))
    };
    for line in [
        "priority = 16",
        "percent = 101",
        "count = 0",
        "ring_bytes = 5000",
        "colour = 1",
        "nodes = [-1]",
        "kind = \"gfx\"",
        "work = { continuous = { packet_us = 0, occupancy = 0.5, depth = 1 } }",
        "work = { continuous = { packet_us = 1, occupancy = 0, depth = 1 } }",
        "work = { continuous = { packet_us = 1, occupancy = 1.1, depth = 1 } }",
        "work = { continuous = { packet_us = 1, occupancy = 1, depth = 0 } }",
        "work = { continuous = { packet_us = inf, occupancy = 1, depth = 1 } }",
        "work = { periodic = { period_ms = 0, packets = 1, packet_us = 1, occupancy = 1 } }",
        "work = { poisson = { per_second = -1, packets = 1, packet_us = 1, occupancy = 1 } }",
        "work = { bursty = { packets = 1 } }",
    ] {
        let message = queue(line);
        assert!(message.starts_with("my.toml:5: "), "{line}: {message}");
    }
    let gws = queue("kind = \"sdma\"\ngws = true");
    assert!(gws.starts_with("my.toml:6: "), "{gws}");
    let process = |lines: &str| complaint(scenario(&format!("name = \"x\"\n[[process]]\nname = \"p\"\n{lines}\n")));
    assert!(process("pid = 0").starts_with("my.toml:4: a pid is"));
    assert!(process("cgroup = \"a\"").starts_with("my.toml:4: a cgroup is"));
    assert!(process("pid = 9\n[[process]]\nname = \"q\"\npid = 9").starts_with("my.toml:5: pid 9 is taken"));
    assert!(process("caller = true\n[[process]]\nname = \"q\"\ncaller = true").starts_with("my.toml:5: only one"));
    assert!(process("caller = true\nnamespace_pid = 7").starts_with("my.toml:2: the caller lives in the init pid"));
    let fault = |at: &str| {
        complaint(scenario(&format!("name = \"x\"\n[[fault]]\nat = {at}\nwhat = {{ node-reset = {{ node = 0 }} }}")))
    };
    assert!(fault("{ round = 0 }").starts_with("my.toml:3: counted from 1"));
    assert!(fault("{ batch = { nth = 0 } }").starts_with("my.toml:3: counted from 1"));
    assert!(fault("{ time-ms = -1 }").starts_with("my.toml:3: "));
}

/// Fenced blocks of the user's page by what they are.
fn examples(page: &str) -> Vec<(&str, &str)> {
    let blocks = page.split("```toml ").skip(1);
    blocks
        .map(|b| b.split_once('\n').and_then(|(kind, rest)| Some((kind, rest.split_once("```")?.0))).expect("a block"))
        .collect()
}

#[test]
fn the_examples_of_the_user_page_parse() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/simulator.md");
    let page = fs::read_to_string(page).expect("docs/simulator.md");
    let mut kinds = Vec::new();
    for (kind, text) in examples(&page) {
        let parsed = match kind {
            "cost-model" => cost(text),
            "gpu-model" => gpu(text),
            "scenario" => scenario(text),
            other => panic!("no example is a {other}"),
        };
        parsed.unwrap_or_else(|e| panic!("{kind}: {e}"));
        kinds.push(kind);
    }
    assert_eq!(kinds, ["cost-model", "gpu-model", "scenario"]);
}

/// A valid file with one stretch replaced: closer to what users get wrong than random text.
fn damaged() -> impl Strategy<Value = String> {
    let files = prop::sample::select(vec![
        include_str!("../models/cost/design.toml"),
        include_str!("../models/gpu/mi308x.toml"),
        include_str!("../models/scenarios/demo.toml"),
    ]);
    (files, any::<prop::sample::Index>(), 0..40usize, "[-0-9a-z=.\"\\[\\]{} \n]{0,6}").prop_map(
        |(file, at, length, new)| {
            let mut text = file.to_owned();
            let from = at.index(text.len());
            let to = (from + length).min(text.len());
            text.replace_range(from..to, &new);
            text
        },
    )
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic_or_blame_a_line_that_is_not_there(text in prop_oneof![damaged(), "\\PC{0,200}"]) {
        for error in [cost(&text), gpu(&text), scenario(&text)].into_iter().filter_map(Result::err) {
            prop_assert!(error.line.is_none_or(|l| (1..=text.lines().count() + 1).contains(&l)), "{}", error);
            prop_assert!(!error.message.is_empty());
        }
    }
}
