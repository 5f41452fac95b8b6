//! Bytes that are not HTTP: relayed as they are, each direction to its own end, on listeners that expect them and those that look first.

use std::time::{Duration, Instant};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{Dialogue, End, Origin},
    ports,
};

#[tokio::test]
async fn bytes_pass_both_ways() {
    let (mut client, mut node, _balancer) = relayed("").await;
    for text in ["one", "two", "three"] {
        client.say(text).await;
        node.hears(text).await;
        node.say(text).await;
        client.hears(text).await;
    }
    let large = tests::origin::web::content(4 << 20);
    let (_, heard) = tokio::join!(client.say(&large), node.hear(large.len()));
    assert!(heard == large);
    let (_, heard) = tokio::join!(node.say(&large), client.hear(large.len()));
    assert!(heard == large);
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let (mut client, mut node, _balancer) = relayed("").await;
    node.say("220 ready\r\n").await;
    client.hears("220 ready\r\n").await;
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (mut client, mut node, _balancer) = relayed("").await;
    client.say("question").await;
    client.fall_silent().await;
    assert_eq!(node.rest().await, b"question");
    node.say("answer").await;
    client.hears("answer").await;
    drop(node);
    assert_eq!(client.rest().await, b"");

    let (mut client, mut node, _balancer) = relayed("").await;
    node.say("all").await;
    node.fall_silent().await;
    assert_eq!(client.rest().await, b"all");
    client.say("thanks").await;
    node.hears("thanks").await;
    drop(client);
    assert_eq!(node.rest().await, b"");
}

#[tokio::test]
async fn a_tunnel_that_is_closed_is_counted() {
    let (client, node, balancer) = relayed("").await;
    drop((client, node));
    let ended = "colonnade_balancer_exchanges_ended_total{service=\"app\",ended=\"tunnel_closed\"}";
    until("the count", async || balancer.metric(ended).await == 1.0).await;
}

#[tokio::test]
async fn a_silent_tunnel_is_cut() {
    let (mut client, mut node, balancer) = relayed("tunnel_idle_timeout = '300ms'").await;
    client.say("x").await;
    node.hears("x").await;
    client.end().await;
    node.end().await;
    let ended = "colonnade_balancer_exchanges_ended_total{service=\"app\",ended=\"tunnel_cut\"}";
    until("the count", async || balancer.metric(ended).await == 1.0).await;
}

#[tokio::test]
async fn a_node_may_be_told_first_who_the_client_is() {
    let origin = Origin::start().await;
    let setup = Setup::relay("tcp", &[origin.address()]).serving("proxy_protocol = 'v2'");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("hello").await;
    let mut node = origin.visit().await;
    // Addresses, then the extension that holds the checksum.
    let bytes = node.hear(28 + 7 + 5).await;
    let (header, len) = ProxyHeader::parse(&bytes, ParseConfig::default()).expect("a whole header");
    let proxied = header.proxied_address().expect("it tells addresses");
    assert_eq!(proxied.protocol, Protocol::Stream);
    assert_eq!(
        (proxied.source, proxied.destination),
        (client.local_addr(), balancer.entry())
    );
    assert_eq!(&bytes[len..], b"hello");
}

#[tokio::test]
async fn without_a_node_the_connection_is_reset() {
    let nobody = ports::free().expect("a port is free");
    let setup = Setup::relay("tcp", &[nobody.address()]).serving("queue_wait = '50ms'");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    assert_eq!(client.end().await, (Vec::new(), End::Reset));
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_passed_over() {
    let nobody = ports::free().expect("a port is free");
    let origin = Origin::start().await;
    let balancer = Setup::relay("tcp", &[nobody.address(), origin.address()])
        .start()
        .await;
    for _ in 0..8 {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say("x").await;
        origin.visit().await.hears("x").await;
    }
}

#[tokio::test]
async fn a_listener_that_looks_tells_http_from_the_rest() {
    let (balancer, opaque, web) = detecting("5s").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = web.visit().await;
    assert_eq!(node.head().await.first_line(), "GET /a HTTP/1.1");
    node.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 204);
    for first in [
        "SSH-2.0-x\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "\u{16}\u{3}\u{1}\0\u{5}hello",
        "\0\0\0",
    ] {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say(first).await;
        let mut node = opaque.visit().await;
        node.hears(first).await;
        node.say("ok").await;
        client.hears("ok").await;
    }
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_all_passed_on() {
    let (balancer, opaque, _web) = detecting("5s").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    for byte in b"GETX no http\r\n" {
        client.say([*byte]).await;
        tokio::task::yield_now().await;
    }
    opaque.visit().await.hears("GETX no http\r\n").await;
}

#[tokio::test]
async fn a_client_that_waits_for_the_server_gets_it() {
    let (balancer, opaque, _web) = detecting("300ms").await;
    let began = Instant::now();
    let mut client = Dialogue::with(balancer.entry()).await;
    let mut node = opaque.silent_visit().await;
    assert!(
        began.elapsed() >= Duration::from_millis(290),
        "{:?}",
        began.elapsed()
    );
    node.say("220 ready\r\n").await;
    client.hears("220 ready\r\n").await;
    client.say("EHLO\r\n").await;
    node.hears("EHLO\r\n").await;
}

async fn relayed(serving: &str) -> (Dialogue, Dialogue, Balancer) {
    let origin = Origin::start().await;
    let balancer = Setup::relay("tcp", &[origin.address()])
        .serving(serving)
        .start()
        .await;
    let client = Dialogue::with(balancer.entry()).await;
    let node = origin.silent_visit().await;
    (client, node, balancer)
}

/// A listener that detects, the node for what is not HTTP, and the one for what is.
async fn detecting(timeout: &str) -> (Balancer, Origin, Origin) {
    let (opaque, web) = (Origin::start().await, Origin::start().await);
    let setup = Setup::relay("detect", &[opaque.address()])
        .listening(&format!("detect_timeout = '{timeout}'"))
        .service("web", &[web.address()])
        .route("service = 'web'");
    (setup.start().await, opaque, web)
}
