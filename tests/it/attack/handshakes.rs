//! Clients that begin TLS badly, or begin it and do not go on.

use std::time::{Duration, Instant};

use tests::{
    cluster::Balancer,
    origin::Dialogue,
    raw::{http2::Peer, tls::Certificate},
};
use tokio::task::JoinSet;

use super::world::{ANY_GROWTH, MIB, SLACK, World};

/// The listener that speaks TLS; the client beside the attack uses the other.
const SECURE: &str = "secure";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A record of a handshake that says it has 508 bytes.
const HELLO_BEGUN: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

#[tokio::test]
async fn stalled_handshakes_of_500_clients() {
    let (world, _certificate) = secure_world("handshake_timeout = '2s'").await;
    world
        .under(64 * MIB, async |balancer| {
            stall(balancer, 500, HANDSHAKE_TIMEOUT).await;
        })
        .await;
}

#[tokio::test]
async fn stalled_handshakes_against_the_defaults() {
    let (world, _certificate) = secure_world("").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            stall(balancer, 20, Duration::from_secs(10)).await;
        })
        .await;
}

#[tokio::test]
async fn garbage_where_tls_is_due() {
    let (world, _certificate) = secure_world("handshake_timeout = '2s'").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for garbage in [
                b"\0\x01\x02\x03\x04\x05\x06\x07".to_vec(),
                b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
                b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
                // A record of alerts, one of data, one of an unknown kind, and one that is too long.
                vec![0x15, 3, 3, 0, 2, 2, 40],
                vec![0x17, 3, 3, 0, 3, 1, 2, 3],
                vec![0x63, 3, 3, 0, 3, 1, 2, 3],
                [&[0x16, 3, 3, 0xff, 0xff][..], &[1; 70_000]].concat(),
                // A hello that is nothing but a length, and one of zeros.
                vec![0x16, 3, 1, 0, 4, 1, 0, 0, 0],
                [&[0x16, 3, 1, 0, 100, 1, 0, 0, 96][..], &[0; 96]].concat(),
                // SSL 2.0.
                vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10],
            ] {
                let mut client = Dialogue::with(balancer.entry_of(SECURE)).await;
                // The refusal may come before everything is said.
                let _ = client.try_say(&garbage).await;
                let (heard, _) = client.end().await;
                let is_alert = heard.first() == Some(&0x15);
                let is_word = heard.starts_with(b"HTTP/1.1 400 ");
                let shown = heard.escape_ascii();
                assert!(heard.is_empty() || is_alert || is_word, "{shown}");
            }
        })
        .await;
}

/// TLS 1.0 and 1.1 are refused by an alert (RFC 8996).
#[tokio::test]
async fn versions_that_are_too_old() {
    let (world, _certificate) = secure_world("").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for version in [0, 1, 2] {
                let mut client = Dialogue::with(balancer.entry_of(SECURE)).await;
                client.say(old_hello(version)).await;
                let (heard, _) = client.end().await;
                assert_eq!(heard.first(), Some(&0x15), "{}", heard.escape_ascii());
            }
        })
        .await;
}

/// After all of the above the listener still shakes hands.
#[tokio::test]
async fn honest_clients_beside_stalled_ones() {
    let (world, certificate) = secure_world("handshake_timeout = '2s'").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            let mut stalled = Vec::new();
            for _ in 0..200 {
                let mut client = Dialogue::with(balancer.entry_of(SECURE)).await;
                client.say(HELLO_BEGUN).await;
                stalled.push(client);
            }
            for _ in 0..20 {
                let stream = certificate.connect(balancer.entry_of(SECURE)).await;
                let mut peer = Peer::agree(stream).await;
                assert_eq!(peer.get(1, "/sized/10").await.status, 200);
            }
        })
        .await;
}

async fn secure_world(keys: &str) -> (World, Certificate) {
    let certificate = Certificate::make();
    let listening = format!("{}\n{keys}", certificate.listening());
    let world = World::set(|setup| setup.listener(SECURE, &listening)).await;
    (world, certificate)
}

async fn stall(balancer: &Balancer, n_clients: usize, bar: Duration) {
    let address = balancer.entry_of(SECURE);
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for n in 0..n_clients {
        clients.spawn(async move {
            let mut client = Dialogue::with(address).await;
            // Nothing, the first byte, or as much as makes the balancer wait for the rest.
            client
                .say(&HELLO_BEGUN[..[0, 1, HELLO_BEGUN.len()][n % 3]])
                .await;
            client.end().await;
        });
    }
    clients.join_all().await;
    let took = began.elapsed();
    assert!(took < bar + SLACK, "cut only after {took:?}");
}

/// A hello of version 3.x as it was then: no extensions, one cipher of the time.
fn old_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let length = u8::try_from(body.len()).expect("it is short");
    let hello = [&[1, 0, 0, length][..], &body].concat();
    [&[0x16, 3, minor, 0, length + 4][..], &hello].concat()
}
