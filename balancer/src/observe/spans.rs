//! What is counted of spans on their way to a collector.

use metrics::{Counter, counter, describe_counter};

const SPANS: &str = "colonnade_balancer_trace_spans_total";

/// Spans by what became of them. The default counts nowhere.
#[derive(Clone)]
pub(crate) struct SpanMetrics {
    pub(crate) exported: Counter,
    /// The core's queue was full.
    pub(crate) queue_full: Counter,
    /// The collector could not be reached, or refused the message.
    pub(crate) undelivered: Counter,
    /// The collector took the message and not this span.
    pub(crate) rejected: Counter,
}

impl SpanMetrics {
    pub(crate) fn new() -> Self {
        describe_counter!(SPANS, "Spans by what became of them.");
        let result = |result: &'static str| counter!(SPANS, "result" => result);
        Self {
            exported: result("exported"),
            queue_full: result("queue_full"),
            undelivered: result("undelivered"),
            rejected: result("rejected"),
        }
    }
}

impl Default for SpanMetrics {
    fn default() -> Self {
        Self {
            exported: Counter::noop(),
            queue_full: Counter::noop(),
            undelivered: Counter::noop(),
            rejected: Counter::noop(),
        }
    }
}
