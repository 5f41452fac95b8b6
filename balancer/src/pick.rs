//! Lends an endpoint of a service to one exchange; waits briefly, in a bounded queue, while there is none.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use balancer_core::{
    affinity::Asked,
    endpoint::Endpoint,
    load::Nanos,
    message::Limits,
    name::{NodeId, ServiceName},
    picker::maglev,
    pool::{Pool, Rules, Shared},
    retry::Budget,
    sticky::Sticky,
};
use fastrand::Rng;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

use crate::{
    config,
    dial::{DialPolicy, Node, Upstream},
    observe::ServiceMetrics,
    scene::ServiceParts,
    worker::{Suspicion, Worker},
};

mod outcome;
mod sticky;

pub(crate) use sticky::fields;

#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PickError {
    #[error("no endpoint became available within the service's queue_wait")]
    NoEndpoint,
    #[error("the service's queue is full")]
    QueueFull,
}

/// One core's view of one service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    pub(crate) idx: usize,
    pub(crate) policy: config::Service,
    pub(crate) metrics: ServiceMetrics,
    /// Shared by all cores: retries are a share of the service's whole traffic.
    pub(crate) budget: Arc<Budget>,
    sticky: Option<Arc<Sticky>>,
    suspicions: mpsc::Sender<Suspicion>,
    has_zone: bool,
    epoch: Instant,
    dial: DialPolicy,
    /// Shared, as are the next two, with every other policy that this service has had: nobody who waits is left behind.
    pool: Arc<Mutex<Pool<Arc<Upstream>>>>,
    arrival: Arc<Notify>,
    waiting: Arc<AtomicUsize>,
    rng: Mutex<Rng>,
}

/// What the cores of a service choose by, and share.
#[derive(Debug)]
pub(crate) struct Picker {
    /// Where this balancer is.
    pub(crate) zone: Option<String>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sticky: Option<Arc<Sticky>>,
}

/// An endpoint lent for one exchange; it counts as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) upstream: Arc<Upstream>,
    began: Instant,
}

impl Service {
    pub(crate) fn new(parts: &ServiceParts, worker: &Worker) -> Self {
        let (policy, picker) = (&parts.policy, &parts.picker);
        let rules = Rules {
            policy: policy.pick.policy(),
            zone: picker.zone.clone(),
        };
        let pool = Pool::new(rules, picker.shared.clone());
        Self {
            name: policy.name.clone(),
            idx: parts.idx.0,
            dial: dial_policy(policy),
            policy: policy.clone(),
            metrics: parts.metrics.clone(),
            budget: parts.budget.clone(),
            sticky: picker.sticky.clone(),
            has_zone: picker.zone.is_some(),
            suspicions: worker.suspicions.clone(),
            epoch: worker.epoch,
            pool: Arc::new(Mutex::new(pool)),
            arrival: Arc::default(),
            waiting: Arc::default(),
            rng: Mutex::new(Rng::new()),
        }
    }

    /// Whether this is what a core makes of `parts`.
    pub(crate) fn goes_by(&self, parts: &ServiceParts) -> bool {
        self.policy == parts.policy && self.sticky == parts.picker.sticky
    }

    /// The same service under another policy. It goes on with the endpoints, their connections and the queue; exchanges under way
    /// keep the policy that they began with.
    pub(crate) fn renewed(&self, parts: &ServiceParts) -> Self {
        let policy = &parts.policy;
        let renewed = Self {
            name: policy.name.clone(),
            idx: self.idx,
            dial: dial_policy(policy),
            policy: policy.clone(),
            metrics: parts.metrics.clone(),
            budget: parts.budget.clone(),
            sticky: parts.picker.sticky.clone(),
            has_zone: self.has_zone,
            suspicions: self.suspicions.clone(),
            epoch: self.epoch,
            pool: self.pool.clone(),
            arrival: self.arrival.clone(),
            waiting: self.waiting.clone(),
            rng: Mutex::new(Rng::new()),
        };
        let members: Vec<_> = renewed.lock_pool().members().cloned().collect();
        for upstream in members {
            renewed.offer(upstream.endpoint.clone());
        }
        let (policy, mut rng) = (policy.pick.policy(), renewed.lock_rng());
        renewed.lock_pool().choose_by(policy, &mut rng);
        drop(rng);
        renewed
    }

    /// Lends an endpoint that is not among `tried`, waiting for one if need be.
    ///
    /// A request that has tried everybody waits too, and may then go back to a node that it has tried: nodes that restart
    /// return under the same name.
    ///
    /// # Errors
    /// When none becomes available in time, or too many requests wait already.
    pub(crate) async fn pick(
        &self,
        now: Instant,
        asked: &Asked,
        tried: &mut Vec<NodeId>,
    ) -> Result<Lease, PickError> {
        if let Some(lease) = self.try_pick(now, asked, tried) {
            return Ok(lease);
        }
        let _place = self.queue()?;
        let deadline = tokio::time::Instant::now() + self.policy.queue_wait;
        loop {
            let arrival = self.arrival.notified();
            tokio::pin!(arrival);
            // Registered before the pool is looked at again, or an arrival in between would be missed.
            arrival.as_mut().enable();
            if let Some(lease) = self.try_pick(Instant::now(), asked, tried) {
                return Ok(lease);
            }
            if tokio::time::timeout_at(deadline, arrival).await.is_err() {
                return Err(PickError::NoEndpoint);
            }
            tried.clear();
        }
    }

    /// Lends an endpoint that is not among `tried`, if there is one at once.
    pub(crate) fn pick_another(&self, asked: &Asked, tried: &[NodeId]) -> Option<Lease> {
        self.try_pick(Instant::now(), asked, tried)
    }

    /// New work may go to this endpoint; connections to the same life of the node are kept.
    pub(crate) fn offer(&self, endpoint: Arc<Endpoint>) {
        let upstream = Arc::new(Upstream::new(
            endpoint,
            self.dial,
            self.metrics.dials.clone(),
        ));
        let mut rng = self.lock_rng();
        let mut pool = self.lock_pool();
        if let Some(old) = pool.get(&upstream.endpoint.node) {
            upstream.inherit(old);
        }
        let replaced = pool.upsert(upstream, &mut rng);
        drop(pool);
        if let Some(old) = replaced {
            old.retire();
        }
        self.arrival.notify_waiters();
    }

    /// No new work may go there.
    pub(crate) fn withdraw(&self, node: &NodeId) {
        let removed = self.lock_pool().remove(node);
        if let Some(upstream) = removed {
            upstream.retire();
        }
    }

    /// Who gets which keys from here on.
    pub(crate) fn set_table(&self, table: Arc<maglev::Table>) {
        self.lock_pool().set_table(table);
    }

    /// An endpoint that was under suspicion has answered a probe.
    pub(crate) fn announce_arrival(&self) {
        self.arrival.notify_waiters();
    }

    /// Takes one retry from the service's budget, if it can be afforded.
    pub(crate) fn may_retry(&self) -> bool {
        let allowed = self.budget.withdraw(nanos(self.epoch, Instant::now()));
        let counter = if allowed {
            &self.metrics.retries
        } else {
            &self.metrics.retries_denied
        };
        counter.increment(1);
        allowed
    }

    pub(crate) fn sweep(&self, now: Instant) {
        let members: Vec<_> = self.lock_pool().members().cloned().collect();
        for upstream in members {
            upstream.sweep(now);
        }
    }

    fn try_pick(&self, now: Instant, asked: &Asked, tried: &[NodeId]) -> Option<Lease> {
        let nanos = nanos(self.epoch, now);
        let mut rng = self.lock_rng();
        let mut pool = self.lock_pool();
        let upstream = pool.pick(nanos, &mut rng, asked, tried)?;
        self.metrics.picks.increment(1);
        if self.has_zone {
            let metrics = &self.metrics.picking;
            let zone = match pool.is_local(&upstream.endpoint) {
                true => &metrics.local,
                false => &metrics.remote,
            };
            zone.increment(1);
        }
        Some(Lease::begin(upstream, now))
    }

    fn lock_rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> Result<QueuePlace<'_>, PickError> {
        if self.waiting.fetch_add(1, Relaxed) >= self.policy.queue_max {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(PickError::QueueFull);
        }
        self.metrics.queued.increment(1.0);
        Ok(QueuePlace(self))
    }

    fn lock_pool(&self) -> MutexGuard<'_, Pool<Arc<Upstream>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct QueuePlace<'a>(&'a Service);

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
        self.0.metrics.queued.decrement(1.0);
    }
}

impl Lease {
    fn begin(upstream: Arc<Upstream>, began: Instant) -> Self {
        upstream.endpoint.load.begin();
        Self { upstream, began }
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.upstream.endpoint.node
    }

    /// A connection to the node is at hand: its latency counts from here, for making one says little about the node.
    pub(crate) fn connected(&mut self) {
        self.began = Instant::now();
    }

    pub(crate) fn give_back(&self, node: Node) {
        self.upstream.give_back(node);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.endpoint.load.end();
    }
}

fn dial_policy(policy: &config::Service) -> DialPolicy {
    DialPolicy {
        connect_timeout: policy.connect_timeout,
        idle_timeout: policy.idle_timeout,
        idle_max: policy.max_idle_connections,
        head: Limits::default(),
    }
}

fn nanos(epoch: Instant, now: Instant) -> Nanos {
    Nanos(now.saturating_duration_since(epoch).as_nanos() as u64)
}
