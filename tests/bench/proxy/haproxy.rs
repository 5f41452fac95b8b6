//! HAProxy's configuration for a row: one thread, upstream connections shared, bytes that are only relayed copied or spliced.

use std::path::Path;

use ::tests::process::Program;

use super::{Place, ProxyError, Splice};
use crate::row::{Log, Relay};

/// More than any row opens; HAProxy reserves two descriptors for each, and pipes for splicing.
const CONNECTIONS_MAX: usize = 5_500;

/// Its log goes to standard output, which is a file: HAProxy itself writes to no other.
pub(super) fn program(
    path: &Path,
    place: &Place<'_>,
    splice: Splice,
) -> Result<Program, ProxyError> {
    if splice == Splice::On && place.setup.relay != Relay::TcpHttp {
        return Err(ProxyError::SameAsOther);
    }
    let config = place.write("haproxy.cfg", &config(place, splice))?;
    Ok(Program::new(path)
        .argument("-db")
        .argument("-f")
        .argument(config))
}

fn config(place: &Place<'_>, splice: Splice) -> String {
    let (log_target, log) = log(place.setup.log, place.setup.relay);
    let (mode, pipes) = match (place.setup.relay.is_tcp(), splice) {
        (false, _) => (HTTP, ""),
        (true, Splice::Off) => (TCP, ""),
        (true, Splice::On) => (TCP_SPLICED, PIPES),
    };
    let (bind, server) = protocols(place);
    let (entry, backend) = (place.entry.address(), place.upstream.0);
    format!(
        "global\n nbthread 1\n maxconn {CONNECTIONS_MAX}\n{pipes}{log_target}\
         defaults\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n{log}{mode}\
         frontend f\n bind {entry}{bind}\n default_backend b\n\
         backend b\n server s {backend}{server}\n"
    )
}

const TCP: &str = " mode tcp\n";

/// With `splice-auto` this traffic costs HAProxy as much as without; forced, a third to a half.
const TCP_SPLICED: &str = " mode tcp\n option splice-request\n option splice-response\n";

/// Enough pipes for both ways of every connection of a row, each as large as unprivileged users may make them.
const PIPES: &str = " maxpipes 2000\n tune.pipesize 1048576\n";

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
fn protocols(place: &Place<'_>) -> (String, &'static str) {
    match place.setup.relay {
        Relay::Http1 | Relay::WebSocket | Relay::TcpEcho | Relay::TcpHttp => (String::new(), ""),
        Relay::Https => {
            let both = place.certificate.both();
            (
                format!(" ssl crt {} ssl-min-ver TLSv1.3", both.display()),
                "",
            )
        }
        Relay::Http2ToHttp1 => (" proto h2".into(), ""),
        Relay::Grpc => (" proto h2".into(), " proto h2"),
    }
}
