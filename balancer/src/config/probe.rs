//! How the endpoints of a service are probed: the keys, and what they say once checked.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use settings::Error;

use super::{check::Keys, value};

const HEADERS_MAX: usize = 32;
const STATUSES_MAX: usize = 32;
/// So long a name fits the one byte that counts it in the message.
const GRPC_SERVICE_LEN_MAX: usize = 127;
const HOST_LEN_MAX: usize = 253;

/// How the balancer sees for itself whether an endpoint lives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    pub kind: ProbeKind,
    /// Another port of the endpoint's address to ask at. Default: the endpoint's own.
    pub port: Option<u16>,
    /// From one probe of an endpoint to the next, give or take a tenth. Default: 1 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub interval: Duration,
    /// How long an answer may take. Default: 1 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub timeout: Duration,
    /// How many good probes in a row make an endpoint healthy. Default: 1.
    pub healthy_after: u32,
    /// How many bad probes in a row make an endpoint unhealthy. Default: 2.
    pub unhealthy_after: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// A connection that is made is good. The default.
    Tcp,
    /// A response of an expected status to `GET` is good.
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check` that answers `SERVING` is good.
    Grpc {
        /// Empty asks for the server as a whole.
        service: String,
    },
    /// Endpoints are never asked.
    Off,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpProbe {
    pub path: String,
    /// Default: the endpoint's address.
    pub host: Option<String>,
    /// Default: 200 to 399.
    pub statuses: Vec<Statuses>,
    #[serde(skip)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The statuses from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Statuses {
    pub from: u16,
    pub to: u16,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    /// What is asked: `"tcp"`, that a connection can be made; `"http"`, that a `GET` is answered with an expected status;
    /// `"grpc"`, that the gRPC health service says `SERVING`; `"off"`, nothing. Default: `"tcp"`.
    kind: Kind,
    /// What to `GET`. Required for `"http"`, and only there.
    path: Option<String>,
    /// The host to ask for. Only for `"http"`. Default: the endpoint's address.
    host: Option<String>,
    /// The statuses that are good, each a number or two such as `"200-299"`; up to 32. Only for `"http"`.
    /// Default: `["200-399"]`.
    statuses: Option<Vec<String>>,
    /// Fields to send along, such as `"x-probe: yes"`; up to 32. Only for `"http"`. Default: none.
    headers: Option<Vec<String>>,
    /// The name to ask the gRPC health service for, up to 127 bytes. Only for `"grpc"`. Default: `""`, the server as a whole.
    grpc_service: Option<String>,
    /// Another port of the endpoint's address to ask at, 1 to 65,535. Default: the endpoint's own.
    port: Option<u16>,
    /// From one probe of an endpoint to the next, give or take a tenth. Default: `"1s"`.
    #[serde(deserialize_with = "value::span")]
    interval: Duration,
    /// How long an answer may take. Default: `"1s"`.
    #[serde(deserialize_with = "value::span")]
    timeout: Duration,
    /// How many good probes in a row make an endpoint healthy: 1 to 100. Default: 1.
    #[serde(deserialize_with = "value::count::<1, 100, _, _>")]
    healthy_after: u32,
    /// How many bad probes in a row make an endpoint unhealthy: 1 to 100. Default: 2.
    #[serde(deserialize_with = "value::count::<1, 100, _, _>")]
    unhealthy_after: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Tcp,
    Http,
    Grpc,
    Off,
}

pub(super) fn check(keys: &Keys<'_>, raw: Raw) -> Result<Probe, Error> {
    if raw.port == Some(0) {
        return Err(keys.refuse("port", "no connection can be made to port 0"));
    }
    Ok(Probe {
        kind: kind(keys, &raw)?,
        port: raw.port,
        interval: raw.interval,
        timeout: raw.timeout,
        healthy_after: raw.healthy_after,
        unhealthy_after: raw.unhealthy_after,
    })
}

impl Statuses {
    pub fn contains(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

fn kind(keys: &Keys<'_>, raw: &Raw) -> Result<ProbeKind, Error> {
    if raw.kind != Kind::Http {
        let reason = "is for `kind = \"http\"` only";
        keys.absent("path", &raw.path, reason)?;
        keys.absent("host", &raw.host, reason)?;
        keys.absent("statuses", &raw.statuses, reason)?;
        keys.absent("headers", &raw.headers, reason)?;
    }
    if raw.kind != Kind::Grpc {
        keys.absent(
            "grpc_service",
            &raw.grpc_service,
            "is for `kind = \"grpc\"` only",
        )?;
    }
    let kind = match raw.kind {
        Kind::Tcp => ProbeKind::Tcp,
        Kind::Off => ProbeKind::Off,
        Kind::Http => ProbeKind::Http(http_probe(keys, raw)?),
        Kind::Grpc => ProbeKind::Grpc {
            service: grpc_service(keys, raw.grpc_service.clone().unwrap_or_default())?,
        },
    };
    Ok(kind)
}

fn http_probe(keys: &Keys<'_>, raw: &Raw) -> Result<HttpProbe, Error> {
    // No path is answered by every server, so that none can be the default.
    let path = keys.required("path", raw.path.clone())?;
    value::check_target(&path).map_err(|message| keys.refuse("path", message))?;
    let probe = HttpProbe {
        path,
        host: host(keys, raw.host.clone())?,
        statuses: statuses(keys, raw.statuses.as_deref())?,
        headers: headers(keys, raw.headers.as_deref().unwrap_or_default())?,
    };
    Ok(probe)
}

fn host(keys: &Keys<'_>, host: Option<String>) -> Result<Option<String>, Error> {
    let is_plain = |it: &str| {
        (1..=HOST_LEN_MAX).contains(&it.len())
            && it
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || b".-_:[]".contains(&it))
    };
    match host.as_deref() {
        Some(text) if !is_plain(text) => Err(keys.refuse(
            "host",
            format!("`{text}` is not a name such as `www.example.org`"),
        )),
        _ => Ok(host),
    }
}

fn statuses(keys: &Keys<'_>, texts: Option<&[String]>) -> Result<Vec<Statuses>, Error> {
    let Some(texts) = texts else {
        return Ok(vec![Statuses { from: 200, to: 399 }]);
    };
    keys.at_most("statuses", texts.len(), STATUSES_MAX)?;
    let one = |(idx, text): (usize, &String)| {
        parse_statuses(text).ok_or_else(|| {
            let message =
                format!("`{text}` is not a status from 100 to 599 or two such as `200-299`");
            keys.refuse(&format!("statuses[{idx}]"), message)
        })
    };
    texts.iter().enumerate().map(one).collect()
}

fn parse_statuses(text: &str) -> Option<Statuses> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let number = |it: &str| it.parse().ok().filter(|it| (100..600).contains(it));
    let (from, to) = (number(from)?, number(to)?);
    (from <= to).then_some(Statuses { from, to })
}

fn headers(keys: &Keys<'_>, texts: &[String]) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    keys.at_most("headers", texts.len(), HEADERS_MAX)?;
    let one = |(idx, text): (usize, &String)| {
        // The value may be a secret, so that it is not repeated.
        parse_header(text).ok_or_else(|| {
            keys.refuse(
                &format!("headers[{idx}]"),
                "is not a field such as `x-probe: yes`",
            )
        })
    };
    texts.iter().enumerate().map(one).collect()
}

fn parse_header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name.parse().ok()?, value))
}

fn grpc_service(keys: &Keys<'_>, name: String) -> Result<String, Error> {
    keys.at_most("grpc_service", name.len(), GRPC_SERVICE_LEN_MAX)?;
    Ok(name)
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            path: None,
            host: None,
            statuses: None,
            headers: None,
            grpc_service: None,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after: 1,
            unhealthy_after: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_one_or_a_span() {
        check("200", Some((200, 200)));
        check("200-299", Some((200, 299)));
        check("299-200", None);
        check("99", None);
        check("600", None);
        check("2xx", None);
        check("", None);
    }

    #[test]
    fn a_field_has_a_name_and_a_value() {
        let (name, value) = parse_header("X-Probe:  yes ").expect("a field");
        assert_eq!((name.as_str(), value.as_bytes()), ("x-probe", &b"yes"[..]));
        for bad in ["", "x", "x y: z", "x: a\nb", ": v"] {
            assert!(parse_header(bad).is_none(), "{bad:?}");
        }
    }

    fn check(text: &str, expected: Option<(u16, u16)>) {
        let read = parse_statuses(text).map(|it| (it.from, it.to));
        assert_eq!(read, expected, "{text:?}");
    }
}
