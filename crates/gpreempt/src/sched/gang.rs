//! Queues of one job move together, across domains.
//!
//! The kernels of a collective spin until all ranks run, so a job of which only some queues are taken burns the rest of
//! its time. A job leaves as soon as one domain preempts it, and comes back when no domain keeps a queue of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::queue::{GpuId, QueueId};
use crate::sched::domain::{Domain, Wishes};

/// Changes what the domains wish until every job goes one way.
pub(super) fn align(domains: &BTreeMap<GpuId, Domain>, wishes: &mut BTreeMap<GpuId, Wishes>) {
    let mut preempted: BTreeSet<u32> = BTreeSet::new();
    let mut split: BTreeSet<u32> = BTreeSet::new();
    let mut kept: BTreeSet<u32> = BTreeSet::new();
    let mut returning: BTreeSet<u32> = BTreeSet::new();
    for (key, wish) in wishes.iter() {
        let (unmap, remap) = (sorted(&wish.unmap), sorted(&wish.remap));
        for (queue, note) in domains[key].entries() {
            let job = note.job;
            if unmap.binary_search(&queue.id).is_ok() {
                if wish.online {
                    preempted.insert(job);
                }
            } else if remap.binary_search(&queue.id).is_ok() {
                returning.insert(job);
            } else if !queue.held {
                split.insert(job);
            } else if wish.waits {
                kept.insert(job);
            }
        }
    }
    for (key, wish) in wishes.iter_mut() {
        let rotate = std::mem::take(&mut wish.rotate);
        let mut aligned = Wishes { rotate, unmap: Vec::new(), remap: Vec::new(), ..*wish };
        let unmap = sorted(&wish.unmap);
        for (queue, note) in domains[key].entries() {
            let job = note.job;
            if preempted.contains(&job) {
                if !queue.held {
                    aligned.unmap.push(queue.id);
                }
            } else if queue.held {
                if returning.contains(&job) && !kept.contains(&job) {
                    aligned.remap.push(queue.id);
                }
            } else if unmap.binary_search(&queue.id).is_ok() && !split.contains(&job) && !returning.contains(&job) {
                // Nobody is online: a whole job without work may leave.
                aligned.unmap.push(queue.id);
            }
        }
        *wish = aligned;
    }
}

fn sorted(ids: &[QueueId]) -> Vec<QueueId> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}
