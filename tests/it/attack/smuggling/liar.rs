//! A node that answers one path with whatever bytes a test gives it, and every other path honestly.

use std::{net::SocketAddr, sync::Arc};

use tests::ports::{self, PortLease};
use tests::raw::http1::{Read, read_request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// The path that is lied about.
pub(super) const LIE: &str = "/lie";
/// What every other path is answered with.
pub(super) const HONEST: &str = "honest";

/// What is said instead of an answer.
#[derive(Clone, Debug)]
pub(super) struct Lie {
    pub(super) said: Vec<u8>,
    /// Whether the connection ends with it.
    pub(super) closes: bool,
}

/// A running node; dropped, it is gone.
pub(super) struct Liar {
    lease: PortLease,
    server: JoinHandle<()>,
}

impl Liar {
    pub(super) async fn start(lie: Lie) -> Self {
        let lease = ports::free().expect("a port is free");
        let listener = TcpListener::bind(lease.address()).await;
        let listener = listener.expect("a leased port can be bound");
        let server = tokio::spawn(serve(listener, Arc::new(lie)));
        Self { lease, server }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.lease.address()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, lie: Arc<Lie>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream, lie.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream, lie: Arc<Lie>) {
    let mut heard = Vec::new();
    loop {
        if let Read::Whole(request, used) = read_request(&heard) {
            heard.drain(..used);
            let lies = request.target == LIE;
            let said = if lies { lie.said.clone() } else { honest() };
            let said = stream.write_all(&said).await;
            if said.is_err() || (lies && lie.closes) {
                return;
            }
            continue;
        }
        if !stream.read_buf(&mut heard).await.is_ok_and(|n| n > 0) {
            return;
        }
    }
}

fn honest() -> Vec<u8> {
    let length = HONEST.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{HONEST}").into_bytes()
}
