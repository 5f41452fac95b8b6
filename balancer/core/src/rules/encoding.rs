//! Whether an answer is compressed on its way to the client, and with what.
//!
//! The client says what it can read (RFC 9110 §12.5.3); the route says what is worth it. An answer that somebody coded, cut or asked
//! to leave alone is left alone.

use http::{Method, StatusCode};

use crate::message::{Fields, Framing, Known, Request, Response};

/// A content coding that the balancer can apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    Zstd,
    Brotli,
    Gzip,
}

/// What of a route's answers is compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// In the order in which they are preferred.
    pub codings: Vec<Coding>,
    /// Media types in lower case, `text/*` for all of a kind.
    pub types: Vec<Box<str>>,
    pub bytes_min: u64,
}

/// What changes with the content coding: a digest of the bytes, their ranges, their tag.
const OF_THE_BYTES: [&[u8]; 5] = [
    b"accept-ranges",
    b"digest",
    b"content-digest",
    b"repr-digest",
    b"content-md5",
];

impl Coding {
    /// As it stands in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    pub fn of(name: &str) -> Option<Self> {
        let all = [Self::Zstd, Self::Brotli, Self::Gzip];
        all.into_iter().find(|it| it.name() == name)
    }

    fn is_called(self, name: &[u8]) -> bool {
        // The old name of gzip is the same coding (RFC 9110 §8.4.1.3).
        let old = self == Self::Gzip && name.eq_ignore_ascii_case(b"x-gzip");
        old || name.eq_ignore_ascii_case(self.name().as_bytes())
    }
}

impl Compression {
    /// What the client wants to be sent, if this kind of request can be answered with it at all.
    pub fn wanted(&self, head: &Request) -> Wanted {
        if head.method == Method::HEAD || head.method == Method::CONNECT {
            return Wanted::Nothing;
        }
        if head.fields.has_token(Known::CacheControl, "no-transform") {
            return Wanted::Nothing;
        }
        match choose_coding(&self.codings, &head.fields) {
            Some(coding) => Wanted::Coded(coding),
            None => Wanted::Plain,
        }
    }

    /// Changes the head of an answer that is to be compressed, and says with what.
    pub fn apply(&self, wanted: Wanted, head: &mut Response) -> Option<Coding> {
        if wanted == Wanted::Nothing {
            return None;
        }
        if head.status == StatusCode::NOT_MODIFIED {
            // It speaks of the answer that was compressed.
            weaken(&mut head.fields);
            return None;
        }
        if !self.suits(head) {
            return None;
        }
        vary(&mut head.fields);
        let Wanted::Coded(coding) = wanted else {
            return None;
        };
        let fields = &mut head.fields;
        weaken(fields);
        fields.remove(Known::ContentLength);
        for name in OF_THE_BYTES {
            fields.remove_named(name);
        }
        fields.set(Known::ContentEncoding, coding.name().as_bytes());
        head.framing = Framing::Stream;
        Some(coding)
    }

    fn suits(&self, head: &Response) -> bool {
        let fields = &head.fields;
        let is_bodiless = head.status.is_informational()
            || [
                StatusCode::NO_CONTENT,
                StatusCode::RESET_CONTENT,
                StatusCode::PARTIAL_CONTENT,
            ]
            .contains(&head.status);
        !is_bodiless
            && self.is_long_enough(head)
            && !fields.has(Known::ContentEncoding)
            && !fields.has(Known::ContentRange)
            && !fields.has_token(Known::CacheControl, "no-transform")
            && fields
                .only(Known::ContentType)
                .is_some_and(|it| self.takes(it))
    }

    fn is_long_enough(&self, head: &Response) -> bool {
        let told = match head.framing {
            Framing::Empty => return false,
            Framing::Length(length) => Some(length),
            _ => head.fields.only(Known::ContentLength).and_then(number),
        };
        told.is_none_or(|it| it >= self.bytes_min.max(1))
    }

    fn takes(&self, content_type: &[u8]) -> bool {
        let kind = content_type.split(|it| *it == b';').next();
        let kind = kind.unwrap_or_default().trim_ascii().to_ascii_lowercase();
        // What is sent piece by piece to be seen at once is compressed only if it is named.
        let is_live = kind == b"text/event-stream" || kind.starts_with(b"application/grpc");
        self.types.iter().any(|it| match it.strip_suffix('*') {
            Some(start) => !is_live && kind.starts_with(start.as_bytes()),
            None => kind == it.as_bytes(),
        })
    }
}

/// What a client wants of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The answer is none that is compressed.
    Nothing,
    /// As the node sends it.
    Plain,
    Coded(Coding),
}

/// The coding that the client likes best; among equals the first of `codings`. None if it says nothing or likes plain bytes better.
pub fn choose_coding(codings: &[Coding], fields: &Fields) -> Option<Coding> {
    if !fields.has(Known::AcceptEncoding) {
        return None;
    }
    let (mut best, mut best_weight) = (None, 0);
    for coding in codings {
        let weight = weight(fields, |it| coding.is_called(it)).unwrap_or(0);
        if weight > best_weight {
            (best, best_weight) = (Some(*coding), weight);
        }
    }
    let plain = named_weight(fields, |it| it.eq_ignore_ascii_case(b"identity"));
    best.filter(|_| plain.is_none_or(|it| it <= best_weight))
}

/// In thousandths; `*` speaks for what is not named.
fn weight(fields: &Fields, is_named: impl Fn(&[u8]) -> bool) -> Option<u16> {
    named_weight(fields, is_named).or_else(|| named_weight(fields, |it| it == b"*"))
}

fn named_weight(fields: &Fields, is_named: impl Fn(&[u8]) -> bool) -> Option<u16> {
    fields.tokens(Known::AcceptEncoding).find_map(|member| {
        let mut parts = member.split(|it| *it == b';').map(<[u8]>::trim_ascii);
        is_named(parts.next()?).then(|| parts.find_map(quality).unwrap_or(1000))
    })
}

/// `q=0.5`; what cannot be read counts as "not at all".
fn quality(parameter: &[u8]) -> Option<u16> {
    let value = parameter
        .strip_prefix(b"q=")
        .or_else(|| parameter.strip_prefix(b"Q="))?;
    Some(thousandths(value).unwrap_or(0))
}

fn thousandths(value: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_short = fraction.len() <= 3 && fraction.bytes().all(|it| it.is_ascii_digit());
    let number: u16 = format!("{fraction:0<3}")
        .parse()
        .ok()
        .filter(|_| is_short)?;
    match whole {
        "0" => Some(number),
        "1" if number == 0 => Some(1000),
        _ => None,
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The same content in other bytes has no strong tag (RFC 9110 §8.8.1).
fn weaken(fields: &mut Fields) {
    let Some(etag) = fields.only(Known::Etag) else {
        return;
    };
    if !etag.starts_with(b"W/") {
        let weak = [b"W/", etag].concat();
        fields.set(Known::Etag, &weak);
    }
}

fn vary(fields: &mut Fields) {
    let is_told = fields.has_token(Known::Vary, "accept-encoding");
    if !is_told && !fields.has_token(Known::Vary, "*") {
        fields.push_known(Known::Vary, b"accept-encoding");
    }
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    #[test]
    fn the_client_chooses() {
        for (accepts, expected) in [
            ("gzip", Some(Coding::Gzip)),
            ("x-gzip", Some(Coding::Gzip)),
            ("GZIP, br", Some(Coding::Brotli)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip;q=1.0, zstd;q=0.5", Some(Coding::Gzip)),
            ("gzip ; q=0.3 , br; q=0.301", Some(Coding::Brotli)),
            ("*", Some(Coding::Zstd)),
            ("zstd;q=0, *", Some(Coding::Brotli)),
            ("*;q=0", None),
            ("gzip;q=0", None),
            ("identity", None),
            ("identity, gzip;q=0.9", None),
            ("identity;q=0.5, gzip", Some(Coding::Gzip)),
            ("gzip;q=nonsense", None),
            ("gzip;q=1.5", None),
            ("deflate", None),
            ("", None),
            ("gzip;q=0.000", None),
            ("gzip;q=0.001", Some(Coding::Gzip)),
        ] {
            let mut fields = Fields::default();
            fields.push_known(Known::AcceptEncoding, accepts.as_bytes());
            assert_eq!(choose_coding(&ALL, &fields), expected, "{accepts}");
        }
        assert_eq!(choose_coding(&ALL, &Fields::default()), None);
    }

    #[test]
    fn a_compressed_answer_says_so() {
        let mut head = answer(
            200,
            &[
                ("content-type", "Text/HTML; charset=utf-8"),
                ("content-length", "5000"),
                ("etag", "\"a\""),
                ("accept-ranges", "bytes"),
                ("Digest", "x"),
                ("vary", "cookie"),
            ],
        );
        let coding = rule().apply(Wanted::Coded(Coding::Gzip), &mut head);
        assert_eq!(coding, Some(Coding::Gzip));
        assert_eq!(head.framing, Framing::Stream);
        let lines: Vec<_> = head
            .fields
            .iter()
            .map(|(a, b)| [a, b].map(String::from_utf8_lossy).join(": "))
            .collect();
        assert_eq!(
            lines,
            [
                "content-type: Text/HTML; charset=utf-8",
                "vary: cookie",
                "vary: accept-encoding",
                "etag: W/\"a\"",
                "content-encoding: gzip",
            ]
        );
    }

    #[test]
    fn a_plain_answer_says_that_it_could_have_been_another() {
        let mut head = answer(
            200,
            &[
                ("content-type", "text/css"),
                ("content-length", "5000"),
                ("etag", "\"a\""),
            ],
        );
        assert_eq!(rule().apply(Wanted::Plain, &mut head), None);
        assert_eq!(head.fields.get(Known::Vary), Some(&b"accept-encoding"[..]));
        assert_eq!(head.fields.get(Known::Etag), Some(&b"\"a\""[..]));
        assert_eq!(head.framing, Framing::Length(5000));
    }

    #[test]
    fn what_is_to_be_left_alone_is() {
        let long = ("content-length", "5000");
        let text = ("content-type", "text/plain");
        for (status, fields) in [
            (200, &[text, ("content-length", "10")][..]),
            (200, &[("content-type", "image/png"), long]),
            (200, &[("content-type", "text/event-stream"), long]),
            (200, &[long]),
            (200, &[text, long, ("content-encoding", "br")]),
            (
                200,
                &[text, long, ("cache-control", "public, no-transform")],
            ),
            (206, &[text, long, ("content-range", "bytes 0-4999/10000")]),
            (204, &[text]),
            (304, &[text]),
        ] {
            let mut head = answer(status, fields);
            let coding = rule().apply(Wanted::Coded(Coding::Gzip), &mut head);
            assert_eq!(coding, None, "{status} {fields:?}");
            assert!(!head.fields.has(Known::Vary), "{status} {fields:?}");
        }
    }

    #[test]
    fn an_event_stream_is_compressed_if_it_is_named() {
        let rule = Compression {
            types: vec!["text/event-stream".into()],
            ..rule()
        };
        let mut head = answer(200, &[("content-type", "text/event-stream")]);
        head.framing = Framing::Chunked;
        assert_eq!(
            rule.apply(Wanted::Coded(Coding::Zstd), &mut head),
            Some(Coding::Zstd)
        );
    }

    fn rule() -> Compression {
        Compression {
            codings: ALL.into(),
            types: vec!["text/*".into()],
            bytes_min: 1024,
        }
    }

    fn answer(status: u16, fields: &[(&str, &str)]) -> Response {
        let status = StatusCode::from_u16(status).expect("a status in range");
        let mut head = Response::new(status, Version::HTTP_11);
        for (name, value) in fields {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head.framing = head
            .fields
            .only(Known::ContentLength)
            .and_then(number)
            .map_or(Framing::Empty, Framing::Length);
        head
    }
}
