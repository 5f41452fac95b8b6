//! Whether an endpoint answers: a state per endpoint, fed by probes and by the suspicions of those who send it requests.
//!
//! It owns no clock and sends nothing: `next_wake_up` says when to look again, `begin_probe` whether to ask then.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// While it matters whether an endpoint is back, it is asked this many times as often.
const EAGERNESS: u32 = 4;

/// Eager probes after which an endpoint that stays silent is asked at the ordinary interval again.
const EAGER_PROBES: u32 = 20;

/// A wake-up for nothing, so that every member has one: the lost ones are forgotten by it.
const NEVER: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Policy {
    /// Whether endpoints nobody complains about are asked at all.
    pub regular: bool,
    /// Between two probes, give or take a tenth.
    pub interval: Duration,
    /// Good probes in a row that make an endpoint healthy.
    pub healthy_after: u32,
    /// Bad probes in a row that make a healthy endpoint unhealthy. One is enough for a suspected one, and for one never seen well.
    pub unhealthy_after: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has asked yet; it gets work, because whoever announces itself is ready.
    Unknown,
    Healthy,
    Unhealthy,
}

#[derive(Debug)]
pub struct Health {
    policy: Policy,
    state: State,
    /// Probes in a row that agree with each other and not with the state.
    against: u32,
    suspected: bool,
    /// A probe is on its way.
    asking: bool,
    /// The suspicion is newer than the probe that is on its way, whose answer says nothing about it.
    asks_too_early: bool,
    eager_left: u32,
    wake_up: Instant,
}

impl Health {
    /// The first probe is due at once, spread over a tenth of the interval.
    pub fn new(policy: Policy, now: Instant, rng: &mut Rng) -> Self {
        let spread = policy.interval.mul_f64(rng.f64() / 10.0);
        let wake_up = now + if policy.regular { spread } else { NEVER };
        Self {
            policy,
            state: State::Unknown,
            against: 0,
            suspected: false,
            asking: false,
            asks_too_early: false,
            eager_left: 0,
            wake_up,
        }
    }

    /// Goes by other rules from now on; what was seen so far stays seen.
    pub fn adopt(&mut self, policy: Policy, now: Instant, rng: &mut Rng) {
        self.policy = policy;
        self.wake_up = self.wake_up.min(now + self.pause(rng));
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn is_suspected(&self) -> bool {
        self.suspected
    }

    pub fn next_wake_up(&self) -> Instant {
        self.wake_up
    }

    /// Whether a probe should be sent, called at the wake-up. At most one is under way at a time.
    pub fn begin_probe(&mut self, now: Instant, rng: &mut Rng) -> bool {
        let wanted = !self.asking
            && (self.policy.regular || self.eager_left > 0 || self.state == State::Unhealthy);
        self.asking |= wanted;
        self.asks_too_early &= !wanted;
        self.wake_up = now + self.pause(rng);
        wanted
    }

    pub fn on_probe(&mut self, now: Instant, ok: bool, rng: &mut Rng) {
        self.asking = false;
        let ok_for_now = ok && std::mem::take(&mut self.asks_too_early);
        if ok_for_now {
            self.wake_up = now;
            return;
        }
        if ok {
            self.on_good();
        } else {
            self.on_bad();
        }
        self.wake_up = now + self.pause(rng);
    }

    /// Somebody could not reach the endpoint: ask at once.
    pub fn on_suspect(&mut self, now: Instant) {
        self.suspected = true;
        self.asks_too_early = self.asking;
        self.probe_soon(now);
    }

    /// The next probe is due at once, and eagerly after it.
    pub fn probe_soon(&mut self, now: Instant) {
        self.eager_left = EAGER_PROBES;
        self.wake_up = self.wake_up.min(now);
    }

    fn on_good(&mut self) {
        self.suspected = false;
        self.eager_left = 0;
        let needed = if self.state == State::Unhealthy {
            self.policy.healthy_after
        } else {
            1
        };
        self.count(State::Healthy, needed);
    }

    fn on_bad(&mut self) {
        let needed = if self.suspected || self.state == State::Unknown {
            1
        } else {
            self.policy.unhealthy_after
        };
        let before = self.state;
        self.count(State::Unhealthy, needed);
        if before != State::Unhealthy {
            // It may be a restart: whoever comes back soon should be seen soon.
            self.eager_left = EAGER_PROBES;
        }
        self.eager_left = self.eager_left.saturating_sub(1);
    }

    fn count(&mut self, towards: State, needed: u32) {
        if self.state == towards {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.against >= needed {
            self.state = towards;
            self.against = 0;
        }
    }

    fn pause(&self, rng: &mut Rng) -> Duration {
        let jitter = 0.9 + rng.f64() / 5.0;
        let base = if self.eager_left > 0 {
            self.policy.interval / EAGERNESS
        } else if self.policy.regular || self.state == State::Unhealthy {
            self.policy.interval
        } else {
            NEVER
        };
        base.mul_f64(jitter)
    }
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_probe_of_a_trusted_endpoint_is_forgiven() {
        let mut it = Subject::new(true);
        it.probe(true).is(State::Healthy);
        it.probe(false).is(State::Healthy);
        it.probe(true).is(State::Healthy);
        it.probe(false).is(State::Healthy);
        it.probe(false).is(State::Unhealthy);
    }

    #[test]
    fn one_bad_probe_of_a_suspected_endpoint_is_enough() {
        let mut it = Subject::new(true);
        it.probe(true).is(State::Healthy);
        it.health.on_suspect(it.now);
        assert!(
            it.health.next_wake_up() <= it.now,
            "a suspicion is looked into at once"
        );
        it.probe(false).is(State::Unhealthy);
    }

    #[test]
    fn a_suspicion_that_a_probe_refutes_is_forgotten() {
        let mut it = Subject::new(true);
        it.probe(true).is(State::Healthy);
        it.health.on_suspect(it.now);
        it.probe(true).is(State::Healthy);
        it.probe(false).is(State::Healthy);
    }

    #[test]
    fn a_probe_that_was_asked_before_a_suspicion_does_not_refute_it() {
        let mut it = Subject::new(true);
        it.probe(true);
        it.now = it.health.next_wake_up();
        assert!(it.health.begin_probe(it.now, &mut it.rng));
        it.health.on_suspect(it.now);
        it.health.on_probe(it.now, true, &mut it.rng);
        assert!(
            it.health.next_wake_up() <= it.now,
            "it is asked again at once"
        );
        it.probe(false).is(State::Unhealthy);
    }

    #[test]
    fn a_restart_is_seen_within_a_quarter_of_the_interval() {
        let mut it = Subject::new(true);
        it.probe(false).probe(false).is(State::Unhealthy);
        let before = it.now;
        it.probe(true).is(State::Healthy);
        assert!(it.now - before <= Duration::from_millis(280));
    }

    #[test]
    fn a_long_silence_is_asked_about_at_the_ordinary_pace() {
        let mut it = Subject::new(true);
        for _ in 0..30 {
            it.probe(false);
        }
        let before = it.now;
        it.probe(false);
        assert!(it.now - before >= Duration::from_millis(900));
    }

    #[test]
    fn without_regular_probes_only_the_suspected_and_the_silent_are_asked() {
        let mut it = Subject::new(false);
        let later = it.now + Duration::from_secs(3600);
        assert!(!it.health.begin_probe(later, &mut it.rng));
        it.health.on_suspect(later);
        it.now = later;
        it.probe(false).is(State::Unhealthy);
        it.probe(true).is(State::Healthy);
        assert!(!it.health.begin_probe(it.now, &mut it.rng));
    }

    #[test]
    fn only_one_probe_is_under_way() {
        let mut it = Subject::new(true);
        assert!(it.health.begin_probe(it.now, &mut it.rng));
        assert!(!it.health.begin_probe(it.now, &mut it.rng));
        it.health.on_probe(it.now, true, &mut it.rng);
        assert!(it.health.begin_probe(it.now, &mut it.rng));
    }

    struct Subject {
        health: Health,
        now: Instant,
        rng: Rng,
    }

    impl Subject {
        fn new(regular: bool) -> Self {
            let policy = Policy {
                regular,
                interval: Duration::from_secs(1),
                healthy_after: 1,
                unhealthy_after: 2,
            };
            let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
            Self {
                health: Health::new(policy, now, &mut rng),
                now,
                rng,
            }
        }

        fn probe(&mut self, ok: bool) -> &mut Self {
            self.now = self.now.max(self.health.next_wake_up());
            assert!(
                self.health.begin_probe(self.now, &mut self.rng),
                "a probe must be due"
            );
            self.health.on_probe(self.now, ok, &mut self.rng);
            self
        }

        fn is(&self, state: State) {
            assert_eq!(self.health.state(), state);
        }
    }
}
