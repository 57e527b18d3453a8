//! Carries out a plan: one driver call where it can be one, in chunks where it must be.

use std::time::Duration;

use crate::driver::{Batch, Capabilities, Driver, Selector};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::{GpuId, PolicyFlags};
use crate::sched::plan::{Item, Plan};
use crate::sched::verdict::Verdict;
use crate::session::MAX_QUEUES;
use crate::stats::{Operation, Stats};
use crate::trace::Record;

/// What came of a plan.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) verdicts: Vec<Verdict>,
    /// First call that failed as a whole.
    pub(super) error: Option<Error>,
    pub(super) records: Vec<Record>,
    pub(super) rounds: u32,
    pub(super) begin: Duration,
    pub(super) end: Duration,
}

/// The hands of the scheduler.
#[derive(Debug)]
pub(super) struct Executor<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) driver: &'a dyn Driver,
    pub(super) stats: &'a Stats,
    pub(super) grace: Duration,
    pub(super) traced: bool,
}

impl Executor<'_> {
    /// Unmaps first: online work waits for that, and nobody for the rest.
    pub(super) fn run(&self, plan: Plan) -> Executed {
        let begin = self.host.now();
        let mut done =
            Executed { verdicts: Vec::new(), error: None, records: Vec::new(), rounds: 0, begin, end: begin };
        let one_call = plan.unmap.len() + plan.remap.len() <= MAX_QUEUES;
        let both = !plan.unmap.is_empty() && !plan.remap.is_empty();
        if both && one_call && self.driver.capabilities().contains(Capabilities::SWAP) {
            self.call(Operation::Swap, plan.unmap, plan.remap, &mut done);
        } else {
            for items in chunks(plan.unmap) {
                self.call(Operation::Unmap, items, Vec::new(), &mut done);
            }
            for pid in plan.release_new {
                // Before the queues come back, so that none made in between starts held.
                let nothing = PolicyFlags::empty();
                let lazy = PolicyFlags::LAZY_ACTIVATION;
                if let Err(error) = self.driver.set_policy(Selector::process(pid), nothing, lazy) {
                    tracing::debug!(%error, pid, "new queues of the process may start held");
                }
            }
            for items in chunks(plan.remap) {
                self.call(Operation::Remap, Vec::new(), items, &mut done);
            }
        }
        done.end = self.host.now();
        done
    }

    fn call(&self, operation: Operation, unmap: Vec<Item>, remap: Vec<Item>, done: &mut Executed) {
        let (take, give) = (selectors(&unmap), selectors(&remap));
        let from = self.host.now();
        let result = match operation {
            Operation::Swap => self.driver.swap(&take, &give, self.grace),
            Operation::Remap => self.driver.remap(&give),
            _ => self.driver.unmap(&take, self.grace),
        };
        let elapsed = self.host.now().saturating_sub(from);
        match &result {
            Ok(batch) => self.stats.record_batch(operation, elapsed, batch),
            Err(_) => self.stats.record_failure(operation, elapsed),
        }
        if self.traced {
            done.records.push(record(operation, &unmap, &remap, from, elapsed, &result));
        }
        let items = unmap.into_iter().map(|item| (item, true)).chain(remap.into_iter().map(|item| (item, false)));
        match result {
            Ok(batch) => {
                done.rounds += batch.rounds;
                done.verdicts.extend(items.zip(batch.outcomes).map(|((item, hold), outcome)| Verdict {
                    item,
                    hold,
                    errno: outcome.errno,
                    not_tried: false,
                    queues: outcome.queues,
                }));
            }
            Err(error) => {
                let errno = Some(error.errno());
                done.error.get_or_insert(error);
                done.verdicts.extend(items.map(|(item, hold)| Verdict {
                    item,
                    hold,
                    errno,
                    not_tried: true,
                    queues: 0,
                }));
            }
        }
    }
}

fn selectors(items: &[Item]) -> Vec<Selector> {
    items.iter().map(|item| item.selector).collect()
}

fn chunks(mut items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut chunks = Vec::new();
    while items.len() > MAX_QUEUES {
        let rest = items.split_off(MAX_QUEUES);
        chunks.push(std::mem::replace(&mut items, rest));
    }
    if !items.is_empty() {
        chunks.push(items);
    }
    chunks
}

fn record(
    operation: Operation,
    unmap: &[Item],
    remap: &[Item],
    from: Duration,
    elapsed: Duration,
    result: &Result<Batch>,
) -> Record {
    let mut gpus = unmap.iter().chain(remap).map(|item| item.gpu);
    let first = gpus.next().unwrap_or(GpuId::ALL);
    let gpu = if gpus.all(|gpu| gpu == first) { first } else { GpuId::ALL };
    let (driver, queues, rounds, failed) = match result {
        Ok(batch) => {
            let queues = batch.outcomes.iter().map(|outcome| outcome.queues).sum();
            (batch.elapsed, queues, batch.rounds, batch.outcomes.iter().any(|outcome| outcome.errno.is_some()))
        }
        Err(_) => (Duration::ZERO, 0, 0, true),
    };
    Record::Call { operation, gpu, from, elapsed, driver, queues, rounds, failed }
}
