//! Discovery on trees of our own making, and on a recorded one where it is at hand.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use gpreempt::discover::{Discovery, debugfs, proc, scan, sysfs};
use gpreempt::host::os::OsHost;
use gpreempt::host::sim::SimHost;
use gpreempt::{GpuId, QueueId, QueueType, SessionBuilder};
use nix::errno::Errno;
use proptest::prelude::*;
use tempfile::TempDir;

struct Tree(TempDir);

impl Tree {
    /// A machine with one CPU node and one GPU node.
    fn new() -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.write("sys/class/kfd/kfd/topology/nodes/0/gpu_id", "0\n");
        tree.write("sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 112\nsimd_count 0\n");
        tree.write("sys/class/kfd/kfd/topology/nodes/1/gpu_id", "63420\n");
        tree.write("sys/class/kfd/kfd/topology/nodes/1/name", "ip discovery\n");
        tree.write(
            "sys/class/kfd/kfd/topology/nodes/1/properties",
            "cpu_cores_count 0\nsimd_count 320\nmax_waves_per_simd 8\nsimd_per_cu 4\ndrm_render_minor 128\n\
             num_sdma_engines 2\nnum_sdma_xgmi_engines 6\nnum_sdma_queues_per_engine 8\nnum_cp_queues 24\n\
             max_engine_clk_fcompute 1420\nunique_id 17293822569102704640\nnum_xcc 4\nmax_engine_clk_ccompute 3800\n",
        );
        tree
    }

    fn host(&self) -> OsHost {
        OsHost::with_root(self.0.path())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A process as KFD and procfs show it.
    fn process(&self, kfd_pid: u32, command: &str, cgroup: &str, namespace_pids: &str) {
        self.write(&format!("sys/class/kfd/kfd/proc/{kfd_pid}/pasid"), "32769\n");
        self.status(kfd_pid, namespace_pids);
        self.write(&format!("proc/{kfd_pid}/comm"), &format!("{command}\n"));
        self.write(&format!("proc/{kfd_pid}/cgroup"), &format!("1:name=systemd:/old\n0::{cgroup}\n"));
    }

    fn status(&self, name: impl std::fmt::Display, namespace_pids: &str) {
        let status = format!("Name:\tx\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t{namespace_pids}\nThreads:\t1\n");
        self.write(&format!("proc/{name}/status"), &status);
    }

    fn queue(&self, kfd_pid: u32, id: u32, kind: &str) {
        let folder = format!("sys/class/kfd/kfd/proc/{kfd_pid}/queues/{id}");
        // No newlines: the kernel prints none here.
        self.write(&format!("{folder}/gpuid"), "63420");
        self.write(&format!("{folder}/type"), kind);
        self.write(&format!("{folder}/size"), "65536");
    }
}

#[test]
fn nodes_are_the_gpus_with_what_their_properties_say() {
    let tree = Tree::new();
    let nodes = Discovery::new(&tree.host()).nodes().unwrap();
    assert_eq!(
        nodes,
        [sysfs::Node {
            gfx_target_version: 0,
            index: 1,
            gpu: GpuId(63420),
            name: "ip discovery".to_owned(),
            num_cp_queues: 24,
            num_xcc: 4,
            simd_count: 320,
            simd_per_cu: 4,
            max_waves_per_simd: 8,
            sdma_engines: 8,
            sdma_queues_per_engine: 8,
            max_engine_clk_fcompute: 1420,
            unique_id: 17_293_822_569_102_704_640,
            render_minor: 128,
        }]
    );
}

#[test]
fn queues_carry_their_owners_name_and_cgroup() {
    let tree = Tree::new();
    tree.process(4711, "train", "/kubepods.slice/besteffort", "4711");
    for (id, kind) in [(0, "0"), (10, "1"), (2, "4"), (3, "2"), (4, "3")] {
        tree.queue(4711, id, kind);
    }
    let queues = scan(&tree.host()).unwrap();
    let seen: Vec<_> = queues.iter().map(|queue| (queue.queue.id, queue.kind)).collect();
    assert_eq!(
        seen,
        [(0, QueueType::Compute), (2, QueueType::SdmaXgmi), (10, QueueType::Sdma)],
        "HIQ and DIQ are the kernel's"
    );
    assert_eq!(queues[0].queue, QueueId { pid: 4711, id: 0 });
    assert_eq!((queues[0].gpu, queues[0].ring_bytes), (GpuId(63420), 65536));
    assert_eq!((&*queues[0].command, &*queues[0].cgroup), ("train", "/kubepods.slice/besteffort"));
}

#[test]
fn what_vanishes_in_the_middle_of_a_scan_is_left_out() {
    let tree = Tree::new();
    tree.process(1, "gone", "/", "1");
    std::fs::remove_dir_all(tree.0.path().join("proc/1")).unwrap();
    tree.queue(1, 0, "0");
    tree.process(2, "kthreadd", "/", "2");
    tree.queue(2, 0, "0");
    tree.queue(2, 1, "0");
    std::fs::remove_file(tree.0.path().join("sys/class/kfd/kfd/proc/2/queues/1/size")).unwrap();
    tree.process(3, "no queues folder", "/", "3");
    let seen: Vec<_> = scan(&tree.host()).unwrap().iter().map(|queue| queue.queue).collect();
    assert_eq!(seen, [QueueId { pid: 2, id: 0 }]);
}

#[test]
fn a_machine_without_amdkfd_has_no_nodes_and_no_queues() {
    let tree = Tree(tempfile::tempdir().unwrap());
    let error = Discovery::new(&tree.host()).nodes().unwrap_err();
    assert_eq!(error.errno(), Errno::ENODEV);
    assert!(error.to_string().contains("GPREEMPT_BACKEND=sim"), "{error}");
    assert_eq!(scan(&tree.host()).unwrap(), []);
}

#[test]
fn a_malformed_file_is_an_error_with_path_line_and_item() {
    let tree = Tree::new();
    tree.write("sys/class/kfd/kfd/topology/nodes/1/properties", "simd_count 320\nnum_xcc four\n");
    let error = Discovery::new(&tree.host()).nodes().unwrap_err();
    assert_eq!(error.errno(), Errno::EBADMSG);
    assert_eq!(error.target(), Some("/sys/class/kfd/kfd/topology/nodes/1/properties:2"));
    assert!(error.to_string().contains("num_xcc four"), "{error}");

    tree.process(4711, "train", "/", "4711");
    tree.queue(4711, 0, "0");
    tree.write("sys/class/kfd/kfd/proc/4711/queues/0/gpuid", "f7bc");
    let error = scan(&tree.host()).unwrap_err();
    assert_eq!(error.target(), Some("/sys/class/kfd/kfd/proc/4711/queues/0/gpuid:1"));
}

#[test]
fn a_process_in_a_container_is_found_by_its_pid_there() {
    let tree = Tree::new();
    tree.process(4711, "train", "/a", "4711\t23");
    tree.process(4712, "serve", "/b", "4712\t7");
    tree.process(4713, "serve", "/c", "4713\t7");
    let host = tree.host();
    let discovery = Discovery::new(&host);
    assert_eq!(discovery.resolve_pid(23).unwrap(), 4711);
    assert_eq!(discovery.resolve_pid(4712).unwrap(), 4712, "a pid here comes first");
    assert_eq!(discovery.resolve_pid(99).unwrap_err().errno(), Errno::ESRCH);
    let error = discovery.resolve_pid(7).unwrap_err();
    assert_eq!(error.errno(), Errno::EINVAL);
    assert!(error.to_string().contains("pids 4712, 4713 here"), "{error}");
    let processes = discovery.processes().unwrap();
    assert_eq!((processes[0].uid, &*processes[0].namespace_pids), (Some(1001), &[4711, 23][..]));
}

#[test]
fn in_a_container_with_the_hosts_proc_queues_go_by_the_pids_of_the_container() {
    let tree = Tree::new();
    tree.status("self", "4711\t23");
    tree.process(4711, "scheduler", "/a", "4711\t23");
    tree.process(4712, "train", "/a", "4712\t24");
    tree.process(4713, "nested", "/a", "4713\t25\t1");
    tree.process(4714, "host", "/", "4714");
    // 24 is also somebody in a sibling container: it would be the wrong process.
    tree.process(4715, "ours", "/a", "4715\t30");
    tree.status(9000, "9000\t30");
    for kfd_pid in 4711..=4715 {
        tree.queue(kfd_pid, 0, "0");
    }
    let seen: Vec<_> = scan(&tree.host()).unwrap().iter().map(|queue| queue.queue.pid).collect();
    assert_eq!(seen, [23, 24, 25]);
}

#[test]
fn in_a_container_with_its_own_proc_no_process_is_taken_for_another() {
    let tree = Tree::new();
    tree.process(7, "host's 7", "/", "7");
    tree.queue(7, 0, "0");
    tree.write("proc/2/comm", "bash\n");
    assert_eq!(scan(&tree.host()).unwrap(), []);
    assert_eq!(Discovery::new(&tree.host()).processes().unwrap()[0].pid, None);
    tree.write("proc/2/comm", "kthreadd\n");
    assert_eq!(scan(&tree.host()).unwrap().len(), 1);
}

#[test]
fn usage_of_a_process_goes_by_node() {
    let tree = Tree::new();
    tree.process(4711, "train", "/", "4711");
    tree.write("sys/class/kfd/kfd/proc/4711/stats_63420/evicted_ms", "250\n");
    tree.write("sys/class/kfd/kfd/proc/4711/stats_63420/cu_occupancy", "42\n");
    tree.write("sys/class/kfd/kfd/proc/4711/stats_9/evicted_ms", "0\n");
    let usage = sysfs::usage(&tree.host(), 4711).unwrap();
    let seen: Vec<_> = usage.iter().map(|node| (node.gpu.0, node.cu_occupancy, node.evicted.as_millis())).collect();
    assert_eq!(seen, [(9, None, 0), (63420, Some(42), 250)]);
}

#[test]
fn a_real_machine_of_32_partitions_is_read_whole() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = std::env::var_os("GPREEMPT_DATA").map_or_else(beside, PathBuf::from);
    let recorded = data.join("topology/mi308x/topology");
    if !recorded.is_dir() {
        // Not eprintln, which the test harness captures.
        writeln!(std::io::stderr(), "skipped: real topology: no shared data").unwrap();
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let kfd = root.path().join("sys/class/kfd/kfd");
    std::fs::create_dir_all(&kfd).unwrap();
    std::os::unix::fs::symlink(recorded.canonicalize().unwrap(), kfd.join("topology")).unwrap();
    let nodes = Discovery::new(&OsHost::with_root(root.path())).nodes().unwrap();
    assert_eq!(nodes.len(), 32);
    assert!(nodes.iter().all(|node| (node.num_cp_queues, node.num_xcc, node.simd_count) == (24, 1, 80)));
    let mut gpus: Vec<u64> = nodes.iter().map(|node| node.unique_id).collect();
    gpus.sort_unstable();
    gpus.dedup();
    assert_eq!(gpus.len(), 8, "four partitions share a serial number");
}

#[test]
fn the_simulated_machine_is_read_like_a_real_one() {
    let builder = SessionBuilder { sim_virtual_clock: true, ..SessionBuilder::default() };
    let host = SimHost::boot(builder.sim_config().unwrap()).unwrap();
    let discovery = Discovery::new(&host);
    let nodes = discovery.nodes().unwrap();
    assert_eq!(nodes.len(), 8);
    assert!(nodes.iter().all(|node| (node.num_cp_queues, node.num_xcc) == (24, 4) && node.max_engine_clk_fcompute > 0));
    // Some of the jobs live in containers.
    let queues = scan(&host).unwrap();
    let contained: Vec<_> = discovery.processes().unwrap().into_iter().filter(|p| p.namespace_pids.len() > 1).collect();
    assert!(!contained.is_empty());
    for job in contained {
        assert_eq!(discovery.resolve_pid(job.namespace_pids[1]).ok(), job.pid);
        assert!(queues.iter().any(|queue| Some(queue.queue.pid) == job.pid && queue.cgroup == job.cgroup));
    }
    let gpus: BTreeSet<GpuId> = queues.iter().map(|queue| queue.gpu).collect();
    assert!(gpus.iter().all(|gpu| nodes.iter().any(|node| node.gpu == *gpu)));
    // What the runlists hold is what the slots hold.
    let rls = debugfs::rls(&host).unwrap();
    let hqds = debugfs::hqds(&host).unwrap();
    for (runlist, node) in rls.nodes.iter().zip(&hqds.nodes) {
        assert_eq!((runlist.gpu, runlist.compute_queues()), (node.gpu, node.mapped_queues()));
        assert!(runlist.compute_queues() > 0);
    }
    assert!(!debugfs::mqds(&host).unwrap().truncated);
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC*|([a-z_]* -?[0-9]*\n)*|((Uid|NSpid|Name):[\t 0-9a-z]*\n|0::.*\n)*") {
        let _ = sysfs::parse_properties("properties", &text);
        let _ = proc::parse_status("status", &text);
        let _ = proc::parse_cgroup(&text);
    }
}
