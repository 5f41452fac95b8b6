//! The keys as an operator writes them, each with its default, its unit and what it may be.
//!
//! Wherever a duration stands it is a text such as `"1m 30s"`, from `"1ms"` to `"30days"`. What is required is optional here,
//! so that `check` says in one way what is missing.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::{
    Admin, ExplainConfig, ListenerProtocol, Log, MembershipConfig, Outlier, Pick, ProxyProtocol,
    SlowStart, UpstreamProtocol, admission, busy,
    picking::RawSticky,
    probe, proxy_protocol,
    rules::{
        self, CompressLevel, RawAnswer, RawFieldCondition, RawFieldRules, RawRedirect, RawRewrite,
    },
    takeover,
    tls::{RawHsts, RawHttpsRedirect, RawListenerTls, RawServiceTls, RawSniRoute},
    tracing, value,
};

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    /// Tells this balancer from the others in the registry: up to 253 letters, digits, `.`, `_` and `-`.
    /// Default: the host name.
    pub(super) id: Option<String>,
    /// Where this balancer is, in the words of the nodes' records: up to 253 letters, digits, `.`, `_` and `-`. Nodes of this
    /// zone are preferred. Default: none, all nodes are alike.
    pub(super) zone: Option<String>,
    /// How many threads carry traffic, up to 1,024. Default: 0, one per core.
    #[serde(deserialize_with = "value::count::<0, 1024, _, _>")]
    pub(super) workers: usize,
    /// How long work under way may take to end after the balancer was told to stop. Default: `"30s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) drain_deadline: Duration,
    /// Whether a change of this file is a reason to read it again, as SIGHUP is. Default: true.
    pub(super) watch_config: bool,
    /// How the next program takes over the sockets of this one.
    pub(super) takeover: takeover::Raw,
    /// Where the balancer is asked about itself.
    pub(super) admin: Admin,
    /// Where nodes announce themselves. Default: none.
    pub(super) registry: Option<registry::Config>,
    /// How membership outlives the registry.
    pub(super) membership: MembershipConfig,
    /// What is written down while the balancer runs.
    pub(super) log: Log,
    /// How many exchanges are remembered, to be explained.
    pub(super) explain: ExplainConfig,
    /// Whether exchanges are told to a collector.
    pub(super) tracing: tracing::Raw,
    /// What the balancer takes on before it refuses.
    pub(super) admission: admission::Raw,
    /// The addresses that clients connect to: 1 to 256.
    pub(super) listener: Vec<Listener>,
    /// Which requests go to which service, up to 10,000.
    pub(super) route: Vec<Route>,
    /// What nodes serve, up to 10,000.
    pub(super) service: Vec<Service>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Listener {
    /// What routes, logs and metrics call it: up to 63 letters, digits, `.`, `_` and `-`. Required.
    pub(super) name: Option<String>,
    /// Where it listens, `"ip:port"`; port 0 lets the system choose. Required.
    pub(super) address: Option<SocketAddr>,
    /// `"http"` for HTTP/1.1 and HTTP/2 with prior knowledge; `"tcp"` for bytes, whatever they mean; `"detect"` for HTTP where
    /// the first bytes say so, else bytes. Default: `"http"`.
    pub(super) protocol: ListenerProtocol,
    /// The service that gets what is not HTTP. Required for `"tcp"` and `"detect"`; `"http"` has none, routes decide.
    pub(super) service: Option<String>,
    /// How many clients may be connected, over all workers: 1 to 10,000,000. Default: 100,000.
    #[serde(deserialize_with = "value::count::<1, 10_000_000, _, _>")]
    pub(super) max_connections: usize,
    /// How long a client may take to send the head of a request. Default: `"10s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) request_head_timeout: Duration,
    /// How long a client may stay connected without a request under way. Default: `"75s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) idle_timeout: Duration,
    /// How long the first bytes, by which the protocol is told, may take to come. Default: `"5s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) detect_timeout: Duration,
    /// The most bytes the head of a request may have: 8,192, less than which HTTP/1 cannot be read with, to 1,048,576.
    /// Default: 65,536.
    #[serde(deserialize_with = "value::count::<8192, 1_048_576, _, _>")]
    pub(super) max_head_bytes: usize,
    /// The most fields the head of a request may have: 1 to 10,000. Default: 100.
    #[serde(deserialize_with = "value::count::<1, 10_000, _, _>")]
    pub(super) max_headers: usize,
    /// The least that the body of a request must bring, in bytes per second on average over the time in which the client was
    /// waited for: up to 1,000,000,000. Default: 500; 0 asks for nothing.
    #[serde(deserialize_with = "value::count::<0, 1_000_000_000, _, _>")]
    pub(super) min_body_rate: u64,
    /// How long a body may be slower than that. Default: `"10s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) min_body_rate_grace: Duration,
    /// How long a client may take none of what is sent to it. Default: `"1m"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) send_timeout: Duration,
    /// How old a connection may become before its client is asked, with the next answer, to make another; a tenth more or
    /// less, so that clients that came together do not come back together. Default: none, as old as it likes.
    #[serde(deserialize_with = "value::optional_span")]
    pub(super) connection_max_age: Option<Duration>,
    /// How many requests a connection may bring, up to 1,000,000,000. Default: 0, as many as it likes.
    #[serde(deserialize_with = "value::count::<0, 1_000_000_000, _, _>")]
    pub(super) max_requests_per_connection: u32,
    /// Whether answers say in `Server-Timing` what time was spent where. Default: false.
    pub(super) server_timing: bool,
    /// The networks of the proxies whose word about the client counts, such as `"10.0.0.0/8"`. Default: none.
    pub(super) trusted_proxies: Vec<String>,
    /// How the TLS of clients is ended here. Default: not at all.
    pub(super) tls: Option<RawListenerTls>,
    /// The names whose TLS is passed on untouched, up to 1,000 tables. Default: none.
    pub(super) sni: Vec<RawSniRoute>,
    /// What browsers are to remember. Only beside `tls`. Default: nothing.
    pub(super) hsts: Option<RawHsts>,
    /// `true`, or the port, sends every request to ask again with TLS. Not beside `tls`. Default: `false`.
    pub(super) https_redirect: RawHttpsRedirect,
    /// Whom it believes about the client's address by the PROXY protocol.
    pub(super) proxy_protocol: proxy_protocol::Raw,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    /// What logs and metrics call it: up to 63 letters, digits, `.`, `_` and `-`. Default: `route-` and its place in the list,
    /// counted from 0.
    pub(super) name: Option<String>,
    /// The names of the listeners it holds for. Default: every listener that speaks HTTP.
    pub(super) listeners: Option<Vec<String>>,
    /// Names without port, such as `"www.example.org"`; `"*.example.org"` stands for everything below. Default: any host.
    pub(super) hosts: Vec<String>,
    /// What the path begins with: `"/api"` stands for itself and everything below `/api/`. Default: `"/"`.
    pub(super) path: Option<String>,
    /// The service that gets the requests. Required, unless there is a `redirect` or an `answer`.
    pub(super) service: Option<String>,
    /// The methods of requests that it takes, up to 32. Default: any.
    pub(super) methods: Vec<String>,
    /// Fields that requests must have, up to 64: `{ name = "value" }`, or `true` for any value. Default: none.
    pub(super) headers: BTreeMap<String, RawFieldCondition>,
    /// Rules for the fields of a request on its way to a node. Default: none.
    pub(super) request_headers: RawFieldRules,
    /// Rules for the fields of an answer on its way to the client. Default: none.
    pub(super) response_headers: RawFieldRules,
    /// Gives a request another path or host. Default: none.
    pub(super) rewrite: RawRewrite,
    /// Takes the route's own path off the request's, as `rewrite.prefix = "/"` does. Default: false.
    pub(super) strip_prefix: bool,
    /// Sends clients elsewhere. Default: none.
    pub(super) redirect: Option<RawRedirect>,
    /// Is said to every client. Default: none.
    pub(super) answer: Option<RawAnswer>,
    /// The codings that answers are compressed with, of `"zstd"`, `"br"` and `"gzip"`, the preferred one first. Default: none.
    pub(super) compress: Vec<String>,
    /// The media types that are compressed, up to 100; `"text/*"` stands for all of a kind. Default: texts, JSON, JavaScript,
    /// XML, SVG and WebAssembly.
    pub(super) compress_types: Option<Vec<String>>,
    /// The shortest answer that is compressed, in bytes up to 16,777,216. Default: 1,024.
    #[serde(deserialize_with = "rules::bytes_min")]
    pub(super) compress_min_bytes: Option<u64>,
    /// How much time is spent on it: `"fast"`, `"balanced"` or `"small"`. Default: `"balanced"`.
    pub(super) compress_level: CompressLevel,
    /// How long the whole exchange may take. Default: the service's.
    #[serde(deserialize_with = "value::optional_span")]
    pub(super) request_timeout: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    /// What nodes announce it as, and routes and listeners call it: up to 63 letters, digits, `.`, `_` and `-`. Required.
    pub(super) name: Option<String>,
    /// Where its endpoints come from: `"registry"`, `"static"` or `"dns"`. Default: `"registry"`.
    pub(super) discover: DiscoverKind,
    /// `"ip:port"` of each endpoint, 1 to 10,000. Required for `"static"`, and only there.
    pub(super) endpoints: Option<Vec<SocketAddr>>,
    /// `"host:port"`, whose addresses are the endpoints. Required for `"dns"`, and only there.
    pub(super) dns: Option<String>,
    /// `"ip:port"` of each server to ask, up to 16. Only for `"dns"`. Default: those of the system.
    pub(super) dns_servers: Option<Vec<SocketAddr>>,
    /// The longest an answer is believed, whatever its time to live. Only for `"dns"`. Default: `"30s"`.
    #[serde(deserialize_with = "value::optional_span")]
    pub(super) dns_refresh_max: Option<Duration>,
    /// What endpoints are spoken to in: `"match"`, as the client speaks, `"http1"` or `"http2"`. Default: `"match"`.
    pub(super) protocol: UpstreamProtocol,
    /// `"v1"` and `"v2"` tell the endpoint first who the client is, with a header of that version of the PROXY protocol. Only for
    /// services that no route names. Default: `"off"`.
    pub(super) proxy_protocol: ProxyProtocol,
    /// How long a connection to an endpoint may take to be made. Default: `"1s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) connect_timeout: Duration,
    /// How long an endpoint may take to send the head of its response once it has the request. Default: `"60s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) response_head_timeout: Duration,
    /// How long a connection to an endpoint is kept unused. Default: `"60s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) idle_timeout: Duration,
    /// How long an upgraded or relayed connection may be silent in both directions. Default: `"1h"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) tunnel_idle_timeout: Duration,
    /// How long an endpoint may send nothing of a response that has begun. Default: `"5m"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) stream_idle_timeout: Duration,
    /// How much of a request's body is kept so that it can be sent to another endpoint, in bytes up to 16,777,216.
    /// Default: 65,536; 0 keeps none.
    #[serde(deserialize_with = "value::count::<0, 16_777_216, _, _>")]
    pub(super) replay_max_bytes: usize,
    /// How many unused connections each worker keeps to each endpoint, up to 100,000; 0 keeps none. Default: 64.
    #[serde(deserialize_with = "value::count::<0, 100_000, _, _>")]
    pub(super) max_idle_connections: usize,
    /// How long a request waits for an endpoint while there is none to take it. Default: `"1s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) queue_wait: Duration,
    /// How many requests may wait, up to 1,000,000: per worker while there is no endpoint, over all workers while all are busy. The
    /// next is refused at once. Default: 1,024.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    pub(super) queue_max: usize,
    /// How many requests each endpoint may have in flight, over all workers, up to 1,000,000. Default: 0, no limit.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    pub(super) max_requests_per_endpoint: u32,
    /// How requests are told important from less so.
    pub(super) priority: busy::RawPriority,
    /// Lets the number of requests in flight follow what the service can do. Default: none, it is not limited.
    pub(super) adaptive: Option<busy::RawAdaptive>,
    /// How often one request is tried, the first time included: 1 to 10. Default: 3.
    #[serde(deserialize_with = "value::count::<1, 10, _, _>")]
    pub(super) max_tries: u32,
    /// How many retries each request pays for, 0 to 10: 0.2 lets one request in five be tried again. Default: 0.2.
    #[serde(deserialize_with = "value::ratio")]
    pub(super) retry_ratio: f64,
    /// How long a whole exchange may take, from the request's head to the answer's last byte. Default: none, for ever.
    #[serde(deserialize_with = "value::optional_span")]
    pub(super) request_timeout: Option<Duration>,
    /// How long one try may take, from picking the endpoint to the head of its response, before another endpoint is tried.
    /// Default: none, tries end with `response_head_timeout`.
    #[serde(deserialize_with = "value::optional_span")]
    pub(super) try_timeout: Option<Duration>,
    /// How long an idempotent request without a body waits for the head of its response before a second endpoint is asked as
    /// well. Default: none, never.
    #[serde(deserialize_with = "value::optional_span")]
    pub(super) hedge_after: Option<Duration>,
    /// The statuses, 500 to 599, up to 16, for which an idempotent request is tried at another endpoint. Default: none.
    pub(super) retry_on: Vec<u16>,
    /// How the balancer sees for itself whether an endpoint lives.
    pub(super) probe: probe::Raw,
    /// How its endpoints are chosen among.
    pub(super) pick: Pick,
    /// When an endpoint whose answers are bad is left alone for a while.
    pub(super) outlier: Outlier,
    /// How slowly new endpoints begin. Default: none, they get their share at once.
    pub(super) slow_start: Option<SlowStart>,
    /// The cookie that brings a client back to its endpoint. Default: none.
    pub(super) sticky: Option<RawSticky>,
    /// How endpoints are spoken to in TLS. Default: in the clear.
    pub(super) tls: Option<RawServiceTls>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DiscoverKind {
    #[default]
    Registry,
    Static,
    Dns,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: None,
            zone: None,
            workers: 0,
            drain_deadline: Duration::from_secs(30),
            watch_config: true,
            takeover: takeover::Raw::default(),
            admin: Admin::default(),
            registry: None,
            membership: MembershipConfig::default(),
            log: Log::default(),
            explain: ExplainConfig::default(),
            tracing: tracing::Raw::default(),
            admission: admission::Raw::default(),
            listener: Vec::new(),
            route: Vec::new(),
            service: Vec::new(),
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: None,
            address: None,
            protocol: ListenerProtocol::default(),
            service: None,
            max_connections: 100_000,
            request_head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            detect_timeout: Duration::from_secs(5),
            max_head_bytes: 65_536,
            max_headers: 100,
            min_body_rate: 500,
            min_body_rate_grace: Duration::from_secs(10),
            send_timeout: Duration::from_secs(60),
            connection_max_age: None,
            max_requests_per_connection: 0,
            server_timing: false,
            trusted_proxies: Vec::new(),
            tls: None,
            sni: Vec::new(),
            hsts: None,
            https_redirect: RawHttpsRedirect::default(),
            proxy_protocol: proxy_protocol::Raw::default(),
        }
    }
}

impl Default for Service {
    fn default() -> Self {
        Self {
            name: None,
            discover: DiscoverKind::default(),
            endpoints: None,
            dns: None,
            dns_servers: None,
            dns_refresh_max: None,
            protocol: UpstreamProtocol::default(),
            proxy_protocol: ProxyProtocol::default(),
            connect_timeout: Duration::from_secs(1),
            response_head_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            tunnel_idle_timeout: Duration::from_secs(60 * 60),
            stream_idle_timeout: Duration::from_secs(5 * 60),
            replay_max_bytes: 65_536,
            max_idle_connections: 64,
            queue_wait: Duration::from_secs(1),
            queue_max: 1024,
            max_requests_per_endpoint: 0,
            priority: busy::RawPriority::default(),
            adaptive: None,
            max_tries: 3,
            retry_ratio: 0.2,
            request_timeout: None,
            try_timeout: None,
            hedge_after: None,
            retry_on: Vec::new(),
            probe: probe::Raw::default(),
            pick: Pick::default(),
            outlier: Outlier::default(),
            slow_start: None,
            sticky: None,
            tls: None,
        }
    }
}
