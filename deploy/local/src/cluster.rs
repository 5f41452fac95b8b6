//! The nodes that run in this process: how many, which ones, and what the registry knows of them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use node::config::Config;
use registry::{Event, NodeRecord, NodeState, Registry};
use thiserror::Error;
use tokio::{
    sync::{Mutex as Turn, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    data::Place,
    member::{Member, MemberError},
    order::{NodeId, NodeStatus, State, Status},
    settings,
};

/// Each node is a thread with its own connections, in a process that should leave the machine some air.
pub(crate) const NODES_MAX: u32 = 64;
/// How long a node that serves may take to be announced: in memory, that is a matter of milliseconds.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// All nodes of one cluster.
pub(crate) struct Cluster {
    place: Place,
    registry: Registry,
    /// What the registry says, kept up to date by a task.
    seen: watch::Receiver<Seen>,
    members: Mutex<Members>,
    /// Held while the number of nodes changes, so that two who scale do not count each other's nodes.
    turn: Turn<Growth>,
}

#[derive(Default)]
struct Members {
    by_number: BTreeMap<u32, Member>,
    last_number: u32,
}

/// Whether nodes may be started.
#[derive(PartialEq, Eq)]
enum Growth {
    Allowed,
    Over,
}

/// The records of nodes, by id.
type Seen = BTreeMap<String, NodeRecord>;

#[derive(Debug, Error)]
pub(crate) enum OrderError {
    #[error("there is no node {asked}; running: {running}")]
    UnknownNode { asked: NodeId, running: String },
    #[error("the cluster is leaving")]
    Ending,
    #[error("a cluster has between 1 and {NODES_MAX} nodes here, not {0}")]
    BadSize(u32),
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error("cannot configure {id}: {message}")]
    Config { id: NodeId, message: String },
    #[error("{id} serves, but was not announced within {} s", READY_WITHIN.as_secs())]
    NotReady { id: NodeId },
}

// === impl Cluster ===

impl Cluster {
    /// A cluster without nodes; runs its watch on the current tokio runtime.
    pub(crate) fn new(place: Place, registry: Registry) -> Self {
        let (sender, seen) = watch::channel(Seen::new());
        tokio::spawn(follow(registry.clone(), sender));
        Self {
            place,
            registry,
            seen,
            members: Mutex::default(),
            turn: Turn::new(Growth::Allowed),
        }
    }

    /// Starts nodes, or lets the newest leave, until there are as many as asked for. Returns when all is done.
    pub(crate) async fn scale(&self, nodes: u32) -> Result<String, OrderError> {
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(OrderError::BadSize(nodes));
        }
        let turn = self.turn.lock().await;
        if *turn == Growth::Over {
            return Err(OrderError::Ending);
        }
        let staying: Vec<Member> = self
            .running()
            .into_iter()
            .filter(|member| !member.is_leaving())
            .collect();
        let before = u32::try_from(staying.len()).unwrap_or(u32::MAX);
        for _ in before..nodes {
            self.add().await?;
        }
        let newest_first = staying.into_iter().rev();
        all_leave(newest_first.take(before.saturating_sub(nodes) as usize)).await;
        Ok(format!("{nodes} nodes run; before, it was {before}"))
    }

    /// Ends a node as a crash would.
    pub(crate) async fn kill(&self, id: &NodeId) -> Result<String, OrderError> {
        self.find(id)?.kill().await;
        Ok(format!("{id} was killed"))
    }

    /// Lets a node leave and waits for it.
    pub(crate) async fn leave(&self, id: &NodeId) -> Result<String, OrderError> {
        self.find(id)?.leave().await;
        Ok(format!("{id} has left"))
    }

    /// Lets every node leave, and starts none any more.
    pub(crate) async fn end(&self) {
        *self.turn.lock().await = Growth::Over;
        all_leave(self.running().into_iter()).await;
    }

    pub(crate) fn status(&self, entry: SocketAddr, admin: SocketAddr) -> Status {
        let seen = self.seen.borrow().clone();
        Status {
            entry,
            admin,
            nodes: nodes(&self.running(), &seen),
        }
    }

    async fn add(&self) -> Result<(), OrderError> {
        let number = self.next_number();
        let id = NodeId::numbered(number);
        let config =
            Config::from_toml(id.as_str(), &settings::node(&self.place, &id)).map_err(|error| {
                OrderError::Config {
                    id: id.clone(),
                    message: error.to_string(),
                }
            })?;
        let member = Member::start(id, config, self.registry.clone()).await?;
        self.members().by_number.insert(number, member.clone());
        self.announced(&member).await
    }

    async fn announced(&self, member: &Member) -> Result<(), OrderError> {
        let mut seen = self.seen.clone();
        let is_known = |seen: &Seen| seen.contains_key(member.id().as_str());
        let known = timeout(READY_WITHIN, seen.wait_for(is_known)).await;
        let is_announced = matches!(known, Ok(Ok(_)));
        // One that was told to end meanwhile did what it was told.
        if is_announced || member.is_gone() || member.is_leaving() {
            return Ok(());
        }
        Err(OrderError::NotReady {
            id: member.id().clone(),
        })
    }

    fn find(&self, id: &NodeId) -> Result<Member, OrderError> {
        let running = self.running();
        let ids = || {
            running
                .iter()
                .map(|member| member.id().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let found = running.iter().find(|member| member.id() == id).cloned();
        found.ok_or_else(|| OrderError::UnknownNode {
            asked: id.clone(),
            running: ids(),
        })
    }

    /// In the order in which they were started.
    fn running(&self) -> Vec<Member> {
        let mut members = self.members();
        members.by_number.retain(|_, member| !member.is_gone());
        members.by_number.values().cloned().collect()
    }

    fn next_number(&self) -> u32 {
        let mut members = self.members();
        members.last_number += 1;
        members.last_number
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Numbers and members change in single steps, so a poisoned list is whole.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn all_leave(members: impl Iterator<Item = Member>) {
    let mut leaving: JoinSet<()> = members
        .map(|member| async move { member.leave().await })
        .collect();
    while leaving.join_next().await.is_some() {}
}

/// Nodes that run come first, in the order of their start; then those that only the registry still knows.
fn nodes(running: &[Member], seen: &Seen) -> Vec<NodeStatus> {
    let here = running.iter().map(|member| {
        let record = seen.get(member.id().as_str());
        NodeStatus {
            id: member.id().clone(),
            state: state(member.is_leaving(), record),
            address: member.web().to_string(),
            incarnation: record.map(|record| record.incarnation),
        }
    });
    let is_here = |id: &str| running.iter().any(|member| member.id().as_str() == id);
    let gone = seen
        .values()
        .filter(|record| !is_here(&record.id))
        .map(dead);
    here.chain(gone).collect()
}

fn state(is_leaving: bool, record: Option<&NodeRecord>) -> State {
    match record.map(|record| record.state) {
        _ if is_leaving => State::Leaving,
        None => State::Starting,
        Some(NodeState::Ready) => State::Ready,
        Some(NodeState::Leaving) => State::Leaving,
    }
}

fn dead(record: &NodeRecord) -> NodeStatus {
    NodeStatus {
        id: record.id.as_str().into(),
        state: State::Dead,
        address: record.services.get("web").cloned().unwrap_or_default(),
        incarnation: Some(record.incarnation),
    }
}

async fn follow(registry: Registry, seen: watch::Sender<Seen>) {
    let mut events = registry.watch::<NodeRecord>();
    loop {
        match events.next().await {
            Event::Listed { records, .. } => {
                seen.send_replace(
                    records
                        .into_iter()
                        .map(|record| (record.id.clone(), record))
                        .collect(),
                );
            }
            Event::Put { record, .. } => {
                seen.send_modify(|seen| drop(seen.insert(record.id.clone(), record)));
            }
            Event::Deleted { id, .. } => seen.send_modify(|seen| drop(seen.remove(&id))),
            Event::Current { .. } | Event::Lost { .. } | Event::Malformed { .. } => {}
        }
    }
}
