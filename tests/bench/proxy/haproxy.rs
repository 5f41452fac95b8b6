//! HAProxy's configuration for a row: one thread, upstream connections shared, splicing where bytes are only relayed.

use std::path::Path;

use ::tests::process::Program;

use super::{Place, ProxyError};
use crate::row::{Log, Relay};

/// More than any row opens; HAProxy reserves two descriptors for each, and pipes for splicing.
const CONNECTIONS_MAX: usize = 5_500;

/// Its log goes to standard output, which is a file: HAProxy itself writes to no other.
pub(super) fn program(path: &Path, place: &Place<'_>) -> Result<Program, ProxyError> {
    let config = place.write("haproxy.cfg", &config(place))?;
    Ok(Program::new(path)
        .argument("-db")
        .argument("-f")
        .argument(config))
}

fn config(place: &Place<'_>) -> String {
    let (log_target, log) = log(place.setup.log, place.setup.relay);
    let mode = if place.setup.relay.is_tcp() {
        TCP
    } else {
        HTTP
    };
    let (bind, server) = protocols(place.setup.relay);
    let (entry, backend) = (place.entry.address(), place.upstream.0);
    format!(
        "global\n nbthread 1\n maxconn {CONNECTIONS_MAX}\n{log_target}\
         defaults\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n{log}{mode}\
         frontend f\n bind {entry}{bind}\n default_backend b\n\
         backend b\n server s {backend}{server}\n"
    )
}

const TCP: &str = " mode tcp\n option splice-auto\n";

const HTTP: &str = " mode http\n http-reuse always\n timeout http-keep-alive 300s\n option forwardfor\n \
    unique-id-format %[uuid()]\n unique-id-header X-Request-ID\n";

fn log(log: Log, relay: Relay) -> (&'static str, &'static str) {
    match (log, relay.is_tcp()) {
        (Log::Off, _) => ("", ""),
        (Log::On, false) => (
            " log stdout format raw local0\n",
            " log global\n option httplog\n",
        ),
        (Log::On, true) => (
            " log stdout format raw local0\n",
            " log global\n option tcplog\n",
        ),
    }
}

/// What is added to the address that clients use, and to the one of the backend.
fn protocols(relay: Relay) -> (&'static str, &'static str) {
    match relay {
        Relay::Http1 | Relay::TcpEcho | Relay::TcpHttp => ("", ""),
        Relay::Http2ToHttp1 => (" proto h2", ""),
        Relay::Grpc => (" proto h2", " proto h2"),
    }
}
