//! TLS for tests: an authority of one test's own, clients that trust it and nothing else, and a door that ends TLS in front of a
//! server that speaks in the clear.

use std::{
    fs, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        server::WebPkiClientVerifier,
        version::{TLS12, TLS13},
    },
};

use crate::ports::{self, PortLease};

/// Who issues certificates, in files of a folder; dropped, they are gone.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

/// A chain and the key of its first certificate.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What a client is ready to agree to.
#[derive(Clone, Debug)]
pub struct TlsClient(ClientConfig);

/// Ends TLS for the server behind it.
#[derive(Debug)]
pub struct Door {
    lease: PortLease,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    handshakes: AtomicUsize,
    /// What was in front of the last hello, and what was agreed on.
    last: Mutex<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params.self_signed(&key).expect("it can be signed");
        let authority = Self {
            dir: TempDir::new().expect("a temporary folder can be made"),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        };
        authority.write("ca.pem", &certificate.pem());
        authority
    }

    /// Writes a certificate for these names and its key, or replaces them.
    pub fn issue(&self, file: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("they are names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, file);
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.expect("it can be signed");
        self.write(&format!("{file}.key"), &key.serialize_pem());
        self.write(&format!("{file}.pem"), &certificate.pem());
    }

    /// A file's path, as a configuration has it.
    pub fn path(&self, file: &str) -> String {
        self.dir.path().join(file).display().to_string()
    }

    /// The keys of a table that name a certificate and its key.
    pub fn pair(&self, file: &str) -> String {
        let (cert, key) = (
            self.path(&format!("{file}.pem")),
            self.path(&format!("{file}.key")),
        );
        format!("cert = '{cert}', key = '{key}'")
    }

    /// What makes a listener end TLS with certificates from these files; keys of the same table may follow.
    pub fn listening(&self, files: &[&str]) -> String {
        let pairs: Vec<_> = files
            .iter()
            .map(|it| format!("{{ {} }}", self.pair(it)))
            .collect();
        format!("[listener.tls]\ncertificates = [{}]", pairs.join(", "))
    }

    /// A client that shows nothing and offers nothing by ALPN.
    pub fn client(&self) -> TlsClient {
        self.client_of(&[&TLS13, &TLS12], None)
    }

    /// One that speaks certain versions only, and shows the certificate from a file.
    pub fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        file: Option<&str>,
    ) -> TlsClient {
        self.client_with(versions, file.map(|it| self.read(it)))
    }

    /// A client that believes this authority and shows a certificate of another one.
    pub fn client_as(&self, other: &Self, file: &str) -> TlsClient {
        self.client_with(&[&TLS13], Some(other.read(file)))
    }

    fn client_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        shown: Option<Shown>,
    ) -> TlsClient {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("the provider knows them")
            .with_root_certificates(self.roots());
        let config = match shown {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        };
        TlsClient(config.expect("they belong together"))
    }

    /// A server with the certificate of a file, that wants clients to show one of this authority's or does not ask.
    pub fn acceptor(&self, file: &str, alpn: &[&str], asks_client: bool) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider knows them");
        let roots = Arc::new(self.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        let builder = match asks_client {
            true => builder.with_client_cert_verifier(verifier.expect("there is an authority")),
            false => builder.with_no_client_auth(),
        };
        let (chain, key) = self.read(file);
        let config = builder.with_single_cert(chain, key);
        let mut config = config.expect("they belong together");
        config.alpn_protocols = protocols(alpn);
        TlsAcceptor::from(Arc::new(config))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("it is an authority");
        roots
    }

    fn read(&self, file: &str) -> Shown {
        let certificate = CertificateDer::from_pem_file(self.path(&format!("{file}.pem")));
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}.key")));
        let certificate = certificate.expect("it was issued");
        (vec![certificate], key.expect("it was issued"))
    }

    /// Replaces the file at once, as those who exchange certificates do.
    fn write(&self, file: &str, text: &str) {
        let fresh = self.path("fresh");
        fs::write(&fresh, text).expect("a temporary folder is writable");
        fs::rename(&fresh, self.path(file)).expect("a file can be replaced");
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl TlsClient {
    #[must_use]
    pub fn offering(mut self, alpn: &[&str]) -> Self {
        self.0.alpn_protocols = protocols(alpn);
        self
    }

    /// Connects and shakes hands, asking for `name`. Clones of the same client resume each other's sessions.
    ///
    /// # Errors
    /// When either side refuses the other.
    pub async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).expect("it is a name");
        let connector = TlsConnector::from(Arc::new(self.0.clone()));
        connector.connect(name, stream).await
    }
}

/// Whom the certificate that was shown is for: the file it was issued into.
pub fn shown(stream: &TlsStream<TcpStream>) -> String {
    let chain = stream.get_ref().1.peer_certificates();
    let chain = chain.expect("a server shows one");
    let read = balancer_core::certificate::read(&chain[0]);
    read.expect("it can be read").subject.replacen("CN=", "", 1)
}

impl Door {
    pub async fn before(behind: SocketAddr, acceptor: TlsAcceptor) -> Self {
        let lease = ports::free().expect("a port is free");
        let listener = TcpListener::bind(lease.address()).await;
        let listener = listener.expect("a leased port can be bound");
        let seen = Arc::new(Seen::default());
        let for_task = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, acceptor.clone(), behind, for_task.clone()));
            }
        });
        Self { lease, seen, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.lease.address()
    }

    /// Handshakes so far that went well.
    pub fn handshakes(&self) -> usize {
        self.seen.handshakes.load(Relaxed)
    }

    /// What was agreed on in the last one.
    pub fn agreed(&self) -> Option<Vec<u8>> {
        self.last().1
    }

    /// What was said in front of the last hello.
    pub fn header(&self) -> Vec<u8> {
        self.last().0
    }

    fn last(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        self.seen
            .last
            .lock()
            .expect("nobody panics with it")
            .clone()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a connection ends is for its two ends to judge.
async fn pass(stream: TcpStream, acceptor: TlsAcceptor, behind: SocketAddr, seen: Arc<Seen>) {
    let Ok((header, stream)) = read_header(stream).await else {
        return;
    };
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    *seen.last.lock().expect("nobody panics with it") = (header, agreed);
    seen.handshakes.fetch_add(1, Relaxed);
    if let Ok(mut node) = TcpStream::connect(behind).await {
        let _ = copy_bidirectional(&mut stream, &mut node).await;
    }
}

/// Takes a PROXY header of version 2 off the connection, if one comes before the hello.
async fn read_header(mut stream: TcpStream) -> io::Result<(Vec<u8>, TcpStream)> {
    let mut first = [0; 1];
    stream.peek(&mut first).await?;
    let mut header = Vec::new();
    if first[0] == b'\r' {
        header.resize(16, 0);
        stream.read_exact(&mut header).await?;
        let len = usize::from(u16::from_be_bytes([header[14], header[15]]));
        let mut rest = vec![0; len];
        stream.read_exact(&mut rest).await?;
        header.extend(rest);
    }
    Ok((header, stream))
}

fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|it| it.as_bytes().to_vec()).collect()
}
