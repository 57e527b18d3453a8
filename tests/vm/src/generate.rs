//! Makes up lists of calls. It plays each call to a machine as it goes, so that it knows which queues, leases and targets
//! there are, and most calls name some that exist.

use gpreempt_sys::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::call::{Call, Entry, Ring, Sequence, Step, Text, Twist};
use crate::machine::{Machine, SysResult};
use crate::player::{Answer, Player};

/// What the machines of a run can do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// Calls of a list, at most; a few more look at what is left.
    pub calls: u32,
    /// Most queues of all actors.
    pub queues: usize,
    /// Evictions.
    pub evict: bool,
    /// Other images.
    pub exec: bool,
    /// Debuggers.
    pub debug: bool,
}

impl Default for Abilities {
    fn default() -> Abilities {
        Abilities { calls: 30, queues: 12, evict: true, exec: true, debug: true }
    }
}

/// Values that are wrong in most places.
const ODD: [u32; 16] = [0, 1, 2, 3, 4, 5, 8, 31, 32, 64, 255, 256, 1024, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
/// Numbers that no driver has: lease commands and those of `/dev/kfd`.
const NO_LEASE_COMMANDS: [u8; 5] = [0x00, 0x01, 0x60, 0x6c, 0xff];
const NO_STOCK_COMMANDS: [u8; 5] = [0x00, 0x27, 0x5f, 0x61, 0xff];

struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.0.next_u64() % end as u64) as usize }
    }

    fn number(&mut self, end: u32) -> u32 {
        self.below(end as usize) as u32
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())].clone()) }
    }
}

/// Makes up the list of a seed while playing it. Returns the list and what the machine answered.
///
/// # Errors
/// Where the machine cannot begin or end.
pub fn generate(machine: &mut dyn Machine, seed: u64, abilities: Abilities) -> SysResult<(Sequence, Vec<Answer>)> {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
    let scheduler = if dice.percent(70) { 0 } else { 1000 };
    let other = if dice.percent(70) { 1000 } else { 1001 };
    let actors = vec![scheduler, 1000, other];
    let flavour = match dice.below(20) {
        0..4 if abilities.debug => Flavour::Debugged,
        4..8 => Flavour::Rivals,
        8 if abilities.queues >= 12 => Flavour::Crowd,
        _ => Flavour::Plain,
    };
    let player = Player::begin(machine, &actors)?;
    let nodes = player.nodes();
    let mut maker = Maker { player, dice, abilities, flavour, calls: Vec::new(), answers: Vec::new() };
    maker.prelude();
    let length = 5 + maker.dice.number(abilities.calls);
    for _ in 0..length {
        let step = maker.next();
        maker.make(step);
    }
    maker.epilogue();
    let Maker { player, calls, answers, .. } = maker;
    player.end()?;
    Ok((Sequence { about: format!("seed {seed}"), actors, nodes, calls }, answers))
}

/// What a list is mostly about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    /// One scheduler and its targets.
    Plain,
    /// Every process can be debugged, and is.
    Debugged,
    /// Two schedulers and the same targets.
    Rivals,
    /// More queues than a node has slots.
    Crowd,
}

struct Maker<'m> {
    player: Player<'m>,
    dice: Dice,
    abilities: Abilities,
    flavour: Flavour,
    calls: Vec<Step>,
    answers: Vec<Answer>,
}

impl Maker<'_> {
    fn make(&mut self, step: Step) {
        self.answers.push(self.player.step(&step));
        self.calls.push(step);
    }

    fn plain(&mut self, actor: usize, call: Call) {
        self.make(Step { actor, call, twist: None });
    }

    /// A scheduler with a lease, its targets with queues, and the marks that let it act.
    fn prelude(&mut self) {
        for actor in 0..self.player.actors.len() {
            if self.dice.percent(95) {
                if self.abilities.debug && (self.flavour == Flavour::Debugged || self.dice.percent(25)) {
                    self.plain(actor, Call::OpenKfd);
                    self.plain(actor, Call::Runtime { mode: 1 });
                } else {
                    self.plain(actor, Call::OpenKfd);
                }
            }
        }
        let early = self.dice.percent(30);
        if !early {
            self.queues();
        }
        self.plain(0, Call::OpenLease { lease: 0, version: 1, hold_ms: 0 });
        for of in 1..self.player.actors.len() {
            if self.dice.percent(85) {
                self.plain(0, Call::Attach { lease: 0, of });
            }
        }
        for target in 1..3 {
            if self.dice.percent(75) {
                let set = if self.dice.percent(80) { KFD_GPREEMPT_POLICY_PREEMPTIBLE } else { 1 + self.dice.number(7) };
                let entry = Entry { target, ..Entry::default() };
                self.plain(0, Call::Policy { lease: 0, entry, set, clear: 0 });
            }
        }
        if early {
            self.queues();
        }
        match self.flavour {
            Flavour::Plain => {}
            Flavour::Debugged => {
                for of in 0..self.player.actors.len() {
                    let debugger = if self.dice.percent(30) && self.player.actors[0].uid == 0 { 0 } else { of };
                    if debugger != of {
                        self.plain(debugger, Call::Trace { of, on: true });
                    }
                    self.plain(debugger, Call::DebugEnable { of });
                    self.plain(debugger, Call::Snapshot { of, room: 8, clear: 1 << 30 });
                }
            }
            Flavour::Rivals => {
                self.plain(1, Call::OpenLease { lease: 0, version: 1, hold_ms: 0 });
                for of in [2, 1, 0] {
                    self.plain(1, Call::Attach { lease: 0, of });
                }
                let entry = Entry { target: 1 + self.dice.number(2), ..Entry::default() };
                self.plain(1, Call::Policy { lease: 0, entry, set: KFD_GPREEMPT_POLICY_PREEMPTIBLE, clear: 0 });
            }
            Flavour::Crowd => {
                let (online, offline) = [(0, 0), (80, 20), (10, 5)][self.dice.below(3)];
                self.plain(0, Call::Reserve { lease: 0, node: None, online, offline });
            }
        }
    }

    fn queues(&mut self) {
        if self.abilities.queues == 0 {
            return;
        }
        if self.flavour == Flavour::Crowd {
            for number in 0..22 + self.dice.number(8) {
                let busy = self.dice.percent(30);
                let call = Call::CreateQueue { node: 0, kind: 2, percent: 100, priority: 7, busy };
                self.plain(1 + number as usize % 2, call);
            }
            return;
        }
        for actor in 0..self.player.actors.len() {
            let most = if actor == 0 { 2 } else { 4 };
            for _ in 0..self.dice.number(most) {
                let call = self.create_queue();
                self.plain(actor, call);
            }
        }
    }

    /// A look at everything that is left.
    fn epilogue(&mut self) {
        let Some(reader) = self.player.actors.iter().position(|actor| actor.alive) else { return };
        self.plain(reader, Call::Read { text: Text::Rls });
        // The longest texts are not read each time.
        if self.dice.percent(20) {
            self.plain(reader, Call::Read { text: Text::Mqds });
            self.plain(reader, Call::Read { text: Text::Processes });
            for of in 0..self.player.actors.len() {
                if self.player.actors[of].alive {
                    self.plain(reader, Call::Read { text: Text::Process(of) });
                }
            }
        }
        for actor in 0..self.player.actors.len() {
            let places: Vec<u32> = self.player.actors[actor].leases.keys().copied().collect();
            for lease in places {
                let targets: Vec<u32> = self.player.actors[actor].leases[&lease].targets.keys().copied().collect();
                for target in std::iter::once(0).chain(targets) {
                    let entry = Entry { target, ..Entry::default() };
                    self.plain(actor, Call::QueueStatus { lease, entry, room: 64, want: 1 });
                }
                for node in 0..self.player.nodes() {
                    self.plain(actor, Call::HqdStatus { lease, node });
                }
                self.plain(actor, Call::Events { lease, room: 4000 });
            }
        }
    }

    fn next(&mut self) -> Step {
        let alive: Vec<usize> = (0..self.player.actors.len()).filter(|a| self.player.actors[*a].alive).collect();
        let Some(mut actor) = self.dice.pick(&alive) else {
            return Step { actor: 0, call: Call::OpenKfd, twist: None };
        };
        let schedulers: Vec<usize> =
            alive.iter().copied().filter(|a| !self.player.actors[*a].leases.is_empty()).collect();
        let scheduling = if self.flavour == Flavour::Debugged { 45 } else { 70 };
        let call = if !schedulers.is_empty() && self.dice.percent(scheduling) {
            actor = self.dice.pick(&schedulers).expect("not empty");
            let places: Vec<u32> = self.player.actors[actor].leases.keys().copied().collect();
            let lease = self.dice.pick(&places).expect("not empty");
            self.lease_call(actor, lease)
        } else if self.flavour == Flavour::Debugged && self.dice.percent(60) {
            let other = self.dice.below(self.player.actors.len());
            self.debug_call(actor, other)
        } else if self.player.actors[actor].kfd.is_none() {
            if self.dice.percent(70) { Call::OpenKfd } else { self.rare(actor) }
        } else if self.dice.percent(70) {
            self.queue_call(actor)
        } else {
            self.rare(actor)
        };
        let twist = if self.dice.percent(8) { self.twist(actor, &call) } else { None };
        Step { actor, call, twist }
    }

    fn node(&mut self) -> u32 {
        if self.dice.percent(3) { 99 } else { self.dice.number(self.player.nodes()) }
    }

    /// An id of a queue of an actor, or of none.
    fn queue(&mut self, actor: usize) -> u32 {
        let ids: Vec<u32> = self.player.actors[actor].queues.keys().copied().collect();
        let known = if self.dice.percent(5) { None } else { self.dice.pick(&ids) };
        known.unwrap_or_else(|| self.dice.number(20))
    }

    fn grace(&mut self) -> u32 {
        match self.dice.below(10) {
            0 => 255,
            1 => 1,
            2 if self.dice.percent(30) => 256,
            _ => 0,
        }
    }

    fn create_queue(&mut self) -> Call {
        let kinds = [2, 2, 2, 2, 2, 0, 0, 1, 3];
        let kind = self.dice.pick(&kinds).expect("not empty");
        let percent = if self.dice.percent(90) { 100 } else { self.dice.number(103) };
        let priority = if self.dice.percent(90) { 7 } else { self.dice.number(17) };
        Call::CreateQueue { node: self.node(), kind, percent, priority, busy: self.dice.percent(40) }
    }

    fn queue_call(&mut self, actor: usize) -> Call {
        let total: usize = self.player.actors.iter().map(|actor| actor.queues.len()).sum();
        let room = total < self.abilities.queues;
        if self.player.actors[actor].queues.is_empty() && room && self.dice.percent(80) {
            return self.create_queue();
        }
        let queue = self.queue(actor);
        match self.dice.below(10) {
            0..4 if room => self.create_queue(),
            0..6 => {
                let percent = [100, 100, 0, 50, 101][self.dice.below(5)];
                let ring = match self.dice.below(12) {
                    0 => Ring::Without,
                    1 => Ring::Part,
                    _ => Ring::Same,
                };
                Call::UpdateQueue { queue, percent, priority: self.dice.number(16), ring }
            }
            6 => Call::CuMask { queue, bits: [32, 64, 320, 0, 33][self.dice.below(5)] },
            7 => Call::Gws { queue, count: self.dice.number(3) * 32 },
            // Who destroys a queue that a debugger has suspended waits for the debugger.
            _ if self.is_suspended(actor, queue) => Call::CuMask { queue, bits: 32 },
            _ => Call::DestroyQueue { queue },
        }
    }

    fn is_suspended(&mut self, actor: usize, queue: u32) -> bool {
        let state = self.player.machine.state_of(actor, queue).unwrap_or(0);
        state & KFD_GPREEMPT_STATE_SUSPENDED != 0
    }

    fn rare(&mut self, actor: usize) -> Call {
        let other = self.dice.below(self.player.actors.len());
        match self.dice.below(20) {
            0 => Call::Version,
            1 => Call::Kill,
            2 if self.abilities.exec => Call::Exec,
            3 if self.player.actors[actor].uid == 0 => Call::SetUid { uid: 1000 },
            4 => Call::CloseKfd,
            5 if self.abilities.debug => Call::Runtime { mode: self.dice.number(4) },
            6 | 7 if self.abilities.evict => Call::Evict { evict: true },
            8 | 9 if self.abilities.evict => Call::Evict { evict: false },
            10..=14 if self.abilities.debug => self.debug_call(actor, other),
            15 => Call::Read { text: Text::Rls },
            16 => Call::Read { text: Text::Mqds },
            17 => Call::Read { text: Text::Process(other) },
            _ => {
                let version = if self.dice.percent(90) { 1 } else { self.dice.number(3) };
                let hold_ms = [0, 0, 9000, 0xffff_ffff][self.dice.below(4)];
                Call::OpenLease { lease: self.dice.number(2), version, hold_ms }
            }
        }
    }

    fn debug_call(&mut self, actor: usize, other: usize) -> Call {
        let of = if self.dice.percent(60) { actor } else { other };
        let mut queues: Vec<u32> = (0..1 + self.dice.number(3)).map(|_| self.queue(of)).collect();
        queues.sort_unstable();
        queues.dedup();
        match self.dice.below(12) {
            0 | 1 => Call::Trace { of: other, on: self.dice.percent(80) },
            2 | 3 => Call::DebugEnable { of },
            4 => Call::DebugDisable { of },
            5..=7 => Call::Suspend { of, queues, grace: if self.dice.percent(70) { 0xffff_ffff } else { 10 } },
            8 | 9 => Call::Resume { of, queues: self.dice.percent(70).then_some(queues) },
            _ => {
                Call::Snapshot { of, room: self.dice.number(8), clear: if self.dice.percent(80) { 1 << 30 } else { 0 } }
            }
        }
    }

    /// A target of a lease and whose it is.
    fn target(&mut self, actor: usize, lease: u32) -> (u32, usize) {
        let known: Vec<(u32, usize)> =
            self.player.actors[actor].leases[&lease].targets.iter().map(|(handle, of)| (*handle, *of)).collect();
        if known.is_empty() || self.dice.percent(15) {
            return (0, actor);
        }
        if self.dice.percent(4) {
            return (self.dice.number(6), actor);
        }
        self.dice.pick(&known).expect("not empty")
    }

    fn entry(&mut self, actor: usize, lease: u32) -> Entry {
        let (target, of) = self.target(actor, lease);
        let queue = if self.dice.percent(25) { None } else { Some(self.queue(of)) };
        let node = if self.dice.percent(80) { None } else { Some(self.node()) };
        Entry { target, node, queue, flags: 0 }
    }

    /// Entries of a batch; rarely two that name the same queue.
    fn entries(&mut self, actor: usize, lease: u32, most: u32, unmap: bool) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..1 + self.dice.number(most) {
            let mut entry = self.entry(actor, lease);
            if unmap && self.dice.percent(15) {
                let hold_new = if entry.queue.is_none() { KFD_GPREEMPT_ENTRY_HOLD_NEW } else { 0 };
                entry.flags = if self.dice.percent(50) { KFD_GPREEMPT_ENTRY_IF_IDLE } else { hold_new };
            }
            let clash = entries.iter().any(|other| {
                other.target == entry.target
                    && (other.queue == entry.queue || other.queue.is_none() || entry.queue.is_none())
            });
            if !clash || self.dice.percent(8) {
                entries.push(entry);
            }
        }
        entries
    }

    fn lease_call(&mut self, actor: usize, lease: u32) -> Call {
        match self.dice.below(100) {
            0..6 => Call::Attach { lease, of: self.dice.below(self.player.actors.len() + 1) },
            6..9 => Call::Detach { lease, target: self.target(actor, lease).0 },
            9..28 => {
                let entries = self.entries(actor, lease, 4, true);
                Call::Unmap { lease, entries, grace: self.grace() }
            }
            28..42 => {
                let entries = self.entries(actor, lease, 4, false);
                Call::Remap { lease, entries, grace: self.grace() }
            }
            42..50 => {
                let mut unmap = self.entries(actor, lease, 2, true);
                let mut remap = self.entries(actor, lease, 2, false);
                if self.dice.percent(10) {
                    unmap.clear();
                }
                remap.retain(|entry| {
                    let clash = |other: &Entry| {
                        other.target == entry.target
                            && (other.queue == entry.queue || other.queue.is_none() || entry.queue.is_none())
                    };
                    !unmap.iter().any(clash) || self.dice.percent(10)
                });
                Call::Swap { lease, unmap, remap, grace: self.grace() }
            }
            50..56 => {
                let entry = self.entry(actor, lease);
                let flags = if self.dice.percent(60) { self.dice.number(8) } else { self.dice.number(20) };
                Call::Selective { lease, entry, flags, grace: self.grace() }
            }
            56..62 => {
                let entry = self.entry(actor, lease);
                Call::State { lease, entry, state: self.dice.number(4), grace: self.grace() }
            }
            62..76 => {
                let entry = self.entry(actor, lease);
                let (mut set, mut clear) = (self.dice.number(8), self.dice.number(8));
                if self.dice.percent(50) {
                    set |= KFD_GPREEMPT_POLICY_PREEMPTIBLE;
                }
                if !self.dice.percent(5) {
                    clear &= !set;
                }
                if self.dice.percent(50) {
                    clear = 0;
                }
                Call::Policy { lease, entry, set, clear }
            }
            76..82 => {
                let node = if self.dice.percent(50) { None } else { Some(self.node()) };
                let (online, offline) = [(0, 0), (90, 10), (0, 5), (95, 5), (50, 50), (60, 60)][self.dice.below(6)];
                Call::Reserve { lease, node, online, offline }
            }
            82..86 => Call::HqdStatus { lease, node: self.node() },
            86..94 => {
                let entry = Entry { flags: 0, ..self.entry(actor, lease) };
                Call::QueueStatus { lease, entry, room: [64, 64, 1, 0][self.dice.below(4)], want: self.dice.number(2) }
            }
            94..97 => Call::Events { lease, room: [4000, 40, 39, 100][self.dice.below(4)] },
            97 => Call::Poll { lease },
            _ => Call::CloseLease { lease },
        }
    }

    fn twist(&mut self, actor: usize, call: &Call) -> Option<Twist> {
        let value = self.dice.pick(&ODD)?;
        let (size, lease_command) = match call {
            Call::CreateQueue { .. } => {
                // A simulated buffer is mapped wherever it is, so addresses and sizes of buffers stay as they are.
                let at = self.dice.pick(&[36, 40, 44, 48, 52, 84, 88, 92])?;
                return Some(Twist::Word { at, value });
            }
            Call::UpdateQueue { .. } => (24, false),
            Call::DestroyQueue { .. } => (8, false),
            Call::CuMask { .. } => (16, false),
            Call::Gws { .. } => (16, false),
            Call::OpenLease { .. } => (64, false),
            Call::Attach { .. } => {
                // Another pid may be anybody's.
                return Some(Twist::Word { at: 4 + 4 * self.dice.number(7), value });
            }
            Call::Detach { .. } => (32, true),
            Call::Unmap { .. } | Call::Remap { .. } => (64, true),
            Call::Swap { .. } => (80, true),
            Call::Selective { .. } | Call::State { .. } | Call::Policy { .. } => (56, true),
            Call::Reserve { .. } => (48, true),
            Call::HqdStatus { .. } => (128, true),
            Call::QueueStatus { .. } => (40, true),
            _ => return None,
        };
        Some(match self.dice.below(10) {
            0..5 => Twist::Word { at: 4 * self.dice.number(size / 4), value },
            5 => Twist::Element { at: 4 * self.dice.number(32), value },
            6 | 7 => {
                let bytes = [size + 8, size + 8, size + 64, size - 8, size / 2, 0][self.dice.below(6)];
                Twist::Size { bytes, tail: u8::from(self.dice.percent(40)) }
            }
            8 => {
                let numbers = if lease_command { NO_LEASE_COMMANDS } else { NO_STOCK_COMMANDS };
                Twist::Number(numbers[self.dice.below(5)])
            }
            _ => {
                let others: Vec<usize> = (0..self.player.actors.len()).filter(|other| *other != actor).collect();
                Twist::By(self.dice.pick(&others)?)
            }
        })
    }
}
