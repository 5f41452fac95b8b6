//! Ends the TLS of a listener's clients: one set of terms for all cores, exchanged whole when its files change.

use std::sync::Arc;

use arc_swap::ArcSwap;
use balancer_core::name::ListenerName;
use ring::digest::{Context, SHA256};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::CertificateRevocationListDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    time_provider::{DefaultTimeProvider, TimeProvider},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    config::{Alpn, ClientAuth, ListenerTls, TlsVersion},
    observe::Metrics,
};

use super::{
    Handshaken, TlsError, TlsLoadError,
    certificates::Certificates,
    files::Files,
    material,
    observe::TerminatorMetrics,
    provider,
    tickets::{Terms, Tickets},
};

#[derive(Debug)]
pub(crate) struct Terminator {
    listener: ListenerName,
    config: ListenerTls,
    files: Files,
    live: ArcSwap<Live>,
    metrics: TerminatorMetrics,
    clock: Arc<dyn TimeProvider>,
}

/// What the files hold, ready for use.
struct Live {
    acceptor: TlsAcceptor,
    tickets: Arc<Tickets>,
    not_after: Vec<i64>,
}

impl Terminator {
    pub(super) fn load(
        listener: &ListenerName,
        config: &ListenerTls,
        metrics: &Metrics,
    ) -> Result<Self, TlsLoadError> {
        let clock: Arc<dyn TimeProvider> = Arc::new(DefaultTimeProvider);
        let files = Files::look(config.files());
        let live = Live::load(listener, config, &clock, None)?;
        let metrics = metrics.scoped(|| TerminatorMetrics::new(listener.as_str(), config));
        metrics.expire(&live.not_after);
        Ok(Self {
            listener: listener.clone(),
            config: config.clone(),
            files,
            live: ArcSwap::from_pointee(live),
            metrics,
            clock,
        })
    }

    /// By when a client that has connected just now is to have shaken hands.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.handshake_timeout
    }

    /// Does the handshake until `deadline`. What went wrong has been told to the client, as far as TLS has a word for
    /// it, and counted.
    ///
    /// # Errors
    /// When the client does not become one that may speak; the stream is closed then.
    pub(crate) async fn accept<S>(
        &self,
        stream: S,
        deadline: Instant,
    ) -> Result<Handshaken<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = self.live.load().acceptor.clone();
        let shaking = tokio::time::timeout_at(deadline, acceptor.accept(stream));
        let stream = match shaking.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.refused(error.into())),
            Err(_) => return Err(self.refused(TlsError::Timeout)),
        };
        let handshaken = Handshaken::new(stream);
        self.metrics.completed(&handshaken.facts);
        Ok(handshaken)
    }

    /// Counts a client that gets no further.
    pub(crate) fn refused(&self, error: TlsError) -> TlsError {
        self.metrics.failed(&error);
        error
    }

    pub(super) fn is(&self, listener: &ListenerName, config: &ListenerTls) -> bool {
        self.listener == *listener && self.config == *config
    }

    /// None when no file has changed.
    pub(super) fn refresh(&self) -> Option<Result<(), TlsLoadError>> {
        self.live.load().tickets.turn();
        if !self.files.look_again() {
            return None;
        }
        let res = self.reload();
        self.metrics.reloads.note(self.listener.as_str(), &res);
        Some(res)
    }

    fn reload(&self) -> Result<(), TlsLoadError> {
        let before = self.live.load();
        let live = Live::load(&self.listener, &self.config, &self.clock, Some(&before))?;
        self.metrics.expire(&live.not_after);
        self.live.store(Arc::new(live));
        Ok(())
    }
}

impl Live {
    fn load(
        listener: &ListenerName,
        config: &ListenerTls,
        clock: &Arc<dyn TimeProvider>,
        before: Option<&Self>,
    ) -> Result<Self, TlsLoadError> {
        let certificates = Certificates::load(config)?;
        let not_after = certificates.not_after.clone();
        let clients = Clients::load(&config.client_auth)?;
        let terms = Terms {
            admission: clients.digest(listener, &config.client_auth),
            rotation: config.ticket_rotation,
            secrets: match &config.ticket_keys {
                Some(path) => material::secrets(path)?,
                None => Vec::new(),
            },
        };
        let tickets = tickets(terms, clock, before)?;
        let versions = versions(config.min_version, config.max_version);
        let mut server = ServerConfig::builder_with_details(provider(), clock.clone())
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(clients.verifier(&config.client_auth)?)
            .with_cert_resolver(Arc::new(certificates));
        server.alpn_protocols = config
            .alpn
            .iter()
            .map(Alpn::as_bytes)
            .map(<[u8]>::to_vec)
            .collect();
        server.ticketer = tickets.clone();
        // All that a session needs is in its ticket; a memory of sessions would be one more thing that grows.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            acceptor: Arc::new(server).into(),
            tickets,
            not_after,
        })
    }
}

/// Tickets stay as they are when only certificates have changed, so that clients still resume.
fn tickets(
    terms: Terms,
    clock: &Arc<dyn TimeProvider>,
    before: Option<&Live>,
) -> Result<Arc<Tickets>, TlsLoadError> {
    let same = before.filter(|it| it.tickets.has_terms(&terms));
    match same {
        Some(same) => Ok(same.tickets.clone()),
        None => Tickets::new(terms, clock.clone())
            .map(Arc::new)
            .map_err(|_| rustls::Error::FailedToGetRandomBytes.into()),
    }
}

fn versions(min: TlsVersion, max: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::Tls13, &TLS13), (TlsVersion::Tls12, &TLS12)];
    let spoken = all.into_iter().filter(|(it, _)| (min..=max).contains(it));
    spoken.map(|(_, version)| version).collect()
}

/// What decides which certificates of clients are good.
struct Clients {
    roots: RootCertStore,
    crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Clients {
    fn load(auth: &ClientAuth) -> Result<Self, TlsLoadError> {
        let mut clients = Self {
            roots: RootCertStore::empty(),
            crls: Vec::new(),
        };
        if let Some(trust) = auth.trust() {
            clients.roots = material::authorities(&trust.ca)?;
            for path in &trust.crls {
                clients.crls.extend(material::revocation_list(path)?);
            }
        }
        Ok(clients)
    }

    fn verifier(self, auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsLoadError> {
        let builder = |clients: Self| {
            WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots), provider())
                .with_crls(clients.crls)
        };
        let res = match auth {
            ClientAuth::Off => return Ok(WebPkiClientVerifier::no_client_auth()),
            ClientAuth::Optional(_) => builder(self).allow_unauthenticated().build(),
            ClientAuth::Required(_) => builder(self).build(),
        };
        res.map(|it| it as Arc<dyn ClientCertVerifier>)
            .map_err(|error| TlsLoadError::Verifier(error.to_string()))
    }

    /// What is in front of each part says how long it is, so that no two lists run into the same bytes.
    fn digest(&self, listener: &ListenerName, auth: &ClientAuth) -> [u8; 32] {
        let mode = match auth {
            ClientAuth::Off => "off",
            ClientAuth::Optional(_) => "optional",
            ClientAuth::Required(_) => "required",
        };
        let mut context = Context::new(&SHA256);
        let mut add = |part: &[u8]| {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        };
        add(listener.as_str().as_bytes());
        add(mode.as_bytes());
        for root in &self.roots.roots {
            add(&root.subject);
            add(&root.subject_public_key_info);
            add(root.name_constraints.as_deref().unwrap_or_default());
        }
        add(b"revoked");
        self.crls.iter().for_each(|it| add(it));
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("tickets", &self.tickets)
            .finish_non_exhaustive()
    }
}
