//! HTTP/2 connections to a node that many exchanges share.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use balancer_core::message::Limits;
use bytes::Bytes;
use h2::{Ping, PingPong, client};

use super::{DialError, lock};
use crate::stream::Stream;

/// Streams on one connection before another is dialled; servers commonly allow 100 to 250.
const STREAMS_MAX: usize = 100;

/// How often a connection is asked whether it still lives, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node may send ahead of being read, for one stream and for all.
const STREAM_WINDOW: u32 = 1 << 18;
const CONNECTION_WINDOW: u32 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Shared {
    sender: client::SendRequest<Bytes>,
    /// Set by the task that drives the connection, which holds nothing else of this: the connection ends with its last sender.
    closed: Arc<AtomicBool>,
    streams: AtomicUsize,
    idle_since: Mutex<Instant>,
}

/// One stream's place on a shared connection.
#[derive(Debug)]
pub(crate) struct Place(Arc<Shared>);

/// Begins HTTP/2 on a new connection and drives it from a task of its own.
pub(super) async fn open(stream: Stream, head: Limits) -> Result<Arc<Shared>, DialError> {
    let (sender, mut connection) = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(head.bytes).unwrap_or(u32::MAX))
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await?;
    let pings = connection.ping_pong();
    let closed = Arc::new(AtomicBool::new(false));
    let shared = Arc::new(Shared {
        sender,
        closed: closed.clone(),
        streams: AtomicUsize::new(0),
        idle_since: Mutex::new(Instant::now()),
    });
    tokio::spawn(async move {
        tokio::select! {
            ended = connection => if let Err(err) = ended {
                tracing::debug!(%err, "connection to a node ended");
            },
            () = silence(pings) => tracing::debug!("a node does not answer pings"),
        }
        closed.store(true, Relaxed);
    });
    Ok(shared)
}

/// Ends when the other side does not answer in time.
async fn silence(pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(PING_INTERVAL);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let sent = pings.send_ping(Ping::opaque());
        let answered = tokio::time::timeout(PING_TIMEOUT, poll_fn(|cx| pings.poll_pong(cx)));
        if sent.is_err() || !matches!(answered.await, Ok(Ok(_))) {
            return;
        }
    }
}

impl Shared {
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.streams.load(Relaxed) < STREAMS_MAX.min(self.sender.current_max_send_streams())
    }

    pub(super) fn is_worth_keeping(&self, is_fresh: impl Fn(Instant) -> bool) -> bool {
        let in_use = self.streams.load(Relaxed) > 0;
        !self.is_closed() && (in_use || is_fresh(*lock(&self.idle_since)))
    }
}

impl Place {
    pub(super) fn take(shared: &Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Relaxed);
        Self(shared.clone())
    }

    pub(super) fn sender(&self) -> client::SendRequest<Bytes> {
        self.0.sender.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Relaxed) == 1 {
            *lock(&self.0.idle_since) = Instant::now();
        }
    }
}
