//! Unmapping and mapping: five commands, one path. Queues are marked, then every touched node runs at most one round.

use gpreempt_sys::{
    KFD_GPREEMPT_ALL_QUEUES, KFD_GPREEMPT_ENTRY_HOLD_NEW, KFD_GPREEMPT_ENTRY_IF_IDLE, KFD_GPREEMPT_GRACE_MAX,
    KFD_GPREEMPT_MAX_ENTRIES, KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, KFD_GPREEMPT_POLICY_PREEMPTIBLE,
    KFD_GPREEMPT_QUEUE_STATE_ACTIVE, KFD_GPREEMPT_QUEUE_STATE_INACTIVE, KFD_GPREEMPT_QUEUE_STATE_PREEMPTIBLE,
    KFD_GPREEMPT_UNMAP_KEEP_MQD, KFD_GPREEMPT_UNMAP_KEEP_STATE, KFD_GPREEMPT_UNMAP_NO_CWSR, kfd_gpreempt_entry,
    kfd_ioctl_batch_unmap_args, kfd_ioctl_fast_remap_args, kfd_ioctl_queue_state_args, kfd_ioctl_selective_unmap_args,
    kfd_ioctl_swap_queues_args,
};
use nix::errno::Errno;

use super::arguments::{check_element, read_array, write_array};
use super::policy;
use crate::call::Call;
use crate::hw::rounds::Job;
use crate::node::NodeIndex;
use crate::queue::QueueKey;
use crate::world::{LeaseId, World};

/// What becomes of the queues that an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Unmap,
    Remap,
}

/// What a command did, for its out fields.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    ok: u32,
    failed: u32,
    nodes: u32,
    rounds: u32,
    elapsed_ns: u64,
    max_node_ns: u64,
}

/// The three batch structs end alike.
macro_rules! fill {
    ($args:ident, $outcome:expr) => {{
        let outcome: Outcome = $outcome;
        $args.num_ok = outcome.ok;
        $args.num_failed = outcome.failed;
        $args.num_nodes = outcome.nodes;
        $args.num_rounds = outcome.rounds;
        $args.elapsed_ns = outcome.elapsed_ns;
        $args.max_node_ns = outcome.max_node_ns;
        Ok(0)
    }};
}

pub(super) fn unmap(call: &mut Call<'_>, lease: LeaseId, args: &mut kfd_ioctl_batch_unmap_args) -> Result<i32, Errno> {
    if args.flags != 0 || args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let list = List { address: args.entries_ptr, count: args.num_entries, wish: Wish::Unmap };
    fill!(args, run_lists(call, lease, &[list], args.entry_size, args.grace_period)?)
}

pub(super) fn remap(call: &mut Call<'_>, lease: LeaseId, args: &mut kfd_ioctl_fast_remap_args) -> Result<i32, Errno> {
    if args.flags != 0 || args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let list = List { address: args.entries_ptr, count: args.num_entries, wish: Wish::Remap };
    fill!(args, run_lists(call, lease, &[list], args.entry_size, args.grace_period)?)
}

pub(super) fn swap(call: &mut Call<'_>, lease: LeaseId, args: &mut kfd_ioctl_swap_queues_args) -> Result<i32, Errno> {
    if args.flags != 0 || args.pad != 0 || args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let lists = [
        List { address: args.unmap_ptr, count: args.num_unmap, wish: Wish::Unmap },
        List { address: args.remap_ptr, count: args.num_remap, wish: Wish::Remap },
    ];
    fill!(args, run_lists(call, lease, &lists, args.entry_size, args.grace_period)?)
}

pub(super) fn selective_unmap(
    call: &mut Call<'_>,
    lease: LeaseId,
    args: &mut kfd_ioctl_selective_unmap_args,
) -> Result<i32, Errno> {
    let known = KFD_GPREEMPT_UNMAP_KEEP_MQD | KFD_GPREEMPT_UNMAP_KEEP_STATE | KFD_GPREEMPT_UNMAP_NO_CWSR;
    if args.flags & !known != 0 || args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    check_grace(args.grace_period)?;
    check_entry(&args.queue, Wish::Unmap)?;
    let mut entry = args.queue;
    if args.flags & KFD_GPREEMPT_UNMAP_NO_CWSR != 0 {
        entry.flags |= KFD_GPREEMPT_ENTRY_IF_IDLE;
    }
    let mut entries = [(entry, Wish::Unmap)];
    let outcome = apply(call, lease, &mut entries, args.grace_period)?;
    args.queue = kfd_gpreempt_entry { flags: args.queue.flags, ..entries[0].0 };
    args.elapsed_ns = outcome.elapsed_ns;
    Ok(0)
}

pub(super) fn set_state(
    call: &mut Call<'_>,
    lease: LeaseId,
    args: &mut kfd_ioctl_queue_state_args,
) -> Result<i32, Errno> {
    if args.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    check_grace(args.grace_period)?;
    let wish = match args.state {
        KFD_GPREEMPT_QUEUE_STATE_ACTIVE => Wish::Remap,
        KFD_GPREEMPT_QUEUE_STATE_INACTIVE => Wish::Unmap,
        KFD_GPREEMPT_QUEUE_STATE_PREEMPTIBLE => {
            if args.queue.flags != 0 || args.queue.pad != 0 {
                return Err(Errno::EINVAL);
            }
            policy::mark(call, lease, &mut args.queue, KFD_GPREEMPT_POLICY_PREEMPTIBLE, 0);
            args.elapsed_ns = call.now - call.began;
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL),
    };
    check_entry(&args.queue, wish)?;
    let mut entries = [(args.queue, wish)];
    let outcome = apply(call, lease, &mut entries, args.grace_period)?;
    args.queue = entries[0].0;
    args.elapsed_ns = outcome.elapsed_ns;
    Ok(0)
}

/// An array of entries in the caller's memory.
struct List {
    address: u64,
    count: u32,
    wish: Wish,
}

fn run_lists(call: &mut Call<'_>, lease: LeaseId, lists: &[List], size: u32, grace: u32) -> Result<Outcome, Errno> {
    let total: u64 = lists.iter().map(|list| u64::from(list.count)).sum();
    if total == 0 || total > u64::from(KFD_GPREEMPT_MAX_ENTRIES) {
        return Err(Errno::EINVAL);
    }
    let stride = check_element::<kfd_gpreempt_entry>(size)?;
    check_grace(grace)?;
    let mut entries: Vec<(kfd_gpreempt_entry, Wish)> = Vec::with_capacity(total as usize);
    for list in lists.iter().filter(|list| list.count > 0) {
        let read = read_array::<kfd_gpreempt_entry>(call, list.address, list.count, stride)?;
        entries.extend(read.into_iter().map(|entry| (entry, list.wish)));
    }
    for (entry, wish) in &entries {
        check_entry(entry, *wish)?;
    }
    let outcome = apply(call, lease, &mut entries, grace)?;
    let mut rest = entries.as_slice();
    for list in lists.iter().filter(|list| list.count > 0) {
        let (mine, others) = rest.split_at(list.count as usize);
        rest = others;
        let results: Vec<kfd_gpreempt_entry> = mine.iter().map(|(entry, _)| *entry).collect();
        write_array(call, list.address, &results, stride)?;
    }
    Ok(outcome)
}

fn check_grace(grace: u32) -> Result<(), Errno> {
    if grace > KFD_GPREEMPT_GRACE_MAX { Err(Errno::EINVAL) } else { Ok(()) }
}

fn check_entry(entry: &kfd_gpreempt_entry, wish: Wish) -> Result<(), Errno> {
    let known = match wish {
        Wish::Unmap => KFD_GPREEMPT_ENTRY_HOLD_NEW | KFD_GPREEMPT_ENTRY_IF_IDLE,
        Wish::Remap => 0,
    };
    let hold_new_of_one = entry.flags & KFD_GPREEMPT_ENTRY_HOLD_NEW != 0 && entry.queue_id != KFD_GPREEMPT_ALL_QUEUES;
    if entry.flags & !known != 0 || entry.pad != 0 || hold_new_of_one { Err(Errno::EINVAL) } else { Ok(()) }
}

/// The same queue twice, or ALL beside a queue that it covers: EINVAL, on resolved processes.
fn check_duplicates(world: &World, lease: LeaseId, entries: &[(kfd_gpreempt_entry, Wish)]) -> Result<(), Errno> {
    if entries.len() < 2 {
        return Ok(());
    }
    let lease = &world.leases[&lease];
    let mut named: Vec<(u32, u32, u32)> = entries
        .iter()
        .filter_map(|(e, _)| lease.resolve(e.target).ok().map(|pid| (pid, e.queue_id, e.gpu_id)))
        .collect();
    named.sort_unstable();
    for process in named.chunk_by(|a, b| a.0 == b.0) {
        let (ids, all) = process.split_at(process.partition_point(|n| n.1 != KFD_GPREEMPT_ALL_QUEUES));
        let twice = ids.windows(2).any(|pair| pair[0].1 == pair[1].1);
        // Sorted by gpu_id: one for every GPU comes first and overlaps whatever else there is.
        let overlap = all.windows(2).any(|pair| pair[0].2 == pair[1].2 || pair[0].2 == 0);
        let covered = all.first().is_some_and(|first| {
            ids.iter().any(|id| first.2 == 0 || id.2 == 0 || all.binary_search_by_key(&id.2, |a| a.2).is_ok())
        });
        if twice || overlap || covered {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

/// The process and the queues that an entry names.
pub(super) fn resolve(
    world: &World,
    lease: LeaseId,
    entry: &kfd_gpreempt_entry,
    needs_permission: bool,
) -> Result<(u32, Vec<QueueKey>), Errno> {
    let pid = world.leases[&lease].resolve(entry.target)?;
    let process = world.process(pid)?;
    if needs_permission {
        world.may_hold(lease, pid)?;
    }
    let node = match entry.gpu_id {
        0 => None,
        gpu_id => Some(world.node_by_gpu(gpu_id).ok_or(Errno::ENOENT)?),
    };
    let matches = |key: &QueueKey| node.is_none_or(|n| world.queue(*key).node == n);
    if entry.queue_id == KFD_GPREEMPT_ALL_QUEUES {
        let kfd = process.kfd.iter();
        return Ok((pid, kfd.flat_map(|k| k.queues.values().copied()).filter(matches).collect()));
    }
    let key = world.find_queue(pid, entry.queue_id)?;
    if matches(&key) { Ok((pid, vec![key])) } else { Err(Errno::ENOENT) }
}

/// A queue that an entry named: the entry's index, and whether the runlist changes.
type Touched = (usize, QueueKey, bool);

/// Does what the entries say and fills in their results.
fn apply(
    call: &mut Call<'_>,
    lease: LeaseId,
    entries: &mut [(kfd_gpreempt_entry, Wish)],
    grace: u32,
) -> Result<Outcome, Errno> {
    check_duplicates(call, lease, entries)?;
    call.batches += 1;
    let grace = (grace != 0).then_some(grace);
    let mut touched: Vec<Touched> = Vec::new();
    for (index, (entry, wish)) in entries.iter_mut().enumerate() {
        call.strike_in_batch(index as u32);
        mark_entry(call, lease, index, entry, *wish, &mut touched);
    }
    let mut jobs: Vec<Option<Job>> = vec![None; call.nodes.len()];
    for (_, key, changed) in &touched {
        let job = jobs[call.queue(*key).node.0].get_or_insert(Job { grace, ..Job::default() });
        job.marks += 1;
        job.execute |= changed;
    }
    let jobs: Vec<(NodeIndex, Job)> =
        jobs.into_iter().enumerate().filter_map(|(node, job)| job.map(|job| (NodeIndex(node), job))).collect();
    let mut outcome = Outcome { nodes: jobs.len() as u32, ..Outcome::default() };
    for (node, report) in call.run(&jobs) {
        outcome.rounds += u32::from(report.round);
        outcome.max_node_ns = outcome.max_node_ns.max(report.duration);
        if let Err(errno) = report.result {
            for (index, key, changed) in &touched {
                if *changed && call.queue(*key).node == node && entries[*index].0.result == 0 {
                    entries[*index].0.result = -(errno as i32);
                }
            }
        }
    }
    for (index, key, _) in &touched {
        let entry = &mut entries[*index].0;
        if call.queue(*key).reset && entry.result == 0 {
            entry.result = -(Errno::EACCES as i32);
        }
        entry.state = call.state_of(*key, lease);
    }
    outcome.ok = entries.iter().filter(|(entry, _)| entry.result == 0).count() as u32;
    outcome.failed = entries.len() as u32 - outcome.ok;
    outcome.elapsed_ns = call.now - call.began;
    Ok(outcome)
}

fn mark_entry(
    world: &mut World,
    lease: LeaseId,
    index: usize,
    entry: &mut kfd_gpreempt_entry,
    wish: Wish,
    touched: &mut Vec<Touched>,
) {
    (entry.result, entry.num_queues, entry.state) = (0, 0, 0);
    let (pid, keys) = match resolve(world, lease, entry, wish == Wish::Unmap) {
        Ok(found) => found,
        Err(errno) => {
            entry.result = -(errno as i32);
            return;
        }
    };
    if entry.flags & KFD_GPREEMPT_ENTRY_HOLD_NEW != 0 {
        let lazy = KFD_GPREEMPT_POLICY_LAZY_ACTIVATION;
        if let Err(errno) = policy::mark_target(world, lease, entry.target, pid, entry.gpu_id, lazy, 0) {
            entry.result = -(errno as i32);
            return;
        }
    }
    for key in keys {
        let marked = match wish {
            Wish::Unmap if entry.flags & KFD_GPREEMPT_ENTRY_IF_IDLE != 0 && !world.idle(key) => {
                // Not an error: its state says that it stays.
                touched.push((index, key, false));
                continue;
            }
            Wish::Unmap => world.hold(lease, key),
            Wish::Remap => world.release(lease, key),
        };
        match marked {
            Ok(_) => entry.num_queues += 1,
            Err(errno) if entry.result == 0 => entry.result = -(errno as i32),
            Err(_) => {}
        }
        touched.push((index, key, marked.unwrap_or(false)));
    }
}
