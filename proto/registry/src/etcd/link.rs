//! One connection to one member at a time; when it fails in any way, the next member gets its turn.
//!
//! The only place where a socket to etcd is opened. Whether and when to try again is the caller's decision.

use std::{error::Error, sync::Arc, time::Duration};

use etcd_client::{Channel, Client, ConnectOptions};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::{EtcdError, Settings};
use crate::config::{Credentials, User};

/// How deep a chain of causes is told.
const CAUSES_MAX: usize = 8;

pub(super) struct Link {
    settings: Arc<Settings>,
    /// Whose turn it is among the endpoints.
    turn: usize,
    client: Option<Client>,
}

impl Link {
    /// Starts at a random member, so that a cluster's clients spread over them.
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        let turn = fastrand::usize(..settings.config.endpoints.len());
        Self {
            settings,
            turn,
            client: None,
        }
    }

    /// Asks the member of the moment, connecting to it first if need be.
    ///
    /// Any failure gives the member up: a wrong password is read anew and an expired login renewed by connecting again.
    pub(super) async fn ask<T, F>(
        &mut self,
        action: &'static str,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let client = self.client().await?;
        let res = match tokio::time::timeout(self.timeout(), ask(client)).await {
            Ok(res) => res.map_err(|error| self.refused(action, &error)),
            Err(_) => Err(self.hung(action)),
        };
        res.inspect_err(|_| self.give_up())
    }

    /// Leaves the member; the next use of the link connects to the next one.
    pub(super) fn give_up(&mut self) {
        self.client = None;
        self.turn = (self.turn + 1) % self.settings.config.endpoints.len();
    }

    pub(super) fn endpoint(&self) -> String {
        self.settings.config.endpoints[self.turn].clone()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.settings.config.request_timeout
    }

    pub(super) fn hung(&self, action: &'static str) -> EtcdError {
        EtcdError::Hung {
            endpoint: self.endpoint(),
            action,
            within: self.timeout(),
        }
    }

    pub(super) fn refused(&self, action: &'static str, error: &etcd_client::Error) -> EtcdError {
        EtcdError::Refused {
            endpoint: self.endpoint(),
            action,
            reason: reason(error),
        }
    }

    async fn client(&mut self) -> Result<Client, EtcdError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let connected = match tokio::time::timeout(self.timeout(), self.connect()).await {
            Ok(res) => res,
            Err(_) => Err(self.hung("accept a connection")),
        };
        match connected {
            Ok(client) => Ok(self.client.insert(client).clone()),
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Client, EtcdError> {
        let credentials = self.settings.config.credentials()?;
        let channel = self.dial(&credentials).await?;
        let user = credentials.user;
        let options = options(user.as_ref());
        Client::from_channel(Channel::Tonic(channel), Some(options))
            .await
            .map_err(|error| EtcdError::LogIn {
                endpoint: self.endpoint(),
                user: user.map(|it| it.name).unwrap_or_default(),
                reason: reason(&error),
            })
    }

    async fn dial(
        &self,
        credentials: &Credentials,
    ) -> Result<tonic::transport::Channel, EtcdError> {
        let channel =
            self.target(credentials)?
                .connect()
                .await
                .map_err(|error| EtcdError::Unreachable {
                    endpoint: self.endpoint(),
                    reason: causes(&error),
                })?;
        Ok(channel)
    }

    fn target(&self, credentials: &Credentials) -> Result<Endpoint, EtcdError> {
        let endpoint = self.endpoint();
        let is_tls = endpoint.starts_with("https://");
        let res = Endpoint::from_shared(endpoint)
            .map(|it| {
                // etcd takes pings on an idle connection for an attack (grpc-go's enforcement policy), so only one
                // with open requests is pinged.
                it.connect_timeout(self.timeout())
                    .http2_keep_alive_interval(self.settings.config.keep_alive)
                    .keep_alive_timeout(self.timeout())
                    .keep_alive_while_idle(false)
            })
            .and_then(|it| {
                if is_tls {
                    it.tls_config(tls(credentials))
                } else {
                    Ok(it)
                }
            });
        res.map_err(|error| EtcdError::Endpoint {
            endpoint: self.endpoint(),
            reason: causes(&error),
        })
    }
}

/// Requests and watches are refused by a member that has no leader: it may be cut off and know nothing new.
fn options(user: Option<&User>) -> ConnectOptions {
    let options = ConnectOptions::new().with_require_leader(true);
    match user {
        Some(user) => options
            .with_user(&user.name, &user.password)
            .with_auto_token_refresh(true),
        None => options,
    }
}

fn tls(credentials: &Credentials) -> ClientTlsConfig {
    let config = match &credentials.authorities {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match &credentials.identity {
        Some(it) => config.identity(Identity::from_pem(&it.cert, &it.key)),
        None => config,
    }
}

/// etcd's own words where there are some, else all that is known.
fn reason(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) if status.source().is_none() => {
            status.message().to_owned()
        }
        etcd_client::Error::GRpcStatus(status) => causes(status),
        etcd_client::Error::TransportError(error) => causes(error),
        error => error.to_string(),
    }
}

/// An error and what caused it: tonic says "transport error" and keeps the reason behind it.
fn causes(error: &dyn Error) -> String {
    let mut words = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause.filter(|_| words.len() < CAUSES_MAX) {
        words.push(error.to_string());
        cause = error.source();
    }
    words.dedup();
    words.join(": ")
}
