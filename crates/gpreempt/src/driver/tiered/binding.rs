//! Which tier reaches which process, and the marks that its kernel does not keep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::driver::Selector;
use crate::queue::{Pid, PolicyFlags, QueueId};

/// How a process is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Binding {
    /// Index of the rung.
    pub rung: usize,
    /// When the process started; a later one with its pid is bound anew.
    pub started: Option<Duration>,
    /// The process that its whole job is marked by, where that is another one.
    leader: Option<Pid>,
    /// All its queues, present and future, are of the offline class.
    whole: bool,
    /// Those of them that are, where not all.
    queues: BTreeSet<u32>,
}

impl Binding {
    pub fn new(rung: usize, started: Option<Duration>) -> Binding {
        Binding { rung, started, ..Binding::default() }
    }

    /// Whether everything that a selector names is of the offline class.
    pub fn allows(&self, selector: &Selector) -> bool {
        self.whole || selector.queue.is_some_and(|id| self.queues.contains(&id))
    }

    /// Marks what a selector names as of the offline class, or no longer. Taking one queue out of a whole process ends the
    /// mark of the whole, as every queue then has its own.
    fn mark(&mut self, selector: &Selector, set: PolicyFlags, clear: PolicyFlags) -> PolicyFlags {
        let (set, clear) = (set.contains(PolicyFlags::PREEMPTIBLE), clear.contains(PolicyFlags::PREEMPTIBLE));
        match selector.queue {
            None if set => self.whole = true,
            None if clear => {
                self.whole = false;
                self.queues.clear();
            }
            Some(id) if set => drop(self.queues.insert(id)),
            Some(id) if clear => {
                self.whole = false;
                self.queues.remove(&id);
            }
            _ => {}
        }
        if self.allows(selector) { PolicyFlags::PREEMPTIBLE } else { PolicyFlags::empty() }
    }
}

/// The bindings by pid.
#[derive(Debug, Default)]
pub(super) struct Bindings(RwLock<BTreeMap<Pid, Binding>>);

impl Bindings {
    pub fn get(&self, pid: Pid) -> Option<Binding> {
        self.read(|all| all.get(&pid).cloned())
    }

    /// Whether everything that a selector names is of the offline class, by itself or with its job.
    pub fn allows(&self, selector: &Selector) -> bool {
        self.read(|all| {
            let Some(binding) = all.get(&selector.pid) else { return false };
            let with_job = || binding.leader.and_then(|leader| all.get(&leader)).is_some_and(|leader| leader.whole);
            binding.allows(selector) || with_job()
        })
    }

    /// The policy of a queue.
    pub fn policy(&self, queue: QueueId) -> PolicyFlags {
        match self.allows(&Selector::queue(queue)) {
            true => PolicyFlags::PREEMPTIBLE,
            false => PolicyFlags::empty(),
        }
    }

    /// A process turned out to belong to the job of another.
    pub fn join(&self, pid: Pid, leader: Pid, rung: usize, started: Option<Duration>) {
        self.bind(pid, rung, started);
        self.write(|all| {
            if let Some(binding) = all.get_mut(&pid) {
                binding.leader = Some(leader);
            }
        });
    }

    pub fn rung(&self, pid: Pid) -> Option<usize> {
        self.read(|all| all.get(&pid).map(|binding| binding.rung))
    }

    /// Binds a pid; what was marked of the same process on the same rung stays so.
    pub fn bind(&self, pid: Pid, rung: usize, started: Option<Duration>) {
        self.write(|all| {
            let binding = all.entry(pid).or_insert_with(|| Binding::new(rung, started));
            if (binding.rung, binding.started) != (rung, started) {
                *binding = Binding::new(rung, started);
            }
        });
    }

    pub fn remove(&self, pid: Pid) -> Option<Binding> {
        self.write(|all| all.remove(&pid))
    }

    /// `queues`: those that the process has, for a mark of the whole that one of them leaves.
    pub fn mark(
        &self,
        selector: &Selector,
        set: PolicyFlags,
        clear: PolicyFlags,
        queues: impl IntoIterator<Item = u32>,
    ) -> PolicyFlags {
        self.write(|all| {
            let Some(binding) = all.get_mut(&selector.pid) else { return PolicyFlags::empty() };
            if binding.whole && selector.queue.is_some() {
                binding.queues.extend(queues);
            }
            binding.mark(selector, set, clear)
        })
    }

    /// Processes that a rung reaches.
    pub fn of_rung(&self, rung: usize) -> Vec<(Pid, Binding)> {
        self.read(|all| all.iter().filter(|(_, it)| it.rung == rung).map(|(&pid, it)| (pid, it.clone())).collect())
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<Pid, Binding>) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut BTreeMap<Pid, Binding>) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: PolicyFlags = PolicyFlags::PREEMPTIBLE;
    const NONE: PolicyFlags = PolicyFlags::empty();

    fn queue(id: u32) -> Selector {
        Selector::queue(QueueId { pid: 7, id })
    }

    #[test]
    fn a_queue_that_leaves_a_whole_process_leaves_the_others_in() {
        let bindings = Bindings::default();
        bindings.bind(7, 0, None);
        assert_eq!(bindings.mark(&Selector::process(7), MARK, NONE, []), MARK);
        assert!(bindings.get(7).unwrap().allows(&queue(5)), "future queues, too");
        assert_eq!(bindings.mark(&queue(1), NONE, MARK, [0, 1, 2]), NONE);
        let left = bindings.get(7).unwrap();
        assert_eq!([0, 1, 2].map(|id| left.allows(&queue(id))), [true, false, true]);
        assert!(!left.allows(&Selector::process(7)));
    }

    #[test]
    fn the_mark_of_a_job_is_that_of_all_its_processes_and_ends_for_all() {
        let bindings = Bindings::default();
        bindings.bind(7, 0, None);
        bindings.join(8, 7, 0, None);
        let of_rank = Selector::queue(QueueId { pid: 8, id: 0 });
        assert!(!bindings.allows(&of_rank));
        bindings.mark(&Selector::process(7), MARK, NONE, []);
        assert!(bindings.allows(&of_rank) && bindings.policy(QueueId { pid: 8, id: 3 }) == MARK);
        bindings.mark(&Selector::process(7), NONE, MARK, []);
        assert!(!bindings.allows(&of_rank));
    }

    #[test]
    fn marks_end_with_the_process_that_carried_them() {
        let bindings = Bindings::default();
        let later = Some(Duration::from_secs(1));
        bindings.bind(7, 0, None);
        bindings.mark(&Selector::process(7), MARK, NONE, []);
        bindings.bind(7, 0, None);
        assert!(bindings.get(7).unwrap().allows(&queue(0)), "bound again");
        bindings.bind(7, 0, later);
        assert!(!bindings.get(7).unwrap().allows(&queue(0)));
    }
}
