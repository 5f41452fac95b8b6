//! Who gets which request: in turn, by key, by load, and what new nodes get at first.

use http::Method;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::web::{Speaks, Web},
};

use super::client::{Client, nothing};

#[tokio::test]
async fn in_turn_everybody_gets_the_same() {
    let (nodes, balancer) = start(3, "pick = { policy = 'round_robin' }").await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    for _ in 0..30 {
        assert_eq!(client.get("/sized/1").await.status, 200);
    }
    let requests: Vec<_> = nodes.iter().map(Web::requests).collect();
    assert_eq!(requests, [10, 10, 10]);
}

#[tokio::test]
async fn whoever_has_the_fewest_requests_gets_the_next() {
    let (nodes, balancer) = start(2, "pick = { policy = 'least_requests' }").await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    for _ in 0..40 {
        assert_eq!(client.get("/sized/1").await.status, 200);
    }
    assert!(nodes.iter().all(|it| it.requests() > 5), "of idle ones any");
}

#[tokio::test]
async fn equal_keys_meet_at_one_node_and_at_another_when_it_is_gone() {
    let pick = "pick = { policy = 'maglev', key = 'header:x-user' }\nprobe.kind = 'tcp'";
    let (mut nodes, balancer) = start(5, pick).await;
    let other = start_with(&nodes, pick).await;
    let home = ask_as("ann", &balancer, &nodes).await;
    for asked in [&balancer, &other] {
        for _ in 0..20 {
            assert_eq!(
                ask_as("ann", asked, &nodes).await,
                home,
                "all balancers agree"
            );
        }
    }
    nodes[home].stop().await;
    until("the loss to be noticed", async || {
        let endpoint = balancer.endpoint(nodes[home].address()).await;
        ask_as("ann", &balancer, &nodes).await;
        endpoint.is_some_and(|it| it["suspected"] == true || it["offered"] == false)
    })
    .await;
    let refuge = ask_as("ann", &balancer, &nodes).await;
    assert_ne!(refuge, home);
    assert_eq!(ask_as("ann", &balancer, &nodes).await, refuge);
    nodes[home].restart().await;
    until("the key to come home", async || {
        ask_as("ann", &balancer, &nodes).await == home
    })
    .await;
}

/// 429s and fast errors attract traffic to the failing node: the sinkhole.
#[tokio::test]
async fn a_node_that_refuses_at_once_attracts_no_work() {
    for policy in ["p2c", "least_requests"] {
        let pick = format!("pick.policy = '{policy}'");
        let (nodes, balancer) = start(4, &pick).await;
        nodes[0].fails(http::StatusCode::TOO_MANY_REQUESTS);
        let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
        let mut refused = 0;
        for _ in 0..400 {
            refused += usize::from(client.get("/sized/50000").await.status == 429);
        }
        assert!(
            refused < 100,
            "{policy}: {refused} of 400, and its share were 100"
        );
    }
}

#[tokio::test]
async fn a_node_that_comes_back_begins_slowly() {
    let keys = "slow_start = { window = '10m' }\nprobe = { kind = 'http', path = '/livez', interval = '50ms' }";
    let (nodes, balancer) = start(2, keys).await;
    nodes[0].feels(http::StatusCode::INTERNAL_SERVER_ERROR);
    balancer.until_offered(nodes[0].address(), false).await;
    nodes[0].feels(http::StatusCode::OK);
    balancer.until_offered(nodes[0].address(), true).await;
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    let before = nodes[0].requests();
    for _ in 0..400 {
        assert_eq!(client.get("/sized/1").await.status, 200);
    }
    let got = nodes[0].requests() - before;
    assert!(
        (1..100).contains(&got),
        "{got} of 400, and its share will be 200"
    );
}

async fn ask_as(user: &str, balancer: &Balancer, nodes: &[Web]) -> usize {
    let before: Vec<_> = nodes.iter().map(Web::requests).collect();
    let mut client = Client::connect(balancer.entry(), Speaks::Http1).await;
    let request = client
        .request(Method::GET, "/sized/1")
        .header("x-user", user);
    let request = request.body(nothing()).expect("a valid request");
    assert_eq!(client.ask(request).await.status, 200);
    let asked = |(node, before): (&Web, &usize)| node.requests() > *before;
    let at = nodes.iter().zip(&before).position(asked);
    at.expect("one of the nodes was asked")
}

async fn start(n: usize, serving: &str) -> (Vec<Web>, Balancer) {
    let mut nodes = Vec::new();
    for _ in 0..n {
        nodes.push(Web::start(Speaks::Http1).await);
    }
    let balancer = start_with(&nodes, serving).await;
    (nodes, balancer)
}

async fn start_with(nodes: &[Web], serving: &str) -> Balancer {
    let addresses: Vec<_> = nodes.iter().map(Web::address).collect();
    let (keys, probe) = serving.split_once("\nprobe").unwrap_or((serving, ""));
    let setup = Setup::http(&addresses).serving(keys);
    let probe = probe.trim_start_matches([' ', '=', '.']);
    let probe = probe.trim_start_matches('{').trim_end_matches('}');
    let setup = match probe {
        "" => setup,
        keys => setup.probing(&keys.replace(", ", "\n")),
    };
    setup.start().await
}
