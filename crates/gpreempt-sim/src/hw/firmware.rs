//! The hardware scheduler: takes a runlist, maps as much of it as fits, and rotates where not all fits.

use crate::node::NodeIndex;
use crate::queue::QueueKey;
use crate::timeline::Event;
use crate::world::World;

impl World {
    /// The driver builds the runlist of what is active now: processes and their queues, newest first. False where
    /// there is nothing to map.
    pub(crate) fn build_runlist(&mut self, node: NodeIndex) -> bool {
        self.ration(node);
        let mut runlist = Vec::new();
        let (mut compute, mut gws) = (0, 0);
        for key in self.queues_of(node) {
            let queue = self.queue(key);
            if queue.is_active() && !queue.throttled {
                runlist.push(key);
                compute += u32::from(queue.is_compute());
                gws += u32::from(queue.gws);
            }
        }
        let it = &mut self.nodes[node.0];
        let over = it.processes.len() > it.process_slots as usize || compute > it.slots || gws > 1;
        let news = over && !it.oversubscribed;
        it.oversubscribed = over;
        // The rotation goes on where it was, or with the next after that which is still there. An assumption about the
        // firmware; one that began anew would never serve the last queues where rounds are more frequent than slices.
        let before = std::mem::replace(&mut it.runlist, runlist);
        if let Some(start) = it.next.take().and_then(|next| before.iter().position(|key| *key == next)) {
            let in_turn = before[start..].iter().chain(&before[..start]);
            it.next = in_turn.copied().find(|key| it.runlist.contains(key)).filter(|_| over);
        }
        let any = !it.runlist.is_empty();
        if news {
            self.announce_oversubscribed(node);
        }
        any
    }

    /// Living queues of a node in the order of the runlist: processes and their queues, newest first.
    pub(crate) fn queues_of(&self, node: NodeIndex) -> impl Iterator<Item = QueueKey> {
        let devices = self.node(node).processes.iter().filter_map(|pid| self.processes.get(pid)?.kfd.as_ref());
        devices.flat_map(move |kfd| kfd.device(node).queues.iter().copied())
    }

    /// Queues that a reservation counts: of the offline class, compute, without global wave sync, and active.
    pub(crate) fn offline_candidates(&self, node: NodeIndex) -> Vec<QueueKey> {
        let counts = |key: &QueueKey| {
            let queue = self.queue(*key);
            queue.is_active() && queue.is_compute() && !queue.gws && self.is_preemptible(*key)
        };
        self.queues_of(node).filter(counts).collect()
    }

    /// Under a reservation: the offline queues that take part now are the least recently served.
    fn ration(&mut self, node: NodeIndex) {
        let all: Vec<QueueKey> = self.queues_of(node).collect();
        for key in all {
            self.queues[key.0].throttled = false;
        }
        let Some(reservation) = self.node(node).reservation else { return };
        let mut candidates = self.offline_candidates(node);
        // Among equals the first of the runlist is first.
        candidates.sort_by_key(|key| self.queue(*key).served);
        let it = &mut self.nodes[node.0];
        for (position, key) in candidates.into_iter().enumerate() {
            let queue = &mut self.queues[key.0];
            queue.throttled = position >= reservation.offline_max as usize;
            if !queue.throttled {
                it.service += 1;
                queue.served = it.service;
            }
        }
    }

    /// Whether the last runlist left out a queue that is still there.
    pub(crate) fn any_throttled(&self, node: NodeIndex) -> bool {
        self.queues_of(node).any(|key| self.queue(key).throttled)
    }

    /// Whether a change of the reservation needs a new runlist: queues are left out, or have to be.
    pub(crate) fn rations_are_stale(&self, node: NodeIndex) -> bool {
        let limit = self.node(node).reservation.map_or(usize::MAX, |r| r.offline_max as usize);
        self.any_throttled(node) || self.offline_candidates(node).len() > limit
    }

    /// RUN_LIST is on the HIQ: the firmware maps what fits.
    pub(crate) fn submit_runlist(&mut self, node: NodeIndex) {
        let it = &mut self.nodes[node.0];
        it.active_runlist = true;
        it.runlists += 1;
        self.counters.runlists += 1;
        self.send_runlist(node);
        let window = self.next_window(node);
        let restored: u64 = window.iter().map(|key| self.queue(*key).saved_waves).sum();
        let cost = &self.config.cost;
        let time = cost.hws_runlist.ns + cost.hws_map_queue.ns * window.len() as u64 + self.restore_ns(node, restored);
        self.map(node, window, time);
    }

    /// The queues of the runlist that the firmware maps next; the first one that does not fit is the next to come.
    fn next_window(&mut self, node: NodeIndex) -> Vec<QueueKey> {
        let it = &self.nodes[node.0];
        if !it.oversubscribed {
            return it.runlist.clone();
        }
        let (mut window, mut compute, mut gws, mut skipped) = (Vec::new(), 0, 0, None);
        let mut pids: Vec<u32> = Vec::new();
        let start = it.next.and_then(|next| it.runlist.iter().position(|key| *key == next)).unwrap_or(0);
        for key in it.runlist[start..].iter().chain(&it.runlist[..start]).copied() {
            let queue = &self.queues[key.0];
            let known = pids.contains(&queue.pid);
            let fits = (known || pids.len() < it.process_slots as usize)
                && (!queue.is_compute() || compute < it.slots)
                && (!queue.gws || gws == 0);
            if !fits {
                skipped.get_or_insert(key);
                continue;
            }
            if !known {
                pids.push(queue.pid);
            }
            compute += u32::from(queue.is_compute());
            gws += u32::from(queue.gws);
            window.push(key);
        }
        self.nodes[node.0].next = skipped;
        window
    }

    /// The firmware is busy for `time`; then these queues are the mapped ones.
    fn map(&mut self, node: NodeIndex, window: Vec<QueueKey>, time: u64) {
        let it = &mut self.nodes[node.0];
        it.mapping = Some(window);
        it.firmware_free = self.now + time;
        it.firmware_generation += 1;
        let generation = it.firmware_generation;
        self.timeline.plan(self.now + time, Event::Mapped { node, generation });
    }

    pub(crate) fn mapped_event(&mut self, node: NodeIndex, generation: u64) {
        let it = &mut self.nodes[node.0];
        if it.firmware_generation != generation {
            return;
        }
        let Some(window) = it.mapping.take() else { return };
        it.count_slots(self.now);
        let mut fresh = Vec::with_capacity(window.len());
        for key in window {
            let queue = &mut self.queues[key.0];
            if queue.slot.is_some() || !queue.alive {
                continue;
            }
            if queue.is_compute() {
                let slot = it.slot_users.iter().position(Option::is_none).expect("the window fits the slots");
                it.slot_users[slot] = Some(key);
                queue.slot = Some(slot as u32);
            } else {
                queue.slot = Some(queue.engine.1);
            }
            self.counters.waves_restored += queue.saved_waves;
            queue.saved_waves = 0;
            fresh.push(key);
        }
        it.mapped.extend_from_slice(&fresh);
        let over = it.oversubscribed;
        self.start_queues(node, &fresh);
        if over {
            let slice = self.config.cost.slice.ns.max(1);
            self.timeline.plan(self.now + slice, Event::Slice { node, generation });
        }
    }

    /// A time slice is over: the firmware changes the mapped set.
    pub(crate) fn slice_event(&mut self, node: NodeIndex, generation: u64) {
        if self.node(node).firmware_generation != generation {
            return;
        }
        let window = self.next_window(node);
        let leaving: Vec<QueueKey> =
            self.node(node).mapped.iter().copied().filter(|key| !window.contains(key)).collect();
        let coming = window.iter().filter(|key| self.queue(**key).slot.is_none());
        let (mut count, mut restored) = (0, 0);
        for key in coming {
            count += 1;
            restored += self.queue(*key).saved_waves;
        }
        let waves = self.stop_mapped(node, Some(&leaving), 0);
        self.counters.slices += 1;
        let cost = &self.config.cost;
        let time = cost.hws_slice.ns
            + cost.hws_map_queue.ns * count
            + self.save_ns(node, waves)
            + self.restore_ns(node, restored);
        self.map(node, window, time);
    }

    /// Forgets what the firmware was about to do.
    pub(crate) fn freeze_firmware(&mut self, node: NodeIndex) {
        let it = &mut self.nodes[node.0];
        it.firmware_generation += 1;
        it.mapping = None;
    }

    /// Takes queues (None: all) off the hardware. Returns the waves that had to be saved: those that a grace period
    /// did not let finish, where the time a wave still has is spread evenly over its packet.
    pub(crate) fn stop_mapped(&mut self, node: NodeIndex, which: Option<&[QueueKey]>, grace_ns: u64) -> u64 {
        self.serve_node(node);
        let leaving: Vec<QueueKey> = which.map_or_else(|| self.node(node).mapped.clone(), <[QueueKey]>::to_vec);
        let mut saved = 0;
        for key in &leaving {
            let live = self.live_waves(*key);
            let queue = &mut self.queues[key.0];
            let packet = queue.feed.packet_ns().max(1);
            // The waves of a queue that the driver will reset are lost.
            let saved_of = if which.is_none() && queue.stubborn { 0 } else { live };
            queue.saved_waves = saved_of - saved_of * grace_ns.min(packet) / packet;
            queue.slot = None;
            queue.pointers = (queue.feed.executed(), queue.feed.submitted());
            saved += queue.saved_waves;
        }
        self.counters.waves_saved += saved;
        let it = &mut self.nodes[node.0];
        it.count_slots(self.now);
        if which.is_none() {
            it.mapped.clear();
            it.slot_users.fill(None);
            it.pools.iter_mut().for_each(crate::hw::pool::Pool::stop_all);
        } else {
            it.mapped.retain(|key| !leaving.contains(key));
            for user in &mut it.slot_users {
                if user.is_some_and(|key| leaving.contains(&key)) {
                    *user = None;
                }
            }
            for key in &leaving {
                for pool in &mut it.pools {
                    pool.stop(*key, &self.queues);
                }
            }
        }
        for pool in 0..self.node(node).pools.len() {
            self.plan_work(node, pool);
        }
        saved
    }

    /// The XCCs of a node save in parallel.
    pub(crate) fn save_ns(&self, node: NodeIndex, waves: u64) -> u64 {
        waves.div_ceil(u64::from(self.node(node).xccs.max(1))) * self.config.cost.wave_save.ns
    }

    pub(crate) fn restore_ns(&self, node: NodeIndex, waves: u64) -> u64 {
        waves.div_ceil(u64::from(self.node(node).xccs.max(1))) * self.config.cost.wave_restore.ns
    }
}
