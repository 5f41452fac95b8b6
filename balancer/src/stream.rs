//! A byte stream to a client or a node, with or without TLS: the one place that knows which.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

/// What is copied together rather than gathered by the kernel: for a head and a short body, copying a few kilobytes costs a tenth of
/// what `writev` costs more than `send`.
const SMALL: usize = 4096;

/// TLS is boxed: its sessions are large, and most connections have none.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    FromClient(Box<server::TlsStream<Replayed<TcpStream>>>),
    ToNode(Box<client::TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket, where bytes can be moved without anybody looking at them.
    pub(crate) fn as_plain_mut(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::FromClient(_) | Self::ToNode(_) => None,
        }
    }

    /// The socket below, whatever is spoken on it.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::FromClient(tls) => &tls.get_ref().0.stream,
            Self::ToNode(tls) => tls.get_ref().0,
        }
    }

    /// Resolves without taking a byte, where that is possible, so that nobody holds a buffer while nothing comes.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            // What was decrypted already makes no socket ready.
            Self::FromClient(tls) => match tls.get_ref() {
                (below, session) if session.wants_read() => below.poll_readable(cx),
                _ => Poll::Ready(Ok(())),
            },
            Self::ToNode(tls) => match tls.get_ref() {
                (socket, session) if session.wants_read() => socket.poll_read_ready(cx),
                _ => Poll::Ready(Ok(())),
            },
        }
    }

    /// Whether all that was written is with the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::FromClient(tls) => !tls.get_ref().1.wants_write(),
            Self::ToNode(tls) => !tls.get_ref().1.wants_write(),
        }
    }

    /// Writes both pieces as if they were one, with one system call.
    pub(crate) fn poll_write_both(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(self);
        if first.is_empty() {
            return stream.poll_write(cx, second);
        }
        if second.is_empty() {
            return stream.poll_write(cx, first);
        }
        if first.len() + second.len() > SMALL {
            return stream.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)]);
        }
        let mut together = [0; SMALL];
        let (before, after) = together.split_at_mut(first.len());
        before.copy_from_slice(first);
        after[..second.len()].copy_from_slice(second);
        stream.poll_write(cx, &together[..first.len() + second.len()])
    }

    /// No byte will be written any more; what comes can still be read. TLS says so in its own words first.
    pub(crate) fn poll_end_writing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ended = match self {
            Self::Plain(socket) => {
                // A socket that the other side has closed already cannot be told; nothing is lost then.
                let _ = socket2::SockRef::from(&*socket).shutdown(Shutdown::Write);
                return Poll::Ready(());
            }
            Self::FromClient(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::ToNode(tls) => Pin::new(tls).poll_shutdown(cx),
        };
        ended.map(drop)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::FromClient(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::ToNode(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::FromClient(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::ToNode(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::FromClient(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::ToNode(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::FromClient(tls) => Pin::new(tls).poll_flush(cx),
            Self::ToNode(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::FromClient(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::ToNode(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// A stream of which some bytes were read already.
#[derive(Debug)]
pub(crate) struct Replayed<S> {
    first: Bytes,
    pub(crate) stream: S,
}

impl<S> Replayed<S> {
    pub(crate) fn new(first: Bytes, stream: S) -> Self {
        Self { first, stream }
    }
}

impl Replayed<TcpStream> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            return Poll::Ready(Ok(()));
        }
        self.stream.poll_read_ready(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replayed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.has_remaining() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..n]);
        self.first.advance(n);
        if self.first.is_empty() {
            // An empty slice would keep the whole buffer for as long as the connection lives.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replayed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
