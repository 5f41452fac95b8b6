//! The traps that other balancers fell into, and where each is tested.
//!
//! | trap | test |
//! |---|---|
//! | slow start that does not apply at first start | `balancer/core/src/membership/selection/tests.rs::a_newcomer_among_others_starts_slowly_and_they_do_not`, `balancer/core/src/membership/selection/tests.rs::who_was_ill_when_first_seen_starts_slowly_when_it_is_well`, `tests/it/walk/picking.rs::a_node_that_comes_back_begins_slowly` |
//! | counts lost when the set of endpoints is rebuilt | `balancer/core/src/membership/selection/tests.rs::counts_survive_every_change_of_membership`, `balancer/core/src/membership/selection/tests.rs::counts_hold_after_any_events`, `balancer/core/src/membership.rs::counts_survive_absence_while_something_is_in_flight` |
//! | a node ejected because WebSockets closed politely | `balancer/core/src/membership/selection/tests.rs::websockets_that_close_politely_eject_nobody`, `tests/it/walk/ejection.rs::websockets_that_end_make_no_node_rest` |
//! | 429s and fast errors that attract traffic | `tests/it/walk/picking.rs::a_node_that_refuses_at_once_attracts_no_work`, `balancer/core/src/picker/p2c.rs::a_node_that_fails_fast_attracts_nothing`, `balancer/core/src/picker/least_requests.rs::a_node_that_fails_fast_attracts_nothing` |
//! | an equal config that drains | `tests/it/reload/config.rs::an_equal_configuration_touches_nothing`, `balancer/core/src/reload.rs::an_equal_list_changes_nothing` |
//! | a reload of one route that closes the WebSockets of others | `tests/it/reload/sessions.rs::websockets_of_changed_and_unchanged_routes_survive_reloads` |
//! | accepted connections lost when a listener closes | `tests/it/reload/doors.rs::connections_that_wait_to_be_accepted_are_served_when_a_listener_closes`, `tests/it/reload/takeover.rs::takeovers_under_load_refuse_and_reset_nobody` |
//! | all closes at once on a failed health check | `tests/it/traps.rs::a_failed_probe_cuts_no_websocket` |
//! | GOAWAY on a connection with WebSocket streams | `tests/it/traps.rs::a_goaway_cuts_no_websocket_over_http2` |
//! | retries that triple the load in an outage | `tests/it/walk/retries.rs::retries_stay_a_share_of_the_traffic`, `tests/it/traps.rs::an_outage_is_not_multiplied` |
//! | a watch that is silent and dead | `tests/it/registry.rs::a_hung_member_is_left_for_another` |
//! | an auth token that expired | `tests/it/registry.rs::an_expired_login_is_renewed` |
//! | a compacted revision | `tests/it/registry.rs::a_compaction_under_its_feet_makes_a_watch_list_again` |
//! | an etcd restored from empty | `tests/it/registry.rs::an_etcd_restored_from_empty_is_filled_again`, `tests/it/cluster/emptied.rs::an_etcd_that_returns_with_nothing_is_filled_again` |
//! | an etcd that is dead | `tests/it/cluster/etcd_dead.rs::a_dead_etcd_changes_nothing` |
//! | eager buffers per WebSocket | `tests/it/traps.rs::an_idle_websocket_holds_no_buffers` |
//! | h1 connections to nodes where h2 would multiplex, more than 64 k of them | `tests/it/traps.rs::clients_share_connections_to_a_node` |
//! | 502s on a rollout | `tests/it/cluster/rollover.rs::clients_are_served_while_nodes_come_and_go` |
//! | a node that refuses before a byte was sent | `tests/it/walk/retries.rs::a_node_that_refuses_connections_is_passed_over` |
//! | a POST replayed | `tests/it/walk/retries.rs::a_request_that_changes_something_is_not_asked_twice`, `tests/it/traps.rs::a_post_with_a_key_is_asked_elsewhere` |
//! | a gRPC stream that never ends a drain | `tests/it/traps.rs::a_stream_at_the_deadline_is_ended_with_a_retryable_status`, `tests/it/cluster/leaving.rs::a_stream_that_outlasts_the_deadline_is_ended_with_a_word` |

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
    // The only endpoint would be used however ill it is.
    let no_panic = "[service.pick]\npanic_threshold = 0";
    let probing = format!("kind = 'tcp'\ninterval = '100ms'\n{no_panic}");
    let setup = Setup::http(&[address]).probing(&probing);
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
