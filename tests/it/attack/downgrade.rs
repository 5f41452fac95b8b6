//! Requests of HTTP/2 that would become two requests, or another one, when they are written down as HTTP/1.1.

use tests::raw::{
    frame::{Frame, flag},
    hpack::Block,
    http2::{Outcome, Peer},
    recorder::{Event, Recorder},
};

use super::world::{ANY_GROWTH, World};

const EVIL: &str = "GET /victim/evil HTTP/1.1\r\nhost: a\r\n\r\n";

/// Each a field, or a pseudo-field that takes the place of the honest one.
const FIELDS: &[(&str, &str)] = &[
    (
        ":path",
        "/victim HTTP/1.1\r\nhost: evil\r\n\r\nGET /victim/evil",
    ),
    (":path", "/victim HTTP/1.1"),
    (":path", "/victim\r\nx: y"),
    (":path", "/victim\nx: y"),
    (":path", "/victim\rx"),
    (":path", "/victim\0"),
    (":path", "/victim x"),
    (":path", "/victim\tx"),
    (":path", "victim"),
    (":path", "http://evil/victim"),
    (":path", ""),
    (":path", "*"),
    (":method", "GET /victim/evil HTTP/1.1\r\nhost: a\r\n\r\nGET"),
    (":method", "GET /victim"),
    (":method", "GET\r\n"),
    (":method", "GET\0"),
    (":method", ""),
    (":method", "CONNECT"),
    (":authority", "app.example\r\nx: y"),
    (
        ":authority",
        "app.example\r\n\r\nGET /victim/evil HTTP/1.1\r\nhost: a",
    ),
    (":authority", "app.example\nx: y"),
    (":authority", "app.example\0"),
    (":authority", "app.example x"),
    (":authority", "app.example/victim"),
    (":authority", "user@app.example"),
    (":authority", ""),
    (":scheme", "http://evil/victim?x="),
    (":scheme", "http\r\nx: y"),
    (":scheme", ""),
    (":protocol", "websocket"),
    (":status", "200"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "identity"),
    ("Transfer-Encoding", "chunked"),
    ("transfer-encoding\r\n", "chunked"),
    ("transfer-encoding ", "chunked"),
    ("connection", "keep-alive"),
    ("connection", "content-length"),
    ("proxy-connection", "keep-alive"),
    ("keep-alive", "timeout=5"),
    ("upgrade", "websocket"),
    ("te", "gzip"),
    ("host", "evil"),
    ("host", "app.example\r\nx: y"),
    ("x", "y\r\nz: w"),
    ("x", "y\r\n\r\nGET /victim/evil HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("x", "y\nz: w"),
    ("x", "y\rz"),
    ("x", "y\0z"),
    ("x\r\ny", "z"),
    ("x: y\r\nz", "w"),
    ("x:", "y"),
    ("x y", "z"),
    ("x\0", "y"),
    ("X", "y"),
    ("", "y"),
    ("cookie", "a=b\r\nx: y"),
    ("content-length", "3"),
    ("content-length", "0\r\ntransfer-encoding: chunked"),
    ("content-length", "+0"),
    ("content-length", "0, 0, 1"),
];

#[tokio::test]
async fn fields_that_would_become_lines() {
    let recorder = Recorder::start().await;
    let world = World::with_victim(recorder.address(), "", "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for (name, value) in FIELDS {
                let mut peer = Peer::connect(balancer.entry()).await;
                let asked = Frame::headers(1, flag::END_STREAM, with(name, value));
                peer.say(&[asked]).await;
                is_refused(&mut peer, &format!("{name:?}: {value:?}")).await;
                let seen = recorder.take();
                assert_eq!(seen, [], "{name:?}: {value:?} reached the node");
            }
        })
        .await;
}

/// The length says less or more than there is, and what is there looks like a request.
#[tokio::test]
async fn lengths_that_differ_from_the_body() {
    let recorder = Recorder::start().await;
    let world = World::with_victim(recorder.address(), "", "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for length in ["0", "1", "10", "10000"] {
                let mut peer = Peer::connect(balancer.entry()).await;
                let block = Block::request("POST", "/victim").field("content-length", length);
                let frames = [
                    Frame::headers(1, flag::NONE, block),
                    Frame::data(1, flag::END_STREAM, EVIL),
                ];
                peer.say(&frames).await;
                is_refused(&mut peer, length).await;
                nothing_whole(&recorder, length);
            }
        })
        .await;
}

/// Trailers become lines too.
#[tokio::test]
async fn trailers_that_would_become_lines() {
    let recorder = Recorder::start().await;
    let world = World::with_victim(recorder.address(), "", "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for (name, value) in [
                ("x", "y\r\n\r\nGET /victim/evil HTTP/1.1\r\nhost: a\r\n\r\n"),
                ("x\r\ny", "z"),
                ("x", "y\0"),
                ("connection", "close"),
                ("transfer-encoding", "chunked"),
            ] {
                let mut peer = Peer::connect(balancer.entry()).await;
                let frames = [
                    Frame::headers(1, flag::NONE, Block::request("POST", "/victim")),
                    Frame::data(1, flag::NONE, b"abc"),
                    Frame::headers(1, flag::END_STREAM, Block::new().field(name, value)),
                ];
                peer.say(&frames).await;
                is_refused(&mut peer, name).await;
                nothing_whole(&recorder, name);
            }
        })
        .await;
}

/// A body that looks like chunks, or like a request, is a body.
#[tokio::test]
async fn bodies_that_look_like_requests() {
    let recorder = Recorder::start().await;
    let world = World::with_victim(recorder.address(), "", "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for body in [EVIL.to_owned(), format!("0\r\n\r\n{EVIL}")] {
                let mut peer = Peer::connect(balancer.entry()).await;
                let frames = [
                    Frame::headers(1, flag::NONE, Block::request("POST", "/victim")),
                    Frame::data(1, flag::END_STREAM, &body),
                ];
                peer.say(&frames).await;
                assert_eq!(peer.answer(1).await.status, 200);
                let seen = recorder.take();
                let [Event::Whole(request)] = seen.as_slice() else {
                    panic!("one request was sent: {seen:?}");
                };
                assert_eq!(request.body, body.as_bytes());
            }
        })
        .await;
}

/// The pseudo-fields of a request with one of them replaced, or with a field behind them.
fn with(name: &str, value: &str) -> Block {
    let honest = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/victim"),
        (":authority", "app.example"),
    ];
    let mut block = Block::new();
    for (it, usual) in honest {
        block = block.field(it, if it == name { value } else { usual });
    }
    if honest.iter().any(|it| it.0 == name) {
        block
    } else {
        block.field(name, value)
    }
}

async fn is_refused(peer: &mut Peer, what: &str) {
    let outcome = peer.outcome(1).await;
    let refused = match outcome {
        Outcome::Answered(status) => (400..=501).contains(&status),
        Outcome::Reset(_) | Outcome::GoneAway(..) => true,
        Outcome::Closed | Outcome::Nothing => false,
    };
    assert!(refused, "{outcome:?} for {what}");
}

fn nothing_whole(recorder: &Recorder, what: &str) {
    let whole = |it: &Event| !matches!(it, Event::CutShort(_));
    let seen = recorder.take();
    assert!(!seen.iter().any(whole), "{what} reached the node: {seen:?}");
}
