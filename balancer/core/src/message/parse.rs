//! Reads heads of HTTP/1 from bytes: first where a head ends, then what it says.
//!
//! `httparse` reads the lines; what it is lenient about is refused before it sees them: a bare LF, a lone CR and NUL (RFC 9112 §2.2
//! lets a recipient accept the first, and every disagreement about line ends is a smuggled request).

use std::{borrow::Cow, mem::MaybeUninit};

use http::{Method, StatusCode, Version};

use super::{BadFraming, Fields, Known, Request, Response, framing};

/// Heads with at most as many fields are read without allocating a place for them.
const FIELDS_ON_STACK: usize = 128;

/// Fields that may follow a body.
const TRAILERS_MAX: usize = 100;

/// A target above this helps nobody, however large a head may be.
const TARGET_BYTES_MAX: usize = 65_534;

/// What a head may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub bytes: usize,
    pub fields: usize,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    #[error("a line does not end with cr lf")]
    LineEnd,
    #[error("a nul byte")]
    Nul,
    #[error("the head is too large")]
    TooLarge,
    #[error("the head has too many fields")]
    TooManyFields,
    #[error("the request target is too long")]
    TargetTooLong,
    #[error("the start line is not valid")]
    StartLine,
    #[error("the request target is not valid")]
    Target,
    #[error("a field is not valid")]
    Field,
    #[error("the version is not http/1.0 or http/1.1")]
    Version,
    #[error("the framing is ambiguous: {0}")]
    Framing(#[from] BadFraming),
}

/// What the bytes read so far hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadEnd {
    /// A whole head of so many bytes, the empty line included.
    At(usize),
    /// Not all of it; so many bytes were looked at and need not be looked at again.
    NotYet(usize),
}

/// Looks for the end of the head that begins at the start of `bytes`, of which `seen` were looked at before.
pub fn head_end(bytes: &[u8], seen: usize, limits: Limits) -> Result<HeadEnd, BadHead> {
    // A line may begin before what was seen last.
    let mut line = line_start(bytes, seen);
    let mut at = seen;
    while let Some(found) = bytes[at..].iter().position(|&it| it == b'\n') {
        let end = at + found;
        if end == 0 || bytes[end - 1] != b'\r' {
            return Err(BadHead::LineEnd);
        }
        if end - 1 == line {
            return if end < limits.bytes {
                Ok(HeadEnd::At(end + 1))
            } else {
                Err(BadHead::TooLarge)
            };
        }
        line = end + 1;
        at = line;
    }
    if bytes.len() >= limits.bytes {
        return Err(too_large(bytes));
    }
    Ok(HeadEnd::NotYet(bytes.len()))
}

fn line_start(bytes: &[u8], seen: usize) -> usize {
    let before = &bytes[..seen];
    before
        .iter()
        .rposition(|&it| it == b'\n')
        .map_or(0, |at| at + 1)
}

/// RFC 9110 §15.5.15 has a status of its own for a target that is too long.
fn too_large(bytes: &[u8]) -> BadHead {
    if bytes.contains(&b'\n') {
        BadHead::TooLarge
    } else {
        BadHead::TargetTooLong
    }
}

/// Reads a whole head, as [`head_end`] found it.
pub fn parse_request(head: &[u8], limits: Limits) -> Result<Request, BadHead> {
    check_bytes(head)?;
    with_room(limits, |room| {
        let mut parsed = httparse::Request::new(&mut []);
        let status = parsed
            .parse_with_uninit_headers(head, room)
            .map_err(|err| bad_request_head(err, head))?;
        if status.is_partial() {
            return Err(BadHead::StartLine);
        }
        request(&parsed, head)
    })
}

/// Reads a whole head of an answer to a request with `method`.
pub fn parse_response(head: &[u8], limits: Limits, method: &Method) -> Result<Response, BadHead> {
    check_bytes(head)?;
    with_room(limits, |room| {
        let mut parsed = httparse::Response::new(&mut []);
        let status = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, head, room)
            .map_err(bad_head)?;
        if status.is_partial() {
            return Err(BadHead::StartLine);
        }
        response(&parsed, head, method)
    })
}

/// Reads the trailers that follow a chunked body: field lines and an empty line, without the last chunk before them.
pub(super) fn parse_trailers(bytes: &[u8]) -> Result<Fields, BadHead> {
    check_bytes(bytes)?;
    let mut room = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    match httparse::parse_headers(bytes, &mut room).map_err(bad_head)? {
        httparse::Status::Complete((_, lines)) => fields(lines, bytes.len()),
        httparse::Status::Partial => Err(BadHead::Field),
    }
}

fn with_room<'b, T>(
    limits: Limits,
    parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> Result<T, BadHead>,
) -> Result<T, BadHead> {
    if limits.fields <= FIELDS_ON_STACK {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
        parse(&mut room[..limits.fields])
    } else {
        parse(&mut vec![MaybeUninit::uninit(); limits.fields])
    }
}

/// A CR that ends no line, or a NUL, is invalid wherever it stands (RFC 9112 §2.2, RFC 9110 §5.5).
fn check_bytes(head: &[u8]) -> Result<(), BadHead> {
    let mut rest = head;
    while let Some(at) = rest.iter().position(|&it| it == b'\r') {
        if rest.get(at + 1) != Some(&b'\n') {
            return Err(BadHead::LineEnd);
        }
        rest = &rest[at + 2..];
    }
    if head.contains(&0) {
        return Err(BadHead::Nul);
    }
    Ok(())
}

/// Only a start line of three parts can have a version that is not ours; in any other the version is not where it should be.
fn bad_request_head(err: httparse::Error, head: &[u8]) -> BadHead {
    let line = head.split(|&it| it == b'\r').next().unwrap_or_default();
    let is_of_three_parts = line.iter().filter(|&&it| it == b' ').count() == 2;
    match bad_head(err) {
        BadHead::Version if !is_of_three_parts => BadHead::StartLine,
        err => err,
    }
}

fn bad_head(err: httparse::Error) -> BadHead {
    match err {
        httparse::Error::TooManyHeaders => BadHead::TooManyFields,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => BadHead::Field,
        httparse::Error::NewLine => BadHead::LineEnd,
        httparse::Error::Version => BadHead::Version,
        httparse::Error::Status | httparse::Error::Token => BadHead::StartLine,
    }
}

fn request(parsed: &httparse::Request<'_, '_>, head: &[u8]) -> Result<Request, BadHead> {
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(BadHead::StartLine);
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| BadHead::StartLine)?;
    let version = version(parsed.version)?;
    let mut fields = fields(parsed.headers, head.len() + ROOM_FOR_OURS)?;
    let (authority, path) = target_parts(&method, target)?;
    let path = fields.keep(path.as_bytes());
    let authority = authority.map(|it| fields.keep(it.as_bytes()));
    Ok(Request {
        framing: framing::of_request(version, &fields)?,
        method,
        version,
        is_extended_connect: false,
        is_https_target: is_https(target),
        authority,
        path,
        fields,
    })
}

/// What the balancer adds to a head fits without another allocation.
const ROOM_FOR_OURS: usize = 512;

fn response(
    parsed: &httparse::Response<'_, '_>,
    head: &[u8],
    method: &Method,
) -> Result<Response, BadHead> {
    let version = version(parsed.version)?;
    let status = parsed
        .code
        .and_then(|it| StatusCode::from_u16(it).ok())
        .ok_or(BadHead::StartLine)?;
    let fields = fields(parsed.headers, head.len() + ROOM_FOR_OURS)?;
    Ok(Response {
        framing: framing::of_response(version, status, method, &fields)?,
        status,
        version,
        fields,
    })
}

fn version(minor: Option<u8>) -> Result<Version, BadHead> {
    match minor {
        Some(0) => Ok(Version::HTTP_10),
        Some(1) => Ok(Version::HTTP_11),
        _ => Err(BadHead::Version),
    }
}

fn fields(lines: &[httparse::Header<'_>], capacity: usize) -> Result<Fields, BadHead> {
    // A few more lines than came: the balancer adds some of its own.
    let mut fields = Fields::with_capacity(capacity, lines.len() + 8);
    for line in lines {
        let known = Known::of(line.name.as_bytes());
        let name = fields.keep(line.name.as_bytes());
        let value = fields.keep(line.value.trim_ascii());
        if name.len == 0 {
            return Err(BadHead::Field);
        }
        fields.add(known, name, value);
    }
    Ok(fields)
}

/// The forms of a target (RFC 9112 §3.2): its authority, if it has one, and its path and query.
fn target_parts<'a>(
    method: &Method,
    target: &'a str,
) -> Result<(Option<&'a str>, Cow<'a, str>), BadHead> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(BadHead::TargetTooLong);
    }
    let is_visible = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !target.bytes().all(is_visible) {
        return Err(BadHead::Target);
    }
    if *method == Method::CONNECT {
        return Ok((Some(target), "".into()));
    }
    match target.as_bytes() {
        [b'/', ..] => Ok((None, target.into())),
        b"*" if *method == Method::OPTIONS => Ok((None, target.into())),
        _ => absolute(target),
    }
}

fn is_https(target: &str) -> bool {
    let scheme = target.get(..8).unwrap_or_default();
    scheme.eq_ignore_ascii_case("https://")
}

fn absolute(target: &str) -> Result<(Option<&str>, Cow<'_, str>), BadHead> {
    let (scheme, rest) = target.split_once("://").ok_or(BadHead::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(BadHead::Target);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match path.as_bytes() {
        [b'/', ..] => Ok((Some(authority), path.into())),
        // An empty path is the root (RFC 9110 §4.2.3), whether or not a query follows.
        _ => Ok((Some(authority), format!("/{path}").into())),
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 65_536,
            fields: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Framing;
    use proptest::prelude::*;

    #[test]
    fn a_head_ends_at_its_empty_line() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let end = head.len() - 4;
        assert_eq!(head_end(head, 0, Limits::default()), Ok(HeadEnd::At(end)));
        for seen in 0..end - 1 {
            let part = head_end(&head[..seen], 0, Limits::default());
            assert_eq!(part, Ok(HeadEnd::NotYet(seen)));
            let whole = head_end(head, seen, Limits::default());
            assert_eq!(whole, Ok(HeadEnd::At(end)), "{seen}");
        }
    }

    #[test]
    fn line_ends_are_cr_lf() {
        for head in [
            &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
            b"\n",
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        ] {
            let found = head_end(head, 0, Limits::default());
            assert_eq!(found, Err(BadHead::LineEnd), "{}", head.escape_ascii());
        }
        for head in [
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        ] {
            refused(head, BadHead::LineEnd);
        }
        refused("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", BadHead::Nul);
    }

    #[test]
    fn a_head_is_bounded() {
        let limits = Limits {
            bytes: 64,
            fields: 2,
        };
        let long = [b'a'; 64];
        assert_eq!(head_end(&long, 0, limits), Err(BadHead::TargetTooLong));
        let lines = [&b"GET / HTTP/1.1\r\n"[..], &long].concat();
        assert_eq!(head_end(&lines, 0, limits), Err(BadHead::TooLarge));
        let three = b"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n";
        let parsed = parse_request(three, limits).map(|_| ());
        assert_eq!(parsed, Err(BadHead::TooManyFields));
    }

    #[test]
    fn a_request_is_read() {
        let head =
            read("PUT /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nX:  y \r\ncontent-length: 3\r\n\r\n");
        assert_eq!(head.method, Method::PUT);
        assert_eq!(head.path_and_query(), "/a/b?c=d");
        assert_eq!(head.path(), "/a/b");
        assert_eq!(head.host(), Some("a.example"));
        assert_eq!(head.fields.named("x"), Some(&b"y"[..]));
        assert_eq!(head.framing, Framing::Length(3));
        assert_eq!(head.version, Version::HTTP_11);
    }

    #[test]
    fn a_target_has_four_forms() {
        let absolute = read("GET http://a.example:8/x?y HTTP/1.1\r\nHost: a.example:8\r\n\r\n");
        assert_eq!(absolute.authority(), Some("a.example:8"));
        assert_eq!(absolute.path_and_query(), "/x?y");
        let bare = read("GET HTTP://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(bare.path_and_query(), "/");
        let star = read("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(star.path_and_query(), "*");
        let connect = read("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
        assert_eq!(connect.authority(), Some("a:443"));
        for target in ["*", "a", "ftp://a/", "/a#b", "/\u{e9}", "a:443"] {
            refused(
                &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
                BadHead::Target,
            );
        }
    }

    #[test]
    fn fields_are_strict() {
        for line in [
            "Host : a",
            " Host: a",
            "Host: a\r\n b",
            ": a",
            "a b: c",
            "a",
            "\u{e9}: x",
        ] {
            let head = format!("GET / HTTP/1.1\r\n{line}\r\n\r\n");
            let parsed = parse_request(head.as_bytes(), Limits::default());
            assert!(parsed.is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_response_is_read() {
        let head = b"HTTP/1.1 204 \r\ncontent-length: 3\r\n\r\n";
        let response = parse_response(head, Limits::default(), &Method::GET).expect("it is valid");
        assert_eq!(response.status, 204);
        assert_eq!(response.framing, Framing::Empty);
        let split = b"HTTP/1.1 200 OK\r\na: b\nset-cookie: x\r\n\r\n";
        assert!(head_end(split, 0, Limits::default()).is_err());
    }

    fn read(head: &str) -> Request {
        parse_request(head.as_bytes(), Limits::default()).expect("the head is valid")
    }

    fn refused(head: &str, why: BadHead) {
        let parsed = parse_request(head.as_bytes(), Limits::default()).map(|_| ());
        assert_eq!(parsed, Err(why), "{head:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = head_end(&bytes, 0, Limits::default());
            let _ = parse_request(&bytes, Limits::default());
            let _ = parse_response(&bytes, Limits::default(), &Method::GET);
            let _ = parse_trailers(&bytes);
        }

        #[test]
        fn what_was_seen_before_makes_no_difference(text in "[a\r\n]{0,40}", cut in 0usize..40) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let whole = head_end(bytes, 0, Limits::default());
            if let Ok(HeadEnd::NotYet(seen)) = head_end(&bytes[..cut], 0, Limits::default()) {
                prop_assert_eq!(head_end(bytes, seen, Limits::default()), whole);
            }
        }
    }
}
