//! The queues of one process: what their program wants, what a scheduler wants, and what the kernel has.
//!
//! UPDATE_QUEUE replaces ring, percentage and priority all at once, so the book keeps all of them. While a queue is held,
//! what the program sets goes to the kernel with percentage 0 in its place: the kernel checks and keeps ring and priority
//! as always, and the percentage follows when the queue is restored. A CU mask never passes through here: the kernel keeps
//! it in the MQD of a stopped queue.

use std::collections::BTreeMap;
use std::mem::offset_of;

use gpreempt_sys::{
    KFD_MAX_QUEUE_PERCENTAGE, kfd_ioctl_create_queue_args, kfd_ioctl_destroy_queue_args, kfd_ioctl_update_queue_args,
};
use nix::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

/// The seam below: this process's own commands to KFD.
pub trait Kfd {
    /// `AMDKFD_IOC_UPDATE_QUEUE`.
    ///
    /// # Errors
    /// What the kernel answers.
    fn update_queue(&mut self, args: &kfd_ioctl_update_queue_args) -> Result<(), Errno>;

    /// The 64-bit values at two addresses of this process, None where they cannot be read.
    fn pointers(&mut self, read: u64, write: u64) -> Option<(u64, u64)>;
}

/// Percent within a percentage word; the bits above name the XCC that runs PM4.
const PERCENT: u32 = 0xff;

/// One queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Topology gpu_id.
    pub gpu_id: u32,
    /// `KFD_IOC_QUEUE_TYPE_*`.
    pub kind: u32,
    /// What the program wants: ring, percentage and priority.
    pub wanted: kfd_ioctl_update_queue_args,
    /// Address of the read pointer.
    pub read_pointer: u64,
    /// Address of the write pointer.
    pub write_pointer: u64,
    /// A scheduler holds it, since then (ns).
    pub held: Option<u64>,
    /// The kernel has percentage 0 by our doing, or may have.
    pub off: bool,
    /// The program is destroying it.
    dying: bool,
    /// Tells it from a later queue with its id.
    serial: u64,
}

impl Queue {
    /// Whether it would run if nobody held it.
    pub fn is_wanted(&self) -> bool {
        self.wanted.queue_percentage & PERCENT != 0 && self.wanted.ring_base_address != 0
    }
}

/// Names queues of the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// These.
    Ids(&'a [u32]),
    /// All.
    All,
}

/// What was done to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub queue_id: u32,
    /// Its node, 0 where there is no such queue.
    pub gpu_id: u32,
    /// None: it is in the wanted state.
    pub errno: Option<Errno>,
}

/// A CREATE_QUEUE of the program on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Creating {
    percentage: u32,
    held: bool,
}

/// An UPDATE_QUEUE of the program on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Updating {
    asked: kfd_ioctl_update_queue_args,
    replaced: bool,
}

/// The queues of one process.
#[derive(Clone, Debug, Default)]
pub struct Book {
    queues: BTreeMap<u32, Queue>,
    /// Nodes on which queues that are created start held; 0 = all.
    hold_new: Vec<u32>,
    serial: u64,
    rounds: u32,
}

/// The start of an argument as one of the kernel's structs: programs built with older headers pass a shorter one.
fn load<T: FromBytes + IntoBytes + Default>(bytes: &[u8]) -> T {
    let mut value = T::default();
    let length = bytes.len().min(size_of::<T>());
    value.as_mut_bytes()[..length].copy_from_slice(&bytes[..length]);
    value
}

fn store(bytes: &mut [u8], offset: usize, value: u32) {
    if let Some(field) = bytes.get_mut(offset..offset + size_of::<u32>()) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
}

/// Off the hardware, the rest as it is.
fn without_percent(percentage: u32) -> u32 {
    percentage & !PERCENT
}

/// Whether the kernel would take this percentage; what it refuses has to reach it as it is.
fn is_percent(percentage: u32) -> bool {
    (1..=KFD_MAX_QUEUE_PERCENTAGE).contains(&(percentage & PERCENT))
}

impl Book {
    // --- what the program does ------------------------------------------------------------------------------------

    /// Before the program's CREATE_QUEUE: a queue that is to start held is created with percentage 0.
    pub fn creating(&self, argument: &mut [u8]) -> Creating {
        let args: kfd_ioctl_create_queue_args = load(argument);
        let held = self.holds_new(args.gpu_id);
        if held && is_percent(args.queue_percentage) {
            let percentage = without_percent(args.queue_percentage);
            store(argument, offset_of!(kfd_ioctl_create_queue_args, queue_percentage), percentage);
        }
        Creating { percentage: args.queue_percentage, held }
    }

    /// After it: the program gets its own percentage back. True where the queue starts held.
    pub fn created(&mut self, creating: Creating, argument: &mut [u8], answer: Result<(), Errno>, now: u64) -> bool {
        store(argument, offset_of!(kfd_ioctl_create_queue_args, queue_percentage), creating.percentage);
        if answer.is_err() {
            return false;
        }
        let args: kfd_ioctl_create_queue_args = load(argument);
        self.serial += 1;
        let mut queue = Queue {
            gpu_id: args.gpu_id,
            kind: args.queue_type,
            wanted: kfd_ioctl_update_queue_args {
                ring_base_address: args.ring_base_address,
                queue_id: args.queue_id,
                ring_size: args.ring_size,
                queue_percentage: creating.percentage,
                queue_priority: args.queue_priority,
            },
            read_pointer: args.read_pointer_address,
            write_pointer: args.write_pointer_address,
            held: creating.held.then_some(now),
            off: false,
            dying: false,
            serial: self.serial,
        };
        queue.off = creating.held && queue.is_wanted();
        self.queues.insert(args.queue_id, queue);
        creating.held
    }

    /// Before the program's UPDATE_QUEUE: a held queue keeps percentage 0.
    pub fn updating(&self, argument: &mut [u8]) -> Updating {
        let asked: kfd_ioctl_update_queue_args = load(argument);
        let held = self.queues.get(&asked.queue_id).is_some_and(|queue| queue.held.is_some());
        let replaced = held && is_percent(asked.queue_percentage);
        if replaced {
            let percentage = without_percent(asked.queue_percentage);
            store(argument, offset_of!(kfd_ioctl_update_queue_args, queue_percentage), percentage);
        }
        Updating { asked, replaced }
    }

    /// After it.
    pub fn updated(&mut self, updating: Updating, argument: &mut [u8], answer: Result<(), Errno>) {
        store(argument, offset_of!(kfd_ioctl_update_queue_args, queue_percentage), updating.asked.queue_percentage);
        if answer.is_ok()
            && let Some(queue) = self.queues.get_mut(&updating.asked.queue_id)
        {
            queue.wanted = updating.asked;
            queue.off = updating.replaced && queue.is_wanted();
        }
    }

    /// Before the program's DESTROY_QUEUE, during which others may stop and restore; names the queue for
    /// [`Book::destroyed`].
    pub fn destroying(&mut self, argument: &[u8]) -> Option<(u32, u64)> {
        let id = load::<kfd_ioctl_destroy_queue_args>(argument).queue_id;
        let queue = self.queues.get_mut(&id)?;
        queue.dying = true;
        Some((id, queue.serial))
    }

    /// After it. Another thread may have got a queue with the same id in the meantime.
    pub fn destroyed(&mut self, (id, serial): (u32, u64), answer: Result<(), Errno>) {
        let Some(queue) = self.queues.get_mut(&id).filter(|queue| queue.serial == serial) else { return };
        match answer {
            // A destroy whose preemption timed out has freed the queue all the same.
            Ok(()) | Err(Errno::ETIME) => drop(self.queues.remove(&id)),
            Err(_) => queue.dying = false,
        }
    }

    // --- what a scheduler does ------------------------------------------------------------------------------------

    /// Takes queues off the hardware and holds them. After an answer that means trouble with a node, the node is left
    /// alone for the rest of the call.
    pub fn stop(&mut self, which: Which<'_>, gpu: u32, kfd: &mut dyn Kfd, now: u64) -> Vec<Outcome> {
        self.each(which, gpu, |queue, rounds| {
            if queue.held.is_none() && queue.is_wanted() {
                let off = kfd_ioctl_update_queue_args {
                    queue_percentage: without_percent(queue.wanted.queue_percentage),
                    ..queue.wanted
                };
                *rounds += 1;
                if let Err(errno) = kfd.update_queue(&off) {
                    let gone = errno == Errno::EFAULT && queue.dying;
                    // The kernel takes the values before it fails to apply them: they are put right with the next restore.
                    queue.off |= !matches!(errno, Errno::EFAULT | Errno::EINVAL);
                    return Err(if gone { Errno::ENOENT } else { errno });
                }
                queue.off = true;
            }
            queue.held.get_or_insert(now);
            Ok(())
        })
    }

    /// Lets go of queues and brings them back to what their program wants.
    pub fn restore(&mut self, which: Which<'_>, gpu: u32, kfd: &mut dyn Kfd) -> Vec<Outcome> {
        self.each(which, gpu, |queue, rounds| {
            queue.held = None;
            if queue.off && queue.is_wanted() {
                *rounds += 1;
                match kfd.update_queue(&queue.wanted) {
                    Err(Errno::EFAULT) if queue.dying => return Err(Errno::ENOENT),
                    Err(errno) => return Err(errno),
                    Ok(()) => {}
                }
            }
            queue.off = false;
            Ok(())
        })
    }

    /// Lets go of everything; as [`Book::settle`].
    pub fn release(&mut self, kfd: &mut dyn Kfd) -> bool {
        self.queues.values_mut().for_each(|queue| queue.held = None);
        self.settle(kfd)
    }

    /// Brings back what should run and does not, because an earlier restore failed. True where nothing is left that
    /// trying again may help.
    pub fn settle(&mut self, kfd: &mut dyn Kfd) -> bool {
        let left: Vec<u32> =
            self.queues.iter().filter(|(_, queue)| queue.off && queue.held.is_none()).map(|(&id, _)| id).collect();
        let outcomes = self.restore(Which::Ids(&left), 0, kfd);
        // A queue that was reset never runs again, and asking for it leaves its node without a runlist on a stock kernel.
        outcomes.iter().all(|outcome| matches!(outcome.errno, None | Some(Errno::EACCES | Errno::ENOENT)))
    }

    /// Queues that are created from now on start held (on one node, or with 0 on all), or no longer do.
    pub fn hold_new(&mut self, gpu: u32, hold: bool) {
        self.hold_new.retain(|&node| node != gpu && (gpu != 0 || hold));
        if hold {
            self.hold_new.push(gpu);
        }
    }

    /// Whether a queue that is created there now would start held; with 0: on any node.
    pub fn holds_new(&self, gpu: u32) -> bool {
        self.hold_new.iter().any(|&node| node == 0 || gpu == 0 || node == gpu)
    }

    /// Whether a scheduler holds any queue.
    pub fn holds_any(&self) -> bool {
        self.queues.values().any(|queue| queue.held.is_some())
    }

    /// The queues by id.
    pub fn queues(&self) -> &BTreeMap<u32, Queue> {
        &self.queues
    }

    /// UPDATE_QUEUEs that this book made so far; each costs its node a round.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Does something to each named queue, node by node as long as the node is well.
    fn each(
        &mut self,
        which: Which<'_>,
        gpu: u32,
        mut act: impl FnMut(&mut Queue, &mut u32) -> Result<(), Errno>,
    ) -> Vec<Outcome> {
        let here = |queue: &Queue| gpu == 0 || queue.gpu_id == gpu;
        let ids: Vec<u32> = match which {
            Which::Ids(ids) => ids.to_vec(),
            Which::All => self.queues.iter().filter(|(_, queue)| here(queue)).map(|(&id, _)| id).collect(),
        };
        let mut sick: Vec<(u32, Errno)> = Vec::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(queue) = self.queues.get_mut(&id).filter(|queue| here(queue)) else {
                outcomes.push(Outcome { queue_id: id, gpu_id: 0, errno: Some(Errno::ENOENT) });
                continue;
            };
            let known = sick.iter().find(|(node, _)| *node == queue.gpu_id);
            let done = known.map_or_else(|| act(queue, &mut self.rounds), |&(_, errno)| Err(errno));
            let errno = done.err();
            if let Some(errno @ (Errno::EIO | Errno::ETIME | Errno::EACCES)) = errno {
                sick.push((queue.gpu_id, errno));
            }
            outcomes.push(Outcome { queue_id: id, gpu_id: queue.gpu_id, errno });
        }
        outcomes
    }
}
