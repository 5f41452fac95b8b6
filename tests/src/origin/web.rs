//! An origin on hyper, in one version of HTTP: it sends back what it gets, or so many bytes as the path asks for.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::ports::{self, PortLease};

/// The size of the pieces in which `/chunked/` answers.
const PIECE_BYTES: usize = 10_000;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// What the origin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    /// With prior knowledge.
    Http2,
}

/// A running origin, and what it has seen.
#[derive(Debug)]
pub struct Web {
    lease: PortLease,
    speaks: Speaks,
    seen: Arc<Seen>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// What `/livez` is answered with; 0 stands for 200.
    health: AtomicU16,
    /// What everything else is answered with; 0 stands for what was asked for.
    failure: AtomicU16,
}

impl Web {
    pub async fn start(speaks: Speaks) -> Self {
        let lease = ports::free().expect("a port is free");
        let seen = Arc::new(Seen::default());
        let server = serve(lease.address(), speaks, seen.clone()).await;
        Self {
            lease,
            speaks,
            seen,
            server,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.lease.address()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Relaxed)
    }

    /// Requests so far, those for `/livez` aside.
    pub fn requests(&self) -> usize {
        self.seen.requests.load(Relaxed)
    }

    /// From here on `/livez` is answered with this status.
    pub fn feels(&self, health: StatusCode) {
        self.seen.health.store(health.as_u16(), Relaxed);
    }

    /// From here on everything but `/livez` is answered with this status; 200 ends it.
    pub fn fails(&self, failure: StatusCode) {
        let failure = if failure == StatusCode::OK {
            0
        } else {
            failure.as_u16()
        };
        self.seen.failure.store(failure, Relaxed);
    }

    /// Ends listening and all connections at once.
    pub async fn stop(&mut self) {
        self.server.abort();
        let ended = (&mut self.server).await;
        assert!(ended.is_err(), "a server ends only when it is stopped");
    }

    /// Listens again where it did before.
    pub async fn restart(&mut self) {
        self.server = serve(self.address(), self.speaks, self.seen.clone()).await;
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(address: SocketAddr, speaks: Speaks, seen: Arc<Seen>) -> JoinHandle<()> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.expect("a leased port can be bound");
    tokio::spawn(async move {
        // Connections end with the server, because they belong to this set.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            seen.connections.fetch_add(1, Relaxed);
            connections.spawn(converse(stream, speaks, seen.clone()));
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn converse(stream: TcpStream, speaks: Speaks, seen: Arc<Seen>) {
    let service = service_fn(move |request| {
        let answer = answer(&seen, request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let io = TokioIo::new(stream);
    // How a connection ends is for the other side to judge.
    let _ = match speaks {
        Speaks::Http1 => http1::Builder::new().serve_connection(io, service).await,
        Speaks::Http2 => {
            let http2 = http2::Builder::new(TokioExecutor::new());
            http2.serve_connection(io, service).await
        }
    };
}

fn answer(seen: &Seen, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let (verb, number) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    if verb == "livez" {
        let health = StatusCode::from_u16(seen.health.load(Relaxed)).unwrap_or(StatusCode::OK);
        return with_status(health);
    }
    seen.requests.fetch_add(1, Relaxed);
    if let Ok(failure) = StatusCode::from_u16(seen.failure.load(Relaxed)) {
        return with_status(failure);
    }
    let number = || number.parse::<usize>().expect("the path ends in a number");
    match verb {
        "sized" if request.method() == Method::HEAD => with_length(number()),
        "sized" => Response::new(whole(content(number()))),
        "chunked" => Response::new(in_pieces(content(number()))),
        "status" => {
            let status = u16::try_from(number()).ok();
            let status = status.and_then(|it| StatusCode::from_u16(it).ok());
            with_status(status.expect("the path ends in a status"))
        }
        _ => echo(request),
    }
}

/// So many bytes, of which no two neighbours are the same, so that a lost or repeated piece is noticed.
pub fn content(n: usize) -> Bytes {
    (0..n).map(|it| (it % 251) as u8).collect()
}

/// The body and its trailers come back; what the head said stands in fields.
fn echo(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(body.boxed_unsync());
    let mut tell = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).expect("what stood in a head fits into one");
        response.headers_mut().insert(name, value);
    };
    let host = parts.headers.get(header::HOST);
    let host = host.and_then(|it| it.to_str().ok());
    let authority = parts.uri.authority().map(|it| it.as_str());
    let target = parts.uri.path_and_query().map_or("", |it| it.as_str());
    tell("x-method", parts.method.as_str());
    tell("x-target", target);
    tell("x-host", host.or(authority).unwrap_or_default());
    tell("x-version", &format!("{:?}", parts.version));
    // HTTP/1 writes only the trailers that a head announces.
    tell("trailer", "x-after");
    response
}

/// What `HEAD` is answered with; in HTTP/2 hyper would send the body all the same.
fn with_length(n: usize) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, n.into());
    response
}

fn with_status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Without a length known before its end.
fn in_pieces(mut bytes: Bytes) -> Body {
    let pieces = std::iter::from_fn(move || {
        let n = bytes.len().min(PIECE_BYTES);
        (n > 0).then(|| Ok(Frame::data(bytes.split_to(n))))
    });
    StreamBody::new(tokio_stream::iter(pieces)).boxed_unsync()
}
