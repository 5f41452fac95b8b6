//! How things end: at a limit, because somebody went away, or because the balancer was told to; and what is written down about it.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Dialogue, End, Origin,
        web::{Speaks, Web},
    },
};

use super::client::{Client, collect, nothing};

const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn connections_over_the_limit_are_told_to_come_back() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).listening("max_connections = 2");
    let balancer = setup.start().await;
    let mut first = Client::connect(balancer.entry(), Speaks::Http1).await;
    let mut second = Client::connect(balancer.entry(), Speaks::Http2).await;
    assert_eq!(first.get("/sized/1").await.status, 200);
    let _ = second
        .send(
            second
                .request(Method::GET, "/")
                .body(nothing())
                .expect("valid"),
        )
        .await;
    let mut third = Dialogue::with(balancer.entry()).await;
    let head = third.head().await;
    assert_eq!(
        (head.status(), head.field("retry-after").as_deref()),
        (503, Some("1"))
    );
    third.end().await;
    let refused =
        "colonnade_balancer_refused_connections_total{listener=\"web\",reason=\"max_connections\"}";
    assert_eq!(balancer.metric(refused).await, 1.0);
    assert_eq!(
        first.get("/sized/1").await.status,
        200,
        "who is in stays in"
    );
    drop(second);
    let active = "colonnade_balancer_active_connections{listener=\"web\"}";
    until("a place to become free", async || {
        balancer.metric(active).await == 1.0
    })
    .await;
    let mut fourth = Client::connect(balancer.entry(), Speaks::Http1).await;
    assert_eq!(fourth.get("/sized/1").await.status, 200);
}

#[tokio::test]
async fn a_line_says_all_that_is_known() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say("POST /echo?q HTTP/1.1\r\nhost: a.example:1\r\ncontent-length: 3\r\n\r\nabc")
        .await;
    client.head().await;
    client.hears("abc").await;
    let mut line = balancer.line("/echo?q").await;
    let fields = line.as_object_mut().expect("a line is an object");
    let time = fields.remove("time").expect("when");
    assert!(
        time.as_str()
            .is_some_and(|it| it.len() == 27 && it.ends_with('Z')),
        "{time}"
    );
    let number = |it: Option<Value>| {
        it.and_then(|it| it.as_u64())
            .expect("a number of microseconds")
    };
    let first_byte = number(fields.remove("first_byte_us"));
    assert!(first_byte <= number(fields.remove("duration_us")));
    assert!(
        fields
            .remove("request_id")
            .is_some_and(|it| it.as_str().is_some_and(|it| it.len() == 32))
    );
    let expected = serde_json::json!({
        "listener": "web",
        "client": client.local_addr().to_string(),
        "method": "POST",
        "host": "a.example:1",
        "path": "/echo?q",
        "protocol": "http/1.1",
        "status": 200,
        "route": "route-0",
        "service": "app",
        "node": origin.address().to_string(),
        "tries": 1,
        "received_bytes": 3,
        "sent_bytes": 3,
        "ended": "completed",
    });
    assert_eq!(line, expected);
}

#[tokio::test]
async fn a_request_that_cannot_be_read_as_one_is_written_down() {
    let (mut client, _origin, balancer) = between("").await;
    client
        .say("GET /bad HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 400);
    let line = balancer.line("/bad").await;
    assert_eq!(
        (&line["ended"], &line["status"], &line["node"]),
        (&"bad_request".into(), &400.into(), &Value::Null)
    );
}

#[tokio::test]
async fn a_client_that_leaves_early_is_told_apart() {
    let (mut client, origin, balancer) = between("").await;
    client.say("GET /left HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        .await;
    client.head().await;
    client.crash();
    node.end().await;
    assert_eq!(balancer.line("/left").await["ended"], "client_gone");

    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET /before HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    client.crash();
    node.end().await;
    assert_eq!(balancer.line("/before").await["ended"], "client_gone");
}

/// A killed program's sockets are closed in order, or reset when there was something left to read.
#[tokio::test]
async fn a_node_that_breaks_off_is_not_taken_for_one_that_is_done() {
    for is_reset in [false, true] {
        for (path, head) in [
            ("/length", "content-length: 100"),
            ("/chunks", "transfer-encoding: chunked"),
        ] {
            let (mut client, origin, balancer) = between("").await;
            client
                .say(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
                .await;
            let mut node = origin.visit().await;
            node.head().await;
            node.say(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"))
                .await;
            client.head().await;
            client.hear_until("hello").await;
            if is_reset {
                node.crash();
            } else {
                drop(node);
            }
            let (rest, _) = client.end().await;
            assert!(
                !rest.ends_with(b"0\r\n\r\n"),
                "{path}: {}",
                rest.escape_ascii()
            );
            assert_eq!(balancer.line(path).await["ended"], "node_cut");
        }
    }
}

#[tokio::test]
async fn a_client_on_http2_sees_that_an_answer_broke_off() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("protocol = 'http1'");
    let balancer = setup.start().await;
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
        let request = client.request(Method::GET, "/cut").body(nothing());
        let node = async {
            let mut node = origin.visit().await;
            node.head().await;
            node.say(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"))
                .await;
            node
        };
        let (answer, node) = tokio::join!(client.send(request.expect("a valid request")), node);
        node.crash();
        let answer = collect(answer.expect("the head came")).await;
        assert!(answer.is_err(), "{head}: {answer:?}");
    }
}

#[tokio::test]
async fn leaving_lets_work_end_and_closes_what_is_idle() {
    let (mut busy, origin, mut balancer) = between("drain_deadline = '10s'").await;
    let mut idle = Dialogue::with(balancer.entry()).await;
    idle.say("GET /idle HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(idle.head().await.status(), 204);
    busy.say("GET /busy HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(node.head().await.first_line(), "GET /busy HTTP/1.1");
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        .await;
    busy.head().await;
    busy.hears("half").await;
    let began = Instant::now();
    balancer.process().terminate().expect("it runs");
    assert_eq!(
        idle.end().await,
        (Vec::new(), End::Closed),
        "an idle connection is closed after a moment in which it could have asked once more"
    );
    until("new connections to be refused", async || {
        tokio::net::TcpStream::connect(balancer.entry())
            .await
            .is_err()
    })
    .await;
    node.say("half").await;
    assert_eq!(busy.rest().await, b"half", "what is under way ends well");
    let status = balancer.exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "it must not wait for the deadline: {:?}",
        began.elapsed()
    );
    let line = balancer.line("/busy").await;
    assert_eq!(
        line["ended"], "completed",
        "the last line must be written too"
    );
}

#[tokio::test]
async fn leaving_ends_what_outlives_the_deadline() {
    let (mut client, origin, mut balancer) = between("drain_deadline = '500ms'").await;
    client.say("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        .await;
    client.head().await;
    let began = Instant::now();
    balancer.process().terminate().expect("it runs");
    client.end().await;
    assert!(
        began.elapsed() >= Duration::from_millis(450),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(balancer.exit(PATIENCE).await.code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn leaving_cuts_a_tunnel_at_the_deadline() {
    let (mut client, origin, mut balancer) = between("drain_deadline = '300ms'").await;
    client.say("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await;
    assert_eq!(client.head().await.status(), 101);
    balancer.process().terminate().expect("it runs");
    client.say("still open").await;
    node.hears("still open").await;
    client.end().await;
    assert_eq!(balancer.exit(PATIENCE).await.code(), Some(0));
    assert_eq!(balancer.line("/ws").await["ended"], "tunnel_cut");
}

#[tokio::test]
async fn leaving_lets_a_stream_of_http2_end() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("protocol = 'http1'");
    let mut balancer = setup.start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    let request = client.request(Method::GET, "/stream").body(nothing());
    let answer = client.send(request.expect("a valid request"));
    let node = async {
        let mut node = origin.visit().await;
        node.head().await;
        balancer.process().terminate().expect("it runs");
        node.stays_silent(Duration::from_millis(100)).await;
        node.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
        node
    };
    let (answer, _node) = tokio::join!(answer, node);
    let answer = collect(answer.expect("the stream goes on")).await;
    assert_eq!(answer.expect("the answer is whole").text(), "ok");
    assert_eq!(balancer.exit(PATIENCE).await.code(), Some(0));
}

async fn between(top: &str) -> (Dialogue, Origin, Balancer) {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).top(top).start().await;
    let client = Dialogue::with(balancer.entry()).await;
    (client, origin, balancer)
}
