//! What came of a request, told to the endpoint's load: what the next pick goes by, and what may eject the endpoint.
//!
//! Only the node's own doing counts. A client that leaves, a tunnel that ends and an answer below 500 are no failures; whoever ends an
//! exchange in such a way calls nothing here.

use std::time::{Duration, Instant};

use balancer_core::{endpoint::Endpoint, membership::ServiceIdx, outlier::Outcome};
use http::StatusCode;

use super::{Lease, Service, nanos};
use crate::worker::{Suspicion, Symptom};

impl Service {
    /// The node has begun to answer, or a relay's connection to it is made. Returns how long it took.
    pub(crate) fn answered(&self, lease: &Lease, status: Option<StatusCode>) -> Duration {
        let now = Instant::now();
        let latency = now.saturating_duration_since(lease.began);
        let endpoint = &lease.upstream.endpoint;
        let at = nanos(self.epoch, now);
        if status.is_some_and(repels) {
            endpoint.load.observe_failure(at, latency);
        } else {
            endpoint.load.observe(at, latency);
            lease.tell_gate(now, latency);
        }
        let outcome = if status.is_some_and(|it| self.is_failure(it)) {
            Outcome::Failed
        } else {
            Outcome::Good
        };
        self.count(endpoint, outcome);
        latency
    }

    /// The node took the request and said nothing for too long.
    pub(crate) fn unanswered(&self, lease: &Lease) {
        let now = Instant::now();
        let waited = now.saturating_duration_since(lease.began);
        let endpoint = &lease.upstream.endpoint;
        endpoint
            .load
            .observe_failure(nanos(self.epoch, now), waited);
        lease.tell_gate(now, waited);
        self.count(endpoint, Outcome::Failed);
    }

    /// The node could not be reached, or broke off before it answered.
    pub(crate) fn unreached(&self, endpoint: &Endpoint) {
        let now = nanos(self.epoch, Instant::now());
        endpoint.load.observe_failure(now, Duration::ZERO);
        self.count(endpoint, Outcome::Failed);
    }

    fn count(&self, endpoint: &Endpoint, outcome: Outcome) {
        let in_a_row = endpoint.load.results.count(outcome);
        let limit = self.policy.outlier.consecutive_failures;
        if outcome == Outcome::Failed && in_a_row == limit {
            let suspicion = Suspicion {
                service: ServiceIdx(self.idx),
                node: endpoint.node.clone(),
                symptom: Symptom::Failing,
            };
            // If the queue is full, the next comparison of the endpoints finds it.
            let _ = self.suspicions.try_send(suspicion);
        }
    }

    /// What speaks against the node, not against the request.
    fn is_failure(&self, status: StatusCode) -> bool {
        match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => true,
            other => self.policy.outlier.count_5xx && other.is_server_error(),
        }
    }
}

impl Lease {
    /// An answer that was refused at once would make a service that is overwhelmed look quick.
    fn tell_gate(&self, now: Instant, latency: Duration) {
        if let Some(gate) = &self.gate {
            gate.observe(now, latency);
        }
    }
}

/// Whether an answer, however fast, is no reason to send more: else whoever refuses at once would draw all work to itself.
fn repels(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}
