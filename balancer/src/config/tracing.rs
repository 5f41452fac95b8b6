//! `[tracing]`: whether exchanges are told to an OpenTelemetry collector, which of them, and how.

use std::{collections::BTreeMap, time::Duration};

use http::Uri;
use serde::{Deserialize, Serialize, Serializer};
use settings::Error;

use super::{check::Keys, value};

const ATTRIBUTES_MAX: usize = 64;

/// The port that collectors by custom take OTLP over HTTP at; 4317 is that of gRPC.
const HTTP_PORT: u16 = 4318;

/// Where gRPC and HTTP find the one method there is.
const TRACES_PATH: &str = "/v1/traces";

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    /// The collector, such as `"http://127.0.0.1:4317"`; without TLS, so it belongs on this machine or a network of your own.
    /// Default: none, nothing is traced.
    pub(super) endpoint: Option<String>,
    /// `"grpc"`, or `"http"` for protobuf in a POST. Default: `"http"` for port 4318, else `"grpc"`.
    pub(super) protocol: Option<Protocol>,
    /// Which share of the traces that begin here is sampled, 0 to 1; all balancers choose the same ones. Default: 0.01.
    pub(super) sample_ratio: f64,
    /// Whose word on sampling is followed when a request carries a `traceparent`: `"trusted"`, that of `trusted_proxies`;
    /// `"always"`; `"never"`. Default: `"trusted"`.
    pub(super) sample_parent: Parent,
    /// What the spans' resource is called: `service.name`. Default: `"colonnade-balancer"`.
    pub(super) service_name: String,
    /// More attributes of the resource, up to 64. Default: none.
    pub(super) attributes: BTreeMap<String, String>,
    /// How many spans may wait, per worker: 1 to 1,000,000; more are dropped and counted. Default: 2,048.
    #[serde(deserialize_with = "value::count::<1, 1_000_000, _, _>")]
    pub(super) queue_max: usize,
    /// The most spans in one message: 1 to 10,000. Default: 512.
    #[serde(deserialize_with = "value::count::<1, 10_000, _, _>")]
    pub(super) batch_max: usize,
    /// How often what waits is sent. Default: `"1s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) interval: Duration,
    /// How long the collector may take to answer. Default: `"5s"`.
    #[serde(deserialize_with = "value::span")]
    pub(super) timeout: Duration,
}

/// Spans go to this collector.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TracingConfig {
    #[serde(serialize_with = "super::shown::text")]
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    pub sample_ratio: f64,
    pub sample_parent: Parent,
    pub service_name: String,
    pub attributes: BTreeMap<String, String>,
    pub queue_max: usize,
    pub batch_max: usize,
    #[serde(serialize_with = "span")]
    pub interval: Duration,
    #[serde(serialize_with = "span")]
    pub timeout: Duration,
}

/// A collector's `http://` address: it has a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Grpc,
    Http,
}

/// Whose word on sampling is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parent {
    #[default]
    Trusted,
    Always,
    Never,
}

impl Raw {
    /// Without an endpoint there is nothing to trace for, whatever else is set.
    pub(super) fn check(self, keys: &Keys<'_>) -> Result<Option<TracingConfig>, Error> {
        keys.at_most("attributes", self.attributes.len(), ATTRIBUTES_MAX)?;
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            let message = format!("{} is not within 0 to 1", self.sample_ratio);
            return Err(keys.refuse("sample_ratio", message));
        }
        let Some(text) = &self.endpoint else {
            return Ok(None);
        };
        let endpoint = endpoint(text).map_err(|message| keys.refuse("endpoint", message))?;
        let custom = match endpoint.0.port_u16() == Some(HTTP_PORT) {
            true => Protocol::Http,
            false => Protocol::Grpc,
        };
        Ok(Some(TracingConfig {
            endpoint,
            protocol: self.protocol.unwrap_or(custom),
            sample_ratio: self.sample_ratio,
            sample_parent: self.sample_parent,
            service_name: self.service_name,
            attributes: self.attributes,
            queue_max: self.queue_max,
            batch_max: self.batch_max,
            interval: self.interval,
            timeout: self.timeout,
        }))
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let uri: Uri = text
        .parse()
        .map_err(|err| format!("`{text}` is not a URL: {err}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) if !host.is_empty() => Ok(Endpoint(uri)),
        _ => Err(format!(
            "`{text}` is not `http://` with a host, such as \"http://127.0.0.1:4317\""
        )),
    }
}

fn span<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    humantime_serde::serialize(span, serializer)
}

impl Endpoint {
    /// `host:port`, what is connected to and what the Host field says.
    pub fn authority(&self) -> String {
        let port = self.0.port_u16().unwrap_or(80);
        format!("{}:{port}", self.0.host().unwrap_or_default())
    }

    /// Where spans are posted: the path given, or the customary one.
    pub fn path(&self) -> &str {
        match self.0.path() {
            "" | "/" => TRACES_PATH,
            path => path,
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: None,
            sample_ratio: 0.01,
            sample_parent: Parent::default(),
            service_name: "colonnade-balancer".to_owned(),
            attributes: BTreeMap::new(),
            queue_max: 2048,
            batch_max: 512,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
        }
    }
}
