//! One online request.

use crate::sched::Step;

/// An online request in flight: offline queues of its domains stay away as the policy decides, until the last guard
/// drops. Dropping restores on every way out, a panic included.
#[derive(Debug)]
#[must_use = "the online request ends when the guard drops"]
pub struct OnlineGuard {}

impl OnlineGuard {
    /// What entering did: queues, rounds, time and the first error.
    pub fn entered(&self) -> &Step {
        todo!()
    }

    /// Ends the request and says what that did.
    pub fn leave(self) -> Step {
        todo!()
    }
}

impl Drop for OnlineGuard {
    fn drop(&mut self) {}
}
