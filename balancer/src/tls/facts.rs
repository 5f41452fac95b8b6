//! What a handshake established about a client, as routes, header fields and access lines want to know it.

use balancer_core::{
    certificate::{self, AlternativeNames},
    server_names::ServerName,
};
use rustls::{
    CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection, pki_types::CertificateDer,
};
use tokio_rustls::server::TlsStream;

use crate::config::TlsVersion;

/// A client that may begin to speak.
#[derive(Debug)]
pub(crate) struct Handshaken<S> {
    pub(crate) stream: TlsStream<S>,
    pub(crate) facts: Facts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The name that the client asked for.
    pub(crate) server_name: Option<ServerName>,
    pub(crate) agreed: Agreed,
    pub(crate) version: TlsVersion,
    /// As IANA calls it, such as `TLS_AES_256_GCM_SHA384`.
    pub(crate) cipher: &'static str,
    /// Whether the client came back with a ticket.
    pub(crate) is_resumed: bool,
    /// Verified, now or in the session that was resumed.
    pub(crate) client_certificate: Option<Box<ClientCertificate>>,
}

/// What will be spoken, by ALPN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// It was not talked about.
    Nothing,
    Http1,
    Http2,
    Other(Box<[u8]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// Such as `CN=app,O=Example`; it holds no control characters.
    pub(crate) subject: String,
    pub(crate) names: AlternativeNames,
    pub(crate) sha256: [u8; 32],
}

impl<S> Handshaken<S> {
    pub(super) fn new(stream: TlsStream<S>) -> Self {
        let facts = Facts::of(stream.get_ref().1);
        Self { stream, facts }
    }
}

impl Facts {
    fn of(connection: &ServerConnection) -> Self {
        let name = connection.server_name();
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        };
        let cipher = connection.negotiated_cipher_suite();
        let certificates = connection.peer_certificates();
        Self {
            server_name: name.and_then(|it| ServerName::new(it).ok()),
            agreed: Agreed::of(connection.alpn_protocol()),
            version,
            cipher: cipher.map_or("unknown", |it| iana_name(it.suite())),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client_certificate: certificates
                .and_then(<[_]>::first)
                .map(|it| Box::new(ClientCertificate::of(it))),
        }
    }
}

/// The library's own names of the suites of TLS 1.3 tell the version, those of the registry do not.
fn iana_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

impl Agreed {
    /// As ALPN has it.
    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing => None,
            Self::Http1 => Some(b"http/1.1"),
            Self::Http2 => Some(b"h2"),
            Self::Other(other) => Some(other),
        }
    }

    pub(super) fn of(protocol: Option<&[u8]>) -> Self {
        match protocol {
            None => Self::Nothing,
            Some(b"h2") => Self::Http2,
            Some(b"http/1.1") => Self::Http1,
            Some(other) => Self::Other(other.into()),
        }
    }
}

impl ClientCertificate {
    /// The subject's name, where it has one that stands as it is: without characters that would have to be escaped.
    pub(crate) fn common_name(&self) -> Option<&str> {
        let mut parts = self.subject.split(',');
        let name = parts.find_map(|it| it.strip_prefix("CN="))?;
        (!name.contains('\\')).then_some(name)
    }

    fn of(der: &CertificateDer<'_>) -> Self {
        // The library verified it, so that it is well formed; one that says nothing readable has no names to be let in by.
        let read = certificate::read(der).unwrap_or_default();
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest.as_ref());
        Self {
            subject: read.subject,
            names: read.names,
            sha256,
        }
    }
}
