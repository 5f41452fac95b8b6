//! Relays bytes as they are, both ways at once, each direction ending when its sender ends it (half-close).
//!
//! An idle relay holds no buffer: bytes pass through one buffer per core, and only what a slow reader did not take is kept, which also
//! stops reading from the other side.

use std::{
    cell::RefCell,
    io,
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

use super::{
    reach,
    splice::{Bulk, Moved},
    upgrade,
};
use crate::{
    accept::ClientConnection,
    lifeline::Lifeline,
    observe::{Ended, Relayed},
    proxy_out,
    side::Http1,
    stream::Stream,
    tls::Speak,
};

/// As much as one system call moves; larger reads were not found to be faster on loopback.
const BUFFER_BYTES: usize = 64 << 10;

/// Rounds that one direction may take before the core looks at others.
const ROUNDS_MAX: usize = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// Relays an opaque client connection to a node of the service, and counts it as one exchange.
pub(crate) async fn forward(
    client: Arc<ClientConnection>,
    stream: Stream,
    first: Bytes,
    service: usize,
) {
    // A reload may have removed it while the client was still to say what it speaks.
    let scene = client.worker().scene_of(client.listener());
    let Some(service) = scene.service(service).cloned() else {
        return crate::net::reset_on_close(stream.socket());
    };
    drop(scene);
    let began = Instant::now();
    let mut record = Relayed::begin(client.clone(), &service);
    service.metrics.active.increment(1.0);
    let asked = service.asked(client.address().ip(), "", std::iter::empty);
    let local = stream.socket().local_addr().ok();
    let header = proxy_out::header_for(service.policy.proxy_protocol, &client, local);
    let dial = (Speak::Bytes, &header[..]);
    let reached = reach(&client, &service, &asked, dial, |it| record.dialled(it)).await;
    let ended = match reached {
        Ok((node, lease)) => {
            service.answered(&lease, None);
            record.begins();
            let idle_timeout = service.policy.tunnel_idle_timeout;
            upgrade::relay(
                Http1::new(stream, BytesMut::new()),
                Http1::new(node, BytesMut::new()),
                first,
                idle_timeout,
                client.lifeline(),
            )
            .await
        }
        Err(failure) => {
            tracing::debug!(client = %client.address(), %failure, "a connection could not be relayed");
            crate::net::reset_on_close(stream.socket());
            failure.ended()
        }
    };
    record.end(ended);
    drop(record);
    service.metrics.active.decrement(1.0);
    service.metrics.relayed(ended, began.elapsed());
}

/// Two sockets and the bytes between them.
pub(crate) struct Relay<'a> {
    client: &'a mut TcpStream,
    node: &'a mut TcpStream,
    to_node: Direction,
    to_client: Direction,
}

#[derive(Default)]
struct Direction {
    /// Read, but not taken by the other side yet.
    rest: Bytes,
    read_all: bool,
    done: bool,
    moved: u64,
    bulk: Bulk,
}

impl<'a> Relay<'a> {
    /// `to_node` and `to_client` were read from the other side already.
    pub(crate) fn new(
        client: &'a mut TcpStream,
        node: &'a mut TcpStream,
        to_node: Bytes,
        to_client: Bytes,
    ) -> Self {
        let direction = |rest: Bytes| Direction {
            rest,
            ..Direction::default()
        };
        Self {
            client,
            node,
            to_node: direction(to_node),
            to_client: direction(to_client),
        }
    }

    /// Relays until both directions have ended, one failed, or the lifeline was cut.
    pub(crate) async fn run(mut self, lifeline: &Lifeline, idle_timeout: Duration) -> Ended {
        lifeline.within(idle_timeout);
        let relayed = std::future::poll_fn(|cx| self.poll(cx, lifeline, idle_timeout)).await;
        match relayed {
            Ok(ended) => ended,
            Err(err) => {
                tracing::debug!(%err, "a tunnel broke");
                Ended::TunnelClosed
            }
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        lifeline: &Lifeline,
        idle_timeout: Duration,
    ) -> Poll<io::Result<Ended>> {
        lifeline.register(cx);
        if lifeline.is_cut() || lifeline.is_due() {
            return Poll::Ready(Ok(Ended::TunnelCut));
        }
        let moved_before = self.to_node.moved + self.to_client.moved;
        let up = self.to_node.poll(cx, self.client, self.node)?;
        let down = self.to_client.poll(cx, self.node, self.client)?;
        if self.to_node.moved + self.to_client.moved > moved_before {
            lifeline.within(idle_timeout);
        }
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(Ended::TunnelClosed));
        }
        Poll::Pending
    }
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &TcpStream,
    ) -> Poll<io::Result<()>> {
        for _ in 0..ROUNDS_MAX {
            if self.done {
                return Poll::Ready(Ok(()));
            } else if !self.rest.is_empty() {
                ready!(self.poll_write(cx, to))?;
            } else if self.read_all {
                self.done = true;
                end_writing(to)?;
            } else if self.bulk.is_on() {
                ready!(self.poll_bulk(cx, from, to))?;
            } else {
                ready!(self.poll_pass(cx, from, to))?;
            }
        }
        // Busy: let the other tunnels of this core have a turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        match to.try_write(&self.rest) {
            Ok(n) => {
                self.rest.advance(n);
                self.moved += n as u64;
                Poll::Ready(Ok(()))
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => to.poll_write_ready(cx),
            Err(err) => Poll::Ready(Err(err)),
        }
    }

    fn poll_bulk(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<io::Result<()>> {
        match ready!(self.bulk.poll(cx, from, to))? {
            Moved::Bytes(n) => self.moved += n as u64,
            Moved::End => self.read_all = true,
            Moved::NotBulk => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes at once; what the other side does not take is kept.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &TcpStream,
    ) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            // This way of reading knows from a short read that nothing is left, and need not ask the kernel again.
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(from).poll_read(cx, &mut read))?;
            let bytes = read.filled();
            self.read_all = bytes.is_empty();
            self.bulk.read(bytes.len() == BUFFER_BYTES);
            let written = match bytes {
                [] => 0,
                bytes => written_now(to.try_write(bytes))?,
            };
            self.moved += written as u64;
            self.rest = Bytes::copy_from_slice(&bytes[written..]);
            Poll::Ready(Ok(()))
        })
    }
}

fn written_now(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

fn end_writing(to: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(to).shutdown(Shutdown::Write) {
        // The other side has closed both directions already.
        Err(err) if err.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}
