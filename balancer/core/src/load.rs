//! How an endpoint fares, as one balancer sees it: requests in flight, a latency that rises at once and falls slowly, and failures.
//!
//! The latency is the peak-EWMA of Finagle: a sample above the estimate replaces it, a sample below pulls it down with
//! time constant [`DECAY`]. The state is atomics, so that every core counts into the same endpoint without a lock;
//! two cores that observe in the same instant may lose one of two samples, never a request in flight.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use crate::outlier::Results;

/// The time in which an old latency loses 63 % of its say, while requests keep coming.
pub const DECAY: Duration = Duration::from_secs(10);

/// The same while nothing is in flight. One slow answer must not keep an endpoint out for long: to send it a single request is
/// how one finds out, and if it is still slow, the peak is back at once.
pub const IDLE_DECAY: Duration = Duration::from_secs(1);

/// One more request begun, in the upper half of the count.
const BEGUN: u64 = 1 << 32;

/// Each request counts into the crowd too. It stands in the count itself, so that a request is counted out where it was counted in.
const CROWDED: u64 = 1 << 31;

/// Nanoseconds since the process's own epoch; shells derive it from one `Instant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

/// What a failed answer costs beside a good one, so that failing fast is no way to get more work.
const FAILURE_COST: Duration = Duration::from_secs(1);

/// All of an endpoint's weight, in the unit of [`Load::held_back`].
pub const WHOLE: u32 = 1000;

#[derive(Debug, Default)]
pub struct Load {
    /// Requests in flight in the lower 31 bits, then [`CROWDED`], then requests ever begun, which wraps: one step counts both.
    begun_and_in_flight: AtomicU64,
    /// The most that may be in flight at a time; zero means that there is no limit.
    in_flight_max: AtomicU32,
    /// The bits of an `f64` in nanoseconds; zero means that nothing has been observed.
    estimate: AtomicU64,
    observed_at: AtomicU64,
    /// The bits of an `f32`: the share of the last answers that were failures.
    failing: AtomicU32,
    held_back: AtomicU32,
    ejected: AtomicBool,
    pub results: Results,
    crowd: OnceLock<Arc<Crowd>>,
}

/// The requests in flight of all endpoints that share work by hash: what "no more than its share" is measured by.
#[derive(Debug, Default)]
pub struct Crowd(AtomicU32);

impl Crowd {
    pub fn in_flight(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

impl Load {
    /// Counts into `crowd` too from now on, beginning with what is in flight; who is in a crowd already stays in that one.
    pub fn join(&self, crowd: Arc<Crowd>) {
        if self.crowd.set(crowd).is_ok() {
            let before = self.begun_and_in_flight.fetch_or(CROWDED, AcqRel);
            if let Some(crowd) = self.crowd.get() {
                crowd.0.fetch_add(in_flight(before), Relaxed);
            }
        }
    }

    pub fn in_flight(&self) -> u32 {
        in_flight(self.begun_and_in_flight.load(Relaxed))
    }

    /// How many requests have begun, modulo 2³²: two readings tell a rate.
    pub fn begun(&self) -> u32 {
        (self.begun_and_in_flight.load(Relaxed) >> 32) as u32
    }

    pub fn begin(&self) {
        let before = self.begun_and_in_flight.fetch_add(BEGUN | 1, AcqRel);
        self.crowd_by_one(before);
    }

    fn crowd_by_one(&self, before: u64) {
        if let Some(crowd) = self.crowd_at(before) {
            crowd.0.fetch_add(1, Relaxed);
        }
    }

    /// From here on so many may be in flight at a time; zero takes the limit away.
    pub fn cap(&self, in_flight_max: u32) {
        self.in_flight_max.store(in_flight_max, Relaxed);
    }

    pub fn is_full(&self) -> bool {
        let max = self.in_flight_max.load(Relaxed);
        max > 0 && self.in_flight() >= max
    }

    /// Begins a request unless as many are in flight as may be, also when two cores ask for the last place at once.
    pub fn try_begin(&self) -> bool {
        let max = self.in_flight_max.load(Relaxed);
        if max == 0 {
            self.begin();
            return true;
        }
        // Never more than `max`, not even for a moment: somebody who waits for a place would take it for full.
        let more = |word: u64| (in_flight(word) < max).then(|| word.wrapping_add(BEGUN | 1));
        let begun = self.begun_and_in_flight.fetch_update(AcqRel, Relaxed, more);
        if let Ok(before) = begun {
            self.crowd_by_one(before);
        }
        begun.is_ok()
    }

    pub fn end(&self) {
        let before = self.begun_and_in_flight.fetch_sub(1, AcqRel);
        debug_assert!(in_flight(before) > 0, "a request must begin before it ends");
        if let Some(crowd) = self.crowd_at(before) {
            crowd.0.fetch_sub(1, Relaxed);
        }
    }

    /// How much of its weight it does not get yet, of [`WHOLE`]; zero once it is warm.
    pub fn held_back(&self) -> u32 {
        self.held_back.load(Relaxed)
    }

    /// Gives it this share of its weight, from 0 to 1.
    pub fn warm_to(&self, share: f64) {
        let given = (share * f64::from(WHOLE)) as u32;
        self.held_back.store(WHOLE.saturating_sub(given), Relaxed);
    }

    /// Whether its results were so bad that others are used as long as there are others.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    pub fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Relaxed);
    }

    /// Takes in the latency of a good answer, measured up to `now`.
    pub fn observe(&self, now: Nanos, latency: Duration) {
        let sample = latency.as_nanos() as f64;
        let old = f64::from_bits(self.estimate.load(Relaxed));
        let keep = self.weight_of_old(now, DECAY);
        let new = if sample > old {
            sample
        } else {
            old * keep + sample * (1.0 - keep)
        };
        // A sample of zero would read as "nothing observed".
        self.estimate.store(new.max(1.0).to_bits(), Relaxed);
        self.fail_share(self.last_failing() * keep);
        self.observed_at.store(now.0, Relaxed);
    }

    /// Takes in a failed answer. How fast it came says nothing good: the estimate can only rise by it.
    pub fn observe_failure(&self, now: Nanos, latency: Duration) {
        let sample = latency.as_nanos() as f64;
        let old = f64::from_bits(self.estimate.load(Relaxed));
        let keep = self.weight_of_old(now, DECAY);
        self.estimate
            .store(sample.max(old).max(1.0).to_bits(), Relaxed);
        self.fail_share(self.last_failing() * keep + 1.0 - keep);
        self.observed_at.store(now.0, Relaxed);
    }

    /// The latency estimate as of `now`, or nothing if the endpoint has not answered yet.
    ///
    /// An estimate fades while nothing is sent, so that an endpoint that was slow once is tried again.
    pub fn latency(&self, now: Nanos) -> Option<Duration> {
        let estimate = self.estimate()?;
        Some(Duration::from_nanos((estimate * self.fade(now)) as u64))
    }

    /// What a request there is expected to cost, in nanoseconds: the latency, and what failing adds to it.
    pub fn cost(&self, now: Nanos) -> Option<f64> {
        let failing = self.last_failing() * FAILURE_COST.as_nanos() as f64;
        Some((self.estimate()? + failing) * self.fade(now))
    }

    /// The share of its recent answers that were failures.
    pub fn failing(&self, now: Nanos) -> f64 {
        match self.last_failing() {
            0.0 => 0.0,
            failing => failing * self.fade(now),
        }
    }

    fn crowd_at(&self, count: u64) -> Option<&Arc<Crowd>> {
        match count & CROWDED {
            0 => None,
            _ => self.crowd.get(),
        }
    }

    fn estimate(&self) -> Option<f64> {
        let estimate = f64::from_bits(self.estimate.load(Relaxed));
        (estimate != 0.0).then_some(estimate)
    }

    fn last_failing(&self) -> f64 {
        f64::from(f32::from_bits(self.failing.load(Relaxed)))
    }

    /// Written only where it changes: most endpoints never fail.
    fn fail_share(&self, share: f64) {
        // Less than one failure in a million is none, or it would never be again.
        let bits = if share < 1e-6 {
            0
        } else {
            (share as f32).to_bits()
        };
        if self.failing.load(Relaxed) != bits {
            self.failing.store(bits, Relaxed);
        }
    }

    fn fade(&self, now: Nanos) -> f64 {
        let decay = if self.in_flight() == 0 {
            IDLE_DECAY
        } else {
            DECAY
        };
        self.weight_of_old(now, decay)
    }

    fn weight_of_old(&self, now: Nanos, decay: Duration) -> f64 {
        let age = now.0.saturating_sub(self.observed_at.load(Relaxed));
        (-(age as f64) / decay.as_nanos() as f64).exp()
    }
}

fn in_flight(count: u64) -> u32 {
    (count & (CROWDED - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_endpoint_has_no_latency() {
        assert_eq!(Load::default().latency(Nanos(5)), None);
    }

    #[test]
    fn a_peak_is_taken_at_once_and_forgotten_slowly() {
        let load = Load::default();
        load.observe(at(0), ms(10));
        load.observe(at(1), ms(200));
        assert_eq!(load.latency(at(1)), Some(ms(200)));
        load.observe(at(2), ms(10));
        let soon = load.latency(at(2)).expect("it was observed");
        assert!(
            soon > ms(150),
            "one good sample must not wipe out a peak: {soon:?}"
        );
        for second in 3..60 {
            load.observe(at(second), ms(10));
        }
        let late = load.latency(at(60)).expect("it was observed");
        assert!(
            late < ms(20),
            "a minute of good samples must be believed: {late:?}"
        );
    }

    #[test]
    fn an_idle_estimate_fades() {
        let load = Load::default();
        load.observe(at(0), ms(1000));
        let faded = load.latency(at(7)).expect("it was observed");
        assert!(faded < ms(1), "{faded:?}");
        load.begin();
        let busy = load.latency(at(7)).expect("it was observed");
        assert!(
            busy > ms(400),
            "what is in flight may be slow for the same reason: {busy:?}"
        );
    }

    #[test]
    fn a_fast_failure_is_no_good_latency() {
        let load = Load::default();
        load.observe(at(0), ms(50));
        let before = load.cost(at(0)).expect("it was observed");
        for _ in 0..10 {
            load.observe_failure(at(1), ms(1));
        }
        assert!(load.cost(at(1)).is_some_and(|it| it > 2.0 * before));
        assert!(load.failing(at(1)) > 0.05, "{}", load.failing(at(1)));
        for second in 2..100 {
            load.observe(at(second), ms(50));
        }
        assert!(
            load.failing(at(100)) < 0.01,
            "a hundred good answers must be believed"
        );
    }

    #[test]
    fn a_failure_that_took_long_was_slow_too() {
        let load = Load::default();
        load.observe_failure(at(0), ms(800));
        assert_eq!(load.latency(at(0)), Some(ms(800)));
    }

    #[test]
    fn a_crowd_counts_its_members() {
        let crowd = Arc::new(Crowd::default());
        let loads = [(); 2].map(|()| Load::default());
        loads[0].begin();
        loads.iter().for_each(|it| it.join(crowd.clone()));
        loads.iter().for_each(|it| it.join(Arc::default()));
        assert_eq!(crowd.in_flight(), 1, "what was in flight is counted in");
        loads[1].begin();
        loads[0].end();
        assert_eq!((crowd.in_flight(), loads[1].in_flight()), (1, 1));
        loads[1].end();
        assert_eq!((crowd.in_flight(), loads[1].begun()), (0, 1));
    }

    #[test]
    fn what_begins_ends() {
        let load = Load::default();
        load.begin();
        load.begin();
        load.end();
        assert_eq!((load.in_flight(), load.begun()), (1, 2));
    }

    #[test]
    fn no_more_begin_than_there_are_places() {
        let load = Load::default();
        assert!(load.try_begin() && !load.is_full());
        load.cap(2);
        assert!(load.try_begin() && load.is_full());
        assert!(!load.try_begin());
        load.end();
        assert!(!load.is_full() && load.try_begin());
    }

    fn at(second: u64) -> Nanos {
        Nanos(second * 1_000_000_000)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
}
