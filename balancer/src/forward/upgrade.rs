//! WebSocket pass-through: the handshake is forwarded, then bytes are relayed and nobody looks at frames.
//!
//! A client on HTTP/1.1 asks with `Upgrade` (RFC 6455 §4), one on HTTP/2 with an extended `CONNECT` (RFC 8441); nodes are always asked on
//! a fresh HTTP/1.1 connection. Any other upgrade is not passed on: a node that agreed to it would speak a protocol that nobody here checks.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use balancer_core::{
    affinity::Asked,
    forwarded::{self, Wire},
    message::{Known, Request, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode, Version};
use sha1::{Digest, Sha1};

use super::{
    Dial, answer,
    http::{Answered, Talk},
    reach,
    tcp::Relay,
    upload::Upload,
};
use crate::{
    dial::Node,
    lifeline::Lifeline,
    observe::{Ended, Exchange},
    pick::{Lease, Service},
    rescue::Failure,
    side::{Http1, Side, SideError, poll_pass},
    tls::Speak,
};

/// RFC 6455 §1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request to become a WebSocket.
pub(super) struct Wanted {
    /// The client spoke HTTP/2: the handshake's key is made here, and this is the answer to it.
    accept: Option<String>,
}

/// A handshake in the form in which a node gets it.
pub(super) struct Wish {
    service: Arc<Service>,
    asked: Asked,
    wanted: Wanted,
    head: Request,
}

/// How a handshake ends well.
pub(super) enum Forwarded {
    /// The node does not want to.
    Answered(Box<Answered>),
    Switched(Box<Tunnel>),
}

/// A node that agreed, and the client that asked it.
pub(crate) struct Tunnel {
    node: Http1,
    _lease: Lease,
    idle_timeout: Duration,
    /// Here while the tunnel does not run in the exchange itself.
    pub(super) record: Option<Exchange>,
}

/// Recognises a WebSocket handshake, and gives it the form that HTTP/1.1 has for it.
pub(super) fn wanted(head: &mut Request) -> Option<Wanted> {
    if head.version == Version::HTTP_2 {
        return wanted_on_http2(head);
    }
    let asks = head.fields.has(Known::Upgrade)
        && forwarded::Exchange::of(head) == forwarded::Exchange::Upgrade
        && head.method == Method::GET
        && head
            .fields
            .only(Known::Upgrade)
            .is_some_and(|it| it.eq_ignore_ascii_case(b"websocket"));
    asks.then_some(Wanted { accept: None })
}

fn wanted_on_http2(head: &mut Request) -> Option<Wanted> {
    if head.method != Method::CONNECT || !head.is_extended_connect {
        return None;
    }
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    let accept = accept_for(&key);
    head.method = Method::GET;
    head.fields.set(Known::Upgrade, b"websocket");
    head.fields.set(Known::Connection, b"upgrade");
    head.fields.set(Known::SecWebsocketKey, key.as_bytes());
    // The stream's bytes are the tunnel's, not a body's.
    head.framing = balancer_core::message::Framing::Empty;
    Some(Wanted {
        accept: Some(accept),
    })
}

fn accept_for(key: &str) -> String {
    STANDARD.encode(
        Sha1::new()
            .chain_update(key)
            .chain_update(ACCEPT_GUID)
            .finalize(),
    )
}

/// Rewrites the handshake for a node.
pub(super) fn wish(
    talk: &mut Talk<'_>,
    service: Arc<Service>,
    asked: Asked,
    wanted: Wanted,
    mut head: Request,
) -> Result<Wish, Failure> {
    talk.mark(&mut head, forwarded::Exchange::Upgrade);
    forwarded::aim(&mut head, Wire::Http1)?;
    Ok(Wish {
        service,
        asked,
        wanted,
        head,
    })
}

/// Passes the handshake to a node and its answer back.
pub(super) async fn forward(talk: &mut Talk<'_>, mut wish: Wish) -> Result<Forwarded, Failure> {
    let (node, response, lease, latency) = shake_hands(talk, &mut wish).await?;
    if response.status != StatusCode::SWITCHING_PROTOCOLS {
        if wish.wanted.accept.is_some() && response.status.is_success() {
            // On HTTP/1.1 it agrees to nothing, and on HTTP/2 it would agree to a tunnel.
            return Err(Failure::BadHandshake);
        }
        return Ok(Forwarded::Answered(Box::new(Answered {
            response,
            node,
            lease,
            service: wish.service,
            upload: Upload::new(false, 0, None),
            latency,
        })));
    }
    let node = switch(talk, &wish, response, node)?;
    Ok(Forwarded::Switched(Box::new(Tunnel {
        node,
        _lease: lease,
        idle_timeout: wish.service.policy.tunnel_idle_timeout,
        record: None,
    })))
}

/// Asks a node on a connection of its own. What it does with the question is its answer: a handshake is not asked twice.
async fn shake_hands(
    talk: &mut Talk<'_>,
    wish: &mut Wish,
) -> Result<(Node, Response, Lease, Duration), Failure> {
    let service = &wish.service;
    let record = &mut talk.record;
    let tell = |it: Dial<'_>| record.dialled(it);
    let dial = (Speak::Http1, &[][..]);
    let (stream, lease) = reach(talk.client, service, &wish.asked, dial, tell).await?;
    let mut node = lease.upstream.node_on(stream);
    talk.record.tell_trace(&mut wish.head);
    node.ask(&wish.head);
    talk.lifeline.within(service.policy.response_head_timeout);
    let answered = poll_fn(|cx| poll_handshake(cx, talk, &mut node)).await;
    talk.lifeline.until(None);
    match answered {
        Err(Failure::Gone(_)) => {
            let worker = talk.client.worker();
            worker.suspect(service, &lease.upstream.endpoint);
        }
        Err(Failure::Silent) => service.unanswered(&lease),
        _ => {}
    }
    let mut response = answered?;
    let latency = service.answered(&lease, Some(response.status));
    talk.record.try_answered(&lease, response.status, latency);
    service.promise(&wish.asked, &lease, &mut response.fields);
    Ok((node, response, lease, latency))
}

fn poll_handshake(
    cx: &mut Context<'_>,
    talk: &mut Talk<'_>,
    node: &mut Node,
) -> Poll<Result<Response, Failure>> {
    talk.lifeline.register(cx);
    if talk.lifeline.is_cut() {
        return Poll::Ready(Err(Failure::Drained));
    }
    if talk.lifeline.is_due() {
        return Poll::Ready(Err(Failure::Silent));
    }
    // A failure to write shows again when the answer is read.
    let _ = node.side.poll_flush(cx);
    while let Poll::Ready(answer) = node.poll_answer(cx, true) {
        let head = answer.map_err(Failure::Gone)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS || !head.status.is_informational() {
            return Poll::Ready(Ok(head));
        }
    }
    match talk.side.poll_gone(cx) {
        Poll::Ready(()) => Poll::Ready(Err(Failure::ClientGone)),
        Poll::Pending => Poll::Pending,
    }
}

/// Tells the client that its connection, or its stream, is a tunnel from here on.
fn switch(
    talk: &mut Talk<'_>,
    wish: &Wish,
    mut response: Response,
    node: Node,
) -> Result<Http1, Failure> {
    forwarded::response(&mut response);
    if let Some(expected) = &wish.wanted.accept {
        let accepted = response.fields.only(Known::SecWebsocketAccept);
        if accepted != Some(expected.as_bytes()) {
            return Err(Failure::BadHandshake);
        }
        // HTTP/2 has no 101: the stream itself becomes the tunnel (RFC 8441 §5).
        response.status = StatusCode::OK;
        response.framing = balancer_core::message::Framing::Stream;
        for known in [Known::SecWebsocketAccept, Known::Upgrade, Known::Connection] {
            response.fields.remove(known);
        }
    }
    talk.record.answered(response.status);
    answer::send_switch(talk, &response).map_err(Failure::BadAnswer)?;
    let mut node = node.into_http1().ok_or(Failure::BadHandshake)?;
    node.becomes_tunnel();
    talk.record.becomes_tunnel();
    Ok(node)
}

impl Tunnel {
    /// Relays between the node and a client that has a connection of its own, until either ends it.
    pub(crate) async fn run(self: Box<Self>, client: Http1, lifeline: &Lifeline) {
        let Self {
            node,
            _lease: lease,
            idle_timeout,
            record,
        } = *self;
        let ended = relay(client, node, Bytes::new(), idle_timeout, lifeline).await;
        drop(lease);
        if let Some(mut record) = record {
            record.end(ended);
        }
    }

    /// Relays between the node and a client's stream.
    pub(super) async fn run_on_stream(
        self: Box<Self>,
        client: &mut Side,
        lifeline: &Lifeline,
    ) -> Ended {
        let mut node = Side::Http1(self.node);
        relay_sides(client, &mut node, self.idle_timeout, lifeline).await
    }
}

/// Relays until both have ended, straight from socket to socket where nothing lies between. `first` goes to the node before all else.
pub(super) async fn relay(
    mut client: Http1,
    mut node: Http1,
    first: Bytes,
    idle_timeout: Duration,
    lifeline: &Lifeline,
) -> Ended {
    // What was said before the tunnel, such as the answer that began it, goes first.
    lifeline.within(idle_timeout);
    if poll_fn(|cx| poll_first_words(cx, &mut client, lifeline))
        .await
        .is_err()
    {
        return Ended::ClientGone;
    }
    let to_node = [&first, client.read_ahead()].concat();
    let to_client = Bytes::copy_from_slice(node.read_ahead());
    if let (Some(client_socket), Some(node_socket)) = (
        client.stream_mut().as_plain_mut(),
        node.stream_mut().as_plain_mut(),
    ) {
        return Relay::new(client_socket, node_socket, to_node.into(), to_client)
            .run(lifeline, idle_timeout)
            .await;
    }
    client.becomes_tunnel();
    node.becomes_tunnel();
    node.put(&first);
    let (mut client, mut node) = (Side::Http1(client), Side::Http1(node));
    relay_sides(&mut client, &mut node, idle_timeout, lifeline).await
}

fn poll_first_words(
    cx: &mut Context<'_>,
    client: &mut Http1,
    lifeline: &Lifeline,
) -> Poll<std::io::Result<()>> {
    lifeline.register(cx);
    if lifeline.is_cut() || lifeline.is_due() {
        return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
    }
    client.poll_flush(cx)
}

async fn relay_sides(
    client: &mut Side,
    node: &mut Side,
    idle_timeout: Duration,
    lifeline: &Lifeline,
) -> Ended {
    let (mut up, mut down) = (Half::default(), Half::default());
    lifeline.within(idle_timeout);
    poll_fn(|cx| {
        lifeline.register(cx);
        if lifeline.is_cut() || lifeline.is_due() {
            return Poll::Ready(Ended::TunnelCut);
        }
        let moved = up.moved + down.moved;
        let polled = (up.poll(cx, client, node), down.poll(cx, node, client));
        if up.moved + down.moved > moved {
            lifeline.within(idle_timeout);
        }
        match polled {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::TunnelClosed),
            (Poll::Ready(Err(err)), _) | (_, Poll::Ready(Err(err))) => {
                tracing::debug!(%err, "a tunnel broke");
                Poll::Ready(Ended::TunnelClosed)
            }
            _ => Poll::Pending,
        }
    })
    .await
}

/// One direction of a tunnel.
#[derive(Default)]
struct Half {
    moved: u64,
    is_over: bool,
}

impl Half {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side,
        to: &mut Side,
    ) -> Poll<Result<(), SideError>> {
        while !self.is_over {
            match from.poll_data(cx)? {
                Poll::Ready(0) => {
                    std::task::ready!(to.poll_flush(cx))?;
                    std::task::ready!(to.poll_end_writing(cx))?;
                    self.is_over = true;
                }
                Poll::Ready(_) => {
                    self.moved += std::task::ready!(poll_pass(cx, from, to, |_| {}))? as u64;
                }
                Poll::Pending => {
                    std::task::ready!(to.poll_flush(cx))?;
                    from.rest();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::accept_for;

    #[test]
    fn the_answer_to_the_key_of_rfc_6455_section_1_3() {
        assert_eq!(
            accept_for("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
