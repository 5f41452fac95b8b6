//! Whether a request that failed may be sent again, and whether the service can afford it.
//!
//! A request of which no byte was sent is safe to send elsewhere. One that a node may have acted on is sent again only when doing
//! it twice is the same as doing it once (RFC 9110 §9.2.2). The budget keeps retries a share of the traffic, so that an outage is
//! never multiplied.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::Method;

use crate::load::Nanos;

/// How far a request got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No byte of it can have reached a node.
    NotSent,
    /// It may have reached a node, which did not answer.
    Sent,
    /// The answer has begun.
    Answered,
}

/// What of a request could be sent a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// The head, and there is no body.
    Whole,
    /// A body that streams through: gone once it has begun to flow.
    WhileUntouched,
}

/// Whether sending the request again can be considered at all.
pub fn is_safe(failure: Failure, method: &Method, replay: Replay) -> bool {
    match failure {
        Failure::NotSent => true,
        Failure::Sent => method.is_idempotent() && replay == Replay::Whole,
        Failure::Answered => false,
    }
}

/// Retries that a service can afford: a share of its requests, plus a few a second so that a quiet service can retry at all.
///
/// A token bucket in thousandths, shared by all cores. It is full at the start and never holds more than ten seconds' worth of the
/// minimum plus [`BURST`] retries.
#[derive(Debug)]
pub struct Budget {
    milli_per_request: i64,
    balance_milli: AtomicI64,
    refilled_at: AtomicU64,
}

/// Retries per second that are allowed however little traffic there is.
pub const RETRIES_PER_SECOND_MIN: i64 = 10;

/// Saved-up retries beyond the minimum.
pub const BURST: i64 = 1_000;

const WINDOW: Duration = Duration::from_secs(10);
const BALANCE_MAX_MILLI: i64 = (RETRIES_PER_SECOND_MIN * WINDOW.as_secs() as i64 + BURST) * 1_000;

impl Budget {
    /// `ratio` is the share of requests that may be retries, such as 0.2.
    pub fn new(ratio: f64) -> Self {
        Self {
            milli_per_request: (ratio * 1_000.0) as i64,
            balance_milli: AtomicI64::new(RETRIES_PER_SECOND_MIN * WINDOW.as_secs() as i64 * 1_000),
            refilled_at: AtomicU64::new(0),
        }
    }

    /// One request has come.
    pub fn deposit(&self) {
        if self.balance_milli.load(Relaxed) < BALANCE_MAX_MILLI {
            self.balance_milli
                .fetch_add(self.milli_per_request, Relaxed);
        }
    }

    /// Takes one retry out, if there is one.
    pub fn withdraw(&self, now: Nanos) -> bool {
        self.refill(now);
        let spend = |balance: i64| (balance >= 1_000).then_some(balance - 1_000);
        self.balance_milli
            .fetch_update(Relaxed, Relaxed, spend)
            .is_ok()
    }

    fn refill(&self, now: Nanos) {
        let before = self.refilled_at.load(Relaxed);
        let elapsed_ms = now.0.saturating_sub(before) / 1_000_000;
        let due = i64::try_from(elapsed_ms)
            .unwrap_or(i64::MAX)
            .saturating_mul(RETRIES_PER_SECOND_MIN);
        // One core refills for a span of time; the one that lost the race has nothing to add.
        if due > 0
            && self
                .refilled_at
                .compare_exchange(before, now.0, Relaxed, Relaxed)
                .is_ok()
        {
            let add = |balance: i64| {
                Some(
                    balance
                        .saturating_add(due)
                        .min(BALANCE_MAX_MILLI.max(balance)),
                )
            };
            let _ = self.balance_milli.fetch_update(Relaxed, Relaxed, add);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_sent_again() {
        use Failure::{Answered, NotSent, Sent};
        use Replay::{WhileUntouched, Whole};
        for (failure, method, replay, expected) in [
            (NotSent, Method::POST, WhileUntouched, true),
            (NotSent, Method::GET, Whole, true),
            (Sent, Method::GET, Whole, true),
            (Sent, Method::DELETE, Whole, true),
            (Sent, Method::PUT, WhileUntouched, false),
            (Sent, Method::POST, Whole, false),
            (Sent, Method::PATCH, Whole, false),
            (Answered, Method::GET, Whole, false),
        ] {
            let safe = is_safe(failure, &method, replay);
            assert_eq!(safe, expected, "{failure:?} {method} {replay:?}");
        }
    }

    #[test]
    fn retries_are_a_share_of_the_traffic() {
        let budget = Budget::new(0.2);
        while budget.withdraw(Nanos(0)) {}
        for _ in 0..1_000 {
            budget.deposit();
        }
        assert_eq!(spend_all(&budget, Nanos(0)), 200);
    }

    #[test]
    fn a_quiet_service_may_retry_a_little() {
        let budget = Budget::new(0.0);
        spend_all(&budget, Nanos(0));
        let later = Nanos(3_000_000_000);
        assert_eq!(spend_all(&budget, later), 3 * RETRIES_PER_SECOND_MIN);
        assert_eq!(spend_all(&budget, later), 0);
    }

    #[test]
    fn savings_are_bounded() {
        let budget = Budget::new(1.0);
        for _ in 0..100_000 {
            budget.deposit();
        }
        let day = Nanos(86_400_000_000_000);
        assert!(spend_all(&budget, day) <= BALANCE_MAX_MILLI / 1_000 + 1);
    }

    fn spend_all(budget: &Budget, now: Nanos) -> i64 {
        let mut n = 0;
        while budget.withdraw(now) {
            n += 1;
        }
        n
    }
}
