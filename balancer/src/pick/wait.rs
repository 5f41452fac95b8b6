//! What a request does that finds no endpoint at once: it waits for one to arrive, or in the gate's queue for a place at one.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use balancer_core::{affinity::Asked, name::NodeId};

use super::{Lease, PickError, Service};
use crate::{dial::Upstream, gate::NoRoom, observe::ServiceMetrics};

/// Why nothing could be lent at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unavailable {
    /// There is no endpoint, or none that was not tried.
    NoEndpoint,
    /// There is one, with as much to do as it may have.
    Busy,
}

impl Service {
    /// One try, within the limits on places.
    pub(super) fn attempt(
        &self,
        now: Instant,
        asked: &Asked,
        tried: &[NodeId],
    ) -> Result<Lease, Unavailable> {
        if !self.wide.gate.is_limited() {
            return self
                .try_pick(now, asked, tried)
                .ok_or(Unavailable::NoEndpoint);
        }
        if !self.wide.gate.try_begin() {
            return Err(Unavailable::Busy);
        }
        let Some(mut lease) = self.try_pick(now, asked, tried) else {
            self.wide.gate.undo();
            return Err(self.why_none(tried));
        };
        lease.gate = Some(self.wide.gate.clone());
        Ok(lease)
    }

    fn why_none(&self, tried: &[NodeId]) -> Unavailable {
        let pool = self.lock_pool();
        let is_candidate = |it: &Arc<Upstream>| !tried.contains(&it.endpoint.node);
        match pool.members().any(is_candidate) {
            true => Unavailable::Busy,
            false => Unavailable::NoEndpoint,
        }
    }

    pub(super) async fn wait(
        &self,
        asked: &Asked,
        tried: &mut Vec<NodeId>,
    ) -> Result<Lease, PickError> {
        let deadline = tokio::time::Instant::now() + self.policy.queue_wait;
        // Who has tried everybody waits for an arrival, and must be there when it comes, not in a queue.
        let must_queue = self.wide.gate.has_waiters() && self.why_none(tried) == Unavailable::Busy;
        let mut found = match must_queue {
            true => Err(Unavailable::Busy),
            false => self.attempt(Instant::now(), asked, tried),
        };
        loop {
            found = match found {
                Ok(lease) => return Ok(lease),
                Err(Unavailable::Busy) => self.wait_for_place(deadline, asked, tried).await?,
                Err(Unavailable::NoEndpoint) => {
                    self.wait_for_arrival(deadline, asked, tried).await?
                }
            };
        }
    }

    /// Waits in the gate's queue. It comes back without a lease only if there is no endpoint any more to have a place at.
    async fn wait_for_place(
        &self,
        deadline: tokio::time::Instant,
        asked: &Asked,
        tried: &mut Vec<NodeId>,
    ) -> Result<Result<Lease, Unavailable>, PickError> {
        let entered = self.wide.gate.enter(asked.class);
        let mut place = entered.map_err(|NoRoom| PickError::QueueFull)?;
        let _counted = Queued::new(&self.metrics);
        let mut may_try = place.is_first();
        loop {
            if may_try {
                match self.attempt(Instant::now(), asked, tried) {
                    Ok(lease) => {
                        place.served();
                        return Ok(Ok(lease));
                    }
                    Err(Unavailable::Busy) => place.back(),
                    none => {
                        // Whoever it tried before it waited may have returned meanwhile.
                        tried.clear();
                        return Ok(none);
                    }
                }
            }
            match tokio::time::timeout_at(deadline, place.called()).await {
                Ok(Ok(())) => may_try = true,
                Ok(Err(NoRoom)) => return Err(PickError::QueueFull),
                Err(_) => return Err(PickError::NoEndpoint),
            }
        }
    }

    /// Waits for this core's pool to change.
    async fn wait_for_arrival(
        &self,
        deadline: tokio::time::Instant,
        asked: &Asked,
        tried: &mut Vec<NodeId>,
    ) -> Result<Result<Lease, Unavailable>, PickError> {
        let _place = self.queue()?;
        let arrival = self.arrival.notified();
        tokio::pin!(arrival);
        // Registered before the pool is looked at again, or an arrival in between would be missed.
        arrival.as_mut().enable();
        match self.attempt(Instant::now(), asked, tried) {
            Err(Unavailable::NoEndpoint) => {}
            found => return Ok(found),
        }
        let arrived = tokio::time::timeout_at(deadline, arrival).await;
        arrived.map_err(|_| PickError::NoEndpoint)?;
        tried.clear();
        Ok(self.attempt(Instant::now(), asked, tried))
    }

    fn queue(&self) -> Result<QueuePlace<'_>, PickError> {
        if self.waiting.fetch_add(1, Relaxed) >= self.policy.queue_max {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(PickError::QueueFull);
        }
        Ok(QueuePlace {
            service: self,
            _counted: Queued::new(&self.metrics),
        })
    }
}

struct QueuePlace<'a> {
    service: &'a Service,
    _counted: Queued<'a>,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.service.waiting.fetch_sub(1, Relaxed);
    }
}

/// One request that the gauge shows as waiting.
struct Queued<'a>(&'a ServiceMetrics);

impl<'a> Queued<'a> {
    fn new(metrics: &'a ServiceMetrics) -> Self {
        metrics.queued.increment(1.0);
        Self(metrics)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.decrement(1.0);
    }
}
