//! The rows of the bench: what each measures, and what traffic that is.

use std::borrow::Cow;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use ::tests::load::content::{Expect, pattern};
use ::tests::load::grpc::{Call, Grpc, Shape};
use ::tests::load::http1::{Http1, HttpRequest, Reuse};
use ::tests::load::http2::Http2;
use ::tests::load::tcp::PingPong;
use ::tests::load::tls::Handshakes;
use ::tests::load::websocket::WebSocket;
use ::tests::load::{EntryAddr, Load, Plan};
use bytes::Bytes;

use crate::backend::{Backend, BackendAddr};
use crate::certificate::Certificate;

/// A small answer in bytes: what an API gives.
pub(crate) const SMALL: usize = 128;
/// A medium one: a script or a picture.
pub(crate) const MEDIUM: usize = 64 * 1024;
/// A large one.
pub(crate) const LARGE: usize = 1024 * 1024;

/// A message of a ping-pong, on TCP and in a WebSocket, and of a gRPC call, in bytes.
pub(crate) const MESSAGE: usize = 64;
/// How many lanes share an HTTP/2 connection, as the tabs and calls of one client do.
const STREAMS_EACH: usize = 8;
/// How many messages a gRPC stream carries; long, so that messages are measured and not calls.
const STREAM_MESSAGES: u64 = 10_000;
/// Arrivals per second of the open row: well below what one core of any peer can do, so that latency is its own.
const OPEN_RATE: f64 = 5_000.0;
/// Connections of each memory row.
const IDLE_CONNECTIONS: usize = 5_000;
/// Endpoints of the pool rows.
const ENDPOINTS: usize = 10_000;

static GRPC_MESSAGE: LazyLock<Bytes> = LazyLock::new(|| pattern(MESSAGE));

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Exchanges through a proxy.
    Exchanges {
        setup: Setup,
        lanes: usize,
        traffic: Kinds,
    },
    /// What a proxy keeps for each idle connection.
    Idle {
        setup: Setup,
        held: Held,
        connections: usize,
    },
    /// The pool of the balancer, without a network.
    Pool { endpoints: usize },
}

/// How a proxy has to be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) relay: Relay,
    pub(crate) log: Log,
}

/// What goes in and what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relay {
    Http1,
    /// The proxy ends TLS.
    Https,
    /// The proxy lets HTTP/1.1 change to a WebSocket.
    WebSocket,
    Http2ToHttp1,
    Grpc,
    /// Bytes to the echo.
    TcpEcho,
    /// Bytes to the HTTP/1.1 server, which the proxy does not know.
    TcpHttp,
}

/// Whether each exchange leaves a line in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    On,
    Off,
}

/// The traffic of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    KeepAlive {
        size: usize,
    },
    KeepAliveOpen,
    NewConnection,
    Upload,
    Http2,
    GrpcUnary,
    GrpcStream,
    PingPong,
    WebSocket,
    /// A request for each handshake.
    Tls(Handshakes),
}

/// What idles, after one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Http1,
    Https,
    WebSocket,
}

/// All rows, in the order in which they are run.
#[rustfmt::skip]
pub(crate) const ROWS: [Row; 22] = [
    Row { name: "keep-alive", what: "HTTP/1.1 keep-alive GET of 128 B, 64 connections, log off", kind: exchanges(Relay::Http1, 64, Kinds::KeepAlive { size: SMALL }) },
    Row { name: "keep-alive-log", what: "the same, each proxy's access log in a file", kind: Kind::Exchanges { setup: Setup { relay: Relay::Http1, log: Log::On }, lanes: 64, traffic: Kinds::KeepAlive { size: SMALL } } },
    Row { name: "keep-alive-open", what: "the same, log off, 5,000 arrivals/s; latency from the intended start", kind: exchanges(Relay::Http1, 64, Kinds::KeepAliveOpen) },
    Row { name: "new-connection", what: "GET of 128 B, a new client connection for each, 32 at a time", kind: exchanges(Relay::Http1, 32, Kinds::NewConnection) },
    Row { name: "body-64k", what: "HTTP/1.1 keep-alive GET of 64 KiB, 16 connections", kind: exchanges(Relay::Http1, 16, Kinds::KeepAlive { size: MEDIUM }) },
    Row { name: "body-1m", what: "HTTP/1.1 keep-alive GET of 1 MiB, 8 connections", kind: exchanges(Relay::Http1, 8, Kinds::KeepAlive { size: LARGE }) },
    Row { name: "upload-1m", what: "HTTP/1.1 keep-alive POST of 1 MiB, 8 connections", kind: exchanges(Relay::Http1, 8, Kinds::Upload) },
    Row { name: "h2-h1", what: "HTTP/2 client, HTTP/1.1 upstream, GET of 128 B, 8 connections of 8 streams", kind: exchanges(Relay::Http2ToHttp1, 64, Kinds::Http2) },
    Row { name: "grpc-unary", what: "gRPC unary, HTTP/2 on both sides, 64 B, 8 connections of 8 calls", kind: exchanges(Relay::Grpc, 64, Kinds::GrpcUnary) },
    Row { name: "grpc-stream", what: "a message each way on a gRPC stream, 64 B, 8 connections of 8 streams", kind: exchanges(Relay::Grpc, 64, Kinds::GrpcStream) },
    Row { name: "tls-full", what: "TLS 1.3, a full handshake (ECDSA P-256, X25519, AES-128-GCM) and a GET of 128 B, a new connection for each, 32 at a time", kind: exchanges(Relay::Https, 32, Kinds::Tls(Handshakes::Full)) },
    Row { name: "tls-resumed", what: "the same, each handshake but a client's first resumed with a ticket", kind: exchanges(Relay::Https, 32, Kinds::Tls(Handshakes::Resumed)) },
    Row { name: "websocket", what: "WebSocket, ping-pong of 64 B, 64 connections", kind: exchanges(Relay::WebSocket, 64, Kinds::WebSocket) },
    Row { name: "websocket-1000", what: "the same, 1,000 connections", kind: exchanges(Relay::WebSocket, 1_000, Kinds::WebSocket) },
    Row { name: "tcp-ping", what: "TCP relay, ping-pong of 64 B, 64 connections", kind: exchanges(Relay::TcpEcho, 64, Kinds::PingPong) },
    Row { name: "tcp-bulk-1", what: "TCP relay, 1 MiB at a time, 1 connection", kind: exchanges(Relay::TcpHttp, 1, Kinds::KeepAlive { size: LARGE }) },
    Row { name: "tcp-bulk", what: "TCP relay, 1 MiB at a time, 64 connections", kind: exchanges(Relay::TcpHttp, 64, Kinds::KeepAlive { size: LARGE }) },
    Row { name: "idle", what: "memory of an idle kept-alive HTTP/1.1 connection, 5,000 of them", kind: idle(Relay::Http1, Held::Http1) },
    Row { name: "idle-tls", what: "memory of an idle kept-alive HTTP/1.1 connection in TLS 1.3, 5,000 of them", kind: idle(Relay::Https, Held::Https) },
    Row { name: "idle-websocket", what: "memory of an idle WebSocket, 5,000 of them", kind: idle(Relay::WebSocket, Held::WebSocket) },
    Row { name: "membership-100", what: "the pool at 100 endpoints", kind: Kind::Pool { endpoints: ENDPOINTS / 100 } },
    Row { name: "membership", what: "the pool at 10,000 endpoints", kind: Kind::Pool { endpoints: ENDPOINTS } },
];

const fn exchanges(relay: Relay, lanes: usize, traffic: Kinds) -> Kind {
    Kind::Exchanges {
        setup: Setup {
            relay,
            log: Log::Off,
        },
        lanes,
        traffic,
    }
}

const fn idle(relay: Relay, held: Held) -> Kind {
    Kind::Idle {
        setup: Setup {
            relay,
            log: Log::Off,
        },
        held,
        connections: IDLE_CONNECTIONS,
    }
}

// === impl Relay ===

impl Relay {
    /// Where such a proxy forwards to.
    pub(crate) fn upstream(self, backend: &Backend) -> BackendAddr {
        match self {
            Self::Grpc => backend.http2,
            Self::TcpEcho => backend.echo,
            _ => backend.http1,
        }
    }

    pub(crate) fn is_tcp(self) -> bool {
        matches!(self, Self::TcpEcho | Self::TcpHttp)
    }
}

// === impl Kinds ===

impl Kinds {
    /// Starts this traffic, which goes on until it is stopped or `lasts` is over.
    pub(crate) fn start(
        self,
        entry: EntryAddr,
        certificate: &Certificate,
        lanes: usize,
        lasts: Duration,
    ) -> io::Result<Load> {
        let plan = self.plan(lanes, lasts);
        match self {
            Self::KeepAlive { size } => {
                Load::start(plan, Http1::new(entry, &get(size), Reuse::KeepAlive))
            }
            Self::KeepAliveOpen => {
                Load::start(plan, Http1::new(entry, &get(SMALL), Reuse::KeepAlive))
            }
            Self::NewConnection => Load::start(plan, Http1::new(entry, &get(SMALL), Reuse::Never)),
            Self::Upload => Load::start(plan, Http1::new(entry, &upload(), Reuse::KeepAlive)),
            Self::Http2 => Load::start(plan, Http2::new(entry, get(SMALL), STREAMS_EACH)),
            Self::GrpcUnary => {
                Load::start(plan, Grpc::new(entry, call(Shape::Unary), STREAMS_EACH))
            }
            Self::GrpcStream => {
                let shape = Shape::Stream {
                    messages: STREAM_MESSAGES,
                };
                Load::start(plan, Grpc::new(entry, call(shape), STREAMS_EACH))
            }
            Self::PingPong => Load::start(plan, PingPong::new(entry, MESSAGE)),
            Self::WebSocket => Load::start(plan, WebSocket::new(entry, MESSAGE)),
            Self::Tls(handshakes) => {
                let http1 = Http1::new(entry, &get(SMALL), Reuse::Never);
                Load::start(plan, http1.over_tls(certificate.client(handshakes)))
            }
        }
    }

    fn plan(self, lanes: usize, lasts: Duration) -> Plan {
        match self {
            Self::KeepAliveOpen => Plan::open(OPEN_RATE, lanes, lasts),
            _ => Plan::closed(lanes, lasts),
        }
    }
}

/// A GET that must give so much of the pattern.
pub(crate) fn get(size: usize) -> HttpRequest {
    HttpRequest {
        expect: Expect::Pattern(size as u64),
        ..HttpRequest::get(&format!("/{size}"))
    }
}

fn upload() -> HttpRequest {
    HttpRequest {
        upload: LARGE,
        ..get(SMALL)
    }
}

fn call(shape: Shape) -> Call {
    let path = "/colonnade.v1.Whoami/Echo".into();
    Call {
        authority: "localhost".into(),
        path,
        message: GRPC_MESSAGE.clone(),
        shape,
        read: is_the_echo,
    }
}

fn is_the_echo(message: &[u8]) -> Result<Option<Cow<'_, str>>, String> {
    if message == *GRPC_MESSAGE {
        Ok(None)
    } else {
        Err("the echo differs".into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let names: BTreeSet<_> = ROWS.iter().map(|it| it.name).collect();
        assert_eq!(names.len(), ROWS.len());
    }
}
