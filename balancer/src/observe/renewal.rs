//! What is counted when the configuration, or the program itself, is replaced by the next.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::reload::Outcome;

pub(crate) struct ReloadMetrics {
    applied: Counter,
    unchanged: Counter,
    rejected: Counter,
    is_rejected: Gauge,
}

pub(crate) struct TakeoverMetrics {
    pub(crate) completed: Counter,
    pub(crate) abandoned: Counter,
}

impl ReloadMetrics {
    pub(crate) fn new() -> Self {
        describe_counter!(
            "colonnade_balancer_config_reloads_total",
            "Times the configuration was read again, by what came of it."
        );
        describe_gauge!(
            "colonnade_balancer_config_rejected",
            "1 while the configuration that was read last is not in force."
        );
        let reloads = |result: &'static str| counter!("colonnade_balancer_config_reloads_total", "result" => result);
        Self {
            applied: reloads("applied"),
            unchanged: reloads("unchanged"),
            rejected: reloads("rejected"),
            is_rejected: gauge!("colonnade_balancer_config_rejected"),
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Applied => &self.applied,
            Outcome::Unchanged => &self.unchanged,
            Outcome::Rejected => &self.rejected,
        };
        counter.increment(1);
        let is_rejected = outcome == Outcome::Rejected;
        self.is_rejected.set(f64::from(u8::from(is_rejected)));
    }
}

impl TakeoverMetrics {
    pub(crate) fn new() -> Self {
        describe_counter!(
            "colonnade_balancer_takeovers_total",
            "Times another process asked for this one's sockets, by what came of it."
        );
        let takeovers = |result: &'static str| counter!("colonnade_balancer_takeovers_total", "result" => result);
        Self {
            completed: takeovers("completed"),
            abandoned: takeovers("abandoned"),
        }
    }
}
