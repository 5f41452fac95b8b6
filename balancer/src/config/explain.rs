//! `[explain]`: how many exchanges the balancer remembers, for `balancer explain`.

use serde::{Deserialize, Serialize};

use super::value;

/// What is remembered of exchanges. Each takes 200 bytes: with the defaults 0.25 MiB per worker, and at most 3.2 MiB more while as many
/// long ones live as may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainConfig {
    /// How many that ended last, per worker, up to 1,000,000; 0 remembers none. Default: 1,024.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    pub recent: usize,
    /// How many of those that ended otherwise than completed, per worker, beside the above; up to 1,000,000. Default: 256.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    pub failed: usize,
    /// How many long ones (tunnels, relays) while they live, per worker, up to 1,000,000; more are remembered only when they
    /// end. Default: 16,384.
    #[serde(deserialize_with = "value::count::<0, 1_000_000, _, _>")]
    pub live: usize,
}

impl Default for ExplainConfig {
    fn default() -> Self {
        Self {
            recent: 1024,
            failed: 256,
            live: 16_384,
        }
    }
}
