//! What operators do with a running balancer: ask it, order it about, and read what it wrote down.

mod access;
mod explain;
mod log;
mod orders;
mod shown;
mod tracing;

use std::time::Duration;

use tests::{
    cluster::Balancer,
    origin::Dialogue,
    process::{Program, ours},
};

/// How long a command may take, on a machine that builds something else meanwhile.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);

/// What a command of the balancer's own came to.
struct Said {
    code: Option<i32>,
    text: String,
}

/// Runs a command as an operator would on the balancer's machine.
async fn command(balancer: &Balancer, arguments: &[&str]) -> Said {
    let place = format!("http://{}", balancer.admin_address());
    command_at(&place, arguments).await
}

async fn command_at(place: &str, arguments: &[&str]) -> Said {
    let program = Program::new(ours("balancer").expect("the balancer can be built"));
    let program = program.environment("COLONNADE_ADMIN", place);
    let program = arguments.iter().fold(program, |it, one| it.argument(one));
    let mut process = program.start().expect("the balancer can be started");
    let status = process.exit(COMMAND_WITHIN).await;
    Said {
        code: status.expect("a command ends").code(),
        text: process.output().expect("output is kept"),
    }
}

/// The status of a `GET` on a connection of its own.
async fn get(balancer: &Balancer, path: &str) -> u16 {
    let mut client = Dialogue::with(balancer.entry()).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    client.say(request).await;
    client.head().await.status()
}

impl Said {
    /// The text of a command that must have done what it was told.
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self.text
    }

    fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.well()).expect("--json is JSON")
    }
}
