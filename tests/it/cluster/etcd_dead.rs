//! etcd dies and everything else goes on: requests, a balancer's restart, and the noticing of a node that crashed.

use tests::{
    load::{FailureKind, Report},
    whole_cluster::{BalancerNr, Cluster, ClusterOptions, until},
};

use super::{
    cluster_or_return,
    traffic::{failed, finished, gets, load, none_failed, told},
};

const RESTARTED: BalancerNr = BalancerNr(0);
const STEADY: BalancerNr = BalancerNr(1);
/// Clients of the balancer that is restarted, each with a connection.
const CLIENTS: usize = 4;

#[tokio::test]
async fn a_dead_etcd_changes_nothing() {
    let mut cluster = cluster_or_return!(ClusterOptions {
        n_balancers: 2,
        ..ClusterOptions::default()
    });
    until_remembered(&cluster).await;
    let steady = load(150.0, 8, gets(cluster.entry(STEADY)));
    let interrupted = load(50.0, CLIENTS, gets(cluster.entry(RESTARTED)));
    until("both are asked", async || {
        steady.report().succeeded() > 0 && interrupted.report().succeeded() > 0
    })
    .await;

    cluster.etcd().member(0).kill().await;
    for balancer in [STEADY, RESTARTED] {
        let admin = cluster.balancer_admin(balancer);
        let out_of_touch = async || matches!(admin.registry().await, Ok(Some(it)) if !it.connected);
        until(format_args!("{balancer} misses etcd"), out_of_touch).await;
    }
    none_failed("etcd has died", &interrupted.take());

    restart(&mut cluster).await;
    only_absence_was_noticed(&interrupted.take());

    let nodes = cluster.nodes();
    cluster.kill(nodes[0]).await;
    for balancer in [STEADY, RESTARTED] {
        cluster.until_offered(balancer, &nodes[1..]).await;
    }

    cluster.etcd().member(0).restart();
    until_equal(&cluster).await;
    for balancer in [STEADY, RESTARTED] {
        cluster.until_offered(balancer, &nodes[1..]).await;
    }
    none_failed("the balancer that went on", &finished(steady).await);
    none_failed(
        "the balancer that was restarted",
        &finished(interrupted).await,
    );
}

/// A balancer's snapshot is written at most a second after its view has changed.
async fn until_remembered(cluster: &Cluster) {
    until("the snapshot has every node", async || {
        let snapshot = cluster.snapshot(RESTARTED).unwrap_or_default();
        let is_in = |node| snapshot.contains(&format!("\"{node}\""));
        cluster.nodes().iter().all(is_in)
    })
    .await;
}

async fn restart(cluster: &mut Cluster) {
    let departed = cluster.stop_balancer(RESTARTED).await;
    assert!(departed.status.success(), "{departed:?}");
    cluster.restart_balancer(RESTARTED);
    let admin = cluster.balancer_admin(RESTARTED);
    until("the balancer is ready from its snapshot", async || {
        admin.is_ready().await
    })
    .await;
    cluster.until_offered(RESTARTED, &cluster.nodes()).await;
    let registry = cluster.registry(RESTARTED).await;
    assert!(
        !registry.connected,
        "nothing but the snapshot can have told it"
    );
}

/// Nobody listens for a moment: connections are refused, and one that the kernel completed just before is reset. Who was connected
/// has been told with an answer that the connection ends.
#[track_caller]
fn only_absence_was_noticed(report: &Report) {
    let kinds = report.failures_by_kind();
    let count = |kind| kinds.get(&kind).copied().unwrap_or_default();
    let (refused, reset) = (count(FailureKind::Refused), count(FailureKind::Reset));
    assert_eq!(
        refused + reset,
        report.failures(),
        "{:#?}",
        told(&failed(report), report.began)
    );
    assert!(refused > 0, "it was away for a moment");
    assert!(reset <= CLIENTS as u64, "{reset} of {CLIENTS} connections");
}

/// Both have the same nodes, announced, and nobody else.
async fn until_equal(cluster: &Cluster) {
    until("both balancers have the whole view again", async || {
        let view = async |balancer| {
            let endpoints = cluster.endpoints(balancer).await;
            let told = endpoints.into_iter();
            told.map(|it| (it.node, it.address, it.incarnation, it.presence, it.offered))
                .collect::<Vec<_>>()
        };
        let (one, other) = (view(STEADY).await, view(RESTARTED).await);
        one == other && one.len() == 2 && one.iter().all(|it| it.3 == "announced" && it.4)
    })
    .await;
}
