//! The admin address and socket: is it alive, is it ready, what does it count, what does it know; and an operator's orders.
//!
//! Who may do what is decided in `entry` alone, connections are taken in `doors`, orders are carried out by the view.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    error_handling::HandleErrorLayer,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tower::{
    ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer,
    timeout::TimeoutLayer,
};

use crate::{
    explain::Book,
    reload,
    watch::{Question, RegistryStatus, ViewStatus},
    world::InForce,
};

mod doors;
mod entry;
mod exchanges;
mod orders;
mod scene;
mod socket;

pub(crate) use doors::{Doors, serve};
pub(crate) use entry::{Token, TokenError};
pub(crate) use socket::{AdminSocket, SocketError, default_path};

/// A core that has not turned for this long is stuck.
const PULSE_MAX: Duration = Duration::from_secs(10);

/// Requests at once; they must never weigh on the cores.
const REQUESTS_AT_ONCE: usize = 32;

/// What one request may take: the view answers in microseconds unless it is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The largest body of an order is a number in braces.
const BODY_BYTES_MAX: usize = 4096;

/// One core's sign of life, in milliseconds since the start.
#[derive(Debug, Default)]
pub(crate) struct Pulse(pub(crate) AtomicU64);

pub(crate) struct Admin {
    pub(crate) config: InForce,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) pulses: Vec<Arc<Pulse>>,
    pub(crate) started: Instant,
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) address: SocketAddr,
    /// Where the socket is, once this process has it.
    pub(crate) socket: OnceLock<PathBuf>,
    pub(crate) book: Arc<Book>,
    pub(crate) reloads: reload::Handle,
}

type Shared = State<Arc<Admin>>;

pub(crate) fn router(admin: Arc<Admin>) -> Router {
    let bounded = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |_| busy()))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(REQUESTS_AT_ONCE))
        .layer(TimeoutLayer::new(ANSWER_WITHIN));
    Router::new()
        .route("/", get(index))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/endpoints", get(scene::endpoints))
        .route("/api/v1/listeners", get(scene::listeners))
        .route("/api/v1/routes", get(scene::routes))
        .route("/api/v1/services", get(scene::services))
        .route("/api/v1/config", get(config))
        .route("/api/v1/exchanges", get(exchanges::list))
        .route("/api/v1/exchanges/{id}", get(exchanges::find))
        .route("/api/v1/nodes/{id}/drain", post(orders::drain))
        .route("/api/v1/nodes/{id}/undrain", post(orders::undrain))
        .route("/api/v1/nodes/{id}/weight", post(orders::weight))
        .route("/api/v1/reload", post(orders::reload))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .layer(middleware::from_fn_with_state(admin.clone(), entry::guard))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(bounded)
        .with_state(admin)
}

async fn index() -> &'static str {
    "colonnade balancer\n\n/livez  /readyz  /metrics\n/api/v1/{status,endpoints,listeners,routes,services,config,exchanges}\n"
}

/// Alive: every core's event loop turns. It says nothing of nodes or the registry, whose faults a restart would not mend.
async fn livez(State(admin): Shared) -> Response {
    let now = admin.started.elapsed();
    let is_stuck = |pulse: &Arc<Pulse>| {
        now.saturating_sub(Duration::from_millis(pulse.0.load(Relaxed))) > PULSE_MAX
    };
    match admin.pulses.iter().position(is_stuck) {
        None => "ok\n".into_response(),
        Some(core) => unavailable(format!("core {core} does not turn\n")),
    }
}

/// Ready: it has a view of the cluster, however old, leaving nodes know of it, and it is not leaving itself.
async fn readyz(State(admin): Shared) -> Response {
    if admin.draining.load(Relaxed) {
        return unavailable("leaving\n");
    }
    match ask(&admin, Question::Status).await {
        Some(ViewStatus { is_ready: true, .. }) => "ok\n".into_response(),
        Some(_) => unavailable("the registry has not answered yet\n"),
        None => unavailable("leaving\n"),
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
    ready: bool,
    draining: bool,
    address: SocketAddr,
    socket: Option<PathBuf>,
    registry: Option<RegistryStatus>,
    /// How the configuration was last read again; absent before the first time.
    last_reload: Option<reload::Report>,
}

async fn status(State(admin): Shared) -> Response {
    let Some(view) = ask(&admin, Question::Status).await else {
        return leaving();
    };
    let draining = admin.draining.load(Relaxed);
    Json(Status {
        id: admin.config.load().id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: admin.started.elapsed().as_millis() as u64,
        cores: admin.pulses.len(),
        ready: view.is_ready && !draining,
        draining,
        address: admin.address,
        socket: admin.socket.get().cloned(),
        registry: view.registry,
        last_reload: admin.reloads.last(),
    })
    .into_response()
}

async fn config(State(admin): Shared) -> Response {
    Json(&**admin.config.load()).into_response()
}

async fn ask<T>(admin: &Admin, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
    let (to, answer) = oneshot::channel();
    admin.questions.send(question(to)).await.ok()?;
    answer.await.ok()
}

/// A failure of the API, in words for a person and in JSON for a program.
fn refuse(status: StatusCode, why: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": why.to_string() }))).into_response()
}

fn leaving() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the balancer is leaving")
}

fn busy() -> Response {
    let why = "too many requests at once, or the view did not answer in time";
    refuse(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn unavailable(why: impl Into<String>) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why.into()).into_response()
}
