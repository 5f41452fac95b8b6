//! A program that takes over the sockets of another, while clients come.

use std::{path::PathBuf, time::Duration};

use tests::{
    cluster::{Balancer, Setup, until},
    load::http1::Reuse,
    origin::{
        Dialogue,
        web::{Speaks, Web},
    },
    process::{Process, Program, ours},
};

use super::{ended, load, none_failed, status_of};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn takeovers_under_load_refuse_and_reset_nobody() {
    let (mut balancer, _origin) = between("").await;
    let loads = [Reuse::KeepAlive, Reuse::Never].map(|it| load(&balancer, it));
    for _ in 0..10 {
        let successor = balancer.start_successor();
        let mut before = balancer.succeeded_by(successor).await;
        has_left(&mut before).await;
    }
    for load in loads {
        none_failed("takeovers", &ended(load).await);
    }
    let taken = "colonnade_balancer_takeovers_total{result=\"completed\"}";
    assert_eq!(balancer.metric(taken).await, 0.0, "its own successors only");
}

#[tokio::test]
async fn a_successor_may_have_more_workers_or_fewer() {
    let (mut balancer, _origin) = between("").await;
    let loads = [Reuse::KeepAlive, Reuse::Never].map(|it| load(&balancer, it));
    let text = balancer.config();
    for workers in [3, 1, 2] {
        balancer.rewrite(&text.replace("workers = 1", &format!("workers = {workers}")));
        let successor = balancer.start_successor();
        let mut before = balancer.succeeded_by(successor).await;
        has_left(&mut before).await;
        let status = balancer.admin("/api/v1/status").await;
        assert!(status.contains(&format!("\"cores\":{workers}")), "{status}");
    }
    for load in loads {
        none_failed("takeovers", &ended(load).await);
    }
}

#[tokio::test]
async fn a_successor_that_dies_or_is_badly_told_changes_nothing() {
    let (mut balancer, _origin) = between("").await;
    let loads = [Reuse::KeepAlive, Reuse::Never].map(|it| load(&balancer, it));
    let text = balancer.config();
    balancer.rewrite(&format!("nonsense = true\n{text}"));
    let mut misled = balancer.start_successor();
    let status = misled.exit(PATIENCE).await.expect("it ends by itself");
    assert_eq!(status.code(), Some(2));
    balancer.rewrite(&text);
    for n_killed in 0..4 {
        let mut killed = balancer.start_successor();
        if n_killed % 2 == 1 {
            until("the dialogue to begin", async || {
                let output = balancer.process().output().expect("output is kept");
                output.contains("a successor is starting")
            })
            .await;
        }
        killed.kill().expect("it runs");
        killed.exit(PATIENCE).await.expect("it was killed");
        if n_killed % 2 == 1 {
            until("it to be known what came of it", async || {
                has_been_succeeded(&mut balancer) || goes_on(&mut balancer)
            })
            .await;
        }
        if has_been_succeeded(&mut balancer) {
            // It was ready before it could be killed, so that its clients died with it: no fault of a takeover.
            return;
        }
    }
    let successor = balancer.start_successor();
    has_left(&mut balancer.succeeded_by(successor).await).await;
    for load in loads {
        none_failed("failed takeovers", &ended(load).await);
    }
}

#[tokio::test]
async fn a_successor_that_cannot_be_ready_goes_and_the_other_stays() {
    let (balancer, _origin) = between("ready_timeout = '1s'").await;
    let load = load(&balancer, Reuse::Never);
    let text = balancer.config();
    // It waits for a registry that never answers.
    balancer.rewrite(&format!(
        "watch_config = false\n{text}\n[registry]\nendpoints = ['http://127.0.0.1:9']\n"
    ));
    let mut late = balancer.start_successor();
    let status = late.exit(PATIENCE).await.expect("it ends by itself");
    assert_eq!(status.code(), Some(1), "{:?}", late.output());
    none_failed("a takeover that failed", &ended(load).await);
    balancer.rewrite(&text);
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
}

#[tokio::test]
async fn listeners_of_the_two_programs_may_differ() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).handing_over();
    let mut balancer = setup.listener("gone", "").start().await;
    let text = balancer.config();
    let gone = balancer.entry_of("gone");
    let come = tests::ports::free().expect("a port is free");
    balancer.rewrite(&text.replace(&gone.to_string(), &come.address().to_string()));
    let successor = balancer.start_successor();
    let mut before = balancer.succeeded_by(successor).await;
    assert_eq!(status_of(come.address(), "/sized/1").await, 200);
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    has_left(&mut before).await;
    assert!(tokio::net::TcpStream::connect(gone).await.is_err());
}

#[tokio::test]
async fn what_the_elder_has_under_way_ends_well_and_its_idle_clients_are_let_go() {
    let origin = tests::origin::Origin::start().await;
    let setup = Setup::http(&[origin.address()]).handing_over();
    let mut balancer = setup.start().await;
    let mut busy = Dialogue::with(balancer.entry()).await;
    busy.say("GET /busy HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    let successor = balancer.start_successor();
    let mut before = balancer.succeeded_by(successor).await;
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")
        .await;
    let head = busy.head().await;
    assert_eq!(head.status(), 200);
    busy.hears("done").await;
    has_left(&mut before).await;
}

#[tokio::test]
async fn nobody_else_may_use_the_socket_and_a_stale_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let (mut balancer, _origin) = between("").await;
    let path = socket(&balancer);
    let mode = std::fs::metadata(&path).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    balancer.process().kill().expect("it runs");
    balancer
        .process()
        .exit(PATIENCE)
        .await
        .expect("it was killed");
    let fresh = balancer.start_successor();
    drop(balancer.succeeded_by(fresh).await);
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
    // Whoever says nothing, or nonsense, is let go, and the next is heard.
    use std::io::Write;
    let mut nonsense = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
    nonsense.write_all(b"\0\0\0\x02{}").expect("it listens");
    let abandoned = "colonnade_balancer_takeovers_total{result=\"abandoned\"}";
    until("the nonsense to be counted", async || {
        balancer.metric(abandoned).await == 1.0
    })
    .await;
    let successor = balancer.start_successor();
    has_left(&mut balancer.succeeded_by(successor).await).await;
}

#[tokio::test]
async fn told_to_go_in_the_middle_both_go() {
    let (mut balancer, _origin) = between("").await;
    let mut successor = balancer.start_successor();
    successor.terminate().expect("it runs");
    successor.exit(PATIENCE).await.expect("it was told to");
    if !has_been_succeeded(&mut balancer) {
        assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
        balancer.process().terminate().expect("it runs");
    }
    balancer.exit(PATIENCE).await;
}

/// The words of systemd's protocol, without which it would think the service stuck, or the wrong process the main one.
#[tokio::test]
async fn a_service_manager_is_told() {
    let (mut balancer, _origin) = between("").await;
    let path = socket(&balancer);
    let told = path.with_file_name("notify.sock");
    let manager = tokio::net::UnixDatagram::bind(&told).expect("a temporary folder is writable");
    let hears = async || {
        let mut said = [0; 256];
        let heard = tokio::time::timeout(PATIENCE, manager.recv(&mut said)).await;
        let n = heard.expect("it is told").expect("it listens");
        String::from_utf8_lossy(&said[..n]).into_owned()
    };
    let program = Program::new(ours("balancer").expect("the balancer can be built"));
    let program = program.environment("NOTIFY_SOCKET", &told);
    let program = program.argument("--config");
    let program = program.argument(path.with_file_name("balancer.toml"));
    let started = program.argument("--takeover").start();
    let successor = started.expect("the balancer can be started");
    let ready = format!("READY=1\nMAINPID={}", successor.pid());
    has_left(&mut balancer.succeeded_by(successor).await).await;
    assert_eq!(hears().await, ready);
    balancer.process().hang_up().expect("it runs");
    assert!(hears().await.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(hears().await, ready);
    balancer.process().terminate().expect("it runs");
    assert_eq!(hears().await, "STOPPING=1");
    balancer.exit(PATIENCE).await;
}

async fn between(takeover: &str) -> (Balancer, Web) {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()])
        .handing_over()
        .start()
        .await;
    if !takeover.is_empty() {
        let text = balancer.config();
        let text = text.replace("takeover.sock'", &format!("takeover.sock'\n{takeover}"));
        balancer.rewrite(&text);
    }
    (balancer, origin)
}

fn socket(balancer: &Balancer) -> PathBuf {
    let text = balancer.config();
    let path = text.lines().find_map(|it| it.strip_prefix("socket = '"));
    let path = path.and_then(|it| it.strip_suffix('\''));
    path.expect("the test has set it up").into()
}

/// Whether it leaves because another process has its sockets.
fn has_been_succeeded(balancer: &mut Balancer) -> bool {
    let output = balancer.process().output().expect("output is kept");
    output.contains("another process has taken over")
}

/// Whether the successor that began last is known to have failed.
fn goes_on(balancer: &mut Balancer) -> bool {
    let output = balancer.process().output().expect("output is kept");
    let count = |text: &str| output.matches(text).count();
    count("nobody took over") >= count("a successor is starting")
}

async fn has_left(before: &mut Process) {
    let status = before.exit(PATIENCE).await;
    let status = status.expect("whoever was succeeded leaves");
    assert_eq!(status.code(), Some(0), "{:?}", before.output());
    let output = before.output().unwrap_or_default();
    assert!(!output.contains("\"level\":\"ERROR\""), "{output}");
}
