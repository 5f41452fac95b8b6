//! Orders about a node: what they change, that they can be taken back, and that a restart does not forget them.

use serde_json::Value;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::{
        Origin,
        web::{Speaks, Web},
    },
    process::{Program, Ready, ours},
};

use super::{COMMAND_WITHIN, command, get};

#[tokio::test]
async fn a_drained_node_gets_no_new_work_until_it_is_undrained() {
    let (one, other) = (
        Web::start(Speaks::Http1).await,
        Web::start(Speaks::Http1).await,
    );
    let balancer = Setup::http(&[one.address(), other.address()]).start().await;
    let node = one.address().to_string();
    command(&balancer, &["drain", &node]).await.well();
    let endpoint = balancer
        .endpoint(one.address())
        .await
        .expect("it stays known");
    assert_eq!(endpoint["override"]["drained"], true);
    balancer.until_offered(one.address(), false).await;
    let before = one.requests();
    get_twenty(&balancer).await;
    assert_eq!(one.requests(), before, "a drained node gets no new work");
    command(&balancer, &["undrain", &node]).await.well();
    balancer.until_offered(one.address(), true).await;
    until("the node to get work again", async || {
        get_twenty(&balancer).await;
        one.requests() > before
    })
    .await;
    let endpoint = balancer.endpoint(one.address()).await.expect("it is known");
    assert_eq!(endpoint["override"], Value::Null);
}

#[tokio::test]
async fn a_drain_waits_until_nothing_is_in_flight() {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let mut client = tests::origin::Dialogue::with(balancer.entry()).await;
    client.say("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut visit = origin.visit().await;
    visit.head().await;
    let node = origin.address().to_string();
    let timed_out = command(&balancer, &["drain", &node, "--wait", "--timeout", "300ms"]).await;
    assert_eq!(timed_out.code, Some(1), "{}", timed_out.text);
    assert!(
        timed_out.text.contains("1 still in flight"),
        "{}",
        timed_out.text
    );
    visit
        .say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await;
    assert_eq!(
        client.head().await.status(),
        200,
        "what is under way may end"
    );
    let said = command(&balancer, &["drain", &node, "--wait"]).await.well();
    assert!(said.contains("nothing is in flight"), "{said}");
}

#[tokio::test]
async fn a_weight_is_ordered_and_taken_back() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let node = origin.address().to_string();
    let weight = async || {
        balancer
            .endpoint(origin.address())
            .await
            .expect("it is known")["weight"]
            .clone()
    };
    assert_eq!(weight().await, 100);
    command(&balancer, &["weight", &node, "7"]).await.well();
    assert_eq!(weight().await, 7);
    command(&balancer, &["weight", &node, "announced"])
        .await
        .well();
    assert_eq!(weight().await, 100);
    let wrong = command(&balancer, &["weight", &node, "heavy"]).await;
    assert_eq!(wrong.code, Some(2), "{}", wrong.text);
    let unknown = command(&balancer, &["weight", "nobody", "7"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown
            .text
            .contains("`nobody`: no node of that id is known"),
        "{}",
        unknown.text
    );
}

#[tokio::test]
async fn an_order_outlives_a_restart() {
    let origin = Web::start(Speaks::Http1).await;
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let snapshot = dir.path().join("membership.json");
    let keys = format!("[membership]\nsnapshot = '{}'", snapshot.display());
    let setup = Setup::http(&[origin.address()]).administered(&keys);
    let mut balancer = setup.start().await;
    let node = origin.address().to_string();
    command(&balancer, &["drain", &node]).await.well();
    balancer.process().terminate().expect("it runs");
    balancer.exit(COMMAND_WITHIN).await;
    let file = dir.path().join("again.toml");
    std::fs::write(&file, balancer.config()).expect("it is writable");
    let program = Program::new(ours("balancer").expect("the balancer can be built"));
    let started = program.argument("--config").argument(&file).start();
    let mut again = started.expect("the balancer can be started");
    let ready = Ready::Url {
        address: balancer.admin_address(),
        path: "/readyz".to_owned(),
    };
    again
        .ready(&ready, COMMAND_WITHIN)
        .await
        .expect("it starts");
    let endpoint = balancer
        .endpoint(origin.address())
        .await
        .expect("it is known");
    assert_eq!(
        (&endpoint["override"]["drained"], &endpoint["offered"]),
        (&true.into(), &false.into())
    );
}

async fn get_twenty(balancer: &Balancer) {
    for _ in 0..20 {
        assert_eq!(get(balancer, "/sized/1").await, 200);
    }
}
