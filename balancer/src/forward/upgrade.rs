//! WebSocket pass-through: the handshake is forwarded, then bytes are relayed and nobody looks at frames.
//!
//! A client on HTTP/1.1 asks with `Upgrade` (RFC 6455 §4), one on HTTP/2 with an extended `CONNECT` (RFC 8441); nodes are always asked on
//! a fresh HTTP/1.1 connection. Any other upgrade is not passed on: a node that agreed to it would speak a protocol that nobody here checks.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use balancer_core::forwarded::{self, Wire};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::{
    ext::Protocol,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    body::{RequestBody, ResponseBody},
    http::{Answer, Forwarded},
    reach,
    tcp::Relay,
};
use crate::{
    accept::ClientConnection,
    dial::{Connection, Upstream},
    lifeline::{Held, Lifeline, Order, Patience},
    observe::{Ended, Exchange},
    pick::{Lease, Service},
    rescue::Failure,
    stream::{ClientStream, NodeStream},
};

/// RFC 6455 §1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Buffer per direction of a tunnel whose client is a stream of an HTTP/2 connection.
const STREAM_BUFFER_BYTES: usize = 8 << 10;

/// A request to become a WebSocket.
pub(crate) struct Wanted {
    on_client: OnUpgrade,
    /// The client spoke HTTP/2: the handshake's key is made here, and this is the answer to it.
    accept: Option<String>,
}

/// A node that agreed, and the answer that says so.
pub(crate) struct Switched {
    answer: Response<()>,
    tunnel: Tunnel,
}

struct Tunnel {
    client: Arc<ClientConnection>,
    held: Held,
    lease: Lease,
    on_client: OnUpgrade,
    on_node: OnUpgrade,
}

/// Recognises a WebSocket handshake, and gives it the form that HTTP/1.1 has for it.
pub(crate) fn wanted(parts: &mut Parts) -> Option<Wanted> {
    if parts.version == Version::HTTP_2 {
        return wanted_on_http2(parts);
    }
    let asks = forwarded::Exchange::of(parts) == forwarded::Exchange::Upgrade
        && parts.method == Method::GET
        && parts.headers.get(header::UPGRADE).is_some_and(is_websocket);
    let on_client = asks
        .then(|| parts.extensions.remove::<OnUpgrade>())
        .flatten()?;
    Some(Wanted {
        on_client,
        accept: None,
    })
}

fn wanted_on_http2(parts: &mut Parts) -> Option<Wanted> {
    let protocol = parts.extensions.get::<Protocol>()?;
    if parts.method != Method::CONNECT || protocol.as_str() != "websocket" {
        return None;
    }
    let on_client = parts.extensions.remove::<OnUpgrade>()?;
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    let accept = accept_for(&key);
    parts.method = Method::GET;
    parts
        .headers
        .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    parts
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let key = HeaderValue::try_from(key).ok()?;
    parts.headers.insert(header::SEC_WEBSOCKET_KEY, key);
    Some(Wanted {
        on_client,
        accept: Some(accept),
    })
}

fn is_websocket(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"websocket")
}

fn accept_for(key: &str) -> String {
    STANDARD.encode(
        Sha1::new()
            .chain_update(key)
            .chain_update(ACCEPT_GUID)
            .finalize(),
    )
}

/// A handshake in the form in which a node gets it.
pub(crate) struct Wish {
    service: Arc<Service>,
    wanted: Wanted,
    parts: Parts,
}

/// Rewrites the handshake for a node.
///
/// A handshake has no body; one that comes all the same is not read, and would corrupt the tunnel's beginning.
pub(crate) fn wish(
    client: &ClientConnection,
    service: &Arc<Service>,
    wanted: Wanted,
    mut parts: Parts,
    exchange: &mut Exchange,
) -> Result<Wish, Failure> {
    parts.headers.remove(header::CONTENT_LENGTH);
    let id = client.worker().with_rng(|rng| {
        client
            .hop
            .request(&mut parts, forwarded::Exchange::Upgrade, rng)
    });
    exchange.note(|line| line.request_id = Some(id.into()));
    forwarded::aim(&mut parts, Wire::Http1)?;
    Ok(Wish {
        service: service.clone(),
        wanted,
        parts,
    })
}

/// Passes the handshake to a node and its answer back.
pub(crate) async fn forward(
    client: &Arc<ClientConnection>,
    wish: &mut Wish,
    exchange: &mut Exchange,
) -> Result<Forwarded, Failure> {
    let answer = shake_hands(client, &wish.service, &wish.parts, exchange).await?;
    if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Forwarded::Answered(answer));
    }
    switch(client, &wish.service, &mut wish.wanted, answer)
}

/// Asks a node on a connection of its own. What it does with the question is its answer: a handshake is not asked twice.
async fn shake_hands(
    client: &ClientConnection,
    service: &Service,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Answer, Failure> {
    let (mut sender, lease) = reach(
        client,
        service,
        service.class(&parts.headers),
        Upstream::tunnel,
        |lease, tries| {
            exchange.tried(lease, tries);
        },
    )
    .await?;
    let sent = sender.send_request(request(parts));
    match tokio::time::timeout(service.policy.response_head_timeout, sent).await {
        Ok(Ok(response)) => {
            let latency = lease.answered();
            exchange.note(|line| line.first_byte = Some(latency));
            let connection = Connection::Http1 {
                sender,
                reused: false,
            };
            Ok(Answer {
                response,
                lease,
                connection,
            })
        }
        Ok(Err(err)) => {
            client.worker().suspect(service, &lease.upstream.endpoint);
            Err(Failure::Gone(err))
        }
        Err(_) => Err(Failure::Silent),
    }
}

fn request(parts: &Parts) -> Request<RequestBody> {
    let mut request = Request::new(RequestBody::empty());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    request
}

fn switch(
    client: &Arc<ClientConnection>,
    service: &Service,
    wanted: &mut Wanted,
    answer: Answer,
) -> Result<Forwarded, Failure> {
    let Answer {
        mut response,
        lease,
        ..
    } = answer;
    let on_node = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    forwarded::response(&mut parts);
    if let Some(expected) = wanted.accept.take() {
        let accepted = parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.as_ref().map(HeaderValue::as_bytes) != Some(expected.as_bytes()) {
            return Err(Failure::BadHandshake);
        }
        // HTTP/2 has no 101: the stream itself becomes the tunnel (RFC 8441 §5).
        parts.status = StatusCode::OK;
        parts.headers.remove(header::UPGRADE);
        parts.headers.remove(header::CONNECTION);
    }
    let idle = service.policy.tunnel_idle_timeout;
    let tunnel = Tunnel {
        client: client.clone(),
        held: client
            .worker()
            .lifelines
            .hold(Patience { head: idle, idle }),
        lease,
        on_client: wanted.on_client.clone(),
        on_node,
    };
    let answer = Response::from_parts(parts, ());
    Ok(Forwarded::Switched(Switched { answer, tunnel }))
}

impl Switched {
    pub(crate) fn into_response(self, mut exchange: Box<Exchange>) -> Response<ResponseBody> {
        let (parts, ()) = self.answer.into_parts();
        exchange.answered(parts.status);
        let tracker = self.tunnel.client.worker().clone();
        tracker.connections.spawn(async move {
            let ended = self.tunnel.run().await;
            exchange.end(ended);
        });
        Response::from_parts(parts, ResponseBody::none())
    }
}

impl Tunnel {
    async fn run(self) -> Ended {
        let both = tokio::try_join!(self.on_client, self.on_node);
        let ended = match both {
            Ok((client, node)) => relay(client, node, &self.held.lifeline).await,
            Err(err) => {
                tracing::debug!(%err, "a tunnel did not begin");
                Ended::ClientGone
            }
        };
        drop(self.lease);
        ended
    }
}

/// Straight from socket to socket where both sides are sockets of their own.
async fn relay(client: Upgraded, node: Upgraded, lifeline: &Lifeline) -> Ended {
    let (node, from_node) = match node.downcast::<TokioIo<NodeStream>>() {
        Ok(parts) => (parts.io.into_inner().0, parts.read_buf),
        Err(_) => return Ended::TunnelClosed,
    };
    match client.downcast::<TokioIo<ClientStream>>() {
        Ok(parts) => {
            let (socket, first) = parts.io.into_inner().into_parts();
            let from_client = [first, parts.read_buf].concat().into();
            Relay::new(&socket, &node, from_client, from_node)
                .run(lifeline)
                .await
        }
        Err(stream) => relay_stream(stream, node, from_node, lifeline).await,
    }
}

/// The client is one stream among others of an HTTP/2 connection.
async fn relay_stream(
    stream: Upgraded,
    node: TcpStream,
    from_node: Bytes,
    lifeline: &Lifeline,
) -> Ended {
    let mut stream = Watched {
        inner: TokioIo::new(stream),
        lifeline,
    };
    let mut node = std::pin::pin!(node);
    let copied = async {
        tokio::io::AsyncWriteExt::write_all(&mut stream, &from_node).await?;
        tokio::io::copy_bidirectional_with_sizes(
            &mut stream,
            &mut *node,
            STREAM_BUFFER_BYTES,
            STREAM_BUFFER_BYTES,
        )
        .await
    };
    match copied.await {
        Err(err) if err.kind() == io::ErrorKind::TimedOut => Ended::TunnelCut,
        Err(err) => {
            tracing::debug!(%err, "a tunnel broke");
            Ended::TunnelClosed
        }
        Ok(_) => Ended::TunnelClosed,
    }
}

/// A stream whose reads fail once its lifeline is cut.
struct Watched<'a> {
    inner: TokioIo<Upgraded>,
    lifeline: &'a Lifeline,
}

impl AsyncRead for Watched<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.lifeline.register(cx.waker());
        if self.lifeline.order() == Order::Cut {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.lifeline.stir();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.lifeline.stir();
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
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
