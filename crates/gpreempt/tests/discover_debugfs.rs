//! The debugfs parsers on dumps of our own making in the kernel's format: one queue on a node with four XCCs, registers of
//! each XCC at addresses of their own; a second queue that is unmapped with saved waves; a stopped node.

use gpreempt::GpuId;
use gpreempt::discover::debugfs::{HqdSlot, MqdKind, mapped, parse_hqds, parse_mqds, parse_rls};
use nix::errno::Errno;
use proptest::prelude::*;

const HQDS: &str = include_str!("fixtures/debugfs/hqds");
const MQDS: &str = include_str!("fixtures/debugfs/mqds");
const RLS: &str = include_str!("fixtures/debugfs/rls");

const MQD: u64 = 0x7f00_1234_0000;
const RING: u64 = 0x7f55_0020_0000;
const NODE: GpuId = GpuId(0xf7bc);

#[test]
fn one_queue_on_four_xccs_is_four_active_hqds() {
    let dump = parse_hqds("hqds", HQDS).unwrap();
    assert!(!dump.truncated);
    let [node, stopped] = &dump.nodes[..] else { panic!("{} nodes", dump.nodes.len()) };
    assert_eq!((node.index, node.gpu, node.stopped), (1, NODE, false));
    assert_eq!((stopped.index, stopped.gpu, stopped.stopped), (2, GpuId(0xf05b), true));
    // HIQ and SDMA slots are active, too, and are not compute queues.
    assert_eq!((node.active_hqds(), node.mapped_queues()), (4, 1));
    assert_eq!(node.slots.len(), 4 * 3 + 2);
}

#[test]
fn registers_are_told_apart_by_position_not_by_address() {
    let dump = parse_hqds("hqds", HQDS).unwrap();
    let slots = dump.nodes[0].slots.iter().filter(|hqd| hqd.slot == HqdSlot::Compute { pipe: 0, queue: 2 });
    let seen: Vec<_> = slots
        .map(|hqd| {
            let registers = hqd.registers.unwrap();
            assert_eq!((registers.vmid, registers.ring_base, registers.doorbell), (8, RING, 0x1002));
            assert_eq!((registers.read_pointer, registers.write_pointer), (0x40, 0x80));
            (hqd.xcc, registers.mqd_address)
        })
        .collect();
    assert_eq!(seen, [(0, MQD), (1, MQD + 0x3000), (2, MQD + 0x6000), (3, MQD + 0x9000)]);
}

#[test]
fn an_sdma_slot_is_active_by_its_first_register() {
    let dump = parse_hqds("hqds", HQDS).unwrap();
    let sdma: Vec<_> = dump.nodes[0]
        .slots
        .iter()
        .filter(|hqd| matches!(hqd.slot, HqdSlot::Sdma { .. }))
        .map(|hqd| hqd.active)
        .collect();
    assert_eq!(sdma, [Some(true), Some(false)]);
}

#[test]
fn kernels_that_print_no_instance_have_one_xcc() {
    let old = HQDS.replace("   Inst 0, HIQ", "  HIQ").replace(" Inst 0,  CP", "  CP");
    let dump = parse_hqds("hqds", &old).unwrap();
    assert_eq!((dump.nodes[0].active_hqds(), dump.nodes[0].mapped_queues()), (4, 1));
}

#[test]
fn images_carry_the_key_that_joins_the_three_dumps() {
    let mqds = parse_mqds("mqds", MQDS).unwrap();
    let hqds = parse_hqds("hqds", HQDS).unwrap();
    assert!(!mqds.truncated);
    let shape: Vec<_> = mqds
        .processes
        .iter()
        .map(|process| {
            (process.kfd_pid, process.pasid, process.queues.iter().map(|q| (q.kind, q.copies)).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(
        shape,
        [
            (4711, 0x8001, vec![(MqdKind::Sdma, 1), (MqdKind::Compute, 4)]),
            (4712, 0x8002, vec![(MqdKind::Compute, 4)]),
            (4713, 0x8003, vec![]),
        ]
    );
    let image = &mqds.processes[0].queues[1];
    assert_eq!(image.gpu, NODE);
    assert_eq!(image.address(), MQD);
    assert_eq!(image.fields.unwrap().ring_base, RING);
    assert!(hqds.nodes[0].slots.iter().any(|hqd| hqd.mqd_address() == image.address()));
}

#[test]
fn an_image_tells_whether_cwsr_saved_waves() {
    let mqds = parse_mqds("mqds", MQDS).unwrap();
    assert!(!mqds.processes[0].queues[1].fields.unwrap().has_saved_waves());
    assert!(mqds.processes[1].queues[0].fields.unwrap().has_saved_waves());
}

#[test]
fn the_runlist_says_which_queues_are_mapped_and_whose_they_are() {
    let rls = parse_rls("rls", RLS).unwrap();
    assert!(!rls.truncated);
    let [node, without] = &rls.nodes[..] else { panic!("{} nodes", rls.nodes.len()) };
    assert_eq!((node.compute_queues(), node.queues().count(), node.oversubscribed), (1, 2, true));
    assert_eq!((without.processes.len(), without.oversubscribed), (0, false));
    assert_eq!(node.processes.iter().map(|process| process.pasid).collect::<Vec<_>>(), [0x8001, 0x8002]);

    let mapped = mapped(&parse_mqds("mqds", MQDS).unwrap(), &rls);
    let counts: Vec<_> =
        mapped.into_iter().map(|((pid, gpu), counts)| (pid, gpu, counts.queues, counts.active)).collect();
    assert_eq!(counts, [(4711, NODE, 1, 1), (4712, NODE, 1, 0)]);
}

#[test]
fn a_dump_cut_anywhere_gives_what_it_has_and_says_so() {
    let mut slots = 0;
    for cut in (0..HQDS.len()).step_by(7) {
        let dump = parse_hqds("hqds", &HQDS[..cut]).unwrap();
        let now: usize = dump.nodes.iter().map(|node| node.slots.len()).sum();
        assert!(now >= slots && dump.nodes.iter().all(|node| node.active_hqds() <= 4), "cut at {cut}");
        slots = now;
    }
    for cut in (0..MQDS.len()).step_by(997) {
        parse_mqds("mqds", &MQDS[..cut]).unwrap();
    }
    for cut in 0..RLS.len() {
        parse_rls("rls", &RLS[..cut]).unwrap();
    }
    // Cut at a line's end, within the registers of the first slot.
    let lines = |text: &str, count| text.split_inclusive('\n').take(count).collect::<String>();
    assert!(parse_hqds("hqds", &lines(HQDS, 11)).unwrap().truncated);
    assert!(!parse_hqds("hqds", &lines(HQDS, 17)).unwrap().truncated);
    assert!(parse_mqds("mqds", &lines(MQDS, 40)).unwrap().truncated);
    assert!(parse_rls("rls", &lines(RLS, 3)).unwrap().truncated);
}

#[test]
fn an_error_in_the_middle_names_path_line_and_item() {
    let broken = |text: &str, from: &str, to: &str| text.replacen(from, to, 1);
    for (error, at, item) in [
        (parse_hqds("/d/hqds", &broken(HQDS, "CP Pipe 0", "CP Pope 0")).unwrap_err(), "/d/hqds:10", "CP Pope 0"),
        (parse_hqds("/d/hqds", &broken(HQDS, "0000c914: 1234", "0000c914: 12zz")).unwrap_err(), "/d/hqds:11", "12zz"),
        (parse_hqds("/d/hqds", "Queue ID: 1\n").unwrap_err(), "/d/hqds:1", "Queue ID: 1"),
        (parse_mqds("/d/mqds", &broken(MQDS, "Process 4712", "Process x")).unwrap_err(), "/d/mqds:276", "Process x"),
        (parse_rls("/d/rls", &broken(RLS, "00000020:", "00000040:")).unwrap_err(), "/d/rls:3", "00000040:"),
        (parse_rls("/d/rls", &broken(RLS, "c005a200", "0005a200")).unwrap_err(), "/d/rls", "dword 21"),
    ] {
        assert_eq!(error.errno(), Errno::EBADMSG);
        assert_eq!(error.target(), Some(at));
        assert!(error.to_string().contains(item), "{error}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC*|[ -~\n]*|(Node [0-9]*, gpu_id [0-9a-f]*:\n|  *[0-9a-f: ]*\n|.*\n)*") {
        let _ = parse_hqds("hqds", &text);
        let _ = parse_mqds("mqds", &text);
        let _ = parse_rls("rls", &text);
    }

    #[test]
    fn no_damage_to_a_dump_makes_a_parser_panic(at in 0..700_usize, with in "[ -~\n]{0,40}") {
        for text in [HQDS, MQDS, RLS] {
            let at = at * text.len() / 700;
            let damaged = [&text[..at], &with, &text[at..]].concat();
            let _ = parse_hqds("hqds", &damaged);
            let _ = parse_mqds("mqds", &damaged);
            let _ = parse_rls("rls", &damaged);
        }
    }

    #[test]
    fn any_runlist_words_decode_or_fail(words in prop::collection::vec(any::<u32>(), 0..40)) {
        let mut text = "Node 1, gpu_id 1:\n".to_owned();
        for (row, words) in words.chunks(8).enumerate() {
            text += &format!("  {:08x}:{}\n", row * 32, words.iter().map(|w| format!(" {w:08x}")).collect::<String>());
        }
        let _ = parse_rls("rls", &text);
    }
}

/// What the simulated machine prints is what is read back.
mod round_trip {
    use gpreempt::discover::debugfs::Mqd;
    use gpreempt_sim::mqd::{ComputeMqd, SDMA_DWORDS, hqd_registers};
    use gpreempt_sim::pm4::{Engine, MapProcess, MapQueues, Packet, RunList};
    use gpreempt_sim::text::debugfs::{self as print, NodeHqds, NodeRunlist, ProcessMqds, QueueMqd, SlotHqd, XccHqds};

    use super::*;

    prop_compose! {
        fn image()(
            address in (1_u64..1 << 36).prop_map(|page| page << 12),
            active: bool,
            priority in 0_u32..16,
            ring in (1_u64..1 << 39).prop_map(|page| page << 8),
            pointers in (0_u64..1 << 20, 0_u64..1 << 20),
            doorbell in 0_u32..1 << 20,
            saved in 0_u32..0x2000,
        ) -> ComputeMqd {
            ComputeMqd {
                address,
                active,
                vmid: 8,
                priority,
                ring,
                ring_bytes: 1 << 16,
                rptr: pointers.0,
                wptr: pointers.1,
                doorbell,
                ctl_stack_bytes: 0x2000,
                saved_ctl_bytes: saved,
                ..ComputeMqd::default()
            }
        }
    }

    fn agrees(mqd: &Mqd, image: &ComputeMqd, xccs: u32) -> Result<(), TestCaseError> {
        let fields = mqd.fields.expect("a whole image");
        prop_assert_eq!((mqd.kind, mqd.copies), (MqdKind::Compute, xccs));
        prop_assert_eq!((fields.address, fields.ring_base), (image.address, image.ring));
        prop_assert_eq!((fields.queue_priority, fields.doorbell), (image.priority, image.doorbell));
        prop_assert_eq!(u64::from(fields.read_pointer), image.rptr * 16);
        prop_assert_eq!(fields.write_pointer, image.wptr * 16);
        prop_assert_eq!(fields.has_saved_waves(), image.saved_ctl_bytes > 0);
        Ok(())
    }

    proptest! {
        #[test]
        fn mqds_are_read_as_printed(
            images in prop::collection::vec((image(), any::<bool>()), 0..4),
            xccs in 1_u32..5,
            pid: u32,
            pasid in 1_u32..0x10000,
        ) {
            let queue = |(image, sdma): &(ComputeMqd, bool)| {
                let words = if *sdma { vec![0; SDMA_DWORDS] } else { image.images(xccs) };
                QueueMqd { gpu_id: 0xf7bc, sdma: *sdma, image: words }
            };
            let text = print::mqds(&[ProcessMqds { pid, pasid, queues: images.iter().map(queue).collect() }]);
            let dump = parse_mqds("mqds", &text).unwrap();
            prop_assert!(!dump.truncated);
            prop_assert_eq!((dump.processes[0].kfd_pid, dump.processes[0].pasid), (pid, pasid));
            prop_assert_eq!(dump.processes[0].queues.len(), images.len());
            for (mqd, (image, sdma)) in dump.processes[0].queues.iter().zip(&images) {
                prop_assert_eq!(mqd.gpu, NODE);
                if *sdma {
                    prop_assert_eq!(mqd.kind, MqdKind::Sdma);
                } else {
                    agrees(mqd, image, xccs)?;
                }
            }
        }

        #[test]
        fn hqds_are_read_as_printed(images in prop::collection::vec(image(), 0..8), xccs in 1_u32..5) {
            let slot = |xcc| move |(queue, image): (u32, &ComputeMqd)| SlotHqd {
                pipe: 0, queue, registers: hqd_registers(&image.image(xcc)),
            };
            let xcc = |instance| XccHqds {
                instance,
                hiq: [1; 56],
                slots: (0..).zip(&images).map(slot(instance)).collect(),
            };
            let nodes = [
                NodeHqds { index: 2, gpu_id: 0xf7bc, xccs: Some((0..xccs).map(xcc).collect()), sdma: Vec::new() },
                NodeHqds { index: 3, gpu_id: 0xf05b, xccs: None, sdma: Vec::new() },
            ];
            let dump = parse_hqds("hqds", &print::hqds(&nodes)).unwrap();
            prop_assert!(!dump.truncated && dump.nodes[1].stopped);
            let node = &dump.nodes[0];
            prop_assert_eq!(node.slots.len(), xccs as usize * (images.len() + 1));
            prop_assert_eq!(node.active_hqds(), xccs as usize * images.iter().filter(|image| image.active).count());
            for (image, hqd) in images.iter().zip(node.slots.iter().skip(1)) {
                let registers = hqd.registers.unwrap();
                prop_assert_eq!((registers.mqd_address, registers.ring_base), (image.address, image.ring));
                prop_assert_eq!(registers.doorbell, image.doorbell);
            }
        }

        #[test]
        fn runlists_are_read_as_printed(
            processes in prop::collection::vec((any::<u16>(), prop::collection::vec((image(), any::<bool>()), 0..4)), 0..4),
            chained: bool,
        ) {
            let mut ib = Vec::new();
            for (pasid, queues) in &processes {
                Packet::MapProcess(MapProcess { pasid: *pasid, ..MapProcess::default() }).encode(&mut ib);
                for (image, sdma) in queues {
                    let engine = if *sdma { Engine::Sdma(0) } else { Engine::Compute };
                    let (doorbell, mqd) = (image.doorbell, image.address);
                    Packet::MapQueues(MapQueues { engine, gws: false, doorbell, mqd, wptr: 0x7f55_0010_0040 }).encode(&mut ib);
                }
            }
            if chained {
                Packet::RunList(RunList { chain: true, ..RunList::default() }).encode(&mut ib);
            }
            let nodes = [NodeRunlist { index: 2, gpu_id: 0xf7bc, ib: Some(ib) }, NodeRunlist { index: 3, gpu_id: 1, ib: None }];
            let dump = parse_rls("rls", &print::rls(&nodes)).unwrap();
            prop_assert!(!dump.truncated && dump.nodes[1].processes.is_empty());
            prop_assert_eq!(dump.nodes[0].oversubscribed, chained);
            let read: Vec<_> = dump.nodes[0].processes.iter().map(|process| {
                let queues = process.queues.iter().map(|queue| (queue.mqd_address, queue.doorbell, !queue.compute));
                (process.pasid, queues.collect::<Vec<_>>())
            }).collect();
            let printed: Vec<_> = processes.iter().map(|(pasid, queues)| {
                let queues = queues.iter().map(|(image, sdma)| (image.address, image.doorbell, *sdma));
                (u32::from(*pasid), queues.collect::<Vec<_>>())
            }).collect();
            prop_assert_eq!(read, printed);
        }
    }
}
