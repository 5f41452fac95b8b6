//! A whole node: everything is built and bound before anything is announced.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration, time::SystemTime};

use registry::{NodeRecord, NodeState, Registry};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::register::Left;
use crate::{
    admin,
    config::{Advertised, Config, NodeId},
    net::Listener,
    observe::Metrics,
    register::{Phase, Register, unix_ms},
    serve::Front,
    service::{
        web::{Sites, Web},
        whoami::Identity,
    },
};

/// How often recorded durations are folded into their histograms, whether or not anybody reads them.
const FOLD_EVERY: Duration = Duration::from_secs(5);

/// A running node. Dropped without [`Node::leave`] it ends at once, as a crash would.
pub struct Node {
    id: NodeId,
    web_address: SocketAddr,
    admin_address: SocketAddr,
    order: watch::Sender<bool>,
    left: watch::Receiver<Option<Left>>,
    tasks: Tasks,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {key} {address}: {source}")]
    Listen {
        key: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot read web.sites {}: {source}", path.display())]
    Sites { path: PathBuf, source: io::Error },
}

impl Node {
    /// Binds, serves, and announces the node in the registry. Returns when it serves; the registry may answer later,
    /// and `/readyz` tells when it has.
    pub async fn start(config: Config, registry: Registry) -> Result<Self, StartError> {
        let bound = Bound::open(&config).await?;
        let record = record(&config, bound.web_address);
        Ok(Self::run(config, registry, bound, record))
    }

    fn run(config: Config, registry: Registry, bound: Bound, record: NodeRecord) -> Self {
        let (phase, phases) = watch::channel(Phase::Starting);
        let (order, ordered) = watch::channel(false);
        let (done, left) = watch::channel(None);
        let metrics = Arc::new(Metrics::new());
        let web = Web::new(Arc::new(Identity::of(&record)), bound.sites, phases.clone());
        let web = Front::web(bound.web, web, &config.web, &metrics, phases.clone());
        let admin = admin::router(metrics.clone(), phases.clone());
        let admin = Front::admin(bound.admin, admin, &metrics, phases);
        let register = Register {
            announcement: registry.announce(record.clone(), config.lease_ttl()),
            balancers: registry.watch(),
            record,
            leave_deadline: config.leave_deadline,
            order: ordered,
            connections: web.connections(),
            phase,
            metrics: metrics.clone(),
        };

        let tasks = Tasks::default();
        tasks.spawn(web.run());
        tasks.spawn(admin.run());
        tasks.spawn(async move {
            done.send_replace(Some(register.run().await));
        });
        tokio::spawn(tasks.alive.clone().run_until_cancelled_owned(fold(metrics)));
        Self {
            id: config.id,
            web_address: bound.web_address,
            admin_address: bound.admin_address,
            order,
            left,
            tasks,
        }
    }

    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Where the web service is bound.
    pub fn web_address(&self) -> SocketAddr {
        self.web_address
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Leaves politely, and resolves when everything has ended or the deadline has passed. Asked again it waits for the
    /// same end.
    pub async fn leave(&self) -> Left {
        self.order.send_replace(true);
        self.tasks.ended().await;
        self.left
            .borrow()
            .expect("the tasks of a node end by leaving")
    }
}

/// What a node must have before anything is announced.
struct Bound {
    web: Listener,
    web_address: SocketAddr,
    admin: Listener,
    admin_address: SocketAddr,
    sites: Option<Sites>,
}

impl Bound {
    async fn open(config: &Config) -> Result<Self, StartError> {
        let (web, web_address) = bind("web.address", config.web.address).await?;
        let (admin, admin_address) = bind("admin.address", config.admin_address).await?;
        Ok(Self {
            web,
            web_address,
            admin,
            admin_address,
            sites: sites(config.web.sites.clone())?,
        })
    }
}

/// The tasks of a node, which end with it when it is dropped.
#[derive(Default)]
struct Tasks {
    tracker: TaskTracker,
    alive: CancellationToken,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.alive.clone().run_until_cancelled_owned(task);
        self.tracker.spawn(task);
    }

    async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.alive.cancel();
    }
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
) -> Result<(Listener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        key,
        address,
        source,
    };
    let listener = Listener::bind(address).await.map_err(failed)?;
    let bound = listener.address().map_err(failed)?;
    Ok((listener, bound))
}

fn sites(path: Option<PathBuf>) -> Result<Option<Sites>, StartError> {
    let open =
        |path: PathBuf| Sites::open(&path).map_err(|source| StartError::Sites { path, source });
    path.map(open).transpose()
}

fn record(config: &Config, web_address: SocketAddr) -> NodeRecord {
    let now = SystemTime::now();
    let advertised = config
        .web
        .advertise
        .clone()
        .unwrap_or_else(|| Advertised::from(web_address));
    NodeRecord {
        id: config.id.as_str().to_owned(),
        incarnation: incarnation(now),
        zone: config.zone.as_ref().map(|zone| zone.as_str().to_owned()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        weight: config.weight,
        state: NodeState::Ready,
        leave_by: None,
        services: [("web".to_owned(), advertised.as_str().to_owned())].into(),
        started_at: unix_ms(now),
    }
}

/// Microseconds of unix time: a later life has a larger number, and JSON's numbers hold it exactly until 2255.
fn incarnation(now: SystemTime) -> u64 {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

async fn fold(metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(FOLD_EVERY);
    loop {
        ticks.tick().await;
        metrics.fold();
    }
}
