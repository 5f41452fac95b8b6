//! The traps that other balancers fell into, and where each is tested.
//!
//! | trap | test |
//! |---|---|
//! | slow start that does not apply at first start | beside the pickers, in `balancer/core` |
//! | counts lost when the set of endpoints is rebuilt | beside the pickers, in `balancer/core` |
//! | a node ejected because WebSockets closed politely | beside the ejection, in `balancer/core` |
//! | 429s and fast errors that attract traffic | beside the ejection, in `balancer/core` |
//! | an equal config that drains, a reload that closes the WebSockets of other routes | beside the reload |
//! | accepted connections lost when a listener closes | beside the reload |
//! | all closes at once on a failed health check | [`a_failed_probe_cuts_no_websocket`] |
//! | GOAWAY on a connection with WebSocket streams | [`a_goaway_cuts_no_websocket_over_http2`] |
//! | retries that triple the load in an outage | `walk::retries::retries_stay_a_share_of_the_traffic`, [`an_outage_is_not_multiplied`] |
//! | a watch that is silent and dead | `registry::a_hung_member_is_left_for_another` |
//! | an auth token that expired | `registry::an_expired_login_is_renewed` |
//! | a compacted revision | `registry::a_compaction_under_its_feet_makes_a_watch_list_again` |
//! | an etcd restored from empty | `registry::an_etcd_restored_from_empty_is_filled_again`, `cluster::emptied` |
//! | an etcd that is dead | `cluster::etcd_dead::a_dead_etcd_changes_nothing` |
//! | eager buffers per WebSocket | [`an_idle_websocket_holds_no_buffers`] |
//! | h1 connections to nodes where h2 would multiplex, more than 64 k of them | [`clients_share_connections_to_a_node`] |
//! | 502s on a rollout | `cluster::rollover::clients_are_served_while_nodes_come_and_go` |
//! | a node that refuses before a byte was sent | `walk::retries::a_node_that_refuses_connections_is_passed_over` |
//! | a POST replayed | `walk::retries::a_request_that_changes_something_is_not_asked_twice`, [`a_post_with_a_key_is_asked_elsewhere`] |
//! | a gRPC stream that never ends a drain | [`a_stream_at_the_deadline_is_ended_with_a_retryable_status`], `cluster::leaving` |

use std::time::{Duration, Instant};

use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web, content},
    },
    raw::{
        frame::{Frame, code, flag, kind},
        hpack::{self, Block},
        http2::Peer,
        victim::{Manner, Victim},
    },
};
use tokio::task::JoinSet;

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: app.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What an idle WebSocket may cost in memory, with what a test build and the allocator add; an eager buffer would be 128 KiB.
const IDLE_BYTES_MAX: u64 = 24 << 10;
/// How many connections to one node are as good as one.
const SHARED_CONNECTIONS_MAX: usize = 4;

#[tokio::test]
async fn a_failed_probe_cuts_no_websocket() {
    let origin = Origin::start().await;
    let address = origin.address();
    let setup = Setup::http(&[address]).probing("kind = 'tcp'\ninterval = '100ms'");
    let balancer = setup.start().await;
    let (mut client, mut node) = websocket(&balancer, &origin).await;
    // The node stops listening, as one that is overwhelmed does; what it carries goes on.
    drop(origin);
    balancer.until_offered(address, false).await;
    client.say("still there?").await;
    node.hears("still there?").await;
    node.say("still here").await;
    client.hears("still here").await;
}

#[tokio::test]
async fn a_goaway_cuts_no_websocket_over_http2() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).top("drain_deadline = '3s'");
    let mut balancer = setup.start().await;
    let mut peer = Peer::connect(balancer.entry()).await;
    let block = Block::websocket("/ws");
    peer.say(&[Frame::headers(1, flag::NONE, block)]).await;
    let mut node = origin.visit().await;
    let key = node.head().await.field("sec-websocket-key");
    let key = key.unwrap_or_default();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let agreed = AGREED.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept);
    node.say(agreed).await;
    let head = peer.until(|it| it.kind == kind::HEADERS).await;
    let head = head.expect("the agreement is passed on");
    assert_eq!(hpack::status(&head.payload), Some(200));
    balancer.process().terminate().expect("it runs");
    let goaway = peer.until(|it| it.kind == kind::GOAWAY).await;
    let goaway = goaway.expect("who is to go elsewhere is told so");
    assert_eq!(goaway.number_at(4), code::NO_ERROR);
    peer.say(&[Frame::data(1, flag::NONE, b"still there?")])
        .await;
    node.hears("still there?").await;
    node.say("still here").await;
    let data = peer.until(|it| it.kind == kind::DATA).await;
    assert_eq!(
        &data.expect("the tunnel is open").payload[..],
        b"still here"
    );
}

/// Every node takes each request and hangs up: what may be tried again is a fifth of what was asked, and the little that is saved up
/// for quiet times.
#[tokio::test]
async fn an_outage_is_not_multiplied() {
    const ASKED: usize = 1000;
    let victims = [
        Victim::start(Manner::HangsUp).await,
        Victim::start(Manner::HangsUp).await,
    ];
    let addresses = [victims[0].address(), victims[1].address()];
    let balancer = Setup::http(&addresses)
        .serving("max_tries = 3\nretry_ratio = 0.2\nqueue_wait = '10ms'")
        .start()
        .await;
    for _ in 0..ASKED {
        let mut client = Dialogue::with(balancer.entry()).await;
        let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        client.say(ask).await;
        client.end().await;
    }
    let tried = victims[0].requests() + victims[1].requests();
    assert!(tried <= ASKED * 3 / 2, "{ASKED} requests became {tried}");
}

/// Each has moved more than any buffer holds before it falls silent.
#[tokio::test]
async fn an_idle_websocket_holds_no_buffers() {
    const WEBSOCKETS: u64 = 300;
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let bytes = content(200_000);
    let mut ends = Vec::new();
    let mut before = 0;
    for n in 0..=WEBSOCKETS {
        let (mut client, mut node) = websocket(&balancer, &origin).await;
        tokio::join!(client.say(&bytes), node.hear(bytes.len()));
        tokio::join!(node.say(&bytes), client.hear(bytes.len()));
        ends.push((client, node));
        if n == 0 {
            before = balancer.memory().anonymous;
        }
    }
    let mut each = u64::MAX;
    until("what idle WebSockets hold to be given back", async || {
        let grown = balancer.memory().anonymous.saturating_sub(before);
        each = grown / WEBSOCKETS;
        each < IDLE_BYTES_MAX
    })
    .await;
}

#[tokio::test]
async fn clients_share_connections_to_a_node() {
    let web = Web::start(Speaks::Http2).await;
    let setup = Setup::http(&[web.address()]).serving("protocol = 'http2'");
    let balancer = setup.start().await;
    let address = balancer.entry();
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        clients.spawn(async move {
            let mut client = Dialogue::with(address).await;
            for _ in 0..5 {
                client
                    .say("GET /sized/100 HTTP/1.1\r\nhost: a\r\n\r\n")
                    .await;
                assert_eq!(client.head().await.status(), 200);
                client.hear(100).await;
            }
        });
    }
    clients.join_all().await;
    let connections = web.connections();
    assert!(
        connections <= SHARED_CONNECTIONS_MAX,
        "{connections} connections"
    );
}

/// Two peers of ours ask again without being told that they may; here the client has to say so.
#[tokio::test]
async fn a_post_with_a_key_is_asked_elsewhere() {
    for (key, asked) in [("idempotency-key: 8e03978e\r\n", 2), ("", 1)] {
        let victims = [
            Victim::start(Manner::HangsUp).await,
            Victim::start(Manner::HangsUp).await,
        ];
        let addresses = [victims[0].address(), victims[1].address()];
        let setup = Setup::http(&addresses).serving("max_tries = 2\nretry_ratio = 10");
        let balancer = setup.start().await;
        let mut client = Dialogue::with(balancer.entry()).await;
        let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3\r\n";
        client.say(format!("{head}{key}\r\nabc")).await;
        client.end().await;
        let tried = victims[0].requests() + victims[1].requests();
        assert_eq!(tried, asked, "with {key:?}");
    }
}

/// A client of gRPC asks again when it is told UNAVAILABLE (14); a connection that is cut tells it nothing.
#[tokio::test]
async fn a_stream_at_the_deadline_is_ended_with_a_retryable_status() {
    let deaf = Victim::start(Manner::Deaf).await;
    let setup = Setup::http(&[deaf.address()])
        .serving("protocol = 'http1'")
        .top("drain_deadline = '1s'");
    let mut balancer = setup.start().await;
    let mut peer = Peer::connect(balancer.entry()).await;
    let block = Block::request("POST", "/grpc.health.v1.Health/Watch")
        .field("content-type", "application/grpc")
        .field("te", "trailers");
    peer.say(&[Frame::headers(1, flag::END_STREAM, block)])
        .await;
    until("the node to be asked", async || deaf.requests() == 1).await;
    balancer.process().terminate().expect("it runs");
    let began = Instant::now();
    let head = peer.until(|it| it.kind == kind::HEADERS && it.stream == 1);
    let head = head.await.expect("the stream is ended with a word");
    assert!(
        head.has(flag::END_STREAM),
        "a status is all there is to say"
    );
    assert!(
        began.elapsed() > Duration::from_millis(500),
        "it had its time"
    );
}

async fn websocket(balancer: &Balancer, origin: &Origin) -> (Dialogue, Dialogue) {
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say(HANDSHAKE).await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(AGREED).await;
    assert_eq!(client.head().await.status(), 101);
    (client, node)
}
