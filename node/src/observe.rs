//! What is counted of a node, and how Prometheus reads it.

use std::{sync::Arc, time::Instant};

use http::StatusCode;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::register::now;

/// Upper bounds in seconds, from a page out of memory to a stream that lasts a minute.
const DURATION_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// The classes of status codes, and last the exchanges that ended before there was one.
const CODES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "aborted"];
const ABORTED: usize = CODES.len() - 1;

/// The handles of one node's metrics; several nodes may share a process.
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    pub(crate) web: Arc<ServiceMetrics>,
    pub(crate) admin: Arc<ServiceMetrics>,
    pub(crate) active_connections: Gauge,
    pub(crate) leaving: Gauge,
    pub(crate) registry_connected: Gauge,
}

/// The handles of one service.
pub(crate) struct ServiceMetrics {
    requests_by_code: [Counter; CODES.len()],
    duration: Histogram,
}

/// One exchange under way; it is counted when this is dropped, whatever its end.
pub(crate) struct Exchange {
    metrics: Arc<ServiceMetrics>,
    began: Instant,
    code: usize,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&DURATION_BUCKETS)
            .expect("the buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || Self::registered(handle))
    }

    /// What `/metrics` answers.
    pub(crate) fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what was recorded since the last time, which grows until then.
    pub(crate) fn fold(&self) {
        self.handle.run_upkeep();
    }

    fn registered(handle: PrometheusHandle) -> Self {
        describe_counter!(
            "colonnade_node_requests_total",
            "Exchanges that ended, by service and class of status code."
        );
        describe_histogram!(
            "colonnade_node_request_duration_seconds",
            "From the head of a request to the end of its answer."
        );
        describe_gauge!(
            "colonnade_node_active_connections",
            "Connections of clients and balancers that are open."
        );
        describe_gauge!("colonnade_node_leaving", "1 from the request to leave on.");
        describe_gauge!(
            "colonnade_node_registry_connected",
            "1 while the registry answers."
        );
        describe_gauge!(
            "colonnade_node_build_info",
            "1, with the version as a label."
        );
        gauge!("colonnade_node_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Self {
            handle,
            web: Arc::new(ServiceMetrics::registered("web")),
            admin: Arc::new(ServiceMetrics::registered("admin")),
            active_connections: gauge!("colonnade_node_active_connections"),
            leaving: gauge!("colonnade_node_leaving"),
            registry_connected: gauge!("colonnade_node_registry_connected"),
        }
    }
}

impl ServiceMetrics {
    fn registered(service: &'static str) -> Self {
        let requests =
            |code| counter!("colonnade_node_requests_total", "service" => service, "code" => code);
        Self {
            requests_by_code: CODES.map(requests),
            duration: histogram!("colonnade_node_request_duration_seconds", "service" => service),
        }
    }
}

impl Exchange {
    pub(crate) fn began(metrics: Arc<ServiceMetrics>, now: Instant) -> Self {
        Self {
            metrics,
            began: now,
            code: ABORTED,
        }
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100);
        self.code = class.saturating_sub(1).min(ABORTED);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.metrics.requests_by_code[self.code].increment(1);
        self.metrics
            .duration
            .record(now().saturating_duration_since(self.began));
    }
}
