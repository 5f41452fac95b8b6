//! Services: where each finds its endpoints, and how these are probed.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use settings::Error;

use super::Keys;
use crate::config::{
    Adaptive, Discover, DnsConfig, Service, Sticky, busy,
    picking::{self, RawSticky},
    probe,
    raw::{self, DiscoverKind},
    tries,
};

const ENDPOINTS_MAX: usize = 10_000;
const DNS_SERVERS_MAX: usize = 16;
const DNS_REFRESH_MAX: Duration = Duration::from_secs(30);
/// RFC 1035 §2.3.4.
const HOST_NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

pub(super) fn all(top: &Keys<'_>, raw: Vec<raw::Service>) -> Result<Vec<Service>, Error> {
    let mut services = Vec::with_capacity(raw.len());
    for (idx, raw) in raw.into_iter().enumerate() {
        services.push(one(&top.element("service", idx), raw)?);
    }
    Ok(services)
}

fn one(keys: &Keys<'_>, mut raw: raw::Service) -> Result<Service, Error> {
    let tls = raw.tls.take().map(|it| it.check(&keys.table("tls")));
    let service = Service {
        discover: discover(keys, &raw)?,
        tries: tries::check(keys, &raw)?,
        name: keys.required("name", raw.name)?.into(),
        protocol: raw.protocol,
        proxy_protocol: raw.proxy_protocol,
        connect_timeout: raw.connect_timeout,
        response_head_timeout: raw.response_head_timeout,
        idle_timeout: raw.idle_timeout,
        tunnel_idle_timeout: raw.tunnel_idle_timeout,
        stream_idle_timeout: raw.stream_idle_timeout,
        replay_max_bytes: raw.replay_max_bytes,
        max_idle_connections: raw.max_idle_connections,
        queue_wait: raw.queue_wait,
        queue_max: raw.queue_max,
        max_tries: raw.max_tries,
        retry_ratio: raw.retry_ratio,
        max_requests_per_endpoint: raw.max_requests_per_endpoint,
        priority: busy::check_priority(&keys.table("priority"), raw.priority)?,
        adaptive: adaptive(keys, raw.adaptive.as_ref())?,
        probe: probe::check(&keys.table("probe"), raw.probe)?,
        tls: tls.transpose()?,
        pick: raw.pick,
        outlier: raw.outlier,
        slow_start: raw.slow_start,
        sticky: sticky(keys, raw.sticky)?,
    };
    Ok(service)
}

fn sticky(keys: &Keys<'_>, raw: Option<RawSticky>) -> Result<Option<Sticky>, Error> {
    raw.map(|it| picking::check_sticky(&keys.table("sticky"), it))
        .transpose()
}

fn discover(keys: &Keys<'_>, raw: &raw::Service) -> Result<Discover, Error> {
    if raw.discover != DiscoverKind::Static {
        keys.absent(
            "endpoints",
            &raw.endpoints,
            "is for `discover = \"static\"` only",
        )?;
    }
    if raw.discover != DiscoverKind::Dns {
        let reason = "is for `discover = \"dns\"` only";
        keys.absent("dns", &raw.dns, reason)?;
        keys.absent("dns_servers", &raw.dns_servers, reason)?;
        keys.absent("dns_refresh_max", &raw.dns_refresh_max, reason)?;
    }
    let discover = match raw.discover {
        DiscoverKind::Registry => Discover::Registry,
        DiscoverKind::Static => Discover::Static(endpoints(keys, raw)?),
        DiscoverKind::Dns => Discover::Dns(dns(keys, raw)?),
    };
    Ok(discover)
}

fn endpoints(keys: &Keys<'_>, raw: &raw::Service) -> Result<Vec<SocketAddr>, Error> {
    let endpoints = keys.required("endpoints", raw.endpoints.clone())?;
    if endpoints.is_empty() {
        return Err(keys.refuse("endpoints", "is empty: a static service has at least one"));
    }
    check_addresses(keys, "endpoints", &endpoints, ENDPOINTS_MAX)?;
    Ok(endpoints)
}

fn dns(keys: &Keys<'_>, raw: &raw::Service) -> Result<DnsConfig, Error> {
    let text = keys.required("dns", raw.dns.as_deref())?;
    let (name, port) = host_and_port(text).ok_or_else(|| {
        keys.refuse(
            "dns",
            format!("`{text}` is not a name and a port, such as `web.example.org:8000`"),
        )
    })?;
    let servers = raw.dns_servers.clone().unwrap_or_default();
    check_addresses(keys, "dns_servers", &servers, DNS_SERVERS_MAX)?;
    Ok(DnsConfig {
        name,
        port,
        servers,
        refresh_max: raw.dns_refresh_max.unwrap_or(DNS_REFRESH_MAX),
    })
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (name, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|it| *it != 0)?;
    is_host_name(name).then(|| (name.to_owned(), port))
}

/// Whether DNS can hold it; underscores stand in the names of services. An address would resolve to itself for ever, which is
/// what static endpoints are for.
fn is_host_name(text: &str) -> bool {
    text.len() <= HOST_NAME_LEN_MAX
        && text
            .strip_suffix('.')
            .unwrap_or(text)
            .split('.')
            .all(is_label)
        && text.parse::<IpAddr>().is_err()
}

fn is_label(text: &str) -> bool {
    (1..=LABEL_LEN_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
}

fn check_addresses(
    keys: &Keys<'_>,
    key: &str,
    addresses: &[SocketAddr],
    len_max: usize,
) -> Result<(), Error> {
    keys.at_most(key, addresses.len(), len_max)?;
    let mut seen = BTreeSet::new();
    for (idx, address) in addresses.iter().enumerate() {
        let objection = match (address.port(), seen.insert(address)) {
            (0, _) => "no connection can be made to port 0",
            (_, false) => "stands here twice",
            _ => continue,
        };
        return Err(keys.refuse(&format!("{key}[{idx}]"), format!("{address}: {objection}")));
    }
    Ok(())
}

fn adaptive(keys: &Keys<'_>, raw: Option<&busy::RawAdaptive>) -> Result<Option<Adaptive>, Error> {
    let keys = keys.table("adaptive");
    raw.map(|it| busy::check_adaptive(&keys, it)).transpose()
}
