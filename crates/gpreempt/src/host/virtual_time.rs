//! How threads meet on a virtual clock.
//!
//! Time moves only while a foreground thread sleeps. The sleeper walks from one deadline of a parked thread to the
//! next: it moves the machine there, wakes that thread, waits until the thread has parked again (or ended), and goes on. So
//! with one foreground thread the order of everything is the order of machine time, whatever the wall does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Alarm, Wake};

/// How often the sleeper looks whether a running thread's alarm was dropped.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A woken thread that has not parked for this long on the wall no longer follows the clock: something else blocks it, and
/// the sleeper may be what it waits for.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// What a sleeper moves: the machine's time.
pub(super) trait Clock {
    /// What can end a sleep early.
    type Stop;

    /// Machine time.
    fn now(&self) -> Duration;

    /// Moves the machine's time on, unless something ends the sleep early.
    fn advance(&mut self, to: Duration) -> Option<Self::Stop>;
}

/// The background threads of one virtual clock.
#[derive(Debug, Default)]
pub(super) struct VirtualTime {
    threads: Mutex<Threads>,
    changed: Condvar,
    /// Held by the one sleeper that moves time.
    walking: Mutex<()>,
}

#[derive(Debug, Default)]
struct Threads {
    next: u64,
    /// By the order in which they joined: threads with equal deadlines wake in this order.
    known: BTreeMap<u64, Thread>,
}

#[derive(Debug)]
struct Thread {
    alarm: Weak<Alarm>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Expected to park soon.
    Running,
    /// Waits, until this time if there is one.
    Parked(Option<Duration>),
}

/// A thread's place on one clock; leaves when the thread ends.
struct Place {
    clock: Weak<VirtualTime>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(clock) = self.clock.upgrade() {
            clock.lock().known.remove(&self.id);
            clock.changed.notify_all();
        }
    }
}

thread_local! {
    static PLACES: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

impl VirtualTime {
    /// A thread that will park on `alarm` is about to start.
    pub(super) fn enlist(&self, alarm: &Arc<Alarm>) {
        self.lock().join(Thread { alarm: Arc::downgrade(alarm), state: State::Running });
    }

    /// Waits until the alarm rings or a sleeper reaches `deadline`.
    pub(super) fn park(self: &Arc<Self>, now: Duration, alarm: &Arc<Alarm>, deadline: Option<Duration>) -> Wake {
        let id = self.place_of_this_thread(alarm);
        if deadline.is_some_and(|deadline| deadline <= now) {
            alarm.due();
        }
        self.lock().known.insert(id, Thread { alarm: Arc::downgrade(alarm), state: State::Parked(deadline) });
        self.changed.notify_all();
        alarm.wait_pending(|| None);
        // Under the lock, so that no sleeper sees a thread that is neither pending nor running.
        let mut threads = self.lock();
        if let Some(thread) = threads.known.get_mut(&id) {
            thread.state = State::Running;
        }
        alarm.take()
    }

    /// Lets time pass until `target` or until the clock stops the sleep. A background thread that sleeps parks instead.
    pub(super) fn sleep<C: Clock>(self: &Arc<Self>, clock: &mut C, target: Duration) -> Option<C::Stop> {
        if let Some((id, own)) = self.background() {
            let nap = Alarm::new();
            self.park(clock.now(), &nap, Some(target));
            // It still is the thread of its own alarm, and runs until it parks on that again.
            if let Some(thread) = self.lock().known.get_mut(&id) {
                thread.alarm = own;
            }
            return None;
        }
        let _walking = self.walking.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let next = self.settle().first_deadline(target);
            let Some((deadline, id)) = next else { break };
            if deadline > clock.now()
                && let Some(stop) = clock.advance(deadline)
            {
                return Some(stop);
            }
            self.lock().wake(id, deadline);
        }
        // Even with nowhere to go: the clock may have a reason to stop that came up during a call.
        clock.advance(target.max(clock.now()))
    }

    /// Waits until every background thread is parked.
    fn settle(&self) -> MutexGuard<'_, Threads> {
        let since = Instant::now();
        let mut threads = self.lock();
        loop {
            threads.known.retain(|_, thread| thread.alarm.strong_count() > 0);
            if !threads.known.values().any(Thread::is_running) {
                return threads;
            }
            if since.elapsed() > LOST_AFTER {
                tracing::warn!("a background thread does not park; the virtual clock goes on without it");
                threads.known.retain(|_, thread| !thread.is_running());
                return threads;
            }
            threads = self.changed.wait_timeout(threads, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The id of this thread's entry; adopts the one that `enlist` made for its alarm.
    fn place_of_this_thread(self: &Arc<Self>, alarm: &Arc<Alarm>) -> u64 {
        PLACES.with_borrow_mut(|places| {
            places.retain(|place| place.clock.strong_count() > 0);
            let mut threads = self.lock();
            let mine = places.iter().position(|place| std::ptr::eq(place.clock.as_ptr(), Arc::as_ptr(self)));
            let known = mine.is_some_and(|index| threads.known.contains_key(&places[index].id));
            if let (Some(index), true) = (mine, known) {
                return places[index].id;
            }
            let enlisted =
                threads.known.iter().find(|(_, thread)| std::ptr::eq(thread.alarm.as_ptr(), Arc::as_ptr(alarm)));
            let id = match enlisted {
                Some((&id, _)) => id,
                None => threads.join(Thread { alarm: Arc::downgrade(alarm), state: State::Running }),
            };
            match mine {
                Some(index) => places[index].id = id,
                None => places.push(Place { clock: Arc::downgrade(self), id }),
            }
            id
        })
    }

    /// This thread's entry and alarm, where it is a background thread.
    fn background(self: &Arc<Self>) -> Option<(u64, Weak<Alarm>)> {
        PLACES.with_borrow(|places| {
            let mine = places.iter().find(|place| std::ptr::eq(place.clock.as_ptr(), Arc::as_ptr(self)))?;
            self.lock().known.get(&mine.id).map(|thread| (mine.id, thread.alarm.clone()))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Threads {
    fn join(&mut self, thread: Thread) -> u64 {
        let id = self.next;
        self.next += 1;
        self.known.insert(id, thread);
        id
    }

    fn first_deadline(&self, target: Duration) -> Option<(Duration, u64)> {
        let due = self.known.iter().filter_map(|(&id, thread)| match thread.state {
            State::Parked(Some(deadline)) if deadline <= target => Some((deadline, id)),
            _ => None,
        });
        due.min()
    }

    /// Wakes a thread that is still parked until `deadline`.
    fn wake(&mut self, id: u64, deadline: Duration) {
        let Some(thread) = self.known.get_mut(&id) else { return };
        if !matches!(thread.state, State::Parked(Some(until)) if until == deadline) {
            return;
        }
        if let Some(alarm) = thread.alarm.upgrade() {
            thread.state = State::Running;
            alarm.due();
        }
    }
}

impl Thread {
    fn is_running(&self) -> bool {
        match self.state {
            State::Running => true,
            State::Parked(_) => self.alarm.upgrade().is_some_and(|alarm| alarm.is_pending()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    /// A clock that only counts, in seconds.
    #[derive(Clone, Default)]
    struct Counter(Arc<AtomicU64>);

    impl Clock for Counter {
        type Stop = ();

        fn now(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }

        fn advance(&mut self, to: Duration) -> Option<()> {
            let before = self.0.swap(to.as_secs(), Ordering::Relaxed);
            assert!(before <= to.as_secs(), "time never runs backwards");
            None
        }
    }

    #[derive(Default)]
    struct Scene {
        time: Arc<VirtualTime>,
        clock: Counter,
        log: Arc<Mutex<Vec<(u64, &'static str)>>>,
    }

    impl Scene {
        /// A thread that wakes every `period` seconds, `times` times, and notes when.
        fn ticker(&self, name: &'static str, period: u64, times: u64) -> (thread::JoinHandle<()>, Arc<Alarm>) {
            let alarm = Alarm::new();
            self.time.enlist(&alarm);
            let (time, clock, log, bell) = (self.time.clone(), self.clock.clone(), self.log.clone(), alarm.clone());
            let thread = thread::spawn(move || {
                for _ in 0..times {
                    let deadline = clock.now() + Duration::from_secs(period);
                    if time.park(clock.now(), &bell, Some(deadline)) == Wake::Rung {
                        log.lock().unwrap().push((clock.now().as_secs(), "rung"));
                        return;
                    }
                    log.lock().unwrap().push((clock.now().as_secs(), name));
                }
            });
            (thread, alarm)
        }

        fn sleep(&self, seconds: u64) {
            let target = self.clock.now() + Duration::from_secs(seconds);
            self.time.sleep(&mut self.clock.clone(), target);
        }

        fn log(&self) -> Vec<(u64, &'static str)> {
            self.log.lock().unwrap().clone()
        }
    }

    #[test]
    fn a_reason_to_stop_ends_even_a_sleep_that_goes_nowhere() {
        /// Something came up at 5 s, during a call that took until 9 s.
        struct Late;
        impl Clock for Late {
            type Stop = u64;
            fn now(&self) -> Duration {
                Duration::from_secs(9)
            }
            fn advance(&mut self, to: Duration) -> Option<u64> {
                assert_eq!(to.as_secs(), 9, "time never runs backwards");
                Some(5)
            }
        }
        for target in [9, 3] {
            assert_eq!(Arc::<VirtualTime>::default().sleep(&mut Late, Duration::from_secs(target)), Some(5));
        }
    }

    #[test]
    fn parked_threads_run_in_the_order_of_their_deadlines_at_their_deadlines() {
        let scene = Scene::default();
        let threads = [scene.ticker("three", 3, 10), scene.ticker("two", 2, 10)];
        scene.sleep(7);
        assert_eq!(scene.log(), [(2, "two"), (3, "three"), (4, "two"), (6, "three"), (6, "two")]);
        assert_eq!(scene.clock.now(), Duration::from_secs(7));
        for (thread, alarm) in threads {
            alarm.ring();
            thread.join().unwrap();
        }
        assert_eq!(scene.log()[5..], [(7, "rung"), (7, "rung")]);
    }

    #[test]
    fn a_thread_that_has_not_parked_yet_is_waited_for() {
        let scene = Scene::default();
        let (thread, _alarm) = scene.ticker("one", 1, 1);
        scene.sleep(5);
        assert_eq!(scene.log(), [(1, "one")]);
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_that_ended_does_not_hold_time_though_its_alarm_lives() {
        let scene = Scene::default();
        let (thread, _alarm) = scene.ticker("one", 1, 2);
        scene.sleep(10);
        thread.join().unwrap();
        scene.sleep(10);
        assert_eq!(scene.log(), [(1, "one"), (2, "one")]);
        assert_eq!(scene.clock.now(), Duration::from_secs(20));
    }

    #[test]
    fn an_alarm_that_was_dropped_does_not_hold_time() {
        let scene = Scene::default();
        let never_parks = Alarm::new();
        scene.time.enlist(&never_parks);
        drop(never_parks);
        scene.sleep(1);
        assert_eq!(scene.clock.now(), Duration::from_secs(1));
    }

    #[test]
    fn a_rung_thread_finishes_before_time_moves() {
        let scene = Scene::default();
        let (thread, alarm) = scene.ticker("late", 100, 1);
        scene.sleep(1);
        alarm.ring();
        scene.sleep(50);
        assert_eq!(scene.log(), [(1, "rung")]);
        thread.join().unwrap();
    }

    #[test]
    fn a_deadline_that_has_passed_wakes_at_once() {
        let scene = Scene::default();
        let wake = scene.time.park(Duration::from_secs(5), &Alarm::new(), Some(Duration::from_secs(4)));
        assert_eq!(wake, Wake::Deadline);
    }

    #[test]
    fn a_background_thread_that_sleeps_waits_for_the_foreground() {
        let scene = Scene::default();
        let alarm = Alarm::new();
        scene.time.enlist(&alarm);
        let (time, clock, log) = (scene.time.clone(), scene.clock.clone(), scene.log.clone());
        let thread = thread::spawn(move || {
            time.park(clock.now(), &alarm, Some(Duration::from_secs(2)));
            time.sleep(&mut clock.clone(), Duration::from_secs(5));
            log.lock().unwrap().push((clock.now().as_secs(), "slept"));
        });
        scene.sleep(4);
        assert_eq!(scene.log(), []);
        scene.sleep(4);
        assert_eq!(scene.log(), [(5, "slept")]);
        thread.join().unwrap();
    }
}
