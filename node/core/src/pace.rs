//! Tells when a connection has waited too long: for the rest of a request's head, or for another request.
//!
//! The two have different limits, for a head that trickles in is an attack on memory, while an idle connection belongs
//! to a balancer's pool: closed too early, it takes along the request that is just being written to it.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// From the end of an exchange to the first byte of the next.
    pub idle: Duration,
}

#[derive(Debug)]
pub struct Pace {
    limits: Limits,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing is due before this time.
    Until(Instant),
    /// An exchange is in progress, which is as long as it is.
    Exchanging,
    /// A head has not come to its end.
    HeadOverdue,
    /// No request has come.
    IdleOverdue,
}

#[derive(Debug)]
enum State {
    Idle { since: Instant },
    Head { since: Instant },
    Exchanging { count: usize },
}

impl Pace {
    /// A connection whose first bytes have come, and are those of a head.
    pub fn amid_head(limits: Limits, now: Instant) -> Self {
        let state = State::Head { since: now };
        Self { limits, state }
    }

    /// A connection that waits for its first request.
    pub fn idle(limits: Limits, now: Instant) -> Self {
        let state = State::Idle { since: now };
        Self { limits, state }
    }

    /// Bytes have come. Within an exchange they are its body.
    pub fn bytes_came(&mut self, now: Instant) {
        if let State::Idle { .. } = self.state {
            self.state = State::Head { since: now };
        }
    }

    pub fn exchange_began(&mut self) {
        let count = match self.state {
            State::Exchanging { count } => count + 1,
            _ => 1,
        };
        self.state = State::Exchanging { count };
    }

    pub fn exchange_ended(&mut self, now: Instant) {
        self.state = match self.state {
            State::Exchanging { count: 2.. } => return self.one_less(),
            State::Exchanging { .. } => State::Idle { since: now },
            _ => unreachable!("an exchange must begin before it ends"),
        };
    }

    pub fn wait(&self, now: Instant) -> Wait {
        let (due, overdue) = match self.state {
            State::Idle { since } => (since + self.limits.idle, Wait::IdleOverdue),
            State::Head { since } => (since + self.limits.head, Wait::HeadOverdue),
            State::Exchanging { .. } => return Wait::Exchanging,
        };
        if now < due { Wait::Until(due) } else { overdue }
    }

    fn one_less(&mut self) {
        if let State::Exchanging { count } = &mut self.state {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(300);

    #[test]
    fn a_head_that_trickles_is_overdue_however_often_bytes_come() {
        let (mut pace, start) = begun();
        pace.bytes_came(start + HEAD / 2);
        assert_eq!(pace.wait(start), Wait::Until(start + HEAD));
        assert_eq!(pace.wait(start + HEAD), Wait::HeadOverdue);
    }

    #[test]
    fn an_exchange_takes_its_time() {
        let (mut pace, start) = begun();
        pace.exchange_began();
        pace.bytes_came(start + HEAD);
        assert_eq!(pace.wait(start + 9 * IDLE), Wait::Exchanging);
    }

    #[test]
    fn between_exchanges_the_idle_limit_counts() {
        let (mut pace, start) = begun();
        pace.exchange_began();
        pace.exchange_began();
        pace.exchange_ended(start);
        assert_eq!(pace.wait(start + IDLE), Wait::Exchanging);
        pace.exchange_ended(start + HEAD);
        assert_eq!(
            pace.wait(start + 2 * HEAD),
            Wait::Until(start + HEAD + IDLE)
        );
        assert_eq!(pace.wait(start + HEAD + IDLE), Wait::IdleOverdue);
    }

    #[test]
    fn the_next_head_has_its_own_limit() {
        let (mut pace, start) = begun();
        pace.exchange_began();
        pace.exchange_ended(start);
        pace.bytes_came(start + HEAD);
        assert_eq!(pace.wait(start + 2 * HEAD), Wait::HeadOverdue);
    }

    fn begun() -> (Pace, Instant) {
        let start = Instant::now();
        (
            Pace::amid_head(
                Limits {
                    head: HEAD,
                    idle: IDLE,
                },
                start,
            ),
            start,
        )
    }
}
