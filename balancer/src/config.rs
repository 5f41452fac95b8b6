//! What the balancer was told to do: checked once, where it enters, so that nothing inside asks again.
//!
//! The keys an operator writes are in `raw`, what a single key may hold in `value`, what may stand beside what in `check`;
//! here are the values that the rest of the balancer reads. Names have become places in its lists: every index holds.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use balancer_core::{
    forwarded::Trusted,
    name::{ListenerName, ServiceName},
};
use serde::{Deserialize, Serialize, Serializer};

mod admin;
mod admission;
mod busy;
mod check;
mod explain;
mod fixed;
mod outlier;
mod picking;
mod probe;
mod proxy_protocol;
mod raw;
pub mod rules;
mod shown;
mod takeover;
mod tls;
mod tracing;
mod tries;
mod value;

pub use admin::{Admin, AdminSocket, SocketMode};
pub use admission::{Admission, MemoryMax, Rate};
pub use busy::{Adaptive, Priority};
pub(crate) use check::host_name;
pub use explain::ExplainConfig;
pub use outlier::Outlier;
pub use picking::{Pick, PickPolicy, SameSiteWord, SlowStart, Sticky};
pub use probe::{HttpProbe, Probe, ProbeKind, Statuses};
pub use proxy_protocol::{ProxyIn, ProxyMode};
pub use rules::Actions;
pub use takeover::Takeover;
pub use tls::{
    Alpn, CertificateFiles, ClientAuth, ClientTrust, Hsts, HttpsRedirect, ListenerTls, ServerTrust,
    ServiceTls, SniRoute, TlsVersion,
};
pub use tracing::{Endpoint, Parent, Protocol, TracingConfig};
pub use tries::Tries;

/// Everything a balancer is told. It serialises with every default in place, and services and listeners by name; secrets
/// stand in files of their own, so that only their paths are in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Tells this balancer from the others in the registry. Default: the host name.
    pub id: String,
    /// Where this balancer is, in the words of the nodes' records. Default: nowhere, all nodes are alike.
    pub zone: Option<String>,
    /// How many threads carry traffic, never 0. Default: one per core.
    pub workers: usize,
    /// How long work under way may take to end after the balancer was told to stop. Default: 30 s.
    pub drain_deadline: Duration,
    /// Whether a change of the configuration's file is a reason to read it again. Default: true.
    pub watch_config: bool,
    /// How the next program takes over the sockets of this one. Default: not at all.
    pub takeover: Option<Takeover>,
    pub admin: Admin,
    /// Where nodes announce themselves. Default: nowhere, unless an embedding program brings a registry.
    pub registry: Option<registry::Config>,
    pub membership: MembershipConfig,
    pub log: Log,
    pub explain: ExplainConfig,
    /// Default: none, nothing is traced.
    pub tracing: Option<TracingConfig>,
    pub admission: Admission,
    /// At least one.
    pub listeners: Vec<Listener>,
    pub routes: Vec<Route>,
    pub services: Vec<Service>,
}

/// How membership outlives the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MembershipConfig {
    /// The file that holds the last view of the nodes for the next start. Default: none, nothing is kept.
    #[serde(deserialize_with = "value::path")]
    pub snapshot: Option<PathBuf>,
    /// How long a node that vanished from the registry is kept while nothing proves it dead. Default: 1 h.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "value::span"
    )]
    pub lost_for_max: Duration,
}

/// What is written down while the balancer runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// The least severe messages written: `off`, `error`, `warn`, `info`, `debug` or `trace`. Default: `info`.
    #[serde(deserialize_with = "value::level")]
    pub level: String,
    /// Where one line for each exchange goes: `stdout`, `off`, or a path with a slash in it. Default: `stdout`.
    pub access: AccessLog,
}

/// Where the access log goes. It is written as `off`, `stdout` or the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AccessLog {
    Off,
    #[default]
    Stdout,
    /// Lines are appended.
    File(PathBuf),
}

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    #[serde(serialize_with = "shown::text")]
    pub name: ListenerName,
    /// Port 0 lets the system choose.
    pub address: SocketAddr,
    pub protocol: ListenerProtocol,
    /// Which of the services gets what is not HTTP: set for `Tcp` and `Detect`, never for `Http`.
    #[serde(skip)]
    pub service: Option<usize>,
    /// How many clients may be connected, over all workers. Default: 100,000.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request. Default: 10 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub request_head_timeout: Duration,
    /// How long a client may stay connected without a request under way. Default: 75 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub idle_timeout: Duration,
    /// How long the first bytes, by which the protocol is told, may take to come. Default: 5 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub detect_timeout: Duration,
    /// The most bytes the head of a request may have. Default: 65,536.
    pub max_head_bytes: usize,
    /// The most fields the head of a request may have. Default: 100.
    pub max_headers: usize,
    /// The least that the body of a request must bring, in bytes per second on average. Default: 500; 0 asks for nothing.
    pub min_body_rate: u64,
    /// How long a body may be slower than that. Default: 10 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub min_body_rate_grace: Duration,
    /// How long a client may take none of what is sent to it. Default: 60 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub send_timeout: Duration,
    /// How old a connection may become before its client is asked to make another. Default: as old as it likes.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub connection_max_age: Option<Duration>,
    /// How many requests a connection may bring. Default: 0, as many as it likes.
    pub max_requests_per_connection: u32,
    /// Whether answers say what time was spent where. Default: no.
    pub server_timing: bool,
    /// Whose word about the client counts. Default: nobody's.
    pub trusted_proxies: Trusted,
    /// How the TLS of clients is ended here. Default: not at all.
    pub tls: Option<ListenerTls>,
    /// Whose TLS is passed on untouched. Default: nobody's.
    #[serde(skip)]
    pub sni: Vec<SniRoute>,
    /// What browsers are to remember: only set beside `tls`. Default: nothing.
    pub hsts: Option<Hsts>,
    /// Where every request is sent: never set beside `tls`. Default: requests are served.
    pub https_redirect: Option<HttpsRedirect>,
    pub proxy_protocol: ProxyIn,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2 with prior knowledge; anything else is refused.
    #[default]
    Http,
    /// Bytes, whatever they mean.
    Tcp,
    /// HTTP where the first bytes say so, else bytes.
    Detect,
}

/// Which requests go to a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// Default: `route-` and its place in the list, counted from 0.
    pub name: String,
    /// The listeners it holds for, all of which speak HTTP. Default: every listener that does.
    #[serde(skip)]
    pub listeners: Vec<usize>,
    /// The texts of host patterns: lower-case names without port or trailing dot, `*.` and a name for everything below it, or
    /// `*`. Default: empty, any host.
    pub hosts: Vec<String>,
    /// The text of a path prefix: what the path begins with, cut at a `/`. Default: `/`.
    pub path: String,
    /// None of a route that redirects or answers by itself.
    #[serde(skip)]
    pub service: Option<usize>,
    #[serde(flatten, serialize_with = "shown::shared")]
    pub actions: Arc<Actions>,
}

/// What nodes serve by one name, and how the balancer deals with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    #[serde(serialize_with = "shown::text")]
    pub name: ServiceName,
    pub discover: Discover,
    pub protocol: UpstreamProtocol,
    pub proxy_protocol: ProxyProtocol,
    /// How long a connection to an endpoint may take to be made. Default: 1 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub connect_timeout: Duration,
    /// How long an endpoint may take to send the head of its response once it has the request. Default: 60 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub response_head_timeout: Duration,
    /// How long an endpoint may send nothing of a response that has begun. Default: 5 min.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub stream_idle_timeout: Duration,
    /// How much of a request's body is kept so that it can be sent to another endpoint, in bytes. Default: 65,536; 0 keeps none.
    pub replay_max_bytes: usize,
    /// How long a connection to an endpoint is kept unused. Default: 60 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub idle_timeout: Duration,
    /// How long an upgraded or relayed connection may be silent in both directions. Default: 1 h.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub tunnel_idle_timeout: Duration,
    /// How many unused connections each worker keeps to each endpoint. Default: 64; 0 keeps none.
    pub max_idle_connections: usize,
    /// How long a request waits for an endpoint while there is none to take it. Default: 1 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub queue_wait: Duration,
    /// How many requests may wait, per worker while there is no endpoint, over all workers while all are busy; the next is refused
    /// at once. Default: 1,024; 0 lets none wait.
    pub queue_max: usize,
    /// How many requests each endpoint may have in flight, over all workers. Default: 0, no limit.
    pub max_requests_per_endpoint: u32,
    pub priority: Priority,
    /// Default: none, as many requests may be in flight as come.
    pub adaptive: Option<Adaptive>,
    /// How often one request is tried, the first time included. Default: 3.
    pub max_tries: u32,
    /// How many retries each request pays for: 0.2 lets one request in five be tried again. Default: 0.2.
    pub retry_ratio: f64,
    #[serde(flatten)]
    pub tries: Tries,
    pub probe: Probe,
    pub pick: Pick,
    pub outlier: Outlier,
    pub slow_start: Option<SlowStart>,
    pub sticky: Option<Sticky>,
    /// How endpoints are spoken to in TLS. Default: in the clear.
    pub tls: Option<ServiceTls>,
}

/// Where the endpoints of a service come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Discover {
    /// The nodes that announce the service. The default.
    Registry,
    /// These, at least one.
    Static(Vec<SocketAddr>),
    /// The addresses of a name.
    Dns(DnsConfig),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsConfig {
    pub name: String,
    pub port: u16,
    /// Whom to ask. Empty, the default: the servers of the system.
    pub servers: Vec<SocketAddr>,
    /// The longest an answer is believed, whatever its time to live. Default: 30 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub refresh_max: Duration,
}

/// What an endpoint is spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// As the client speaks.
    #[default]
    Match,
    Http1,
    Http2,
}

/// Whether a relayed connection tells the endpoint first who the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    #[default]
    Off,
    /// With the line of version 1 of the PROXY protocol.
    V1,
    /// With the binary header of version 2, and all that is known in its extensions.
    V2,
}

impl Config {
    /// Reads a text alone; `name` is shown in errors as the file.
    pub fn from_toml(name: &str, text: &str) -> Result<Self, settings::Error> {
        let loaded = settings::parse(name, text)?;
        let res = check::check(loaded)?;
        Ok(res)
    }

    /// Reads the file, if there is one, and lays the `COLONNADE_…` variables of the environment above it.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, settings::Error> {
        let loaded = settings::load(file, env)?;
        let res = check::check(loaded)?;
        Ok(res)
    }

    /// Whether a service finds its endpoints in the registry, so that one must be configured or brought along.
    pub fn needs_registry(&self) -> bool {
        self.services
            .iter()
            .any(|it| it.discover == Discover::Registry)
    }
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            snapshot: None,
            lost_for_max: Duration::from_secs(60 * 60),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            access: AccessLog::default(),
        }
    }
}

impl TryFrom<String> for AccessLog {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            path if path.contains('/') && !path.ends_with('/') => Ok(Self::File(path.into())),
            _ => Err(format!(
                "`{text}` is none of `stdout`, `off` and a file's path such as `/var/log/access.log`"
            )),
        }
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for AccessLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
