//! What came back, in words.

use gpreempt_sys::*;

use crate::names::Names;

/// `name=value` of plain fields.
macro_rules! plain {
    ($text:ident, $args:expr, $($field:ident),+ $(,)?) => {$(
        $text.push_str(&format!(" {}={}", stringify!($field), $args.$field));
    )+};
}
pub(crate) use plain;

const STATES: [(u32, &str); 12] = [
    (KFD_GPREEMPT_STATE_ACTIVE, "active"),
    (KFD_GPREEMPT_STATE_EVICTED, "evicted"),
    (KFD_GPREEMPT_STATE_SUSPENDED, "suspended"),
    (KFD_GPREEMPT_STATE_PREEMPTED, "preempted"),
    (KFD_GPREEMPT_STATE_MINE, "mine"),
    (KFD_GPREEMPT_STATE_DISABLED, "disabled"),
    (KFD_GPREEMPT_STATE_BEING_DESTROYED, "being-destroyed"),
    (KFD_GPREEMPT_STATE_THROTTLED, "throttled"),
    (KFD_GPREEMPT_STATE_RESET, "reset"),
    (KFD_GPREEMPT_STATE_PREEMPTIBLE, "preemptible"),
    (KFD_GPREEMPT_STATE_LAZY, "lazy"),
    (KFD_GPREEMPT_STATE_IDLE, "idle"),
];

/// State bits by name.
pub fn state(bits: u32) -> String {
    let known = STATES.iter().fold(0, |all, (bit, _)| all | bit);
    let mut names: Vec<String> =
        STATES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    if bits & !known != 0 {
        names.push(format!("{:#x}", bits & !known));
    }
    if names.is_empty() { "none".to_owned() } else { names.join("|") }
}

/// A result: 0 or the name of an errno.
pub fn result(value: i32) -> String {
    match value {
        0.. => value.to_string(),
        -4095..0 => format!("{:?}", nix::errno::Errno::from_raw(-value)),
        _ => value.to_string(),
    }
}

/// What a command did with an entry.
pub fn entry(entry: &kfd_gpreempt_entry) -> String {
    format!("{} n={} {}", result(entry.result), entry.num_queues, state(entry.state))
}

/// GPREEMPT_OPEN.
pub fn open_lease(args: &kfd_ioctl_gpreempt_open_args, names: &mut Names) -> String {
    let mut text = names.lease(args.lease_id);
    plain!(
        text,
        args,
        abi_version,
        flags,
        max_hold_ms,
        caps,
        max_entries,
        grace_max,
        entry_size,
        hqd_status_size,
        queue_status_size,
        event_size,
        reserved
    );
    text
}

/// ATTACH and DETACH.
pub fn attach(args: &kfd_ioctl_gpreempt_attach_args, names: &Names) -> String {
    let mut text = format!("pid={} start={}", names.pid(args.pid), Names::time(args.start_boottime_ns));
    plain!(text, args, flags, target, num_queues, reserved);
    text
}

/// The out fields that the batch commands share.
macro_rules! batch {
    ($args:expr) => {{
        let mut text = String::new();
        $crate::render::plain!(text, $args, num_ok, num_failed, num_nodes, num_rounds);
        text.trim_start().to_owned()
    }};
}
pub(crate) use batch;

/// GET_HQD_STATUS.
pub fn hqd_status(args: &kfd_ioctl_hqd_status_args, names: &mut Names) -> String {
    let gpu = args.gpu_id;
    let mut text = names.gpu(gpu);
    plain!(
        text,
        args,
        flags,
        total_hqd,
        active_hqd,
        free_hqd,
        online_reserved,
        offline_max,
        offline_used,
        num_xcc,
        preempted,
        throttled,
        queues_total,
        sdma_slots,
        sdma_active,
        proc_slots,
        procs,
        gws_active,
        preempt_timeout_ms
    );
    text += &format!(" runlists={}", names.counter(gpu, "runlists", args.runlist_seq));
    text += &format!(" unmaps={}", names.counter(gpu, "unmaps", args.unmap_seq));
    text
}

/// One queue of GET_QUEUE_STATUS. `ring` is what the queue was created with.
pub fn queue_status(args: &kfd_gpreempt_queue_status, ring: Option<u64>, names: &mut Names) -> String {
    let mut text = format!("q{} {} {}", args.queue_id, names.gpu(args.gpu_id), state(args.state));
    plain!(text, args, r#type, priority, percent, policy_flags, flags);
    let ring = match ring {
        Some(ring) if ring == args.ring_base => "own".to_owned(),
        _ => format!("{:#x}", args.ring_base),
    };
    let owner = if args.owner_pid == 0 { "0".to_owned() } else { names.pid(args.owner_pid) };
    text += &format!(
        " ring={ring} owner={}/{owner} held={} work={}",
        names.lease(args.owner_lease),
        Names::time(args.preempted_ns),
        if args.write_ptr == 0 { "none" } else { "some" },
    );
    plain!(text, args, pad, reserved);
    text
}

/// An event.
pub fn event(args: &kfd_gpreempt_event, names: &Names) -> String {
    let kind = match args.r#type {
        KFD_GPREEMPT_EVENT_QUEUE_CREATED => "created".to_owned(),
        KFD_GPREEMPT_EVENT_QUEUE_DESTROYED => "destroyed".to_owned(),
        KFD_GPREEMPT_EVENT_TARGET_EXITED => "exited".to_owned(),
        KFD_GPREEMPT_EVENT_HOLD_EXPIRED => "expired".to_owned(),
        KFD_GPREEMPT_EVENT_NODE_RESET => "node-reset".to_owned(),
        KFD_GPREEMPT_EVENT_OVERSUBSCRIBED => "oversubscribed".to_owned(),
        other => other.to_string(),
    };
    let gpu = if args.gpu_id == 0 { "0".to_owned() } else { names.gpu(args.gpu_id) };
    let mut text = format!("{kind} {gpu} time={}", Names::time(args.time_ns));
    plain!(text, args, flags, target, queue_id, lost, reserved);
    text
}

/// One queue of a debugger's snapshot.
pub fn snapshot(args: &kfd_queue_snapshot_entry, names: &Names) -> String {
    let mut text = format!("q{} {}", args.queue_id, names.gpu(args.gpu_id));
    plain!(text, args, exception_status, ring_size, queue_type, ctx_save_restore_area_size, reserved);
    text
}
