//! What a C call on one queue and on 64 queues adds to the cost of the system call it makes.
//!
//! Both sides unmap queues that are unmapped already, so that no time passes on the simulated machine: once through
//! `gpreempt_batch_unmap_queues()`, once as the bare ioctl at the seam. Calls alternate, so that both meet the same
//! machine; the medians are compared.
#![allow(unsafe_code, reason = "calls the C functions")]

use std::fmt::Write as _;
use std::fs;
use std::mem::offset_of;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpreempt::host::{Array, Host, RawFile};
use gpreempt::{GpuId, SessionBuilder};
use gpreempt_poc_v2::{
    GPREEMPT_QUEUE_PREEMPTIBLE, gpreempt_batch_unmap_queues, gpreempt_poc_cleanup, gpreempt_poc_init,
    gpreempt_register_queue, gpreempt_set_queue_policy,
};
use gpreempt_sys::gpreempt::{
    AMDKFD_IOC_BATCH_UNMAP_QUEUES, AMDKFD_IOC_GPREEMPT_ATTACH, AMDKFD_IOC_GPREEMPT_OPEN, AMDKFD_IOC_SET_QUEUE_POLICY,
    KFD_GPREEMPT_ABI_VERSION, KFD_GPREEMPT_ALL_QUEUES, KFD_GPREEMPT_POLICY_PREEMPTIBLE, kfd_gpreempt_entry,
    kfd_ioctl_batch_unmap_args, kfd_ioctl_gpreempt_attach_args, kfd_ioctl_gpreempt_open_args,
    kfd_ioctl_queue_policy_args,
};
use zerocopy::IntoBytes;

const PID: u32 = 43001;
const QUEUES: u32 = 64;
const CALLS: usize = 20_000;

fn main() {
    let scenario = scenario();
    // SAFETY: no other thread is there to read the environment.
    unsafe {
        std::env::set_var("GPREEMPT_BACKEND", "sim");
        std::env::set_var("GPREEMPT_SIM_CLOCK", "virtual");
        std::env::set_var("GPREEMPT_SIM_SCENARIO", &scenario);
    }
    let handles = through_c();
    let seam = Seam::open();
    for count in [1, QUEUES] {
        let (mut of_c, mut of_seam) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
        for _ in 0..CALLS {
            let start = Instant::now();
            // SAFETY: the handles outlive the call, and there are at least `count`.
            let result = unsafe { gpreempt_batch_unmap_queues(handles.as_ptr(), count, 0) };
            of_c.push(start.elapsed());
            assert_eq!(result, 0);
            of_seam.push(seam.unmap(count));
        }
        let (c, seam) = (median(of_c), median(of_seam));
        println!(
            "C call, {count} queues: p50 of {CALLS} {:.2} us, of which the seam {:.2} us, added {:.2} us \
             (measured on the simulated machine)",
            us(c),
            us(seam),
            us(c.saturating_sub(seam)),
        );
    }
    assert_eq!(gpreempt_poc_cleanup(), 0);
}

/// One process with as many queues as the call takes, and nothing for them to do.
fn scenario() -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("call.toml");
    let mut text = format!("name = \"call\"\nabout = \"{QUEUES} idle queues of one process.\"\n\n");
    write!(text, "[[process]]\nname = \"python3\"\npid = {PID}\n\n").expect("a String takes all");
    write!(text, "[[process.queue]]\nnodes = [0]\ncount = {QUEUES}\n").expect("a String takes all");
    fs::write(&path, text).expect("the target folder is writable");
    path.to_str().expect("the path is UTF-8").to_owned()
}

fn through_c() -> Vec<u32> {
    assert_eq!(gpreempt_poc_init(), 0);
    let mut handles = vec![0; QUEUES as usize];
    for (id, handle) in (0..QUEUES).zip(&mut handles) {
        // SAFETY: the handle outlives the call.
        assert_eq!(unsafe { gpreempt_register_queue(PID, id, 0, handle) }, 0);
        assert_eq!(gpreempt_set_queue_policy(*handle, GPREEMPT_QUEUE_PREEMPTIBLE), 0);
    }
    handles
}

/// A machine of its own, used without the library.
struct Seam {
    host: Arc<dyn Host>,
    lease: RawFile,
    entries: Vec<kfd_gpreempt_entry>,
}

impl Seam {
    fn open() -> Seam {
        let session = SessionBuilder::from_env().and_then(|builder| builder.open()).expect("the machine boots");
        let host = Arc::clone(session.host());
        let kfd = host.open("/dev/kfd").expect("the machine has one");
        let mut open = kfd_ioctl_gpreempt_open_args { abi_version: KFD_GPREEMPT_ABI_VERSION, ..Default::default() };
        host.ioctl(kfd, AMDKFD_IOC_GPREEMPT_OPEN, open.as_mut_bytes(), &mut []).expect("the machine is patched");
        let lease = open.lease_fd;
        let mut attach = kfd_ioctl_gpreempt_attach_args { pid: PID, ..Default::default() };
        host.ioctl(lease, AMDKFD_IOC_GPREEMPT_ATTACH, attach.as_mut_bytes(), &mut []).expect("the process is there");
        let entry = |queue_id| kfd_gpreempt_entry { target: attach.target, queue_id, ..Default::default() };
        let mut policy = kfd_ioctl_queue_policy_args {
            queue: entry(KFD_GPREEMPT_ALL_QUEUES),
            set_flags: KFD_GPREEMPT_POLICY_PREEMPTIBLE,
            ..Default::default()
        };
        host.ioctl(lease, AMDKFD_IOC_SET_QUEUE_POLICY, policy.as_mut_bytes(), &mut []).expect("nobody else marked it");
        assert!(session.status(GpuId::ALL).is_ok_and(|status| status.active >= QUEUES));
        Seam { host, lease, entries: (0..QUEUES).map(entry).collect() }
    }

    fn unmap(&self, count: u32) -> Duration {
        let mut entries = self.entries[..count as usize].to_vec();
        let mut args = kfd_ioctl_batch_unmap_args {
            num_entries: count,
            entry_size: size_of::<kfd_gpreempt_entry>() as u32,
            ..Default::default()
        };
        let field = offset_of!(kfd_ioctl_batch_unmap_args, entries_ptr);
        let mut arrays = [Array { field, bytes: entries.as_mut_bytes() }];
        let start = Instant::now();
        let result = self.host.ioctl(self.lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, args.as_mut_bytes(), &mut arrays);
        let elapsed = start.elapsed();
        assert_eq!((result, args.num_ok), (Ok(0), count));
        elapsed
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    let middle = times.len() / 2;
    *times.select_nth_unstable(middle).1
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
