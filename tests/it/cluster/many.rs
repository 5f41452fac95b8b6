//! Ten thousand nodes of somebody else's in the registry: what a change costs, and what a client notices.

use std::time::{Duration, Instant};

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use tests::{
    load::Report,
    process::cpu_time,
    whole_cluster::{BalancerNr, Cluster, ClusterOptions, Probe, until},
};

use super::{
    cluster_or_return,
    traffic::{finished, gets, load, none_failed},
};

const B: BalancerNr = BalancerNr(0);
const N_NODES: usize = 10_000;
/// Changes whose cost is measured together.
const THOUSAND: usize = 1_000;
/// etcd takes 128 operations in one transaction.
const PUTS_EACH: usize = 100;
/// A change among ten thousand may cost so many times what one of the first thousand costs.
const COST_GROWTH_MAX: f64 = 3.0;
/// How long a thousand changes may take to reach every core.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);
/// Long enough that no record ends during the test.
const LEASE_S: i64 = 600;
/// How long a load lasts whose latencies are compared, in exchanges at its rate.
const COMPARED: u64 = 400;
/// How much later than twice as late an answer may be, by quantile. A pick that looked at every endpoint would cost
/// milliseconds; the tail belongs to a busy machine.
const SLOWER_BY_MAX: [(f64, Duration); 2] = [
    (0.5, Duration::from_millis(5)),
    (0.99, Duration::from_millis(100)),
];

#[tokio::test]
async fn a_change_costs_the_same_among_ten_thousand() {
    let mut cluster = cluster_or_return!(ClusterOptions {
        n_nodes: 2,
        probe: Probe::Off,
        ..ClusterOptions::default()
    });
    let mut client = cluster.etcd().client().await;
    let lease = client.lease_grant(LEASE_S, None).await;
    let lease = lease.expect("etcd grants leases").id();

    let mut costs = vec![cost_of(&mut cluster, &mut client, lease, 0).await];
    let among_few = latencies(&cluster).await;
    for thousand in 1..N_NODES / THOUSAND {
        costs.push(cost_of(&mut cluster, &mut client, lease, thousand).await);
    }
    println!("per thousand changes: {costs:?}");
    let growth = costs[costs.len() - 1].as_secs_f64() / costs[0].as_secs_f64();
    assert!(
        growth < COST_GROWTH_MAX,
        "{growth:.1} times the cost: {costs:?}"
    );
    assert_eq!(cluster.endpoints(B).await.len(), N_NODES + 2);

    let among_many = latencies(&cluster).await;
    for (quantile, slower_by_max) in SLOWER_BY_MAX {
        let (before, after) = (among_few.quantile(quantile), among_many.quantile(quantile));
        println!(
            "p{}: {before:?} among {THOUSAND}, {after:?} among {N_NODES}",
            100.0 * quantile
        );
        assert!(after < 2 * before + slower_by_max, "{before:?} {after:?}");
    }
    assert!(among_many.nodes().len() == 2, "both real nodes answer");
}

/// The balancer's processor time for a thousand changes, from the first to the confirmation of the last.
async fn cost_of(
    cluster: &mut Cluster,
    client: &mut Client,
    lease: i64,
    thousand: usize,
) -> Duration {
    let pid = cluster.balancer(B).pid();
    let cpu = || cpu_time(pid).expect("the balancer runs");
    let before = cpu();
    let revision = announce(cluster, client, lease, thousand).await;
    let began = Instant::now();
    let admin = cluster.balancer_admin(B);
    until(
        "every core has applied the last change",
        async || matches!(admin.registry().await, Ok(Some(it)) if it.applied_revision >= revision),
    )
    .await;
    assert!(began.elapsed() < APPLIED_WITHIN, "{:?}", began.elapsed());
    cpu() - before
}

/// Puts a thousand records whose services are at the addresses of the real nodes; returns the last one's revision.
async fn announce(cluster: &Cluster, client: &mut Client, lease: i64, thousand: usize) -> u64 {
    let real: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|it| cluster.node_web(*it))
        .collect();
    let put = |n: usize| {
        let id = format!("foreign-{n}");
        let address = real[n % real.len()];
        let record = serde_json::json!({ "id": id, "incarnation": 1, "state": "ready", "services": { "web": address.to_string() } });
        let options = PutOptions::new().with_lease(lease);
        TxnOp::put(
            format!("/colonnade/v1/nodes/{id}"),
            record.to_string(),
            Some(options),
        )
    };
    let mut revision = 0;
    let first = thousand * THOUSAND;
    for from in (first..first + THOUSAND).step_by(PUTS_EACH) {
        let puts: Vec<_> = (from..from + PUTS_EACH).map(put).collect();
        let done = client.txn(Txn::new().and_then(puts)).await;
        let done = done.expect("etcd takes a hundred puts");
        revision = done.header().map_or(0, |it| it.revision().unsigned_abs());
    }
    revision
}

async fn latencies(cluster: &Cluster) -> Report {
    let load = load(200.0, 8, gets(cluster.entry(B)));
    until("so many are answered", async || {
        load.report().exchanges() >= COMPARED
    })
    .await;
    let report = finished(load).await;
    none_failed("a light load", &report);
    report
}
