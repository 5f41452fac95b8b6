//! Connections to a node: borrowed from those that idle, shared where HTTP/2 multiplexes, or newly dialled.
//!
//! Each core keeps its own, so that a request never leaves its core. A connection to a node that is leaving is closed from this
//! side as soon as its last exchange ends; that is what lets the node go without cutting anybody.

mod multiplexed;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use balancer_core::{
    endpoint::{Endpoint, Member},
    message::{BadHead, Limits, Request, Response, parse_response, write_request},
};
use bytes::BytesMut;
use http::Method;
use metrics::Counter;
use thiserror::Error;
use tokio::io::AsyncWriteExt;

use self::multiplexed::{Place, Shared};
use crate::{
    net,
    side::{
        HeadError, Http1, Http2, ReadError, Side, framing_on_http1, request_to_http2,
        response_from_http2,
    },
    stream::Stream,
    tls::{Connector, Speak, TlsError},
};

#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("connecting: {0}")]
    Connect(#[from] io::Error),
    #[error("shaking hands in TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("beginning http/2: {0}")]
    Handshake(#[from] h2::Error),
}

/// Why a node did not answer a request that was sent to it.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the connection was closed without an answer")]
    Closed,
    #[error("its answer is not valid: {0}")]
    Head(#[from] BadHead),
    #[error("it switched protocols without being asked")]
    Unasked,
    #[error("http/2: {0}")]
    Http2(#[from] h2::Error),
}

/// The parts of a service's policy that matter here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DialPolicy {
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) idle_max: usize,
    pub(crate) head: Limits,
}

/// One core's connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) endpoint: Arc<Endpoint>,
    policy: DialPolicy,
    /// Of a service that is spoken to in TLS.
    tls: Option<Arc<Connector>>,
    made: Counter,
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Vec<Arc<Shared>>>,
    retired: AtomicBool,
    /// Held by whoever dials a connection to be shared, and how many of those dials failed.
    turn: tokio::sync::Mutex<()>,
    failures: AtomicU64,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    since: Instant,
}

/// A connection lent for one exchange, or a stream of one.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) side: Side,
    /// It carried an exchange before: its end says nothing about the node's health.
    is_reused: bool,
    /// The node said that it will close the connection after this answer.
    closes: bool,
    limits: Limits,
    method: Method,
    answer: Option<h2::client::ResponseFuture>,
    _place: Option<Place>,
}

impl Member for Upstream {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Upstream {
    pub(crate) fn new(
        endpoint: Arc<Endpoint>,
        policy: DialPolicy,
        tls: Option<Arc<Connector>>,
        made: Counter,
    ) -> Self {
        Self {
            endpoint,
            policy,
            tls,
            made,
            idle: Mutex::default(),
            shared: Mutex::default(),
            retired: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    /// The same life of the node under a new description keeps its connections, if it is spoken to as before.
    pub(crate) fn inherit(&self, old: &Upstream) {
        let is_spoken_to_alike = match (&self.tls, &old.tls) {
            (None, None) => true,
            (Some(tls), Some(before)) => Arc::ptr_eq(tls, before),
            _ => false,
        };
        if self.endpoint.is_same_life(&old.endpoint) && is_spoken_to_alike {
            *lock(&self.idle) = std::mem::take(&mut *lock(&old.idle));
            *lock(&self.shared) = std::mem::take(&mut *lock(&old.shared));
        }
    }

    /// No new work goes there: what idles is closed at once, what is lent is closed when it comes back.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
        lock(&self.idle).clear();
        lock(&self.shared).clear();
    }

    /// A connection that speaks HTTP/1.1, idle or new.
    ///
    /// # Errors
    /// When no connection idles and none can be made.
    pub(crate) async fn http1(&self) -> Result<Node, DialError> {
        if let Some(connection) = self.take_idle() {
            return Ok(self.node(connection, true));
        }
        // Boxed: dialling is rare, and its future is larger than all the rest of an exchange.
        Box::pin(self.fresh()).await
    }

    async fn fresh(&self) -> Result<Node, DialError> {
        let stream = self.connect(Speak::Http1, &[]).await?;
        Ok(self.node_on(stream))
    }

    /// A node that is spoken to on a connection of its own: what is asked on it may turn it into a tunnel.
    pub(crate) fn node_on(&self, stream: Stream) -> Node {
        self.node(Http1::new(stream, BytesMut::new()), false)
    }

    /// A place on a connection that speaks HTTP/2.
    ///
    /// # Errors
    /// When no shared connection has room and none can be made.
    pub(crate) async fn http2(&self) -> Result<Streams, DialError> {
        match self.join_shared() {
            Some(place) => Ok(Streams {
                place,
                is_reused: true,
            }),
            None => Box::pin(self.join_dial()).await,
        }
    }

    /// One dials and the others wait for it: a crowd that finds no connection must not make one each.
    async fn join_dial(&self) -> Result<Streams, DialError> {
        let failures_before = self.failures.load(Relaxed);
        let _turn = self.turn.lock().await;
        if let Some(place) = self.join_shared() {
            return Ok(Streams {
                place,
                is_reused: true,
            });
        }
        if self.failures.load(Relaxed) != failures_before {
            // Whoever went first has waited for nothing; to do the same once more would help nobody.
            return Err(DialError::Connect(io::ErrorKind::HostUnreachable.into()));
        }
        let dialled = self.multiplexed().await;
        if dialled.is_err() {
            self.failures.fetch_add(1, Relaxed);
        }
        dialled
    }

    async fn multiplexed(&self) -> Result<Streams, DialError> {
        let stream = self.connect(Speak::Http2, &[]).await?;
        let shared = multiplexed::open(stream, self.policy.head).await?;
        let place = Place::take(&shared);
        if !self.is_retired() {
            lock(&self.shared).push(shared);
        }
        Ok(Streams {
            place,
            is_reused: false,
        })
    }

    /// Whether the endpoint is spoken to in TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// A connection of its own. `header` is said first, before any TLS.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn connect(&self, speak: Speak, header: &[u8]) -> Result<Stream, DialError> {
        let address = self.endpoint.address;
        let mut socket = net::connect(address, self.policy.connect_timeout).await?;
        self.made.increment(1);
        if !header.is_empty() {
            // The kernel takes so few bytes at once.
            socket.write_all(header).await?;
        }
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(socket));
        };
        let secured = tls.connect(socket, address.ip(), speak).await?;
        Ok(Stream::ToNode(Box::new(secured)))
    }

    /// Takes back a connection whose exchange has ended cleanly.
    pub(crate) fn give_back(&self, node: Node) {
        let Side::Http1(mut connection) = node.side else {
            return;
        };
        if node.closes || !connection.is_quiet() {
            return;
        }
        connection.rest();
        let mut idle = lock(&self.idle);
        if !self.is_retired() && idle.len() < self.policy.idle_max {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Lets go of what has idled for too long or was closed by the node.
    pub(crate) fn sweep(&self, now: Instant) {
        let timeout = self.policy.idle_timeout;
        let is_fresh = |since: Instant| now.saturating_duration_since(since) < timeout;
        lock(&self.idle).retain_mut(|it| is_fresh(it.since) && it.connection.is_quiet());
        lock(&self.shared).retain(|it| it.is_worth_keeping(is_fresh));
    }

    fn node(&self, connection: Http1, is_reused: bool) -> Node {
        Node {
            side: Side::Http1(connection),
            is_reused,
            closes: false,
            limits: self.policy.head,
            method: Method::GET,
            answer: None,
            _place: None,
        }
    }

    /// The most recently used one first: the others may idle away when the load falls.
    fn take_idle(&self) -> Option<Http1> {
        let mut idle = lock(&self.idle);
        while let Some(mut newest) = idle.pop() {
            if newest.connection.is_quiet() {
                return Some(newest.connection);
            }
        }
        None
    }

    fn join_shared(&self) -> Option<Place> {
        let mut shared = lock(&self.shared);
        shared.retain(|it| !it.is_closed());
        shared.iter().find(|it| it.has_room()).map(Place::take)
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }
}

/// A shared connection on which one more stream may be opened.
#[derive(Debug)]
pub(crate) struct Streams {
    place: Place,
    pub(crate) is_reused: bool,
}

/// Why a request could not be put on a shared connection; no byte of it was sent.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Closed(#[from] h2::Error),
}

impl Streams {
    /// Opens a stream with the request's head.
    ///
    /// # Errors
    /// When the head cannot be written in HTTP/2, or the connection takes no more streams.
    pub(crate) async fn ask(
        self,
        head: &Request,
        is_https: bool,
        is_whole: bool,
    ) -> Result<Node, OpenError> {
        let request = request_to_http2(head, is_https)?;
        let mut sender = self.place.sender().ready().await?;
        let (answer, send) = sender.send_request(request, is_whole)?;
        Ok(Node {
            side: Side::Http2(Http2::of_node((!is_whole).then_some(send))),
            is_reused: self.is_reused,
            closes: false,
            limits: Limits::default(),
            method: head.method.clone(),
            answer: Some(answer),
            _place: Some(self.place),
        })
    }
}

impl Node {
    pub(crate) fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// The connection itself, where it belongs to one exchange alone.
    pub(crate) fn into_http1(self) -> Option<Http1> {
        match self.side {
            Side::Http1(side) => Some(side),
            Side::Http2(_) => None,
        }
    }

    /// Puts a request's head on its way, on HTTP/1.1.
    pub(crate) fn ask(&mut self, head: &Request) {
        if let Side::Http1(side) = &mut self.side {
            let framing = framing_on_http1(head.framing, &head.fields);
            side.send_head(framing, |out| write_request(out, head, framing));
            self.method = head.method.clone();
        }
    }

    /// Reads the next head of the answer: an informational one, or the one whose body then follows.
    pub(crate) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        upgrades: bool,
    ) -> Poll<Result<Response, AskError>> {
        match &mut self.side {
            Side::Http1(side) => {
                let head = match ready!(side.poll_head(cx, self.limits)) {
                    Ok(Some(head)) => head,
                    Ok(None) => return Poll::Ready(Err(AskError::Closed)),
                    Err(err) => return Poll::Ready(Err(err.into())),
                };
                Poll::Ready(self.read_head(&head, upgrades))
            }
            Side::Http2(_) => self.poll_answer_http2(cx),
        }
    }

    fn read_head(&mut self, head: &[u8], upgrades: bool) -> Result<Response, AskError> {
        let response = parse_response(head, self.limits, &self.method)?;
        let Side::Http1(side) = &mut self.side else {
            return Ok(response);
        };
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            if !upgrades {
                return Err(AskError::Unasked);
            }
            side.begin_body(balancer_core::message::Framing::UntilClose);
        } else if !response.status.is_informational() {
            self.closes = closes(&response);
            side.begin_body(response.framing);
        }
        Ok(response)
    }

    fn poll_answer_http2(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, AskError>> {
        let answer = self.answer.as_mut().ok_or(AskError::Closed)?;
        if let Poll::Ready(Some(early)) = answer.poll_informational(cx) {
            let (parts, ()) = early?.into_parts();
            return Poll::Ready(Ok(response_from_http2(&parts, true)));
        }
        let (parts, recv) = ready!(std::pin::Pin::new(answer).poll(cx))?.into_parts();
        self.answer = None;
        let response = response_from_http2(&parts, recv.is_end_stream());
        if let Side::Http2(side) = &mut self.side {
            side.begin_body(recv);
        }
        Poll::Ready(Ok(response))
    }
}

/// Whether the node will close the connection after this answer (RFC 9112 §9.3).
fn closes(response: &Response) -> bool {
    use balancer_core::message::{Framing, Known};
    let fields = &response.fields;
    let keeps = response.version == http::Version::HTTP_11
        || fields.has_token(Known::Connection, "keep-alive");
    !keeps
        || fields.has_token(Known::Connection, "close")
        || response.framing == Framing::UntilClose
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
