//! Is this the gpreempt KFD series? Opening a lease is the only probe.

use std::sync::Arc;
use std::time::Duration;

use gpreempt_sys::{
    AMDKFD_IOC_GPREEMPT_OPEN, KFD_GPREEMPT_ABI_VERSION, kfd_gpreempt_entry, kfd_gpreempt_event,
    kfd_gpreempt_queue_status, kfd_ioctl_gpreempt_open_args, kfd_ioctl_hqd_status_args,
};
use nix::errno::Errno;

use super::call::call;
use crate::error::{Error, Result};
use crate::host::{Host, OwnedFile};

const KFD: &str = "/dev/kfd";
const OPENING: &str = "opening a preemption lease";

/// An open lease with what the kernel said about itself.
#[derive(Debug)]
pub(super) struct Lease {
    /// `/dev/kfd`, open as long as the lease.
    pub kfd: Arc<OwnedFile>,
    /// The lease fd.
    pub file: OwnedFile,
    /// The answer to OPEN.
    pub said: kfd_ioctl_gpreempt_open_args,
}

impl Lease {
    /// Opens a lease on an open `/dev/kfd`. `max_hold`: longest hold without a heartbeat, zero = the driver's default.
    pub(super) fn open(host: &Arc<dyn Host>, kfd: Arc<OwnedFile>, max_hold: Duration) -> Result<Lease> {
        let mut said = kfd_ioctl_gpreempt_open_args {
            abi_version: KFD_GPREEMPT_ABI_VERSION,
            max_hold_ms: u32::try_from(max_hold.as_millis()).unwrap_or(u32::MAX),
            lease_fd: -1,
            ..Default::default()
        };
        call(host.as_ref(), kfd.raw(), AMDKFD_IOC_GPREEMPT_OPEN, &mut said, &mut []).map_err(no_lease)?;
        // Emulators exist that answer 0 to every number. Until the answer is believed, lease_fd is a mere number that
        // may name any file of this process, so it is not closed.
        let doubt = doubt(&said, kfd.raw());
        if let Some(doubt) = doubt {
            return Err(stock_kernel(format!("the answer is not the series': {doubt}")));
        }
        let file = OwnedFile::from_raw(host, said.lease_fd);
        Ok(Lease { kfd, file, said })
    }
}

/// Why an answer cannot be from the series.
fn doubt(said: &kfd_ioctl_gpreempt_open_args, kfd: i32) -> Option<String> {
    // A later driver may fill more than this library knows, never less; no struct is near a page.
    let fits = |bytes: u32, known: usize| (known..4096).contains(&(bytes as usize)) && bytes.is_multiple_of(8);
    let sizes = [
        ("entry_size", said.entry_size, size_of::<kfd_gpreempt_entry>()),
        ("hqd_status_size", said.hqd_status_size, size_of::<kfd_ioctl_hqd_status_args>()),
        ("queue_status_size", said.queue_status_size, size_of::<kfd_gpreempt_queue_status>()),
        ("event_size", said.event_size, size_of::<kfd_gpreempt_event>()),
    ];
    if said.abi_version == 0 {
        return Some("abi_version 0".into());
    }
    if said.lease_fd < 0 || said.lease_fd == kfd {
        return Some(format!("lease_fd {}", said.lease_fd));
    }
    if said.lease_id == 0 || said.max_entries == 0 || said.grace_max == 0 || said.max_hold_ms == 0 {
        return Some("lease_id, max_entries, grace_max or max_hold_ms is not filled".into());
    }
    let wrong = sizes.iter().find(|(_, bytes, known)| !fits(*bytes, *known));
    wrong.map(|(name, bytes, known)| format!("{name} {bytes}, not {known} or more"))
}

/// Opens `/dev/kfd`. Once per process is enough, and as few processes as can be: each exit of one that had it open costs
/// every node a round.
pub(crate) fn open_kfd(host: &Arc<dyn Host>) -> Result<Arc<OwnedFile>> {
    OwnedFile::open(host, KFD).map(Arc::new).map_err(|errno| cannot_open("opening this machine", errno))
}

/// Why `/dev/kfd` cannot be opened.
fn cannot_open(operation: &'static str, errno: Errno) -> Error {
    match errno {
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => Error::new(operation, Errno::ENODEV)
            .on(KFD)
            .because("there is no amdkfd on this machine")
            .remedy("load the amdgpu module, or use the simulated machine (GPREEMPT_BACKEND=sim)"),
        Errno::EACCES | Errno::EPERM => Error::new(operation, Errno::EPERM)
            .on(KFD)
            .because("this user may not open it")
            .remedy("add the user to the group that owns it (sudo usermod -aG render $USER, then log in again), or run as root"),
        errno => Error::new(operation, errno).on(KFD),
    }
}

fn no_lease(errno: Errno) -> Error {
    match errno {
        Errno::ENOTTY | Errno::EINVAL => {
            stock_kernel(format!("this kernel has no gpreempt commands, it answers {errno:?}"))
        }
        Errno::EBADF => Error::new(OPENING, errno)
            .on(KFD)
            .because("the file belongs to another process image (it was kept over fork or exec)"),
        errno => Error::new(OPENING, errno).on(KFD),
    }
}

fn stock_kernel(detail: String) -> Error {
    Error::new(OPENING, Errno::EOPNOTSUPP)
        .on(KFD)
        .because(detail)
        .remedy("apply the series in kernel-patch/ to this kernel, or use the simulated machine (GPREEMPT_BACKEND=sim)")
}
