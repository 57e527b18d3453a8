//! One online request.

use std::sync::Arc;
use std::time::Duration;

use crate::queue::GpuId;
use crate::sched::scheduler::Step;
use crate::sched::shared::Shared;
use crate::trace::Record;

/// An online request in flight: offline queues of its domains stay away as the policy decides, until the last guard
/// drops. Dropping restores on every way out, a panic included.
#[derive(Debug)]
#[must_use = "the online request ends when the guard drops"]
pub struct OnlineGuard {
    shared: Arc<Shared>,
    keys: Vec<GpuId>,
    from: Duration,
    wait: Duration,
    entered: Step,
    left: bool,
}

impl OnlineGuard {
    pub(super) fn enter(shared: Arc<Shared>, keys: Vec<GpuId>) -> OnlineGuard {
        let from = shared.host.now();
        if let Err(error) = shared.check_process("beginning an online request") {
            let entered = Step { error: Some(error), ..Step::default() };
            return OnlineGuard { shared, keys, from, wait: Duration::ZERO, entered, left: true };
        }
        shared.take_events();
        let entered = shared.step(&keys, |state, now| state.online_changed(&keys, true, now)).step;
        let wait = shared.host.now().saturating_sub(from);
        OnlineGuard { shared, keys, from, wait, entered, left: false }
    }

    /// What entering did: queues, rounds, time and the first error.
    pub fn entered(&self) -> &Step {
        &self.entered
    }

    /// How long entering took.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Ends the request and says what that did.
    pub fn leave(mut self) -> Step {
        if self.left { Step::default() } else { self.end() }
    }

    fn end(&mut self) -> Step {
        self.left = true;
        if self.shared.forked() {
            return Step::default();
        }
        let until = self.shared.host.now();
        self.shared.stats.record_online(self.wait, until.saturating_sub(self.from));
        self.shared.take_events();
        let step = self.shared.step(&self.keys, |state, now| state.online_changed(&self.keys, false, now)).step;
        let everywhere = [GpuId::ALL];
        let gpus = if self.keys.is_empty() { &everywhere[..] } else { &self.keys };
        let record = |gpu: &GpuId| Record::Online { gpu: *gpu, from: self.from, until };
        self.shared.publish(&gpus.iter().map(record).collect::<Vec<_>>());
        step
    }
}

impl Drop for OnlineGuard {
    fn drop(&mut self) {
        if !self.left {
            self.end();
        }
    }
}
