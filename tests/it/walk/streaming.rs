//! Bodies stream: pieces arrive when they were sent, and whoever is slow slows the other side down instead of filling memory.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{Dialogue, Origin, web::Speaks},
};

use super::client::{Client, nothing};

/// Larger than every buffer between the two ends, those of the kernel included.
const LARGE: u64 = 256 << 20;
/// What may be under way inside the balancer.
const HELD_MAX: u64 = 16 << 20;
const PIECE: usize = 64 << 10;
/// After this long without progress a sender is stuck, as it should be.
const STUCK_AFTER: Duration = Duration::from_millis(300);

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (mut client, origin, _balancer) = between("match").await;
    client.say("GET /events HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    let head = client.head().await;
    assert_eq!(
        head.field("content-type").as_deref(),
        Some("text/event-stream")
    );
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        let chunk = format!("9\r\n{event}\r\n");
        node.say(&chunk).await;
        // The next is only sent when this one has come: nothing is held back.
        client.hears(&chunk).await;
    }
    node.say("0\r\n\r\n").await;
    client.hears("0\r\n\r\n").await;
}

#[tokio::test]
async fn events_arrive_one_by_one_over_http2() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("protocol = 'http1'");
    let balancer = setup.start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    let request = client.request(http::Method::GET, "/events").body(nothing());
    let node = async {
        let mut node = origin.visit().await;
        node.head().await;
        node.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        node
    };
    let (answer, mut node) = tokio::join!(client.send(request.expect("a valid request")), node);
    let mut body = answer.expect("the head comes before the body").into_body();
    for event in ["one", "two"] {
        node.say(format!("3\r\n{event}\r\n")).await;
        let frame = body
            .frame()
            .await
            .expect("more is to come")
            .expect("it goes on");
        assert_eq!(frame.into_data().expect("data"), event);
    }
}

#[tokio::test]
async fn pieces_of_an_upload_arrive_one_by_one() {
    let (mut client, origin, _balancer) = between("match").await;
    client
        .say("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut node = origin.visit().await;
    node.head().await;
    for chunk in ["3\r\none\r\n", "3\r\ntwo\r\n", "0\r\n\r\n"] {
        client.say(chunk).await;
        node.hears(chunk).await;
    }
}

/// The answer may begin, and go on, while the request still does.
#[tokio::test]
async fn both_bodies_flow_at_the_same_time() {
    let (mut client, origin, _balancer) = between("match").await;
    client
        .say("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 200);
    for chunk in ["4\r\nping\r\n", "4\r\npong\r\n", "0\r\n\r\n"] {
        client.say(chunk).await;
        node.hears(chunk).await;
        node.say(chunk).await;
        client.hears(chunk).await;
    }
}

#[tokio::test]
async fn a_slow_client_slows_the_node_down() {
    let (mut client, origin, balancer) = between("match").await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    let base = balancer.memory().anonymous;
    node.say(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n"
    ))
    .await;
    client.head().await;
    let pushed = push_until_stuck(&mut node).await;
    check_held(&balancer, base, pushed);
    // The client goes on, and so does everything else.
    let rest = tokio::spawn(async move { push(&mut node, LARGE - pushed).await });
    drain(&mut client, LARGE).await;
    rest.await.expect("the node can say the rest");
    check_held(&balancer, base, 0);
}

#[tokio::test]
async fn a_slow_node_slows_the_client_down() {
    let (mut client, origin, balancer) = between("match").await;
    client
        .say(format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LARGE}\r\n\r\n"
        ))
        .await;
    let mut node = origin.visit().await;
    node.head().await;
    let base = balancer.memory().anonymous;
    let pushed = push_until_stuck(&mut client).await;
    check_held(&balancer, base, pushed);
    let rest = tokio::spawn(async move {
        push(&mut client, LARGE - pushed).await;
        client
    });
    drain(&mut node, LARGE).await;
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await;
    let mut client = rest.await.expect("the client can say the rest");
    assert_eq!(client.head().await.status(), 200);
    check_held(&balancer, base, 0);
}

#[tokio::test]
async fn a_slow_client_of_http2_slows_the_node_down() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("protocol = 'http1'");
    let balancer = setup.start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    let request = client.request(http::Method::GET, "/").body(nothing());
    let node = async {
        let mut node = origin.visit().await;
        node.head().await;
        node.say(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n"
        ))
        .await;
        node
    };
    let (answer, mut node) = tokio::join!(client.send(request.expect("a valid request")), node);
    let _unread = answer.expect("the head comes before the body");
    let base = balancer.memory().anonymous;
    let pushed = push_until_stuck(&mut node).await;
    check_held(&balancer, base, pushed);
}

#[tokio::test]
async fn who_waits_for_one_answer_does_not_hold_up_another() {
    let (mut slow, origin, balancer) = between("match").await;
    slow.say("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut busy = origin.visit().await;
    busy.head().await;
    let began = Instant::now();
    let mut quick = Dialogue::with(balancer.entry()).await;
    quick.say("GET /quick HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        .await;
    quick.head().await;
    node.say("ok").await;
    quick.hears("ok").await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let line = async || balancer.line("/quick").await["first_byte_us"].is_u64();
    until("the time to the first byte", line).await;
}

/// Says as much as is taken while nobody reads at the other end; how much that was.
async fn push_until_stuck(sender: &mut Dialogue) -> u64 {
    let mut pushed = 0;
    while let Some(n) = sender.say_some(&[b'x'; PIECE], STUCK_AFTER).await {
        pushed += n as u64;
        assert!(
            pushed < LARGE,
            "a sender must be slowed down by who does not read"
        );
    }
    pushed
}

async fn push(sender: &mut Dialogue, n: u64) {
    let mut left = usize::try_from(n).expect("it fits into memory");
    while left > 0 {
        let n = left.min(PIECE);
        sender.say(&[b'x'; PIECE][..n]).await;
        left -= n;
    }
}

async fn drain(hearer: &mut Dialogue, n: u64) {
    let mut left = usize::try_from(n).expect("it fits into memory");
    while left > 0 {
        let n = left.min(PIECE);
        hearer.hear(n).await;
        left -= n;
    }
}

fn check_held(balancer: &Balancer, base: u64, pushed: u64) {
    let held = balancer.memory().anonymous.saturating_sub(base);
    assert!(
        held < HELD_MAX,
        "{held} bytes are held, of {pushed} that were sent"
    );
}

async fn between(protocol: &str) -> (Dialogue, Origin, Balancer) {
    let origin = Origin::start().await;
    let protocol = format!("protocol = '{protocol}'");
    let balancer = Setup::http(&[origin.address()])
        .serving(&protocol)
        .start()
        .await;
    let client = Dialogue::with(balancer.entry()).await;
    (client, origin, balancer)
}
