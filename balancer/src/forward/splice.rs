//! Moves bytes from socket to socket inside the kernel, for streams that are fast for a while.
//!
//! `splice` passes pages through a pipe without copying them to user space, which a bulk transfer is four times cheaper with; a few
//! bytes now and then are cheaper to copy. So a direction begins by copying, splices once whole buffers come in a row, and goes back
//! when they stop. Pipes are kept by the core for whoever needs one next: an idle tunnel holds none.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{io::Interest, net::TcpStream};

/// How much a pipe holds; the largest that an unprivileged process may ask for by default.
const PIPE_BYTES: usize = 1 << 20;

/// Pipes that a core keeps for later.
const PIPES_KEPT: usize = 32;

/// Full buffers in a row that make a stream a fast one.
const FULL_READS_MIN: u8 = 2;

/// Less than this at a time is no bulk, and so many times in a row end it.
const SMALL_BYTES: usize = 16 << 10;
const SMALL_READS_MAX: u8 = 8;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Whether one direction's bytes come in bulk, and the pipe they go through.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    full_reads: u8,
    small_reads: u8,
    is_on: bool,
    /// The kernel cannot splice these sockets.
    is_impossible: bool,
    pipe: Option<Pipe>,
    in_pipe: usize,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// What became of an attempt to move bytes.
pub(super) enum Moved {
    Bytes(usize),
    End,
    /// Copying will do from here on.
    NotBulk,
}

impl Bulk {
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A read into a buffer was full, or was not.
    pub(super) fn read(&mut self, was_full: bool) {
        self.full_reads = if was_full {
            self.full_reads.saturating_add(1)
        } else {
            0
        };
        self.is_on = self.full_reads >= FULL_READS_MIN && !self.is_impossible;
    }

    /// Moves what there is, as far as both sides let it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<io::Result<Moved>> {
        if self.in_pipe > 0 {
            return self.poll_out(cx, to);
        }
        if self.small_reads > SMALL_READS_MAX {
            self.stop();
            return Poll::Ready(Ok(Moved::NotBulk));
        }
        self.poll_in(cx, from)
    }

    fn poll_in(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<Moved>> {
        let pipe = match self.pipe.take().map_or_else(Pipe::get, Ok) {
            Ok(pipe) => pipe,
            Err(err) => {
                tracing::debug!(%err, "no pipe to splice through");
                self.is_impossible = true;
                self.stop();
                return Poll::Ready(Ok(Moved::NotBulk));
            }
        };
        match moved(from, Interest::READABLE, from, &pipe.write, PIPE_BYTES) {
            Ok(0) => {
                pipe.put_back();
                Poll::Ready(Ok(Moved::End))
            }
            Ok(n) => {
                self.in_pipe = n;
                self.pipe = Some(pipe);
                self.small_reads = if n < SMALL_BYTES {
                    self.small_reads + 1
                } else {
                    0
                };
                Poll::Ready(Ok(Moved::Bytes(0)))
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                pipe.put_back();
                ready!(from.poll_read_ready(cx))?;
                Poll::Ready(Ok(Moved::Bytes(0)))
            }
            Err(err) if err.kind() == io::ErrorKind::InvalidInput => {
                self.is_impossible = true;
                self.stop();
                Poll::Ready(Ok(Moved::NotBulk))
            }
            Err(err) => Poll::Ready(Err(err)),
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<Moved>> {
        let Some(pipe) = &self.pipe else {
            return Poll::Ready(Ok(Moved::NotBulk));
        };
        match moved(to, Interest::WRITABLE, &pipe.read, to, self.in_pipe) {
            Ok(n) => {
                self.in_pipe -= n;
                Poll::Ready(Ok(Moved::Bytes(n)))
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                ready!(to.poll_write_ready(cx))?;
                Poll::Ready(Ok(Moved::Bytes(0)))
            }
            Err(err) => Poll::Ready(Err(err)),
        }
    }

    fn stop(&mut self) {
        self.is_on = false;
        (self.full_reads, self.small_reads) = (0, 0);
        if let Some(pipe) = self.pipe.take() {
            pipe.put_back();
        }
    }
}

/// One `splice`, by way of the socket whose readiness it depends on.
fn moved(
    socket: &TcpStream,
    interest: Interest,
    from: impl AsFd,
    to: impl AsFd,
    len: usize,
) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    socket.try_io(interest, || {
        splice(&from, None, &to, None, len, flags).map_err(io::Error::from)
    })
}

impl Pipe {
    fn get() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one does too, should the user have used up what pipes may hold together.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write })
    }

    /// Only an empty pipe can serve another tunnel.
    fn put_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.len() < PIPES_KEPT {
                pipes.push(self);
            }
        });
    }
}
