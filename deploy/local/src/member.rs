//! One node on a thread and a runtime of its own, so that it can end like a process: politely, or in the middle of a word.

use std::{io, net::SocketAddr, thread};

use node::{app::Node, config::Config};
use registry::Registry;
use thiserror::Error;
use tokio::{runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::order::NodeId;

/// A node that was started; clones steer the same one.
#[derive(Clone)]
pub(crate) struct Member {
    id: NodeId,
    web: SocketAddr,
    ends: Ends,
}

/// How a node is told to end, and tells that it did.
#[derive(Clone, Default)]
struct Ends {
    leave: CancellationToken,
    kill: CancellationToken,
    gone: CancellationToken,
}

#[derive(Debug, Error)]
pub(crate) enum MemberError {
    #[error("cannot start {id}: {error}")]
    Thread { id: NodeId, error: io::Error },
    #[error("cannot start {id}: {error}")]
    Node {
        id: NodeId,
        error: node::app::StartError,
    },
    #[error("{id} ended while it was starting")]
    Vanished { id: NodeId },
}

// === impl Member ===

impl Member {
    /// Returns when the node serves, which is before others know of it.
    pub(crate) async fn start(
        id: NodeId,
        config: Config,
        registry: Registry,
    ) -> Result<Self, MemberError> {
        let ends = Ends::default();
        let (started, web) = oneshot::channel();
        let life = Life {
            id: id.clone(),
            ends: ends.clone(),
            started,
        };
        thread::Builder::new()
            .name(id.to_string())
            .spawn(move || life.live(config, registry))
            .map_err(|error| MemberError::Thread {
                id: id.clone(),
                error,
            })?;
        let web = web
            .await
            .map_err(|_| MemberError::Vanished { id: id.clone() })??;
        Ok(Self { id, web, ends })
    }

    pub(crate) fn id(&self) -> &NodeId {
        &self.id
    }

    /// Where its service `web` listens.
    pub(crate) fn web(&self) -> SocketAddr {
        self.web
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.ends.leave.is_cancelled()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.ends.gone.is_cancelled()
    }

    /// Returns when the node has ended all it had, or its deadline has.
    pub(crate) async fn leave(&self) {
        self.ends.leave.cancel();
        self.ends.gone.cancelled().await;
    }

    /// Ends the node at once: its sockets close, and its lease is left to run out.
    pub(crate) async fn kill(&self) {
        self.ends.kill.cancel();
        self.ends.gone.cancelled().await;
    }
}

/// What the node's thread has in hand.
struct Life {
    id: NodeId,
    ends: Ends,
    started: oneshot::Sender<Result<SocketAddr, MemberError>>,
}

// === impl Life ===

impl Life {
    fn live(self, config: Config, registry: Registry) {
        // Told on every way out of here, a panic included.
        let _gone = self.ends.gone.clone().drop_guard();
        match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(self.serve(config, registry));
                // Drops every task where it stands, and waits for none.
                runtime.shutdown_background();
            }
            Err(error) => self.tell(|id| Err(MemberError::Thread { id, error })),
        }
    }

    async fn serve(self, config: Config, registry: Registry) {
        let ends = self.ends.clone();
        match Node::start(config, registry).await {
            Ok(node) => {
                self.tell(|_| Ok(node.web_address()));
                obey(node, &ends).await;
            }
            Err(error) => self.tell(|id| Err(MemberError::Node { id, error })),
        }
    }

    fn tell(self, outcome: impl FnOnce(NodeId) -> Result<SocketAddr, MemberError>) {
        // Whoever does not wait any more has no use for the answer.
        let _ = self.started.send(outcome(self.id));
    }
}

async fn obey(node: Node, ends: &Ends) {
    let leaving = async {
        ends.leave.cancelled().await;
        let left = node.leave().await;
        tracing::info!(id = %node.id(), ?left, "a node has left");
    };
    tokio::select! {
        () = leaving => {}
        () = ends.kill.cancelled() => {}
    }
}
