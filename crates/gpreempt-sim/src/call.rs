//! A system call on its way through the machine.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use zerocopy::{Immutable, IntoBytes};

use crate::clock::Clock;
use crate::hw::rounds::{Job, Report, RoundId};
use crate::machine::{Task, UserMemory};
use crate::node::NodeIndex;
use crate::world::{LeaseId, World};

/// Locks the world and brings it to the wall's time.
pub(crate) fn enter<'a>(clock: &Clock, world: &'a Mutex<World>) -> MutexGuard<'a, World> {
    // A panic of another caller leaves a consistent world: panics here are failed invariants of one call.
    let mut guard = world.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(wall) = clock.wall() {
        guard.run_to(wall);
    }
    guard
}

/// One system call. It has the world to itself, except while it waits on a real clock.
pub(crate) struct Call<'a> {
    clock: &'a Clock,
    lock: &'a Mutex<World>,
    turns: &'a Condvar,
    world: Option<MutexGuard<'a, World>>,
    pub(crate) task: Task,
    pub(crate) memory: &'a mut dyn UserMemory,
    /// When the call began.
    pub(crate) began: u64,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        clock: &'a Clock,
        lock: &'a Mutex<World>,
        turns: &'a Condvar,
        task: Task,
        memory: &'a mut dyn UserMemory,
    ) -> Call<'a> {
        let world = enter(clock, lock);
        let began = world.now;
        Call { clock, lock, turns, world: Some(world), task, memory, began }
    }

    /// Lets time pass until the world reaches `time`.
    fn wait_until(&mut self, time: u64) {
        match self.clock {
            Clock::Virtual => self.run_to(time),
            Clock::Real(_) => {
                self.world = None;
                self.clock.sleep_until(time);
                self.world = Some(enter(self.clock, self.lock));
            }
        }
    }

    /// The call itself takes this long.
    pub(crate) fn spend(&mut self, ns: u64) {
        if ns > 0 {
            let end = self.now + ns;
            self.wait_until(end);
        }
    }

    /// Takes the lock of a lease; those who wait for it get it in the order of their coming.
    pub(crate) fn lock_lease(&mut self, id: LeaseId) {
        let lease = self.leases.get_mut(&id).expect("the call keeps it");
        let turn = lease.asked;
        lease.asked += 1;
        // On a virtual clock nobody else is ever in the middle of a call.
        while self.leases[&id].served != turn {
            let world = self.world.take().expect("only given up while waiting");
            let mut world = self.turns.wait(world).unwrap_or_else(PoisonError::into_inner);
            if let Some(wall) = self.clock.wall() {
                world.run_to(wall);
            }
            self.world = Some(world);
        }
    }

    pub(crate) fn unlock_lease(&mut self, id: LeaseId) {
        self.leases.get_mut(&id).expect("the call keeps it").served += 1;
        self.turns.notify_all();
    }

    /// Runs one job on each of these nodes, all nodes in parallel, and waits for the slowest.
    pub(crate) fn run(&mut self, jobs: Vec<(NodeIndex, Job)>) -> Vec<(NodeIndex, Report)> {
        let ids: Vec<(NodeIndex, RoundId)> =
            jobs.into_iter().map(|(node, job)| (node, self.begin(node, job, true))).collect();
        let mut reports = Vec::with_capacity(ids.len());
        for (node, id) in ids {
            while !self.is_reported(node, id) {
                let next = self.timeline.next().expect("a round under way has a next phase");
                self.wait_until(next);
            }
            reports.push((node, self.report(node, id).expect("just seen")));
        }
        reports
    }

    /// Runs one job on one node.
    pub(crate) fn run_one(&mut self, node: NodeIndex, job: Job) -> Report {
        self.run(vec![(node, job)]).remove(0).1
    }

    /// Writes a struct to the caller's memory.
    pub(crate) fn copy_out<T: IntoBytes + Immutable>(&mut self, address: u64, value: &T) -> Result<(), Errno> {
        self.memory.write(address, value.as_bytes())
    }
}

impl Deref for Call<'_> {
    type Target = World;

    fn deref(&self) -> &World {
        self.world.as_ref().expect("the lock is only given up while waiting")
    }
}

impl DerefMut for Call<'_> {
    fn deref_mut(&mut self) -> &mut World {
        self.world.as_mut().expect("the lock is only given up while waiting")
    }
}
