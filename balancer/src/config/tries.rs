//! How often and for how long a `[[service]]` is tried with one request: the keys, checked.

use std::time::Duration;

use serde::Serialize;
use settings::Error;

use super::{check::Keys, raw};

const STATUSES_MAX: usize = 16;

/// None of it costs a request anything while it is not configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tries {
    /// How long the whole exchange may take, from the request's head to the answer's last byte. Default: for ever.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub request_timeout: Option<Duration>,
    /// How long one try may take to bring the answer's head. Default: as long as `response_head_timeout`.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub try_timeout: Option<Duration>,
    /// How long the answer's head may take before a second node is asked. Default: never.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub hedge_after: Option<Duration>,
    /// Which answers are asked for again, elsewhere. Default: none.
    pub retry_on: Vec<u16>,
}

pub(super) fn check(keys: &Keys<'_>, raw: &raw::Service) -> Result<Tries, Error> {
    keys.at_most("retry_on", raw.retry_on.len(), STATUSES_MAX)?;
    for (idx, status) in raw.retry_on.iter().enumerate() {
        if !(500..=599).contains(status) {
            let message =
                format!("{status} is not within 500 to 599: no other answer speaks of a node");
            return Err(keys.refuse(&format!("retry_on[{idx}]"), message));
        }
    }
    Ok(Tries {
        request_timeout: raw.request_timeout,
        try_timeout: raw.try_timeout,
        hedge_after: raw.hedge_after,
        retry_on: raw.retry_on.clone(),
    })
}
