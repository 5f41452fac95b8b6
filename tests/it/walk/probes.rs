//! Probes of each kind: what makes an endpoint healthy, and what does not.

use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Origin,
        grpc::GrpcOrigin,
        web::{Speaks, Web},
    },
};

#[tokio::test]
async fn an_http_probe_asks_as_it_is_told() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).probing(
        "kind = 'http'\npath = '/health?deep=1'\nhost = 'app.example'\nheaders = ['x-probe: yes']\nstatuses = ['418']\ninterval = '100ms'",
    );
    let balancer = setup.start().await;
    let mut node = origin.visit().await;
    let head = node.head().await;
    assert_eq!(head.first_line(), "GET /health?deep=1 HTTP/1.1");
    assert_eq!(head.field("host").as_deref(), Some("app.example"));
    assert_eq!(head.field("x-probe").as_deref(), Some("yes"));
    node.say("HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\n\r\n")
        .await;
    until_health(&balancer, origin.address(), "healthy").await;
    for _ in 0..2 {
        let mut node = origin.visit().await;
        node.head().await;
        node.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
    until_health(&balancer, origin.address(), "unhealthy").await;
}

#[tokio::test]
async fn a_grpc_probe_asks_the_health_service() {
    for (service, expected) in [
        ("texts.Texts", "healthy"),
        ("texts.Idle", "unhealthy"),
        ("texts.Unknown", "unhealthy"),
    ] {
        let origin = GrpcOrigin::start().await;
        let setup = Setup::http(&[origin.address()]).probing(&format!(
            "kind = 'grpc'\ngrpc_service = '{service}'\ninterval = '100ms'"
        ));
        let balancer = setup.start().await;
        until_health(&balancer, origin.address(), expected).await;
    }
}

#[tokio::test]
async fn a_probe_may_go_to_another_port() {
    let (traffic, health) = (Origin::start().await, Web::start(Speaks::Http1).await);
    let setup = Setup::http(&[traffic.address()]).probing(&format!(
        "kind = 'http'\npath = '/livez'\nport = {}\ninterval = '100ms'",
        health.address().port()
    ));
    let balancer = setup.start().await;
    until_health(&balancer, traffic.address(), "healthy").await;
    health.feels(http::StatusCode::SERVICE_UNAVAILABLE);
    until_health(&balancer, traffic.address(), "unhealthy").await;
}

#[tokio::test]
async fn an_http_probe_without_a_path_is_refused() {
    let text = "id = 'b'\n[[listener]]\nname = 'web'\naddress = '127.0.0.1:1'\n[[service]]\nname = 'app'\n[service.probe]\nkind = 'http'\n";
    let (code, said) = tests::cluster::check(text).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("service[0].probe.path: required, but not set"),
        "{said}"
    );
}

async fn until_health(balancer: &Balancer, address: std::net::SocketAddr, health: &str) {
    until("the endpoint's health", async || {
        let endpoint = balancer.endpoint(address).await;
        endpoint.is_some_and(|it| it["health"] == health)
    })
    .await;
}
