//! A corpus of messages that two readers may read differently: whatever reaches a node is exactly what a strict reader of the
//! client's bytes sees, and nothing of it is left over for whoever comes next.

mod answers;
mod chunks;
mod framing;
mod hops;
mod hosts;
mod liar;
mod lines;
mod requests;

/// One client's bytes and what may become of them.
pub(super) struct Case {
    name: &'static str,
    sent: Vec<u8>,
    expected: Expected,
    /// Fields that a node must not see.
    lacks: &'static [&'static str],
}

/// What a node may see of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing; the client is told.
    Refused,
    /// Nothing whole; the head may have been passed on before the body went wrong.
    Broken,
    /// Exactly these requests.
    Seen(Vec<Seen>),
    /// The same, or only the first of them, or none.
    AtMost(Vec<Seen>),
}

/// A request, as far as readers could disagree about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    method: String,
    target: String,
    host: String,
    body: String,
}

fn refused(name: &'static str, sent: impl Into<Vec<u8>>) -> Case {
    case(name, sent, Expected::Refused)
}

fn broken(name: &'static str, sent: impl Into<Vec<u8>>) -> Case {
    case(name, sent, Expected::Broken)
}

fn seen(name: &'static str, sent: impl Into<Vec<u8>>, expected: &[Seen]) -> Case {
    case(name, sent, Expected::Seen(expected.to_vec()))
}

fn at_most(name: &'static str, sent: impl Into<Vec<u8>>, expected: &[Seen]) -> Case {
    case(name, sent, Expected::AtMost(expected.to_vec()))
}

fn case(name: &'static str, sent: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case {
        name,
        sent: sent.into(),
        expected,
        lacks: &[],
    }
}

fn get(target: &str) -> Seen {
    request("GET", target, "a", "")
}

fn post(body: &str) -> Seen {
    request("POST", "/t", "a", body)
}

fn request(method: &str, target: &str, host: &str, body: &str) -> Seen {
    Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        host: host.to_owned(),
        body: body.to_owned(),
    }
}
