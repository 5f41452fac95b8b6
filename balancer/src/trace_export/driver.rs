//! Empties the cores' queues at an interval and sends what was in them, again while the collector may recover.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Identity, Queue, Span,
    otlp::{self, ExportRequest, Resource},
    wire::{Wire, WireError},
};
use crate::{config::TracingConfig, observe::SpanMetrics};

/// Waited after the first failure, doubled after each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Times a message is sent in all, about half a minute; newer spans matter more than old ones then.
const SENDS_MAX: u32 = 6;

/// The one that sends.
pub(crate) struct Driver {
    config: TracingConfig,
    resource: Resource,
    queues: Vec<Arc<Queue>>,
    metrics: SpanMetrics,
}

impl Driver {
    pub(super) fn new(
        config: TracingConfig,
        identity: &Identity,
        queues: Vec<Arc<Queue>>,
        metrics: SpanMetrics,
    ) -> Self {
        Self {
            resource: otlp::resource(identity, &config.service_name, &config.attributes),
            config,
            queues,
            metrics,
        }
    }

    /// Sends until told to stop, then once more what is left, without a second try.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut wire = match Wire::new(&self.config) {
            Ok(wire) => wire,
            Err(err) => return tracing::error!(%err, "no spans will be exported"),
        };
        let mut ticks = tokio::time::interval(self.config.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            for batch in self.batches() {
                let sent = self.deliver(&mut wire, &batch);
                tokio::select! {
                    biased;
                    () = sent => {}
                    // The collector did not take it so far; it does not get another chance.
                    () = stop.cancelled() => self.lost(&batch),
                }
            }
        }
        for batch in self.batches() {
            match wire.send(&batch.request).await {
                Ok(_) => self.metrics.exported.increment(batch.spans),
                Err(_) => self.lost(&batch),
            }
        }
    }

    /// All that waits, in messages of bounded size. Waiting spans are bounded by the queues, and so are these.
    fn batches(&self) -> Vec<Batch> {
        let mut batches = Vec::new();
        for queue in &self.queues {
            let mut spans = queue.take().into_iter().peekable();
            while spans.peek().is_some() {
                let some: Vec<Span> = spans.by_ref().take(self.config.batch_max).collect();
                batches.push(Batch {
                    spans: some.len() as u64,
                    request: otlp::request(&self.resource, some),
                });
            }
        }
        batches
    }

    async fn deliver(&self, wire: &mut Wire, batch: &Batch) {
        let mut backoff = BACKOFF_MIN;
        for n in 1..=SENDS_MAX {
            match wire.send(&batch.request).await {
                Ok(delivered) => {
                    self.metrics
                        .exported
                        .increment(batch.spans.saturating_sub(delivered.rejected));
                    self.metrics.rejected.increment(delivered.rejected);
                    if delivered.rejected > 0 {
                        tracing::warn!(
                            spans = delivered.rejected,
                            why = delivered.words,
                            "the collector did not want some spans"
                        );
                    }
                    return;
                }
                Err(err) if n == SENDS_MAX || !err.may_pass() => return self.given_up(batch, &err),
                Err(err) => tracing::debug!(%err, "sending spans"),
            }
            // Half of the pause is drawn, so that many balancers do not return together.
            tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn given_up(&self, batch: &Batch, err: &WireError) {
        tracing::warn!(spans = batch.spans, %err, "spans are lost");
        self.lost(batch);
    }

    fn lost(&self, batch: &Batch) {
        self.metrics.undelivered.increment(batch.spans);
    }
}

/// One message, and how many spans are in it.
struct Batch {
    spans: u64,
    request: ExportRequest,
}
