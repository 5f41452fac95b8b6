//! TLS from clients: whose certificate they get, what is spoken inside, who is let in, and names that are passed on untouched.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::{Method, Version};
use hyper_util::rt::TokioIo;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web, content},
    },
    secure::{Authority, Door, TlsClient, shown},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    client::TlsStream,
    rustls::{
        HandshakeKind,
        version::{TLS12, TLS13},
    },
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::protocol::Role};

use super::{
    client::{Client, HOST, whole},
    websocket::{converse, echo, extended_connect, request_to_nowhere},
};

/// What these nodes speak, whatever their clients do.
const ON_HTTP1: &str = "protocol = 'http1'";

const FAILURES: &str = "colonnade_balancer_tls_handshake_failures_total";

#[tokio::test]
async fn the_name_decides_the_certificate() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    authority.issue("wild", &["*.shop.example"]);
    authority.issue("exact", &["a.shop.example"]);
    let files = ["first", "wild", "exact"];
    let (_origin, balancer) = before_web(&authority.listening(&files)).await;
    let client = authority.client();
    for (name, expected) in [
        (HOST, "first"),
        ("a.shop.example", "exact"),
        ("b.shop.example", "wild"),
    ] {
        let stream = client.connect(balancer.entry(), name).await;
        assert_eq!(shown(&stream.expect("there is a certificate")), expected);
    }
    // Nobody's name gets the first certificate, which this client does not take.
    for name in ["a.b.shop.example", "127.0.0.1"] {
        let refused = client.connect(balancer.entry(), name).await;
        let error = refused.expect_err("it is not for this name").to_string();
        assert!(error.contains("invalid peer certificate"), "{error}");
    }
}

#[tokio::test]
async fn strict_names_refuse_strangers() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let keys = format!("{}\nstrict_sni = true", authority.listening(&["first"]));
    let (_origin, balancer) = before_web(&keys).await;
    let client = authority.client();
    assert!(client.connect(balancer.entry(), HOST).await.is_ok());
    for name in ["other.example", "127.0.0.1"] {
        let refused = client.connect(balancer.entry(), name).await;
        let error = refused.expect_err("nobody has this name").to_string();
        assert!(error.contains("AccessDenied"), "{error}");
    }
    counts(&balancer, "unknown_name", 2.0).await;
}

#[tokio::test]
async fn http_is_what_was_agreed_on_in_every_version() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let (_origin, balancer) = before_web(&authority.listening(&["first"])).await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], None);
        for (offered, agreed, speaks) in [
            (&["h2", "http/1.1"][..], Some("h2"), Speaks::Http2),
            (&["http/1.1"], Some("http/1.1"), Speaks::Http1),
            (&[], None, Speaks::Http1),
            (&[], None, Speaks::Http2),
        ] {
            let client = client.clone().offering(offered);
            let stream = connect(&client, &balancer).await;
            let spoken = stream.get_ref().1.alpn_protocol();
            assert_eq!(spoken, agreed.map(str::as_bytes));
            asks_and_gets(Client::on(stream, speaks).await).await;
        }
    }
    let line = balancer.line("/sized/300000").await;
    assert_eq!(line["status"], 200);
}

/// What comes, and in pieces as large as they are: records, buffers and windows all end somewhere in it.
async fn asks_and_gets(mut client: Client) {
    for n in [0, 1, 16_384, 300_000] {
        let answer = client.get(&format!("/sized/{n}")).await;
        assert!(answer.body == content(n), "{n} bytes down");
        let answer = client.post("/echo", whole(content(n))).await;
        assert!(answer.body == content(n), "{n} bytes up and down");
    }
}

#[tokio::test]
async fn a_node_is_told_that_its_client_came_by_https() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let origin = Origin::start().await;
    let keys = authority.listening(&["first"]);
    let setup = Setup::http(&[origin.address()]).listening(&keys);
    let balancer = setup.start().await;
    let mut stream = connect(&authority.client(), &balancer).await;
    let request = format!("GET /a HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    say(&mut stream, &request).await;
    let mut node = origin.visit().await;
    let head = node.head().await;
    assert_eq!(head.field("x-forwarded-proto").as_deref(), Some("https"));
    let forwarded = head.field("forwarded").unwrap_or_default();
    assert!(forwarded.contains("proto=https"), "{forwarded}");
}

#[tokio::test]
async fn a_version_below_the_least_is_refused() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let keys = format!("{}\nmin_version = '1.3'", authority.listening(&["first"]));
    let (_origin, balancer) = before_web(&keys).await;
    let old = authority.client_of(&[&TLS12], None);
    let refused = old.connect(balancer.entry(), HOST).await;
    let error = refused.expect_err("it is too old").to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    counts(&balancer, "incompatible", 1.0).await;
    connect(&authority.client_of(&[&TLS13], None), &balancer).await;
}

#[tokio::test]
async fn clients_are_let_in_by_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.issue("first", &[HOST]);
    authority.issue("friend", &["friend.example"]);
    stranger.issue("foe", &["foe.example"]);
    let keys = format!(
        "{}\nclient_auth = 'required'\nclient_ca = '{}'",
        authority.listening(&["first"]),
        authority.path("ca.pem")
    );
    let (_origin, balancer) = before_web(&keys).await;
    let friend = authority.client_of(&[&TLS13], Some("friend"));
    let stream = connect(&friend, &balancer).await;
    asks_and_gets(Client::on(stream, Speaks::Http1).await).await;
    is_let_out(&authority.client(), &balancer, "CertificateRequired").await;
    counts(&balancer, "certificate_missing", 1.0).await;
    let foe = authority.client_as(&stranger, "foe");
    is_let_out(&foe, &balancer, "").await;
    counts(&balancer, "certificate_invalid", 1.0).await;
}

/// In TLS 1.3 a client has shaken hands before the server has looked at its certificate: it hears of it when it reads.
async fn is_let_out(client: &TlsClient, balancer: &Balancer, alert: &str) {
    let heard = match client.connect(balancer.entry(), HOST).await {
        Ok(mut stream) => {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await
        }
        Err(err) => Err(err),
    };
    let error = heard.expect_err("nobody is served").to_string();
    assert!(error.contains(alert), "{error}");
}

#[tokio::test]
async fn sessions_are_resumed_on_every_core() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).workers(2);
    let balancer = setup
        .listening(&authority.listening(&["first"]))
        .start()
        .await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], None);
        // A client has a ticket once it has read something; the kernel spreads its connections over both cores.
        for n in 0..16 {
            let mut stream = connect(&client, &balancer).await;
            let expected = match n {
                0 => HandshakeKind::Full,
                _ => HandshakeKind::Resumed,
            };
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{n}");
            let request = format!("GET /sized/1 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
            say(&mut stream, &request).await;
            assert!(stream.read_u8().await.is_ok());
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_in_force_without_anybody_noticing() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let (_origin, balancer) = before_web(&authority.listening(&["first"])).await;
    let client = authority.client();
    let stream = connect(&client, &balancer).await;
    let before = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    let mut old = Client::on(stream, Speaks::Http1).await;
    authority.issue("first", &[HOST]);
    until("the new certificate to be shown", async || {
        assert_eq!(old.get("/sized/1000").await.status, 200);
        // A client of its own, which resumes nothing.
        let stream = connect(&authority.client(), &balancer).await;
        let after = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        let mut new = Client::on(stream, Speaks::Http1).await;
        assert_eq!(new.get("/sized/1000").await.status, 200);
        after != before
    })
    .await;
    assert_eq!(old.get("/sized/1000").await.status, 200);
    let reloads =
        "colonnade_balancer_tls_reloads_total{of=\"listener\",name=\"web\",result=\"ok\"}";
    until("the reload to be counted", async || {
        balancer.metric(reloads).await >= 1.0
    })
    .await;
}

#[tokio::test]
async fn some_names_are_passed_on_untouched() {
    let authority = Authority::new();
    authority.issue("here", &[HOST]);
    authority.issue("there", &["old.example", "x.old.example"]);
    let (web, legacy) = (
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    );
    let there = authority.acceptor("there", &["http/1.1"], false);
    let door = Door::before(legacy.address(), there).await;
    let passes = "[[listener.sni]]\nnames = ['old.example', '*.old.example']\nservice = 'legacy'";
    let ends = format!("{}\n{passes}", authority.listening(&["here"]));
    let balancer = Setup::http(&[web.address()])
        .listening(&ends)
        .serving(ON_HTTP1)
        .listener(
            "relay",
            &format!("protocol = 'tcp'\nservice = 'app'\n{passes}"),
        )
        .service("legacy", &[door.address()])
        .start()
        .await;
    let client = authority.client().offering(&["h2", "http/1.1"]);
    for (listener, name) in [
        ("web", "old.example"),
        ("web", "x.old.example"),
        ("relay", "old.example"),
    ] {
        let stream = client.connect(balancer.entry_of(listener), name).await;
        let stream = stream.expect("the node ends its own TLS");
        assert_eq!(shown(&stream), "there");
        asks_and_gets(Client::on(stream, Speaks::Http1).await).await;
    }
    assert_eq!(door.handshakes(), 3);
    let stream = connect(&client, &balancer).await;
    assert_eq!(shown(&stream), "here");
    asks_and_gets(Client::on(stream, Speaks::Http2).await).await;
    assert_eq!(door.handshakes(), 3);
    // Whoever speaks no TLS is for the relay's own service.
    let mut clear = Client::connect(balancer.entry_of("relay"), Speaks::Http1).await;
    assert_eq!(clear.get("/sized/10").await.body, content(10));
}

#[tokio::test]
async fn a_relay_ends_tls_for_its_node() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let origin = Origin::start().await;
    let keys = authority.listening(&["first"]);
    let setup = Setup::relay("tcp", &[origin.address()]).listening(&keys);
    let balancer = setup.start().await;
    let mut stream = connect(&authority.client(), &balancer).await;
    let sent = content(200_000);
    let mut node = origin.silent_visit().await;
    let (_, heard) = tokio::join!(
        async {
            stream.write_all(&sent).await.expect("the relay is open");
            // Half-close, as TLS says it.
            stream.shutdown().await.expect("the relay is open");
        },
        node.rest()
    );
    assert!(heard == sent, "{} bytes arrived", heard.len());
    node.say(&content(100_000)).await;
    node.fall_silent().await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    assert_eq!(
        read.expect("it ends in order, with a close_notify"),
        100_000
    );
    assert!(answer == content(100_000), "the answer is whole");
}

#[tokio::test]
async fn http_in_the_clear_is_told_to_speak_tls() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let (_origin, balancer) = before_web(&authority.listening(&["first"])).await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 400);
    assert_eq!(client.rest().await, b"this port speaks TLS");
    counts(&balancer, "plain_http", 1.0).await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("SSH-2.0-OpenSSH_9.6\r\n").await;
    let (alert, _) = client.end().await;
    assert_eq!(alert.first(), Some(&21), "{}", alert.escape_ascii());
    counts(&balancer, "malformed", 1.0).await;
}

#[tokio::test]
async fn stalled_handshakes_are_cut_in_time() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let listening = authority.listening(&["first"]);
    let (_origin, balancer) =
        before_web(&format!("{listening}\nhandshake_timeout = '500ms'")).await;
    let began = Instant::now();
    let mut stalled = Vec::new();
    for beginning in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0]] {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say(beginning).await;
        stalled.push(client);
    }
    for client in &mut stalled {
        client.end().await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    counts(&balancer, "timeout", 3.0).await;
}

#[tokio::test]
async fn every_request_in_the_clear_is_sent_to_https() {
    for (key, port) in [("true", ""), ("8443", ":8443")] {
        let keys = format!("https_redirect = {key}");
        let (origin, balancer) = before_web(&keys).await;
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let mut client = Client::connect(balancer.entry(), speaks).await;
            for method in [Method::GET, Method::HEAD, Method::POST] {
                let request = client.request(method, "/a%20b?c=d").body(whole("body"));
                let answer = client.ask(request.expect("a valid request")).await;
                assert_eq!(answer.status, 308);
                let expected = format!("https://{HOST}{port}/a%20b?c=d");
                assert_eq!(answer.field("location"), expected);
                assert_eq!(answer.field("strict-transport-security"), "");
                if speaks == Speaks::Http1 {
                    // What is left of a body closes the connection.
                    client = Client::connect(balancer.entry(), speaks).await;
                }
            }
        }
        assert_eq!(origin.connections(), 0);
    }
}

#[tokio::test]
async fn answers_over_tls_say_to_stay_there() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let hsts = "hsts = { max_age = '365days', include_subdomains = true }";
    let keys = format!("{hsts}\n{}", authority.listening(&["first"]));
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::empty()
        .listener("web", &keys)
        .listener("clear", "")
        .service("app", &[origin.address()])
        .serving(ON_HTTP1)
        .route("service = 'app'\npath = '/sized'")
        .start()
        .await;
    let client = authority.client().offering(&["h2", "http/1.1"]);
    for (offered, speaks) in [("h2", Speaks::Http2), ("http/1.1", Speaks::Http1)] {
        let stream = connect(&client.clone().offering(&[offered]), &balancer).await;
        let mut client = Client::on(stream, speaks).await;
        for (path, status) in [("/sized/5", 200), ("/nowhere", 404)] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, status);
            let value = answer.field("strict-transport-security");
            assert_eq!(value, "max-age=31536000; includeSubDomains");
        }
    }
    let mut clear = Client::connect(balancer.entry_of("clear"), Speaks::Http1).await;
    let answer = clear.get("/sized/5").await;
    assert_eq!(answer.field("strict-transport-security"), "");
}

#[tokio::test]
async fn websockets_pass_over_tls() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let keys = authority.listening(&["first"]);
    let client = authority.client();
    let on_http1 = async || {
        let origin = Origin::start().await;
        let balancer = Setup::http(&[origin.address()])
            .listening(&keys)
            .start()
            .await;
        let echo = tokio::spawn(echo(origin));
        let stream = connect(&client.clone().offering(&["http/1.1"]), &balancer).await;
        let switched = client_async(format!("ws://{HOST}/ws"), stream).await;
        let (socket, response) = switched.expect("the node agrees");
        assert_eq!(response.status(), 101);
        converse(socket).await;
        echo.await.expect("the node's side ends well");
    };
    let on_http2 = async || {
        let origin = Origin::start().await;
        let balancer = Setup::http(&[origin.address()])
            .listening(&keys)
            .start()
            .await;
        let echo = tokio::spawn(echo(origin));
        let stream = connect(&client.clone().offering(&["h2"]), &balancer).await;
        let mut client = Client::on(stream, Speaks::Http2).await;
        let first = client.send(request_to_nowhere(&client)).await;
        assert_eq!(first.expect("the balancer answers").status(), 405);
        let response = client.send(extended_connect("/ws")).await;
        let response = response.expect("the balancer answers");
        assert_eq!(
            (response.status().as_u16(), response.version()),
            (200, Version::HTTP_2)
        );
        let upgraded = hyper::upgrade::on(response).await;
        let io = TokioIo::new(upgraded.expect("the stream is a tunnel"));
        converse(WebSocketStream::from_raw_socket(io, Role::Client, None).await).await;
        echo.await.expect("the node's side ends well");
    };
    on_http1().await;
    on_http2().await;
}

/// A service's own limits hold inside TLS as they do without it.
#[tokio::test]
async fn a_connection_over_the_limit_is_reset_before_any_handshake() {
    let authority = Authority::new();
    authority.issue("first", &[HOST]);
    let keys = format!("max_connections = 1\n{}", authority.listening(&["first"]));
    let (_origin, balancer) = before_web(&keys).await;
    let client = authority.client();
    let _first = connect(&client, &balancer).await;
    assert!(client.connect(balancer.entry(), HOST).await.is_err());
    let refused =
        "colonnade_balancer_refused_connections_total{listener=\"web\",reason=\"max_connections\"}";
    assert_eq!(balancer.metric(refused).await, 1.0);
}

async fn before_web(keys: &str) -> (Web, Balancer) {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).listening(keys);
    let balancer = setup.serving(ON_HTTP1).start().await;
    (origin, balancer)
}

async fn connect(client: &TlsClient, balancer: &Balancer) -> TlsStream<TcpStream> {
    let address: SocketAddr = balancer.entry();
    let connected = client.connect(address, HOST).await;
    connected.expect("the balancer shakes hands")
}

async fn say(stream: &mut TlsStream<TcpStream>, text: &str) {
    let written = stream.write_all(text.as_bytes()).await;
    written.expect("the balancer listens");
}

async fn counts(balancer: &Balancer, reason: &str, expected: f64) {
    let name = format!("{FAILURES}{{listener=\"web\",reason=\"{reason}\"}}");
    until(reason, async || balancer.metric(&name).await == expected).await;
}
