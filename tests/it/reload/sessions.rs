//! What goes on through any number of reloads: WebSockets, streams, and requests under load.

use std::time::Duration;

use tests::{
    cluster::{Setup, until},
    load::http1::Reuse,
    origin::{
        Dialogue, Origin,
        web::{Speaks, Web},
    },
};

use super::{UNWATCHED, ended, load, none_failed};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: app.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What the connections of a removed listener would be given.
const DRAIN_DEADLINE: &str = "drain_deadline = '300ms'";
const LONGER_THAN_IT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn websockets_of_changed_and_unchanged_routes_survive_reloads() {
    let (still, changing) = (Origin::start().await, Origin::start().await);
    let setup = Setup::empty()
        .top(DRAIN_DEADLINE)
        .top(UNWATCHED)
        .listener("web", "")
        .service("still", &[still.address()])
        .service("changing", &[changing.address()])
        .route("service = 'still'\nhosts = ['app.example']")
        .route("service = 'changing'\npath = '/ws'");
    let mut balancer = setup.start().await;
    let (mut client, mut node) = websocket(&balancer, &still, "app.example").await;
    let (mut other_client, mut other_node) = websocket(&balancer, &changing, "b.example").await;
    let text = balancer.config();
    for n in 0..5 {
        // Each time another route, another policy; the last time both are gone.
        let next = if n < 4 {
            text.replace("path = '/ws'", &format!("path = '/ws/{n}'"))
                .replace(
                    "name = 'changing'",
                    &format!("name = 'changing'\nqueue_max = {n}"),
                )
        } else {
            let at = text.rfind("[[route]]").expect("there are two");
            text[..at].to_owned()
        };
        balancer.rewrite(&next);
        assert_eq!(balancer.reload().await["outcome"], "applied");
        still.stays_alone(LONGER_THAN_IT).await;
        for (client, node) in [
            (&mut client, &mut node),
            (&mut other_client, &mut other_node),
        ] {
            client.say("from the client").await;
            node.hears("from the client").await;
            node.say("from the node").await;
            client.hears("from the node").await;
        }
    }
}

#[tokio::test]
async fn relayed_connections_go_on_and_new_ones_go_where_the_new_order_says() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let setup = Setup::relay("tcp", &[first.address()]).top(UNWATCHED);
    let mut balancer = setup.start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say("before").await;
    let mut node = first.visit().await;
    node.hears("before").await;
    let text = balancer.config();
    // A service in front of the other moves its place in the list; the listener goes on to the one that it names.
    let in_front = format!(
        "[[service]]\nname = 'in-front'\ndiscover = 'static'\nendpoints = ['{}']\n[[service]]",
        second.address()
    );
    let moved = text.replace("[[service]]", &in_front);
    balancer.rewrite(&moved);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    let mut next = Dialogue::with(balancer.entry()).await;
    next.say("to the same").await;
    first.visit().await.hears("to the same").await;
    balancer.rewrite(&moved.replace("service = 'app'", "service = 'in-front'"));
    assert_eq!(balancer.reload().await["outcome"], "applied");
    let mut last = Dialogue::with(balancer.entry()).await;
    last.say("to the other").await;
    second.visit().await.hears("to the other").await;
    client.say(" and after").await;
    node.hears(" and after").await;
}

#[tokio::test]
async fn reloads_under_load_fail_nobody() {
    let origin = Web::start(Speaks::Http1).await;
    let spare = Web::start(Speaks::Http1).await;
    let mut balancer = Setup::http(&[origin.address()])
        .top(UNWATCHED)
        .start()
        .await;
    let loads = [Reuse::KeepAlive, Reuse::Never].map(|it| load(&balancer, it));
    let text = balancer.config();
    for n in 0..5 {
        let (a, b) = (origin.address(), spare.address());
        let next = match n % 2 {
            0 => text.replace(&format!("'{a}'"), &format!("'{b}', '{a}'")),
            _ => text.replace(&format!("'{a}'"), &format!("'{b}'")),
        };
        let next = next.replace(
            "name = 'web'",
            &format!("name = 'web'\nmax_headers = {}", 90 + n),
        );
        let next = next.replace(
            "service = 'app'",
            &format!("service = 'app'\nname = 'r{n}'"),
        );
        balancer.rewrite(&next);
        assert_eq!(balancer.reload().await["outcome"], "applied");
        for load in &loads {
            let before = load.report().succeeded();
            until("clients to go on", async || {
                load.report().succeeded() > before + 50
            })
            .await;
        }
    }
    for load in loads {
        none_failed("reloads", &ended(load).await);
    }
    assert!(spare.requests() > 0);
}

async fn websocket(
    balancer: &tests::cluster::Balancer,
    origin: &Origin,
    host: &str,
) -> (Dialogue, Dialogue) {
    let mut client = Dialogue::with(balancer.entry()).await;
    client.say(HANDSHAKE.replace("app.example", host)).await;
    let mut node = origin.visit().await;
    node.head().await;
    node.say(AGREED).await;
    assert_eq!(client.head().await.status(), 101);
    (client, node)
}
