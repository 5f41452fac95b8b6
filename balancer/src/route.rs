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
    /// None of a route that redirects or answers by itself.
    pub(crate) service: Option<&'a Arc<Service>>,
}

/// # Errors
/// When no route of the listener matches.
pub(crate) fn route<'a>(
    client: &'a ClientConnection,
    head: &Request,
) -> Result<Routed<'a>, NoRoute> {
    let worker = client.worker();
    let target = worker
        .routes
        .find_for(client.listener().idx, head)
        .ok_or(NoRoute)?;
    Ok(Routed {
        target,
        service: target.service.map(|idx| &worker.services[idx]),
    })
}
