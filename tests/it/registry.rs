//! The registry on real etcd clusters: what it promises, and what it does when members fail, hang or forget.

use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use registry::{
    Config, Registry,
    contract::{Nodes, Subject, node, stored, within},
};
use tests::etcd::{Etcd, EtcdOptions};

/// A lease that does not run out during a test.
const LONG_TTL: Duration = Duration::from_secs(120);
const PREFIX: &str = "/colonnade/v1/";

/// Runs a test on a cluster, or not at all where there is no etcd.
macro_rules! etcd_or_return {
    ($options:expr) => {
        match Etcd::start($options).await {
            Some(etcd) => etcd,
            None => return,
        }
    };
}

mod contract {
    //! Each promise on a cluster of its own.

    use super::*;

    registry::contract!(tokio::test, async {
        Etcd::start(EtcdOptions::default()).await.map(Cluster)
    });
}

#[tokio::test]
async fn an_etcd_that_starts_late_is_no_error() {
    let mut etcd = etcd_or_return!(EtcdOptions::default());
    etcd.member(0).kill().await;
    let registry = open(&etcd.config());
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    view.until("word that nobody is there", |it| it.lost.is_some())
        .await;
    assert!(
        view.lost.as_ref().is_some_and(|it| it.contains("refused")),
        "the reason helps: {:?}",
        view.lost
    );
    etcd.member(0).restart();
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    assert_eq!(view.n_lost, 1, "an outage is told once");
}

#[tokio::test]
async fn a_compaction_under_its_feet_makes_a_watch_list_again() {
    let etcd = etcd_or_return!(EtcdOptions::default());
    let mut client = etcd.client().await;
    let registry = open(&etcd.config());
    let mut view = Nodes::of(&registry);
    view.until("the empty list", |it| it.is_listed).await;
    // More than the queues on the way can hold, while nobody reads; then etcd forgets how it came about.
    let last = flood(&mut client).await;
    client
        .compact(last, None)
        .await
        .expect("etcd compacts what it has");
    view.until("the list again", |it| it.n_listed > 1).await;
    view.until("all that was written", |it| {
        it.records
            .get("n0")
            .is_some_and(|it| it.version.ends_with("last"))
    })
    .await;
    assert_eq!(view.n_lost, 0, "etcd was in touch all the time");
}

#[tokio::test]
async fn a_listing_of_several_pages_is_whole() {
    let etcd = etcd_or_return!(EtcdOptions::default());
    let mut client = etcd.client().await;
    for hundred in 0..13 {
        let puts = (0..100).map(|n| put(&format!("n{hundred}-{n}"), "1"));
        client
            .txn(Txn::new().and_then(puts.collect::<Vec<_>>()))
            .await
            .expect("etcd takes a hundred puts");
    }
    assert_eq!(Nodes::of(&open(&etcd.config())).list().await.len(), 1300);
}

#[tokio::test]
async fn a_member_that_restarts_is_found_again() {
    let mut etcd = etcd_or_return!(EtcdOptions::default());
    let registry = open(&etcd.config());
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    let before = stored(&mut announced).await;
    let lease = lease_of(&etcd, "nodes/a").await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    etcd.member(0).stop().await;
    view.until("the outage", |it| it.lost.is_some()).await;
    assert!(view.records.contains_key("a"), "an outage removes nobody");
    etcd.member(0).restart();
    view.until("the list again", |it| it.lost.is_none()).await;
    assert!(view.records.contains_key("a") && view.revision >= before);
    announced.set(node("a", 2));
    stored(&mut announced).await;
    view.until("a change", |it| it.records["a"].incarnation == 2)
        .await;
    assert_eq!(
        lease_of(&etcd, "nodes/a").await,
        lease,
        "the lease outlived the restart and is used on"
    );
}

#[tokio::test]
async fn a_hung_member_is_left_for_another() {
    let mut etcd = etcd_or_return!(EtcdOptions {
        n_members: 3,
        ..EtcdOptions::default()
    });
    // Each begins at a random member: with so many, some sit on the one that hangs.
    let registry = open(&etcd.config());
    let mut views: Vec<Nodes> = (0..8).map(|_| Nodes::of(&registry)).collect();
    let mut announcements: Vec<_> = (0..8)
        .map(|n| registry.announce(node(&format!("n{n}"), 1), Duration::from_secs(10)))
        .collect();
    for announced in &mut announcements {
        stored(announced).await;
    }
    for view in &mut views {
        view.until("all records", |it| it.records.len() == 8).await;
    }

    etcd.member(0).hang();
    let hung_at = Instant::now();
    for (n, announced) in announcements.iter_mut().enumerate() {
        announced.set(node(&format!("n{n}"), 2));
    }
    for announced in &mut announcements {
        stored(announced).await;
    }
    for view in &mut views {
        view.until("all changes", |it| {
            it.records.values().all(|it| it.incarnation == 2)
        })
        .await;
        assert_eq!(view.records.len(), 8, "no lease ran out meanwhile");
    }
    let took = hung_at.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "a hung member was noticed after {took:?}"
    );
    etcd.member(0).resume();
}

#[tokio::test]
async fn without_a_quorum_the_registry_is_lost_and_comes_back() {
    let mut etcd = etcd_or_return!(EtcdOptions {
        n_members: 3,
        ..EtcdOptions::default()
    });
    let registry = open(&etcd.config());
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    etcd.member(0).kill().await;
    etcd.member(1).kill().await;
    view.until("the outage", |it| it.lost.is_some()).await;
    assert!(view.records.contains_key("a"), "an outage removes nobody");
    etcd.member(0).restart();
    view.until("the list again", |it| it.lost.is_none()).await;
    announced.set(node("a", 2));
    stored(&mut announced).await;
    view.until("a change", |it| it.records["a"].incarnation == 2)
        .await;
}

#[tokio::test]
async fn an_etcd_restored_from_empty_is_filled_again() {
    let mut etcd = etcd_or_return!(EtcdOptions::default());
    let registry = open(&etcd.config());
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    stored(&mut announced).await;
    for n in 0..50 {
        write(&etcd, "nodes/b", &record("b", &n.to_string())).await;
    }
    view.until("both records", |it| {
        it.records.get("b").is_some_and(|it| it.version == "49")
    })
    .await;
    let before = view.revision;
    etcd.member(0).kill().await;
    etcd.member(0).restart_empty();
    view.until("a list from an earlier revision", |it| it.revision < before)
        .await;
    view.until("the announcer's return", |it| it.records.contains_key("a"))
        .await;
    assert!(
        !view.records.contains_key("b"),
        "nobody announces it any more"
    );
    assert!(stored(&mut announced).await < before);
}

#[tokio::test]
async fn wrong_passwords_are_told_and_right_ones_heal() {
    let mut etcd = etcd_or_return!(EtcdOptions::default());
    etcd.demand_login("node", "right", PREFIX).await;
    let config = etcd.config_of("node", "wrong");
    let registry = open(&config);
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    view.until("the refusal", |it| it.lost.is_some()).await;
    let reason = view.lost.clone().unwrap_or_default();
    assert!(
        reason.contains("\"node\"") && reason.contains("password"),
        "the reason helps: {reason}"
    );

    let mut nobody = Nodes::of(&open(&etcd.config()));
    nobody
        .until("the refusal of who gives no name", |it| it.lost.is_some())
        .await;
    assert!(
        nobody
            .lost
            .as_ref()
            .is_some_and(|it| it.contains("user name is empty")),
        "{:?}",
        nobody.lost
    );

    etcd.config_of("node", "right");
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
}

#[tokio::test]
async fn what_a_user_may_not_read_is_told() {
    let mut etcd = etcd_or_return!(EtcdOptions::default());
    etcd.demand_login("node", "right", "/elsewhere/").await;
    let mut view = Nodes::of(&open(&etcd.config_of("node", "right")));
    view.until("the refusal", |it| it.lost.is_some()).await;
    assert!(
        view.lost
            .as_ref()
            .is_some_and(|it| it.contains("permission denied")),
        "{:?}",
        view.lost
    );
}

#[tokio::test]
async fn an_expired_login_is_renewed() {
    let login_ttl = Some(Duration::from_secs(1));
    let mut etcd = etcd_or_return!(EtcdOptions {
        login_ttl,
        ..EtcdOptions::default()
    });
    etcd.demand_login("node", "right", PREFIX).await;
    let registry = open(&etcd.config_of("node", "right"));
    let mut view = Nodes::of(&registry);
    // It sleeps between its renewals for longer than its login is good for.
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    within(
        "a login of that age is refused",
        Box::pin(expired_login(&etcd)),
    )
    .await;
    announced.set(node("a", 2));
    stored(&mut announced).await;
    view.until("a change", |it| it.records["a"].incarnation == 2)
        .await;

    // A restart forgets every login.
    etcd.member(0).stop().await;
    etcd.member(0).restart();
    announced.set(node("a", 3));
    stored(&mut announced).await;
    view.until("a change after the restart", |it| {
        it.records["a"].incarnation == 3
    })
    .await;
    assert!(announced.withdraw(LONG_TTL).await);
    view.until("its end", |it| it.records.is_empty()).await;
}

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let etcd = etcd_or_return!(EtcdOptions {
        is_tls: true,
        ..EtcdOptions::default()
    });
    let registry = open(&etcd.config());
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;

    let mut stranger = Nodes::of(&open(&Config {
        cert_file: None,
        key_file: None,
        ..etcd.config()
    }));
    stranger
        .until("the refusal of who shows no certificate", |it| {
            it.lost.is_some()
        })
        .await;
    let mut doubter = Nodes::of(&open(&Config {
        ca_file: None,
        ..etcd.config()
    }));
    doubter
        .until("the doubt about an unknown authority", |it| {
            it.lost.is_some()
        })
        .await;
    assert!(
        doubter
            .lost
            .as_ref()
            .is_some_and(|it| it.contains("certificate")),
        "{:?}",
        doubter.lost
    );
}

#[tokio::test]
async fn a_withdrawal_that_etcd_does_not_confirm_says_so() {
    let mut etcd = etcd_or_return!(EtcdOptions::default());
    let registry = open(&etcd.config());
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    stored(&mut announced).await;
    etcd.member(0).kill().await;
    assert!(!announced.withdraw(Duration::from_millis(500)).await);
}

/// A cluster as the contract sees it.
struct Cluster(Etcd);

impl Subject for Cluster {
    fn registry(&self) -> Registry {
        open(&self.0.config())
    }

    async fn put(&self, key: &str, value: &str) {
        write(&self.0, key, value).await;
    }

    async fn delete(&self, key: &str) {
        let res = self
            .0
            .client()
            .await
            .delete(format!("{PREFIX}{key}"), None)
            .await;
        res.expect("the test may delete anything");
    }

    async fn lease_of(&self, key: &str) -> Option<i64> {
        lease_of(&self.0, key).await
    }

    async fn end_lease(&self, lease: i64) {
        self.0
            .client()
            .await
            .lease_revoke(lease)
            .await
            .expect("the test may revoke anything");
    }

    /// etcd looks for leases that are due twice a second, counts in whole seconds, and the machine is shared.
    fn slack(&self) -> Duration {
        Duration::from_secs(4)
    }
}

async fn write(etcd: &Etcd, key: &str, value: &str) {
    let res = etcd
        .client()
        .await
        .put(format!("{PREFIX}{key}"), value, None)
        .await;
    res.expect("the test may write anything");
}

async fn lease_of(etcd: &Etcd, key: &str) -> Option<i64> {
    let res = etcd
        .client()
        .await
        .get(format!("{PREFIX}{key}"), None)
        .await;
    res.expect("the test may read anything")
        .kvs()
        .first()
        .map(|it| it.lease())
}

fn open(config: &Config) -> Registry {
    Registry::open(config).expect("the harness writes sound configurations")
}

/// Writes more than the queues on the way can hold; gives the revision of the last write.
async fn flood(client: &mut Client) -> i64 {
    const N_WRITES: usize = 1500;
    let padding = "x".repeat(30_000);
    let mut last = 0;
    for n in 0..N_WRITES {
        let version = if n == N_WRITES - 1 {
            format!("{padding}last")
        } else {
            padding.clone()
        };
        let txn = Txn::new().and_then([put("n0", &version)]);
        let response = client.txn(txn).await.expect("etcd takes a put");
        last = response
            .header()
            .expect("etcd answers with a header")
            .revision();
    }
    last
}

/// Returns when a login of this moment is no longer good.
async fn expired_login(etcd: &Etcd) {
    let options = etcd_client::ConnectOptions::new().with_user("node", "right");
    let mut client = Client::connect(etcd.endpoints(), Some(options))
        .await
        .expect("the user may log in");
    let never = Compare::version("never", CompareOp::Greater, 0);
    let mut wait = tokio::time::interval(Duration::from_millis(100));
    while client.txn(Txn::new().when([never.clone()])).await.is_ok() {
        wait.tick().await;
    }
}

fn put(id: &str, version: &str) -> TxnOp {
    TxnOp::put(format!("{PREFIX}nodes/{id}"), record(id, version), None)
}

/// What a foreign service would write.
fn record(id: &str, version: &str) -> String {
    format!(
        r#"{{"id":"{id}","incarnation":1,"version":"{version}","state":"ready","services":{{}}}}"#
    )
}
