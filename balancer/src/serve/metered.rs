//! A client's HTTP/2 stream of bytes, with somebody counting what floods it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use balancer_core::flood::FloodMeter;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    lifeline::Lifeline,
    stream::{Replayed, Stream},
};

/// RFC 9113 §7.
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

pub(super) struct Metered {
    stream: Replayed<Stream>,
    meter: FloodMeter,
    lifeline: Arc<Lifeline>,
    /// Tells the connection's task to end it with this code; nothing more is read until it does.
    watch: Arc<Watch>,
    is_shut: bool,
}

/// What the connection's task cannot see of the bytes that pass below the library.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The code with which the connection is to be ended, once it is flooded.
    pub(super) flooded: AtomicU32,
    /// Since when, on the core's clock in milliseconds, the client owes the rest of a head, and takes nothing of what is sent to it; 0
    /// while it does not.
    head_since_ms: AtomicU64,
    stuck_since_ms: AtomicU64,
}

impl Watch {
    /// By when the client must have gone on.
    pub(super) fn deadline_ms(&self, head: Duration, send: Duration) -> Option<u64> {
        let after = |since: &AtomicU64, patience: Duration| match since.load(Relaxed) {
            0 => None,
            since => Some(since.saturating_add(patience.as_millis() as u64)),
        };
        let head = after(&self.head_since_ms, head);
        let send = after(&self.stuck_since_ms, send);
        head.into_iter().chain(send).min()
    }
}

/// The moment is remembered from its first mention on.
fn mark(since: &AtomicU64, is_so: bool, now_ms: u64) {
    if !is_so {
        since.store(0, Relaxed);
    } else if since.load(Relaxed) == 0 {
        since.store(now_ms.max(1), Relaxed);
    }
}

impl Metered {
    pub(super) fn new(
        stream: Stream,
        first: Bytes,
        lifeline: Arc<Lifeline>,
        watch: Arc<Watch>,
    ) -> Self {
        Self {
            stream: Replayed::new(first, stream),
            meter: FloodMeter::default(),
            lifeline,
            watch,
            is_shut: false,
        }
    }

    /// The library's last word, with the code that is due.
    fn poll_write_corrected(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
        at: usize,
        code: u32,
    ) -> Poll<io::Result<usize>> {
        let mut corrected = buf.to_vec();
        corrected[at..at + 4].copy_from_slice(&code.to_be_bytes());
        Pin::new(&mut self.stream).poll_write(cx, &corrected)
    }

    /// A write that has to wait is the client's doing: it does not read.
    fn seen<T>(&self, written: Poll<T>) -> Poll<T> {
        let now_ms = self.lifeline.clock().now_ms();
        mark(&self.watch.stuck_since_ms, written.is_pending(), now_ms);
        written
    }

    fn shut(&mut self, flood: balancer_core::flood::Flood) {
        tracing::debug!(%flood, "an http/2 client floods its connection");
        self.is_shut = true;
        self.watch.flooded.store(
            if flood.is_protocol_error() {
                PROTOCOL_ERROR
            } else {
                ENHANCE_YOUR_CALM
            },
            Relaxed,
        );
        self.lifeline.wake();
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_shut {
            return Poll::Pending;
        }
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let now_ms = this.lifeline.clock().now_ms();
        if let Err(flood) = this.meter.received(&buf.filled()[before..], now_ms) {
            buf.set_filled(before);
            this.shut(flood);
            return Poll::Pending;
        }
        let is_in_head = this.meter.is_in_head();
        mark(&this.watch.head_since_ms, is_in_head, now_ms);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some((at, code)) = self.meter.better_code(buf) {
            return self.poll_write_corrected(cx, buf, at, code);
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        let written = ready!(self.seen(polled))?;
        if let Err(flood) = self.meter.sent(&buf[..written])
            && !self.is_shut
        {
            self.shut(flood);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let is_corrected = |buf: &IoSlice<'_>| self.meter.better_code(buf).is_some();
        if let Some(at) = bufs.iter().position(is_corrected) {
            // What comes before it goes first; then it is written alone.
            return if bufs[..at].iter().all(|it| it.is_empty()) {
                self.poll_write(cx, &bufs[at])
            } else {
                self.poll_write_vectored(cx, &bufs[..at])
            };
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        let written = ready!(self.seen(polled))?;
        let mut left = written;
        for buf in bufs {
            let seen = left.min(buf.len());
            left -= seen;
            if let Err(flood) = self.meter.sent(&buf[..seen])
                && !self.is_shut
            {
                self.shut(flood);
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
