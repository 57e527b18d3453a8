//! Topologies: made from a model, loaded from a tree, and served as the kernel prints them.

mod kit;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use gpreempt_sim::config::{GpuModel, Hardware, Partition};
use gpreempt_sim::topology::{PROPERTIES, Topology};
use gpreempt_sim::{Machine, Task};
use gpreempt_sys::*;
use kit::*;

fn model(name: &str) -> GpuModel {
    GpuModel::named(name).expect("a built-in model")
}

fn made(name: &str, gpus: u32, partition: Partition) -> Topology {
    Topology::from_model(&model(name), gpus, partition).expect("a possible mode")
}

#[test]
fn properties_of_a_gpu_are_printed_in_the_kernels_order() {
    let text = made("mi308x", 1, Partition::Spx).read("nodes/1/properties").expect("a GPU node");
    let names: Vec<_> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(names[..39], PROPERTIES);
    assert_eq!(names[39..], ["max_engine_clk_ccompute"]);
    for line in
        ["simd_count 320", "array_count 16", "num_cp_queues 24", "num_xcc 4", "cwsr_size 12214272", "local_mem_size 0"]
    {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[test]
fn a_cpu_node_has_no_gpu_properties_and_gpu_id_0() {
    let topology = made("mi308x", 1, Partition::Spx);
    assert_eq!(topology.read("nodes/0/gpu_id").as_deref(), Some("0\n"));
    assert_eq!(topology.read("nodes/0/name").as_deref(), Some("\n"));
    let text = topology.read("nodes/0/properties").expect("a CPU node");
    assert!(text.contains("ctl_stack_size 0\nmax_engine_clk_ccompute 3800\n") && !text.contains("num_xcc"));
}

#[test]
fn every_node_of_64_gpus_has_an_id_a_place_and_a_render_node_of_its_own() {
    let topology = made("mi300x", 64, Partition::Cpx);
    assert_eq!(topology.nodes.len(), 1 + 64 * 8);
    let ids: BTreeSet<_> = topology.gpus().map(|n| n.gpu_id).collect();
    assert_eq!(ids.len(), 512);
    assert!(ids.iter().all(|id| (1..=0xffff).contains(id)));
    let places: BTreeSet<_> = topology.gpus().map(|n| (n.property("domain"), n.property("location_id"))).collect();
    let minors: BTreeSet<_> = topology.gpus().map(|n| n.property("drm_render_minor")).collect();
    assert_eq!((places.len(), minors.len()), (512, 512));
    assert_eq!(topology, made("mi300x", 64, Partition::Cpx));
}

#[test]
fn partitions_share_the_gpu_and_split_its_parts() {
    let topology = made("mi308x", 2, Partition::Dpx);
    let nodes: Vec<_> = topology.gpus().collect();
    let [a, b, c, d] = nodes.as_slice() else { panic!("four nodes") };
    assert_eq!(a.property("unique_id"), b.property("unique_id"));
    assert_ne!(b.property("unique_id"), c.property("unique_id"));
    assert_eq!(topology.siblings(d).map(|n| n.index).collect::<Vec<_>>(), [3, 4]);
    assert_eq!([a, b, c, d].map(|n| topology.first_xcc(n)), [0, 2, 0, 2]);
    assert_eq!((a.property("simd_count"), a.property("num_xcc"), a.property("num_cp_queues")), (160, 2, 24));
    assert_eq!((a.property("num_sdma_engines"), a.property("num_sdma_xgmi_engines")), (2, 2));
    assert_eq!(a.files[0].1.lines().nth(1), Some("size_in_bytes 103079215104"));
}

#[test]
fn a_mode_that_does_not_divide_the_xccs_is_refused() {
    let mut odd = model("mi308x");
    odd.xccs = 6;
    let refused = Topology::from_model(&odd, 1, Partition::Qpx).expect_err("6 XCCs in 4 nodes").to_string();
    assert_eq!(refused, "mi308x: 6 XCCs cannot be split into qpx nodes");
    assert!(Topology::from_model(&odd, 1, Partition::Cpx).is_ok());
    assert!(Topology::from_model(&odd, 0, Partition::Spx).is_err());
    assert!(Topology::from_model(&odd, 65, Partition::Spx).is_err());
}

#[test]
fn folders_are_listed_sorted_and_what_is_not_there_is_none() {
    let topology = made("mi308x", 1, Partition::Spx);
    assert_eq!(topology.list(""), Some(["generation_id", "nodes", "system_properties"].map(String::from).into()));
    assert_eq!(topology.list("nodes"), Some(["0", "1"].map(String::from).into()));
    assert_eq!(topology.list("nodes/1"), Some(["gpu_id", "mem_banks", "name", "properties"].map(String::from).into()));
    assert_eq!(topology.list("nodes/1/mem_banks/0"), Some(vec!["properties".to_owned()]));
    for absent in ["nodes/2", "nodes/1/mem", "nodes/01", "nodes/1/gpu_id", "no"] {
        assert_eq!(topology.list(absent), None, "{absent}");
        assert!(absent.ends_with("gpu_id") || topology.read(absent).is_none(), "{absent}");
    }
}

/// Writes a topology as a tree.
fn store(topology: &Topology, folder: &Path, below: &str) {
    for name in topology.list(below).expect("a folder") {
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        match topology.read(&path) {
            Some(text) => {
                let file = folder.join(&path);
                fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
                fs::write(file, text).expect("a file");
            }
            None => store(topology, folder, &path),
        }
    }
}

#[test]
fn what_is_stored_is_loaded_again() {
    for partition in [Partition::Spx, Partition::Cpx] {
        let topology = made("mi308x", 2, partition);
        let folder = tempfile::tempdir().expect("a folder");
        store(&topology, folder.path(), "");
        assert_eq!(Topology::load(folder.path(), &model("mi308x")).expect("a tree"), topology);
    }
}

#[test]
fn what_an_older_driver_did_not_print_comes_from_the_model_and_is_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    store(&made("mi308x", 1, Partition::Cpx), folder.path(), "");
    let properties = folder.path().join("nodes/2/properties");
    let text = fs::read_to_string(&properties).expect("a file");
    let absent = ["cwsr_size ", "ctl_stack_size ", "local_mem_size ", "num_xcc "];
    let kept = text.lines().filter(|l| !absent.iter().any(|a| l.starts_with(a)));
    let older: String = kept.map(|l| format!("{l}\n")).collect();
    fs::write(&properties, &older).expect("a file");
    let topology = Topology::load(folder.path(), &model("mi308x")).expect("a tree");
    let node = &topology.nodes[2];
    let supplied: Vec<_> = node.from_model.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let expected = [("cwsr_size", 12_214_272), ("ctl_stack_size", 8192), ("local_mem_size", 0), ("num_xcc", 1)];
    assert_eq!(supplied, expected);
    assert_eq!(node.property("cwsr_size"), 12_214_272);
    assert_eq!(topology.read("nodes/2/properties"), Some(older));
    assert!(topology.nodes[1].from_model.is_empty());
}

/// The complaint about a stored tree after one file was changed; "" removes the file.
fn complaint(file: &str, text: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    store(&made("mi308x", 1, Partition::Dpx), folder.path(), "");
    let path = folder.path().join(file);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(&path, text).expect("a file");
    if text.is_empty() {
        fs::remove_file(&path).expect("the file");
    }
    let error = Topology::load(folder.path(), &model("mi308x")).expect_err("the tree is wrong").to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn a_malformed_tree_is_named_with_path_and_line() {
    assert!(complaint("generation_id", "two\n").starts_with("generation_id:1: `two`"));
    assert!(complaint("system_properties", "platform_oem\n").starts_with("system_properties:1: `platform_oem`"));
    assert!(complaint("nodes/1/gpu_id", "").starts_with("nodes/1/gpu_id: "));
    assert!(complaint("nodes/1/gpu_id", "0\n").starts_with("nodes/1/gpu_id:1: "));
    assert!(complaint("nodes/1/gpu_id", "70000\n").starts_with("nodes/1/gpu_id:1: "));
    let properties = "nodes/2/properties";
    assert!(
        complaint(properties, "simd_count 80\nsimd_per_cu -4\n").starts_with("nodes/2/properties:2: `simd_per_cu -4`")
    );
    assert!(
        complaint(properties, "simd_count 80\nsimd_count 80\n")
            .starts_with("nodes/2/properties:2: simd_count a second")
    );
    let slots = complaint(properties, "simd_count 80\nnum_cp_queues 120\n");
    assert!(slots.starts_with("nodes/2/properties:2: num_cp_queues 120: "), "{slots}");
    assert!(complaint("nodes/x/gpu_id", "1\n").starts_with("nodes/x: "));
    let same = made("mi308x", 1, Partition::Dpx).read("nodes/1/gpu_id").expect("a GPU");
    assert!(complaint("nodes/2/gpu_id", &same).contains("is that of node 1"));
}

#[test]
fn a_folder_without_nodes_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Topology::load(folder.path(), &model("mi308x")).is_err());
}

/// Checks that a machine on a recorded tree prints all of its files as they are; returns how many.
fn assert_served(machine: &Machine, top: &Path) -> usize {
    let mut found = Vec::new();
    files(top, &mut found);
    for file in &found {
        let path = file.strip_prefix(top).expect("below the top").to_str().expect("UTF-8");
        let served = machine.read_text(Task { pid: ME }, &format!("/sys/class/kfd/kfd/topology/{path}"));
        assert_eq!(served, Ok(fs::read_to_string(file).expect("a file")), "{path}");
    }
    found.len()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// A machine of the nodes of a recorded tree, with a guest that has two queues on each.
fn boot(path: PathBuf) -> Machine {
    let mut config = config(vec![guest(10, vec![queues(2, light())])]);
    config.hardware = Hardware::Tree { path, model: model("mi308x") };
    Machine::boot(config).expect("a machine")
}

#[test]
fn a_machine_boots_on_a_recorded_tree_and_is_what_the_tree_says() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/two-nodes");
    let machine = boot(tree.clone());
    assert_eq!(assert_served(&machine, &tree.join("topology")), 18);
    // The driver that printed it was too old for two properties.
    let about = machine.describe();
    assert!(about.contains("from model mi308x: ctl_stack_size cwsr_size, 2 nodes"), "{about}");
    let user = User::new(&machine, ME);
    assert_eq!(gpu_ids(&machine), [5001, 6001]);
    let lease = user.lease();
    let target = lease.offline(10);
    for gpu_id in [5001, 6001] {
        let status = lease.node_status(gpu_id).expect("a node");
        assert_eq!((status.total_hqd, status.num_xcc, status.sdma_slots, status.proc_slots), (30, 2, 16, 13));
        assert_eq!((status.active_hqd, status.queues_total), (2, 2));
    }
    let there = kfd_gpreempt_entry { gpu_id: 6001, ..entry(target, ALL) };
    assert_eq!(lease.unmap(&[there]).entries[0].num_queues, 2);
    pass(&machine, 10 * MS);
    // Queues 0 and 1 are on the first node.
    let moved: Vec<bool> = (0..4).map(|queue| progress(&machine, 10, queue, 10 * MS) > 0).collect();
    assert_eq!(moved, [true, true, false, false]);
    // A queue needs the save area that the model supplied.
    let mut create = compute_queue(5001);
    assert_eq!(user.call(AMDKFD_IOC_CREATE_QUEUE, &mut create), Ok(0));
}

/// The recorded tree of a real machine, where the data folder is at hand.
fn real_tree() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = env::var_os("GPREEMPT_DATA").map_or(beside, PathBuf::from);
    let tree = Some(data.join("topology/mi308x")).filter(|p| p.is_dir());
    if tree.is_none() {
        // Around the harness, which keeps what a passing test prints.
        let _ = writeln!(std::io::stderr(), "skipped: real topology: no {} (GPREEMPT_DATA)", data.display());
    }
    tree
}

#[test]
fn a_real_tree_of_32_nodes_is_served_byte_for_byte() {
    let Some(tree) = real_tree() else { return };
    let machine = boot(tree.clone());
    assert_eq!(assert_served(&machine, &tree.join("topology")), 170);
    assert_eq!(gpu_ids(&machine).len(), 32);
    let topology = Topology::load(&tree, &model("mi308x")).expect("the real tree");
    let gpus: BTreeSet<_> = topology.gpus().map(|n| n.property("unique_id")).collect();
    assert_eq!((topology.gpus().count(), gpus.len()), (32, 8));
    for node in topology.gpus() {
        assert_eq!(topology.siblings(node).count(), 4);
        let supplied: Vec<_> = node.from_model.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(supplied, ["cwsr_size", "ctl_stack_size"]);
        assert_eq!(node.property("cwsr_size"), 12_214_272);
    }
    // What the model makes of the same machine in the same mode agrees in everything that is not a place.
    let ours = made("mi308x", 8, Partition::Cpx);
    let (ours, real) = (ours.gpus().next().expect("a GPU"), topology.gpus().next().expect("a GPU"));
    let places = ["caches_count", "io_links_count", "p2p_links_count", "location_id", "hive_id", "unique_id"];
    for name in PROPERTIES.iter().filter(|n| !places.contains(n)) {
        assert_eq!(ours.property(name), real.property(name), "{name}");
    }
}
