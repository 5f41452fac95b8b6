//! A balancer's record in the registry, for which leaving nodes wait: a takeover must not leave a moment without it.

use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions};
use registry::BalancerRecord;
use tests::{
    cluster::{Balancer, Setup, until},
    etcd::{Etcd, EtcdOptions},
    process::Process,
};

const KEY: &str = "/colonnade/v1/balancers/under-test";
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_record_passes_to_the_successor_without_a_gap() {
    let Some(etcd) = Etcd::start(EtcdOptions::default()).await else {
        return;
    };
    let mut client = etcd.client().await;
    let mut balancer = discovering(&etcd).await;
    let first = record(&mut client).await.expect("it is ready");
    let mut watch = client
        .watch(KEY, Some(WatchOptions::new()))
        .await
        .expect("etcd answers");
    for _ in 0..3 {
        let successor = balancer.start_successor();
        has_left(&mut balancer.succeeded_by(successor).await).await;
    }
    let last = record(&mut client).await.expect("it must be there");
    assert!(last.incarnation > first.incarnation);
    assert!(last.applied_revision >= first.applied_revision);
    let mut n_puts = 0;
    while n_puts < 3 {
        let told = tokio::time::timeout(PATIENCE, watch.message()).await;
        let told = told.expect("etcd tells").expect("the watch lives");
        for event in told.expect("the watch goes on").events() {
            assert_eq!(event.event_type(), EventType::Put, "no moment without it");
            n_puts += 1;
        }
    }
}

#[tokio::test]
async fn the_record_comes_back_to_a_balancer_whose_successor_died() {
    let Some(etcd) = Etcd::start(EtcdOptions::default()).await else {
        return;
    };
    let mut client = etcd.client().await;
    let mut balancer = discovering(&etcd).await;
    let taken = loop {
        match take_and_die(&mut balancer, &mut client).await {
            Some(taken) => break taken,
            // It was too quick: its elder has gone, and another may try.
            None => continue,
        }
    };
    until("the elder to take it again", async || {
        let now = record(&mut client).await;
        now.is_some_and(|it| it.incarnation > taken.incarnation)
    })
    .await;
    balancer.process().terminate().expect("it runs");
    assert_eq!(balancer.exit(PATIENCE).await.code(), Some(0));
    let left = record(&mut client).await;
    assert!(left.is_none(), "whoever leaves takes it along: {left:?}");
}

/// A successor takes the record, says that it is ready, and dies before its elder, which hangs, has heard it.
async fn take_and_die(balancer: &mut Balancer, client: &mut Client) -> Option<BalancerRecord> {
    let first = record(client).await.expect("the elder is ready");
    let mut successor = balancer.start_successor();
    until("the dialogue to begin", async || {
        let output = balancer.process().output().expect("output is kept");
        output.contains("a successor is starting")
    })
    .await;
    balancer.process().pause().expect("it runs");
    let mut taken = None;
    until("the successor to take the record", async || {
        taken = record(client).await;
        let is_new = |it: &BalancerRecord| it.incarnation > first.incarnation;
        taken.as_ref().is_some_and(is_new)
    })
    .await;
    let output = balancer.process().output().expect("output is kept");
    if output.contains("another process has taken over") {
        balancer.process().resume().expect("it is there still");
        has_left(&mut balancer.succeeded_by(successor).await).await;
        return None;
    }
    successor.kill().expect("it runs");
    successor.exit(PATIENCE).await.expect("it was killed");
    balancer.process().resume().expect("it is there still");
    taken
}

async fn discovering(etcd: &Etcd) -> Balancer {
    let endpoints = etcd.endpoints();
    let setup = Setup::empty()
        .top(&format!(
            "watch_config = false\n[registry]\nlease_ttl = '2s'\nendpoints = {endpoints:?}"
        ))
        .listener("web", "")
        .discovering("app", "discover = 'registry'")
        .route("service = 'app'");
    setup.handing_over().start().await
}

async fn record(client: &mut Client) -> Option<BalancerRecord> {
    let found = client.get(KEY, None).await.expect("etcd answers");
    let value = found.kvs().first()?.value().to_vec();
    Some(serde_json::from_slice(&value).expect("a record is JSON"))
}

async fn has_left(before: &mut Process) {
    let status = before.exit(PATIENCE).await;
    let status = status.expect("whoever was succeeded leaves");
    assert_eq!(status.code(), Some(0), "{:?}", before.output());
}
