//! Reads what TLS is made of from PEM files: certificates, keys, authorities, revocation lists; and the secrets of tickets.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use balancer_core::certificate::{self, Certificate, CertificateError};
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use thiserror::Error;

use crate::config::CertificateFiles;

use super::{TlsLoadError, provider, tickets::Secret};

/// No bundle of authorities is as large, and a revocation list as large would take seconds to read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
const SECRETS_MAX: usize = 8;

#[derive(Debug, Error)]
pub enum MaterialError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("is larger than {} MiB", FILE_BYTES_MAX / 1024 / 1024)]
    TooLarge,
    #[error("is not PEM: {0}")]
    Pem(pem::Error),
    #[error("holds no {0}")]
    Empty(&'static str),
    #[error("the certificate {0}")]
    Certificate(#[from] CertificateError),
    #[error("the key does not belong to the certificate, or is of no known kind: {0}")]
    Key(rustls::Error),
    #[error("a certificate in it cannot be that of an authority: {0}")]
    Authority(rustls::Error),
    #[error("line {0}: is not 64 hexadecimal digits")]
    Secret(usize),
    #[error("holds more than {SECRETS_MAX} secrets")]
    TooManySecrets,
}

/// A certificate with its key, and what it says of itself.
pub(super) fn certified_key(
    files: &CertificateFiles,
) -> Result<(CertifiedKey, Certificate), TlsLoadError> {
    let chain = certificates(&files.cert)?;
    let said = certificate::read(&chain[0])
        .map_err(|error| TlsLoadError::file(&files.cert)(error.into()))?;
    let key = private_key(&files.key)?;
    let key = CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| TlsLoadError::file(&files.key)(MaterialError::Key(error)))?;
    Ok((key, said))
}

/// A chain for showing: at least one certificate, and its key.
pub(super) fn chain_and_key(
    files: &CertificateFiles,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsLoadError> {
    let chain = certificates(&files.cert)?;
    let key = private_key(&files.key)?;
    Ok((chain, key))
}

/// The certificates in a file as those of authorities.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsLoadError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsLoadError::file(path)(MaterialError::Authority(error)))?;
    }
    Ok(roots)
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsLoadError> {
    objects(path, "certificate").map_err(TlsLoadError::file(path))
}

pub(super) fn revocation_list(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsLoadError> {
    objects(path, "revocation list").map_err(TlsLoadError::file(path))
}

/// The first makes tickets.
pub(super) fn secrets(path: &Path) -> Result<Vec<Secret>, TlsLoadError> {
    let read = || {
        let bytes = bytes(path)?;
        parse_secrets(&String::from_utf8_lossy(&bytes))
    };
    read().map_err(TlsLoadError::file(path))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsLoadError> {
    let read = || {
        let bytes = bytes(path)?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => MaterialError::Empty("private key"),
            error => MaterialError::Pem(error),
        })
    };
    read().map_err(TlsLoadError::file(path))
}

fn objects<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, MaterialError> {
    let bytes = bytes(path)?;
    let objects: Vec<T> = T::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(MaterialError::Pem)?;
    match objects.is_empty() {
        true => Err(MaterialError::Empty(what)),
        false => Ok(objects),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, MaterialError> {
    let mut bytes = Vec::new();
    let mut file = File::open(path)?.take(FILE_BYTES_MAX + 1);
    file.read_to_end(&mut bytes)?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(MaterialError::TooLarge),
        false => Ok(bytes),
    }
}

fn parse_secrets(text: &str) -> Result<Vec<Secret>, MaterialError> {
    let is_secret = |line: &str| !line.is_empty() && !line.starts_with('#');
    let lines = text.lines().map(str::trim).enumerate();
    let secrets: Vec<_> = lines
        .filter(|(_, line)| is_secret(line))
        .map(|(idx, line)| Secret::from_hex(line).ok_or(MaterialError::Secret(idx + 1)))
        .collect::<Result<_, _>>()?;
    match secrets.len() {
        0 => Err(MaterialError::Empty("secret")),
        1..=SECRETS_MAX => Ok(secrets),
        _ => Err(MaterialError::TooManySecrets),
    }
}
