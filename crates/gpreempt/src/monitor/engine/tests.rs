//! The engine against a driver that does and answers what a test wants, also what no simulated machine comes to.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;
use crate::driver::{Event, Tier};
use crate::host::{Alarm, Array, Identity, RawFile, Readiness, SysResult, Wake};
use crate::monitor::claims::Window;
use crate::queue::{PolicyFlags, QueueType, Reservation};

const GPU: GpuId = GpuId(7);
const OTHER_GPU: GpuId = GpuId(8);
const PID: Pid = 4711;
/// Most queues in one call to this driver.
const MOST: usize = 100;

/// One node with a CPU beside it, one process, and a clock that tests set.
#[derive(Debug, Default)]
struct World {
    now: Duration,
    gpus: Vec<GpuId>,
    pids: Vec<Pid>,
    free: u32,
    node_errors: BTreeMap<GpuId, Errno>,
    process_errors: BTreeMap<Pid, Errno>,
    queue_errors: BTreeMap<QueueId, Errno>,
    queues: BTreeMap<QueueId, QueueStatus>,
    /// What happens between a look at a queue and the unmap.
    work_arrives: bool,
    /// What a broken driver does in its next batch.
    panics: u32,
    /// Opens an online window while waves are counted, between decision and deed.
    window_opens: Option<Arc<Claims>>,
    window: Option<Window>,
    without_swap: bool,
    attached: u32,
    wave_looks: u32,
    calls: Vec<(&'static str, usize)>,
}

#[derive(Debug, Default)]
struct Fake(Mutex<World>);

impl Fake {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Fake {
    fn open(&self, _: &str) -> SysResult<RawFile> {
        Err(Errno::ENOSYS)
    }
    fn ioctl(&self, _: RawFile, _: u32, _: &mut [u8], _: &mut [Array<'_>]) -> SysResult<i32> {
        Err(Errno::ENOSYS)
    }
    fn read(&self, _: RawFile, _: &mut [u8]) -> SysResult<usize> {
        Err(Errno::ENOSYS)
    }
    fn write(&self, _: RawFile, _: &[u8]) -> SysResult<usize> {
        Err(Errno::ENOSYS)
    }
    fn poll(&self, _: RawFile) -> SysResult<Readiness> {
        Err(Errno::ENOSYS)
    }
    fn close(&self, _: RawFile) {}
    fn abandon(&self, _: RawFile) {}
    fn read_text(&self, path: &str) -> SysResult<String> {
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            [.., "topology", "generation_id"] => Ok("1\n".to_owned()),
            [.., "nodes", node, "gpu_id"] => Ok(format!("{}\n", self.world().gpus[node.parse::<usize>().unwrap()].0)),
            [.., "nodes", _, "properties"] => Ok(String::new()),
            [_, "proc", pid, "status"] if pid != "self" => Ok(format!("Uid:\t0\t0\t0\t0\nNSpid:\t{pid}\n")),
            [_, "proc", pid, "comm"] if pid != "2" => Ok("train\n".to_owned()),
            _ => Err(Errno::ENOENT),
        }
    }
    fn list(&self, path: &str) -> SysResult<Vec<String>> {
        let world = self.world();
        match path {
            "/sys/class/kfd/kfd/topology/nodes" => Ok((0..world.gpus.len()).map(|node| node.to_string()).collect()),
            "/sys/class/kfd/kfd/proc" => Ok(world.pids.iter().map(Pid::to_string).collect()),
            _ => Err(Errno::ENOENT),
        }
    }
    fn identity(&self) -> Identity {
        Identity { pid: 1, euid: 0 }
    }
    fn trace(&self, _: Pid) -> SysResult<()> {
        Err(Errno::ENOSYS)
    }
    fn untrace(&self, _: Pid) -> SysResult<()> {
        Err(Errno::ENOSYS)
    }
    fn now(&self) -> Duration {
        self.world().now
    }
    fn sleep(&self, _: Duration) {}
    fn park(&self, _: &Arc<Alarm>, _: Option<Duration>) -> Wake {
        Wake::Rung
    }
    fn describe(&self) -> String {
        String::new()
    }
    fn cost_model(&self) -> Option<String> {
        None
    }
}

impl World {
    fn name(&mut self, selectors: &[Selector], preempt: bool) -> Vec<Outcome> {
        let mut name = |selector: &Selector| {
            let queue = QueueId { pid: selector.pid, id: selector.queue.expect("the monitor names single queues") };
            let errno = self.queue_errors.get(&queue).copied();
            let status = self.queues.get_mut(&queue).unwrap();
            if errno.is_none() && !(preempt && selector.if_idle && self.work_arrives) {
                status.state.set(QueueState::PREEMPTED | QueueState::MINE, preempt);
                status.state.set(QueueState::ACTIVE, !preempt);
            }
            Outcome { selector: *selector, errno, queues: 1, state: status.state }
        };
        selectors.iter().map(&mut name).collect()
    }

    fn batch(&mut self, call: &'static str, unmap: &[Selector], remap: &[Selector]) -> Result<Batch> {
        assert!(unmap.len() + remap.len() <= MOST, "the kernel takes no more in one call");
        self.calls.push((call, unmap.len() + remap.len()));
        if self.panics > 0 {
            self.panics -= 1;
            panic!("a driver that is broken");
        }
        let mut outcomes = self.name(unmap, true);
        outcomes.extend(self.name(remap, false));
        Ok(Batch { outcomes, ..Batch::default() })
    }
}

impl Driver for Fake {
    fn tier(&self) -> Tier {
        Tier::Patched
    }
    fn capabilities(&self) -> Capabilities {
        if self.world().without_swap { Capabilities::all() - Capabilities::SWAP } else { Capabilities::all() }
    }
    fn max_hold(&self) -> Option<Duration> {
        None
    }
    fn max_batch(&self) -> usize {
        MOST
    }
    fn attach(&self, pid: Pid) -> Result<u32> {
        let mut world = self.world();
        world.attached += 1;
        world.process_errors.remove(&pid);
        Ok(0)
    }
    fn detach(&self, _: Pid) -> Result<()> {
        Ok(())
    }
    fn unmap(&self, selectors: &[Selector], _: Duration) -> Result<Batch> {
        self.world().batch("unmap", selectors, &[])
    }
    fn remap(&self, selectors: &[Selector]) -> Result<Batch> {
        self.world().batch("remap", &[], selectors)
    }
    fn swap(&self, unmap: &[Selector], remap: &[Selector], _: Duration) -> Result<Batch> {
        self.world().batch("swap", unmap, remap)
    }
    fn set_policy(&self, _: Selector, _: PolicyFlags, _: PolicyFlags) -> Result<PolicyFlags> {
        Err(Error::new("", Errno::ENOSYS))
    }
    fn set_reservation(&self, _: GpuId, _: u32, _: u32) -> Result<Reservation> {
        Err(Error::new("", Errno::ENOSYS))
    }
    fn node_status(&self, gpu: GpuId) -> Result<HqdStatus> {
        let world = self.world();
        match world.node_errors.get(&gpu) {
            Some(&errno) => Err(Error::new("reading queue slots", errno).on(gpu)),
            None => Ok(HqdStatus { total: 24, free: world.free, nodes: 1, ..HqdStatus::default() }),
        }
    }
    fn queue_status(&self, selector: Selector, want: Want) -> Result<Vec<QueueStatus>> {
        let mut world = self.world();
        if let Some(&errno) = world.process_errors.get(&selector.pid) {
            return Err(Error::new("reading queue status", errno).on(selector));
        }
        world.wave_looks += u32::from(want.waves);
        if want.waves
            && let Some(claims) = world.window_opens.take()
        {
            world.window = Some(claims.window(&[Selector::process(PID)]));
        }
        let named = |status: &&QueueStatus| {
            status.queue.pid == selector.pid && selector.queue.is_none_or(|id| id == status.queue.id)
        };
        let tell = |status: &QueueStatus| QueueStatus { waves: status.waves.filter(|_| want.waves), ..*status };
        Ok(world.queues.values().filter(named).map(tell).collect())
    }
    fn events(&self) -> Result<Vec<Event>> {
        Ok(Vec::new())
    }
    fn abandon(&self) {}
}

struct Scene {
    fake: Arc<Fake>,
    claims: Arc<Claims>,
    engine: Engine,
}

impl Scene {
    /// A low node with so many idle offline queues of one process.
    fn new(count: u32) -> Scene {
        let world = World { gpus: vec![GPU], pids: vec![PID], ..World::default() };
        let fake = Arc::new(Fake(Mutex::new(world)));
        let claims = Claims::new();
        let rule = Rule { idle_for: Duration::from_secs(1), clean: true, lazy: false, renew_after: None };
        let engine = Engine::new(fake.clone(), fake.clone(), claims.clone(), rule, Watch::new(0.25, 0.5));
        let scene = Scene { fake, claims, engine };
        (0..count).for_each(|id| scene.add(QueueId { pid: PID, id }));
        scene
    }

    fn add(&self, queue: QueueId) {
        let status = QueueStatus {
            queue,
            gpu: GPU,
            kind: QueueType::Compute,
            state: QueueState::ACTIVE,
            policy: PolicyFlags::PREEMPTIBLE,
            priority: Some(7),
            percent: Some(100),
            ring_base: 0,
            pointers: Some((8, 8)),
            waves: Some(0),
            held: Duration::ZERO,
        };
        self.fake.world().queues.insert(queue, status);
    }

    fn set(&self, id: u32, change: impl FnOnce(&mut QueueStatus)) {
        change(self.fake.world().queues.get_mut(&QueueId { pid: PID, id }).unwrap());
    }

    /// A second passes.
    fn look(&mut self) -> MonitorReport {
        let now = self.fake.world().now;
        self.engine.look(now);
        self.fake.world().now += Duration::from_secs(1);
        self.engine.take_report()
    }

    fn calls(&self) -> Vec<(&'static str, usize)> {
        std::mem::take(&mut self.fake.world().calls)
    }

    fn held(&self) -> usize {
        self.fake.world().queues.values().filter(|status| status.state.contains(QueueState::PREEMPTED)).count()
    }
}

fn ids(queues: &[QueueId]) -> Vec<u32> {
    queues.iter().map(|queue| queue.id).collect()
}

#[test]
fn equal_pointers_with_live_waves_are_not_idle() {
    let mut scene = Scene::new(2);
    scene.set(1, |status| status.waves = Some(64));
    scene.look();
    assert_eq!(scene.fake.world().wave_looks, 0, "slow, so only candidates are asked");
    assert_eq!(ids(&scene.look().cleaned), [0]);
    assert_eq!(scene.fake.world().wave_looks, 2);
    scene.set(1, |status| status.waves = None);
    scene.look();
    assert_eq!(ids(&scene.look().cleaned), [0; 0], "nor are waves that cannot be counted");
}

#[test]
fn work_that_arrives_between_look_and_unmap_keeps_the_queue_mapped() {
    let mut scene = Scene::new(1);
    scene.fake.world().work_arrives = true;
    scene.look();
    assert_eq!(scene.look().cleaned, []);
    assert_eq!(scene.calls(), [("unmap", 1)]);
    assert!(!scene.engine.holds());
}

#[test]
fn a_window_that_opens_between_decision_and_deed_is_respected() {
    let mut scene = Scene::new(1);
    scene.look();
    scene.fake.world().window_opens = Some(scene.claims.clone());
    assert_eq!(scene.look().cleaned, []);
    assert_eq!(scene.calls(), []);
    scene.fake.world().window = None;
    assert_eq!(ids(&scene.look().cleaned), [0]);
}

#[test]
fn leaving_and_coming_queues_share_one_round() {
    for (without_swap, calls) in [(false, vec![("swap", 2)]), (true, vec![("remap", 1), ("unmap", 1)])] {
        let mut scene = Scene::new(2);
        scene.fake.world().without_swap = without_swap;
        scene.set(1, |status| status.pointers = Some((0, 8)));
        scene.look();
        scene.look();
        scene.set(1, |status| status.pointers = Some((8, 8)));
        scene.look();
        scene.calls();
        scene.set(0, |status| status.pointers = Some((8, 16)));
        let report = scene.look();
        assert_eq!((ids(&report.cleaned), ids(&report.restored)), (vec![1], vec![0]));
        assert_eq!(scene.calls(), calls);
    }
}

#[test]
fn more_queues_than_one_call_takes_go_in_several() {
    let mut scene = Scene::new(150);
    scene.look();
    assert_eq!(scene.look().cleaned.len(), 150);
    assert_eq!(scene.calls(), [("unmap", 100), ("unmap", 50)]);
    scene.engine.restore();
    assert_eq!(scene.calls(), [("remap", 100), ("remap", 50)]);
    assert_eq!(scene.held(), 0);
}

#[test]
fn a_node_that_fails_is_reported_and_the_others_are_watched() {
    let mut scene = Scene::new(0);
    scene.fake.world().gpus = vec![GPU, OTHER_GPU];
    scene.fake.world().node_errors.insert(GPU, Errno::EIO);
    let report = scene.look();
    assert_eq!(report.nodes.iter().map(|node| node.gpu).collect::<Vec<_>>(), [OTHER_GPU]);
    assert_eq!(report.errors.iter().map(Error::errno).collect::<Vec<_>>(), [Errno::EIO]);
    assert_eq!((report.alerts.len(), report.total.total), (1, 24));
    scene.fake.world().node_errors.clear();
    let report = scene.look();
    assert_eq!((report.nodes.len(), report.errors.len()), (2, 0));
    assert_eq!(report.alerts.iter().map(|alert| alert.gpu).collect::<Vec<_>>(), [GPU]);
}

#[test]
fn another_users_process_is_passed_over_in_silence() {
    let mut scene = Scene::new(1);
    scene.fake.world().pids.push(99);
    scene.fake.world().process_errors.insert(99, Errno::EPERM);
    scene.look();
    let report = scene.look();
    assert_eq!((report.cleaned.len(), report.errors.len()), (1, 0));
}

#[test]
fn a_process_that_cannot_be_read_once_keeps_its_holds() {
    let mut scene = Scene::new(1);
    scene.look();
    scene.look();
    scene.fake.world().process_errors.insert(PID, Errno::EIO);
    assert_eq!(scene.look().errors.len(), 1);
    scene.fake.world().process_errors.clear();
    scene.set(0, |status| status.pointers = Some((8, 16)));
    assert_eq!(ids(&scene.look().restored), [0]);
}

#[test]
fn a_process_that_got_the_pid_of_a_dead_one_is_attached_anew() {
    let mut scene = Scene::new(1);
    scene.fake.world().process_errors.insert(PID, Errno::ESRCH);
    scene.look();
    assert_eq!(scene.fake.world().attached, 1);
    assert_eq!(ids(&scene.look().cleaned), [0]);
}

#[test]
fn mapping_is_tried_again_after_a_reset_of_the_node_but_not_of_the_queue() {
    for (errno, tries) in [(Errno::EIO, 3), (Errno::ETIME, 3), (Errno::EACCES, 1)] {
        let mut scene = Scene::new(1);
        scene.look();
        scene.look();
        scene.calls();
        scene.set(0, |status| status.pointers = Some((8, 16)));
        scene.fake.world().queue_errors.insert(QueueId { pid: PID, id: 0 }, errno);
        let first = scene.look();
        assert_eq!(first.errors.iter().map(Error::errno).collect::<Vec<_>>(), [errno]);
        assert!(first.errors[0].to_string().contains("queue 0 of pid 4711"), "{}", first.errors[0]);
        scene.look();
        scene.look();
        assert_eq!(scene.calls().len(), tries, "{errno}");
    }
}

#[test]
fn stopping_leaves_what_an_online_window_holds_to_its_owner() {
    let mut scene = Scene::new(2);
    scene.look();
    scene.look();
    let window = scene.claims.window(&[Selector { gpu: GPU, ..Selector::queue(QueueId { pid: PID, id: 1 }) }]);
    scene.engine.restore();
    assert_eq!(scene.held(), 1);
    assert!(scene.claims.cleaned().is_empty(), "so the owner maps it at the window's end");
    drop(window);
}

#[test]
fn a_monitor_that_panics_leaves_nothing_unmapped_and_claims_nothing() {
    // Once: the monitor's batch; twice: what it does about it, too.
    for (panics, held) in [(1, 0), (2, 1)] {
        let mut scene = Scene::new(1);
        scene.look();
        scene.look();
        assert_eq!((scene.held(), scene.claims.cleaned().len()), (1, 1));
        scene.set(0, |status| status.pointers = Some((8, 16)));
        scene.fake.world().panics = panics;
        let Scene { fake, claims, mut engine } = scene;
        let thread = std::thread::spawn(move || engine.look(Duration::from_secs(2)));
        assert!(thread.join().is_err());
        assert_eq!(claims.cleaned().len(), 0, "or a window would leave the queue to a monitor that no longer is");
        let preempted = |status: &&QueueStatus| status.state.contains(QueueState::PREEMPTED);
        assert_eq!(fake.world().queues.values().filter(preempted).count(), held);
    }
}
