//! Which service is a request for? Listener, host and path decide, on this core's table.

use std::sync::Arc;

use balancer_core::message::Request;
use thiserror::Error;

use crate::{accept::ClientConnection, pick::Service, scene::Target};

#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("no route matches the host and path")]
pub(crate) struct NoRoute;

/// A request whose way is known.
pub(crate) struct Routed {
    pub(crate) target: Target,
    /// None of a route that redirects or answers by itself.
    pub(crate) service: Option<Arc<Service>>,
}

/// # Errors
/// When no route of the listener matches.
pub(crate) fn route(client: &ClientConnection, head: &Request) -> Result<Routed, NoRoute> {
    let listener = client.listener();
    let scene = client.worker().scene_of(listener);
    let target = scene.routes.find_for(listener.idx, head).ok_or(NoRoute)?;
    let service = target.service.and_then(|idx| scene.service(idx));
    Ok(Routed {
        service: service.cloned(),
        target: target.clone(),
    })
}
