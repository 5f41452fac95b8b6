//! PROXY headers: believed from those who are trusted, refused from everybody else, and told to nodes.

use std::{net::SocketAddr, time::Duration};

use balancer_core::proxy_header::{
    self, Addresses, Facts, Parsed, ProxyHeader, TlsFacts, V2_LEN_MAX,
};
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{Dialogue, Origin},
};

const REQUEST: &str = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
const REFUSED: &str = "colonnade_balancer_refused_connections_total";

#[tokio::test]
async fn a_trusted_proxy_tells_the_client() {
    for mode in ["accept", "require"] {
        for header in [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n".to_vec(),
            proxy_header::write_v2(&facts()),
        ] {
            let (origin, balancer) = http(mode, "127.0.0.0/8", "").await;
            let mut client = Dialogue::with(balancer.entry()).await;
            client.say([&header[..], REQUEST.as_bytes()].concat()).await;
            let mut node = origin.visit().await;
            let head = node.head().await;
            assert_eq!(head.field("x-forwarded-for").as_deref(), Some("192.0.2.7"));
            answer(&mut node, &mut client).await;
            assert_eq!(balancer.line("/a").await["client"], "192.0.2.7:4711");
        }
    }
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let (origin, balancer) = http("require", "127.0.0.0/8", "").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    let all = [&proxy_header::write_v2(&facts())[..], REQUEST.as_bytes()].concat();
    for byte in all {
        client.say([byte]).await;
        tokio::task::yield_now().await;
    }
    let mut node = origin.visit().await;
    let head = node.head().await;
    assert_eq!(head.first_line(), "GET /a HTTP/1.1");
    answer(&mut node, &mut client).await;
}

#[tokio::test]
async fn without_a_header_the_connection_is_the_peers_where_that_is_allowed() {
    let (origin, balancer) = http("accept", "127.0.0.0/8", "").await;
    // The first byte of the second may be that of a header.
    for method in ["GET", "PUT"] {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say(&method[..1]).await;
        tokio::task::yield_now().await;
        let rest = &method[1..];
        let request = format!("{rest} /a HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
        client.say(request).await;
        let mut node = origin.visit().await;
        let head = node.head().await;
        assert_eq!(head.first_line(), format!("{method} /a HTTP/1.1"));
        assert_eq!(head.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        answer(&mut node, &mut client).await;
    }
    let (_origin, balancer) = http("require", "127.0.0.0/8", "").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say(REQUEST).await;
    is_refused(&balancer, &mut client, "proxy_header").await;
}

/// Its address must never be used, and no byte behind it be read as a request.
#[tokio::test]
async fn a_header_from_an_untrusted_source_is_refused() {
    let (origin, balancer) = http("accept", "203.0.113.0/24", "").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say([&proxy_header::write_v2(&facts())[..], REQUEST.as_bytes()].concat())
        .await;
    is_refused(&balancer, &mut client, "proxy_untrusted").await;
    origin.stays_alone(Duration::from_millis(50)).await;

    // Before anything is read: the reset may come before the client knows that it is connected.
    let (origin, balancer) = http("require", "203.0.113.0/24", "").await;
    drop(tokio::net::TcpStream::connect(balancer.entry()).await);
    let counted = format!("{REFUSED}{{listener=\"web\",reason=\"proxy_untrusted\"}}");
    until("the refusal", async || {
        balancer.metric(&counted).await == 1.0
    })
    .await;
    origin.stays_alone(Duration::from_millis(50)).await;

    let (origin, balancer) = http("accept", "203.0.113.0/24", "").await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say(REQUEST).await;
    let mut node = origin.visit().await;
    node.head().await;
    answer(&mut node, &mut client).await;
}

#[tokio::test]
async fn broken_and_unfinished_headers_are_refused_in_time() {
    let v2 = proxy_header::write_v2(&facts());
    let mut flipped = v2.clone();
    flipped[20] ^= 1;
    let mut oversize = v2.clone();
    oversize[14..16].copy_from_slice(&(V2_LEN_MAX as u16).to_be_bytes());
    let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
    let (_origin, balancer) = http("accept", "127.0.0.0/8", "detect_timeout = '300ms'").await;
    for (n, bad) in [
        &v2[..20],
        &v2[..12],
        b"PROXY TCP4 192.0.2.7",
        b"PROXY nonsense\r\n",
        long.as_bytes(),
        &flipped,
        &oversize,
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say(bad).await;
        client.end().await;
        let counted = format!("{REFUSED}{{listener=\"web\",reason=\"proxy_header\"}}");
        assert_eq!(balancer.metric(&counted).await, n as f64 + 1.0, "{n}");
    }
    // A peer that goes in the middle of it is forgotten at once.
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say(&v2[..20]).await;
    client.fall_silent().await;
    client.end().await;
    let active = "colonnade_balancer_active_connections{listener=\"web\"}";
    until("all to be gone", async || {
        balancer.metric(active).await == 0.0
    })
    .await;
}

#[tokio::test]
async fn limits_by_source_count_the_told_address() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()])
        .top("[admission]\nmax_connections_per_source = 1")
        .listening("proxy_protocol = { mode = 'require', trusted = ['127.0.0.1'] }");
    let balancer = setup.start().await;
    let mut all = Vec::new();
    for (source, is_allowed) in [
        ("192.0.2.1", true),
        ("192.0.2.2", true),
        ("192.0.2.1", false),
    ] {
        let mut client = Dialogue::with(balancer.entry()).await;
        let header = format!("PROXY TCP4 {source} 198.51.100.1 1 2\r\n{REQUEST}");
        client.say(header).await;
        if is_allowed {
            let mut node = origin.visit().await;
            node.head().await;
            all.push((client, node));
        } else {
            is_refused(&balancer, &mut client, "max_connections_per_source").await;
        }
    }
}

#[tokio::test]
async fn a_node_is_told_what_the_proxy_in_front_has_told() {
    for version in ["v1", "v2"] {
        let origin = Origin::start().await;
        let setup = Setup::relay("tcp", &[origin.address()])
            .serving(&format!("proxy_protocol = '{version}'"))
            .listening("proxy_protocol = { mode = 'accept', trusted = ['127.0.0.1'] }");
        let balancer = setup.start().await;
        let mut client = Dialogue::with(balancer.entry()).await;
        client
            .say([&proxy_header::write_v2(&facts())[..], b"hello"].concat())
            .await;
        let told = told(&mut origin.visit().await).await;
        let addresses = told.addresses.expect("it is told");
        assert_eq!(addresses.source, address("192.0.2.7:4711"));
        assert_eq!(addresses.destination, address("198.51.100.1:443"));
        if version == "v2" {
            let tls = told.tls.expect("it is passed on");
            assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
            assert_eq!(tls.common_name.as_deref(), Some("alice"));
            assert!(tls.is_verified);
            assert_eq!(told.authority.as_deref(), Some("www.example.org"));
            assert_eq!(told.alpn.as_deref(), Some(&b"h2"[..]));
            assert_eq!(told.unique_id.as_deref(), Some(&b"4711"[..]));
        }
    }
}

#[tokio::test]
async fn version_1_tells_the_peer_of_a_plain_connection() {
    let origin = Origin::start().await;
    let setup = Setup::relay("tcp", &[origin.address()]).serving("proxy_protocol = 'v1'");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("hello").await;
    let mut node = origin.visit().await;
    let line = node.hear_until("\r\n").await;
    let (from, to) = (client.local_addr().port(), balancer.entry().port());
    assert_eq!(
        line,
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n")
    );
    node.hears("hello").await;
}

async fn http(mode: &str, trusted: &str, listening: &str) -> (Origin, Balancer) {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).listening(&format!(
        "proxy_protocol = {{ mode = '{mode}', trusted = ['{trusted}'] }}\n{listening}"
    ));
    (origin, setup.start().await)
}

async fn answer(node: &mut Dialogue, client: &mut Dialogue) {
    node.say("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 204);
}

async fn is_refused(balancer: &Balancer, client: &mut Dialogue, reason: &str) {
    // A reset that the client's own words ran into already reads as a plain end.
    let (said, _) = client.end().await;
    let said = String::from_utf8_lossy(&said).into_owned();
    match reason.starts_with("proxy_") {
        true => assert_eq!(said, ""),
        false => assert!(said.starts_with("HTTP/1.1 503"), "{said}"),
    }
    let counted = format!("{REFUSED}{{listener=\"web\",reason=\"{reason}\"}}");
    assert_eq!(balancer.metric(&counted).await, 1.0);
}

/// The header that a node gets, before `hello`.
async fn told(node: &mut Dialogue) -> ProxyHeader {
    let mut bytes = Vec::new();
    loop {
        bytes.extend(node.hear(1).await);
        match proxy_header::parse(&bytes) {
            Parsed::NeedMore => {}
            Parsed::Header { header, len } if len == bytes.len() => {
                node.hears("hello").await;
                return *header;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn facts() -> Facts<'static> {
    Facts {
        addresses: Some(Addresses {
            source: address("192.0.2.7:4711"),
            destination: address("198.51.100.1:443"),
        }),
        authority: Some("www.example.org"),
        alpn: Some(b"h2"),
        unique_id: Some(b"4711"),
        tls: Some(TlsFacts {
            version: "TLSv1.3",
            cipher: None,
            common_name: Some("alice"),
            is_verified: true,
        }),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}
