//! One core: its services, its connections, its thread. Nothing in here is shared with another core except through atomics.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use balancer_core::{
    endpoint::Endpoint, limit::memory::Pressure, membership::ServiceIdx, name::NodeId,
    picker::maglev,
};
use fastrand::Rng;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::{self, Listener},
    admin::Pulse,
    admit::Admission,
    explain::Page,
    lifeline::{Order, SWEEP_INTERVAL},
    net,
    observe::AccessLog,
    pick::Service,
    scene::{Door, Opening, Scene, SceneChange},
    trace_export::Exporter,
};

/// Batches of changes that may wait for a core; past it the view waits with them.
pub(crate) const ORDERS_WAITING: usize = 256;

/// Suspicions that may wait to be looked into; past it they are dropped, because the next failure repeats them.
pub(crate) const SUSPICIONS_WAITING: usize = 1024;

/// Connections to nodes are looked at once in as many sweeps.
const NODE_SWEEP_EVERY: u64 = 4;

/// What the view tells each core to do. All cores obey the same orders in the same sequence.
#[derive(Debug, Clone)]
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
    /// Who gets which keys.
    Table {
        service: ServiceIdx,
        table: Arc<maglev::Table>,
    },
    /// Everything that the configuration decides, at once.
    Scene(Arc<SceneChange>),
    Open(Arc<Opening>),
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

/// A core sees something wrong with an endpoint.
#[derive(Debug)]
pub(crate) struct Suspicion {
    pub(crate) service: ServiceIdx,
    pub(crate) node: NodeId,
    pub(crate) symptom: Symptom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symptom {
    /// It could not be reached, or broke off.
    Unreachable,
    /// It answers, but too many of its answers in a row are failures.
    Failing,
}

#[derive(Debug)]
pub(crate) struct Worker {
    /// Its place among the cores.
    pub(crate) core: usize,
    pub(crate) scene: ArcSwap<Scene>,
    /// By listener; closed ones stay until the last of their connections must be gone.
    pub(crate) doors: Mutex<BTreeMap<usize, Arc<Door>>>,
    /// The last scene of each closed door, by which its connections go.
    pub(crate) farewells: Mutex<BTreeMap<usize, Arc<Scene>>>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) log: AccessLog,
    pub(crate) stop: CancellationToken,
    pub(crate) connections: TaskTracker,
    pub(crate) suspicions: mpsc::Sender<Suspicion>,
    pub(crate) rng: Mutex<Rng>,
    pub(crate) pulse: Arc<Pulse>,
    /// Where its exchanges are remembered.
    pub(crate) page: Arc<Page>,
    /// Where spans go, if there is a collector.
    pub(crate) exporter: Option<Exporter>,
    pub(crate) epoch: Instant,
}

/// What a core is started with.
pub(crate) struct Start {
    pub(crate) worker: Worker,
    /// The first scene and doors.
    pub(crate) changes: Vec<Change>,
    pub(crate) batches: mpsc::Receiver<Arc<Batch>>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) leave: oneshot::Receiver<Duration>,
}

impl Worker {
    /// What a connection of this listener goes by at the moment.
    pub(crate) fn scene_of(&self, listener: &Listener) -> Guard<Arc<Scene>> {
        if listener.door.is_closed.load(Relaxed)
            && let Some(last) = lock(&self.farewells).get(&listener.idx)
        {
            return Guard::from_inner(last.clone());
        }
        self.scene.load()
    }

    /// Tells the others that `service`'s endpoint could not be reached; only the first to notice does.
    pub(crate) fn suspect(&self, service: &Service, endpoint: &Endpoint) {
        service.unreached(endpoint);
        if endpoint.suspect() {
            let suspicion = Suspicion {
                service: ServiceIdx(service.idx),
                node: endpoint.node.clone(),
                symptom: Symptom::Unreachable,
            };
            // A full queue means that plenty is being looked into; the endpoint stays suspected and is reported again.
            if self.suspicions.try_send(suspicion).is_err() {
                endpoint.trust();
            }
        }
    }

    /// Memory is short: those who do nothing are asked to go.
    fn shed_idle(&self) {
        let doors = lock(&self.doors);
        let closed: usize = doors.values().map(|it| it.lifelines.shed_idle()).sum();
        let counter = &self.admission.metrics.idle_closed;
        counter.increment(closed as u64);
    }

    fn tell_all(&self, order: Order) {
        lock(&self.doors)
            .values()
            .for_each(|it| it.lifelines.tell_all(order));
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
    for change in &start.changes {
        apply(&worker, change);
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

fn apply(worker: &Arc<Worker>, change: &Change) {
    let scene = worker.scene.load();
    // A service that is gone has no use for news.
    let of = |service: &ServiceIdx| scene.service(service.0);
    match change {
        Change::Offer { service, endpoint } => {
            of(service).inspect(|it| it.offer(endpoint.clone()));
        }
        Change::Withdraw { service, node } => {
            of(service).inspect(|it| it.withdraw(node));
        }
        Change::Trust { service } => {
            of(service).inspect(|it| it.announce_arrival());
        }
        Change::Table { service, table } => {
            of(service).inspect(|it| it.set_table(table.clone()));
        }
        Change::Scene(change) => enter(worker, change),
        Change::Open(opening) => open(worker, opening),
    }
}

/// Without a pause in between, so that every request of this core sees either the old scene or the new one.
fn enter(worker: &Arc<Worker>, change: &SceneChange) {
    let before = worker.scene.load_full();
    let next = before.next(change, worker);
    worker.scene.store(Arc::new(next));
    let doors = lock(&worker.doors);
    for listener in &change.changed {
        if let Some(door) = doors.get(&listener.idx) {
            door.listener.store(listener.clone());
        }
    }
    for idx in &change.closed {
        if let Some(door) = doors.get(idx) {
            lock(&worker.farewells).insert(*idx, before.clone());
            door.stop.cancel();
            door.lifelines.tell_all(Order::Drain);
            let (worker, idx) = (worker.clone(), *idx);
            tokio::spawn(forget_door(worker, idx, change.drain_deadline));
        }
    }
}

async fn forget_door(worker: Arc<Worker>, idx: usize, deadline: Duration) {
    tokio::time::sleep(deadline).await;
    let door = lock(&worker.doors).remove(&idx);
    if let Some(door) = door {
        door.lifelines.tell_all(Order::Cut);
    }
    lock(&worker.farewells).remove(&idx);
}

fn open(worker: &Arc<Worker>, opening: &Opening) {
    let door = Arc::new(Door::new(opening.listener.clone(), worker));
    for socket in opening.take(worker.core) {
        match net::adopt(socket) {
            Ok(socket) => drop(worker.connections.spawn(accept::accept_all(
                worker.clone(),
                door.clone(),
                socket,
            ))),
            Err(err) => {
                tracing::error!(listener = %opening.listener.name, %err, "adopting a socket");
            }
        }
    }
    lock(&worker.doors).insert(opening.listener.idx, door);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sweep(worker: Arc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for n in 0u64.. {
        ticks.tick().await;
        let now = Instant::now();
        lock(&worker.doors)
            .values()
            .for_each(|it| it.lifelines.sweep(now));
        if worker.admission.pressure() > Pressure::None {
            worker.shed_idle();
        }
        // Nobody waits for a connection to a node to be tidied up, and there may be ten thousand nodes.
        if n.is_multiple_of(NODE_SWEEP_EVERY) {
            worker.scene.load().services().for_each(|it| it.sweep(now));
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
    worker.tell_all(Order::Drain);
    if tokio::time::timeout(deadline, worker.connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            left = worker.connections.len(),
            "the drain deadline has come: cutting what is left"
        );
        worker.tell_all(Order::Cut);
        worker.connections.wait().await;
    }
}
