//! How busy an endpoint is, as one balancer sees it: requests in flight and a latency that rises at once and falls slowly.
//!
//! The latency is the peak-EWMA of Finagle: a sample above the estimate replaces it, a sample below pulls it down with
//! time constant [`DECAY`]. The state is three atomics, so that every core counts into the same endpoint without a lock;
//! two cores that observe in the same instant may lose one of two samples, never a request in flight.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The time in which an old latency loses 63 % of its say, while requests keep coming.
pub const DECAY: Duration = Duration::from_secs(10);

/// The same while nothing is in flight. One slow answer must not keep an endpoint out for long: to send it a single request is
/// how one finds out, and if it is still slow, the peak is back at once.
pub const IDLE_DECAY: Duration = Duration::from_secs(1);

/// Nanoseconds since the process's own epoch; shells derive it from one `Instant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// The most that may be in flight at a time; zero means that there is no limit.
    in_flight_max: AtomicU32,
    /// The bits of an `f64` in nanoseconds; zero means that nothing has been observed.
    estimate: AtomicU64,
    observed_at: AtomicU64,
}

impl Load {
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
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
        let max = match self.in_flight_max.load(Relaxed) {
            0 => u32::MAX,
            max => max,
        };
        // Never more than `max`, not even for a moment: somebody who waits for a place would take it for full.
        let more = |n: u32| (n < max).then_some(n + 1);
        self.in_flight.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    pub fn end(&self) {
        let before = self.in_flight.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "a request must begin before it ends");
    }

    /// Takes in one latency, measured up to `now`.
    pub fn observe(&self, now: Nanos, latency: Duration) {
        let sample = latency.as_nanos() as f64;
        let old = f64::from_bits(self.estimate.load(Relaxed));
        let new = if sample > old {
            sample
        } else {
            let keep = self.weight_of_old(now, DECAY);
            old * keep + sample * (1.0 - keep)
        };
        // A sample of zero would read as "nothing observed".
        self.estimate.store(new.max(1.0).to_bits(), Relaxed);
        self.observed_at.store(now.0, Relaxed);
    }

    /// The latency estimate as of `now`, or nothing if the endpoint has not answered yet.
    ///
    /// An estimate fades while nothing is sent, so that an endpoint that was slow once is tried again.
    pub fn latency(&self, now: Nanos) -> Option<Duration> {
        let estimate = f64::from_bits(self.estimate.load(Relaxed));
        if estimate == 0.0 {
            return None;
        }
        let decay = if self.in_flight() == 0 {
            IDLE_DECAY
        } else {
            DECAY
        };
        Some(Duration::from_nanos(
            (estimate * self.weight_of_old(now, decay)) as u64,
        ))
    }

    fn weight_of_old(&self, now: Nanos, decay: Duration) -> f64 {
        let age = now.0.saturating_sub(self.observed_at.load(Relaxed));
        (-(age as f64) / decay.as_nanos() as f64).exp()
    }
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
    fn what_begins_ends() {
        let load = Load::default();
        load.begin();
        load.begin();
        load.end();
        assert_eq!(load.in_flight(), 1);
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
