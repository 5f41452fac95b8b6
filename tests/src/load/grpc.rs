//! Calls over gRPC as traffic: unary ones, or long streams on which every message is answered.
//!
//! Messages are bytes to this file: who starts the load encodes the request and says how an answer is read, so that
//! the generator knows the framing of gRPC and no service.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};

use super::EntryAddr;
use super::http2::{Connection, Connections, broken, next_piece};
use super::lane::{Answer, Failure, FailureKind, Lane, Outcome, Traffic};

/// What stands before every message: a flag (compressed or not) and the length.
const PREFIX_SIZE: usize = 5;
/// The largest message that is accepted, which is the customary limit of gRPC.
const MESSAGE_MAX: usize = 4 << 20;
/// The status of a call that ended without one (`UNKNOWN`).
const STATUS_UNKNOWN: u16 = 2;

/// The call that every lane makes.
#[derive(Clone, Debug)]
pub struct Call {
    pub authority: String,
    /// `/package.Service/Method`.
    pub path: String,
    /// The encoded request message.
    pub message: Bytes,
    pub shape: Shape,
    pub read: ReadMessage,
}

/// Reads an answer's message: the node that sent it, if it tells, or why it is wrong.
pub type ReadMessage = fn(&[u8]) -> Result<Option<Cow<'_, str>>, String>;

/// What one exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A call with one message each way.
    Unary,
    /// A message each way on a stream in both directions, which carries so many before it is ended and opened anew.
    Stream { messages: u64 },
}

/// gRPC traffic.
#[derive(Debug)]
pub struct Grpc {
    connections: Connections,
    call: Call,
}

/// One client of gRPC, which shares its connection with its neighbours.
#[derive(Debug)]
pub struct GrpcLane {
    connection: Arc<Connection>,
    request: Request<()>,
    frame: Bytes,
    messages_each: u64,
    read: ReadMessage,
    stream: Option<Stream>,
    node: String,
}

/// A call that is under way.
#[derive(Debug)]
struct Stream {
    outgoing: SendStream<Bytes>,
    incoming: Incoming,
    buffer: BytesMut,
    sent: u64,
}

/// The answer's head may wait for the first message, and the first message must not wait for it.
#[derive(Debug)]
enum Incoming {
    Awaited(ResponseFuture),
    Begun(RecvStream),
}

/// What came next on a stream.
enum Next {
    Message(Bytes),
    End(Outcome),
}

// === impl Grpc ===

impl Grpc {
    /// `streams_each` lanes share each connection.
    pub fn new(entry: EntryAddr, call: Call, streams_each: usize) -> Self {
        Self {
            connections: Connections::new(entry, streams_each),
            call,
        }
    }
}

impl Traffic for Grpc {
    type Lane = GrpcLane;

    fn lane(&mut self, index: usize) -> GrpcLane {
        let messages_each = match self.call.shape {
            Shape::Unary => 1,
            Shape::Stream { messages } => messages.max(1),
        };
        GrpcLane {
            connection: self.connections.of_lane(index),
            request: self.call.request(),
            frame: frame(&self.call.message),
            messages_each,
            read: self.call.read,
            stream: None,
            node: String::new(),
        }
    }
}

impl Call {
    fn request(&self) -> Request<()> {
        let uri = format!("http://{}{}", self.authority, self.path);
        let request = Request::builder().method(Method::POST).uri(uri);
        let request = request
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        request
            .body(())
            .expect("the call names a valid authority and path")
    }
}

// === impl GrpcLane ===

impl Lane for GrpcLane {
    async fn exchange(&mut self) -> Result<Answer<'_>, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Stream::open(&self.connection, &self.request).await?,
        };
        stream.sent += 1;
        let is_last = stream.sent == self.messages_each;
        // When the call was ended meanwhile, its status says why.
        let _ = stream.outgoing.send_data(self.frame.clone(), is_last);
        let message = match stream.next().await? {
            Next::Message(message) => message,
            Next::End(Outcome::Grpc(0)) => {
                return Err(Failure::new(FailureKind::Truncated, "the call ended early"));
            }
            Next::End(outcome) => {
                return Ok(Answer {
                    outcome,
                    node: None,
                    bytes: 0,
                });
            }
        };
        let outcome = if is_last {
            stream.end().await?
        } else {
            self.stream = Some(stream);
            Outcome::Grpc(0)
        };
        let bytes = message.len() as u64;
        Ok(Answer {
            outcome,
            node: self.read(&message)?,
            bytes,
        })
    }

    fn abandon(&mut self) {
        self.stream = None;
        self.connection.abandon();
    }
}

impl GrpcLane {
    fn read(&mut self, message: &[u8]) -> Result<Option<&str>, Failure> {
        let read =
            (self.read)(message).map_err(|cause| Failure::new(FailureKind::WrongContent, cause))?;
        Ok(read.map(|node| {
            self.node.clear();
            self.node.push_str(&node);
            self.node.as_str()
        }))
    }
}

// === impl Stream ===

impl Stream {
    async fn open(connection: &Connection, request: &Request<()>) -> Result<Self, Failure> {
        let mut client = connection.client().await?;
        let sent = client.send_request(request.clone(), false);
        let (response, outgoing) = sent.map_err(|cause| broken(false, &cause))?;
        Ok(Self {
            outgoing,
            incoming: Incoming::Awaited(response),
            buffer: BytesMut::new(),
            sent: 0,
        })
    }

    /// The next message, or the status with which the call ended.
    async fn next(&mut self) -> Result<Next, Failure> {
        if let Incoming::Awaited(response) = &mut self.incoming {
            let (head, body) = response
                .await
                .map_err(|cause| broken(false, &cause))?
                .into_parts();
            if !head.status.is_success() {
                return Ok(Next::End(Outcome::Status(head.status.as_u16())));
            }
            if head.headers.contains_key("grpc-status") {
                return Ok(Next::End(status(&head.headers)));
            }
            self.incoming = Incoming::Begun(body);
        }
        let Incoming::Begun(body) = &mut self.incoming else {
            unreachable!("the head has been awaited")
        };
        loop {
            if let Some(message) = next_message(&mut self.buffer)? {
                return Ok(Next::Message(message));
            }
            let Some(piece) = next_piece(body).await? else {
                break;
            };
            self.buffer.extend_from_slice(&piece);
        }
        if !self.buffer.is_empty() {
            return Err(Failure::broken(true, "the call ended within a message"));
        }
        let trailers = body
            .trailers()
            .await
            .map_err(|cause| broken(true, &cause))?;
        Ok(Next::End(status(&trailers.unwrap_or_default())))
    }

    async fn end(mut self) -> Result<Outcome, Failure> {
        match self.next().await? {
            Next::End(outcome) => Ok(outcome),
            Next::Message(_) => Err(Failure::new(
                FailureKind::WrongContent,
                "more answers than messages",
            )),
        }
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_SIZE + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a message of the plan is below 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

/// Takes the first message off the buffer when all of it is there.
fn next_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX_SIZE>() else {
        return Ok(None);
    };
    let [flag, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if flag != 0 || length > MESSAGE_MAX {
        return Err(Failure::new(
            FailureKind::Malformed,
            format_args!("flag {flag}, {length} bytes"),
        ));
    }
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(PREFIX_SIZE);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn status(fields: &HeaderMap) -> Outcome {
    let status = fields
        .get("grpc-status")
        .and_then(|it| it.to_str().ok())
        .and_then(|it| it.parse().ok());
    Outcome::Grpc(status.unwrap_or(STATUS_UNKNOWN))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use h2::server::SendResponse;
    use http::Response;
    use tokio::net::TcpListener;

    use super::*;
    use crate::load::{Load, Plan, Report};

    #[test]
    fn messages_are_told_apart_however_they_come() {
        let whole = [frame(b"one"), frame(b""), frame(b"three")].concat();
        for size in 1..=whole.len() {
            let mut buffer = BytesMut::new();
            let mut messages = Vec::new();
            for piece in whole.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(message) = next_message(&mut buffer).expect("they are well formed") {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [&b"one"[..], b"", b"three"], "pieces of {size}");
        }
    }

    #[test]
    fn a_message_without_measure_is_refused() {
        let mut buffer = BytesMut::from(&[0, 0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(
            next_message(&mut buffer).expect_err("it is too long").kind,
            FailureKind::Malformed
        );
    }

    #[tokio::test]
    async fn unary_calls_and_streams_are_answered() {
        for (shape, calls) in [
            (Shape::Unary, 6),
            (Shape::Stream { messages: 2 }, 3),
            (Shape::Stream { messages: 3 }, 2),
        ] {
            let report = played(shape, 0).await;
            assert_eq!(
                (report.succeeded(), report.failures()),
                (6, 0),
                "{report:?}"
            );
            assert_eq!(report.nodes(), ["n-7"]);
            assert_eq!(report.bytes(), 6 * 3, "{calls} calls carry six messages");
        }
    }

    #[tokio::test]
    async fn a_call_that_ends_with_a_status_has_failed_with_it() {
        let report = played(Shape::Unary, 14).await;
        assert_eq!(report.outcomes().get(&Outcome::Grpc(14)), Some(&6));
        assert_eq!(report.failures(), 6);
    }

    /// Six exchanges of one lane with a server that echoes messages and ends each call with `status`.
    async fn played(shape: Shape, status: u16) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback can be bound");
        let entry = EntryAddr(
            listener
                .local_addr()
                .expect("a bound socket has an address"),
        );
        let serving = tokio::spawn(serve(listener, status));
        let plan = Plan {
            exchanges_max: 6,
            ..Plan::closed(1, Duration::from_secs(60))
        };
        let (authority, path) = ("localhost".into(), "/test/Echo".into());
        let call = Call {
            authority,
            path,
            message: Bytes::from_static(b"n-7"),
            shape,
            read: read_name,
        };
        let load = Load::start(plan, Grpc::new(entry, call, 1)).expect("a thread starts");
        let report = load.finish().await.expect("it ends");
        serving.abort();
        report
    }

    fn read_name(message: &[u8]) -> Result<Option<Cow<'_, str>>, String> {
        Ok(Some(String::from_utf8_lossy(message)))
    }

    async fn serve(listener: TcpListener, status: u16) {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket)
                    .await
                    .expect("the client speaks HTTP/2");
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(echo(request.into_body(), respond, status));
                }
            });
        }
    }

    async fn echo(mut body: RecvStream, mut respond: SendResponse<Bytes>, status: u16) {
        let mut stream = respond
            .send_response(Response::new(()), false)
            .expect("the stream is open");
        while let Some(Ok(piece)) = body.data().await {
            if status == 0 {
                stream.send_data(piece, false).expect("the stream is open");
            }
        }
        let trailers = HeaderMap::from_iter([(
            http::header::HeaderName::from_static("grpc-status"),
            status.into(),
        )]);
        stream.send_trailers(trailers).expect("the stream is open");
    }
}
