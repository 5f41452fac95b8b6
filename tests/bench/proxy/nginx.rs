//! The configuration of nginx for a row: one process that serves, upstream connections kept, bodies never put into files.

use std::path::Path;
use std::process::Command;

use ::tests::process::Program;

use super::{Place, ProxyError, find};
use crate::row::{Log, Relay};

pub(super) fn program(path: &Path, place: &Place<'_>) -> Result<Program, ProxyError> {
    let serving = if place.setup.relay.is_tcp() {
        stream(place, &stream_module(path)?)
    } else {
        http(place)
    };
    let config = place.write("nginx.conf", &format!("{serving}{PROCESS}"))?;
    let program = Program::new(path)
        .argument("-e")
        .argument("stderr")
        .argument("-p")
        .argument(place.folder);
    Ok(program.argument("-c").argument(config))
}

const PROCESS: &str = "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr warn;\n\
    events { worker_connections 16000; }\n";

/// The line that loads the module for TCP, empty where the build holds it; Debian's light build does not.
fn stream_module(path: &Path) -> Result<String, ProxyError> {
    let said = Command::new(path).arg("-V").output()?;
    let options = String::from_utf8_lossy(&said.stderr);
    if options.split_whitespace().any(|it| it == "--with-stream") {
        return Ok(String::new());
    }
    let module = find::stream_module().ok_or(ProxyError::Unable)?;
    Ok(format!("load_module {};\n", module.display()))
}

fn stream(place: &Place<'_>, load_module: &str) -> String {
    let (entry, backend) = (place.entry.address(), place.upstream.0);
    format!(
        "{load_module}stream {{ access_log off; proxy_timeout 300s; proxy_buffer_size {STREAM_BUFFER};\n\
         upstream b {{ server {backend}; }} server {{ listen {entry}; proxy_pass b; }} }}\n"
    )
}

/// The default of 16 KiB costs nginx about a quarter more for each MiB; 256 KiB is cheaper for one connection, dearer for 64.
const STREAM_BUFFER: &str = "64k";

fn http(place: &Place<'_>) -> String {
    let access = match place.setup.log {
        Log::On => format!("{} combined buffer=64k flush=1s", place.file("access.log")),
        Log::Off => "off".into(),
    };
    let (entry, backend) = (place.entry.address(), place.upstream.0);
    let (listen, pass) = match place.setup.relay {
        Relay::Grpc => (" http2", GRPC),
        Relay::Http2ToHttp1 => (" http2", HTTP),
        Relay::Https => (" ssl", HTTP),
        Relay::WebSocket => ("", WEBSOCKET),
        _ => ("", HTTP),
    };
    let tls = tls(place);
    format!(
        "http {{\n\
         access_log {access};\n{LIMITS}\
         upstream b {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {entry}{listen}; {tls}location / {{ {pass} }} }}\n\
         }}\n"
    )
}

fn tls(place: &Place<'_>) -> String {
    if place.setup.relay != Relay::Https {
        return String::new();
    }
    let (cert, key) = (place.certificate.cert(), place.certificate.key());
    format!(
        "ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {};\n",
        cert.display(),
        key.display()
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

const WEBSOCKET: &str = "proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;\n\
    proxy_set_header Connection upgrade; proxy_set_header Host $host; proxy_read_timeout 300s; proxy_send_timeout 300s;\n\
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Request-ID $request_id;";

const GRPC: &str = "grpc_pass grpc://b; grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
    grpc_set_header X-Request-ID $request_id; grpc_read_timeout 300s; grpc_send_timeout 300s;";
