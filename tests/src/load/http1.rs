//! HTTP/1.1 traffic over connections of its own, plain or in TLS, one per lane, kept alive or new for every exchange.
//!
//! The request is prepared once and written whole, and the answer is read into a buffer that is kept, so that the
//! generator costs less than what it measures.

use std::fmt::Write;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::EntryAddr;
use super::connection::{Connection, Dialer};
use super::content::{Checker, Expect, pattern};
use super::lane::{Answer, Failure, FailureKind, Lane, Outcome, Traffic};
use super::response::Response;
use super::tls::TlsClient;

/// What is read at a time; also the longest head. Pages that are never touched cost nothing.
const BUFFER_SIZE: usize = 64 * 1024;

/// The request that every exchange of a load makes.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The authority that is asked for.
    pub host: String,
    pub path: String,
    /// The size of the body in bytes: 0 makes it a GET, anything else a POST of the pattern.
    pub upload: usize,
    /// What the answer has to be.
    pub expect: Expect,
}

/// What becomes of a connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It serves the lane's next exchange.
    KeepAlive,
    /// The server is asked to close it, and the exchange lasts until it has. That the server closes first leaves the
    /// waiting ends (TIME_WAIT) with it, so that the generator does not run out of ports.
    Never,
}

/// HTTP/1.1 traffic.
#[derive(Debug)]
pub struct Http1 {
    entry: EntryAddr,
    tls: Option<TlsClient>,
    bytes: Bytes,
    expect: Expect,
    reuse: Reuse,
}

/// One client of HTTP/1.1.
#[derive(Debug)]
pub struct Http1Lane {
    dialer: Dialer,
    bytes: Bytes,
    reuse: Reuse,
    connection: Option<Connection>,
    buffer: Vec<u8>,
    body: Checker,
}

// === impl HttpRequest ===

impl HttpRequest {
    /// A GET of `path`, any answer to which will do.
    pub fn get(path: &str) -> Self {
        Self {
            host: "localhost".into(),
            path: path.into(),
            upload: 0,
            expect: Expect::Anything,
        }
    }

    fn http1(&self, reuse: Reuse) -> Bytes {
        let method = if self.upload == 0 { "GET" } else { "POST" };
        let mut head = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", self.path, self.host);
        if self.upload > 0 {
            write!(head, "content-length: {}\r\n", self.upload)
                .expect("a string takes what is written");
        }
        if reuse == Reuse::Never {
            head.push_str("connection: close\r\n");
        }
        head.push_str("\r\n");
        [head.as_bytes(), &pattern(self.upload)].concat().into()
    }
}

// === impl Http1 ===

impl Http1 {
    pub fn new(entry: EntryAddr, request: &HttpRequest, reuse: Reuse) -> Self {
        Self {
            entry,
            tls: None,
            bytes: request.http1(reuse),
            expect: request.expect,
            reuse,
        }
    }

    /// The same in TLS.
    #[must_use]
    pub fn over_tls(self, tls: TlsClient) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }
}

impl Traffic for Http1 {
    type Lane = Http1Lane;

    fn lane(&mut self, _: usize) -> Http1Lane {
        let dialer = Dialer {
            entry: self.entry,
            tls: self.tls.as_ref().map(TlsClient::lane),
        };
        Http1Lane {
            dialer,
            bytes: self.bytes.clone(),
            reuse: self.reuse,
            connection: None,
            buffer: Vec::new(),
            body: Checker::new(self.expect),
        }
    }
}

// === impl Http1Lane ===

impl Lane for Http1Lane {
    async fn exchange(&mut self) -> Result<Answer<'_>, Failure> {
        let mut connection = match self.kept().await? {
            Some(connection) => connection,
            None => self.dialer.connect().await?,
        };
        let written = send(&mut connection, &self.bytes).await;
        self.body.begin();
        // A server may refuse a body before it has read it all, so the answer counts more than the failed write.
        let response =
            self.read_answer(&mut connection)
                .await
                .map_err(|failure| match written {
                    Err(cause) if failure.kind == FailureKind::Reset => {
                        Failure::broken(false, cause)
                    }
                    _ => failure,
                })?;
        let outcome = Outcome::Status(response.status());
        self.put_back(connection, &response).await?;
        if !outcome.is_success() {
            return Ok(Answer {
                outcome,
                node: None,
                bytes: self.body.seen(),
            });
        }
        let bytes = self.body.seen();
        Ok(Answer {
            outcome,
            node: self.body.verdict()?,
            bytes,
        })
    }

    fn abandon(&mut self) {
        self.connection = None;
        self.dialer.abandon();
    }
}

impl Http1Lane {
    async fn kept(&mut self) -> Result<Option<Connection>, Failure> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(None);
        };
        Ok(still_open(&mut connection).await?.then_some(connection))
    }

    async fn read_answer(&mut self, connection: &mut Connection) -> Result<Response, Failure> {
        self.buffer.resize(BUFFER_SIZE, 0);
        let mut response = Response::new();
        let mut filled = 0;
        while !response.is_complete() {
            if filled == BUFFER_SIZE {
                return Err(Failure::new(
                    FailureKind::Malformed,
                    "the head does not end",
                ));
            }
            let read = connection.read(&mut self.buffer[filled..]).await;
            let read =
                read.map_err(|cause| Failure::broken(response.has_begun() || filled > 0, cause))?;
            if read == 0 {
                response.end()?;
                break;
            }
            filled += read;
            let consumed = response.read(&self.buffer[..filled], &mut self.body)?;
            self.buffer.copy_within(consumed..filled, 0);
            filled -= consumed;
        }
        if filled > 0 {
            return Err(Failure::new(
                FailureKind::Malformed,
                "bytes follow the answer",
            ));
        }
        Ok(response)
    }

    async fn put_back(
        &mut self,
        mut connection: Connection,
        response: &Response,
    ) -> Result<(), Failure> {
        if self.reuse == Reuse::KeepAlive && response.keeps_alive() {
            self.connection = Some(connection);
            return Ok(());
        }
        if self.reuse == Reuse::Never {
            wait_for_end(&mut connection).await?;
        }
        Ok(())
    }
}

/// TLS keeps what is written until it is flushed.
async fn send(connection: &mut Connection, bytes: &[u8]) -> io::Result<()> {
    connection.write_all(bytes).await?;
    connection.flush().await?;
    Ok(())
}

/// A server may close an idle connection; a client that sees it in time just makes another (RFC 9112 section 9.3.1).
async fn still_open(connection: &mut Connection) -> Result<bool, Failure> {
    let mut byte = [0];
    let mut unasked = ReadBuf::new(&mut byte);
    let looked = poll_fn(|cx| Poll::Ready(Pin::new(&mut *connection).poll_read(cx, &mut unasked)));
    match looked.await {
        Poll::Pending => Ok(true),
        Poll::Ready(Ok(())) if !unasked.filled().is_empty() => Err(Failure::new(
            FailureKind::Malformed,
            "bytes came before they were asked for",
        )),
        Poll::Ready(_) => Ok(false),
    }
}

async fn wait_for_end(connection: &mut Connection) -> Result<(), Failure> {
    match connection.read(&mut [0]).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::new(
            FailureKind::Malformed,
            "bytes follow the answer",
        )),
        // Some servers end TLS without a word (RFC 8446 section 6.1); the answer told its own end.
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(cause) => Err(Failure::broken(true, cause)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::load::{Load, Plan, Report};

    const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{\"node_id\": \"n-1\"}";

    #[tokio::test]
    async fn answers_name_their_node_and_share_a_connection() {
        let (report, connections) = played(4, Reuse::KeepAlive, Expect::NodeId, HELLO).await;
        assert_eq!(
            (report.succeeded(), report.failures(), connections),
            (4, 0, 1)
        );
        assert_eq!(report.nodes(), ["n-1"]);
    }

    #[tokio::test]
    async fn a_connection_per_exchange_is_one() {
        let (report, connections) = played(3, Reuse::Never, Expect::Anything, HELLO).await;
        assert_eq!(
            (report.succeeded(), report.failures(), connections),
            (3, 0, 3)
        );
    }

    #[tokio::test]
    async fn a_server_that_says_it_closes_costs_no_failure() {
        let closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (report, connections) = played(3, Reuse::KeepAlive, Expect::Anything, closing).await;
        assert_eq!(
            (report.succeeded(), report.failures(), connections),
            (3, 0, 3)
        );
    }

    #[tokio::test]
    async fn every_way_to_fail_is_told_apart() {
        let truncated = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{";
        let wrong = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno";
        for (answer, kind) in [
            (&b""[..], FailureKind::Reset),
            (truncated, FailureKind::Truncated),
            (wrong, FailureKind::WrongContent),
            (b"220 smtp\r\n\r\n", FailureKind::Malformed),
        ] {
            let (report, _) = played(1, Reuse::Never, Expect::NodeId, answer).await;
            assert_eq!(
                report.failures_by_kind().keys().collect::<Vec<_>>(),
                [&kind],
                "{report:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_refusal_is_counted_by_its_status() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let (report, _) = played(1, Reuse::KeepAlive, Expect::NodeId, answer).await;
        assert_eq!(report.outcomes().get(&Outcome::Status(503)), Some(&1));
        assert_eq!(
            (
                report.failures(),
                report.failed_exchanges()[0].reason.as_str()
            ),
            (1, "status 503")
        );
    }

    #[tokio::test]
    async fn a_closed_door_is_a_refused_connection() {
        let lease = crate::ports::free().expect("a port is free");
        let plan = Plan {
            exchanges_max: 1,
            ..Plan::closed(1, Duration::from_secs(60))
        };
        let traffic = Http1::new(
            EntryAddr(lease.address()),
            &HttpRequest::get("/"),
            Reuse::KeepAlive,
        );
        let report = Load::start(plan, traffic)
            .expect("a thread starts")
            .finish()
            .await
            .expect("it ends");
        assert_eq!(
            report.failures_by_kind().get(&FailureKind::Refused),
            Some(&1)
        );
    }

    #[test]
    fn an_upload_announces_its_length() {
        let request = HttpRequest {
            upload: 3,
            ..HttpRequest::get("/up")
        };
        let bytes = request.http1(Reuse::Never);
        let head = b"POST /up HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\nconnection: close\r\n\r\n";
        assert!(
            bytes.starts_with(head) && bytes.len() == head.len() + 3,
            "{bytes:?}"
        );
    }

    /// Makes some exchanges with a server that always gives this answer, and tells how many connections that took.
    async fn played(
        count: u64,
        reuse: Reuse,
        expect: Expect,
        answer: &'static [u8],
    ) -> (Report, usize) {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback can be bound");
        let entry = EntryAddr(
            listener
                .local_addr()
                .expect("a bound socket has an address"),
        );
        let accepted = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn(serve(listener, answer, accepted.clone()));
        let plan = Plan {
            exchanges_max: count,
            ..Plan::closed(1, Duration::from_secs(60))
        };
        let request = HttpRequest {
            expect,
            ..HttpRequest::get("/whoami")
        };
        let load = Load::start(plan, Http1::new(entry, &request, reuse)).expect("a thread starts");
        let report = load.finish().await.expect("it ends");
        server.abort();
        (report, accepted.load(Ordering::Relaxed))
    }

    async fn serve(listener: TcpListener, answer: &'static [u8], accepted: Arc<AtomicUsize>) {
        while let Ok((mut connection, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::Relaxed);
            let mut request = [0; 1024];
            while let Ok(length @ 1..) = connection.read(&mut request).await {
                let _ = connection.write_all(answer).await;
                let asked = request[..length].windows(5).any(|it| it == b"close");
                let said = answer.windows(5).any(|it| it == b"close");
                if asked || said {
                    break;
                }
            }
        }
    }
}
