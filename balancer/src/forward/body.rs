//! The two bodies of an exchange on their way through: counted, never collected.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::{sync::oneshot, time::Timeout};

use crate::{
    dial::Connection,
    observe::{Ended, Exchange},
    pick::Lease,
};

/// From the client to the node.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    progress: Option<Arc<Progress>>,
    /// Closed until the node says `100 Continue` to a client that waits for it, or has kept it waiting for long enough.
    gate: Option<Pin<Box<Timeout<oneshot::Receiver<()>>>>>,
    /// The node has answered without saying that it wants the body.
    is_unwanted: bool,
}

/// Why a request's body cannot be sent to its end.
#[derive(Debug, Error)]
pub(crate) enum RequestBodyError {
    #[error("reading from the client: {0}")]
    Client(#[from] hyper::Error),
    #[error("the node answered without wanting the body")]
    Unwanted,
}

/// How far a request's body has come, for those who do not hold it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    done: AtomicBool,
    exchange_over: AtomicBool,
    waker: AtomicWaker,
}

impl Progress {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Relaxed)
    }

    /// The exchange has ended: a body that nobody wants need not be held any longer.
    pub(crate) fn end_exchange(&self) {
        self.exchange_over.store(true, Relaxed);
        self.waker.wake();
    }
}

impl RequestBody {
    pub(crate) fn empty() -> Self {
        Self {
            incoming: None,
            progress: None,
            gate: None,
            is_unwanted: false,
        }
    }

    pub(crate) fn streaming(incoming: Incoming, progress: Arc<Progress>) -> Self {
        Self {
            incoming: Some(incoming),
            progress: Some(progress),
            gate: None,
            is_unwanted: false,
        }
    }

    /// Holds the body back until the gate's other end fires, for `patience` at most. If the other end is dropped instead, the
    /// node has answered, and the body is not sent at all.
    pub(crate) fn wait_for(&mut self, gate: oneshot::Receiver<()>, patience: Duration) {
        self.gate = Some(Box::pin(tokio::time::timeout(patience, gate)));
    }

    /// Waits for the end of an exchange whose body is unwanted. A request half sent cannot be taken back: the error then closes
    /// the connection to the node, which no other request could use.
    fn poll_unwanted(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(progress) = &self.progress else {
            return Poll::Ready(None);
        };
        progress.waker.register(cx.waker());
        if progress.exchange_over.load(Relaxed) {
            Poll::Ready(Some(Err(RequestBodyError::Unwanted)))
        } else {
            Poll::Pending
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if let Some(gate) = &mut self.gate {
            // The node's word and the end of the client's patience open the gate; the node's final answer does not.
            let waited = ready!(gate.as_mut().poll(cx));
            self.gate = None;
            self.is_unwanted = matches!(waited, Ok(Err(_)));
        }
        if self.is_unwanted {
            return self.poll_unwanted(cx);
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        let is_over = !matches!(frame, Some(Ok(_))) || incoming.is_end_stream();
        if let Some(progress) = &self.progress {
            let data = frame.as_ref().and_then(|it| it.as_ref().ok()?.data_ref());
            progress
                .bytes
                .fetch_add(data.map_or(0, |it| it.len() as u64), Relaxed);
            progress.done.fetch_or(is_over, Relaxed);
        }
        Poll::Ready(frame.map(|it| it.map_err(RequestBodyError::from)))
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
pub(crate) struct ResponseBody {
    source: Source,
    /// Absent where the exchange goes on as a tunnel.
    exchange: Option<Box<Exchange>>,
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
    pub(crate) fn own(text: Bytes, exchange: Box<Exchange>) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self {
            source: Source::Own(text),
            exchange: Some(exchange),
        }
    }

    /// No body, and not the end either: the connection becomes a tunnel.
    pub(crate) fn none() -> Self {
        Self {
            source: Source::Own(None),
            exchange: None,
        }
    }

    pub(crate) fn of_node(
        incoming: Incoming,
        lease: Lease,
        connection: Connection,
        exchange: Box<Exchange>,
    ) -> Self {
        let source = Source::Node {
            incoming,
            lent: Some((lease, connection)),
        };
        let mut body = Self {
            source,
            exchange: Some(exchange),
        };
        body.finish_if_ended();
        body
    }

    fn finish_if_ended(&mut self) {
        if let Source::Node { incoming, lent } = &mut self.source
            && incoming.is_end_stream()
        {
            complete(lent, self.exchange.as_deref_mut());
        }
    }
}

/// The whole body has passed: the connection goes back before the client has even read the last byte.
fn complete(lent: &mut Option<(Lease, Connection)>, exchange: Option<&mut Exchange>) {
    if let (Some((lease, connection)), Some(exchange)) = (lent.take(), exchange) {
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
        let this = &mut *self;
        let (frame, lent) = match &mut this.source {
            Source::Own(text) => (text.take().map(|text| Ok(Frame::data(text))), None),
            Source::Node { incoming, lent } => {
                (ready!(Pin::new(incoming).poll_frame(cx)), Some(lent))
            }
        };
        let Some(exchange) = &mut this.exchange else {
            return Poll::Ready(frame);
        };
        match (&frame, lent) {
            (Some(Ok(frame)), _) => {
                exchange.sent += frame.data_ref().map_or(0, |data| data.len() as u64)
            }
            (Some(Err(_)), _) => exchange.end(Ended::NodeCut),
            (None, Some(lent)) => complete(lent, Some(exchange)),
            (None, None) => {}
        }
        this.finish_if_ended();
        Poll::Ready(frame)
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
