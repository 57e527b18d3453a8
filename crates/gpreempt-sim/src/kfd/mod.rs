//! The driver: what each ioctl does, one file per group of commands.

mod arguments;
mod batch;
mod debug;
mod events;
mod lease;
mod memory;
mod policy;
mod smi;
mod status;
mod stock;

pub(crate) use status::{Look, Seen};

use gpreempt_sys::{AMDKFD_COMMAND_START, AMDKFD_IOC_GPREEMPT_OPEN};
use nix::errno::Errno;

use crate::call::Call;
use crate::file::File;
use crate::machine::FileId;

/// The number of a request: all that KFD's dispatcher looks at.
pub(crate) const fn number(request: u32) -> u32 {
    request & 0xff
}

/// Dispatches one ioctl.
pub(crate) fn ioctl(call: &mut Call<'_>, file: FileId, request: u32, argument: &mut [u8]) -> Result<i32, Errno> {
    call.counters.ioctls += 1;
    let entry = call.config.cost.ioctl.ns;
    let task = call.task;
    let nr = number(request);
    let (owner, kind) = call.files.get(file)?;
    match kind {
        File::Kfd => {
            let open = call.config.patched && nr == number(AMDKFD_IOC_GPREEMPT_OPEN);
            // A hole answers before the file is asked whose it is.
            if nr < AMDKFD_COMMAND_START || (!open && !stock::is_command(nr)) {
                return Err(Errno::ENOTTY);
            }
            if owner != task {
                return Err(Errno::EBADF);
            }
            call.spend(entry);
            if open { lease::open(call, argument) } else { stock::dispatch(call, nr, argument) }
        }
        File::Lease(lease) => {
            let lease = *lease;
            if owner != task || !call.lease_lives(lease) {
                return Err(Errno::EBADF);
            }
            call.leases.get_mut(&lease).expect("lives").calls += 1;
            call.spend(entry);
            let answer = lease::dispatch(call, lease, nr, argument);
            let jobs = call.leave_lease(lease);
            call.run(jobs);
            answer
        }
        File::Null | File::Smi(_) => Err(Errno::ENOTTY),
    }
}
