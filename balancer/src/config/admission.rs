//! What the balancer takes on before it refuses: the keys, and what they say once checked.

use std::{num::NonZero, time::Duration};

use balancer_core::forwarded::Trusted;
use http::HeaderName;
use serde::{Deserialize, Serialize, Serializer};
use settings::Error;

use super::{
    check::{Keys, Named},
    proxy_protocol::networks,
    value,
};

const EXEMPT_MAX: usize = 1_000;
const RATES_MAX: usize = 64;
const BYTES_MIN: u64 = 16 << 20;

/// Limits over all listeners and workers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Admission {
    /// Connections of all listeners together. Default: 1,000,000.
    pub max_connections: usize,
    /// Connections of one source. Default: no limit.
    pub max_connections_per_source: Option<NonZero<u32>>,
    /// New connections of one source in a second. Default: no limit.
    pub new_connections_per_source: Option<NonZero<u32>>,
    /// How many of them may come at once. Default: as many as in a second.
    pub new_connections_burst: u32,
    /// How many leading bits of an IPv4 address make a source. Default: 32.
    pub source_prefix_v4: u8,
    /// How many leading bits of an IPv6 address make a source. Default: 64.
    pub source_prefix_v6: u8,
    /// Networks that no limit by source or key holds for. Default: none.
    pub exempt: Trusted,
    /// How many sources and keys are remembered for rates. Default: 100,000.
    pub subjects_max: usize,
    /// Default: memory is not watched.
    pub memory_max: Option<MemoryMax>,
    /// The share of it from which on the least important is refused. Default: 0.85.
    pub memory_shed_at: f64,
    /// The share of it from which on everything new is refused. Default: 0.95.
    pub memory_refuse_at: f64,
    pub rate: Vec<Rate>,
}

/// How much memory there is to use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryMax {
    Bytes(u64),
    /// Of the cgroup's limit, or of the machine's memory.
    Share(f64),
}

/// How many requests somebody may send.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    pub name: String,
    /// Whose requests are counted together. Default: those of one source.
    #[serde(serialize_with = "header")]
    pub by_header: Option<HeaderName>,
    pub rate: u32,
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub per: Duration,
    pub burst: u32,
    /// The listeners and routes it holds for; empty stands for all.
    pub listeners: Vec<String>,
    pub routes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    /// Connections of all listeners together, over all workers: 1 to 10,000,000. Default: 1,000,000.
    #[serde(deserialize_with = "value::count::<1, 10_000_000, _, _>")]
    max_connections: usize,
    /// Connections of one source at a time, up to 1,000,000. Default: 0, no limit.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    max_connections_per_source: u32,
    /// New connections of one source in a second, up to 1,000,000. Default: 0, no limit.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    new_connections_per_source: u32,
    /// How many of them may come at once, up to 1,000,000. Default: 0, as many as in a second.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    new_connections_burst: u32,
    /// How many leading bits of an IPv4 address make a source: 8 to 32. Default: 32.
    #[serde(deserialize_with = "value::count::<8, 32, _, _>")]
    source_prefix_v4: u8,
    /// How many leading bits of an IPv6 address make a source: 16 to 128. Default: 64.
    #[serde(deserialize_with = "value::count::<16, 128, _, _>")]
    source_prefix_v6: u8,
    /// Networks that no limit by source or key holds for, such as `"10.0.0.0/8"`; up to 1,000. Default: none.
    exempt: Vec<String>,
    /// How many sources and keys are remembered for rates, about 70 bytes each: 1,000 to 10,000,000. At the limit the one heard of
    /// longest ago is forgotten. Default: 100,000.
    #[serde(deserialize_with = "value::count::<1000, 10_000_000, _, _>")]
    subjects_max: usize,
    /// How much memory the balancer may use: a size such as `"512MiB"`, at least 16 MiB, or a share such as `"80%"` of the
    /// cgroup's limit, or of the machine's memory where there is none. Default: none, memory is not watched.
    memory_max: Option<String>,
    /// The share of `memory_max`, 0 to 1, from which on requests of low priority are refused and idle connections closed.
    /// Default: 0.85.
    memory_shed_at: f64,
    /// The share of `memory_max`, 0 to 1, from which on every new connection and request is refused. Default: 0.95.
    memory_refuse_at: f64,
    /// How many requests somebody may send; up to 64 such rules, all of which must agree. Default: none.
    rate: Vec<RawRate>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct RawRate {
    /// What metrics and answers call it: up to 63 letters, digits, `.`, `_` and `-`. Required.
    name: Option<String>,
    /// The header whose value tells who asks, such as `"x-api-key"`. A request without it is counted by its source. Default: none,
    /// requests are counted by their source.
    by_header: Option<String>,
    /// How many requests, 1 to 1,000,000. Required.
    rate: Option<u32>,
    /// In how much time. Default: `"1s"`.
    #[serde(deserialize_with = "value::span")]
    per: Duration,
    /// How many may come at once, up to 1,000,000. Default: 0, as many as `rate`.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    burst: u32,
    /// The listeners it holds for. Default: all.
    listeners: Vec<String>,
    /// The routes it holds for. Default: all.
    routes: Vec<String>,
}

/// `routes` are the names of the routes in their order.
pub(super) fn check(
    keys: &Keys<'_>,
    raw: Raw,
    listeners: &Named,
    routes: &[String],
) -> Result<Admission, Error> {
    keys.at_most("rate", raw.rate.len(), RATES_MAX)?;
    check_share(keys, "memory_shed_at", raw.memory_shed_at, 1.0)?;
    check_share(keys, "memory_refuse_at", raw.memory_refuse_at, 1.0)?;
    if raw.memory_shed_at > raw.memory_refuse_at {
        let message = "is above `memory_refuse_at`: the least important is refused first";
        return Err(keys.refuse("memory_shed_at", message));
    }
    let memory_max = raw.memory_max.as_deref();
    let rates = raw.rate.into_iter().enumerate();
    let rates = rates.map(|(idx, it)| rate(&keys.element("rate", idx), it, listeners, routes));
    let rates = rates.collect::<Result<Vec<_>, _>>()?;
    check_names(keys, &rates)?;
    let burst = match raw.new_connections_burst {
        0 => raw.new_connections_per_source,
        burst => burst,
    };
    Ok(Admission {
        max_connections: raw.max_connections,
        max_connections_per_source: NonZero::new(raw.max_connections_per_source),
        new_connections_per_source: NonZero::new(raw.new_connections_per_source),
        new_connections_burst: burst,
        source_prefix_v4: raw.source_prefix_v4,
        source_prefix_v6: raw.source_prefix_v6,
        exempt: networks(keys, "exempt", &raw.exempt, EXEMPT_MAX)?,
        subjects_max: raw.subjects_max,
        memory_max: memory_max.map(|it| memory(keys, it)).transpose()?,
        memory_shed_at: raw.memory_shed_at,
        memory_refuse_at: raw.memory_refuse_at,
        rate: rates,
    })
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            max_connections: 1_000_000,
            max_connections_per_source: None,
            new_connections_per_source: None,
            new_connections_burst: 0,
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            exempt: Trusted::default(),
            subjects_max: 100_000,
            memory_max: None,
            memory_shed_at: 0.85,
            memory_refuse_at: 0.95,
            rate: Vec::new(),
        }
    }
}

impl Default for Raw {
    fn default() -> Self {
        let checked = Admission::default();
        Self {
            max_connections: checked.max_connections,
            max_connections_per_source: 0,
            new_connections_per_source: 0,
            new_connections_burst: 0,
            source_prefix_v4: checked.source_prefix_v4,
            source_prefix_v6: checked.source_prefix_v6,
            exempt: Vec::new(),
            subjects_max: checked.subjects_max,
            memory_max: None,
            memory_shed_at: checked.memory_shed_at,
            memory_refuse_at: checked.memory_refuse_at,
            rate: Vec::new(),
        }
    }
}

impl Default for RawRate {
    fn default() -> Self {
        Self {
            name: None,
            by_header: None,
            rate: None,
            per: Duration::from_secs(1),
            burst: 0,
            listeners: Vec::new(),
            routes: Vec::new(),
        }
    }
}

fn rate(
    keys: &Keys<'_>,
    raw: RawRate,
    listeners: &Named,
    routes: &[String],
) -> Result<Rate, Error> {
    let name = keys.required("name", raw.name)?;
    value::check_name(&name).map_err(|message| keys.refuse("name", message))?;
    let rate = keys.required("rate", raw.rate)?;
    if !(1..=1_000_000).contains(&rate) {
        return Err(keys.refuse("rate", format!("{rate} is not within 1 to 1000000")));
    }
    let by_header = raw.by_header.map(|it| header_name(keys, "by_header", &it));
    for (idx, name) in raw.listeners.iter().enumerate() {
        listeners.find(keys, &format!("listeners[{idx}]"), name)?;
    }
    for (idx, name) in raw.routes.iter().enumerate() {
        if !routes.contains(name) {
            let message = format!("no route is called `{name}`");
            return Err(keys.refuse(&format!("routes[{idx}]"), message));
        }
    }
    Ok(Rate {
        name,
        by_header: by_header.transpose()?,
        rate,
        per: raw.per,
        burst: if raw.burst == 0 { rate } else { raw.burst },
        listeners: raw.listeners,
        routes: raw.routes,
    })
}

/// Metrics and answers tell rules apart by their names.
fn check_names(keys: &Keys<'_>, rates: &[Rate]) -> Result<(), Error> {
    for (idx, rate) in rates.iter().enumerate() {
        let taken = rates[..idx].iter().position(|it| it.name == rate.name);
        if let Some(taken) = taken {
            let message = format!("rate[{taken}] is called `{}` already", rate.name);
            return Err(keys.element("rate", idx).refuse("name", message));
        }
    }
    Ok(())
}

fn memory(keys: &Keys<'_>, text: &str) -> Result<MemoryMax, Error> {
    let read = match text.strip_suffix('%') {
        Some(share) => share
            .parse()
            .ok()
            .filter(|it| (1.0..=100.0).contains(it))
            .map(|it: f64| MemoryMax::Share(it / 100.0)),
        None => bytes(text)
            .filter(|it| *it >= BYTES_MIN)
            .map(MemoryMax::Bytes),
    };
    read.ok_or_else(|| {
        let message = format!("`{text}` is neither a size of at least 16 MiB such as `512MiB` nor a share such as `80%`");
        keys.refuse("memory_max", message)
    })
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn check_share(keys: &Keys<'_>, key: &str, share: f64, max: f64) -> Result<(), Error> {
    match share > 0.0 && share <= max {
        true => Ok(()),
        false => Err(keys.refuse(key, format!("{share} is not above 0 and at most {max}"))),
    }
}

pub(super) fn header_name(keys: &Keys<'_>, key: &str, text: &str) -> Result<HeaderName, Error> {
    text.parse()
        .map_err(|_| keys.refuse(key, format!("`{text}` is not the name of a header")))
}

pub(super) fn header<S: Serializer>(
    name: &Option<HeaderName>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    name.as_ref().map(HeaderName::as_str).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_cannot_be_meant_is_refused_where_it_stands() {
        let rate = |keys: &str| format!("rate = [{{ name = 'a', {keys} }}]");
        refuse(
            "memory_max = '1MiB'",
            "t.toml:2: admission.memory_max: `1MiB` is neither",
        );
        refuse(
            "memory_max = '120%'",
            "t.toml:2: admission.memory_max: `120%` is neither",
        );
        refuse(
            "memory_shed_at = 0.96",
            "t.toml:2: admission.memory_shed_at: is above",
        );
        refuse(
            "memory_refuse_at = 1.5",
            "t.toml:2: admission.memory_refuse_at: 1.5 is not",
        );
        refuse(
            "exempt = ['x']",
            "t.toml:2: admission.exempt[0]: `x` is not an IP address",
        );
        refuse(
            "source_prefix_v6 = 129",
            "admission.source_prefix_v6: 129 is not within",
        );
        refuse(
            "rate = [{ name = 'a' }]",
            "admission.rate[0].rate: required",
        );
        refuse(&rate("rate = 0"), "admission.rate[0].rate: 0 is not within");
        refuse(
            &rate("rate = 1, routes = ['b']"),
            "rate[0].routes[0]: no route",
        );
        refuse(
            &rate("rate = 1, listeners = ['b']"),
            "rate[0].listeners[0]: no listener",
        );
        refuse(
            &rate("rate = 1, by_header = 'a b'"),
            "rate[0].by_header: `a b` is not",
        );
        refuse(
            "rate = [{ name = 'a', rate = 1 }, { name = 'a', rate = 2 }]",
            "admission.rate[1].name: rate[0] is called `a` already",
        );
    }

    fn refuse(keys: &str, expected: &str) {
        let listener = "[[listener]]\nname = 'web'\naddress = '127.0.0.1:1'\n";
        let text = format!("[admission]\n{keys}\n{listener}");
        let err = Config::from_toml("t.toml", &text).expect_err(keys);
        assert!(err.to_string().contains(expected), "{err}");
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [
            ("512MiB", Some(512 << 20)),
            ("2GiB", Some(2 << 30)),
            ("33554432", Some(32 << 20)),
            ("1.5GiB", None),
            ("512MB", None),
            ("99999999999GiB", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }
}
