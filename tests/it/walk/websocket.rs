//! WebSockets pass through, from a client on HTTP/1.1 and from one on HTTP/2; no other change of protocol does.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Version};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tests::{
    cluster::{Balancer, Setup},
    origin::{Dialogue, Origin, web::Speaks},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::client::{Client, HOST, nothing};

/// The key of RFC 6455 §1.3 and what it is answered with.
const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: app.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn frames_pass_from_a_client_on_http1() {
    let (balancer, origin) = before_echo().await;
    let stream = TcpStream::connect(balancer.entry()).await;
    let stream = stream.expect("the balancer listens");
    let (socket, response) = client_async(format!("ws://{HOST}/ws"), stream)
        .await
        .expect("the node agrees");
    assert_eq!(response.status(), 101);
    converse(socket).await;
    origin.await.expect("the node's side ends well");
    let line = balancer.line("/ws").await;
    assert_eq!(
        (&line["status"], &line["ended"]),
        (&101.into(), &"tunnel_closed".into())
    );
}

#[tokio::test]
async fn frames_pass_from_a_client_on_http2() {
    let (balancer, origin) = before_echo().await;
    let mut client = client_on_http2(&balancer).await;
    let response = client.send(extended_connect("/ws")).await;
    let response = response.expect("the balancer answers");
    assert_eq!(response.status(), 200);
    let upgraded = hyper::upgrade::on(response)
        .await
        .expect("the stream is a tunnel");
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    converse(socket).await;
    origin.await.expect("the node's side ends well");
    let line = balancer.line("/ws").await;
    assert_eq!(
        (&line["protocol"], &line["ended"]),
        (&"h2".into(), &"tunnel_closed".into())
    );
}

/// A server may speak as soon as it has agreed: in the very packet.
#[tokio::test]
async fn what_a_node_says_with_its_agreement_is_not_lost() {
    let (mut client, origin, _balancer) = raw().await;
    client.say(HANDSHAKE).await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(format!("{AGREED}first words")).await;
    let head = client.head().await;
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade").as_deref(), Some("websocket"));
    client.hears("first words").await;
    client.say("an answer").await;
    node.hears("an answer").await;
}

#[tokio::test]
async fn what_a_client_says_with_its_handshake_is_not_lost() {
    let (mut client, origin, _balancer) = raw().await;
    client.say(format!("{HANDSHAKE}too eager")).await;
    let mut node = origin.visit().await;
    let head = node.head().await;
    assert_eq!(head.field("connection").as_deref(), Some("upgrade"));
    assert_eq!(
        head.field("sec-websocket-key").as_deref(),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    node.say(AGREED).await;
    node.hears("too eager").await;
}

#[tokio::test]
async fn each_side_may_end_first() {
    let (mut client, origin, _balancer) = raw().await;
    client.say(HANDSHAKE).await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(AGREED).await;
    assert_eq!(client.head().await.status(), 101);
    client.fall_silent().await;
    assert_eq!(node.rest().await, b"");
    node.say("last words").await;
    drop(node);
    assert_eq!(client.rest().await, b"last words");
}

#[tokio::test]
async fn a_refusal_is_passed_on_and_the_connection_goes_on() {
    let (mut client, origin, balancer) = raw().await;
    client.say(HANDSHAKE).await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
        .await;
    assert_eq!(client.head().await.status(), 403);
    client.hears("no").await;
    client.say("GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = next_request(&origin, node).await;
    node.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 204);
    assert_eq!(balancer.line("/ws").await["ended"], "completed");
}

#[tokio::test]
async fn a_refusal_is_passed_on_to_http2() {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    // The first answer brings the settings, which allow to ask at all.
    client
        .send(request_to_nowhere(&client))
        .await
        .expect("the balancer answers");
    let node = async {
        let mut node = origin.visit().await;
        node.head().await;
        node.say("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
            .await;
        node
    };
    let (answer, _node) = tokio::join!(client.send(extended_connect("/ws")), node);
    assert_eq!(answer.expect("the balancer answers").status(), 403);
}

/// A node that agreed to h2c would speak a protocol that nobody here reads.
#[tokio::test]
async fn other_changes_of_protocol_are_not_asked_for() {
    for protocol in ["h2c", "foo/1", "websocket, h2c"] {
        let (mut client, origin, _balancer) = raw().await;
        client.say(format!(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: {protocol}\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
        )).await;
        let mut node = origin.visit().await;
        let head = node.head().await;
        let passed = ["upgrade", "connection", "http2-settings"].map(|it| head.field(it));
        assert_eq!(passed, [None, None, None], "{protocol}");
        node.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 204);
    }
}

#[tokio::test]
async fn nobody_is_connected_to_anywhere() {
    let (mut client, origin, balancer) = raw().await;
    client
        .say("CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(head.status(), 405);
    assert!(
        head.field("allow")
            .is_some_and(|it| !it.contains("CONNECT"))
    );
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    let request = Request::connect("a.example:443")
        .version(Version::HTTP_2)
        .body(nothing());
    let answer = client.send(request.expect("a valid request")).await;
    assert_eq!(answer.expect("the balancer answers").status(), 405);
    origin.stays_alone(Duration::from_millis(50)).await;
}

/// Small and large frames, text and bytes, a ping and the closing handshake.
pub(super) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    let large = tests::origin::web::content(1 << 20);
    for message in [
        Message::text("hello"),
        Message::binary(large),
        Message::text(""),
    ] {
        socket
            .send(message.clone())
            .await
            .expect("the tunnel is open");
        let echo = socket
            .next()
            .await
            .expect("it goes on")
            .expect("it goes well");
        assert!(echo == message, "the echo of {} bytes", message.len());
    }
    socket
        .send(Message::Ping("are you there".into()))
        .await
        .expect("the tunnel is open");
    let pong = socket
        .next()
        .await
        .expect("it goes on")
        .expect("it goes well");
    assert_eq!(pong, Message::Pong("are you there".into()));
    let reason = CloseFrame {
        code: CloseCode::Away,
        reason: "enough".into(),
    };
    socket
        .close(Some(reason.clone()))
        .await
        .expect("the tunnel is open");
    let close = socket
        .next()
        .await
        .expect("it is answered")
        .expect("it goes well");
    assert_eq!(close, Message::Close(Some(reason)));
    assert!(
        socket.next().await.is_none_or(|it| it.is_err()),
        "both sides have closed"
    );
}

async fn before_echo() -> (Balancer, JoinHandle<()>) {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    (balancer, tokio::spawn(echo(origin)))
}

/// Says back what the first visitor says, frame by frame.
pub(super) async fn echo(origin: Origin) {
    let stream = origin.silent_visit().await.into_stream();
    let mut socket = accept_async(stream).await.expect("a good handshake");
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() || message.is_binary() {
            socket.send(message).await.expect("the tunnel is open");
        }
    }
}

/// Connected, and told by the balancer that it may ask for WebSockets.
async fn client_on_http2(balancer: &Balancer) -> Client {
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    let request = request_to_nowhere(&client);
    let answer = client.send(request).await.expect("the balancer answers");
    assert_eq!(answer.status(), 405);
    client
}

/// It is refused by the balancer itself, so that no node sees it.
pub(super) fn request_to_nowhere(client: &Client) -> Request<super::client::Body> {
    let request = client.request(Method::CONNECT, "").uri("a.example:443");
    request.body(nothing()).expect("a valid request")
}

pub(super) fn extended_connect(path: &str) -> Request<super::client::Body> {
    let request = Request::connect(format!("http://{HOST}{path}"))
        .version(Version::HTTP_2)
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(nothing());
    request.expect("a valid request")
}

/// The node may be asked on the same connection or on another one.
async fn next_request(origin: &Origin, mut node: Dialogue) -> Dialogue {
    tokio::select! {
        mut other = origin.visit() => {
            other.head().await;
            other
        }
        _ = node.head() => node,
    }
}

async fn raw() -> (Dialogue, Origin, Balancer) {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let client = Dialogue::with(balancer.entry()).await;
    (client, origin, balancer)
}
