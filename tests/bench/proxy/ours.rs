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
    let (entry, admin, backend) = (
        place.entry.address(),
        place.admin.address(),
        place.upstream.0,
    );
    let (service, route) = match place.setup.relay.is_tcp() {
        true => ("protocol = \"tcp\"\nservice = \"b\"\n", ""),
        false => ("", "[[route]]\nservice = \"b\"\n"),
    };
    let tls = tls(place);
    let upstream = match place.setup.relay {
        Relay::Http1 | Relay::Http2ToHttp1 | Relay::Https | Relay::WebSocket => "http1",
        Relay::Grpc => "http2",
        Relay::TcpEcho | Relay::TcpHttp => "match",
    };
    format!(
        "workers = 1\n\
         [admin]\naddress = \"{admin}\"\n\
         [log]\naccess = \"{access}\"\n\
         [[listener]]\nname = \"entry\"\naddress = \"{entry}\"\nidle_timeout = \"300s\"\n{service}\
         {tls}{route}\
         [[service]]\nname = \"b\"\ndiscover = \"static\"\nendpoints = [\"{backend}\"]\n\
         protocol = \"{upstream}\"\nidle_timeout = \"300s\"\n"
    )
}

fn tls(place: &Place<'_>) -> String {
    if place.setup.relay != Relay::Https {
        return String::new();
    }
    let (cert, key) = (place.certificate.cert(), place.certificate.key());
    format!(
        "[listener.tls]\nmin_version = \"1.3\"\ncertificates = [{{ cert = \"{}\", key = \"{}\" }}]\n",
        cert.display(),
        key.display()
    )
}
