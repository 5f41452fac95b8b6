//! What one exchange is to the generator: a lane makes it, and it ends in an answer or a failure.

use std::fmt;
use std::future::Future;
use std::io;

/// A kind of traffic: makes the lanes of one load.
pub trait Traffic: Send + 'static {
    type Lane: Lane;

    /// The lane with this index, counted from 0; it connects when it first exchanges.
    fn lane(&mut self, index: usize) -> Self::Lane;
}

/// Makes one exchange after another, over connections of its own or shared with other lanes of its load.
pub trait Lane: 'static {
    /// One exchange, from connecting (where it must) to the last byte of the answer.
    fn exchange(&mut self) -> impl Future<Output = Result<Answer<'_>, Failure>>;

    /// The exchange was given up half-way: what it was made over must not carry the next one.
    fn abandon(&mut self);
}

/// A complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub outcome: Outcome,
    /// The node that answered, where the answer tells.
    pub node: Option<&'a str>,
    /// Bytes of the body, or of the message.
    pub bytes: u64,
}

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// An HTTP answer with this status.
    Status(u16),
    /// A gRPC answer with this status; 0 is OK.
    Grpc(u16),
    /// A message came back; there is no status in this protocol.
    Echo,
}

/// Why an exchange has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    pub kind: FailureKind,
    pub detail: String,
}

/// The ways to get no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The connection could not be made.
    Refused,
    /// The connection or the stream was reset, or ended before any byte of the answer.
    Reset,
    /// Nothing, or not all, came in time.
    Timeout,
    /// The answer began and did not end as it promised.
    Truncated,
    /// The answer is complete and not what was asked for.
    WrongContent,
    /// The answer breaks its protocol.
    Malformed,
}

// === impl Outcome ===

impl Outcome {
    /// Whether a client got what it asked for.
    pub fn is_success(self) -> bool {
        match self {
            Self::Status(status) => (200..400).contains(&status),
            Self::Grpc(status) => status == 0,
            Self::Echo => true,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(status) => write!(f, "grpc-status {status}"),
            Self::Echo => f.write_str("echo"),
        }
    }
}

// === impl Failure ===

impl Failure {
    pub(super) fn new(kind: FailureKind, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            detail: detail.to_string(),
        }
    }

    pub(super) fn refused(cause: &io::Error) -> Self {
        Self::new(FailureKind::Refused, cause)
    }

    /// The connection failed; `begun` tells whether a byte of the answer had come.
    pub(super) fn broken(begun: bool, cause: impl fmt::Display) -> Self {
        let kind = if begun {
            FailureKind::Truncated
        } else {
            FailureKind::Reset
        };
        Self::new(kind, cause)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Truncated => "truncated",
            Self::WrongContent => "wrong content",
            Self::Malformed => "malformed",
        })
    }
}
