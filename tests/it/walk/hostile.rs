//! Input that no honest client sends: it is refused clearly, nothing of it reaches a node, and a client beside it is undisturbed.

use std::time::{Duration, Instant};

use tests::{
    cluster::{Balancer, Setup, check},
    origin::{
        Dialogue,
        web::{Speaks, Web, content},
    },
};

use super::client::Client;

#[tokio::test]
async fn what_is_not_http_is_told_so() {
    let world = World::new("").await;
    for garbage in [
        "\0\u{1}\u{2}garbage",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "get / http/1.1\r\n\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        world.refuses(garbage.as_bytes(), 400).await;
    }
}

#[tokio::test]
async fn tls_on_a_plain_port_gets_an_alert() {
    let world = World::new("").await;
    let mut client = Dialogue::with(world.balancer.entry()).await;
    client
        .say([&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc][..], &content(512)].concat())
        .await;
    client.hears([21, 3, 1, 0, 2, 2, 40]).await;
    client.rest().await;
    world.is_undisturbed().await;
}

#[tokio::test]
async fn a_head_has_a_largest_size() {
    let world = World::new("max_head_bytes = 8192\nmax_headers = 20").await;
    let long = "x".repeat(20_000);
    let many = "a: b\r\n".repeat(50);
    for head in [
        format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
    ] {
        world.refuses(head.as_bytes(), 431).await;
    }
}

#[tokio::test]
async fn a_target_has_a_largest_size() {
    let world = World::new("max_head_bytes = 1048576").await;
    let uri = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(100_000));
    world.refuses(uri.as_bytes(), 414).await;
}

#[tokio::test]
async fn requests_that_two_readers_may_read_differently_are_refused() {
    let world = World::new("").await;
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost:\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx : b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: b\0c\r\n\r\n",
        "GET / HTTP/1.1\rhost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        world.refuses(head.as_bytes(), 400).await;
    }
    let unknown = "GET / HTTP/9.9\r\nhost: a\r\n\r\n";
    world.refuses(unknown.as_bytes(), 505).await;
}

/// RFC 9112 §6.1 leaves the choice to refuse it or to believe the encoding; a node may have chosen otherwise.
#[tokio::test]
async fn a_length_beside_an_encoding_is_refused() {
    let world = World::new("").await;
    for fields in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n1\r\nx\r\n0\r\n\r\n");
        world.refuses(request.as_bytes(), 400).await;
    }
}

#[tokio::test]
async fn chunks_that_are_none_end_the_exchange() {
    let world = World::new("").await;
    for chunks in [
        "zz\r\n",
        "-1\r\n",
        "ffffffffffffffffff\r\n",
        "3\r\nabcd\r\n",
    ] {
        let mut client = Dialogue::with(world.balancer.entry()).await;
        let head = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        client.say(format!("{head}{chunks}")).await;
        let (said, _) = client.end().await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            !said.contains("\r\n0\r\n\r\n"),
            "a broken body must not end well: {said}"
        );
        world.is_undisturbed().await;
    }
}

#[tokio::test]
async fn a_request_that_stops_in_the_middle_disturbs_nobody() {
    let world = World::new("").await;
    for part in [
        "G",
        "GET / HT",
        "GET / HTTP/1.1\r\nhost: a\r\nx:",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc",
    ] {
        let mut client = Dialogue::with(world.balancer.entry()).await;
        client.say(part).await;
        client.fall_silent().await;
        client.end().await;
        world.is_undisturbed().await;
    }
    assert_eq!(
        world
            .balancer
            .metric("colonnade_balancer_active_requests{service=\"app\"}")
            .await,
        0.0
    );
}

#[tokio::test]
async fn a_slow_head_is_cut_with_a_word() {
    let world = World::new("request_head_timeout = '400ms'").await;
    let began = Instant::now();
    let mut client = Dialogue::with(world.balancer.entry()).await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\nx: ").await;
    assert_eq!(client.head().await.status(), 408);
    client.end().await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(350), "{took:?}");
    // Dripping does not help: the head as a whole has its time.
    let mut client = Dialogue::with(world.balancer.entry()).await;
    client.say("GET / HTTP/1.1\r\n").await;
    while client.try_say("a: b\r\n").await.is_ok() && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (said, _) = client.end().await;
    assert!(began.elapsed() < Duration::from_secs(10), "it must be cut");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 408"),
        "{said}"
    );
    world.is_undisturbed().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let world = World::new("request_head_timeout = '300ms'\nidle_timeout = '300ms'").await;
    let mut silent = Dialogue::with(world.balancer.entry()).await;
    silent.end().await;
    let mut idle = Dialogue::with(world.balancer.entry()).await;
    idle.say("GET /sized/0 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(idle.head().await.status(), 200);
    assert_eq!(
        idle.rest().await,
        b"",
        "an idle connection ends without a word"
    );
}

#[tokio::test]
async fn garbage_after_the_preface_of_http2_ends_the_connection() {
    let world = World::new("").await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        // A frame larger than any that was allowed.
        [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &content(100)].concat(),
        // HEADERS on stream 0, after good settings.
        vec![0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 0, 0, 0, 0, 0x82],
        // HEADERS that no HPACK encoder makes.
        vec![
            0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff,
        ],
    ] {
        let mut client = Dialogue::with(world.balancer.entry()).await;
        client.say([&preface[..], &garbage].concat()).await;
        let (said, _) = client.end().await;
        assert!(
            has_frame(&said, 7),
            "a GOAWAY must say why: {}",
            said.escape_ascii()
        );
        world.is_undisturbed().await;
    }
}

#[tokio::test]
async fn an_absurd_configuration_is_refused_where_it_stands() {
    let least = "id = 'b'\n[[listener]]\nname = 'web'\naddress = '127.0.0.1:1'\n";
    let (code, said) = check(least).await;
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "the configuration is good")
    );
    for (keys, expected) in [
        (
            "max_connections = 0",
            "b.toml:5: listener[0].max_connections: 0 is not within 1 to 10000000",
        ),
        (
            "idle_timeout = 'soon'",
            "b.toml:5: listener[0].idle_timeout: `soon` is not a duration such as",
        ),
        (
            "protocol = 'gopher'",
            "b.toml:5: listener[0].protocol: unknown variant `gopher`, expected one of `http`, `tcp`, `detect`",
        ),
        (
            "adress = 1",
            "b.toml:5: listener[0].adress: unknown key, expected one of",
        ),
        (
            "max_headers = -1",
            "b.toml:5: listener[0].max_headers: -1 is not within 1 to 10000",
        ),
        (
            "[[route]]\nservice = 'app'",
            "b.toml:6: route[0].service: no service is called `app`",
        ),
        ("[membership", "b.toml:5"),
    ] {
        let (code, said) = check(&format!("{least}{keys}\n")).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(
            said.lines().count() <= 1 || keys.starts_with("[m"),
            "one line: {said}"
        );
    }
}

/// A balancer, its node, and a client that must not notice anything.
struct World {
    balancer: Balancer,
    origin: Web,
    neighbour: tokio::sync::Mutex<Client>,
}

impl World {
    async fn new(listening: &str) -> Self {
        let origin = Web::start(Speaks::Http1).await;
        let setup = Setup::http(&[origin.address()]).listening(listening);
        let balancer = setup.start().await;
        let mut neighbour = Client::connect(balancer.entry(), Speaks::Http1).await;
        // Who has said nothing yet is a slow client; this one is merely idle.
        assert_eq!(neighbour.get("/sized/1").await.status, 200);
        Self {
            balancer,
            origin,
            neighbour: neighbour.into(),
        }
    }

    async fn refuses(&self, input: &[u8], status: u16) {
        let before = self.origin.requests();
        let mut client = Dialogue::with(self.balancer.entry()).await;
        // The refusal may come before everything is said.
        let _ = client.try_say(input).await;
        let head = client.head().await;
        let shown = input[..input.len().min(200)].escape_ascii().to_string();
        assert_eq!(head.status(), status, "{shown}");
        assert_eq!(self.origin.requests(), before, "no node must see {shown}");
        self.is_undisturbed().await;
    }

    async fn is_undisturbed(&self) {
        let mut neighbour = self.neighbour.lock().await;
        assert_eq!(neighbour.get("/sized/3").await.body, content(3));
    }
}

/// Whether there is a frame of this type among what a server of HTTP/2 has said.
fn has_frame(mut said: &[u8], kind: u8) -> bool {
    while let Some((head, rest)) = said.split_at_checked(9) {
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if head[3] == kind {
            return true;
        }
        said = rest.get(len..).unwrap_or_default();
    }
    false
}
