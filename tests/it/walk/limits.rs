//! What the balancer takes on, and how it says no: connections by number and source, requests by rate, and less when memory is short.

use http::{Method, Request};
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Dialogue, End, Origin,
        web::{Speaks, Web},
    },
};

use super::client::{Answer, Client, nothing};

#[tokio::test]
async fn a_source_has_so_many_connections_and_gets_another_when_one_ends() {
    let (_origin, balancer) = with("max_connections_per_source = 2").await;
    let mut first = Client::connect(balancer.entry(), Speaks::Http1).await;
    let mut second = Client::connect(balancer.entry(), Speaks::Http1).await;
    assert_eq!(first.get("/sized/1").await.status, 200);
    assert_eq!(second.get("/sized/1").await.status, 200);
    is_refused(&balancer).await;
    assert_eq!(refused(&balancer, "max_connections_per_source").await, 1.0);
    assert_eq!(
        second.get("/sized/1").await.status,
        200,
        "it is undisturbed"
    );
    drop(first);
    until("room for another connection", async || {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say("GET /sized/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.head().await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn all_listeners_together_have_so_many_connections() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()])
        .top("[admission]\nmax_connections = 1")
        .listener("other", "");
    let balancer = setup.start().await;
    let mut first = Client::connect(balancer.entry_of("other"), Speaks::Http1).await;
    assert_eq!(first.get("/sized/1").await.status, 200);
    is_refused(&balancer).await;
    assert_eq!(refused(&balancer, "max_connections_in_all").await, 1.0);
}

#[tokio::test]
async fn connections_that_come_too_quickly_are_refused_and_relays_reset() {
    let origin = Origin::start().await;
    let setup = Setup::relay("tcp", &[origin.address()])
        .top("[admission]\nnew_connections_per_source = 1\nnew_connections_burst = 2");
    let balancer = setup.start().await;
    for _ in 0..2 {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say("x").await;
        origin.visit().await.hears("x").await;
    }
    let mut client = Dialogue::with(balancer.entry()).await;
    assert_eq!(client.end().await, (Vec::new(), End::Reset));
    let counted = "colonnade_balancer_refused_connections_total{listener=\"entry\",reason=\"new_connections_per_source\"}";
    assert!(balancer.metric(counted).await >= 1.0);
}

#[tokio::test]
async fn whoever_is_exempt_has_no_limit() {
    let (_origin, balancer) =
        with("max_connections_per_source = 1\nexempt = ['127.0.0.0/8']").await;
    let mut all = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
        assert_eq!(client.get("/sized/1").await.status, 200);
        all.push(client);
    }
}

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_when_to_come_back() {
    let rate = "rate = [{ name = 'keys', by_header = 'x-api-key', rate = 2, per = '1m' }]";
    let (origin, balancer) = with(rate).await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "x-api-key", "a").await.status, 200);
    }
    let refused = ask(&mut client, "x-api-key", "a").await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    let wait: u64 = refused.field("retry-after").parse().expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(refused.field("ratelimit-policy"), "\"keys\";q=2;w=60");
    assert_eq!(refused.field("ratelimit"), format!("\"keys\";r=0;t={wait}"));
    assert_eq!(ask(&mut client, "x-api-key", "b").await.status, 200);
    assert_eq!(origin.requests(), 3, "a refused request reaches no node");
    let line = balancer.lines();
    assert!(line.iter().all(|it| it["ended"] != "bad_request"));
    let counted = "colonnade_balancer_refused_requests_total{rule=\"keys\"}";
    assert_eq!(balancer.metric(counted).await, 1.0);
    let ended = "colonnade_balancer_exchanges_ended_total{service=\"app\",ended=\"rate_limited\"}";
    until("the exchange to be written down", async || {
        balancer.metric(ended).await == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_rate_is_exact_over_all_workers() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()])
        .workers(2)
        .top("[admission]\nrate = [{ name = 'all', rate = 20, per = '1h' }]");
    let balancer = setup.start().await;
    let mut good = 0;
    for _ in 0..30 {
        // A connection each, so that both cores get some.
        let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
        good += u32::from(client.get("/sized/1").await.status == 200);
    }
    assert_eq!(good, 20);
}

#[tokio::test]
async fn grpc_hears_of_a_rate_in_its_own_words() {
    let (_origin, balancer) = with("rate = [{ name = 'all', rate = 1, per = '10s' }]").await;
    let mut first = Client::connect(balancer.entry(), Speaks::Http1).await;
    assert_eq!(first.get("/sized/1").await.status, 200);
    let mut client = Client::connect(balancer.entry(), Speaks::Http2).await;
    let request = client
        .request(Method::POST, "/texts.Texts/Upper")
        .header("content-type", "application/grpc");
    let refused = client
        .ask(request.body(nothing()).expect("a valid request"))
        .await;
    assert_eq!((refused.status, refused.field("grpc-status")), (200, "8"));
    let pushback: u64 = refused
        .field("grpc-retry-pushback-ms")
        .parse()
        .expect("milliseconds");
    assert!((1..=10_000).contains(&pushback), "{pushback}");
}

#[tokio::test]
async fn when_memory_is_short_the_least_important_and_the_idle_go() {
    // What is used is certain to lie between a hundredth of a percent and all of it.
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()])
        .top("[admission]\nmemory_max = '64GiB'\nmemory_shed_at = 0.00001\nmemory_refuse_at = 1.0")
        .serving("priority = { header = 'x-tier', low = ['batch'] }");
    let balancer = setup.start().await;
    until_pressure(&balancer, 1.0).await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    let refused = ask(&mut client, "x-tier", "batch").await;
    assert_eq!((refused.status, refused.field("retry-after")), (503, "1"));
    let counted = "colonnade_balancer_refused_requests_total{rule=\"memory\"}";
    assert_eq!(balancer.metric(counted).await, 1.0);

    let mut idle = Dialogue::with(balancer.entry()).await;
    idle.say("GET /sized/0 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(idle.head().await.status(), 200, "others are served");
    assert_eq!(idle.rest().await, b"", "long before its idle timeout");
    let closed = "colonnade_balancer_idle_connections_shed_total";
    assert!(balancer.metric(closed).await >= 1.0);
}

#[tokio::test]
async fn when_memory_is_at_its_end_nothing_new_is_taken() {
    let (_origin, balancer) =
        with("memory_max = '16MiB'\nmemory_shed_at = 0.0001\nmemory_refuse_at = 0.0001").await;
    until_pressure(&balancer, 2.0).await;
    is_refused(&balancer).await;
    assert_eq!(refused(&balancer, "memory").await, 1.0);
}

#[tokio::test]
async fn who_has_asked_already_reads_the_refusal_all_the_same() {
    let (_origin, balancer) = with("max_connections = 1").await;
    let mut first = Client::connect(balancer.entry(), Speaks::Http1).await;
    assert_eq!(first.get("/sized/1").await.status, 200);
    for _ in 0..50 {
        let mut client = Dialogue::with(balancer.entry()).await;
        client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 503);
        drop(client.rest().await);
    }
}

async fn with(admission: &str) -> (Web, Balancer) {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).top(&format!("[admission]\n{admission}"));
    (origin, setup.start().await)
}

async fn until_pressure(balancer: &Balancer, pressure: f64) {
    until("the pressure of memory", async || {
        balancer.metric("colonnade_balancer_memory_pressure").await == pressure
    })
    .await;
}

/// The next connection hears when to come back, at once and without having asked for anything.
async fn is_refused(balancer: &Balancer) {
    let mut client = Dialogue::with(balancer.entry()).await;
    let head = client.head().await;
    assert_eq!(head.status(), 503);
    assert_eq!(head.field("retry-after").as_deref(), Some("1"));
}

async fn refused(balancer: &Balancer, reason: &str) -> f64 {
    let counted = format!(
        "colonnade_balancer_refused_connections_total{{listener=\"web\",reason=\"{reason}\"}}"
    );
    balancer.metric(&counted).await
}

async fn ask(client: &mut Client, header: &str, value: &str) -> Answer {
    let request: Request<_> = client
        .request(Method::GET, "/sized/1")
        .header(header, value)
        .body(nothing())
        .expect("a valid request");
    client.ask(request).await
}
