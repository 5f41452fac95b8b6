//! The one place where what went wrong becomes what a client sees.

use std::{any::Any, io};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use node_core::{range, site};
use tonic::Code;

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("nothing is served under this path")]
    NotFound,
    #[error("the path of the request cannot be read")]
    Malformed,
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    #[error("the range lies beyond the end")]
    RangeNotSatisfiable { size: u64 },
    #[error("the answer took too long")]
    Overdue,
    #[error("reading the file failed: {0}")]
    Broken(#[from] io::Error),
    #[error("the node made a mistake")]
    Panicked,
}

/// How a client wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// A line of text.
    Text,
    /// `application/problem+json` (RFC 9457).
    Problem,
    /// `grpc-status` and `grpc-message`.
    Grpc,
}

impl Face {
    pub(crate) fn of(path: &str, headers: &HeaderMap) -> Self {
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .map_or(&b""[..], HeaderValue::as_bytes);
        if content_type.starts_with(b"application/grpc") {
            return Self::Grpc;
        }
        match path {
            "/whoami" => Self::Problem,
            _ => Self::Text,
        }
    }
}

/// The answer to a request that was refused; what is our fault is logged.
pub(crate) fn answer(refusal: &Refusal, face: Face) -> Response<Body> {
    let status = status(refusal);
    if status.is_server_error() {
        tracing::error!(error = %refusal, "request failed");
    }
    let mut response = match face {
        Face::Text => said(
            status,
            "text/plain; charset=utf-8",
            format!("{}\n", message(refusal)),
        ),
        Face::Problem => said(status, "application/problem+json", problem(refusal, status)),
        Face::Grpc => return tonic::Status::new(code(refusal), message(refusal)).into_http(),
    };
    add_fields(refusal, response.headers_mut());
    response
}

/// The answer where the code that should have given one panicked.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Refusal {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic = text.unwrap_or("without a message"),
        "a request caused a panic"
    );
    Refusal::Panicked
}

impl From<site::Refusal> for Refusal {
    fn from(refusal: site::Refusal) -> Self {
        match refusal {
            site::Refusal::Malformed => Self::Malformed,
            site::Refusal::Forbidden => Self::NotFound,
        }
    }
}

fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::Malformed => StatusCode::BAD_REQUEST,
        Refusal::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Refusal::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Refusal::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        Refusal::Overdue => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Broken(_) | Refusal::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NotFound | Refusal::MethodNotAllowed => Code::Unimplemented,
        Refusal::Malformed => Code::InvalidArgument,
        Refusal::PreconditionFailed => Code::FailedPrecondition,
        Refusal::RangeNotSatisfiable { .. } => Code::OutOfRange,
        Refusal::Overdue => Code::DeadlineExceeded,
        Refusal::Broken(_) | Refusal::Panicked => Code::Internal,
    }
}

/// What the client may know: of a broken disk, nothing but that it is not the client's fault.
fn message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Broken(_) => "the node cannot read the file".to_owned(),
        refusal => refusal.to_string(),
    }
}

fn problem(refusal: &Refusal, status: StatusCode) -> String {
    serde_json::json!({
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": message(refusal),
    })
    .to_string()
}

fn said(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn add_fields(refusal: &Refusal, headers: &mut HeaderMap) {
    match refusal {
        Refusal::MethodNotAllowed => {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        Refusal::RangeNotSatisfiable { size } => {
            let value = HeaderValue::try_from(range::content_range_of_none(*size));
            headers.insert(
                header::CONTENT_RANGE,
                value.expect("digits are visible characters"),
            );
        }
        Refusal::Overdue => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
}
