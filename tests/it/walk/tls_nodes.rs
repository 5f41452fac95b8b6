//! TLS to nodes: whatever is spoken with them, who they must prove to be, and what they are told before.

use balancer_core::proxy_header::{self, Parsed};
use tests::{
    cluster::{Balancer, Setup},
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web, content},
    },
    secure::{Authority, Door},
};
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::TLS13;
use tokio_tungstenite::client_async;

use super::{
    client::{Client, HOST, whole},
    websocket::{converse, echo},
};

/// The endpoints of these tests have an address for a name.
const NODE: &str = "127.0.0.1";

#[tokio::test]
async fn requests_go_over_one_connection_as_without_it() {
    for (speaks, protocol, alpn) in [
        (Speaks::Http1, "http1", "http/1.1"),
        (Speaks::Http2, "http2", "h2"),
    ] {
        let authority = Authority::new();
        authority.issue("node", &[NODE]);
        let web = Web::start(speaks).await;
        let acceptor = authority.acceptor("node", &[alpn], false);
        let door = Door::before(web.address(), acceptor).await;
        let keys = format!("protocol = '{protocol}'\n{}", trusting(&authority));
        let balancer = before(&door, &keys).await;
        for client in [Speaks::Http1, Speaks::Http2] {
            let mut client = Client::connect(balancer.entry(), client).await;
            for n in [0, 1, 16_384, 300_000] {
                let answer = client.get(&format!("/sized/{n}")).await;
                assert!(answer.body == content(n), "{protocol}: {n} bytes down");
                let answer = client.post("/echo", whole(content(n))).await;
                assert!(
                    answer.body == content(n),
                    "{protocol}: {n} bytes up and down"
                );
            }
        }
        assert_eq!(door.handshakes(), 1, "{protocol}");
        assert_eq!(door.agreed().as_deref(), Some(alpn.as_bytes()));
    }
}

#[tokio::test]
async fn websockets_pass() {
    let authority = Authority::new();
    authority.issue("node", &[NODE]);
    let origin = Origin::start().await;
    let acceptor = authority.acceptor("node", &["http/1.1"], false);
    let door = Door::before(origin.address(), acceptor).await;
    let balancer = before(&door, &trusting(&authority)).await;
    let echo = tokio::spawn(echo(origin));
    let stream = TcpStream::connect(balancer.entry()).await;
    let stream = stream.expect("the balancer listens");
    let switched = client_async(format!("ws://{HOST}/ws"), stream).await;
    let (socket, _) = switched.expect("the node agrees");
    converse(socket).await;
    echo.await.expect("the node's side ends well");
}

/// Nobody but the node the certificate is for is told anything of the request.
#[tokio::test]
async fn a_node_that_proves_nothing_is_not_asked() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.issue("other", &["other.example"]);
    stranger.issue("node", &[NODE]);
    for acceptor in [
        authority.acceptor("other", &[], false),
        stranger.acceptor("node", &[], false),
    ] {
        let web = Web::start(Speaks::Http1).await;
        let door = Door::before(web.address(), acceptor).await;
        let keys = format!("max_tries = 1\n{}", trusting(&authority));
        let balancer = before(&door, &keys).await;
        let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
        let answer = client.get("/sized/1").await;
        assert_eq!(answer.status, 503);
        assert!(!answer.text().contains("certificate"), "{}", answer.text());
        assert_eq!((door.handshakes(), web.connections()), (0, 0));
        let failed = "colonnade_balancer_tls_node_handshake_failures_total{service=\"app\",reason=\"certificate_invalid\"}";
        assert!(balancer.metric(failed).await >= 1.0);
        assert_eq!(balancer.line("/sized/1").await["ended"], "unreachable");
    }
}

#[tokio::test]
async fn a_node_may_want_to_know_who_we_are() {
    let authority = Authority::new();
    authority.issue("node", &["node.internal"]);
    authority.issue("us", &["balancer.internal"]);
    let web = Web::start(Speaks::Http1).await;
    let acceptor = authority.acceptor("node", &[], true);
    let door = Door::before(web.address(), acceptor).await;
    let keys = format!(
        "tls = {{ ca = '{}', server_name = 'node.internal', {} }}",
        authority.path("ca.pem"),
        authority.pair("us")
    );
    let balancer = before(&door, &keys).await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    assert_eq!(client.get("/sized/7").await.body, content(7));
    let keys = format!(
        "tls = {{ ca = '{}', server_name = 'node.internal' }}",
        authority.path("ca.pem")
    );
    let balancer = before(&door, &keys).await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    // In TLS 1.3 the refusal comes when the request is on its way: the node has gone.
    assert!([502, 503].contains(&client.get("/sized/7").await.status));
}

/// The header stands in front of the handshake, where a node's own front reads it.
#[tokio::test]
async fn a_relay_is_introduced_before_the_handshake() {
    let authority = Authority::new();
    authority.issue("node", &[NODE]);
    authority.issue("first", &[HOST]);
    authority.issue("friend", &["friend.example"]);
    let origin = Origin::start().await;
    let acceptor = authority.acceptor("node", &[], false);
    let door = Door::before(origin.address(), acceptor).await;
    let ends = format!(
        "protocol = 'tcp'\nservice = 'app'\n{}\nalpn = ['echo']\nclient_auth = 'required'\nclient_ca = '{}'",
        authority.listening(&["first"]),
        authority.path("ca.pem")
    );
    let balancer = Setup::empty()
        .listener("entry", &ends)
        .service("app", &[door.address()])
        .serving(&format!("proxy_protocol = 'v2'\n{}", trusting(&authority)))
        .start()
        .await;
    let friend = authority.client_of(&[&TLS13], Some("friend"));
    let client = friend.offering(&["echo"]);
    let mut stream = client
        .connect(balancer.entry(), HOST)
        .await
        .expect("the balancer shakes hands");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello")
        .await
        .expect("the relay is open");
    let mut node: Dialogue = origin.visit().await;
    node.hears("hello").await;
    let Parsed::Header { header, .. } = proxy_header::parse(&door.header()) else {
        panic!("no header: {}", door.header().escape_ascii());
    };
    let local = stream.get_ref().0.local_addr().expect("it is connected");
    assert_eq!(header.addresses.map(|it| it.source), Some(local));
    assert_eq!(header.authority.as_deref(), Some(HOST));
    assert_eq!(header.alpn.as_deref(), Some(&b"echo"[..]));
    let tls = header.tls.expect("there was TLS");
    assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
    assert_eq!(tls.common_name.as_deref(), Some("friend"));
    assert!(tls.is_verified && tls.cipher.is_some_and(|it| it.starts_with("TLS_")));
}

#[tokio::test]
async fn probes_shake_hands_too() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.issue("node", &[NODE]);
    stranger.issue("node", &[NODE]);
    let web = Web::start(Speaks::Http1).await;
    for probe in ["kind = 'http'\npath = '/livez'", "kind = 'tcp'"] {
        for (whose, is_offered) in [(&authority, true), (&stranger, false)] {
            let acceptor = whose.acceptor("node", &[], false);
            let door = Door::before(web.address(), acceptor).await;
            let probe = format!("{probe}\ninterval = '50ms'\nunhealthy_after = 1");
            let balancer = Setup::http(&[door.address()])
                .serving(&format!(
                    "{}\npick = {{ panic_threshold = 0 }}",
                    trusting(&authority)
                ))
                .probing(&probe)
                .start()
                .await;
            balancer.until_offered(door.address(), is_offered).await;
        }
    }
}

fn trusting(authority: &Authority) -> String {
    format!("tls = {{ ca = '{}' }}", authority.path("ca.pem"))
}

async fn before(door: &Door, keys: &str) -> Balancer {
    let setup = Setup::http(&[door.address()]).serving(keys);
    setup.start().await
}
