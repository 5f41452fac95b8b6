//! The certificate that every proxy shows, so that all of them sign with the same kind of key: ECDSA on P-256.

use std::fs;
use std::io;
use std::path::PathBuf;

use ::tests::load::tls::{Handshakes, TlsClient};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use tempfile::TempDir;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

/// The name it is for, which clients ask for.
const NAME: &str = "localhost";
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";
/// HAProxy wants both in one file.
const BOTH: &str = "both.pem";

/// A certificate that signs itself; its files go with it.
#[derive(Debug)]
pub(crate) struct Certificate {
    full: TlsClient,
    resumed: TlsClient,
    folder: TempDir,
}

/// Why there is no certificate, or no client that trusts it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot write a certificate: {0}")]
    Write(#[from] io::Error),
    #[error("cannot trust a certificate: {0}")]
    Trust(#[from] rustls::Error),
}

impl Certificate {
    pub(crate) fn make() -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = rcgen::CertificateParams::new([NAME.into()])?.self_signed(&key)?;
        let folder = TempDir::new()?;
        let (cert, key) = (certificate.pem(), key.serialize_pem());
        fs::write(folder.path().join(CERT), &cert)?;
        fs::write(folder.path().join(KEY), &key)?;
        fs::write(folder.path().join(BOTH), format!("{cert}{key}"))?;
        Ok(Self {
            full: client(certificate.der(), Handshakes::Full)?,
            resumed: client(certificate.der(), Handshakes::Resumed)?,
            folder,
        })
    }

    /// A client that trusts it.
    pub(crate) fn client(&self, handshakes: Handshakes) -> TlsClient {
        match handshakes {
            Handshakes::Full => self.full.clone(),
            Handshakes::Resumed => self.resumed.clone(),
        }
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.path().join(CERT)
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join(KEY)
    }

    /// The certificate, and behind it its key.
    pub(crate) fn both(&self) -> PathBuf {
        self.folder.path().join(BOTH)
    }
}

fn client(
    certificate: &CertificateDer<'static>,
    handshakes: Handshakes,
) -> Result<TlsClient, rustls::Error> {
    let name = ServerName::try_from(NAME).expect("the name is a DNS name");
    TlsClient::new(certificate.clone(), name, handshakes)
}
