//! What operators see: tables for people, the API's JSON for programs, and exit codes for scripts.

use tests::{
    cluster::{Setup, until},
    load::{
        EntryAddr, Load, Plan,
        http1::{Http1, HttpRequest, Reuse},
    },
    origin::web::{Speaks, Web},
};

use super::{COMMAND_WITHIN, command, command_at};

#[tokio::test]
async fn every_table_shows_what_is_configured() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let node = origin.address().to_string();
    let entry = balancer.entry().to_string();
    for (arguments, words) in [
        (
            &["status"][..],
            &["under-test", "ready", "1 known, 1 offered"][..],
        ),
        (&["endpoints"], &["app", &node, "in use"]),
        (&["services"], &["app", "static"]),
        (&["listeners"], &["web", &entry]),
        (&["routes"], &["route-0", "web", "app"]),
        (&["config"], &["\"id\": \"under-test\"", "connect_timeout"]),
        (&["explain"], &["ENDED"]),
    ] {
        let text = command(&balancer, arguments).await.well();
        for word in words {
            assert!(
                text.contains(word),
                "{arguments:?} must show {word}: {text}"
            );
        }
        assert!(
            !text.contains('\x1b'),
            "colours are for terminals: {text:?}"
        );
    }
}

#[tokio::test]
async fn json_is_the_apis_own() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    for name in ["endpoints", "services", "listeners", "routes"] {
        let shown = command(&balancer, &[name, "--json"]).await.json();
        assert_eq!(
            shown[name].as_array().map(Vec::len),
            Some(1),
            "{name}: {shown}"
        );
    }
    let status = command(&balancer, &["--json", "status"]).await.json();
    assert_eq!(
        (&status["id"], &status["ready"]),
        (&"under-test".into(), &true.into())
    );
}

#[tokio::test]
async fn top_shows_what_goes_through() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let plan = Plan::open(200.0, 2, COMMAND_WITHIN);
    let traffic = Http1::new(
        EntryAddr(balancer.entry()),
        &HttpRequest::get("/sized/1"),
        Reuse::KeepAlive,
    );
    let load = Load::start(plan, traffic).expect("a thread can be had");
    until("requests to be seen", async || {
        let top = command(
            &balancer,
            &["top", "--once", "--interval", "200ms", "--json"],
        )
        .await
        .json();
        let is_busy =
            |it: &serde_json::Value| it["requests_per_s"].as_f64().is_some_and(|it| it > 0.0);
        is_busy(&top["services"][0]) && is_busy(&top["endpoints"][0])
    })
    .await;
    let text = command(&balancer, &["top", "--once", "--interval", "200ms"])
        .await
        .well();
    assert!(
        text.contains("SERVICE") && text.contains("LISTENER"),
        "{text}"
    );
    load.stop();
    let report = load.finish().await.expect("the load ran");
    assert_eq!(
        report.failures(),
        0,
        "{:#?}",
        report.failed_exchanges().iter().take(3)
    );
}

#[tokio::test]
async fn a_script_can_tell_failures_apart() {
    let nobody = command_at("http://127.0.0.1:1", &["status"]).await;
    assert_eq!(nobody.code, Some(3), "{}", nobody.text);
    assert!(
        nobody
            .text
            .contains("no balancer answers at http://127.0.0.1:1; is it running?"),
        "{}",
        nobody.text
    );
    let nonsense = command_at("https://127.0.0.1:1", &["status"]).await;
    assert_eq!(nonsense.code, Some(2), "{}", nonsense.text);
    let unknown = command_at("http://127.0.0.1:1", &["stauts"]).await;
    assert_eq!(unknown.code, Some(2), "{}", unknown.text);
}

#[tokio::test]
async fn a_reload_says_what_came_of_it() {
    let origin = Web::start(Speaks::Http1).await;
    let balancer = Setup::http(&[origin.address()])
        .top("watch_config = false")
        .start()
        .await;
    let same = command(&balancer, &["reload"]).await.well();
    assert_eq!(same.trim(), "unchanged");
    balancer.rewrite("nonsense = 1");
    let bad = command(&balancer, &["reload"]).await;
    assert_eq!(bad.code, Some(1));
    assert!(bad.text.contains("nonsense"), "{}", bad.text);
}
