//! Random lease calls against a model of ten lines: who holds what.

mod kit;

use std::collections::BTreeSet;

use gpreempt_sim::Machine;
use gpreempt_sys::*;
use kit::*;
use nix::errno::Errno;
use proptest::prelude::*;

const LEASES: usize = 2;
const QUEUES: u32 = 30;

#[derive(Clone, Debug)]
enum Step {
    Unmap(usize, Vec<u32>),
    Remap(usize, Vec<u32>),
    Swap(usize, Vec<u32>, Vec<u32>),
    Close(usize),
    Pass(u64),
}

fn some_queues() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::btree_set(0..QUEUES, 1..12).prop_map(|set| set.into_iter().collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..LEASES, some_queues()).prop_map(|(lease, ids)| Step::Unmap(lease, ids)),
        3 => (0..LEASES, some_queues()).prop_map(|(lease, ids)| Step::Remap(lease, ids)),
        2 => (0..LEASES, some_queues(), some_queues()).prop_map(|(lease, out, back)| {
            let back = back.into_iter().filter(|id| !out.contains(id)).collect();
            Step::Swap(lease, out, back)
        }),
        1 => (0..LEASES).prop_map(Step::Close),
        2 => (1..30u64).prop_map(Step::Pass),
    ]
}

/// What each lease holds.
#[derive(Default)]
struct Model([BTreeSet<u32>; LEASES]);

impl Model {
    fn free_to(&self, lease: usize, id: u32) -> bool {
        !self.0[1 - lease].contains(&id)
    }

    fn held(&self) -> usize {
        self.0.iter().map(BTreeSet::len).sum()
    }

    fn answer(&self, lease: usize, ids: &[u32]) -> Vec<i32> {
        ids.iter().map(|id| if self.free_to(lease, *id) { 0 } else { minus(Errno::EBUSY) }).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn leases_do_to_queues_what_a_set_per_lease_says(steps in proptest::collection::vec(step(), 1..40)) {
        let mut mine = guest(0, vec![queues(QUEUES, light())]);
        mine.caller = true;
        let machine = Machine::boot(config(vec![mine, guest(11, vec![queues(1, light())])])).unwrap();
        let user = User::new(&machine, ME);
        // Own queues need no mark, so both leases may take any of them.
        let mut leases: Vec<_> = (0..LEASES).map(|_| user.lease()).collect();
        let mut model = Model::default();
        let list = |ids: &[u32]| ids.iter().map(|id| entry(0, *id)).collect::<Vec<_>>();
        for step in steps {
            match step {
                Step::Unmap(n, ids) => {
                    let wanted = model.answer(n, &ids);
                    let news = ids.iter().any(|id| model.free_to(n, *id) && !model.0[n].contains(id));
                    let batch = leases[n].unmap(&list(&ids));
                    prop_assert_eq!(batch.results(), wanted);
                    prop_assert_eq!(batch.rounds, u32::from(news));
                    let taken: Vec<u32> = ids.into_iter().filter(|id| model.free_to(n, *id)).collect();
                    model.0[n].extend(taken);
                }
                Step::Remap(n, ids) => {
                    let wanted = model.answer(n, &ids);
                    prop_assert_eq!(leases[n].remap(&list(&ids)).results(), wanted);
                    model.0[n].retain(|id| !ids.contains(id));
                }
                Step::Swap(n, out, back) => {
                    let wanted = [model.answer(n, &out), model.answer(n, &back)].concat();
                    let batch = leases[n].swap(&list(&out), &list(&back));
                    prop_assert_eq!(batch.results(), wanted);
                    prop_assert!(batch.rounds <= 1);
                    model.0[n].retain(|id| !back.contains(id));
                    let taken: Vec<u32> = out.into_iter().filter(|id| model.free_to(n, *id)).collect();
                    model.0[n].extend(taken);
                }
                Step::Close(n) => {
                    std::mem::replace(&mut leases[n], user.lease()).close();
                    model.0[n].clear();
                }
                Step::Pass(ms) => pass(&machine, ms * MS),
            }
            let status = leases[0].status();
            let active = QUEUES + 1 - model.held() as u32;
            prop_assert_eq!(status.active_hqd, active);
            prop_assert_eq!(status.free_hqd, status.total_hqd - active.min(status.total_hqd));
            prop_assert_eq!(status.preempted as usize, model.held());
            prop_assert_eq!(status.flags & KFD_GPREEMPT_HQD_OVERSUBSCRIBED != 0, active > status.total_hqd);
            for (n, lease) in leases.iter().enumerate() {
                let mine: BTreeSet<u32> = lease.queues(0, ALL).unwrap().iter()
                    .filter(|q| q.owner_lease == lease.args.lease_id).map(|q| q.queue_id).collect();
                prop_assert_eq!(&mine, &model.0[n]);
            }
        }
        // Held queues stand still, all others and the bystander go on; then everything does.
        pass(&machine, 10 * MS);
        let before: Vec<u64> = (0..QUEUES).map(|id| machine.executed(ME, id).unwrap()).collect();
        prop_assert!(progress(&machine, 11, 0, 100 * MS) >= 50);
        for id in 0..QUEUES {
            let held = model.0.iter().any(|set| set.contains(&id));
            prop_assert_eq!(machine.executed(ME, id).unwrap() == before[id as usize], held, "queue {}", id);
        }
        leases.into_iter().for_each(Lease::close);
        pass(&machine, 10 * MS);
        for id in 0..QUEUES {
            prop_assert!(progress(&machine, ME, id, 30 * MS) > 0, "queue {}", id);
        }
    }
}
