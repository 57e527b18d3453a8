//! Value classes: frozen, comparable, hashable and picklable. They are declared by their fields alone.

use pyo3::prelude::*;
use pyo3::types::PyType;

/// The type of one entry of `__match_args__`.
macro_rules! field_name {
    ($field:ident) => {
        &'static str
    };
}

/// A value class from its fields: constructor, `repr`, `__match_args__` and pickling.
macro_rules! value_class {
    (
        $(#[$docs:meta])*
        $name:ident { $($(#[$field_docs:meta])* $field:ident : $type:ty $(= $default:expr)?),* $(,)? }
    ) => {
        $(#[$docs])*
        #[pyclass(frozen, get_all, eq, module = "gpreempt")]
        #[derive(Clone, PartialEq)]
        pub(crate) struct $name {
            $($(#[$field_docs])* pub(crate) $field: $type,)*
        }

        #[pymethods]
        impl $name {
            #[classattr]
            fn __match_args__() -> ($(field_name!($field),)*) {
                ($(python_name(stringify!($field)),)*)
            }

            #[new]
            #[pyo3(signature = ($($field $(= $default)?),*))]
            #[allow(clippy::too_many_arguments, reason = "one per field")]
            fn new($($field: $type),*) -> $name {
                $name { $($field),* }
            }

            fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
                self.fields().into_pyobject(py)?.hash()
            }

            fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
                let mut text = Vec::new();
                for (name, value) in [$(python_name(stringify!($field))),*].into_iter().zip(self.fields().into_pyobject(py)?) {
                    text.push(format!("{name}={}", value.repr()?));
                }
                Ok(format!(concat!(stringify!($name), "({})"), text.join(", ")))
            }

            fn __reduce__<'py>(&self, py: Python<'py>) -> (Bound<'py, PyType>, ($($type,)*)) {
                (py.get_type::<$name>(), self.fields())
            }
        }

        impl $name {
            fn fields(&self) -> ($($type,)*) {
                ($(self.$field.clone(),)*)
            }
        }
    };
}

/// The name of a field without what makes it a word of Rust.
fn python_name(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

value_class! {
    /// Hardware queue slots of one GPU node, or summed over all. Counts are queues: a multi-XCC queue takes one slot.
    HQDStatus {
        /// Queue slots.
        total: u32,
        /// Compute queues in the runlist; may exceed `total`.
        active: u32,
        /// `total - min(active, total)`, summed per node.
        free: u32,
        /// Slots reserved for online queues.
        online_reserved: u32,
        /// Active queues of the offline class.
        offline_used: u32,
        /// Cap on active queues of the offline class.
        offline_max: u32 = 0,
        /// Queues held unmapped, by any program.
        preempted: u32 = 0,
        /// Queues that the reservation leaves out for now.
        throttled: u32 = 0,
        /// Queues created.
        queues_total: u32 = 0,
        /// XCCs of one node; a queue takes a hardware slot on each.
        num_xcc: u32 = 0,
        /// Nodes in this status.
        nodes: u32 = 0,
    }
}

value_class! {
    /// A queue, as discovery found it.
    QueueInfo {
        /// The number that every call takes: the KFD id of an own queue, or a handle of 0x10000 or more.
        queue_id: u32,
        /// KFD queue id, 0 to 1023, unique only within the owner.
        kfd_id: u32,
        /// Owner.
        pid: u32,
        /// GPU, by its topology `gpu_id`.
        gpu_id: u32,
        /// KFD priority, 0 to 15; None where the machine does not tell it.
        priority: Option<u32> = None,
        /// `compute`, `sdma` or `sdma-xgmi`.
        r#type: String = String::from("compute"),
        /// Ring size, bytes.
        ring_bytes: u64 = 0,
        /// Whether it is in the runlist; None where the machine does not tell it.
        active: Option<bool> = None,
        /// `/proc/<pid>/comm` of the owner.
        command: String = String::new(),
        /// cgroup v2 path of the owner, empty where unknown.
        cgroup: String = String::new(),
    }
}

value_class! {
    /// State of one queue, as the driver reports it.
    QueueStatus {
        /// GPU, by its topology `gpu_id`.
        gpu_id: u32,
        /// KFD priority, 0 to 15; None where the tier does not tell it.
        priority: Option<u32>,
        /// Policy in force, `QueuePolicy` bits.
        policy: u32,
        /// State, the bits of `KFD_GPREEMPT_STATE_*` in the kernel's header; 1 = in the runlist, 8 = held unmapped.
        state: u32,
        /// Packets that the GPU has taken from the ring; None where the machine does not tell it.
        read_ptr: Option<u64> = None,
        /// Packets that the owner has put into the ring; None where the machine does not tell it.
        write_ptr: Option<u64> = None,
        /// Live waves; None where not asked for or not told.
        waves: Option<u32> = None,
        /// How long it has been held unmapped, seconds of the machine's clock.
        held_s: f64 = 0.0,
    }
}

value_class! {
    /// What one batch did, and what it cost as the driver reports it.
    Batch {
        /// Queues now in the wanted state.
        queues: u32,
        /// Nodes with at least one of them.
        nodes: u32,
        /// Nodes whose runlist was executed: one HWS round each.
        rounds: u32,
        /// The whole call, seconds of the machine's clock.
        elapsed_s: f64,
        /// Its slowest node, seconds.
        slowest_node_s: f64,
    }
}

value_class! {
    /// What a reservation came to. Percentages round down to slots.
    Reservation {
        /// Slots kept for online queues, on the smallest node.
        online_reserved: u32,
        /// Cap on active offline queues, on the smallest node.
        offline_max: u32,
        /// Nodes it applies to.
        nodes: u32,
    }
}

impl From<gpreempt::HqdStatus> for HQDStatus {
    fn from(status: gpreempt::HqdStatus) -> HQDStatus {
        HQDStatus {
            total: status.total,
            active: status.active,
            free: status.free,
            online_reserved: status.online_reserved,
            offline_used: status.offline_used,
            offline_max: status.offline_max,
            preempted: status.preempted,
            throttled: status.throttled,
            queues_total: status.queues_total,
            num_xcc: status.num_xcc,
            nodes: status.nodes,
        }
    }
}

impl From<(u32, gpreempt::QueueInfo)> for QueueInfo {
    fn from((handle, info): (u32, gpreempt::QueueInfo)) -> QueueInfo {
        let kind = match info.kind {
            gpreempt::QueueType::Compute => "compute",
            gpreempt::QueueType::Sdma => "sdma",
            gpreempt::QueueType::SdmaXgmi => "sdma-xgmi",
        };
        QueueInfo {
            queue_id: handle,
            kfd_id: info.queue.id,
            pid: info.queue.pid,
            gpu_id: info.gpu.0,
            priority: info.priority,
            r#type: kind.to_owned(),
            ring_bytes: info.ring_bytes,
            active: info.active,
            command: info.command,
            cgroup: info.cgroup,
        }
    }
}

impl From<gpreempt::driver::Batch> for Batch {
    fn from(batch: gpreempt::driver::Batch) -> Batch {
        Batch {
            queues: batch.outcomes.iter().map(|outcome| outcome.queues).sum(),
            nodes: batch.nodes,
            rounds: batch.rounds,
            elapsed_s: batch.elapsed.as_secs_f64(),
            slowest_node_s: batch.slowest_node.as_secs_f64(),
        }
    }
}

impl From<gpreempt::Reservation> for Reservation {
    fn from(reservation: gpreempt::Reservation) -> Reservation {
        Reservation {
            online_reserved: reservation.online_reserved,
            offline_max: reservation.offline_max,
            nodes: reservation.nodes,
        }
    }
}

impl From<gpreempt::driver::QueueStatus> for QueueStatus {
    fn from(status: gpreempt::driver::QueueStatus) -> QueueStatus {
        QueueStatus {
            gpu_id: status.gpu.0,
            priority: status.priority,
            policy: status.policy.bits(),
            state: status.state.bits(),
            read_ptr: status.pointers.map(|(read, _)| read),
            write_ptr: status.pointers.map(|(_, write)| write),
            waves: status.waves,
            held_s: status.held.as_secs_f64(),
        }
    }
}
