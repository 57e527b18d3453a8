//! The simulated machine behind the seam.

use std::sync::Arc;
use std::time::Duration;

use gpreempt_sim::config::{ClockKind, Config, ConfigError};
use gpreempt_sim::{Machine, Task, Ticket, UserMemory};
use nix::errno::Errno;

use super::sim_agent::Agents;
use super::virtual_time::{Clock, VirtualTime};
use super::{AgentAddress, AgentLink, Alarm, Array, Host, Identity, RawFile, Readiness, SysResult, Wake};
use crate::queue::Pid;

/// A machine in memory, used by the process that its configuration names as the caller.
#[derive(Debug)]
pub struct SimHost {
    pub(super) machine: Arc<Machine>,
    task: Task,
    euid: u32,
    cost_model: String,
    /// None on a real clock.
    virtual_time: Option<Arc<VirtualTime>>,
    /// Guests with an agent.
    pub(super) agents: Agents,
}

impl SimHost {
    /// Boots a machine.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn boot(config: Config) -> Result<SimHost, ConfigError> {
        let task = Task { pid: config.caller.pid };
        let euid = config.caller.uid;
        let cost_model = config.cost.name.clone();
        let virtual_time = match config.clock {
            ClockKind::Real => None,
            ClockKind::Virtual => Some(Arc::default()),
        };
        Ok(SimHost {
            machine: Arc::new(Machine::boot(config)?),
            task,
            euid,
            cost_model,
            virtual_time,
            agents: Agents::default(),
        })
    }

    /// The machine itself: its guests, their work, its counters.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The same machine for a background thread, which keeps no agent alive.
    pub(super) fn behind(&self) -> SimHost {
        SimHost {
            machine: Arc::clone(&self.machine),
            task: self.task,
            euid: self.euid,
            cost_model: self.cost_model.clone(),
            virtual_time: self.virtual_time.clone(),
            agents: Agents::default(),
        }
    }

    /// Like [`Host::sleep`] until `deadline` (machine time), but ends at the first completion of a guest's work on the way.
    pub fn sleep_until_completion(&self, deadline: Duration) -> Option<(Ticket, Duration)> {
        let mut clock = UntilCompletion(&self.machine);
        match &self.virtual_time {
            Some(time) => time.sleep(&mut clock, deadline),
            None => clock.advance(deadline),
        }
    }

    fn until(&self, target: Duration) {
        let mut clock = UntilTime(&self.machine);
        match &self.virtual_time {
            Some(time) => time.sleep(&mut clock, target),
            None => clock.advance(target),
        };
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

struct UntilTime<'a>(&'a Machine);

impl Clock for UntilTime<'_> {
    type Stop = ();

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.now())
    }

    fn advance(&mut self, to: Duration) -> Option<()> {
        self.0.advance_to(nanos(to));
        None
    }
}

struct UntilCompletion<'a>(&'a Machine);

impl Clock for UntilCompletion<'_> {
    type Stop = (Ticket, Duration);

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.now())
    }

    fn advance(&mut self, to: Duration) -> Option<(Ticket, Duration)> {
        self.0.run_until(nanos(to)).map(|(ticket, at)| (ticket, Duration::from_nanos(at)))
    }
}

/// The arrays of one ioctl: all that the machine may touch of this process.
struct Arrays<'a, 'b>(&'a mut [Array<'b>]);

impl Arrays<'_, '_> {
    fn range(&mut self, address: u64, length: usize) -> SysResult<&mut [u8]> {
        for array in &mut *self.0 {
            let start = array.bytes.as_ptr().addr() as u64;
            let offset = address.checked_sub(start).and_then(|offset| usize::try_from(offset).ok());
            let end = offset.and_then(|offset| offset.checked_add(length));
            if let (Some(offset), Some(end)) = (offset, end)
                && end <= array.bytes.len()
            {
                return Ok(&mut array.bytes[offset..end]);
            }
        }
        Err(Errno::EFAULT)
    }
}

impl UserMemory for Arrays<'_, '_> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        bytes.copy_from_slice(self.range(address, bytes.len())?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.range(address, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}

impl Host for SimHost {
    fn open(&self, path: &str) -> SysResult<RawFile> {
        self.machine.open(self.task, path)
    }

    fn ioctl(&self, file: RawFile, request: u32, argument: &mut [u8], arrays: &mut [Array<'_>]) -> SysResult<i32> {
        super::place_arrays(request, argument, arrays)?;
        self.machine.ioctl(self.task, file, request, argument, &mut Arrays(arrays))
    }

    fn read(&self, file: RawFile, buffer: &mut [u8]) -> SysResult<usize> {
        self.machine.read(self.task, file, buffer)
    }

    fn write(&self, file: RawFile, buffer: &[u8]) -> SysResult<usize> {
        self.machine.write(self.task, file, buffer)
    }

    fn poll(&self, file: RawFile) -> SysResult<Readiness> {
        let found = self.machine.poll(self.task, file)?;
        Ok(Readiness { readable: found.readable, hung_up: found.hung_up })
    }

    fn close(&self, file: RawFile) {
        // As on the operating system, a number that is not open is nobody's problem.
        let _ = self.machine.close(self.task, file);
    }

    fn abandon(&self, _file: RawFile) {
        // A forked child has a copy of the machine, whose lock another thread may have held: there is nothing to close.
    }

    fn read_text(&self, path: &str) -> SysResult<String> {
        self.machine.read_text(self.task, path)
    }

    fn list(&self, path: &str) -> SysResult<Vec<String>> {
        self.machine.list(self.task, path)
    }

    fn identity(&self) -> Identity {
        Identity { pid: self.task.pid, euid: self.euid }
    }

    fn trace(&self, pid: Pid) -> SysResult<()> {
        self.machine.ptrace_seize(self.task, pid)
    }

    fn untrace(&self, pid: Pid) -> SysResult<()> {
        self.machine.ptrace_detach(self.task, pid)
    }

    fn agents(&self) -> Vec<AgentAddress> {
        self.agents.addresses()
    }

    fn connect_agent(&self, address: &AgentAddress) -> SysResult<Box<dyn AgentLink>> {
        self.agents.connect(address)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.machine.now())
    }

    fn sleep(&self, duration: Duration) {
        self.until(self.now().saturating_add(duration));
    }

    fn park(&self, alarm: &Arc<Alarm>, deadline: Option<Duration>) -> Wake {
        match &self.virtual_time {
            Some(time) => time.park(self.now(), alarm, deadline),
            None => alarm.wait(|| deadline.map(|deadline| deadline.saturating_sub(self.now()))),
        }
    }

    fn enlist(&self, alarm: &Arc<Alarm>) {
        if let Some(time) = &self.virtual_time {
            time.enlist(alarm);
        }
    }

    fn describe(&self) -> String {
        self.machine.describe()
    }

    fn cost_model(&self) -> Option<String> {
        Some(self.cost_model.clone())
    }
}
