//! Our balancer's configuration for a row.

use std::path::Path;

use ::tests::process::Program;

use super::{Place, ProxyError};
use crate::row::{Log, Relay};

pub(super) fn program(path: &Path, place: &Place<'_>) -> Result<Program, ProxyError> {
    let config = place.write("balancer.toml", &config(place))?;
    Ok(Program::new(path).argument("--config").argument(config))
}

fn config(place: &Place<'_>) -> String {
    let access = match place.setup.log {
        Log::On => place.file("access.log"),
        Log::Off => "off".into(),
    };
    let (listener, upstream) = protocols(place.setup.relay);
    let (entry, admin, backend) = (
        place.entry.address(),
        place.admin.address(),
        place.upstream.0,
    );
    let mut config = format!(
        "workers = 1\n\
         [admin]\n\
         address = \"{admin}\"\n\
         [log]\n\
         access = \"{access}\"\n\
         [[listener]]\n\
         name = \"entry\"\n\
         address = \"{entry}\"\n\
         protocol = \"{listener}\"\n\
         service = \"b\"\n\
         [[service]]\n\
         name = \"b\"\n\
         discover = \"static\"\n\
         endpoints = [\"{backend}\"]\n\
         protocol = \"{upstream}\"\n"
    );
    if !place.setup.relay.is_tcp() {
        config.push_str("[[route]]\npath = \"/\"\nservice = \"b\"\n");
    }
    config
}

/// What the listener speaks, and what the service does.
fn protocols(relay: Relay) -> (&'static str, &'static str) {
    match relay {
        Relay::Http1 | Relay::Http2ToHttp1 => ("http", "http1"),
        Relay::Grpc => ("http", "http2"),
        Relay::TcpEcho | Relay::TcpHttp => ("tcp", "match"),
    }
}
