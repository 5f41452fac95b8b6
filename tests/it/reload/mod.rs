//! A configuration that changes while clients are connected, and a program that is replaced while they come.

mod config;
mod doors;
mod policies;
mod record;
mod sessions;
mod takeover;

use std::time::Duration;

use tests::{
    cluster::Balancer,
    load::{
        EntryAddr, Load, Plan, Report,
        http1::{Http1, HttpRequest, Reuse},
    },
    origin::Dialogue,
};

/// Longer than any test loads; each stops its load itself.
const ENDLESS: Duration = Duration::from_secs(300);

/// A file that changes under a balancer told so is read when a test says, and not a moment before.
const UNWATCHED: &str = "watch_config = false";

/// Clients at a steady rate, who keep their connections or make a new one for each request.
fn load(balancer: &Balancer, reuse: Reuse) -> Load {
    let entry = EntryAddr(balancer.entry());
    let plan = Plan::open(200.0, 8, ENDLESS);
    let traffic = Http1::new(entry, &HttpRequest::get("/sized/100"), reuse);
    Load::start(plan, traffic).expect("a thread can be had")
}

async fn ended(load: Load) -> Report {
    load.stop();
    load.finish().await.expect("the load ran")
}

fn none_failed(what: &str, report: &Report) {
    assert!(report.succeeded() > 0, "{what}: nothing was loaded");
    let failed: Vec<_> = report.failed_exchanges().iter().take(5).collect();
    assert_eq!(report.failures(), 0, "{what}: {failed:#?}");
}

/// The status of a `GET` on a connection of its own, which the balancer then closes.
async fn status_of(address: std::net::SocketAddr, path: &str) -> u16 {
    let mut client = Dialogue::with(address).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    client.say(request).await;
    client.head().await.status()
}
