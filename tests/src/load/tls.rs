//! Clients of TLS 1.3 that all do the same work: one cipher suite, one key exchange, one certificate that is trusted.
//!
//! A client either makes every handshake in full or comes back with a ticket. In the second case a server that makes
//! it do a full handshake all the same has failed, so that a load never measures one and reports the other.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, HandshakeKind, RootCertStore};

use super::lane::{Failure, FailureKind};

/// Tickets that a client keeps: servers give one or two with every handshake.
const TICKETS_MAX: usize = 8;

/// How a client begins its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshakes {
    /// With a signature and a certificate each.
    Full,
    /// With a ticket of the connection before; only a lane's first handshake is full.
    Resumed,
}

/// What the clients of a load have in common.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: ClientConfig,
    name: ServerName<'static>,
    handshakes: Handshakes,
}

/// One client, with tickets of its own.
#[derive(Debug)]
pub(super) struct TlsLane {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    handshakes: Handshakes,
    has_ticket: bool,
}

// === impl TlsClient ===

impl TlsClient {
    /// Clients that ask for `name` and trust nothing but this certificate.
    pub fn new(
        trusted: CertificateDer<'static>,
        name: ServerName<'static>,
        handshakes: Handshakes,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self {
            config,
            name,
            handshakes,
        })
    }

    pub(super) fn lane(&self) -> TlsLane {
        let mut config = self.config.clone();
        if self.handshakes == Handshakes::Resumed {
            config.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
        }
        TlsLane {
            config: Arc::new(config),
            name: self.name.clone(),
            handshakes: self.handshakes,
            has_ticket: false,
        }
    }
}

/// Servers prefer different suites and groups, which would be measured in their stead.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    }
}

// === impl TlsLane ===

impl TlsLane {
    pub(super) async fn connect(
        &mut self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector
            .connect(self.name.clone(), stream)
            .await
            .map_err(|cause| Failure::broken(false, cause))?;
        let kind = stream.get_ref().1.handshake_kind();
        if self.has_ticket && kind != Some(HandshakeKind::Resumed) {
            return Err(Failure::new(
                FailureKind::WrongContent,
                "a ticket was not taken",
            ));
        }
        self.has_ticket = self.handshakes == Handshakes::Resumed;
        Ok(stream)
    }

    /// The exchange may have ended before a ticket came.
    pub(super) fn abandon(&mut self) {
        self.has_ticket = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::load::http1::{Http1, HttpRequest, Reuse};
    use crate::load::{EntryAddr, Load, Plan, Report};

    const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

    #[tokio::test]
    async fn every_handshake_is_full_or_all_but_the_first_are_resumed() {
        let (report, kinds) = played(Handshakes::Full, 2).await;
        assert_eq!((report.succeeded(), report.failures()), (3, 0));
        assert_eq!(kinds, [HandshakeKind::Full; 3]);
        let (report, kinds) = played(Handshakes::Resumed, 2).await;
        assert_eq!((report.succeeded(), report.failures()), (3, 0));
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert_eq!(kinds[1..], [HandshakeKind::Resumed; 2]);
    }

    #[tokio::test]
    async fn a_server_without_tickets_fails_who_comes_back() {
        let (report, _) = played(Handshakes::Resumed, 0).await;
        let kinds: Vec<_> = report.failures_by_kind().keys().copied().collect();
        assert_eq!(
            (report.succeeded(), kinds),
            (2, vec![FailureKind::WrongContent]),
            "after the failure the client begins anew"
        );
    }

    /// Three exchanges, each over a connection of its own, with a server that gives so many tickets.
    async fn played(handshakes: Handshakes, tickets: usize) -> (Report, Vec<HandshakeKind>) {
        let made =
            rcgen::generate_simple_self_signed(["localhost".into()]).expect("the name is valid");
        let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback can be bound");
        let entry = EntryAddr(listener.local_addr().expect("it is bound"));
        let acceptor = acceptor(certificate.clone(), key, tickets);
        let server = tokio::spawn(serve(listener, acceptor));
        let name = ServerName::try_from("localhost").expect("it is a name");
        let tls = TlsClient::new(certificate, name, handshakes).expect("the certificate is good");
        let traffic = Http1::new(entry, &HttpRequest::get("/"), Reuse::Never).over_tls(tls);
        let plan = Plan {
            exchanges_max: 3,
            ..Plan::closed(1, Duration::from_secs(60))
        };
        let load = Load::start(plan, traffic).expect("a thread starts");
        let report = load.finish().await.expect("it ends");
        (report, server.await.expect("the server does not panic"))
    }

    fn acceptor(certificate: CertificateDer<'static>, key: Vec<u8>, tickets: usize) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(key).expect("the key is in PKCS #8");
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider knows TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("key and certificate fit");
        config.send_tls13_tickets = tickets;
        TlsAcceptor::from(Arc::new(config))
    }

    async fn serve(listener: TcpListener, acceptor: TlsAcceptor) -> Vec<HandshakeKind> {
        let mut kinds = Vec::new();
        while kinds.len() < 3 {
            let (socket, _) = listener.accept().await.expect("a client comes");
            let mut stream = acceptor.accept(socket).await.expect("it speaks TLS");
            kinds.extend(stream.get_ref().1.handshake_kind());
            // A client that finds its ticket not taken leaves without a word.
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(HELLO).await;
            let _ = stream.shutdown().await;
        }
        kinds
    }
}
