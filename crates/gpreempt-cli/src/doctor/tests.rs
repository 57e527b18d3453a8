//! Each rung and each trouble, once as yes and once as no.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gpreempt::Backend;
use gpreempt::host::sim::SimHost;
use gpreempt::host::{Alarm, Array, Host, Identity, Owner, RawFile, Readiness, SysResult, Wake};
use gpreempt::session::{SessionBuilder, SimTier};
use gpreempt_sim::config::{ProcessSpec, QueueSpec, Scenario};
use nix::errno::Errno;

use super::facts::{Facts, KFD};
use super::rungs::{self, Rung};
use super::troubles::{self, Trouble};
use super::{Diagnosis, diagnose, print, sim};

/// A machine of some files, with a simulated KFD behind `/dev/kfd` where it has one.
#[derive(Debug, Default)]
struct Fixture {
    files: BTreeMap<String, String>,
    kfd: Option<Arc<SimHost>>,
    /// What opening `/dev/kfd` answers instead.
    closed: Option<Errno>,
    owner: Option<Owner>,
    opened: AtomicU32,
}

impl Fixture {
    /// A healthy machine with these queues on its first node.
    fn with(tier: SimTier, queues: u32) -> Fixture {
        let builder = SessionBuilder { sim_tier: tier, sim_virtual_clock: true, ..SessionBuilder::default() };
        let mut config = builder.sim_config().unwrap();
        let queue = QueueSpec { nodes: vec![0], count: queues, ..QueueSpec::default() };
        let train = ProcessSpec { name: "train".into(), pid: 4_182_001, queues: vec![queue], ..guest() };
        config.scenario = Scenario { processes: vec![train], ..Scenario::empty() };
        let fixture = Fixture { kfd: Some(Arc::new(SimHost::boot(config).unwrap())), ..Fixture::default() };
        fixture
            .parameter("sched_policy", "0")
            .parameter("cwsr_enable", "1")
            .parameter("num_kcq", "-1")
            .parameter("max_num_of_queues_per_device", "4096")
    }

    fn healthy() -> Fixture {
        Fixture::with(SimTier::Patched, 1)
    }

    fn bare() -> Fixture {
        Fixture::default()
    }

    fn file(mut self, path: &str, text: &str) -> Fixture {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    fn parameter(self, name: &str, value: &str) -> Fixture {
        self.file(&format!("/sys/module/amdgpu/parameters/{name}"), &format!("{value}\n"))
    }

    fn ask(self, rung: fn(&Facts) -> Rung) -> Rung {
        let rung = rung(&Facts::of(Arc::new(self)));
        assert_eq!(rung.yes, rung.enable.is_none(), "what is missing has a remedy: {rung:?}");
        assert!(!rung.evidence.is_empty(), "{rung:?}");
        rung
    }

    fn look_for(self, trouble: fn(&Facts) -> Trouble) -> Trouble {
        trouble(&Facts::of(Arc::new(self)))
    }

    fn sim(&self) -> SysResult<&SimHost> {
        self.kfd.as_deref().ok_or(Errno::ENOENT)
    }
}

fn guest() -> ProcessSpec {
    ProcessSpec {
        name: String::new(),
        pid: 0,
        namespace_pid: None,
        caller: false,
        uid: None,
        cgroup: "/".into(),
        command: Vec::new(),
        runtime_enabled: true,
        queues: Vec::new(),
    }
}

impl Host for Fixture {
    fn open(&self, path: &str) -> SysResult<RawFile> {
        assert_eq!(path, KFD);
        self.opened.fetch_add(1, Ordering::Relaxed);
        match self.closed {
            Some(errno) => Err(errno),
            None => self.sim()?.open(path),
        }
    }

    fn ioctl(&self, file: RawFile, request: u32, argument: &mut [u8], arrays: &mut [Array<'_>]) -> SysResult<i32> {
        self.sim()?.ioctl(file, request, argument, arrays)
    }

    fn read(&self, file: RawFile, buffer: &mut [u8]) -> SysResult<usize> {
        self.sim()?.read(file, buffer)
    }

    fn write(&self, file: RawFile, buffer: &[u8]) -> SysResult<usize> {
        self.sim()?.write(file, buffer)
    }

    fn poll(&self, file: RawFile) -> SysResult<Readiness> {
        self.sim()?.poll(file)
    }

    fn close(&self, file: RawFile) {
        if let Ok(sim) = self.sim() {
            sim.close(file);
        }
    }

    fn abandon(&self, file: RawFile) {
        self.close(file);
    }

    fn read_text(&self, path: &str) -> SysResult<String> {
        self.files.get(path).cloned().map_or_else(|| self.sim()?.read_text(path), Ok)
    }

    fn list(&self, path: &str) -> SysResult<Vec<String>> {
        let below = format!("{path}/");
        let own = self.files.keys().filter_map(|file| file.strip_prefix(&below)?.split('/').next().map(str::to_owned));
        let own: BTreeSet<String> = own.collect();
        let theirs = self.sim().and_then(|sim| sim.list(path));
        match (own.is_empty(), theirs) {
            (true, theirs) => theirs,
            (false, theirs) => Ok(own.into_iter().chain(theirs.unwrap_or_default()).collect()),
        }
    }

    fn owner(&self, _path: &str) -> SysResult<Owner> {
        self.owner.ok_or(Errno::ENOENT)
    }

    fn identity(&self) -> Identity {
        self.sim().map_or(Identity { pid: 1, euid: 1000 }, Host::identity)
    }

    fn trace(&self, _pid: u32) -> SysResult<()> {
        unreachable!("a doctor attaches nobody")
    }

    fn untrace(&self, _pid: u32) -> SysResult<()> {
        unreachable!("a doctor attaches nobody")
    }

    fn now(&self) -> Duration {
        self.sim().map_or(Duration::ZERO, Host::now)
    }

    fn sleep(&self, _duration: Duration) {
        unreachable!("a doctor does not wait")
    }

    fn park(&self, _alarm: &Arc<Alarm>, _deadline: Option<Duration>) -> Wake {
        unreachable!("a doctor does not wait")
    }

    fn describe(&self) -> String {
        "a fixture".into()
    }

    fn cost_model(&self) -> Option<String> {
        None
    }
}

fn says(rung: &Rung, words: &str) {
    let all = [rung.evidence.join("\n"), rung.enable.clone().unwrap_or_default()].join("\n");
    assert!(all.contains(words), "{words}: {rung:#?}");
}

#[test]
fn amdkfd_is_a_device_and_a_topology() {
    assert!(Fixture::healthy().ask(rungs::amdkfd).yes);
    let no = Fixture::bare().file("/proc/sys/kernel/osrelease", "6.12.117\n").ask(rungs::amdkfd);
    assert!(!no.yes);
    ["Linux 6.12.117", "does not exist (ENOENT)", "sudo modprobe amdgpu"].iter().for_each(|words| says(&no, words));
}

#[test]
fn access_names_the_group_that_would_open_it() {
    assert!(Fixture::healthy().ask(rungs::access).yes);
    let owner = Some(Owner { uid: 0, gid: 105, mode: 0o660 });
    let closed = Fixture { closed: Some(Errno::EACCES), owner, ..Fixture::healthy() };
    let no = closed.file("/etc/group", "root:x:0:\nrender:x:105:somebody\n").ask(rungs::access);
    assert!(!no.yes);
    for words in ["group render (105), mode 0660", "is not in that group", "sudo usermod -aG render $USER"] {
        says(&no, words);
    }
}

#[test]
fn access_in_a_container_is_given_when_it_is_started() {
    let owner = Some(Owner { uid: 0, gid: 105, mode: 0o660 });
    let closed = Fixture { closed: Some(Errno::EPERM), owner, ..Fixture::healthy() };
    says(&closed.file("/proc/2/comm", "bash\n").ask(rungs::access), "--group-add 105");
}

#[test]
fn a_topology_of_processors_alone_has_no_gpu() {
    let yes = Fixture::healthy().ask(rungs::gpu);
    says(&yes, "24 queue slots");
    let node = "/sys/class/kfd/kfd/topology/nodes/0";
    let processors = Fixture::bare()
        .file(&format!("{node}/gpu_id"), "0\n")
        .file(&format!("{node}/properties"), "cpu_cores_count 8\n");
    let no = processors.ask(rungs::gpu);
    assert!(yes.yes && !no.yes);
    says(&no, "no node with a gpu_id");
}

#[test]
fn queues_without_firmware_scheduling_are_out_of_reach() {
    assert!(Fixture::healthy().ask(rungs::hws).yes);
    let no = Fixture::healthy().parameter("sched_policy", "2").ask(rungs::hws);
    assert!(!no.yes);
    says(&no, "boot with amdgpu.sched_policy=0");
}

#[test]
fn mes_is_named_as_what_schedules_later_gpus() {
    let node = "/sys/class/kfd/kfd/topology/nodes/1";
    let later = Fixture::bare()
        .file(&format!("{node}/gpu_id"), "7\n")
        .file(&format!("{node}/properties"), "gfx_target_version 110000\n")
        .parameter("sched_policy", "0");
    let no = later.ask(rungs::hws);
    assert!(!no.yes);
    says(&no, "node 1 is scheduled by MES");
}

#[test]
fn cwsr_is_a_module_parameter() {
    assert!(Fixture::healthy().ask(rungs::cwsr).yes);
    let no = Fixture::healthy().parameter("cwsr_enable", "0").ask(rungs::cwsr);
    assert!(!no.yes);
    says(&no, "amdgpu.cwsr_enable=1");
}

#[test]
fn more_queues_than_slots_are_over_subscription() {
    let yes = Fixture::with(SimTier::Patched, 24).ask(rungs::subscription);
    let no = Fixture::with(SimTier::Patched, 25).ask(rungs::subscription);
    assert!(yes.yes && !no.yes);
    ["25 compute queues for 24 slots", "its runlist is chained", "num_kcq=2"].iter().for_each(|words| says(&no, words));
}

#[test]
fn pids_of_the_host_are_told_from_those_of_a_container() {
    assert!(Fixture::healthy().file("/proc/2/comm", "kthreadd\n").ask(rungs::pids).yes);
    let no = Fixture::healthy().file("/proc/2/comm", "bash\n").ask(rungs::pids);
    assert!(!no.yes);
    says(&no, "--pid=host");
}

#[test]
fn the_series_answers_with_a_lease() {
    let yes = Fixture::healthy().ask(rungs::patched);
    says(&yes, "watchdog of 10000 ms");
    let no = Fixture::with(SimTier::Auto, 1).ask(rungs::patched);
    assert!(yes.yes && !no.yes);
    says(&no, "this kernel has no gpreempt commands");
    says(&no, "kernel-patch/README.md");
}

#[test]
fn an_agent_needs_its_library_and_a_driver_to_watch() {
    let facts = |fixture, agent| Facts { agent, ..Facts::of(Arc::new(fixture)) };
    let missing = || Err(gpreempt::Error::new("looking for the agent", Errno::ENOENT));
    let yes = rungs::agent(&facts(Fixture::with(SimTier::Auto, 1), Ok("/lib/agent.so".into())));
    says(&yes, "/lib/agent.so is there");
    says(&yes, "start offline programs with `gpreempt offline");
    let no = rungs::agent(&facts(Fixture::with(SimTier::Auto, 1), missing()));
    says(&no, "build the agent");
    assert!(yes.yes && !no.yes && !rungs::agent(&facts(Fixture::bare(), Ok("/x".into()))).yes);
}

#[test]
fn the_debugger_needs_the_right_to_trace() {
    let yes = Fixture::with(SimTier::Auto, 1).ask(rungs::debugger);
    says(&yes, "ptrace_scope is 0");
    let scope = "/proc/sys/kernel/yama/ptrace_scope";
    let no = Fixture::with(SimTier::Auto, 1).file(scope, "1\n").ask(rungs::debugger);
    assert!(yes.yes && !no.yes);
    says(&no, "sudo sysctl kernel.yama.ptrace_scope=0");
}

#[test]
fn the_simulated_machine_boots_unless_it_is_told_to_be_none() {
    let asked = SessionBuilder::default();
    assert!(sim(&asked).yes);
    let no = sim(&SessionBuilder { sim_cost_model: Some("nope".into()), ..asked });
    assert!(!no.yes);
    says(&no, "nope");
}

#[test]
fn creation_is_refused_near_the_limit_of_the_driver() {
    assert!(!Fixture::healthy().look_for(troubles::refused).seen);
    let limit = |fixture: Fixture| fixture.parameter("max_num_of_queues_per_device", "20");
    let near = limit(Fixture::with(SimTier::Patched, 18)).look_for(troubles::refused);
    assert!(near.seen);
    assert!(near.remedy.contains("(pid 4182001: 18)"), "{near:?}");
    let refusing = Fixture::with(SimTier::Patched, 24).parameter("sched_policy", "1").look_for(troubles::refused);
    assert!(refusing.seen && refusing.remedy.contains("amdgpu.sched_policy=0"), "{refusing:?}");
}

#[test]
fn slots_run_out_when_every_one_has_a_queue() {
    assert!(!Fixture::with(SimTier::Patched, 23).look_for(troubles::no_slot).seen);
    let full = Fixture::with(SimTier::Patched, 24).look_for(troubles::no_slot);
    assert!(full.seen && full.evidence[0].contains("24 of 24 slots"), "{full:?}");
}

#[test]
fn mapping_is_slow_where_memory_management_keeps_queues_off() {
    assert!(!Fixture::healthy().look_for(troubles::slow).seen);
    let fixture = Fixture::healthy();
    let host = Arc::clone(fixture.kfd.as_ref().unwrap());
    host.machine().evict(4_182_001, true).unwrap();
    host.sleep(Duration::from_millis(30));
    let slow = fixture.look_for(troubles::slow);
    assert!(slow.seen && slow.evidence.iter().any(|line| line.contains("memory management")), "{slow:?}");
}

fn diagnosed(fixture: Fixture, backend: Backend) -> (Diagnosis, Arc<Fixture>) {
    let fixture = Arc::new(fixture);
    let asked = SessionBuilder { backend, sim_empty: true, ..SessionBuilder::default() };
    (diagnose(&asked, fixture.clone()), fixture)
}

#[test]
fn the_best_tier_that_is_there_is_chosen() {
    let chosen = |fixture, backend| diagnosed(fixture, backend).0.chosen;
    assert_eq!(chosen(Fixture::healthy(), Backend::Auto), Some("patched"));
    // Whether the agent's library was built decides between these two.
    let stock = chosen(Fixture::with(SimTier::Auto, 1), Backend::Auto);
    assert!(matches!(stock, Some("agent" | "debugger")), "{stock:?}");
    assert_eq!(chosen(Fixture::with(SimTier::Auto, 1), Backend::Patched), None);
    assert_eq!(chosen(Fixture::healthy(), Backend::Debugger), Some("debugger"));
    assert_eq!(chosen(Fixture::healthy(), Backend::Sim), Some("sim"));
    assert_eq!(chosen(Fixture::bare(), Backend::Auto), Some("sim"), "no /dev/kfd");
    assert_eq!(chosen(Fixture::bare(), Backend::Debugger), None);
}

#[test]
fn a_kfd_that_cannot_be_used_is_no_reason_to_simulate() {
    let (closed, _) = diagnosed(Fixture { closed: Some(Errno::EACCES), ..Fixture::healthy() }, Backend::Auto);
    assert_eq!(closed.chosen, None);
    assert!(closed.why.starts_with("May this user open it?: no"), "{}", closed.why);
    let (without_hws, _) = diagnosed(Fixture::healthy().parameter("sched_policy", "2"), Backend::Auto);
    assert_eq!(without_hws.chosen, None);
}

#[test]
fn kfd_is_opened_once_and_that_is_said() {
    for (fixture, times) in [(Fixture::healthy(), 1), (Fixture::with(SimTier::Auto, 1), 1), (Fixture::bare(), 1)] {
        let there = fixture.kfd.is_some();
        let (diagnosis, fixture) = diagnosed(fixture, Backend::Auto);
        assert_eq!(fixture.opened.load(Ordering::Relaxed), times);
        let mut text = Vec::new();
        print(&diagnosis, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap().contains("/dev/kfd was opened once"), there);
    }
}
