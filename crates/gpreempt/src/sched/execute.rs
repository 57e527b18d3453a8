//! Carries out a plan: one driver call where it can be one, in chunks where it must be.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::errno::Errno;

use crate::driver::{Batch, Capabilities, Driver, Selector};
use crate::error::Result;
use crate::host::Host;
use crate::queue::{GpuId, Pid, PolicyFlags};
use crate::sched::plan::{Item, Plan};
use crate::sched::verdict::Verdict;
use crate::stats::{Operation, Stats};
use crate::trace::Record;

/// What came of a plan.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) verdicts: Vec<Verdict>,
    /// Processes whose new queues need not start held any more, and whether the driver took note.
    pub(super) released: Vec<(Pid, Result<()>)>,
    /// Nodes that answered ETIME or EIO: nothing more is asked of them.
    failed: BTreeSet<GpuId>,
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
        let mut done = Executed {
            verdicts: Vec::new(),
            released: Vec::new(),
            failed: BTreeSet::new(),
            records: Vec::new(),
            rounds: 0,
            begin,
            end: begin,
        };
        let most = self.driver.max_batch();
        let one_call = plan.unmap.len() + plan.remap.len() <= most;
        let both = !plan.unmap.is_empty() && !plan.remap.is_empty();
        if both && one_call && self.driver.capabilities().contains(Capabilities::SWAP) {
            self.release_new(plan.release_new, &mut done);
            self.call(Operation::Swap, plan.unmap, plan.remap, &mut done);
        } else {
            for items in chunks(plan.unmap, most) {
                self.call(Operation::Unmap, items, Vec::new(), &mut done);
            }
            self.release_new(plan.release_new, &mut done);
            for items in chunks(plan.remap, most) {
                self.call(Operation::Remap, Vec::new(), items, &mut done);
            }
        }
        done.end = self.host.now();
        done
    }

    /// Before the queues come back, so that none made in between starts held.
    fn release_new(&self, processes: Vec<Selector>, done: &mut Executed) {
        for selector in processes {
            let released = self.driver.set_policy(selector, PolicyFlags::empty(), PolicyFlags::LAZY_ACTIVATION);
            if let Err(error) = &released {
                tracing::debug!(%error, "new queues of the process may start held");
            }
            done.released.push((selector.pid, released.map(drop)));
        }
    }

    fn call(&self, operation: Operation, mut unmap: Vec<Item>, mut remap: Vec<Item>, done: &mut Executed) {
        unmap.retain(|item| !done.failed.contains(&item.gpu));
        remap.retain(|item| !done.failed.contains(&item.gpu));
        if unmap.is_empty() && remap.is_empty() {
            return;
        }
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
                let verdicts = items.zip(batch.outcomes).map(|((item, hold), outcome)| {
                    if matches!(outcome.errno, Some(Errno::ETIME | Errno::EIO)) && item.gpu != GpuId::ALL {
                        done.failed.insert(item.gpu);
                    }
                    Verdict { item, hold, errno: outcome.errno, failure: None, queues: outcome.queues }
                });
                done.verdicts.extend(verdicts);
            }
            Err(error) => {
                let errno = Some(error.errno());
                let failure = Some(error);
                let verdict = |(item, hold)| Verdict { item, hold, errno, failure: failure.clone(), queues: 0 };
                done.verdicts.extend(items.map(verdict));
            }
        }
    }
}

fn selectors(items: &[Item]) -> Vec<Selector> {
    items.iter().map(|item| item.selector).collect()
}

fn chunks(mut items: Vec<Item>, most: usize) -> Vec<Vec<Item>> {
    let mut chunks = Vec::new();
    while items.len() > most {
        let rest = items.split_off(most);
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
