//! Shows how the node does, to those who run it: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::{Router, body::Body, extract::State, routing::get};
use http::{Response, StatusCode, header};
use tokio::sync::watch;

use crate::{observe::Metrics, register::Phase};

#[derive(Clone)]
struct Admin {
    metrics: Arc<Metrics>,
    phase: watch::Receiver<Phase>,
}

pub(crate) fn router(metrics: Arc<Metrics>, phase: watch::Receiver<Phase>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(rendered))
        .with_state(Admin { metrics, phase })
}

/// That this is answered at all is the proof: the event loop runs.
async fn livez() -> &'static str {
    "alive\n"
}

/// Announced, and not leaving.
async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match *admin.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "not announced yet\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "leaving\n"),
    }
}

/// The text format of Prometheus, version 0.0.4.
async fn rendered(State(admin): State<Admin>) -> Response<Body> {
    let mut response = Response::new(Body::from(admin.metrics.render()));
    let content_type = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
