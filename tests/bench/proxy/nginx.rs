//! The configuration of nginx for a row: one process that serves, upstream connections kept, bodies never put into files.

use std::path::Path;

use ::tests::process::Program;

use super::{Place, ProxyError};
use crate::row::{Log, Relay};

/// TCP is not relayed: the stream module is missing from Debian's light build, which is the one most machines have.
pub(super) fn program(path: &Path, place: &Place<'_>) -> Result<Program, ProxyError> {
    if place.setup.relay.is_tcp() {
        return Err(ProxyError::Unable);
    }
    let config = place.write("nginx.conf", &config(place))?;
    let program = Program::new(path)
        .argument("-e")
        .argument("stderr")
        .argument("-p")
        .argument(place.folder);
    Ok(program.argument("-c").argument(config))
}

fn config(place: &Place<'_>) -> String {
    let access = match place.setup.log {
        Log::On => format!("{} combined buffer=64k flush=1s", place.file("access.log")),
        Log::Off => "off".into(),
    };
    let (entry, backend) = (place.entry.address(), place.upstream.0);
    let (listen, pass) = match place.setup.relay {
        Relay::Grpc => (" http2", GRPC),
        Relay::Http2ToHttp1 => (" http2", HTTP),
        _ => ("", HTTP),
    };
    format!(
        "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections 16000; }}\n\
         http {{\n\
         access_log {access};\n{LIMITS}\
         upstream b {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {entry}{listen}; location / {{ {pass} }} }}\n\
         }}\n"
    )
}

/// Connections last as long as a round, and what a body needs is kept in memory: in buffers of 32 KiB, because larger ones,
/// tried up to 256 KiB, cost nginx about half as much again for each MiB.
const LIMITS: &str = "keepalive_timeout 300s; keepalive_requests 1000000000; client_max_body_size 0;\n\
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;\n\
    scgi_temp_path scgi; proxy_max_temp_file_size 0; proxy_buffer_size 16k; proxy_buffers 8 32k;\n\
    proxy_busy_buffers_size 64k; proxy_request_buffering off; client_body_buffer_size 64k; http2_max_concurrent_streams 256;\n";

const HTTP: &str = "proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
    proxy_set_header X-Request-ID $request_id;";

const GRPC: &str = "grpc_pass grpc://b; grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
    grpc_set_header X-Request-ID $request_id; grpc_read_timeout 300s; grpc_send_timeout 300s;";
