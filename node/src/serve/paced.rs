//! Tells a connection's pace about the bytes that come in.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use node_core::pace::{Pace, Wait};
use tokio::io::{AsyncRead, ReadBuf};

use crate::register::now;

/// The pace of one connection, shared by what reads it, what answers on it and what ends it.
#[derive(Clone)]
pub(super) struct SharedPace(Arc<Mutex<Pace>>);

/// The reading half of a connection.
pub(super) struct Paced<R> {
    read: R,
    pace: SharedPace,
}

impl SharedPace {
    pub(super) fn new(pace: Pace) -> Self {
        Self(Arc::new(Mutex::new(pace)))
    }

    pub(super) fn exchange_began(&self) {
        self.lock().exchange_began();
    }

    pub(super) fn exchange_ended(&self) {
        self.lock().exchange_ended(now());
    }

    pub(super) fn wait(&self, now: Instant) -> Wait {
        self.lock().wait(now)
    }

    /// A pace has no state between two fields that a panic could leave half done.
    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> Paced<R> {
    pub(super) fn new(read: R, pace: SharedPace) -> Self {
        Self { read, pace }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Paced<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.read).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.pace.lock().bytes_came(now());
        }
        Poll::Ready(Ok(()))
    }
}
