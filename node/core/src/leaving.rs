//! How a node leaves without losing a request: say so, wait until every balancer knows, let what is under way end, go.
//!
//! It serves as before until the balancers have confirmed, for until then they send new requests here.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// From the confirmation to the closing of connections that carry nothing. What a balancer had sent when it
/// confirmed has arrived by then, and its own idle connections to this node are closed from its side, where no
/// request can cross the closing.
pub const QUIET: Duration = Duration::from_secs(1);

/// From the end of the streams at the deadline to the end of the node: time to write their last frames.
pub const FLUSH: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BalancerId(pub String);

/// A point in the history of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Set the record to leaving.
    Announce { leave_by: Instant },
    /// Tell clients to go at the end of what they are doing; this many balancers have not confirmed.
    Drain { unconfirmed: Unconfirmed },
    /// Accept no more and close what carries nothing.
    Close,
    /// End what is under way: its time is up.
    Cut,
    /// Withdraw the record and end.
    Exit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unconfirmed {
    Nobody,
    Balancers(usize),
    /// The registry did not answer, so nobody knows.
    Unknown,
}

#[derive(Debug, Default)]
pub struct Leaving {
    stage: Stage,
    /// None until the registry has answered once.
    applied_by_balancer: Option<BTreeMap<BalancerId, Revision>>,
    n_connections: usize,
    commands: VecDeque<Command>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Ready,
    /// `stored` is where the record that says leaving stands in the registry.
    Announced {
        stored: Option<Revision>,
        confirm_by: Instant,
        deadline: Instant,
    },
    Draining {
        quiet_at: Instant,
        deadline: Instant,
    },
    Closing {
        deadline: Instant,
    },
    Cutting {
        until: Instant,
    },
    Gone,
}

impl Leaving {
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// The node is asked to go, and to be gone after `within`; asked again it goes on as it is.
    pub fn leave(&mut self, now: Instant, within: Duration) {
        if self.is_ready() {
            self.stage = Stage::Announced {
                stored: None,
                confirm_by: now + within / 2,
                deadline: now + within,
            };
            self.commands.push_back(Command::Announce {
                leave_by: now + within,
            });
        }
    }

    /// The record that says leaving is stored. A later one replaces it: the registry may have lost the first.
    pub fn record_stored(&mut self, now: Instant, revision: Revision) {
        if let Stage::Announced { stored, .. } = &mut self.stage {
            *stored = Some(revision);
        }
        self.advance(now);
    }

    /// The registry lists all live balancers, with what each has applied.
    pub fn balancers_listed(
        &mut self,
        now: Instant,
        all: impl IntoIterator<Item = (BalancerId, Revision)>,
    ) {
        self.applied_by_balancer = Some(all.into_iter().collect());
        self.advance(now);
    }

    pub fn balancer_applied(&mut self, now: Instant, id: BalancerId, revision: Revision) {
        if let Some(applied_by_balancer) = &mut self.applied_by_balancer {
            applied_by_balancer.insert(id, revision);
        }
        self.advance(now);
    }

    pub fn balancer_gone(&mut self, now: Instant, id: &BalancerId) {
        if let Some(applied_by_balancer) = &mut self.applied_by_balancer {
            applied_by_balancer.remove(id);
        }
        self.advance(now);
    }

    pub fn connections_counted(&mut self, now: Instant, n_connections: usize) {
        self.n_connections = n_connections;
        self.advance(now);
    }

    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Ready | Stage::Gone => None,
            Stage::Announced { confirm_by, .. } => Some(confirm_by),
            Stage::Draining { quiet_at, deadline } => Some(quiet_at.min(deadline)),
            Stage::Closing { deadline } => Some(deadline),
            Stage::Cutting { until } => Some(until),
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// Takes every step that is due.
    fn advance(&mut self, now: Instant) {
        while let Some((stage, command)) = self.step(now) {
            self.stage = stage;
            self.commands.push_back(command);
        }
    }

    fn step(&self, now: Instant) -> Option<(Stage, Command)> {
        match self.stage {
            Stage::Ready | Stage::Gone => None,
            Stage::Announced {
                stored,
                confirm_by,
                deadline,
            } => {
                let unconfirmed = self.unconfirmed(stored);
                let is_due = unconfirmed == Unconfirmed::Nobody || confirm_by <= now;
                let quiet_at = now + QUIET;
                is_due.then_some((
                    Stage::Draining { quiet_at, deadline },
                    Command::Drain { unconfirmed },
                ))
            }
            Stage::Draining { quiet_at, deadline } => (quiet_at.min(deadline) <= now)
                .then_some((Stage::Closing { deadline }, Command::Close)),
            Stage::Closing { .. } | Stage::Cutting { .. } if self.n_connections == 0 => {
                Some((Stage::Gone, Command::Exit))
            }
            Stage::Closing { deadline } => {
                (deadline <= now).then_some((Stage::Cutting { until: now + FLUSH }, Command::Cut))
            }
            Stage::Cutting { until } => (until <= now).then_some((Stage::Gone, Command::Exit)),
        }
    }

    fn unconfirmed(&self, stored: Option<Revision>) -> Unconfirmed {
        let (Some(stored), Some(applied_by_balancer)) = (stored, &self.applied_by_balancer) else {
            return Unconfirmed::Unknown;
        };
        match applied_by_balancer
            .values()
            .filter(|applied| **applied < stored)
            .count()
        {
            0 => Unconfirmed::Nobody,
            count => Unconfirmed::Balancers(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);
    const CONFIRMED: Command = Command::Drain {
        unconfirmed: Unconfirmed::Nobody,
    };

    #[test]
    fn it_drains_once_every_balancer_has_applied_the_record() {
        let mut it = Dialogue::with_balancers(&[("a", 4), ("b", 4)]);
        it.leave();
        it.node.record_stored(it.now, Revision(7));
        it.expect(&[]);
        it.applied("a", 9);
        it.expect(&[]);
        it.applied("b", 7);
        it.expect(&[CONFIRMED]);
    }

    #[test]
    fn a_balancer_that_died_is_not_waited_for() {
        let mut it = Dialogue::with_balancers(&[("a", 4)]);
        it.leave();
        it.node.record_stored(it.now, Revision(7));
        it.node.balancer_gone(it.now, &BalancerId("a".to_owned()));
        it.expect(&[CONFIRMED]);
    }

    #[test]
    fn without_balancers_the_record_suffices() {
        let mut it = Dialogue::with_balancers(&[]);
        it.leave();
        it.expect(&[]);
        it.node.record_stored(it.now, Revision(7));
        it.expect(&[CONFIRMED]);
    }

    #[test]
    fn nobody_is_not_the_same_as_not_yet_listed() {
        let mut it = Dialogue::new();
        it.leave();
        it.node.record_stored(it.now, Revision(7));
        it.expect(&[]);
        it.node.balancers_listed(it.now, []);
        it.expect(&[CONFIRMED]);
    }

    #[test]
    fn half_of_the_time_is_the_most_that_confirming_takes() {
        let mut it = Dialogue::with_balancers(&[("a", 4), ("b", 9)]);
        it.leave();
        it.node.record_stored(it.now, Revision(7));
        it.pass(WITHIN / 2 - Duration::from_millis(1), &[]);
        it.pass(
            Duration::from_millis(1),
            &[Command::Drain {
                unconfirmed: Unconfirmed::Balancers(1),
            }],
        );
        let mut dead = Dialogue::new();
        dead.leave();
        dead.pass(
            WITHIN / 2,
            &[Command::Drain {
                unconfirmed: Unconfirmed::Unknown,
            }],
        );
    }

    #[test]
    fn a_record_that_was_lost_is_confirmed_anew() {
        let mut it = Dialogue::with_balancers(&[("a", 4)]);
        it.leave();
        it.node.record_stored(it.now, Revision(7));
        it.node.record_stored(it.now, Revision(9));
        it.applied("a", 8);
        it.expect(&[]);
        it.applied("a", 9);
        it.expect(&[CONFIRMED]);
    }

    #[test]
    fn it_goes_as_soon_as_it_is_empty_and_quiet() {
        let mut it = Dialogue::draining();
        it.pass(QUIET, &[Command::Close]);
        it.node.connections_counted(it.now, 1);
        it.expect(&[]);
        it.node.connections_counted(it.now, 0);
        it.expect(&[Command::Exit]);
        assert_eq!(it.node.poll_timeout(), None);
    }

    #[test]
    fn empty_before_the_quiet_is_not_yet_the_end() {
        let mut it = Dialogue::draining();
        it.node.connections_counted(it.now, 0);
        it.expect(&[]);
        it.pass(QUIET, &[Command::Close, Command::Exit]);
    }

    #[test]
    fn the_deadline_ends_what_does_not() {
        let mut it = Dialogue::draining();
        it.pass(QUIET, &[Command::Close]);
        it.pass(WITHIN - QUIET, &[Command::Cut]);
        it.pass(FLUSH, &[Command::Exit]);
    }

    #[test]
    fn asked_twice_it_leaves_once() {
        let mut it = Dialogue::draining();
        it.node.leave(it.now, Duration::ZERO);
        it.expect(&[]);
    }

    proptest! {
        #[test]
        fn whatever_happens_it_is_gone_by_the_deadline(events in prop::collection::vec((0u8..6, 0u64..9, 0u64..4000), 0..60)) {
            let mut it = Dialogue::with_balancers(&[("a", 3)]);
            it.leave();
            let mut seen = Vec::new();
            for (event, number, millis) in events {
                it.now += Duration::from_millis(millis);
                it.happen(event, number);
                seen.extend(std::iter::from_fn(|| it.node.next_command()));
            }
            while let Some(at) = it.node.poll_timeout() {
                it.now = it.now.max(at);
                it.node.handle_timeout(it.now);
                seen.extend(std::iter::from_fn(|| it.node.next_command()));
            }
            prop_assert_eq!(seen.last(), Some(&Command::Exit));
            let rank = |command: &Command| match command {
                Command::Announce { .. } => 0,
                Command::Drain { .. } => 1,
                Command::Close => 2,
                Command::Cut => 3,
                Command::Exit => 4,
            };
            prop_assert!(seen.windows(2).all(|pair| rank(&pair[0]) < rank(&pair[1])), "each step once and in order");
        }
    }

    /// A node, the time it is, and what it commands.
    struct Dialogue {
        node: Leaving,
        now: Instant,
    }

    impl Dialogue {
        fn new() -> Self {
            Self {
                node: Leaving::default(),
                now: Instant::now(),
            }
        }

        fn with_balancers(applied: &[(&str, u64)]) -> Self {
            let mut it = Self::new();
            let all = applied
                .iter()
                .map(|(id, applied)| (BalancerId(id.to_string()), Revision(*applied)));
            it.node.balancers_listed(it.now, all);
            it
        }

        /// With one connection open, and everybody told.
        fn draining() -> Self {
            let mut it = Self::with_balancers(&[]);
            it.node.connections_counted(it.now, 1);
            it.leave();
            it.node.record_stored(it.now, Revision(7));
            it.expect(&[CONFIRMED]);
            it
        }

        fn leave(&mut self) {
            self.node.leave(self.now, WITHIN);
            self.expect(&[Command::Announce {
                leave_by: self.now + WITHIN,
            }]);
        }

        fn applied(&mut self, id: &str, revision: u64) {
            self.node
                .balancer_applied(self.now, BalancerId(id.to_owned()), Revision(revision));
        }

        fn happen(&mut self, event: u8, number: u64) {
            match event {
                0 => self.node.record_stored(self.now, Revision(number)),
                1 => self.applied("a", number),
                2 => self
                    .node
                    .balancer_gone(self.now, &BalancerId("a".to_owned())),
                3 => self.node.connections_counted(self.now, number as usize),
                4 => self.node.leave(self.now, WITHIN),
                _ => self.node.handle_timeout(self.now),
            }
        }

        #[track_caller]
        fn pass(&mut self, time: Duration, expected: &[Command]) {
            self.now += time;
            self.node.handle_timeout(self.now);
            self.expect(expected);
        }

        #[track_caller]
        fn expect(&mut self, expected: &[Command]) {
            let commands: Vec<_> = std::iter::from_fn(|| self.node.next_command()).collect();
            assert_eq!(commands, expected);
        }
    }
}
