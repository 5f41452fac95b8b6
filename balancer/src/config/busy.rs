//! What a service does while its endpoints are busy: who goes first, and how much may be in flight. The keys, and what they say
//! once checked.

use std::time::Duration;

use balancer_core::queue::Class;
use http::HeaderName;
use serde::{Deserialize, Serialize};
use settings::Error;

use super::{
    admission::{header, header_name},
    check::Keys,
    value,
};

const PRIORITY_VALUES_MAX: usize = 64;

/// How requests of a service are told important from less so. The default takes all for alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Priority {
    #[serde(serialize_with = "header")]
    pub header: Option<HeaderName>,
    pub high: Vec<String>,
    pub low: Vec<String>,
}

/// How the number of requests in flight follows what the service can do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Adaptive {
    pub limit_min: u32,
    pub limit_max: u32,
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub window: Duration,
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub remeasure_every: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPriority {
    /// The header whose value tells how important a request is. Default: none, all are alike.
    header: Option<String>,
    /// The values that go first, up to 64. Default: none.
    high: Vec<String>,
    /// The values that go last and are refused first, up to 64. Default: none.
    low: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct RawAdaptive {
    /// How few requests may be in flight at the least, 1 to 100,000. Default: 10.
    #[serde(deserialize_with = "value::count::<1, 100_000, _, _>")]
    limit_min: u32,
    /// How many requests may be in flight at the most, 1 to 1,000,000. Default: 1,000.
    #[serde(deserialize_with = "value::count::<1, 1_000_000, _, _>")]
    limit_max: u32,
    /// How long latencies are gathered before the limit is changed. Default: `"250ms"`.
    #[serde(deserialize_with = "value::span")]
    window: Duration,
    /// How often the latency without queueing is measured anew, give or take a fifth; for two windows the limit is halved for it.
    /// Default: `"30s"`.
    #[serde(deserialize_with = "value::span")]
    remeasure_every: Duration,
}

pub(super) fn check_priority(keys: &Keys<'_>, raw: RawPriority) -> Result<Priority, Error> {
    keys.at_most("high", raw.high.len(), PRIORITY_VALUES_MAX)?;
    keys.at_most("low", raw.low.len(), PRIORITY_VALUES_MAX)?;
    let header = raw.header.map(|it| header_name(keys, "header", &it));
    if header.is_none() && !(raw.high.is_empty() && raw.low.is_empty()) {
        return Err(keys.refuse("header", "required beside `high` and `low`, but not set"));
    }
    if let Some(both) = raw.high.iter().find(|it| raw.low.contains(it)) {
        return Err(keys.refuse("low", format!("`{both}` stands in `high` too")));
    }
    Ok(Priority {
        header: header.transpose()?,
        high: raw.high,
        low: raw.low,
    })
}

pub(super) fn check_adaptive(keys: &Keys<'_>, raw: &RawAdaptive) -> Result<Adaptive, Error> {
    if raw.limit_min > raw.limit_max {
        return Err(keys.refuse("limit_min", "is above `limit_max`"));
    }
    Ok(Adaptive {
        limit_min: raw.limit_min,
        limit_max: raw.limit_max,
        window: raw.window,
        remeasure_every: raw.remeasure_every,
    })
}

impl Priority {
    /// The class of a request, given the value of the header it was asked for.
    pub fn class<'a>(&self, header: impl FnOnce(&HeaderName) -> Option<&'a [u8]>) -> Class {
        let Some(value) = self.header.as_ref().and_then(header) else {
            return Class::Normal;
        };
        let has = |values: &[String]| values.iter().any(|it| it.as_bytes() == value);
        match (has(&self.high), has(&self.low)) {
            (true, _) => Class::High,
            (_, true) => Class::Low,
            _ => Class::Normal,
        }
    }
}

impl Default for RawAdaptive {
    fn default() -> Self {
        Self {
            limit_min: 10,
            limit_max: 1_000,
            window: Duration::from_millis(250),
            remeasure_every: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_the_class() {
        let priority = Priority {
            header: Some(HeaderName::from_static("x-tier")),
            high: vec!["gold".to_owned()],
            low: vec!["batch".to_owned()],
        };
        let class = |value: &'static str| priority.class(|_| Some(value.as_bytes()));
        assert_eq!(class("gold"), Class::High);
        assert_eq!(class("batch"), Class::Low);
        assert_eq!(class("Gold"), Class::Normal);
        assert_eq!(priority.class(|_| None), Class::Normal);
        assert_eq!(Priority::default().class(|_| Some(b"gold")), Class::Normal);
    }
}
