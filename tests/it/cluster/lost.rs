//! A node that hangs: its sockets accept and nothing answers, while its lease runs out.

use std::time::{Duration, Instant};

use tests::{
    load::Report,
    whole_cluster::{BalancerNr, Cluster, ClusterOptions, NodeNr, Probe, until},
};

use super::{
    cluster_or_return,
    traffic::{finished, gets, load, none_failed},
};

const B: BalancerNr = BalancerNr(0);
/// How long a node may take to begin its answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Two bad probes make a node unhealthy: two intervals and two timeouts with their jitter, and a busy machine.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(4);
/// What a request gets that the hung node has and does not answer.
const SILENT: &str = "status 504";
/// One request in so many may be such a one: the picker avoids a node whose requests do not end.
const KEPT_MIN: u64 = 20;
/// What a busy machine adds to a time.
const LATE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_hung_node_costs_no_more_than_what_it_was_sent_before_it_was_noticed() {
    let mut cluster = cluster_or_return!(ClusterOptions {
        probe: Probe::Http {
            path: "/whoami",
            interval: PROBE_INTERVAL,
            timeout: PROBE_INTERVAL,
        },
        response_head_timeout: Some(HEAD_TIMEOUT),
        ..ClusterOptions::default()
    });
    let nodes = cluster.nodes();
    let hung = nodes[0];
    let load = load(200.0, 32, gets(cluster.entry(B)));
    until_busy(&cluster, &nodes).await;
    load.take();

    let paused_at = Instant::now();
    cluster.node(hung).pause().expect("the node runs");
    cluster.until_offered(B, &nodes[1..]).await;
    let withdrawn_at = Instant::now();
    let took = withdrawn_at - paused_at;
    assert!(took < WITHDRAWN_WITHIN, "a hung node got work for {took:?}");
    until_forgotten(&cluster, hung).await;
    few_were_kept(&load.take(), withdrawn_at);

    cluster.node(hung).resume().expect("the node exists");
    cluster.until_offered(B, &nodes).await;
    until_busy(&cluster, &nodes).await;
    none_failed("the node is back", &finished(load).await);
}

/// Its lease has run out and no probe speaks for it.
async fn until_forgotten(cluster: &Cluster, node: NodeNr) {
    until(format_args!("{node} is forgotten"), async || {
        let endpoints = cluster.endpoints(B).await;
        endpoints.iter().all(|it| it.node != node.to_string())
    })
    .await;
}

/// Every node answers.
async fn until_busy(cluster: &Cluster, nodes: &[NodeNr]) {
    let probe = load(100.0, 4, gets(cluster.entry(B)));
    until("every node answers", async || {
        probe.report().nodes().len() == nodes.len()
    })
    .await;
    none_failed("every node answers", &finished(probe).await);
}

/// Nothing failed but what the hung node was sent, and that was answered for when the node's time was over.
#[track_caller]
fn few_were_kept(report: &Report, withdrawn_at: Instant) {
    let failed = report.failed_exchanges();
    println!(
        "{} of {} failed, p99 {:?}",
        failed.len(),
        report.exchanges(),
        report.quantile(0.99)
    );
    assert!(
        report.failures() * KEPT_MIN <= report.exchanges(),
        "{} of {} failed",
        report.failures(),
        report.exchanges()
    );
    for it in failed {
        assert_eq!(it.reason, SILENT);
        assert!(
            it.began < withdrawn_at,
            "it was sent to a node that was withdrawn: {it:?}"
        );
        let took = it.ended - it.began;
        assert!(took < HEAD_TIMEOUT + LATE, "{it:?} took {took:?}");
    }
}
