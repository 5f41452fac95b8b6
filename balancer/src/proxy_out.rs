//! The PROXY header that tells a node whose connection it gets, first thing on a connection that belongs to one client.

use balancer_core::{
    proxy_header::{self, Addresses, Facts, TlsFacts},
    server_names::ServerName,
};

use crate::{accept::ClientConnection, config::ProxyProtocol, tls};

/// What is told ahead of the client's first byte; empty where the service wants nothing.
///
/// A node may only be told on a connection that no other client will use: a relay's, an upgrade's, or one that is not pooled.
pub(crate) fn header_for(
    wanted: ProxyProtocol,
    client: &ClientConnection,
    local: Option<std::net::SocketAddr>,
) -> Vec<u8> {
    if wanted == ProxyProtocol::Off {
        return Vec::new();
    }
    let told = client.told();
    let destination = told
        .and_then(|it| it.addresses)
        .map(|it| it.destination)
        .or(local);
    let addresses = destination.map(|destination| Addresses {
        source: client.address(),
        destination,
    });
    if wanted == ProxyProtocol::V1 {
        return proxy_header::write_v1(addresses);
    }
    // What a proxy in front has told is passed on: nobody behind it can find it out again. What was found out here is newer.
    let here = client.tls();
    let alpn = here.and_then(|it| it.agreed.as_bytes());
    let name = here.and_then(|it| it.server_name.as_ref());
    let tls = match here {
        Some(facts) => Some(tls_here(facts)),
        None => told.and_then(|it| it.tls.as_ref()).map(tls_told),
    };
    proxy_header::write_v2(&Facts {
        addresses,
        authority: name
            .map(ServerName::as_str)
            .or(told.and_then(|it| it.authority.as_deref())),
        alpn: alpn.or(told.and_then(|it| it.alpn.as_deref())),
        unique_id: told.and_then(|it| it.unique_id.as_deref()),
        tls,
    })
}

fn tls_here(facts: &tls::Facts) -> TlsFacts<'_> {
    let certificate = facts.client_certificate.as_deref();
    TlsFacts {
        version: facts.version.as_str(),
        cipher: Some(facts.cipher),
        common_name: certificate.and_then(|it| it.common_name()),
        is_verified: certificate.is_some(),
    }
}

fn tls_told(told: &proxy_header::Tls) -> TlsFacts<'_> {
    TlsFacts {
        version: told.version.as_deref().unwrap_or_default(),
        cipher: told.cipher.as_deref(),
        common_name: told.common_name.as_deref(),
        is_verified: told.is_verified,
    }
}
