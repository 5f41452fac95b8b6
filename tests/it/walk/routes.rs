//! Which service is asked: the listener, the host and the path decide, and nobody is asked when none fits.

use http::Method;
use tests::{
    cluster::{Balancer, Setup},
    origin::web::{Speaks, Web},
};

use super::client::{Client, nothing};

const SERVICES: [&str; 5] = ["main", "wild", "api", "inner", "nobody"];

#[tokio::test]
async fn the_most_telling_route_wins() {
    let (balancer, origins) = five_services().await;
    let check = async |host: &str, path: &str, expected: &str| {
        let asked = ask(&balancer, "web", &origins, host, path).await;
        assert_eq!(asked, (200, expected), "{host}{path}");
    };
    check("www.example", "/", "main").await;
    check("WWW.Example:8080", "/x", "main").await;
    check("www.example.", "/apis", "main").await;
    check("www.example", "/api", "api").await;
    check("www.example", "/api/v1?a=/b", "api").await;
    check("a.sites.example", "/", "wild").await;
    check("b.a.sites.example", "/api", "wild").await;
}

#[tokio::test]
async fn no_route_is_a_404() {
    let (balancer, origins) = five_services().await;
    for (host, path) in [
        ("sites.example", "/"),
        ("other.example", "/api"),
        ("www.example.com", "/"),
    ] {
        let asked = ask(&balancer, "web", &origins, host, path).await;
        assert_eq!(asked, (404, "nobody"), "{host}{path}");
    }
    let line = balancer.line("/api").await;
    assert_eq!(
        (&line["ended"], &line["service"]),
        (&"no_route".into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn a_listener_has_routes_of_its_own() {
    let (balancer, origins) = five_services().await;
    assert_eq!(
        ask(&balancer, "inside", &origins, "any.example", "/").await,
        (200, "inner")
    );
    assert_eq!(
        ask(&balancer, "inside", &origins, "www.example", "/").await,
        (200, "inner")
    );
    assert_eq!(
        ask(&balancer, "web", &origins, "any.example", "/").await,
        (404, "nobody")
    );
}

async fn five_services() -> (Balancer, Vec<Web>) {
    let mut origins = Vec::new();
    let mut setup = Setup::empty().listener("web", "").listener("inside", "");
    for name in &SERVICES[..4] {
        let origin = Web::start(Speaks::Http1).await;
        setup = setup
            .service(name, &[origin.address()])
            .serving("protocol = 'http1'");
        origins.push(origin);
    }
    let setup = setup
        .route("service = 'main'\nhosts = ['www.example']\nlisteners = ['web']")
        .route("service = 'api'\nhosts = ['www.example']\npath = '/api'\nlisteners = ['web']")
        .route("service = 'wild'\nhosts = ['*.sites.example']\nlisteners = ['web']")
        .route("service = 'inner'\nlisteners = ['inside']");
    (setup.start().await, origins)
}

/// The status, and the service whose origin was asked; both versions of HTTP must agree.
async fn ask(
    balancer: &Balancer,
    listener: &str,
    origins: &[Web],
    host: &str,
    path: &str,
) -> (u16, &'static str) {
    let before: Vec<_> = origins.iter().map(Web::requests).collect();
    let address = balancer.entry_of(listener);
    let mut http1 = Client::connect(address, Speaks::Http1).await;
    let request = http::Request::builder().uri(path).header("host", host);
    let first = http1
        .ask(request.body(nothing()).expect("a valid request"))
        .await;
    let mut http2 = Client::connect(address, Speaks::Http2).await;
    let request = http2
        .request(Method::GET, "")
        .uri(format!("http://{host}{path}"));
    let second = http2
        .ask(request.body(nothing()).expect("a valid request"))
        .await;
    assert_eq!(first.status, second.status, "{host}{path}");
    let asked = (0..origins.len()).find(|it| origins[*it].requests() == before[*it] + 2);
    (first.status, SERVICES[asked.unwrap_or(SERVICES.len() - 1)])
}
