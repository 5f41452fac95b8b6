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
    pub(crate) service: Arc<Service>,
}

/// # Errors
/// When no route of the listener matches.
pub(crate) fn route(client: &ClientConnection, head: &Request) -> Result<Routed, NoRoute> {
    let listener = client.listener();
    let scene = client.worker().scene_of(listener);
    let host = head.host().unwrap_or_default();
    let target = scene
        .routes
        .find(listener.idx, host, head.path())
        .ok_or(NoRoute)?;
    Ok(Routed {
        service: scene.service(target.service).ok_or(NoRoute)?.clone(),
        target: target.clone(),
    })
}
