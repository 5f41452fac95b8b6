//! The one place where a failure becomes what a client sees, in the client's own protocol.
//!
//! The log gets the cause, the client gets a status, a reason and, where another try makes sense, when to come back.

use std::{future::poll_fn, time::Duration};

use balancer_core::{
    forwarded::BadRequest,
    message::{BadHead, ChunkedError, Fields, Framing, Known, Response, write_response},
};
use http::StatusCode;
use thiserror::Error;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    admit::{RateFields, Reason, Refused, seconds_up},
    config::ListenerProtocol,
    dial::{AskError, DialError, OpenError},
    forward::{
        answer,
        http::{After, Talk},
    },
    net,
    observe::Ended,
    pick::PickError,
    route::NoRoute,
    side::{HeadError, Http1, Side},
    stream::Stream,
};

/// The answer to bytes that are no HTTP, for whoever reads along.
const NOT_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 32\r\nconnection: close\r\n\r\nthis port speaks http/1.1 and h2";

/// A fatal TLS alert, handshake_failure (RFC 8446 §6.2), in a TLS 1.0 record as every version reads it.
const TLS_ALERT: &[u8] = &[21, 3, 1, 0, 2, 2, 40];

/// The answer to a request in the clear where TLS is spoken, which is what most such requests are meant for.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 20\r\nconnection: close\r\n\r\nthis port speaks TLS";

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// How long somebody who is refused may take to read why, and to stop sending.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    #[error(transparent)]
    BadHead(BadHead),
    #[error("the body is not valid: {0}")]
    BadBody(ChunkedError),
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
    #[error("the node did not take the request: {0}")]
    NotTaken(h2::Error),
    #[error("the node went away without an answer: {0}")]
    Gone(AskError),
    #[error("the node's answer is not valid: {0}")]
    BadAnswer(HeadError),
    #[error("the node did not begin to answer in time")]
    Silent,
    #[error("no node began to answer within the time of a try")]
    TrySilent,
    #[error("the exchange took longer than it may")]
    TooLong,
    #[error("the node's answer does not fit the websocket handshake")]
    BadHandshake,
    #[error("the client went away")]
    ClientGone,
    #[error("the body came too slowly")]
    ClientSlow,
    #[error("this balancer is leaving")]
    Drained,
}

impl Failure {
    pub(crate) fn ended(&self) -> Ended {
        match self {
            Self::BadRequest(_) | Self::BadHead(_) | Self::BadBody(_) | Self::ConnectRefused => {
                Ended::BadRequest
            }
            Self::NoRoute(_) => Ended::NoRoute,
            Self::Refused(it) if it.reason == Reason::Rate => Ended::RateLimited,
            Self::Refused(_) => Ended::Overloaded,
            Self::Pick(PickError::NoEndpoint) => Ended::NoEndpoint,
            Self::Pick(PickError::QueueFull) => Ended::QueueFull,
            Self::Unreachable(_) | Self::NotTaken(_) => Ended::Unreachable,
            Self::Gone(_) | Self::BadHandshake | Self::BadAnswer(_) => Ended::NodeGone,
            Self::Silent | Self::TrySilent => Ended::NodeSilent,
            Self::TooLong => Ended::TooLong,
            Self::ClientGone => Ended::ClientGone,
            Self::ClientSlow => Ended::ClientSlow,
            Self::Drained => Ended::Drained,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadHead(BadHead::TargetTooLong) => StatusCode::URI_TOO_LONG,
            Self::BadHead(BadHead::TooLarge | BadHead::TooManyFields) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::BadHead(BadHead::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::BadRequest(_) | Self::BadHead(_) | Self::BadBody(_) => StatusCode::BAD_REQUEST,
            Self::ClientGone | Self::ClientSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ConnectRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::Refused(it) if it.reason == Reason::Rate => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(_)
            | Self::Pick(_)
            | Self::Unreachable(_)
            | Self::NotTaken(_)
            | Self::Drained => StatusCode::SERVICE_UNAVAILABLE,
            Self::Gone(_) | Self::BadHandshake | Self::BadAnswer(_) => StatusCode::BAD_GATEWAY,
            Self::Silent | Self::TrySilent | Self::TooLong => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What the client is told. Addresses and causes inside the cluster are not its business.
    fn reason(&self) -> String {
        match self {
            Self::Unreachable(_) | Self::NotTaken(_) => "no node could be reached".to_owned(),
            Self::Gone(_) => "the node went away without an answer".to_owned(),
            Self::BadAnswer(_) => "the node's answer is not valid".to_owned(),
            public => public.to_string(),
        }
    }

    /// The code of `grpc/statuscodes`: what a client library retries by.
    fn grpc_status(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::BadHead(_) | Self::BadBody(_) | Self::ConnectRefused => "3",
            Self::NoRoute(_) => "12",
            Self::Refused(it) if it.reason == Reason::Rate => "8",
            Self::ClientGone => "1",
            Self::Silent | Self::TrySilent | Self::TooLong | Self::ClientSlow => "4",
            Self::Refused(_)
            | Self::Pick(_)
            | Self::Unreachable(_)
            | Self::NotTaken(_)
            | Self::Gone(_)
            | Self::BadAnswer(_)
            | Self::BadHandshake
            | Self::Drained => "14",
        }
    }

    /// When another try makes sense, where the balancer itself refused this one.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(it) => Some(it.retry_after),
            Self::Pick(_) | Self::Unreachable(_) | Self::NotTaken(_) | Self::Drained => {
                Some(RETRY_AFTER)
            }
            _ => None,
        }
    }
}

impl From<OpenError> for Failure {
    fn from(err: OpenError) -> Self {
        match err {
            OpenError::Head(err) => err.into(),
            OpenError::Closed(err) => Self::NotTaken(err),
        }
    }
}

/// Turns a failure into the client's answer and the exchange's end.
pub(crate) async fn rescue(mut talk: Talk<'_>, failure: Failure) -> After {
    tracing::debug!(client = %talk.client.address(), %failure, "an exchange failed");
    talk.record.end(failure.ended());
    talk.record.answered(failure.status());
    if matches!(failure, Failure::ClientGone) {
        return break_off(&mut talk, Ended::ClientGone);
    }
    let (response, text) = if talk.manner.asks_grpc {
        grpc(&failure)
    } else {
        problem(&failure)
    };
    let after = answer::own(talk, response, text.as_bytes()).await;
    match (after, failure) {
        // Nobody knows where the next request begins.
        (After::Reuse, Failure::BadHead(_) | Failure::BadBody(_)) => After::Close,
        (after, _) => after,
    }
}

/// The head of a request could not be read: answers it as far as that is possible, and the connection is over.
pub(crate) fn bad_head(side: &mut Http1, err: BadHead) -> StatusCode {
    let (response, text) = problem(&Failure::BadHead(err));
    side.send_head(Framing::Length(text.len() as u64), |out| {
        write_response(out, &response, Framing::Length(text.len() as u64));
        out.extend_from_slice(b"connection: close\r\n\r\n");
        out.extend_from_slice(text.as_bytes());
    });
    response.status
}

/// An exchange ends in the middle of its answer: the client can see that something is missing.
pub(crate) fn break_off(talk: &mut Talk<'_>, ended: Ended) -> After {
    if let Side::Http2(side) = talk.side {
        if ended == Ended::Drained && talk.manner.asks_grpc && side.has_begun_to_answer() {
            // A status that client libraries retry; the connection is left to its other streams.
            let mut trailers = Fields::default();
            trailers.push(b"grpc-status", b"14");
            trailers.push(b"grpc-message", b"this balancer is leaving");
            let _ = side.finish(Some(&trailers));
        } else {
            side.reset(reset_code(ended));
        }
    }
    After::Close
}

fn reset_code(ended: Ended) -> h2::Reason {
    match ended {
        Ended::ClientGone => h2::Reason::CANCEL,
        Ended::ClientSlow | Ended::ClientStuck => h2::Reason::ENHANCE_YOUR_CALM,
        _ => h2::Reason::INTERNAL_ERROR,
    }
}

/// Problem details, RFC 9457.
fn problem(failure: &Failure) -> (Response, String) {
    let status = failure.status();
    let body = serde_json::json!({ "title": status.canonical_reason(), "status": status.as_u16(), "detail": failure.reason() }).to_string();
    let mut head = own_head(status, b"application/problem+json");
    head.framing = Framing::Length(body.len() as u64);
    if let Some(span) = failure.retry_after() {
        let seconds = seconds_up(span).to_string();
        head.fields
            .push_known(Known::RetryAfter, seconds.as_bytes());
    }
    if let Failure::Refused(Refused {
        fields: Some(fields),
        ..
    }) = failure
    {
        let RateFields { policy, limit } = &**fields;
        head.fields.push(b"ratelimit-policy", policy.as_bytes());
        head.fields.push(b"ratelimit", limit.as_bytes());
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        head.fields
            .push(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    (head, body)
}

/// A gRPC answer of trailers only: the status is in the head, whose HTTP status is 200.
fn grpc(failure: &Failure) -> (Response, String) {
    let mut head = own_head(StatusCode::OK, b"application/grpc");
    head.fields
        .push(b"grpc-status", failure.grpc_status().as_bytes());
    head.fields
        .push(b"grpc-message", failure.reason().as_bytes());
    if let Some(span) = failure.retry_after() {
        let ms = span.as_nanos().div_ceil(1_000_000).to_string();
        head.fields.push(b"grpc-retry-pushback-ms", ms.as_bytes());
    }
    (head, String::new())
}

fn own_head(status: StatusCode, content_type: &[u8]) -> Response {
    let mut head = Response::new(status, http::Version::HTTP_11);
    head.fields.push_known(Known::ContentType, content_type);
    head
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
    say_and_close(Stream::Plain(stream), FULL).await;
}

pub(crate) async fn refuse_opaque(stream: Stream) {
    say_and_close(stream, NOT_HTTP).await;
}

pub(crate) async fn refuse_tls(stream: Stream) {
    say_and_close(stream, TLS_ALERT).await;
}

/// To HTTP in the clear, where TLS is spoken.
pub(crate) async fn refuse_clear(stream: Stream) {
    say_and_close(stream, NOT_TLS).await;
}

/// Closing a socket with unread bytes resets the connection, and a reset can overtake the answer; so the writing side is closed first
/// and a little of what comes is read.
async fn say_and_close(mut stream: Stream, text: &[u8]) {
    let said = async {
        stream.write_all(text).await?;
        stream.flush().await
    };
    match tokio::time::timeout(LAST_WORDS, said).await {
        Ok(Ok(())) => poll_fn(|cx| stream.poll_end_writing(cx)).await,
        _ => return,
    }
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
    let _ = tokio::time::timeout(LAST_WORDS, drained).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_for_strangers_have_the_length_they_say() {
        for text in [NOT_HTTP, NOT_TLS] {
            let text = std::str::from_utf8(text).expect("it is ASCII");
            let (head, body) = text
                .split_once("\r\n\r\n")
                .expect("a head ends with an empty line");
            let length = format!("content-length: {}", body.len());
            assert!(head.contains(&length), "{} bytes", body.len());
        }
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
