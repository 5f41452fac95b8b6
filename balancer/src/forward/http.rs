//! The HTTP exchange: from a request's head to an answer's last byte, over HTTP/1.1 or HTTP/2 on either side.
//!
//! Bodies stream both ways under back-pressure; a request is sent to a further node only under the rules of `balancer_core::retry`.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use balancer_core::{
    forwarded::{self, Wire, check_request},
    name::NodeId,
    retry::{self, Replay},
};
use bytes::Bytes;
use http::{Method, Request, Response, Version, header, request::Parts};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::oneshot};

use super::{
    body::{Progress, RequestBody, ResponseBody},
    upgrade,
};
use crate::{
    accept::{Attended, ClientConnection, Stopped},
    config::UpstreamProtocol,
    dial::Connection,
    observe::{Exchange, Line},
    pick::{Lease, Service},
    rescue::{Failure, HEAD_TOO_SLOW, rescue},
    route::{self, route},
    stream::{ClientStream, SideDoor},
};

/// Streams that one HTTP/2 client may have open at a time.
const CLIENT_STREAMS_MAX: u32 = 256;

/// How long a client that waits for `100 Continue` is made to wait for a node that does not say it (RFC 9110 §10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

pub(crate) async fn serve_http1(client: Arc<ClientConnection>, stream: TcpStream, first: Bytes) {
    let policy = &client.listener().policy;
    let lifeline = client.lifeline().clone();
    let stream = ClientStream::new(stream, first, lifeline.clone());
    let side_door = stream.side_door();
    let service = {
        let client = client.clone();
        service_fn(move |request| exchange(client.clone(), Some(side_door.clone()), request))
    };
    let connection = http1::Builder::new()
        .max_headers(policy.max_headers)
        .max_header_size(policy.max_head_bytes)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match Attended::new(connection, lifeline.clone())
        .run(http1::UpgradeableConnection::graceful_shutdown)
        .await
    {
        Stopped::Ended(Err(err)) => {
            tracing::debug!(client = %client.address(), %err, "connection ended")
        }
        Stopped::Ended(Ok(())) => {}
        Stopped::Cut(connection) if lifeline.is_in_head() => {
            if let Some(parts) = Pin::into_inner(connection).into_parts() {
                parts.io.inner().say(HEAD_TOO_SLOW);
            }
        }
        Stopped::Cut(_) => {}
    }
}

pub(crate) async fn serve_http2(client: Arc<ClientConnection>, stream: TcpStream, first: Bytes) {
    let policy = &client.listener().policy;
    let lifeline = client.lifeline().clone();
    lifeline.says_goodbye();
    let stream = ClientStream::new(stream, first, lifeline.clone());
    let service = {
        let client = client.clone();
        service_fn(move |request| exchange(client.clone(), None, request))
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(CLIENT_STREAMS_MAX)
        .max_header_list_size(u32::try_from(policy.max_head_bytes).unwrap_or(u32::MAX))
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service);
    match Attended::new(connection, lifeline)
        .run(http2::Connection::graceful_shutdown)
        .await
    {
        Stopped::Ended(Err(err)) => {
            tracing::debug!(client = %client.address(), %err, "connection ended")
        }
        Stopped::Ended(Ok(())) | Stopped::Cut(_) => {}
    }
}

/// One exchange. It cannot fail: what goes wrong is rescued into an answer.
async fn exchange(
    client: Arc<ClientConnection>,
    side_door: Option<Arc<SideDoor>>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (parts, incoming) = request.into_parts();
    let asks_grpc = asks_grpc(&parts);
    let line = client.worker().log.is_on().then(|| line_of(&parts));
    let mut exchange = Exchange::begin(client.clone(), line);
    let walked = walk(&client, side_door, parts, incoming, &mut exchange).await;
    Ok(match walked {
        Ok(Forwarded::Answered(answer)) => answer.into_response(exchange),
        Ok(Forwarded::Switched(switched)) => switched.into_response(exchange),
        Err(failure) => rescue(&failure, asks_grpc, exchange),
    })
}

/// How a walk can end well.
pub(crate) enum Forwarded {
    Answered(Answer),
    Switched(upgrade::Switched),
}

/// A node's answer whose body is still to come.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    pub(crate) connection: Connection,
}

impl Answer {
    pub(crate) fn into_response(self, mut exchange: Box<Exchange>) -> Response<ResponseBody> {
        let (mut parts, incoming) = self.response.into_parts();
        forwarded::response(&mut parts);
        // Each hop speaks its own version (RFC 9110 §2.5); the server below writes the client's.
        parts.version = Version::HTTP_11;
        exchange.answered(parts.status);
        let body = ResponseBody::of_node(incoming, self.lease, self.connection, exchange);
        Response::from_parts(parts, body)
    }
}

async fn walk(
    client: &Arc<ClientConnection>,
    side_door: Option<Arc<SideDoor>>,
    mut parts: Parts,
    incoming: Incoming,
    exchange: &mut Exchange,
) -> Result<Forwarded, Failure> {
    check_request(&parts)?;
    let routed = route(client, &parts)?;
    exchange.routed(&routed.service.metrics);
    exchange.note(|line| {
        line.route = Some(routed.target.route.clone());
        line.service = Some(routed.service.name.clone());
    });
    if let Some(upgrade) = upgrade::wanted(&mut parts) {
        return upgrade::forward(client, routed.service, upgrade, parts, incoming, exchange).await;
    }
    if parts.method == Method::CONNECT {
        return Err(Failure::ConnectRefused);
    }
    let wire = wire(routed.service, parts.version);
    let id = client.worker().with_rng(|rng| {
        client
            .hop
            .request(&mut parts, forwarded::Exchange::Plain, rng)
    });
    exchange.note(|line| line.request_id = Some(id.into()));
    forwarded::aim(&mut parts, wire)?;
    let request = outgoing(parts, incoming, side_door, wire, exchange);
    let answer = send(client, routed.service, request, wire, exchange).await?;
    Ok(Forwarded::Answered(answer))
}

fn wire(service: &Service, spoken: Version) -> Wire {
    match service.policy.protocol {
        UpstreamProtocol::Http1 => Wire::Http1,
        UpstreamProtocol::Http2 => Wire::Http2,
        UpstreamProtocol::Match if spoken == Version::HTTP_2 => Wire::Http2,
        UpstreamProtocol::Match => Wire::Http1,
    }
}

fn outgoing(
    parts: Parts,
    incoming: Incoming,
    side_door: Option<Arc<SideDoor>>,
    wire: Wire,
    exchange: &mut Exchange,
) -> Outgoing {
    let waits = parts.headers.contains_key(header::EXPECT) && wire == Wire::Http1;
    let mut progress = None;
    let mut body = RequestBody::empty();
    if !incoming.is_end_stream() {
        let counted = Arc::new(Progress::default());
        exchange.received = Some(counted.clone());
        body = RequestBody::streaming(incoming, counted.clone());
        progress = Some(counted);
    }
    let mut request = Request::from_parts(parts, body);
    request.extensions_mut().clear();
    if wire == Wire::Http1 {
        hear_forerunners(&mut request, side_door, waits);
    }
    Outgoing { request, progress }
}

/// A request on its way to a node.
struct Outgoing {
    request: Request<RequestBody>,
    /// Of a body that streams; without one the whole request can be sent again.
    progress: Option<Arc<Progress>>,
}

/// Forwards 1xx answers, and holds the body of a client that waits for one of them until the node has spoken.
fn hear_forerunners(
    request: &mut Request<RequestBody>,
    side_door: Option<Arc<SideDoor>>,
    waits: bool,
) {
    let mut opener = None;
    if waits && !request.body().is_end_stream() {
        let (open, gate) = oneshot::channel();
        request.body_mut().wait_for(gate, CONTINUE_WAIT);
        opener = Some(open);
    }
    let opener = Mutex::new(opener);
    if let Some(door) = &side_door {
        door.close();
    }
    hyper::ext::on_informational(request, move |early| {
        if early.status() == http::StatusCode::CONTINUE {
            // hyper says 100 to the client itself, at the moment when the body begins to be read.
            if let Some(open) = opener.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = open.send(());
            }
        } else if let Some(door) = &side_door {
            door.let_out(&written(early.status(), early.headers()));
        }
    });
}

/// An informational answer as HTTP/1.1 writes it.
fn written(status: http::StatusCode, headers: &http::HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Sends the request to one node after another until one answers or the rules forbid another try.
async fn send(
    client: &ClientConnection,
    service: &Service,
    outgoing: Outgoing,
    wire: Wire,
    exchange: &mut Exchange,
) -> Result<Answer, Failure> {
    let Outgoing {
        mut request,
        progress,
    } = outgoing;
    service.budget.deposit();
    let mut tried: Vec<NodeId> = Vec::new();
    let mut tries = 0;
    loop {
        tries += 1;
        let lease = service.pick(&mut tried).await?;
        exchange.tried(&lease, tries);
        let spare = spare(&request, progress.is_none());
        let node = lease.node().clone();
        let setback = match attempt(service, lease, request, progress.as_deref(), wire).await {
            Ok(answer) => {
                exchange.note(|line| line.first_byte = Some(answer.latency));
                return Ok(answer.answer);
            }
            Err(setback) => setback,
        };
        if setback.blames_node {
            client.worker().suspect(service, &setback.endpoint);
            tried.push(node);
        }
        let again = setback.returned.or(spare);
        request = match again {
            Some(request) if tries < service.policy.max_tries && service.may_retry() => request,
            _ => return Err(setback.failure),
        };
    }
}

/// A second copy of a request that may be sent twice even if a node has seen it.
fn spare(request: &Request<RequestBody>, is_whole: bool) -> Option<Request<RequestBody>> {
    let replay = if is_whole {
        Replay::Whole
    } else {
        Replay::WhileUntouched
    };
    retry::is_safe(retry::Failure::Sent, request.method(), replay).then(|| {
        let mut copy = Request::new(RequestBody::empty());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        copy
    })
}

/// An attempt that brought no answer.
struct Setback {
    failure: Failure,
    /// The request itself, if no byte of it was sent.
    returned: Option<Request<RequestBody>>,
    /// The failure speaks against the node, not merely against an old connection to it.
    blames_node: bool,
    endpoint: Arc<balancer_core::endpoint::Endpoint>,
}

struct Timed {
    answer: Answer,
    latency: Duration,
}

async fn attempt(
    service: &Service,
    mut lease: Lease,
    request: Request<RequestBody>,
    progress: Option<&Progress>,
    wire: Wire,
) -> Result<Timed, Setback> {
    service.metrics.dials.increment(1);
    let endpoint = lease.upstream.endpoint.clone();
    let dialled = match wire {
        Wire::Http1 => lease.upstream.http1().await,
        Wire::Http2 => lease.upstream.http2().await,
    };
    let mut connection = match dialled {
        Ok(connection) => connection,
        Err(err) => {
            service.metrics.dial_failures.increment(1);
            return Err(Setback {
                failure: Failure::Unreachable(err),
                returned: Some(request),
                blames_node: true,
                endpoint,
            });
        }
    };
    if !connection.is_reused() {
        lease.connected();
    }
    let sent = within(
        service.policy.response_head_timeout,
        progress,
        connection.send(request),
    )
    .await;
    match sent {
        Some(Ok(response)) => {
            let latency = lease.answered();
            let answer = Answer {
                response,
                lease,
                connection,
            };
            Ok(Timed { answer, latency })
        }
        Some(Err(mut err)) => {
            let returned = err.take_message();
            Err(Setback {
                // An old connection that closes unused is how nodes tidy up, not how they fail.
                blames_node: returned.is_none() || !connection.is_reused(),
                failure: Failure::Gone(err.into_error()),
                returned,
                endpoint,
            })
        }
        None => Err(Setback {
            failure: Failure::Silent,
            returned: None,
            blames_node: false,
            endpoint,
        }),
    }
}

/// Waits for `answer` as long as the client's body still flows, and `timeout` from then on (at most twice that).
async fn within<T>(
    timeout: Duration,
    progress: Option<&Progress>,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    loop {
        let was_done = progress.is_none_or(Progress::is_done);
        match tokio::time::timeout(timeout, answer.as_mut()).await {
            Ok(output) => return Some(output),
            Err(_) if was_done => return None,
            Err(_) => {}
        }
    }
}

fn asks_grpc(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2
        && parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
}

fn line_of(parts: &Parts) -> Box<Line> {
    Box::new(Line {
        method: parts.method.clone(),
        host: route::host(parts).and_then(|it| http::HeaderValue::from_str(it).ok()),
        uri: parts.uri.clone(),
        version: parts.version,
        request_id: None,
        route: None,
        service: None,
        node: None,
        tries: 0,
        first_byte: None,
    })
}
