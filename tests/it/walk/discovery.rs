//! Where endpoints come from and whether they live: names that change, name servers that die, probes that fail.

use std::net::{Ipv4Addr, SocketAddr};

use http::StatusCode;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        names::Names,
        web::{Speaks, Web},
    },
};

use super::client::Client;

#[tokio::test]
async fn the_addresses_of_a_name_are_followed() {
    let origin = Web::start(Speaks::Http1).await;
    let other = Ipv4Addr::new(127, 0, 0, 77);
    let names = Names::start(&[Ipv4Addr::LOCALHOST]).await;
    let balancer = by_name(&names, origin.address()).start().await;
    let at = |ip: Ipv4Addr| SocketAddr::from((ip, origin.address().port()));
    balancer.until_offered(at(Ipv4Addr::LOCALHOST), true).await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    assert_eq!(client.get("/sized/1").await.status, 200);
    names.change(&[Ipv4Addr::LOCALHOST, other]);
    balancer.until_offered(at(other), true).await;
    names.change(&[other]);
    until("the old address to be forgotten", async || {
        let endpoint = balancer.endpoint(at(Ipv4Addr::LOCALHOST)).await;
        endpoint.is_none_or(|it| it["offered"] == false)
    })
    .await;
}

#[tokio::test]
async fn a_dead_name_server_changes_nothing() {
    let origin = Web::start(Speaks::Http1).await;
    let names = Names::start(&[Ipv4Addr::LOCALHOST]).await;
    let balancer = by_name(&names, origin.address()).start().await;
    balancer.until_offered(origin.address(), true).await;
    names.die();
    let died = std::time::Instant::now();
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    // Longer than the answer may be believed, and than the first question that nobody answers.
    until("some time to pass", async || {
        assert_eq!(client.get("/sized/1").await.status, 200);
        died.elapsed().as_secs() >= 4
    })
    .await;
    let endpoint = balancer
        .endpoint(origin.address())
        .await
        .expect("it is still known");
    assert_eq!(endpoint["offered"], true, "{endpoint}");
}

#[tokio::test]
async fn a_node_that_feels_unwell_gets_no_work_until_it_is_well() {
    let (ill, well) = (
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    );
    let setup = Setup::http(&[ill.address(), well.address()])
        .probing("kind = 'http'\npath = '/livez'\ninterval = '100ms'");
    let balancer = setup.start().await;
    until_healthy(&balancer, ill.address()).await;
    ill.feels(StatusCode::INTERNAL_SERVER_ERROR);
    balancer.until_offered(ill.address(), false).await;
    let endpoint = balancer
        .endpoint(ill.address())
        .await
        .expect("it is configured");
    assert_eq!(
        (&endpoint["health"], &endpoint["presence"]),
        (&"unhealthy".into(), &"announced".into())
    );
    assert!(
        balancer
            .metric("colonnade_balancer_probes_total{result=\"failed\"}")
            .await
            >= 2.0
    );
    assert!(
        balancer
            .metric("colonnade_balancer_probes_total{result=\"ok\"}")
            .await
            >= 1.0
    );
    assert_eq!(
        balancer
            .metric("colonnade_balancer_endpoints{service=\"app\",state=\"known\"}")
            .await,
        2.0
    );
    let offered = "colonnade_balancer_endpoints{service=\"app\",state=\"offered\"}";
    until("the count of offered endpoints", async || {
        balancer.metric(offered).await == 1.0
    })
    .await;
    let before = ill.requests();
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    for _ in 0..20 {
        assert_eq!(client.get("/sized/1").await.status, 200);
    }
    assert_eq!(ill.requests(), before, "an unwell node gets no work");
    ill.feels(StatusCode::OK);
    balancer.until_offered(ill.address(), true).await;
}

#[tokio::test]
async fn a_node_that_does_not_listen_is_found_out_before_a_client_does() {
    let (mut mortal, other) = (
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    );
    let setup = Setup::http(&[mortal.address(), other.address()]).probing("interval = '100ms'");
    let balancer = setup.start().await;
    until_healthy(&balancer, mortal.address()).await;
    mortal.stop().await;
    balancer.until_offered(mortal.address(), false).await;
    assert_eq!(
        balancer.metric("colonnade_balancer_suspicions_total").await,
        0.0
    );
    mortal.restart().await;
    balancer.until_offered(mortal.address(), true).await;
}

async fn until_healthy(balancer: &Balancer, address: SocketAddr) {
    until("a good probe", async || {
        let endpoint = balancer.endpoint(address).await;
        endpoint.is_some_and(|it| it["health"] == "healthy")
    })
    .await;
}

fn by_name(names: &Names, origin: SocketAddr) -> Setup {
    let keys = format!(
        "discover = 'dns'\ndns = 'nodes.example:{}'\ndns_servers = ['{}']",
        origin.port(),
        names.address()
    );
    Setup::empty()
        .listener("web", "")
        .discovering("app", &keys)
        .route("service = 'app'")
}
