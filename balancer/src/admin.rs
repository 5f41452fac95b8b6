//! The admin address: is it alive, is it ready, what does it count, and what does it know. It steers nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use balancer_core::membership::Standing;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer};

use crate::{
    config::Config,
    watch::{Question, RegistryStatus, ViewStatus},
};

/// A core that has not turned for this long is stuck.
const PULSE_MAX: Duration = Duration::from_secs(10);

/// Requests to this address at once; it must never weigh on the cores.
const REQUESTS_AT_ONCE: usize = 32;

/// One core's sign of life, in milliseconds since the start.
#[derive(Debug, Default)]
pub(crate) struct Pulse(pub(crate) AtomicU64);

pub(crate) struct Admin {
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) pulses: Vec<Arc<Pulse>>,
    pub(crate) started: Instant,
    pub(crate) draining: Arc<AtomicBool>,
}

type Shared = State<Arc<Admin>>;

pub(crate) fn router(admin: Arc<Admin>) -> Router {
    let bounded = ServiceBuilder::new()
        .layer(axum::error_handling::HandleErrorLayer::new(async |_| {
            StatusCode::SERVICE_UNAVAILABLE
        }))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(REQUESTS_AT_ONCE));
    Router::new()
        .route("/", get(index))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/endpoints", get(endpoints))
        .route("/api/v1/routes", get(routes))
        .route("/api/v1/config", get(config))
        .layer(bounded)
        .with_state(admin)
}

async fn index() -> &'static str {
    "colonnade balancer\n\n/livez  /readyz  /metrics\n/api/v1/status  /api/v1/endpoints  /api/v1/routes  /api/v1/config\n"
}

/// Alive: every core's event loop turns. It says nothing of nodes or the registry, whose faults a restart would not mend.
async fn livez(State(admin): Shared) -> Response {
    let now = admin.started.elapsed();
    let is_stuck = |pulse: &Arc<Pulse>| {
        now.saturating_sub(Duration::from_millis(pulse.0.load(Relaxed))) > PULSE_MAX
    };
    match admin.pulses.iter().position(is_stuck) {
        None => "ok\n".into_response(),
        Some(core) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("core {core} does not turn\n"),
        )
            .into_response(),
    }
}

/// Ready: it has a view of the cluster, however old, leaving nodes know of it, and it is not leaving itself.
async fn readyz(State(admin): Shared) -> Response {
    if admin.draining.load(Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "leaving\n").into_response();
    }
    match ask(&admin, Question::Status).await {
        Some(ViewStatus { is_ready: true, .. }) => "ok\n".into_response(),
        Some(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the registry has not answered yet\n",
        )
            .into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "leaving\n").into_response(),
    }
}

async fn metrics(State(admin): Shared) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, admin.metrics.render()).into_response()
}

#[derive(Serialize)]
struct Status {
    id: String,
    version: &'static str,
    uptime_ms: u64,
    cores: usize,
    draining: bool,
    registry: Option<RegistryStatus>,
}

async fn status(State(admin): Shared) -> Response {
    let Some(view) = ask(&admin, Question::Status).await else {
        return leaving();
    };
    Json(Status {
        id: admin.config.id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: admin.started.elapsed().as_millis() as u64,
        cores: admin.pulses.len(),
        draining: admin.draining.load(Relaxed),
        registry: view.registry,
    })
    .into_response()
}

#[derive(Serialize)]
struct Endpoints {
    endpoints: Vec<Standing>,
}

async fn endpoints(State(admin): Shared) -> Response {
    match ask(&admin, Question::Standings).await {
        Some(endpoints) => Json(Endpoints { endpoints }).into_response(),
        None => leaving(),
    }
}

#[derive(Serialize)]
struct Route<'a> {
    name: &'a str,
    listeners: Vec<&'a str>,
    hosts: &'a [String],
    path: &'a str,
    service: Option<&'a str>,
}

async fn routes(State(admin): Shared) -> Response {
    let config = &admin.config;
    let shown: Vec<_> = config
        .routes
        .iter()
        .map(|route| Route {
            name: &route.name,
            listeners: route
                .listeners
                .iter()
                .map(|&at| config.listeners[at].name.as_str())
                .collect(),
            hosts: &route.hosts,
            path: &route.path,
            service: route.service.map(|at| config.services[at].name.as_str()),
        })
        .collect();
    Json(serde_json::json!({ "routes": shown })).into_response()
}

async fn config(State(admin): Shared) -> Response {
    Json(&*admin.config).into_response()
}

async fn ask<T>(admin: &Admin, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
    let (to, answer) = oneshot::channel();
    admin.questions.send(question(to)).await.ok()?;
    answer.await.ok()
}

fn leaving() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "leaving\n").into_response()
}
