//! Which service is a request for? Listener, host and path decide, on this core's own table.

use std::sync::Arc;

use balancer_core::message::Request;
use thiserror::Error;

use crate::{accept::ClientConnection, pick::Service, worker::Target};

#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("no route matches the host and path")]
pub(crate) struct NoRoute;

/// A request whose way is known.
pub(crate) struct Routed<'a> {
    pub(crate) target: &'a Target,
    pub(crate) service: &'a Arc<Service>,
}

/// # Errors
/// When no route of the listener matches.
pub(crate) fn route<'a>(
    client: &'a ClientConnection,
    head: &Request,
) -> Result<Routed<'a>, NoRoute> {
    let worker = client.worker();
    let host = head.host().unwrap_or_default();
    let target = worker
        .routes
        .find(client.listener().idx, host, head.path())
        .ok_or(NoRoute)?;
    Ok(Routed {
        target,
        service: &worker.services[target.service],
    })
}
