//! A certificate of one test's own, and a client that trusts it and nothing else.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

use super::http2::dial;

/// The name that the certificate is for.
pub const NAME: &str = "app.example";

/// A certificate and its key, in files; dropped, they are gone.
#[derive(Debug)]
pub struct Certificate {
    dir: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub fn make() -> Self {
        let made = generate_simple_self_signed([NAME.to_owned()]);
        let CertifiedKey { cert, signing_key } = made.expect("a plain name can be certified");
        let dir = TempDir::new().expect("a temporary folder can be made");
        let write = |name: &str, text: String| {
            let written = std::fs::write(dir.path().join(name), text);
            written.expect("a temporary folder is writable");
        };
        write("cert.pem", cert.pem());
        write("key.pem", signing_key.serialize_pem());
        let der = cert.der().clone();
        Self { dir, der }
    }

    /// What makes a listener speak TLS with this certificate; further keys of the same table may follow.
    pub fn listening(&self) -> String {
        let (cert, key) = (self.file("cert.pem"), self.file("key.pem"));
        let (cert, key) = (cert.display(), key.display());
        format!("[listener.tls]\ncertificates = [{{ cert = '{cert}', key = '{key}' }}]")
    }

    /// Connects and shakes hands, for HTTP/2.
    pub async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("it is a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows the default versions");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = dial(address).await;
        let name = ServerName::try_from(NAME).expect("it is a name");
        let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream);
        shaken.await.expect("the balancer shakes hands")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
