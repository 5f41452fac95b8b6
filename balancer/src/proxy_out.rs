//! The PROXY header that tells a node whose connection it gets, first thing on a connection that belongs to one client.

use balancer_core::proxy_header::{self, Addresses, Facts, TlsFacts};

use crate::{accept::ClientConnection, config::ProxyProtocol};

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
    // What a proxy in front has told is passed on: nobody behind it can find it out again.
    let tls = told.and_then(|it| it.tls.as_ref());
    proxy_header::write_v2(&Facts {
        addresses,
        authority: told.and_then(|it| it.authority.as_deref()),
        alpn: told.and_then(|it| it.alpn.as_deref()),
        unique_id: told.and_then(|it| it.unique_id.as_deref()),
        tls: tls.map(|tls| TlsFacts {
            version: tls.version.as_deref().unwrap_or_default(),
            cipher: tls.cipher.as_deref(),
            common_name: tls.common_name.as_deref(),
            is_verified: tls.is_verified,
        }),
    })
}
