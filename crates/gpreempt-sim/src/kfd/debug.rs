//! DBG_TRAP: a debugger stops and restarts queues of its target, one node after the other.

use gpreempt_sys::{
    DEBUG_RUNTIME_STATE_ENABLED, EC_QUEUE_NEW, KFD_DBG_QUEUE_ERROR_MASK, KFD_DBG_QUEUE_INVALID_MASK, KFD_EC_MASK,
    KFD_IOC_DBG_TRAP_CLEAR_NODE_ADDRESS_WATCH, KFD_IOC_DBG_TRAP_DISABLE, KFD_IOC_DBG_TRAP_ENABLE,
    KFD_IOC_DBG_TRAP_GET_DEVICE_SNAPSHOT, KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT, KFD_IOC_DBG_TRAP_QUERY_DEBUG_EVENT,
    KFD_IOC_DBG_TRAP_RESUME_QUEUES, KFD_IOC_DBG_TRAP_SET_EXCEPTIONS_ENABLED, KFD_IOC_DBG_TRAP_SET_FLAGS,
    KFD_IOC_DBG_TRAP_SET_NODE_ADDRESS_WATCH, KFD_IOC_DBG_TRAP_SET_WAVE_LAUNCH_MODE,
    KFD_IOC_DBG_TRAP_SET_WAVE_LAUNCH_OVERRIDE, KFD_IOC_DBG_TRAP_SUSPEND_QUEUES, kfd_ioctl_dbg_trap_args,
    kfd_ioctl_dbg_trap_enable_args, kfd_ioctl_dbg_trap_query_debug_event_args, kfd_ioctl_dbg_trap_queue_snapshot_args,
    kfd_ioctl_dbg_trap_resume_queues_args, kfd_ioctl_dbg_trap_set_exceptions_enabled_args,
    kfd_ioctl_dbg_trap_suspend_queues_args, kfd_queue_snapshot_entry, kfd_runtime_info,
};
use nix::errno::Errno;
use zerocopy::IntoBytes;

use super::stock::refresh_runlists;
use crate::call::Call;
use crate::hw::rounds::Job;
use crate::machine::Task;
use crate::node::NodeIndex;
use crate::process::{DebugSession, MAX_QUEUE_IDS};
use crate::queue::QueueKey;
use crate::world::World;

/// `USE_DEFAULT_GRACE_PERIOD`.
const DEFAULT_GRACE: u32 = 0xffff_ffff;
/// Rounds of every node at the end of a session: for the launch mode, the flags, and the trap handler.
const DISABLE_ROUNDS: u32 = 3;
/// Bits of the grace period that reach the hardware.
const GRACE_MASK: u32 = 0xff;

/// Operations that need the target's runtime to be enabled.
const NEED_RUNTIME: [u32; 7] = [
    KFD_IOC_DBG_TRAP_SET_WAVE_LAUNCH_OVERRIDE,
    KFD_IOC_DBG_TRAP_SET_WAVE_LAUNCH_MODE,
    KFD_IOC_DBG_TRAP_SUSPEND_QUEUES,
    KFD_IOC_DBG_TRAP_RESUME_QUEUES,
    KFD_IOC_DBG_TRAP_SET_NODE_ADDRESS_WATCH,
    KFD_IOC_DBG_TRAP_CLEAR_NODE_ADDRESS_WATCH,
    KFD_IOC_DBG_TRAP_SET_FLAGS,
];

pub(super) fn trap(call: &mut Call<'_>, args: &mut kfd_ioctl_dbg_trap_args) -> Result<i32, Errno> {
    let (caller, pid) = (call.task.pid, args.pid);
    let target = call.process(pid)?;
    let traced = pid != caller && target.tracer == Some(caller);
    if target.kfd.is_none() {
        if args.op != KFD_IOC_DBG_TRAP_ENABLE || !traced {
            return Err(Errno::ESRCH);
        }
        call.open_kfd(pid)?;
    }
    let kfd = call.open_kfd(pid)?;
    let (session, runtime) = (kfd.debug, kfd.runtime_state);
    let debugger = session.is_some_and(|s| s.debugger == caller);
    if pid != caller && !traced && !debugger {
        return Err(Errno::EPERM);
    }
    if args.op != KFD_IOC_DBG_TRAP_ENABLE && session.is_none() {
        return Err(Errno::EINVAL);
    }
    if runtime != DEBUG_RUNTIME_STATE_ENABLED && NEED_RUNTIME.contains(&args.op) {
        return Err(Errno::EPERM);
    }
    match args.op {
        KFD_IOC_DBG_TRAP_ENABLE => with(args, |args| enable(call, pid, args)),
        KFD_IOC_DBG_TRAP_DISABLE => {
            disable(call, pid)?;
            Ok(0)
        }
        KFD_IOC_DBG_TRAP_SET_EXCEPTIONS_ENABLED => {
            with(args, |args: &mut kfd_ioctl_dbg_trap_set_exceptions_enabled_args| {
                let session = call.open_kfd(pid)?.debug.as_mut().expect("checked above");
                session.enabled = args.exception_mask;
                Ok(0)
            })
        }
        KFD_IOC_DBG_TRAP_SUSPEND_QUEUES => with(args, |args| suspend(call, pid, args)),
        KFD_IOC_DBG_TRAP_RESUME_QUEUES => with(args, |args| resume(call, pid, args)),
        KFD_IOC_DBG_TRAP_QUERY_DEBUG_EVENT => with(args, |args| query_event(call, pid, args)),
        KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT => with(args, |args| snapshot(call, pid, args)),
        // Wave control and exception details: the machine has no waves to look into.
        op if op <= KFD_IOC_DBG_TRAP_GET_DEVICE_SNAPSHOT => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// Runs an operation on its member of the union; results go back whatever it says.
fn with<T: gpreempt_sys::DbgTrapOp>(
    args: &mut kfd_ioctl_dbg_trap_args,
    operation: impl FnOnce(&mut T) -> Result<i32, Errno>,
) -> Result<i32, Errno> {
    let mut member: T = args.get().expect("the operation chose its member");
    let answer = operation(&mut member);
    args.set(member);
    answer
}

fn enable(call: &mut Call<'_>, pid: u32, args: &mut kfd_ioctl_dbg_trap_enable_args) -> Result<i32, Errno> {
    let task = call.task;
    let kfd = call.open_kfd(pid)?;
    if kfd.debug.is_some() {
        return Err(Errno::EALREADY);
    }
    let info = kfd_runtime_info {
        r_debug: kfd.runtime_debug,
        runtime_state: kfd.runtime_state,
        ttmp_setup: u32::from(kfd.ttmp_setup),
    };
    if call.files.get(args.dbg_fd.cast_signed()).map(|(owner, _)| owner) != Ok(task) {
        return Err(Errno::EBADF);
    }
    let size = (args.rinfo_size as usize).min(size_of::<kfd_runtime_info>());
    call.memory.write(args.rinfo_ptr, &info.as_bytes()[..size])?;
    args.rinfo_size = size_of::<kfd_runtime_info>() as u32;
    let session = DebugSession { debugger: task.pid, enabled: args.exception_mask };
    call.open_kfd(pid)?.debug = Some(session);
    let cost = call.config.cost.debug_enable.ns;
    call.spend(cost);
    if info.runtime_state == DEBUG_RUNTIME_STATE_ENABLED {
        refresh_runlists(call);
    }
    Ok(0)
}

fn disable(call: &mut Call<'_>, pid: u32) -> Result<(), Errno> {
    let enabled = call.open_kfd(pid)?.runtime_state == DEBUG_RUNTIME_STATE_ENABLED;
    if enabled {
        for (node, _, job) in call.resume_marks(pid, None) {
            call.run_one(node, job);
        }
        for _ in 0..DISABLE_ROUNDS {
            refresh_runlists(call);
        }
    }
    call.end_session(pid);
    Ok(())
}

/// The ids of the array, all marked invalid.
fn read_ids(call: &mut Call<'_>, address: u64, count: u32) -> Result<Vec<u32>, Errno> {
    if (address == 0 && count > 0) || count > MAX_QUEUE_IDS {
        return Err(Errno::EINVAL);
    }
    let mut ids = vec![0u32; count as usize];
    if count > 0 {
        call.memory.read(address, ids.as_mut_bytes())?;
    }
    ids.iter_mut().for_each(|id| *id |= KFD_DBG_QUEUE_INVALID_MASK);
    Ok(ids)
}

fn suspend(call: &mut Call<'_>, pid: u32, args: &mut kfd_ioctl_dbg_trap_suspend_queues_args) -> Result<i32, Errno> {
    let mut ids = read_ids(call, args.queue_array_ptr, args.num_queues)?;
    let grace = (args.grace_period != DEFAULT_GRACE).then_some(args.grace_period.max(1) & GRACE_MASK);
    let cost = call.config.cost.debug_suspend.ns;
    call.spend(cost);
    call.batches += 1;
    for entry in 0..args.num_queues {
        call.strike_in_batch(entry);
    }
    // Whom a fault took while its queues were looked up is gone.
    call.open_kfd(pid)?;
    let mut suspended = 0;
    for node in call.node_indices() {
        let named = call.mark_suspended(pid, node, &mut ids);
        if named.is_empty() {
            continue;
        }
        let job = Job { marks: named.len() as u64, execute: true, grace, ..Job::default() };
        if call.run_one(node, job).result.is_ok() {
            suspended += named.len();
            for (_, key) in named {
                call.queue_mut(key).exceptions &= !args.exception_mask;
            }
        } else {
            named.iter().for_each(|(index, _)| ids[*index] |= KFD_DBG_QUEUE_ERROR_MASK);
        }
    }
    if suspended > 0 {
        // The saved state of every queue of the process goes to user memory, suspended or not.
        let queues = call.open_kfd(pid)?.queues.len() as u64;
        let copy = call.config.cost.debug_copy_queue.ns * queues;
        call.spend(copy);
    }
    // The kernel only logs where the ids cannot be written back.
    let _ = call.memory.write(args.queue_array_ptr, ids.as_bytes());
    Ok(i32::try_from(suspended).expect("at most 1024"))
}

fn resume(call: &mut Call<'_>, pid: u32, args: &mut kfd_ioctl_dbg_trap_resume_queues_args) -> Result<i32, Errno> {
    let mut ids = match args.queue_array_ptr {
        0 => None,
        address => Some(read_ids(call, address, args.num_queues)?),
    };
    let cost = call.config.cost.debug_resume.ns;
    call.spend(cost);
    let mut resumed = 0;
    for node in call.node_indices() {
        let Some((count, job)) = call.mark_resumed(pid, node, ids.as_deref_mut()) else { continue };
        if call.run_one(node, job).result.is_ok() {
            resumed += count;
            call.finish_destroys(pid, node);
        } else if let Some(ids) = &mut ids {
            call.mark_errors(pid, node, ids);
        }
    }
    if let Some(ids) = ids {
        let _ = call.memory.write(args.queue_array_ptr, ids.as_bytes());
    }
    Ok(i32::try_from(resumed).expect("at most 1024"))
}

fn query_event(
    call: &mut Call<'_>,
    pid: u32,
    args: &mut kfd_ioctl_dbg_trap_query_debug_event_args,
) -> Result<i32, Errno> {
    let clear = args.exception_mask;
    (args.exception_mask, args.queue_id, args.gpu_id) = (0, 0, 0);
    let enabled = call.open_kfd(pid)?.debug.map_or(0, |session| session.enabled);
    for key in call.process(pid)?.queues_newest_first() {
        let queue = call.queue(key);
        if queue.exceptions & enabled != 0 {
            args.exception_mask = queue.exceptions;
            args.queue_id = queue.id;
            args.gpu_id = call.node(queue.node).gpu_id;
            call.queue_mut(key).exceptions &= !clear;
            return Ok(0);
        }
    }
    Err(Errno::EAGAIN)
}

fn snapshot(call: &mut Call<'_>, pid: u32, args: &mut kfd_ioctl_dbg_trap_queue_snapshot_args) -> Result<i32, Errno> {
    let (stride, room) = (u64::from(args.entry_size), args.num_queues as usize);
    args.num_queues = 0;
    if stride == 0 {
        return Err(Errno::EINVAL);
    }
    let size = (stride as usize).min(size_of::<kfd_queue_snapshot_entry>());
    args.entry_size = size as u32;
    let keys = call.process(pid)?.queues_newest_first();
    let cost = call.config.cost.debug_snapshot_queue.ns * keys.len() as u64;
    call.spend(cost);
    let mut address = args.snapshot_buf_ptr;
    for key in keys {
        if (args.num_queues as usize) < room {
            let entry = call.snapshot_entry(key);
            call.queue_mut(key).exceptions &= !args.exception_mask;
            call.memory.write(address, &entry.as_bytes()[..size])?;
            address += stride;
        }
        args.num_queues += 1;
    }
    Ok(0)
}

impl World {
    fn snapshot_entry(&self, key: QueueKey) -> kfd_queue_snapshot_entry {
        let queue = self.queue(key);
        kfd_queue_snapshot_entry {
            exception_status: queue.exceptions,
            ring_base_address: queue.properties.ring,
            write_pointer_address: queue.properties.write_pointer,
            read_pointer_address: queue.properties.read_pointer,
            ctx_save_restore_address: queue.properties.save_area,
            queue_id: queue.id,
            gpu_id: self.node(queue.node).gpu_id,
            ring_size: queue.properties.ring_bytes,
            queue_type: queue.properties.kind,
            ctx_save_restore_area_size: queue.properties.save_area_bytes,
            reserved: 0,
        }
    }

    /// Suspends the named queues of a node. Returns those that are suspended now, with their place in the array.
    fn mark_suspended(&mut self, pid: u32, node: NodeIndex, ids: &mut [u32]) -> Vec<(usize, QueueKey)> {
        let mut named = Vec::new();
        for key in self.queues_of_process(pid, node) {
            let queue = self.queue_mut(key);
            let Some(index) = find_id(ids, queue.id) else { continue };
            if !queue.suspended && (queue.exceptions & KFD_EC_MASK(EC_QUEUE_NEW) != 0 || queue.being_destroyed) {
                // Not yet seen by the debugger: stays marked invalid, and nothing says why.
                continue;
            }
            queue.suspended = true;
            ids[index] &= !KFD_DBG_QUEUE_INVALID_MASK;
            named.push((index, key));
        }
        named
    }

    /// Resumes the named queues of a node, or all. Returns how many that are, and the job; None where there are none.
    fn mark_resumed(&mut self, pid: u32, node: NodeIndex, mut ids: Option<&mut [u32]>) -> Option<(usize, Job)> {
        let mut count = 0;
        for key in self.queues_of_process(pid, node) {
            let queue = self.queue_mut(key);
            if let Some(ids) = ids.as_deref_mut() {
                let Some(index) = find_id(ids, queue.id) else { continue };
                ids[index] &= !KFD_DBG_QUEUE_INVALID_MASK;
            }
            queue.suspended = false;
            count += 1;
        }
        (count > 0).then(|| (count, Job { marks: count as u64, execute: true, ..Job::default() }))
    }

    /// Resumes queues of a process on all nodes.
    fn resume_marks(&mut self, pid: u32, mut ids: Option<&mut [u32]>) -> Vec<(NodeIndex, usize, Job)> {
        let nodes: Vec<NodeIndex> = self.node_indices().collect();
        nodes
            .into_iter()
            .filter_map(|node| self.mark_resumed(pid, node, ids.as_deref_mut()).map(|(n, job)| (node, n, job)))
            .collect()
    }

    fn mark_errors(&self, pid: u32, node: NodeIndex, ids: &mut [u32]) {
        for key in self.queues_of_process(pid, node) {
            if let Some(index) = find_id(ids, self.queue(key).id) {
                ids[index] |= KFD_DBG_QUEUE_ERROR_MASK;
            }
        }
    }

    /// Owners that waited to destroy a suspended queue go on.
    fn finish_destroys(&mut self, pid: u32, node: NodeIndex) {
        for key in self.queues_of_process(pid, node) {
            let queue = self.queue_mut(key);
            if queue.destroy_on_resume && !queue.suspended {
                queue.being_destroyed = false;
                if let Ok((node, job)) = self.destroy_queue(key) {
                    self.begin(node, job, false);
                }
            }
        }
    }

    /// Forgets the debugger of a process.
    fn end_session(&mut self, pid: u32) {
        let Some(kfd) = self.processes.get_mut(&pid).and_then(|p| p.kfd.as_mut()) else { return };
        kfd.debug = None;
        for key in kfd.queues.values() {
            self.queues[key.0].exceptions = 0;
        }
        for node in self.node_indices() {
            self.finish_destroys(pid, node);
        }
    }

    /// A process that debugs others or is debugged is gone: its sessions end.
    pub(crate) fn end_debugger(&mut self, debugger: u32) {
        let session = |p: &crate::process::Process| p.kfd.as_ref().and_then(|kfd| kfd.debug);
        let ends = |p: &&crate::process::Process| {
            p.alive && session(p).is_some_and(|session| session.debugger == debugger || p.pid == debugger)
        };
        let targets: Vec<u32> = self.processes.values().filter(ends).map(|p| p.pid).collect();
        for pid in targets {
            let enabled = |kfd: &crate::process::KfdProcess| kfd.runtime_state == DEBUG_RUNTIME_STATE_ENABLED;
            if self.processes.get(&pid).and_then(|p| p.kfd.as_ref()).is_some_and(enabled) {
                for (node, _, job) in self.resume_marks(pid, None) {
                    self.begin(node, job, false);
                }
                for node in self.node_indices() {
                    for _ in 0..DISABLE_ROUNDS {
                        self.begin(node, Job { execute: true, ..Job::default() }, false);
                    }
                }
            }
            self.end_session(pid);
        }
    }

    /// A guest destroys a queue; one that a debugger has suspended goes when it is resumed.
    pub(crate) fn guest_destroys(&mut self, pid: u32, id: u32) -> Result<(), Errno> {
        let key = self.find_queue(pid, id)?;
        match self.destroy_queue(key) {
            Ok((node, job)) => {
                self.begin(node, job, false);
                Ok(())
            }
            Err(Errno::EINTR) => {
                let queue = self.queue_mut(key);
                queue.being_destroyed = true;
                queue.destroy_on_resume = true;
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn ptrace_seize(&mut self, task: Task, pid: u32) -> Result<(), Errno> {
        let tracer = self.process(task.pid)?;
        let target = self.process(pid)?;
        let allowed = tracer.root || tracer.uid == target.uid;
        if pid == task.pid || !allowed || target.tracer.is_some() {
            return Err(Errno::EPERM);
        }
        self.process_mut(pid)?.tracer = Some(task.pid);
        Ok(())
    }

    pub(crate) fn ptrace_detach(&mut self, task: Task, pid: u32) -> Result<(), Errno> {
        let target = self.process_mut(pid)?;
        if target.tracer != Some(task.pid) {
            return Err(Errno::ESRCH);
        }
        target.tracer = None;
        Ok(())
    }
}

/// Where an id is in the array, whatever is marked in it.
fn find_id(ids: &[u32], id: u32) -> Option<usize> {
    ids.iter().position(|named| named & !(KFD_DBG_QUEUE_INVALID_MASK | KFD_DBG_QUEUE_ERROR_MASK) == id)
}
