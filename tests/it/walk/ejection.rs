//! A node whose answers are bad rests for a while; one whose answers are none of its fault does not.

use http::StatusCode;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web},
    },
};

use super::client::Client;

const EJECTED: &str = "colonnade_balancer_endpoints{service=\"app\",state=\"ejected\"}";
const EJECTIONS: &str = "colonnade_balancer_ejections_total{service=\"app\",cause=\"consecutive\"}";

#[tokio::test]
async fn a_node_that_answers_503_rests_and_returns() {
    let nodes = [
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    ];
    let balancer = Setup::http(&nodes.each_ref().map(Web::address))
        .serving("outlier = { base_ejection = '2s' }\npick = { policy = 'round_robin' }")
        .start()
        .await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    nodes[0].fails(StatusCode::SERVICE_UNAVAILABLE);
    until_ejected(&balancer, &nodes[0], &mut client).await;
    nodes[0].fails(StatusCode::OK);
    until("the count of ejections", async || {
        balancer.metric(EJECTIONS).await == 1.0
    })
    .await;
    let before = nodes[0].requests();
    until("the node to return", async || {
        assert_eq!(client.get("/sized/1").await.status, 200);
        nodes[0].requests() > before
    })
    .await;
    until("the count of ejected endpoints", async || {
        balancer.metric(EJECTED).await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_node_that_refuses_what_is_asked_does_not_rest() {
    let nodes = [
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    ];
    let balancer = Setup::http(&nodes.each_ref().map(Web::address))
        .serving("pick = { policy = 'round_robin' }")
        .start()
        .await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    for status in [404, 429, 500] {
        nodes[0].fails(StatusCode::from_u16(status).expect("a status"));
        for _ in 0..20 {
            client.get("/sized/1").await;
        }
    }
    assert!(!is_ejected(&balancer, nodes[0].address()).await);
    assert_eq!(balancer.metric(EJECTIONS).await, 0.0);
}

/// A client that goes away before the answer is never the node's fault.
#[tokio::test]
async fn clients_that_cancel_make_no_node_rest() {
    let nodes = [Origin::start().await, Origin::start().await];
    let addresses = nodes.each_ref().map(Origin::address);
    let balancer = Setup::http(&addresses)
        .serving("pick = { policy = 'round_robin' }")
        .start()
        .await;
    for n in 0..20 {
        let mut client = Dialogue::with(balancer.entry()).await;
        client
            .say(format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        let mut node = tokio::select! {
            node = nodes[0].visit() => node,
            node = nodes[1].visit() => node,
        };
        node.head().await;
        drop(client);
        assert_eq!(
            balancer.line(&format!("/{n}")).await["ended"],
            "client_gone"
        );
    }
    for address in addresses {
        assert!(!is_ejected(&balancer, address).await);
    }
}

/// The end of a WebSocket is never a failure, whoever ends it and however.
#[tokio::test]
async fn websockets_that_end_make_no_node_rest() {
    let nodes = [Origin::start().await, Origin::start().await];
    let addresses = nodes.each_ref().map(Origin::address);
    let balancer = Setup::http(&addresses)
        .serving("pick = { policy = 'round_robin' }\noutlier = { consecutive_failures = 1 }")
        .start()
        .await;
    for n in 0..12 {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say(HANDSHAKE).await;
        let mut node = tokio::select! {
            node = nodes[0].visit() => node,
            node = nodes[1].visit() => node,
        };
        node.head().await;
        node.say(SWITCHED).await;
        assert_eq!(client.head().await.status(), 101);
        match n % 3 {
            0 => node.crash(),
            1 => drop(node),
            _ => drop(client),
        }
    }
    until("the tunnels to end", async || balancer.lines().len() == 12).await;
    for address in addresses {
        assert!(!is_ejected(&balancer, address).await);
    }
}

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// All closes at once on a failed health check: when every probe fails, everybody goes on working.
#[tokio::test]
async fn when_every_probe_fails_the_nodes_still_work() {
    let nodes = [
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    ];
    let balancer = Setup::http(&nodes.each_ref().map(Web::address))
        .probing("kind = 'http'\npath = '/livez'\ninterval = '50ms'")
        .start()
        .await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    let panic = "colonnade_balancer_panic{service=\"app\"}";
    for node in &nodes {
        node.feels(StatusCode::INTERNAL_SERVER_ERROR);
    }
    until("panic", async || {
        assert_eq!(client.get("/sized/1").await.status, 200);
        balancer.metric(panic).await == 1.0
    })
    .await;
    for _ in 0..20 {
        assert_eq!(client.get("/sized/1").await.status, 200);
    }
    assert!(nodes.iter().all(|it| it.requests() > 0));
    for node in &nodes {
        node.feels(StatusCode::OK);
    }
    until("the end of panic", async || {
        balancer.metric(panic).await == 0.0
    })
    .await;
}

async fn until_ejected(balancer: &Balancer, node: &Web, client: &mut Client) {
    until("the node to be ejected", async || {
        client.get("/sized/1").await;
        is_ejected(balancer, node.address()).await
    })
    .await;
    let before = node.requests();
    for _ in 0..20 {
        assert_eq!(client.get("/sized/1").await.status, 200);
    }
    assert_eq!(node.requests(), before, "who rests gets nothing");
}

async fn is_ejected(balancer: &Balancer, address: std::net::SocketAddr) -> bool {
    let endpoint = balancer.endpoint(address).await;
    endpoint.is_some_and(|it| it["ejected"] == true)
}
