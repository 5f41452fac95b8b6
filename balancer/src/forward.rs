//! Carries an exchange to a node and back.

pub(crate) mod answer;
pub(crate) mod http;
pub(crate) mod tcp;
pub(crate) mod upgrade;
mod upload;

use std::time::Instant;

use balancer_core::{name::NodeId, queue::Class};

use crate::{
    accept::ClientConnection,
    dial::{DialError, Upstream},
    pick::{Lease, Service},
    rescue::Failure,
};

/// Dials one node after another until one can be reached; nothing has been sent yet, so every failure may be tried elsewhere.
pub(crate) async fn reach<T>(
    client: &ClientConnection,
    service: &Service,
    class: Class,
    dial: impl AsyncFn(&Upstream) -> Result<T, DialError>,
    mut tell: impl FnMut(&Lease, u32),
) -> Result<(T, Lease), Failure> {
    service.budget.deposit();
    let mut tried: Vec<NodeId> = Vec::new();
    for tries in 1.. {
        let lease = service.pick(Instant::now(), class, &mut tried).await?;
        tell(&lease, tries);
        match dial(&lease.upstream).await {
            Ok(reached) => return Ok((reached, lease)),
            Err(err) => {
                service.metrics.dial_failures.increment(1);
                client.worker().suspect(service, &lease.upstream.endpoint);
                tried.push(lease.node().clone());
                if tries >= service.policy.max_tries || !service.may_retry() {
                    return Err(Failure::Unreachable(err));
                }
            }
        }
    }
    unreachable!("the loop ends by returning")
}
