//! When an endpoint whose answers are bad is left alone for a while.

use std::time::Duration;

use balancer_core::outlier::{Policy, SuccessRate};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    picking::{share, within},
    value,
};

/// `[service.outlier]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outlier {
    /// How many failures in a row eject an endpoint, up to 1,000; 0 never does. A failure is a connection that cannot be made, is
    /// broken off or timed out before the answer, or an answer 502, 503 or 504. Default: 5.
    #[serde(deserialize_with = "value::count::<0, 1000, _, _>")]
    pub consecutive_failures: u32,
    /// Whether every other answer of class 5xx is a failure too. Default: false.
    pub count_5xx: bool,
    /// Whether an endpoint that succeeds far less often than the others is ejected. Default: true.
    pub success_rate: bool,
    /// How many standard deviations below the mean are far, 0.1 to 10; less than five in a hundred never are. Default: 1.9.
    #[serde(deserialize_with = "deviations")]
    pub success_rate_deviations: f64,
    /// How many endpoints must have enough requests to be compared: 2 to 10,000. Default: 5.
    #[serde(deserialize_with = "value::count::<2, 10_000, _, _>")]
    pub success_rate_min_endpoints: usize,
    /// How many requests within one interval are enough: 1 to 1,000,000. Default: 100.
    #[serde(deserialize_with = "value::count::<1, 1_000_000, _, _>")]
    pub success_rate_min_requests: u32,
    /// From one comparison to the next. Default: `"10s"`.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "value::span"
    )]
    pub interval: Duration,
    /// How long the first ejection lasts; the next lasts twice as long, then three times. Default: `"30s"`.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "value::span"
    )]
    pub base_ejection: Duration,
    /// The longest an ejection lasts. Default: `"5m"`.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "value::span"
    )]
    pub max_ejection: Duration,
    /// The most of the endpoints that are ejected at once, 0 to 1; of several, one always may be. Default: 0.1.
    #[serde(deserialize_with = "share")]
    pub max_ejected: f64,
}

impl Outlier {
    /// What the core judges by, if anything.
    pub(crate) fn policy(&self) -> Option<Policy> {
        let success_rate = self.success_rate.then_some(SuccessRate {
            deviations: self.success_rate_deviations,
            endpoints_min: self.success_rate_min_endpoints,
            requests_min: self.success_rate_min_requests,
        });
        let policy = Policy {
            consecutive: self.consecutive_failures,
            success_rate,
            interval: self.interval,
            base: self.base_ejection,
            max: self.max_ejection,
            share_max: self.max_ejected,
        };
        (self.success_rate || self.consecutive_failures > 0).then_some(policy)
    }
}

fn deviations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(0.1, 10.0, deserializer)
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            count_5xx: false,
            success_rate: true,
            success_rate_deviations: 1.9,
            success_rate_min_endpoints: 5,
            success_rate_min_requests: 100,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(5 * 60),
            max_ejected: 0.1,
        }
    }
}
