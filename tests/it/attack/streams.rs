//! Streams that are asked for and taken back at once, by the client or by a server that it makes do so.

use tests::raw::{
    frame::{Frame, flag, kind, setting},
    hpack::Block,
    http2::{Outcome, Peer},
    victim::{Manner, Victim},
};

use super::world::{ANY_GROWTH, World};

/// How many streams are sent in one go, so that a refusal is seen soon.
const AT_ONCE: u32 = 50;
/// The stream cap of a server that has told none would be no cap.
const CAP_MAX: u32 = 1000;

#[tokio::test]
async fn rapid_reset_of_30000_streams() {
    let attack = |stream| {
        vec![
            Frame::headers(stream, flag::END_STREAM, Block::get("/victim")),
            Frame::reset(stream, 8),
        ]
    };
    ends_by(2000, 30_000, attack).await;
}

/// The same with bodies that never end.
#[tokio::test]
async fn rapid_reset_of_posts() {
    let attack = |stream| {
        vec![
            Frame::headers(stream, flag::NONE, Block::request("POST", "/victim")),
            Frame::data(stream, flag::NONE, b"x"),
            Frame::reset(stream, 8),
        ]
    };
    ends_by(2000, 30_000, attack).await;
}

#[tokio::test]
async fn made_you_reset_by_a_window_update_of_nothing() {
    made_you_reset(|stream| Frame::window_update(stream, 0)).await;
}

#[tokio::test]
async fn made_you_reset_by_a_window_that_overflows() {
    made_you_reset(|stream| Frame::window_update(stream, (1 << 31) - 1)).await;
}

#[tokio::test]
async fn made_you_reset_by_data_after_the_end() {
    made_you_reset(|stream| Frame::data(stream, flag::NONE, b"x")).await;
}

#[tokio::test]
async fn made_you_reset_by_headers_after_the_end() {
    made_you_reset(|stream| Frame::headers(stream, flag::END_STREAM, Block::get("/victim"))).await;
}

#[tokio::test]
async fn made_you_reset_by_a_priority_of_the_wrong_length() {
    made_you_reset(|stream| Frame::new(kind::PRIORITY, flag::NONE, stream, [0; 4])).await;
}

/// Requests that are malformed only after they were counted.
#[tokio::test]
async fn made_you_reset_by_a_body_longer_than_its_length() {
    let attack = |stream| {
        let block = Block::request("POST", "/victim").field("content-length", "1");
        vec![
            Frame::headers(stream, flag::NONE, block),
            Frame::data(stream, flag::NONE, b"too long"),
        ]
    };
    ends_by(1024, 3000, attack).await;
}

#[tokio::test]
async fn made_you_reset_by_malformed_requests() {
    let attack = |stream| {
        let block = Block::get("/victim").field("connection", "close");
        vec![Frame::headers(stream, flag::END_STREAM, block)]
    };
    ends_by(1024, 3000, attack).await;
}

async fn made_you_reset(mistake: impl Fn(u32) -> Frame) {
    let attack = |stream| {
        vec![
            Frame::headers(stream, flag::END_STREAM, Block::get("/victim")),
            mistake(stream),
        ]
    };
    ends_by(1024, 3000, attack).await;
}

/// The connection ends before more than so many streams were worked on, and the node behind has seen at most as many as are
/// allowed at one time.
async fn ends_by(streams_max: u32, n_streams: u32, attack: impl Fn(u32) -> Vec<Frame>) {
    let victim = Victim::start(Manner::Deaf).await;
    let world = World::with_victim(victim.address(), "", "").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            let mut peer = Peer::connect(balancer.entry()).await;
            let cap = peer.setting(setting::MAX_CONCURRENT_STREAMS);
            let cap = cap.expect("a server tells how many streams it allows");
            assert!(cap <= CAP_MAX, "{cap} streams");
            let mut said = Ok(());
            for first in (0..n_streams).step_by(AT_ONCE as usize) {
                let streams = (first..first + AT_ONCE).map(|it| 2 * it + 1);
                let frames: Vec<_> = streams.flat_map(&attack).collect();
                said = peer.try_say(&frames).await;
                if said.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            match peer.ending().await {
                Outcome::GoneAway(_, last) => {
                    assert!(
                        last <= 2 * streams_max + 1,
                        "stream {last} was still worked on"
                    );
                }
                // A reset of the socket overtakes the last word when more was on its way.
                Outcome::Closed if said.is_err() => {}
                other => panic!("{other:?} where the connection must be ended"),
            }
            assert!(peer.is_closed().await, "the connection must be closed");
            let cap = usize::try_from(cap).expect("it is small");
            assert!(victim.requests() <= cap, "{} requests", victim.requests());
        })
        .await;
}
