//! Answers are compressed where the client asks, the route allows it and nothing speaks against it; and nothing is held back.

use std::io::Read;

use bytes::Bytes;
use http::Method;
use tests::{
    cluster::{Balancer, Setup},
    origin::{Dialogue, Head, Origin, web::Speaks},
};

use super::client::{Client, nothing};

const TEXT: &str = "all work and no play makes a dull text, which is short when it is coded. ";

#[tokio::test]
async fn each_coding_is_read_by_its_own_reader() {
    let (origin, balancer) = compressing("").await;
    let text = TEXT.repeat(5_000);
    for speaks in [Speaks::Http1, Speaks::Http2] {
        for (accepts, coding) in [
            ("gzip", "gzip"),
            ("br;q=0.5, gzip;q=0.1", "br"),
            ("gzip, br, zstd", "zstd"),
            ("identity", ""),
        ] {
            let mut client = Client::connect(balancer.entry(), speaks).await;
            let request = client
                .request(Method::GET, "/")
                .header("accept-encoding", accepts);
            let request = request.body(nothing()).expect("a valid request");
            let said = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\netag: \"a\"\r\naccept-ranges: bytes\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            );
            let node = async {
                let mut node = origin.visit().await;
                node.head().await;
                node.say(said).await;
                node
            };
            let (answer, _node) = tokio::join!(client.ask(request), node);
            assert_eq!(answer.field("content-encoding"), coding, "{accepts}");
            assert_eq!(answer.field("vary"), "accept-encoding");
            assert!(
                restore(coding, &answer.body) == text.as_bytes(),
                "{accepts}"
            );
            if !coding.is_empty() {
                assert!(answer.body.len() < text.len() / 20, "{}", answer.body.len());
                assert_eq!(answer.field("etag"), "W/\"a\"");
                assert_eq!(
                    (
                        answer.field("accept-ranges"),
                        answer.field("content-length")
                    ),
                    ("", "")
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_to_be_left_alone_is() {
    let (origin, balancer) = compressing("").await;
    let long = "content-length: 2000\r\n";
    let text = "content-type: text/plain\r\n";
    for (request, answer, status) in [
        ("GET", format!("{text}content-length: 10\r\n"), 200),
        ("GET", format!("content-type: image/png\r\n{long}"), 200),
        (
            "GET",
            format!("content-type: text/event-stream\r\n{long}"),
            200,
        ),
        ("GET", format!("{text}{long}content-encoding: br\r\n"), 200),
        (
            "GET",
            format!("{text}{long}cache-control: no-transform\r\n"),
            200,
        ),
        (
            "GET",
            format!("{text}{long}content-range: bytes 0-1999/9999\r\n"),
            206,
        ),
        ("GET", text.to_owned(), 204),
        ("GET", text.to_owned(), 304),
        ("HEAD", format!("{text}{long}"), 200),
    ] {
        let head = exchange(&balancer, &origin, request, status, &answer).await;
        let given = answer.contains("content-encoding").then_some("br");
        assert_eq!(head.field("content-encoding").as_deref(), given, "{answer}");
        assert_eq!(head.field("vary"), None, "{answer}");
    }
}

/// An event that waits for the next one to fill a coder's buffer would come too late.
#[tokio::test]
async fn a_trickle_is_not_held_back() {
    let (origin, balancer) = compressing("compress_types = ['text/event-stream']").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say("GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n")
        .await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    assert_eq!(
        client.head().await.field("content-encoding").as_deref(),
        Some("gzip")
    );
    let mut coded = Vec::new();
    for n in 1..4 {
        node.say("7\r\nevent\n\n\r\n").await;
        while so_far(&coded) != b"event\n\n".repeat(n) {
            coded.extend(chunk(&mut client).await);
        }
    }
    node.say("0\r\n\r\n").await;
    loop {
        let more = chunk(&mut client).await;
        if more.is_empty() {
            break;
        }
        coded.extend(more);
    }
    assert_eq!(restore("gzip", &coded), b"event\n\n".repeat(3));
}

#[tokio::test]
async fn a_node_that_breaks_off_is_not_made_to_look_whole() {
    let (origin, balancer) = compressing("").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say("GET /cut HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n")
        .await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 99999\r\n\r\n{TEXT}"
    ))
    .await;
    client.head().await;
    node.crash();
    let (rest, _) = client.end().await;
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "the last chunk would say that all is there"
    );
    assert_eq!(balancer.line("/cut").await["ended"], "node_cut");
}

#[tokio::test]
async fn an_old_client_hears_the_end_by_the_close() {
    let (origin, balancer) = compressing("").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say("GET / HTTP/1.0\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n")
        .await;
    let mut node = origin.visit().await;
    node.head().await;
    let text = TEXT.repeat(100);
    node.say(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    ))
    .await;
    let head = client.head().await;
    assert_eq!(
        (
            head.field("content-length"),
            head.field("transfer-encoding")
        ),
        (None, None)
    );
    assert_eq!(restore("gzip", &client.rest().await), text.as_bytes());
}

async fn compressing(keys: &str) -> (Origin, Balancer) {
    let origin = Origin::start().await;
    let setup = Setup::empty()
        .listener("web", "")
        .service("app", &[origin.address()]);
    let route = format!("service = 'app'\ncompress = ['zstd', 'br', 'gzip']\n{keys}");
    let balancer = setup
        .serving("protocol = 'http1'")
        .route(&route)
        .start()
        .await;
    (origin, balancer)
}

async fn exchange(
    balancer: &Balancer,
    origin: &Origin,
    method: &str,
    status: u16,
    fields: &str,
) -> Head {
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say(format!(
            "{method} / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n"
        ))
        .await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(format!("HTTP/1.1 {status} X\r\n{fields}\r\n"))
        .await;
    client.head().await
}

async fn chunk(client: &mut Dialogue) -> Bytes {
    let line = client.hear_until("\r\n").await;
    let n = usize::from_str_radix(line.trim(), 16).expect("a chunk begins with its length");
    let data = client.hear(n).await;
    client.hears("\r\n").await;
    data
}

/// As much as can be read of what has come.
fn so_far(coded: &[u8]) -> Vec<u8> {
    let (mut out, mut byte) = (Vec::new(), [0]);
    let mut reader = flate2::read::GzDecoder::new(coded);
    while let Ok(1) = reader.read(&mut byte) {
        out.push(byte[0]);
    }
    out
}

fn restore(coding: &str, coded: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reader: Box<dyn Read> = match coding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(coded)),
        "br" => Box::new(brotli::Decompressor::new(coded, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(coded).expect("it begins")),
        _ => Box::new(coded),
    };
    reader.read_to_end(&mut out).expect("it is whole");
    out
}
