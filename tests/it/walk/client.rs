//! A client of one connection, in either version of HTTP, that collects answers whole.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, request};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::origin::web::Speaks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The host that requests are for unless they say otherwise.
pub(super) const HOST: &str = "app.example";

pub(super) struct Client {
    sender: Sender,
    speaks: Speaks,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// An answer with all that belongs to it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr, speaks: Speaks) -> Self {
        let stream = TcpStream::connect(address).await;
        Self::on(stream.expect("the balancer listens"), speaks).await
    }

    /// On a connection that was made already.
    pub(super) async fn on<S>(stream: S, speaks: Speaks) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        let sender = match speaks {
            Speaks::Http1 => {
                let (sender, connection) = http1::handshake(io).await.expect("a fresh connection");
                tokio::spawn(connection.with_upgrades());
                Sender::Http1(sender)
            }
            Speaks::Http2 => {
                let made = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = made.expect("a fresh connection");
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Self { sender, speaks }
    }

    /// A request in this client's version.
    pub(super) fn request(&self, method: Method, path: &str) -> request::Builder {
        match self.speaks {
            Speaks::Http1 => Request::builder()
                .method(method)
                .uri(path)
                .header("host", HOST),
            Speaks::Http2 => {
                let uri = format!("http://{HOST}{path}");
                Request::builder()
                    .method(method)
                    .uri(uri)
                    .version(Version::HTTP_2)
            }
        }
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer {
        let request = self.request(Method::GET, path).body(nothing());
        self.ask(request.expect("a valid request")).await
    }

    pub(super) async fn post(&mut self, path: &str, body: Body) -> Answer {
        let request = self.request(Method::POST, path).body(body);
        self.ask(request.expect("a valid request")).await
    }

    /// Sends a request and collects the answer.
    pub(super) async fn ask(&mut self, request: Request<Body>) -> Answer {
        let response = self.send(request).await.expect("the balancer answers");
        collect(response).await.expect("the answer is whole")
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

impl Answer {
    /// A field's value, or nothing.
    pub(super) fn field(&self, name: &str) -> &str {
        let value = self.headers.get(name).map(HeaderValue::to_str);
        value
            .transpose()
            .expect("tests send visible ASCII")
            .unwrap_or_default()
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is a text")
    }
}

/// # Errors
/// When the answer breaks off.
pub(super) async fn collect(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok(Answer {
        status: parts.status.as_u16(),
        version: parts.version,
        headers: parts.headers,
        body: collected.to_bytes(),
        trailers,
    })
}

pub(super) fn nothing() -> Body {
    whole(Bytes::new())
}

/// A body whose length is known.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body whose length is not known, and what follows it.
pub(super) fn in_pieces(bytes: &Bytes, piece_bytes: usize, trailers: Option<HeaderMap>) -> Body {
    let pieces: Vec<_> = bytes
        .chunks(piece_bytes)
        .map(Bytes::copy_from_slice)
        .collect();
    let frames = pieces
        .into_iter()
        .map(Frame::data)
        .chain(trailers.map(Frame::trailers));
    StreamBody::new(tokio_stream::iter(frames.map(Ok))).boxed_unsync()
}
