//! The two programs as an operator meets them: what they say, when they refuse, and how they show how they do.
//!
//! What the node says about its own settings is tested beside the node.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tests::{
    ports,
    process::{Program, ours},
    whole_cluster::{AdminAddr, BalancerNr, ClusterOptions, PATIENCE, until},
};

use super::cluster_or_return;

const BALANCER: &str = "balancer";
const NODE: &str = "node";
/// The settings are at fault.
const BAD_SETTINGS: i32 = 2;
/// A complete balancer without nodes, on ports that the kernel chooses.
const GOOD: &str = "[admin]\naddress = \"127.0.0.1:0\"\n\
    [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
    [[route]]\nservice = \"web\"\n\
    [[service]]\nname = \"web\"\ndiscover = \"static\"\nendpoints = [\"127.0.0.1:9\"]\n";

#[tokio::test]
async fn both_tell_their_version() {
    for program in [BALANCER, NODE] {
        let said = run(program, &["--version"], &[]).await;
        let version = format!("{program} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((said.code, said.output), (Some(0), version));
    }
}

#[tokio::test]
async fn the_examples_are_good() {
    for program in [BALANCER, NODE] {
        let example = deploy().join(format!("{program}.toml"));
        let said = check(program, &example, &[]).await;
        assert_eq!(said.code, Some(0), "{}", said.output);
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_by_file_line_and_key() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let file = dir.path().join("b.toml");
    for (wrong, expected) in [
        (
            GOOD.replace("discover = \"static\"", "discover = \"guess\""),
            ":10: service[0].discover: ",
        ),
        (
            GOOD.replace("endpoints", "endpoint"),
            ":11: service[0].endpoint: unknown key",
        ),
        (
            GOOD.replace("service = \"web\"", "service = \"wep\""),
            ":7: route[0].service: ",
        ),
        (
            GOOD.replace("127.0.0.1:0\"\n[[l", "here\"\n[[l"),
            ":2: admin.address: ",
        ),
        ("[[listener".to_owned(), ":1: "),
    ] {
        std::fs::write(&file, wrong).expect("a temporary folder is writable");
        let said = check(BALANCER, &file, &[]).await;
        let beginning = format!("balancer: {}{expected}", file.display());
        assert!(
            said.output.starts_with(&beginning),
            "{beginning}: {}",
            said.output
        );
        assert_eq!((said.n_lines(), said.code), (1, Some(BAD_SETTINGS)));
    }
    let absent = check(BALANCER, &dir.path().join("absent.toml"), &[]).await;
    assert!(absent.output.contains("absent.toml"), "{}", absent.output);
    assert_eq!((absent.n_lines(), absent.code), (1, Some(BAD_SETTINGS)));
}

#[tokio::test]
async fn the_environment_lies_above_the_file() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let file = dir.path().join("b.toml");
    std::fs::write(&file, GOOD).expect("a temporary folder is writable");
    let bad = [("COLONNADE_ADMIN__ADDRESS", "nowhere")];
    let said = check(BALANCER, &file, &bad).await;
    let beginning = "balancer: COLONNADE_ADMIN__ADDRESS: admin.address: ";
    assert!(said.output.starts_with(beginning), "{}", said.output);
    assert_eq!((said.n_lines(), said.code), (1, Some(BAD_SETTINGS)));

    let unknown = [("COLONNADE_ADMIN__ADRESS", "127.0.0.1:0")];
    let said = check(BALANCER, &file, &unknown).await;
    assert!(
        said.output.contains("COLONNADE_ADMIN__ADRESS"),
        "{}",
        said.output
    );
    assert_eq!(said.code, Some(BAD_SETTINGS));

    let good = [("COLONNADE_LISTENER__0__ADDRESS", "127.0.0.1:0")];
    assert_eq!(check(BALANCER, &file, &good).await.code, Some(0));
}

#[tokio::test]
async fn a_busy_port_is_one_line() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let file = dir.path().join("b.toml");
    std::fs::write(&file, GOOD).expect("a temporary folder is writable");
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let busy = taken.local_addr().expect("it is bound").to_string();
    for key in ["COLONNADE_LISTENER__0__ADDRESS", "COLONNADE_ADMIN__ADDRESS"] {
        let config = ["--config", text(&file)];
        let said = run(BALANCER, &config, &[(key, busy.as_str())]).await;
        assert!(said.output.contains(&busy), "{key}: {}", said.output);
        assert_eq!(
            (said.n_lines(), said.code),
            (1, Some(1)),
            "{key}: {}",
            said.output
        );
    }
}

/// Two balancers that share an address would share its clients too, and nobody would notice.
#[tokio::test]
async fn a_port_of_another_balancer_is_busy_too() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let file = dir.path().join("b.toml");
    std::fs::write(&file, GOOD).expect("a temporary folder is writable");
    let (web, admin) = (lease(), lease());
    let environment = [
        ("COLONNADE_LISTENER__0__ADDRESS", web.address().to_string()),
        ("COLONNADE_ADMIN__ADDRESS", admin.address().to_string()),
    ];
    let environment = environment
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    let config = ["--config", text(&file)];
    let _first = program(BALANCER, &config, &environment)
        .start()
        .expect("the program can be started");
    until("the first one is ready", async || {
        AdminAddr(admin.address()).is_ready().await
    })
    .await;
    let said = run(BALANCER, &config, &environment[..1]).await;
    assert!(said.output.contains(environment[0].1), "{}", said.output);
    assert_eq!((said.n_lines(), said.code), (1, Some(1)), "{}", said.output);
}

#[tokio::test]
async fn readiness_waits_for_the_registry_and_life_does_not() {
    let mut cluster = cluster_or_return!(ClusterOptions {
        n_balancers: 0,
        n_nodes: 0,
        ..ClusterOptions::default()
    });
    cluster.etcd().member(0).kill().await;
    let node = cluster.start_node();
    let balancer = cluster.start_balancer();
    let admins = [cluster.node_admin(node), cluster.balancer_admin(balancer)];
    for admin in admins {
        until("the program is alive", async || {
            status(admin, "/livez").await == Some(200)
        })
        .await;
        assert_eq!(status(admin, "/readyz").await, Some(503));
    }
    cluster.etcd().member(0).restart();
    for admin in admins {
        until("the program is ready", async || admin.is_ready().await).await;
        assert_eq!(status(admin, "/livez").await, Some(200));
    }
    cluster.until_offered(balancer, &[node]).await;
}

#[tokio::test]
async fn both_show_what_they_count() {
    let cluster = cluster_or_return!(ClusterOptions {
        n_nodes: 1,
        ..ClusterOptions::default()
    });
    let b = BalancerNr(0);
    let asked = AdminAddr(cluster.entry(b).0).get("/whoami").await;
    assert_eq!(asked.map(|it| it.status).ok(), Some(200));
    let of_balancer = cluster.balancer_admin(b);
    let of_node = cluster.node_admin(cluster.nodes()[0]);
    for (admin, expected) in [
        (of_balancer, "colonnade_balancer_requests_total"),
        (of_balancer, "colonnade_balancer_registry_connected 1"),
        (
            of_node,
            "colonnade_node_requests_total{service=\"web\",code=\"2xx\"}",
        ),
        (of_node, "colonnade_node_registry_connected 1"),
    ] {
        until(format_args!("{expected} is shown"), async || {
            let told = admin.get("/metrics").await;
            told.is_ok_and(|it| it.status == 200 && it.body.contains(expected))
        })
        .await;
    }
}

/// What a program said before it ended.
struct Said {
    code: Option<i32>,
    output: String,
}

impl Said {
    fn n_lines(&self) -> usize {
        self.output.lines().count()
    }
}

async fn check(name: &str, file: &Path, environment: &[(&str, &str)]) -> Said {
    run(name, &["--check", "--config", text(file)], environment).await
}

async fn run(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let program = program(name, arguments, environment);
    let mut process = program.start().expect("the program can be started");
    let status = process.exit(PATIENCE).await.expect("the program ends");
    Said {
        code: status.code(),
        output: process.output().expect("the output of a process is kept"),
    }
}

fn program(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
    let program = Program::new(ours(name).expect("our programs can be built"));
    let program = arguments
        .iter()
        .fold(program, |it, argument| it.argument(argument));
    let set = |it: Program, (key, value): &(&str, &str)| it.environment(key, value);
    environment.iter().fold(program, set)
}

async fn status(admin: AdminAddr, path: &str) -> Option<u16> {
    admin.get(path).await.ok().map(|it| it.status)
}

fn lease() -> ports::PortLease {
    ports::free().expect("loopback has free ports")
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the paths of the tests are text")
}
