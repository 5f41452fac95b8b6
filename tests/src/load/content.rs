//! Decides whether the bytes of an answer are the right ones, without keeping them.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use serde::Deserialize;

use super::lane::{Failure, FailureKind};

/// The pattern repeats after this many bytes: a prime, so that no buffer size or chunk size hides a swapped block.
const PATTERN_PERIOD: usize = 65_521;
/// How much of a JSON answer is kept for reading; `/whoami` echoes request headers, which stay far below.
const JSON_MAX: usize = 64 * 1024;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..PATTERN_PERIOD).map(|_| rng.u8(..)).collect()
});

/// What the body of an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything that is complete.
    Anything,
    /// The first so many bytes of [`pattern`].
    Pattern(u64),
    /// A JSON object whose `node_id` names the node that answered.
    NodeId,
}

/// A deterministic body: the same bytes for the same length, in every process.
pub fn pattern(length: usize) -> Bytes {
    PATTERN.iter().copied().cycle().take(length).collect()
}

/// Looks at one body as it arrives.
#[derive(Debug)]
pub(super) struct Checker {
    expect: Expect,
    seen: u64,
    wrong: bool,
    json: Vec<u8>,
    node: String,
}

#[derive(Deserialize)]
struct Whoami<'a> {
    #[serde(borrow)]
    node_id: Cow<'a, str>,
}

// === impl Checker ===

impl Checker {
    pub(super) fn new(expect: Expect) -> Self {
        Self {
            expect,
            seen: 0,
            wrong: false,
            json: Vec::new(),
            node: String::new(),
        }
    }

    /// Begins a new body; what the last one needed is kept for it.
    pub(super) fn begin(&mut self) {
        self.seen = 0;
        self.wrong = false;
        self.json.clear();
        self.node.clear();
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        match self.expect {
            Expect::Anything => {}
            Expect::Pattern(_) => self.wrong |= !continues_pattern(self.seen, bytes),
            Expect::NodeId if self.json.len() + bytes.len() > JSON_MAX => self.wrong = true,
            Expect::NodeId => self.json.extend_from_slice(bytes),
        }
        self.seen += bytes.len() as u64;
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The body is complete: who sent it, if it tells, or why it is wrong.
    pub(super) fn verdict(&mut self) -> Result<Option<&str>, Failure> {
        match self.expect {
            Expect::Anything => Ok(None),
            Expect::Pattern(length) if self.wrong || self.seen != length => {
                Err(self.not_the_pattern(length))
            }
            Expect::Pattern(_) => Ok(None),
            Expect::NodeId if self.wrong => Err(wrong("the answer is too long to be read")),
            Expect::NodeId => self.node_id().map(Some),
        }
    }

    fn node_id(&mut self) -> Result<&str, Failure> {
        let whoami: Whoami<'_> = serde_json::from_slice(&self.json)
            .map_err(|cause| wrong(&format!("no node id: {cause}")))?;
        self.node.push_str(&whoami.node_id);
        Ok(&self.node)
    }

    fn not_the_pattern(&self, length: u64) -> Failure {
        wrong(&format!(
            "{} bytes came where {length} of the pattern were due",
            self.seen
        ))
    }
}

/// Whether `bytes` are what follows `offset` bytes of the pattern.
fn continues_pattern(offset: u64, mut bytes: &[u8]) -> bool {
    let mut at = usize::try_from(offset % PATTERN_PERIOD as u64).expect("the period fits");
    while !bytes.is_empty() {
        let length = bytes.len().min(PATTERN_PERIOD - at);
        if bytes[..length] != PATTERN[at..at + length] {
            return false;
        }
        bytes = &bytes[length..];
        at = 0;
    }
    true
}

fn wrong(detail: &str) -> Failure {
    Failure::new(FailureKind::WrongContent, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 3 * PATTERN_PERIOD + 17;

    #[test]
    fn the_pattern_is_recognised_in_pieces_of_any_size() {
        for size in [1, 7, 4096, PATTERN_PERIOD, LENGTH] {
            assert!(
                check_pattern(&pattern(LENGTH), size).is_ok(),
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn a_changed_a_missing_and_a_swapped_byte_are_noticed() {
        let whole = pattern(LENGTH);
        let mut changed = whole.to_vec();
        changed[70_000] ^= 1;
        assert!(check_pattern(&changed, 4096).is_err());
        assert!(check_pattern(&whole[..LENGTH - 1], 4096).is_err());
        let mut swapped = whole.to_vec();
        swapped.rotate_left(4096);
        assert!(check_pattern(&swapped, 4096).is_err());
    }

    #[test]
    fn the_node_is_read_from_the_answer() {
        let mut checker = Checker::new(Expect::NodeId);
        checker.take(b"{\"zone\":\"a\",\"node");
        checker.take(b"_id\":\"n1\"}");
        assert_eq!(checker.verdict().expect("it names a node"), Some("n1"));
        checker.begin();
        checker.take(b"<html>");
        assert_eq!(
            checker.verdict().expect_err("it names none").kind,
            FailureKind::WrongContent
        );
    }

    #[test]
    fn an_endless_answer_is_not_kept() {
        let mut checker = Checker::new(Expect::NodeId);
        (0..100).for_each(|_| checker.take(&[b' '; 4096]));
        assert!(checker.json.len() <= JSON_MAX);
        assert!(checker.verdict().is_err());
    }

    fn check_pattern(body: &[u8], size: usize) -> Result<(), Failure> {
        let mut checker = Checker::new(Expect::Pattern(LENGTH as u64));
        body.chunks(size).for_each(|it| checker.take(it));
        checker.verdict().map(|_| ())
    }
}
