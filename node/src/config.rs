//! A node's settings: what an operator writes, and the checked values the node is built from.

use std::{fmt, net::SocketAddr, num::NonZeroUsize, path::Path, path::PathBuf, time::Duration};

use node_core::client::Trusted;
use registry::Registry;
use serde::Deserialize;
use settings::{Loaded, Source};

/// An id is part of a key in the registry and of every metric that names a node.
const ID_BYTES_MAX: usize = 128;

const WEIGHT_MAX: u32 = 65_535;

/// The checked settings of one node.
#[derive(Clone, Debug)]
pub struct Config {
    pub id: NodeId,
    pub zone: Option<Zone>,
    pub weight: u32,
    pub leave_deadline: Duration,
    pub admin_address: SocketAddr,
    pub registry: Option<registry::Config>,
    pub web: Web,
    pub log_level: LogLevel,
}

/// The checked settings of the web service.
#[derive(Clone, Debug)]
pub struct Web {
    pub address: SocketAddr,
    pub advertise: Option<Advertised>,
    pub sites: Option<PathBuf>,
    pub trusted: Trusted,
    pub proxy_protocol: bool,
    pub max_connections: NonZeroUsize,
    pub request_head_timeout: Duration,
}

/// The name of a node, unique in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(String);

/// Where a node runs, as far as placement is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(String);

/// `host:port` under which others reach a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised(String);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Config {
    /// Reads the file, if there is one, and the environment above it.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, settings::Error> {
        let config = checked(settings::load(file, env)?)?;
        Ok(config)
    }

    /// Reads a text alone; `name` is shown in errors as the file.
    pub fn from_toml(name: &str, text: &str) -> Result<Self, settings::Error> {
        let config = checked(settings::parse(name, text)?)?;
        Ok(config)
    }

    /// The registry that is configured; without one, a registry of this process that nobody else reads.
    pub fn open_registry(&self) -> Result<Registry, registry::OpenError> {
        match &self.registry {
            Some(config) => Registry::open(config),
            None => Ok(Registry::Memory(registry::memory::Memory::new())),
        }
    }

    /// How long the record outlives a node that vanished.
    pub(crate) fn lease_ttl(&self) -> Duration {
        let lease_ttl = |config: &registry::Config| config.lease_ttl;
        self.registry
            .as_ref()
            .map_or_else(|| lease_ttl(&registry::Config::default()), lease_ttl)
    }
}

impl NodeId {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let is_id = (1..=ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(is_plain)
            && !text.starts_with('.');
        is_id.then(|| Self(text.to_owned()))
    }
}

impl Zone {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Advertised {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_host = !host.is_empty()
            && (is_bracketed || !host.contains(':'))
            && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        (is_port && is_host).then(|| Self(text.to_owned()))
    }
}

impl From<SocketAddr> for Advertised {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The whole file.
#[derive(Debug, Deserialize)]
struct File {
    /// Who this node is and how it leaves.
    #[serde(default)]
    node: NodeSection,
    /// Where it shows how it does.
    #[serde(default)]
    admin: AdminSection,
    /// Where it announces itself. Default: absent, and the node serves but is announced nowhere.
    registry: Option<registry::Config>,
    /// The web service.
    #[serde(default)]
    web: WebSection,
    /// What it logs.
    #[serde(default)]
    log: LogSection,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct NodeSection {
    /// Unique in the cluster: up to 128 letters, digits, `-`, `_` and `.`. Default: the host's name.
    id: Option<String>,
    /// Where it runs, compared with the zones of balancers. Default: none.
    zone: Option<String>,
    /// Its share of new work beside other nodes, 0 to 65535; 0 takes none. Default: 100.
    weight: u32,
    /// From the request to leave to the end, whatever is still under way. Default: "30s".
    #[serde(with = "humantime_serde")]
    leave_deadline: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct AdminSection {
    /// Where `/livez`, `/readyz` and `/metrics` are served. Default: "127.0.0.1:9902".
    address: SocketAddr,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct WebSection {
    /// Where HTTP/1.1, HTTP/2 with prior knowledge and gRPC are served. Default: "127.0.0.1:8000".
    address: SocketAddr,
    /// The `host:port` that is announced. Default: the bound address; required where that is unspecified (`0.0.0.0`).
    advertise: Option<String>,
    /// A directory with one folder for each host name, and `default` for all others. Default: none, and `/` answers
    /// with a page that names the node.
    sites: Option<PathBuf>,
    /// Addresses and networks whose `X-Forwarded-For`, `Forwarded` and PROXY headers are believed. Default: none.
    trusted_proxies: Vec<String>,
    /// Whether trusted proxies begin each connection with a PROXY header, version 1 or 2; one that does not is closed.
    /// Default: false.
    proxy_protocol: bool,
    /// Connections open at once; more wait in the system's queue. Default: 10000.
    max_connections: usize,
    /// From the first byte of a request's head to its last, and from the connection to its first. Default: "10s".
    #[serde(with = "humantime_serde")]
    request_head_timeout: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogSection {
    /// The least of what is logged: "error", "warn", "info", "debug" or "trace". Default: "info".
    level: LogLevel,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            id: None,
            zone: None,
            weight: 100,
            leave_deadline: Duration::from_secs(30),
        }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            address: ([127, 0, 0, 1], 9902).into(),
        }
    }
}

impl Default for WebSection {
    fn default() -> Self {
        Self {
            address: ([127, 0, 0, 1], 8000).into(),
            advertise: None,
            sites: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            max_connections: 10_000,
            request_head_timeout: Duration::from_secs(10),
        }
    }
}

fn checked(loaded: Loaded<File>) -> Result<Config, settings::Error> {
    let Loaded {
        value: file,
        source,
    } = loaded;
    if let Some(config) = &file.registry {
        Registry::open(config).map_err(|error| source.error("registry", error.to_string()))?;
    }
    not_zero(file.node.leave_deadline, "node.leave_deadline", &source)?;
    if file.node.weight > WEIGHT_MAX {
        return Err(source.error("node.weight", format!("expected 0 to {WEIGHT_MAX}")));
    }
    Ok(Config {
        id: id(file.node.id, &source)?,
        zone: file.node.zone.map(Zone),
        weight: file.node.weight,
        leave_deadline: file.node.leave_deadline,
        admin_address: file.admin.address,
        registry: file.registry,
        web: web(file.web, &source)?,
        log_level: file.log.level,
    })
}

fn web(section: WebSection, source: &Source) -> Result<Web, settings::Error> {
    not_zero(
        section.request_head_timeout,
        "web.request_head_timeout",
        source,
    )?;
    let max_connections = NonZeroUsize::new(section.max_connections)
        .ok_or_else(|| source.error("web.max_connections", "expected at least 1"))?;
    Ok(Web {
        address: section.address,
        advertise: advertise(section.advertise.as_deref(), section.address, source)?,
        sites: section.sites,
        trusted: trusted(&section.trusted_proxies, source)?,
        proxy_protocol: section.proxy_protocol,
        max_connections,
        request_head_timeout: section.request_head_timeout,
    })
}

fn id(configured: Option<String>, source: &Source) -> Result<NodeId, settings::Error> {
    let text = configured.unwrap_or_else(host_name);
    NodeId::parse(&text).ok_or_else(|| {
        let rule = format!("expected 1 to {ID_BYTES_MAX} letters, digits, `-`, `_` and `.`");
        source.error("node.id", format!("{text:?} is no id, {rule}"))
    })
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn advertise(
    text: Option<&str>,
    bound: SocketAddr,
    source: &Source,
) -> Result<Option<Advertised>, settings::Error> {
    match text {
        Some(text) => Advertised::parse(text)
            .ok_or_else(|| {
                source.error(
                    "web.advertise",
                    format!("{text:?} is not of the form host:port"),
                )
            })
            .map(Some),
        None if bound.ip().is_unspecified() => {
            let message = "required where web.address is unspecified: nobody can connect to it";
            Err(source.error("web.advertise", message))
        }
        None => Ok(None),
    }
}

fn trusted(networks: &[String], source: &Source) -> Result<Trusted, settings::Error> {
    for (idx, text) in networks.iter().enumerate() {
        Trusted::parse([text.as_str()]).map_err(|error| {
            source.error(&format!("web.trusted_proxies[{idx}]"), error.to_string())
        })?;
    }
    let trusted = Trusted::parse(networks.iter().map(String::as_str))
        .map_err(|error| source.error("web.trusted_proxies", error.to_string()))?;
    Ok(trusted)
}

fn not_zero(duration: Duration, key: &str, source: &Source) -> Result<(), settings::Error> {
    match duration {
        Duration::ZERO => Err(source.error(key, "expected more than zero")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_read_and_says_the_defaults() {
        let text = include_str!("../../deploy/node.toml");
        let example = Config::from_toml("node.toml", text).expect("the example is right");
        assert_eq!(example.id.as_str(), "node-1");
        assert_eq!(example.registry, Some(registry::Config::default()));
        let plain = Config::from_toml("", "").expect("every key has a default");
        assert_eq!(example.weight, plain.weight);
        assert_eq!(example.leave_deadline, plain.leave_deadline);
        assert_eq!(example.web.max_connections, plain.web.max_connections);
        assert_eq!(
            example.web.request_head_timeout,
            plain.web.request_head_timeout
        );
        assert_eq!(example.admin_address, plain.admin_address);
        assert_eq!(example.log_level, plain.log_level);
    }

    #[test]
    fn what_cannot_be_is_one_line() {
        check(
            "[node]\nid = 'a/b'",
            "n.toml:2: node.id: \"a/b\" is no id, expected 1 to 128 letters, digits, `-`, `_` and `.`",
        );
        check(
            "[node]\nweight = 70000",
            "n.toml:2: node.weight: expected 0 to 65535",
        );
        check(
            "[node]\nleave_deadline = '0s'",
            "n.toml:2: node.leave_deadline: expected more than zero",
        );
        check(
            "[web]\nmax_connections = 0",
            "n.toml:2: web.max_connections: expected at least 1",
        );
        check(
            "[web]\naddress = '0.0.0.0:80'",
            "n.toml:1: web.advertise: required where web.address is unspecified: nobody can connect to it",
        );
        check(
            "[web]\nadvertise = '::1:80'",
            "n.toml:2: web.advertise: \"::1:80\" is not of the form host:port",
        );
        check(
            "[web]\ntrusted_proxies = ['::1',\n 'x']",
            "n.toml:3: web.trusted_proxies[1]: expected an address or a network such as `10.0.0.0/8`",
        );
        check(
            "[registry]\nendpoints = []",
            "n.toml:1: registry: endpoints is empty",
        );
        check(
            "[log]\nlevel = 'loud'",
            "n.toml:2: log.level: unknown variant `loud`, expected one of `error`, `warn`, `info`, `debug`, `trace`",
        );
    }

    #[test]
    fn an_advertised_address_has_a_host_and_a_port() {
        for text in [
            "node-1:8000",
            "10.0.0.3:1",
            "[::1]:8000",
            "web.example.org:65535",
        ] {
            assert!(Advertised::parse(text).is_some(), "{text}");
        }
        for text in [
            "",
            ":80",
            "host",
            "host:0",
            "host:70000",
            "a b:1",
            "http://host:1",
        ] {
            assert!(Advertised::parse(text).is_none(), "{text}");
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = Config::from_toml("n.toml", text).expect_err("the text is wrong");
        assert_eq!(error.to_string(), expected);
    }
}
