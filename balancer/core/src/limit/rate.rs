//! Rates: who asks too often is told when to come back.
//!
//! The generic cell rate algorithm (ITU-T I.371): one time per subject, the theoretical arrival time of its next request, is all
//! that is kept. A request is let through when that time is not further ahead than the burst allows. A token bucket lets
//! through the same, but has two numbers to keep.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::recent::Recent;
use crate::load::Nanos;

/// Locks that cores contend for; a power of two.
const SHARDS: usize = 64;

/// So many requests in so much time, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    interval_ns: u64,
    burst: u32,
}

/// Whom a rate counts: what it was made from cannot be read back, so that no API key stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject(u128);

/// What a rate says of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// None where the request may pass, else how long until the next one may.
    pub retry_after: Option<Duration>,
    /// How many more may come at once.
    pub remaining: u32,
    /// Until the whole burst may come again.
    pub reset_after: Duration,
    /// Somebody else was forgotten to make room: the table is too small for the traffic.
    pub evicted: bool,
}

/// The times of all subjects, exact over all cores. At its size limit the subject heard of longest ago is forgotten, who then has
/// its whole burst again.
#[derive(Debug)]
pub struct Rates {
    hashers: [RandomState; 2],
    shards: Vec<Mutex<Recent<u64>>>,
}

impl Quota {
    /// `count` requests in each `per`, at most `burst` at once; each is taken as one at least.
    pub fn new(count: u32, per: Duration, burst: u32) -> Self {
        let interval = per.as_nanos() / u128::from(count.max(1));
        Self {
            interval_ns: u64::try_from(interval).unwrap_or(u64::MAX).max(1),
            burst: burst.max(1),
        }
    }

    /// Decides about one request at `now`, given the subject's time, which is moved on only when the request may pass.
    fn decide(self, now: Nanos, arrival: &mut u64) -> (Option<Duration>, u64) {
        let span = self.span_ns();
        let next = (*arrival).max(now.0).saturating_add(self.interval_ns);
        let ahead = next - now.0;
        if ahead > span {
            let wait = Duration::from_nanos(ahead - span);
            return (Some(wait), arrival.saturating_sub(now.0));
        }
        *arrival = next;
        (None, ahead)
    }

    fn span_ns(self) -> u64 {
        self.interval_ns.saturating_mul(u64::from(self.burst))
    }
}

impl Rates {
    /// `subjects_max` bounds the memory: about 70 bytes each. The hashers are drawn by the shell, so that nobody outside can
    /// make two subjects meet.
    pub fn new(subjects_max: usize, hashers: [RandomState; 2]) -> Self {
        let per_shard = subjects_max.div_ceil(SHARDS);
        Self {
            hashers,
            shards: (0..SHARDS)
                .map(|_| Mutex::new(Recent::new(per_shard)))
                .collect(),
        }
    }

    /// Whom rule number `rule` knows by these bytes.
    pub fn subject(&self, rule: usize, bytes: &[u8]) -> Subject {
        let half = |hasher: &RandomState| u128::from(hasher.hash_one((rule, bytes)));
        Subject(half(&self.hashers[0]) << 64 | half(&self.hashers[1]))
    }

    /// Counts one request of the subject, if it may pass.
    pub fn ask(&self, now: Nanos, subject: Subject, quota: Quota) -> Verdict {
        let shard = &self.shards[(subject.0 >> 64) as usize % SHARDS];
        let mut recent = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let (arrival, forgotten) = recent.get(subject.0);
        let (retry_after, ahead_ns) = quota.decide(now, arrival);
        Verdict {
            retry_after,
            remaining: ((quota.span_ns().saturating_sub(ahead_ns)) / quota.interval_ns) as u32,
            reset_after: Duration::from_nanos(ahead_ns),
            // One whose time has passed had nothing to remember.
            evicted: forgotten.is_some_and(|it| it > now.0),
        }
    }

    /// How many subjects are remembered.
    pub fn len(&self) -> usize {
        let len = |it: &Mutex<Recent<u64>>| it.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rates = rates(100);
        let quota = Quota::new(10, Duration::from_secs(1), 3);
        let subject = rates.subject(0, b"key");
        for remaining in [2, 1, 0] {
            let verdict = rates.ask(at(0), subject, quota);
            assert_eq!((verdict.retry_after, verdict.remaining), (None, remaining));
        }
        let refused = rates.ask(at(0), subject, quota);
        assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
        assert_eq!(refused.reset_after, Duration::from_millis(300));
        assert_eq!(rates.ask(at(100), subject, quota).retry_after, None);
        assert!(rates.ask(at(100), subject, quota).retry_after.is_some());
    }

    #[test]
    fn who_is_refused_pays_nothing() {
        let rates = rates(100);
        let quota = Quota::new(1, Duration::from_secs(1), 1);
        let subject = rates.subject(0, b"key");
        assert_eq!(rates.ask(at(0), subject, quota).retry_after, None);
        for ms in 1..1000 {
            assert!(rates.ask(at(ms), subject, quota).retry_after.is_some());
        }
        assert_eq!(rates.ask(at(1000), subject, quota).retry_after, None);
    }

    #[test]
    fn subjects_and_rules_do_not_share() {
        let rates = rates(1000);
        let quota = Quota::new(1, Duration::from_secs(1), 1);
        for (rule, bytes) in [(0, b"a"), (0, b"b"), (1, b"a")] {
            let subject = rates.subject(rule, bytes);
            assert_eq!(rates.ask(at(0), subject, quota).retry_after, None);
        }
    }

    #[test]
    fn a_flood_of_subjects_takes_bounded_room_and_is_counted() {
        let rates = rates(640);
        let quota = Quota::new(1, Duration::from_secs(1), 1);
        let ask = |n: u32| rates.ask(at(0), rates.subject(0, &n.to_be_bytes()), quota);
        let evicted = (0..10_000).filter(|n| ask(*n).evicted).count();
        assert!(rates.len() <= 640);
        assert!(evicted >= 10_000 - 640, "{evicted}");
        let later = rates.subject(0, b"later");
        assert!(
            !rates.ask(at(5_000), later, quota).evicted,
            "all had rested"
        );
    }

    proptest! {
        /// In no span of time do more pass than the burst and the rate together allow.
        #[test]
        fn no_span_lets_more_pass_than_it_may(steps in prop::collection::vec(0u64..400, 1..300), count in 1u32..20, burst in 1u32..10) {
            let rates = rates(64);
            let quota = Quota::new(count, Duration::from_secs(1), burst);
            let subject = rates.subject(0, b"x");
            let (mut now, mut passed) = (0, Vec::new());
            for step in steps {
                now += step;
                if rates.ask(at(now), subject, quota).retry_after.is_none() {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, to) in passed.iter().enumerate().skip(i) {
                    let allowed = f64::from(burst) + (to - from) as f64 * f64::from(count) / 1000.0 + 0.001;
                    prop_assert!((j - i + 1) as f64 <= allowed, "{} in {} ms", j - i + 1, to - from);
                }
            }
        }

        /// Who comes back when told to is let in.
        #[test]
        fn the_hint_is_true(asks in 1u32..50, count in 1u32..1000, burst in 1u32..50) {
            let rates = rates(64);
            let quota = Quota::new(count, Duration::from_secs(1), burst);
            let subject = rates.subject(0, b"x");
            let mut hint = None;
            for _ in 0..asks {
                hint = rates.ask(at(0), subject, quota).retry_after;
            }
            let later = Nanos(hint.map_or(0, |it| it.as_nanos() as u64));
            prop_assert!(hint.is_none() || rates.ask(later, subject, quota).retry_after.is_none());
        }
    }

    fn rates(subjects_max: usize) -> Rates {
        Rates::new(subjects_max, [RandomState::new(), RandomState::new()])
    }

    fn at(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }
}
