//! What a head says on the next hop: what was meant for one hop ends there, and who the client is cannot be made up.

use tests::{
    cluster::{Balancer, Setup},
    origin::{Dialogue, Head, Origin},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn what_is_for_one_hop_ends_there() {
    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, x-mine\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nte: gzip\r\nx-kept: 1\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nconnection: x-yours\r\nx-yours: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: close\r\nupgrade: h2c\r\nx-kept: 2\r\ncontent-length: 0\r\n\r\n";
    let (asked, answered) = pass("", request, answer).await;
    for name in [
        "connection",
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "te",
    ] {
        assert_eq!(asked.field(name), None, "{name} must end at the balancer");
    }
    for name in [
        "connection",
        "x-yours",
        "keep-alive",
        "proxy-connection",
        "upgrade",
    ] {
        assert_eq!(
            answered.field(name),
            None,
            "{name} must end at the balancer"
        );
    }
    assert_eq!(asked.field("x-kept").as_deref(), Some("1"));
    assert_eq!(answered.field("x-kept").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_client_cannot_nominate_away_who_it_is() {
    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: x-forwarded-for, host, cookie, x-request-id\r\ncookie: a=1\r\n\r\n";
    let (asked, _) = pass("", request, DONE).await;
    assert_eq!(asked.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(asked.field("host").as_deref(), Some("a"));
    assert_eq!(asked.field("cookie").as_deref(), Some("a=1"));
    assert!(asked.field("x-request-id").is_some());
}

#[tokio::test]
async fn the_word_of_a_stranger_about_itself_is_replaced() {
    let (asked, _) = pass("", &telling("6.6.6.6"), DONE).await;
    let said = |name: &str| asked.field(name).unwrap_or_default();
    assert_eq!(said("x-forwarded-for"), "127.0.0.1");
    assert_eq!(said("x-forwarded-proto"), "http");
    assert_eq!(said("x-forwarded-host"), "app.example");
    assert_eq!(said("forwarded"), "for=127.0.0.1;proto=http");
    assert_eq!(asked.field("x-real-ip"), None);
    assert_ne!(said("x-request-id"), "made-up");
    assert_eq!(said("via"), "1.1 colonnade");
}

#[tokio::test]
async fn the_word_of_a_trusted_proxy_stands_and_it_joins_the_chain() {
    let trust = "trusted_proxies = ['127.0.0.0/8']";
    let (asked, _) = pass(trust, &telling("6.6.6.6"), DONE).await;
    let said = |name: &str| asked.field(name).unwrap_or_default();
    assert_eq!(said("x-forwarded-for"), "6.6.6.6, 127.0.0.1");
    assert_eq!(said("x-forwarded-proto"), "https");
    assert_eq!(said("x-forwarded-host"), "front.example");
    assert_eq!(said("forwarded"), "for=6.6.6.6, for=127.0.0.1;proto=http");
    assert_eq!(said("x-request-id"), "made-up");
    let elsewhere = "trusted_proxies = ['10.0.0.0/8']";
    let (asked, _) = pass(elsewhere, &telling("6.6.6.6"), DONE).await;
    assert_eq!(asked.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
}

#[tokio::test]
async fn a_request_gets_one_number_by_which_it_is_found_again() {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let (asked, _) = pass_through(
        &balancer,
        &origin,
        "GET /found HTTP/1.1\r\nhost: a\r\n\r\n",
        DONE,
    )
    .await;
    let id = asked.field("x-request-id").expect("each request has an id");
    assert_eq!(id.len(), 32);
    let trace = asked.field("traceparent").expect("each request is traced");
    assert!(
        trace.starts_with(&format!("00-{id}-")) && trace.ends_with("-00"),
        "{trace}"
    );
    assert_eq!(balancer.line("/found").await["request_id"], id);
}

#[tokio::test]
async fn a_trace_that_has_begun_goes_on() {
    let begun = format!(
        "GET / HTTP/1.1\r\nhost: a\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\ntracestate: a=1\r\n\r\n"
    );
    let (asked, _) = pass("", &begun, DONE).await;
    let trace = asked.field("traceparent").expect("each request is traced");
    assert!(
        trace.starts_with(&format!("00-{TRACE}-")) && trace.ends_with("-01"),
        "{trace}"
    );
    assert!(
        !trace.contains("00f067aa0ba902b7"),
        "the balancer is a hop of its own: {trace}"
    );
    assert_eq!(asked.field("tracestate").as_deref(), Some("a=1"));
    let broken = begun.replace("-01\r\n", "-zz\r\n");
    let (asked, _) = pass("", &broken, DONE).await;
    assert!(
        !asked
            .field("traceparent")
            .expect("a new one begins")
            .contains(TRACE)
    );
    assert_eq!(
        asked.field("tracestate"),
        None,
        "it belongs to the trace that was not understood"
    );
}

#[tokio::test]
async fn a_target_with_a_host_in_it_becomes_a_path() {
    let request = "GET http://app.example/a?b HTTP/1.1\r\nhost: app.example\r\n\r\n";
    let (asked, _) = pass("", request, DONE).await;
    assert_eq!(asked.first_line(), "GET /a?b HTTP/1.1");
    assert_eq!(asked.field("host").as_deref(), Some("app.example"));
}

#[tokio::test]
async fn fields_that_repeat_stay_apart() {
    let request = "GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nx-a: 2\r\n\r\n";
    let answer =
        "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n";
    let (asked, answered) = pass("", request, answer).await;
    assert_eq!(asked.field("x-a").as_deref(), Some("1 | 2"));
    assert_eq!(answered.field("set-cookie").as_deref(), Some("a=1 | b=2"));
}

const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn telling(client: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nhost: app.example\r\nx-forwarded-for: {client}\r\nx-real-ip: {client}\r\nx-forwarded-proto: https\r\n\
         x-forwarded-host: front.example\r\nforwarded: for={client}\r\nx-request-id: made-up\r\n\r\n"
    )
}

/// The head that the node gets, and the one that the client does.
async fn pass(listening: &str, request: &str, answer: &str) -> (Head, Head) {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).listening(listening);
    let balancer = setup.start().await;
    pass_through(&balancer, &origin, request, answer).await
}

async fn pass_through(
    balancer: &Balancer,
    origin: &Origin,
    request: &str,
    answer: &str,
) -> (Head, Head) {
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say(request).await;
    let mut node = origin.visit().await;
    let asked = node.head().await;
    node.say(answer).await;
    (asked, client.head().await)
}
