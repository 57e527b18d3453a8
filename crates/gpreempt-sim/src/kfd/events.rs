//! `read`, `write` and `poll` of lease and SMI event files.

use gpreempt_sys::kfd_gpreempt_event;
use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::file::File;
use crate::lease::Lease;
use crate::machine::{FileId, Readiness, Task};
use crate::world::World;

impl World {
    pub(crate) fn read_file(&mut self, task: Task, file: FileId, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (owner, kind) = self.files.get_mut(file)?;
        match kind {
            File::Lease(lease) => {
                if owner != task {
                    return Err(Errno::EBADF);
                }
                read_events(self.leases.get_mut(lease).expect("a file's lease exists"), buffer)
            }
            File::Smi(client) => {
                if client.fifo.is_empty() {
                    return Err(Errno::EAGAIN);
                }
                let count = client.fifo.len().min(buffer.len());
                for (byte, place) in client.fifo.drain(..count).zip(buffer) {
                    *place = byte;
                }
                Ok(count)
            }
            File::Null => Ok(0),
            File::Kfd => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn write_file(&mut self, file: FileId, buffer: &[u8]) -> Result<usize, Errno> {
        match self.files.get_mut(file)?.1 {
            File::Smi(client) => {
                let mask = buffer.first_chunk::<8>().ok_or(Errno::EFAULT)?;
                client.mask = u64::from_le_bytes(*mask);
                Ok(mask.len())
            }
            File::Null => Ok(buffer.len()),
            File::Lease(_) | File::Kfd => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn poll_file(&self, task: Task, file: FileId) -> Result<Readiness, Errno> {
        let (owner, kind) = self.files.get(file)?;
        Ok(match kind {
            File::Lease(lease) => {
                let lease = &self.leases[lease];
                let dead = !lease.alive || owner != task;
                Readiness { readable: !lease.events.is_empty() && !dead, hung_up: dead }
            }
            File::Smi(client) => Readiness { readable: !client.fifo.is_empty(), hung_up: false },
            File::Kfd | File::Null => Readiness { readable: true, hung_up: false },
        })
    }
}

fn read_events(lease: &mut Lease, buffer: &mut [u8]) -> Result<usize, Errno> {
    const SIZE: usize = size_of::<kfd_gpreempt_event>();
    if !lease.alive {
        return Ok(0);
    }
    if buffer.len() < SIZE {
        return Err(Errno::EINVAL);
    }
    let mut written = 0;
    for place in buffer.chunks_exact_mut(SIZE) {
        let Some(event) = lease.events.pop_front() else { break };
        place.copy_from_slice(event.as_bytes());
        written += SIZE;
    }
    if written == 0 { Err(Errno::EAGAIN) } else { Ok(written) }
}
