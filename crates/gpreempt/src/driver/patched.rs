//! The gpreempt KFD series: a lease on other processes' queues.
//!
//! One lease fd carries every verb; what the lease holds runs again when the driver is dropped, and when this process dies.
//! Verbs that hold a queue or set a policy need the owner's uid or CAP_SYS_NICE over its user namespace, and the owner's
//! queue in the offline class (PREEMPTIBLE) unless it is this process's own. Giving back needs no permission.

use std::mem::offset_of;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use gpreempt_sys::*;
use nix::errno::Errno;
use tracing::debug;
use zerocopy::FromBytes;

use super::call::{array, call, failure};
use super::grace::Grace;
use super::probe::{Lease, open_kfd};
use super::targets::{Target, Targets};
use super::{Batch, Capabilities, Driver, Event, EventKind, Outcome, QueueStatus, Selector, Tier, Want};
use crate::error::{Error, Result};
use crate::host::{Array, Host, OwnedFile, SysResult};
use crate::queue::{GpuId, HqdStatus, Pid, PolicyFlags, QueueId, QueueState, QueueType, Reservation};

/// Queues that a status call has room for at first.
const STATUS_ROOM: usize = 64;

/// Bytes of an entry, which every batch command asks for.
const ENTRY: u32 = size_of::<kfd_gpreempt_entry>() as u32;

/// Events read at a time.
const EVENT_ROOM: usize = 64;

/// A lease on a patched KFD.
#[derive(Debug)]
pub struct PatchedDriver {
    host: Arc<dyn Host>,
    lease: Lease,
    own_pid: Pid,
    targets: Targets,
    grace: OnceLock<Grace>,
    /// One reader at a time, so that events keep their order. Counts lost ones that no event has reported yet.
    reading: Mutex<u32>,
}

impl PatchedDriver {
    /// Opens a lease with the driver's default watchdog.
    ///
    /// ioctl: `AMDKFD_IOC_GPREEMPT_OPEN` on `/dev/kfd`. Permissions: access to `/dev/kfd`.
    ///
    /// # Errors
    /// ENODEV without amdkfd, EPERM where the user may not open `/dev/kfd`, EOPNOTSUPP on a kernel without the series; each
    /// with a remedy.
    pub fn open(host: Arc<dyn Host>) -> Result<PatchedDriver> {
        PatchedDriver::open_with(host, Duration::ZERO)
    }

    /// Opens a lease whose holds end `max_hold` after the last unmap that named them; zero = the driver's default, which is
    /// also the maximum. [`Driver::max_hold`] says what is in force.
    ///
    /// # Errors
    /// As [`PatchedDriver::open`].
    pub fn open_with(host: Arc<dyn Host>, max_hold: Duration) -> Result<PatchedDriver> {
        let kfd = open_kfd(&host)?;
        PatchedDriver::on(host, kfd, max_hold)
    }

    /// As [`PatchedDriver::open_with`] on a `/dev/kfd` that is open already.
    pub(crate) fn on(host: Arc<dyn Host>, kfd: Arc<OwnedFile>, max_hold: Duration) -> Result<PatchedDriver> {
        let lease = Lease::open(&host, kfd, max_hold)?;
        debug!(lease = lease.said.lease_id, max_hold_ms = lease.said.max_hold_ms, "lease opened");
        Ok(PatchedDriver {
            own_pid: host.identity().pid,
            host,
            lease,
            targets: Targets::default(),
            grace: OnceLock::new(),
            reading: Mutex::new(0),
        })
    }

    fn call<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        request: u32,
        argument: &mut T,
        arrays: &mut [Array<'_>],
    ) -> SysResult<()> {
        call(self.host.as_ref(), self.lease.file.raw(), request, argument, arrays).map(drop)
    }

    fn bind(&self, pid: Pid) -> SysResult<(Target, u32)> {
        // 0 would be this process.
        if pid == 0 {
            return Err(Errno::ESRCH);
        }
        let mut args = kfd_ioctl_gpreempt_attach_args { pid, ..Default::default() };
        self.call(AMDKFD_IOC_GPREEMPT_ATTACH, &mut args, &mut [])?;
        let target = Target { handle: args.target, started: Duration::from_nanos(args.start_boottime_ns) };
        if let Some(old) = self.targets.bind(pid, target) {
            debug!(pid, "pid now belongs to another process");
            // Its process is gone, so there is nothing to give back and nobody to tell.
            let _ = self.forget(old);
        }
        Ok((target, args.num_queues))
    }

    fn forget(&self, target: Target) -> SysResult<()> {
        let mut args = kfd_ioctl_gpreempt_attach_args { target: target.handle, ..Default::default() };
        self.call(AMDKFD_IOC_GPREEMPT_DETACH, &mut args, &mut [])
    }

    fn handle(&self, selector: &Selector) -> SysResult<u32> {
        match self.known_handle(selector, |pid| self.targets.get(pid)) {
            Some(handle) => handle,
            None => {
                self.bind(selector.pid)?;
                self.known_handle(selector, |pid| self.targets.get(pid)).unwrap_or(Err(Errno::ESRCH))
            }
        }
    }

    /// None where the pid is not bound.
    fn known_handle(&self, selector: &Selector, target: impl Fn(Pid) -> Option<Target>) -> Option<SysResult<u32>> {
        if selector.pid == self.own_pid {
            return Some(Ok(KFD_GPREEMPT_TARGET_SELF));
        }
        let target = target(selector.pid)?;
        match selector.started {
            Some(started) if started != target.started => Some(Err(Errno::ESRCH)),
            _ => Some(Ok(target.handle)),
        }
    }

    fn entry(&self, selector: &Selector) -> SysResult<kfd_gpreempt_entry> {
        Ok(entry(self.handle(selector)?, selector))
    }

    /// Entries for the selectors whose process can be reached; the outcome of the others is known.
    fn prepare(&self, selectors: &[Selector], entries: &mut Vec<kfd_gpreempt_entry>, outcomes: &mut Vec<Outcome>) {
        let mut bound = self.targets.read();
        for selector in selectors {
            let handle = match self.known_handle(selector, |pid| bound.get(&pid).copied()) {
                Some(handle) => handle,
                None => {
                    drop(bound);
                    let handle = self.handle(selector);
                    bound = self.targets.read();
                    handle
                }
            };
            let errno = match handle {
                Ok(handle) => {
                    entries.push(entry(handle, selector));
                    None
                }
                Err(errno) => Some(errno),
            };
            outcomes.push(Outcome { selector: *selector, errno, queues: 0, state: QueueState::empty() });
        }
    }

    /// What all batch commands share. `send` gets the grace period in the hardware's units, and the entries to unmap and
    /// to map of the processes that can be reached; it fills in their results.
    fn batch(
        &self,
        operation: &'static str,
        unmap: &[Selector],
        remap: &[Selector],
        grace: Duration,
        send: impl FnOnce(u32, &mut [kfd_gpreempt_entry], &mut [kfd_gpreempt_entry]) -> SysResult<Batch>,
    ) -> Result<Batch> {
        let count = unmap.len() + remap.len();
        self.check_count(operation, count)?;
        let units = self.grace_units(operation, grace)?;
        let (mut entries, mut outcomes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        self.prepare(unmap, &mut entries, &mut outcomes);
        let num_unmap = entries.len();
        self.prepare(remap, &mut entries, &mut outcomes);
        if entries.is_empty() {
            return Ok(Batch { outcomes, ..Batch::default() });
        }
        let (out, back) = entries.split_at_mut(num_unmap);
        let mut batch = send(units, out, back).map_err(|errno| Error::of_driver(operation, errno))?;
        settle(&mut outcomes, &entries);
        batch.outcomes = outcomes;
        if units != 0 {
            batch.grace = self.grace().duration(units);
        }
        let failed = batch.outcomes.iter().filter(|outcome| outcome.errno.is_some()).count();
        debug!(queues = count, failed, rounds = batch.rounds, elapsed = ?batch.elapsed, "{operation}");
        Ok(batch)
    }

    fn grace(&self) -> Grace {
        Grace::of(&self.grace, self.host.as_ref(), self.lease.said.grace_max)
    }

    fn grace_units(&self, operation: &'static str, grace: Duration) -> Result<u32> {
        if grace.is_zero() {
            return Ok(0);
        }
        match self.grace() {
            Grace { mhz: 0, .. } => Err(Error::new(operation, Errno::EOPNOTSUPP)
                .because("the topology does not say the clock of any node, so the grace period has no unit")
                .remedy("use a grace period of 0, the driver's default")),
            clock => Ok(clock.units(grace)),
        }
    }

    fn check_count(&self, operation: &'static str, count: usize) -> Result<()> {
        let max = self.max_batch();
        if (1..=max).contains(&count) {
            return Ok(());
        }
        Err(Error::new(operation, Errno::EINVAL).because(format!("{count} queues in one call; 1 to {max} are allowed")))
    }

    fn status_entries(&self, args: kfd_ioctl_queue_status_args) -> SysResult<Vec<kfd_gpreempt_queue_status>> {
        let mut room = if args.queue_id == KFD_GPREEMPT_ALL_QUEUES { STATUS_ROOM } else { 1 };
        loop {
            let mut entries = vec![kfd_gpreempt_queue_status::default(); room];
            let mut args = kfd_ioctl_queue_status_args { num_entries: room as u32, ..args };
            let mut arrays = [array(offset_of!(kfd_ioctl_queue_status_args, status_ptr), &mut entries)];
            self.call(AMDKFD_IOC_GET_QUEUE_STATUS, &mut args, &mut arrays)?;
            let there_are = args.num_entries as usize;
            if there_are <= room {
                entries.truncate(there_are);
                return Ok(entries);
            }
            // Queues may be created between the two calls.
            room = there_are + STATUS_ROOM;
        }
    }

    fn event(&self, raw: &kfd_gpreempt_event) -> Option<Event> {
        let kind = match raw.r#type {
            KFD_GPREEMPT_EVENT_QUEUE_CREATED => EventKind::QueueCreated,
            KFD_GPREEMPT_EVENT_QUEUE_DESTROYED => EventKind::QueueDestroyed,
            KFD_GPREEMPT_EVENT_TARGET_EXITED => EventKind::TargetExited,
            KFD_GPREEMPT_EVENT_HOLD_EXPIRED => EventKind::HoldExpired,
            KFD_GPREEMPT_EVENT_NODE_RESET => EventKind::NodeReset,
            KFD_GPREEMPT_EVENT_OVERSUBSCRIBED => EventKind::Oversubscribed,
            _ => return None,
        };
        let name = if raw.target == 0 { None } else { self.targets.name(raw.target) };
        if kind == EventKind::TargetExited {
            self.targets.exited(raw.target);
        }
        let about_queue = matches!(kind, EventKind::QueueCreated | EventKind::QueueDestroyed | EventKind::HoldExpired);
        Some(Event {
            kind,
            pid: name.map(|(pid, _)| pid),
            started: name.map(|(_, started)| started),
            gpu: GpuId(raw.gpu_id),
            queue: (about_queue && raw.queue_id != KFD_GPREEMPT_ALL_QUEUES).then_some(raw.queue_id),
            lost: raw.lost,
            time: Duration::from_nanos(raw.time_ns),
        })
    }
}

fn entry(target: u32, selector: &Selector) -> kfd_gpreempt_entry {
    let mut flags = 0;
    if selector.hold_new {
        flags |= KFD_GPREEMPT_ENTRY_HOLD_NEW;
    }
    if selector.if_idle {
        flags |= KFD_GPREEMPT_ENTRY_IF_IDLE;
    }
    kfd_gpreempt_entry {
        target,
        gpu_id: selector.gpu.0,
        queue_id: selector.queue.unwrap_or(KFD_GPREEMPT_ALL_QUEUES),
        flags,
        ..Default::default()
    }
}

/// What a batch command reports of itself.
fn report(nodes: u32, rounds: u32, elapsed_ns: u64, slowest_ns: u64) -> Batch {
    let (elapsed, slowest_node) = (Duration::from_nanos(elapsed_ns), Duration::from_nanos(slowest_ns));
    Batch { nodes, rounds, elapsed, slowest_node, ..Batch::default() }
}

/// Fills in what the kernel said of the entries that were sent.
fn settle(outcomes: &mut [Outcome], entries: &[kfd_gpreempt_entry]) {
    let sent = outcomes.iter_mut().filter(|outcome| outcome.errno.is_none());
    for (outcome, entry) in sent.zip(entries) {
        outcome.errno = failure(entry.result);
        outcome.queues = entry.num_queues;
        outcome.state = QueueState::from_bits_retain(entry.state);
    }
}

impl Driver for PatchedDriver {
    fn tier(&self) -> Tier {
        Tier::Patched
    }

    fn capabilities(&self) -> Capabilities {
        let caps = self.lease.said.caps;
        let known = [
            (KFD_GPREEMPT_CAP_RESERVATION, Capabilities::RESERVATION),
            (KFD_GPREEMPT_CAP_EVENTS, Capabilities::EVENTS),
            (KFD_GPREEMPT_CAP_POINTERS, Capabilities::POINTERS),
            (KFD_GPREEMPT_CAP_WAVES, Capabilities::WAVES),
            (KFD_GPREEMPT_CAP_SWAP, Capabilities::SWAP),
        ];
        let always = Capabilities::POLICY | Capabilities::STATUS | Capabilities::SLOTS | Capabilities::HOLD_NEW;
        known.iter().filter(|(bit, _)| caps & bit != 0).fold(always, |all, &(_, capability)| all | capability)
    }

    fn max_hold(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.lease.said.max_hold_ms.into()))
    }

    fn max_batch(&self) -> usize {
        self.lease.said.max_entries as usize
    }

    /// ioctl: `AMDKFD_IOC_GPREEMPT_ATTACH`. Permissions: same uid, or CAP_SYS_NICE over the target's user namespace.
    fn attach(&self, pid: Pid) -> Result<u32> {
        match self.bind(pid) {
            Ok((_, queues)) => {
                debug!(pid, queues, "attached");
                Ok(queues)
            }
            Err(errno) => Err(Error::of_driver("attaching a process", errno).on(format_args!("pid {pid}"))),
        }
    }

    fn started(&self, pid: Pid) -> Option<Duration> {
        self.targets.get(pid).map(|target| target.started)
    }

    /// ioctl: `AMDKFD_IOC_GPREEMPT_DETACH`. Permissions: none.
    fn detach(&self, pid: Pid) -> Result<()> {
        let result = match self.targets.remove(pid) {
            Some(target) => self.forget(target),
            // What is held of this process itself needs no ATTACH, giving it back this way does.
            None if pid == self.own_pid => self.bind(pid).and_then(|(target, _)| {
                self.targets.remove(pid);
                self.forget(target)
            }),
            None => Err(Errno::ESRCH),
        };
        debug!(pid, ok = result.is_ok(), "detached");
        result.map_err(|errno| Error::of_driver("detaching a process", errno).on(format_args!("pid {pid}")))
    }

    /// ioctl: `AMDKFD_IOC_BATCH_UNMAP_QUEUES`.
    fn unmap(&self, selectors: &[Selector], grace: Duration) -> Result<Batch> {
        self.batch("unmapping queues", selectors, &[], grace, |grace_period, out, _| {
            let num_entries = out.len() as u32;
            let mut args =
                kfd_ioctl_batch_unmap_args { num_entries, entry_size: ENTRY, grace_period, ..Default::default() };
            let mut arrays = [array(offset_of!(kfd_ioctl_batch_unmap_args, entries_ptr), out)];
            self.call(AMDKFD_IOC_BATCH_UNMAP_QUEUES, &mut args, &mut arrays)?;
            Ok(report(args.num_nodes, args.num_rounds, args.elapsed_ns, args.max_node_ns))
        })
    }

    /// ioctl: `AMDKFD_IOC_FAST_REMAP`. Permissions: none.
    fn remap(&self, selectors: &[Selector]) -> Result<Batch> {
        self.batch("mapping queues", &[], selectors, Duration::ZERO, |_, _, back| {
            let num_entries = back.len() as u32;
            let mut args = kfd_ioctl_fast_remap_args { num_entries, entry_size: ENTRY, ..Default::default() };
            let mut arrays = [array(offset_of!(kfd_ioctl_fast_remap_args, entries_ptr), back)];
            self.call(AMDKFD_IOC_FAST_REMAP, &mut args, &mut arrays)?;
            Ok(report(args.num_nodes, args.num_rounds, args.elapsed_ns, args.max_node_ns))
        })
    }

    /// ioctl: `AMDKFD_IOC_SWAP_QUEUES`.
    fn swap(&self, unmap: &[Selector], remap: &[Selector], grace: Duration) -> Result<Batch> {
        const OPERATION: &str = "swapping queues";
        if !self.capabilities().contains(Capabilities::SWAP) {
            return Err(Error::new(OPERATION, Errno::EOPNOTSUPP)
                .because("this driver cannot unmap and map in one round")
                .remedy("unmap first, then map"));
        }
        self.batch(OPERATION, unmap, remap, grace, |grace_period, out, back| {
            let mut args = kfd_ioctl_swap_queues_args {
                num_unmap: out.len() as u32,
                num_remap: back.len() as u32,
                entry_size: ENTRY,
                grace_period,
                ..Default::default()
            };
            let mut arrays = [
                array(offset_of!(kfd_ioctl_swap_queues_args, unmap_ptr), out),
                array(offset_of!(kfd_ioctl_swap_queues_args, remap_ptr), back),
            ];
            self.call(AMDKFD_IOC_SWAP_QUEUES, &mut args, &mut arrays)?;
            Ok(report(args.num_nodes, args.num_rounds, args.elapsed_ns, args.max_node_ns))
        })
    }

    /// ioctl: `AMDKFD_IOC_SET_QUEUE_POLICY`.
    fn set_policy(&self, selector: Selector, set: PolicyFlags, clear: PolicyFlags) -> Result<PolicyFlags> {
        let apply = || -> SysResult<PolicyFlags> {
            let mut args = kfd_ioctl_queue_policy_args {
                queue: self.entry(&selector)?,
                set_flags: set.bits(),
                clear_flags: clear.bits(),
                ..Default::default()
            };
            self.call(AMDKFD_IOC_SET_QUEUE_POLICY, &mut args, &mut [])?;
            match failure(args.queue.result) {
                Some(errno) => Err(errno),
                None => Ok(PolicyFlags::from_bits_retain(args.policy_flags)),
            }
        };
        let in_force = apply().map_err(|errno| Error::of_driver("setting a queue policy", errno).on(selector))?;
        debug!(%selector, ?in_force, "policy");
        Ok(in_force)
    }

    /// ioctl: `AMDKFD_IOC_SET_HQD_RESERVATION`. Permissions: CAP_SYS_NICE.
    fn set_reservation(&self, gpu: GpuId, online_percent: u32, offline_percent: u32) -> Result<Reservation> {
        let mut args =
            kfd_ioctl_hqd_reservation_args { gpu_id: gpu.0, online_percent, offline_percent, ..Default::default() };
        self.call(AMDKFD_IOC_SET_HQD_RESERVATION, &mut args, &mut []).map_err(|errno| {
            let error = Error::new("reserving queue slots", errno).on(gpu);
            match errno {
                Errno::EPERM => error.remedy("run with CAP_SYS_NICE (sudo setcap cap_sys_nice+ep PROGRAM, or as root)"),
                Errno::EBUSY => {
                    error.because("another lease has reserved slots").remedy("end the other scheduler first")
                }
                Errno::EINVAL => error.because(format!("{online_percent} % online and {offline_percent} % offline")),
                Errno::ENOENT => error.because("no such GPU"),
                _ => error,
            }
        })?;
        debug!(%gpu, online_percent, offline_percent, offline_max = args.offline_max, "reservation");
        Ok(Reservation { online_reserved: args.online_reserved, offline_max: args.offline_max, nodes: args.num_nodes })
    }

    /// ioctl: `AMDKFD_IOC_GET_HQD_STATUS`. Permissions: access to the GPU.
    fn node_status(&self, gpu: GpuId) -> Result<HqdStatus> {
        let mut args = kfd_ioctl_hqd_status_args { gpu_id: gpu.0, ..Default::default() };
        self.call(AMDKFD_IOC_GET_HQD_STATUS, &mut args, &mut []).map_err(|errno| {
            let error = Error::new("reading queue slots", errno).on(gpu);
            if errno == Errno::ENOENT { error.because("no such GPU") } else { error }
        })?;
        Ok(HqdStatus {
            total: args.total_hqd,
            active: args.active_hqd,
            free: args.free_hqd,
            online_reserved: args.online_reserved,
            offline_used: args.offline_used,
            offline_max: args.offline_max,
            num_xcc: args.num_xcc,
            preempted: args.preempted,
            throttled: args.throttled,
            queues_total: args.queues_total,
            nodes: 1,
            unmap_rounds: args.unmap_seq,
            last_unmap_ns: args.last_unmap_ns,
            flags: args.flags,
        })
    }

    /// ioctl: `AMDKFD_IOC_GET_QUEUE_STATUS`. Permissions: as for unmapping.
    fn queue_status(&self, selector: Selector, want: Want) -> Result<Vec<QueueStatus>> {
        let capabilities = self.capabilities();
        let mut flags = 0;
        if want.pointers && capabilities.contains(Capabilities::POINTERS) {
            flags |= KFD_GPREEMPT_WANT_POINTERS;
        }
        if want.waves && capabilities.contains(Capabilities::WAVES) {
            flags |= KFD_GPREEMPT_WANT_WAVES;
        }
        let read = || {
            self.status_entries(kfd_ioctl_queue_status_args {
                target: self.handle(&selector)?,
                gpu_id: selector.gpu.0,
                queue_id: selector.queue.unwrap_or(KFD_GPREEMPT_ALL_QUEUES),
                entry_size: size_of::<kfd_gpreempt_queue_status>() as u32,
                flags,
                ..Default::default()
            })
        };
        let mut entries = read().map_err(|errno| Error::of_driver("reading queue status", errno).on(selector))?;
        // The driver lists the newest first, node after node.
        entries.sort_by_key(|entry| entry.queue_id);
        Ok(entries.iter().map(|entry| status(selector.pid, entry)).collect())
    }

    /// `read` of the lease fd.
    fn events(&self) -> Result<Vec<Event>> {
        const OPERATION: &str = "reading events";
        if !self.capabilities().contains(Capabilities::EVENTS) {
            return Err(Error::new(OPERATION, Errno::EOPNOTSUPP).because("this driver reports no events"));
        }
        let bytes_each = self.lease.said.event_size as usize;
        let mut buffer = vec![0; bytes_each * EVENT_ROOM];
        let mut events = Vec::new();
        let mut lost = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let length = match self.host.read(self.lease.file.raw(), &mut buffer) {
                Ok(0) => return Err(Error::of_driver(OPERATION, Errno::EBADF)),
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(events),
                Err(errno) => return Err(Error::of_driver(OPERATION, errno)),
            };
            for record in buffer[..length].chunks_exact(bytes_each) {
                let (raw, _) = kfd_gpreempt_event::read_from_prefix(record).expect("a record is at least this long");
                *lost += raw.lost;
                // A kind that this library does not know is no event of ours, but what was lost before it is lost.
                if let Some(event) = self.event(&raw) {
                    events.push(Event { lost: std::mem::take(&mut *lost), ..event });
                }
            }
            if length < buffer.len() {
                return Ok(events);
            }
        }
    }

    fn abandon(&self) {
        self.lease.file.abandon();
        self.lease.kfd.abandon();
    }
}

fn status(pid: Pid, raw: &kfd_gpreempt_queue_status) -> QueueStatus {
    QueueStatus {
        queue: QueueId { pid, id: raw.queue_id },
        gpu: GpuId(raw.gpu_id),
        kind: match raw.r#type {
            KFD_IOC_QUEUE_TYPE_SDMA | KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID => QueueType::Sdma,
            KFD_IOC_QUEUE_TYPE_SDMA_XGMI => QueueType::SdmaXgmi,
            _ => QueueType::Compute,
        },
        state: QueueState::from_bits_retain(raw.state),
        policy: PolicyFlags::from_bits_retain(raw.policy_flags),
        priority: Some(raw.priority),
        percent: Some(raw.percent),
        ring_base: raw.ring_base,
        pointers: (raw.flags & KFD_GPREEMPT_POINTERS_VALID != 0).then_some((raw.read_ptr, raw.write_ptr)),
        waves: (raw.flags & KFD_GPREEMPT_WAVES_VALID != 0).then_some(raw.waves),
        held: Duration::from_nanos(raw.preempted_ns),
    }
}
