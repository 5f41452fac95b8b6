//! How a balancer comes to be: everything that can fail is done before anything runs, then the threads are started.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use balancer_core::{
    health,
    membership::{Membership, Rules, Source, Watched},
};
use fastrand::Rng;
use registry::Registry;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Balancer, Beginning, StartError};
use crate::{
    admin::{self, Admin, Pulse},
    config::{self, Discover, ProbeKind},
    net,
    observe::{AccessLog, AccessSink, Metrics, ReloadMetrics, TakeoverMetrics},
    reload::{self, Reloader},
    scene::Scene,
    takeover::{Elder, HeirStream, Inherited},
    watch::{self, Core, Order, Question, ViewStart},
    worker::{self, Applied, Change, ORDERS_WAITING, SUSPICIONS_WAITING, Suspicion, Worker},
    world::{Committed, World},
};

/// Questions of the admin API that may wait for the view.
const QUESTIONS_WAITING: usize = 64;

/// Reloads and steps of a takeover that may wait for the view.
const VIEW_ORDERS_WAITING: usize = 16;

/// Everything that can fail, done before anything runs.
pub(super) struct Plan {
    world: World,
    first: Committed,
    registry: Option<Registry>,
    metrics: Arc<Metrics>,
    sink: AccessSink,
    admin: TcpListener,
    admin_address: SocketAddr,
    predecessor: Option<HeirStream>,
    epoch: Instant,
}

/// The channels by which the threads are joined.
struct Lines {
    suspicions: (mpsc::Sender<Suspicion>, mpsc::Receiver<Suspicion>),
    questions: (mpsc::Sender<Question>, mpsc::Receiver<Question>),
    orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
    applied_changed: Arc<Notify>,
    draining: Arc<AtomicBool>,
    admin_ends: CancellationToken,
}

#[derive(Default)]
struct Cores {
    threads: Vec<(oneshot::Sender<Duration>, JoinHandle<()>)>,
    pulses: Vec<Arc<Pulse>>,
    cores: Vec<Core>,
}

/// What the thread beside the cores is started with.
struct Control {
    view: ViewStart,
    socket: TcpListener,
    admin: Arc<Admin>,
    gate: AdminGate,
    reloader: Reloader,
    leave: oneshot::Receiver<()>,
}

/// From when until when the admin address is answered by this process.
struct AdminGate {
    begins: oneshot::Receiver<()>,
    ends: CancellationToken,
}

impl Plan {
    pub(super) fn new(
        beginning: Beginning,
        sink: AccessSink,
    ) -> Result<(Self, Option<reload::Source>), StartError> {
        let config = beginning.config;
        let metrics = Arc::new(Metrics::new()?);
        let (mut inherited, predecessor) = match beginning.heir {
            Some(heir) => (heir.inherited, Some(heir.stream)),
            None => (Inherited::default(), None),
        };
        let address = config.admin.address;
        let mut world = World::new(config.clone(), metrics.clone());
        let prepared = world.prepare(config, &mut inherited)?;
        let first = world.commit(prepared);
        let failed = |cause| StartError::Admin { address, cause };
        let admin = match inherited.admin {
            Some(admin) if is_at(&admin, address) => admin,
            _ => net::listen(address, 1).map_err(failed)?.remove(0),
        };
        let plan = Self {
            admin_address: admin.local_addr().map_err(failed)?,
            world,
            first,
            registry: beginning.registry,
            metrics,
            sink,
            admin,
            predecessor,
            epoch: Instant::now(),
        };
        Ok((plan, beginning.source))
    }

    pub(super) fn start(
        mut self,
        source: Option<reload::Source>,
        log_written: oneshot::Receiver<()>,
    ) -> Result<Balancer, StartError> {
        let lines = Lines::new();
        let succeeded = Arc::new(Notify::new());
        let elder = self.elder(&lines, &succeeded)?;
        let mut shut = std::mem::take(&mut self.first.openings);
        let mut changes = vec![Change::Scene(self.first.change.clone())];
        if self.predecessor.is_none() {
            changes.extend(shut.drain(..).map(Change::Open));
        }
        let cores = self.start_cores(&changes, &lines)?;
        let (reloads, reloader) = Reloader::new(
            source,
            self.world.in_force(),
            lines.orders.0.clone(),
            self.metrics.scoped(ReloadMetrics::new),
        );
        let admin = self.admin_state(&lines, cores.pulses, reloads.clone());
        let (begin, begins) = oneshot::channel();
        let mut admin_begins = Some(begin);
        if self.predecessor.is_none()
            && let Some(begin) = admin_begins.take()
        {
            // It is received below.
            let _ = begin.send(());
        }
        let ends = lines.admin_ends.clone();
        let (leave, left) = oneshot::channel();
        let mut balancer = Balancer {
            listeners: self.world.addresses(),
            admin: self.admin_address,
            in_force: self.world.in_force(),
            kept: self.world.kept_sockets(),
            draining: lines.draining.clone(),
            cores: cores.threads,
            control: None,
            log_written,
            reloads,
            orders: lines.orders.0.clone(),
            questions: lines.questions.0.clone(),
            admin_begins,
            predecessor: self.predecessor.take(),
            elder,
            succeeded,
        };
        let control_start = Control {
            socket: self.admin,
            admin,
            gate: AdminGate { begins, ends },
            reloader,
            leave: left,
            view: ViewStart {
                membership: membership(&self.world),
                shut,
                registry: self.registry,
                cores: cores.cores,
                suspicions: lines.suspicions.1,
                questions: lines.questions.1,
                orders: lines.orders.1,
                draining: lines.draining,
                applied_changed: lines.applied_changed,
                metrics: self.metrics.view.clone(),
                incarnation: incarnation(),
                address: balancer
                    .listeners
                    .first()
                    .map(|(_, it)| it.to_string())
                    .unwrap_or_default(),
                world: self.world,
            },
        };
        let thread = spawn("control".to_owned(), move || control(control_start))?;
        balancer.control = Some((leave, thread));
        Ok(balancer)
    }

    fn start_cores(&self, changes: &[Change], lines: &Lines) -> Result<Cores, StartError> {
        let mut cores = Cores::default();
        for core in 0..self.world.config().workers {
            let applied = Arc::new(Applied::new(lines.applied_changed.clone()));
            let pulse = Arc::new(Pulse(AtomicU64::new(0)));
            let (batches, inbox) = mpsc::channel(ORDERS_WAITING);
            let (leave, left) = oneshot::channel();
            let start = worker::Start {
                worker: self.worker(core, lines.suspicions.0.clone(), pulse.clone()),
                changes: changes.to_vec(),
                batches: inbox,
                applied: applied.clone(),
                leave: left,
            };
            let thread = spawn(format!("core-{core}"), move || worker::run(start))?;
            cores.threads.push((leave, thread));
            cores.pulses.push(pulse);
            cores.cores.push(Core { batches, applied });
        }
        Ok(cores)
    }

    fn worker(
        &self,
        core: usize,
        suspicions: mpsc::Sender<Suspicion>,
        pulse: Arc<Pulse>,
    ) -> Worker {
        Worker {
            core,
            scene: ArcSwap::from_pointee(Scene::default()),
            doors: Mutex::default(),
            farewells: Mutex::default(),
            log: AccessLog::new(self.sink.clone(), self.metrics.view.log_dropped.clone()),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
            suspicions,
            rng: Mutex::new(Rng::new()),
            pulse,
            epoch: self.epoch,
        }
    }

    fn admin_state(
        &self,
        lines: &Lines,
        pulses: Vec<Arc<Pulse>>,
        reloads: reload::Handle,
    ) -> Arc<Admin> {
        Arc::new(Admin {
            config: self.world.in_force(),
            metrics: self.metrics.handle(),
            questions: lines.questions.0.clone(),
            pulses,
            started: self.epoch,
            draining: lines.draining.clone(),
            reloads,
        })
    }

    fn elder(&self, lines: &Lines, succeeded: &Arc<Notify>) -> Result<Option<Elder>, StartError> {
        let Some(config) = self.world.config().takeover.clone() else {
            return Ok(None);
        };
        let failed = |cause| {
            let path = config.socket.clone();
            StartError::Successors { path, cause }
        };
        let listener = match self.predecessor {
            Some(_) => None,
            None => Some(net::listen_at_path(&config.socket).map_err(failed)?),
        };
        Ok(Some(Elder {
            listener,
            config,
            orders: lines.orders.0.clone(),
            admin: self.admin.try_clone().map_err(StartError::SecondHandle)?,
            admin_ends: lines.admin_ends.clone(),
            metrics: self.metrics.scoped(TakeoverMetrics::new),
            succeeded: succeeded.clone(),
        }))
    }
}

impl Lines {
    fn new() -> Self {
        Self {
            suspicions: mpsc::channel(SUSPICIONS_WAITING),
            questions: mpsc::channel(QUESTIONS_WAITING),
            orders: mpsc::channel(VIEW_ORDERS_WAITING),
            applied_changed: Arc::new(Notify::new()),
            draining: Arc::new(AtomicBool::new(false)),
            admin_ends: CancellationToken::new(),
        }
    }
}

/// An inherited admin socket is of use where it is configured still; a port that the system chose is any.
fn is_at(socket: &TcpListener, address: SocketAddr) -> bool {
    let bound = socket.local_addr();
    bound.is_ok_and(|it| it == address || (address.port() == 0 && it.ip() == address.ip()))
}

/// The thread beside the cores: the view and the admin address.
fn control(start: Control) -> io::Result<()> {
    let Control {
        view,
        socket,
        admin,
        gate,
        reloader,
        leave,
    } = start;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let socket = net::adopt(socket)?;
        let metrics = admin.metrics.clone();
        tokio::spawn(serve_admin(socket, admin, gate));
        tokio::spawn(reloader.run());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                // Histograms keep every sample until this is called; nobody may ever scrape.
                metrics.run_upkeep();
            }
        });
        watch::run(view, leave).await;
        Ok(())
    })
}

/// While two processes have the admin socket only one of them answers there.
async fn serve_admin(socket: tokio::net::TcpListener, admin: Arc<Admin>, gate: AdminGate) {
    if gate.begins.await.is_err() {
        return;
    }
    let ended = gate.ends.cancelled_owned();
    let serving = axum::serve(socket, admin::router(admin)).with_graceful_shutdown(ended);
    if let Err(err) = serving.await {
        tracing::error!(%err, "serving the admin address");
    }
}

fn spawn(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let reported = name.clone();
    std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            if let Err(err) = run() {
                tracing::error!(thread = reported, %err, "a thread of the balancer ended");
            }
        })
        .map_err(StartError::Thread)
}

fn membership(world: &World) -> Membership {
    let rules = Rules {
        lost_for_max: world.config().membership.lost_for_max,
    };
    let mut membership = Membership::new(rules, Vec::new(), Rng::new());
    let now = Instant::now();
    for service in world.services() {
        membership.handle_service(now, service.idx, watched(&service.policy));
    }
    membership
}

/// A service as the membership sees it.
pub(crate) fn watched(service: &config::Service) -> Watched {
    Watched {
        name: service.name.clone(),
        source: match service.discover {
            Discover::Registry => Source::Registry,
            Discover::Static(_) | Discover::Dns(_) => Source::Addresses,
        },
        probing: health::Policy {
            regular: service.probe.kind != ProbeKind::Off,
            interval: service.probe.interval,
            healthy_after: service.probe.healthy_after,
            unhealthy_after: service.probe.unhealthy_after,
        },
    }
}

/// Which life of this balancer it is: the time of its start, in microseconds, tells two of them apart and in order.
pub(crate) fn incarnation() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros() as u64
}
