//! In a container KFD's files name processes by pids of the host: queues are found by asking the processes that /proc shows.

mod machine;

use std::sync::Arc;
use std::time::Duration;

use gpreempt::driver::debugger::{Calls, DebuggerDriver};
use gpreempt::driver::patched::PatchedDriver;
use gpreempt::driver::tiered::TieredDriver;
use gpreempt::driver::{Driver, Selector};
use gpreempt::host::sim::SimHost;
use gpreempt::host::{Alarm, Array, Host, Identity, RawFile, Readiness, SysResult, Wake};
use gpreempt::{GpuId, PolicyFlags, Session};
use machine::*;
use nix::errno::Errno;

/// What the host adds to a pid of the container.
const OFFSET: u32 = 100_000;
const KFD_PROC: &str = "/sys/class/kfd/kfd/proc";

/// The machine as a container sees it: its own `/proc`, the host's pids in sysfs. `users`: who has `/dev/kfd` open, where
/// `/proc` tells.
#[derive(Debug)]
struct Container {
    inner: Arc<SimHost>,
    users: Option<Vec<u32>>,
}

impl Container {
    fn on_host(path: &str) -> String {
        let Some(rest) = path.strip_prefix(KFD_PROC) else { return path.to_owned() };
        let mut parts = rest.trim_start_matches('/').splitn(2, '/');
        match parts.next().and_then(|pid| pid.parse::<u32>().ok()) {
            Some(pid) => format!("{KFD_PROC}/{}/{}", pid.wrapping_sub(OFFSET), parts.next().unwrap_or_default()),
            None => path.to_owned(),
        }
    }
}

impl Host for Container {
    fn open(&self, path: &str) -> SysResult<RawFile> {
        self.inner.open(path)
    }

    fn ioctl(&self, file: RawFile, request: u32, argument: &mut [u8], arrays: &mut [Array<'_>]) -> SysResult<i32> {
        self.inner.ioctl(file, request, argument, arrays)
    }

    fn read(&self, file: RawFile, buffer: &mut [u8]) -> SysResult<usize> {
        self.inner.read(file, buffer)
    }

    fn write(&self, file: RawFile, buffer: &[u8]) -> SysResult<usize> {
        self.inner.write(file, buffer)
    }

    fn poll(&self, file: RawFile) -> SysResult<Readiness> {
        self.inner.poll(file)
    }

    fn close(&self, file: RawFile) {
        self.inner.close(file);
    }

    fn abandon(&self, file: RawFile) {
        self.inner.abandon(file);
    }

    fn read_text(&self, path: &str) -> SysResult<String> {
        match path {
            "/proc/2/comm" => Ok("bash\n".into()),
            path => self.inner.read_text(&Container::on_host(path)),
        }
    }

    fn list(&self, path: &str) -> SysResult<Vec<String>> {
        let fd_of =
            path.strip_prefix("/proc/").and_then(|rest| rest.strip_suffix("/fd")).and_then(|pid| pid.parse().ok());
        match (fd_of, &self.users) {
            (Some(pid), Some(users)) => Ok(if users.contains(&pid) { vec!["3".into()] } else { Vec::new() }),
            _ if path == KFD_PROC => {
                let pids = self.inner.list(path)?;
                Ok(pids.iter().map(|pid| (pid.parse::<u32>().unwrap() + OFFSET).to_string()).collect())
            }
            _ => self.inner.list(&Container::on_host(path)),
        }
    }

    fn link(&self, _path: &str) -> SysResult<String> {
        Ok("/dev/kfd".into())
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn trace(&self, pid: u32) -> SysResult<()> {
        self.inner.trace(pid)
    }

    fn untrace(&self, pid: u32) -> SysResult<()> {
        self.inner.untrace(pid)
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration);
    }

    fn park(&self, alarm: &Arc<Alarm>, deadline: Option<Duration>) -> Wake {
        self.inner.park(alarm, deadline)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn cost_model(&self) -> Option<String> {
        self.inner.cost_model()
    }
}

fn container(machine: Builder, users: Option<&[u32]>) -> Arc<Container> {
    let machine = machine.guest(guest(100, [busy(0, 2)])).guest(guest(200, [busy(1, 1)]));
    Arc::new(Container { inner: machine.boot(), users: users.map(<[u32]>::to_vec) })
}

#[test]
fn queues_are_found_under_the_pids_of_the_container() {
    let host = container(machine(2), None);
    let session = Session::with(host.clone(), Arc::new(PatchedDriver::open(host.clone()).unwrap()));
    let found = session.queues().unwrap();
    let names: Vec<_> = found.iter().map(|(_, info)| (info.queue.pid, info.queue.id, info.gpu)).collect();
    let (first, second) = (gpu(&host.inner, 0), gpu(&host.inner, 1));
    assert_eq!(names, [(100, 0, first), (100, 1, first), (200, 0, second)]);
    assert!(found.iter().all(|(_, info)| info.command == "train" && info.active == Some(true)));
    assert_eq!(session.register(200, 0, GpuId::ALL).unwrap(), found[2].0, "a queue has one handle");
    session.set_policy(found[2].0, PolicyFlags::PREEMPTIBLE).unwrap();
    session.unmap(&[found[2].0], Duration::ZERO).unwrap();
    assert!(!session.is_active(found[2].0).unwrap());
}

#[test]
fn only_processes_with_an_open_kfd_are_asked() {
    let host = container(machine(2), Some(&[200]));
    let session = Session::with(host.clone(), Arc::new(PatchedDriver::open(host).unwrap()));
    let pids: Vec<u32> = session.queues().unwrap().iter().map(|(_, info)| info.queue.pid).collect();
    assert_eq!(pids, [200]);
}

#[test]
fn nobody_is_debugged_only_to_be_found() {
    let host = container(machine(2).stock(), None);
    let debugger: Arc<dyn Driver> = Arc::new(DebuggerDriver::open_fixed(host.clone(), Calls::PerProcess).unwrap());
    let tiered = Arc::new(TieredDriver::new(host.clone(), vec![debugger], Vec::new()).unwrap());
    let session = Session::with(host.clone(), tiered);
    assert_eq!(session.queues().unwrap(), []);
    let other = DebuggerDriver::open_fixed(host, Calls::PerProcess).unwrap();
    assert_eq!(other.attach(100).unwrap(), 2, "no debugger was there");
    drop(other);
    session.register(100, 1, GpuId::ALL).unwrap();
    assert_eq!(session.queues().unwrap().len(), 2, "who was named is found");
}

#[test]
fn a_pid_of_the_host_proves_no_memory_of_the_process_that_has_it_here() {
    let host = container(machine(2).stock(), None);
    let driver = DebuggerDriver::open(host.clone(), Calls::PerProcess).unwrap();
    let on = |pid| driver.unmap(&[Selector::process(pid)], Duration::ZERO).unwrap().outcomes[0].errno;
    assert_eq!(on(100), Some(Errno::EOPNOTSUPP), "the second node follows, and nothing shows a VM there");
    assert_eq!(on(200), None, "no node follows");
}
