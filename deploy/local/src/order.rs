//! What a second terminal and the running cluster say to each other, as JSON.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// Where orders are posted.
pub(crate) const ORDERS: &str = "/orders";
/// Where the status is read.
pub(crate) const STATUS: &str = "/status";

/// The name of one node of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct NodeId(String);

/// What can be asked of a running cluster.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub(crate) enum Order {
    Scale { nodes: u32 },
    Kill { node: NodeId },
    Leave { node: NodeId },
}

/// What came of an order, in words for people.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Done(String),
    Error(String),
}

/// The cluster as it is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Where clients are served.
    pub(crate) entry: SocketAddr,
    /// Where the balancer shows its metrics and its state.
    pub(crate) admin: SocketAddr,
    pub(crate) nodes: Vec<NodeStatus>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    pub(crate) id: NodeId,
    pub(crate) state: State,
    /// Where the node's service `web` listens: host and port, as announced.
    pub(crate) address: String,
    /// Which of its lives this is; unknown until it is announced.
    pub(crate) incarnation: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It runs and is not announced yet.
    Starting,
    /// It is announced and takes work.
    Ready,
    /// It is announced as leaving, and ends what it has.
    Leaving,
    /// It does not run; the registry does not know yet, because its lease has not run out.
    Dead,
}

// === impl NodeId ===

impl NodeId {
    /// Nodes are counted from one, and no number is given twice in the life of a cluster.
    pub(crate) fn numbered(number: u32) -> Self {
        Self(format!("node-{number}"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Status ===

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "entry  http://{}\nadmin  http://{}\n",
            self.entry, self.admin
        )?;
        let width = self
            .nodes
            .iter()
            .map(|node| node.id.as_str().len())
            .max()
            .unwrap_or(0)
            .max("NODE".len());
        write!(f, "{:width$}  {:8}  ADDRESS", "NODE", "STATE")?;
        self.nodes.iter().try_for_each(|node| {
            write!(
                f,
                "\n{:width$}  {:8}  {}",
                node.id.as_str(),
                node.state.as_str(),
                node.address
            )
        })
    }
}

// === impl State ===

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Leaving => "leaving",
            Self::Dead => "dead",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_reads_as_json_and_as_a_table() {
        let node = |number, state, incarnation| NodeStatus {
            id: NodeId::numbered(number),
            state,
            address: format!("127.0.0.1:400{number}"),
            incarnation,
        };
        let status = Status {
            entry: ([127, 0, 0, 1], 8080).into(),
            admin: ([127, 0, 0, 1], 9901).into(),
            nodes: vec![
                node(1, State::Ready, Some(7)),
                node(2, State::Starting, None),
            ],
        };
        let json = r#"{"entry":"127.0.0.1:8080","admin":"127.0.0.1:9901","nodes":[{"id":"node-1","state":"ready","address":"127.0.0.1:4001","incarnation":7},{"id":"node-2","state":"starting","address":"127.0.0.1:4002","incarnation":null}]}"#;
        assert_eq!(serde_json::to_string(&status).expect("plain data"), json);
        assert_eq!(
            serde_json::from_str::<Status>(json).expect("its own JSON"),
            status
        );
        let table = "entry  http://127.0.0.1:8080\nadmin  http://127.0.0.1:9901\n\nNODE    STATE     ADDRESS\nnode-1  ready     127.0.0.1:4001\nnode-2  starting  127.0.0.1:4002";
        assert_eq!(status.to_string(), table);
    }

    #[test]
    fn an_order_says_what_it_is() {
        let order = Order::Kill {
            node: "node-2".into(),
        };
        assert_eq!(
            serde_json::to_string(&order).expect("plain data"),
            r#"{"order":"kill","node":"node-2"}"#
        );
    }
}
