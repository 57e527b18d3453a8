//! When each node's offline queues were held, for the recorder.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::queue::GpuId;
use crate::sched::policy::OfflineQueue;
use crate::trace::Record;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Node {
    held: u32,
    mapped: u32,
    since: Duration,
    most: u32,
}

/// What was last said of each node.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    nodes: BTreeMap<GpuId, Node>,
}

impl Timeline {
    /// What a call that lasted from `begin` to `end` changed.
    pub(super) fn observe<'a>(
        &mut self,
        queues: impl Iterator<Item = &'a OfflineQueue>,
        begin: Duration,
        end: Duration,
    ) -> Vec<Record> {
        let mut now: BTreeMap<GpuId, (u32, u32)> = self.nodes.keys().map(|gpu| (*gpu, (0, 0))).collect();
        for queue in queues {
            let (held, mapped) = now.entry(queue.gpu).or_default();
            *(if queue.held { held } else { mapped }) += 1;
        }
        let mut records = Vec::new();
        for (gpu, (held, mapped)) in now {
            let node = self.nodes.entry(gpu).or_default();
            if (node.held, node.mapped) == (held, mapped) {
                continue;
            }
            if node.held == 0 && held > 0 {
                (node.since, node.most) = (begin, held);
            }
            if node.held > 0 && held == 0 {
                records.push(Record::Held { gpu, from: node.since, until: end, queues: node.most });
            }
            (node.held, node.mapped, node.most) = (held, mapped, node.most.max(held));
            records.push(Record::Offline { gpu, at: end, mapped, held });
        }
        records
    }
}
