//! Listeners that come, change and go.

use std::time::{Duration, Instant};

use tests::{
    cluster::{Setup, until},
    origin::{
        Dialogue, End, Origin,
        web::{Speaks, Web},
    },
    ports,
};
use tokio::net::TcpStream;

use super::{UNWATCHED, status_of};

#[tokio::test]
async fn a_listener_comes_and_goes() {
    let origin = Web::start(Speaks::Http1).await;
    let mut balancer = Setup::http(&[origin.address()])
        .top(UNWATCHED)
        .start()
        .await;
    let lease = ports::free().expect("a port is free");
    let text = balancer.config();
    let address = lease.address();
    let more = format!("{text}\n[[listener]]\nname = 'more'\naddress = '{address}'\n");
    balancer.rewrite(&more);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    let mut kept = Dialogue::with(address).await;
    kept.say("GET /sized/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(kept.head().await.status(), 200);
    kept.hears("\0").await;
    balancer.rewrite(&text);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    until("the listener to be gone", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    kept.say("GET /sized/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = kept.head().await;
    assert_eq!(
        (head.status(), head.field("connection").as_deref()),
        (200, Some("close")),
        "what came in by a door that is shut ends by the routes it came for"
    );
    assert_eq!(status_of(balancer.entry(), "/sized/1").await, 200);
}

/// The trap: connections that the kernel has completed are lost when the listening socket is closed before they are accepted.
#[tokio::test]
async fn connections_that_wait_to_be_accepted_are_served_when_a_listener_closes() {
    let origin = Web::start(Speaks::Http1).await;
    let setup = Setup::http(&[origin.address()]).listener("more", "");
    let mut balancer = setup.top(UNWATCHED).start().await;
    let text = balancer.config();
    let at = text.rfind("[[listener]]").expect("there are two");
    let end = text.find("[[service]]").expect("there is one");
    balancer.rewrite(&format!("{}{}", &text[..at], &text[end..]));
    for is_leaving in [false, true] {
        let entry = match is_leaving {
            false => balancer.entry_of("more"),
            true => balancer.entry(),
        };
        balancer.process().pause().expect("it runs");
        let mut clients = Vec::new();
        for _ in 0..50 {
            let mut client = Dialogue::with(entry).await;
            client.say("GET /sized/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
            clients.push(client);
        }
        match is_leaving {
            false => balancer.process().hang_up().expect("it is there"),
            true => balancer.process().terminate().expect("it is there"),
        }
        balancer.process().resume().expect("it is there");
        for mut client in clients {
            assert_eq!(client.head().await.status(), 200);
        }
        if !is_leaving {
            until("the listener to be gone", async || {
                TcpStream::connect(entry).await.is_err()
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_a_closed_listener_has_under_way_is_cut_at_the_drain_deadline() {
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()])
        .listener("more", "")
        .top(UNWATCHED);
    let mut balancer = setup.top("drain_deadline = '1s'").start().await;
    let mut client = Dialogue::with(balancer.entry_of("more")).await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut node = origin.visit().await;
    node.head().await;
    let text = balancer.config();
    let at = text.rfind("[[listener]]").expect("there are two");
    let end = text.find("[[service]]").expect("there is one");
    balancer.rewrite(&format!("{}{}", &text[..at], &text[end..]));
    let began = Instant::now();
    assert_eq!(balancer.reload().await["outcome"], "applied");
    let (rest, end) = client.end().await;
    assert_ne!((rest, end), (Vec::new(), End::Reset), "an end is no reset");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(900),
        "not before it: {took:?}"
    );
}

#[tokio::test]
async fn another_policy_or_name_is_for_those_who_come_after_it() {
    let origin = Web::start(Speaks::Http1).await;
    let mut balancer = Setup::http(&[origin.address()])
        .top(UNWATCHED)
        .start()
        .await;
    let mut before = Dialogue::with(balancer.entry()).await;
    before.say("GET /sized/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(before.head().await.status(), 200);
    before.hears("\0").await;
    let text = balancer.config();
    let limited = text.replace("name = 'web'", "name = 'other'\nmax_connections = 2");
    balancer.rewrite(&limited);
    assert_eq!(balancer.reload().await["outcome"], "applied");
    before.say("GET /sized/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = before.head().await;
    assert_eq!((head.status(), head.field("connection")), (200, None));
    before.hears("\0").await;
    let second = Dialogue::with(balancer.entry()).await;
    until("the limit to count who came before it", async || {
        status_of(balancer.entry(), "/sized/1").await == 503
    })
    .await;
    drop(second);
}
