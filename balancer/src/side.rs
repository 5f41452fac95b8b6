//! One side of an exchange, client's or node's: where its message is read from and the other's is written to.
//!
//! The two versions of HTTP differ in how bytes are framed and lent; above this file nobody needs to know which one is spoken.

mod heads;
mod http1;
mod http2;

use std::{
    io,
    task::{Context, Poll, ready},
};

use balancer_core::{forwarded, message::Fields};
use bytes::Bytes;
use thiserror::Error;

pub(crate) use self::{
    heads::{
        HeadError, framing_on_http1, request_from_http2, request_to_http2, response_from_http2,
        response_to_http2,
    },
    http1::{Http1, ReadError},
    http2::Http2,
};

/// Boxed where it is large: a connection lives long and mostly idles.
#[derive(Debug)]
pub(crate) enum Side {
    Http1(Http1),
    Http2(Http2),
}

/// Why a body cannot be passed on.
#[derive(Debug, Error)]
pub(crate) enum SideError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("writing: {0}")]
    Write(#[from] io::Error),
    #[error("http/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("the stream was closed by the other side")]
    StreamClosed,
}

impl Side {
    /// How many bytes of the body are at hand; 0 when it is over.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, SideError>> {
        match self {
            Self::Http1(it) => it.poll_data(cx).map_err(SideError::from),
            Self::Http2(it) => it.poll_data(cx),
        }
    }

    pub(crate) fn is_body_over(&self) -> bool {
        match self {
            Self::Http1(it) => it.is_body_over(),
            Self::Http2(it) => it.is_body_over(),
        }
    }

    /// The trailers of a body that is over.
    pub(crate) fn trailers(&mut self) -> Result<Option<Fields>, SideError> {
        let mut trailers = match self {
            Self::Http1(it) => it.trailers()?,
            Self::Http2(it) => it.trailers(),
        };
        if let Some(fields) = &mut trailers {
            forwarded::trailers(fields);
        }
        Ok(trailers.filter(|it| !it.is_empty()))
    }

    /// Ends the body that is written; `false` if the other side was promised more than it got.
    pub(crate) fn finish(&mut self, trailers: Option<&Fields>) -> Result<bool, SideError> {
        match self {
            Self::Http1(it) => Ok(it.finish(trailers)),
            Self::Http2(it) => it.finish(trailers).map(|()| true),
        }
    }

    /// Sends bytes that the other side does not hold any more; returns how many were taken.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, SideError>> {
        match self {
            Self::Http1(it) => it.poll_send(cx, data).map_err(SideError::from),
            Self::Http2(it) => {
                let n = ready!(it.poll_room(cx, data.len()))?;
                it.send(Bytes::copy_from_slice(&data[..n]), false)?;
                Poll::Ready(Ok(n))
            }
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SideError>> {
        match self {
            Self::Http1(it) => it.poll_flush(cx).map_err(SideError::from),
            // The connection's own task writes.
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether bytes wait for the other side to read.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Http1(it) => it.is_flushed(),
            Self::Http2(_) => true,
        }
    }

    /// Resolves when the other side has gone away.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(it) => it.poll_gone(cx),
            Self::Http2(it) => it.poll_gone(cx),
        }
    }

    /// No further byte of the tunnel will be written.
    pub(crate) fn poll_end_writing(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SideError>> {
        match self {
            Self::Http1(it) => it.poll_end_writing(cx).map(Ok),
            Self::Http2(it) => Poll::Ready(it.finish(None)),
        }
    }

    /// Keeps no memory while nothing passes.
    pub(crate) fn rest(&mut self) {
        if let Self::Http1(it) = self {
            it.rest_buffers();
        }
    }

    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Self::Http1(it) => it.data(),
            Self::Http2(it) => it.data(),
        }
    }

    pub(crate) fn consume(&mut self, n: usize) {
        match self {
            Self::Http1(it) => it.consume(n),
            Self::Http2(it) => it.consume(n),
        }
    }

    fn take(&mut self, n: usize) -> Bytes {
        match self {
            Self::Http1(it) => it.take(n),
            Self::Http2(it) => it.take(n),
        }
    }
}

/// Passes on some of what is at hand, without copying it where the two sides allow it; `see` looks at what went.
pub(crate) fn poll_pass(
    cx: &mut Context<'_>,
    from: &mut Side,
    to: &mut Side,
    see: impl FnOnce(&[u8]),
) -> Poll<Result<usize, SideError>> {
    match to {
        Side::Http1(to) => {
            let n = ready!(to.poll_send(cx, from.data()))?;
            see(&from.data()[..n]);
            from.consume(n);
            Poll::Ready(Ok(n))
        }
        Side::Http2(to) => {
            let n = ready!(to.poll_room(cx, from.data().len()))?;
            let bytes = from.take(n);
            see(&bytes);
            let is_last = from.is_known_to_end();
            to.send(bytes, is_last)?;
            Poll::Ready(Ok(n))
        }
    }
}

impl Side {
    /// Whether the body is over and no trailers can follow, so that its last bytes can say so.
    fn is_known_to_end(&self) -> bool {
        match self {
            Self::Http1(it) => it.is_framed_body_over(),
            Self::Http2(it) => it.is_known_to_end(),
        }
    }
}
