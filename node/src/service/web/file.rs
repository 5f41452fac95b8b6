//! Answers with a file: whole, in part, or with no more than the news that it has not changed.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    time::{Duration, SystemTime},
};

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use node_core::{
    conditional::{Etag, Validators, Verdict, judge, range_holds},
    negotiate::Coding,
    range::{self, Multipart, Ranges, Span},
};

use super::body::{FileBody, Piece};
use crate::rescue::Refusal;

/// A file younger than this may change again without a new time of modification: the clock of file systems ticks
/// every few milliseconds, and that of some every two seconds.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// A file that is open, and what is said about it.
pub(super) struct Representation {
    file: File,
    size: u64,
    modified: SystemTime,
    /// The text of the entity tag: size, time and inode, so that a replaced file has another.
    tag: String,
    content_type: String,
    coding: Option<Coding>,
    is_negotiated: bool,
}

/// The part of a request that decides how a file is answered.
pub(super) struct Asked<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
}

impl<'a> Asked<'a> {
    pub(super) fn of(request: &'a Parts) -> Self {
        Self {
            method: &request.method,
            headers: &request.headers,
        }
    }

    /// Ranges are for GET (RFC 9110 §14.2).
    fn range(&self) -> Option<&str> {
        let range = self
            .headers
            .get(header::RANGE)
            .filter(|_| self.method == Method::GET)?;
        range.to_str().ok()
    }
}

impl Representation {
    /// The file as it is; the type follows from its name.
    pub(super) fn of(path: &str, file: File, metadata: &Metadata) -> io::Result<Self> {
        let tag = format!(
            "{:x}-{:x}-{:x}-{:x}",
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ino()
        );
        Ok(Self {
            file,
            size: metadata.len(),
            modified: metadata.modified()?,
            tag,
            content_type: content_type(path),
            coding: None,
            is_negotiated: false,
        })
    }

    /// The same in one of several forms that a client may choose from.
    pub(super) fn in_coding(self, coding: Option<Coding>, is_negotiated: bool) -> Self {
        Self {
            coding,
            is_negotiated,
            ..self
        }
    }

    pub(super) fn answer(
        self,
        asked: Asked<'_>,
        now: SystemTime,
    ) -> Result<Response<Body>, Refusal> {
        let validators = self.validators(now);
        match judge(asked.method, asked.headers, &validators) {
            Verdict::Failed => Err(Refusal::PreconditionFailed),
            Verdict::NotModified => Ok(self.not_modified(&validators, now)),
            Verdict::Serve => {
                let field = asked
                    .range()
                    .filter(|_| range_holds(asked.headers, &validators, now));
                let ranges = field.map_or(Ranges::Whole, |field| range::resolve(field, self.size));
                let mut response = self.ranges(ranges)?;
                add_validators(response.headers_mut(), &validators, now);
                Ok(response)
            }
        }
    }

    /// The site's own page for what is not there.
    pub(super) fn not_found(self) -> Response<Body> {
        let mut response = self.whole();
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().remove(header::ACCEPT_RANGES);
        response
    }

    fn validators(&self, now: SystemTime) -> Validators {
        let is_settled = self.modified + SETTLED_AFTER <= now;
        let etag = if is_settled { Etag::strong } else { Etag::weak };
        Validators {
            etag: etag(self.tag.clone()),
            modified: self.modified,
        }
    }

    fn not_modified(self, validators: &Validators, now: SystemTime) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        add_validators(response.headers_mut(), validators, now);
        self.add_vary(response.headers_mut());
        response
    }

    fn ranges(self, ranges: Ranges) -> Result<Response<Body>, Refusal> {
        match ranges {
            Ranges::Whole => Ok(self.whole()),
            Ranges::One(span) => Ok(self.part(span)),
            Ranges::Many(spans) => Ok(self.parts(&spans)),
            Ranges::Unsatisfiable => Err(Refusal::RangeNotSatisfiable { size: self.size }),
        }
    }

    fn whole(self) -> Response<Body> {
        let pieces: Vec<_> = Span::whole(self.size).iter().map(Piece::of).collect();
        self.with(StatusCode::OK, pieces)
    }

    fn part(self, span: Span) -> Response<Body> {
        let content_range = span.content_range(self.size);
        let mut response = self.with(StatusCode::PARTIAL_CONTENT, vec![Piece::of(&span)]);
        insert(response.headers_mut(), header::CONTENT_RANGE, content_range);
        response
    }

    fn parts(self, spans: &[Span]) -> Response<Body> {
        let boundary = boundary();
        let multipart = Multipart {
            boundary: &boundary,
            content_type: &self.content_type,
            size: self.size,
        };
        let text = |text: String| Piece::Text(Bytes::from(text));
        let framed = |span| [text(multipart.head(span)), Piece::of(span)];
        let mut pieces: Vec<_> = spans.iter().flat_map(framed).collect();
        pieces.push(text(multipart.tail()));
        let content_type = multipart.content_type_header();
        let mut response = self.with(StatusCode::PARTIAL_CONTENT, pieces);
        insert(response.headers_mut(), header::CONTENT_TYPE, content_type);
        response
    }

    /// The answer to HEAD is made the same way; the connection leaves its body out.
    fn with(self, status: StatusCode, pieces: Vec<Piece>) -> Response<Body> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        insert(
            &mut headers,
            header::CONTENT_TYPE,
            self.content_type.clone(),
        );
        self.add_vary(&mut headers);
        if let Some(coding) = self.coding {
            headers.insert(
                header::CONTENT_ENCODING,
                HeaderValue::from_static(coding.name()),
            );
        }
        let mut response = Response::new(Body::new(FileBody::new(self.file, pieces)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    fn add_vary(&self, headers: &mut HeaderMap) {
        if self.is_negotiated {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
    }
}

/// A time of modification in the future is sent as now (RFC 9110 §8.8.2.1).
fn add_validators(headers: &mut HeaderMap, validators: &Validators, now: SystemTime) {
    headers.insert(header::ETAG, validators.etag.to_header());
    let modified = httpdate::fmt_http_date(validators.modified.clamp(SystemTime::UNIX_EPOCH, now));
    insert(headers, header::LAST_MODIFIED, modified);
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    let value = HeaderValue::try_from(value);
    headers.insert(
        name,
        value.expect("what we write about a file holds visible characters"),
    );
}

/// Texts are UTF-8 unless they say otherwise themselves.
fn content_type(path: &str) -> String {
    let essence = mime_guess::from_path(path)
        .first_raw()
        .unwrap_or("application/octet-stream");
    let is_text = essence.starts_with("text/") || essence == "application/javascript";
    match is_text && !essence.contains("charset") {
        true => format!("{essence}; charset=utf-8"),
        false => essence.to_owned(),
    }
}

/// Nobody can put it into a file: it is drawn anew for each answer.
fn boundary() -> String {
    format!("{:032x}", fastrand::u128(..))
}
