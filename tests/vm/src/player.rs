//! Makes the calls of a list on a machine and writes down what comes back.

use std::collections::BTreeMap;

use gpreempt_sys::*;
use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call::{Call, Entry, Ring, Sequence, Step, Text, Twist};
use crate::machine::{Buffers, Machine, Scratch, SysResult};
use crate::names::Names;
use crate::{render, text};

/// An actor as the player knows it.
#[derive(Clone, Debug, Default)]
pub struct Actor {
    /// Has not been killed.
    pub alive: bool,
    /// Its user.
    pub uid: u32,
    /// Its `/dev/kfd`.
    pub kfd: Option<i32>,
    /// KFD knows it: it has opened that once.
    pub known: bool,
    /// Evictions that were not restored.
    pub evictions: u32,
    /// Somewhere for a debugger's notifications to go.
    null: Option<i32>,
    /// Its leases, by place.
    pub leases: BTreeMap<u32, Lease>,
    /// Its queues, by KFD id.
    pub queues: BTreeMap<u32, Queue>,
    /// Who debugs it.
    debugger: Option<usize>,
    /// Whom it traces.
    pub traces: Vec<usize>,
}

/// A lease of an actor.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    file: i32,
    /// Whose handle is what.
    pub targets: BTreeMap<u32, usize>,
}

/// A queue of an actor.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// Position of its node.
    pub node: u32,
    compute: bool,
    buffers: Buffers,
}

/// What came of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In words that are the same on every machine.
    pub text: String,
    /// The errno of the call and those of its entries, with the state that each entry's queue was left in. Of a call on an
    /// own queue: the state that it was in, where the machine can tell.
    pub outcomes: Vec<(String, u32)>,
    /// Whether the call was made: its actor lives and has the file.
    pub made: bool,
}

/// Plays calls.
pub struct Player<'m> {
    /// What they are played to.
    pub machine: &'m mut dyn Machine,
    names: Names,
    gpus: Vec<u32>,
    /// Who plays.
    pub actors: Vec<Actor>,
    /// Outcomes of the entries of the current call.
    outcomes: Vec<(String, u32)>,
}

impl<'m> Player<'m> {
    /// Starts the actors.
    ///
    /// # Errors
    /// Where the machine cannot.
    pub fn begin(machine: &'m mut dyn Machine, uids: &[u32]) -> SysResult<Player<'m>> {
        machine.begin(uids)?;
        let gpus = machine.gpus();
        let mut names = Names::new(gpus.clone());
        for actor in 0..uids.len() {
            names.actor(actor, machine.pid(actor));
        }
        let actors = uids.iter().map(|uid| Actor { alive: true, uid: *uid, ..Actor::default() }).collect();
        Ok(Player { machine, names, gpus, actors, outcomes: Vec::new() })
    }

    /// Ends the actors.
    ///
    /// # Errors
    /// Where the machine does not come to rest.
    pub fn end(self) -> SysResult<()> {
        self.machine.end()
    }

    /// Plays a list from a clean start to a clean end.
    ///
    /// # Errors
    /// Where the machine cannot begin or end.
    pub fn play(machine: &mut dyn Machine, sequence: &Sequence) -> SysResult<Vec<Answer>> {
        let mut player = Player::begin(machine, &sequence.actors)?;
        let answers = sequence.calls.iter().map(|step| player.step(step)).collect();
        player.end()?;
        Ok(answers)
    }

    /// GPU nodes of the machine.
    pub fn nodes(&self) -> u32 {
        self.gpus.len() as u32
    }

    /// Makes one call.
    pub fn step(&mut self, step: &Step) -> Answer {
        self.outcomes.clear();
        let before = step.call.queue().and_then(|queue| self.machine.state_of(step.actor, queue)).unwrap_or(0);
        let Some(text) = self.make(step) else {
            return Answer { text: "not made".to_owned(), outcomes: Vec::new(), made: false };
        };
        let mut outcomes = std::mem::take(&mut self.outcomes);
        let errno = text.split(' ').next().unwrap_or_default();
        if outcomes.is_empty() || errno != "0" {
            outcomes.insert(0, (errno.to_owned(), before));
        }
        Answer { text, outcomes, made: true }
    }

    fn gpu(&self, node: u32) -> u32 {
        // No machine has these.
        self.gpus.get(node as usize).copied().unwrap_or(0xfff0_0000 + node)
    }

    fn entry(&self, entry: &Entry) -> kfd_gpreempt_entry {
        kfd_gpreempt_entry {
            target: entry.target,
            gpu_id: entry.node.map_or(0, |node| self.gpu(node)),
            queue_id: entry.queue.unwrap_or(KFD_GPREEMPT_ALL_QUEUES),
            flags: entry.flags,
            ..Default::default()
        }
    }

    fn make(&mut self, step: &Step) -> Option<String> {
        let actor = step.actor;
        if !self.actors.get(actor)?.alive {
            return None;
        }
        match &step.call {
            Call::OpenKfd => Some(self.open_kfd(actor)),
            Call::CloseKfd => {
                let file = self.actors[actor].kfd.take()?;
                Some(plain(self.machine.close(actor, file)))
            }
            Call::Kill => {
                self.actors[actor] = Actor::default();
                self.forget_debugger(actor);
                self.actors.iter_mut().for_each(|other| other.traces.retain(|of| *of != actor));
                Some(plain(self.machine.kill(actor)))
            }
            Call::Exec => {
                let done = self.machine.exec(actor);
                if done == Ok(true) {
                    self.forget_debugger(actor);
                    let uid = self.actors[actor].uid;
                    self.actors[actor] = Actor { alive: true, uid, ..Actor::default() };
                }
                Some(plain(done.map(|_| ())))
            }
            Call::SetUid { uid } => {
                let answer = self.machine.set_uid(actor, *uid);
                if answer.is_ok() {
                    self.actors[actor].uid = *uid;
                }
                Some(plain(answer))
            }
            Call::Sleep { ms } => {
                self.machine.sleep(*ms);
                Some("0".to_owned())
            }
            Call::Evict { evict } => {
                // The kernel evicts whom it knows, and restores whom it has evicted.
                let it = &mut self.actors[actor];
                if !it.known || (!evict && it.evictions == 0) {
                    return None;
                }
                it.evictions = if *evict { it.evictions + 1 } else { it.evictions - 1 };
                Some(plain(self.machine.evict(actor, *evict).map(|_| ())))
            }
            Call::Trace { of, on } => {
                if *of == actor || !self.actors.get(*of)?.alive {
                    return None;
                }
                let answer = self.machine.trace(actor, *of, *on);
                if answer.is_ok() {
                    let traces = &mut self.actors[actor].traces;
                    traces.retain(|traced| traced != of);
                    traces.extend(on.then_some(*of));
                }
                Some(plain(answer))
            }
            Call::Read { text } => self.read(actor, *text),
            Call::OpenLease { .. }
            | Call::Version
            | Call::CreateQueue { .. }
            | Call::UpdateQueue { .. }
            | Call::CuMask { .. }
            | Call::Gws { .. }
            | Call::DestroyQueue { .. }
            | Call::Runtime { .. }
            | Call::DebugEnable { .. }
            | Call::DebugDisable { .. }
            | Call::Suspend { .. }
            | Call::Resume { .. }
            | Call::Snapshot { .. } => self.stock(step),
            Call::CloseLease { lease } => {
                let lease = self.actors[actor].leases.remove(lease)?;
                Some(plain(self.machine.close(actor, lease.file)))
            }
            Call::Poll { lease } => {
                let file = self.actors[actor].leases.get(lease)?.file;
                Some(match self.machine.poll(actor, file) {
                    Ok((readable, hung_up)) => format!("0 readable={readable} hung-up={hung_up}"),
                    Err(errno) => format!("{errno:?}"),
                })
            }
            Call::Events { lease, room } => {
                let file = self.actors[actor].leases.get(lease)?.file;
                Some(match self.machine.read(actor, file, *room as usize) {
                    Ok(bytes) => {
                        let size = size_of::<kfd_gpreempt_event>();
                        let mut text = format!("0 bytes={}", bytes.len());
                        for event in bytes.chunks(size) {
                            match kfd_gpreempt_event::read_from_bytes(event) {
                                Ok(event) => text += &format!(" [{}]", render::event(&event, &self.names)),
                                Err(_) => text += " [part of an event]",
                            }
                        }
                        text
                    }
                    Err(errno) => format!("{errno:?}"),
                })
            }
            _ => self.lease_command(step),
        }
    }

    /// The sessions of a debugger that is gone end.
    fn forget_debugger(&mut self, gone: usize) {
        self.actors.iter_mut().filter(|it| it.debugger == Some(gone)).for_each(|it| it.debugger = None);
    }

    fn open_kfd(&mut self, actor: usize) -> String {
        match self.machine.open(actor, "/dev/kfd") {
            Ok(file) => {
                self.actors[actor].known = true;
                if let Some(before) = self.actors[actor].kfd.replace(file) {
                    let _ = self.machine.close(actor, before);
                }
                "0".to_owned()
            }
            Err(errno) => format!("{errno:?}"),
        }
    }

    /// One ioctl, with what is wrong with it.
    fn ioctl<T>(&mut self, step: &Step, file: i32, request: u32, args: &mut T, memory: &mut Scratch) -> SysResult<i32>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let mut bytes = args.as_bytes().to_vec();
        let (mut actor, mut file, mut request) = (step.actor, file, request);
        let mut lent = false;
        match step.twist {
            None => {}
            Some(Twist::Word { at, value }) => overwrite(&mut bytes, at, value),
            Some(Twist::Element { at, value }) => {
                let end = 8 * size_of::<kfd_gpreempt_entry>();
                let start = crate::machine::ARRAYS[0];
                overwrite(&mut memory.0[start..start + end], at, value);
            }
            Some(Twist::Size { bytes: size, tail }) => {
                bytes.resize(size as usize, tail);
                request = request & !(0x3fff << 16) | (size & 0x3fff) << 16;
            }
            Some(Twist::Number(number)) => request = request & !0xff | u32::from(number),
            Some(Twist::By(other)) if other != actor && self.actors.get(other).is_some_and(|it| it.alive) => {
                file = self.machine.lend(actor, file, other)?;
                actor = other;
                lent = true;
            }
            Some(Twist::By(_)) => {}
        }
        let answer = self.machine.ioctl(actor, file, request, &mut bytes, memory);
        if lent {
            let _ = self.machine.take_back(actor, file);
        }
        bytes.resize(size_of::<T>(), 0);
        *args = T::read_from_bytes(&bytes).expect("just resized");
        answer
    }

    // --- /dev/kfd -------------------------------------------------------------------------------------------------

    fn stock(&mut self, step: &Step) -> Option<String> {
        let actor = step.actor;
        let file = self.actors[actor].kfd?;
        let mut memory = Scratch::default();
        Some(match &step.call {
            Call::Version => {
                let mut args = kfd_ioctl_get_version_args::default();
                let answer = self.ioctl(step, file, AMDKFD_IOC_GET_VERSION, &mut args, &mut memory);
                format!("{} {}.{}", code(answer), args.major_version, args.minor_version)
            }
            Call::CreateQueue { node, kind, percent, priority, busy } => {
                self.create_queue(step, file, (*node, *kind, *percent, *priority), *busy)
            }
            Call::UpdateQueue { queue, percent, priority, ring } => {
                let known = self.actors[actor].queues.get(queue).map(|queue| queue.buffers).unwrap_or_default();
                let mut args = kfd_ioctl_update_queue_args {
                    ring_base_address: if *ring == Ring::Without { 0 } else { known.ring },
                    queue_id: *queue,
                    ring_size: if *ring == Ring::Part { known.ring_bytes / 2 } else { known.ring_bytes },
                    queue_percentage: *percent,
                    queue_priority: *priority,
                };
                let answer = self.ioctl(step, file, AMDKFD_IOC_UPDATE_QUEUE, &mut args, &mut memory);
                code(answer)
            }
            Call::CuMask { queue, bits } => {
                let mut args = kfd_ioctl_set_cu_mask_args {
                    queue_id: *queue,
                    num_cu_mask: *bits,
                    cu_mask_ptr: memory.place(0, &[0xff; 128]),
                };
                code(self.ioctl(step, file, AMDKFD_IOC_SET_CU_MASK, &mut args, &mut memory))
            }
            Call::Gws { queue, count } => {
                let mut args =
                    kfd_ioctl_alloc_queue_gws_args { queue_id: *queue, num_gws: *count, ..Default::default() };
                let answer = self.ioctl(step, file, AMDKFD_IOC_ALLOC_QUEUE_GWS, &mut args, &mut memory);
                format!("{} first={}", code(answer), args.first_gws)
            }
            Call::DestroyQueue { queue } => {
                let mut args = kfd_ioctl_destroy_queue_args { queue_id: *queue, pad: 0 };
                let answer = self.ioctl(step, file, AMDKFD_IOC_DESTROY_QUEUE, &mut args, &mut memory);
                if answer.is_ok()
                    && let Some(gone) = self.actors[actor].queues.remove(&args.queue_id)
                {
                    let gpu = self.gpu(gone.node);
                    self.machine.recycle(actor, gpu, gone.compute, gone.buffers);
                }
                code(answer)
            }
            // A change of the runtime waits for the debugger to take note of it.
            Call::Runtime { .. } if self.actors[actor].debugger.is_some() => return None,
            Call::Runtime { mode } => {
                let mut args = kfd_ioctl_runtime_enable_args { mode_mask: *mode, ..Default::default() };
                let answer = self.ioctl(step, file, AMDKFD_IOC_RUNTIME_ENABLE, &mut args, &mut memory);
                format!("{} capabilities={}", code(answer), args.capabilities_mask)
            }
            Call::OpenLease { lease, version, hold_ms } => {
                let mut args =
                    kfd_ioctl_gpreempt_open_args { abi_version: *version, max_hold_ms: *hold_ms, ..Default::default() };
                let answer = self.ioctl(step, file, AMDKFD_IOC_GPREEMPT_OPEN, &mut args, &mut memory);
                if answer.is_ok() && args.lease_fd > 0 {
                    let opened = Lease { file: args.lease_fd, targets: BTreeMap::new() };
                    if let Some(before) = self.actors[actor].leases.insert(*lease, opened) {
                        let _ = self.machine.close(actor, before.file);
                    }
                }
                format!("{} {}", code(answer), render::open_lease(&args, &mut self.names))
            }
            _ => return self.debug(step, file, memory),
        })
    }

    fn create_queue(
        &mut self,
        step: &Step,
        file: i32,
        (node, kind, percent, priority): (u32, u32, u32, u32),
        busy: bool,
    ) -> String {
        let actor = step.actor;
        let compute = matches!(kind, KFD_IOC_QUEUE_TYPE_COMPUTE | KFD_IOC_QUEUE_TYPE_COMPUTE_AQL);
        let gpu = self.gpu(node);
        // Buffers are on a GPU that exists, even for a queue that asks for another.
        let home = self.gpus[node as usize % self.gpus.len()];
        let buffers = match self.machine.buffers(actor, home, compute) {
            Ok(buffers) => buffers,
            Err(errno) => return format!("no buffers: {errno:?}"),
        };
        let mut args = kfd_ioctl_create_queue_args {
            ring_base_address: buffers.ring,
            write_pointer_address: buffers.write,
            read_pointer_address: buffers.read,
            ring_size: buffers.ring_bytes,
            gpu_id: gpu,
            queue_type: kind,
            queue_percentage: percent,
            queue_priority: priority,
            ctx_save_restore_address: buffers.save,
            ctx_save_restore_size: buffers.save_bytes,
            ctl_stack_size: buffers.stack_bytes,
            ..Default::default()
        };
        let mut memory = Scratch::default();
        match self.ioctl(step, file, AMDKFD_IOC_CREATE_QUEUE, &mut args, &mut memory) {
            Ok(value) => {
                let queue = Queue { node, compute, buffers };
                self.actors[actor].queues.insert(args.queue_id, queue);
                if busy && let Err(errno) = self.machine.fill(actor, kind, args.queue_id, &buffers) {
                    return format!("cannot fill: {errno:?}");
                }
                let kind = args.doorbell_offset >> 62;
                let gpu = (args.doorbell_offset >> 46 & 0xffff) as u32;
                format!("{value} q{} doorbell={kind}/{}", args.queue_id, self.names.gpu(gpu))
            }
            Err(errno) => {
                self.machine.recycle(actor, home, compute, buffers);
                format!("{errno:?} q{}", args.queue_id)
            }
        }
    }

    fn debug(&mut self, step: &Step, file: i32, mut memory: Scratch) -> Option<String> {
        let actor = step.actor;
        let pid = |of: usize| (of < self.actors.len()).then(|| self.machine.pid(of));
        Some(match &step.call {
            Call::DebugEnable { of } => {
                let pid = pid(*of)?;
                if self.actors[actor].null.is_none() {
                    self.actors[actor].null = Some(self.machine.open(actor, "/dev/null").ok()?);
                }
                let enable = kfd_ioctl_dbg_trap_enable_args {
                    exception_mask: 0,
                    rinfo_ptr: memory.place(0, &[0; 16]),
                    rinfo_size: 16,
                    dbg_fd: self.actors[actor].null?.cast_unsigned(),
                };
                let mut args = kfd_ioctl_dbg_trap_args::new(pid, enable);
                let answer = self.ioctl(step, file, AMDKFD_IOC_DBG_TRAP, &mut args, &mut memory);
                let info = kfd_runtime_info::read_from_bytes(memory.array(0, 16)).expect("16 bytes");
                if answer.is_ok() {
                    self.actors[*of].debugger = Some(actor);
                }
                let size = args.get::<kfd_ioctl_dbg_trap_enable_args>().map_or(0, |args| args.rinfo_size);
                format!("{} size={size} runtime={} ttmp={}", code(answer), info.runtime_state, info.ttmp_setup)
            }
            Call::DebugDisable { of } => {
                let pid = pid(*of)?;
                let mut args = kfd_ioctl_dbg_trap_args { pid, op: KFD_IOC_DBG_TRAP_DISABLE, ..Default::default() };
                let answer = self.ioctl(step, file, AMDKFD_IOC_DBG_TRAP, &mut args, &mut memory);
                if answer.is_ok() {
                    self.actors[*of].debugger = None;
                }
                code(answer)
            }
            Call::Suspend { of, queues, grace } => {
                let pid = pid(*of)?;
                let suspend = kfd_ioctl_dbg_trap_suspend_queues_args {
                    exception_mask: 0,
                    queue_array_ptr: memory.place(0, queues.as_bytes()),
                    num_queues: queues.len() as u32,
                    grace_period: *grace,
                };
                let mut args = kfd_ioctl_dbg_trap_args::new(pid, suspend);
                let answer = self.ioctl(step, file, AMDKFD_IOC_DBG_TRAP, &mut args, &mut memory);
                format!("{} {}", code(answer), ids(&memory, queues.len()))
            }
            Call::Resume { of, queues } => {
                let pid = pid(*of)?;
                let list = queues.clone().unwrap_or_default();
                let resume = kfd_ioctl_dbg_trap_resume_queues_args {
                    queue_array_ptr: if queues.is_some() { memory.place(0, list.as_bytes()) } else { 0 },
                    num_queues: list.len() as u32,
                    pad: 0,
                };
                let mut args = kfd_ioctl_dbg_trap_args::new(pid, resume);
                let answer = self.ioctl(step, file, AMDKFD_IOC_DBG_TRAP, &mut args, &mut memory);
                format!("{} {}", code(answer), ids(&memory, list.len()))
            }
            Call::Snapshot { of, room, clear } => {
                let pid = pid(*of)?;
                let size = size_of::<kfd_queue_snapshot_entry>();
                let snapshot = kfd_ioctl_dbg_trap_queue_snapshot_args {
                    exception_mask: *clear,
                    snapshot_buf_ptr: memory.place(0, &[]),
                    num_queues: *room,
                    entry_size: size as u32,
                };
                let mut args = kfd_ioctl_dbg_trap_args::new(pid, snapshot);
                let answer = self.ioctl(step, file, AMDKFD_IOC_DBG_TRAP, &mut args, &mut memory);
                let out = args.get::<kfd_ioctl_dbg_trap_queue_snapshot_args>()?;
                let mut text = format!("{} queues={} size={}", code(answer), out.num_queues, out.entry_size);
                let listed = out.num_queues.min(*room).min(64) as usize;
                for entry in memory.array(0, listed * size).chunks_exact(size) {
                    let entry = kfd_queue_snapshot_entry::read_from_bytes(entry).expect("an element");
                    text += &format!(" [{}]", render::snapshot(&entry, &self.names));
                }
                text
            }
            _ => return None,
        })
    }

    // --- the lease ------------------------------------------------------------------------------------------------

    fn lease_command(&mut self, step: &Step) -> Option<String> {
        let actor = step.actor;
        let place = match &step.call {
            Call::Attach { lease, .. }
            | Call::Detach { lease, .. }
            | Call::Unmap { lease, .. }
            | Call::Remap { lease, .. }
            | Call::Swap { lease, .. }
            | Call::Selective { lease, .. }
            | Call::State { lease, .. }
            | Call::Policy { lease, .. }
            | Call::Reserve { lease, .. }
            | Call::HqdStatus { lease, .. }
            | Call::QueueStatus { lease, .. } => *lease,
            _ => return None,
        };
        let file = self.actors[actor].leases.get(&place)?.file;
        let mut memory = Scratch::default();
        Some(match &step.call {
            Call::Attach { of, .. } => {
                // An actor that never was has a pid that no process has.
                let pid = if *of < self.actors.len() { self.machine.pid(*of) } else { 0x7fff_ffff };
                let mut args = kfd_ioctl_gpreempt_attach_args { pid, ..Default::default() };
                let answer = self.ioctl(step, file, AMDKFD_IOC_GPREEMPT_ATTACH, &mut args, &mut memory);
                if answer.is_ok()
                    && let Some(of) = if args.pid == 0 { Some(actor) } else { self.names.actor_of(args.pid) }
                    && let Some(lease) = self.actors[actor].leases.get_mut(&place)
                {
                    lease.targets.insert(args.target, of);
                }
                format!("{} {}", code(answer), render::attach(&args, &self.names))
            }
            Call::Detach { target, .. } => {
                let mut args = kfd_ioctl_gpreempt_attach_args { target: *target, ..Default::default() };
                let answer = self.ioctl(step, file, AMDKFD_IOC_GPREEMPT_DETACH, &mut args, &mut memory);
                if answer.is_ok()
                    && let Some(lease) = self.actors[actor].leases.get_mut(&place)
                {
                    lease.targets.remove(&args.target);
                }
                format!("{} {}", code(answer), render::attach(&args, &self.names))
            }
            Call::Unmap { entries, grace, .. } => {
                let list = self.place(&mut memory, 0, entries);
                let mut args = kfd_ioctl_batch_unmap_args {
                    entries_ptr: list.0,
                    num_entries: list.1,
                    entry_size: ENTRY as u32,
                    grace_period: *grace,
                    ..Default::default()
                };
                let answer = self.ioctl(step, file, AMDKFD_IOC_BATCH_UNMAP_QUEUES, &mut args, &mut memory);
                format!("{} {}{}", code(answer), render::batch!(args), self.entries(&memory, 0, entries.len()))
            }
            Call::Remap { entries, grace, .. } => {
                let list = self.place(&mut memory, 0, entries);
                let mut args = kfd_ioctl_fast_remap_args {
                    entries_ptr: list.0,
                    num_entries: list.1,
                    entry_size: ENTRY as u32,
                    grace_period: *grace,
                    ..Default::default()
                };
                let answer = self.ioctl(step, file, AMDKFD_IOC_FAST_REMAP, &mut args, &mut memory);
                format!("{} {}{}", code(answer), render::batch!(args), self.entries(&memory, 0, entries.len()))
            }
            Call::Swap { unmap, remap, grace, .. } => {
                let (off, on) = (self.place(&mut memory, 0, unmap), self.place(&mut memory, 1, remap));
                let mut args = kfd_ioctl_swap_queues_args {
                    unmap_ptr: off.0,
                    remap_ptr: on.0,
                    num_unmap: off.1,
                    num_remap: on.1,
                    entry_size: ENTRY as u32,
                    grace_period: *grace,
                    ..Default::default()
                };
                let answer = self.ioctl(step, file, AMDKFD_IOC_SWAP_QUEUES, &mut args, &mut memory);
                let (off, on) = (self.entries(&memory, 0, unmap.len()), self.entries(&memory, 1, remap.len()));
                format!("{} {}{off} /{on}", code(answer), render::batch!(args))
            }
            Call::Selective { entry, flags, grace, .. } => {
                let mut args = kfd_ioctl_selective_unmap_args {
                    queue: self.entry(entry),
                    flags: *flags,
                    grace_period: *grace,
                    ..Default::default()
                };
                let answer = self.ioctl(step, file, AMDKFD_IOC_SELECTIVE_UNMAP, &mut args, &mut memory);
                format!("{} {}", code(answer), self.one(&args.queue))
            }
            Call::State { entry, state, grace, .. } => {
                let mut args = kfd_ioctl_queue_state_args {
                    queue: self.entry(entry),
                    state: *state,
                    grace_period: *grace,
                    ..Default::default()
                };
                let answer = self.ioctl(step, file, AMDKFD_IOC_SET_QUEUE_STATE, &mut args, &mut memory);
                format!("{} {}", code(answer), self.one(&args.queue))
            }
            Call::Policy { entry, set, clear, .. } => {
                let mut args = kfd_ioctl_queue_policy_args {
                    queue: self.entry(entry),
                    set_flags: *set,
                    clear_flags: *clear,
                    ..Default::default()
                };
                let answer = self.ioctl(step, file, AMDKFD_IOC_SET_QUEUE_POLICY, &mut args, &mut memory);
                format!("{} {} policy={}", code(answer), self.one(&args.queue), args.policy_flags)
            }
            Call::Reserve { node, online, offline, .. } => {
                let mut args = kfd_ioctl_hqd_reservation_args {
                    gpu_id: node.map_or(0, |node| self.gpu(node)),
                    online_percent: *online,
                    offline_percent: *offline,
                    ..Default::default()
                };
                let answer = self.ioctl(step, file, AMDKFD_IOC_SET_HQD_RESERVATION, &mut args, &mut memory);
                let mut text = code(answer);
                render::plain!(text, args, online_reserved, offline_max, num_nodes);
                text
            }
            Call::HqdStatus { node, .. } => {
                let mut args = kfd_ioctl_hqd_status_args { gpu_id: self.gpu(*node), ..Default::default() };
                match self.ioctl(step, file, AMDKFD_IOC_GET_HQD_STATUS, &mut args, &mut memory) {
                    // What did not come back is no count.
                    Ok(value) if matches!(step.twist, Some(Twist::Size { .. })) => value.to_string(),
                    Ok(value) => format!("{value} {}", render::hqd_status(&args, &mut self.names)),
                    Err(errno) => format!("{errno:?}"),
                }
            }
            Call::QueueStatus { entry, room, want, .. } => {
                self.queue_status(step, (place, file), entry, (*room, *want), &mut memory)
            }
            _ => return None,
        })
    }

    fn place(&self, memory: &mut Scratch, array: usize, entries: &[Entry]) -> (u64, u32) {
        let entries: Vec<kfd_gpreempt_entry> = entries.iter().map(|entry| self.entry(entry)).collect();
        (memory.place(array, entries.as_bytes()), entries.len() as u32)
    }

    fn one(&mut self, entry: &kfd_gpreempt_entry) -> String {
        self.outcomes.push((render::result(entry.result), entry.state));
        render::entry(entry)
    }

    fn entries(&mut self, memory: &Scratch, array: usize, count: usize) -> String {
        let mut text = String::new();
        for entry in memory.array(array, count * ENTRY).chunks_exact(ENTRY) {
            let entry = kfd_gpreempt_entry::read_from_bytes(entry).expect("an element");
            text += &format!(" [{}]", self.one(&entry));
        }
        text
    }

    fn queue_status(
        &mut self,
        step: &Step,
        (place, file): (u32, i32),
        entry: &Entry,
        (room, want): (u32, u32),
        memory: &mut Scratch,
    ) -> String {
        let size = size_of::<kfd_gpreempt_queue_status>();
        let named = self.entry(entry);
        let mut args = kfd_ioctl_queue_status_args {
            status_ptr: memory.place(0, &[]),
            target: named.target,
            gpu_id: named.gpu_id,
            queue_id: named.queue_id,
            num_entries: room,
            entry_size: size as u32,
            flags: want,
            reserved: 0,
        };
        let answer = self.ioctl(step, file, AMDKFD_IOC_GET_QUEUE_STATUS, &mut args, memory);
        let mut text = format!("{} queues={}", code(answer), args.num_entries);
        let targets = &self.actors[step.actor].leases[&place].targets;
        let owner = if named.target == 0 { Some(step.actor) } else { targets.get(&named.target).copied() };
        let rings: BTreeMap<u32, u64> = owner.map_or_else(BTreeMap::new, |owner| {
            self.actors[owner].queues.iter().map(|(id, queue)| (*id, queue.buffers.ring)).collect()
        });
        let listed = if answer.is_ok() { args.num_entries.min(room).min(300) as usize } else { 0 };
        for status in memory.array(0, listed * size).chunks_exact(size) {
            let status = kfd_gpreempt_queue_status::read_from_bytes(status).expect("an element");
            let ring = rings.get(&status.queue_id).copied();
            self.outcomes.push(("0".to_owned(), status.state));
            text += &format!(" [{}]", render::queue_status(&status, ring, &mut self.names));
        }
        text
    }

    // --- text -----------------------------------------------------------------------------------------------------

    fn read(&mut self, actor: usize, what: Text) -> Option<String> {
        let answer = match what {
            Text::Mqds => self
                .machine
                .read_text(actor, "/sys/kernel/debug/kfd/mqds")
                .map(|text| text::mqds(&text, &mut self.names)),
            Text::Rls => self.runlists(actor),
            Text::Processes => self.machine.list(actor, PROC).map(|pids| {
                let mut known: Vec<usize> =
                    pids.iter().filter_map(|pid| self.names.actor_of(pid.parse().ok()?)).collect();
                known.sort_unstable();
                known.iter().map(|actor| format!("a{actor}")).collect::<Vec<_>>().join(" ")
            }),
            Text::Process(of) if of < self.actors.len() => self.process_text(actor, of),
            Text::Process(_) => return None,
        };
        Some(match answer {
            Ok(text) => format!("0 {text}"),
            Err(errno) => format!("{errno:?}"),
        })
    }

    fn runlists(&mut self, actor: usize) -> SysResult<String> {
        let text = self.machine.read_text(actor, "/sys/kernel/debug/kfd/rls")?;
        for of in 0..self.actors.len() {
            let path = format!("{PROC}/{}/pasid", self.machine.pid(of));
            if let Ok(Ok(pasid)) = self.machine.read_text(actor, &path).map(|text| text.trim_end().parse()) {
                self.names.learn_pasid(pasid, of);
            }
        }
        let actors = &self.actors;
        let owner = |actor: usize, write: u64| {
            actors[actor].queues.iter().find(|(_, queue)| queue.buffers.write == write).map(|(id, _)| *id)
        };
        Ok(text::rls(&text, &mut self.names, &owner))
    }

    /// What sysfs has of a process: its files, and its queues.
    fn process_text(&mut self, actor: usize, of: usize) -> SysResult<String> {
        let folder = format!("{PROC}/{}", self.machine.pid(of));
        let mut files: Vec<String> = Vec::new();
        for name in self.machine.list(actor, &folder)? {
            let (kind, gpu) = name.split_once('_').unwrap_or((&name, ""));
            let gpu = gpu.parse().map_or_else(|_| gpu.to_owned(), |gpu| self.names.gpu(gpu));
            files.push(format!("{kind}{}{gpu}", if gpu.is_empty() { "" } else { "_" }));
        }
        files.sort();
        let mut text = files.join(" ");
        let mut queues = self.machine.list(actor, &format!("{folder}/queues"))?;
        queues.sort_by_key(|id| id.parse::<u32>().unwrap_or(u32::MAX));
        for id in queues {
            let mut line = format!(" [q{id}");
            for file in self.machine.list(actor, &format!("{folder}/queues/{id}"))? {
                let value = self.machine.read_text(actor, &format!("{folder}/queues/{id}/{file}"))?;
                let value = match (file.as_str(), value.trim_end().parse()) {
                    ("gpuid", Ok(gpu)) => self.names.gpu(gpu),
                    _ => format!("{value:?}"),
                };
                line += &format!(" {file}={value}");
            }
            text += &format!("{line}]");
        }
        Ok(text)
    }
}

/// Where sysfs has the processes that use KFD.
const PROC: &str = "/sys/class/kfd/kfd/proc";
const ENTRY: usize = size_of::<kfd_gpreempt_entry>();

fn overwrite(bytes: &mut [u8], at: u32, value: u32) {
    let words = bytes.len() / 4;
    let at = at as usize / 4 % words * 4;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn code(answer: SysResult<i32>) -> String {
    match answer {
        Ok(value) => value.to_string(),
        Err(errno) => format!("{errno:?}"),
    }
}

fn plain(answer: Result<(), Errno>) -> String {
    code(answer.map(|()| 0))
}

fn ids(memory: &Scratch, count: usize) -> String {
    let words = memory.array(0, count * 4).chunks_exact(4);
    let ids: Vec<String> =
        words.map(|word| format!("{:#x}", u32::from_le_bytes(word.try_into().expect("four bytes")))).collect();
    ids.join(" ")
}
