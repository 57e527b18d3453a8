//! How long one look at the hardware takes to parse: `hqds` of 8 GPUs with 4 XCCs and 24 slots each, as on an MI308X.

use std::hint::black_box;
use std::time::Instant;

use gpreempt::discover::debugfs::parse_hqds;
use gpreempt_sim::config::slot_places;
use gpreempt_sim::mqd::{ComputeMqd, hqd_registers};
use gpreempt_sim::text::debugfs::{NodeHqds, SdmaHqd, SlotHqd, XccHqds, hqds};

fn main() {
    let nodes: Vec<NodeHqds> = (0..8).map(node).collect();
    let text = hqds(&nodes);
    let mut times: Vec<_> = (0..101)
        .map(|_| {
            let start = Instant::now();
            let dump = parse_hqds("hqds", black_box(&text)).expect("a whole dump");
            let elapsed = start.elapsed();
            assert_eq!(dump.nodes.iter().map(|node| node.active_hqds()).sum::<usize>(), 8 * 4 * 24);
            elapsed
        })
        .collect();
    times.sort_unstable();
    println!("parse hqds of 8 GPUs ({} KB): p50 {:?}, max {:?}", text.len() / 1000, times[50], times[100]);
}

fn node(index: u32) -> NodeHqds {
    let queue = ComputeMqd { address: 0x7f00_0041_0000, active: true, vmid: 8, ..ComputeMqd::default() };
    let xcc = |instance| {
        let slot = |(pipe, place)| SlotHqd { pipe, queue: place, registers: hqd_registers(&queue.image(instance)) };
        XccHqds { instance, hiq: [0; 56], slots: slot_places(24).into_iter().map(slot).collect() }
    };
    let sdma = (0..64).map(|n| SdmaHqd { engine: n / 8, rlc: n % 8, registers: [0; 44] }).collect();
    NodeHqds { index: index + 1, gpu_id: 0xf7bc + index, xccs: Some((0..4).map(xcc).collect()), sdma }
}
