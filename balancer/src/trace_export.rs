//! Spans on their way to an OpenTelemetry collector: offered by the cores, sent by the thread beside them.
//!
//! A core puts a plain value into a bounded queue of its own and never wakes anybody; the control thread empties all queues at an
//! interval, encodes what it finds (`otlp`) and sends it (`wire`), again if need be. A collector that is slow, dead or was never there
//! costs a full queue: what does not fit is dropped and counted, and no exchange waits.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use balancer_core::name::{ListenerName, NodeId, ServiceName};
use http::Method;

use crate::{
    config::{Parent, TracingConfig},
    observe::SpanMetrics,
};

mod driver;
mod otlp;
mod wire;

pub(crate) use driver::Driver;

/// What is known of this process: attributes of every span's resource.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The balancer's id.
    pub instance: String,
    pub host: String,
}

/// One stretch of work in a trace.
#[derive(Debug, Clone)]
pub struct Span {
    /// Never 0.
    pub trace: u128,
    /// Never 0.
    pub span: u64,
    /// 0 where the trace begins.
    pub parent: u64,
    pub began: SystemTime,
    pub took: Duration,
    pub work: Work,
}

#[derive(Debug, Clone)]
pub enum Work {
    /// A whole exchange, as its client saw it.
    Exchange(Exchange),
    /// One try of it, at one node.
    Try(Try),
}

/// What is told of an exchange. Texts of clients are cut by the exporter.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub method: Method,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Without the query, which may hold secrets.
    pub path: Box<str>,
    pub host: Option<Box<str>>,
    /// `1.0`, `1.1` or `2`.
    pub protocol: &'static str,
    pub client: SocketAddr,
    pub listener: ListenerName,
    pub route: Option<Arc<str>>,
    pub service: Option<ServiceName>,
    pub status: Option<u16>,
    /// The code of the access log; none is still under way.
    pub ended: &'static str,
    pub tries: u32,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Try {
    pub method: Method,
    pub node: NodeId,
    pub address: SocketAddr,
    pub service: ServiceName,
    /// Counted from 1.
    pub number: u32,
    pub status: Option<u16>,
    /// Why there was no answer.
    pub failure: Option<&'static str>,
}

/// One core's end.
#[derive(Debug, Clone)]
pub struct Exporter {
    sampler: Sampler,
    queue: Arc<Queue>,
}

/// Which traces are told. A trace is chosen by its id, so that all balancers choose the same.
#[derive(Debug, Clone, Copy)]
struct Sampler {
    /// Ids below are chosen.
    bound: u64,
    parent: Parent,
}

/// Spans that wait for the control thread.
struct Queue {
    spans: Mutex<Vec<Span>>,
    max: usize,
    metrics: SpanMetrics,
}

/// The ends for all cores, and the one that sends.
pub(crate) fn new(
    config: &TracingConfig,
    identity: &Identity,
    cores: usize,
    metrics: &SpanMetrics,
) -> (Vec<Exporter>, Driver) {
    let exporters: Vec<_> = (0..cores)
        .map(|_| Exporter {
            sampler: Sampler::new(config.sample_ratio, config.sample_parent),
            queue: Arc::new(Queue::new(config.queue_max, metrics.clone())),
        })
        .collect();
    let queues = exporters.iter().map(|it| it.queue.clone()).collect();
    let driver = Driver::new(config.clone(), identity, queues, metrics.clone());
    (exporters, driver)
}

impl Exporter {
    /// Whether the exchange's spans are wanted: `parent` is what a `traceparent` that came along says of it, `is_trusted` whether it
    /// came from one of `trusted_proxies`. Without a yes no span need be made.
    pub fn is_sampled(&self, trace: u128, parent: Option<bool>, is_trusted: bool) -> bool {
        self.sampler.decide(trace, parent, is_trusted)
    }

    /// Takes the span if there is room, and counts it as dropped else. It never waits and wakes nobody.
    pub fn offer(&self, span: Span) {
        self.queue.push(span);
    }
}

impl Sampler {
    fn new(ratio: f64, parent: Parent) -> Self {
        Self {
            // A float's own bounds hold: 1.0 is the largest number, which chooses every id but one in 2⁶⁴.
            bound: (ratio * u64::MAX as f64) as u64,
            parent,
        }
    }

    fn decide(self, trace: u128, parent: Option<bool>, is_trusted: bool) -> bool {
        let is_believed = match self.parent {
            Parent::Always => true,
            Parent::Trusted => is_trusted,
            Parent::Never => false,
        };
        match parent.filter(|_| is_believed) {
            Some(sampled) => sampled,
            // The lower half is the random one where a trace id is not all random (W3C Trace Context §3.2.2.3).
            None => self.bound == u64::MAX || (trace as u64) < self.bound,
        }
    }
}

impl Queue {
    fn new(max: usize, metrics: SpanMetrics) -> Self {
        Self {
            spans: Mutex::default(),
            max,
            metrics,
        }
    }

    fn push(&self, span: Span) {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        match spans.len() < self.max {
            true => spans.push(span),
            false => self.metrics.queue_full.increment(1),
        }
    }

    /// All that waits; the room it took is left for what comes next.
    fn take(&self) -> Vec<Span> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let room = Vec::with_capacity(spans.len());
        std::mem::replace(&mut spans, room)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("max", &self.max).finish()
    }
}

#[cfg(test)]
mod collector_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_chooses_that_share_of_the_traces_and_always_the_same() {
        let mut rng = fastrand::Rng::with_seed(1);
        let ids: Vec<u128> = (0..10_000).map(|_| rng.u128(1..)).collect();
        let chosen = |ratio| {
            let sampler = Sampler::new(ratio, Parent::Trusted);
            let is_chosen = |id: &&u128| sampler.decide(**id, None, false);
            ids.iter().filter(is_chosen).count()
        };
        assert_eq!((chosen(0.0), chosen(1.0)), (0, 10_000));
        assert!((1_800..2_200).contains(&chosen(0.2)), "{}", chosen(0.2));
        assert_eq!(chosen(0.2), chosen(0.2));
    }

    #[test]
    fn a_parents_word_counts_where_it_is_believed() {
        let check =
            |parent, is_trusted, word| Sampler::new(0.0, parent).decide(1, Some(word), is_trusted);
        assert!(check(Parent::Trusted, true, true));
        assert!(!check(Parent::Trusted, false, true), "a stranger's word");
        assert!(check(Parent::Always, false, true));
        assert!(!check(Parent::Never, true, true));
        let sampler = Sampler::new(1.0, Parent::Trusted);
        assert!(!sampler.decide(1, Some(false), true), "a no counts too");
        assert!(sampler.decide(1, Some(false), false));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_room_returns() {
        let queue = Queue::new(2, SpanMetrics::default());
        for _ in 0..5 {
            queue.push(otlp::example());
        }
        assert_eq!(queue.take().len(), 2);
        queue.push(otlp::example());
        assert_eq!(queue.take().len(), 1);
    }
}
