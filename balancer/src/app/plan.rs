//! How a balancer comes to be: everything that can fail is done before anything runs, then the threads are started.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use balancer_core::membership::{Membership, Rules};
use fastrand::Rng;
use registry::Registry;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Balancer, Beginning, StartError, service::watched};
use crate::{
    admin::{self, Admin, AdminSocket, Doors, Pulse, Token},
    admit::{self, Admission},
    config::{self, Config},
    explain::Book,
    net,
    observe::{AccessLog, AccessSink, Metrics, ReloadMetrics, SpanMetrics, TakeoverMetrics},
    reload::{self, Reloader},
    scene::Scene,
    takeover::{Elder, HeirStream, Inherited},
    tls::{self, Tls},
    trace_export::{self, Exporter, Identity},
    watch::{self, Core, Order, Question, ViewStart},
    worker::{self, Applied, Change, ORDERS_WAITING, SUSPICIONS_WAITING, Suspicion, Worker},
    world::{Committed, World},
};

/// Questions of the admin API that may wait for the view.
const QUESTIONS_WAITING: usize = 64;

/// Reloads and steps of a takeover that may wait for the view.
const VIEW_ORDERS_WAITING: usize = 16;

/// How long the last spans may take to reach the collector.
const LAST_SPANS_WITHIN: Duration = Duration::from_secs(1);

/// Everything that can fail, done before anything runs.
pub(super) struct Plan {
    world: World,
    first: Committed,
    registry: Option<Registry>,
    metrics: Arc<Metrics>,
    sink: AccessSink,
    admin: TcpListener,
    admin_address: SocketAddr,
    /// None where a predecessor has it still, or there is to be none.
    admin_socket: Option<AdminSocket>,
    book: Arc<Book>,
    /// One for each core, where there is a collector.
    exporters: Vec<Exporter>,
    trace_driver: Option<trace_export::Driver>,
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
    address: TcpListener,
    socket: Option<AdminSocket>,
    admin: Arc<Admin>,
    gate: AdminGate,
    trace_driver: Option<trace_export::Driver>,
    reloader: Reloader,
    tls: Arc<ArcSwap<Tls>>,
    admission: Arc<Admission>,
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
        let epoch = Instant::now();
        let mut world = World::new(config.clone(), metrics.clone(), epoch)?;
        let prepared = world.prepare(config, &mut inherited)?;
        let first = world.commit(prepared);
        let failed = |cause| StartError::Admin { address, cause };
        let admin = match inherited.admin {
            Some(admin) if is_at(&admin, address) => admin,
            _ => net::listen(address, 1).map_err(failed)?.remove(0),
        };
        let admin_address = admin.local_addr().map_err(failed)?;
        let config = world.config();
        if let Some(file) = &config.admin.token_file {
            // It is read again at each use; a balancer that nobody could steer should say so at once.
            Token::read(file)?;
        }
        let admin_socket = match predecessor {
            None => AdminSocket::open(&config.admin, admin_address.port())?,
            Some(_) => None,
        };
        let (exporters, trace_driver) = trace_exporters(&config, &metrics);
        let plan = Self {
            admin_address,
            admin_socket,
            book: Arc::new(Book::new(&config.explain, config.workers)),
            exporters,
            trace_driver,
            world,
            first,
            registry: beginning.registry,
            metrics,
            sink,
            admin,
            predecessor,
            epoch,
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
        let (admin_begins, gate) = AdminGate::new(self.predecessor.is_some(), &lines.admin_ends);
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
            log: self.sink.reopener(),
            orders: lines.orders.0.clone(),
            questions: lines.questions.0.clone(),
            admin_begins,
            predecessor: self.predecessor.take(),
            elder,
            succeeded,
        };
        let control_start = Control {
            address: self.admin,
            socket: self.admin_socket,
            admin,
            gate,
            trace_driver: self.trace_driver,
            reloader,
            tls: self.world.tls(),
            admission: self.world.admission(),
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
                epoch: self.epoch,
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
            admission: self.world.admission(),
            log: AccessLog::new(self.sink.clone(), self.metrics.view.log_dropped.clone()),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
            suspicions,
            rng: Mutex::new(Rng::new()),
            pulse,
            page: self.book.page(core),
            exporter: self.exporters.get(core).cloned(),
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
            address: self.admin_address,
            socket: OnceLock::new(),
            book: self.book.clone(),
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

impl AdminGate {
    /// The gate of one that takes over stays shut until it is told; any other's is open.
    fn new(takes_over: bool, ends: &CancellationToken) -> (Option<oneshot::Sender<()>>, Self) {
        let (begin, begins) = oneshot::channel();
        let gate = Self {
            begins,
            ends: ends.clone(),
        };
        match takes_over {
            true => (Some(begin), gate),
            false => {
                // The gate, which receives it, is right here.
                let _ = begin.send(());
                (None, gate)
            }
        }
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

/// The thread beside the cores: the view, the admin address, and spans on their way out.
fn control(start: Control) -> io::Result<()> {
    let Control {
        view,
        address,
        socket,
        admin,
        gate,
        trace_driver,
        reloader,
        tls,
        admission,
        leave,
    } = start;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let address = net::adopt(address)?;
        let metrics = admin.metrics.clone();
        tokio::spawn(serve_admin(Doors { address, socket }, admin, gate));
        tokio::spawn(reloader.run());
        // The runtime ends with this thread, and both watches with it.
        tokio::spawn(tls::watch(tls));
        tokio::spawn(admit::watch_memory(admission));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                // Histograms keep every sample until this is called; nobody may ever scrape.
                metrics.run_upkeep();
            }
        });
        let stop = CancellationToken::new();
        let tracing = trace_driver.map(|it| tokio::spawn(it.run(stop.clone())));
        watch::run(view, leave).await;
        stop.cancel();
        if let Some(tracing) = tracing {
            // Who waits for the process to end does not wait for a collector.
            let _ = tokio::time::timeout(LAST_SPANS_WITHIN, tracing).await;
        }
        Ok(())
    })
}

/// While two processes have the admin address only one of them answers there, and only one has the socket.
async fn serve_admin(mut doors: Doors, admin: Arc<Admin>, gate: AdminGate) {
    if gate.begins.await.is_err() {
        return;
    }
    if doors.socket.is_none() {
        doors.socket = inherit_socket(&admin);
    }
    if let Some(socket) = &doors.socket {
        // It is set once, here.
        let _ = admin.socket.set(socket.path.clone());
    }
    admin::serve(doors, admin::router(admin), gate.ends).await;
}

/// The predecessor has let go of the socket's place, or there is to be none.
fn inherit_socket(admin: &Admin) -> Option<AdminSocket> {
    let config = admin.config.load();
    let opened = AdminSocket::open(&config.admin, admin.address.port());
    opened.unwrap_or_else(|err| {
        tracing::error!(%err, "there is no admin socket");
        None
    })
}

fn trace_exporters(
    config: &Config,
    metrics: &Metrics,
) -> (Vec<Exporter>, Option<trace_export::Driver>) {
    let Some(tracing) = &config.tracing else {
        return (Vec::new(), None);
    };
    let identity = Identity {
        instance: config.id.clone(),
        host: config::host_name(),
    };
    let spans = metrics.scoped(SpanMetrics::new);
    let (exporters, driver) = trace_export::new(tracing, &identity, config.workers, &spans);
    (exporters, Some(driver))
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
    let config = world.config();
    let rules = Rules {
        lost_for_max: config.membership.lost_for_max,
        zone: config.zone.clone(),
    };
    let mut membership = Membership::new(rules, Vec::new(), Rng::new());
    let now = Instant::now();
    for service in world.services() {
        membership.handle_service(now, service.idx, watched(service));
    }
    membership
}

/// Which life of this balancer it is: the time of its start, in microseconds, tells two of them apart and in order.
pub(crate) fn incarnation() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros() as u64
}
