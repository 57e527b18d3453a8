//! From what the driver answered to what the books say.

use std::time::Duration;

use nix::errno::Errno;

use crate::driver::Selector;
use crate::error::{Error, Result};
use crate::queue::{GpuId, Pid, QueueId};
use crate::sched::plan::Item;
use crate::sched::state::State;

/// When to try again to give back what the driver would not.
const RETRY: Duration = Duration::from_millis(100);

/// What became of one entry.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) item: Item,
    /// It was to be held; else mapped.
    pub(super) hold: bool,
    pub(super) errno: Option<Errno>,
    /// The call failed as a whole, so the errno says nothing of this entry.
    pub(super) failure: Option<Error>,
    /// Queues in the wanted state.
    pub(super) queues: u32,
}

/// What a carried-out plan came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) unmapped: u32,
    pub(super) remapped: u32,
    /// What went wrong for which entry.
    pub(super) errors: Vec<(Selector, Error)>,
}

impl State {
    /// Takes note of what became of a plan that was carried out from `begin` to `end`.
    pub(super) fn apply(&mut self, verdicts: Vec<Verdict>, begin: Duration, end: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        for verdict in verdicts {
            let selector = verdict.item.selector;
            if let Some(process) = self.processes.get_mut(&selector.pid) {
                process.hold_new |= verdict.hold && selector.hold_new;
            }
            self.apply_one(&verdict, begin, end, &mut outcome);
        }
        for domain in self.domains.values_mut() {
            domain.account(begin, end);
        }
        outcome
    }

    /// Takes note of whose new queues need not start held any more.
    pub(super) fn released(&mut self, processes: &[(Pid, Result<()>)], end: Duration) {
        for (pid, result) in processes {
            let errno = result.as_ref().err().map(Error::errno);
            if matches!(errno, None | Some(Errno::ESRCH | Errno::EBADF)) {
                if let Some(process) = self.processes.get_mut(pid) {
                    process.hold_new = false;
                }
            } else {
                self.retry_at = Some(end + RETRY);
            }
        }
    }

    fn apply_one(&mut self, verdict: &Verdict, begin: Duration, end: Duration, outcome: &mut Outcome) {
        if verdict.hold && verdict.errno.is_some() {
            let key = self.key(verdict.item.gpu);
            if let Some(domain) = self.domains.get_mut(&key) {
                verdict.item.queues.iter().for_each(|queue| domain.put_off(*queue, end + RETRY));
            }
        }
        if let Some(failure) = &verdict.failure {
            outcome.errors.push((verdict.item.selector, failure.clone()));
            // A dead lease holds nothing.
            if verdict.errno == Some(Errno::EBADF) {
                self.settle(&verdict.item, false, begin, end, outcome);
            } else {
                self.retry_at = Some(end + RETRY);
            }
            return;
        }
        let one = verdict.item.selector.queue.is_some();
        // None: as it was.
        let held = match verdict.errno {
            None => Some(verdict.hold),
            // The driver calls a queue that vanished unmapped, and so do we.
            Some(Errno::ENOENT) if one => return self.gone(&verdict.item.queues, end),
            Some(Errno::ESRCH) => {
                let selector = verdict.item.selector;
                if self.is_current(selector.pid, selector.started) {
                    self.remove_process(selector.pid, end);
                }
                return;
            }
            // Without a watchdog only a remap that succeeds brings it back.
            Some(Errno::ETIME | Errno::EIO) if !verdict.hold && !self.rules.watchdog => None,
            // The mark is made before the round fails.
            Some(Errno::ETIME | Errno::EIO) => Some(verdict.hold),
            Some(Errno::EACCES) if one => None,
            // What another lease holds is not ours, and a queue that was reset is not held.
            Some(Errno::EBUSY | Errno::EACCES) if !verdict.hold => Some(false),
            // Some of a process may have been taken; giving back what was not does no harm.
            Some(_) if verdict.hold && verdict.queues > 0 => Some(true),
            Some(_) => None,
        };
        if let Some(held) = held {
            self.settle(&verdict.item, held, begin, end, outcome);
        }
        let Some(errno) = verdict.errno else { return };
        let operation = if verdict.hold { "unmapping" } else { "mapping" };
        let error = Error::of_driver(operation, errno).on(verdict.item.selector);
        let error = match errno {
            Errno::ETIME | Errno::EIO => {
                self.trip(&verdict.item, end);
                let GpuId(id) = verdict.item.gpu;
                error.remedy(if verdict.item.gpu == GpuId::ALL {
                    format!("it is left alone until the scheduler's readmit({id}) is called")
                } else {
                    format!(
                        "GPU {id} is left alone until its reset is over, or the scheduler's readmit({id}) is called"
                    )
                })
            }
            Errno::EACCES if one => {
                self.gone(&verdict.item.queues, end);
                error
            }
            _ => error,
        };
        if !verdict.hold && held.is_none() {
            self.retry_at = Some(end + RETRY);
        }
        tracing::warn!(%error, "a queue could not be moved");
        outcome.errors.push((verdict.item.selector, error));
    }

    fn settle(&mut self, item: &Item, held: bool, begin: Duration, end: Duration, outcome: &mut Outcome) {
        let key = self.key(item.gpu);
        for queue in &item.queues {
            if let Some(flag) = self.online.get_mut(queue) {
                *flag = held;
            } else if let Some(aside) = self.aside.get_mut(queue) {
                aside.held = held;
            } else if let Some(domain) = self.domains.get_mut(&key)
                && domain.set_held(*queue, held, begin, end)
            {
                *(if held { &mut outcome.unmapped } else { &mut outcome.remapped }) += 1;
            }
        }
    }

    pub(super) fn gone(&mut self, queues: &[QueueId], now: Duration) {
        for queue in queues {
            self.remove(*queue, now);
            self.online.remove(queue);
        }
    }
}
