//! Informational answers: who waits for `100 Continue` sends nothing too early, and `103 Early Hints` come before the answer.

use std::time::Duration;

use bytes::BytesMut;
use tests::{
    cluster::{Balancer, Setup},
    origin::{
        Dialogue, End, Origin,
        web::{Speaks, content},
    },
};
use tokio::time::timeout;

use super::client::Client;

/// Long enough for a byte that should not come to come.
const A_WHILE: Duration = Duration::from_millis(150);

/// More than all buffers between a node and a client that does not read.
const LARGE: usize = 16 << 20;
const PIECE: usize = 128 << 10;
/// From one piece to the next, of a slow client.
const PAUSE: Duration = Duration::from_millis(5);

const EXPECTANT: &str =
    "POST /e HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn the_node_decides_when_the_body_flows() {
    let (mut client, origin, _balancer) = between().await;
    client.say(EXPECTANT).await;
    let mut node = origin.visit().await;
    assert_eq!(
        node.head().await.field("expect").as_deref(),
        Some("100-continue")
    );
    client.stays_silent(A_WHILE).await;
    node.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.hears("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.say("body").await;
    node.hears("body").await;
    node.say(DONE).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_body_sent_too_early_waits_for_the_node() {
    let (mut client, origin, _balancer) = between().await;
    client.say(format!("{EXPECTANT}body")).await;
    let mut node = origin.visit().await;
    node.head().await;
    node.stays_silent(A_WHILE).await;
    node.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    node.hears("body").await;
}

#[tokio::test]
async fn a_refusal_reaches_the_client_and_no_body_the_node() {
    let (mut client, origin, _balancer) = between().await;
    client.say(EXPECTANT).await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno")
        .await;
    let head = client.head().await;
    assert_eq!(head.status(), 417);
    client.hears("no").await;
    let (sent, _) = node.end().await;
    assert_eq!(
        sent, b"",
        "the node has said that it does not want the body"
    );
}

#[tokio::test]
async fn a_silent_node_gets_the_body_after_a_second() {
    let (mut client, origin, _balancer) = between().await;
    client.say(EXPECTANT).await;
    let mut node = origin.visit().await;
    node.head().await;
    let began = std::time::Instant::now();
    client.hears("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert!(
        began.elapsed() > Duration::from_millis(700),
        "{:?}",
        began.elapsed()
    );
    client.say("body").await;
    node.hears("body").await;
    node.say(DONE).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn early_hints_come_before_the_answer() {
    let (mut client, origin, _balancer) = between().await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
        .await;
    client
        .hears("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
        .await;
    node.say("HTTP/1.1 103 Early Hints\r\nlink: </b.css>\r\n\r\n")
        .await;
    node.say(DONE).await;
    assert_eq!(
        client.head().await.field("link").as_deref(),
        Some("</b.css>")
    );
    assert_eq!(client.head().await.status(), 200);
}

/// The client reads so slowly that the balancer still holds some of the first answer when the hints of the second come.
#[tokio::test]
async fn early_hints_do_not_mix_with_the_answers_before_them() {
    let (mut client, origin, _balancer) = between().await;
    client
        .say("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let mut node = origin.visit().await;
    let mut second_asked = tokio::spawn(async move {
        node.head().await;
        node.say(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            content(LARGE).len()
        ))
        .await;
        node.say(content(LARGE)).await;
        assert_eq!(node.head().await.first_line(), "GET /2 HTTP/1.1");
        node.say("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
            .await;
        node
    });
    assert_eq!(client.head().await.status(), 200);
    let mut heard = BytesMut::new();
    let mut node = loop {
        match timeout(PAUSE, &mut second_asked).await {
            Ok(node) => break node.expect("the node does its part"),
            Err(_) => heard.extend(client.hear(PIECE).await),
        }
    };
    heard.extend(client.hear(LARGE - heard.len()).await);
    assert!(
        heard == content(LARGE),
        "nothing may stand in the middle of an answer"
    );
    node.say(DONE).await;
    let mut next = client.head().await;
    if next.status() == 103 {
        next = client.head().await;
    }
    assert_eq!(next.field("content-length").as_deref(), Some("0"));
}

#[tokio::test]
async fn a_client_that_does_not_know_them_gets_no_hints() {
    let (mut client, origin, _balancer) = between().await;
    client.say("GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
        .await;
    node.say(DONE).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
}

/// hyper has no way to send them on HTTP/2; the answer itself comes as if they had never been said.
#[tokio::test]
async fn a_client_on_http2_gets_the_answer_alone() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("protocol = 'http1'");
    let balancer = setup.start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    let node = async {
        let mut node = origin.visit().await;
        node.head().await;
        node.say("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
            .await;
        node.say(DONE).await;
    };
    let (answer, ()) = tokio::join!(client.get("/"), node);
    assert_eq!((answer.status, answer.field("link")), (200, ""));
}

async fn between() -> (Dialogue, Origin, Balancer) {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let client = Dialogue::with(balancer.entry()).await;
    (client, origin, balancer)
}
