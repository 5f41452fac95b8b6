//! Which new configurations are taken, which are not, and what is said about either.

use http::StatusCode;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::web::{Speaks, Web},
};

use super::{UNWATCHED, status_of};

#[tokio::test]
async fn an_equal_configuration_touches_nothing() {
    let (mut balancer, origin) = between().await;
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    let text = balancer.config();
    balancer.rewrite(&format!("# A remark changes nothing.\n{text}"));
    assert_eq!(balancer.reload().await["outcome"], "unchanged");
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    assert_eq!(
        origin.connections(),
        1,
        "the connection to the node must be kept"
    );
    assert!(reloads(&balancer, "unchanged").await >= 1.0);
    assert_eq!(reloads(&balancer, "applied").await, 0.0);
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_configuration_and_says_why() {
    let (mut balancer, _origin) = between().await;
    let text = balancer.config();
    for (bad, reason) in [
        ("[[listener", "balancer.toml:1"),
        ("drain_deadline = 'soon'", "drain_deadline"),
        (
            "workers = 2",
            "`workers` cannot change while the balancer runs",
        ),
    ] {
        let text = text.replace("workers = 1", "");
        balancer.rewrite(&format!("{bad}\n{text}"));
        let last = balancer.reload().await;
        assert_eq!(last["outcome"], "rejected", "{bad}");
        let error = last["error"].as_str().expect("it says why");
        assert!(error.contains(reason), "{error}");
        assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    }
    let rejected = "colonnade_balancer_config_rejected";
    assert_eq!(balancer.metric(rejected).await, 1.0);
    balancer.rewrite(&text);
    assert_eq!(balancer.reload().await["outcome"], "unchanged");
    assert_eq!(balancer.metric(rejected).await, 0.0);
}

#[tokio::test]
async fn nothing_of_a_file_is_applied_when_a_part_of_it_cannot_be() {
    let (mut balancer, origin) = between().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = taken.local_addr().expect("it is bound");
    let text = balancer.config();
    let more = format!(
        "{text}\n[[listener]]\nname = 'more'\naddress = '{address}'\n[[route]]\nservice = 'new'\npath = '/new'\n[[service]]\nname = 'new'\ndiscover = 'static'\nendpoints = ['{}']\n",
        origin.address()
    );
    balancer.rewrite(&more);
    let last = balancer.reload().await;
    let error = last["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("listener `more`: cannot listen on"),
        "{last}"
    );
    let routes = balancer.admin("/api/v1/routes").await;
    assert!(!routes.contains("/new"), "{routes}");
    drop(taken);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(status_of(address, "/new").await, 200);
}

#[tokio::test]
async fn a_changed_file_is_noticed() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let text = balancer.config();
    balancer.rewrite(&text.replace("service = 'app'", "service = 'app'\npath = '/sized'"));
    until("the file to be noticed", async || {
        status_of(balancer.entry(), "/other").await == 404
    })
    .await;
    let last = balancer.last_reload().await;
    assert_eq!(
        (&last["cause"], &last["outcome"]),
        (&"file".into(), &"applied".into())
    );
    balancer.rewrite(&format!("watch_config = false\n{text}"));
    until("the file to be noticed", async || {
        status_of(balancer.entry(), "/other").await == 200
    })
    .await;
}

#[tokio::test]
async fn services_come_and_go() {
    let (mut balancer, origin) = between().await;
    let other = Web::start(Speaks::Http1).await;
    let text = balancer.config();
    let both = format!(
        "{text}\n[[route]]\nservice = 'other'\npath = '/chunked'\n[[service]]\nname = 'other'\ndiscover = 'static'\nendpoints = ['{}']\n",
        other.address()
    );
    balancer.rewrite(&both);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(status_of(balancer.entry(), "/chunked/1").await, 200);
    assert_eq!((origin.requests(), other.requests()), (0, 1));
    balancer.until_offered(other.address(), true).await;
    balancer.rewrite(&text);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(status_of(balancer.entry(), "/chunked/1").await, 200);
    assert_eq!((origin.requests(), other.requests()), (1, 1));
    assert!(balancer.endpoint(other.address()).await.is_none());
}

#[tokio::test]
async fn endpoints_and_policies_of_a_service_change() {
    let (mut balancer, origin) = between().await;
    let other = Web::start(Speaks::Http1).await;
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    let text = balancer.config();
    let retold = text.replace("name = 'app'", "name = 'app'\nmax_tries = 2");
    balancer.rewrite(&retold);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    assert_eq!(
        origin.connections(),
        1,
        "another policy keeps the connections"
    );
    let moved = text.replace(&origin.address().to_string(), &other.address().to_string());
    balancer.rewrite(&moved);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    for _ in 0..10 {
        assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    }
    assert_eq!((origin.requests(), other.requests()), (2, 10));
}

#[tokio::test]
async fn probes_go_by_the_new_policy() {
    let (mut balancer, origin) = between().await;
    let text = balancer.config();
    origin.feels(StatusCode::SERVICE_UNAVAILABLE);
    // The only endpoint would be used however ill it is.
    let no_panic = "[service.pick]\npanic_threshold = 0";
    let probing = format!(
        "kind = 'http'\npath = '/livez'\nunhealthy_after = 1\ninterval = '100ms'\n{no_panic}"
    );
    balancer.rewrite(&text.replace("kind = 'off'\ninterval = '200ms'", &probing));
    assert_eq!(balancer.reload().await["outcome"], "applied");
    balancer.until_offered(origin.address(), false).await;
}

#[tokio::test]
async fn endpoints_are_picked_by_the_new_policy() {
    let mut origins = Vec::new();
    for _ in 0..3 {
        origins.push(Web::start(Speaks::Http1).await);
    }
    let addresses: Vec<_> = origins.iter().map(Web::address).collect();
    let mut balancer = Setup::http(&addresses).top(UNWATCHED).start().await;
    let text = balancer.config();
    for (policy, asked) in [("maglev", 1), ("round_robin", 3), ("maglev", 1)] {
        let pick = format!("[service.pick]\npolicy = '{policy}'\nkey = 'path'\n[service.probe]");
        balancer.rewrite(&text.replace("[service.probe]", &pick));
        assert_eq!(balancer.reload().await["outcome"], "applied");
        let before: Vec<_> = origins.iter().map(Web::requests).collect();
        for _ in 0..12 {
            assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
        }
        let is_asked = |(origin, before): &(&Web, usize)| origin.requests() > *before;
        let n = origins.iter().zip(before).filter(is_asked).count();
        assert_eq!(n, asked, "{policy}");
    }
}

async fn reloads(balancer: &Balancer, result: &str) -> f64 {
    let name = format!("colonnade_balancer_config_reloads_total{{result=\"{result}\"}}");
    balancer.metric(&name).await
}

async fn between() -> (Balancer, Web) {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).top(UNWATCHED);
    (setup.start().await, origin)
}
