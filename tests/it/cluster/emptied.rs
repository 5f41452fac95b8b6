//! etcd loses everything while the nodes live: nobody is believed gone, and everybody announces himself again.

use std::time::Duration;

use etcd_client::{DeleteOptions, GetOptions};
use tests::whole_cluster::{BalancerNr, Cluster, ClusterOptions, until};

use super::{
    cluster_or_return,
    traffic::{finished, gets, load, none_failed},
};

const PREFIX: &str = "/colonnade/v1/";
const B: BalancerNr = BalancerNr(0);
/// What a balancer logs when it withdraws a node.
const WITHDRAWN: &str = "offering a node no new work";

#[tokio::test]
async fn deleted_records_come_back_and_nobody_is_withdrawn() {
    let mut cluster = cluster_or_return!(ClusterOptions::default());
    let load = load(150.0, 8, gets(cluster.entry(B)));
    let mut client = cluster.etcd().client().await;
    let all = DeleteOptions::new().with_prefix();
    let deleted = client.delete(PREFIX, Some(all)).await;
    let deleted = deleted.expect("etcd deletes what it has").deleted();
    assert_eq!(deleted, 4, "three nodes and a balancer");

    until_announced(&mut cluster).await;
    nobody_was_withdrawn(&mut cluster).await;
    none_failed("the records were deleted", &finished(load).await);
}

#[tokio::test]
async fn an_etcd_that_returns_with_nothing_is_filled_again() {
    let mut cluster = cluster_or_return!(ClusterOptions::default());
    let load = load(150.0, 8, gets(cluster.entry(B)));
    let before = cluster.registry(B).await;
    cluster.etcd().member(0).kill().await;
    cluster.etcd().member(0).restart_empty();

    until_announced(&mut cluster).await;
    nobody_was_withdrawn(&mut cluster).await;
    let admin = cluster.balancer_admin(B);
    until("the balancer follows the new history", async || {
        matches!(admin.registry().await, Ok(Some(it)) if it.connected && it.applied_revision == it.revision)
    })
    .await;
    let after = cluster.registry(B).await;
    assert!(
        after.revision < before.revision + 100,
        "revisions count anew: {before:?} {after:?}"
    );
    leaves_as_ever(&mut cluster).await;
    none_failed("etcd was emptied", &finished(load).await);
}

/// The confirmation by which a node leaves works with the revisions of the new history.
async fn leaves_as_ever(cluster: &mut Cluster) {
    let nodes = cluster.nodes();
    let departed = cluster.leave(nodes[0]).await;
    assert!(departed.status.success(), "{departed:?}");
    let output = cluster.node(nodes[0]).output();
    let output = output.expect("the output of a process is kept");
    assert!(
        output.contains("\"is_confirmed\":true"),
        "the balancer has confirmed: {output}"
    );
    assert!(departed.took < Duration::from_secs(8), "{departed:?}");
}

/// All records are there, and the balancer knows it.
async fn until_announced(cluster: &mut Cluster) {
    let mut client = cluster.etcd().client().await;
    until("all records are in etcd", async || {
        let count = GetOptions::new().with_prefix().with_count_only();
        let got = client.get(PREFIX, Some(count)).await;
        got.is_ok_and(|it| it.count() == 4)
    })
    .await;
    until("the balancer sees every node announced", async || {
        let endpoints = cluster.endpoints(B).await;
        endpoints.len() == 3 && endpoints.iter().all(|it| it.presence == "announced")
    })
    .await;
}

async fn nobody_was_withdrawn(cluster: &mut Cluster) {
    cluster.until_offered(B, &cluster.nodes()).await;
    let output = cluster.balancer(B).output();
    let output = output.expect("the output of a process is kept");
    assert!(!output.contains(WITHDRAWN), "{output}");
}
