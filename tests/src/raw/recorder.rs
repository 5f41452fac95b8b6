//! An origin that reads like [`super::http1`] and keeps all that it has read, so that a test can say what must have come and nothing else.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::http1::{Read, Request, read_request};
use crate::ports::{self, PortLease};

/// What every request is answered with.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The most that one connection may send without a whole request.
const UNREAD_BYTES_MAX: usize = 16 << 20;

/// What came over a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Whole(Box<Request>),
    /// A request that began well and never ended.
    CutShort(Vec<u8>),
    /// What the strict reader does not accept.
    Broken(&'static str, Vec<u8>),
}

/// A running origin; dropped, it is gone.
#[derive(Debug)]
pub struct Recorder {
    lease: PortLease,
    seen: Arc<Mutex<Vec<Event>>>,
    server: JoinHandle<()>,
}

impl Recorder {
    pub async fn start() -> Self {
        let lease = ports::free().expect("a port is free");
        let listener = TcpListener::bind(lease.address()).await;
        let listener = listener.expect("a leased port can be bound");
        let seen = Arc::<Mutex<Vec<Event>>>::default();
        let server = tokio::spawn(serve(listener, seen.clone()));
        Self {
            lease,
            seen,
            server,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.lease.address()
    }

    /// All that came since this was last asked.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *lock(&self.seen))
    }

    /// Whether a whole request with this target has come.
    pub fn has_seen(&self, target: &str) -> bool {
        let is_it = |it: &Event| matches!(it, Event::Whole(it) if it.target == target);
        lock(&self.seen).iter().any(is_it)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, seen: Arc<Mutex<Vec<Event>>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(record(stream, seen.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn record(mut stream: TcpStream, seen: Arc<Mutex<Vec<Event>>>) {
    let (mut heard, mut continued) = (Vec::new(), false);
    loop {
        match read_request(&heard) {
            Read::Whole(request, used) => {
                heard.drain(..used);
                continued = false;
                let is_head = request.method == "HEAD";
                lock(&seen).push(Event::Whole(request));
                let answer = if is_head {
                    &ANSWER[..ANSWER.len() - 2]
                } else {
                    ANSWER
                };
                if stream.write_all(answer).await.is_err() {
                    return;
                }
                continue;
            }
            Read::Broken(why) => {
                lock(&seen).push(Event::Broken(why, heard));
                return;
            }
            Read::NeedMore => {}
        }
        if !continued && wants_to_be_asked(&heard) {
            continued = true;
            if stream.write_all(CONTINUE).await.is_err() {
                return;
            }
        }
        let more = stream.read_buf(&mut heard).await.unwrap_or_default();
        if more == 0 || heard.len() > UNREAD_BYTES_MAX {
            if !heard.is_empty() {
                lock(&seen).push(Event::CutShort(heard));
            }
            return;
        }
    }
}

fn wants_to_be_asked(heard: &[u8]) -> bool {
    let head = heard.to_ascii_lowercase();
    let has = |it: &[u8]| head.windows(it.len()).any(|window| window == it);
    has(b"\r\n\r\n") && has(b"\r\nexpect: 100-continue\r\n")
}

fn lock(seen: &Mutex<Vec<Event>>) -> MutexGuard<'_, Vec<Event>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::until, origin::Dialogue};

    #[tokio::test]
    async fn what_came_is_kept_in_its_order() {
        let recorder = Recorder::start().await;
        let mut client = Dialogue::with(recorder.address()).await;
        client.say("GET /a HTTP/1.1\r\nhost: h\r\n\r\nGET /b").await;
        assert_eq!(client.head().await.status(), 200);
        client.hears("ok").await;
        client.fall_silent().await;
        client.rest().await;
        assert!(recorder.has_seen("/a"));
        let mut seen = Vec::new();
        until("the end to be noticed", async || {
            seen.extend(recorder.take());
            seen.len() == 2
        })
        .await;
        assert!(matches!(&seen[0], Event::Whole(it) if it.target == "/a"));
        assert_eq!(seen[1], Event::CutShort(b"GET /b".to_vec()));
    }
}
