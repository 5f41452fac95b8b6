//! Another try: where it can do no harm the client sees no failure, where it could do harm there is none, and a node that fails rests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web, content},
    },
    ports,
};

use super::client::{Client, in_pieces, nothing, whole};

const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_node_that_refuses_connections_is_passed_over() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let nobody = ports::free().expect("a port is free");
        let origin = Web::start(speaks).await;
        let balancer = Setup::http(&[nobody.address(), origin.address()])
            .start()
            .await;
        let mut client = Client::connect(balancer.entry(), speaks).await;
        for _ in 0..10 {
            assert_eq!(client.get("/sized/1").await.status, 200);
            let body = content(100_000);
            assert!(client.post("/echo", whole(body.clone())).await.body == body);
            assert!(
                client
                    .post("/echo", in_pieces(&body, 1000, None))
                    .await
                    .body
                    == body
            );
        }
        assert_eq!(origin.requests(), 30, "no request is sent twice");
    }
}

#[tokio::test]
async fn a_request_without_a_body_is_asked_elsewhere_when_a_node_hangs_up() {
    let (mut client, [bad, good], balancer) = two_nodes("").await;
    client.say("GET /again HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (first, second) = (hang_up_or_answer(&bad, &good), client.head());
    let (_, head) = tokio::join!(first, second);
    assert_eq!(head.status(), 200);
    let line = balancer.line("/again").await;
    assert_eq!(
        (&line["status"], &line["tries"], &line["ended"]),
        (&200.into(), &2.into(), &"completed".into())
    );
}

#[tokio::test]
async fn a_request_that_changes_something_is_not_asked_twice() {
    for body in ["", "abc"] {
        let (mut client, [one, two], balancer) = two_nodes("").await;
        client
            .say(format!(
                "POST /once HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let mut node = either(&one, &two).await;
        node.head().await;
        node.crash();
        assert_eq!(client.head().await.status(), 502);
        let line = balancer.line("/once").await;
        assert_eq!(
            (&line["tries"], &line["ended"]),
            (&1.into(), &"node_gone".into())
        );
    }
}

/// Nodes close idle connections whenever they like, also just when the next request comes.
#[tokio::test]
async fn a_connection_that_was_closed_while_it_idled_is_no_failure() {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    for _ in 0..5 {
        client
            .say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
            .await;
        let mut node = origin.visit().await;
        node.head().await;
        node.hears("abc").await;
        node.say(DONE).await;
        assert_eq!(client.head().await.status(), 200);
        drop(node);
    }
    let endpoint = balancer
        .endpoint(origin.address())
        .await
        .expect("it is configured");
    assert_eq!(
        endpoint["suspected"], false,
        "a node that tidies up has not failed"
    );
}

#[tokio::test]
async fn there_are_only_so_many_tries() {
    for (max_tries, expected) in [(1, 1), (2, 2)] {
        let (mut client, nodes, balancer) = two_nodes(&format!("max_tries = {max_tries}")).await;
        let hang_up = tokio::spawn(async move {
            loop {
                let mut node = either(&nodes[0], &nodes[1]).await;
                node.head().await;
                node.crash();
            }
        });
        client.say("GET /tries HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 502);
        assert_eq!(balancer.line("/tries").await["tries"], expected);
        hang_up.abort();
    }
}

/// The budget begins with a hundred retries, and grows by ten a second.
#[tokio::test]
async fn retries_stay_a_share_of_the_traffic() {
    let nodes = [Origin::start().await, Origin::start().await];
    let addresses = nodes.each_ref().map(Origin::address);
    let setup =
        Setup::http(&addresses).serving("retry_ratio = 0.0\nmax_tries = 10\nqueue_wait = '5s'");
    let balancer = setup.start().await;
    let hang_up = tokio::spawn(async move {
        loop {
            let mut node = either(&nodes[0], &nodes[1]).await;
            node.head().await;
            node.crash();
        }
    });
    let denied = "colonnade_balancer_retries_denied_total{service=\"app\"}";
    let began = Instant::now();
    while balancer.metric(denied).await == 0.0 {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 502);
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "the budget must have an end"
        );
    }
    let retries = balancer
        .metric("colonnade_balancer_retries_total{service=\"app\"}")
        .await;
    let allowed = 110.0 + 10.0 * began.elapsed().as_secs_f64();
    assert!((100.0..=allowed).contains(&retries), "{retries} retries");
    hang_up.abort();
}

#[tokio::test]
async fn a_node_that_dies_is_withdrawn_and_one_that_returns_offered() {
    let (mut mortal, other) = (
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    );
    let balancer = Setup::http(&[mortal.address(), other.address()])
        .start()
        .await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    balancer.until_offered(mortal.address(), true).await;
    mortal.stop().await;
    until("the node's death to be noticed", async || {
        assert_eq!(
            client.get("/sized/1").await.status,
            200,
            "no client may notice"
        );
        let endpoint = balancer.endpoint(mortal.address()).await;
        endpoint.is_some_and(|it| it["offered"] == false)
    })
    .await;
    assert!(balancer.metric("colonnade_balancer_suspicions_total").await >= 1.0);
    let offered = "colonnade_balancer_endpoints{service=\"app\",state=\"offered\"}";
    until("the count of offered endpoints", async || {
        balancer.metric(offered).await == 1.0
    })
    .await;
    mortal.restart().await;
    balancer.until_offered(mortal.address(), true).await;
    let before = mortal.requests();
    until("work for the node that returned", async || {
        assert_eq!(client.get("/sized/1").await.status, 200);
        mortal.requests() > before
    })
    .await;
}

#[tokio::test]
async fn a_request_waits_for_a_node_to_come() {
    let mut origin = Web::start(Speaks::Http1).await;
    origin.stop().await;
    let setup = Setup::http(&[origin.address()]).serving("queue_wait = '15s'");
    let balancer = setup.start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    let waiting = tokio::spawn(async move {
        client
            .post("/echo", whole(Bytes::from_static(b"patience")))
            .await
    });
    let queued = "colonnade_balancer_queued_requests{service=\"app\"}";
    until("the request to wait", async || {
        balancer.metric(queued).await == 1.0
    })
    .await;
    origin.restart().await;
    let answer = waiting.await.expect("the client gets an answer");
    assert_eq!((answer.status, answer.text()), (200, "patience"));
    assert_eq!(balancer.metric(queued).await, 0.0);
}

#[tokio::test]
async fn a_request_that_waited_for_nobody_is_told_when_to_come_back() {
    let nobody = ports::free().expect("a port is free");
    let setup = Setup::http(&[nobody.address()]).serving("queue_wait = '200ms'");
    let balancer = setup.start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    let answer = client.get("/wait").await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, "1"));
    assert_eq!(answer.field("content-type"), "application/problem+json");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(problem["status"], 503);
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    let ended = balancer.line("/wait").await["ended"].clone();
    assert!(ended == "no_endpoint" || ended == "unreachable", "{ended}");
    let began = Instant::now();
    assert_eq!(client.get("/again").await.status, 503);
    assert!(
        began.elapsed() >= Duration::from_millis(190),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(balancer.line("/again").await["ended"], "no_endpoint");
}

#[tokio::test]
async fn without_another_try_a_node_out_of_reach_is_said_at_once() {
    let nobody = ports::free().expect("a port is free");
    let setup = Setup::http(&[nobody.address()]).serving("max_tries = 1\nqueue_wait = '15s'");
    let balancer = setup.start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    let answer = client.get("/reach").await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, "1"));
    let line = balancer.line("/reach").await;
    assert_eq!(
        (&line["ended"], &line["tries"]),
        (&"unreachable".into(), &1.into())
    );
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let nobody = ports::free().expect("a port is free");
    let setup = Setup::http(&[nobody.address()]).serving("queue_wait = '15s'\nqueue_max = 1");
    let balancer = setup.start().await;
    let mut first = Client::connect(balancer.entry(), Speaks::Http1).await;
    let waiting = tokio::spawn(async move { first.get("/first").await });
    let queued = "colonnade_balancer_queued_requests{service=\"app\"}";
    until("the first to wait", async || {
        balancer.metric(queued).await == 1.0
    })
    .await;
    let began = Instant::now();
    let mut second = Client::connect(balancer.entry(), Speaks::Http1).await;
    let answer = second.get("/second").await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, "1"));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(balancer.line("/second").await["ended"], "queue_full");
    waiting.abort();
}

#[tokio::test]
async fn a_node_that_says_nothing_is_given_up() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("response_head_timeout = '200ms'");
    let balancer = setup.start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    let request = client.request(Method::GET, "/mute").body(nothing());
    let (answer, _node) = tokio::join!(
        client.ask(request.expect("a valid request")),
        origin.visit()
    );
    assert_eq!(answer.status, 504);
    let line = balancer.line("/mute").await;
    assert_eq!(
        (&line["ended"], &line["tries"]),
        (&"node_silent".into(), &1.into())
    );
}

async fn two_nodes(serving: &str) -> (Dialogue, [Origin; 2], Balancer) {
    let nodes = [Origin::start().await, Origin::start().await];
    let addresses = nodes.each_ref().map(Origin::address);
    let balancer = Setup::http(&addresses).serving(serving).start().await;
    let client = Dialogue::with(balancer.entry()).await;
    (client, nodes, balancer)
}

/// Whoever is asked first hangs up after the head, and whoever is asked next answers.
async fn hang_up_or_answer(one: &Origin, two: &Origin) {
    let mut first = either(one, two).await;
    first.head().await;
    first.crash();
    let mut second = either(one, two).await;
    second.head().await;
    second.say(DONE).await;
}

async fn either(one: &Origin, two: &Origin) -> Dialogue {
    tokio::select! {
        node = one.visit() => node,
        node = two.visit() => node,
    }
}
