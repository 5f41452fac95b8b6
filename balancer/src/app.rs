//! Builds a balancer whole from its configuration, starts it, has it take over from another, and ends it.

mod plan;
mod service;

pub use crate::observe::LogReopener;
pub(crate) use plan::incarnation;
pub(crate) use service::{sticky, watched};

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use balancer_core::{
    sticky::SecretError,
    table::{HostPatternError, PathPrefixError, TableError},
};
use metrics_exporter_prometheus::BuildError;
use registry::Registry;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    admin::{SocketError, TokenError},
    app::plan::Plan,
    config::{Config, Discover},
    observe::AccessSink,
    reload,
    takeover::{Elder, Heir, HeirStream, TakeoverError},
    tls::TlsLoadError,
    watch::{Order, Question},
    world::{InForce, KeptSockets},
};

/// How long the last access lines may take to be written; whoever reads them may be stuck.
const LOG_WITHIN: Duration = Duration::from_secs(1);

/// How long a balancer that takes over waits for a registry that may not answer; what it remembers has to do after that.
const REGISTRY_WITHIN: Duration = Duration::from_secs(2);

/// How often a balancer that takes over looks whether it is ready.
const READY_LOOKS_EVERY: Duration = Duration::from_millis(10);

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
    #[error("admin socket: {0}")]
    AdminSocket(#[from] SocketError),
    #[error(transparent)]
    AdminToken(#[from] TokenError),
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
    #[error("service `{service}`: reading the secrets of its cookie from {path}: {cause}")]
    SecretFile {
        service: String,
        path: String,
        cause: io::Error,
    },
    #[error("service `{service}`: {path}: {cause}")]
    Secret {
        service: String,
        path: String,
        cause: SecretError,
    },
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] BuildError),
    #[error("starting a thread: {0}")]
    Thread(io::Error),
    #[error("keeping a second handle of a socket: {0}")]
    SecondHandle(io::Error),
    #[error("takeover: cannot listen at {path}: {cause}")]
    Successors { path: PathBuf, cause: io::Error },
}

/// A running balancer. Dropping it without [`Balancer::leave`] lets it run on.
pub struct Balancer {
    listeners: Vec<(String, SocketAddr)>,
    admin: SocketAddr,
    in_force: InForce,
    kept: Arc<KeptSockets>,
    draining: Arc<AtomicBool>,
    cores: Vec<(oneshot::Sender<Duration>, JoinHandle<()>)>,
    /// None while the thread is still to be started.
    control: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    log_written: oneshot::Receiver<()>,
    reloads: reload::Handle,
    log: LogReopener,
    orders: mpsc::Sender<Order>,
    questions: mpsc::Sender<Question>,
    /// While a predecessor answers at the admin address, this one does not.
    admin_begins: Option<oneshot::Sender<()>>,
    predecessor: Option<HeirStream>,
    elder: Option<Elder>,
    succeeded: Arc<Notify>,
}

/// What a balancer begins with.
pub struct Beginning {
    pub config: Config,
    pub registry: Option<Registry>,
    /// Where the configuration can be read again; without it there are no reloads.
    pub source: Option<reload::Source>,
    /// The running balancer to take over from.
    pub heir: Option<Heir>,
}

impl Balancer {
    /// Opens every socket, then starts one thread per core and one that keeps the view. It never reloads its configuration.
    ///
    /// # Errors
    /// When anything cannot be had; then nothing was started.
    pub fn start(config: Config, registry: Option<Registry>) -> Result<Self, StartError> {
        Self::begin(Beginning {
            config,
            registry,
            source: None,
            heir: None,
        })
    }

    /// As [`Balancer::start`], with all that a program can bring. One that takes over accepts nobody before
    /// [`Balancer::take_over`].
    ///
    /// # Errors
    /// When anything cannot be had; then nothing was started.
    pub fn begin(beginning: Beginning) -> Result<Self, StartError> {
        check_registry(&beginning.config, beginning.registry.as_ref())?;
        let (sink, log_written) =
            AccessSink::open(&beginning.config.log.access).map_err(StartError::AccessLog)?;
        let (plan, source) = Plan::new(beginning, sink)?;
        let mut balancer = plan.start(source, log_written)?;
        if balancer.predecessor.is_none() {
            balancer.await_successor().map_err(StartError::Thread)?;
        }
        Ok(balancer)
    }

    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        self.listeners.clone()
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Has the access log's file opened anew, after somebody has moved it away.
    pub fn log(&self) -> LogReopener {
        self.log.clone()
    }

    pub fn reloads(&self) -> reload::Handle {
        self.reloads.clone()
    }

    /// Waits until this balancer can serve, opens its doors, and has the running one let go. Without one it returns at once.
    ///
    /// # Errors
    /// When this balancer is not ready in time, or the running one does not let go; it then has to go, and nothing has happened.
    pub async fn take_over(&mut self) -> Result<(), TakeoverError> {
        let Some(predecessor) = self.predecessor.take() else {
            return Ok(());
        };
        self.until_ready().await?;
        let (reply, opened) = oneshot::channel();
        self.order(Order::Open(reply)).await?;
        opened.await.map_err(|_| TakeoverError::Leaving)?;
        let serves = self.listeners.iter().map(|(_, it)| *it).collect();
        let handed_over = tokio::task::spawn_blocking(move || predecessor.ready(serves)).await;
        handed_over.map_err(|_| TakeoverError::Leaving)??;
        self.order(Order::Succeed).await?;
        if let Some(begin) = self.admin_begins.take() {
            // The control thread ends only with the balancer.
            let _ = begin.send(());
        }
        self.await_successor().map_err(TakeoverError::Listen)
    }

    /// Fires when another process has taken over; what is left is to leave.
    pub async fn succeeded(&self) {
        self.succeeded.notified().await;
    }

    /// Accepts nothing new, lets what is under way end until the drain deadline, then goes.
    pub async fn leave(self) {
        self.draining.store(true, Relaxed);
        self.kept.let_go();
        let drain_deadline = self.in_force.load().drain_deadline;
        let mut threads = Vec::new();
        for (leave, thread) in self.cores {
            // A core that is gone already has left.
            let _ = leave.send(drain_deadline);
            threads.push(thread);
        }
        join(threads).await;
        if let Some((leave, thread)) = self.control {
            let _ = leave.send(());
            join(vec![thread]).await;
        }
        if let Err(err) = tokio::time::timeout(LOG_WITHIN, self.log_written).await {
            tracing::warn!(%err, "the last access lines are lost");
        }
    }

    async fn until_ready(&self) -> Result<(), TakeoverError> {
        let config = self.in_force.load_full();
        let within = config.takeover.as_ref().map(|it| it.ready_timeout);
        let within = within.unwrap_or_default();
        let ready = async {
            let began = Instant::now();
            let mut looks = tokio::time::interval(READY_LOOKS_EVERY);
            loop {
                looks.tick().await;
                if self.is_ready(began.elapsed() < REGISTRY_WITHIN).await? {
                    return Ok(());
                }
            }
        };
        match tokio::time::timeout(within, ready).await {
            Ok(ready) => ready,
            Err(_) => Err(TakeoverError::NotReady(within)),
        }
    }

    /// Remembered nodes make a view too, but its predecessor may have heard of changes since.
    async fn is_ready(&self, waits_for_registry: bool) -> Result<bool, TakeoverError> {
        let (reply, status) = oneshot::channel();
        let asked = self.questions.send(Question::Status(reply)).await;
        asked.map_err(|_| TakeoverError::Leaving)?;
        let status = status.await.map_err(|_| TakeoverError::Leaving)?;
        let hears = status.registry.is_none_or(|it| it.connected);
        Ok(status.is_ready && (hears || !waits_for_registry))
    }

    async fn order(&self, order: Order) -> Result<(), TakeoverError> {
        let sent = self.orders.send(order).await;
        sent.map_err(|_| TakeoverError::Leaving)
    }

    fn await_successor(&mut self) -> io::Result<()> {
        self.elder.take().map_or(Ok(()), Elder::start)
    }
}

/// # Errors
/// When a service needs a registry and there is none.
pub(crate) fn check_registry(
    config: &Config,
    registry: Option<&Registry>,
) -> Result<(), StartError> {
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
