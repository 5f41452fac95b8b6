//! What is counted of limits: who was refused and why, how full memory is, and how the queues fare.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// What the limits over all listeners count.
#[derive(Clone)]
pub(crate) struct AdmissionMetrics {
    pub(crate) evicted: Counter,
    pub(crate) shed_by_memory: Counter,
    pub(crate) idle_closed: Counter,
    pub(crate) memory_used: Gauge,
    pub(crate) memory_max: Gauge,
    pub(crate) memory_pressure: Gauge,
}

/// Connections that a listener refused for other reasons than its own limit.
#[derive(Clone)]
pub(crate) struct RefusalMetrics {
    pub(crate) everywhere: Counter,
    pub(crate) source: Counter,
    pub(crate) source_rate: Counter,
    pub(crate) memory: Counter,
    pub(crate) proxy_untrusted: Counter,
    pub(crate) proxy_header: Counter,
}

/// What the gate in front of a service's endpoints counts.
#[derive(Clone)]
pub(crate) struct GateMetrics {
    pub(crate) displaced: Counter,
    pub(crate) adaptive_limit: Gauge,
}

impl AdmissionMetrics {
    pub(crate) fn new() -> Self {
        describe();
        Self {
            evicted: counter!("colonnade_balancer_rate_evictions_total"),
            shed_by_memory: refused("memory"),
            idle_closed: counter!("colonnade_balancer_idle_connections_shed_total"),
            memory_used: gauge!("colonnade_balancer_memory_used_bytes"),
            memory_max: gauge!("colonnade_balancer_memory_max_bytes"),
            memory_pressure: gauge!("colonnade_balancer_memory_pressure"),
        }
    }

    /// Requests that a rule for rates refused.
    pub(crate) fn rule(name: &str) -> Counter {
        refused(name)
    }
}

impl RefusalMetrics {
    pub(crate) fn new(listener: &str) -> Self {
        let reason = |reason: &'static str| counter!("colonnade_balancer_refused_connections_total", "listener" => listener.to_owned(), "reason" => reason);
        Self {
            everywhere: reason("max_connections_in_all"),
            source: reason("max_connections_per_source"),
            source_rate: reason("new_connections_per_source"),
            memory: reason("memory"),
            proxy_untrusted: reason("proxy_untrusted"),
            proxy_header: reason("proxy_header"),
        }
    }
}

impl GateMetrics {
    pub(crate) fn new(service: &str) -> Self {
        Self {
            displaced: counter!("colonnade_balancer_displaced_requests_total", "service" => service.to_owned()),
            adaptive_limit: gauge!("colonnade_balancer_adaptive_limit", "service" => service.to_owned()),
        }
    }
}

fn refused(rule: &str) -> Counter {
    counter!("colonnade_balancer_refused_requests_total", "rule" => rule.to_owned())
}

fn describe() {
    describe_counter!(
        "colonnade_balancer_refused_requests_total",
        "Requests refused by a rate, by its name, or for want of memory."
    );
    describe_counter!(
        "colonnade_balancer_rate_evictions_total",
        "Sources and keys forgotten while their rate still counted, because there were too many."
    );
    describe_counter!(
        "colonnade_balancer_idle_connections_shed_total",
        "Idle connections closed for want of memory."
    );
    describe_gauge!(
        "colonnade_balancer_memory_used_bytes",
        "Memory that the process has for itself, where it is watched."
    );
    describe_gauge!(
        "colonnade_balancer_memory_max_bytes",
        "Memory that it may use, where it is watched."
    );
    describe_gauge!(
        "colonnade_balancer_memory_pressure",
        "0 none, 1 the least important is refused, 2 everything new is refused."
    );
    describe_counter!(
        "colonnade_balancer_displaced_requests_total",
        "Requests that lost their place in a full queue to a more important one."
    );
    describe_gauge!(
        "colonnade_balancer_adaptive_limit",
        "Requests that the adaptive limit lets be in flight."
    );
}
