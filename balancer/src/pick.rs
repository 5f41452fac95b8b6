//! Lends an endpoint of a service to one exchange; waits briefly, in a bounded queue, while there is none or all are busy.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Instant,
};

use balancer_core::{
    affinity::Asked,
    endpoint::Endpoint,
    load::Nanos,
    message::{Fields, Limits},
    name::{NodeId, ServiceName},
    picker::maglev,
    pool::{Pool, Rules, Shared},
    queue::Class,
    retry::Budget,
    sticky::Sticky,
};
use fastrand::Rng;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

use crate::{
    config,
    dial::{DialPolicy, Node, Upstream},
    gate::Gate,
    observe::ServiceMetrics,
    scene::ServiceParts,
    tls::Connector,
    worker::{Suspicion, Worker},
};

mod outcome;
mod sticky;
mod wait;

pub(crate) use sticky::fields;

#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PickError {
    #[error("no endpoint became available within the service's queue_wait")]
    NoEndpoint,
    #[error("the service's queue is full")]
    QueueFull,
}

/// What all cores share of one service.
#[derive(Clone, Debug)]
pub(crate) struct ServiceWide {
    /// Retries are a share of the service's whole traffic.
    pub(crate) budget: Arc<Budget>,
    /// In front of the endpoints' places.
    pub(crate) gate: Arc<Gate>,
    /// Of a service that is spoken to in TLS, and with it the sessions to resume.
    pub(crate) connector: Option<Arc<Connector>>,
}

/// One core's view of one service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    pub(crate) idx: usize,
    pub(crate) policy: config::Service,
    pub(crate) metrics: ServiceMetrics,
    wide: ServiceWide,
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
    /// Told when this place is free again, where places are limited.
    gate: Option<Arc<Gate>>,
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
            wide: parts.wide.clone(),
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
            wide: parts.wide.clone(),
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
        if !self.wide.gate.has_waiters()
            && let Ok(lease) = self.attempt(now, asked, tried)
        {
            return Ok(lease);
        }
        // Boxed: most requests never wait, and each would carry this future's size.
        Box::pin(self.wait(asked, tried)).await
    }

    /// How important a request with these fields is.
    pub(crate) fn class(&self, fields: &Fields) -> Class {
        let priority = &self.policy.priority;
        priority.class(|name| fields.named(name.as_str()))
    }

    /// Lends an endpoint that is not among `tried`, if there is one at once.
    pub(crate) fn pick_another(&self, asked: &Asked, tried: &[NodeId]) -> Option<Lease> {
        self.attempt(Instant::now(), asked, tried).ok()
    }

    /// New work may go to this endpoint; connections to the same life of the node are kept.
    pub(crate) fn offer(&self, endpoint: Arc<Endpoint>) {
        endpoint.load.cap(self.policy.max_requests_per_endpoint);
        let upstream = Arc::new(Upstream::new(
            endpoint,
            self.dial,
            self.wide.connector.clone(),
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
        self.announce_arrival();
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
        self.wide.gate.opened();
    }

    /// Every request pays for some retries.
    pub(crate) fn deposit(&self) {
        self.wide.budget.deposit();
    }

    /// Takes one retry from the service's budget, if it can be afforded.
    pub(crate) fn may_retry(&self) -> bool {
        let allowed = self.wide.budget.withdraw(nanos(self.epoch, Instant::now()));
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
        let is_local = self.has_zone.then(|| pool.is_local(&upstream.endpoint));
        let lease = Lease::begin(upstream, now)?;
        let metrics = &self.metrics;
        metrics.picks.increment(1);
        match is_local {
            Some(true) => metrics.picking.local.increment(1),
            Some(false) => metrics.picking.remote.increment(1),
            None => {}
        }
        Some(lease)
    }

    fn lock_rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pool(&self) -> MutexGuard<'_, Pool<Arc<Upstream>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// None if another core has just taken the endpoint's last place.
    fn begin(upstream: Arc<Upstream>, began: Instant) -> Option<Self> {
        upstream.endpoint.load.try_begin().then(|| Self {
            upstream,
            began,
            gate: None,
        })
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
        if let Some(gate) = &self.gate {
            gate.end();
        }
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
