//! The spans of one exchange whose trace is sampled: one of the whole and one of each try, offered to the collector when all is over.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use balancer_core::{forwarded::Trace, message::Request, name::NodeId};
use http::{StatusCode, Version};

use super::{Ended, Exchange, Line};
use crate::{
    pick::Lease,
    trace_export::{self, Exporter, Span, Work},
    worker::Worker,
};

/// Tries that are told of one exchange; what comes after so many is the same again.
const TRIES_MAX: usize = 64;

/// What will be told of an exchange.
#[derive(Debug)]
pub(super) struct Spans {
    trace: Trace,
    tries: Vec<Try>,
}

#[derive(Debug)]
struct Try {
    span_id: u64,
    node: NodeId,
    address: SocketAddr,
    began: Instant,
    status: Option<StatusCode>,
    failure: Option<&'static str>,
    /// None while it is under way: an answered try lasts until its answer has been passed on.
    took: Option<Duration>,
}

/// The whole, as all of its spans need it.
struct Whole<'a> {
    exchange: &'a Exchange,
    line: &'a Line,
    ended: Ended,
    began: SystemTime,
    took: Duration,
}

impl Spans {
    pub(super) fn begin(trace: Trace) -> Box<Self> {
        Box::new(Self {
            trace,
            tries: Vec::new(),
        })
    }

    pub(super) fn begin_try(&mut self, worker: &Worker, lease: &Lease) {
        if self.tries.len() < TRIES_MAX {
            self.tries.push(Try {
                span_id: worker.with_rng(|rng| rng.u64(1..)),
                node: lease.node().clone(),
                address: lease.upstream.endpoint.address,
                began: Instant::now(),
                status: None,
                failure: None,
                took: None,
            });
        }
    }

    /// The node's own spans belong below the try that asks it.
    pub(super) fn tell(&self, head: &mut Request) {
        let parent = self
            .tries
            .last()
            .map_or(self.trace.span_id, |it| it.span_id);
        self.trace.tell(&mut head.fields, parent);
    }

    /// Who was asked beside this node has lost, which is no failure.
    pub(super) fn answered(&mut self, lease: &Lease, status: StatusCode) {
        for it in self.tries.iter_mut().filter(|it| it.is_open()) {
            match it.node == *lease.node() {
                true => it.status = Some(status),
                false => it.took = Some(it.began.elapsed()),
            }
        }
    }

    /// Of this node, or of all that are asked, nothing came.
    pub(super) fn failed(&mut self, lease: Option<&Lease>, why: Ended) {
        let is_it = |it: &&mut Try| lease.is_none_or(|lease| it.node == *lease.node());
        for it in self
            .tries
            .iter_mut()
            .filter(|it| it.is_open())
            .filter(is_it)
        {
            it.failure = Some(why.code());
            it.took = Some(it.began.elapsed());
        }
    }
}

impl Try {
    /// Neither answered nor failed.
    fn is_open(&self) -> bool {
        self.took.is_none() && self.status.is_none()
    }

    /// Why it ended badly, if it was under way when the exchange ended like this.
    fn failure(&self, ended: Ended) -> Option<&'static str> {
        let spoiled = match ended {
            Ended::NodeCut | Ended::NodeStuck | Ended::NodeGone => self.took.is_none(),
            _ => self.is_open(),
        };
        self.failure.or_else(|| spoiled.then(|| ended.code()))
    }
}

/// Offers the spans of an exchange that has ended, if its trace is sampled.
pub(super) fn offer(exchange: &mut Exchange, ended: Ended, took: Duration) {
    let worker = exchange.client.worker().clone();
    let (Some(exporter), Some(line)) = (&worker.exporter, &exchange.line) else {
        return;
    };
    let refused;
    let spans = match &exchange.spans {
        Some(spans) => spans,
        None if exchange.story.trace.is_none() => {
            let Some(spans) = of_refused(&worker, exporter) else {
                return;
            };
            refused = spans;
            &refused
        }
        None => return,
    };
    let whole = Whole {
        exchange,
        line,
        ended,
        began: SystemTime::now() - took,
        took,
    };
    whole.offer(spans, exporter);
}

/// What was refused before its ids were read is a trace of its own.
fn of_refused(worker: &Worker, exporter: &Exporter) -> Option<Box<Spans>> {
    let (id, span_id) = worker.with_rng(|rng| (rng.u128(1..), rng.u64(1..)));
    let trace = Trace {
        request_id: balancer_core::forwarded::RequestId::Fresh(id),
        trace_id: id,
        span_id,
        parent_id: None,
        is_sampled: true,
    };
    let is_sampled = exporter.is_sampled(id, None, false);
    is_sampled.then(|| Spans::begin(trace))
}

impl Whole<'_> {
    fn offer(&self, spans: &Spans, exporter: &Exporter) {
        let trace = &spans.trace;
        for (number, it) in (1..).zip(&spans.tries) {
            if let Some(told) = self.of_try(number, it) {
                let after = it.began.saturating_duration_since(self.exchange.began);
                exporter.offer(Span {
                    trace: trace.trace_id,
                    span: it.span_id,
                    parent: trace.span_id,
                    began: self.began + after,
                    took: it.took.unwrap_or(self.took.saturating_sub(after)),
                    work: Work::Try(told),
                });
            }
        }
        exporter.offer(Span {
            trace: trace.trace_id,
            span: trace.span_id,
            parent: trace.parent_id.unwrap_or(0),
            began: self.began,
            took: self.took,
            work: Work::Exchange(self.of_exchange(spans.tries.len())),
        });
    }

    /// Nothing of an exchange without a service, which has no tries.
    fn of_try(&self, number: u32, it: &Try) -> Option<trace_export::Try> {
        let service = self.exchange.service.as_ref()?;
        Some(trace_export::Try {
            method: self.line.method.clone(),
            node: it.node.clone(),
            address: it.address,
            service: service.name.clone(),
            number,
            status: it.status.map(|it| it.as_u16()),
            failure: it.failure(self.ended),
        })
    }

    fn of_exchange(&self, tries: usize) -> trace_export::Exchange {
        let Self { exchange, line, .. } = self;
        let client = &exchange.client;
        let scheme = if client.hop.is_https() {
            "https"
        } else {
            "http"
        };
        trace_export::Exchange {
            method: line.method.clone(),
            scheme,
            path: without_query(&line.path).into(),
            host: line.host.clone(),
            protocol: version(line.version),
            client: client.address(),
            listener: client.listener().name.clone(),
            route: line.route.as_ref().map(Arc::clone),
            service: line.service.clone(),
            status: Some(exchange.status.as_u16()),
            ended: self.ended.code(),
            tries: tries as u32,
            received_bytes: exchange.received,
            sent_bytes: exchange.sent,
        }
    }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
