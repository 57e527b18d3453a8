//! Who may stop the queues of a process, and for how long.

use nix::errno::Errno;
use zerocopy::{Immutable, IntoBytes};

use crate::book::{Book, Creating, Kfd, Outcome, Which};
use crate::protocol::*;

/// Names a scheduler's connection; never used again for another.
pub type Connection = u64;

const MS: u64 = 1_000_000;

/// Restoring failed: try again after so long, twice as long each time.
const FIRST_RETRY: u64 = 10 * MS;
const LAST_RETRY: u64 = 5_000 * MS;

/// Answers schedulers. Times are in nanoseconds on a clock that the caller keeps.
#[derive(Debug)]
pub struct Server {
    book: Book,
    pid: u32,
    started: u64,
    holder: Option<Holder>,
    /// A failed restore is tried again then, and after that the next time.
    retry: Option<(u64, u64)>,
    expired: u32,
}

/// The one scheduler that may stop.
#[derive(Clone, Copy, Debug)]
struct Holder {
    connection: Connection,
    hold: u64,
    /// When it was last heard of, or a queue was created for it to hold.
    heard: u64,
}

impl Server {
    /// Nobody is connected yet. `started`: when the process started, ns since boot.
    pub fn new(pid: u32, started: u64) -> Server {
        Server { book: Book::default(), pid, started, holder: None, retry: None, expired: 0 }
    }

    /// The queues.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The queues, for what the program does; see [`Server::created`] for CREATE_QUEUE.
    pub fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// After the program's CREATE_QUEUE: as [`Book::created`]. A queue that starts held gives its holder the full time.
    pub fn created(&mut self, creating: Creating, argument: &mut [u8], answer: Result<(), Errno>, now: u64) {
        if self.book.created(creating, argument, answer, now)
            && let Some(holder) = &mut self.holder
        {
            holder.heard = now;
        }
    }

    /// Answers one message.
    pub fn message(&mut self, from: Connection, message: &[u8], now: u64, kfd: &mut dyn Kfd) -> Vec<u8> {
        // A deadline that passed counts, however late this process gets to run.
        self.tick(now, kfd);
        let Some((request, ids)) = parse_request(message) else {
            return self.reply(from, &Request::default(), Errno::EINVAL as u32, 0, &[0u32; 0]);
        };
        if request.version != VERSION {
            return self.reply(from, &request, Errno::EPROTONOSUPPORT as u32, 0, &[0u32; 0]);
        }
        let before = self.book.rounds();
        match self.act(from, &request, &ids, now, kfd) {
            Err(errno) => self.reply(from, &request, errno as u32, 0, &[0u32; 0]),
            Ok(Answer::Nothing) => self.reply(from, &request, 0, 0, &[0u32; 0]),
            Ok(Answer::Queues(entries)) => self.reply(from, &request, 0, 0, &entries),
            Ok(Answer::Outcomes(outcomes)) => {
                let entries: Vec<OutcomeEntry> = outcomes.iter().map(|outcome| self.outcome(outcome)).collect();
                self.reply(from, &request, 0, self.book.rounds() - before, &entries)
            }
        }
    }

    fn act(
        &mut self,
        from: Connection,
        request: &Request,
        ids: &[u32],
        now: u64,
        kfd: &mut dyn Kfd,
    ) -> Result<Answer, Errno> {
        let all = request.flags & FLAG_ALL != 0;
        let (known, lists) = match request.operation {
            HELLO | HEARTBEAT => (0, false),
            LIST => (FLAG_POINTERS, false),
            STOP if all => (FLAG_ALL | FLAG_HOLD_NEW, false),
            RESTORE if all => (FLAG_ALL, false),
            STOP | RESTORE => (0, true),
            POLICY => (FLAG_HOLD_NEW, false),
            _ => return Err(Errno::EINVAL),
        };
        if request.flags & !known != 0 || request.pad != 0 || lists == ids.is_empty() {
            return Err(Errno::EINVAL);
        }
        let which = if all { Which::All } else { Which::Ids(ids) };
        match request.operation {
            LIST => Ok(Answer::Queues(self.list(request, now, kfd))),
            STOP => {
                self.claim(from, request, now)?;
                if request.flags & FLAG_HOLD_NEW != 0 {
                    self.book.hold_new(request.gpu_id, true);
                }
                let outcomes = self.book.stop(which, request.gpu_id, kfd, now);
                self.let_go_if_empty();
                self.plan_retry(now);
                Ok(Answer::Outcomes(outcomes))
            }
            RESTORE => {
                // Who holds nothing can give nothing back; queues that run are not its business to complain about.
                let others = self.holder.is_some_and(|holder| holder.connection != from);
                if others {
                    return Err(Errno::EBUSY);
                }
                if all {
                    self.book.hold_new(request.gpu_id, false);
                }
                let outcomes = self.book.restore(which, request.gpu_id, kfd);
                self.let_go_if_empty();
                self.plan_retry(now);
                Ok(Answer::Outcomes(outcomes))
            }
            HEARTBEAT => {
                match &mut self.holder {
                    Some(holder) if holder.connection == from => {
                        holder.heard = now;
                        holder.hold = hold_ns(request.hold_ms);
                    }
                    _ => {}
                }
                Ok(Answer::Nothing)
            }
            POLICY => {
                let hold = request.flags & FLAG_HOLD_NEW != 0;
                if hold || self.holder.is_some() {
                    self.claim(from, request, now)?;
                    self.book.hold_new(request.gpu_id, hold);
                    self.let_go_if_empty();
                }
                Ok(Answer::Nothing)
            }
            _ => Ok(Answer::Nothing),
        }
    }

    /// A connection has closed: what it held runs again.
    pub fn closed(&mut self, connection: Connection, now: u64, kfd: &mut dyn Kfd) {
        if self.holder.is_some_and(|holder| holder.connection == connection) {
            self.holder = None;
            self.book.hold_new(0, false);
            self.release(now, kfd);
        }
    }

    /// Gives everything back, whoever holds it.
    pub fn give_up(&mut self, now: u64, kfd: &mut dyn Kfd) {
        if let Some(holder) = self.holder {
            self.closed(holder.connection, now, kfd);
        }
    }

    /// When [`Server::tick`] has something to do, if nothing happens before.
    pub fn next(&self) -> Option<u64> {
        let deadline = self.holder.filter(|_| self.book.holds_any()).map(|holder| holder.heard + holder.hold);
        // A queue may be created, and start to be held, while nobody watches.
        let look = self.holder.filter(|_| self.book.holds_new(0)).map(|holder| holder.heard + holder.hold);
        [deadline, look, self.retry.map(|(at, _)| at)].into_iter().flatten().min()
    }

    /// Gives back what a silent holder held, and tries again what could not be given back. Early calls do nothing.
    pub fn tick(&mut self, now: u64, kfd: &mut dyn Kfd) {
        if let Some(holder) = &mut self.holder
            && holder.heard + holder.hold <= now
        {
            // It stays the holder: queues to come may still start held, each for this long.
            holder.heard = now;
            if self.book.holds_any() {
                self.expired += 1;
                self.release(now, kfd);
                self.let_go_if_empty();
            }
        }
        if let Some((at, pause)) = self.retry
            && at <= now
        {
            let pause = (pause * 2).min(LAST_RETRY);
            self.retry = (!self.book.settle(kfd)).then_some((now + pause, pause));
        }
    }

    fn release(&mut self, now: u64, kfd: &mut dyn Kfd) {
        if !self.book.release(kfd) {
            self.retry = Some((now + FIRST_RETRY, FIRST_RETRY));
        }
    }

    /// Whatever should run and does not is tried again.
    fn plan_retry(&mut self, now: u64) {
        let left = self.book.queues().values().any(|queue| queue.off && queue.held.is_none());
        if left && self.retry.is_none() {
            self.retry = Some((now + FIRST_RETRY, FIRST_RETRY));
        }
    }

    fn claim(&mut self, from: Connection, request: &Request, now: u64) -> Result<(), Errno> {
        if self.holder.is_some_and(|holder| holder.connection != from) {
            return Err(Errno::EBUSY);
        }
        self.holder = Some(Holder { connection: from, hold: hold_ns(request.hold_ms), heard: now });
        Ok(())
    }

    fn let_go_if_empty(&mut self) {
        if !self.book.holds_any() && !self.book.holds_new(0) {
            self.holder = None;
        }
    }

    fn list(&self, request: &Request, now: u64, kfd: &mut dyn Kfd) -> Vec<QueueEntry> {
        let here = self.book.queues().iter().filter(|(_, queue)| request.gpu_id == 0 || queue.gpu_id == request.gpu_id);
        let entry = |(&queue_id, queue): (&u32, &crate::Queue)| {
            let wanted = request.flags & FLAG_POINTERS != 0;
            let pointers = wanted.then(|| kfd.pointers(queue.read_pointer, queue.write_pointer)).flatten();
            let (read_ptr, write_ptr) = pointers.unwrap_or_default();
            QueueEntry {
                queue_id,
                gpu_id: queue.gpu_id,
                kind: queue.kind,
                flags: flags(queue) | if pointers.is_some() { QUEUE_POINTERS } else { 0 },
                priority: queue.wanted.queue_priority,
                percentage: queue.wanted.queue_percentage,
                ring_size: queue.wanted.ring_size,
                pad: 0,
                ring_base: queue.wanted.ring_base_address,
                read_ptr,
                write_ptr,
                held_ns: queue.held.map_or(0, |since| now.saturating_sub(since)),
            }
        };
        here.map(entry).collect()
    }

    fn outcome(&self, outcome: &Outcome) -> OutcomeEntry {
        OutcomeEntry {
            queue_id: outcome.queue_id,
            gpu_id: outcome.gpu_id,
            errno: outcome.errno.map_or(0, |errno| errno as u32),
            flags: self.book.queues().get(&outcome.queue_id).map_or(0, flags),
        }
    }

    fn reply<T: IntoBytes + Immutable>(
        &self,
        to: Connection,
        request: &Request,
        errno: u32,
        rounds: u32,
        entries: &[T],
    ) -> Vec<u8> {
        let mine = self.holder.is_some_and(|holder| holder.connection == to);
        let reply = Reply {
            version: VERSION,
            operation: request.operation,
            sequence: request.sequence,
            errno,
            flags: if mine { REPLY_HOLDER } else { 0 } | if self.book.holds_new(0) { REPLY_HOLDS_NEW } else { 0 },
            num_entries: entries.len() as u32,
            entry_size: size_of::<T>() as u32,
            pid: self.pid,
            num_queues: self.book.queues().len() as u32,
            num_held: self.book.queues().values().filter(|queue| queue.held.is_some()).count() as u32,
            hold_ms: self.holder.map_or(MAX_HOLD_MS, |holder| (holder.hold / MS) as u32),
            expired: self.expired,
            rounds,
            pad: 0,
            started_ns: self.started,
        };
        message(&reply, entries)
    }
}

enum Answer {
    Nothing,
    Queues(Vec<QueueEntry>),
    Outcomes(Vec<Outcome>),
}

fn hold_ns(ms: u32) -> u64 {
    let ms = if ms == 0 { MAX_HOLD_MS } else { ms.min(MAX_HOLD_MS) };
    u64::from(ms) * MS
}

fn flags(queue: &crate::Queue) -> u32 {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    bit(queue.is_wanted(), QUEUE_WANTED) | bit(queue.held.is_some(), QUEUE_HELD) | bit(queue.off, QUEUE_OFF)
}
