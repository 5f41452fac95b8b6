//! Frames of HTTP/2 that cost the sender next to nothing, in numbers that no honest client needs.

use std::time::{Duration, Instant};

use tests::raw::{
    frame::{Frame, code, flag, kind, setting},
    hpack::Block,
    http2::{Outcome, Peer},
    victim::{Manner, Victim},
};

use super::world::{ANY_GROWTH, MIB, World};

/// By how many frames a connection that only makes work is ended.
const FRAMES_MAX: usize = 10_000;
/// Within which time they are sent.
const SENT_WITHIN: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 100;

#[tokio::test]
async fn settings_flood() {
    let settings = Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)]);
    flood(&[settings]).await;
}

#[tokio::test]
async fn settings_flood_without_any() {
    flood(&[Frame::settings(&[])]).await;
}

#[tokio::test]
async fn settings_acknowledgement_flood() {
    flood(&[Frame::settings_ack()]).await;
}

#[tokio::test]
async fn ping_flood() {
    flood(&[Frame::ping(*b"flooding")]).await;
}

#[tokio::test]
async fn ping_acknowledgement_flood() {
    flood(&[Frame::new(kind::PING, flag::ACK, 0, *b"flooding")]).await;
}

#[tokio::test]
async fn priority_flood() {
    flood(&[Frame::priority(1, 0), Frame::priority(3, 0)]).await;
}

#[tokio::test]
async fn window_update_flood_on_the_connection() {
    flood(&[Frame::window_update(0, 1)]).await;
}

#[tokio::test]
async fn window_update_flood_on_a_stream() {
    flood(&[Frame::window_update(1, 1)]).await;
}

#[tokio::test]
async fn empty_data_flood() {
    flood(&[Frame::data(1, flag::NONE, b"")]).await;
}

/// What is padding is work too, and carries nothing.
#[tokio::test]
async fn padded_empty_data_flood() {
    flood(&[Frame::data(1, flag::NONE, b"").padded(0)]).await;
}

#[tokio::test]
async fn reset_flood_on_a_closed_stream() {
    flood(&[Frame::reset(1, 8)]).await;
}

#[tokio::test]
async fn unknown_frame_flood() {
    flood(&[Frame::new(kind::UNKNOWN, flag::NONE, 0, [])]).await;
}

#[tokio::test]
async fn continuation_flood_of_small_pieces() {
    continuation_flood(100, b"\0\x01a\x01b").await;
}

#[tokio::test]
async fn continuation_flood_of_nothing() {
    continuation_flood(100, b"").await;
}

#[tokio::test]
async fn continuation_flood_of_large_pieces() {
    let piece = Block::new().field("x", vec![b'y'; 16_000]).into_bytes();
    continuation_flood(6, &piece).await;
}

/// An honest client's frames beside its requests are no flood.
#[tokio::test]
async fn a_busy_client_is_no_flood() {
    let world = World::new("").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            let mut peer = Peer::connect(balancer.entry()).await;
            for n in 0..500 {
                peer.say(&[
                    Frame::ping(*b"hello!!!"),
                    Frame::window_update(0, 1000),
                    Frame::priority(2 * n + 1, 0),
                ])
                .await;
                assert_eq!(peer.get(2 * n + 1, "/sized/10").await.status, 200);
            }
            peer.is_alive().await;
        })
        .await;
}

async fn flood(frames: &[Frame]) {
    let victim = Victim::start(Manner::Deaf).await;
    let world = World::with_victim(victim.address(), "", "").await;
    world
        .under(32 * MIB, async |balancer| {
            let mut peer = Peer::connect(balancer.entry()).await;
            let block = Block::request("POST", "/victim");
            peer.say(&[Frame::headers(1, flag::NONE, block)]).await;
            let at_once: Vec<_> = frames.iter().cycle().take(AT_ONCE).cloned().collect();
            let began = Instant::now();
            let (mut sent, mut ending) = (0, None);
            while sent < FRAMES_MAX && ending.is_none() && peer.try_say(&at_once).await.is_ok() {
                sent += AT_ONCE;
                // Answers are taken in, so that only their number can be too much.
                while let Some(frame) = peer.next_within(Duration::from_micros(1)).await {
                    ending = ending.or((frame.kind == kind::GOAWAY).then(|| frame.number_at(4)));
                }
            }
            assert!(began.elapsed() < SENT_WITHIN, "{:?}", began.elapsed());
            let cut = sent < FRAMES_MAX;
            match (ending, peer.ending().await) {
                (Some(code), _) | (None, Outcome::GoneAway(code, _)) => {
                    let codes = [code::ENHANCE_YOUR_CALM, code::PROTOCOL_ERROR];
                    assert!(codes.contains(&code), "a GOAWAY with {code}");
                }
                // The end of the socket overtakes the last word while more is on its way.
                (None, Outcome::Closed) if cut => {}
                (None, other) => panic!("{other:?} after {sent} frames"),
            }
        })
        .await;
}

/// A field block that never ends: it is ended by 64 KiB or 16 frames, whatever time it has.
async fn continuation_flood(n_frames: usize, piece: &[u8]) {
    let world = World::new("").await;
    world
        .under(16 * MIB, async |balancer| {
            for _ in 0..20 {
                let mut peer = Peer::connect(balancer.entry()).await;
                let begun = Frame::headers_begun(1, flag::END_STREAM, Block::get("/"));
                let more = Frame::continuation(1, flag::NONE, piece);
                let frames: Vec<_> = std::iter::once(begun).chain(vec![more; n_frames]).collect();
                peer.say(&frames).await;
                let ending = peer.ending().await;
                let ended = matches!(ending, Outcome::GoneAway(..) | Outcome::Closed);
                assert!(ended, "{ending:?}");
            }
        })
        .await;
}
