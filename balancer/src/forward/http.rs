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
    route::route,
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
///
/// All that needs no waiting is done before the future exists, so that a request is not carried through one future after another:
/// moving it about was a tenth of the instructions of an exchange.
fn exchange(
    client: Arc<ClientConnection>,
    side_door: Option<Arc<SideDoor>>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    let (parts, incoming) = request.into_parts();
    let asks_grpc = asks_grpc(&parts);
    // HTTP/1.0 knows no informational answers (RFC 9110 §15.2).
    let side_door = side_door.filter(|_| parts.version == Version::HTTP_11);
    let line = client.worker().log.is_on().then(|| line_of(&parts));
    let mut exchange = Exchange::begin(client.clone(), line);
    let mut planned = plan(&client, side_door, parts, incoming, &mut exchange);
    async move {
        // Looked at where it lies: a request is too large to be moved for nothing.
        let walked = match &mut planned {
            Ok(Plan::Send(outgoing)) => send(&client, outgoing, &mut exchange)
                .await
                .map(Forwarded::Answered),
            // Boxed: it is rare, and would make the future of every other exchange larger.
            Ok(Plan::Upgrade(wish)) => {
                Box::pin(upgrade::forward(&client, wish, &mut exchange)).await
            }
            Err(failure) => return Ok(rescue(failure, asks_grpc, exchange)),
        };
        Ok(match walked {
            Ok(Forwarded::Answered(answer)) => answer.into_response(exchange),
            Ok(Forwarded::Switched(switched)) => switched.into_response(exchange),
            Err(failure) => rescue(&failure, asks_grpc, exchange),
        })
    }
}

/// What is to be done with a request.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is what nearly every request becomes; boxing it is what is avoided"
)]
enum Plan {
    Send(Outgoing),
    Upgrade(Box<upgrade::Wish>),
}

/// A request on its way to a node.
struct Outgoing {
    service: Arc<Service>,
    wire: Wire,
    /// Absent while it is being sent.
    request: Option<Request<RequestBody>>,
    /// Of a body that streams; without one the whole request can be sent again.
    progress: Option<Arc<Progress>>,
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

fn plan(
    client: &Arc<ClientConnection>,
    side_door: Option<Arc<SideDoor>>,
    mut parts: Parts,
    incoming: Incoming,
    exchange: &mut Exchange,
) -> Result<Plan, Failure> {
    check_request(&parts)?;
    let routed = route(client, &parts)?;
    exchange.routed(routed.service);
    exchange.note(|line| {
        line.route = Some(routed.target.route.clone());
        line.service = Some(routed.service.name.clone());
    });
    let asks = client.asks(
        routed.target.route_idx,
        routed.service.class(&parts.headers),
    );
    client
        .worker()
        .admission
        .request(exchange.time_of_try(1), asks, |name| {
            parts.headers.get(name).map(http::HeaderValue::as_bytes)
        })?;
    if let Some(wanted) = upgrade::wanted(&mut parts) {
        let wish = upgrade::wish(client, routed.service, wanted, parts, exchange)?;
        return Ok(Plan::Upgrade(Box::new(wish)));
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
    let (request, progress) = outgoing(parts, incoming, side_door, wire, exchange);
    Ok(Plan::Send(Outgoing {
        service: routed.service.clone(),
        wire,
        request: Some(request),
        progress,
    }))
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
) -> (Request<RequestBody>, Option<Arc<Progress>>) {
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
    // An HTTP/2 client cannot be told (hyper's server has no way to), unless it waits for a 100.
    if wire == Wire::Http1 && (side_door.is_some() || waits) {
        hear_forerunners(&mut request, side_door, waits);
    }
    (request, progress)
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
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
) -> Result<Answer, Failure> {
    let service = outgoing.service.clone();
    service.budget.deposit();
    let class = outgoing
        .request
        .as_ref()
        .map(|it| service.class(it.headers()))
        .unwrap_or_default();
    let mut tried: Vec<NodeId> = Vec::new();
    for tries in 1.. {
        let mut lease = service
            .pick(exchange.time_of_try(tries), class, &mut tried)
            .await?;
        exchange.tried(&lease, tries);
        let spare = outgoing.spare();
        let setback = match attempt(&service, &mut lease, outgoing).await {
            Ok(answered) => {
                exchange.note(|line| line.first_byte = Some(answered.latency));
                return Ok(Answer {
                    response: answered.response,
                    connection: answered.connection,
                    lease,
                });
            }
            Err(setback) => setback,
        };
        if setback.blames_node {
            client.worker().suspect(&service, &lease.upstream.endpoint);
            tried.push(lease.node().clone());
        }
        outgoing.request = outgoing.request.take().or(spare);
        // The time for an answer is over once a node was silent; another try would double the wait.
        let may_go_on = outgoing.request.is_some()
            && tries < service.policy.max_tries
            && !matches!(setback.failure, Failure::Silent);
        if !may_go_on || !service.may_retry() {
            return Err(setback.failure);
        }
    }
    unreachable!("the loop ends by returning")
}

impl Outgoing {
    /// A second copy of a request that may be sent twice even if a node has seen it.
    fn spare(&self) -> Option<Request<RequestBody>> {
        let request = self.request.as_ref()?;
        let replay = match self.progress {
            None => Replay::Whole,
            Some(_) => Replay::WhileUntouched,
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
}

/// An attempt that brought no answer.
struct Setback {
    failure: Failure,
    /// The failure speaks against the node, not merely against an old connection to it.
    blames_node: bool,
}

/// An attempt that brought one.
struct Answered {
    response: Response<Incoming>,
    connection: Connection,
    latency: Duration,
}

/// Sends the request once. If no byte of it was sent, it is back in `outgoing` afterwards.
async fn attempt(
    service: &Service,
    lease: &mut Lease,
    outgoing: &mut Outgoing,
) -> Result<Answered, Setback> {
    let dialled = match outgoing.wire {
        Wire::Http1 => lease.upstream.http1().await,
        Wire::Http2 => lease.upstream.http2().await,
    };
    let mut connection = dialled.map_err(|err| {
        service.metrics.dial_failures.increment(1);
        Setback {
            failure: Failure::Unreachable(err),
            blames_node: true,
        }
    })?;
    if !connection.is_reused() {
        lease.connected();
    }
    let request = outgoing
        .request
        .take()
        .expect("an attempt is made with a request at hand");
    let (timeout, progress) = (
        service.policy.response_head_timeout,
        outgoing.progress.as_deref(),
    );
    let sent = match &mut connection {
        Connection::Http1 { sender, .. } => {
            within(timeout, progress, sender.try_send_request(request)).await
        }
        Connection::Http2(stream) => {
            let mut sender = stream.sender();
            within(timeout, progress, sender.try_send_request(request)).await
        }
    };
    match sent {
        Some(Ok(response)) => Ok(Answered {
            response,
            connection,
            latency: lease.answered(),
        }),
        Some(Err(mut err)) => {
            outgoing.request = err.take_message();
            Err(Setback {
                // An old connection that closes unused is how nodes tidy up, not how they fail.
                blames_node: outgoing.request.is_none() || !connection.is_reused(),
                failure: Failure::Gone(err.into_error()),
            })
        }
        None => Err(Setback {
            failure: Failure::Silent,
            blames_node: false,
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

fn host_of(parts: &Parts) -> Option<http::HeaderValue> {
    match parts.uri.authority() {
        Some(authority) => http::HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(header::HOST).cloned(),
    }
}

fn line_of(parts: &Parts) -> Box<Line> {
    Box::new(Line {
        method: parts.method.clone(),
        host: host_of(parts),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// It is moved into its connection for every request; what is rare and large is boxed.
    #[test]
    fn an_exchange_is_small_enough_to_be_moved() {
        let size = size_of_future(exchange);
        assert!(size <= 2_048, "{size} bytes");
    }

    fn size_of_future<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }
}
