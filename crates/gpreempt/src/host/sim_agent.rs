//! Agents in guests of the simulated machine: the core of the real one, on the machine's ioctls, spoken to in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use gpreempt_agent_core::{Connection, Kfd, Server, Which};
use gpreempt_sim::config::QueueSpec;
use gpreempt_sim::{Machine, Task, UserMemory};
use gpreempt_sys::{
    AMDKFD_IOC_CREATE_QUEUE, AMDKFD_IOC_DESTROY_QUEUE, AMDKFD_IOC_UPDATE_QUEUE, kfd_ioctl_create_queue_args,
    kfd_ioctl_destroy_queue_args, kfd_ioctl_update_queue_args,
};
use nix::errno::Errno;
use zerocopy::IntoBytes;

use super::sim::SimHost;
use super::{AgentAddress, AgentLink, Alarm, Host, RawFile, SysResult, Wake, spawn_background};
use crate::queue::Pid;

/// The agents of one machine.
#[derive(Debug, Default)]
pub(super) struct Agents(Mutex<BTreeMap<AgentAddress, Arc<SimAgent>>>);

impl Agents {
    pub(super) fn addresses(&self) -> Vec<AgentAddress> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn connect(&self, address: &AgentAddress) -> SysResult<Box<dyn AgentLink>> {
        let agent = self.lock().get(address).cloned().ok_or(Errno::ENOENT)?;
        if !agent.is_alive() {
            return Err(Errno::ECONNREFUSED);
        }
        let connection = agent.lock().connect();
        Ok(Box::new(Link { agent, connection, inbox: Mutex::default(), process: std::process::id() }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentAddress, Arc<SimAgent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An agent in a guest.
#[derive(Debug)]
pub struct SimAgent {
    machine: Arc<Machine>,
    task: Task,
    kfd: RawFile,
    state: Mutex<State>,
    /// Its deadline may have changed.
    alarm: Arc<Alarm>,
}

#[derive(Debug)]
struct State {
    server: Server,
    connections: Connection,
}

impl State {
    fn connect(&mut self) -> Connection {
        self.connections += 1;
        self.connections
    }
}

/// The guest's own commands.
struct GuestKfd<'a> {
    machine: &'a Machine,
    task: Task,
    kfd: RawFile,
}

struct NoPointers;

impl UserMemory for NoPointers {
    fn read(&mut self, _address: u64, _bytes: &mut [u8]) -> SysResult<()> {
        Err(Errno::EFAULT)
    }

    fn write(&mut self, _address: u64, _bytes: &[u8]) -> SysResult<()> {
        Err(Errno::EFAULT)
    }
}

impl Kfd for GuestKfd<'_> {
    fn update_queue(&mut self, args: &kfd_ioctl_update_queue_args) -> SysResult<()> {
        let mut args = *args;
        let bytes = args.as_mut_bytes();
        self.machine.ioctl(self.task, self.kfd, AMDKFD_IOC_UPDATE_QUEUE, bytes, &mut NoPointers).map(drop)
    }

    /// In packets: the machine has no memory that pointers lie in, so their addresses tell whose they are.
    fn pointers(&mut self, read: u64, _write: u64) -> Option<(u64, u64)> {
        let queues = self.machine.queue_arguments(self.task.pid).ok()?;
        let id = queues.iter().find(|queue| queue.read_pointer_address == read)?.queue_id;
        let (read, write) =
            (self.machine.executed(self.task.pid, id).ok()?, self.machine.submitted(self.task.pid, id).ok()?);
        Some((read, write))
    }
}

impl SimHost {
    /// Puts an agent into a guest, as if it had been started with `gpreempt offline`.
    ///
    /// # Errors
    /// ESRCH; EAGAIN where there may be no more threads.
    pub fn start_agent(&self, pid: Pid) -> SysResult<Arc<SimAgent>> {
        self.start_agent_of(pid, pid)
    }

    /// As [`SimHost::start_agent`] for a process of a job of several.
    ///
    /// # Errors
    /// As there.
    pub fn start_agent_of(&self, job: Pid, pid: Pid) -> SysResult<Arc<SimAgent>> {
        let task = Task { pid };
        let kfd = self.machine.open(task, "/dev/kfd")?;
        let started = crate::discover::proc::started(self, pid).unwrap_or_default();
        let server = Server::new(pid, started.as_nanos() as u64);
        let agent = Arc::new(SimAgent {
            machine: Arc::clone(&self.machine),
            task,
            kfd,
            state: Mutex::new(State { server, connections: 0 }),
            alarm: Alarm::new(),
        });
        agent.watch(self.behind())?;
        self.agents.lock().insert(AgentAddress { job, pid, path: format!("guest {pid}") }, Arc::clone(&agent));
        Ok(agent)
    }
}

impl SimAgent {
    /// One of the guest's own queue commands, seen by the agent.
    ///
    /// # Errors
    /// What the machine answers.
    pub fn ioctl(&self, request: u32, argument: &mut [u8]) -> SysResult<i32> {
        let mut state = self.lock();
        let call = |argument: &mut [u8]| self.machine.ioctl(self.task, self.kfd, request, argument, &mut NoPointers);
        let server = &mut state.server;
        let answer = match request {
            AMDKFD_IOC_CREATE_QUEUE => {
                let creating = server.book().creating(argument);
                let answer = call(argument);
                server.created(creating, argument, answer.map(drop), self.machine.now());
                answer
            }
            AMDKFD_IOC_UPDATE_QUEUE => {
                let updating = server.book().updating(argument);
                let answer = call(argument);
                server.book_mut().updated(updating, argument, answer.map(drop));
                answer
            }
            AMDKFD_IOC_DESTROY_QUEUE => {
                let destroying = server.book_mut().destroying(argument);
                let answer = call(argument);
                if let Some(destroying) = destroying {
                    server.book_mut().destroyed(destroying, answer.map(drop));
                }
                answer
            }
            _ => call(argument),
        };
        drop(state);
        self.alarm.ring();
        answer
    }

    /// The guest creates queues that have work of their own; returns their ids.
    ///
    /// # Errors
    /// As [`Machine::create_queues`].
    pub fn create_queues(&self, spec: &QueueSpec) -> SysResult<Vec<u32>> {
        let mut state = self.lock();
        self.catch_up(&mut state);
        let percent = if state.server.book().holds_new(0) { 0 } else { spec.percent };
        let ids = self.machine.create_queues(self.task.pid, &QueueSpec { percent, ..spec.clone() })?;
        for mut args in self.machine.queue_arguments(self.task.pid)? {
            if ids.contains(&args.queue_id) {
                args.queue_percentage = spec.percent;
                let creating = state.server.book().creating(args.as_mut_bytes());
                state.server.created(creating, args.as_mut_bytes(), Ok(()), self.machine.now());
            }
        }
        drop(state);
        self.alarm.ring();
        Ok(ids)
    }

    /// Takes in what the scenario did to the guest's queues past the agent.
    fn catch_up(&self, state: &mut State) {
        let there = self.machine.queue_arguments(self.task.pid).unwrap_or_default();
        let same = |known: &gpreempt_agent_core::Queue, args: &kfd_ioctl_create_queue_args| {
            known.wanted.queue_id == args.queue_id && known.read_pointer == args.read_pointer_address
        };
        let known: Vec<gpreempt_agent_core::Queue> = state.server.book().queues().values().copied().collect();
        for gone in known.iter().filter(|known| !there.iter().any(|args| same(known, args))) {
            let args = kfd_ioctl_destroy_queue_args { queue_id: gone.wanted.queue_id, pad: 0 };
            if let Some(destroying) = state.server.book_mut().destroying(args.as_bytes()) {
                state.server.book_mut().destroyed(destroying, Ok(()));
            }
        }
        let now = self.machine.now();
        for mut args in there.into_iter().filter(|args| !known.iter().any(|known| same(known, args))) {
            let id = args.queue_id;
            let running = args.queue_percentage;
            let creating = state.server.book().creating(args.as_mut_bytes());
            state.server.created(creating, args.as_mut_bytes(), Ok(()), now);
            if state.server.book().holds_new(args.gpu_id) && running & 0xff != 0 {
                // It was created past the agent and runs: stop it now.
                let kfd = &mut self.guest();
                let book = state.server.book_mut();
                book.restore(Which::Ids(&[id]), 0, kfd);
                book.stop(Which::Ids(&[id]), 0, kfd, now);
            }
        }
    }

    fn guest(&self) -> GuestKfd<'_> {
        GuestKfd { machine: &self.machine, task: self.task, kfd: self.kfd }
    }

    /// The files of a process go with it, and their numbers are never used again.
    fn is_alive(&self) -> bool {
        self.machine.poll(self.task, self.kfd).is_ok()
    }

    fn message(&self, from: Connection, message: &[u8]) -> Vec<u8> {
        let mut state = self.lock();
        self.catch_up(&mut state);
        let kfd = &mut self.guest();
        let reply = state.server.message(from, message, self.machine.now(), kfd);
        drop(state);
        self.alarm.ring();
        reply
    }

    /// The thread that keeps the agent's deadlines.
    fn watch(self: &Arc<SimAgent>, host: SimHost) -> SysResult<()> {
        let alarm = Arc::clone(&self.alarm);
        let agent: Weak<SimAgent> = Arc::downgrade(self);
        host.enlist(&alarm);
        spawn_background("gpreempt-agent", move || {
            let mut deadline = None;
            loop {
                let woken = host.park(&alarm, deadline);
                let Some(agent) = agent.upgrade() else { return };
                let mut state = agent.lock();
                if woken == Wake::Deadline && agent.is_alive() {
                    let kfd = &mut agent.guest();
                    state.server.tick(agent.machine.now(), kfd);
                }
                deadline = state.server.next().filter(|_| agent.is_alive()).map(Duration::from_nanos);
            }
        })
        .map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SimAgent {
    fn drop(&mut self) {
        self.alarm.ring();
    }
}

/// A connection in memory.
#[derive(Debug)]
struct Link {
    agent: Arc<SimAgent>,
    connection: Connection,
    inbox: Mutex<std::collections::VecDeque<Vec<u8>>>,
    process: u32,
}

impl AgentLink for Link {
    fn send(&self, message: &[u8]) -> SysResult<()> {
        if !self.agent.is_alive() {
            return Err(Errno::EPIPE);
        }
        let reply = self.agent.message(self.connection, message);
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push_back(reply);
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8], _patience: Duration) -> SysResult<usize> {
        let reply = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(reply) = reply.filter(|_| self.agent.is_alive()) else { return Ok(0) };
        let length = reply.len().min(buffer.len());
        buffer[..length].copy_from_slice(&reply[..length]);
        Ok(length)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A forked child has a copy of the machine, whose locks may be taken for ever.
        if std::process::id() == self.process && self.agent.is_alive() {
            let mut state = self.agent.lock();
            let kfd = &mut self.agent.guest();
            state.server.closed(self.connection, self.agent.machine.now(), kfd);
            drop(state);
            self.agent.alarm.ring();
        }
    }
}
