//! Policies, tested on values: a domain of offline queues in virtual time, where calls take no time.

use std::time::Duration;

use gpreempt::sched::policy::{self, Decision, Lazy, OfflineQueue, Policy, RateBound, Slice, View, named};
use gpreempt::{ErrorKind, GpuId, QueueId};
use proptest::prelude::*;

const STEP: Duration = Duration::from_micros(100);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A domain that does at once what a policy decides, and keeps the window's books by counting every step.
struct World<'a> {
    policy: &'a dyn Policy,
    now: Duration,
    online: u32,
    online_since: Option<Duration>,
    quiet_since: Option<Duration>,
    last_unmap: Option<Duration>,
    last_remap: Option<Duration>,
    last_rotate: Option<Duration>,
    again_at: Option<Duration>,
    queues: Vec<OfflineQueue>,
    /// Share of the queues that was mapped, step by step.
    mapped: Vec<f64>,
    /// When queues were taken while none was held.
    unmaps: Vec<Duration>,
}

impl<'a> World<'a> {
    fn new(policy: &'a dyn Policy, queues: u32) -> World<'a> {
        let queue = |id| OfflineQueue {
            id: QueueId { pid: 7, id },
            gpu: GpuId(1),
            held: false,
            since: Duration::ZERO,
            idle_since: None,
        };
        World {
            policy,
            now: Duration::ZERO,
            online: 0,
            online_since: None,
            quiet_since: None,
            last_unmap: None,
            last_remap: None,
            last_rotate: None,
            again_at: None,
            queues: (0..queues).map(queue).collect(),
            mapped: Vec::new(),
            unmaps: Vec::new(),
        }
    }

    fn held(&self) -> usize {
        self.queues.iter().filter(|queue| queue.held).count()
    }

    fn decide(&mut self) {
        let length = self.policy.setup().window.map_or(0, |window| (window.as_nanos() / STEP.as_nanos()) as usize);
        let inside = &self.mapped[self.mapped.len().saturating_sub(length)..];
        let view = View {
            now: self.now,
            online: self.online,
            online_since: self.online_since,
            quiet_since: self.quiet_since,
            offline: &self.queues,
            last_unmap: self.last_unmap,
            last_remap: self.last_remap,
            last_rotate: self.last_rotate,
            offline_max: Some(3),
            offline_ran: STEP.mul_f64(inside.iter().sum()),
            window: STEP * inside.len() as u32,
        };
        let Decision { unmap, remap, rotate, again_at } = self.policy.decide(&view);
        let again = self.policy.decide(&view);
        assert_eq!(again, Decision { unmap: unmap.clone(), remap: remap.clone(), rotate: rotate.clone(), again_at });
        assert!(again_at.is_none_or(|at| at > self.now), "it asks for the past");
        let before = self.held();
        for (named, held) in [(unmap, true), (remap, false)] {
            for id in named {
                let queue = self.queues.iter_mut().find(|queue| queue.id == id).expect("it names its own queues only");
                (queue.held, queue.since) = (held, self.now);
            }
        }
        match (before, self.held()) {
            (0, 1..) => {
                self.last_unmap = Some(self.now);
                self.unmaps.push(self.now);
            }
            (1.., 0) => self.last_remap = Some(self.now),
            _ => {}
        }
        if !rotate.is_empty() {
            self.last_rotate = Some(self.now);
        }
        self.again_at = again_at;
    }

    fn set_online(&mut self, online: u32) {
        match (self.online, online) {
            (0, 1..) => self.online_since = Some(self.now),
            (1.., 0) => self.quiet_since = Some(self.now),
            _ => {}
        }
        self.online = online;
        self.decide();
    }

    fn pass(&mut self, steps: u32) {
        for _ in 0..steps {
            self.mapped.push(1.0 - self.held() as f64 / self.queues.len().max(1) as f64);
            self.now += STEP;
            while self.again_at.is_some_and(|at| at <= self.now) {
                self.decide();
            }
        }
    }
}

/// Online requests: steps until the next one, and how long it lasts.
fn arrivals() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((0..120_u32, 1..200_u32), 1..40)
}

const SPECS: [&str; 8] = [
    "unmap",
    "unmap:linger=4ms",
    "reserve",
    "lazy",
    "slice",
    "slice:period=5ms,online=30%",
    "rate-bound",
    "rate-bound:residency=20ms,coalesce=0,floor=50%,window=40ms",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn once_it_is_quiet_nothing_stays_held(spec in prop::sample::select(&SPECS[..]), arrivals in arrivals()) {
        let policy = named(spec).unwrap();
        let mut world = World::new(policy.as_ref(), 5);
        for (gap, length) in arrivals {
            world.pass(gap);
            world.set_online(1);
            world.pass(length);
            world.set_online(0);
        }
        world.pass(100);
        prop_assert_eq!(world.held(), 0);
    }

    #[test]
    fn a_burst_is_preempted_for_at_most_once(arrivals in arrivals(), residency in 0..30_u64, coalesce in 0..10_u64) {
        let policy = RateBound { residency: ms(residency), coalesce: ms(coalesce), floor_percent: 0, ..RateBound::default() };
        let mut world = World::new(&policy, 5);
        let (mut bursts, mut quiet) = (0, None);
        for (gap, length) in arrivals {
            world.pass(gap);
            if quiet.is_none_or(|quiet| world.now >= quiet + policy.coalesce) {
                bursts += 1;
            }
            world.set_online(1);
            world.pass(length);
            world.set_online(0);
            quiet = Some(world.now);
        }
        prop_assert!(world.unmaps.len() <= bursts, "{} preemptions of {bursts} bursts", world.unmaps.len());
    }

    #[test]
    fn what_came_back_stays_for_the_residency(arrivals in arrivals(), residency in 0..30_u64, floor in 0..60_u32) {
        let policy = RateBound { residency: ms(residency), floor_percent: floor, ..RateBound::default() };
        let mut world = World::new(&policy, 5);
        for (gap, length) in arrivals {
            world.pass(gap);
            world.set_online(1);
            world.pass(length);
            world.set_online(0);
        }
        let residencies = world.unmaps.windows(2).map(|pair| {
            let (from, until) = ((pair[0].as_nanos() / STEP.as_nanos()) as usize, (pair[1].as_nanos() / STEP.as_nanos()) as usize);
            world.mapped[from..until].iter().rev().take_while(|mapped| **mapped == 1.0).count() as u32
        });
        for stayed in residencies {
            prop_assert!(STEP * stayed >= policy.residency, "it stayed for {:?}", STEP * stayed);
        }
    }

    #[test]
    fn the_floor_holds_in_every_window(
        arrivals in prop::collection::vec((0..80_u32, 1..700_u32), 1..20),
        floor in 5..60_u32,
        residency in 0..12_u64,
        window in 20..120_u64,
    ) {
        let (residency, window) = (ms(residency), ms(window));
        let policy = RateBound { floor_percent: floor, residency, window, ..RateBound::default() };
        let mut world = World::new(&policy, 5);
        for (gap, length) in arrivals {
            world.pass(gap);
            world.set_online(1);
            world.pass(length);
            world.set_online(0);
        }
        let length = (policy.window.as_nanos() / STEP.as_nanos()) as usize;
        for (at, window) in world.mapped.windows(length).enumerate() {
            let share = window.iter().sum::<f64>() / length as f64;
            // Decisions fall on steps, so a window may miss one.
            let least = f64::from(floor) / 100.0 - 1.0 / length as f64;
            prop_assert!(share >= least - 1e-9, "{share} in the window from step {at}, floor {floor} %");
        }
    }

    #[test]
    fn no_text_makes_the_registry_panic(text in "[a-z-]{0,12}(:[ -~µ]{0,40})?") {
        if let Ok(policy) = named(&text) {
            prop_assert_eq!(named(&policy.to_string()).unwrap().to_string(), policy.to_string());
        }
    }
}

#[test]
fn a_window_without_time_to_hold_anything_is_refused() {
    let error = named("rate-bound:window=1ns").unwrap_err();
    assert!(error.to_string().contains("a window of 1ns leaves no time"), "{error}");
    assert!(named("rate-bound:window=1ns,floor=0%").is_ok());
}

#[test]
fn saturated_slices_reach_their_shares_within_two_percent() {
    for percent in [25, 50, 75, 90] {
        let policy = Slice { online_percent: percent, ..Slice::default() };
        let mut world = World::new(&policy, 5);
        world.set_online(1);
        world.pass(40_000);
        let offline = world.mapped.iter().sum::<f64>() / world.mapped.len() as f64;
        let wanted = 1.0 - f64::from(percent) / 100.0;
        assert!((offline - wanted).abs() < 0.02, "offline had {offline}, not {wanted}");
    }
}

#[test]
fn a_short_window_waits_only_for_what_the_last_one_took() {
    let policy = Slice::default();
    let mut world = World::new(&policy, 5);
    world.set_online(1);
    world.pass(30);
    world.set_online(0);
    world.set_online(1);
    assert_eq!(world.held(), 0, "3 ms were taken, 1 ms is owed");
    world.pass(9);
    assert_eq!(world.held(), 0);
    world.pass(1);
    assert_eq!(world.held(), 5);
}

#[test]
fn a_saturated_rate_bound_keeps_online_work_on_for_nearly_all_of_the_rest() {
    let policy = RateBound::default();
    let mut world = World::new(&policy, 5);
    world.set_online(1);
    world.pass(20_000);
    let offline = world.mapped[10_000..].iter().sum::<f64>() / 10_000.0;
    assert!((0.10..0.12).contains(&offline), "offline had {offline}");
}

#[test]
fn reserve_lets_only_crowded_nodes_take_turns() {
    let policy = named("reserve:slice=10ms").unwrap();
    let turns = |queues: u32| {
        let mut world = World::new(policy.as_ref(), queues);
        world.decide();
        let first = world.last_rotate;
        world.pass(100);
        (first.is_some(), world.last_rotate.map(|last| last >= ms(10)))
    };
    assert_eq!(turns(3), (false, None), "three fit under the cap");
    assert_eq!(turns(4), (true, Some(true)));
}

#[test]
fn lazy_waits_for_idleness_and_for_quiet() {
    let policy = Lazy::default();
    let mut world = World::new(&policy, 2);
    world.queues[0].idle_since = Some(Duration::ZERO);
    world.decide();
    assert_eq!(world.held(), 0);
    world.pass(100);
    assert!(world.queues[0].held && !world.queues[1].held, "10 ms without work");
    world.set_online(1);
    assert_eq!(world.held(), 2);
    world.set_online(0);
    assert!(world.queues[0].held && !world.queues[1].held);
    world.queues[0].idle_since = None;
    world.decide();
    assert_eq!(world.held(), 0, "its write pointer moved");
}

#[test]
fn every_policy_names_itself_and_its_defaults() {
    for kind in policy::ALL {
        let policy = named(kind.name).unwrap();
        assert_eq!(policy.name(), kind.name);
        let defaults: Vec<String> =
            kind.parameters.iter().map(|parameter| format!("{}={}", parameter.name, parameter.default)).collect();
        assert_eq!(policy.to_string(), format!("{}:{}", kind.name, defaults.join(",")));
        assert_eq!(named(&policy.to_string()).unwrap().setup(), policy.setup());
    }
}

#[test]
fn wrong_text_says_what_is_wrong_and_what_may_be() {
    for (text, says) in [
        ("", "there is no policy ``"),
        ("fifo", "policies: unmap, reserve, lazy, slice, rate-bound"),
        ("unmap:delay=1ms", "there is no parameter `delay` (EINVAL); parameters: linger"),
        ("unmap:linger", "`linger` is not of the form name=value"),
        (
            "unmap:linger=5",
            "linger: `5` is not a duration of at most an hour (EINVAL); write a whole number and a unit",
        ),
        ("unmap:linger=2h", "linger: `2h`"),
        ("unmap:linger=99999999999s", "linger: `99999999999s`"),
        ("unmap:linger=1ms,linger=2ms", "parameter `linger` is given twice"),
        ("slice:period=0", "period must not be zero"),
        ("slice:online=0%", "online: `0%` is not a share (EINVAL); write 1% to 99%"),
        ("slice:online=101%", "online: `101%`"),
        ("rate-bound:floor=100%", "write 0% to 99%"),
        ("reserve:online=30%,offline=80%", "online 30% and offline 80% exceed 100%"),
        ("reserve:online=4294967295%", "online: `4294967295%`"),
    ] {
        let error = named(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
}
