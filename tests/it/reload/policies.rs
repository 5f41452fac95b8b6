//! Limits and TLS under a new configuration: what changed holds at once, what was counted or agreed on stays.

use tests::{
    cluster::Setup,
    origin::{
        Dialogue,
        web::{Speaks, Web},
    },
    secure::{Authority, Door, shown},
};

use super::{UNWATCHED, status_of};

const APP: &str = "app.example";

#[tokio::test]
async fn a_rate_changes_and_counts_on() {
    let origin = Web::start(Speaks::Http1).await;
    let rate =
        "[[admission.rate]]\nname = 'all'\nper = '1h'\nrate = 2\nburst = 2\nlisteners = ['web']";
    let setup = Setup::http(&[origin.address()]).top(UNWATCHED);
    let mut balancer = setup.start().await;
    let unlimited = balancer.config();
    let limited = |rate: &str| format!("{unlimited}\n{rate}\n");
    balancer.rewrite(&limited(rate));
    assert_eq!(balancer.reload().await["outcome"], "applied");
    let ask = async || status_of(balancer.entry(), "/sized/1").await;
    assert_eq!([ask().await, ask().await, ask().await], [200, 200, 429]);
    // The rule is known by its name: its burst is not given anew.
    balancer.rewrite(&limited(&rate.replace("burst = 2", "burst = 3")));
    assert_eq!(balancer.reload().await["outcome"], "applied");
    let ask = async || status_of(balancer.entry(), "/sized/1").await;
    assert_eq!([ask().await, ask().await], [200, 429]);
    let counted = "colonnade_balancer_refused_requests_total{rule=\"all\"}";
    assert_eq!(balancer.metric(counted).await, 2.0);
    balancer.rewrite(&unlimited);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
}

#[tokio::test]
async fn a_limit_on_connections_counts_those_that_are_there() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).top(UNWATCHED);
    let mut balancer = setup.start().await;
    let mut there = Dialogue::with(balancer.entry()).await;
    there.say("GET /sized/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(there.head().await.status(), 200);
    let text = balancer.config();
    balancer.rewrite(&format!("{text}\n[admission]\nmax_connections = 1\n"));
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 503);
    there.hear(1).await;
    there.say("GET /sized/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(there.head().await.status(), 200);
}

/// Connections that were made in the clear must not be used when a service is to be spoken to in TLS.
#[tokio::test]
async fn a_service_that_begins_tls_is_not_asked_in_the_clear_any_more() {
    let authority = Authority::new();
    authority.issue("node", &["127.0.0.1"]);
    let web = Web::start(Speaks::Http1).await;
    let acceptor = authority.acceptor("node", &["http/1.1"], false);
    let door = Door::before(web.address(), acceptor).await;
    let setup = Setup::http(&[web.address()]).serving("max_tries = 1");
    let mut balancer = setup.top(UNWATCHED).start().await;
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    // What listens there speaks no TLS, which only a new connection finds out.
    let clear = balancer.config();
    let tls = format!(
        "max_tries = 1\ntls = {{ ca = '{}' }}",
        authority.path("ca.pem")
    );
    let secured = clear.replace("max_tries = 1", &tls);
    balancer.rewrite(&secured);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 503);
    let moved = secured.replace(&web.address().to_string(), &door.address().to_string());
    balancer.rewrite(&moved);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    assert_eq!(door.handshakes(), 1);
}

#[tokio::test]
async fn a_listener_gets_other_certificates_and_a_bad_one_changes_nothing() {
    let authority = Authority::new();
    authority.issue("first", &[APP]);
    authority.issue("second", &[APP]);
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).top(UNWATCHED);
    let mut balancer = setup
        .listening(&authority.listening(&["first"]))
        .start()
        .await;
    let client = authority.client();
    let address = balancer.entry();
    let shown_now = async || {
        let stream = client.connect(address, APP).await;
        shown(&stream.expect("there is a certificate"))
    };
    assert_eq!(shown_now().await, "first");
    let text = balancer.config();
    balancer.rewrite(&text.replace("first.", "second."));
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(shown_now().await, "second");
    balancer.rewrite(&text.replace("first.", "third."));
    let last = balancer.reload().await;
    assert_eq!(last["outcome"], "rejected");
    let error = last["error"].as_str().unwrap_or_default();
    assert!(error.contains("third."), "{error}");
    assert_eq!(shown_now().await, "second");
}
