//! One request, one answer, in every pairing of versions: what goes in at one end comes out at the other.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version};
use tests::{
    cluster::{Balancer, Setup},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web, content},
    },
};

use super::client::{Client, HOST, in_pieces, nothing, whole};

/// What the client speaks, what the service's `protocol` is, and what the origin speaks.
const PAIRINGS: [(Speaks, &str, Speaks); 6] = [
    (Speaks::Http1, "match", Speaks::Http1),
    (Speaks::Http2, "match", Speaks::Http2),
    (Speaks::Http1, "http1", Speaks::Http1),
    (Speaks::Http1, "http2", Speaks::Http2),
    (Speaks::Http2, "http1", Speaks::Http1),
    (Speaks::Http2, "http2", Speaks::Http2),
];

/// Nothing, one byte, more than one read, and more than every window and buffer on the way.
const SIZES: [usize; 4] = [0, 1, 64 << 10, 8 << 20];

#[tokio::test]
async fn a_head_arrives_as_it_was_sent() {
    for pairing in PAIRINGS {
        let (mut client, origin, _balancer) = between(pairing).await;
        let request = client
            .request(Method::PATCH, "/a%20b/../c?d=%2F&&e")
            .body(nothing());
        let answer = client.ask(request.expect("a valid request")).await;
        let seen = ["x-method", "x-target", "x-host"].map(|it| answer.field(it));
        assert_eq!(seen, ["PATCH", "/a%20b/../c?d=%2F&&e", HOST], "{pairing:?}");
        let (spoken, expected) = match pairing.2 {
            Speaks::Http1 => ("HTTP/1.1", pairing.0),
            Speaks::Http2 => ("HTTP/2.0", pairing.0),
        };
        assert_eq!(answer.field("x-version"), spoken, "{pairing:?}");
        assert_eq!(answer.version == Version::HTTP_2, expected == Speaks::Http2);
        assert_eq!(origin.requests(), 1);
    }
}

#[tokio::test]
async fn bodies_of_all_sizes_pass_both_ways() {
    for pairing in PAIRINGS {
        let (mut client, _origin, _balancer) = between(pairing).await;
        for size in SIZES {
            let sent = content(size);
            let answer = client.post("/echo", whole(sent.clone())).await;
            assert!(answer.body == sent, "{pairing:?} with a length: {size}");
            let answer = client.post("/echo", in_pieces(&sent, 30_000, None)).await;
            assert!(answer.body == sent, "{pairing:?} without a length: {size}");
        }
    }
}

#[tokio::test]
async fn a_length_that_is_known_stays_known() {
    for pairing in PAIRINGS {
        let (mut client, _origin, _balancer) = between(pairing).await;
        for size in &SIZES[1..] {
            let sized = client.get(&format!("/sized/{size}")).await;
            assert_eq!(
                sized.field("content-length"),
                size.to_string(),
                "{pairing:?}"
            );
            assert!(sized.body == content(*size), "{pairing:?}: {size}");
            let chunked = client.get(&format!("/chunked/{size}")).await;
            assert_eq!(chunked.field("content-length"), "", "{pairing:?}");
            assert!(chunked.body == content(*size), "{pairing:?}: {size}");
        }
    }
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable() {
    for pairing in PAIRINGS {
        let (mut client, _origin, _balancer) = between(pairing).await;
        let request = client.request(Method::HEAD, "/sized/12345").body(nothing());
        let head = client.ask(request.expect("a valid request")).await;
        assert_eq!(head.field("content-length"), "12345", "{pairing:?}");
        assert!(head.body.is_empty());
        for status in [204, 304] {
            let answer = client.get(&format!("/status/{status}")).await;
            assert_eq!(
                (answer.status, answer.body.len()),
                (status, 0),
                "{pairing:?}"
            );
        }
        assert_eq!(client.get("/sized/5").await.body, content(5), "{pairing:?}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for pairing in PAIRINGS {
        let (mut client, _origin, _balancer) = between(pairing).await;
        let after = HeaderMap::from_iter([(
            "x-after".parse().expect("a name"),
            HeaderValue::from_static("all"),
        )]);
        let body = in_pieces(&Bytes::from_static(b"before"), 2, Some(after.clone()));
        let request = client
            .request(Method::POST, "/echo")
            .header("te", "trailers")
            .header("trailer", "x-after")
            .body(body);
        let request = request.expect("a valid request");
        let answer = client.ask(request).await;
        assert_eq!(answer.text(), "before");
        assert_eq!(answer.trailers, Some(after), "{pairing:?}");
    }
}

#[tokio::test]
async fn sequential_requests_share_one_connection_to_the_node() {
    for pairing in PAIRINGS {
        let (mut client, origin, balancer) = between(pairing).await;
        for _ in 0..5 {
            assert_eq!(client.get("/sized/10").await.status, 200);
        }
        let mut another = Client::connect(balancer.entry(), pairing.0).await;
        assert_eq!(another.get("/sized/10").await.status, 200);
        assert_eq!(
            (origin.requests(), origin.connections()),
            (6, 1),
            "{pairing:?}"
        );
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    let request =
        |path: &str| format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc");
    let all: String = ["/1", "/2", "/3", "/4"].map(request).concat();
    client.say(all).await;
    for expected in ["/1", "/2", "/3", "/4"] {
        let head = client.head().await;
        assert_eq!(head.field("x-target").as_deref(), Some(expected));
        client.hears("abc").await;
    }
}

#[tokio::test]
async fn an_old_client_without_a_host_gets_an_answer_and_a_close() {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET /old HTTP/1.0\r\n\r\n").await;
    let mut node = origin.visit().await;
    let head = node.head().await;
    assert_eq!(head.first_line(), "GET /old HTTP/1.1");
    assert_eq!(head.field("host").as_deref(), Some(""));
    node.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(
        head.field("transfer-encoding"),
        None,
        "http/1.0 has no chunks"
    );
    assert_eq!(client.rest().await, b"hi");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    drop(node);
    assert_eq!(
        client.head().await.field("transfer-encoding").as_deref(),
        Some("chunked")
    );
    client.hear_until("0\r\n\r\n").await;
}

async fn between((client, protocol, origin): (Speaks, &str, Speaks)) -> (Client, Web, Balancer) {
    let origin = Web::start(origin).await;
    let protocol = format!("protocol = '{protocol}'");
    let balancer = Setup::http(&[origin.address()])
        .serving(&protocol)
        .start()
        .await;
    let client = Client::connect(balancer.entry(), client).await;
    (client, origin, balancer)
}
