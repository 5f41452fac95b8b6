//! The access log: its fields are those that are documented, and a file that is moved away is followed by a new one.

use std::collections::BTreeSet;

use tests::{
    cluster::{Setup, until},
    origin::web::{Speaks, Web},
};

use super::get;

const PAGE: &str = include_str!("../../../docs/balancer/observability.md");

#[tokio::test]
async fn the_fields_written_are_those_documented() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    assert_eq!(get(&balancer, "/sized/1").await, 200);
    let line = balancer.line("/sized/1").await;
    let line = line.as_object().expect("a line is an object");
    let written: BTreeSet<&str> = line.keys().map(String::as_str).collect();
    assert_eq!(written, documented());
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
    let origin = Web::start(Speaks::Http1).await;
    let mut balancer = Setup::http(&[origin.address()]).start().await;
    get(&balancer, "/sized/1").await;
    balancer.line("/sized/1").await;
    let moved = balancer.folder().join("access.log.1");
    std::fs::rename(balancer.folder().join("access.log"), &moved).expect("it is there");
    balancer.process().user_signal().expect("it runs");
    let mut n = 1;
    until("a line in the new file", async || {
        n += 1;
        get(&balancer, &format!("/sized/{n}")).await;
        !balancer.lines().is_empty()
    })
    .await;
    let old = std::fs::read_to_string(&moved).expect("it stays");
    assert!(old.contains("/sized/1\""), "{old}");
}

/// The first column of the table below the page's heading about the access log.
fn documented() -> BTreeSet<&'static str> {
    let section = PAGE
        .split("## The access log")
        .nth(1)
        .expect("the page has it");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter_map(|it| it.strip_prefix("| `"));
    let first: BTreeSet<_> = rows.filter_map(|it| it.split('`').next()).collect();
    assert!(first.len() > 10, "the table was found: {first:?}");
    first
}
