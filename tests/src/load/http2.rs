//! HTTP/2 traffic with prior knowledge (RFC 9113 section 3.3), a number of lanes sharing each connection.

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request, Response};
use tokio::sync::Mutex;

use super::EntryAddr;
use super::content::{Checker, pattern};
use super::http1::HttpRequest;
use super::lane::{Answer, Failure, FailureKind, Lane, Outcome, Traffic};

/// A stream may be sent so much before it is asked to wait: more than the largest body of the bench.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// HTTP/2 traffic.
#[derive(Debug)]
pub struct Http2 {
    connections: Connections,
    request: HttpRequest,
}

/// One client of HTTP/2, which shares its connection with its neighbours.
#[derive(Debug)]
pub struct Http2Lane {
    connection: Arc<Connection>,
    request: Request<()>,
    upload: Bytes,
    body: Checker,
}

/// The connections of one load.
#[derive(Debug)]
pub(super) struct Connections {
    entry: EntryAddr,
    streams_each: usize,
    last: Option<Arc<Connection>>,
}

/// A connection that is made when it is needed, and again when it has ended.
#[derive(Debug)]
pub(super) struct Connection {
    entry: EntryAddr,
    /// The lock is held while connecting, so that lanes that share the connection wait for one attempt.
    client: Mutex<Option<SendRequest<Bytes>>>,
}

// === impl Http2 ===

impl Http2 {
    /// `streams_each` lanes share each connection.
    pub fn new(entry: EntryAddr, request: HttpRequest, streams_each: usize) -> Self {
        Self {
            connections: Connections::new(entry, streams_each),
            request,
        }
    }
}

impl Traffic for Http2 {
    type Lane = Http2Lane;

    fn lane(&mut self, index: usize) -> Http2Lane {
        let method = if self.request.upload == 0 {
            Method::GET
        } else {
            Method::POST
        };
        let uri = format!("http://{}{}", self.request.host, self.request.path);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .body(())
            .expect("the plan names a valid host and path");
        Http2Lane {
            connection: self.connections.of_lane(index),
            request,
            upload: pattern(self.request.upload),
            body: Checker::new(self.request.expect),
        }
    }
}

// === impl Http2Lane ===

impl Lane for Http2Lane {
    async fn exchange(&mut self) -> Result<Answer<'_>, Failure> {
        self.body.begin();
        let ends = self.upload.is_empty();
        let mut client = self.connection.client().await?;
        let sent = client.send_request(self.request.clone(), ends);
        let (response, mut upload) = sent.map_err(|cause| broken(false, &cause))?;
        if !ends {
            // The stream's reset says more than the failed write: it comes with the answer.
            let _ = upload.send_data(self.upload.clone(), true);
        }
        let outcome = self.read_answer(response).await?;
        let bytes = self.body.seen();
        let node = if outcome.is_success() {
            self.body.verdict()?
        } else {
            None
        };
        Ok(Answer {
            outcome,
            node,
            bytes,
        })
    }

    fn abandon(&mut self) {
        self.connection.abandon();
    }
}

impl Http2Lane {
    async fn read_answer(&mut self, response: ResponseFuture) -> Result<Outcome, Failure> {
        let (head, mut stream) = response
            .await
            .map_err(|cause| broken(false, &cause))
            .map(Response::into_parts)?;
        while let Some(piece) = next_piece(&mut stream).await? {
            self.body.take(&piece);
        }
        stream
            .trailers()
            .await
            .map_err(|cause| broken(true, &cause))?;
        Ok(Outcome::Status(head.status.as_u16()))
    }
}

/// The next bytes of a body, whose window is opened again at once.
pub(super) async fn next_piece(stream: &mut RecvStream) -> Result<Option<Bytes>, Failure> {
    let Some(piece) = stream.data().await else {
        return Ok(None);
    };
    let piece = piece.map_err(|cause| broken(true, &cause))?;
    let released = stream.flow_control().release_capacity(piece.len());
    released.map_err(|cause| broken(true, &cause))?;
    Ok(Some(piece))
}

/// What an HTTP/2 error is to a client; `begun` tells whether a byte of the answer had come.
pub(super) fn broken(begun: bool, cause: &h2::Error) -> Failure {
    let ours = cause.is_library() && !cause.is_io();
    if ours && cause.reason().is_some() {
        return Failure::new(FailureKind::Malformed, cause);
    }
    Failure::broken(begun, cause)
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(entry: EntryAddr, streams_each: usize) -> Self {
        Self {
            entry,
            streams_each: streams_each.max(1),
            last: None,
        }
    }

    pub(super) fn of_lane(&mut self, index: usize) -> Arc<Connection> {
        if index.is_multiple_of(self.streams_each) {
            self.last = None;
        }
        let entry = self.entry;
        self.last
            .get_or_insert_with(|| {
                Arc::new(Connection {
                    entry,
                    client: Mutex::new(None),
                })
            })
            .clone()
    }
}

// === impl Connection ===

impl Connection {
    /// A client that may open a stream. A connection that ended while it was idle is made again, once.
    pub(super) async fn client(&self) -> Result<SendRequest<Bytes>, Failure> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.take()
            && let Ok(client) = client.ready().await
        {
            *slot = Some(client.clone());
            return Ok(client);
        }
        let client = self.connect().await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// The next stream is opened over a new connection; streams that are open stay where they are.
    pub(super) fn abandon(&self) {
        // While another lane connects, the connection is being replaced already.
        if let Ok(mut slot) = self.client.try_lock() {
            *slot = None;
        }
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, Failure> {
        let socket = self.entry.connect().await?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        builder.enable_push(false);
        let handshake = builder.handshake::<_, Bytes>(socket).await;
        let (client, connection) = handshake.map_err(|cause| broken(false, &cause))?;
        // How the connection ends is told to its streams.
        tokio::task::spawn_local(async { drop(connection.await) });
        client.ready().await.map_err(|cause| broken(false, &cause))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use h2::Reason;
    use h2::server::SendResponse;
    use tokio::net::TcpListener;

    use super::super::content::Expect;
    use super::*;
    use crate::load::{Load, Plan, Report};

    const SIZE: usize = 3 << 20;

    #[tokio::test]
    async fn bodies_larger_than_every_window_come_whole() {
        let report = played(Server::Body(SIZE)).await;
        assert_eq!(
            (report.succeeded(), report.bytes()),
            (4, 4 * SIZE as u64),
            "{report:?}"
        );
    }

    #[tokio::test]
    async fn every_way_to_fail_is_told_apart() {
        for (server, kind) in [
            (Server::Body(SIZE - 1), FailureKind::WrongContent),
            (Server::Reset, FailureKind::Reset),
            (Server::Cut, FailureKind::Truncated),
            (Server::Deaf, FailureKind::Reset),
        ] {
            let report = played(server).await;
            assert_eq!(
                report.failures_by_kind().keys().collect::<Vec<_>>(),
                [&kind],
                "{server:?}"
            );
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Server {
        /// Answers with so much of the pattern.
        Body(usize),
        /// Resets every stream.
        Reset,
        /// Begins an answer and resets the stream.
        Cut,
        /// Closes every connection.
        Deaf,
    }

    /// Four exchanges of two lanes over one connection.
    async fn played(server: Server) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback can be bound");
        let entry = EntryAddr(
            listener
                .local_addr()
                .expect("a bound socket has an address"),
        );
        let serving = tokio::spawn(serve(listener, server));
        let plan = Plan {
            exchanges_max: 4,
            ..Plan::closed(2, Duration::from_secs(60))
        };
        let request = HttpRequest {
            expect: Expect::Pattern(SIZE as u64),
            ..HttpRequest::get("/")
        };
        let load = Load::start(plan, Http2::new(entry, request, 2)).expect("a thread starts");
        let report = load.finish().await.expect("it ends");
        serving.abort();
        report
    }

    async fn serve(listener: TcpListener, server: Server) {
        while let Ok((socket, _)) = listener.accept().await {
            if matches!(server, Server::Deaf) {
                continue;
            }
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket)
                    .await
                    .expect("the client speaks HTTP/2");
                while let Some(Ok((_, respond))) = connection.accept().await {
                    answer(server, respond);
                }
            });
        }
    }

    fn answer(server: Server, mut respond: SendResponse<Bytes>) {
        if let Server::Reset = server {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let mut stream = respond
            .send_response(Response::new(()), false)
            .expect("the stream is open");
        match server {
            Server::Body(size) => stream
                .send_data(pattern(size), true)
                .expect("the stream is open"),
            _ => {
                stream
                    .send_data(pattern(10), false)
                    .expect("the stream is open");
                tokio::spawn(async move {
                    // The data has to leave before the reset, which would overtake it.
                    tokio::task::yield_now().await;
                    stream.send_reset(Reason::INTERNAL_ERROR);
                });
            }
        }
    }
}
