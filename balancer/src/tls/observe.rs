//! What TLS counts; `docs/METRICS.md` explains each series.

use std::sync::Arc;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::config::{ListenerTls, TlsVersion};

use super::{
    error::{Reason, TlsError},
    facts::Facts,
};

/// What one listener's terminator counts.
#[derive(Clone)]
pub(super) struct TerminatorMetrics {
    /// By version, then full and resumed.
    handshakes: [[Counter; 2]; 2],
    failures: Arc<[Counter]>,
    /// In the order of the configuration.
    expiries: Arc<[Gauge]>,
    pub(super) reloads: ReloadMetrics,
}

/// What one service's connector counts.
#[derive(Clone)]
pub(super) struct ConnectorMetrics {
    /// Full and resumed.
    handshakes: [Counter; 2],
    failures: Arc<[Counter]>,
    pub(super) reloads: ReloadMetrics,
}

#[derive(Clone)]
pub(super) struct ReloadMetrics {
    swapped: Counter,
    failed: Counter,
}

impl TerminatorMetrics {
    pub(super) fn new(listener: &str, tls: &ListenerTls) -> Self {
        let name = || listener.to_owned();
        let handshakes = |version: &'static str| {
            ["full", "resumed"].map(|kind| counter!("colonnade_balancer_tls_handshakes_total", "listener" => name(), "version" => version, "kind" => kind))
        };
        let failure = |reason: Reason| counter!("colonnade_balancer_tls_handshake_failures_total", "listener" => name(), "reason" => reason.code());
        let expiries = tls.certificates.iter().map(|files| {
            let file = files.cert.display().to_string();
            gauge!("colonnade_balancer_tls_certificate_expiry_timestamp_seconds", "listener" => name(), "certificate" => file)
        });
        Self {
            handshakes: ["1.2", "1.3"].map(handshakes),
            failures: Reason::ALL.map(failure).into(),
            expiries: expiries.collect(),
            reloads: ReloadMetrics::new("listener", listener),
        }
    }

    pub(super) fn completed(&self, facts: &Facts) {
        let by_kind = match facts.version {
            TlsVersion::Tls12 => &self.handshakes[0],
            TlsVersion::Tls13 => &self.handshakes[1],
        };
        by_kind[usize::from(facts.is_resumed)].increment(1);
    }

    pub(super) fn failed(&self, error: &TlsError) {
        self.failures[error.reason() as usize].increment(1);
    }

    pub(super) fn expire(&self, not_after: &[i64]) {
        for (gauge, second) in self.expiries.iter().zip(not_after) {
            // Doubles hold whole seconds for longer than dates have four digits.
            gauge.set(*second as f64);
        }
    }
}

impl ConnectorMetrics {
    pub(super) fn new(service: &str) -> Self {
        let name = || service.to_owned();
        let handshakes = |kind: &'static str| counter!("colonnade_balancer_tls_node_handshakes_total", "service" => name(), "kind" => kind);
        let failure = |reason: Reason| counter!("colonnade_balancer_tls_node_handshake_failures_total", "service" => name(), "reason" => reason.code());
        Self {
            handshakes: ["full", "resumed"].map(handshakes),
            failures: Reason::ALL.map(failure).into(),
            reloads: ReloadMetrics::new("service", service),
        }
    }

    pub(super) fn completed(&self, is_resumed: bool) {
        self.handshakes[usize::from(is_resumed)].increment(1);
    }

    pub(super) fn failed(&self, error: &TlsError) {
        self.failures[error.reason() as usize].increment(1);
    }
}

impl ReloadMetrics {
    fn new(of: &'static str, name: &str) -> Self {
        let result = |result: &'static str| counter!("colonnade_balancer_tls_reloads_total", "of" => of, "name" => name.to_owned(), "result" => result);
        Self {
            swapped: result("ok"),
            failed: result("failed"),
        }
    }

    /// Counts and logs, once per change, what became of it.
    pub(super) fn note<E: std::fmt::Display>(&self, name: &str, res: &Result<(), E>) {
        match res {
            Ok(()) => {
                self.swapped.increment(1);
                tracing::info!(name, "changed files of TLS are in force");
            }
            Err(err) => {
                self.failed.increment(1);
                tracing::error!(name, %err, "changed files of TLS are not good, those before stay in force");
            }
        }
    }
}

pub(super) fn describe() {
    describe_counter!(
        "colonnade_balancer_tls_handshakes_total",
        "Handshakes with clients that were completed."
    );
    describe_counter!(
        "colonnade_balancer_tls_handshake_failures_total",
        "Handshakes with clients that failed, by why."
    );
    describe_gauge!(
        "colonnade_balancer_tls_certificate_expiry_timestamp_seconds",
        "When the certificate in force ends."
    );
    describe_counter!(
        "colonnade_balancer_tls_node_handshakes_total",
        "Handshakes with nodes that were completed."
    );
    describe_counter!(
        "colonnade_balancer_tls_node_handshake_failures_total",
        "Handshakes with nodes that failed, by why."
    );
    describe_counter!(
        "colonnade_balancer_tls_reloads_total",
        "Times changed files were read, by what became of it."
    );
}

impl std::fmt::Debug for TerminatorMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TerminatorMetrics")
    }
}

impl std::fmt::Debug for ConnectorMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectorMetrics")
    }
}
