//! A timeline that Perfetto opens.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use crate::driver::EventKind;
use crate::queue::GpuId;
use crate::stats::Operation;

/// Something on the timeline. Times are machine time. [`GpuId::ALL`] stands for the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// An online request.
    Online {
        /// Where.
        gpu: GpuId,
        /// When it entered.
        from: Duration,
        /// When it left.
        until: Duration,
    },
    /// Offline queues were held.
    Held {
        /// Where.
        gpu: GpuId,
        /// When the first of them was taken.
        from: Duration,
        /// When the last of them came back.
        until: Duration,
        /// Most that were held at once.
        queues: u32,
    },
    /// A call of the driver.
    Call {
        /// Which.
        operation: Operation,
        /// Where.
        gpu: GpuId,
        /// When it began.
        from: Duration,
        /// How long it took as the caller saw it.
        elapsed: Duration,
        /// How long it took as the driver reports it.
        driver: Duration,
        /// Queues it named or found.
        queues: u32,
        /// Rounds.
        rounds: u32,
        /// Whether it failed for at least one of them.
        failed: bool,
    },
    /// An event of the driver.
    Event {
        /// What.
        kind: EventKind,
        /// Where.
        gpu: GpuId,
        /// When.
        at: Duration,
    },
    /// Slots of a node.
    Slots {
        /// Where.
        gpu: GpuId,
        /// When.
        at: Duration,
        /// Queues that have a slot.
        active: u32,
        /// Free slots.
        free: u32,
        /// Offline queues that are held.
        held: u32,
    },
}

/// Takes the timeline. Called from any thread, without any lock of the scheduler, and not always in order of time.
pub trait Recorder: fmt::Debug + Send + Sync {
    /// Takes one record.
    fn record(&self, record: &Record);
}

/// Writes Chrome trace event JSON as records come, so that memory does not grow with the run.
pub struct ChromeTrace<W: Write + Send> {
    _out: std::sync::Mutex<W>,
}

impl<W: Write + Send> fmt::Debug for ChromeTrace<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChromeTrace").finish_non_exhaustive()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl<W: Write + Send> ChromeTrace<W> {
    /// Begins a trace; `title` says what machine and cost model it is of.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(out: W, title: &str) -> io::Result<ChromeTrace<W>> {
        todo!()
    }

    /// A slice of the caller's own on a named track of a node, for example one request's service.
    pub fn slice(&self, gpu: GpuId, track: &str, name: &str, from: Duration, until: Duration) {
        todo!()
    }

    /// Ends the trace and gives the writer back.
    ///
    /// # Errors
    /// The first error of the writer since the beginning.
    pub fn finish(self) -> io::Result<W> {
        todo!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl<W: Write + Send> Recorder for ChromeTrace<W> {
    fn record(&self, record: &Record) {
        todo!()
    }
}
