//! Reads the configuration again, on SIGHUP, when its file has changed or when the admin API asks, and has it put in force.
//!
//! What is wrong with it is found before anything changes, so that a bad file leaves the old configuration running. An equal one
//! touches nothing.

mod file;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::{
    config::Config,
    notify,
    observe::ReloadMetrics,
    reload::file::Look,
    watch::{AdoptError, Adopted, Order},
    world::InForce,
};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reloads that may wait for the one under way; past it whoever asks waits to ask.
const ASKS_WAITING: usize = 16;

/// Where the configuration came from, so that it can be read again: the file, if there is one, below the environment.
#[derive(Debug, Clone)]
pub struct Source {
    file: Option<PathBuf>,
    seen: Option<Look>,
}

/// Asks for reloads and tells how the last one went. Clones share it.
#[derive(Debug, Clone)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    last: Arc<Mutex<Option<Report>>>,
}

/// Why the configuration is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// SIGHUP.
    Signal,
    /// Its file has changed.
    File,
    /// The admin API.
    Api,
}

/// How a reload went, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub cause: Cause,
    pub outcome: Outcome,
    /// Why it was rejected.
    pub error: Option<String>,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Applied,
    Unchanged,
    Rejected,
}

#[derive(Debug)]
struct Ask {
    cause: Cause,
    reply: oneshot::Sender<Report>,
}

#[derive(Debug, Error)]
enum ReloadError {
    #[error("this balancer was not configured by a file")]
    NoSource,
    #[error(transparent)]
    Settings(#[from] settings::Error),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    #[error("reading it was interrupted")]
    Interrupted,
}

pub(crate) struct Reloader {
    source: Option<Source>,
    asks: mpsc::Receiver<Ask>,
    last: Arc<Mutex<Option<Report>>>,
    in_force: InForce,
    orders: mpsc::Sender<Order>,
    metrics: ReloadMetrics,
}

impl Source {
    /// To be made before the configuration is read, so that no change after that is missed.
    pub fn new(file: Option<PathBuf>) -> Self {
        let seen = file.as_deref().and_then(Look::at);
        Self { file, seen }
    }
}

impl Handle {
    /// Reads the configuration and puts it in force; returns when every core goes by it. None when the balancer is gone.
    pub async fn reload(&self, cause: Cause) -> Option<Report> {
        let (reply, report) = oneshot::channel();
        self.asks.send(Ask { cause, reply }).await.ok()?;
        report.await.ok()
    }

    /// How the last reload went; None before the first.
    pub fn last(&self) -> Option<Report> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}

impl Reloader {
    pub(crate) fn new(
        source: Option<Source>,
        in_force: InForce,
        orders: mpsc::Sender<Order>,
        metrics: ReloadMetrics,
    ) -> (Handle, Self) {
        let (asks, asked) = mpsc::channel(ASKS_WAITING);
        let last = Arc::new(Mutex::new(None));
        let handle = Handle {
            asks,
            last: last.clone(),
        };
        let reloader = Self {
            source,
            asks: asked,
            last,
            in_force,
            orders,
            metrics,
        };
        (handle, reloader)
    }

    pub(crate) async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(ask) = self.asks.recv() => {
                    let report = self.reload(ask.cause).await;
                    // Whoever asked may have gone since.
                    let _ = ask.reply.send(report);
                }
                _ = looks.tick() => {
                    if self.in_force.load().watch_config && self.has_changed().await {
                        self.reload(Cause::File).await;
                    }
                }
            }
        }
    }

    async fn has_changed(&mut self) -> bool {
        let Some(Source {
            file: Some(file),
            seen,
        }) = &mut self.source
        else {
            return false;
        };
        let (path, before) = (file.clone(), seen.clone());
        let looked = tokio::task::spawn_blocking(move || Look::again(&path, before.as_ref()));
        match looked.await.ok().flatten() {
            // While it is being replaced there may be none; the one in force stays.
            None => false,
            Some(look) => {
                let has_changed = seen.as_ref().is_none_or(|it| !it.is_same_text(&look));
                *seen = Some(look);
                has_changed
            }
        }
    }

    async fn reload(&mut self, cause: Cause) -> Report {
        notify::reloading();
        let result = self.try_reload().await;
        notify::ready();
        let outcome = *result.as_ref().unwrap_or(&Outcome::Rejected);
        let error = result.err().map(|it| it.to_string());
        self.metrics.count(outcome);
        match &error {
            None => tracing::info!(?cause, ?outcome, "read the configuration again"),
            Some(reason) => {
                tracing::warn!(
                    ?cause,
                    reason,
                    "the configuration is rejected, the old one stays"
                );
            }
        }
        let report = Report {
            cause,
            outcome,
            error,
            at_ms: now_ms(),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(report.clone());
        report
    }

    async fn try_reload(&mut self) -> Result<Outcome, ReloadError> {
        let source = self.source.as_mut().ok_or(ReloadError::NoSource)?;
        let file = source.file.clone();
        let load = move || {
            // Before it is read: what changes in between is seen as a change after this one.
            let seen = file.as_deref().and_then(Look::at);
            (seen, Config::load(file.as_deref(), settings::environment()))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let (seen, next) = loaded.map_err(|_| ReloadError::Interrupted)?;
        source.seen = seen.or(source.seen.take());
        let next = next?;
        let (reply, adopted) = oneshot::channel();
        let leaving = || ReloadError::Adopt(AdoptError::Leaving);
        let order = Order::Adopt(Box::new(next), reply);
        self.orders.send(order).await.map_err(|_| leaving())?;
        match adopted.await.map_err(|_| leaving())?? {
            Adopted::Unchanged => Ok(Outcome::Unchanged),
            Adopted::Applied(changes, applied) => {
                applied.await.map_err(|_| leaving())?;
                tracing::info!(?changes, "a new configuration is in force");
                Ok(Outcome::Applied)
            }
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}
