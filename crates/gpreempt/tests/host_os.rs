//! The operating system behind the seam, as far as a machine without a GPU shows it.

use std::os::fd::IntoRawFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use gpreempt::host::os::OsHost;
use gpreempt::host::{Alarm, Array, Host, Readiness, Wake};
use gpreempt_sys::{AMDKFD_IOC_GET_VERSION, AMDKFD_IOC_GPREEMPT_OPEN};
use nix::errno::Errno;

/// A recorded tree with a `/dev/kfd` that is a plain file.
fn recorded() -> (tempfile::TempDir, OsHost) {
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(tree.path().join("dev")).unwrap();
    std::fs::create_dir_all(tree.path().join("sys/nodes")).unwrap();
    std::fs::write(tree.path().join("dev/kfd"), "").unwrap();
    for name in ["10", "2", "1"] {
        std::fs::write(tree.path().join("sys/nodes").join(name), format!("node {name}\n")).unwrap();
    }
    let host = OsHost::with_root(tree.path());
    (tree, host)
}

#[test]
fn paths_are_looked_up_below_the_root_and_names_come_sorted() {
    let (_tree, host) = recorded();
    assert_eq!(host.list("/sys/nodes").unwrap(), ["1", "10", "2"]);
    assert_eq!(host.read_text("/sys/nodes/2").unwrap(), "node 2\n");
    assert_eq!(host.read_text("/sys/nodes/3"), Err(Errno::ENOENT));
    assert_eq!(host.list("/sys/nodes/1"), Err(Errno::ENOTDIR));
    assert_eq!(host.open("/dev/dri"), Err(Errno::ENOENT));
}

#[test]
fn an_ioctl_whose_argument_does_not_fit_its_number_never_reaches_the_kernel() {
    let (_tree, host) = recorded();
    let file = host.open("/dev/kfd").unwrap();
    assert_eq!(host.ioctl(file, AMDKFD_IOC_GET_VERSION, &mut [0; 8], &mut []), Err(Errno::ENOTTY), "a plain file");
    assert_eq!(host.ioctl(file, AMDKFD_IOC_GET_VERSION, &mut [0; 7], &mut []), Err(Errno::EINVAL));
    let mut bytes = [0; 4];
    let mut outside = [Array { field: 57, bytes: &mut bytes }];
    assert_eq!(host.ioctl(file, AMDKFD_IOC_GPREEMPT_OPEN, &mut [0; 64], &mut outside), Err(Errno::EINVAL));
    host.close(file);
}

#[test]
fn an_array_is_placed_by_its_address() {
    let (_tree, host) = recorded();
    let file = host.open("/dev/kfd").unwrap();
    let (mut argument, mut bytes) = ([0; 64], [0; 4]);
    let address = bytes.as_ptr().addr() as u64;
    let mut arrays = [Array { field: 16, bytes: &mut bytes }];
    assert_eq!(host.ioctl(file, AMDKFD_IOC_GPREEMPT_OPEN, &mut argument, &mut arrays), Err(Errno::ENOTTY));
    assert_eq!(argument[16..24], address.to_ne_bytes());
    host.close(file);
}

#[test]
fn reading_an_empty_pipe_answers_at_once_and_a_closed_one_hangs_up() {
    let host = OsHost::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let (reader, writer) = (reader.into_raw_fd(), writer.into_raw_fd());
    let mut buffer = [0; 8];
    assert_eq!(host.read(reader, &mut buffer), Err(Errno::EAGAIN));
    assert_eq!(host.poll(reader), Ok(Readiness::default()));
    assert_eq!(host.write(writer, b"abc"), Ok(3));
    assert_eq!(host.poll(reader), Ok(Readiness { readable: true, hung_up: false }));
    assert_eq!(host.read(reader, &mut buffer), Ok(3));
    host.close(writer);
    assert!(host.poll(reader).unwrap().hung_up);
    assert_eq!(host.read(reader, &mut buffer), Ok(0));
    host.close(reader);
    assert_eq!(host.read(-1, &mut buffer), Err(Errno::EBADF));
    assert_eq!(host.poll(-1), Err(Errno::EBADF));
}

#[test]
fn parking_ends_at_a_deadline_that_has_passed_and_at_a_ring() {
    let host = OsHost::new();
    let alarm = Alarm::new();
    assert_eq!(host.park(&alarm, Some(host.now())), Wake::Deadline);
    alarm.ring();
    assert_eq!(host.park(&alarm, Some(host.now())), Wake::Rung, "a ring is not lost");
    let (other, bell) = (host.clone(), Arc::clone(&alarm));
    let parked = std::thread::spawn(move || other.park(&bell, None));
    alarm.ring();
    assert_eq!(parked.join().unwrap(), Wake::Rung);
}

/// Ends with the test.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_was_traced_for_a_moment_runs_on() {
    let host = OsHost::new();
    let guest = Guest(Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap());
    let pid = guest.0.id();
    let state = || {
        let stat = host.read_text(&format!("/proc/{pid}/status")).unwrap();
        stat.lines().find_map(|line| line.strip_prefix("TracerPid:\t")).unwrap().to_owned()
    };
    host.trace(pid).unwrap();
    assert_ne!(state(), "0");
    host.untrace(pid).unwrap();
    assert_eq!(state(), "0");
    assert_eq!(host.untrace(pid), Err(Errno::ESRCH), "it is not traced");
    let Guest(child) = &mut { guest };
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "it was neither killed nor left stopped");
}

#[test]
fn no_pid_can_address_a_process_group() {
    let host = OsHost::new();
    for pid in [0, u32::MAX, 1 << 31] {
        assert_eq!(host.trace(pid), Err(Errno::ESRCH));
        assert_eq!(host.untrace(pid), Err(Errno::ESRCH));
    }
}

#[test]
fn the_clock_counts_from_boot() {
    let host = OsHost::new();
    let uptime: f64 = host.read_text("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
    let now = host.now();
    assert!(now >= Duration::from_secs_f64(uptime - 0.01), "{now:?} is before {uptime}");
    assert!(now < Duration::from_secs_f64(uptime) + Duration::from_secs(60), "{now:?} is long after {uptime}");
}
