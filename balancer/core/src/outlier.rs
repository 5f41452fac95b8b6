//! Whether an endpoint answers so badly that it should rest: judged by what came of real requests, not by probes.
//!
//! Cores count results on atomics; one thread judges. What counts against an endpoint is decided by whoever counts: a client
//! that leaves, a tunnel that ends and an answer such as 404 or 429 must never be counted as failures.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A success rate this close to the others' mean is no outlier, however alike the others are.
const MARGIN: f64 = 0.05;

/// One failure, in the upper half of a window; good answers are in the lower.
const FAILED: u64 = 1 << 32;

#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Failures in a row that eject; 0 never does.
    pub consecutive: u32,
    pub success_rate: Option<SuccessRate>,
    /// From one comparison of success rates to the next.
    pub interval: Duration,
    /// How long the first ejection lasts; each further one lasts as much longer.
    pub base: Duration,
    pub max: Duration,
    /// The most of a service's endpoints that may be ejected at once, from 0 to 1; one always may, if there are others.
    pub share_max: f64,
}

/// When the success rates of a service's endpoints are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct SuccessRate {
    /// Standard deviations below the mean that make an outlier.
    pub deviations: f64,
    /// Endpoints with enough requests that there must be, or nothing is compared.
    pub endpoints_min: usize,
    /// Results within one interval that an endpoint must have to be compared.
    pub requests_min: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Good,
    Failed,
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Consecutive,
    SuccessRate,
}

/// What came of the requests to one endpoint, and when it was ejected for it.
#[derive(Debug, Default)]
pub struct Results {
    failures_in_a_row: AtomicU32,
    window: AtomicU64,
    history: Mutex<History>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub good: u32,
    pub failed: u32,
}

#[derive(Debug, Default)]
struct History {
    /// Ejections that are not forgotten yet.
    times: u32,
    until: Option<Instant>,
    released_at: Option<Instant>,
}

impl Policy {
    /// How many of `known` endpoints may be ejected at once.
    pub fn ejected_max(&self, known: usize) -> usize {
        let share = (known as f64 * self.share_max) as usize;
        if known > 1 { share.max(1) } else { 0 }
    }

    /// Those of the windows that lie too far below the others.
    pub fn outliers<K: Clone>(&self, windows: &[(K, Window)]) -> Vec<K> {
        let Some(rule) = &self.success_rate else {
            return Vec::new();
        };
        let compared: Vec<_> = windows
            .iter()
            .filter(|(_, window)| window.total() >= u64::from(rule.requests_min.max(1)))
            .collect();
        if compared.len() < rule.endpoints_min.max(2) {
            return Vec::new();
        }
        let n = compared.len() as f64;
        let mean = compared.iter().map(|(_, it)| it.rate()).sum::<f64>() / n;
        let square = |window: &Window| (window.rate() - mean).powi(2);
        let deviation = (compared.iter().map(|(_, it)| square(it)).sum::<f64>() / n).sqrt();
        let bar = mean - (rule.deviations * deviation).max(MARGIN);
        let is_outlier = |(_, window): &&&(K, Window)| window.rate() < bar;
        compared
            .iter()
            .filter(is_outlier)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// How long the `times`-th ejection lasts.
    fn span(&self, times: u32) -> Duration {
        self.base.saturating_mul(times).min(self.max.max(self.base))
    }
}

impl Results {
    /// Counts one result. Returns the failures in a row up to it.
    pub fn count(&self, outcome: Outcome) -> u32 {
        match outcome {
            Outcome::Good => {
                self.window.fetch_add(1, Relaxed);
                // Read first: a write would take the line from every other core for nothing.
                if self.failures_in_a_row.load(Relaxed) != 0 {
                    self.failures_in_a_row.store(0, Relaxed);
                }
                0
            }
            Outcome::Failed => {
                self.window.fetch_add(FAILED, Relaxed);
                self.failures_in_a_row.fetch_add(1, Relaxed) + 1
            }
        }
    }

    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row.load(Relaxed)
    }

    /// What was counted since the last call.
    pub fn take_window(&self) -> Window {
        let counted = self.window.swap(0, Relaxed);
        Window {
            good: counted as u32,
            failed: (counted >> 32) as u32,
        }
    }

    /// Begins an ejection, longer than the last one unless that is long ago. Returns its end.
    pub fn eject(&self, now: Instant, policy: &Policy) -> Instant {
        let mut history = self.history();
        history.forget(now, policy.base);
        history.times = history.times.saturating_add(1);
        let until = now + policy.span(history.times);
        history.until = Some(until);
        until
    }

    /// Ends an ejection; what was counted before it says nothing about what comes.
    pub fn release(&self, now: Instant) {
        let mut history = self.history();
        if history.until.take().is_some() {
            history.released_at = Some(now);
        }
        drop(history);
        self.failures_in_a_row.store(0, Relaxed);
        self.window.store(0, Relaxed);
    }

    pub fn ejected_until(&self) -> Option<Instant> {
        self.history().until
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Each `base` of good conduct since the last release outweighs one ejection.
    fn forget(&mut self, now: Instant, base: Duration) {
        if let Some(since) = self.released_at.take() {
            let good = now.saturating_duration_since(since).as_secs_f64();
            let outweighed = good / base.as_secs_f64().max(f64::MIN_POSITIVE);
            self.times = self.times.saturating_sub(outweighed as u32);
        }
    }
}

impl Window {
    fn total(self) -> u64 {
        u64::from(self.good) + u64::from(self.failed)
    }

    fn rate(self) -> f64 {
        f64::from(self.good) / self.total() as f64
    }
}

impl Cause {
    pub const ALL: [Cause; 2] = [Cause::Consecutive, Cause::SuccessRate];

    pub fn word(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::SuccessRate => "success_rate",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_good_answer_ends_a_row_of_failures() {
        let results = Results::default();
        assert_eq!(results.count(Outcome::Failed), 1);
        assert_eq!(results.count(Outcome::Failed), 2);
        results.count(Outcome::Good);
        assert_eq!(results.count(Outcome::Failed), 1);
        assert_eq!(results.take_window(), window(1, 3));
        assert_eq!(results.take_window(), window(0, 0));
    }

    #[test]
    fn ejections_grow_up_to_the_longest_and_good_conduct_shortens_them() {
        let (results, policy, start) = (Results::default(), policy(), Instant::now());
        let mut now = start;
        let mut spans = Vec::new();
        for _ in 0..5 {
            let until = results.eject(now, &policy);
            spans.push((until - now).as_secs());
            now = until;
            results.release(now);
        }
        assert_eq!(spans, [30, 60, 90, 100, 100]);
        now += Duration::from_secs(30 * 4);
        assert_eq!((results.eject(now, &policy) - now).as_secs(), 60);
    }

    #[test]
    fn one_of_several_may_always_be_ejected_and_the_only_one_never() {
        let caps = [1, 2, 9, 19, 20, 100].map(|known| policy().ejected_max(known));
        assert_eq!(caps, [0, 1, 1, 1, 2, 10]);
    }

    #[test]
    fn the_one_far_below_the_others_is_found() {
        let mut windows: Vec<_> = (0..6).map(|n| (n, window(990 + n, 10 - n))).collect();
        windows.push((6, window(500, 500)));
        assert_eq!(policy().outliers(&windows), [6]);
        windows[6].1 = window(960, 40);
        assert_eq!(
            policy().outliers(&windows),
            [0; 0],
            "four in a hundred may be chance"
        );
    }

    #[test]
    fn few_endpoints_or_few_requests_prove_nothing() {
        let bad = (9, window(0, 1000));
        let four: Vec<_> = (0..3).map(|n| (n, window(1000, 0))).chain([bad]).collect();
        assert_eq!(policy().outliers(&four), [0; 0]);
        let idle: Vec<_> = (0..9).map(|n| (n, window(9, 0))).chain([bad]).collect();
        assert_eq!(policy().outliers(&idle), [0; 0]);
    }

    proptest! {
        #[test]
        fn an_outlier_is_always_below_the_mean(windows in prop::collection::vec((0u32..1000, 0u32..1000), 0..40)) {
            let windows: Vec<_> = windows.into_iter().map(|(good, failed)| window(good, failed)).enumerate().collect();
            let found = policy().outliers(&windows);
            prop_assert!(found.len() < windows.len().max(1), "never all of them");
            let best = windows.iter().map(|(_, it)| it).filter(|it| it.total() >= 100).map(|it| it.rate()).fold(0.0, f64::max);
            prop_assert!(found.iter().all(|&at| windows[at].1.rate() < best));
        }
    }

    fn policy() -> Policy {
        Policy {
            consecutive: 5,
            success_rate: Some(SuccessRate {
                deviations: 1.9,
                endpoints_min: 5,
                requests_min: 100,
            }),
            interval: Duration::from_secs(10),
            base: Duration::from_secs(30),
            max: Duration::from_secs(100),
            share_max: 0.1,
        }
    }

    fn window(good: u32, failed: u32) -> Window {
        Window { good, failed }
    }
}
