//! PM4 packets of the HIQ and of runlists, in the layouts of GFX 9.4.3.
//!
//! Bit positions are those of the kernel's `kfd_pm4_headers_ai.h` and, for MAP_PROCESS, `kfd_pm4_headers_aldebaran.h`.

/// MAP_PROCESS in dwords.
pub const MAP_PROCESS_DWORDS: usize = 21;
/// MAP_QUEUES in dwords.
pub const MAP_QUEUES_DWORDS: usize = 7;
/// RUN_LIST in dwords.
pub const RUN_LIST_DWORDS: usize = 4;
/// UNMAP_QUEUES in dwords.
pub const UNMAP_QUEUES_DWORDS: usize = 6;
/// QUERY_STATUS in dwords.
pub const QUERY_STATUS_DWORDS: usize = 7;
/// WRITE_DATA to a register, in dwords.
pub const WRITE_DATA_DWORDS: usize = 5;
/// SET_RESOURCES in dwords.
pub const SET_RESOURCES_DWORDS: usize = 8;

/// Which engine a MAP_QUEUES packet names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The compute micro engine.
    Compute,
    /// An SDMA engine by number, 0 to 15.
    Sdma(u32),
}

/// SET_RESOURCES: what HWS may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetResources {
    /// VMIDs for processes of the runlist.
    pub vmid_mask: u16,
    /// In 100 ms.
    pub unmap_latency: u8,
    /// Bit 8 * pipe + queue of MEC 1.
    pub queue_mask: u64,
    /// Global wave sync entries.
    pub gws_mask: u64,
}

/// RUN_LIST: where the runlist is; inside a runlist, the chain that makes HWS start over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunList {
    /// GPU address of the indirect buffer.
    pub ib: u64,
    /// Size of the indirect buffer in dwords.
    pub ib_dwords: u32,
    /// True where it is the last packet of an over-subscribed runlist.
    pub chain: bool,
    /// Processes that HWS maps together.
    pub processes: u8,
}

/// MAP_PROCESS: opens the queues of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapProcess {
    /// PASID.
    pub pasid: u16,
    /// Process quantum; the driver writes 10.
    pub quantum: u8,
    /// Physical address of the page table, with its flag bits.
    pub page_table_base: u64,
    /// All queues of the process on the node, mapped or not.
    pub num_queues: u16,
    /// Global wave sync entries, 0 where no queue of the process holds them.
    pub num_gws: u8,
    /// Trap handler code address (256-byte aligned).
    pub trap_base: u64,
    /// Trap handler memory address (256-byte aligned).
    pub trap_memory: u64,
}

/// MAP_QUEUES: one queue of the process that the last MAP_PROCESS opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapQueues {
    /// Engine.
    pub engine: Engine,
    /// Whether it holds global wave sync.
    pub gws: bool,
    /// Doorbell offset in dwords of the doorbell BAR.
    pub doorbell: u32,
    /// GPU address of the MQD.
    pub mqd: u64,
    /// User address of the write pointer.
    pub wptr: u64,
}

/// Which queues an UNMAP_QUEUES packet takes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapSelect {
    /// Those of one process.
    Pasid(u16),
    /// All.
    All,
    /// All but static (debug) queues: what every KFD round uses.
    AllNonStatic,
}

/// UNMAP_QUEUES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapQueues {
    /// Which queues.
    pub select: UnmapSelect,
    /// True kills waves instead of saving them.
    pub reset: bool,
}

/// QUERY_STATUS: writes a fence when everything before it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryStatus {
    /// GPU address of the fence.
    pub address: u64,
    /// What to write.
    pub data: u64,
}

/// WRITE_DATA to a register (the grace period).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteData {
    /// Register, dword offset.
    pub register: u32,
    /// Value.
    pub value: u32,
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// SET_RESOURCES.
    SetResources(SetResources),
    /// RUN_LIST.
    RunList(RunList),
    /// MAP_PROCESS.
    MapProcess(MapProcess),
    /// MAP_QUEUES.
    MapQueues(MapQueues),
    /// UNMAP_QUEUES.
    UnmapQueues(UnmapQueues),
    /// QUERY_STATUS.
    QueryStatus(QueryStatus),
    /// WRITE_DATA.
    WriteData(WriteData),
}

/// A word sequence that is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dword {at}: {header:#010x} starts no complete packet")]
pub struct Malformed {
    /// Index of the header.
    pub at: usize,
    /// The header.
    pub header: u32,
}

const TYPE3: u32 = 3 << 30;
const WRITE_DATA: u32 = 0x37;
const SET_RESOURCES: u32 = 0xa0;
const MAP_PROCESS: u32 = 0xa1;
const MAP_QUEUES: u32 = 0xa2;
const UNMAP_QUEUES: u32 = 0xa3;
const QUERY_STATUS: u32 = 0xa4;
const RUN_LIST: u32 = 0xa5;

/// QUERY_STATUS `command`: write the fence once everything before it is acknowledged.
const FENCE_AFTER_WRITE_ACK: u32 = 2 << 30;
/// SET_RESOURCES `queue_type`: the caller is the HIQ.
const FROM_HIQ: u32 = 1 << 29;
/// MAP_QUEUES `queue_sel`: HWS picks the slot.
const HWS_PICKS_SLOT: u32 = 1 << 4;
/// MAP_QUEUES `num_queues`: always one.
const ONE_QUEUE: u32 = 1 << 29;
/// MAP_PROCESS ordinal 14, `sdma_enable`.
const SDMA_ENABLE: u32 = 1 << 7;
/// RUN_LIST ordinal 4: `chain` and `chained_runlist_idle_disable`, which KFD sets together, and `valid`.
const CHAIN: u32 = 1 << 20 | 1 << 22;
const VALID: u32 = 1 << 23;
/// WRITE_DATA `addr_incr`: one register.
const SAME_ADDRESS: u32 = 1 << 16;

/// The low `bits` bits of `value`, at `shift`.
const fn field(value: u32, bits: u32, shift: u32) -> u32 {
    (value & ((1 << bits) - 1)) << shift
}

/// `bits` bits of `word` from `shift` on.
const fn part(word: u32, bits: u32, shift: u32) -> u32 {
    word >> shift & ((1 << bits) - 1)
}

const fn low(value: u64) -> u32 {
    value as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

const fn wide(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

impl Packet {
    /// Length in dwords.
    pub const fn dwords(&self) -> usize {
        match self {
            Packet::SetResources(_) => SET_RESOURCES_DWORDS,
            Packet::RunList(_) => RUN_LIST_DWORDS,
            Packet::MapProcess(_) => MAP_PROCESS_DWORDS,
            Packet::MapQueues(_) => MAP_QUEUES_DWORDS,
            Packet::UnmapQueues(_) => UNMAP_QUEUES_DWORDS,
            Packet::QueryStatus(_) => QUERY_STATUS_DWORDS,
            Packet::WriteData(_) => WRITE_DATA_DWORDS,
        }
    }

    /// Appends the packet; a value wider than its field loses its upper bits, as in the kernel's bit fields.
    pub fn encode(&self, out: &mut Vec<u32>) {
        let start = out.len();
        let opcode = match self {
            Packet::SetResources(_) => SET_RESOURCES,
            Packet::RunList(_) => RUN_LIST,
            Packet::MapProcess(_) => MAP_PROCESS,
            Packet::MapQueues(_) => MAP_QUEUES,
            Packet::UnmapQueues(_) => UNMAP_QUEUES,
            Packet::QueryStatus(_) => QUERY_STATUS,
            Packet::WriteData(_) => WRITE_DATA,
        };
        out.push(TYPE3 | (self.dwords() as u32 - 2) << 16 | opcode << 8);
        match self {
            Packet::SetResources(p) => out.extend([
                u32::from(p.vmid_mask) | field(p.unmap_latency.into(), 8, 16) | FROM_HIQ,
                low(p.queue_mask),
                high(p.queue_mask),
                low(p.gws_mask),
                high(p.gws_mask),
            ]),
            Packet::RunList(p) => {
                let flags = VALID | if p.chain { CHAIN } else { 0 };
                let last = field(p.ib_dwords, 20, 0) | flags | field(p.processes.into(), 4, 24);
                out.extend([low(p.ib), high(p.ib), last]);
            }
            Packet::MapProcess(p) => {
                let (tba, tma) = (p.trap_base >> 8, p.trap_memory >> 8);
                out.extend([
                    u32::from(p.pasid) | field(p.quantum.into(), 7, 25),
                    low(p.page_table_base),
                    high(p.page_table_base),
                    0,
                    0,
                    low(tba),
                    high(tba),
                    low(tma),
                    high(tma),
                    0,
                    0,
                    0,
                    field(p.num_gws.into(), 7, 0) | SDMA_ENABLE | field(p.num_queues.into(), 10, 22),
                ]);
            }
            Packet::MapQueues(p) => {
                let engine = match p.engine {
                    Engine::Compute => 0,
                    // Engines 0 and 1 by the old selector, the others by its extension in groups of eight.
                    Engine::Sdma(n @ 0..=1) => field(n + 2, 3, 26),
                    Engine::Sdma(n) => field(n % 8, 3, 26) | field(n / 8 + 1, 2, 2),
                };
                out.extend([
                    HWS_PICKS_SLOT | field(p.gws.into(), 1, 12) | engine | ONE_QUEUE,
                    field(p.doorbell, 26, 2),
                    low(p.mqd),
                    high(p.mqd),
                    low(p.wptr),
                    high(p.wptr),
                ]);
            }
            Packet::UnmapQueues(p) => {
                let (select, pasid) = match p.select {
                    UnmapSelect::Pasid(pasid) => (1, pasid),
                    UnmapSelect::All => (2, 0),
                    UnmapSelect::AllNonStatic => (3, 0),
                };
                out.extend([field(p.reset.into(), 2, 0) | field(select, 2, 4), pasid.into()]);
            }
            Packet::QueryStatus(p) => {
                out.extend([FENCE_AFTER_WRITE_ACK, 0, low(p.address), high(p.address), low(p.data), high(p.data)])
            }
            Packet::WriteData(p) => out.extend([SAME_ADDRESS, field(p.register, 18, 0), 0, p.value]),
        }
        out.resize(start + self.dwords(), 0);
    }

    /// The packet of a header and its body; None where no driver writes such a packet.
    fn parse(words: &[u32]) -> Option<Packet> {
        let (opcode, dwords) = (part(words[0], 8, 8), words.len());
        Some(match (opcode, dwords) {
            (SET_RESOURCES, SET_RESOURCES_DWORDS) => Packet::SetResources(SetResources {
                vmid_mask: part(words[1], 16, 0) as u16,
                unmap_latency: part(words[1], 8, 16) as u8,
                queue_mask: wide(words[2], words[3]),
                gws_mask: wide(words[4], words[5]),
            }),
            (RUN_LIST, RUN_LIST_DWORDS) => Packet::RunList(RunList {
                ib: wide(words[1] & !3, words[2]),
                ib_dwords: part(words[3], 20, 0),
                chain: part(words[3], 1, 20) == 1,
                processes: part(words[3], 4, 24) as u8,
            }),
            (MAP_PROCESS, MAP_PROCESS_DWORDS) => Packet::MapProcess(MapProcess {
                pasid: part(words[1], 16, 0) as u16,
                quantum: part(words[1], 7, 25) as u8,
                page_table_base: wide(words[2], words[3]),
                num_queues: part(words[13], 10, 22) as u16,
                num_gws: part(words[13], 7, 0) as u8,
                trap_base: wide(words[6], words[7]) << 8,
                trap_memory: wide(words[8], words[9]) << 8,
            }),
            (MAP_QUEUES, MAP_QUEUES_DWORDS) => Packet::MapQueues(MapQueues {
                engine: match (part(words[1], 2, 2), part(words[1], 3, 26)) {
                    (0, 0) => Engine::Compute,
                    (0, n @ 2..=3) => Engine::Sdma(n - 2),
                    (group @ 1..=2, n) => Engine::Sdma((group - 1) * 8 + n),
                    _ => return None,
                },
                gws: part(words[1], 1, 12) == 1,
                doorbell: part(words[2], 26, 2),
                mqd: wide(words[3], words[4]),
                wptr: wide(words[5], words[6]),
            }),
            (UNMAP_QUEUES, UNMAP_QUEUES_DWORDS) => Packet::UnmapQueues(UnmapQueues {
                select: match part(words[1], 2, 4) {
                    1 => UnmapSelect::Pasid(part(words[2], 16, 0) as u16),
                    2 => UnmapSelect::All,
                    3 => UnmapSelect::AllNonStatic,
                    _ => return None,
                },
                reset: match part(words[1], 2, 0) {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            }),
            (QUERY_STATUS, QUERY_STATUS_DWORDS) => {
                Packet::QueryStatus(QueryStatus { address: wide(words[3], words[4]), data: wide(words[5], words[6]) })
            }
            (WRITE_DATA, WRITE_DATA_DWORDS) => {
                Packet::WriteData(WriteData { register: part(words[2], 18, 0), value: words[4] })
            }
            _ => return None,
        })
    }
}

/// The packets of a buffer, in order.
pub fn decode(words: &[u32]) -> Decoder<'_> {
    Decoder { words, at: 0 }
}

/// Iterator over packets; ends at the end of the buffer or after the first malformed header.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    words: &'a [u32],
    at: usize,
}

impl Iterator for Decoder<'_> {
    type Item = Result<Packet, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let header = *self.words.get(at)?;
        let end = at + part(header, 14, 16) as usize + 2;
        let words = (header & TYPE3 == TYPE3).then(|| self.words.get(at..end)).flatten();
        match words.and_then(Packet::parse) {
            Some(packet) => {
                self.at = end;
                Some(Ok(packet))
            }
            None => {
                self.at = self.words.len();
                Some(Err(Malformed { at, header }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(packet: Packet) -> Vec<u32> {
        let mut out = Vec::new();
        packet.encode(&mut out);
        out
    }

    fn map_queues(engine: Engine) -> Packet {
        Packet::MapQueues(MapQueues { engine, gws: false, doorbell: 0x802, mqd: 0x7f00_0041_0000, wptr: 0x3fb7_3040 })
    }

    #[test]
    fn a_compute_queue_is_mapped_with_the_words_that_the_driver_writes() {
        // Seen on the real 6.12 driver: doorbell 802, MQD 7f0000410000, write pointer 3fb73040.
        let expected = [0xc005_a200, 0x2000_0010, 0x0000_2008, 0x0041_0000, 0x0000_7f00, 0x3fb7_3040, 0];
        assert_eq!(words(map_queues(Engine::Compute)), expected);
    }

    #[test]
    fn a_process_is_mapped_with_its_pasid_quantum_and_queue_count_in_21_dwords() {
        let process =
            MapProcess { pasid: 1, quantum: 10, page_table_base: 0x1_0000_1000, num_queues: 2, ..Default::default() };
        let found = words(Packet::MapProcess(process));
        assert_eq!(found.len(), 21);
        assert_eq!(found[..4], [0xc013_a100, 0x1400_0001, 0x0000_1000, 0x0000_0001]);
        assert_eq!(found[13], 2 << 22 | 1 << 7);
        assert!(found[14..].iter().all(|w| *w == 0));
    }

    #[test]
    fn every_sdma_engine_has_a_selector_of_its_own() {
        let selectors: Vec<_> = (0..16).map(|n| words(map_queues(Engine::Sdma(n)))[1] & !0x2000_0010).collect();
        assert_eq!(selectors[..3], [2 << 26, 3 << 26, 2 << 26 | 1 << 2]);
        assert_eq!(selectors[8], 2 << 2);
        assert_eq!(selectors[15], 7 << 26 | 2 << 2);
    }

    #[test]
    fn a_round_is_an_unmap_of_all_dynamic_queues_and_a_fence() {
        let unmap = UnmapQueues { select: UnmapSelect::AllNonStatic, reset: false };
        assert_eq!(words(Packet::UnmapQueues(unmap)), [0xc004_a300, 0x30, 0, 0, 0, 0]);
        let query = QueryStatus { address: 0x7f00_0000_2000, data: 5 };
        assert_eq!(words(Packet::QueryStatus(query)), [0xc005_a400, 2 << 30, 0, 0x2000, 0x7f00, 5, 0]);
    }

    #[test]
    fn the_chain_of_an_oversubscribed_runlist_keeps_the_size_of_the_buffer() {
        let list = RunList { ib: 0x7f00_0000_1e00, ib_dwords: 200, chain: true, processes: 13 };
        assert_eq!(words(Packet::RunList(list)), [0xc002_a500, 0x1e00, 0x7f00, 13 << 24 | 0xd0_0000 | 200]);
    }

    #[test]
    fn a_zero_header_is_reported_with_its_place() {
        let mut buffer = words(map_queues(Engine::Compute));
        buffer.push(0);
        let last = decode(&buffer).last();
        assert_eq!(last, Some(Err(Malformed { at: 7, header: 0 })));
    }

    fn packets() -> impl Strategy<Value = Packet> {
        prop_oneof![
            (any::<u16>(), any::<u8>(), any::<u64>(), any::<u64>()).prop_map(
                |(vmid_mask, unmap_latency, queue_mask, gws_mask)| {
                    Packet::SetResources(SetResources { vmid_mask, unmap_latency, queue_mask, gws_mask })
                }
            ),
            (any::<u64>(), 0..1u32 << 20, any::<bool>(), 0..16u8).prop_map(|(ib, ib_dwords, chain, processes)| {
                Packet::RunList(RunList { ib: ib & !3, ib_dwords, chain, processes })
            }),
            (any::<u16>(), 0..128u8, any::<u64>(), 0..1024u16, 0..128u8, any::<u64>()).prop_map(
                |(pasid, quantum, page_table_base, num_queues, num_gws, trap)| Packet::MapProcess(MapProcess {
                    pasid,
                    quantum,
                    page_table_base,
                    num_queues,
                    num_gws,
                    trap_base: trap & !255,
                    trap_memory: !trap & !255,
                })
            ),
            (0..17u32, any::<bool>(), 0..1u32 << 26, any::<u64>(), any::<u64>()).prop_map(
                |(n, gws, doorbell, mqd, wptr)| {
                    let engine = if n == 16 { Engine::Compute } else { Engine::Sdma(n) };
                    Packet::MapQueues(MapQueues { engine, gws, doorbell, mqd, wptr })
                }
            ),
            (any::<u16>(), any::<bool>()).prop_map(|(pasid, reset)| Packet::UnmapQueues(UnmapQueues {
                select: UnmapSelect::Pasid(pasid),
                reset
            })),
            (any::<u64>(), any::<u64>()).prop_map(|(address, data)| Packet::QueryStatus(QueryStatus { address, data })),
            (0..1u32 << 18, any::<u32>())
                .prop_map(|(register, value)| Packet::WriteData(WriteData { register, value })),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(list in prop::collection::vec(packets(), 0..8)) {
            let mut buffer = Vec::new();
            list.iter().for_each(|p| p.encode(&mut buffer));
            prop_assert_eq!(buffer.len(), list.iter().map(Packet::dwords).sum::<usize>());
            prop_assert_eq!(decode(&buffer).collect::<Result<Vec<_>, _>>(), Ok(list));
        }

        #[test]
        fn any_words_end(buffer in prop::collection::vec(any::<u32>(), 0..64)) {
            prop_assert!(decode(&buffer).count() <= buffer.len());
        }
    }
}
