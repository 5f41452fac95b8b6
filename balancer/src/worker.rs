//! One core: its services, its connections, its thread. Nothing in here is shared with another core except through atomics.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use balancer_core::{
    endpoint::Endpoint, limit::memory::Pressure, membership::ServiceIdx, name::NodeId,
    table::RouteTable,
};
use fastrand::Rng;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::{self, Listener},
    admin::Pulse,
    admit::Admission,
    lifeline::{Lifelines, Order, SWEEP_INTERVAL},
    net,
    observe::AccessLog,
    pick::Service,
};

/// Batches of changes that may wait for a core; past it the view waits with them.
pub(crate) const ORDERS_WAITING: usize = 256;

/// Suspicions that may wait to be looked into; past it they are dropped, because the next failure repeats them.
pub(crate) const SUSPICIONS_WAITING: usize = 1024;

/// Connections to nodes are looked at once in as many sweeps.
const NODE_SWEEP_EVERY: u64 = 4;

/// What the view tells each core to do. All cores obey the same orders in the same sequence.
#[derive(Debug)]
pub(crate) enum Change {
    Offer {
        service: ServiceIdx,
        endpoint: Arc<Endpoint>,
    },
    Withdraw {
        service: ServiceIdx,
        node: NodeId,
    },
    /// An endpoint that was suspected is trusted again; who waits for one may try it.
    Trust {
        service: ServiceIdx,
    },
}

/// Changes that are applied together, and the number by which each core confirms them.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) number: u64,
    pub(crate) changes: Vec<Change>,
}

/// How far this core has come with the batches it was sent.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) number: AtomicU64,
    changed: Arc<Notify>,
}

impl Applied {
    /// `changed` wakes the view; all cores share it.
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Self {
            number: AtomicU64::new(0),
            changed,
        }
    }
}

/// A core could not reach an endpoint.
#[derive(Debug)]
pub(crate) struct Suspicion {
    pub(crate) service: ServiceIdx,
    pub(crate) node: NodeId,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) routes: Arc<RouteTable<Target>>,
    pub(crate) lifelines: Arc<Lifelines>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) log: AccessLog,
    pub(crate) stop: CancellationToken,
    pub(crate) connections: TaskTracker,
    pub(crate) suspicions: mpsc::Sender<Suspicion>,
    pub(crate) rng: Mutex<Rng>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) epoch: Instant,
}

/// Where a route leads.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) route: Arc<str>,
    /// The route's place in the configuration.
    pub(crate) route_idx: usize,
    pub(crate) service: usize,
}

/// What a core is started with.
pub(crate) struct Start {
    pub(crate) worker: Worker,
    pub(crate) listeners: Vec<(Arc<Listener>, std::net::TcpListener)>,
    pub(crate) batches: mpsc::Receiver<Arc<Batch>>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) leave: oneshot::Receiver<Duration>,
}

impl Worker {
    /// Tells the others that `service`'s endpoint could not be reached; only the first to notice does.
    pub(crate) fn suspect(&self, service: &Service, endpoint: &Endpoint) {
        if endpoint.suspect() {
            let suspicion = Suspicion {
                service: ServiceIdx(service.idx),
                node: endpoint.node.clone(),
            };
            // A full queue means that plenty is being looked into; the endpoint stays suspected and is reported again.
            if self.suspicions.try_send(suspicion).is_err() {
                endpoint.trust();
            }
        }
    }

    pub(crate) fn with_rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs one core on the calling thread until it has left.
///
/// # Errors
/// When the runtime cannot be built or a socket cannot be adopted.
pub(crate) fn run(start: Start) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The default polls sockets every 61 tasks: under load that batches better than it delays.
        .build()?;
    runtime.block_on(live(start))
}

async fn live(start: Start) -> io::Result<()> {
    let worker = Arc::new(start.worker);
    for (listener, socket) in start.listeners {
        let socket = net::adopt(socket)?;
        worker
            .connections
            .spawn(accept::accept_all(worker.clone(), listener, socket));
    }
    tokio::spawn(obey(worker.clone(), start.batches, start.applied));
    let sweeper = tokio::spawn(sweep(worker.clone()));
    if let Ok(deadline) = start.leave.await {
        leave(&worker, deadline).await;
    }
    sweeper.abort();
    worker.log.flush();
    Ok(())
}

async fn obey(worker: Arc<Worker>, mut batches: mpsc::Receiver<Arc<Batch>>, applied: Arc<Applied>) {
    while let Some(batch) = batches.recv().await {
        for change in &batch.changes {
            apply(&worker, change);
        }
        applied.number.store(batch.number, Relaxed);
        applied.changed.notify_one();
    }
}

fn apply(worker: &Worker, change: &Change) {
    match change {
        Change::Offer { service, endpoint } => worker.services[service.0].offer(endpoint.clone()),
        Change::Withdraw { service, node } => worker.services[service.0].withdraw(node),
        Change::Trust { service } => worker.services[service.0].announce_arrival(),
    }
}

async fn sweep(worker: Arc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for n in 0u64.. {
        ticks.tick().await;
        let now = Instant::now();
        worker.lifelines.sweep(now);
        if worker.admission.pressure() > Pressure::None {
            let closed = worker.lifelines.shed_idle();
            worker
                .admission
                .metrics
                .idle_closed
                .increment(closed as u64);
        }
        // Nobody waits for a connection to a node to be tidied up, and there may be ten thousand nodes.
        if n.is_multiple_of(NODE_SWEEP_EVERY) {
            worker.services.iter().for_each(|it| it.sweep(now));
        }
        worker.log.flush();
        let age = now.saturating_duration_since(worker.epoch).as_millis() as u64;
        worker.pulse.0.store(age, Relaxed);
    }
}

/// Stops accepting, lets what is under way end, and cuts what has not ended by the deadline.
async fn leave(worker: &Worker, deadline: Duration) {
    worker.stop.cancel();
    worker.connections.close();
    worker.lifelines.tell_all(Order::Drain);
    if tokio::time::timeout(deadline, worker.connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            left = worker.connections.len(),
            "the drain deadline has come: cutting what is left"
        );
        worker.lifelines.tell_all(Order::Cut);
        worker.connections.wait().await;
    }
}
