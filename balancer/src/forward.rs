//! Carries an exchange to a node and back.

mod act;
pub(crate) mod answer;
mod compress;
mod date;
mod hedge;
pub(crate) mod http;
mod splice;
pub(crate) mod tcp;
pub(crate) mod upgrade;
mod upload;

use std::time::Instant;

use balancer_core::{affinity::Asked, name::NodeId};

use crate::{
    accept::ClientConnection,
    pick::{Lease, Service},
    rescue::Failure,
    stream::Stream,
    tls::Speak,
};

/// Dials one node after another until one can be reached; nothing of the client's has been sent yet, so every failure may be tried elsewhere.
pub(crate) async fn reach(
    client: &ClientConnection,
    service: &Service,
    asked: &Asked,
    (speak, header): (Speak, &[u8]),
    mut tell: impl FnMut(&Lease, u32),
) -> Result<(Stream, Lease), Failure> {
    service.deposit();
    let mut tried: Vec<NodeId> = Vec::new();
    for tries in 1.. {
        let lease = service.pick(Instant::now(), asked, &mut tried).await?;
        tell(&lease, tries);
        match lease.upstream.connect(speak, header).await {
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
