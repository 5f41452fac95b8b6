//! Lends an endpoint of a service to one exchange; waits briefly, in a bounded queue, while there is none.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use balancer_core::{
    endpoint::Endpoint,
    load::Nanos,
    message::Limits,
    name::{NodeId, ServiceName},
    pool::Pool,
    retry::Budget,
};
use fastrand::Rng;
use thiserror::Error;
use tokio::sync::Notify;

use crate::{
    config,
    dial::{DialPolicy, Node, Upstream},
    observe::ServiceMetrics,
};

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
    epoch: Instant,
    dial: DialPolicy,
    pool: Mutex<Pool<Arc<Upstream>>>,
    rng: Mutex<Rng>,
    arrival: Notify,
    waiting: AtomicUsize,
}

/// An endpoint lent for one exchange; it counts as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) upstream: Arc<Upstream>,
    began: Instant,
    epoch: Instant,
}

impl Service {
    pub(crate) fn new(
        idx: usize,
        policy: config::Service,
        metrics: ServiceMetrics,
        budget: Arc<Budget>,
        epoch: Instant,
        rng: Rng,
    ) -> Self {
        let dial = DialPolicy {
            connect_timeout: policy.connect_timeout,
            idle_timeout: policy.idle_timeout,
            idle_max: policy.max_idle_connections,
            head: Limits::default(),
        };
        Self {
            name: policy.name.clone(),
            idx,
            policy,
            metrics,
            budget,
            epoch,
            dial,
            pool: Mutex::default(),
            rng: Mutex::new(rng),
            arrival: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
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
        tried: &mut Vec<NodeId>,
    ) -> Result<Lease, PickError> {
        if let Some(lease) = self.try_pick(now, tried) {
            return Ok(lease);
        }
        let _place = self.queue()?;
        let deadline = tokio::time::Instant::now() + self.policy.queue_wait;
        loop {
            let arrival = self.arrival.notified();
            tokio::pin!(arrival);
            // Registered before the pool is looked at again, or an arrival in between would be missed.
            arrival.as_mut().enable();
            if let Some(lease) = self.try_pick(Instant::now(), tried) {
                return Ok(lease);
            }
            if tokio::time::timeout_at(deadline, arrival).await.is_err() {
                return Err(PickError::NoEndpoint);
            }
            tried.clear();
        }
    }

    /// Lends an endpoint that is not among `tried`, if there is one at once.
    pub(crate) fn pick_another(&self, tried: &[NodeId]) -> Option<Lease> {
        self.try_pick(Instant::now(), tried)
    }

    /// New work may go to this endpoint; connections to the same life of the node are kept.
    pub(crate) fn offer(&self, endpoint: Arc<Endpoint>) {
        let upstream = Arc::new(Upstream::new(
            endpoint,
            self.dial,
            self.metrics.dials.clone(),
        ));
        let mut pool = self.lock_pool();
        if let Some(old) = pool.get(&upstream.endpoint.node) {
            upstream.inherit(old);
        }
        let replaced = pool.upsert(upstream);
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
        let members: Vec<_> = self.lock_pool().members().to_vec();
        for upstream in members {
            upstream.sweep(now);
        }
    }

    fn try_pick(&self, now: Instant, tried: &[NodeId]) -> Option<Lease> {
        let nanos = nanos(self.epoch, now);
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let upstream = self.lock_pool().pick(nanos, &mut rng, tried)?;
        self.metrics.picks.increment(1);
        Some(Lease::begin(upstream, now, self.epoch))
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
    fn begin(upstream: Arc<Upstream>, began: Instant, epoch: Instant) -> Self {
        upstream.endpoint.load.begin();
        Self {
            upstream,
            began,
            epoch,
        }
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.upstream.endpoint.node
    }

    /// A connection to the node is at hand: its latency counts from here, for making one says little about the node.
    pub(crate) fn connected(&mut self) {
        self.began = Instant::now();
    }

    /// The node has begun to answer: what it took is what the next pick goes by. Returns the latency.
    pub(crate) fn answered(&self) -> Duration {
        let now = Instant::now();
        let latency = now.saturating_duration_since(self.began);
        let load = &self.upstream.endpoint.load;
        load.observe(nanos(self.epoch, now), latency);
        latency
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

fn nanos(epoch: Instant, now: Instant) -> Nanos {
    Nanos(now.saturating_duration_since(epoch).as_nanos() as u64)
}
