//! Ways to choose one endpoint of many.

pub mod least_requests;
pub mod maglev;
pub mod p2c;
pub mod round_robin;

use fastrand::Rng;

use crate::{endpoint::Endpoint, load::WHOLE};

/// How the endpoints of a service are chosen among.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Policy {
    #[default]
    P2c,
    LeastRequests,
    RoundRobin,
    Maglev {
        /// How far above its share of the requests in flight an endpoint may go: 1.25 lets it have a quarter more.
        bound: f64,
    },
}

/// Whether an endpoint that warms up passes on its chance this time.
fn passes(endpoint: &Endpoint, rng: &mut Rng) -> bool {
    let held_back = endpoint.load.held_back();
    held_back != 0 && rng.u32(..WHOLE) < held_back
}
