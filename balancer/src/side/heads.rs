//! Heads between the balancer's own form and that of the `h2` crate.

use balancer_core::{
    forwarded::BadRequest,
    message::{Fields, Framing, Known, Request, Response},
};
use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, Version,
    uri::{PathAndQuery, Scheme},
};
use thiserror::Error;

/// Why a head cannot be written in HTTP/2.
#[derive(Debug, Error)]
pub(crate) enum HeadError {
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    #[error("a field that http/2 does not allow")]
    Field,
}

/// `is_whole` says that the stream has ended with the head.
///
/// # Errors
/// When a field is malformed, which the library does not see.
pub(crate) fn request_from_http2(
    parts: &http::request::Parts,
    is_whole: bool,
) -> Result<Request, HeadError> {
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let authority = parts.uri.authority().map(|it| it.as_str().as_bytes());
    let mut head = Request::new(
        parts.method.clone(),
        Version::HTTP_2,
        authority,
        path.as_bytes(),
    );
    head.is_https_target = parts.uri.scheme() == Some(&Scheme::HTTPS);
    head.is_extended_connect = parts
        .extensions
        .get::<Protocol>()
        .is_some_and(|it| it.as_str() == "websocket");
    head.framing = framing(is_whole);
    // A request has a scheme, and an empty one is none (§8.3.1).
    let has_empty_scheme = parts.uri.scheme_str() == Some("");
    if has_empty_scheme || !parts.headers.iter().all(is_valid) {
        return Err(HeadError::Field);
    }
    add_fields(&mut head.fields, &parts.headers);
    Ok(head)
}

/// RFC 9113 §8.2.1, where the library is more lenient: names are tokens, and values have no space around them.
fn is_valid((name, value): (&HeaderName, &HeaderValue)) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let value = value.as_bytes();
    !name.as_str().contains('"') && !is_space(value.first()) && !is_space(value.last())
}

pub(crate) fn response_from_http2(parts: &http::response::Parts, is_whole: bool) -> Response {
    let mut head = Response::new(parts.status, Version::HTTP_2);
    head.framing = framing(is_whole);
    add_fields(&mut head.fields, &parts.headers);
    head
}

/// # Errors
/// When the head holds what HTTP/1.1 allows and HTTP/2 does not.
pub(crate) fn request_to_http2(
    head: &Request,
    is_https: bool,
) -> Result<http::Request<()>, HeadError> {
    let scheme = if is_https {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    let authority = head.authority().ok_or(BadRequest::MissingHost)?;
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(head.path_and_query())
        .build()
        .map_err(|_| BadRequest::InvalidTarget)?;
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri;
    *request.headers_mut() = checked_fields(&head.fields)?;
    Ok(request)
}

/// # Errors
/// When the node's head holds what HTTP/2 does not allow.
pub(crate) fn response_to_http2(head: &Response) -> Result<http::Response<()>, HeadError> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = checked_fields(&head.fields)?;
    Ok(response)
}

pub(super) fn fields_from_http2(map: &HeaderMap) -> Fields {
    let mut fields = Fields::default();
    add_fields(&mut fields, map);
    fields
}

/// Trailers; a line that HTTP/2 does not allow is left out, for the message before it has been sent.
pub(super) fn fields_to_http2(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields.iter() {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    map
}

fn checked_fields(fields: &Fields) -> Result<HeaderMap, HeadError> {
    let map = fields_to_http2(fields);
    if map.len() == fields.len() {
        Ok(map)
    } else {
        Err(HeadError::Field)
    }
}

fn add_fields(fields: &mut Fields, map: &HeaderMap) {
    for (name, value) in map {
        fields.push(name.as_str().as_bytes(), value.as_bytes());
    }
}

fn framing(is_whole: bool) -> Framing {
    if is_whole {
        Framing::Empty
    } else {
        Framing::Stream
    }
}

/// How the body of a message with this head is framed on an HTTP/1.1 connection.
pub(crate) fn framing_on_http1(framing: Framing, fields: &Fields) -> Framing {
    match framing {
        Framing::Stream => length(fields).map_or(Framing::Chunked, Framing::Length),
        Framing::UntilClose => Framing::Chunked,
        told => told,
    }
}

/// HTTP/2 has checked it against the body (RFC 9113 §8.1.1).
fn length(fields: &Fields) -> Option<u64> {
    std::str::from_utf8(fields.only(Known::ContentLength)?)
        .ok()?
        .parse()
        .ok()
}
