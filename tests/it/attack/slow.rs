//! Clients that take all the time in the world: to send a head, to send a body, to read an answer.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tests::{
    cluster::{Balancer, until},
    origin::Dialogue,
    raw::{
        frame::{Frame, PREFACE, code, flag, setting},
        hpack::Block,
        http2::{Outcome, Peer, dial},
        recorder::Recorder,
        victim::{Manner, Victim},
    },
};
use tokio::{task::JoinSet, time::timeout};

use super::world::{ANY_GROWTH, MIB, SLACK, World, connections};

/// From one drop of a dripping client to the next.
const DRIP_EVERY: Duration = Duration::from_millis(200);
/// The times of this file's tests, where they do not take the defaults.
const SHORT: Duration = Duration::from_secs(2);

const ENDLESS: Manner = Manner::Endless(
    b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n",
    b"0123456789abcdef",
);

#[tokio::test]
async fn slowloris_of_1500_connections() {
    let world = World::new("request_head_timeout = '2s'").await;
    let attack = async |balancer: &Balancer| slowloris(balancer.entry(), 1500, SHORT).await;
    world.under(64 * MIB, attack).await;
}

#[tokio::test]
async fn slowloris_against_the_defaults() {
    let world = World::new("").await;
    let bar = Duration::from_secs(10);
    let attack = async |balancer: &Balancer| slowloris(balancer.entry(), 50, bar).await;
    world.under(ANY_GROWTH, attack).await;
}

#[tokio::test]
async fn slowloris_over_http2() {
    let world = World::new("request_head_timeout = '2s'").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            let mut clients = JoinSet::new();
            for n in 0..300 {
                clients.spawn(slow_http2(balancer.entry(), n));
            }
            let began = Instant::now();
            clients.join_all().await;
            assert!(began.elapsed() < SHORT + SLACK, "{:?}", began.elapsed());
        })
        .await;
}

#[tokio::test]
async fn slow_post_below_the_rate() {
    let keys = "min_body_rate = 500\nmin_body_rate_grace = '2s'";
    let victim = Recorder::start().await;
    let world = World::with_victim(victim.address(), keys, "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            let mut slow = JoinSet::new();
            for _ in 0..100 {
                slow.spawn(slow_post(balancer.entry(), SHORT));
            }
            slow.join_all().await;
        })
        .await;
}

#[tokio::test]
async fn slow_post_against_the_defaults() {
    let victim = Recorder::start().await;
    let world = World::with_victim(victim.address(), "", "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            slow_post(balancer.entry(), Duration::from_secs(10)).await;
        })
        .await;
}

#[tokio::test]
async fn slow_post_over_http2() {
    let keys = "min_body_rate = 500\nmin_body_rate_grace = '2s'";
    let victim = Recorder::start().await;
    let world = World::with_victim(victim.address(), keys, "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            let mut peer = Peer::connect(balancer.entry()).await;
            let block = Block::request("POST", "/victim").field("content-length", "100000");
            peer.say(&[Frame::headers(1, flag::NONE, block)]).await;
            let began = Instant::now();
            loop {
                peer.say(&[Frame::data(1, flag::NONE, b"slow")]).await;
                match timeout(DRIP_EVERY, peer.outcome(1)).await {
                    Ok(Outcome::Answered(408) | Outcome::Reset(_)) => break,
                    Ok(other) => panic!("{other:?} where the stream must be ended"),
                    Err(_) => assert!(began.elapsed() < SHORT + SLACK, "it must be cut"),
                }
            }
            assert!(
                began.elapsed() >= SHORT - DRIP_EVERY,
                "it must have had its grace"
            );
            peer.is_alive().await;
        })
        .await;
}

/// A client on a bad line is slow, and above the rate.
#[tokio::test]
async fn a_body_above_the_rate_is_let_be() {
    let keys = "min_body_rate = 500\nmin_body_rate_grace = '1s'";
    let victim = Recorder::start().await;
    let world = World::with_victim(victim.address(), keys, "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            let mut client = Dialogue::with(balancer.entry()).await;
            let head = "POST /victim HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\n";
            client.say(head).await;
            for _ in 0..25 {
                client.say([b'x'; 200]).await;
                tokio::time::sleep(DRIP_EVERY).await;
            }
            assert_eq!(client.head().await.status(), 200);
        })
        .await;
}

#[tokio::test]
async fn slow_read() {
    let victim = Victim::start(ENDLESS).await;
    let world = World::with_victim(victim.address(), "send_timeout = '2s'", "").await;
    world
        .under(64 * MIB, async |balancer| {
            let mut clients = Vec::new();
            for _ in 0..200 {
                let mut client = Dialogue::with(balancer.entry()).await;
                client.say("GET /victim HTTP/1.1\r\nhost: a\r\n\r\n").await;
                clients.push(client);
            }
            until_cut(balancer, SHORT).await;
        })
        .await;
}

/// A window that is never opened: nothing of the answers can be sent, and nothing but a bounded part may be held.
#[tokio::test]
async fn zero_window_over_http2() {
    let victim = Victim::start(ENDLESS).await;
    let world = World::with_victim(victim.address(), "send_timeout = '2s'", "").await;
    world
        .under(64 * MIB, async |balancer| {
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(unread_streams(balancer.entry(), 0).await);
            }
            until_ended(clients, SHORT).await;
        })
        .await;
}

/// The streams' windows are open and the socket is never read.
#[tokio::test]
async fn unread_socket_over_http2() {
    let victim = Victim::start(ENDLESS).await;
    let world = World::with_victim(victim.address(), "send_timeout = '2s'", "").await;
    world
        .under(64 * MIB, async |balancer| {
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(unread_streams(balancer.entry(), (1 << 31) - 1).await);
            }
            until_cut(balancer, SHORT).await;
        })
        .await;
}

async fn slowloris(address: SocketAddr, n_connections: usize, bar: Duration) {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..n_connections {
        clients.spawn(drip(address));
    }
    let took = clients.join_all().await;
    let slowest = took.into_iter().max().unwrap_or_default();
    assert!(
        slowest < bar + SLACK,
        "a head was cut only after {slowest:?}"
    );
    assert!(began.elapsed() > bar / 2, "nobody is cut before his time");
}

/// Sends a head line by line until it is cut; how long that took.
async fn drip(address: SocketAddr) -> Duration {
    let mut client = Dialogue::with(address).await;
    let began = Instant::now();
    let mut said = client.try_say("GET / HTTP/1.1\r\nhost: a\r\n").await;
    while said.is_ok() && began.elapsed() < Duration::from_secs(20) {
        if let Ok(None) = timeout(DRIP_EVERY, client.hear_some()).await {
            break;
        }
        said = client.try_say("x: y\r\n").await;
    }
    began.elapsed()
}

/// Three ways to begin and not to go on.
async fn slow_http2(address: SocketAddr, n: usize) {
    let mut peer = Peer::over(dial(address).await);
    match n % 3 {
        0 => peer.say_bytes(&PREFACE[..20]).await,
        1 => peer.say_bytes(PREFACE).await,
        _ => {
            peer.say_bytes(PREFACE).await;
            let begun = Frame::headers_begun(1, flag::END_STREAM, Block::get("/"));
            peer.say(&[Frame::settings(&[]), begun]).await;
        }
    }
    assert!(peer.is_closed().await, "it must be cut");
}

/// Sends a body far below any rate; the refusal comes after the grace and not long after.
async fn slow_post(address: SocketAddr, grace: Duration) {
    let mut client = Dialogue::with(address).await;
    client
        .say("POST /victim HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n")
        .await;
    let began = Instant::now();
    loop {
        // The refusal ends the connection; it may have been heard before this fails.
        let _ = client.try_say("slow").await;
        if let Ok(heard) = timeout(DRIP_EVERY, client.hear_some()).await {
            let heard = heard.expect("who is cut is told why");
            assert!(
                heard.starts_with(b"HTTP/1.1 408 "),
                "{}",
                heard.escape_ascii()
            );
            break;
        }
        assert!(began.elapsed() < grace + SLACK, "it must be cut");
    }
    assert!(
        began.elapsed() + DRIP_EVERY >= grace,
        "it must have had its grace"
    );
}

async fn unread_streams(address: SocketAddr, window: u32) -> Peer {
    let stream = dial(address).await;
    let settings = [(setting::INITIAL_WINDOW_SIZE, window)];
    let mut peer = Peer::agree_on(stream, &settings).await;
    let asks: Vec<_> = (0..50)
        .map(|n| Frame::headers(2 * n + 1, flag::END_STREAM, Block::get("/victim")))
        .collect();
    peer.say(&asks).await;
    if window > 0 {
        peer.say(&[Frame::window_update(0, (1 << 30) - 1)]).await;
    }
    peer
}

/// Who does not read does not hear of it, so the balancer is asked.
async fn until_cut(balancer: &Balancer, bar: Duration) {
    let began = Instant::now();
    until("the attackers to be connected", async || {
        connections(balancer).await > 1.0
    })
    .await;
    until("those who do not read to be cut", async || {
        connections(balancer).await <= 1.0
    })
    .await;
    assert!(began.elapsed() < bar + 2 * SLACK, "{:?}", began.elapsed());
}

/// Each stream is reset, or the connection ended.
async fn until_ended(clients: Vec<Peer>, bar: Duration) {
    let began = Instant::now();
    for mut client in clients {
        loop {
            match client.outcome(99).await {
                Outcome::Answered(200) => {}
                Outcome::Reset(_) | Outcome::Closed => break,
                Outcome::GoneAway(code, _) if code != code::NO_ERROR => break,
                other => panic!("{other:?} where a stream that nobody reads must be ended"),
            }
        }
    }
    assert!(began.elapsed() < bar + 2 * SLACK, "{:?}", began.elapsed());
}
