//! What a record says, as JSON that a person can read with `etcdctl get`.
//!
//! Unknown fields are ignored: a newer version, or a service that is not ours, may say more than we understand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest value taken for a record, in bytes. A larger one is [`Event::Malformed`](crate::Event::Malformed): a node
/// with a hundred services needs a tenth of it, and a watch holds many values at once.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Something that is announced under an id.
pub trait Record: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static {
    /// The folder below the cluster's prefix, without slashes at either end.
    const FOLDER: &'static str;

    /// Who it is; the last part of the key. It stays the same for the life of an announcement.
    fn id(&self) -> &str;
}

/// A node: where its services are reached, and whether it takes new work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Unique among the nodes of a cluster; the last part of the key.
    pub id: String,
    /// Which life of this node it is: larger in every later one. The larger one wins the id.
    pub incarnation: u64,
    /// Where it runs. Default: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it runs. Default: empty.
    #[serde(default)]
    pub version: String,
    /// Its share of new work beside other nodes. Default: 100.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Whether it takes new work.
    pub state: NodeState,
    /// When a leaving node ends what is left, in unix milliseconds. Default: not leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave_by: Option<u64>,
    /// `host:port` by the name of the service.
    pub services: BTreeMap<String, String>,
    /// When this life began, in unix milliseconds. Default: 0, unknown.
    #[serde(default)]
    pub started_at: u64,
}

/// Whether a node takes new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It does.
    Ready,
    /// It does not, keeps what it has, and goes when that is gone or moved.
    Leaving,
}

/// A balancer, and how far it has applied what the registry says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancerRecord {
    /// Unique among the balancers of a cluster; the last part of the key.
    pub id: String,
    /// Which life of this balancer it is: larger in every later one.
    pub incarnation: u64,
    /// It routes by everything up to this [`Revision`](crate::Revision).
    pub applied_revision: u64,
    /// `host:port` of its admin address.
    pub address: String,
}

impl Record for NodeRecord {
    const FOLDER: &'static str = "nodes";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Record for BalancerRecord {
    const FOLDER: &'static str = "balancers";

    fn id(&self) -> &str {
        &self.id
    }
}

/// Why a value is no record of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("the value is longer than {RECORD_BYTES_MAX} bytes")]
    TooLong,
    #[error("the value is not such a record: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the value is the record of {0:?}")]
    OtherId(String),
}

pub(crate) fn encode<R: Record>(record: &R) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record is plain data with text for keys")
}

pub(crate) fn decode<R: Record>(id: &str, value: &[u8]) -> Result<R, Flaw> {
    if value.len() > RECORD_BYTES_MAX {
        return Err(Flaw::TooLong);
    }
    let record: R = serde_json::from_slice(value)?;
    if record.id() != id {
        return Err(Flaw::OtherId(record.id().to_owned()));
    }
    Ok(record)
}

/// Cuts a value that is too long anyway, so that many of them cannot fill the memory before they are refused.
pub(crate) fn cut(mut value: Vec<u8>) -> Vec<u8> {
    value.truncate(RECORD_BYTES_MAX + 1);
    value.shrink_to_fit();
    value
}

/// One life of whoever holds a key; a value that does not tell counts as the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Incarnation(u64);

impl Incarnation {
    pub(crate) fn of(value: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Life {
            incarnation: u64,
        }
        Self(serde_json::from_slice(value).map_or(0, |life: Life| life.incarnation))
    }
}

fn default_weight() -> u32 {
    100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_writer_says_little_or_much() {
        let short = br#"{"id":"a","incarnation":3,"state":"leaving","services":{"web":"10.0.0.3:8000"},"colour":"red"}"#;
        let node: NodeRecord =
            decode("a", short).expect("unknown fields are ignored, absent ones have defaults");
        assert_eq!(
            (node.weight, node.state, node.zone),
            (100, NodeState::Leaving, None)
        );
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let balancer = BalancerRecord {
            id: "b".into(),
            incarnation: 1,
            applied_revision: 7,
            address: "127.0.0.1:1".into(),
        };
        assert_eq!(
            decode::<BalancerRecord>("b", &encode(&balancer)).ok(),
            Some(balancer)
        );
    }

    #[test]
    fn what_is_no_record_says_why() {
        let flaw =
            |id: &str, value: &[u8]| decode::<NodeRecord>(id, value).map_err(|it| it.to_string());
        let valid = br#"{"id":"a","incarnation":1,"state":"ready","services":{}}"#;
        assert!(flaw("b", valid).is_err_and(|it| it.contains("\"a\"")));
        assert!(flaw("a", b"\xff").is_err_and(|it| it.contains("not such a record")));
        assert!(flaw("a", &cut(vec![b' '; 1 << 20])).is_err_and(|it| it.contains("longer")));
    }

    #[test]
    fn a_value_that_tells_no_life_is_the_oldest() {
        assert!(Incarnation::of(b"scribble") < Incarnation::of(br#"{"incarnation":1}"#));
    }
}
