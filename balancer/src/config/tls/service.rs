//! `[service.tls]`: how a node proves that it is one, and how the balancer proves itself to it.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use balancer_core::server_names::ServerName;
use serde::{Deserialize, Serialize};
use settings::Error;

use super::{CertificateFiles, RawCertificate};
use crate::config::{check::Keys, value};

/// How the endpoints of a service are spoken to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceTls {
    pub trust: ServerTrust,
    /// The name that is asked for and must be proven: a host name or an address. Default: that of `dns`, or the endpoint's
    /// address.
    pub server_name: Option<String>,
    /// What is shown to endpoints that ask. Default: nothing.
    pub identity: Option<CertificateFiles>,
    /// How long a handshake may take. Default: 5 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub handshake_timeout: Duration,
}

/// Whose word counts for an endpoint's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerTrust {
    /// That of the authorities the system trusts. The default.
    System,
    /// That of the authorities in this file.
    Ca(PathBuf),
    /// Nobody's: whoever answers is believed.
    Anyone,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(in crate::config) struct RawServiceTls {
    /// A PEM file with the authorities that may have issued the endpoints' certificates. Default: those the system trusts.
    #[serde(deserialize_with = "value::path")]
    ca: Option<PathBuf>,
    /// The host name or address that is asked for and that the certificate must hold. Default: the name in `dns`, or the
    /// endpoint's address.
    server_name: Option<String>,
    /// A PEM file with the certificate that is shown to endpoints that ask for one. It goes with `key`. Default: none.
    #[serde(deserialize_with = "value::path")]
    cert: Option<PathBuf>,
    /// A PEM file with the private key of `cert`. Default: none.
    #[serde(deserialize_with = "value::path")]
    key: Option<PathBuf>,
    /// `true` believes whoever answers, so that anybody on the way can read and change everything. Default: `false`.
    insecure: bool,
    /// How long a handshake may take. Default: `"5s"`.
    #[serde(deserialize_with = "value::span")]
    handshake_timeout: Duration,
}

impl ServiceTls {
    /// The files that a handshake depends on.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let ServerTrust::Ca(ca) = &self.trust {
            files.push(ca.clone());
        }
        if let Some(identity) = &self.identity {
            files.extend([identity.cert.clone(), identity.key.clone()]);
        }
        files
    }
}

impl RawServiceTls {
    pub(in crate::config) fn check(self, keys: &Keys<'_>) -> Result<ServiceTls, Error> {
        if let Some(name) = &self.server_name {
            check_name(keys, name)?;
        }
        Ok(ServiceTls {
            trust: trust(keys, self.ca, self.insecure)?,
            server_name: self.server_name,
            identity: identity(keys, self.cert, self.key)?,
            handshake_timeout: self.handshake_timeout,
        })
    }
}

fn check_name(keys: &Keys<'_>, name: &str) -> Result<(), Error> {
    let res = ServerName::new(name);
    match name.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => res
            .map(drop)
            .map_err(|error| keys.refuse("server_name", format!("`{name}` {error}"))),
    }
}

fn trust(keys: &Keys<'_>, ca: Option<PathBuf>, is_insecure: bool) -> Result<ServerTrust, Error> {
    match (ca, is_insecure) {
        (Some(_), true) => {
            Err(keys.refuse("insecure", "believes anybody, so that `ca` has no use"))
        }
        (Some(ca), false) => Ok(ServerTrust::Ca(ca)),
        (None, true) => Ok(ServerTrust::Anyone),
        (None, false) => Ok(ServerTrust::System),
    }
}

fn identity(
    keys: &Keys<'_>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<CertificateFiles>, Error> {
    match (&cert, &key) {
        (None, None) => Ok(None),
        _ => RawCertificate { cert, key }.check(keys).map(Some),
    }
}

impl Default for RawServiceTls {
    fn default() -> Self {
        Self {
            ca: None,
            server_name: None,
            cert: None,
            key: None,
            insecure: false,
            handshake_timeout: Duration::from_secs(5),
        }
    }
}
