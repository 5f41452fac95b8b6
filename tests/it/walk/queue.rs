//! Endpoints that are all busy: who waits for them, for how long, who goes first, and what the others hear.

use std::time::Duration;

use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web},
    },
};

use super::client::Client;

#[tokio::test]
async fn an_endpoint_gets_no_more_than_it_may_and_a_free_place_serves_the_next() {
    for workers in [1, 2] {
        let origin = Origin::start().await;
        let setup = Setup::http(&[origin.address()])
            .workers(workers)
            .serving("max_requests_per_endpoint = 1\nqueue_wait = '10s'");
        let balancer = setup.start().await;
        let mut first = ask(&balancer, "/first", "").await;
        let mut node = origin.visit().await;
        assert!(node.head().await.first_line().contains("/first"));
        let mut others = Vec::new();
        for n in 0..4 {
            others.push(ask(&balancer, &format!("/{n}"), "").await);
        }
        until_waiting(&balancer, 4.0).await;
        origin.stays_alone(Duration::from_millis(50)).await;
        answer_and_close(node).await;
        assert_eq!(first.head().await.status(), 200);
        for _ in 0..4 {
            let mut node = origin.visit().await;
            node.head().await;
            answer_and_close(node).await;
        }
        for other in &mut others {
            assert_eq!(other.head().await.status(), 200, "{workers} workers");
        }
        until_waiting(&balancer, 0.0).await;
    }
}

/// A call that got lost would leave somebody waiting until the queue's limit, and refused then.
#[tokio::test]
async fn no_free_place_is_ever_forgotten() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()])
        .workers(2)
        .serving("max_requests_per_endpoint = 2\nqueue_wait = '15s'");
    let balancer = setup.start().await;
    let entry = balancer.entry();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..20 {
        clients.spawn(async move {
            let mut client = Client::connect(entry, Speaks::Http1).await;
            for _ in 0..25 {
                assert_eq!(client.get("/sized/10").await.status, 200);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("everybody is served");
    }
    until_waiting(&balancer, 0.0).await;
    let picks = balancer
        .metric("colonnade_balancer_picks_total{service=\"app\"}")
        .await;
    assert_eq!(picks, 500.0);
}

#[tokio::test]
async fn the_important_go_first() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving(
        "max_requests_per_endpoint = 1\nqueue_wait = '10s'\npriority = { header = 'x-tier', high = ['gold'], low = ['batch'] }",
    );
    let balancer = setup.start().await;
    let _first = ask(&balancer, "/first", "").await;
    let mut node = origin.visit().await;
    node.head().await;
    let mut all = Vec::new();
    for (n, tier) in ["batch", "silver", "gold"].iter().enumerate() {
        all.push(
            ask(
                &balancer,
                &format!("/{tier}"),
                &format!("x-tier: {tier}\r\n"),
            )
            .await,
        );
        until_waiting(&balancer, n as f64 + 1.0).await;
    }
    for tier in ["gold", "silver", "batch"] {
        answer(&mut node).await;
        let head = node.head().await;
        assert!(
            head.first_line().contains(tier),
            "{tier}: {}",
            head.first_line()
        );
    }
    answer(&mut node).await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_lets_the_more_important_in() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving(
        "max_requests_per_endpoint = 1\nqueue_wait = '10s'\nqueue_max = 1\npriority = { header = 'x-tier', high = ['gold'] }",
    );
    let balancer = setup.start().await;
    let _first = ask(&balancer, "/first", "").await;
    let mut node = origin.visit().await;
    node.head().await;
    let mut waits = ask(&balancer, "/waits", "").await;
    until_waiting(&balancer, 1.0).await;
    let mut late = ask(&balancer, "/late", "").await;
    let head = late.head().await;
    assert_eq!(
        (head.status(), head.field("retry-after").as_deref()),
        (503, Some("1"))
    );
    let mut gold = ask(&balancer, "/gold", "x-tier: gold\r\n").await;
    assert_eq!(waits.head().await.status(), 503, "it was displaced");
    answer(&mut node).await;
    assert!(node.head().await.first_line().contains("/gold"));
    answer(&mut node).await;
    assert_eq!(gold.head().await.status(), 200);
    let displaced = "colonnade_balancer_displaced_requests_total{service=\"app\"}";
    assert_eq!(balancer.metric(displaced).await, 1.0);
}

#[tokio::test]
async fn nobody_waits_longer_than_is_allowed() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()])
        .serving("max_requests_per_endpoint = 1\nqueue_wait = '100ms'");
    let balancer = setup.start().await;
    let _first = ask(&balancer, "/first", "").await;
    let mut node = origin.visit().await;
    node.head().await;
    let mut second = ask(&balancer, "/second", "").await;
    assert_eq!(second.head().await.status(), 503);
    assert_eq!(balancer.line("/second").await["ended"], "no_endpoint");
    // A client that gives up gives up its place.
    drop(ask(&balancer, "/third", "").await);
    assert_eq!(balancer.line("/third").await["ended"], "client_gone");
    answer(&mut node).await;
    let _fourth = ask(&balancer, "/fourth", "").await;
    assert!(node.head().await.first_line().contains("/fourth"));
    answer(&mut node).await;
}

#[tokio::test]
async fn the_adaptive_limit_holds() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()])
        .serving("adaptive = { limit_min = 1, limit_max = 1 }\nqueue_wait = '10s'");
    let balancer = setup.start().await;
    let limit = "colonnade_balancer_adaptive_limit{service=\"app\"}";
    assert_eq!(balancer.metric(limit).await, 1.0);
    let mut first = ask(&balancer, "/first", "").await;
    let mut node = origin.visit().await;
    node.head().await;
    let mut second = ask(&balancer, "/second", "").await;
    until_waiting(&balancer, 1.0).await;
    answer(&mut node).await;
    assert_eq!(first.head().await.status(), 200);
    assert!(node.head().await.first_line().contains("/second"));
    answer(&mut node).await;
    assert_eq!(second.head().await.status(), 200);
}

async fn ask(balancer: &Balancer, path: &str, fields: &str) -> Dialogue {
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
        .await;
    client
}

async fn answer(node: &mut Dialogue) {
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await;
}

/// The next request comes on a connection of its own, whichever core it is from.
async fn answer_and_close(mut node: Dialogue) {
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .await;
}

async fn until_waiting(balancer: &Balancer, n: f64) {
    let queued = "colonnade_balancer_queued_requests{service=\"app\"}";
    until("requests to wait", async || {
        balancer.metric(queued).await == n
    })
    .await;
}
