//! The one place where a failure becomes what a client sees, in the client's own protocol.
//!
//! The log gets the cause, the client gets a status, a reason and, where another try makes sense, when to come back.

use std::{net::Shutdown, time::Duration};

use balancer_core::forwarded::BadRequest;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use thiserror::Error;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    admit::{Reason, Refused, seconds_up},
    config::ListenerProtocol,
    dial::DialError,
    forward::body::ResponseBody,
    net,
    observe::{Ended, Exchange},
    pick::PickError,
    route::NoRoute,
};

/// The answer to bytes that are no HTTP, for whoever reads along.
const NOT_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 32\r\nconnection: close\r\n\r\nthis port speaks http/1.1 and h2";

/// A fatal TLS alert, handshake_failure (RFC 8446 §6.2), in a TLS 1.0 record as every version reads it.
const TLS_ALERT: &[u8] = &[21, 3, 1, 0, 2, 2, 40];

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// When to come back where nothing tells when it will be better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The last word to a client that took too long over its head (RFC 9110 §15.5.9).
pub(crate) const HEAD_TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Why an exchange failed before an answer of a node began.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    #[error("connect is not allowed here")]
    ConnectRefused,
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Pick(#[from] PickError),
    #[error("no node could be reached: {0}")]
    Unreachable(DialError),
    #[error("the node went away without an answer: {0}")]
    Gone(hyper::Error),
    #[error("the node did not begin to answer in time")]
    Silent,
    #[error("the node's answer does not fit the websocket handshake")]
    BadHandshake,
}

impl Failure {
    pub(crate) fn ended(&self) -> Ended {
        match self {
            Self::BadRequest(_) | Self::ConnectRefused => Ended::BadRequest,
            Self::NoRoute(_) => Ended::NoRoute,
            Self::Refused(it) if it.reason == Reason::Rate => Ended::RateLimited,
            Self::Refused(_) => Ended::Overloaded,
            Self::Pick(PickError::NoEndpoint) => Ended::NoEndpoint,
            Self::Pick(PickError::QueueFull) => Ended::QueueFull,
            Self::Unreachable(_) => Ended::Unreachable,
            Self::Gone(_) | Self::BadHandshake => Ended::NodeGone,
            Self::Silent => Ended::NodeSilent,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::ConnectRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::Refused(it) if it.reason == Reason::Rate => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(_) | Self::Pick(_) | Self::Unreachable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Gone(_) | Self::BadHandshake => StatusCode::BAD_GATEWAY,
            Self::Silent => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What the client is told. Addresses and causes inside the cluster are not its business.
    fn reason(&self) -> String {
        match self {
            Self::Unreachable(_) => "no node could be reached".to_owned(),
            Self::Gone(_) => "the node went away without an answer".to_owned(),
            public => public.to_string(),
        }
    }

    /// The code of `grpc/statuscodes`: what a client library retries by.
    fn grpc_status(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::ConnectRefused => "3",
            Self::NoRoute(_) => "12",
            Self::Refused(it) if it.reason == Reason::Rate => "8",
            Self::Silent => "4",
            Self::Refused(_)
            | Self::Pick(_)
            | Self::Unreachable(_)
            | Self::Gone(_)
            | Self::BadHandshake => "14",
        }
    }

    /// When another try makes sense, where the balancer itself refused this one.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(it) => Some(it.retry_after),
            Self::Pick(_) | Self::Unreachable(_) => Some(RETRY_AFTER),
            _ => None,
        }
    }
}

/// Turns a failure into the client's answer and the exchange's end.
pub(crate) fn rescue(
    failure: &Failure,
    asks_grpc: bool,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    tracing::debug!(client = %exchange.client().address(), %failure, "an exchange failed");
    let (status, text, headers) = if asks_grpc {
        grpc(failure)
    } else {
        problem(failure)
    };
    exchange.answered(failure.status());
    exchange.end(failure.ended());
    let mut response = Response::new(ResponseBody::own(text, exchange));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Problem details, RFC 9457.
fn problem(failure: &Failure) -> (StatusCode, Bytes, HeaderMap) {
    let status = failure.status();
    let body = serde_json::json!({ "title": status.canonical_reason(), "status": status.as_u16(), "detail": failure.reason() });
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if let Some(span) = failure.retry_after() {
        headers.insert(header::RETRY_AFTER, seconds_up(span).into());
    }
    if let Failure::Refused(Refused {
        fields: Some(fields),
        ..
    }) = failure
    {
        insert_text(&mut headers, "ratelimit-policy", &fields.policy);
        insert_text(&mut headers, "ratelimit", &fields.limit);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(
            header::ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    (status, Bytes::from(body.to_string()), headers)
}

/// A gRPC answer of trailers only: the status is in the head, whose HTTP status is 200.
fn grpc(failure: &Failure) -> (StatusCode, Bytes, HeaderMap) {
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(
        "grpc-status",
        HeaderValue::from_static(failure.grpc_status()),
    );
    insert_text(&mut headers, "grpc-message", &failure.reason());
    if let Some(span) = failure.retry_after() {
        let ms = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        headers.insert("grpc-retry-pushback-ms", ms.into());
    }
    (StatusCode::OK, Bytes::new(), headers)
}

fn insert_text(headers: &mut HeaderMap, name: &'static str, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// Over the limit: HTTP is told when to come back, anything else is reset.
pub(crate) fn refuse_connection(stream: &TcpStream, protocol: ListenerProtocol) {
    let told = protocol == ListenerProtocol::Http && stream.try_write(FULL).is_ok();
    if !told {
        net::reset_on_close(stream);
    }
}

/// As [`refuse_connection`] for HTTP, with a moment for the answer to be read: most clients have sent a request by now, which closing
/// at once would answer with a reset.
pub(crate) async fn refuse_in_peace(stream: TcpStream) {
    say_and_close(stream, FULL).await;
}

pub(crate) async fn refuse_opaque(stream: TcpStream) {
    say_and_close(stream, NOT_HTTP).await;
}

pub(crate) async fn refuse_tls(stream: TcpStream) {
    say_and_close(stream, TLS_ALERT).await;
}

/// Closing a socket with unread bytes resets the connection, and a reset can overtake the answer; so the writing side is closed first
/// and a little of what comes is read.
async fn say_and_close(mut stream: TcpStream, text: &[u8]) {
    if stream.write_all(text).await.is_err() {
        return;
    }
    let _ = socket2::SockRef::from(&stream).shutdown(Shutdown::Write);
    let drained = async {
        let mut left = 64 << 10;
        let mut scrap = [0; 1024];
        while left > 0 {
            match tokio::io::AsyncReadExt::read(&mut stream, &mut scrap).await {
                Ok(n) if n > 0 => left -= n.min(left),
                _ => break,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), drained).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_for_strangers_has_the_length_it_says() {
        let text = std::str::from_utf8(NOT_HTTP).expect("it is ASCII");
        let (_, body) = text
            .split_once("\r\n\r\n")
            .expect("a head ends with an empty line");
        assert!(
            text.contains(&format!("content-length: {}\r\n", body.len())),
            "{} bytes",
            body.len()
        );
    }

    #[test]
    fn what_a_client_reads_names_nobody_inside() {
        let refused = std::io::Error::other("10.0.0.7:8000 refused");
        let failure = Failure::Unreachable(DialError::Connect(refused));
        assert!(
            failure.to_string().contains("10.0.0.7"),
            "the log must have the cause"
        );
        assert_eq!(failure.reason(), "no node could be reached");
    }
}
