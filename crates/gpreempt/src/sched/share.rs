//! How much of a sliding window a domain's offline queues were mapped.

use std::collections::VecDeque;
use std::time::Duration;

#[derive(Debug)]
struct Segment {
    from: Duration,
    until: Duration,
    ran: Duration,
}

/// Mapped time in a sliding window, as the mean over the queues. Without queues nobody is deprived: that counts as
/// mapped.
#[derive(Debug)]
pub(super) struct Share {
    length: Duration,
    began: Duration,
    from: Duration,
    mapped: u32,
    queues: u32,
    past: VecDeque<Segment>,
    ran: Duration,
}

impl Share {
    /// Begins a window of this length; zero keeps no books.
    pub(super) fn new(length: Duration, now: Duration) -> Share {
        Share { length, began: now, from: now, mapped: 0, queues: 0, past: VecDeque::new(), ran: Duration::ZERO }
    }

    /// From now on, this many of the queues are mapped.
    pub(super) fn set(&mut self, now: Duration, mapped: u32, queues: u32) {
        if self.length.is_zero() || (mapped, queues) == (self.mapped, self.queues) {
            return;
        }
        let now = now.max(self.from);
        if now > self.from {
            let ran = self.fraction(now - self.from);
            self.past.push_back(Segment { from: self.from, until: now, ran });
            self.ran += ran;
            self.from = now;
        }
        while self.past.front().is_some_and(|segment| segment.until + self.length <= now) {
            self.ran -= self.past.pop_front().expect("there is a front").ran;
        }
        (self.mapped, self.queues) = (mapped, queues);
    }

    fn fraction(&self, time: Duration) -> Duration {
        if self.queues == 0 { time } else { time * self.mapped / self.queues }
    }

    /// Mapped time in the window that ends now, and the length of that window so far.
    pub(super) fn read(&self, now: Duration) -> (Duration, Duration) {
        let begin = now.saturating_sub(self.length).max(self.began);
        let mut ran = self.ran + self.fraction(now.saturating_sub(self.from.max(begin)));
        for segment in self.past.iter().take_while(|segment| segment.from < begin) {
            let outside = segment.until.min(begin) - segment.from;
            let whole = segment.until - segment.from;
            let share = segment.ran.as_nanos() * outside.as_nanos() / whole.as_nanos();
            ran -= Duration::from_nanos(u64::try_from(share).expect("part of a segment"));
        }
        (ran, now.saturating_sub(begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn mapped_time_leaves_the_window_at_its_far_end() {
        let mut share = Share::new(ms(100), ms(1000));
        share.set(ms(1000), 4, 4);
        share.set(ms(1030), 0, 4);
        share.set(ms(1050), 2, 4);
        assert_eq!(share.read(ms(1050)), (ms(30), ms(50)), "the window is young");
        assert_eq!(share.read(ms(1070)), (ms(40), ms(70)), "half of the queues count half");
        assert_eq!(share.read(ms(1110)), (ms(20 + 30), ms(100)), "the first 10 ms are outside");
        assert_eq!(share.read(ms(1140)), (ms(45), ms(100)), "so is a part of the hold");
        share.set(ms(1400), 4, 4);
        assert_eq!(share.past.len(), 1, "what can no longer count is forgotten");
        assert_eq!(share.read(ms(1400)), (ms(50), ms(100)));
    }

    #[test]
    fn without_queues_nobody_is_deprived() {
        let share = Share::new(ms(100), ms(0));
        assert_eq!(share.read(ms(40)), (ms(40), ms(40)));
    }
}
