//! Accepts client connections, refuses those over the limit, finds out what they speak and serves them until they end.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use balancer_core::{
    forwarded::{Hop, Trusted},
    name::ListenerName,
    proxy_header::ProxyHeader,
    queue::Class,
};
use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    admit::{Admission, Asks, ConnectionPermit, RefusedConnection},
    config::{self, ListenerProtocol, ProxyMode},
    detect::{self, Spoken},
    forward::tcp,
    lifeline::{Held, Lifeline, Lifelines, Order},
    net,
    observe::{ListenerMetrics, admission::RefusalMetrics},
    proxy_in::{self, ProxyError},
    rescue,
    scene::{Door, DoorState},
    secure, serve,
    stream::Stream,
    tls::{self, PassThrough, Terminator},
    worker::Worker,
};

/// Waited after a failed accept, which is mostly a lack of file descriptors that only time can mend.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Accepted before those who are connected already get their turn: a flood of newcomers must not keep them waiting.
const ACCEPTS_PER_TURN: u64 = 16;

/// Refused clients of one listener that are given a moment to read why; past it they may see a reset.
pub(crate) const REFUSALS_AT_ONCE: usize = 256;

/// What all cores share of one listener under one policy; a reload makes another, for the connections that come after it.
pub(crate) struct Listener {
    /// Its place, which stays the same under every policy.
    pub(crate) idx: usize,
    pub(crate) name: ListenerName,
    pub(crate) policy: config::Listener,
    pub(crate) metrics: ListenerMetrics,
    pub(crate) door: Arc<DoorState>,
    /// What ends the TLS of clients, where they are to speak it.
    pub(crate) terminator: Option<Arc<Terminator>>,
    pub(crate) pass_through: PassThrough,
    /// The value of `Strict-Transport-Security`, as every answer has it.
    pub(crate) hsts: Option<Box<str>>,
    refusals: RefusalMetrics,
    admission: Arc<Admission>,
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
    lifelines: Arc<Lifelines>,
    /// What a trusted proxy said of the client, where one did.
    told: Option<Box<ProxyHeader>>,
    /// What its TLS established, where it was ended here.
    tls: Option<Box<tls::Facts>>,
    _permit: Permit,
    admitted: ConnectionPermit,
}

/// One of the connections that a listener may have open.
#[derive(Debug)]
struct Permit(Arc<Listener>);

/// A connection was refused, counted and logged; it remains to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// There may be room later.
    Full,
    /// Whoever speaks is not to be believed, so that there is nobody to tell anything.
    BadHeader,
}

/// Accepts until told to stop; connections that the kernel has completed by then are served too, here or by whom the socket was
/// handed to.
pub(crate) async fn accept_all(worker: Arc<Worker>, door: Arc<Door>, socket: TcpListener) {
    for n in 1u64.. {
        if n.is_multiple_of(ACCEPTS_PER_TURN) {
            tokio::task::yield_now().await;
        }
        let accepted = tokio::select! {
            biased;
            () = door.stop.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        if let Err(err) = accepted.and_then(|(stream, from)| admit(&worker, &door, stream, from)) {
            let listener = door.listener.load();
            listener.metrics.accept_errors.increment(1);
            tracing::warn!(listener = %listener.name, %err, "accepting a connection");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
        }
    }
    if door.listener.load().door.is_handed_over.load(Relaxed) {
        return;
    }
    for (stream, from) in net::accept_waiting(socket) {
        // Whoever cannot be admitted any more sees a close, as after the listener's own.
        let _ = admit(&worker, &door, stream, from);
    }
    door.lifelines.tell_all(Order::Drain);
}

/// A permit before anything is read: what is over the limit costs nothing more than the accept.
fn admit(worker: &Arc<Worker>, door: &Door, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let listener = door.listener.load_full();
    listener.metrics.accepted.increment(1);
    let Some(permit) = listener.permit() else {
        listener.metrics.over_limit.increment(1);
        refuse(worker, listener, stream, Refusal::Full);
        return Ok(());
    };
    let admitted = match listener.admit(from) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            refuse(worker, listener.clone(), stream, refusal);
            return Ok(());
        }
    };
    stream.set_nodelay(true)?;
    let client = ClientConnection::new(worker.clone(), door, from, permit, admitted);
    // Three kinds of task: most connections have neither a header nor TLS, and would each carry what beginning those takes.
    let tasks = &worker.connections;
    if listener.expects_header() {
        tasks.spawn(introduce_and_serve(client, stream));
    } else if listener.reads_hello() {
        tasks.spawn(secure::begin_and_serve(client, stream));
    } else {
        tasks.spawn(serve_plain(client, stream));
    }
    Ok(())
}

/// Says no in the client's protocol. A flood is answered without lingering, so that refusing costs little whatever comes.
fn refuse(worker: &Worker, listener: Arc<Listener>, stream: TcpStream, refusal: Refusal) {
    // With TLS there would have to be a handshake before anything could be said.
    let must_reset = refusal == Refusal::BadHeader || listener.terminator.is_some();
    if must_reset {
        net::reset_on_close(&stream);
    } else if listener.is_http() && listener.may_linger() {
        worker.connections.spawn(async move {
            rescue::refuse_in_peace(stream).await;
            listener.door.refusals_under_way.fetch_sub(1, Relaxed);
        });
    } else {
        rescue::refuse_connection(&stream, listener.policy.protocol);
    }
}

/// Learns from the proxy in front who the client is, then serves it.
async fn introduce_and_serve(mut client: ClientConnection, mut stream: TcpStream) {
    match Box::pin(client.introduce(&mut stream)).await {
        Ok(()) if client.listener.reads_hello() => {
            Box::pin(secure::begin_and_serve(client, stream)).await;
        }
        Ok(()) => serve_plain(client, stream).await,
        Err(refusal) => refuse(&client.worker, client.listener.clone(), stream, refusal),
    }
}

fn serve_plain(client: ClientConnection, socket: TcpStream) -> impl Future<Output = ()> + Send {
    serve(Arc::new(client), Stream::Plain(socket), BytesMut::new())
}

/// Serves a connection of which these bytes were read already.
pub(crate) async fn serve(client: Arc<ClientConnection>, mut stream: Stream, first: BytesMut) {
    let service = client.listener.policy.service;
    if let (ListenerProtocol::Tcp, Some(service)) = (client.listener.policy.protocol, service) {
        return Box::pin(tcp::forward(client, stream, first.freeze(), service)).await;
    }
    // What is over soon, or is not what most connections do, is boxed: this future lives as long as the client stays.
    let spoken = Box::pin(detect::detect(&client, &mut stream, first)).await;
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
            tracing::debug!(client = %client.address(), %err, "no protocol was detected");
        }
    }
}

impl Listener {
    pub(crate) fn new(
        idx: usize,
        policy: config::Listener,
        metrics: ListenerMetrics,
        refusals: RefusalMetrics,
        admission: Arc<Admission>,
        terminator: Option<Arc<Terminator>>,
        door: Arc<DoorState>,
    ) -> Arc<Self> {
        Arc::new(Self {
            idx,
            name: policy.name.clone(),
            terminator,
            pass_through: PassThrough::new(&policy.sni),
            hsts: policy.hsts.map(|it| it.to_string().into()),
            policy,
            metrics,
            refusals,
            admission,
            door,
        })
    }

    pub(crate) fn trusted(&self) -> &Trusted {
        &self.policy.trusted_proxies
    }

    fn expects_header(&self) -> bool {
        self.policy.proxy_protocol.mode != ProxyMode::Off
    }

    fn is_http(&self) -> bool {
        self.policy.protocol == ListenerProtocol::Http
    }

    /// Whether there is TLS to end, or a name to look for.
    fn reads_hello(&self) -> bool {
        self.terminator.is_some() || !self.pass_through.is_empty()
    }

    /// The limits over all listeners. Whose connection it is is not known yet where a header may say so.
    fn admit(&self, from: SocketAddr) -> Result<ConnectionPermit, Refusal> {
        if !proxy_in::may_connect(&self.policy.proxy_protocol, from.ip()) {
            return Err(self.refuse_header(from, &ProxyError::Untrusted));
        }
        let admitted = self.admission.connection();
        let mut permit = admitted.map_err(|err| self.refuse(from, err))?;
        if !self.expects_header() {
            permit
                .claim(from.ip())
                .map_err(|err| self.refuse(from, err))?;
        }
        Ok(permit)
    }

    fn refuse(&self, from: SocketAddr, why: RefusedConnection) -> Refusal {
        why.count(&self.refusals);
        tracing::debug!(client = %from, %why, "a connection is refused");
        Refusal::Full
    }

    fn refuse_header(&self, from: SocketAddr, why: &ProxyError) -> Refusal {
        let counter = match why {
            ProxyError::Untrusted => &self.refusals.proxy_untrusted,
            _ => &self.refusals.proxy_header,
        };
        counter.increment(1);
        tracing::debug!(client = %from, %why, "a connection is refused");
        Refusal::BadHeader
    }

    /// Takes one of the places for refused clients that are given a moment.
    fn may_linger(&self) -> bool {
        let one_more = |n: usize| (n < REFUSALS_AT_ONCE).then_some(n + 1);
        let taken = self
            .door
            .refusals_under_way
            .fetch_update(Relaxed, Relaxed, one_more);
        taken.is_ok()
    }

    fn permit(self: &Arc<Self>) -> Option<Permit> {
        // Counted before the check, so that two cores at the limit cannot both pass.
        let permit = Permit(self.clone());
        let before = self.door.connections.fetch_add(1, Relaxed);
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
        self.0.door.connections.fetch_sub(1, Relaxed);
        self.0.metrics.active.decrement(1.0);
    }
}

impl ClientConnection {
    fn new(
        worker: Arc<Worker>,
        door: &Door,
        address: SocketAddr,
        permit: Permit,
        admitted: ConnectionPermit,
    ) -> Self {
        let listener = permit.0.clone();
        let trusted = listener.trusted().contains(address.ip());
        Self {
            hop: Hop::new(address.ip(), false, trusted),
            held: door.lifelines.hold(),
            lifelines: door.lifelines.clone(),
            address_text: if worker.log.is_on() {
                address.to_string().into()
            } else {
                Box::default()
            },
            worker,
            listener,
            address,
            told: None,
            tls: None,
            _permit: permit,
            admitted,
        }
    }

    /// Reads who the client is, where a proxy in front may say so, and counts it for that address.
    async fn introduce(&mut self, stream: &mut TcpStream) -> Result<(), Refusal> {
        let listener = self.listener.clone();
        let policy = &listener.policy;
        let (proxy, timeout) = (&policy.proxy_protocol, policy.detect_timeout);
        let peer = self.address;
        let stop = self.worker.stop.clone();
        let read = tokio::select! {
            read = proxy_in::read(stream, proxy, peer.ip(), timeout) => read,
            () = detect::out_of_time(&stop) => Err(ProxyError::Slow),
        };
        let told = read.map_err(|err| listener.refuse_header(peer, &err))?;
        if let Some(addresses) = told.as_ref().and_then(|it| it.addresses) {
            self.rename(addresses.source);
        }
        self.told = told.map(Box::new);
        let claimed = self.admitted.claim(self.address.ip());
        claimed.map_err(|err| listener.refuse(peer, err))
    }

    /// Its TLS was ended: what it asks for it asks for by `https`.
    pub(crate) fn is_secured(&mut self, facts: tls::Facts) {
        self.tls = Some(facts.into());
        self.hop = self.new_hop();
    }

    fn new_hop(&self) -> Hop {
        let address = self.address.ip();
        let trusted = self.listener.trusted().contains(address);
        Hop::new(address, self.tls.is_some(), trusted)
    }

    fn rename(&mut self, address: SocketAddr) {
        self.address = address;
        self.hop = self.new_hop();
        if self.worker.log.is_on() {
            self.address_text = address.to_string().into();
        }
    }

    /// What a trusted proxy said of the client, where one did.
    pub(crate) fn told(&self) -> Option<&ProxyHeader> {
        self.told.as_deref()
    }

    /// What its TLS established, where it was ended here.
    pub(crate) fn tls(&self) -> Option<&tls::Facts> {
        self.tls.as_deref()
    }

    /// One of its requests, as limits see it.
    pub(crate) fn asks<'a>(&'a self, route: &'a str, class: Class) -> Asks<'a> {
        Asks {
            source: self.address.ip(),
            listener: self.listener.name.as_str(),
            route,
            class,
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

    /// Where whatever goes on beside this connection is watched together with it.
    pub(crate) fn lifelines(&self) -> &Arc<Lifelines> {
        &self.lifelines
    }

    pub(crate) fn lifeline(&self) -> &Arc<Lifeline> {
        &self.held.lifeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It lives as long as its client is connected, mostly idle.
    #[test]
    fn a_connection_is_small_while_it_idles() {
        fn size_of_future<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let size = size_of_future(serve);
        assert!(size <= 896, "{size} bytes");
    }
}
