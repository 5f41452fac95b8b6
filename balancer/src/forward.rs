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

/// What becomes known while nodes are dialled.
pub(crate) enum Dial<'a> {
    /// This node is dialled, for the n-th time in all.
    Tried(&'a Lease, u32),
    Reached,
    Failed(&'a Lease),
    /// Another one is not dialled, since too many were already.
    Denied,
}

/// Dials one node after another until one can be reached; nothing of the client's has been sent yet, so every failure may be tried elsewhere.
pub(crate) async fn reach(
    client: &ClientConnection,
    service: &Service,
    asked: &Asked,
    (speak, header): (Speak, &[u8]),
    mut tell: impl FnMut(Dial<'_>),
) -> Result<(Stream, Lease), Failure> {
    service.deposit();
    let mut tried: Vec<NodeId> = Vec::new();
    for tries in 1.. {
        let lease = service.pick(Instant::now(), asked, &mut tried).await?;
        tell(Dial::Tried(&lease, tries));
        match lease.upstream.connect(speak, header).await {
            Ok(reached) => {
                tell(Dial::Reached);
                return Ok((reached, lease));
            }
            Err(err) => {
                service.metrics.dial_failures.increment(1);
                tell(Dial::Failed(&lease));
                client.worker().suspect(service, &lease.upstream.endpoint);
                tried.push(lease.node().clone());
                if tries >= service.policy.max_tries {
                    return Err(Failure::Unreachable(err));
                }
                if !service.may_retry() {
                    tell(Dial::Denied);
                    return Err(Failure::Unreachable(err));
                }
            }
        }
    }
    unreachable!("the loop ends by returning")
}
