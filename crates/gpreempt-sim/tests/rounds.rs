//! Rounds: what one call costs a node, and what stops and goes on.

mod kit;

use gpreempt_sim::Machine;
use kit::*;

#[test]
fn an_unmapped_queue_stands_still_and_goes_on_where_it_was() {
    let machine = Machine::boot(config(vec![guest(10, vec![queues(2, busy())])])).unwrap();
    let lease = User::new(&machine, ME).lease();
    let target = lease.offline(10);
    // Two queues share the node: each gets half.
    assert_eq!(progress(&machine, 10, 0, 100 * MS), 50);
    let batch = lease.unmap(&[entry(target, 0), entry(target, 1)]);
    assert_eq!((batch.answer, batch.ok, batch.failed, batch.nodes, batch.rounds), (Ok(0), 2, 0, 1, 1));
    assert_eq!(progress(&machine, 10, 0, 100 * MS), 0);
    let batch = lease.remap(&[entry(target, 1)]);
    // Nothing was mapped, so there was no round: only a runlist.
    assert_eq!((batch.ok, batch.rounds), (1, 0));
    pass(&machine, 10 * MS);
    assert_eq!(progress(&machine, 10, 0, 100 * MS), 0);
    assert_eq!(progress(&machine, 10, 1, 100 * MS), 100);
}
