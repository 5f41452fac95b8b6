//! How many requests a service can have in flight before they only wait for one another: found out by looking at latencies.
//!
//! The gradient rule of Envoy's adaptive concurrency filter, in the line of Netflix' concurrency-limits: at the end of each window the
//! limit is multiplied by (latency without queueing ÷ latency now) and given some headroom, √limit, by which it climbs while
//! nothing gets slower. What the latency without queueing is, is found out again from time to time, by halving the limit for one
//! window; Envoy falls to a handful of requests for that, which a busy service feels.
//!
//! A window is judged by its median: a few long polls or slow endpoints among many quick answers do not move it, and a service that
//! is all long polls has a long latency without queueing too. Latencies are taken to the head of an answer, so that a client that
//! reads slowly has no part in them.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use fastrand::Rng;

use crate::load::Nanos;

/// Samples kept of one window; later ones replace earlier ones, so that memory and the cost of the median are bounded.
const SAMPLES_MAX: usize = 256;

/// Fewer samples say nothing; the window goes on.
const SAMPLES_MIN: usize = 10;

/// How much slower than without queueing counts as not slower.
const TOLERANCE: f64 = 1.2;

/// The most that one window may take away or add, so that one odd window does little.
const GRADIENT_MIN: f64 = 0.5;
const GRADIENT_MAX: f64 = 1.1;

/// By how much the time to the next look at the latency without queueing varies, so that balancers do not look together.
const JITTER: f64 = 0.2;

/// What an operator says about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub limit_min: u32,
    pub limit_max: u32,
    pub window: Duration,
    /// How often the latency without queueing is measured anew.
    pub remeasure_every: Duration,
}

/// The limit of one service, shared by all cores: a request costs two atomic steps and, at its end, a short lock.
#[derive(Debug)]
pub struct Adaptive {
    rules: Rules,
    limit: AtomicU32,
    in_flight: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    /// The exact limit, of which the shared one is the whole part.
    limit: f64,
    /// The latency without queueing, in nanoseconds; none until the first window has ended.
    base: Option<f64>,
    phase: Phase,
    window_ends: Nanos,
    remeasure_at: Nanos,
    samples: Vec<u32>,
    seen: usize,
    /// The most in flight during this window.
    peak: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Normal,
    /// The limit was lowered, and requests from before may still be under way.
    Settling {
        resume: f64,
    },
    Measuring {
        resume: f64,
    },
}

impl Adaptive {
    /// It begins with ten times the least limit, as far as that is allowed.
    pub fn new(rules: Rules, rng: Rng) -> Self {
        let limit_min = rules.limit_min.max(1);
        let rules = Rules {
            limit_min,
            limit_max: rules.limit_max.max(limit_min),
            ..rules
        };
        let limit = limit_min.saturating_mul(10).min(rules.limit_max);
        Self {
            rules,
            limit: AtomicU32::new(limit),
            in_flight: AtomicU32::new(0),
            state: Mutex::new(State {
                rng,
                limit: f64::from(limit),
                base: None,
                phase: Phase::Normal,
                window_ends: Nanos(0),
                remeasure_at: Nanos(0),
                samples: Vec::with_capacity(SAMPLES_MAX),
                seen: 0,
                peak: 0,
            }),
        }
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(SeqCst)
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// Counts one request, if there is room for it.
    pub fn try_begin(&self) -> bool {
        let limit = self.limit();
        let more = |n: u32| (n < limit).then_some(n + 1);
        self.in_flight.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    pub fn end(&self) {
        let before = self.in_flight.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "a request must begin before it ends");
    }

    /// Takes in how long an answer took to begin. Returns whether the limit was raised, so that somebody who waits may go.
    pub fn observe(&self, now: Nanos, latency: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The request that is observed is still counted.
        state.peak = state.peak.max(self.in_flight());
        state.sample(latency);
        let raised = state.end_window(now, &self.rules);
        self.limit.store(state.limit as u32, SeqCst);
        raised
    }
}

impl State {
    /// Microseconds, up to an hour: no more is needed to tell medians apart.
    fn sample(&mut self, latency: Duration) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        match self.samples.len() < SAMPLES_MAX {
            true => self.samples.push(micros),
            false => self.samples[self.seen % SAMPLES_MAX] = micros,
        }
        self.seen += 1;
    }

    fn end_window(&mut self, now: Nanos, rules: &Rules) -> bool {
        if now < self.window_ends || self.samples.len() < SAMPLES_MIN {
            return false;
        }
        let before = self.limit;
        let latency = self.median();
        match self.phase {
            Phase::Normal if self.base.is_some() && now >= self.remeasure_at => self.look_again(),
            Phase::Normal => self.adjust(latency),
            Phase::Settling { resume } => self.phase = Phase::Measuring { resume },
            Phase::Measuring { resume } => self.resume(latency, resume),
        }
        self.limit = self
            .limit
            .clamp(f64::from(rules.limit_min), f64::from(rules.limit_max));
        self.begin_window(now, rules);
        self.limit > before
    }

    fn look_again(&mut self) {
        self.phase = Phase::Settling { resume: self.limit };
        self.limit *= 0.5;
    }

    fn resume(&mut self, latency: f64, resume: f64) {
        self.phase = Phase::Normal;
        self.base = Some(latency);
        self.limit = resume;
    }

    fn adjust(&mut self, latency: f64) {
        // A window that is quicker than the base proves the base wrong at once; a slower one proves nothing.
        let base = self.base.map_or(latency, |base| base.min(latency));
        self.base = Some(base);
        let gradient = (base * TOLERANCE / latency).clamp(GRADIENT_MIN, GRADIENT_MAX);
        // A limit that nobody reaches has not been tried, and must not climb for that.
        let is_used = f64::from(self.peak) >= self.limit * 0.8;
        if gradient < 1.0 {
            self.limit = self.limit * gradient + self.limit.sqrt();
        } else if is_used {
            self.limit += self.limit.sqrt();
        }
    }

    fn begin_window(&mut self, now: Nanos, rules: &Rules) {
        let is_measured = now >= self.remeasure_at && self.phase == Phase::Normal;
        if is_measured {
            let jitter = 1.0 + JITTER * (2.0 * self.rng.f64() - 1.0);
            let pause = rules.remeasure_every.as_nanos() as f64 * jitter;
            self.remeasure_at = Nanos(now.0.saturating_add(pause as u64));
        }
        self.window_ends = Nanos(now.0.saturating_add(rules.window.as_nanos() as u64));
        self.samples.clear();
        (self.seen, self.peak) = (0, 0);
    }

    /// In microseconds, one at least.
    fn median(&mut self) -> f64 {
        let middle = self.samples.len() / 2;
        let (_, median, _) = self.samples.select_nth_unstable(middle);
        f64::from((*median).max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    const MS: u64 = 1_000_000;
    const RULES: Rules = Rules {
        limit_min: 3,
        limit_max: 1000,
        window: Duration::from_millis(100),
        remeasure_every: Duration::from_secs(10),
    };

    #[test]
    fn it_settles_near_the_knee() {
        let mut world = World::new(40, 10);
        world.run_for(60);
        let limits = world.run_for(60);
        let mean = limits.iter().sum::<f64>() / limits.len() as f64;
        assert!((40.0..80.0).contains(&mean), "the knee is at 40: {mean}");
        assert!(world.busy_share > 0.9, "{}", world.busy_share);
    }

    #[test]
    fn it_follows_a_server_that_loses_and_regains_its_strength() {
        let mut world = World::new(80, 10);
        world.run_for(60);
        world.workers = 20;
        world.run_for(60);
        let low = world.adaptive.limit();
        assert!((15..60).contains(&low), "the knee is at 20: {low}");
        world.workers = 80;
        world.run_for(60);
        let high = world.adaptive.limit();
        assert!(high > 60, "the knee is at 80 again: {high}");
    }

    #[test]
    fn a_service_that_gets_slower_for_good_is_believed() {
        let mut world = World::new(40, 10);
        world.run_for(30);
        world.service_ms = 50;
        world.run_for(60);
        let limit = world.adaptive.limit();
        assert!(
            (35..90).contains(&limit),
            "the knee is still at 40: {limit}"
        );
    }

    #[test]
    fn long_polls_do_not_collapse_it() {
        let mut world = World::new(40, 10);
        world.long_poll_every = 5;
        world.run_for(60);
        let limits = world.run_for(60);
        let least = limits.iter().copied().fold(f64::MAX, f64::min);
        assert!(least > 15.0, "halved for a moment, never more: {least}");
    }

    #[test]
    fn a_limit_that_is_not_reached_does_not_climb() {
        let adaptive = Adaptive::new(RULES, Rng::with_seed(7));
        let before = adaptive.limit();
        for n in 0..10_000u64 {
            assert!(adaptive.try_begin());
            adaptive.observe(Nanos(n * 10 * MS), Duration::from_millis(5));
            adaptive.end();
        }
        assert!(adaptive.limit() <= before, "{}", adaptive.limit());
    }

    #[test]
    fn the_bounds_hold() {
        let rules = Rules {
            limit_min: 5,
            limit_max: 8,
            ..RULES
        };
        let adaptive = Adaptive::new(rules, Rng::with_seed(7));
        assert_eq!(adaptive.limit(), 8);
        for n in 0..10_000u64 {
            while adaptive.try_begin() {}
            adaptive.observe(Nanos(n * 10 * MS), Duration::from_millis(1 + n * n));
            assert!((5..=8).contains(&adaptive.limit()));
            adaptive.end();
        }
    }

    /// Clients that always have one more request than the limit lets in, before a server of so many workers.
    struct World {
        adaptive: Adaptive,
        now: u64,
        workers: usize,
        service_ms: u64,
        long_poll_every: u64,
        busy_share: f64,
        /// When the workers become free.
        free_at: BinaryHeap<Reverse<u64>>,
        /// When answers come, and when they were asked for.
        answers: BinaryHeap<Reverse<(u64, u64)>>,
        asked: u64,
    }

    impl World {
        fn new(workers: usize, service_ms: u64) -> Self {
            Self {
                adaptive: Adaptive::new(RULES, Rng::with_seed(7)),
                now: 0,
                workers,
                service_ms,
                long_poll_every: u64::MAX,
                busy_share: 0.0,
                free_at: BinaryHeap::new(),
                answers: BinaryHeap::new(),
                asked: 0,
            }
        }

        /// The limits at the time of every answer.
        fn run_for(&mut self, seconds: u64) -> Vec<f64> {
            let (start, mut limits, mut answered) = (self.now, Vec::new(), 0u64);
            while self.now < start + seconds * 1_000 * MS {
                while self.adaptive.try_begin() {
                    self.ask();
                }
                let Reverse((at, asked_at)) = self.answers.pop().expect("something is under way");
                self.now = at;
                answered += 1;
                let latency = Duration::from_nanos(at - asked_at);
                self.adaptive.observe(Nanos(at), latency);
                self.adaptive.end();
                limits.push(f64::from(self.adaptive.limit()));
            }
            let possible = seconds * 1000 / self.service_ms * self.workers as u64;
            self.busy_share = answered as f64 / possible as f64;
            limits
        }

        fn ask(&mut self) {
            self.asked += 1;
            if self.asked.is_multiple_of(self.long_poll_every) {
                // It waits for something else, and keeps no worker.
                self.answers.push(Reverse((self.now + 300 * MS, self.now)));
                return;
            }
            while self.free_at.len() > self.workers {
                self.free_at.pop();
            }
            let free = match self.free_at.len() == self.workers {
                true => self.free_at.pop().map_or(0, |it| it.0),
                false => 0,
            };
            let done = self.now.max(free) + self.service_ms * MS;
            self.free_at.push(Reverse(done));
            self.answers.push(Reverse((done, self.now)));
        }
    }
}
