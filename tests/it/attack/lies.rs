//! Nodes that lie with time and size: the client hears of it in bounded time and memory, and other services do not.

use std::time::{Duration, Instant};

use tests::{
    cluster::Balancer,
    origin::{Dialogue, Origin},
    raw::victim::{Manner, Victim},
};

use super::world::{MIB, SLACK, World};

const ASK: &str = "GET /victim HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
/// How many clients ask a lying node at one time.
const CLIENTS: usize = 20;

#[tokio::test]
async fn a_head_that_never_ends() {
    let manner = Manner::Endless(b"HTTP/1.1 200 OK\r\n", b"x: 0123456789abcdef\r\n");
    fails_with(manner, &[502]).await;
}

#[tokio::test]
async fn a_field_that_never_ends() {
    fails_with(Manner::Endless(b"HTTP/1.1 200 OK\r\nx: ", b"y"), &[502]).await;
}

#[tokio::test]
async fn a_reason_that_never_ends() {
    fails_with(Manner::Endless(b"HTTP/1.1 200 ", b"y"), &[502]).await;
}

#[tokio::test]
async fn forerunners_that_never_end() {
    let forerunner = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    fails_with(Manner::Endless(b"", forerunner), &[502, 504]).await;
}

#[tokio::test]
async fn continues_that_never_end() {
    let forerunner = b"HTTP/1.1 100 Continue\r\n\r\n";
    fails_with(Manner::Endless(b"", forerunner), &[502, 504]).await;
}

#[tokio::test]
async fn empty_lines_that_never_end() {
    fails_with(Manner::Endless(b"", b"\r\n"), &[502, 504]).await;
}

#[tokio::test]
async fn no_answer_at_all() {
    fails_with(Manner::Deaf, &[504]).await;
}

/// The status comes before the trailers, so that all that can be done is to cut.
#[tokio::test]
async fn trailers_that_never_end() {
    let first = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
    is_cut(Manner::Endless(first, b"x: 0123456789abcdef\r\n")).await;
}

#[tokio::test]
async fn a_chunk_extension_that_never_ends() {
    let first = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;";
    is_cut(Manner::Endless(first, b"x")).await;
}

#[tokio::test]
async fn a_chunk_size_that_never_ends() {
    let first = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    is_cut(Manner::Endless(first, b"0")).await;
}

/// The connection is thrown away, and nobody is given what was said on it unasked.
#[tokio::test]
async fn an_answer_before_it_was_asked_for() {
    let origin = Origin::start().await;
    let world = World::with_victim(origin.address(), "", "").await;
    world
        .under(64 * MIB, async |balancer| {
            let mut client = Dialogue::with(balancer.entry()).await;
            client.say(ASK.replace("close", "keep-alive")).await;
            let mut node = origin.visit().await;
            node.head().await;
            node.say("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert_eq!(client.head().await.status(), 204);
            node.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
                .await;
            // Who says more than it was asked is let go.
            node.end().await;
            let mut other = Dialogue::with(balancer.entry()).await;
            other.say(ASK).await;
            let mut node = origin.visit().await;
            node.head().await;
            node.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood")
                .await;
            assert!(other.rest().await.ends_with(b"good"));
        })
        .await;
}

/// What comes before the request's end may be an answer; what is left of the request must not become the next one.
#[tokio::test]
async fn an_answer_before_the_body_has_come() {
    let origin = Origin::start().await;
    let world = World::with_victim(origin.address(), "", "").await;
    world
        .under(64 * MIB, async |balancer| {
            let mut client = Dialogue::with(balancer.entry()).await;
            let head = "POST /victim HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\n\r\n";
            client.say(head).await;
            let mut node = origin.visit().await;
            node.head().await;
            node.say("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                .await;
            assert_eq!(client.head().await.status(), 403);
            // The client may have gone on before it heard, or been let go.
            let _ = client
                .try_say("GET /victim/evil HTTP/1.1\r\nhost: a\r\n\r\nx")
                .await;
            let mut other = Dialogue::with(balancer.entry()).await;
            other.say(ASK).await;
            let mut node = origin.visit().await;
            assert_eq!(node.head().await.first_line(), "GET /victim HTTP/1.1");
            node.say("HTTP/1.1 204 No Content\r\n\r\n").await;
            other.end().await;
        })
        .await;
}

async fn fails_with(manner: Manner, statuses: &[u16]) {
    let victim = Victim::start(manner).await;
    let serving = "response_head_timeout = '2s'";
    let world = World::with_victim(victim.address(), "", serving).await;
    world
        .under(64 * MIB, async |balancer| {
            for heard in ask_at_once(balancer).await {
                let heard = String::from_utf8_lossy(&heard).into_owned();
                // A few forerunners may have been passed on before there were too many.
                let last = heard.rfind("HTTP/1.1 ").map_or("", |at| &heard[at..]);
                let status: u16 = last.get(9..12).and_then(|it| it.parse().ok()).unwrap_or(0);
                assert!(statuses.contains(&status), "{last:?}");
            }
        })
        .await;
}

async fn is_cut(manner: Manner) {
    let victim = Victim::start(manner).await;
    let serving = "response_head_timeout = '2s'";
    let world = World::with_victim(victim.address(), "", serving).await;
    world
        .under(64 * MIB, async |balancer| {
            for heard in ask_at_once(balancer).await {
                let failed = heard.starts_with(b"HTTP/1.1 502 ");
                let cut = !heard.ends_with(b"\r\n0\r\n\r\n");
                let shown = heard[..heard.len().min(300)].escape_ascii();
                assert!(failed || cut, "it must not seem whole: {shown}");
            }
        })
        .await;
}

/// What each client hears until it is let go, which is soon.
async fn ask_at_once(balancer: &Balancer) -> Vec<Vec<u8>> {
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say(ASK).await;
        clients.push(client);
    }
    let mut all = Vec::new();
    for mut client in clients {
        all.push(client.end().await.0);
    }
    let bar = Duration::from_secs(2) + SLACK;
    assert!(began.elapsed() < bar, "{:?}", began.elapsed());
    all
}
