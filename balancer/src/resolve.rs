//! Keeps asking DNS for the addresses of a service, as often as the answers' time to live wants, within bounds.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use thiserror::Error;

use crate::config::DnsConfig;

/// A name is never asked for more often than this, whatever its time to live.
const REFRESH_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
#[error("the system's name servers: {0}")]
pub(crate) struct ResolverError(#[from] NetError);

/// A name's addresses, and for how long they are worth believing.
pub(crate) struct Resolved {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) refresh_after: Duration,
}

/// # Errors
/// When no name server is configured and the system's configuration cannot be read.
pub(crate) fn resolver(config: &DnsConfig) -> Result<TokioResolver, ResolverError> {
    let mut builder = if config.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = config.servers.iter().map(|server| {
            let mut it = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut it.connections {
                connection.port = server.port();
            }
            it
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    // The schedule here decides when to ask again; a cache below it would only make answers older.
    builder.options_mut().cache_size = 0;
    Ok(builder.build()?)
}

/// Asks once. Failures and empty answers come back as they are; what they mean is the membership's to decide.
///
/// # Errors
/// When the name cannot be resolved.
pub(crate) async fn resolve(
    resolver: &TokioResolver,
    config: &DnsConfig,
) -> Result<Resolved, NetError> {
    let answer = resolver.lookup_ip(config.name.as_str()).await?;
    let addresses: BTreeSet<SocketAddr> = answer
        .iter()
        .map(|ip| SocketAddr::new(ip, config.port))
        .collect();
    let lives = answer
        .valid_until()
        .saturating_duration_since(Instant::now());
    Ok(Resolved {
        addresses: addresses.into_iter().collect(),
        refresh_after: lives.clamp(REFRESH_MIN, config.refresh_max.max(REFRESH_MIN)),
    })
}
