//! Answers for every proxy alike, as cheaply as it can, so that the proxies are what is measured.
//!
//! Three listeners on one thread: HTTP/1.1 (`GET /SIZE` gives so many bytes of the pattern; a body is read and
//! forgotten; a connection that becomes a WebSocket is an echo of bytes), HTTP/2 with prior knowledge (the same, and an echo
//! for every gRPC call), and a TCP echo.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;

use ::tests::load::content::pattern;
use ::tests::load::websocket::ACCEPT;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::row::{LARGE, MEDIUM, SMALL};

/// The answers there are.
const SIZES: [usize; 3] = [SMALL, MEDIUM, LARGE];
/// What is read at a time; also the longest head of a request.
const BUFFER_SIZE: usize = 64 * 1024;
/// More header fields than a proxy adds.
const HEADERS_MAX: usize = 64;
/// An uploading stream, and its connection, may be sent so much before it is asked to wait.
const WINDOW: u32 = 4 << 20;

/// Where the backend listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) http1: BackendAddr,
    pub(crate) http2: BackendAddr,
    pub(crate) echo: BackendAddr,
}

/// The address a proxy forwards to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackendAddr(pub(crate) SocketAddr);

/// A prepared answer for every size.
#[derive(Clone, Debug)]
struct Answers {
    whole: [Bytes; SIZES.len()],
    bodies: [Bytes; SIZES.len()],
    unknown: Bytes,
    websocket: Bytes,
}

/// What a request head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    head_length: usize,
    body_length: u64,
    size: Option<usize>,
    is_websocket: bool,
}

/// Starts the backend on a thread of its own, for as long as the process lives.
pub(crate) fn start() -> io::Result<Backend> {
    let (tell, told) = mpsc::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            let listeners = [bind().await?, bind().await?, bind().await?];
            let [http1, http2, echo] = listeners
                .each_ref()
                .map(|it| it.local_addr().map(BackendAddr));
            // Who started the backend waits for its addresses.
            let _ = tell.send(Backend {
                http1: http1?,
                http2: http2?,
                echo: echo?,
            });
            serve(listeners).await
        })
    };
    let thread = thread::Builder::new().name("backend".into()).spawn(work)?;
    told.recv().map_err(|_| match thread.join() {
        Ok(Err(cause)) => cause,
        _ => io::Error::other("the backend has panicked"),
    })
}

async fn bind() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
}

async fn serve([http1, http2, echo]: [TcpListener; 3]) -> io::Result<()> {
    let answers = Answers::new();
    let (for_http1, for_http2) = (answers.clone(), answers);
    let http1 = accept(http1, move |socket| serve_http1(socket, for_http1.clone()));
    let http2 = accept(http2, move |socket| serve_http2(socket, for_http2.clone()));
    let echo = accept(echo, serve_echo);
    tokio::try_join!(http1, http2, echo).map(|_| ())
}

/// Serves each connection; one that breaks is told by the proxy's side of the exchange.
async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(serve(socket));
    }
}

// === impl Answers ===

impl Answers {
    fn new() -> Self {
        let bodies = SIZES.map(pattern);
        let whole = bodies.clone().map(|body| http1_answer("200 OK", &body));
        Self {
            whole,
            bodies,
            unknown: http1_answer("404 Not Found", b""),
            websocket: agreement(),
        }
    }

    fn http1(&self, size: Option<usize>) -> &Bytes {
        place(size).map_or(&self.unknown, |at| &self.whole[at])
    }

    fn body(&self, size: Option<usize>) -> Option<Bytes> {
        place(size).map(|at| self.bodies[at].clone())
    }
}

fn http1_answer(status: &str, body: &[u8]) -> Bytes {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat().into()
}

/// The key of the bench's clients is always the same, and so is the answer to it.
fn agreement() -> Bytes {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"
    );
    head.into()
}

fn place(size: Option<usize>) -> Option<usize> {
    SIZES.iter().position(|it| Some(*it) == size)
}

fn size_of(path: &str) -> Option<usize> {
    path.trim_start_matches('/').parse().ok()
}

// === HTTP/1.1 ===

async fn serve_http1(mut socket: TcpStream, answers: Answers) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(BUFFER_SIZE);
    loop {
        let asked = loop {
            if let Some(asked) = parse(&buffer)? {
                break asked;
            }
            if buffer.len() >= BUFFER_SIZE {
                return Err(io::Error::other("endless head"));
            }
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let _ = buffer.split_to(asked.head_length);
        if asked.is_websocket {
            socket.write_all(&answers.websocket).await?;
            return serve_echo(socket).await;
        }
        skip_body(&mut socket, &mut buffer, asked.body_length).await?;
        socket.write_all(answers.http1(asked.size)).await?;
        buffer.reserve(BUFFER_SIZE - buffer.len());
    }
}

fn parse(head: &[u8]) -> io::Result<Option<Asked>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_length) = request.parse(head).map_err(io::Error::other)?
    else {
        return Ok(None);
    };
    let size = request.path.and_then(size_of);
    let length = field(request.headers, "content-length");
    let length = length.and_then(|it| str::from_utf8(it).ok()?.parse().ok());
    let upgrade = field(request.headers, "upgrade");
    Ok(Some(Asked {
        head_length,
        body_length: length.unwrap_or(0),
        size,
        is_websocket: upgrade.is_some_and(|it| it.eq_ignore_ascii_case(b"websocket")),
    }))
}

fn field<'h>(headers: &[httparse::Header<'h>], name: &str) -> Option<&'h [u8]> {
    let field = headers
        .iter()
        .find(|it| it.name.eq_ignore_ascii_case(name))?;
    Some(field.value)
}

async fn skip_body(socket: &mut TcpStream, buffer: &mut BytesMut, mut left: u64) -> io::Result<()> {
    while left > 0 {
        if buffer.is_empty() {
            buffer.reserve(BUFFER_SIZE);
            if socket.read_buf(buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let _ = buffer.split_to(length);
        left -= length as u64;
    }
    Ok(())
}

// === HTTP/2 ===

async fn serve_http2(socket: TcpStream, answers: Answers) -> io::Result<()> {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let mut connection = builder.handshake(socket).await.map_err(io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        if is_grpc(request.headers()) {
            tokio::spawn(echo_call(request.into_body(), respond));
        } else {
            answer_http2(&request, respond, &answers).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get("content-type")
        .is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
}

fn answer_http2(
    request: &Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    answers: &Answers,
) -> Result<(), h2::Error> {
    let Some(body) = answers.body(size_of(request.uri().path())) else {
        let mut unknown = Response::new(());
        *unknown.status_mut() = http::StatusCode::NOT_FOUND;
        return respond.send_response(unknown, true).map(|_| ());
    };
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert("content-length", body.len().into());
    respond
        .send_response(response, false)?
        .send_data(body, true)
}

/// Every byte of every message comes back, so that frames need not be understood.
async fn echo_call(
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false)?;
    while let Some(piece) = body.data().await.transpose()? {
        body.flow_control().release_capacity(piece.len())?;
        stream.send_data(piece, false)?;
    }
    let status = (
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    );
    stream.send_trailers(HeaderMap::from_iter([status]))
}

// === TCP ===

async fn serve_echo(mut socket: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        match socket.read(&mut buffer).await? {
            0 => return Ok(()),
            length => socket.write_all(&buffer[..length]).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::tests::load::content::Expect;
    use ::tests::load::grpc::{Call, Grpc, ReadMessage, Shape};
    use ::tests::load::http1::{Http1, HttpRequest, Reuse};
    use ::tests::load::http2::Http2;
    use ::tests::load::tcp::PingPong;
    use ::tests::load::websocket::WebSocket;
    use ::tests::load::{EntryAddr, Load, Plan, Traffic};

    use super::*;

    #[tokio::test]
    async fn every_kind_of_traffic_gets_its_answers() {
        let backend = start().expect("loopback can be bound");
        for (size, upload) in [(SMALL, 0), (MEDIUM, 0), (LARGE, 0), (SMALL, LARGE)] {
            let request = HttpRequest {
                upload,
                expect: Expect::Pattern(size as u64),
                ..HttpRequest::get(&format!("/{size}"))
            };
            answers(Http1::new(
                EntryAddr(backend.http1.0),
                &request,
                Reuse::KeepAlive,
            ))
            .await;
            answers(Http2::new(EntryAddr(backend.http2.0), request, 2)).await;
        }
        answers(PingPong::new(EntryAddr(backend.echo.0), 64)).await;
        answers(WebSocket::new(EntryAddr(backend.http1.0), 64)).await;
        answers(Grpc::new(EntryAddr(backend.http2.0), call(Shape::Unary), 2)).await;
        answers(Grpc::new(
            EntryAddr(backend.http2.0),
            call(Shape::Stream { messages: 3 }),
            2,
        ))
        .await;
    }

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let head = b"POST /128 HTTP/1.1\r\nContent-Length: 7\r\n\r\nbody";
        assert_eq!(parse(&head[..20]).expect("it is well formed"), None);
        let asked = Asked {
            head_length: head.len() - 4,
            body_length: 7,
            size: Some(SMALL),
            is_websocket: false,
        };
        assert_eq!(parse(head).expect("it is well formed"), Some(asked));
    }

    async fn answers(traffic: impl Traffic) {
        let plan = Plan {
            exchanges_max: 9,
            ..Plan::closed(2, Duration::from_secs(60))
        };
        let report = Load::start(plan, traffic)
            .expect("a thread starts")
            .finish()
            .await
            .expect("it ends");
        assert_eq!(
            (report.succeeded(), report.failures()),
            (9, 0),
            "{:?}",
            report.failed_exchanges()
        );
    }

    fn call(shape: Shape) -> Call {
        let read: ReadMessage = |_| Ok(None);
        Call {
            authority: "localhost".into(),
            path: "/x.Y/Echo".into(),
            message: Bytes::from_static(b"hello"),
            shape,
            read,
        }
    }
}
