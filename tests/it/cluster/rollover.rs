//! A minute of every kind of traffic while nodes are added, left politely and killed: what clients may notice, in numbers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proto::v1::WatchRequest;
use tests::{
    load::{BUCKET, Load, Report},
    whole_cluster::{BalancerNr, Cluster, ClusterOptions, Killed, NodeNr, until},
};

use super::{
    cluster_or_return,
    traffic::{
        Watches, echoes, failed, finished, gets, gets_http2, load, none_failed, posts, single_gets,
        told,
    },
};

/// How long the load lasts at least; the last round is finished in it.
const LASTS: Duration = Duration::from_secs(60);
/// After a `kill -9` nothing fails any more.
const FAILS_WITHIN: Duration = Duration::from_secs(1);
/// A new node has its share of the work after this.
const SHARES_WITHIN: Duration = Duration::from_secs(5);
/// Over which the share is counted: some forty answers are a fair one.
const COUNTED_OVER: Duration = Duration::from_secs(1);
/// Nodes that stay while others come and go.
const N_NODES: usize = 3;
/// Nodes added, of which each round loses as many.
const ADDED_EACH: usize = 2;
/// Exchanges that began between the balancer's word about those in flight and the end of the killed process.
const IN_BETWEEN_MAX: usize = 4;

const B: BalancerNr = BalancerNr(0);

#[tokio::test]
async fn clients_are_served_while_nodes_come_and_go() {
    let options = ClusterOptions {
        n_nodes: N_NODES,
        ..ClusterOptions::default()
    };
    let leave_deadline = options.leave_deadline;
    let mut cluster = cluster_or_return!(options);
    let loads = Loads::start(&cluster);
    let history = live(&mut cluster, leave_deadline).await;
    let reports = loads.finish().await;
    print(&reports, &history);

    for (kind, report) in &reports {
        assert!(
            report.succeeded() > 0 || *kind == "posts",
            "{kind}: {report:?}"
        );
        only_kills_fail(kind, report, &history.kills);
    }
    for idempotent in ["gets", "gets over http/2"] {
        none_failed(idempotent, &reports[idempotent]);
    }
    for kill in &history.kills {
        at_most_those_in_flight(kill, &reports);
    }
    for joined in &history.joins {
        has_its_share(joined, &reports["gets"]);
    }
}

/// One load of each kind.
struct Loads(BTreeMap<&'static str, Load>);

/// What happened to the nodes.
#[derive(Default)]
struct History {
    kills: Vec<Kill>,
    joins: Vec<Join>,
}

struct Kill {
    node: NodeNr,
    when: Killed,
    /// Exchanges on the node just before, streams included, by the balancer's word.
    in_flight: usize,
}

struct Join {
    node: NodeNr,
    at: Instant,
    n_alive: usize,
}

impl Loads {
    fn start(cluster: &Cluster) -> Self {
        let (entry, raw) = (cluster.entry(B), cluster.raw_entry(B));
        // Two seconds each: ten messages a second on each of eight streams, and twenty identities.
        let watches = Watches {
            entry,
            request: WatchRequest {
                interval_ms: 100,
                count: 20,
            },
        };
        let loads = [
            ("gets", load(200.0, 16, gets(entry))),
            ("posts", load(100.0, 8, posts(entry))),
            ("gets over http/2", load(50.0, 8, gets_http2(entry))),
            ("echoes", load(80.0, 8, echoes(entry, 20))),
            ("watches", load(3.5, 8, watches)),
            ("relayed gets", load(50.0, 8, single_gets(raw))),
        ];
        Self(loads.into())
    }

    async fn finish(self) -> BTreeMap<&'static str, Report> {
        let mut reports = BTreeMap::new();
        for (kind, load) in self.0 {
            reports.insert(kind, finished(load).await);
        }
        reports
    }
}

/// Rounds of adding, leaving and killing until the time is up.
async fn live(cluster: &mut Cluster, leave_deadline: Duration) -> History {
    let began = Instant::now();
    let mut history = History::default();
    let mut alive = cluster.nodes();
    while began.elapsed() < LASTS {
        join(cluster, &mut alive, &mut history).await;

        let leaves = alive.remove(0);
        let departed = cluster.leave(leaves).await;
        assert!(departed.status.success(), "{leaves}: {departed:?}");
        assert!(
            departed.took < leave_deadline,
            "{leaves} leaves as soon as it is empty: {departed:?}"
        );

        let killed = alive.remove(0);
        history.kills.push(kill(cluster, killed).await);
        cluster.until_offered(B, &alive).await;
        // Part of the load: what fails later than that has no excuse.
        tokio::time::sleep(2 * FAILS_WITHIN).await;
    }
    history
}

async fn join(cluster: &mut Cluster, alive: &mut Vec<NodeNr>, history: &mut History) {
    let at = Instant::now();
    let joined: Vec<_> = (0..ADDED_EACH).map(|_| cluster.start_node()).collect();
    alive.extend(&joined);
    cluster.until_offered(B, alive).await;
    tokio::time::sleep_until((at + SHARES_WITHIN).into()).await;
    let n_alive = alive.len();
    let joins = joined.into_iter().map(|node| Join { node, at, n_alive });
    history.joins.extend(joins);
}

async fn kill(cluster: &mut Cluster, node: NodeNr) -> Kill {
    // A node without work would prove nothing.
    let mut in_flight = 0;
    until(format_args!("{node} has work"), async || {
        in_flight = on_node(cluster, node).await;
        in_flight > 0
    })
    .await;
    let when = cluster.kill(node).await;
    Kill {
        node,
        when,
        in_flight,
    }
}

async fn on_node(cluster: &Cluster, node: NodeNr) -> usize {
    let endpoints = cluster.endpoints(B).await;
    let of_node = endpoints.iter().filter(|it| it.node == node.to_string());
    of_node.map(|it| it.in_flight as usize).sum()
}

#[track_caller]
fn only_kills_fail(kind: &str, report: &Report, kills: &[Kill]) {
    let excused = |ended: Instant| kills.iter().any(|kill| kill.explains(ended));
    let mut others = failed(report);
    others.retain(|it| !excused(it.ended));
    let others = told(&others, report.began);
    assert!(
        others.is_empty(),
        "{kind} failed without a kill: {others:#?}"
    );
}

#[track_caller]
fn at_most_those_in_flight(kill: &Kill, reports: &BTreeMap<&'static str, Report>) {
    let n_failed: usize = reports.values().map(|it| kill.failures_in(it)).sum();
    assert!(
        n_failed <= kill.in_flight + IN_BETWEEN_MAX,
        "{}: {n_failed} exchanges failed, {} were in flight",
        kill.node,
        kill.in_flight
    );
}

#[track_caller]
fn has_its_share(joined: &Join, report: &Report) {
    let (share, fair) = joined.share(report);
    assert!(
        2 * share >= fair,
        "{} gave {share} answers where {fair} are its fair share",
        joined.node
    );
}

impl Kill {
    fn explains(&self, ended: Instant) -> bool {
        self.when.at <= ended && ended <= self.when.at + FAILS_WITHIN
    }

    fn failures_in(&self, report: &Report) -> usize {
        let failed = failed(report);
        failed.iter().filter(|it| self.explains(it.ended)).count()
    }
}

impl Join {
    /// Its answers, and the fair share of them, in that part of the time it has in which it gave most.
    ///
    /// One slow answer takes a node out of the picker's favour for seconds, and on a busy machine any node gives one; what
    /// must not be is that a new node stays without work.
    fn share(&self, report: &Report) -> (u64, u64) {
        let n_steps = (SHARES_WITHIN - COUNTED_OVER).div_duration_f64(BUCKET) as u32;
        let shares = (0..=n_steps).map(|step| self.share_from(report, self.at + step * BUCKET));
        shares.max().unwrap_or_default()
    }

    fn share_from(&self, report: &Report, from: Instant) -> (u64, u64) {
        let answers = |node: &str| report.answers_of(node, from, from + COUNTED_OVER);
        let all: u64 = report.nodes().iter().map(|it| answers(it)).sum();
        (answers(&self.node.to_string()), all / self.n_alive as u64)
    }
}

/// The numbers of the run, for whoever looks at them.
fn print(reports: &BTreeMap<&'static str, Report>, history: &History) {
    for (kind, report) in reports {
        println!(
            "{kind}: {} exchanges, {} failed, p50 {:?}, p99 {:?}",
            report.exchanges(),
            failed(report).len(),
            report.quantile(0.5),
            report.quantile(0.99)
        );
    }
    for kill in &history.kills {
        let n_failed: usize = reports.values().map(|it| kill.failures_in(it)).sum();
        println!(
            "{} was killed: {} in flight, {n_failed} failed",
            kill.node, kill.in_flight
        );
    }
    for joined in &history.joins {
        let (share, fair) = joined.share(&reports["gets"]);
        println!("{} joined: {share} answers, {fair} are fair", joined.node);
    }
}
