//! HTTP messages' heads, and what frames their bodies, whichever version of HTTP they came in.
//!
//! A head is kept as it was received: its bytes in one piece of memory and a list of places in it. That is what a proxy needs: most
//! fields are passed on unread, the few that matter are known by number, and a request costs a handful of allocations instead of a
//! hash map. Reading is strict (RFC 9112): two readers of the same bytes must not see two different messages.

use std::fmt;

use http::{Method, StatusCode, Version};

pub use self::{
    chunked::{Chunked, ChunkedError, Step},
    framing::{BadFraming, Framing},
    known::Known,
    parse::{BadHead, HeadEnd, Limits, head_end, parse_request, parse_response},
    write::{push_chunk_head, push_field, write_request, write_response},
};

mod chunked;
mod framing;
mod known;
mod parse;
mod write;

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// As the client spoke.
    pub version: Version,
    /// How the body that follows is framed.
    pub framing: Framing,
    /// Of an HTTP/2 request that asks to become a WebSocket (RFC 8441 §4).
    pub is_extended_connect: bool,
    /// The target's own scheme is `https`; it says what port is meant by none.
    pub is_https_target: bool,
    authority: Option<Span>,
    path: Span,
    pub fields: Fields,
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: StatusCode,
    /// As the node spoke.
    pub version: Version,
    pub framing: Framing,
    pub fields: Fields,
}

/// The field lines of a head, in the order in which they came.
#[derive(Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<Line>,
    /// Which of the known names occur, one bit each.
    present: u64,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    known: Known,
    name: Span,
    value: Span,
}

/// A place in a head's text. Heads are bounded far below 4 GiB.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    at: u32,
    len: u32,
}

impl Request {
    /// A request without fields; `path` is the origin-form, `*`, or empty where the target is an authority alone.
    pub fn new(method: Method, version: Version, authority: Option<&[u8]>, path: &[u8]) -> Self {
        let mut fields = Fields::default();
        let path = fields.keep(path);
        let authority = authority.map(|it| fields.keep(it));
        Self {
            method,
            version,
            framing: Framing::Empty,
            is_extended_connect: false,
            is_https_target: false,
            authority,
            path,
            fields,
        }
    }

    /// Path and query.
    pub fn path_and_query(&self) -> &str {
        self.fields.word(self.path)
    }

    pub fn path(&self) -> &str {
        let text = self.path_and_query();
        text.split_once('?').map_or(text, |(path, _)| path)
    }

    /// What stands between the scheme and the path of an absolute-form, or in `:authority`.
    pub fn authority(&self) -> Option<&str> {
        self.authority.map(|it| self.fields.word(it))
    }

    /// The host that the client asked for, with its port. The target's goes before the field's (RFC 9112 §3.2.2).
    pub fn host(&self) -> Option<&str> {
        match self.authority {
            Some(span) => Some(self.fields.word(span)),
            None => std::str::from_utf8(self.fields.get(Known::Host)?).ok(),
        }
    }

    pub fn set_path_and_query(&mut self, text: &str) {
        self.path = self.fields.keep(text.as_bytes());
    }

    /// The target becomes the origin-form, so that `Host` alone says where the request goes.
    pub fn drop_authority(&mut self) {
        self.authority = None;
    }

    pub fn set_authority(&mut self, text: &str) {
        self.authority = Some(self.fields.keep(text.as_bytes()));
    }

    /// Whether an answer to this request has no body whatever its head says (RFC 9112 §6.3).
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

impl Response {
    pub fn new(status: StatusCode, version: Version) -> Self {
        Self {
            status,
            version,
            framing: Framing::Empty,
            fields: Fields::default(),
        }
    }
}

impl Fields {
    /// The value of the first line with this name.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        self.all(known).next()
    }

    /// The value of the only line with this name; `None` too if there are several.
    pub fn only(&self, known: Known) -> Option<&[u8]> {
        let mut lines = self.all(known);
        let first = lines.next();
        lines.next().map_or(first, |_| None)
    }

    pub fn all(&self, known: Known) -> impl Iterator<Item = &[u8]> + Clone {
        let lines = if self.has(known) {
            &self.lines[..]
        } else {
            &[]
        };
        lines
            .iter()
            .filter(move |it| it.known == known)
            .map(|it| self.bytes(it.value))
    }

    /// The value of the first line with a name that is not among the known ones, or that is; case does not matter.
    pub fn named(&self, name: &str) -> Option<&[u8]> {
        match Known::of(name.as_bytes()) {
            Known::Other => self
                .iter()
                .find(|(it, _)| it.eq_ignore_ascii_case(name.as_bytes()))
                .map(|(_, value)| value),
            known => self.get(known),
        }
    }

    /// The values of all lines with a name; case does not matter.
    pub fn lines_named(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.iter()
            .filter(move |(it, _)| it.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    pub fn has(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    pub fn has_any(&self, bits: u64) -> bool {
        self.present & bits != 0
    }

    /// Whether a list, however many lines it takes, has this member (RFC 9110 §5.6.1).
    pub fn has_token(&self, known: Known, token: &str) -> bool {
        self.tokens(known)
            .any(|it| it.eq_ignore_ascii_case(token.as_bytes()))
    }

    pub fn tokens(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.all(known)
            .flat_map(|line| line.split(|&it| it == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|it| !it.is_empty())
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines
            .iter()
            .map(|it| (self.bytes(it.name), self.bytes(it.value)))
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Adds a line. The caller answers for a name that is a token and a value without control characters.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let known = Known::of(name);
        let name = self.keep(name);
        let value = self.keep(value);
        self.add(known, name, value);
    }

    pub fn push_known(&mut self, known: Known, value: &[u8]) {
        let name = self.keep(known.name().as_bytes());
        let value = self.keep(value);
        self.add(known, name, value);
    }

    /// One line with this name, in the place of all there were.
    pub fn set(&mut self, known: Known, value: &[u8]) {
        self.remove(known);
        self.push_known(known, value);
    }

    pub fn remove(&mut self, known: Known) {
        if self.has(known) {
            self.lines.retain(|it| it.known != known);
            self.present &= !known.bit();
        }
    }

    /// Removes every line with any of the names whose bits are given.
    pub fn remove_all(&mut self, bits: u64) {
        if self.has_any(bits) {
            self.lines.retain(|it| it.known.bit() & bits == 0);
            self.present &= !bits;
        }
    }

    pub fn remove_named(&mut self, name: &[u8]) {
        match Known::of(name) {
            Known::Other => {
                let text = &self.text;
                self.lines.retain(|it| {
                    it.known != Known::Other || !it.name.of(text).eq_ignore_ascii_case(name)
                });
            }
            known => self.remove(known),
        }
    }

    /// Writes all lines of a name as one, for readers that look at only one.
    pub fn join(&mut self, known: Known, separator: &[u8], last: Option<&[u8]>) {
        let mut joined = Vec::new();
        for value in self.all(known).chain(last) {
            if !joined.is_empty() {
                joined.extend_from_slice(separator);
            }
            joined.extend_from_slice(value);
        }
        self.set(known, &joined);
    }

    fn with_capacity(bytes: usize, lines: usize) -> Self {
        Self {
            text: Vec::with_capacity(bytes),
            lines: Vec::with_capacity(lines),
            present: 0,
        }
    }

    fn add(&mut self, known: Known, name: Span, value: Span) {
        self.present |= known.bit();
        self.lines.push(Line { known, name, value });
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let at = u32::try_from(self.text.len()).expect("heads are bounded far below 4 GiB");
        self.text.extend_from_slice(bytes);
        let len = u32::try_from(bytes.len()).expect("heads are bounded far below 4 GiB");
        Span { at, len }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.text)
    }

    /// Of a part that was checked to be ASCII when it was read.
    fn word(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }
}

impl Span {
    fn of(self, text: &[u8]) -> &[u8] {
        &text[self.at as usize..(self.at + self.len) as usize]
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self
            .iter()
            .map(|(name, value)| (name.escape_ascii(), value.escape_ascii()));
        f.debug_map()
            .entries(lines.map(|(a, b)| (a.to_string(), b.to_string())))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_is_found_in_any_case() {
        let mut fields = Fields::default();
        fields.push(b"HoSt", b"a.example");
        fields.push(b"X-Mine", b"1");
        assert_eq!(fields.get(Known::Host), Some(&b"a.example"[..]));
        assert_eq!(fields.named("host"), Some(&b"a.example"[..]));
        assert_eq!(fields.named("x-mine"), Some(&b"1"[..]));
        assert_eq!(fields.get(Known::Via), None);
    }

    #[test]
    fn what_is_removed_is_gone_and_the_rest_keeps_its_order() {
        let mut fields = Fields::default();
        for (name, value) in [("a", "1"), ("via", "x"), ("b", "2"), ("Via", "y")] {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        fields.remove(Known::Via);
        fields.remove_named(b"B");
        let left: Vec<_> = fields.iter().collect();
        assert_eq!(left, [(&b"a"[..], &b"1"[..])]);
        assert!(!fields.has(Known::Via));
    }

    #[test]
    fn lines_become_one() {
        let mut fields = Fields::default();
        fields.push(b"x-forwarded-for", b"1");
        fields.push(b"x-forwarded-for", b"2");
        fields.join(Known::XForwardedFor, b", ", Some(b"3"));
        let all: Vec<_> = fields.all(Known::XForwardedFor).collect();
        assert_eq!(all, [b"1, 2, 3"]);
    }

    #[test]
    fn a_list_is_read_over_its_lines() {
        let mut fields = Fields::default();
        fields.push(b"connection", b"close , x");
        fields.push(b"connection", b",TE");
        let tokens: Vec<_> = fields.tokens(Known::Connection).collect();
        assert_eq!(tokens, [&b"close"[..], b"x", b"TE"]);
        assert!(fields.has_token(Known::Connection, "te"));
    }
}
