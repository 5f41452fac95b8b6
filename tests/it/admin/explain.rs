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
