//! One HTTP/1.1 connection, to a client or to a node: heads and bodies in, heads and bodies out, and no buffer while it is idle.
//!
//! Bytes are read by way of one buffer per core while heads are awaited, and straight into the connection's own while a body streams.
//! What is written waits in an outbox until the exchange has nothing more to say at once, so that a head and a short body leave with
//! one system call.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use balancer_core::message::{
    BadHead, Chunked, ChunkedError, Fields, Framing, HeadEnd, Limits, Step, head_end,
    push_chunk_head, push_field,
};
use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// Heads, and the beginnings of bodies behind them, are read in pieces of at most this.
const SCRATCH_BYTES: usize = 16 << 10;

/// A body that comes fast is read in pieces that grow up to this; nginx and HAProxy differ in CPU for a large body mostly by this.
const BODY_READ_MIN: usize = 16 << 10;
const BODY_READ_MAX: usize = 256 << 10;

/// Full reads in a row after which a body comes fast: whose reader has stopped has not come so far.
const FULL_READS_MIN: u8 = 4;

/// What may wait in the outbox before its reader has to take some.
const OUTBOX_BYTES: usize = 32 << 10;

/// Data up to this size is put behind what waits in the outbox rather than written with a system call of its own.
const GATHERED_BYTES: usize = 8 << 10;

/// What a client may send ahead of the answer to its request before it has to wait for it.
const AHEAD_BYTES: usize = 16 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

#[derive(Debug)]
pub(crate) struct Http1 {
    stream: Stream,
    /// Read and not used yet.
    inbox: BytesMut,
    /// Of the inbox, what belongs to the body under way and can be passed on.
    ready: usize,
    /// Of the inbox, what was looked at in search of a head's end.
    seen: usize,
    body_in: BodyIn,
    body_out: BodyOut,
    outbox: BytesMut,
    read_size: u32,
    full_reads: u8,
    at_end: bool,
}

/// What is still to come of the body that is read.
#[derive(Debug)]
enum BodyIn {
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
}

/// What is still to be sent of the body that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyOut {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Why nothing more can be read from a connection.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("reading: {0}")]
    Io(#[from] io::Error),
    #[error("the connection was closed in the middle of a message")]
    Closed,
    #[error(transparent)]
    Head(#[from] BadHead),
    #[error(transparent)]
    Chunks(#[from] ChunkedError),
}

impl Http1 {
    /// `first` was read from the stream already.
    pub(crate) fn new(stream: Stream, first: BytesMut) -> Self {
        Self {
            stream,
            inbox: first,
            ready: 0,
            seen: 0,
            body_in: BodyIn::Length(0),
            body_out: BodyOut::Length(0),
            outbox: BytesMut::new(),
            read_size: BODY_READ_MIN as u32,
            full_reads: 0,
            at_end: false,
        }
    }

    pub(crate) fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// What was read from the stream and not used.
    pub(crate) fn read_ahead(&self) -> &[u8] {
        &self.inbox
    }

    /// Bytes that go out before anything else.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
    }

    /// Whether a message has begun to come.
    pub(crate) fn has_begun(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Reads until a whole head is there; nothing if the connection ends before one begins.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        limits: Limits,
    ) -> Poll<Result<Option<BytesMut>, ReadError>> {
        loop {
            if !self.inbox.is_empty() {
                match head_end(&self.inbox, self.seen, limits)? {
                    HeadEnd::At(end) => {
                        self.seen = 0;
                        return Poll::Ready(Ok(Some(self.inbox.split_to(end))));
                    }
                    HeadEnd::NotYet(seen) => self.seen = seen,
                }
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(if self.inbox.is_empty() {
                    Ok(None)
                } else {
                    Err(ReadError::Closed)
                });
            }
        }
    }

    /// The body that follows the head read last.
    pub(crate) fn begin_body(&mut self, framing: Framing) {
        self.ready = 0;
        (self.read_size, self.full_reads) = (BODY_READ_MIN as u32, 0);
        self.body_in = match framing {
            Framing::Empty | Framing::Stream => BodyIn::Length(0),
            Framing::Length(length) => BodyIn::Length(length),
            Framing::Chunked => BodyIn::Chunked(Box::default()),
            Framing::UntilClose => BodyIn::UntilClose,
        };
    }

    /// From here on bytes are bytes, until either side closes.
    pub(crate) fn becomes_tunnel(&mut self) {
        self.begin_body(Framing::UntilClose);
        self.body_out = BodyOut::UntilClose;
    }

    /// How many bytes of the body are at hand; 0 when it is over.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ReadError>> {
        loop {
            if self.ready > 0 || self.find_data()? {
                return Poll::Ready(Ok(self.ready));
            }
            if self.at_end {
                return Poll::Ready(match self.body_in {
                    BodyIn::UntilClose => Ok(0),
                    _ => Err(ReadError::Closed),
                });
            }
            ready!(self.poll_fill_body(cx))?;
        }
    }

    /// Whether the whole body was read and passed on.
    pub(crate) fn is_body_over(&self) -> bool {
        self.ready == 0
            && match &self.body_in {
                BodyIn::Length(left) => *left == 0,
                BodyIn::Chunked(chunked) => chunked.is_done(),
                BodyIn::UntilClose => self.at_end,
            }
    }

    /// Whether the body's own length says that it is over; no trailers can follow one.
    pub(super) fn is_framed_body_over(&self) -> bool {
        matches!(self.body_in, BodyIn::Length(0)) && self.ready == 0
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.inbox[..self.ready]
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.inbox.advance(n);
        self.ready -= n;
    }

    pub(crate) fn take(&mut self, n: usize) -> Bytes {
        self.ready -= n;
        self.inbox.split_to(n).freeze()
    }

    /// The trailers of a body that is over.
    pub(crate) fn trailers(&self) -> Result<Option<Fields>, ReadError> {
        match &self.body_in {
            BodyIn::Chunked(chunked) if chunked.has_trailers() => Ok(Some(chunked.trailers()?)),
            _ => Ok(None),
        }
    }

    /// Resolves when the other side has closed; what it sends ahead is kept, within bounds.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.inbox.len() < AHEAD_BYTES {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Puts a head into the outbox and says how the body behind it is framed.
    pub(crate) fn send_head(&mut self, framing: Framing, write: impl FnOnce(&mut Vec<u8>)) {
        HEAD.with_borrow_mut(|head| {
            head.clear();
            write(head);
            self.outbox.extend_from_slice(head);
        });
        self.body_out = match framing {
            Framing::Empty | Framing::Stream => BodyOut::Length(0),
            Framing::Length(length) => BodyOut::Length(length),
            Framing::Chunked => BodyOut::Chunked,
            Framing::UntilClose => BodyOut::UntilClose,
        };
    }

    /// Sends some of the data; returns how much of it was taken.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.outbox.len() >= OUTBOX_BYTES {
            ready!(self.poll_outbox(cx))?;
        }
        let data = self.allowed(data);
        let taken = if self.body_out == BodyOut::Chunked {
            self.put_chunk(data)
        } else if data.len() <= GATHERED_BYTES && self.outbox.len() < GATHERED_BYTES {
            self.outbox.extend_from_slice(data);
            data.len()
        } else {
            ready!(self.poll_write_behind(cx, data))?
        };
        if let BodyOut::Length(left) = &mut self.body_out {
            *left -= taken as u64;
        }
        Poll::Ready(Ok(taken))
    }

    /// The body is over. Whether all that was promised has been sent is the result.
    pub(crate) fn finish(&mut self, trailers: Option<&Fields>) -> bool {
        match self.body_out {
            BodyOut::Length(left) => left == 0,
            BodyOut::UntilClose => true,
            BodyOut::Chunked => {
                self.put_last_chunk(trailers);
                self.body_out = BodyOut::Length(0);
                true
            }
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outbox(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Whether everything that was put in the outbox has been written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && self.stream.is_flushed()
    }

    /// The exchange is over: keeps no memory for what is not under way.
    pub(crate) fn rest(&mut self) {
        self.rest_buffers();
        self.body_in = BodyIn::Length(0);
    }

    /// Keeps no memory for what does not come.
    pub(super) fn rest_buffers(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        if self.outbox.is_empty() {
            self.outbox = BytesMut::new();
        }
    }

    /// Whether a connection that nobody uses is as it was left: open, and silent.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.inbox.is_empty() && !self.at_end && self.poll_fill(&mut cx).is_pending()
    }

    /// Nothing more will be written; the other side may still be reading.
    pub(crate) fn poll_end_writing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_end_writing(cx)
    }

    /// Reads and forgets, so that a close does not become a reset that overtakes the last answer; gives up at the end of `budget`.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> Poll<()> {
        loop {
            self.inbox.clear();
            match ready!(self.poll_fill(cx)) {
                Ok(n) if n > 0 && n < *budget => *budget -= n,
                _ => return Poll::Ready(()),
            }
        }
    }

    /// A framed body gets no more than it was promised.
    fn allowed<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        match self.body_out {
            BodyOut::Length(left) => {
                &data[..usize::try_from(left).map_or(data.len(), |left| left.min(data.len()))]
            }
            _ => data,
        }
    }

    fn put_chunk(&mut self, data: &[u8]) -> usize {
        let data = &data[..data.len().min(OUTBOX_BYTES)];
        if data.is_empty() {
            // A chunk without data would be the last one.
            return 0;
        }
        HEAD.with_borrow_mut(|head| {
            head.clear();
            push_chunk_head(head, data.len());
            self.outbox.extend_from_slice(head);
        });
        self.outbox.extend_from_slice(data);
        self.outbox.extend_from_slice(b"\r\n");
        data.len()
    }

    fn put_last_chunk(&mut self, trailers: Option<&Fields>) {
        self.outbox.extend_from_slice(b"0\r\n");
        if let Some(trailers) = trailers {
            HEAD.with_borrow_mut(|head| {
                head.clear();
                for (name, value) in trailers.iter() {
                    push_field(head, name, value);
                }
                self.outbox.extend_from_slice(head);
            });
        }
        self.outbox.extend_from_slice(b"\r\n");
    }

    /// Writes the outbox and the data behind it with one system call; says how much of the data went.
    fn poll_write_behind(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.poll_write_both(cx, &self.outbox, data))?;
        let of_outbox = written.min(self.outbox.len());
        self.outbox.advance(of_outbox);
        Poll::Ready(Ok(written - of_outbox))
    }

    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outbox))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Looks in the inbox for data of the body, or for its end.
    fn find_data(&mut self) -> Result<bool, ReadError> {
        match &mut self.body_in {
            BodyIn::Length(left) => {
                self.ready = usize::try_from(*left)
                    .map_or(self.inbox.len(), |left| left.min(self.inbox.len()));
                *left -= self.ready as u64;
                Ok(self.ready > 0 || *left == 0)
            }
            BodyIn::UntilClose => {
                self.ready = self.inbox.len();
                Ok(self.ready > 0)
            }
            BodyIn::Chunked(chunked) => match chunked.step(&self.inbox)? {
                Step::More => {
                    self.inbox.clear();
                    Ok(false)
                }
                Step::Data { skip, len } => {
                    self.inbox.advance(skip);
                    self.ready = len;
                    Ok(len > 0)
                }
                Step::End { skip } => {
                    self.inbox.advance(skip);
                    Ok(true)
                }
            },
        }
    }

    /// Reads by way of the core's buffer, so that a connection that waits holds none; 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            let filled = buf.filled();
            self.at_end |= filled.is_empty();
            self.inbox.extend_from_slice(filled);
            Poll::Ready(Ok(filled.len()))
        })
    }

    /// Reads straight into the inbox, the more at a time the faster the body comes.
    fn poll_fill_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inbox.capacity() == 0 {
            // A body that trickles needs no buffer while it does.
            ready!(self.stream.poll_readable(cx))?;
        }
        let size = self.read_size as usize;
        self.inbox.reserve(size);
        let room = self.inbox.capacity() - self.inbox.len();
        let before = self.inbox.len();
        ready!(tokio_util::io::poll_read_buf(
            Pin::new(&mut self.stream),
            cx,
            &mut self.inbox
        ))?;
        let n = self.inbox.len() - before;
        self.at_end |= n == 0;
        self.full_reads = if n == room {
            self.full_reads.saturating_add(1)
        } else {
            0
        };
        if self.full_reads >= FULL_READS_MIN && size < BODY_READ_MAX {
            self.read_size = (size * 4).min(BODY_READ_MAX) as u32;
        }
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    /// Where heads are put together before they go into an outbox.
    static HEAD: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(4096));
}
