//! Clients that say they come from elsewhere, with a header of the PROXY protocol.

use std::time::Duration;

use tests::{
    origin::{Dialogue, End},
    raw::recorder::{Event, Recorder},
};
use tokio::time::timeout;

use super::world::{ANY_GROWTH, SLACK, World};

/// The listener that believes proxies.
const BEHIND: &str = "behind-a-proxy";
const CLAIM: &str = "203.0.113.7";
const ASK: &str = "GET /victim HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// The twelve bytes with which version 2 begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[tokio::test]
async fn a_proxy_header_from_an_untrusted_source_is_refused() {
    for mode in ["require", "accept"] {
        for header in [version_1(), version_2()] {
            is_refused(mode, "10.0.0.0/8", &[&header, ASK.as_bytes()].concat()).await;
        }
    }
}

#[tokio::test]
async fn a_client_without_a_header_is_refused_where_one_is_required() {
    is_refused("require", "127.0.0.0/8", ASK.as_bytes()).await;
}

#[tokio::test]
async fn a_proxy_header_on_a_listener_that_knows_none_is_refused() {
    let recorder = Recorder::start().await;
    let world = World::with_victim(recorder.address(), "", "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for header in [version_1(), version_2()] {
                let mut client = Dialogue::with(balancer.entry()).await;
                // The refusal may come before everything is said.
                let _ = client.try_say([&header, ASK.as_bytes()].concat()).await;
                let (heard, _) = client.end().await;
                let refused = heard.is_empty() || heard.starts_with(b"HTTP/1.1 400 ");
                assert!(refused, "{}", heard.escape_ascii());
            }
            assert_eq!(recorder.take(), []);
        })
        .await;
}

#[tokio::test]
async fn a_broken_proxy_header_is_refused() {
    let long = format!("PROXY TCP4 {CLAIM} 127.0.0.1 1 {}\r\n", "2".repeat(200));
    let too_long = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let broken: [&[u8]; 8] = [
        b"PROXY TCP4 999.0.113.7 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 203.0.113.7 127.0.0.1 1 99999\r\n",
        b"PROXY TCP9 203.0.113.7 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\n",
        long.as_bytes(),
        &[SIGNATURE, &[0x31, 0x11, 0, 12], &[1; 12]].concat(),
        &[SIGNATURE, &[0x21, 0x11, 0, 4], &[1; 4]].concat(),
        &[&too_long[..], &[0; 66_000]].concat(),
    ];
    for header in broken {
        is_refused("require", "127.0.0.0/8", &[header, ASK.as_bytes()].concat()).await;
    }
}

/// A header that never comes to its end is waited for no longer than a head is.
#[tokio::test]
async fn a_truncated_proxy_header_is_cut() {
    let recorder = Recorder::start().await;
    let world = world(&recorder, "require", "127.0.0.0/8").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for part in [&version_1()[..20], &version_2()[..14], b"P", b"\r\n\r\n"] {
                let mut client = Dialogue::with(balancer.entry_of(BEHIND)).await;
                client.say(part).await;
                let end = timeout(Duration::from_secs(5) + SLACK, client.end()).await;
                end.expect("it must be cut");
            }
            assert_eq!(recorder.take(), []);
        })
        .await;
}

/// The other side of the coin: whom the operator trusts is believed.
#[tokio::test]
async fn a_proxy_header_from_a_trusted_source_is_believed() {
    let recorder = Recorder::start().await;
    let world = world(&recorder, "require", "127.0.0.0/8").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for header in [version_1(), version_2()] {
                let mut client = Dialogue::with(balancer.entry_of(BEHIND)).await;
                client.say([&header, ASK.as_bytes()].concat()).await;
                assert_eq!(client.head().await.status(), 200);
                let seen = recorder.take();
                let [Event::Whole(request)] = seen.as_slice() else {
                    panic!("one request was sent: {seen:?}");
                };
                let told = request.field("x-forwarded-for");
                assert_eq!(told.as_deref(), Some(CLAIM));
            }
        })
        .await;
}

async fn world(recorder: &Recorder, mode: &str, trusted: &str) -> World {
    let address = recorder.address();
    World::set(|setup| {
        setup
            .listener(
                BEHIND,
                &format!("request_head_timeout = '2s'\n[listener.proxy_protocol]\nmode = '{mode}'\ntrusted = ['{trusted}']"),
            )
            .service("victim", &[address])
            .serving("protocol = 'http1'")
            .route("path = '/victim'\nservice = 'victim'")
    })
    .await
}

/// The connection ends, with at most a refusal, and the node has seen nothing.
async fn is_refused(mode: &str, trusted: &str, bytes: &[u8]) {
    let recorder = Recorder::start().await;
    let world = world(&recorder, mode, trusted).await;
    world
        .under(ANY_GROWTH, async |balancer| {
            // The refusal may come before everything is said, and before it is known that there is a connection.
            if let Some(mut client) = Dialogue::unless_reset(balancer.entry_of(BEHIND)).await {
                let _ = client.try_say(bytes).await;
                let (heard, end) = client.end().await;
                let refused = heard.is_empty() || heard.starts_with(b"HTTP/1.1 4");
                assert!(refused, "{}", heard.escape_ascii());
                assert!(matches!(end, End::Closed | End::Reset));
            }
            assert_eq!(recorder.take(), []);
            let lines = format!("{:?}", balancer.lines());
            assert!(!lines.contains(CLAIM), "{lines}");
        })
        .await;
}

fn version_1() -> Vec<u8> {
    format!("PROXY TCP4 {CLAIM} 127.0.0.1 56324 443\r\n").into_bytes()
}

fn version_2() -> Vec<u8> {
    let addresses = [203, 0, 113, 7, 127, 0, 0, 1, 0xdc, 4, 1, 0xbb];
    [SIGNATURE, &[0x21, 0x11, 0, 12], &addresses].concat()
}
