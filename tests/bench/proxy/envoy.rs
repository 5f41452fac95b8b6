//! Envoy's configuration for a row: one worker, no administration, limits and timeouts out of the way.

use std::path::Path;

use ::tests::process::Program;

use super::{Place, ProxyError};
use crate::row::{Log, Relay};

pub(super) fn program(path: &Path, place: &Place<'_>) -> Result<Program, ProxyError> {
    let config = place.write("envoy.yaml", &config(place))?;
    let program = Program::new(path)
        .argument("--config-path")
        .argument(config);
    let program = program.argument("--concurrency").argument("1");
    Ok(program
        .argument("--disable-hot-restart")
        .argument("--log-level")
        .argument("error"))
}

fn config(place: &Place<'_>) -> String {
    let (entry, backend) = (place.entry.address(), place.upstream.0);
    let relay = place.setup.relay;
    let filter = if relay.is_tcp() { TCP } else { HTTP };
    let filter = filter
        .replace("CODEC", client_codec(relay))
        .replace("ACCESS", &access_log(place));
    format!(
        "static_resources:
  listeners:
  - name: f
    address: {{ socket_address: {{ address: {}, port_value: {} }} }}
    filter_chains:
    - filters:
{filter}{}
  clusters:
  - name: b
    type: STATIC
    connect_timeout: 5s
{LIMITS}{}
    load_assignment:
      cluster_name: b
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}]
",
        entry.ip(),
        entry.port(),
        tls(place),
        upstream(relay),
        backend.ip(),
        backend.port(),
    )
}

const TCP: &str = "      - name: envoy.filters.network.tcp_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: f
          cluster: b
          idle_timeout: 300s";

const HTTP: &str = "      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: f
          codec_type: CODEC
          use_remote_address: true
          generate_request_id: true
          stream_idle_timeout: 300s
          upgrade_configs: [{ upgrade_type: websocket }]
ACCESS
          route_config:
            virtual_hosts:
            - { name: b, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster: b, timeout: 0s } }] }
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// Some rows hold more connections than a cluster may have by default.
const LIMITS: &str = "    circuit_breakers:
      thresholds: [{ max_connections: 1000000, max_pending_requests: 1000000, max_requests: 1000000 }]";

fn client_codec(relay: Relay) -> &'static str {
    match relay {
        Relay::Http2ToHttp1 | Relay::Grpc => "HTTP2",
        _ => "HTTP1",
    }
}

fn access_log(place: &Place<'_>) -> String {
    match place.setup.log {
        Log::Off => String::new(),
        Log::On => format!(
            "          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}",
            place.file("access.log")
        ),
    }
}

fn tls(place: &Place<'_>) -> String {
    if place.setup.relay != Relay::Https {
        return String::new();
    }
    let (cert, key) = (place.certificate.cert(), place.certificate.key());
    format!(
        "
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
            tls_certificates: [{{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }}]",
        cert.display(),
        key.display()
    )
}

fn upstream(relay: Relay) -> &'static str {
    match relay {
        Relay::Grpc => {
            "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }"
        }
        _ => "",
    }
}
