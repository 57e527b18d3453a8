//! Text files: what a program that discovers queues reads.

mod kit;

use gpreempt_sim::config::Scenario;
use gpreempt_sim::{Machine, Task};
use kit::*;
use nix::errno::Errno;

#[test]
fn every_file_that_a_folder_lists_can_be_read() {
    let mut config = with_gpus(config(vec![]), 2);
    config.scenario = Scenario::builtin_default(2);
    config.caller.privileged = true;
    let machine = Machine::boot(config).unwrap();
    let me = Task { pid: ME };
    let mut folders = vec!["/sys/class/kfd/kfd".to_owned(), "/proc".to_owned(), "/sys/kernel/debug/kfd".to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for name in machine.list(me, &folder).unwrap() {
            let path = format!("{folder}/{name}");
            match machine.read_text(me, &path) {
                Err(Errno::EISDIR) => folders.push(path),
                Ok(_) => {
                    assert_eq!(machine.list(me, &path), Err(Errno::ENOTDIR), "{path}");
                    files += 1;
                }
                Err(errno) => panic!("{path}: {errno}"),
            }
        }
    }
    assert!(files > 100, "{files}");
    assert_eq!(machine.read_text(me, "/sys/module/amdgpu/version"), Err(Errno::ENOENT));
    assert_eq!(machine.read_text(me, "/proc/99999/comm"), Err(Errno::ENOENT));
}
