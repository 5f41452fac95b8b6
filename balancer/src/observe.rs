//! One record per exchange, whatever its end: metrics for Prometheus, a line for the access log, and why it ended.

mod access;
pub(crate) mod admission;
mod picking;
mod relayed;
mod renewal;
mod spans;
mod story;
mod traced;

pub use access::LogReopener;
pub(crate) use access::{AccessLog, AccessSink};
pub(crate) use picking::PickMetrics;
pub(crate) use relayed::Relayed;
pub(crate) use renewal::{ReloadMetrics, TakeoverMetrics};
pub(crate) use spans::SpanMetrics;
use traced::Spans;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use balancer_core::{
    forwarded::{RequestId, Trace},
    message::Request,
    name::NodeId,
};
use http::{Method, StatusCode, Version};
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::{
    accept::ClientConnection,
    explain::{ExchangeId, Kind, Live, Story},
    forward::Dial,
    pick::{Lease, Service},
};

/// Upper bounds in seconds: from a cached answer on loopback to a client that gives up.
const DURATION_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Why an exchange ended. The code stands in the access log and as a metric label; `docs/METRICS.md` explains each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Completed,
    /// The client went away before it had everything.
    ClientGone,
    /// The node broke off in the middle of its answer.
    NodeCut,
    /// The node took the request, or may have, and went away without an answer.
    NodeGone,
    /// The node took the request and said nothing for too long.
    NodeSilent,
    /// No connection to any node could be made.
    Unreachable,
    /// No node was available in time.
    NoEndpoint,
    /// Too many requests wait for a node already.
    QueueFull,
    /// Somebody sends more requests than a rate allows.
    RateLimited,
    /// Memory is short.
    Overloaded,
    NoRoute,
    BadRequest,
    /// The client sent its body too slowly, or stopped.
    ClientSlow,
    /// The client did not read its answer for too long.
    ClientStuck,
    /// The node sent no more of its answer for too long.
    NodeStuck,
    /// The whole exchange took longer than it may.
    TooLong,
    /// The drain deadline came before the exchange ended.
    Drained,
    /// A tunnel that one side closed.
    TunnelClosed,
    /// A tunnel through which nothing passed for too long, or that outlived the drain deadline.
    TunnelCut,
}

impl Ended {
    pub(crate) const ALL: [Ended; 19] = [
        Ended::Completed,
        Ended::ClientGone,
        Ended::NodeCut,
        Ended::NodeGone,
        Ended::NodeSilent,
        Ended::Unreachable,
        Ended::NoEndpoint,
        Ended::QueueFull,
        Ended::RateLimited,
        Ended::Overloaded,
        Ended::NoRoute,
        Ended::BadRequest,
        Ended::ClientSlow,
        Ended::ClientStuck,
        Ended::NodeStuck,
        Ended::TooLong,
        Ended::Drained,
        Ended::TunnelClosed,
        Ended::TunnelCut,
    ];

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::NodeCut => "node_cut",
            Self::NodeGone => "node_gone",
            Self::NodeSilent => "node_silent",
            Self::Unreachable => "unreachable",
            Self::NoEndpoint => "no_endpoint",
            Self::QueueFull => "queue_full",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::NoRoute => "no_route",
            Self::BadRequest => "bad_request",
            Self::ClientSlow => "client_slow",
            Self::ClientStuck => "client_stuck",
            Self::NodeStuck => "node_stuck",
            Self::TooLong => "too_long",
            Self::Drained => "drained",
            Self::TunnelClosed => "tunnel_closed",
            Self::TunnelCut => "tunnel_cut",
        }
    }
}

/// What is known of an exchange so far. Dropping it writes it down; one that was not ended by then was the client's to end.
#[derive(Debug)]
pub(crate) struct Exchange {
    client: Arc<ClientConnection>,
    began: Instant,
    /// Only kept when there is a line to write, or a span may be made of it.
    line: Option<Box<Line>>,
    service: Option<Arc<Service>>,
    story: Story,
    /// The story of one that lasts, while it does.
    live: Option<Live>,
    /// Of an exchange whose trace is sampled.
    spans: Option<Box<Spans>>,
    status: StatusCode,
    ended: Option<Ended>,
    /// Bytes of the request's body that came, and of the answer's that went.
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// The words of an access line, or of a span, that metrics have no use for.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) method: Method,
    pub(crate) path: Box<str>,
    pub(crate) host: Option<Box<str>>,
    pub(crate) version: Version,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) service: Option<balancer_core::name::ServiceName>,
    pub(crate) node: Option<NodeId>,
    pub(crate) tries: u32,
    pub(crate) first_byte: Option<Duration>,
}

impl Exchange {
    pub(crate) fn begin(client: Arc<ClientConnection>, head: &Request, asks_grpc: bool) -> Self {
        let worker = client.worker();
        let is_told = worker.log.is_on() || worker.exporter.is_some();
        let line = is_told.then(|| Line::of(head));
        Self {
            client,
            began: Instant::now(),
            line,
            service: None,
            story: story::begin(head.version, asks_grpc),
            live: None,
            spans: None,
            status: StatusCode::OK,
            ended: None,
            received: 0,
            sent: 0,
        }
    }

    /// The rest of the line, if one will be written.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Line)) {
        if let Some(line) = &mut self.line {
            note(line);
        }
    }

    /// The time of a try: of the first, it is when the exchange began, a moment ago.
    pub(crate) fn time_of_try(&self, tries: u32) -> Instant {
        if tries == 1 {
            self.began
        } else {
            Instant::now()
        }
    }

    /// How long it has taken so far.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// It goes to this node, for the n-th time in all.
    pub(crate) fn tried(&mut self, lease: &Lease, tries: u32) {
        self.note(|line| {
            line.node = Some(lease.node().clone());
            line.tries = tries;
        });
        let after = self.time_of_try(tries) - self.began;
        story::begin_try(&mut self.story, self.client.worker(), lease, after);
        self.begin_span(lease);
    }

    /// Another node is asked beside the one that was.
    pub(crate) fn hedged(&mut self, lease: &Lease) {
        let after = self.began.elapsed();
        story::begin_try(&mut self.story, self.client.worker(), lease, after);
        self.begin_span(lease);
    }

    fn begin_span(&mut self, lease: &Lease) {
        if let Some(spans) = &mut self.spans {
            spans.begin_try(self.client.worker(), lease);
        }
    }

    /// A connection had to be made for the last try, and there it is.
    pub(crate) fn connected(&mut self) {
        let now = self.began.elapsed();
        story::connected(&mut self.story, now);
    }

    /// This node's answer begins, so long after it was asked. Who else was asked is too late.
    pub(crate) fn try_answered(&mut self, lease: &Lease, status: StatusCode, latency: Duration) {
        self.note(|line| {
            line.node = Some(lease.node().clone());
            line.first_byte = Some(latency);
        });
        story::answered(&mut self.story, self.client.worker(), lease, latency);
        if let Some(spans) = &mut self.spans {
            spans.answered(lease, status);
        }
    }

    /// This try brought nothing; without a lease, none of those under way did.
    pub(crate) fn try_failed(&mut self, lease: Option<&Lease>, why: Ended) {
        story::fail_try(&mut self.story, self.client.worker(), lease, why);
        if let Some(spans) = &mut self.spans {
            spans.failed(lease, why);
        }
    }

    /// The same for an exchange that dials before it asks.
    pub(crate) fn dialled(&mut self, dial: Dial<'_>) {
        match dial {
            Dial::Tried(lease, tries) => self.tried(lease, tries),
            Dial::Reached => self.connected(),
            Dial::Failed(lease) => self.try_failed(Some(lease), Ended::Unreachable),
            Dial::Denied => self.retry_denied(),
        }
    }

    /// Another try was wanted, and too many had been made already.
    pub(crate) fn retry_denied(&mut self) {
        let count = &mut self.story.retries_denied;
        *count = count.saturating_add(1);
    }

    /// The ids under which client, balancer and node know the request.
    pub(crate) fn known_as(&mut self, trace: &Trace) {
        self.story.trace = trace.trace_id.into();
        self.story.id = match &trace.request_id {
            RequestId::Fresh(number) => (*number).into(),
            RequestId::Kept(text) => ExchangeId::of(text.as_bytes()),
        };
        if trace.is_sampled && self.client.worker().exporter.is_some() {
            self.spans = Some(Spans::begin(trace.clone()));
        }
    }

    /// Tells the node of the try that it is part of the trace, if spans are made of that.
    pub(crate) fn tell_trace(&self, head: &mut Request) {
        if let Some(spans) = &self.spans {
            spans.tell(head);
        }
    }

    /// It goes by this route.
    pub(crate) fn led_by(&mut self, route: &Arc<str>) {
        self.story.route = self.client.worker().page.name(route);
        self.note(|line| line.route = Some(route.clone()));
    }

    /// It is a tunnel from here on, and may last.
    pub(crate) fn becomes_tunnel(&mut self) {
        self.story.kind = Kind::Tunnel;
        let took = self.began.elapsed();
        story::fill(self, took);
        self.live = self.client.worker().page.live(&self.story);
    }

    pub(crate) fn routed(&mut self, service: &Arc<Service>) {
        service.metrics.active.increment(1.0);
        self.service = Some(service.clone());
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// Says why it ended; only the first reason counts.
    pub(crate) fn end(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
    }
}

impl Line {
    fn of(head: &Request) -> Box<Self> {
        Box::new(Self {
            method: head.method.clone(),
            path: head.path_and_query().into(),
            host: head.host().map(Box::from),
            version: head.version,
            request_id: None,
            route: None,
            service: None,
            node: None,
            tries: 0,
            first_byte: None,
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        let ended = self.ended.unwrap_or(Ended::ClientGone);
        match &self.service {
            Some(service) => {
                service.metrics.active.decrement(1.0);
                service.metrics.finish(self.status, ended, took);
            }
            None => self.client.listener().metrics.refused(ended),
        }
        if let Some(line) = self
            .line
            .as_ref()
            .filter(|_| self.client.worker().log.is_on())
        {
            let written = access::Written {
                at: SystemTime::now(),
                listener: &self.client.listener().name,
                client: self.client.address_text(),
                line,
                status: self.status,
                received: self.received,
                sent: self.sent,
                took,
                ended,
            };
            self.client.worker().log.write(&written);
        }
        story::remember(self, ended, took);
        if self.client.worker().exporter.is_some() {
            traced::offer(self, ended, took);
        }
    }
}

/// What one listener counts.
#[derive(Clone)]
pub(crate) struct ListenerMetrics {
    pub(crate) accepted: Counter,
    pub(crate) active: Gauge,
    pub(crate) over_limit: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) preface_refused: Counter,
    pub(crate) flooded: Counter,
    refused: Arc<[Counter]>,
}

impl ListenerMetrics {
    fn new(listener: &str) -> Self {
        let name = || listener.to_owned();
        let ended = |ended: Ended| counter!("colonnade_balancer_unrouted_requests_total", "listener" => name(), "ended" => ended.code());
        Self {
            accepted: counter!("colonnade_balancer_accepted_connections_total", "listener" => name()),
            active: gauge!("colonnade_balancer_active_connections", "listener" => name()),
            over_limit: counter!("colonnade_balancer_refused_connections_total", "listener" => name(), "reason" => "max_connections"),
            accept_errors: counter!("colonnade_balancer_accept_errors_total", "listener" => name()),
            preface_refused: counter!("colonnade_balancer_refused_connections_total", "listener" => name(), "reason" => "preface"),
            flooded: counter!("colonnade_balancer_flooded_connections_total", "listener" => name()),
            refused: Ended::ALL.map(ended).into(),
        }
    }

    pub(crate) fn refused(&self, ended: Ended) {
        self.refused[ended as usize].increment(1);
    }
}

/// What one service counts.
#[derive(Clone)]
pub(crate) struct ServiceMetrics {
    pub(crate) picks: Counter,
    pub(crate) retries: Counter,
    pub(crate) retries_denied: Counter,
    pub(crate) queued: Gauge,
    pub(crate) active: Gauge,
    pub(crate) dials: Counter,
    pub(crate) dial_failures: Counter,
    pub(crate) endpoints_offered: Gauge,
    pub(crate) endpoints_known: Gauge,
    pub(crate) picking: PickMetrics,
    by_class: Arc<[Counter]>,
    ended: Arc<[Counter]>,
    duration: Histogram,
}

impl ServiceMetrics {
    fn new(service: &str) -> Self {
        let name = || service.to_owned();
        let class = |class: &'static str| counter!("colonnade_balancer_requests_total", "service" => name(), "code" => class);
        let ended = |ended: Ended| counter!("colonnade_balancer_exchanges_ended_total", "service" => name(), "ended" => ended.code());
        Self {
            picks: counter!("colonnade_balancer_picks_total", "service" => name()),
            retries: counter!("colonnade_balancer_retries_total", "service" => name()),
            retries_denied: counter!("colonnade_balancer_retries_denied_total", "service" => name()),
            queued: gauge!("colonnade_balancer_queued_requests", "service" => name()),
            active: gauge!("colonnade_balancer_active_requests", "service" => name()),
            dials: counter!("colonnade_balancer_node_connections_total", "service" => name()),
            dial_failures: counter!("colonnade_balancer_node_connection_failures_total", "service" => name()),
            endpoints_offered: gauge!("colonnade_balancer_endpoints", "service" => name(), "state" => "offered"),
            endpoints_known: gauge!("colonnade_balancer_endpoints", "service" => name(), "state" => "known"),
            picking: PickMetrics::new(service),
            by_class: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(class).into(),
            ended: Ended::ALL.map(ended).into(),
            duration: histogram!("colonnade_balancer_request_duration_seconds", "service" => name()),
        }
    }

    /// An exchange without a status: bytes relayed as they are.
    pub(crate) fn relayed(&self, ended: Ended, took: Duration) {
        self.ended[ended as usize].increment(1);
        self.duration.record(took.as_secs_f64());
    }

    fn finish(&self, status: StatusCode, ended: Ended, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_class[class].increment(1);
        self.ended[ended as usize].increment(1);
        self.duration.record(took.as_secs_f64());
    }
}

impl std::fmt::Debug for ServiceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceMetrics")
    }
}

/// What the balancer counts about its view of the world.
#[derive(Clone)]
pub(crate) struct ViewMetrics {
    pub(crate) registry_connected: Gauge,
    pub(crate) registry_staleness: Gauge,
    pub(crate) registry_events: Counter,
    pub(crate) registry_revision: Gauge,
    pub(crate) probes_ok: Counter,
    pub(crate) probes_failed: Counter,
    pub(crate) suspicions: Counter,
    pub(crate) snapshot_failures: Counter,
    pub(crate) log_dropped: Counter,
}

/// Everything this program counts; handles are made once, here.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    pub(crate) view: ViewMetrics,
}

impl Metrics {
    /// # Errors
    /// Never with the constants of this file; the exporter checks them at run time.
    pub(crate) fn new() -> Result<Self, BuildError> {
        let duration = Matcher::Suffix("_duration_seconds".to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(duration, &DURATION_BUCKETS)?
            .build_recorder();
        let view = metrics::with_local_recorder(&recorder, || {
            describe();
            picking::describe();
            ViewMetrics::new()
        });
        Ok(Self { recorder, view })
    }

    pub(crate) fn listener(&self, name: &str) -> ListenerMetrics {
        metrics::with_local_recorder(&self.recorder, || ListenerMetrics::new(name))
    }

    pub(crate) fn service(&self, name: &str) -> ServiceMetrics {
        metrics::with_local_recorder(&self.recorder, || ServiceMetrics::new(name))
    }

    /// Makes handles that another file defines.
    pub(crate) fn scoped<T>(&self, make: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.recorder, make)
    }

    pub(crate) fn handle(&self) -> PrometheusHandle {
        self.recorder.handle()
    }
}

impl ViewMetrics {
    fn new() -> Self {
        gauge!("colonnade_balancer_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Self {
            registry_connected: gauge!("colonnade_balancer_registry_connected"),
            registry_staleness: gauge!("colonnade_balancer_registry_staleness_seconds"),
            registry_events: counter!("colonnade_balancer_registry_events_total"),
            registry_revision: gauge!("colonnade_balancer_registry_applied_revision"),
            probes_ok: counter!("colonnade_balancer_probes_total", "result" => "ok"),
            probes_failed: counter!("colonnade_balancer_probes_total", "result" => "failed"),
            suspicions: counter!("colonnade_balancer_suspicions_total"),
            snapshot_failures: counter!("colonnade_balancer_snapshot_failures_total"),
            log_dropped: counter!("colonnade_balancer_access_log_dropped_total"),
        }
    }
}

fn describe() {
    describe_services();
    describe_view();
    describe_gauge!(
        "colonnade_balancer_build_info",
        "Always 1; the label tells the version."
    );
    describe_counter!(
        "colonnade_balancer_accepted_connections_total",
        "Connections accepted."
    );
    describe_gauge!(
        "colonnade_balancer_active_connections",
        "Client connections open."
    );
    describe_counter!(
        "colonnade_balancer_refused_connections_total",
        "Connections refused before a request, by reason."
    );
    describe_counter!(
        "colonnade_balancer_flooded_connections_total",
        "HTTP/2 connections that were ended because the client flooded them."
    );
    describe_counter!(
        "colonnade_balancer_accept_errors_total",
        "Failures to accept a connection, such as too many open files."
    );
    describe_counter!(
        "colonnade_balancer_unrouted_requests_total",
        "Requests answered without a service, by why they ended."
    );
}

fn describe_services() {
    describe_counter!(
        "colonnade_balancer_requests_total",
        "Requests by service and class of the answer's status."
    );
    describe_counter!(
        "colonnade_balancer_exchanges_ended_total",
        "Exchanges by service and why they ended."
    );
    describe_histogram!(
        "colonnade_balancer_request_duration_seconds",
        "From the request's head to the answer's last byte."
    );
    describe_gauge!("colonnade_balancer_active_requests", "Requests under way.");
    describe_gauge!(
        "colonnade_balancer_queued_requests",
        "Requests waiting for an endpoint."
    );
    describe_counter!(
        "colonnade_balancer_picks_total",
        "Endpoints lent to requests."
    );
    describe_counter!(
        "colonnade_balancer_retries_total",
        "Requests sent to a further node."
    );
    describe_counter!(
        "colonnade_balancer_retries_denied_total",
        "Retries that the budget did not allow."
    );
    describe_counter!(
        "colonnade_balancer_node_connections_total",
        "Connections made to nodes."
    );
    describe_counter!(
        "colonnade_balancer_node_connection_failures_total",
        "Connections to nodes that could not be made."
    );
    describe_gauge!(
        "colonnade_balancer_endpoints",
        "Endpoints known, those offered new work, and those ejected."
    );
}

fn describe_view() {
    describe_gauge!(
        "colonnade_balancer_registry_connected",
        "1 while the registry answers."
    );
    describe_gauge!(
        "colonnade_balancer_registry_staleness_seconds",
        "Age of the last word from the registry."
    );
    describe_counter!(
        "colonnade_balancer_registry_events_total",
        "Changes heard from the registry."
    );
    describe_gauge!(
        "colonnade_balancer_registry_applied_revision",
        "The registry's revision that every core has applied."
    );
    describe_counter!(
        "colonnade_balancer_probes_total",
        "Probes of endpoints, by result."
    );
    describe_counter!(
        "colonnade_balancer_suspicions_total",
        "Times a core could not reach an endpoint that was trusted."
    );
    describe_counter!(
        "colonnade_balancer_snapshot_failures_total",
        "Failures to write the membership snapshot."
    );
    describe_counter!(
        "colonnade_balancer_access_log_dropped_total",
        "Access lines lost because the log could not keep up."
    );
}
