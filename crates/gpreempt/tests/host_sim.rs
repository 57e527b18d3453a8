//! The simulated machine behind the seam.

mod machine;

use std::mem::offset_of;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gpreempt::host::sim::SimHost;
use gpreempt::host::{Alarm, Array, Host, Identity, Wake};
use gpreempt_sim::Work;
use gpreempt_sys::{
    AMDKFD_IOC_BATCH_UNMAP_QUEUES, AMDKFD_IOC_GPREEMPT_OPEN, KFD_GPREEMPT_ABI_VERSION, kfd_gpreempt_entry,
    kfd_ioctl_batch_unmap_args, kfd_ioctl_gpreempt_open_args,
};
use machine::*;
use nix::errno::Errno;
use zerocopy::IntoBytes;

fn open_lease(host: &SimHost) -> i32 {
    let kfd = host.open("/dev/kfd").unwrap();
    let mut args = kfd_ioctl_gpreempt_open_args { abi_version: KFD_GPREEMPT_ABI_VERSION, ..Default::default() };
    host.ioctl(kfd, AMDKFD_IOC_GPREEMPT_OPEN, args.as_mut_bytes(), &mut []).unwrap();
    args.lease_fd
}

#[test]
fn an_ioctl_reaches_only_the_arrays_that_were_handed_in() {
    let host = machine(1).guest(guest(100, [quiet(0, 1)])).boot();
    let lease = open_lease(&host);
    let mut entries = [kfd_gpreempt_entry::default(); 2];
    let outside = entries.as_ptr().addr() as u64;
    let unmap = |num_entries, entries: Option<&mut [kfd_gpreempt_entry]>| {
        let mut args = kfd_ioctl_batch_unmap_args {
            entries_ptr: outside,
            num_entries,
            entry_size: size_of::<kfd_gpreempt_entry>() as u32,
            ..Default::default()
        };
        let field = offset_of!(kfd_ioctl_batch_unmap_args, entries_ptr);
        let mut arrays: Vec<Array<'_>> =
            entries.into_iter().map(|entries| Array { field, bytes: entries.as_mut_bytes() }).collect();
        host.ioctl(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, args.as_mut_bytes(), &mut arrays)
    };
    assert_eq!(unmap(1, None), Err(Errno::EFAULT), "an address of this process that was not handed in");
    assert_eq!(unmap(3, Some(&mut entries)), Err(Errno::EFAULT), "one entry beyond the array");
    assert_eq!(unmap(1, Some(&mut entries[..1])), Ok(0));
}

#[test]
fn the_host_says_who_and_what_it_is() {
    let host = machine(2).boot();
    assert_eq!(host.identity(), Identity { pid: ME, euid: UID });
    assert_eq!(host.cost_model().as_deref(), Some("design"));
    let text = host.describe().to_lowercase();
    assert!(text.contains("mi308x") && text.contains("design"), "{text}");
    assert_eq!(host.open("/dev/nothing"), Err(Errno::ENOENT));
}

#[test]
fn time_passes_only_in_a_sleep_and_parked_threads_live_in_it() {
    let host = machine(1).boot();
    let start = host.now();
    let log = Arc::new(Mutex::new(Vec::new()));
    let alarm = Alarm::new();
    host.enlist(&alarm);
    let thread = {
        let (host, log, alarm) = (host.clone(), log.clone(), alarm.clone());
        std::thread::spawn(move || {
            let mut deadline = host.now() + ms(30);
            while host.park(&alarm, Some(deadline)) == Wake::Deadline {
                log.lock().unwrap().push(host.now());
                deadline += ms(30);
            }
        })
    };
    assert_eq!(host.now(), start);
    host.sleep(ms(100));
    assert_eq!(*log.lock().unwrap(), [start + ms(30), start + ms(60), start + ms(90)]);
    assert_eq!(host.now(), start + ms(100));
    alarm.ring();
    thread.join().unwrap();
}

#[test]
fn a_sleep_until_completion_ends_at_the_completion_and_serves_who_was_due_before() {
    let host = machine(1).guest(guest(100, [quiet(0, 1)])).boot();
    let woken = Arc::new(Mutex::new(None));
    let alarm = Alarm::new();
    host.enlist(&alarm);
    let thread = {
        let (host, woken, alarm) = (host.clone(), woken.clone(), alarm.clone());
        let deadline = host.now() + ms(2);
        std::thread::spawn(move || {
            host.park(&alarm, Some(deadline));
            *woken.lock().unwrap() = Some(host.now());
        })
    };
    let start = host.now();
    let ticket = host.machine().submit(100, 0, Work { packets: 5, packet_ns: 1_000_000, occupancy: 0.5 }).unwrap();
    let (done, at) = host.sleep_until_completion(start + Duration::from_secs(1)).unwrap();
    assert_eq!((done, at), (ticket, host.now()));
    assert!(at >= start + ms(5));
    assert_eq!(*woken.lock().unwrap(), Some(start + ms(2)));
    assert_eq!(host.sleep_until_completion(at + ms(50)), None);
    assert_eq!(host.now(), at + ms(50));
    thread.join().unwrap();
}
