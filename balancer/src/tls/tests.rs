//! Handshakes against real ones of the library, over streams in memory, and files that change under them.

mod clients;
mod nodes;
mod reload;

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::{TlsConnector, client};

use super::*;

/// Files of a balancer, and the authority that its certificates come from.
struct Bench {
    folder: TempDir,
    authority: Authority,
    metrics: Metrics,
}

/// Who issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A certificate and its key.
struct Issued {
    der: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().expect("there is room for files"),
            authority: Authority::new("authority"),
            metrics: Metrics::new().expect("the constants are right"),
        };
        bench.write("ca.pem", &bench.authority.pem);
        bench
    }

    /// Writes `file.pem` and `file.key` for these names.
    fn issue(&self, file: &str, names: &[&str]) {
        self.place(file, &self.authority.issue(file, names));
    }

    fn place(&self, file: &str, issued: &Issued) {
        self.write(&format!("{file}.pem"), &issued.pem);
        self.write(&format!("{file}.key"), &issued.key.serialize_pem());
    }

    /// Replaces the file, as those who exchange certificates do.
    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, text).expect("the folder can be written to");
        fs::rename(&fresh, &path).expect("a file can be replaced");
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// A listener with certificates from these files and further keys; `@` stands for the folder.
    fn listener(&self, files: &[&str], keys: &str) -> Result<Tls, TlsLoadError> {
        let pair = |it: &&str| format!("{{ cert = '@/{it}.pem', key = '@/{it}.key' }}");
        let certificates: Vec<_> = files.iter().map(pair).collect();
        let certificates = certificates.join(", ");
        self.load(&format!(
            "[listener.tls]\ncertificates = [{certificates}]\n{keys}"
        ))
    }

    fn load(&self, tables: &str) -> Result<Tls, TlsLoadError> {
        Tls::load(&self.config(tables), &self.metrics, None)
    }

    fn config(&self, tables: &str) -> Config {
        let text =
            format!("id = 'b'\n[[listener]]\nname = 'web'\naddress = '127.0.0.1:1'\n{tables}");
        let folder = self.folder.path().display().to_string();
        Config::from_toml("t.toml", &text.replace('@', &folder)).expect("the text is right")
    }

    /// What is counted, as an operator reads it.
    fn counted(&self, line: &str) -> bool {
        let text = self.metrics.handle().render();
        text.lines().any(|it| it == line)
    }

    fn client(&self) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS)
    }

    fn client_of(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.authority.der.clone())
            .expect("it is an authority");
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("they are versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A client that shows a certificate.
    fn client_as(&self, issued: &Issued) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.authority.der.clone())
            .expect("it is an authority");
        let key = PrivateKeyDer::try_from(issued.key.serialize_der()).expect("it is a key");
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("they are versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![issued.der.clone()], key)
            .expect("they belong together")
    }
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params.self_signed(&key).expect("it can be signed");
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, subject: &str, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("they are names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.serial_number = Some(SerialNumber::from(subject.as_bytes().to_vec()));
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("it can be signed");
        Issued {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        }
    }

    /// A list of revoked subjects, as PEM.
    fn revoke(&self, subjects: &[&str]) -> String {
        let revoked = |subject: &&str| RevokedCertParams {
            serial_number: SerialNumber::from(subject.as_bytes().to_vec()),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: subjects.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("it can be signed");
        list.pem().expect("it can be written")
    }
}

/// What both sides came to. Each side's stream is dropped with this, so that neither waits for the other.
struct Met {
    server: Result<Facts, TlsError>,
    client: Result<client::TlsStream<DuplexStream>, std::io::Error>,
}

/// A handshake of this client with the only listener, asking for a name. A byte of the server is read afterwards, so that the
/// client has its tickets too.
async fn meet(tls: &Tls, client: &Arc<ClientConfig>, name: &str) -> Met {
    let terminator = tls.terminator(0).expect("the listener ends TLS");
    let (ours, theirs) = duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).expect("it is a name");
    let connecting = async {
        let mut stream = TlsConnector::from(client.clone())
            .connect(name, theirs)
            .await?;
        let mut byte = [0];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await?;
        Ok(stream)
    };
    let accepting = async {
        let mut handshaken = terminator.accept(ours, terminator.deadline()).await?;
        // The client may be gone already, because it refused us.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut handshaken.stream, b"!").await;
        let _ = tokio::io::AsyncWriteExt::flush(&mut handshaken.stream).await;
        Ok(handshaken.facts)
    };
    let (server, client) = tokio::join!(accepting, connecting);
    Met { server, client }
}

impl Met {
    #[track_caller]
    fn facts(self) -> Facts {
        self.client.expect("the client is content");
        self.server.expect("the server is content")
    }

    #[track_caller]
    fn reason(self) -> &'static str {
        assert!(self.client.is_err(), "the client is told");
        self.server.expect_err("the server refuses").reason().code()
    }

    /// The subject of the certificate that the client got.
    #[track_caller]
    fn shown(self) -> String {
        let stream = self.client.expect("the client is content");
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .expect("one is shown");
        let read = balancer_core::certificate::read(&chain[0]).expect("it can be read");
        read.subject
    }
}
