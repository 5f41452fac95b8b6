//! Begins TLS towards the endpoints of a service, and believes only those that prove to be one.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use balancer_core::name::ServiceName;
use rustls::{
    ClientConfig, ConfigBuilder, HandshakeKind, RootCertStore, WantsVerifier,
    client::{Resumption, WantsClientCert},
    pki_types::ServerName,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    config::{Discover, ServerTrust, Service, ServiceTls},
    observe::Metrics,
};

use super::{
    TlsError, TlsLoadError, facts::Agreed, files::Files, insecure::BelievesAnyone, material,
    observe::ConnectorMetrics, provider,
};

/// For how many names sessions are remembered: those of one service. An endpoint that is known by its address is a name, too.
const NAMES_REMEMBERED: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Connector {
    service: ServiceName,
    config: ServiceTls,
    /// What every endpoint is to prove to be; none, its address.
    name: Option<ServerName<'static>>,
    files: Files,
    live: ArcSwap<Live>,
    metrics: ConnectorMetrics,
}

/// What is going to be spoken, and is offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speak {
    Http1,
    Http2,
    /// Whatever it is, it is not for us to say.
    Bytes,
}

/// What the files hold, ready for use: the same terms and the same memory of sessions for each thing spoken.
struct Live {
    http1: TlsConnector,
    http2: TlsConnector,
    bytes: TlsConnector,
}

impl Connector {
    /// None for a service that is spoken to in the clear.
    pub(super) fn load(service: &Service, metrics: &Metrics) -> Result<Option<Self>, TlsLoadError> {
        let Some(config) = &service.tls else {
            return Ok(None);
        };
        if config.trust == ServerTrust::Anyone {
            tracing::warn!(service = %service.name, "whoever answers for this service is believed: `insecure` is set");
        }
        let files = Files::look(config.files());
        Ok(Some(Self {
            service: service.name.clone(),
            config: config.clone(),
            name: server_name(service, config)?,
            files,
            live: ArcSwap::from_pointee(Live::load(config)?),
            metrics: metrics.scoped(|| ConnectorMetrics::new(service.name.as_str())),
        }))
    }

    /// Does the handshake with the endpoint at this address within the configured time, and counts how it went.
    ///
    /// # Errors
    /// When the endpoint is not who it should be, or does not agree to speak HTTP/2 where that is wanted.
    pub(crate) async fn connect<S>(
        &self,
        stream: S,
        address: IpAddr,
        speak: Speak,
    ) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self
            .name
            .clone()
            .unwrap_or(ServerName::IpAddress(address.into()));
        let connector = self.live.load().connector(speak).clone();
        let shaking = tokio::time::timeout(
            self.config.handshake_timeout,
            connector.connect(name, stream),
        );
        let res = match shaking.await {
            Ok(Ok(stream)) => agreed(stream, speak),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(TlsError::Timeout),
        };
        match &res {
            Ok(stream) => self.metrics.completed(is_resumed(stream)),
            Err(error) => self.metrics.failed(error),
        }
        res
    }

    pub(super) fn is(&self, service: &Service) -> bool {
        let same_name = || server_name(service, &self.config).is_ok_and(|it| it == self.name);
        self.service == service.name && service.tls.as_ref() == Some(&self.config) && same_name()
    }

    /// None when no file has changed.
    pub(super) fn refresh(&self) -> Option<Result<(), TlsLoadError>> {
        if !self.files.look_again() {
            return None;
        }
        // Sessions that the old authorities vouched for are forgotten with them.
        let res = Live::load(&self.config).map(|live| self.live.store(Arc::new(live)));
        self.metrics.reloads.note(self.service.as_str(), &res);
        Some(res)
    }
}

/// An endpoint that passes ALPN over speaks HTTP/1.1; HTTP/2 has to be agreed on (RFC 9113 §3.2).
fn agreed<S>(stream: TlsStream<S>, speak: Speak) -> Result<TlsStream<S>, TlsError> {
    let agreed = Agreed::of(stream.get_ref().1.alpn_protocol());
    match (speak, agreed) {
        (Speak::Http2, Agreed::Http2) => Ok(stream),
        (Speak::Http2, _) => Err(TlsError::NoProtocol),
        _ => Ok(stream),
    }
}

fn is_resumed<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn server_name(
    service: &Service,
    config: &ServiceTls,
) -> Result<Option<ServerName<'static>>, TlsLoadError> {
    let text = match (&config.server_name, &service.discover) {
        (Some(name), _) => name,
        (None, Discover::Dns(dns)) => &dns.name,
        (None, _) => return Ok(None),
    };
    // TLS knows no final dot (RFC 6066 §3).
    let text = text.strip_suffix('.').unwrap_or(text);
    let name = ServerName::try_from(text.to_owned());
    name.map(Some)
        .map_err(|_| TlsLoadError::ServerName(text.to_owned()))
}

impl Live {
    fn load(config: &ServiceTls) -> Result<Self, TlsLoadError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let mut client = show(trust(builder, &config.trust)?, config)?;
        client.resumption = Resumption::in_memory_sessions(NAMES_REMEMBERED);
        let offering = |names: &[&str]| {
            let mut client = client.clone();
            client.alpn_protocols = names.iter().map(|it| it.as_bytes().to_vec()).collect();
            TlsConnector::from(Arc::new(client))
        };
        Ok(Self {
            http1: offering(&["http/1.1"]),
            http2: offering(&["h2"]),
            bytes: offering(&[]),
        })
    }

    fn connector(&self, speak: Speak) -> &TlsConnector {
        match speak {
            Speak::Http1 => &self.http1,
            Speak::Http2 => &self.http2,
            Speak::Bytes => &self.bytes,
        }
    }
}

fn trust(
    builder: ConfigBuilder<ClientConfig, WantsVerifier>,
    trust: &ServerTrust,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsLoadError> {
    let roots = match trust {
        ServerTrust::Ca(path) => material::authorities(path)?,
        ServerTrust::System => system_roots()?,
        ServerTrust::Anyone => {
            let verifier = Arc::new(BelievesAnyone {
                provider: provider(),
            });
            return Ok(builder
                .dangerous()
                .with_custom_certificate_verifier(verifier));
        }
    };
    Ok(builder.with_root_certificates(roots))
}

fn show(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    config: &ServiceTls,
) -> Result<ClientConfig, TlsLoadError> {
    let Some(files) = &config.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = material::chain_and_key(files)?;
    let client = builder.with_client_auth_cert(chain, key);
    client.map_err(|error| TlsLoadError::file(&files.key)(material::MaterialError::Key(error)))
}

/// What cannot be read in a system's store is passed over, as long as there is anything.
fn system_roots() -> Result<RootCertStore, TlsLoadError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        false => Ok(roots),
        true => {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            Err(TlsLoadError::NoSystemRoots(errors.join("; ")))
        }
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}
