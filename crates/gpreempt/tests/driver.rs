//! The patched driver on the simulated machine, and what it does where there is no such driver.

mod machine;

use std::sync::Arc;
use std::time::Duration;

use gpreempt::driver::patched::PatchedDriver;
use gpreempt::driver::{Capabilities, Driver, Event, EventKind, Selector, Tier, Want};
use gpreempt::host::os::OsHost;
use gpreempt::host::{Alarm, Array, Host, Identity, RawFile, Readiness, SysResult, Wake};
use gpreempt::{ErrorKind, GpuId, PolicyFlags, QueueId, QueueState};
use gpreempt_sim::config::ProcessSpec;
use machine::*;
use nix::errno::Errno;

const NOW: Duration = Duration::ZERO;

fn queue(pid: u32, id: u32) -> Selector {
    Selector::queue(QueueId { pid, id })
}

fn preemptible(driver: &dyn Driver, pid: u32) {
    driver.set_policy(Selector::process(pid), PolicyFlags::PREEMPTIBLE, PolicyFlags::empty()).unwrap();
}

/// An emulator of /dev/kfd: every ioctl succeeds, and `fill` writes the answer.
#[derive(Debug)]
struct Emulator {
    fill: fn(&mut [u8]),
    closed: std::sync::Mutex<Vec<RawFile>>,
}

impl Host for Emulator {
    fn open(&self, _path: &str) -> SysResult<RawFile> {
        Ok(3)
    }
    fn ioctl(&self, _: RawFile, _: u32, argument: &mut [u8], _: &mut [Array<'_>]) -> SysResult<i32> {
        (self.fill)(argument);
        Ok(0)
    }
    fn read(&self, _: RawFile, _: &mut [u8]) -> SysResult<usize> {
        Err(Errno::EAGAIN)
    }
    fn write(&self, _: RawFile, _: &[u8]) -> SysResult<usize> {
        Err(Errno::EINVAL)
    }
    fn poll(&self, _: RawFile) -> SysResult<Readiness> {
        Ok(Readiness::default())
    }
    fn close(&self, file: RawFile) {
        self.closed.lock().unwrap().push(file);
    }
    fn abandon(&self, _: RawFile) {}
    fn read_text(&self, _: &str) -> SysResult<String> {
        Err(Errno::ENOENT)
    }
    fn list(&self, _: &str) -> SysResult<Vec<String>> {
        Err(Errno::ENOENT)
    }
    fn identity(&self) -> Identity {
        Identity { pid: 1, euid: 0 }
    }
    fn trace(&self, _: u32) -> SysResult<()> {
        Err(Errno::EPERM)
    }
    fn untrace(&self, _: u32) -> SysResult<()> {
        Err(Errno::ESRCH)
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) {}
    fn park(&self, _: &Arc<Alarm>, _: Option<Duration>) -> Wake {
        Wake::Deadline
    }
    fn describe(&self) -> String {
        "emulator".into()
    }
    fn cost_model(&self) -> Option<String> {
        None
    }
}

fn refused(fill: fn(&mut [u8])) -> (String, Vec<RawFile>) {
    let host = Arc::new(Emulator { fill, closed: Vec::new().into() });
    let error = PatchedDriver::open(host.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let closed = host.closed.lock().unwrap().clone();
    (error.to_string(), closed)
}

#[test]
fn an_emulator_that_answers_zero_and_fills_nothing_is_not_believed() {
    let (error, closed) = refused(|_| {});
    assert_eq!(
        error,
        "opening a preemption lease (/dev/kfd): the answer is not the series': lease_fd -1 (EOPNOTSUPP); apply the series \
         in kernel-patch/ to this kernel, or use the simulated machine (GPREEMPT_BACKEND=sim)"
    );
    assert_eq!(closed, [3], "only what was opened is closed");
}

#[test]
fn an_answer_that_is_only_half_filled_is_not_believed_and_its_fd_is_left_alone() {
    assert_eq!(refused(|bytes| bytes.fill(0)).1, [3], "fd 0 is this process's standard input");
    let (error, closed) = refused(|bytes| {
        bytes.fill(0);
        bytes[0] = 1; // abi_version
        bytes[8] = 1; // max_hold_ms
        bytes[12] = 7; // lease_fd
        bytes[16] = 1; // lease_id
        bytes[32] = 1; // max_entries
        bytes[36] = 1; // grace_max
        bytes[40] = 24; // entry_size
    });
    assert!(error.contains("entry_size 24, not 32 or more"), "{error}");
    assert_eq!(closed, [3]);
}

#[test]
fn a_stock_kernel_is_not_patched_and_says_what_helps() {
    let host = machine(1).stock().boot();
    let error = PatchedDriver::open(host).unwrap_err();
    assert_eq!(
        error.to_string(),
        "opening a preemption lease (/dev/kfd): this kernel has no gpreempt commands, it answers ENOTTY (EOPNOTSUPP); \
         apply the series in kernel-patch/ to this kernel, or use the simulated machine (GPREEMPT_BACKEND=sim)"
    );
}

#[test]
fn a_machine_without_amdkfd_has_no_device() {
    let nothing = tempfile::tempdir().unwrap();
    let error = PatchedDriver::open(Arc::new(OsHost::with_root(nothing.path()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoDevice);
    assert!(error.to_string().contains("there is no amdkfd on this machine"), "{error}");
}

#[test]
fn the_lease_says_what_it_can_do_and_how_long_it_holds() {
    let host = machine(1).boot();
    let driver = lease(&host);
    assert_eq!(driver.tier(), Tier::Patched);
    assert_eq!(driver.capabilities(), Capabilities::all());
    assert_eq!(driver.max_hold(), Some(Duration::from_secs(10)));
    let short = PatchedDriver::open_with(host.clone(), ms(500)).unwrap();
    assert_eq!(short.max_hold(), Some(ms(500)));
    let long = PatchedDriver::open_with(host, Duration::from_secs(3600)).unwrap();
    assert_eq!(long.max_hold(), Some(Duration::from_secs(10)), "the driver's default is also the maximum");
}

#[test]
fn a_batch_over_processes_and_nodes_is_one_round_per_node() {
    let host = machine(3).guest(guest(100, [busy(0, 4), busy(1, 4)])).guest(guest(200, [busy(1, 4)])).boot();
    let driver = lease(&host);
    preemptible(driver.as_ref(), 100);
    preemptible(driver.as_ref(), 200);
    let batch = driver.unmap(&[Selector::process(100), Selector::process(200)], NOW).unwrap();
    assert_eq!((batch.nodes, batch.rounds), (2, 2));
    assert_eq!(
        batch.outcomes.iter().map(|outcome| (outcome.errno, outcome.queues)).collect::<Vec<_>>(),
        [(None, 8), (None, 4)]
    );
    assert!(batch.slowest_node <= batch.elapsed);
    let one_gpu = Selector { gpu: gpu(&host, 1), ..Selector::process(100) };
    assert_eq!(driver.remap(&[one_gpu]).unwrap().outcomes[0].queues, 4);
    assert_eq!(active(driver.as_ref(), 100), [[false; 4], [true; 4]].concat());
}

#[test]
fn the_outcome_of_each_selector_is_its_own() {
    let foreign = ProcessSpec { uid: Some(UID + 1), ..guest(300, [busy(0, 1)]) };
    let host = machine(1).guest(guest(100, [busy(0, 1)])).guest(foreign).boot();
    let driver = lease(&host);
    preemptible(driver.as_ref(), 100);
    let selectors = [queue(999, 0), queue(100, 0), queue(100, 9), queue(300, 0), queue(0, 0)];
    let batch = driver.unmap(&selectors, NOW).unwrap();
    let errnos: Vec<_> = batch.outcomes.iter().map(|outcome| outcome.errno).collect();
    assert_eq!(errnos, [Some(Errno::ESRCH), None, Some(Errno::ENOENT), Some(Errno::EPERM), Some(Errno::ESRCH)]);
    assert_eq!(batch.outcomes[1].state & QueueState::PREEMPTED, QueueState::PREEMPTED);
    assert!(batch.outcomes.iter().zip(&selectors).all(|(outcome, selector)| outcome.selector == *selector));
}

#[test]
fn a_call_takes_one_to_max_entries_selectors_and_none_twice() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).boot();
    let driver = lease(&host);
    assert_eq!(driver.max_batch(), 1024);
    for count in [0, 1025] {
        let error = driver.unmap(&vec![queue(100, 0); count], NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("unmapping queues: {count} queues in one call; 1 to 1024 are allowed (EINVAL)")
        );
        assert_eq!(driver.remap(&vec![queue(100, 0); count]).unwrap_err().errno(), Errno::EINVAL);
        assert_eq!(driver.swap(&[], &vec![queue(100, 0); count], NOW).unwrap_err().errno(), Errno::EINVAL);
    }
    for twice in [[queue(100, 0), queue(100, 0)], [queue(100, 0), Selector::process(100)]] {
        assert_eq!(driver.unmap(&twice, NOW).unwrap_err().errno(), Errno::EINVAL);
    }
    assert_eq!(driver.swap(&[queue(100, 0)], &[queue(100, 0)], NOW).unwrap_err().errno(), Errno::EINVAL);
}

#[test]
fn a_swap_is_one_round() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).guest(guest(200, [busy(0, 1)])).boot();
    let driver = lease(&host);
    preemptible(driver.as_ref(), 100);
    preemptible(driver.as_ref(), 200);
    driver.unmap(&[Selector::process(100)], NOW).unwrap();
    let batch = driver.swap(&[Selector::process(200)], &[Selector::process(100)], NOW).unwrap();
    assert_eq!((batch.rounds, batch.outcomes.len()), (1, 2));
    assert_eq!((active(driver.as_ref(), 100), active(driver.as_ref(), 200)), (vec![true], vec![false]));
}

#[test]
fn a_grace_period_is_reported_as_the_hardware_counts_it() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).boot();
    let driver = lease(&host);
    preemptible(driver.as_ref(), 100);
    let mhz = gpreempt::discover::sysfs::nodes(host.as_ref()).unwrap()[0].max_engine_clk_fcompute;
    let longest = Duration::from_nanos(255 * 1_000_000 / u64::from(mhz));
    let used = |grace| {
        driver.remap(&[Selector::process(100)]).unwrap();
        driver.unmap(&[Selector::process(100)], grace).unwrap().grace
    };
    assert_eq!(used(NOW), NOW);
    let asked = Duration::from_micros(50);
    let unit = Duration::from_nanos(1_000_000 / u64::from(mhz)) + Duration::from_nanos(1);
    assert!((asked..asked + unit).contains(&used(asked)), "{:?}", used(asked));
    assert_eq!(used(ms(10)), longest);
}

#[test]
fn the_watchdog_gives_back_what_is_not_renewed_and_says_so() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).guest(guest(200, [busy(0, 1)])).boot();
    let driver = PatchedDriver::open_with(host.clone(), ms(1000)).unwrap();
    preemptible(&driver, 100);
    preemptible(&driver, 200);
    driver.unmap(&[Selector::process(100), Selector::process(200)], NOW).unwrap();
    host.sleep(ms(700));
    driver.unmap(&[Selector::process(200)], NOW).unwrap();
    host.sleep(ms(600));
    assert_eq!((active(&driver, 100), active(&driver, 200)), (vec![true], vec![false]));
    let expired: Vec<_> =
        driver.events().unwrap().into_iter().filter(|event| event.kind == EventKind::HoldExpired).collect();
    assert_eq!(expired.iter().map(|event| (event.pid, event.queue)).collect::<Vec<_>>(), [(Some(100), Some(0))]);
}

#[test]
fn events_of_targets_come_in_order() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).guest(guest(200, [quiet(0, 1)])).boot();
    let driver = lease(&host);
    assert_eq!(driver.attach(100).unwrap(), 1);
    assert_eq!(driver.events().unwrap(), []);
    let id = host.machine().create_queues(100, &quiet(0, 1)).unwrap()[0];
    host.machine().create_queues(200, &quiet(0, 1)).unwrap();
    host.machine().destroy_queue(100, id).unwrap();
    host.sleep(ms(10));
    host.machine().kill(100).unwrap();
    let seen = driver.events().unwrap();
    let about = |event: &Event| (event.kind, event.pid, event.queue, event.lost);
    assert_eq!(about(&seen[0]), (EventKind::QueueCreated, Some(100), Some(id), 0));
    assert_eq!(about(&seen[1]), (EventKind::QueueDestroyed, Some(100), Some(id), 0));
    assert_eq!(seen.last().map(about), Some((EventKind::TargetExited, Some(100), None, 0)));
    assert!(seen.iter().all(|event| event.pid == Some(100)), "200 is no target");
    assert_eq!(driver.events().unwrap(), []);
}

#[test]
fn lost_events_are_counted_on_the_next_one() {
    let host = machine(1).guest(guest(100, [quiet(0, 1)])).boot();
    let driver = lease(&host);
    driver.attach(100).unwrap();
    let happened = 4_000;
    for _ in 0..happened / 2 {
        let id = host.machine().create_queues(100, &quiet(0, 1)).unwrap()[0];
        host.machine().destroy_queue(100, id).unwrap();
        host.sleep(ms(10));
    }
    let mut seen = driver.events().unwrap();
    host.machine().create_queues(100, &quiet(0, 1)).unwrap();
    seen.extend(driver.events().unwrap());
    let lost: usize = seen.iter().map(|event| event.lost as usize).sum();
    assert!(lost > 0, "a buffer without bounds would be a leak");
    assert_eq!(seen.len() + lost, happened + 1);
}

#[test]
fn the_status_of_more_queues_than_there_was_room_for_is_complete() {
    let host = machine(1).guest(guest(100, [quiet(0, 150)])).boot();
    let driver = lease(&host);
    let told = driver.queue_status(Selector::process(100), Want { pointers: true, waves: true }).unwrap();
    let ids: Vec<u32> = told.iter().map(|status| status.queue.id).collect();
    assert_eq!(ids, (0..150).collect::<Vec<_>>());
    assert!(told.iter().all(|status| status.pointers == Some((0, 0)) && status.waves == Some(0)));
    let plain = driver.queue_status(queue(100, 7), Want::default()).unwrap();
    assert_eq!(
        plain.iter().map(|status| (status.queue.id, status.pointers, status.waves)).collect::<Vec<_>>(),
        [(7, None, None)]
    );
    assert_eq!(driver.queue_status(queue(100, 150), Want::default()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn queues_created_while_a_process_is_held_start_held() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).boot();
    let driver = lease(&host);
    preemptible(driver.as_ref(), 100);
    driver.unmap(&[Selector { hold_new: true, ..Selector::process(100) }], NOW).unwrap();
    host.machine().create_queues(100, &busy(0, 1)).unwrap();
    assert_eq!(active(driver.as_ref(), 100), [false, false]);
    driver.remap(&[Selector::process(100)]).unwrap();
    assert_eq!(active(driver.as_ref(), 100), [true, true]);
}

#[test]
fn detaching_gives_everything_of_the_target_back() {
    let own = ProcessSpec { caller: true, ..guest(ME, [quiet(0, 1)]) };
    let host = machine(1).guest(own).guest(guest(100, [busy(0, 1)])).boot();
    let driver = lease(&host);
    preemptible(driver.as_ref(), 100);
    driver.unmap(&[Selector::process(100), Selector::process(ME)], NOW).unwrap();
    driver.detach(100).unwrap();
    driver.detach(ME).unwrap();
    assert_eq!((active(driver.as_ref(), 100), active(driver.as_ref(), ME)), (vec![true], vec![true]));
    assert_eq!(driver.detach(999).unwrap_err().kind(), ErrorKind::ProcessGone);
}

#[test]
fn a_pid_stays_bound_to_its_process_until_it_is_attached_again() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).boot();
    let driver = lease(&host);
    driver.attach(100).unwrap();
    let first = driver.started(100).unwrap();
    host.machine().kill(100).unwrap();
    host.sleep(ms(20));
    host.machine().spawn(&guest(100, [busy(0, 1)])).unwrap();
    let errno = || driver.unmap(&[queue(100, 0)], NOW).unwrap().outcomes[0].errno;
    assert_eq!(errno(), Some(Errno::ESRCH));
    driver.attach(100).unwrap();
    assert!(driver.started(100).unwrap() > first);
    assert_eq!(errno(), Some(Errno::EPERM), "the later process is not PREEMPTIBLE");
    preemptible(driver.as_ref(), 100);
    let of_the_first = Selector { started: Some(first), ..queue(100, 0) };
    assert_eq!(driver.unmap(&[of_the_first], NOW).unwrap().outcomes[0].errno, Some(Errno::ESRCH));
    assert_eq!(errno(), None);
}

#[test]
fn the_exit_of_a_process_is_reported_as_its_own_after_another_got_its_pid() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).boot();
    let driver = lease(&host);
    driver.attach(100).unwrap();
    let first = driver.started(100);
    host.machine().kill(100).unwrap();
    host.sleep(ms(20));
    host.machine().spawn(&guest(100, [busy(0, 1)])).unwrap();
    driver.attach(100).unwrap();
    let second = driver.started(100);
    host.machine().kill(100).unwrap();
    let exits = driver.events().unwrap().into_iter().filter(|event| event.kind == EventKind::TargetExited);
    let exits: Vec<_> = exits.map(|event| (event.pid, event.started)).collect();
    assert_eq!(exits, [(Some(100), first), (Some(100), second)]);
    assert!(first < second);
}

#[test]
fn a_second_reservation_is_busy_and_the_first_ends_with_its_lease() {
    let host = machine(2).privileged().boot();
    let (first, second) = (lease(&host), lease(&host));
    assert_eq!(first.set_reservation(GpuId::ALL, 25, 50).unwrap().nodes, 2);
    let error = second.set_reservation(gpu(&host, 0), 0, 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("another lease has reserved slots"), "{error}");
    drop(first);
    assert_eq!(second.set_reservation(gpu(&host, 0), 0, 10).unwrap().nodes, 1);
}

#[test]
fn a_reservation_on_a_gpu_that_is_not_there_says_so() {
    let host = machine(2).privileged().boot();
    let error = lease(&host).set_reservation(GpuId(7), 0, 10).unwrap_err();
    assert_eq!(error.to_string(), "reserving queue slots (GPU 7): no such GPU (ENOENT)");
}

#[test]
fn nought_and_nought_lift_a_reservation_so_that_another_lease_may_reserve() {
    let host = machine(2).privileged().boot();
    let (first, second) = (lease(&host), lease(&host));
    first.set_reservation(GpuId::ALL, 25, 50).unwrap();
    first.set_reservation(GpuId::ALL, 0, 0).unwrap();
    assert_eq!(second.set_reservation(GpuId::ALL, 0, 10).unwrap().nodes, 2);
}

#[test]
fn pointers_of_a_running_queue_move_whether_or_not_waves_are_counted() {
    let host = machine(1).guest(guest(100, [busy(0, 1)])).boot();
    let driver = lease(&host);
    driver.attach(100).unwrap();
    for waves in [false, true] {
        let read = || {
            let statuses = driver.queue_status(Selector::process(100), Want { pointers: true, waves }).unwrap();
            statuses[0].pointers.unwrap().0
        };
        let before = read();
        host.sleep(ms(100));
        assert!(read() > before, "waves {waves}");
    }
}
