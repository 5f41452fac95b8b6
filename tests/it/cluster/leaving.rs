//! How long a polite leaving takes, and what it costs, with balancers that confirm, hang, or cannot be heard.

use std::time::{Duration, Instant};

use proto::v1::WatchRequest;
use tests::whole_cluster::{
    BalancerNr, Cluster, ClusterOptions, Departed, NodeNr, PATIENCE, until,
};
use tonic::Code;

use super::{
    cluster_or_return,
    traffic::{finished, gets, gets_http2, load, none_failed, posts, watch},
};

const B: BalancerNr = BalancerNr(0);
const OTHER: BalancerNr = BalancerNr(1);
/// A second of quiet belongs to every leaving; the rest is the registry's round trip, and a busy machine.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(4);
/// What a node does after its deadline: last frames, and the withdrawing of its record.
const GONE_AFTER_DEADLINE: Duration = Duration::from_secs(4);
/// How long a hung balancer's HTTP/2 connections can hold a node up: five seconds to a ping, five to its answer. What comes
/// on top belongs to a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(14);
/// An identity every so often, for longer than any test.
const ENDLESS: WatchRequest = WatchRequest {
    interval_ms: 50,
    count: 1_000_000,
};
/// What a shell reports for a program that an interrupt ended.
const ENDED_AT_ONCE: i32 = 130;

#[tokio::test]
async fn with_every_balancer_alive_a_node_leaves_at_once() {
    let mut cluster = cluster_or_return!(ClusterOptions {
        n_balancers: 2,
        ..ClusterOptions::default()
    });
    let loads = [B, OTHER].map(|it| {
        let entry = cluster.entry(it);
        (load(100.0, 8, gets(entry)), load(50.0, 8, posts(entry)))
    });
    let nodes = cluster.nodes();
    for leaves in [nodes[0], nodes[1]] {
        let departed = cluster.leave(leaves).await;
        has_left(&mut cluster, leaves, departed, Confirmed(true));
        assert!(departed.took < CONFIRMED_WITHIN, "{departed:?}");
    }
    for (gets, posts) in loads {
        none_failed("gets while nodes leave", &finished(gets).await);
        none_failed("posts while nodes leave", &finished(posts).await);
    }
}

#[tokio::test]
async fn a_hung_balancer_holds_a_node_up_until_it_is_noticed() {
    let options = ClusterOptions {
        n_balancers: 2,
        ..ClusterOptions::default()
    };
    let mut cluster = cluster_or_return!(options);
    // The connections that it keeps to the nodes, of both kinds, must hold nobody up.
    for warm in [
        load(50.0, 4, gets(cluster.entry(OTHER))),
        load(50.0, 4, gets_http2(cluster.entry(OTHER))),
    ] {
        until("every node answers", async || {
            warm.report().nodes().len() == 3
        })
        .await;
        none_failed("before", &finished(warm).await);
    }
    let load = load(100.0, 8, gets(cluster.entry(B)));
    let hung = cluster.balancer(OTHER);
    hung.pause().expect("the balancer runs");
    let departed = cluster.leave(cluster.nodes()[0]).await;
    has_left(&mut cluster, NodeNr::FIRST, departed, Confirmed(true));
    // A lease was renewed a third of its time ago at most.
    let earliest = options.lease_ttl * 2 / 3;
    assert!(
        (earliest..NOTICED_WITHIN).contains(&departed.took),
        "not before the lease's end, and long before the deadline: {departed:?}"
    );
    none_failed("the other balancer", &finished(load).await);
}

#[tokio::test]
async fn a_stream_that_outlasts_the_deadline_is_ended_with_a_word() {
    let deadline = Duration::from_secs(4);
    let mut cluster = cluster_or_return!(ClusterOptions {
        n_nodes: 1,
        leave_deadline: deadline,
        ..ClusterOptions::default()
    });
    let (_, mut replies) = watch(cluster.entry(B), ENDLESS)
        .await
        .expect("a stream begins");
    let began = Instant::now();
    let ended = tokio::spawn(async move {
        loop {
            match replies.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an endless stream has no good end"),
                Err(status) => return (status, began.elapsed()),
            }
        }
    });
    let departed = cluster.leave(NodeNr::FIRST).await;
    has_left(&mut cluster, NodeNr::FIRST, departed, Confirmed(true));
    let (status, after) = ended.await.expect("the stream ends");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "the node is leaving")
    );
    assert!(
        (deadline..deadline + Duration::from_secs(1)).contains(&after),
        "the stream was ended after {after:?}"
    );
    assert!(
        departed.took < deadline + GONE_AFTER_DEADLINE,
        "{departed:?}"
    );
}

#[tokio::test]
async fn a_second_signal_ends_a_node_at_once() {
    let mut cluster = cluster_or_return!(ClusterOptions {
        n_nodes: 1,
        ..ClusterOptions::default()
    });
    let (_, _replies) = watch(cluster.entry(B), ENDLESS)
        .await
        .expect("a stream begins");
    let admin = cluster.node_admin(NodeNr::FIRST);
    let node = cluster.node(NodeNr::FIRST);
    node.terminate().expect("the node runs");
    until("the node is leaving", async || !admin.is_ready().await).await;
    node.terminate().expect("the node runs");
    let began = Instant::now();
    let status = node.exit(PATIENCE).await.expect("it ends");
    assert_eq!(status.code(), Some(ENDED_AT_ONCE));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn without_etcd_a_node_leaves_unheard_and_no_get_fails() {
    let deadline = Duration::from_secs(6);
    let mut cluster = cluster_or_return!(ClusterOptions {
        leave_deadline: deadline,
        ..ClusterOptions::default()
    });
    let load = load(100.0, 8, gets(cluster.entry(B)));
    cluster.etcd().member(0).kill().await;
    let departed = cluster.leave(NodeNr::FIRST).await;
    has_left(&mut cluster, NodeNr::FIRST, departed, Confirmed(false));
    assert!(
        (deadline / 2..deadline + GONE_AFTER_DEADLINE).contains(&departed.took),
        "half of the time is spent waiting for a word: {departed:?}"
    );
    cluster.until_offered(B, &cluster.nodes()[1..]).await;
    none_failed("etcd is dead and a node leaves", &finished(load).await);
}

struct Confirmed(bool);

#[track_caller]
fn has_left(cluster: &mut Cluster, node: NodeNr, departed: Departed, confirmed: Confirmed) {
    assert_eq!(departed.status.code(), Some(0), "{departed:?}");
    let output = cluster.node(node).output();
    let output = output.expect("the output of a process is kept");
    let word = format!("\"is_confirmed\":{}", confirmed.0);
    assert!(output.contains(&word), "{word} must be in {output}");
}
