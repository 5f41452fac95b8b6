//! The one command under load: its cluster is steered, and no client notices.

use std::time::Duration;

use tempfile::TempDir;
use tests::{
    load::EntryAddr,
    ports::{self, PortLease},
    process::{Process, Program, Ready, ours},
    whole_cluster::{PATIENCE, until},
};

use super::traffic::{finished, gets, load, none_failed};

const PROGRAM: &str = "colonnade";
/// An order to the cluster is carried out in this time, a polite leaving included.
const ORDER_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn steering_the_cluster_costs_no_get() {
    let mut up = Up::start().await;
    let load = load(100.0, 8, gets(up.entry()));
    until("three nodes answer", async || {
        load.report().nodes().len() == 3
    })
    .await;

    up.order(&["kill", "node-2"]).await;
    up.order(&["scale", "4"]).await;
    let both_new = |nodes: &[String]| {
        ["node-4", "node-5"]
            .iter()
            .all(|it| nodes.contains(&(*it).to_owned()))
    };
    until("the new nodes answer", async || {
        both_new(load.report().nodes())
    })
    .await;
    up.order(&["leave", "node-1"]).await;
    up.order(&["scale", "2"]).await;
    up.order(&["status"]).await;
    none_failed("a steered cluster", &finished(load).await);

    up.process.terminate().expect("it runs");
    let status = up.process.exit(PATIENCE).await.expect("it leaves");
    assert!(status.success(), "{status}");
}

/// A running local cluster.
struct Up {
    process: Process,
    http: PortLease,
    data: TempDir,
}

impl Up {
    async fn start() -> Self {
        let lease = || ports::free().expect("loopback has free ports");
        let (http, admin) = (lease(), lease());
        let data = TempDir::new().expect("a temporary folder can be made");
        let arguments = [
            "up".to_owned(),
            format!("--http={}", http.address()),
            format!("--admin={}", admin.address()),
        ];
        let program = arguments.iter().fold(program(&data), Program::argument);
        let mut process = program.start().expect("the program can be started");
        let url = Ready::Url {
            address: http.address(),
            path: "/whoami".to_owned(),
        };
        let ready = process.ready(&url, PATIENCE).await;
        ready.expect("the cluster comes up");
        Self {
            process,
            http,
            data,
        }
    }

    fn entry(&self) -> EntryAddr {
        EntryAddr(self.http.address())
    }

    /// Steers the cluster from a second terminal.
    async fn order(&self, arguments: &[&str]) {
        let program = arguments
            .iter()
            .fold(program(&self.data), Program::argument);
        let mut process = program.start().expect("the program can be started");
        let status = process
            .exit(ORDER_WITHIN)
            .await
            .expect("an order is carried out");
        let output = process.output().expect("the output of a process is kept");
        assert!(status.success(), "{arguments:?}: {output}");
    }
}

/// The default folder is below the one that is given here, and the user's own is left alone.
fn program(data: &TempDir) -> Program {
    let program = Program::new(ours(PROGRAM).expect("our programs can be built"));
    program.environment("XDG_STATE_HOME", data.path())
}
