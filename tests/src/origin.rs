//! Servers behind a balancer under test, and the raw end of a connection that scripted servers and clients speak through.
//!
//! A [`Dialogue`] hides nothing: it says exactly the bytes it is given and shows exactly those it hears. Each of its steps has
//! [`PATIENCE`], so that a test ends by itself.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::ports::{self, PortLease};

pub mod grpc;
pub mod names;
pub mod web;

/// How long one step of a dialogue may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server whose every byte the test says itself.
#[derive(Debug)]
pub struct Origin {
    listener: TcpListener,
    lease: PortLease,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Dialogue {
    stream: TcpStream,
    /// Heard and not yet asked for.
    heard: BytesMut,
}

/// The head of a message of HTTP/1, as it was heard.
#[derive(Debug, Clone)]
pub struct Head(String);

/// How the other side ended what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed,
    Reset,
}

impl Origin {
    pub async fn start() -> Self {
        let lease = ports::free().expect("a port is free");
        let listener = TcpListener::bind(lease.address()).await;
        Self {
            listener: listener.expect("a leased port can be bound"),
            lease,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.lease.address()
    }

    /// The next connection on which something is said; those that only look whether somebody listens are let go.
    pub async fn visit(&self) -> Dialogue {
        loop {
            let mut visit = self.silent_visit().await;
            if visit.fill().await.is_ok_and(|n| n > 0) {
                return visit;
            }
        }
    }

    /// The next connection, whether or not anything is said.
    pub async fn silent_visit(&self) -> Dialogue {
        let accepted = within("a connection", self.listener.accept()).await;
        let (stream, _) = accepted.expect("a listening socket accepts");
        Dialogue::on(stream)
    }

    /// Proves that nobody connects for a while.
    pub async fn stays_alone(&self, span: Duration) {
        let accepted = timeout(span, self.listener.accept()).await;
        assert!(accepted.is_err(), "nobody must connect: {accepted:?}");
    }
}

impl Dialogue {
    pub async fn with(address: SocketAddr) -> Self {
        let connected = within("to connect", TcpStream::connect(address)).await;
        Self::on(connected.expect("somebody listens"))
    }

    /// None if the other side has reset the connection before it was known to be made.
    pub async fn unless_reset(address: SocketAddr) -> Option<Self> {
        match within("to connect", TcpStream::connect(address)).await {
            Err(err) if err.kind() == io::ErrorKind::ConnectionReset => None,
            connected => Some(Self::on(connected.expect("somebody listens"))),
        }
    }

    pub fn local_addr(&self) -> SocketAddr {
        let address = self.stream.local_addr();
        address.expect("a connected socket has an address")
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_say(bytes).await.expect("the other side listens");
    }

    /// # Errors
    /// When the other side has closed or reset the connection.
    pub async fn try_say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("to be heard", self.stream.write_all(bytes.as_ref())).await
    }

    /// Says as much of this as is taken within `span`; None if nothing is.
    pub async fn say_some(&mut self, bytes: &[u8], span: Duration) -> Option<usize> {
        let said = timeout(span, self.stream.write(bytes)).await.ok()?;
        Some(said.expect("the other side listens"))
    }

    /// Says nothing more, and goes on listening.
    pub async fn fall_silent(&mut self) {
        let ended = self.stream.shutdown().await;
        ended.expect("the writing side can be closed once");
    }

    /// Hears exactly this next.
    pub async fn hears(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let heard = self.hear(expected.len()).await;
        assert_eq!(
            heard.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    /// The next `n` bytes.
    pub async fn hear(&mut self, n: usize) -> Bytes {
        while self.heard.len() < n {
            let more = self.fill().await;
            assert!(
                more.as_ref().is_ok_and(|it| *it > 0),
                "{more:?} before {n} bytes were heard: {}",
                self.heard.escape_ascii()
            );
        }
        self.heard.split_to(n).freeze()
    }

    /// Everything up to and with `end`.
    pub async fn hear_until(&mut self, end: &str) -> String {
        loop {
            let at = self
                .heard
                .windows(end.len())
                .position(|it| it == end.as_bytes());
            if let Some(at) = at {
                let bytes = self.heard.split_to(at + end.len());
                return String::from_utf8_lossy(&bytes).into_owned();
            }
            let more = self.fill().await;
            assert!(
                more.as_ref().is_ok_and(|it| *it > 0),
                "{more:?} before {end:?} was heard: {}",
                self.heard.escape_ascii()
            );
        }
    }

    /// The head of a message of HTTP/1.
    pub async fn head(&mut self) -> Head {
        Head(self.hear_until("\r\n\r\n").await)
    }

    /// All that comes until the other side closes in order.
    pub async fn rest(&mut self) -> Vec<u8> {
        let (rest, end) = self.end().await;
        assert_eq!(end, End::Closed, "after {}", rest.escape_ascii());
        rest
    }

    /// All that comes until the other side ends, and how it does.
    pub async fn end(&mut self) -> (Vec<u8>, End) {
        let end = loop {
            match self.fill().await {
                Ok(0) => break End::Closed,
                Ok(_) => {}
                Err(_) => break End::Reset,
            }
        };
        (self.heard.split().to_vec(), end)
    }

    /// Whatever has come or comes next; `None` when the other side has ended.
    pub async fn hear_some(&mut self) -> Option<Bytes> {
        if self.heard.is_empty() && !self.fill().await.is_ok_and(|n| n > 0) {
            return None;
        }
        Some(self.heard.split().freeze())
    }

    /// Proves that the other side neither says nor ends anything for a while.
    pub async fn stays_silent(&mut self, span: Duration) {
        assert!(
            self.heard.is_empty(),
            "{} was heard",
            self.heard.escape_ascii()
        );
        let heard = timeout(span, self.stream.read_buf(&mut self.heard)).await;
        assert!(heard.is_err(), "{heard:?}: {}", self.heard.escape_ascii());
    }

    /// Closes as a crashed program does: at once, whatever is still unread.
    pub fn crash(self) {
        #[expect(
            deprecated,
            reason = "a linger of zero does not block; it is the way to send a reset"
        )]
        let set = self.stream.set_linger(Some(Duration::ZERO));
        set.expect("a socket can be told to reset");
    }

    /// The socket, for a library to speak on, and nothing that was heard.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.heard.is_empty(), "what was heard would be lost");
        self.stream
    }

    fn on(stream: TcpStream) -> Self {
        stream
            .set_nodelay(true)
            .expect("a TCP socket has the option");
        Self {
            stream,
            heard: BytesMut::new(),
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let heard = self.heard.escape_ascii().to_string();
        let more = timeout(PATIENCE, self.stream.read_buf(&mut self.heard)).await;
        more.unwrap_or_else(|_| panic!("nothing more was heard after {heard}"))
    }
}

impl Head {
    /// The request line or the status line.
    pub fn first_line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        let status = self.first_line().split(' ').nth(1);
        let status = status.and_then(|it| it.parse().ok());
        status.unwrap_or_else(|| panic!("no answer begins like this: {self:?}"))
    }

    /// The value of a field, if it stands there, and its lines joined if it does so more than once.
    pub fn field(&self, name: &str) -> Option<String> {
        let lines = self.0.lines().skip(1).filter_map(|it| it.split_once(':'));
        let values: Vec<_> = lines
            .filter(|(it, _)| it.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect();
        (!values.is_empty()).then(|| values.join(" | "))
    }
}

async fn within<T>(what: &str, step: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, step).await;
    done.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_ends_hear_what_the_other_says_and_how_it_ends() {
        let origin = Origin::start().await;
        let mut client = Dialogue::with(origin.address()).await;
        client
            .say("POST /a HTTP/1.1\r\nA: 1\r\na: 2\r\n\r\nxyz")
            .await;
        let mut node = origin.visit().await;
        let head = node.head().await;
        assert_eq!(head.first_line(), "POST /a HTTP/1.1");
        assert_eq!(head.field("a").as_deref(), Some("1 | 2"));
        assert_eq!(head.field("b"), None);
        node.hears("xyz").await;
        client.fall_silent().await;
        assert_eq!(node.end().await, (Vec::new(), End::Closed));
        node.crash();
        assert_eq!(client.end().await, (Vec::new(), End::Reset));
    }
}
