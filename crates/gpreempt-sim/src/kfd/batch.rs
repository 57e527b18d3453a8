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
use crate::orders::{Effect, Order, Wish};
use crate::world::{LeaseId, World};

/// What a command did, for its out fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
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
    let mut entries: Vec<(kfd_gpreempt_entry, Wish)> = Vec::with_capacity(total as usize);
    for list in lists.iter().filter(|list| list.count > 0) {
        let read = read_array::<kfd_gpreempt_entry>(call, list.address, list.count, stride)?;
        entries.extend(read.into_iter().map(|entry| (entry, list.wish)));
    }
    for (entry, wish) in &entries {
        check_entry(entry, *wish)?;
    }
    check_grace(grace)?;
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
        Wish::Remap | Wish::Policy { .. } => 0,
    };
    let hold_new_of_one = entry.flags & KFD_GPREEMPT_ENTRY_HOLD_NEW != 0 && entry.queue_id != KFD_GPREEMPT_ALL_QUEUES;
    if entry.flags & !known != 0 || entry.pad != 0 || hold_new_of_one { Err(Errno::EINVAL) } else { Ok(()) }
}

/// The same queue twice, or ALL beside a queue that it covers: EINVAL, on the processes of entries that resolve to one
/// that uses KFD.
fn check_duplicates(world: &World, lease: LeaseId, entries: &[(kfd_gpreempt_entry, Wish)]) -> Result<(), Errno> {
    if entries.len() < 2 {
        return Ok(());
    }
    let mut named: Vec<(u32, u32, u32)> = entries
        .iter()
        .filter_map(|(entry, wish)| {
            let pid = resolve_process(world, lease, entry, wish.needs_permission()).ok()?;
            world.process(pid).ok()?.kfd.as_ref()?;
            Some((pid, entry.queue_id, entry.gpu_id))
        })
        .collect();
    named.sort_unstable();
    let overlap = |a: u32, b: u32| a == 0 || b == 0 || a == b;
    for process in named.chunk_by(|a, b| a.0 == b.0) {
        let (ids, all) = process.split_at(process.partition_point(|n| n.1 != KFD_GPREEMPT_ALL_QUEUES));
        // Sorted by gpu_id: one for every GPU comes first and overlaps whatever else there is.
        let twice = process.windows(2).any(|pair| pair[0].1 == pair[1].1 && overlap(pair[0].2, pair[1].2));
        let covered = all.iter().any(|all| ids.iter().any(|id| overlap(all.2, id.2)));
        if twice || covered {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

/// What an entry names: a process, one of its queues or all, and the nodes where such are.
pub(super) struct Named {
    pub(super) pid: u32,
    pub(super) queue: Option<u32>,
    pub(super) nodes: Vec<NodeIndex>,
}

/// The process that an entry names, and the check of its GPU.
fn resolve_process(
    world: &World,
    lease: LeaseId,
    entry: &kfd_gpreempt_entry,
    needs_permission: bool,
) -> Result<u32, Errno> {
    let pid = world.leases[&lease].resolve(entry.target)?;
    world.process(pid)?;
    if needs_permission {
        world.may_hold(lease, pid)?;
    }
    if entry.gpu_id != 0 && world.node_by_gpu(entry.gpu_id).is_none() {
        return Err(Errno::ENOENT);
    }
    Ok(pid)
}

pub(super) fn resolve(
    world: &World,
    lease: LeaseId,
    entry: &kfd_gpreempt_entry,
    needs_permission: bool,
) -> Result<Named, Errno> {
    let pid = resolve_process(world, lease, entry, needs_permission)?;
    let process = world.process(pid)?;
    let wanted = world.node_by_gpu(entry.gpu_id);
    if entry.queue_id == KFD_GPREEMPT_ALL_QUEUES {
        let has_queues = |n: &NodeIndex| process.kfd.as_ref().is_some_and(|kfd| !kfd.device(*n).queues.is_empty());
        let nodes = world.node_indices().filter(|n| wanted.is_none_or(|w| w == *n) && has_queues(n)).collect();
        return Ok(Named { pid, queue: None, nodes });
    }
    let node = world.queue(world.find_queue(pid, entry.queue_id)?).node;
    if wanted.is_some_and(|w| w != node) {
        return Err(Errno::ENOENT);
    }
    Ok(Named { pid, queue: Some(entry.queue_id), nodes: vec![node] })
}

/// Does what the entries say and fills in their results.
fn apply(
    call: &mut Call<'_>,
    lease: LeaseId,
    entries: &mut [(kfd_gpreempt_entry, Wish)],
    grace: u32,
) -> Result<Outcome, Errno> {
    check_duplicates(call, lease, entries)?;
    call.batches += 1;
    let mut orders = Orders::new(call);
    for (place, entry) in entries.iter_mut().enumerate() {
        call.strike_in_batch(place as u32);
        orders.add(call, lease, place, entry);
    }
    Ok(orders.run(call, entries, (grace != 0).then_some(grace)))
}

/// The orders of a command, node by node.
pub(super) struct Orders(Vec<Vec<Order>>);

impl Orders {
    pub(super) fn new(world: &World) -> Orders {
        Orders(vec![Vec::new(); world.nodes.len()])
    }

    /// Adds what one entry says; one that names nothing gets its result.
    pub(super) fn add(
        &mut self,
        world: &mut World,
        lease: LeaseId,
        place: usize,
        (entry, wish): &mut (kfd_gpreempt_entry, Wish),
    ) {
        (entry.result, entry.num_queues, entry.state) = (0, 0, 0);
        let hold_new = entry.flags & KFD_GPREEMPT_ENTRY_HOLD_NEW != 0;
        let found = resolve(world, lease, entry, wish.needs_permission()).and_then(|named| {
            if hold_new {
                policy::mark_target(world, lease, entry, KFD_GPREEMPT_POLICY_LAZY_ACTIVATION, 0)?;
            }
            Ok(named)
        });
        let Named { pid, queue, mut nodes } = match found {
            Ok(named) => named,
            Err(errno) => {
                entry.result = -(errno as i32);
                return;
            }
        };
        if hold_new {
            // The mark goes to nodes without queues, too.
            nodes = world.nodes_named(entry.gpu_id);
        }
        let if_idle = entry.flags & KFD_GPREEMPT_ENTRY_IF_IDLE != 0;
        for node in nodes {
            self.0[node.0].push(Order::Entry { place, lease, pid, queue, wish: *wish, if_idle, hold_new });
        }
    }

    /// Runs one job on each node that an entry touches and fills in the results.
    pub(super) fn run(
        self,
        call: &mut Call<'_>,
        entries: &mut [(kfd_gpreempt_entry, Wish)],
        grace: Option<u32>,
    ) -> Outcome {
        let jobs = self.0.into_iter().enumerate().filter(|(_, orders)| !orders.is_empty());
        let jobs = jobs.map(|(node, orders)| (NodeIndex(node), Job { orders, grace, ..Job::default() })).collect();
        let mut outcome = Outcome::default();
        for (_, report) in call.run(jobs) {
            outcome.nodes += u32::from(report.touched.iter().any(|touched| touched.key.is_some()));
            outcome.rounds += u32::from(report.round);
            outcome.max_node_ns = outcome.max_node_ns.max(report.duration);
            for touched in report.touched {
                let entry = &mut entries[touched.place].0;
                entry.num_queues += u32::from(matches!(touched.effect, Ok(Effect::Changed | Effect::Same)));
                entry.state = touched.state;
                let errno = match (touched.effect, report.result) {
                    (Err(errno), _) | (Ok(Effect::Changed), Err(errno)) => Some(errno),
                    _ => touched.reset.then_some(Errno::EACCES),
                };
                if let (Some(errno), 0) = (errno, entry.result) {
                    entry.result = -(errno as i32);
                }
            }
        }
        outcome.ok = entries.iter().filter(|(entry, _)| entry.result == 0).count() as u32;
        outcome.failed = entries.len() as u32 - outcome.ok;
        outcome.elapsed_ns = call.now - call.began;
        outcome
    }
}
