//! The two sides' sockets as hyper sees them.
//!
//! A client's begins with the bytes that detection has read, and has a side door for 1xx answers: hyper's server writes no
//! informational answers but its own `100 Continue`, and RFC 9110 §15.2 wants a proxy to forward them. They go out past hyper, at a
//! moment when it holds no bytes of its own back.
//!
//! Both write what is small with one plain `send`: for a head and a short body, copying a few hundred bytes costs a tenth of what
//! `writev` costs more than `send`.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::lifeline::Lifeline;

/// What is copied together rather than gathered by the kernel.
const SMALL: usize = 2048;

#[derive(Debug)]
pub(crate) struct ClientStream {
    socket: TcpStream,
    first: Bytes,
    lifeline: Arc<Lifeline>,
    side_door: Arc<SideDoor>,
}

/// Lets an answer's forerunners out while hyper waits for the answer itself.
#[derive(Debug)]
pub(crate) struct SideDoor {
    lifeline: Arc<Lifeline>,
    /// hyper has written all that it had since the request began.
    is_quiet: AtomicBool,
    is_empty: AtomicBool,
    /// What goes out before anything else of hyper's.
    waiting: Mutex<Vec<u8>>,
}

/// A node's socket.
#[derive(Debug)]
pub(crate) struct NodeStream(pub(crate) TcpStream);

impl ClientStream {
    pub(crate) fn new(socket: TcpStream, first: Bytes, lifeline: Arc<Lifeline>) -> Self {
        let side_door = Arc::new(SideDoor {
            lifeline: lifeline.clone(),
            is_quiet: AtomicBool::new(false),
            is_empty: AtomicBool::new(true),
            waiting: Mutex::default(),
        });
        Self {
            socket,
            first,
            lifeline,
            side_door,
        }
    }

    pub(crate) fn side_door(&self) -> Arc<SideDoor> {
        self.side_door.clone()
    }

    /// The socket, with what was read of it and by nobody else; for tunnels.
    pub(crate) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.socket, self.first)
    }

    /// A last word on a connection that is about to be closed, if the socket takes it at once.
    pub(crate) fn say(&self, text: &[u8]) {
        // Nobody waits for a client that was too slow already.
        let _ = self.socket.try_write(text);
    }

    fn poll_side_door(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.side_door.is_empty.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.side_door.lock();
        while !waiting.is_empty() {
            let n = ready!(Pin::new(&mut self.socket).poll_write(cx, &waiting))?;
            waiting.drain(..n);
        }
        self.side_door.is_empty.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl SideDoor {
    /// A request has begun; until hyper has flushed what came before it, the door stays shut.
    pub(crate) fn close(&self) {
        self.is_quiet.store(false, Relaxed);
    }

    /// Queues one informational answer for the connection's task, whole, or drops it if it would not come in order.
    pub(crate) fn let_out(&self, answer: &[u8]) {
        if self.is_quiet.load(Relaxed) {
            self.lock().extend_from_slice(answer);
            self.is_empty.store(false, Relaxed);
            self.lifeline.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.first.has_remaining() {
            let n = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..n]);
            self.first.advance(n);
            if self.first.is_empty() {
                // An empty slice would keep the whole buffer for as long as the connection lives.
                self.first = Bytes::new();
            }
        } else {
            ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        }
        if buf.filled().len() > before {
            self.lifeline.hear();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_side_door(cx))?;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_side_door(cx))?;
        poll_write_together(&mut self.socket, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper calls this once its own buffer is empty.
        self.side_door.is_quiet.store(true, Relaxed);
        self.poll_side_door(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_side_door(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl AsyncRead for NodeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for NodeStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_together(&mut self.0, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn poll_write_together(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let socket = Pin::new(socket);
    if let [only] = bufs {
        return socket.poll_write(cx, only);
    }
    let total: usize = bufs.iter().map(|buf| buf.len()).sum();
    if total > SMALL {
        return socket.poll_write_vectored(cx, bufs);
    }
    let mut together = [0; SMALL];
    let mut len = 0;
    for buf in bufs {
        together[len..len + buf.len()].copy_from_slice(buf);
        len += buf.len();
    }
    socket.poll_write(cx, &together[..len])
}
