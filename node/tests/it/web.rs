//! Who answers, in both versions of HTTP, and what a connection may do to us.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::harness::{Connection, ask, get, start};

#[tokio::test]
async fn whoami_tells_who_answers_and_what_was_asked() {
    let node = start("").await;
    let reply = get(
        node.web_address(),
        "/whoami?x=1",
        "X-One: a\nX-Two: b\nX-Two: c\n",
    )
    .await;
    assert_eq!(
        (reply.status, reply.field("content-type")),
        (200, "application/json")
    );
    let told: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(told["node_id"], "n1");
    assert_eq!(told["zone"], "z1");
    assert!(told["incarnation"].as_u64().is_some_and(|it| it > 0));
    assert_eq!(told["client_address"], "127.0.0.1");
    assert_eq!(told["protocol"], "HTTP/1.1");
    assert_eq!(
        (&told["method"], &told["path"]),
        (&"GET".into(), &"/whoami".into())
    );
    assert_eq!(told["headers"]["x-one"], "a");
    assert_eq!(told["headers"]["x-two"], serde_json::json!(["b", "c"]));
}

#[tokio::test]
async fn whoami_refuses_other_methods_as_a_problem() {
    let node = start("").await;
    let reply = ask(
        node.web_address(),
        "POST /whoami HTTP/1.1\nHost: x\nContent-Length: 0\n",
    )
    .await;
    assert_eq!((reply.status, reply.field("allow")), (405, "GET, HEAD"));
    assert_eq!(reply.field("content-type"), "application/problem+json");
    let problem: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(problem["status"], 405);
}

#[tokio::test]
async fn http2_with_prior_knowledge_shares_the_port() {
    let node = start("").await;
    let stream = TcpStream::connect(node.web_address())
        .await
        .expect("the node listens");
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("HTTP/2 is spoken");
    tokio::spawn(connection);
    let uri = format!("http://{}/whoami", node.web_address());
    let request = http::Request::get(uri)
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let told: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(told["protocol"], "HTTP/2");
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let forwarded = "X-Forwarded-For: 6.6.6.6, 192.0.2.7\n";
    assert_eq!(client("", forwarded).await, "127.0.0.1");
    assert_eq!(
        client("trusted_proxies = ['127.0.0.0/8']", forwarded).await,
        "192.0.2.7"
    );
}

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let node = start("trusted_proxies = ['127.0.0.1']\nproxy_protocol = true").await;
    let mut connection = Connection::open(node.web_address()).await;
    connection
        .send("PROXY TCP4 192.0.2.9 192.0.2.1 4711 80\n")
        .await;
    let told: Value = serde_json::from_slice(&connection.get("/whoami").await.body).expect("JSON");
    assert_eq!(told["client_address"], "192.0.2.9");
}

#[tokio::test]
async fn a_proxy_header_that_is_due_must_come() {
    let node = start("trusted_proxies = ['127.0.0.1']\nproxy_protocol = true").await;
    let mut connection = Connection::open(node.web_address()).await;
    connection.send("GET / HTTP/1.1\nHost: x\n\n").await;
    assert_eq!(connection.rest().await, b"");
}

#[tokio::test]
async fn a_proxy_header_from_a_stranger_is_a_bad_request() {
    let node = start("proxy_protocol = true").await;
    let mut connection = Connection::open(node.web_address()).await;
    connection
        .send("PROXY TCP4 192.0.2.9 192.0.2.1 4711 80\nGET /whoami HTTP/1.1\nHost: x\n\n")
        .await;
    assert!(connection.rest().await.starts_with(b"HTTP/1.1 400"));
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_and_an_idle_connection_is_not() {
    let node = start("request_head_timeout = '300ms'").await;
    let mut idle = Connection::open(node.web_address()).await;
    assert_eq!(idle.get("/whoami").await.status, 200);
    let mut slow = Connection::open(node.web_address()).await;
    slow.send("GET /whoami HTTP/1.1\nHost: x\n").await;
    let silent = Connection::open(node.web_address()).await;
    assert_eq!(slow.rest().await, b"");
    assert_eq!(silent.rest().await, b"");
    assert_eq!(
        idle.get("/whoami").await.status,
        200,
        "an idle connection belongs to a pool"
    );
    idle.send("GET /whoami HTTP/1.1\n").await;
    assert_eq!(idle.rest().await, b"", "a later head has the same limit");
}

#[tokio::test]
async fn garbage_and_endless_heads_are_refused_and_disturb_nobody() {
    let node = start("").await;
    let mut garbage = Connection::open(node.web_address()).await;
    garbage.send("\u{1}\u{2}\u{3} nonsense\n\n").await;
    assert!(garbage.rest().await.starts_with(b"HTTP/1.1 400"));
    let mut endless = Connection::open(node.web_address()).await;
    endless
        .send(&format!("GET / HTTP/1.1\nX: {}\n\n", "x".repeat(100_000)))
        .await;
    let end = endless.rest().await;
    assert!(
        end.is_empty() || end.starts_with(b"HTTP/1.1 431"),
        "{:?}",
        String::from_utf8_lossy(&end)
    );
    assert_eq!(get(node.web_address(), "/whoami", "").await.status, 200);
}

#[tokio::test]
async fn without_sites_the_root_names_the_node() {
    let node = start("").await;
    let page = get(node.web_address(), "/", "").await;
    assert_eq!(
        (page.status, page.field("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(page.text().contains("<h1>n1</h1>") && page.text().contains("href=\"/whoami\""));
    assert_eq!(get(node.web_address(), "/other", "").await.status, 404);
    let head = ask(node.web_address(), "HEAD / HTTP/1.1\nHost: x\n").await;
    assert_eq!(head.field("content-length"), page.field("content-length"));
}

/// The client as `/whoami` tells it.
async fn client(settings: &str, fields: &str) -> String {
    let node = start(settings).await;
    let reply = get(node.web_address(), "/whoami", fields).await;
    let told: Value = serde_json::from_slice(&reply.body).expect("JSON");
    told["client_address"]
        .as_str()
        .expect("an address")
        .to_owned()
}
