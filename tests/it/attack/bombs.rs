//! Messages that are small to send and large to hold, and messages that are simply too large.

use std::time::Duration;

use tests::{
    cluster::Balancer,
    origin::Dialogue,
    raw::{
        frame::{FRAME_BYTES_MAX, Frame, flag},
        hpack::Block,
        http2::{Outcome, Peer},
        recorder::{Event, Recorder},
    },
};
use tokio::time::timeout;

use super::world::{MIB, World};

/// The first entry of the dynamic table (RFC 7541 §2.3.3).
const NEWEST: u64 = 62;
/// What a head, a target, trailers and chunk extensions may have at most.
const BOMB_BYTES: usize = 64 << 10;
/// A refusal does not wait for the end of what is refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn hpack_bomb() {
    bomb(|stream| {
        let block = if stream == 1 {
            Block::get("/victim").remembered("x", vec![b'y'; 4000])
        } else {
            Block::get("/victim")
        };
        references(block, 8000)
    })
    .await;
}

/// The crumbs are small, and it is their number that costs (RFC 9113 §8.2.3 joins them).
#[tokio::test]
async fn cookie_bomb() {
    bomb(|stream| {
        let block = Block::get("/victim");
        let block = if stream == 1 {
            block.remembered("cookie", "a=b")
        } else {
            block
        };
        references(block, 15_000)
    })
    .await;
}

/// The same with values of nothing, which a limit on bytes alone does not see.
#[tokio::test]
async fn empty_field_bomb() {
    bomb(|stream| {
        let block = Block::get("/victim");
        let block = if stream == 1 {
            block.remembered("x", "")
        } else {
            block
        };
        references(block, 15_000)
    })
    .await;
}

#[tokio::test]
async fn head_of_one_large_field() {
    let head = format!(
        "GET /victim HTTP/1.1\r\nhost: a\r\nx: {}",
        "y".repeat(BOMB_BYTES)
    );
    is_refused(&head).await;
}

#[tokio::test]
async fn head_of_many_fields() {
    let head = format!(
        "GET /victim HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "x: y\r\n".repeat(101)
    );
    is_refused(&head).await;
}

#[tokio::test]
async fn head_of_many_fields_without_an_end() {
    let head = format!(
        "GET /victim HTTP/1.1\r\nhost: a\r\n{}",
        "x:y\r\n".repeat(BOMB_BYTES / 5)
    );
    is_refused(&head).await;
}

#[tokio::test]
async fn target_without_an_end() {
    is_refused(&format!("GET /victim{}", "y".repeat(BOMB_BYTES))).await;
}

#[tokio::test]
async fn method_without_an_end() {
    is_refused(&"G".repeat(BOMB_BYTES)).await;
}

#[tokio::test]
async fn empty_lines_without_an_end() {
    is_refused(&"\r\n".repeat(BOMB_BYTES / 2)).await;
}

#[tokio::test]
async fn trailers_of_one_large_field() {
    is_cut(&format!("1\r\na\r\n0\r\nx: {}", "y".repeat(BOMB_BYTES))).await;
}

#[tokio::test]
async fn trailers_of_many_fields() {
    is_cut(&format!("1\r\na\r\n0\r\n{}\r\n", "x: y\r\n".repeat(101))).await;
}

#[tokio::test]
async fn chunk_extension_without_an_end() {
    is_cut(&format!("1;{}", "x".repeat(BOMB_BYTES))).await;
}

#[tokio::test]
async fn chunk_extensions_of_every_chunk() {
    let chunk = format!("1;{}\r\na\r\n", "x".repeat(100));
    is_cut(&chunk.repeat(BOMB_BYTES / 100 + 10)).await;
}

#[tokio::test]
async fn chunk_size_without_an_end() {
    is_cut(&"0".repeat(BOMB_BYTES)).await;
}

/// References of one byte each, after which the block is complete.
fn references(mut block: Block, n: usize) -> Block {
    for _ in 0..n {
        block = block.indexed(NEWEST);
    }
    block
}

/// Fifty streams on each of four connections, each of a few KiB that stand for dozens of MiB.
async fn bomb(block: impl Fn(u32) -> Block) {
    let recorder = Recorder::start().await;
    let world = World::with_victim(recorder.address(), "", "").await;
    world
        .under(16 * MIB, async |balancer| {
            for _ in 0..4 {
                bomb_once(balancer, &block).await;
            }
            assert_eq!(recorder.take(), [], "nothing of it reaches a node");
        })
        .await;
}

async fn bomb_once(balancer: &Balancer, block: impl Fn(u32) -> Block) {
    let mut peer = Peer::connect(balancer.entry()).await;
    for n in 0..50 {
        let stream = 2 * n + 1;
        let block = block(stream).into_bytes();
        assert!(block.len() <= FRAME_BYTES_MAX, "it fits into one frame");
        let asked = Frame::headers(stream, flag::END_STREAM, block);
        if peer.try_say(&[asked]).await.is_err() {
            return;
        }
        match peer.outcome(stream).await {
            Outcome::Answered(431) | Outcome::Reset(_) => {}
            Outcome::GoneAway(..) | Outcome::Closed => return,
            other => panic!("{other:?} where a bomb must be refused"),
        }
    }
}

/// A head is refused with a word, before it has ended if it never does.
async fn is_refused(head: &str) {
    let recorder = Recorder::start().await;
    let world = World::with_victim(recorder.address(), "", "").await;
    world
        .under(16 * MIB, async |balancer| {
            let heard = refusal(balancer, head).await;
            let is_4xx = heard.starts_with("HTTP/1.1 4");
            assert!(is_4xx, "{heard:?}");
            assert_eq!(recorder.take(), []);
        })
        .await;
}

/// A body may have been passed on in part; it never becomes whole, and the client is cut or told.
async fn is_cut(chunks: &str) {
    let recorder = Recorder::start().await;
    let world = World::with_victim(recorder.address(), "", "").await;
    world
        .under(16 * MIB, async |balancer| {
            let head = "POST /victim HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            let heard = refusal(balancer, &format!("{head}{chunks}")).await;
            let good = heard.is_empty() || heard.starts_with("HTTP/1.1 4");
            assert!(good, "{heard:?}");
            let whole = |it: &Event| !matches!(it, Event::CutShort(_));
            assert!(
                !recorder.take().iter().any(whole),
                "it must not become whole"
            );
        })
        .await;
}

/// All that is said to a client before its connection ends.
async fn refusal(balancer: &Balancer, bytes: &str) -> String {
    let mut client = Dialogue::with(balancer.entry()).await;
    // The refusal may come before everything is said.
    let _ = client.try_say(bytes).await;
    let heard = timeout(REFUSED_WITHIN, client.end()).await;
    let (heard, _) = heard.expect("a refusal does not wait");
    String::from_utf8_lossy(&heard).into_owned()
}
