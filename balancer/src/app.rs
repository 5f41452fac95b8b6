//! Builds a balancer whole from its configuration, starts it, and ends it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use balancer_core::{
    health,
    membership::{Membership, Rules, Source, Watched},
    retry::Budget,
    table::{HostPatternError, PathPrefixError, RouteTable, Rule, TableError},
};
use fastrand::Rng;
use metrics_exporter_prometheus::BuildError;
use registry::Registry;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::Listener,
    admin::{self, Admin, Pulse},
    admit::{self, Admission},
    config::{self, Config, Discover, ProbeKind},
    gate::Gate,
    lifeline::Lifelines,
    net,
    observe::{
        AccessLog, AccessSink, Metrics,
        admission::{AdmissionMetrics, GateMetrics, RefusalMetrics},
    },
    pick::{Service, ServiceWide},
    tls::{Tls, TlsLoadError},
    watch::{self, Core, ViewStart},
    worker::{self, Applied, ORDERS_WAITING, SUSPICIONS_WAITING, Target, Worker},
};

/// Questions of the admin API that may wait for the view.
const QUESTIONS_WAITING: usize = 64;

/// How long the last access lines may take to be written; whoever reads them may be stuck.
const LOG_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum StartError {
    #[error("listener `{name}`: cannot listen on {address}: {cause}")]
    Listen {
        name: String,
        address: SocketAddr,
        cause: io::Error,
    },
    #[error("admin: cannot listen on {address}: {cause}")]
    Admin {
        address: SocketAddr,
        cause: io::Error,
    },
    #[error("TLS: {0}")]
    Tls(#[from] TlsLoadError),
    #[error("opening the access log: {0}")]
    AccessLog(io::Error),
    #[error("the routes contradict each other: {0}")]
    Routes(#[from] TableError),
    #[error("route `{route}`: {cause}")]
    Host {
        route: String,
        cause: HostPatternError,
    },
    #[error("route `{route}`: {cause}")]
    Path {
        route: String,
        cause: PathPrefixError,
    },
    #[error("service `{0}` is found through the registry, but there is no [registry]")]
    NoRegistry(String),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] BuildError),
    #[error("starting a thread: {0}")]
    Thread(io::Error),
}

/// A running balancer. Dropping it without [`Balancer::leave`] lets it run on.
#[derive(Debug)]
pub struct Balancer {
    listeners: Vec<(String, SocketAddr)>,
    admin: SocketAddr,
    drain_deadline: Duration,
    draining: Arc<AtomicBool>,
    cores: Vec<(oneshot::Sender<Duration>, JoinHandle<()>)>,
    control: (oneshot::Sender<()>, JoinHandle<()>),
    log_written: oneshot::Receiver<()>,
}

impl Balancer {
    /// Opens every socket, then starts one thread per core and one that keeps the view.
    ///
    /// # Errors
    /// When anything cannot be had; then nothing was started.
    pub fn start(config: Config, registry: Option<Registry>) -> Result<Self, StartError> {
        check_registry(&config, registry.as_ref())?;
        let (sink, log_written) =
            AccessSink::open(&config.log.access).map_err(StartError::AccessLog)?;
        let plan = Plan::new(Arc::new(config), registry, sink)?;
        plan.start(log_written)
    }

    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        self.listeners.clone()
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Accepts nothing new, lets what is under way end until the drain deadline, then goes.
    pub async fn leave(self) {
        self.draining.store(true, Relaxed);
        let mut threads = Vec::new();
        for (leave, thread) in self.cores {
            // A core that is gone already has left.
            let _ = leave.send(self.drain_deadline);
            threads.push(thread);
        }
        join(threads).await;
        let (leave, thread) = self.control;
        let _ = leave.send(());
        join(vec![thread]).await;
        if let Err(err) = tokio::time::timeout(LOG_WITHIN, self.log_written).await {
            tracing::warn!(%err, "the last access lines are lost");
        }
    }
}

fn check_registry(config: &Config, registry: Option<&Registry>) -> Result<(), StartError> {
    let orphan = config
        .services
        .iter()
        .find(|it| it.discover == Discover::Registry);
    match (orphan, registry) {
        (Some(service), None) => Err(StartError::NoRegistry(service.name.to_string())),
        _ => Ok(()),
    }
}

async fn join(threads: Vec<JoinHandle<()>>) {
    let joined = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the balancer panicked");
            }
        }
    });
    if joined.await.is_err() {
        tracing::error!("waiting for the balancer's threads was interrupted");
    }
}

/// Everything that can fail, done before anything runs.
struct Plan {
    config: Arc<Config>,
    registry: Option<Registry>,
    metrics: Metrics,
    tls: Arc<Tls>,
    sink: AccessSink,
    routes: Arc<RouteTable<Target>>,
    admission: Arc<Admission>,
    listeners: Vec<Arc<Listener>>,
    /// By listener, then by core.
    sockets: Vec<Vec<std::net::TcpListener>>,
    addresses: Vec<(String, SocketAddr)>,
    admin: std::net::TcpListener,
    admin_address: SocketAddr,
    epoch: Instant,
}

impl Plan {
    fn new(
        config: Arc<Config>,
        registry: Option<Registry>,
        sink: AccessSink,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::new()?;
        let routes = Arc::new(table(&config)?);
        let tls = Arc::new(Tls::load(&config, &metrics, None)?);
        let mut sockets = Vec::new();
        let mut addresses = Vec::new();
        for listener in &config.listeners {
            let address = listener.address;
            let failed = |cause| StartError::Listen {
                name: listener.name.to_string(),
                address,
                cause,
            };
            let opened = net::listen(address, config.workers).map_err(failed)?;
            addresses.push((
                listener.name.to_string(),
                opened[0].local_addr().map_err(failed)?,
            ));
            sockets.push(opened);
        }
        let address = config.admin.address;
        let failed = |cause| StartError::Admin { address, cause };
        let admin = net::listen(address, 1).map_err(failed)?.remove(0);
        let admin_address = admin.local_addr().map_err(failed)?;
        let epoch = Instant::now();
        let admission = metrics
            .with(|| Admission::new(config.admission.clone(), epoch, AdmissionMetrics::new()));
        let listener = |(idx, it): (usize, &config::Listener)| {
            let name = it.name.as_str();
            let refusals = metrics.with(|| RefusalMetrics::new(name));
            let counted = metrics.listener(name);
            let terminator = tls.terminator(idx);
            let admission = admission.clone();
            Listener::new(idx, it.clone(), counted, refusals, admission, terminator)
        };
        let listeners = config.listeners.iter().enumerate().map(listener).collect();
        Ok(Self {
            config,
            registry,
            metrics,
            tls,
            sink,
            routes,
            admission,
            listeners,
            sockets,
            addresses,
            admin,
            admin_address,
            epoch,
        })
    }

    fn start(mut self, log_written: oneshot::Receiver<()>) -> Result<Balancer, StartError> {
        let (suspicions, suspected) = mpsc::channel(SUSPICIONS_WAITING);
        let applied_changed = Arc::new(Notify::new());
        let of_service = |(idx, it)| self.service_wide(idx, it);
        let services = self.config.services.iter().enumerate();
        let services: Vec<_> = services.map(of_service).collect();
        let (mut cores, mut threads, mut pulses) = (Vec::new(), Vec::new(), Vec::new());
        for idx in 0..self.config.workers {
            let applied = Arc::new(Applied::new(applied_changed.clone()));
            let pulse = Arc::new(Pulse::default());
            let (batches, inbox) = mpsc::channel(ORDERS_WAITING);
            let (leave, left) = oneshot::channel();
            let start = worker::Start {
                worker: self.worker(&services, suspicions.clone(), pulse.clone()),
                listeners: self.sockets_of_core(),
                batches: inbox,
                applied: applied.clone(),
                leave: left,
            };
            let thread = spawn(format!("core-{idx}"), move || worker::run(start))?;
            cores.push(Core { batches, applied });
            threads.push((leave, thread));
            pulses.push(pulse);
        }
        let draining = Arc::new(AtomicBool::new(false));
        let (questions, asked) = mpsc::channel(QUESTIONS_WAITING);
        let admin = Arc::new(Admin {
            config: self.config.clone(),
            metrics: self.metrics.handle(),
            questions,
            pulses,
            started: self.epoch,
            draining: draining.clone(),
        });
        let drain_deadline = self.config.drain_deadline;
        let (listeners, admin_address) = (self.addresses.clone(), self.admin_address);
        let control = self.start_control(cores, suspected, asked, applied_changed, admin)?;
        Ok(Balancer {
            listeners,
            admin: admin_address,
            drain_deadline,
            draining,
            cores: threads,
            control,
            log_written,
        })
    }

    fn worker(
        &self,
        services: &[ServiceWide],
        suspicions: mpsc::Sender<worker::Suspicion>,
        pulse: Arc<Pulse>,
    ) -> Worker {
        let services = services
            .iter()
            .enumerate()
            .map(|(idx, wide)| {
                let policy = self.config.services[idx].clone();
                let metrics = self.metrics.service(policy.name.as_str());
                Arc::new(Service::new(
                    idx,
                    policy,
                    metrics,
                    wide.clone(),
                    self.epoch,
                    Rng::new(),
                ))
            })
            .collect();
        Worker {
            services,
            routes: self.routes.clone(),
            lifelines: Lifelines::new(self.epoch),
            admission: self.admission.clone(),
            log: AccessLog::new(self.sink.clone(), self.metrics.view.log_dropped.clone()),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
            suspicions,
            rng: Mutex::new(Rng::new()),
            pulse,
            epoch: self.epoch,
        }
    }

    fn service_wide(&self, idx: usize, service: &config::Service) -> ServiceWide {
        let name = service.name.as_str();
        let metrics = self.metrics.with(|| GateMetrics::new(name));
        ServiceWide {
            budget: Arc::new(Budget::new(service.retry_ratio)),
            gate: Gate::new(service, metrics, self.epoch, Rng::new()),
            connector: self.tls.connector(idx),
        }
    }

    fn sockets_of_core(&mut self) -> Vec<(Arc<Listener>, std::net::TcpListener)> {
        let of_core = self.sockets.iter_mut().filter_map(Vec::pop);
        self.listeners.iter().cloned().zip(of_core).collect()
    }

    fn start_control(
        self,
        cores: Vec<Core>,
        suspicions: mpsc::Receiver<worker::Suspicion>,
        questions: mpsc::Receiver<watch::Question>,
        applied_changed: Arc<Notify>,
        admin: Arc<Admin>,
    ) -> Result<(oneshot::Sender<()>, JoinHandle<()>), StartError> {
        let view = ViewStart {
            membership: membership(&self.config),
            registry: self.registry,
            cores,
            suspicions,
            questions,
            applied_changed,
            service_metrics: self
                .config
                .services
                .iter()
                .map(|it| self.metrics.service(it.name.as_str()))
                .collect(),
            connectors: (0..self.config.services.len())
                .map(|idx| self.tls.connector(idx))
                .collect(),
            metrics: self.metrics.view.clone(),
            incarnation: incarnation(),
            address: self
                .addresses
                .first()
                .map(|(_, it)| it.to_string())
                .unwrap_or_default(),
            config: self.config,
        };
        let (leave, left) = oneshot::channel();
        let background = (self.tls, self.admission);
        let socket = self.admin;
        let thread = spawn("control".to_owned(), move || {
            control(view, background, socket, admin, left)
        })?;
        Ok((leave, thread))
    }
}

/// The thread beside the cores: the view and the admin address.
fn control(
    view: ViewStart,
    (tls, admission): (Arc<Tls>, Arc<Admission>),
    socket: std::net::TcpListener,
    admin: Arc<Admin>,
    leave: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let socket = net::adopt(socket)?;
        let metrics = admin.metrics.clone();
        tokio::spawn(async move {
            if let Err(err) = axum::serve(socket, admin::router(admin)).await {
                tracing::error!(%err, "serving the admin address");
            }
        });
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                // Histograms keep every sample until this is called; nobody may ever scrape.
                metrics.run_upkeep();
            }
        });
        // The runtime ends with this thread, and both watches with it.
        tokio::spawn(tls.watch());
        tokio::spawn(admit::watch_memory(admission));
        watch::run(view, leave).await;
        Ok(())
    })
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

fn table(config: &Config) -> Result<RouteTable<Target>, StartError> {
    let mut routes = Vec::new();
    for (route_idx, route) in config.routes.iter().enumerate() {
        let target = Target {
            route_idx,
            route: route.name.as_str().into(),
            service: route.service,
        };
        routes.push((rule(route)?, target));
    }
    Ok(RouteTable::build(routes)?)
}

fn rule(route: &config::Route) -> Result<Rule, StartError> {
    let name = || route.name.clone();
    let hosts: Result<Vec<_>, _> = route.hosts.iter().map(|it| it.parse()).collect();
    Ok(Rule {
        name: route.name.as_str().into(),
        listeners: route.listeners.clone(),
        hosts: hosts.map_err(|cause| StartError::Host {
            route: name(),
            cause,
        })?,
        path: route.path.parse().map_err(|cause| StartError::Path {
            route: name(),
            cause,
        })?,
    })
}

fn membership(config: &Config) -> Membership {
    let rules = Rules {
        lost_for_max: config.membership.lost_for_max,
    };
    let watched = config.services.iter().map(|service| Watched {
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
    });
    Membership::new(rules, watched.collect(), Rng::new())
}

/// Which life of this balancer it is: the time of its start, in microseconds, tells two of them apart and in order.
fn incarnation() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros() as u64
}
