//! A balancer's memory of its nodes across a restart: one checksummed text, so that a torn or altered file is noticed.
//!
//! The first line names the format and the SHA-256 of the rest; the rest is JSON that an operator can read.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{membership::NodeFacts, name::NodeId, overrides::Override};

const MAGIC: &str = "colonnade-membership/1";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// Unix time in milliseconds, for people: it decides nothing.
    pub saved_at: u64,
    pub nodes: Vec<NodeFacts>,
    /// What operators ordered about nodes. Older files have none.
    #[serde(default)]
    pub overrides: Vec<Kept>,
}

/// One order, with the id of the node that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub node: String,
    #[serde(flatten)]
    pub order: Override,
}

impl Kept {
    pub fn node(&self) -> NodeId {
        self.node.as_str().into()
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecallError {
    #[error("the file is not a membership snapshot")]
    NotOurs,
    #[error("the checksum does not match: the file is torn or was altered")]
    Checksum,
    #[error("the snapshot cannot be read: {0}")]
    Content(String),
}

pub fn encode(recall: &Recall) -> String {
    let content = serde_json::to_string_pretty(recall)
        .expect("facts are plain strings, numbers and addresses");
    format!("{MAGIC} sha256={}\n{content}\n", digest(&content))
}

/// # Errors
/// When the text is of another format, torn, altered, or not understood by this version.
pub fn decode(text: &str) -> Result<Recall, RecallError> {
    let (head, content) = text.split_once('\n').ok_or(RecallError::NotOurs)?;
    let expected = head
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.strip_prefix(" sha256="))
        .ok_or(RecallError::NotOurs)?;
    let content = content.strip_suffix('\n').ok_or(RecallError::Checksum)?;
    if digest(content) != expected {
        return Err(RecallError::Checksum);
    }
    serde_json::from_str(content).map_err(|err| RecallError::Content(err.to_string()))
}

fn digest(content: &str) -> String {
    let hash = Sha256::digest(content.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_saved_is_recalled() {
        let recall = example();
        assert_eq!(decode(&encode(&recall)), Ok(recall));
    }

    #[test]
    fn a_file_of_before_there_were_overrides_is_read() {
        let content = r#"{"saved_at":1,"nodes":[]}"#;
        let text = format!("{MAGIC} sha256={}\n{content}\n", digest(content));
        let recall = decode(&text).expect("it is whole");
        assert!(recall.overrides.is_empty());
    }

    #[test]
    fn no_single_changed_or_missing_byte_goes_unnoticed() {
        let text = encode(&example());
        for at in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[at] ^= 1;
            if let Ok(altered) = String::from_utf8(altered) {
                assert!(decode(&altered).is_err(), "byte {at} was altered");
            }
            assert!(decode(&text[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_file_is_told_apart_from_a_torn_one() {
        assert_eq!(decode("hello\nworld\n"), Err(RecallError::NotOurs));
        assert_eq!(decode(""), Err(RecallError::NotOurs));
    }

    fn example() -> Recall {
        let addresses = BTreeMap::from([("web".to_owned(), ([10, 0, 0, 1], 8000).into())]);
        let node = NodeFacts {
            id: "n1".into(),
            incarnation: 3,
            zone: Some("a".into()),
            weight: 100,
            leaving: false,
            addresses,
        };
        Recall {
            saved_at: 1,
            nodes: vec![node],
            overrides: vec![Kept {
                node: "n1".into(),
                order: Override {
                    drained: true,
                    weight: Some(5),
                },
            }],
        }
    }
}
