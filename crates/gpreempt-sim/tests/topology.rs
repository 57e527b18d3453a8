//! Topologies: made from a model, loaded from a tree, and served as the kernel prints them.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use gpreempt_sim::config::{GpuModel, Partition};
use gpreempt_sim::topology::{PROPERTIES, Topology};

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

/// The recorded tree of a real machine, where the data folder is at hand.
fn real_tree() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = env::var_os("GPREEMPT_DATA").map_or(beside, PathBuf::from);
    Some(data.join("topology/mi308x")).filter(|p| p.is_dir())
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn a_real_tree_of_32_nodes_is_served_byte_for_byte() {
    let Some(tree) = real_tree() else {
        eprintln!("skipped: real topology: no shared data");
        return;
    };
    let topology = Topology::load(&tree, &model("mi308x")).expect("the real tree");
    let top = tree.join("topology");
    let mut found = Vec::new();
    files(&top, &mut found);
    assert_eq!(found.len(), 170);
    for file in &found {
        let path = file.strip_prefix(&top).expect("below the top").to_str().expect("UTF-8");
        let text = fs::read_to_string(file).expect("a file");
        assert_eq!(topology.read(path).as_deref(), Some(text.as_str()), "{path}");
    }
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
