//! Work stays in the balancer's zone while the zone can carry it, and leaves it in proportion when it cannot.

use http::StatusCode;
use serde_json::json;
use tests::{
    cluster::{Balancer, Setup, until},
    etcd::{Etcd, EtcdOptions},
    origin::web::{Speaks, Web},
};

use super::client::Client;

/// Two nodes here and two there.
const ZONES: [&str; 4] = ["here", "here", "there", "there"];

#[tokio::test]
async fn work_stays_here_until_too_few_are_left_to_do_it() {
    let Some(etcd) = Etcd::start(EtcdOptions::default()).await else {
        return;
    };
    let nodes = announced(&etcd).await;
    let balancer = balancer(&etcd).await;
    for node in &nodes {
        balancer.until_offered(node.address(), true).await;
    }
    assert_eq!(local_of_200(&balancer, &nodes).await, 200);
    assert_eq!(picks(&balancer, "remote").await, 0.0);
    nodes[0].feels(StatusCode::INTERNAL_SERVER_ERROR);
    balancer.until_offered(nodes[0].address(), false).await;
    let local = local_of_200(&balancer, &nodes).await;
    assert!((110..170).contains(&local), "0.7 of 200, not {local}");
    nodes[1].feels(StatusCode::INTERNAL_SERVER_ERROR);
    balancer.until_offered(nodes[1].address(), false).await;
    assert_eq!(local_of_200(&balancer, &nodes).await, 0);
    let (local, remote) = (
        picks(&balancer, "local").await,
        picks(&balancer, "remote").await,
    );
    assert_eq!(local + remote, 600.0);
}

async fn local_of_200(balancer: &Balancer, nodes: &[Web]) -> usize {
    let asked = || nodes[..2].iter().map(Web::requests).sum::<usize>();
    let before = asked();
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    for _ in 0..200 {
        assert_eq!(client.get("/sized/1").await.status, 200);
    }
    asked() - before
}

async fn picks(balancer: &Balancer, zone: &str) -> f64 {
    let series = "colonnade_balancer_zone_picks_total";
    balancer
        .metric(&format!("{series}{{service=\"app\",zone=\"{zone}\"}}"))
        .await
}

async fn balancer(etcd: &Etcd) -> Balancer {
    let endpoints = etcd.endpoints();
    let registry = format!("zone = 'here'\nregistry = {{ endpoints = {endpoints:?} }}");
    let balancer = Setup::empty()
        .top(&registry)
        .listener("web", "")
        .discovering("app", "pick = { panic_threshold = 0.0 }")
        .probing("kind = 'http'\npath = '/livez'\ninterval = '50ms'")
        .route("service = 'app'")
        .start()
        .await;
    until("the registry's list", async || {
        let connected = "colonnade_balancer_registry_connected";
        balancer.metric(connected).await == 1.0
    })
    .await;
    balancer
}

async fn announced(etcd: &Etcd) -> Vec<Web> {
    let mut client = etcd.client().await;
    let mut nodes = Vec::new();
    for (n, zone) in ZONES.iter().enumerate() {
        let node = Web::start(Speaks::Http1).await;
        let record = json!({
            "id": format!("n{n}"),
            "incarnation": 1,
            "zone": zone,
            "state": "ready",
            "services": { "app": node.address().to_string() },
        });
        let key = format!("/colonnade/v1/nodes/n{n}");
        let put = client.put(key, record.to_string(), None).await;
        put.expect("etcd takes a record");
        nodes.push(node);
    }
    nodes
}
