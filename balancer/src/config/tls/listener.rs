//! `[listener.tls]`: with which certificates and on which terms a listener ends the TLS of its clients.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use settings::Error;

use super::{CertificateFiles, RawCertificate};
use crate::config::{ListenerProtocol, check::Keys, value};

const CERTIFICATES_MAX: usize = 1_000;
const ALPN_MAX: usize = 16;
/// The length stands in one byte (RFC 7301 §3.1).
const ALPN_LEN_MAX: usize = 255;
const CRLS_MAX: usize = 16;
/// Keys that turn faster would cost more handshakes than they save.
const ROTATION_MIN: Duration = Duration::from_secs(60);
/// A ticket may not be used for longer than seven days (RFC 8446 §4.6.1), and one may be used for two rotations.
const ROTATION_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60 / 2);

/// How a listener ends TLS.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListenerTls {
    /// At least one; the first is the default.
    pub certificates: Vec<CertificateFiles>,
    /// Whether a client that asks for an unknown name, or for none, is refused. Default: it gets the first certificate.
    pub strict_sni: bool,
    /// The protocols offered, the best first; empty: whatever clients ask for is passed over. Default: `h2` and `http/1.1`, or
    /// none for the protocol `tcp`.
    pub alpn: Vec<Alpn>,
    /// Never above `max_version`. Default: 1.2.
    pub min_version: TlsVersion,
    /// Default: 1.3.
    pub max_version: TlsVersion,
    pub client_auth: ClientAuth,
    /// How long a handshake may take. Default: 5 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub handshake_timeout: Duration,
    /// Secrets from which the keys of session tickets are made. Default: random keys that no other balancer knows.
    pub ticket_keys: Option<PathBuf>,
    /// How long tickets are made with one key. Default: 6 h.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub ticket_rotation: Duration,
}

/// What an application speaks inside TLS (RFC 7301), such as `h2`: 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Alpn(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

impl TlsVersion {
    /// As others call it, such as `TLSv1.3`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// They are not asked. The default.
    Off,
    /// They may; one that is not good ends the handshake.
    Optional(ClientTrust),
    Required(ClientTrust),
}

/// Which certificates of clients are good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientTrust {
    /// Those that one of the authorities in this file has issued.
    pub ca: PathBuf,
    /// Unless one of these lists has revoked them.
    pub crls: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(in crate::config) struct RawListenerTls {
    /// The certificates, 1 to 1,000, each with its key. A client gets the one whose alternative names hold the name it asks for,
    /// else one with a wildcard for it, else the first. Required.
    certificates: Vec<RawCertificate>,
    /// `true` refuses clients that ask for a name that no certificate holds, or for none. Default: `false`.
    strict_sni: bool,
    /// The protocols offered by ALPN, the best first; `[]` offers none. Up to 16. Default: `["h2", "http/1.1"]`, and `[]` where
    /// the listener's protocol is `"tcp"`.
    alpn: Option<Vec<String>>,
    /// The oldest version spoken, `"1.2"` or `"1.3"`. Default: `"1.2"`.
    min_version: TlsVersion,
    /// The newest version spoken, `"1.2"` or `"1.3"`. Default: `"1.3"`.
    max_version: TlsVersion,
    /// Whether clients show certificates: `"off"`, `"optional"` or `"required"`. Default: `"off"`.
    client_auth: ClientAuthKind,
    /// A PEM file with the authorities whose certificates clients may show. Required for `"optional"` and `"required"`, and only
    /// there.
    #[serde(deserialize_with = "value::path")]
    client_ca: Option<PathBuf>,
    /// PEM files with lists of revoked certificates, up to 16. Once there is one, every certificate below an authority needs the
    /// list of its issuer. Default: none.
    client_crls: Vec<PathBuf>,
    /// How long a handshake may take. Default: `"5s"`.
    #[serde(deserialize_with = "value::span")]
    handshake_timeout: Duration,
    /// A file with the secrets that ticket keys are made from, shared by balancers so that a client resumes at any of them: up
    /// to 8 lines of 64 hexadecimal digits; the first makes tickets, all open them. Default: random keys.
    #[serde(deserialize_with = "value::path")]
    ticket_keys: Option<PathBuf>,
    /// How long tickets are made with one key, `"1m"` to `"84h"`; they are taken for as long again. Default: `"6h"`.
    #[serde(deserialize_with = "value::span")]
    ticket_rotation: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClientAuthKind {
    #[default]
    Off,
    Optional,
    Required,
}

impl ListenerTls {
    /// The files that a handshake depends on.
    pub fn files(&self) -> Vec<PathBuf> {
        let pair = |it: &CertificateFiles| [it.cert.clone(), it.key.clone()];
        let mut files: Vec<_> = self.certificates.iter().flat_map(pair).collect();
        files.extend(self.ticket_keys.clone());
        if let Some(trust) = self.client_auth.trust() {
            files.push(trust.ca.clone());
            files.extend(trust.crls.clone());
        }
        files
    }
}

impl ClientAuth {
    pub fn trust(&self) -> Option<&ClientTrust> {
        match self {
            Self::Off => None,
            Self::Optional(trust) | Self::Required(trust) => Some(trust),
        }
    }
}

impl Alpn {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl RawListenerTls {
    pub(in crate::config) fn check(
        self,
        keys: &Keys<'_>,
        protocol: ListenerProtocol,
    ) -> Result<ListenerTls, Error> {
        check_bounds(keys, &self)?;
        let client_auth = client_auth(keys, self.client_auth, self.client_ca, self.client_crls)?;
        Ok(ListenerTls {
            certificates: certificates(keys, self.certificates)?,
            strict_sni: self.strict_sni,
            alpn: alpn(keys, self.alpn, protocol)?,
            min_version: self.min_version,
            max_version: self.max_version,
            client_auth,
            handshake_timeout: self.handshake_timeout,
            ticket_keys: self.ticket_keys,
            ticket_rotation: self.ticket_rotation,
        })
    }
}

fn check_bounds(keys: &Keys<'_>, raw: &RawListenerTls) -> Result<(), Error> {
    if raw.min_version > raw.max_version {
        return Err(keys.refuse("min_version", "is newer than `max_version`"));
    }
    match (ROTATION_MIN..=ROTATION_MAX).contains(&raw.ticket_rotation) {
        true => Ok(()),
        false => Err(keys.refuse("ticket_rotation", "is not within 1m to 84h")),
    }
}

fn certificates(keys: &Keys<'_>, raw: Vec<RawCertificate>) -> Result<Vec<CertificateFiles>, Error> {
    if raw.is_empty() {
        return Err(keys.refuse("certificates", "required, but there is none"));
    }
    keys.at_most("certificates", raw.len(), CERTIFICATES_MAX)?;
    raw.into_iter()
        .enumerate()
        .map(|(idx, it)| it.check(&keys.element("certificates", idx)))
        .collect()
}

fn alpn(
    keys: &Keys<'_>,
    names: Option<Vec<String>>,
    protocol: ListenerProtocol,
) -> Result<Vec<Alpn>, Error> {
    let names = names.unwrap_or_else(|| match protocol {
        ListenerProtocol::Tcp => Vec::new(),
        _ => ["h2", "http/1.1"].map(str::to_owned).into(),
    });
    keys.at_most("alpn", names.len(), ALPN_MAX)?;
    let is_name = |it: &String| (1..=ALPN_LEN_MAX).contains(&it.len());
    match names.iter().position(|it| !is_name(it)) {
        Some(idx) => Err(keys.refuse(&format!("alpn[{idx}]"), "is not 1 to 255 bytes long")),
        None => Ok(names.into_iter().map(Alpn).collect()),
    }
}

fn client_auth(
    keys: &Keys<'_>,
    kind: ClientAuthKind,
    ca: Option<PathBuf>,
    crls: Vec<PathBuf>,
) -> Result<ClientAuth, Error> {
    keys.at_most("client_crls", crls.len(), CRLS_MAX)?;
    if kind == ClientAuthKind::Off {
        let reason = "is for `client_auth = \"optional\"` and `\"required\"` only";
        keys.absent("client_ca", &ca, reason)?;
        keys.absent("client_crls", &crls.first(), reason)?;
        return Ok(ClientAuth::Off);
    }
    let ca = keys.required("client_ca", ca)?;
    let trust = ClientTrust { ca, crls };
    Ok(match kind {
        ClientAuthKind::Required => ClientAuth::Required(trust),
        _ => ClientAuth::Optional(trust),
    })
}

impl Default for RawListenerTls {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            strict_sni: false,
            alpn: None,
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
            client_auth: ClientAuthKind::default(),
            client_ca: None,
            client_crls: Vec::new(),
            handshake_timeout: Duration::from_secs(5),
            ticket_keys: None,
            ticket_rotation: Duration::from_secs(6 * 60 * 60),
        }
    }
}
