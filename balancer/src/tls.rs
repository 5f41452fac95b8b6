//! TLS towards clients and towards nodes: one terminator per listener, one connector per service, shared by all cores, and the
//! watch that exchanges what they are made of when its files change.
//!
//! A set of files is read whole, checked whole and swapped in; a set that is not good leaves the one before in force. Rotation of
//! ticket keys is in `tickets`, the choice of a certificate in `certificates`. Absent: early data, ACME, OCSP stapling.

mod certificates;
mod connector;
mod error;
mod facts;
mod files;
mod insecure;
mod material;
mod observe;
mod pass_through;
mod terminator;
mod tickets;

pub(crate) use connector::{Connector, Speak};
pub(crate) use error::TlsError;
pub(crate) use facts::{Agreed, Facts, Handshaken};
pub(crate) use pass_through::PassThrough;
pub(crate) use terminator::Terminator;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use thiserror::Error;
use tokio::time::MissedTickBehavior;

use crate::{config::Config, observe::Metrics};
use material::MaterialError;

/// How often the files are looked at. A look costs one system call per file.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// All of a balancer's TLS; the places are those of the configuration's lists.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    terminators: Vec<Option<Arc<Terminator>>>,
    connectors: Vec<Option<Arc<Connector>>>,
}

/// How many sets of files were read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refreshed {
    pub(crate) swapped: usize,
    pub(crate) failed: usize,
}

#[derive(Debug, Error)]
pub enum TlsLoadError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: MaterialError },
    #[error("{}: holds no DNS name, so that only the first certificate of a listener could be this one", .0.display())]
    NamesNobody(PathBuf),
    #[error("the system trusts no authority: {0}")]
    NoSystemRoots(String),
    #[error("the authorities or revocation lists cannot be used: {0}")]
    Verifier(String),
    #[error("`{0}` is no name that a certificate could hold")]
    ServerName(String),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

impl Tls {
    /// Reads every file. Terminators and connectors of `previous` whose configuration is the same stay as they are, with their
    /// ticket keys and sessions.
    ///
    /// # Errors
    /// When a file is not as it should be; the message names the file.
    pub(crate) fn load(
        config: &Config,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Result<Self, TlsLoadError> {
        let mut tls = Self::default();
        metrics.scoped(observe::describe);
        for listener in &config.listeners {
            let wanted = listener.tls.as_ref();
            let kept = wanted.and_then(|it| previous?.same_terminator(&listener.name, it));
            let made = || wanted.map(|it| Terminator::load(&listener.name, it, metrics));
            let terminator = match kept {
                Some(kept) => Some(kept),
                None => made().transpose()?.map(Arc::new),
            };
            tls.terminators.push(terminator);
        }
        for service in &config.services {
            let kept = previous.and_then(|it| it.same_connector(service));
            let connector = match kept {
                Some(kept) => Some(kept),
                None => Connector::load(service, metrics)?.map(Arc::new),
            };
            tls.connectors.push(connector);
        }
        Ok(tls)
    }

    /// That of a listener by its place, if it ends TLS.
    pub(crate) fn terminator(&self, listener_idx: usize) -> Option<Arc<Terminator>> {
        self.terminators.get(listener_idx).cloned().flatten()
    }

    /// That of a service by its place, if its endpoints speak TLS.
    pub(crate) fn connector(&self, service_idx: usize) -> Option<Arc<Connector>> {
        self.connectors.get(service_idx).cloned().flatten()
    }

    /// Reads changed files again and swaps in what is good. It blocks on the disk.
    pub(crate) fn refresh(&self) -> Refreshed {
        let terminators = self.terminators.iter().flatten().map(|it| it.refresh());
        let connectors = self.connectors.iter().flatten().map(|it| it.refresh());
        let mut refreshed = Refreshed::default();
        for res in terminators.chain(connectors).flatten() {
            match res {
                Ok(()) => refreshed.swapped += 1,
                Err(_) => refreshed.failed += 1,
            }
        }
        refreshed
    }

    fn same_terminator(
        &self,
        name: &balancer_core::name::ListenerName,
        wanted: &crate::config::ListenerTls,
    ) -> Option<Arc<Terminator>> {
        let mut all = self.terminators.iter().flatten();
        all.find(|it| it.is(name, wanted)).cloned()
    }

    fn same_connector(&self, service: &crate::config::Service) -> Option<Arc<Connector>> {
        let mut all = self.connectors.iter().flatten();
        all.find(|it| it.is(service)).cloned()
    }
}

impl TlsLoadError {
    fn file(path: &Path) -> impl FnOnce(MaterialError) -> Self {
        let path = path.to_owned();
        move |cause| Self::File { path, cause }
    }
}

/// Ciphers and key exchanges are those that the library holds for good; ring carries them out.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(ring::default_provider()));
    PROVIDER.clone()
}

/// Looks at the files of what is in force every few seconds, for as long as it is let.
pub(crate) async fn watch(in_force: Arc<ArcSwap<Tls>>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let tls = in_force.load_full();
        let looked = tokio::task::spawn_blocking(move || tls.refresh()).await;
        if let Err(err) = looked {
            tracing::error!(%err, "looking at the files of TLS failed");
        }
    }
}

#[cfg(test)]
mod tests;
