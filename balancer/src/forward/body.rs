//! The two bodies of an exchange on their way through: counted, never collected.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::{
    dial::Connection,
    observe::{Ended, Exchange},
    pick::Lease,
};

/// From the client to the node.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    received: Option<Arc<AtomicU64>>,
    /// Closed until the node says `100 Continue` to a client that waits for it.
    gate: Option<oneshot::Receiver<()>>,
}

impl RequestBody {
    pub fn empty() -> Self {
        Self {
            incoming: None,
            received: None,
            gate: None,
        }
    }

    pub fn streaming(incoming: Incoming, received: Arc<AtomicU64>) -> Self {
        Self {
            incoming: Some(incoming),
            received: Some(received),
            gate: None,
        }
    }

    /// Holds the body back until the gate's other end fires or is dropped.
    pub fn wait_for(&mut self, gate: oneshot::Receiver<()>) {
        self.gate = Some(gate);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(gate) = &mut self.gate {
            // Both ends of the wait open the gate: the node's word, and the end of its interest in giving one.
            let _ = ready!(Pin::new(gate).poll(cx));
            self.gate = None;
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        if let (Some(Ok(frame)), Some(received)) = (&frame, &self.received)
            && let Some(data) = frame.data_ref()
        {
            received.fetch_add(data.len() as u64, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// From the node, or from this balancer, to the client. Its end is the end of the exchange.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    exchange: Box<Exchange>,
}

#[derive(Debug)]
enum Source {
    Own(Option<Bytes>),
    Node {
        incoming: Incoming,
        /// Taken when the body has ended: only then may another exchange use the connection.
        lent: Option<(Lease, Connection)>,
    },
}

impl ResponseBody {
    /// An answer of the balancer's own.
    pub fn own(text: Bytes, exchange: Box<Exchange>) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self {
            source: Source::Own(text),
            exchange,
        }
    }

    pub fn of_node(incoming: Incoming, lease: Lease, connection: Connection, exchange: Box<Exchange>) -> Self {
        let source = Source::Node {
            incoming,
            lent: Some((lease, connection)),
        };
        let mut body = Self { source, exchange };
        body.finish_if_ended();
        body
    }

    fn finish_if_ended(&mut self) {
        if let Source::Node { incoming, lent } = &mut self.source
            && incoming.is_end_stream()
        {
            complete(lent, &mut self.exchange);
        }
    }
}

/// The whole body has passed: the connection goes back before the client has even read the last byte.
fn complete(lent: &mut Option<(Lease, Connection)>, exchange: &mut Exchange) {
    if let Some((lease, connection)) = lent.take() {
        lease.give_back(connection);
        exchange.end(Ended::Completed);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { source, exchange } = &mut *self;
        match source {
            Source::Own(text) => Poll::Ready(text.take().map(|text| {
                exchange.sent += text.len() as u64;
                Ok(Frame::data(text))
            })),
            Source::Node { incoming, lent } => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => exchange.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
                    Some(Err(_)) => exchange.end(Ended::NodeCut),
                    None => complete(lent, exchange),
                }
                self.finish_if_ended();
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(text) => text.is_none(),
            Source::Node { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Node { incoming, .. } => incoming.size_hint(),
        }
    }
}
