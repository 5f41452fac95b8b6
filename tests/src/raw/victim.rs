//! Nodes that an attack aims at: one that never answers, and one that never stops.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::ports::{self, PortLease};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// What is written at once by a node that never stops.
const PIECE_BYTES: usize = 64 << 10;

/// How a victim answers.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Not at all.
    Deaf,
    /// By closing the connection.
    HangsUp,
    /// With these bytes, and then with the others again and again.
    Endless(&'static [u8], &'static [u8]),
}

/// A running node; dropped, it is gone.
pub struct Victim {
    lease: PortLease,
    requests: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Victim {
    pub async fn start(manner: Manner) -> Self {
        let lease = ports::free().expect("a port is free");
        let listener = TcpListener::bind(lease.address()).await;
        let listener = listener.expect("a leased port can be bound");
        let requests = Arc::<AtomicUsize>::default();
        let server = tokio::spawn(serve(listener, manner, requests.clone()));
        Self {
            lease,
            requests,
            server,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.lease.address()
    }

    /// How many heads have come.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, manner: Manner, requests: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(suffer(stream, manner.clone(), requests.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn suffer(mut stream: TcpStream, manner: Manner, requests: Arc<AtomicUsize>) {
    let mut heard = Vec::new();
    while stream.read_buf(&mut heard).await.is_ok_and(|n| n > 0) {
        while let Some(at) = heard.windows(4).position(|it| it == b"\r\n\r\n") {
            heard.drain(..at + 4);
            requests.fetch_add(1, Relaxed);
            match manner {
                Manner::Deaf => {}
                Manner::HangsUp => return,
                Manner::Endless(first, then) => return overflow(stream, first, then).await,
            }
        }
    }
}

/// Until the other side has had enough.
async fn overflow(mut stream: TcpStream, first: &[u8], then: &[u8]) {
    let piece = then.repeat(PIECE_BYTES.div_ceil(then.len()));
    let mut said = stream.write_all(first).await;
    while said.is_ok() {
        said = stream.write_all(&piece).await;
    }
}
