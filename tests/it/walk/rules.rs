//! What a route does to requests and answers: conditions, rules for fields, rewrites, redirects, answers of its own.

use http::Method;
use tests::{
    cluster::{Balancer, Setup},
    origin::{
        Dialogue, Head, Origin,
        web::{Speaks, Web},
    },
};

use super::client::{Client, nothing};

const DONE: &str = "HTTP/1.1 200 OK\r\nserver: node\r\netag: \"x\"\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn the_most_conditions_that_hold_win() {
    let nodes = [
        Origin::start().await,
        Origin::start().await,
        Origin::start().await,
    ];
    let mut setup = Setup::empty().listener("web", "");
    for (name, node) in ["all", "posts", "canary"].iter().zip(&nodes) {
        setup = setup.service(name, &[node.address()]);
    }
    let balancer = setup
        .route("service = 'all'")
        .route("service = 'posts'\nmethods = ['POST', 'PUT']")
        .route("service = 'canary'\nmethods = ['POST']\nheaders = { x-canary = '1', x-any = true }")
        .start()
        .await;
    for (method, fields, expected) in [
        ("GET", "", 0),
        ("GET", "x-canary: 1\r\nx-any: 1\r\n", 0),
        ("PUT", "x-canary: 1\r\nx-any: 1\r\n", 1),
        ("POST", "x-canary: 2\r\nx-any: 1\r\n", 1),
        ("POST", "x-canary: 1\r\n", 1),
        // Two lines have no one value: what one reader takes for the value another would not.
        ("POST", "x-canary: 1\r\nx-canary: 1\r\nx-any: 1\r\n", 1),
        ("POST", "X-Canary: 1\r\nX-Any:\r\n", 2),
    ] {
        let mut client = Dialogue::with(balancer.entry()).await;
        let request =
            format!("{method} / HTTP/1.1\r\nhost: a\r\n{fields}content-length: 0\r\n\r\n");
        client.say(request).await;
        let mut node = nodes[expected].visit().await;
        node.head().await;
        node.say(DONE).await;
        assert_eq!(client.head().await.status(), 200, "{method} {fields:?}");
    }
}

#[tokio::test]
async fn fields_are_removed_set_and_added() {
    let rules = "request_headers = { remove = ['x-gone'], set = { x-ip = '${client_ip}', x-from = '${listener} ${host} ${path} ${uri}' }, add = { x-more = '2' } }
        response_headers = { remove = ['Server'], set = { x-id = '${request_id}' }, add = { etag = '\"y\"' } }";
    let (origin, balancer) = one_node(rules).await;
    let (asked, answer) = exchange(
        &balancer,
        &origin,
        "GET /a?b HTTP/1.1\r\nhost: A.example:81\r\nx-gone: 1\r\nX-Ip: 6.6.6.6\r\nx-more: 1\r\nx-request-id: forged\r\n\r\n",
    )
    .await;
    assert_eq!(asked.field("x-gone"), None);
    assert_eq!(asked.field("x-ip").as_deref(), Some("127.0.0.1"));
    assert_eq!(
        asked.field("x-from").as_deref(),
        Some("web A.example /a /a?b")
    );
    assert_eq!(asked.field("x-more").as_deref(), Some("1 | 2"));
    assert_eq!(answer.field("server"), None);
    assert_eq!(answer.field("x-id"), asked.field("x-request-id"));
    assert_ne!(answer.field("x-id").as_deref(), Some("forged"));
    assert_eq!(answer.field("etag").as_deref(), Some("\"x\" | \"y\""));
}

#[tokio::test]
async fn a_request_is_rewritten() {
    let (origin, balancer) =
        one_node("path = '/api'\nrewrite = { prefix = '/v1', host = 'app.internal' }").await;
    for (target, expected) in [
        ("/api/x?y=/api", "/v1/x?y=/api"),
        ("/api", "/v1"),
        ("/api/?q", "/v1/?q"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: a.example\r\n\r\n");
        let (asked, _) = exchange(&balancer, &origin, &request).await;
        assert_eq!(asked.first_line(), format!("GET {expected} HTTP/1.1"));
        assert_eq!(asked.field("host").as_deref(), Some("app.internal"));
        assert_eq!(
            asked.field("x-forwarded-host").as_deref(),
            Some("a.example")
        );
    }
    let line = balancer.line("/api").await;
    assert_eq!(
        line["host"], "a.example",
        "the log says what the client asked for"
    );
}

#[tokio::test]
async fn a_prefix_is_stripped_and_leaves_no_host_behind() {
    let (origin, balancer) = one_node("path = '/api'\nstrip_prefix = true").await;
    for (target, expected) in [
        ("/api", "/"),
        ("/api/x", "/x"),
        ("/api//evil.example/x", "/evil.example/x"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: a.example\r\n\r\n");
        let (asked, _) = exchange(&balancer, &origin, &request).await;
        assert_eq!(asked.first_line(), format!("GET {expected} HTTP/1.1"));
    }
}

#[tokio::test]
async fn rewrites_hold_for_http2_too() {
    let origin = Web::start(Speaks::Http2).await;
    let setup = Setup::empty()
        .listener("web", "")
        .service("app", &[origin.address()]);
    let route = "service = 'app'\npath = '/api'\nstrip_prefix = true\nrewrite = { host = 'app.internal' }\nresponse_headers = { set = { x-by = '${listener}' } }";
    let balancer = setup.route(route).start().await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    let answer = client.get("/api/echo?x").await;
    assert_eq!(answer.field("x-target"), "/echo?x");
    assert_eq!(answer.field("x-host"), "app.internal");
    assert_eq!(answer.field("x-by"), "web");
}

#[tokio::test]
async fn clients_are_sent_elsewhere() {
    let balancer = Setup::empty()
        .listener("web", "")
        .route("redirect = { status = 301, location = 'https://${host}${uri}' }")
        .route("path = '/up'\nredirect = { location = '${uri}' }")
        .route("path = '/old'\nredirect = { status = 302, prefix = '/' }\nresponse_headers = { set = { cache-control = 'no-store' } }")
        .start()
        .await;
    for (target, host, status, location) in [
        ("/x?y", "a.example:81", 301, "https://a.example/x?y"),
        (
            "//evil.example/x",
            "a.example",
            301,
            "https://a.example//evil.example/x",
        ),
        ("/old/x?y", "a.example", 302, "/x?y"),
        // A browser would take `//evil.example` for another host.
        ("/old//evil.example/x", "a.example", 302, "/evil.example/x"),
        ("/old/\\evil.example/x", "a.example", 302, "/evil.example/x"),
        (
            "/up/%0d%0aset-cookie:x=y",
            "a.example",
            308,
            "/up/%0d%0aset-cookie:x=y",
        ),
    ] {
        let mut client = Dialogue::with(balancer.entry()).await;
        client
            .say(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        let head = client.head().await;
        assert_eq!(head.status(), status, "{target}");
        assert_eq!(
            head.field("location").as_deref(),
            Some(location),
            "{target}"
        );
        assert_eq!(head.field("content-length").as_deref(), Some("0"));
        assert_eq!(head.field("cache-control").is_some(), status == 302);
    }
    let line = balancer.line("/x?y").await;
    assert_eq!(
        (&line["status"], &line["ended"]),
        (&301.into(), &"completed".into())
    );
    // HTTP/1.0 need not name a host, and then there is none to send anybody to.
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET /z HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 400);
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say("CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 405);
}

#[tokio::test]
async fn an_answer_of_its_own_needs_no_node() {
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    let file = dir.path().join("page.html");
    std::fs::write(&file, "<p>hello").expect("a temporary folder is writable");
    let balancer = Setup::empty()
        .listener("web", "")
        .route("path = '/robots.txt'\nanswer = { body = 'nothing here', headers = { x-for = '${client_ip}' } }")
        .route(&format!("path = '/page'\nanswer = {{ file = '{}', content_type = 'text/html' }}", file.display()))
        .route("path = '/gone'\nanswer = { status = 410 }")
        .route("path = '/quiet'\nanswer = { status = 204 }")
        .start()
        .await;
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let mut client = Client::connect(balancer.entry(), speaks).await;
        let answer = client.get("/robots.txt").await;
        assert_eq!((answer.status, answer.text()), (200, "nothing here"));
        assert_eq!(answer.field("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.field("content-length"), "12");
        assert_eq!(answer.field("x-for"), "127.0.0.1");
        assert!(answer.field("date").ends_with("GMT"), "{answer:?}");
        let etag = answer.field("etag").to_owned();
        let request = client
            .request(Method::GET, "/robots.txt")
            .header("if-none-match", format!("\"z\", W/{etag}"));
        let known = client
            .ask(request.body(nothing()).expect("a valid request"))
            .await;
        assert_eq!((known.status, known.body.len()), (304, 0));
        assert_eq!(known.field("etag"), etag);
        let request = client.request(Method::HEAD, "/robots.txt").body(nothing());
        let head = client.ask(request.expect("a valid request")).await;
        assert_eq!(
            (head.status, head.body.len(), head.field("content-length")),
            (200, 0, "12")
        );
        let page = client.get("/page").await;
        assert_eq!(
            (page.text(), page.field("content-type")),
            ("<p>hello", "text/html")
        );
        let gone = client.get("/gone").await;
        assert_eq!(
            (gone.status, gone.body.len(), gone.field("etag")),
            (410, 0, "")
        );
        assert_eq!(client.get("/quiet").await.status, 204);
    }
    let answered =
        "colonnade_balancer_unrouted_requests_total{listener=\"web\",ended=\"completed\"}";
    assert_eq!(balancer.metric(answered).await, 12.0);
    let line = balancer.line("/gone").await;
    assert_eq!(
        (&line["route"], &line["service"]),
        (&"route-2".into(), &serde_json::Value::Null)
    );
}

/// What a client still sends to somebody who answers at once is not taken for its next request.
#[tokio::test]
async fn a_body_that_nobody_reads_is_no_next_request() {
    let balancer = Setup::empty()
        .listener("web", "")
        .route("answer = { status = 403, body = 'no' }")
        .start()
        .await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(
        (head.status(), head.field("connection").as_deref()),
        (403, Some("close"))
    );
    client.hears("no").await;
    let _ = client
        .try_say("GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let (rest, _) = client.end().await;
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
}

async fn one_node(rules: &str) -> (Origin, Balancer) {
    let origin = Origin::start().await;
    let setup = Setup::empty()
        .listener("web", "")
        .service("app", &[origin.address()]);
    let balancer = setup
        .route(&format!("service = 'app'\n{rules}"))
        .start()
        .await;
    (origin, balancer)
}

/// What the node is asked, and what the client is answered.
async fn exchange(balancer: &Balancer, origin: &Origin, request: &str) -> (Head, Head) {
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say(request).await;
    let mut node = origin.visit().await;
    let asked = node.head().await;
    node.say(DONE).await;
    (asked, client.head().await)
}
