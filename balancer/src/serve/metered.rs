//! A client's HTTP/2 stream of bytes, with somebody counting what floods it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use balancer_core::flood::FloodMeter;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    lifeline::Lifeline,
    stream::{Replayed, Stream},
};

pub(super) struct Metered {
    stream: Replayed<Stream>,
    meter: FloodMeter,
    lifeline: Arc<Lifeline>,
    /// Tells the connection's task to end it; nothing more is read until it does.
    flooded: Arc<AtomicBool>,
    is_shut: bool,
}

impl Metered {
    pub(super) fn new(
        stream: Stream,
        first: Bytes,
        lifeline: Arc<Lifeline>,
        flooded: Arc<AtomicBool>,
    ) -> Self {
        Self {
            stream: Replayed::new(first, stream),
            meter: FloodMeter::default(),
            lifeline,
            flooded,
            is_shut: false,
        }
    }

    fn shut(&mut self, flood: balancer_core::flood::Flood) {
        tracing::debug!(%flood, "an http/2 client floods its connection");
        self.is_shut = true;
        self.flooded.store(true, Relaxed);
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
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
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
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
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
