//! More connections than are allowed: those too many are refused in their own protocol, and nobody else notices.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tests::{
    cluster::{Balancer, until},
    origin::Dialogue,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::world::{ANY_GROWTH, World, connections};

const ASK: &[u8] = b"GET /sized/3 HTTP/1.1\r\nhost: a\r\n\r\n";
/// Another address of the loopback network than the prober's.
const CROWD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How long an answer or a refusal may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The keys that the limits are told by.
fn limits(global: usize, of_a_source: usize) -> String {
    let of_a_source = format!("max_connections_per_source = {of_a_source}");
    format!("[admission]\nmax_connections = {global}\n{of_a_source}")
}

#[tokio::test]
async fn more_connections_than_the_balancer_allows() {
    let world = World::set(|setup| setup.top(&limits(100, 10_000))).await;
    world
        .under(ANY_GROWTH, async |balancer| {
            crowd(balancer, 300, 99).await;
            until("the crowd to be gone", async || {
                connections(balancer).await <= 1.0
            })
            .await;
            is_served(balancer.entry()).await;
        })
        .await;
}

/// One source that takes all it can leaves room for the others.
#[tokio::test]
async fn more_connections_than_one_source_may_have() {
    let world = World::set(|setup| setup.top(&limits(1000, 50))).await;
    world
        .under(ANY_GROWTH, async |balancer| {
            let held = crowd(balancer, 300, 50).await;
            for _ in 0..20 {
                is_served(balancer.entry()).await;
            }
            drop(held);
        })
        .await;
}

#[tokio::test]
async fn more_connections_than_the_listener_allows() {
    let world = World::new("max_connections = 100").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            crowd(balancer, 300, 99).await;
        })
        .await;
}

/// Connects and asks again and again, each time on a new connection that it leaves behind.
#[tokio::test]
async fn a_flood_of_connections_that_are_left_behind() {
    let world = World::new("").await;
    world
        .under(ANY_GROWTH, async |balancer| {
            for n in 0..2000 {
                let mut stream = connect(balancer.entry()).await;
                if n % 2 == 0 {
                    // Whether it is heard does not matter any more.
                    let _ = stream.write_all(ASK).await;
                }
            }
        })
        .await;
}

/// So many connect; at most so many are served, and each of the others is told or cut. Those that are served stay connected.
async fn crowd(balancer: &Balancer, n_clients: usize, served_max: usize) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..n_clients {
        let mut client = connect(balancer.entry()).await;
        // Who is refused at once may not be heard.
        let _ = client.write_all(ASK).await;
        clients.push(client);
    }
    let mut served = Vec::new();
    for mut client in clients {
        let mut heard = vec![0; 1024];
        let n = timeout(PATIENCE, client.read(&mut heard)).await;
        let n = n.expect("everybody is answered, told or cut");
        let heard = &heard[..n.unwrap_or_default()];
        if heard.starts_with(b"HTTP/1.1 200 ") {
            served.push(client);
            continue;
        }
        let told = heard.starts_with(b"HTTP/1.1 503 ") || heard.starts_with(b"HTTP/1.1 429 ");
        assert!(told || heard.is_empty(), "{}", heard.escape_ascii());
        let text = String::from_utf8_lossy(heard).to_ascii_lowercase();
        assert!(!told || text.contains("\r\nretry-after: "), "{text}");
    }
    assert!(served.len() <= served_max, "{} were served", served.len());
    assert!(served.len() * 2 > served_max, "only {} were", served.len());
    served
}

async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    let bound = socket.bind((CROWD, 0).into());
    bound.expect("every address of the loopback network is ours");
    socket
        .connect(address)
        .await
        .expect("accepting never stops")
}

async fn is_served(address: SocketAddr) {
    let mut client = Dialogue::with(address).await;
    client.say(ASK).await;
    assert_eq!(client.head().await.status(), 200);
}
