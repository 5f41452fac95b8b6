//! One exchange in numbers: what it was, where it was tried and why there, and how each try and the whole ended.

use super::{NameId, hash};
use crate::observe::Ended;

/// Tries that a story has room for. Of more, the first two and the last are kept.
const TRIES_MAX: usize = 3;

/// The number of a request, a trace or a connection's session; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeId([u64; 2]);

/// What is remembered of one exchange. All of it is plain numbers: it is copied, never allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Story {
    pub id: ExchangeId,
    pub trace: ExchangeId,
    /// Unix time in microseconds.
    pub began_us: u64,
    pub took_us: u64,
    pub received: u64,
    pub sent: u64,
    /// The client's connection, by the number that this balancer gave it; 0 is unknown.
    pub connection: u64,
    pub listener: NameId,
    pub route: NameId,
    pub service: NameId,
    pub tries: Tries,
    /// The answer's status; 0 before there is one, and for bytes relayed.
    pub status: u16,
    pub kind: Kind,
    pub retries_denied: u8,
    /// None while it is under way.
    pub ended: Option<Ending>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Http1,
    Http2,
    /// A call of gRPC, whose status is in its trailers.
    Grpc,
    /// A WebSocket or another upgrade.
    Tunnel,
    /// Bytes relayed as they are.
    Relay,
}

/// Why an exchange ended, as the access log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending(u8);

/// The tries of one exchange, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    kept: [Try; TRIES_MAX],
    count: u8,
}

/// One node that was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Try {
    pub picked: Candidate,
    /// Whom it was preferred to; unnamed where the policy compares nobody.
    pub over: Candidate,
    /// Since the exchange began.
    pub began_us: u32,
    /// How long it took to make a connection; 0 where one was there, or it was not noted.
    pub connect_us: u32,
    /// From the request's head to the answer's; 0 if there was none.
    pub first_byte_us: u32,
    /// How many could have been picked.
    pub candidates: u16,
    pub policy: Policy,
    pub end: TryEnd,
}

/// An endpoint as the picker saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    pub node: NameId,
    pub latency_us: u32,
    pub in_flight: u16,
}

/// Why this endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It was not noted.
    #[default]
    Unsaid,
    /// The less loaded of two drawn at random.
    P2c,
    LeastRequests,
    RoundRobin,
    Maglev,
    /// The client's cookie names it.
    Sticky,
    /// There was no other.
    Only,
    /// Too few are healthy, so that all are used.
    Panic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TryEnd {
    #[default]
    UnderWay,
    Answered,
    /// Another node was asked after it.
    Failed,
    /// No connection could be made.
    Unreachable,
    /// It closed or reset before it answered.
    Gone,
    /// It said nothing for too long.
    Silent,
    /// Another try, begun beside it, was answered first.
    Overtaken,
    /// The client went away.
    ClientGone,
}

const _: () = assert!(
    size_of::<Story>() <= 200,
    "a story is 200 bytes: [explain] says so"
);

impl ExchangeId {
    /// Of 32 hexadecimal digits, as our own ids and those of traces are, the number they write; of any other text its hash.
    pub fn of(text: &[u8]) -> Self {
        let number = match text.len() {
            0 => None,
            32 => std::str::from_utf8(text)
                .ok()
                .filter(|it| it.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|it| u128::from_str_radix(it, 16).ok())
                .or_else(|| Some(hash(text))),
            _ => Some(hash(text)),
        };
        number.unwrap_or_default().into()
    }

    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl From<u128> for ExchangeId {
    fn from(number: u128) -> Self {
        Self([(number >> 64) as u64, number as u64])
    }
}

impl std::fmt::Display for ExchangeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

impl Ending {
    pub const COMPLETED: Self = Self(Ended::Completed as u8);

    /// # Panics
    /// Never: a number that is no code of ours reads as the last one.
    pub fn of(number: u8) -> Self {
        Self(number.min(Ended::ALL.len() as u8 - 1))
    }

    pub fn code(self) -> &'static str {
        Ended::ALL[usize::from(self.0)].code()
    }
}

impl From<Ended> for Ending {
    fn from(ended: Ended) -> Self {
        Self(ended as u8)
    }
}

impl Tries {
    pub fn push(&mut self, it: Try) {
        let place = usize::from(self.count).min(TRIES_MAX - 1);
        self.kept[place] = it;
        self.count = self.count.saturating_add(1);
    }

    /// The try under way, to be completed as more becomes known.
    pub fn last(&mut self) -> Option<&mut Try> {
        let count = usize::from(self.count).min(TRIES_MAX);
        self.kept[..count].last_mut()
    }

    /// Those kept whose end is not known.
    pub fn under_way(&mut self) -> impl Iterator<Item = &mut Try> {
        let count = usize::from(self.count).min(TRIES_MAX);
        let tries = self.kept[..count].iter_mut();
        tries.filter(|it| it.end == TryEnd::UnderWay)
    }

    /// How many there were, kept or not.
    pub fn count(&self) -> u8 {
        self.count
    }

    /// Those kept, each with its number, counted from 1.
    pub fn kept(&self) -> impl Iterator<Item = (u8, &Try)> {
        let count = usize::from(self.count).min(TRIES_MAX);
        let left_out = self.count - count as u8;
        (1u8..).zip(&self.kept[..count]).map(move |(n, it)| {
            let is_last = usize::from(n) == TRIES_MAX;
            (if is_last { n + left_out } else { n }, it)
        })
    }
}

impl Story {
    pub(super) fn is_completed(&self) -> bool {
        self.ended == Some(Ending::COMPLETED)
    }

    pub(super) fn answers_to(&self, id: ExchangeId, connection: Option<u64>) -> bool {
        let is_named = !id.is_none() && (self.id == id || self.trace == id);
        is_named || connection.is_some_and(|it| it != 0 && it == self.connection)
    }
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
            Self::Grpc => "grpc",
            Self::Tunnel => "tunnel",
            Self::Relay => "relay",
        }
    }
}

impl Policy {
    pub fn word(self) -> &'static str {
        match self {
            Self::Unsaid => "picked",
            Self::P2c => "p2c",
            Self::LeastRequests => "least_requests",
            Self::RoundRobin => "round_robin",
            Self::Maglev => "maglev",
            Self::Sticky => "sticky",
            Self::Only => "only",
            Self::Panic => "panic",
        }
    }
}

impl TryEnd {
    pub fn word(self) -> &'static str {
        match self {
            Self::UnderWay => "under way",
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Overtaken => "overtaken",
            Self::ClientGone => "client gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_tries_the_first_two_and_the_last_are_kept_with_their_numbers() {
        let mut tries = Tries::default();
        assert!(tries.last().is_none());
        for n in 1..=5 {
            tries.push(Try {
                began_us: n,
                ..Try::default()
            });
        }
        let kept: Vec<_> = tries.kept().map(|(n, it)| (n, it.began_us)).collect();
        assert_eq!(kept, [(1, 1), (2, 2), (5, 5)]);
        assert_eq!(tries.count(), 5);
        assert_eq!(tries.last().map(|it| it.began_us), Some(5));
    }

    #[test]
    fn every_ending_has_its_code() {
        for (number, ended) in (0..).zip(Ended::ALL) {
            assert_eq!(Ending::from(ended), Ending::of(number));
            assert_eq!(Ending::of(number).code(), ended.code());
        }
        assert_eq!(Ending::of(255).code(), "tunnel_cut");
    }

    #[test]
    fn an_id_of_ours_is_its_number_and_another_its_hash() {
        let ours = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(ExchangeId::of(ours.as_bytes()).to_string(), ours);
        assert_ne!(ExchangeId::of(b"a"), ExchangeId::of(b"b"));
        assert!(ExchangeId::of(b"").is_none());
    }
}
