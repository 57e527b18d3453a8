//! Execution: which queues run on a node, and what they get done between two changes.

use crate::hw::feed::Batch;
use crate::machine::Ticket;
use crate::node::{NodeIndex, SHADERS};
use crate::queue::QueueKey;
use crate::timeline::Event;
use crate::world::World;

impl World {
    /// Brings the running queues of a pool to now and takes out those that have nothing left.
    pub(crate) fn serve(&mut self, node: NodeIndex, pool: usize) {
        let (tickets, completions, now) = (&mut self.tickets, &mut self.completions, self.now);
        let done = |ticket: Ticket| {
            tickets[usize::try_from(ticket.0).expect("tickets are indices")] = Some(now);
            completions.push_back((ticket, now));
        };
        let pool = &mut self.nodes[node.0].pools[pool];
        if pool.serve(now, &mut self.queues, done) {
            pool.tidy(&self.queues);
        }
    }

    /// Brings all running queues of a node to now.
    pub(crate) fn serve_node(&mut self, node: NodeIndex) {
        for pool in 0..self.node(node).pools.len() {
            self.serve(node, pool);
        }
    }

    /// Brings a queue's ring to now.
    pub(crate) fn settle(&mut self, key: QueueKey) {
        let (node, pool) = (self.queue(key).node, self.queue(key).pool());
        self.serve(node, pool);
    }

    /// Plans the next completion of a pool whose running set changed.
    pub(crate) fn plan_work(&mut self, node: NodeIndex, pool: usize) {
        let it = &mut self.nodes[node.0].pools[pool];
        it.generation += 1;
        let generation = it.generation;
        if let Some(time) = it.next_change(&self.queues) {
            self.timeline.plan(time.max(self.now), Event::Work { node, pool, generation });
        }
    }

    pub(crate) fn work_event(&mut self, node: NodeIndex, pool: usize, generation: u64) {
        if self.node(node).pools[pool].generation != generation {
            return;
        }
        self.serve(node, pool);
        self.plan_work(node, pool);
    }

    /// Lets these queues of a node run, where they have work.
    pub(crate) fn start_queues(&mut self, node: NodeIndex, keys: &[QueueKey]) {
        for pool in 0..self.node(node).pools.len() {
            self.serve(node, pool);
            let it = &mut self.nodes[node.0].pools[pool];
            let before = it.running().len();
            for key in keys {
                let queue = &self.queues[key.0];
                if queue.pool() == pool && !queue.feed.is_empty() && !queue.reset {
                    it.start(*key, &queue.feed);
                }
            }
            if it.running().len() != before {
                self.plan_work(node, pool);
            }
        }
    }

    /// Stops one queue without saving its waves.
    pub(crate) fn stop_queue(&mut self, key: QueueKey) {
        let (node, pool) = (self.queue(key).node, self.queue(key).pool());
        self.serve(node, pool);
        if self.nodes[node.0].pools[pool].stop(key, &self.queues) {
            self.plan_work(node, pool);
        }
    }

    /// Waves of a queue that are on the hardware now.
    pub(crate) fn live_waves(&self, key: QueueKey) -> u64 {
        let queue = self.queue(key);
        let node = self.node(queue.node);
        let pool = &node.pools[SHADERS];
        if queue.is_compute() && pool.running().contains(&key) {
            pool.waves(queue.feed.share(), node.wave_slots)
        } else {
            0
        }
    }

    /// Puts work into a ring and rings the doorbell.
    pub(crate) fn push_work(&mut self, key: QueueKey, batch: Batch) {
        let (node, pool) = (self.queue(key).node, self.queue(key).pool());
        self.serve(node, pool);
        let queue = &mut self.queues[key.0];
        let was_empty = queue.feed.is_empty();
        queue.feed.push(batch);
        if queue.slot.is_none() || queue.reset {
            return;
        }
        if was_empty {
            self.nodes[node.0].pools[pool].start(key, &self.queues[key.0].feed);
        }
        self.plan_work(node, pool);
    }
}
