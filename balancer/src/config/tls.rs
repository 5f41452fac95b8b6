//! What operators say about TLS: towards clients in `[listener.tls]`, `[[listener.sni]]`, `hsts` and `https_redirect`, towards
//! nodes in `[service.tls]`.
//!
//! No file that is named here is read here: a configuration can be checked where the keys are not.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{check::Keys, value};

mod listener;
mod service;
mod sni;
mod web;

pub use listener::{Alpn, ClientAuth, ClientTrust, ListenerTls, TlsVersion};
pub use service::{ServerTrust, ServiceTls};
pub use sni::SniRoute;
pub use web::{Hsts, HttpsRedirect};

pub(super) use listener::RawListenerTls;
pub(super) use service::RawServiceTls;
pub(super) use sni::{RawSniRoute, all as sni_routes};
pub(super) use web::{RawHsts, RawHttpsRedirect};

/// A certificate, with the chain up to its issuer behind it, and its private key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawCertificate {
    /// A PEM file that holds the certificate and behind it those of its issuers, but for the root. Required.
    #[serde(deserialize_with = "value::path")]
    cert: Option<PathBuf>,
    /// A PEM file that holds the private key of the certificate: PKCS #8, PKCS #1 or SEC 1, without a password. Required.
    #[serde(deserialize_with = "value::path")]
    key: Option<PathBuf>,
}

impl RawCertificate {
    fn check(self, keys: &Keys<'_>) -> Result<CertificateFiles, settings::Error> {
        Ok(CertificateFiles {
            cert: keys.required("cert", self.cert)?,
            key: keys.required("key", self.key)?,
        })
    }
}

#[cfg(test)]
mod tests;
