//! Why an exchange went where it went, asked by the id that its client saw.

use tests::{
    cluster::{Setup, until},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web},
    },
};

use super::command;

#[tokio::test]
async fn an_exchange_is_explained_by_its_request_id() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).listening("trusted_proxies = ['127.0.0.0/8']");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say("GET /sized/5 HTTP/1.1\r\nhost: a\r\nx-request-id: order-66\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 200);
    let node = origin.address().to_string();
    until("the exchange to be remembered", async || {
        command(&balancer, &["explain", "order-66"]).await.code == Some(0)
    })
    .await;
    let text = command(&balancer, &["explain", "order-66"]).await.well();
    for words in [
        "completed",
        "status 200",
        "service app",
        "listener web",
        "answered",
        &node,
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let told = command(&balancer, &["explain", "order-66", "--json"])
        .await
        .json();
    let told = &told["exchanges"][0];
    assert_eq!(
        (&told["sent_bytes"], &told["tries_count"]),
        (&5.into(), &1.into())
    );
    let unknown = command(&balancer, &["explain", "order-67"]).await;
    assert_eq!(unknown.code, Some(1), "{}", unknown.text);
}

#[tokio::test]
async fn what_failed_is_listed_apart() {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
        .await;
    let mut visit = origin.visit().await;
    visit.head().await;
    drop(visit);
    assert_eq!(client.head().await.status(), 502);
    let mut listed = serde_json::Value::Null;
    until("the exchange to be remembered", async || {
        listed = command(&balancer, &["explain", "--notable", "--json"])
            .await
            .json();
        listed["exchanges"]
            .as_array()
            .is_some_and(|it| !it.is_empty())
    })
    .await;
    let told = &listed["exchanges"][0];
    assert_eq!(told["ended"], "node_gone", "{told}");
    assert_eq!(told["tries"][0]["end"], "gone", "{told}");
}

#[tokio::test]
async fn how_each_try_ended_and_by_which_route_is_told() {
    let (poor, good) = (
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    );
    poor.fails(http::StatusCode::SERVICE_UNAVAILABLE);
    let setup = Setup::http(&[poor.address(), good.address()])
        .serving("pick = { policy = 'round_robin' }\nretry_on = [503]");
    let balancer = setup.start().await;
    let mut told = serde_json::Value::Null;
    until("an exchange to be tried twice", async || {
        super::get(&balancer, "/sized/5").await;
        let listed = command(&balancer, &["explain", "--json"]).await.json();
        let exchanges = listed["exchanges"].as_array().cloned();
        let mut exchanges = exchanges.unwrap_or_default().into_iter();
        let twice = exchanges.find(|it| it["tries_count"] == 2);
        told = twice.unwrap_or_default();
        told.is_object()
    })
    .await;
    assert_eq!(told["kind"], "http/1.1", "{told}");
    assert!(
        told["route"].is_string() && told["trace"].is_string(),
        "{told}"
    );
    let node = |n: usize| told["tries"][n]["node"].clone();
    assert_eq!(node(0), poor.address().to_string(), "{told}");
    assert_eq!(node(1), good.address().to_string(), "{told}");
    for n in [0, 1] {
        assert_eq!(told["tries"][n]["end"], "answered", "{told}");
        assert!(
            told["tries"][n]["first_byte_us"].as_u64() > Some(0),
            "{told}"
        );
    }
    let dialled = told["tries"][0]["connect_us"].as_u64() > Some(0);
    assert!(dialled || told["tries"][1]["connect_us"].is_u64(), "{told}");
}

#[tokio::test]
async fn a_relay_is_told_while_it_lives_and_when_it_has_ended() {
    let origin = Origin::start().await;
    let balancer = Setup::relay("tcp", &[origin.address()]).start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("hello").await;
    let mut node = origin.visit().await;
    node.hears("hello").await;
    let mut told = serde_json::Value::Null;
    let mut told_as = async |ended: serde_json::Value| {
        until("the relay to be told", async || {
            let listed = command(&balancer, &["explain", "--json"]).await.json();
            told = listed["exchanges"][0].clone();
            told.is_object() && told["ended"] == ended
        })
        .await;
        assert_eq!(
            (&told["kind"], &told["service"]),
            (&"relay".into(), &"app".into())
        );
        assert!(told["tries"][0]["connect_us"].as_u64() > Some(0), "{told}");
    };
    told_as(serde_json::Value::Null).await;
    drop((client, node));
    told_as("tunnel_closed".into()).await;
}
