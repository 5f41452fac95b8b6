//! Client connections grow old politely, and answers say when they were made and what took how long.

use tests::{
    cluster::{Setup, until},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web},
    },
};

use super::client::Client;

#[tokio::test]
async fn a_connection_brings_only_so_many_requests() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).listening("max_requests_per_connection = 2");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    for connection in [None, Some("close")] {
        client.say("GET /sized/0 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!(
            (head.status(), head.field("connection").as_deref()),
            (200, connection)
        );
    }
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn an_old_connection_is_told_so_with_its_next_answer() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let origin = Web::start(speaks).await;
        let setup = Setup::http(&[origin.address()]).listening("connection_max_age = '1s'");
        let balancer = setup.start().await;
        let mut client = Client::connect(balancer.entry(), speaks).await;
        let accepted = "colonnade_balancer_active_connections{listener=\"web\"}";
        until("the connection to be old", async || {
            let request = client.request(http::Method::GET, "/sized/1");
            let request = request
                .body(super::client::nothing())
                .expect("a valid request");
            match client.send(request).await {
                Ok(response) => assert_eq!(response.status(), 200, "no request is lost"),
                Err(err) => assert!(err.is_canceled() || err.is_closed(), "{err:?}"),
            }
            balancer.metric(accepted).await == 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn answers_say_what_took_how_long_and_when_they_were_made() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).listening("server_timing = true");
    let balancer = setup.start().await;
    for (given, expected) in [
        ("", None),
        (
            "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
            Some("Thu, 01 Jan 1970 00:00:00 GMT"),
        ),
    ] {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut node = origin.visit().await;
        node.head().await;
        node.say(format!(
            "HTTP/1.1 200 OK\r\n{given}server-timing: db;dur=1\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
        let head = client.head().await;
        let date = head.field("date").expect("every answer has one");
        assert_eq!(date, expected.unwrap_or(&date));
        assert!(date.ends_with(" GMT"), "{date}");
        let timing = head.field("server-timing").expect("it was asked for");
        assert!(timing.starts_with("db;dur=1 | colonnade;dur="), "{timing}");
        assert!(timing.contains(", node;dur="), "{timing}");
    }
}
