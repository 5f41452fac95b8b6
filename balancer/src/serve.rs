//! Serves one client connection that speaks HTTP: one exchange after another on HTTP/1.1, many at a time on HTTP/2.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use balancer_core::message::{Limits, parse_request};
use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, server::SendResponse};

use self::metered::{Metered, Watch};
use crate::{
    accept::ClientConnection,
    forward::http::{After, exchange},
    lifeline::{HEAD_WHILE_DRAINING, Lifeline, Order, QUIET_WHILE_DRAINING},
    observe::Ended,
    rescue,
    side::{Http1, Http2, ReadError, Side, request_from_http2},
    stream::Stream,
};

mod metered;

/// Streams that one HTTP/2 client may have open at a time.
const CLIENT_STREAMS_MAX: u32 = 256;

/// What a client may send ahead of being read, for one stream and for all.
const STREAM_WINDOW: u32 = 1 << 16;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// What may wait in memory for a client that does not read, for each stream: a thousand streams of such clients are to cost tens of
/// megabytes, not hundreds.
const STREAM_BUFFER: usize = 16 << 10;

/// Heads of streams that the client has reset before they were looked at.
const RESET_BEFORE_ACCEPT_MAX: usize = 64;

/// Streams that the client made the balancer reset, which the `MadeYouReset` attack is about.
const LOCAL_RESETS_MAX: usize = 512;

/// After the last answer, what a client still sends is read for so long and so much: a close with unread bytes is a reset, which can
/// overtake the answer.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;

/// What streams that are cut have to say takes no longer.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Empty lines ahead of a request line that are skipped; RFC 9112 §2.2 asks for at least one.
const EMPTY_LINES_MAX: usize = 4;

pub(crate) async fn serve_http1(client: Arc<ClientConnection>, stream: Stream, first: BytesMut) {
    let lifeline = client.lifeline().clone();
    let policy = &client.listener().policy;
    let limits = Limits {
        bytes: policy.max_head_bytes,
        fields: policy.max_headers,
    };
    let mut side = Side::Http1(Http1::new(stream, first));
    let mut empty_lines = 0;
    let mut wear = Wear::new(&client);
    loop {
        let head = match next_head(&client, &lifeline, &mut side, limits).await {
            Next::Head(head) => head,
            Next::Over => return,
            Next::Bad(err) => return Box::pin(refuse(&client, &lifeline, side, err)).await,
        };
        if head[..] == b"\r\n"[..] && empty_lines < EMPTY_LINES_MAX {
            empty_lines += 1;
            continue;
        }
        empty_lines = 0;
        let request = match parse_request(&head, limits) {
            Ok(request) => request,
            Err(err) => return Box::pin(refuse(&client, &lifeline, side, err)).await,
        };
        drop(head);
        if wear.is_out_after_one_more(&lifeline) {
            // The answer says so, which is the polite way to end the connection.
            lifeline.give(Order::Drain);
        }
        if let Side::Http1(side) = &mut side {
            side.begin_body(request.framing);
        }
        // Boxed, as is all that most connections never do, so that a connection without an exchange is small.
        let after = Box::pin(exchange(&client, &lifeline, &mut side, request)).await;
        match after {
            After::Reuse => {}
            After::Close => return,
            After::Linger => return Box::pin(linger(&lifeline, side)).await,
            After::Tunnel(tunnel) => {
                if let Side::Http1(side) = side {
                    Box::pin(tunnel.run(side, &lifeline)).await;
                }
                return;
            }
        }
        if let Side::Http1(side) = &mut side {
            side.rest();
        }
    }
}

enum Next {
    Head(BytesMut),
    /// The client has gone, was idle for too long, or is to go.
    Over,
    Bad(balancer_core::message::BadHead),
}

async fn next_head(
    client: &ClientConnection,
    lifeline: &Lifeline,
    side: &mut Side,
    limits: Limits,
) -> Next {
    let policy = &client.listener().policy;
    let mut phase = Phase::Idle;
    lifeline.idle_within(policy.idle_timeout);
    let Side::Http1(side) = side else {
        return Next::Over;
    };
    let next = poll_fn(|cx| {
        lifeline.register(cx);
        match side.poll_head(cx, limits) {
            Poll::Ready(Ok(Some(head))) => return Poll::Ready(Next::Head(head)),
            Poll::Ready(Ok(None)) => return Poll::Ready(Next::Over),
            Poll::Ready(Err(ReadError::Head(err))) => return Poll::Ready(Next::Bad(err)),
            Poll::Ready(Err(_)) => return Poll::Ready(Next::Over),
            Poll::Pending => {}
        }
        if lifeline.is_cut() {
            return Poll::Ready(Next::Over);
        }
        if phase.turn(side.has_begun(), lifeline.is_draining()) {
            lifeline.within(phase.patience(policy));
        } else if lifeline.is_due() {
            if phase.is_in_head() {
                side.put(rescue::HEAD_TOO_SLOW);
                let _ = side.poll_flush(cx);
                client.listener().metrics.refused(Ended::ClientSlow);
            }
            return Poll::Ready(Next::Over);
        }
        Poll::Pending
    })
    .await;
    lifeline.until(None);
    next
}

/// How long a connection may go on, by its age and the requests it brings.
struct Wear {
    out_at_ms: Option<u64>,
    requests_left: Option<u32>,
}

impl Wear {
    fn new(client: &ClientConnection) -> Self {
        let policy = &client.listener().policy;
        // A tenth more or less: clients that came together are not sent away together.
        let worker = client.worker();
        let jittered = |age: Duration| age.mul_f64(0.9 + 0.2 * worker.with_rng(|rng| rng.f64()));
        let out_at = policy.connection_max_age.map(jittered);
        let requests = policy.max_requests_per_connection;
        Self {
            out_at_ms: out_at.map(|it| client.lifeline().clock().after(it)),
            requests_left: (requests > 0).then_some(requests),
        }
    }

    /// One request has come.
    fn count(&mut self) {
        if let Some(left) = &mut self.requests_left {
            *left = left.saturating_sub(1);
        }
    }

    fn is_out(&self, lifeline: &Lifeline) -> bool {
        let now = lifeline.clock().now_ms();
        self.requests_left == Some(0) || self.out_at_ms.is_some_and(|it| it <= now)
    }

    fn is_out_after_one_more(&mut self, lifeline: &Lifeline) -> bool {
        self.count();
        self.is_out(lifeline)
    }
}

/// What a connection without an exchange waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Quiet,
    Head,
    HeadWhileDraining,
}

impl Phase {
    /// Follows what has come and what was ordered; whether that changed anything is the result.
    fn turn(&mut self, has_begun: bool, is_draining: bool) -> bool {
        let phase = match (has_begun, is_draining) {
            (false, false) => Self::Idle,
            (false, true) => Self::Quiet,
            (true, false) => Self::Head,
            (true, true) => Self::HeadWhileDraining,
        };
        std::mem::replace(self, phase) != phase
    }

    fn is_in_head(self) -> bool {
        matches!(self, Self::Head | Self::HeadWhileDraining)
    }

    fn patience(self, policy: &crate::config::Listener) -> Duration {
        match self {
            Self::Idle => policy.idle_timeout,
            Self::Quiet => QUIET_WHILE_DRAINING,
            Self::Head => policy.request_head_timeout,
            Self::HeadWhileDraining => policy.request_head_timeout.min(HEAD_WHILE_DRAINING),
        }
    }
}

/// Says what is wrong with a head, and closes.
async fn refuse(
    client: &ClientConnection,
    lifeline: &Lifeline,
    mut side: Side,
    err: balancer_core::message::BadHead,
) {
    tracing::debug!(client = %client.address(), %err, "a request's head was refused");
    client.listener().metrics.refused(Ended::BadRequest);
    if let Side::Http1(side) = &mut side {
        rescue::bad_head(side, err);
    }
    linger(lifeline, side).await;
}

async fn linger(lifeline: &Lifeline, side: Side) {
    let Side::Http1(mut side) = side else {
        return;
    };
    let mut budget = LINGER_BYTES;
    let mut said_all = false;
    lifeline.within(LINGER_TIME);
    poll_fn(|cx| {
        lifeline.register(cx);
        if lifeline.is_cut() || lifeline.is_due() {
            return Poll::Ready(());
        }
        if !said_all {
            match side.poll_flush(cx) {
                Poll::Ready(Ok(())) => said_all = side.poll_end_writing(cx).is_ready(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        side.poll_discard(cx, &mut budget)
    })
    .await;
}

pub(crate) async fn serve_http2(client: Arc<ClientConnection>, stream: Stream, first: Bytes) {
    let policy = &client.listener().policy;
    let watch = Arc::new(Watch::default());
    let io = Metered::new(stream, first, client.lifeline().clone(), watch.clone());
    let shaken = h2::server::Builder::new()
        .max_concurrent_streams(CLIENT_STREAMS_MAX)
        .max_header_list_size(u32::try_from(policy.max_head_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPT_MAX)
        .max_send_buffer_size(STREAM_BUFFER)
        .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .enable_connect_protocol()
        .handshake(io);
    match tokio::time::timeout(policy.request_head_timeout, shaken).await {
        Ok(Ok(connection)) => {
            let mut served = Served {
                wear: Wear::new(&client),
                client,
                connection,
                watch,
                is_leaving: false,
                is_idle: false,
                idle_until_ms: None,
                is_ending: false,
            };
            poll_fn(|cx| served.poll(cx)).await;
        }
        Ok(Err(err)) => tracing::debug!(client = %client.address(), %err, "http/2 did not begin"),
        Err(_) => tracing::debug!(client = %client.address(), "http/2 did not begin in time"),
    }
}

/// A client's HTTP/2 connection.
struct Served {
    client: Arc<ClientConnection>,
    connection: h2::server::Connection<Metered, Bytes>,
    wear: Wear,
    watch: Arc<Watch>,
    /// A GOAWAY has been sent.
    is_leaving: bool,
    is_idle: bool,
    /// When a connection without streams has idled for long enough.
    idle_until_ms: Option<u64>,
    /// The drain deadline has come.
    is_ending: bool,
}

impl Served {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lifeline = self.client.lifeline().clone();
        lifeline.register(cx);
        if lifeline.is_cut() && self.is_cut(&lifeline) {
            return Poll::Ready(());
        }
        loop {
            let code = self.watch.flooded.swap(0, Relaxed);
            if code != 0 {
                self.client.listener().metrics.flooded.increment(1);
                self.connection.abrupt_shutdown(Reason::from(code));
                self.is_leaving = true;
            }
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.accept(request, respond);
                    self.wear.count();
                }
                Poll::Ready(Some(Err(err))) => {
                    tracing::debug!(client = %self.client.address(), %err, "connection ended");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if self.watch.flooded.load(Relaxed) != 0 => {}
                Poll::Pending => break,
            }
        }
        self.keep_time(cx, &lifeline);
        Poll::Pending
    }

    /// Streams that are cut say so in their own words, which takes a moment.
    fn is_cut(&mut self, lifeline: &Lifeline) -> bool {
        if !std::mem::replace(&mut self.is_ending, true) {
            lifeline.within(LAST_WORDS);
        }
        lifeline.is_due() || !self.connection.has_streams()
    }

    fn accept(&self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let client = self.client.clone();
        let tracker = client.worker().clone();
        tracker.connections.spawn(async move {
            let held = client.lifelines().hold();
            let (parts, recv) = request.into_parts();
            let is_whole = recv.is_end_stream();
            let Ok(head) = request_from_http2(&parts, is_whole) else {
                // Malformed (RFC 9113 §8.1.1): nobody can have meant it.
                client.listener().metrics.refused(Ended::BadRequest);
                return respond.send_reset(Reason::PROTOCOL_ERROR);
            };
            drop(parts);
            let mut side = Side::Http2(Http2::of_client(recv, respond));
            exchange(&client, &held.lifeline, &mut side, head).await;
        });
    }

    /// An idle connection is told to go when its time has come, one that is to drain at once; both finish what they have.
    fn keep_time(&mut self, cx: &mut Context<'_>, lifeline: &Lifeline) {
        if self.is_ending {
            return;
        }
        let policy = &self.client.listener().policy;
        let patience = (policy.request_head_timeout, policy.send_timeout);
        let stalls_at = self.watch.deadline_ms(patience.0, patience.1);
        let now_ms = lifeline.clock().now_ms();
        if stalls_at.is_some_and(|it| it <= now_ms) {
            // Whoever owes the rest of a head, or reads nothing, would not hear a farewell either.
            return lifeline.give(Order::Cut);
        }
        let was_idle = std::mem::replace(&mut self.is_idle, !self.connection.has_streams());
        if !self.is_idle {
            self.idle_until_ms = None;
        } else if !was_idle {
            self.idle_until_ms = Some(lifeline.clock().after(policy.idle_timeout));
        }
        // Said once, its age need not wake anybody again.
        let wears_at = self.wear.out_at_ms.filter(|_| !self.is_leaving);
        match self.idle_until_ms {
            Some(idle_until) => {
                lifeline.idle_until(stalls_at.into_iter().chain([idle_until]).min());
            }
            None => lifeline.until(stalls_at.into_iter().chain(wears_at).min()),
        }
        let is_idle_out = self.idle_until_ms.is_some_and(|it| it <= now_ms);
        let is_over = lifeline.is_draining() || is_idle_out || self.wear.is_out(lifeline);
        if is_over && !self.is_leaving {
            self.is_leaving = true;
            self.connection.graceful_shutdown();
            cx.waker().wake_by_ref();
        } else if self.is_leaving && was_idle && is_idle_out {
            // It was told to go and says nothing more: not even the last ping was answered.
            lifeline.give(Order::Cut);
        }
    }
}
