//! Accepts connections and drives HTTP/1.1 or HTTP/2 over each, from its first byte to its polite or abrupt end.

use std::{
    fmt::Display,
    future::poll_fn,
    io::Cursor,
    num::NonZeroUsize,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use metrics::Gauge;
use node_core::{
    client::Trusted,
    pace::{Limits, Pace, Wait},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, join},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Sleep, sleep, sleep_until, timeout},
};
use tower::util::BoxCloneSyncService;

use crate::{
    config,
    net::{Listener, PeerAddr},
    observe::{Metrics, ServiceMetrics},
    register::{Phase, now, reached},
    service::web::Web,
};

mod exchange;
mod paced;
mod preface;

pub(crate) use exchange::Client;
use exchange::{Answering, Exchanges, answering};
use paced::{Paced, SharedPace};
use preface::{Opened, Protocol};

/// An idle connection is kept longer than any balancer keeps it, so that it is the balancer who closes it.
const IDLE: Duration = Duration::from_secs(300);

/// The largest head of a request, in bytes: what the field's servers take, several times over.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Streams at once on one HTTP/2 connection; a client that wants more waits for one to end (RFC 9113 §5.1.2).
const STREAMS_MAX: u32 = 256;

/// How long an HTTP/2 peer may be silent before it is asked whether it lives, and then to answer. A peer that hangs does not
/// answer to a goodbye either, so this is also how long one can hold up a node that leaves.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Between two tries to accept, after the system had no file descriptor left or the like.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Connections of those who run the node: a scraper, a probe, a person.
const ADMIN_CONNECTIONS_MAX: usize = 64;

const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// One listening socket and what answers behind it.
pub(crate) struct Front {
    listener: Listener,
    permits: Arc<Semaphore>,
    count: watch::Sender<usize>,
    shared: Arc<Shared>,
}

/// What every connection of a front needs.
struct Shared {
    answering: Answering,
    metrics: Arc<ServiceMetrics>,
    connections: Gauge,
    phase: watch::Receiver<Phase>,
    way_out: WayOut,
    trusted: Trusted,
    proxy_protocol: bool,
    limits: Limits,
}

/// From which phase on a front asks its clients to go, and closes what carries nothing.
#[derive(Clone, Copy)]
struct WayOut {
    drain: Phase,
    close: Phase,
}

impl Front {
    pub(crate) fn web(
        listener: Listener,
        web: Web,
        config: &config::Web,
        metrics: &Metrics,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let shared = Shared {
            answering: answering(Arc::new(web)),
            metrics: metrics.web.clone(),
            connections: metrics.active_connections.clone(),
            phase,
            way_out: WayOut {
                drain: Phase::Draining,
                close: Phase::Closing,
            },
            trusted: config.trusted.clone(),
            proxy_protocol: config.proxy_protocol,
            limits: Limits {
                head: config.request_head_timeout,
                idle: IDLE,
            },
        };
        Self::new(listener, shared, config.max_connections)
    }

    /// The admin address answers until the node is gone.
    pub(crate) fn admin(
        listener: Listener,
        router: Router,
        metrics: &Metrics,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let shared = Shared {
            answering: BoxCloneSyncService::new(router),
            metrics: metrics.admin.clone(),
            connections: Gauge::noop(),
            phase,
            way_out: WayOut {
                drain: Phase::Gone,
                close: Phase::Gone,
            },
            trusted: Trusted::default(),
            proxy_protocol: false,
            limits: Limits {
                head: ADMIN_HEAD_TIMEOUT,
                idle: IDLE,
            },
        };
        let max = NonZeroUsize::new(ADMIN_CONNECTIONS_MAX).expect("the limit is not zero");
        Self::new(listener, shared, max)
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Serves until the node is gone; connections that are open then are cut.
    pub(crate) async fn run(self) {
        let mut tasks = JoinSet::new();
        let mut phase = self.shared.phase.clone();
        let close = self.shared.way_out.close;
        loop {
            tokio::select! {
                // Connections that wait in the system's queue are taken before the socket is closed over them.
                biased;
                Some(_) = tasks.join_next() => {}
                accepted = self.accept() => {
                    tasks.spawn(connection(self.shared.clone(), accepted));
                }
                () = reached(&mut phase, close) => break,
            }
        }
        drop(self.listener);
        let all = async { while tasks.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = reached(&mut phase, Phase::Gone) => {}
        }
    }

    fn new(listener: Listener, shared: Shared, connections_max: NonZeroUsize) -> Self {
        let max = connections_max.get().min(Semaphore::MAX_PERMITS);
        Self {
            listener,
            permits: Arc::new(Semaphore::new(max)),
            count: watch::Sender::new(0),
            shared: Arc::new(shared),
        }
    }

    async fn accept(&self) -> Accepted {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let counted = Counted::new(self.count.clone(), self.shared.connections.clone());
                    return Accepted {
                        stream,
                        peer,
                        _permit: permit,
                        _counted: counted,
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

/// A connection that is let in; it counts as open until this is dropped.
struct Accepted {
    stream: TcpStream,
    peer: PeerAddr,
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

struct Counted {
    count: watch::Sender<usize>,
    gauge: Gauge,
}

impl Counted {
    fn new(count: watch::Sender<usize>, gauge: Gauge) -> Self {
        count.send_modify(|count| *count += 1);
        gauge.increment(1.0);
        Self { count, gauge }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
        self.gauge.decrement(1.0);
    }
}

async fn connection(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted {
        stream,
        peer,
        _permit,
        _counted,
    } = accepted;
    let Some(opened) = opened(&shared, stream, peer).await else {
        return;
    };
    match opened.protocol {
        Protocol::Http1 => http1(&shared, opened).await,
        Protocol::Http2 => http2(&shared, opened).await,
    }
}

/// Waits for the first bytes, unless nothing comes in time or before the front closes.
async fn opened(shared: &Shared, stream: TcpStream, peer: PeerAddr) -> Option<Opened> {
    let is_proxied = shared.proxy_protocol && shared.trusted.contains(peer.0.ip());
    let opening = timeout(shared.limits.head, preface::open(stream, peer, is_proxied));
    let mut phase = shared.phase.clone();
    tokio::select! {
        biased;
        opened = opening => match opened {
            Ok(Ok(opened)) => Some(opened),
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %peer.0, "no request came");
                None
            }
            Err(_) => None,
        },
        () = reached(&mut phase, shared.way_out.close) => None,
    }
}

async fn http1(shared: &Arc<Shared>, opened: Opened) {
    let pace = SharedPace::new(Pace::amid_head(shared.limits, now()));
    let exchanges = Exchanges::new(shared, opened.peer, &pace);
    let (read, write) = opened.stream.into_split();
    let io = with_first(opened.bytes, Paced::new(read, pace.clone()), write);
    // Hyper's own clock for a head runs between requests too, and would close a balancer's idle connections.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(
            io,
            service_fn(move |request| exchanges.clone().answer(request)),
        );
    drive(connection, &pace, shared, shared.way_out.close).await;
}

async fn http2(shared: &Arc<Shared>, opened: Opened) {
    let pace = SharedPace::new(Pace::idle(shared.limits, now()));
    let exchanges = Exchanges::new(shared, opened.peer, &pace);
    let (read, write) = opened.stream.into_split();
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .serve_connection(
            with_first(opened.bytes, read, write),
            service_fn(move |request| exchanges.clone().answer(request)),
        );
    // GOAWAY loses no request: it names the last stream that is taken (RFC 9113 §6.8).
    drive(connection, &pace, shared, shared.way_out.drain).await;
}

/// A connection whose first bytes were read already.
fn with_first<R, W>(first: Bytes, read: R, write: W) -> TokioIo<impl AsyncRead + AsyncWrite>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite,
{
    TokioIo::new(join(Cursor::new(first).chain(read), write))
}

/// Polls a connection to its end, and ends it when it waits too long or the node goes.
async fn drive<C>(connection: C, pace: &SharedPace, shared: &Shared, go_from: Phase)
where
    C: GracefulConnection,
    C::Error: Display,
{
    let mut connection = pin!(connection);
    let mut due = pin!(sleep_until(now().into()));
    let mut phase = shared.phase.clone();
    let mut is_going = false;
    loop {
        tokio::select! {
            turn = poll_fn(|cx| turn(connection.as_mut(), pace, due.as_mut(), cx)) => match turn {
                Turn::Over(result) => return log_end(result),
                Turn::HeadOverdue => return,
                Turn::IdleOverdue if is_going => return,
                Turn::IdleOverdue => {}
            },
            () = reached(&mut phase, go_from), if !is_going => {}
        }
        connection.as_mut().graceful_shutdown();
        is_going = true;
    }
}

/// What ends the life of a connection, or begins its end.
enum Turn<E> {
    Over(Result<(), E>),
    HeadOverdue,
    IdleOverdue,
}

/// Polls a connection, then looks at its pace, which the polling may have changed.
fn turn<C: GracefulConnection>(
    connection: Pin<&mut C>,
    pace: &SharedPace,
    mut due: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<Turn<C::Error>> {
    if let Poll::Ready(result) = connection.poll(cx) {
        return Poll::Ready(Turn::Over(result));
    }
    loop {
        match pace.wait(now()) {
            Wait::Exchanging => return Poll::Pending,
            Wait::HeadOverdue => return Poll::Ready(Turn::HeadOverdue),
            Wait::IdleOverdue => return Poll::Ready(Turn::IdleOverdue),
            Wait::Until(at) => due.as_mut().reset(at.into()),
        }
        ready!(due.as_mut().poll(cx));
    }
}

/// A connection that ends badly is the peer's affair, and common.
fn log_end(result: Result<(), impl Display>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}
