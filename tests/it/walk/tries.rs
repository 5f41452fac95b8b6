//! How long an exchange and each of its tries may take, which answers are asked for again, and when a second node is asked.

use std::time::{Duration, Instant};

use tests::{
    cluster::{Balancer, Setup, until},
    origin::{Dialogue, End, Origin},
};

const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";

#[tokio::test]
async fn an_exchange_has_a_time_to_begin_and_to_end() {
    let (mut client, [one, _two], balancer) =
        nodes("request_timeout = '300ms'\nmax_tries = 1").await;
    client.say("GET /mute HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 504);
    assert_eq!(balancer.line("/mute").await["ended"], "too_long");
    drop(one);
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("request_timeout = '500ms'");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
        .await;
    assert_eq!(client.head().await.status(), 200);
    client.hears("abc").await;
    client.end().await;
    assert_eq!(balancer.line("/endless").await["ended"], "too_long");
}

#[tokio::test]
async fn a_route_may_give_another_time_than_its_service() {
    let origin = Origin::start().await;
    let setup = Setup::empty()
        .listener("web", "")
        .service("app", &[origin.address()]);
    let setup = setup
        .serving("request_timeout = '1h'")
        .route("service = 'app'\nrequest_timeout = '200ms'");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET /mute HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 504);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_made_elsewhere() {
    let (mut client, [one, two], balancer) = nodes("try_timeout = '300ms'").await;
    client.say("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (mut first, is_one) = either(&one, &two).await;
    first.head().await;
    let mut second = if is_one {
        two.visit().await
    } else {
        one.visit().await
    };
    second.head().await;
    second.say(DONE).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(balancer.line("/slow").await["tries"], 2);
    assert_eq!(
        first.end().await.1,
        End::Closed,
        "nobody waits for it any more"
    );
}

#[tokio::test]
async fn a_post_is_not_tried_again_because_it_is_slow() {
    let (mut client, [one, two], balancer) = nodes("try_timeout = '300ms'").await;
    client
        .say("POST /once HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        .await;
    let (mut first, _) = either(&one, &two).await;
    first.head().await;
    assert_eq!(client.head().await.status(), 504);
    assert_eq!(balancer.line("/once").await["tries"], 1);
}

#[tokio::test]
async fn a_poor_answer_is_asked_for_again() {
    let (mut client, [one, two], balancer) = nodes("retry_on = [503]").await;
    for (request, tries) in [
        ("GET /a HTTP/1.1\r\nhost: a\r\n\r\n", 2),
        (
            "PUT /b HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
            2,
        ),
        (
            "POST /c HTTP/1.1\r\nhost: a\r\nidempotency-key: 1\r\ncontent-length: 3\r\n\r\nabc",
            2,
        ),
    ] {
        client.say(request).await;
        let (mut first, is_one) = either(&one, &two).await;
        first.head().await;
        if request.ends_with("abc") {
            first.hears("abc").await;
        }
        first.say(BUSY).await;
        let mut second = if is_one {
            two.visit().await
        } else {
            one.visit().await
        };
        second.head().await;
        if request.ends_with("abc") {
            second.hears("abc").await;
        }
        second.say(DONE).await;
        assert_eq!(client.head().await.status(), 200, "{request}");
        client.hears("ok").await;
        drop((first, second));
        let path = request.split(' ').nth(1).expect("a path");
        assert_eq!(balancer.line(path).await["tries"], tries);
    }
}

#[tokio::test]
async fn a_poor_answer_is_better_than_none() {
    let (mut client, [one, two], balancer) = nodes("retry_on = [503]").await;
    client
        .say("POST /once HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        .await;
    let (mut only, _) = either(&one, &two).await;
    only.head().await;
    only.say(BUSY).await;
    assert_eq!(
        client.head().await.status(),
        503,
        "a POST is not asked twice"
    );
    client.hears("busy").await;
    assert_eq!(balancer.line("/once").await["tries"], 1);
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("retry_on = [503]\nqueue_wait = '15s'");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    let began = Instant::now();
    client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(BUSY).await;
    assert_eq!(
        client.head().await.status(),
        503,
        "there is nobody else to ask"
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "nobody waits for another node"
    );
}

#[tokio::test]
async fn a_second_node_is_asked_when_the_first_takes_long() {
    let (mut client, [one, two], balancer) = nodes("hedge_after = '200ms'").await;
    client.say("GET /hedged HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (mut first, is_one) = either(&one, &two).await;
    first.head().await;
    let mut second = if is_one {
        two.visit().await
    } else {
        one.visit().await
    };
    second.head().await;
    second.say(DONE).await;
    assert_eq!(client.head().await.status(), 200);
    client.hears("ok").await;
    assert_eq!(first.end().await.1, End::Closed, "the loser is let go");
    let retries = "colonnade_balancer_retries_total{service=\"app\"}";
    assert_eq!(balancer.metric(retries).await, 1.0, "it is paid for");
}

#[tokio::test]
async fn the_first_may_still_win() {
    let (mut client, [one, two], _balancer) = nodes("hedge_after = '200ms'").await;
    client.say("GET /hedged HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (mut first, is_one) = either(&one, &two).await;
    first.head().await;
    let mut second = if is_one {
        two.visit().await
    } else {
        one.visit().await
    };
    second.head().await;
    first.say(DONE).await;
    assert_eq!(client.head().await.status(), 200);
    client.hears("ok").await;
    assert_eq!(second.end().await.1, End::Closed);
}

#[tokio::test]
async fn one_of_two_may_fall() {
    let (mut client, [one, two], _balancer) = nodes("hedge_after = '200ms'").await;
    client.say("GET /hedged HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (mut first, is_one) = either(&one, &two).await;
    first.head().await;
    let mut second = if is_one {
        two.visit().await
    } else {
        one.visit().await
    };
    second.head().await;
    first.crash();
    second.say(DONE).await;
    assert_eq!(client.head().await.status(), 200);
}

/// Nodes close idle connections whenever they like; the only node there is may be asked again.
#[tokio::test]
async fn a_hedged_request_survives_an_old_connection() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]).serving("hedge_after = '1h'\nqueue_wait = '1h'");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    let mut node = None;
    for _ in 0..2 {
        client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        if let Some(old) = node.take() {
            let mut old: Dialogue = old;
            old.head().await;
            old.crash();
        }
        let mut fresh = origin.visit().await;
        fresh.head().await;
        fresh.say(DONE).await;
        assert_eq!(client.head().await.status(), 200);
        client.hears("ok").await;
        node = Some(fresh);
    }
}

#[tokio::test]
async fn without_another_node_a_slow_one_is_given_up_at_once() {
    let origin = Origin::start().await;
    let setup =
        Setup::http(&[origin.address()]).serving("try_timeout = '200ms'\nqueue_wait = '1h'");
    let balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 504);
    assert_eq!(balancer.line("/slow").await["ended"], "node_silent");
}

#[tokio::test]
async fn what_changes_something_is_not_hedged() {
    let (mut client, [one, two], balancer) = nodes("hedge_after = '50ms'").await;
    client
        .say("POST /once HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        .await;
    let (mut first, is_one) = either(&one, &two).await;
    first.head().await;
    let other = if is_one { &two } else { &one };
    other.stays_alone(Duration::from_millis(300)).await;
    first.say(DONE).await;
    assert_eq!(client.head().await.status(), 200);
    until("no retry to be counted", async || {
        balancer
            .metric("colonnade_balancer_retries_total{service=\"app\"}")
            .await
            == 0.0
    })
    .await;
}

async fn nodes(serving: &str) -> (Dialogue, [Origin; 2], Balancer) {
    let nodes = [Origin::start().await, Origin::start().await];
    let addresses = nodes.each_ref().map(Origin::address);
    let balancer = Setup::http(&addresses).serving(serving).start().await;
    let client = Dialogue::with(balancer.entry()).await;
    (client, nodes, balancer)
}

/// Whoever is asked first, and whether that is the first.
async fn either(one: &Origin, two: &Origin) -> (Dialogue, bool) {
    tokio::select! {
        node = one.visit() => (node, true),
        node = two.visit() => (node, false),
    }
}
