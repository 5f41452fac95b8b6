//! Does a body come fast enough? A client that sends a byte now and then keeps a request, and its node, for ever.
//!
//! Only the time in which the client was waited for counts: while the node is the slow one, the client cannot send.

use std::time::Duration;

/// The least a body must bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceRule {
    /// Bytes per second, on average over the whole body; 0 asks for nothing.
    pub bytes_per_second_min: u64,
    /// For so long a body may be slower.
    pub grace: Duration,
}

/// How fast one body has come so far. Times are milliseconds of any clock.
#[derive(Debug, Default)]
pub struct Pace {
    bytes: u64,
    waited_ms: u64,
    waits_since_ms: Option<u64>,
}

impl Pace {
    /// Bytes came.
    pub fn came(&mut self, bytes: usize, now_ms: u64) {
        self.bytes += bytes as u64;
        self.pause(now_ms);
    }

    /// The client is waited for from now on.
    pub fn wait(&mut self, now_ms: u64) {
        self.waits_since_ms.get_or_insert(now_ms);
    }

    /// The client is not waited for.
    pub fn pause(&mut self, now_ms: u64) {
        if let Some(since) = self.waits_since_ms.take() {
            self.waited_ms += now_ms.saturating_sub(since);
        }
    }

    /// When the body will be too slow if nothing more comes by then; nothing while nobody waits for it.
    pub fn deadline_ms(&self, rule: PaceRule) -> Option<u64> {
        let since = self.waits_since_ms?;
        let paid_ms = self
            .bytes
            .saturating_mul(1000)
            .checked_div(rule.bytes_per_second_min)?;
        let allowed_ms = (rule.grace.as_millis() as u64).max(paid_ms);
        Some(since.saturating_add(allowed_ms.saturating_sub(self.waited_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: PaceRule = PaceRule {
        bytes_per_second_min: 500,
        grace: Duration::from_secs(10),
    };

    #[test]
    fn a_silent_client_has_the_grace() {
        let mut pace = Pace::default();
        assert_eq!(pace.deadline_ms(RULE), None);
        pace.wait(1_000);
        assert_eq!(pace.deadline_ms(RULE), Some(11_000));
        pace.came(1, 9_000);
        pace.wait(9_000);
        assert_eq!(
            pace.deadline_ms(RULE),
            Some(11_000),
            "one byte buys no time"
        );
    }

    #[test]
    fn a_fast_beginning_buys_time() {
        let mut pace = Pace::default();
        pace.wait(0);
        pace.came(500 * 60, 1_000);
        pace.wait(1_000);
        assert_eq!(pace.deadline_ms(RULE), Some(60_000));
    }

    #[test]
    fn the_time_of_a_slow_node_does_not_count() {
        let mut pace = Pace::default();
        pace.wait(0);
        pace.came(1, 5_000);
        assert_eq!(pace.deadline_ms(RULE), None);
        pace.wait(100_000);
        assert_eq!(pace.deadline_ms(RULE), Some(105_000));
    }

    #[test]
    fn no_rule_no_deadline() {
        let mut pace = Pace::default();
        pace.wait(0);
        let none = PaceRule {
            bytes_per_second_min: 0,
            grace: Duration::ZERO,
        };
        assert_eq!(pace.deadline_ms(none), None);
    }
}
