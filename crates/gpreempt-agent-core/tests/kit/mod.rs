//! A process with an agent on a kernel in memory that knows UPDATE_QUEUE's rules.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;

use gpreempt_agent_core::protocol::*;
use gpreempt_agent_core::{Connection, Kfd, Server};
use gpreempt_sys::*;
use nix::errno::Errno;
use zerocopy::IntoBytes;

/// What the kernel has of each queue, and what it answers next instead of doing it.
#[derive(Debug, Default)]
pub struct Kernel {
    pub queues: BTreeMap<u32, (kfd_ioctl_update_queue_args, u32)>,
    pub fail: Option<Errno>,
    pub updates: u32,
}

impl Kernel {
    pub fn runs(&self, id: u32) -> bool {
        self.queues.get(&id).is_some_and(|(args, _)| args.queue_percentage & 0xff != 0 && args.ring_base_address != 0)
    }

    fn update(&mut self, args: &kfd_ioctl_update_queue_args) -> Result<(), Errno> {
        if args.queue_percentage & 0xff > 100 || args.queue_priority > 15 {
            return Err(Errno::EINVAL);
        }
        let (queue, _) = self.queues.get_mut(&args.queue_id).ok_or(Errno::EFAULT)?;
        self.updates += 1;
        if let Some(errno) = self.fail {
            return Err(errno);
        }
        *queue = *args;
        Ok(())
    }
}

impl Kfd for Kernel {
    fn update_queue(&mut self, args: &kfd_ioctl_update_queue_args) -> Result<(), Errno> {
        self.update(args)
    }

    fn pointers(&mut self, read: u64, write: u64) -> Option<(u64, u64)> {
        Some((read + 1, write + 2))
    }
}

pub const STARTED: u64 = 77;
pub const PID: u32 = 4711;
pub const SECOND: u64 = 1_000_000_000;

/// The process: its program's calls go through the agent, as they do in a real one.
#[derive(Debug)]
pub struct Process {
    pub kernel: Kernel,
    pub server: Server,
    pub now: u64,
    sequence: u32,
}

/// A reply, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub reply: Reply,
    pub outcomes: Vec<OutcomeEntry>,
    pub queues: Vec<QueueEntry>,
}

impl Answer {
    pub fn errnos(&self) -> Vec<u32> {
        self.outcomes.iter().map(|outcome| outcome.errno).collect()
    }
}

impl Process {
    pub fn new() -> Process {
        Process { kernel: Kernel::default(), server: Server::new(PID, STARTED), now: SECOND, sequence: 0 }
    }

    // --- the program ----------------------------------------------------------------------------------------------

    /// CREATE_QUEUE on a node; None where the kernel refuses.
    pub fn create(&mut self, gpu_id: u32, percentage: u32, priority: u32) -> Option<u32> {
        let id = (0..).find(|id| !self.kernel.queues.contains_key(id)).unwrap();
        let mut args = kfd_ioctl_create_queue_args {
            ring_base_address: 0x10_0000 * u64::from(id + 1),
            ring_size: 4096,
            gpu_id,
            queue_percentage: percentage,
            queue_priority: priority,
            read_pointer_address: 0x1000,
            write_pointer_address: 0x2000,
            ..Default::default()
        };
        let asked = args;
        let creating = self.server.book().creating(args.as_mut_bytes());
        let answer = if args.queue_percentage & 0xff > 100 { Err(Errno::EINVAL) } else { Ok(()) };
        if answer.is_ok() {
            args.queue_id = id;
            let made = kfd_ioctl_update_queue_args {
                ring_base_address: args.ring_base_address,
                queue_id: id,
                ring_size: args.ring_size,
                queue_percentage: args.queue_percentage,
                queue_priority: args.queue_priority,
            };
            self.kernel.queues.insert(id, (made, gpu_id));
        }
        self.server.created(creating, args.as_mut_bytes(), answer, self.now);
        assert_eq!(args.queue_percentage, asked.queue_percentage, "the program's own struct is as it was");
        answer.ok().map(|()| id)
    }

    /// UPDATE_QUEUE with what the program says.
    pub fn update(&mut self, asked: kfd_ioctl_update_queue_args) -> Result<(), Errno> {
        let mut args = asked;
        let updating = self.server.book().updating(args.as_mut_bytes());
        let answer = self.kernel.update(&args);
        self.server.book_mut().updated(updating, args.as_mut_bytes(), answer);
        assert_eq!(args, asked, "the program's own struct is as it was");
        answer
    }

    /// UPDATE_QUEUE that changes percentage and priority alone.
    pub fn set(&mut self, id: u32, percentage: u32, priority: u32) -> Result<(), Errno> {
        let ring_base_address = 0x10_0000 * u64::from(id + 1);
        self.update(kfd_ioctl_update_queue_args {
            ring_base_address,
            queue_id: id,
            ring_size: 4096,
            queue_percentage: percentage,
            queue_priority: priority,
        })
    }

    /// DESTROY_QUEUE, with something that happens in the middle of it.
    pub fn destroy_while(&mut self, id: u32, answer: Result<(), Errno>, meanwhile: impl FnOnce(&mut Process)) {
        let args = kfd_ioctl_destroy_queue_args { queue_id: id, pad: 0 };
        let destroying = self.server.book_mut().destroying(args.as_bytes());
        if answer.is_ok() || answer == Err(Errno::ETIME) {
            self.kernel.queues.remove(&id);
        }
        meanwhile(self);
        if let Some(destroying) = destroying {
            self.server.book_mut().destroyed(destroying, answer);
        }
    }

    pub fn destroy(&mut self, id: u32) {
        self.destroy_while(id, Ok(()), |_| {});
    }

    pub fn runs(&self) -> Vec<bool> {
        self.kernel.queues.keys().map(|&id| self.kernel.runs(id)).collect()
    }

    // --- schedulers -----------------------------------------------------------------------------------------------

    pub fn ask(&mut self, from: Connection, request: Request, ids: &[u32]) -> Answer {
        self.sequence += 1;
        let request = Request { version: VERSION, sequence: self.sequence, num_ids: ids.len() as u32, ..request };
        let bytes = self.server.message(from, &message(&request, ids), self.now, &mut self.kernel);
        let (reply, rest) = parse_reply(&bytes).unwrap();
        assert_eq!((reply.version, reply.operation, reply.sequence), (VERSION, request.operation, request.sequence));
        let mut answer = Answer { reply, outcomes: Vec::new(), queues: Vec::new() };
        match request.operation {
            LIST => answer.queues = parse_entries(rest, reply.num_entries, reply.entry_size).unwrap(),
            STOP | RESTORE => answer.outcomes = parse_entries(rest, reply.num_entries, reply.entry_size).unwrap(),
            _ => {}
        }
        answer
    }

    pub fn stop(&mut self, from: Connection, ids: &[u32]) -> Answer {
        self.ask(from, Request { operation: STOP, ..Default::default() }, ids)
    }

    pub fn stop_all(&mut self, from: Connection, flags: u32) -> Answer {
        self.ask(from, Request { operation: STOP, flags: FLAG_ALL | flags, ..Default::default() }, &[])
    }

    pub fn restore(&mut self, from: Connection, ids: &[u32]) -> Answer {
        self.ask(from, Request { operation: RESTORE, ..Default::default() }, ids)
    }

    pub fn restore_all(&mut self, from: Connection) -> Answer {
        self.ask(from, Request { operation: RESTORE, flags: FLAG_ALL, ..Default::default() }, &[])
    }

    pub fn say(&mut self, from: Connection, operation: u32) -> Answer {
        self.ask(from, Request { operation, ..Default::default() }, &[])
    }

    pub fn close(&mut self, connection: Connection) {
        self.server.closed(connection, self.now, &mut self.kernel);
    }

    /// Lets time pass, as the agent's thread does: it wakes when it said that it would.
    pub fn pass(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(next) = self.server.next().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.server.tick(self.now, &mut self.kernel);
        }
        self.now = end;
    }
}
