//! A node that leaves: what balancers are told, what clients notice, and when it is gone.

use std::{fs, time::Duration, time::Instant};

use proto::v1::{WatchRequest, whoami_client::WhoamiClient};
use registry::{
    Announcement, BalancerRecord, NodeRecord, NodeState, Registry, Revision, memory::Memory,
};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::{
    grpc::channel,
    harness::{Connection, get, soon, start_in, wait_for, wait_for_end},
};
use node::app::{Left, Node};

#[tokio::test]
async fn it_serves_as_before_until_every_balancer_knows() {
    let registry = Registry::Memory(Memory::new());
    let mut balancer = announced(&registry, "b1").await;
    let node = start_in(registry.clone(), "30s", "").await;
    let mut nodes = registry.watch::<NodeRecord>();
    let mut kept = Connection::open(node.web_address()).await;
    assert_eq!(kept.get("/whoami").await.status, 200);

    let (web, admin) = (node.web_address(), node.admin_address());
    let leaving = leave(node);
    let (revision, record) = wait_for(&mut nodes, |it| it.state == NodeState::Leaving).await;
    assert!(
        record.leave_by.is_some(),
        "a leaving node says by when it is gone"
    );
    assert_eq!(
        kept.get("/whoami").await.field("connection"),
        "",
        "nobody has confirmed"
    );
    assert_eq!(get(web, "/whoami", "").await.status, 200);
    assert_eq!(get(admin, "/readyz", "").await.status, 503);

    balancer.set(record_of("b1", revision));
    soon(async { while kept_open(&mut kept).await {} }).await;
    assert_eq!(kept.rest().await, b"");
    let left = soon(leaving).await.expect("it leaves");
    assert_eq!(
        left,
        Left {
            is_confirmed: true,
            is_cut: false
        }
    );
    wait_for_end(&mut nodes).await;
    assert!(
        tokio::net::TcpStream::connect(web).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_quiet() {
    let registry = Registry::Memory(Memory::new());
    let node = start_in(registry.clone(), "30s", "").await;
    let mut idle = Connection::open(node.web_address()).await;
    assert_eq!(idle.get("/whoami").await.status, 200);
    let silent = Connection::open(node.web_address()).await;
    let began = Instant::now();
    let left = soon(node.leave()).await;
    assert_eq!(
        left,
        Left {
            is_confirmed: true,
            is_cut: false
        }
    );
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "a second is left to what was on its way"
    );
    assert_eq!(idle.rest().await, b"");
    assert_eq!(silent.rest().await, b"");
}

#[tokio::test]
async fn a_download_under_way_is_finished() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("default")).expect("a folder");
    fs::write(dir.path().join("default/large"), vec![7; 16 << 20]).expect("a file");
    let registry = Registry::Memory(Memory::new());
    let node = start_in(registry, "30s", &format!("sites = {:?}", dir.path())).await;
    let mut connection = Connection::open(node.web_address()).await;
    connection.send("GET /large HTTP/1.1\nHost: x\n\n").await;
    connection.head().await;
    let admin = node.admin_address();
    let leaving = leave(node);
    soon(async { while get(admin, "/readyz", "").await.status == 200 {} }).await;
    assert_eq!(connection.rest().await.len(), 16 << 20);
    assert_eq!(
        soon(leaving).await.expect("it leaves"),
        Left {
            is_confirmed: true,
            is_cut: false
        }
    );
}

#[tokio::test]
async fn the_deadline_ends_streams_with_a_word() {
    let node = start_in(Registry::Memory(Memory::new()), "2s", "").await;
    let mut client = WhoamiClient::new(channel(&node).await);
    let request = WatchRequest {
        interval_ms: 100,
        count: 1000,
    };
    let mut replies = client.watch(request).await.expect("a stream").into_inner();
    assert!(soon(replies.next()).await.is_some_and(|it| it.is_ok()));
    let leaving = leave(node);
    let last = soon(async {
        loop {
            if let Err(status) = replies.next().await.expect("a stream ends with a status") {
                return status;
            }
        }
    })
    .await;
    assert_eq!(
        (last.code(), last.message()),
        (Code::Unavailable, "the node is leaving")
    );
    assert!(soon(leaving).await.expect("it leaves").is_cut);
}

#[tokio::test]
async fn a_balancer_that_never_confirms_holds_it_for_half_of_the_time() {
    let registry = Registry::Memory(Memory::new());
    let _balancer = announced(&registry, "b1").await;
    let node = start_in(registry, "4s", "").await;
    let began = Instant::now();
    let left = soon(node.leave()).await;
    assert_eq!(
        left,
        Left {
            is_confirmed: false,
            is_cut: false
        }
    );
    assert!(
        (2..4).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn dropped_it_is_gone_at_once() {
    let node = start_in(Registry::Memory(Memory::new()), "30s", "").await;
    let mut kept = Connection::open(node.web_address()).await;
    assert_eq!(kept.get("/whoami").await.status, 200);
    drop(node);
    assert_eq!(kept.rest().await, b"");
}

fn leave(node: Node) -> JoinHandle<Left> {
    tokio::spawn(async move { node.leave().await })
}

/// Whether the node keeps a connection after an answer on it.
async fn kept_open(connection: &mut Connection) -> bool {
    connection.get("/whoami").await.field("connection") != "close"
}

async fn announced(registry: &Registry, id: &str) -> Announcement<BalancerRecord> {
    let mut balancer = registry.announce(record_of(id, Revision(0)), Duration::from_secs(5));
    soon(balancer.stored()).await;
    balancer
}

fn record_of(id: &str, applied: Revision) -> BalancerRecord {
    BalancerRecord {
        id: id.to_owned(),
        incarnation: 1,
        applied_revision: applied.0,
        address: "127.0.0.1:1".to_owned(),
    }
}
