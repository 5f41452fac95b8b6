//! How an operator names the registry, checked before anything is opened.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The registry's part of a program's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `"etcd"` or `"memory"`. Default: `"etcd"`. `"memory"` reaches no further than this process.
    pub kind: Kind,
    /// The members of the etcd cluster, as `http://host:port` or `https://host:port`. One is used at a time and the
    /// next is tried when it fails. Default: `["http://127.0.0.1:2379"]`.
    pub endpoints: Vec<String>,
    /// What all keys of this cluster begin with. Default: `"/colonnade/v1/"`.
    pub prefix: String,
    /// The etcd user; it needs to read and write everything under `prefix`. Default: none, etcd asks for no password.
    pub username: Option<String>,
    /// A file with the user's password; white space at its end is ignored. It is read again at every connect, so that a
    /// new password needs no restart. Default: none.
    pub password_file: Option<PathBuf>,
    /// A PEM file with the authorities that may have signed the members' certificates, read again at every connect.
    /// Default: those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate shown to etcd, together with `key_file`, read again at every connect.
    /// Default: none.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the private key of `cert_file`. Default: none.
    pub key_file: Option<PathBuf>,
    /// How long a record outlives the process that announced it and vanished; etcd counts whole seconds. It is renewed
    /// three times as often. Default: `"5s"`.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    /// How long a member may take to connect or to answer before the next one is tried. Less than half of `lease_ttl`
    /// leaves time for a second member before the lease ends. Default: `"2s"`.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a watch may be silent before the member is asked for its progress; no answer within `request_timeout`
    /// means that it hangs. Default: `"2s"`.
    #[serde(with = "humantime_serde")]
    pub progress_interval: Duration,
    /// How long a connection with open requests may be silent before an HTTP/2 ping is sent (RFC 9113, 6.7). etcd closes
    /// the connection of a client that pings more often than its `--grpc-keepalive-min-time`, 5 s. Default: `"10s"`.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
}

/// What drives the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An etcd cluster, version 3.4 or later.
    #[default]
    Etcd,
    /// This process alone.
    Memory,
}

/// Why a registry cannot be opened with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("endpoints is empty")]
    NoEndpoint,
    #[error("endpoint {0:?} is not of the form http://host:port or https://host:port")]
    Endpoint(String),
    #[error("endpoint {0:?} does not use TLS, but ca_file, cert_file or key_file is set")]
    PlainEndpoint(String),
    #[error("{0} and {1} belong together, and only one of them is set")]
    Alone(&'static str, &'static str),
    #[error("{0} must be longer than zero")]
    Zero(&'static str),
    #[error(transparent)]
    File(#[from] FileError),
}

/// A file that the configuration names and that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {field} {}: {source}", path.display())]
pub struct FileError {
    field: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// What is needed to be let in, read from the files of a [`Config`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    pub(crate) user: Option<User>,
    pub(crate) authorities: Option<Vec<u8>>,
    pub(crate) identity: Option<Identity>,
}

/// A user of etcd.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

/// A client certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cert: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: "/colonnade/v1/".to_owned(),
            username: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            lease_ttl: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            progress_interval: Duration::from_secs(2),
            keep_alive: Duration::from_secs(10),
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        self.check_endpoints()?;
        self.check_pairs()?;
        self.check_durations()?;
        self.credentials()?;
        Ok(())
    }

    pub(crate) fn credentials(&self) -> Result<Credentials, FileError> {
        let credentials = Credentials {
            user: self.user()?,
            authorities: self
                .ca_file
                .as_deref()
                .map(|it| read("ca_file", it))
                .transpose()?,
            identity: self.identity()?,
        };
        Ok(credentials)
    }

    fn check_endpoints(&self) -> Result<(), OpenError> {
        if self.endpoints.is_empty() {
            return Err(OpenError::NoEndpoint);
        }
        let wants_tls = [&self.ca_file, &self.cert_file, &self.key_file]
            .into_iter()
            .any(Option::is_some);
        for endpoint in &self.endpoints {
            check_endpoint(endpoint, wants_tls)?;
        }
        Ok(())
    }

    fn check_pairs(&self) -> Result<(), OpenError> {
        if self.username.is_some() != self.password_file.is_some() {
            return Err(OpenError::Alone("username", "password_file"));
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(OpenError::Alone("cert_file", "key_file"));
        }
        Ok(())
    }

    fn check_durations(&self) -> Result<(), OpenError> {
        let durations = [
            ("lease_ttl", self.lease_ttl),
            ("request_timeout", self.request_timeout),
            ("progress_interval", self.progress_interval),
            ("keep_alive", self.keep_alive),
        ];
        match durations.into_iter().find(|(_, it)| it.is_zero()) {
            Some((field, _)) => Err(OpenError::Zero(field)),
            None => Ok(()),
        }
    }

    fn user(&self) -> Result<Option<User>, FileError> {
        let (Some(name), Some(file)) = (&self.username, &self.password_file) else {
            return Ok(None);
        };
        let bytes = read("password_file", file)?;
        let password = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        Ok(Some(User {
            name: name.clone(),
            password,
        }))
    }

    fn identity(&self) -> Result<Option<Identity>, FileError> {
        let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) else {
            return Ok(None);
        };
        Ok(Some(Identity {
            cert: read("cert_file", cert)?,
            key: read("key_file", key)?,
        }))
    }
}

// A password must not reach a log through a derived Debug.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

fn check_endpoint(endpoint: &str, wants_tls: bool) -> Result<(), OpenError> {
    let (scheme, _) = endpoint.split_once("://").unwrap_or_default();
    let is_address = tonic::transport::Endpoint::from_shared(endpoint.to_owned())
        .is_ok_and(|it| it.uri().port().is_some() && matches!(it.uri().path(), "" | "/"));
    if !is_address || !matches!(scheme, "http" | "https") {
        return Err(OpenError::Endpoint(endpoint.to_owned()));
    }
    if wants_tls && scheme == "http" {
        return Err(OpenError::PlainEndpoint(endpoint.to_owned()));
    }
    Ok(())
}

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError {
        field,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sound() {
        assert!(Config::default().check().is_ok());
        let empty: Config = serde_json::from_str("{}").expect("every field has a default");
        assert_eq!(empty, Config::default());
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(
            serde_json::from_str::<Config>(r#"{"endpoint": "x"}"#)
                .is_err_and(|it| it.to_string().contains("endpoint"))
        );
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let refused = |change: fn(&mut Config), what: &str| {
            let mut config = Config::default();
            change(&mut config);
            let error = config.check().expect_err(what).to_string();
            assert!(error.contains(what), "{error:?} must name {what:?}");
        };
        refused(|it| it.endpoints.clear(), "endpoints");
        refused(
            |it| it.endpoints = vec!["127.0.0.1:2379".into()],
            "127.0.0.1:2379",
        );
        refused(
            |it| it.endpoints = vec!["ftp://host:1".into()],
            "ftp://host:1",
        );
        refused(
            |it| it.endpoints = vec!["http://host".into()],
            "http://host",
        );
        refused(|it| it.ca_file = Some("ca.pem".into()), "TLS");
        refused(|it| it.username = Some("u".into()), "password_file");
        refused(|it| it.cert_file = Some("c".into()), "TLS");
        refused(|it| it.lease_ttl = Duration::ZERO, "lease_ttl");
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let config = Config {
            username: Some("u".into()),
            password_file: Some("/nowhere/password".into()),
            ..Config::default()
        };
        assert!(
            config
                .check()
                .is_err_and(|it| it.to_string().contains("/nowhere/password"))
        );
    }
}
