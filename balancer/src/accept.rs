//! Accepts client connections, refuses those over the limit, finds out what they speak and serves them until they end.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use balancer_core::{
    forwarded::{Hop, Trusted},
    name::ListenerName,
};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    config::{self, ListenerProtocol},
    detect::{self, Spoken},
    forward::tcp,
    lifeline::{Held, Lifeline},
    observe::ListenerMetrics,
    rescue, serve,
    stream::Stream,
    worker::Worker,
};

/// Waited after a failed accept, which is mostly a lack of file descriptors that only time can mend.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// What all cores share of one listener.
pub(crate) struct Listener {
    pub(crate) idx: usize,
    pub(crate) name: ListenerName,
    pub(crate) policy: config::Listener,
    pub(crate) metrics: ListenerMetrics,
    connections: AtomicUsize,
}

/// One client's connection, as everything that happens on it sees it.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    worker: Arc<Worker>,
    listener: Arc<Listener>,
    address: SocketAddr,
    /// The address as the access log writes it; empty where there is none.
    address_text: Box<str>,
    pub(crate) hop: Hop,
    held: Held,
    _permit: Permit,
}

/// One of the connections that a listener may have open.
#[derive(Debug)]
struct Permit(Arc<Listener>);

/// Accepts until told to stop; connections that the kernel has completed by then are served too.
pub(crate) async fn accept_all(worker: Arc<Worker>, listener: Arc<Listener>, socket: TcpListener) {
    let stop = worker.stop.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        if let Err(err) =
            accepted.and_then(|(stream, from)| admit(&worker, &listener, stream, from))
        {
            listener.metrics.accept_errors.increment(1);
            tracing::warn!(listener = %listener.name, %err, "accepting a connection");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
        }
    }
    while let Some(Ok((stream, from))) = poll_once(|cx| socket.poll_accept(cx)).await {
        // Whoever cannot be admitted any more sees a close, as after the listener's own.
        let _ = admit(&worker, &listener, stream, from);
    }
}

/// A permit before anything is read: what is over the limit costs nothing more than the accept.
fn admit(
    worker: &Arc<Worker>,
    listener: &Arc<Listener>,
    stream: TcpStream,
    from: SocketAddr,
) -> io::Result<()> {
    listener.metrics.accepted.increment(1);
    let Some(permit) = listener.permit() else {
        listener.metrics.over_limit.increment(1);
        rescue::refuse_connection(&stream, listener.policy.protocol);
        return Ok(());
    };
    stream.set_nodelay(true)?;
    let client = ClientConnection::new(worker.clone(), listener.clone(), from, permit);
    worker.connections.spawn(serve(client, stream));
    Ok(())
}

async fn serve(client: ClientConnection, mut socket: TcpStream) {
    let client = Arc::new(client);
    let service = client.listener.policy.service;
    if let (ListenerProtocol::Tcp, Some(service)) = (client.listener.policy.protocol, service) {
        let stream = Stream::Plain(socket);
        return Box::pin(tcp::forward(client, stream, Bytes::new(), service)).await;
    }
    // What is over soon, or is not what most connections do, is boxed: this future lives as long as the client stays.
    let spoken = Box::pin(detect::detect(&client, &mut socket)).await;
    let stream = Stream::Plain(socket);
    match (spoken, service) {
        (Ok(Spoken::Http1(first)), _) => serve::serve_http1(client, stream, first).await,
        (Ok(Spoken::Http2(first)), _) => {
            Box::pin(serve::serve_http2(client, stream, first.freeze())).await;
        }
        (Ok(Spoken::Opaque(first) | Spoken::Tls(first)), Some(service)) => {
            Box::pin(tcp::forward(client, stream, first.freeze(), service)).await;
        }
        (Ok(Spoken::Opaque(_)), None) => {
            client.listener.metrics.preface_refused.increment(1);
            Box::pin(rescue::refuse_opaque(stream)).await;
        }
        (Ok(Spoken::Tls(_)), None) => {
            client.listener.metrics.preface_refused.increment(1);
            Box::pin(rescue::refuse_tls(stream)).await;
        }
        (Err(err), _) => {
            tracing::debug!(client = %client.address, %err, "no protocol was detected")
        }
    }
}

impl Listener {
    pub(crate) fn new(idx: usize, policy: config::Listener, metrics: ListenerMetrics) -> Arc<Self> {
        Arc::new(Self {
            idx,
            name: policy.name.clone(),
            policy,
            metrics,
            connections: AtomicUsize::new(0),
        })
    }

    pub(crate) fn trusted(&self) -> &Trusted {
        &self.policy.trusted_proxies
    }

    fn permit(self: &Arc<Self>) -> Option<Permit> {
        // Counted before the check, so that two cores at the limit cannot both pass.
        let permit = Permit(self.clone());
        let before = self.connections.fetch_add(1, Relaxed);
        self.metrics.active.increment(1.0);
        (before < self.policy.max_connections).then_some(permit)
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.name)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
        self.0.metrics.active.decrement(1.0);
    }
}

impl ClientConnection {
    fn new(
        worker: Arc<Worker>,
        listener: Arc<Listener>,
        address: SocketAddr,
        permit: Permit,
    ) -> Self {
        let trusted = listener.trusted().contains(address.ip());
        Self {
            hop: Hop::new(address.ip(), false, trusted),
            held: worker.lifelines.hold(),
            address_text: if worker.log.is_on() {
                address.to_string().into()
            } else {
                Box::default()
            },
            worker,
            listener,
            address,
            _permit: permit,
        }
    }

    pub(crate) fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    pub(crate) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn address_text(&self) -> &str {
        &self.address_text
    }

    pub(crate) fn lifeline(&self) -> &Arc<Lifeline> {
        &self.held.lifeline
    }
}

/// One look at something that may not be ready.
async fn poll_once<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match poll(cx) {
            Poll::Ready(it) => Some(it),
            Poll::Pending => None,
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It lives as long as its client is connected, mostly idle.
    #[test]
    fn a_connection_is_small_while_it_idles() {
        fn size_of_future<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let size = size_of_future(serve);
        assert!(size <= 896, "{size} bytes");
    }
}
