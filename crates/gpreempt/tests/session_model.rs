//! Random calls on a session, beside a model that only knows what was asked for.

mod machine;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gpreempt::host::Host;
use gpreempt::host::sim::SimHost;
use gpreempt::{ErrorKind, GpuId, Session};
use gpreempt_sim::config::ProcessSpec;
use machine::*;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

const OFFLINE: u32 = 100;
const ONLINE: u32 = 200;

/// Queues of each process, half of them on each of two nodes; more than a node has slots for.
const QUEUES: [(u32, u32); 3] = [(OFFLINE, 20), (ONLINE, 4), (ME, 4)];

#[derive(Clone, Debug)]
enum Op {
    Unmap(Vec<usize>),
    Remap(Vec<usize>),
    Destroy(Index),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let all: Vec<usize> = (0..28).collect();
    let some = || subsequence(all.clone(), 1..=6);
    prop_oneof![
        5 => some().prop_map(Op::Unmap),
        4 => some().prop_map(Op::Remap),
        1 => any::<Index>().prop_map(Op::Destroy),
        2 => (1_u64..40).prop_map(Op::Wait),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Known {
    pid: u32,
    id: u32,
    handle: u32,
    alive: bool,
    held: bool,
}

struct Scene {
    host: Arc<SimHost>,
    session: Session,
    queues: Vec<Known>,
}

impl Scene {
    fn new() -> Scene {
        let mut builder = machine(2);
        for (pid, count) in QUEUES {
            let guest = guest(pid, [busy(0, count / 2), busy(1, count / 2)]);
            builder = builder.guest(ProcessSpec { caller: pid == ME, ..guest });
        }
        let (host, session) = builder.session();
        offline(&session, OFFLINE);
        let named = QUEUES.iter().flat_map(|&(pid, count)| (0..count).map(move |id| (pid, id)));
        let queues = named
            .map(|(pid, id)| {
                let handle = session.register(pid, id, GpuId::ALL).unwrap();
                Known { pid, id, handle, alive: true, held: false }
            })
            .collect();
        Scene { host, session, queues }
    }

    fn handles(&self, of: &[usize]) -> Vec<u32> {
        of.iter().map(|&index| self.queues[index].handle).collect()
    }

    /// The error that a batch must answer: an own number without a queue, or an unmap of a queue that is not offline.
    fn expected(&self, of: &[usize], unmap: bool) -> Option<ErrorKind> {
        of.iter().map(|&index| self.queues[index]).find_map(|queue| match queue.pid {
            ME if !queue.alive => Some(ErrorKind::NotFound),
            ONLINE if queue.alive && unmap => Some(ErrorKind::NotPermitted),
            _ => None,
        })
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Unmap(of) => {
                let result = self.session.unmap(&self.handles(of), Duration::ZERO);
                self.settle(of, true, result.err().map(|error| error.kind()));
            }
            Op::Remap(of) => {
                let result = self.session.remap(&self.handles(of));
                self.settle(of, false, result.err().map(|error| error.kind()));
            }
            Op::Destroy(index) => {
                let index = index.index(self.queues.len());
                let queue = &mut self.queues[index];
                if std::mem::take(&mut queue.alive) {
                    self.host.machine().destroy_queue(queue.pid, queue.id).unwrap();
                    queue.held = false;
                }
            }
            Op::Wait(time) => self.host.sleep(ms(*time)),
        }
    }

    fn settle(&mut self, of: &[usize], held: bool, error: Option<ErrorKind>) {
        assert_eq!(error, self.expected(of, held));
        if error.is_none() {
            for &index in of {
                self.queues[index].held = held && self.queues[index].alive;
            }
        }
    }

    fn check(&self) {
        let driver = self.session.driver().as_ref();
        let mut mapped = 0;
        for (pid, _) in QUEUES {
            let told: BTreeMap<u32, bool> =
                statuses(driver, pid).iter().map(|status| status.queue.id).zip(active(driver, pid)).collect();
            let alive = self.queues.iter().filter(|queue| queue.pid == pid && queue.alive);
            let expected: BTreeMap<u32, bool> = alive.map(|queue| (queue.id, !queue.held)).collect();
            assert_eq!(told, expected, "queues of {pid}");
            assert!(pid != ONLINE || told.values().all(|&active| active), "an online queue is never unmapped");
            mapped += told.values().filter(|&&active| active).count();
        }
        for node in 0..2 {
            let status = self.session.status(gpu(&self.host, node)).unwrap();
            assert_eq!(status.free, status.total - status.active.min(status.total));
        }
        assert_eq!(self.session.status(GpuId::ALL).unwrap().active as usize, mapped);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_does_what_was_asked_and_nothing_else(ops in prop::collection::vec(op(), 1..25)) {
        let mut scene = Scene::new();
        for op in &ops {
            scene.apply(op);
            scene.check();
        }
        // Dropping the lease is the identity.
        let Scene { host, session, queues } = scene;
        drop(session);
        let witness = lease(&host);
        for queue in queues.iter().filter(|queue| queue.alive && queue.pid != ME) {
            let told = statuses(witness.as_ref(), queue.pid);
            let status = told.iter().find(|status| status.queue.id == queue.id).unwrap();
            prop_assert!(status.state.contains(gpreempt::QueueState::ACTIVE), "{}", status.queue);
        }
    }
}
