//! A client's socket as hyper sees it: first the bytes that detection has read, then the socket; and a side door for 1xx answers.
//!
//! hyper's server writes no informational answers but its own `100 Continue`. RFC 9110 §15.2 wants a proxy to forward them, so they go
//! to the socket directly, and only at a moment when hyper holds no bytes of its own back.

use std::{
    io,
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

#[derive(Debug)]
pub(crate) struct ClientStream {
    socket: Arc<TcpStream>,
    first: Bytes,
    lifeline: Arc<Lifeline>,
    side_door: Arc<SideDoor>,
}

/// Lets an answer's forerunners out while hyper waits for the answer itself.
#[derive(Debug)]
pub(crate) struct SideDoor {
    socket: Arc<TcpStream>,
    /// hyper has written all that it had since the request began.
    is_quiet: AtomicBool,
    /// The rest of what the socket did not take; it goes out before anything else of hyper's.
    rest: Mutex<Vec<u8>>,
}

impl ClientStream {
    pub(crate) fn new(socket: Arc<TcpStream>, first: Bytes, lifeline: Arc<Lifeline>) -> Self {
        let side_door = Arc::new(SideDoor {
            socket: socket.clone(),
            is_quiet: AtomicBool::new(false),
            rest: Mutex::default(),
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
    pub(crate) fn into_parts(self) -> (Arc<TcpStream>, Bytes) {
        (self.socket, self.first)
    }

    /// A last word on a connection that is about to be closed, if the socket takes it at once.
    pub(crate) fn say(&self, text: &[u8]) {
        // Nobody waits for a client that was too slow already.
        let _ = self.socket.try_write(text);
    }

    fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut rest = self
            .side_door
            .rest
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while !rest.is_empty() {
            match self.socket.try_write(&rest) {
                Ok(n) => drop(rest.drain(..n)),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?
                }
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl SideDoor {
    /// A request has begun; until hyper has flushed what came before it, the door stays shut.
    pub(crate) fn close(&self) {
        self.is_quiet.store(false, Relaxed);
    }

    /// Writes one informational answer, whole and in order, or not at all.
    pub(crate) fn let_out(&self, answer: &[u8]) -> bool {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_quiet.load(Relaxed) || !rest.is_empty() {
            return false;
        }
        match self.socket.try_write(answer) {
            Ok(n) => {
                rest.extend_from_slice(&answer[n..]);
                true
            }
            Err(_) => false,
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let heard = if self.first.has_remaining() {
            let n = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..n]);
            self.first.advance(n);
            n
        } else {
            ready!(poll_socket(&self.socket, cx, buf))?
        };
        if heard > 0 {
            self.lifeline.hear();
        }
        Poll::Ready(Ok(()))
    }
}

fn poll_socket(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        match socket.try_read_buf(buf) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                ready!(socket.poll_read_ready(cx))?
            }
            read => return Poll::Ready(read),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(cx))?;
        loop {
            match self.socket.try_write_vectored(bufs) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper calls this once its own buffer is empty.
        self.side_door.is_quiet.store(true, Relaxed);
        self.poll_rest(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx))?;
        let socket = socket2::SockRef::from(&*self.socket);
        Poll::Ready(match socket.shutdown(std::net::Shutdown::Write) {
            Err(err) if err.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        })
    }
}
