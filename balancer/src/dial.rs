//! Connections to a node: borrowed from those that idle, shared where HTTP/2 multiplexes, or newly dialled.
//!
//! Each core keeps its own, so that a request never leaves its core. A connection to a node that is leaving is closed from this
//! side as soon as its last exchange ends; that is what lets the node go without cutting anybody.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use balancer_core::endpoint::{Endpoint, Member};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use metrics::Counter;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::{forward::body::RequestBody, net, stream::NodeStream};

/// Streams on one HTTP/2 connection to a node before another is dialled; servers commonly allow 100 to 250.
const STREAMS_PER_CONNECTION: usize = 100;

/// How often an HTTP/2 connection to a node is asked whether it still lives, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("connecting: {0}")]
    Connect(#[from] io::Error),
    #[error("beginning http: {0}")]
    Handshake(#[from] hyper::Error),
}

/// The parts of a service's policy that matter here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DialPolicy {
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) idle_max: usize,
    pub(crate) head_bytes_max: usize,
}

/// One core's connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) endpoint: Arc<Endpoint>,
    policy: DialPolicy,
    made: Counter,
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Vec<Arc<Shared>>>,
    retired: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: AtomicUsize,
    idle_since: Mutex<Instant>,
}

/// A connection lent for one exchange.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1 {
        sender: http1::SendRequest<RequestBody>,
        /// It carried an exchange before: its end says nothing about the node's health.
        reused: bool,
    },
    Http2(Stream),
}

/// One stream's place on a shared connection.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Shared>);

impl Connection {
    pub(crate) fn is_reused(&self) -> bool {
        match self {
            Self::Http1 { reused, .. } => *reused,
            // A shared connection that fails before it takes the request was closed by the node some time ago.
            Self::Http2(_) => true,
        }
    }
}

impl Member for Upstream {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Upstream {
    pub(crate) fn new(endpoint: Arc<Endpoint>, policy: DialPolicy, made: Counter) -> Self {
        Self {
            endpoint,
            policy,
            made,
            idle: Mutex::default(),
            shared: Mutex::default(),
            retired: AtomicBool::new(false),
        }
    }

    /// The same life of the node under a new description keeps its connections.
    pub(crate) fn inherit(&self, old: &Upstream) {
        if self.endpoint.is_same_life(&old.endpoint) {
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

    /// # Errors
    /// When no connection idles and none can be made.
    pub(crate) async fn http1(&self) -> Result<Connection, DialError> {
        if let Some(sender) = self.take_idle() {
            return Ok(Connection::Http1 {
                sender,
                reused: true,
            });
        }
        // Boxed, as below: dialling is rare, and its future is larger than all the rest of an exchange.
        let sender = Box::pin(self.tunnel()).await?;
        Ok(Connection::Http1 {
            sender,
            reused: false,
        })
    }

    /// A connection that nobody used before: what is asked on it may turn it into a tunnel.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn tunnel(&self) -> Result<http1::SendRequest<RequestBody>, DialError> {
        let stream = self.connect().await?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(self.policy.head_bytes_max)
            .handshake(TokioIo::new(NodeStream(stream)))
            .await?;
        tokio::spawn(async move {
            if let Err(err) = connection.with_upgrades().await {
                tracing::debug!(%err, "connection to a node ended");
            }
        });
        Ok(sender)
    }

    /// # Errors
    /// When no shared connection has room and none can be made.
    pub(crate) async fn http2(&self) -> Result<Connection, DialError> {
        if let Some(stream) = self.join_shared() {
            return Ok(Connection::Http2(stream));
        }
        Box::pin(self.multiplexed()).await
    }

    async fn multiplexed(&self) -> Result<Connection, DialError> {
        let stream = self.connect().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 18)
            .initial_connection_window_size(1 << 20)
            .max_header_list_size(u32::try_from(self.policy.head_bytes_max).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(NodeStream(stream)))
            .await?;
        tokio::spawn(async move {
            if let Err(err) = connection.await {
                tracing::debug!(%err, "connection to a node ended");
            }
        });
        let shared = Arc::new(Shared {
            sender,
            streams: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
        });
        let stream = Stream::begin(&shared);
        if !self.is_retired() {
            lock(&self.shared).push(shared);
        }
        Ok(Connection::Http2(stream))
    }

    /// A bare connection, for bytes that are not HTTP.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn connect(&self) -> Result<TcpStream, DialError> {
        let stream = net::connect(self.endpoint.address, self.policy.connect_timeout).await?;
        self.made.increment(1);
        Ok(stream)
    }

    /// Takes back a connection whose exchange has ended cleanly.
    pub(crate) fn give_back(&self, connection: Connection) {
        let Connection::Http1 { sender, .. } = connection else {
            return;
        };
        let mut idle = lock(&self.idle);
        if !self.is_retired() && !sender.is_closed() && idle.len() < self.policy.idle_max {
            idle.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }

    /// Lets go of what has idled for too long or was closed by the node.
    pub(crate) fn sweep(&self, now: Instant) {
        let timeout = self.policy.idle_timeout;
        let is_fresh = |since: Instant| now.saturating_duration_since(since) < timeout;
        lock(&self.idle).retain(|it| !it.sender.is_closed() && is_fresh(it.since));
        lock(&self.shared).retain(|it| {
            let in_use = it.streams.load(Relaxed) > 0;
            !it.sender.is_closed() && (in_use || is_fresh(*lock(&it.idle_since)))
        });
    }

    /// The most recently used one first: the others may idle away when the load falls.
    fn take_idle(&self) -> Option<http1::SendRequest<RequestBody>> {
        let mut idle = lock(&self.idle);
        let at = loop {
            let newest_ready = idle
                .iter()
                .rposition(|it| it.sender.is_ready() || it.sender.is_closed())?;
            if idle[newest_ready].sender.is_ready() {
                break newest_ready;
            }
            idle.remove(newest_ready);
        };
        Some(idle.remove(at).sender)
    }

    fn join_shared(&self) -> Option<Stream> {
        let mut shared = lock(&self.shared);
        shared.retain(|it| !it.sender.is_closed());
        shared
            .iter()
            .find(|it| it.streams.load(Relaxed) < STREAMS_PER_CONNECTION)
            .map(Stream::begin)
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }
}

impl Stream {
    pub(crate) fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.0.sender.clone()
    }

    fn begin(shared: &Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Relaxed);
        Self(shared.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Relaxed) == 1 {
            *lock(&self.0.idle_since) = Instant::now();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
