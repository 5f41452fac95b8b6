//! Decides whether a conditional request is served, answered "not modified" or refused (RFC 9110 §13).
//!
//! It is asked only about a representation that exists: a condition on anything else is ignored (§13.2.1).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// An entity tag (§8.8.3): the same tag means the same bytes, or, when weak, the same meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etag {
    opaque: String,
    is_weak: bool,
}

/// What tells one state of a representation from another.
#[derive(Clone, Debug)]
pub struct Validators {
    pub etag: Etag,
    pub modified: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Serve,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates the preconditions in the order of §13.2.2, up to the step for `If-Range`.
pub fn judge(method: &Method, headers: &HeaderMap, current: &Validators) -> Verdict {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if !may_proceed(headers, current) {
        return Verdict::Failed;
    }
    match (is_unchanged(headers, current, is_read), is_read) {
        (false, _) => Verdict::Serve,
        (true, true) => Verdict::NotModified,
        (true, false) => Verdict::Failed,
    }
}

/// Whether `Range` is to be honoured as far as `If-Range` is concerned (§13.1.5); `now` is the time of the response.
pub fn range_holds(headers: &HeaderMap, current: &Validators, now: SystemTime) -> bool {
    let Some(value) = headers.get(header::IF_RANGE) else {
        return true;
    };
    match tags(value.as_bytes()).next() {
        Some(tag) => tag.matches_strongly(&current.etag),
        None => date(value)
            .is_some_and(|at| at == whole_seconds(current.modified) && is_strong(at, now)),
    }
}

impl Etag {
    /// A tag for exactly these bytes. The text must be of the characters that a tag may hold.
    pub fn strong(opaque: String) -> Self {
        debug_assert!(
            opaque.bytes().all(is_etagc),
            "an entity tag holds visible characters without quotes"
        );
        Self {
            opaque,
            is_weak: false,
        }
    }

    pub fn weak(opaque: String) -> Self {
        Self {
            is_weak: true,
            ..Self::strong(opaque)
        }
    }

    pub fn to_header(&self) -> HeaderValue {
        let weak = if self.is_weak { "W/" } else { "" };
        HeaderValue::from_str(&format!("{weak}\"{}\"", self.opaque))
            .expect("an entity tag holds visible characters")
    }
}

/// Steps 1 and 2: what the client believes to be there must be there.
fn may_proceed(headers: &HeaderMap, current: &Validators) -> bool {
    if headers.contains_key(header::IF_MATCH) {
        return any_tag(headers, &header::IF_MATCH, |tag| {
            tag.matches_strongly(&current.etag)
        });
    }
    match sole_date(headers, &header::IF_UNMODIFIED_SINCE) {
        Some(at) => whole_seconds(current.modified) <= at,
        None => true,
    }
}

/// Steps 3 and 4: whether the client has this state already. A date counts for reads alone (§13.1.3).
fn is_unchanged(headers: &HeaderMap, current: &Validators, is_read: bool) -> bool {
    if headers.contains_key(header::IF_NONE_MATCH) {
        return any_tag(headers, &header::IF_NONE_MATCH, |tag| {
            tag.matches_weakly(&current.etag)
        });
    }
    match sole_date(headers, &header::IF_MODIFIED_SINCE) {
        Some(at) if is_read => whole_seconds(current.modified) <= at,
        _ => false,
    }
}

fn any_tag(headers: &HeaderMap, name: &HeaderName, matches: impl Fn(&Tag<'_>) -> bool) -> bool {
    let is_match = |value: &HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value == b"*" || tags(value).any(|tag| matches(&tag))
    };
    headers.get_all(name).iter().any(is_match)
}

/// A tag as a client wrote it. It may hold bytes above ASCII, which no tag of ours does.
struct Tag<'a> {
    opaque: &'a [u8],
    is_weak: bool,
}

impl Tag<'_> {
    fn matches_strongly(&self, other: &Etag) -> bool {
        !self.is_weak && !other.is_weak && self.matches_weakly(other)
    }

    fn matches_weakly(&self, other: &Etag) -> bool {
        self.opaque == other.opaque.as_bytes()
    }
}

/// The tags of a list, up to the first that is none: what follows garbage cannot be told apart from it.
fn tags(mut rest: &[u8]) -> impl Iterator<Item = Tag<'_>> {
    std::iter::from_fn(move || {
        let start = rest
            .iter()
            .position(|b| !matches!(b, b' ' | b'\t' | b','))?;
        let text = &rest[start..];
        let (text, is_weak) = text
            .strip_prefix(b"W/")
            .map_or((text, false), |text| (text, true));
        let text = text.strip_prefix(b"\"")?;
        let end = text.iter().position(|b| *b == b'"')?;
        let opaque = &text[..end];
        rest = &text[end + 1..];
        opaque
            .iter()
            .all(|b| is_etagc(*b))
            .then_some(Tag { opaque, is_weak })
    })
}

fn is_etagc(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x7e | 0x80..)
}

/// The date of a field that may stand once; more than one is none (§13.1.3, §13.1.4).
fn sole_date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => date(value),
        _ => None,
    }
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// A date on the wire has no fraction, so neither has what it is compared with.
fn whole_seconds(at: SystemTime) -> SystemTime {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

/// A date tells states apart only once its second has passed: a file may change twice within one (§8.8.2.2).
fn is_strong(modified: SystemTime, now: SystemTime) -> bool {
    modified + Duration::from_secs(1) <= whole_seconds(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    #[test]
    fn a_request_without_conditions_is_served() {
        check("GET", &[], Verdict::Serve);
    }

    #[test]
    fn if_match_compares_strongly() {
        check("GET", &[("if-match", "\"a\"")], Verdict::Serve);
        check("GET", &[("if-match", "*")], Verdict::Serve);
        check("GET", &[("if-match", "\"x\" ,, \"a\"")], Verdict::Serve);
        check(
            "GET",
            &[("if-match", "\"x\""), ("if-match", "\"a\"")],
            Verdict::Serve,
        );
        check("GET", &[("if-match", "W/\"a\"")], Verdict::Failed);
        check("GET", &[("if-match", "\"b\"")], Verdict::Failed);
        check("GET", &[("if-match", "a")], Verdict::Failed);
        check("GET", &[("if-match", "")], Verdict::Failed);
    }

    #[test]
    fn if_none_match_compares_weakly() {
        check("GET", &[("if-none-match", "W/\"a\"")], Verdict::NotModified);
        check(
            "HEAD",
            &[("if-none-match", "\"x,y\", \"a\"")],
            Verdict::NotModified,
        );
        check("GET", &[("if-none-match", "*")], Verdict::NotModified);
        check("PUT", &[("if-none-match", "*")], Verdict::Failed);
        check("GET", &[("if-none-match", "\"b\"")], Verdict::Serve);
        check("GET", &[("if-none-match", "\"a")], Verdict::Serve);
    }

    #[test]
    fn dates_count_in_whole_seconds() {
        check(
            "GET",
            &[("if-modified-since", MODIFIED)],
            Verdict::NotModified,
        );
        check("GET", &[("if-modified-since", AFTER)], Verdict::NotModified);
        check("GET", &[("if-modified-since", BEFORE)], Verdict::Serve);
        check("GET", &[("if-modified-since", "yesterday")], Verdict::Serve);
        check("PUT", &[("if-modified-since", MODIFIED)], Verdict::Serve);
        check("GET", &[("if-unmodified-since", MODIFIED)], Verdict::Serve);
        check("GET", &[("if-unmodified-since", BEFORE)], Verdict::Failed);
        check(
            "GET",
            &[
                ("if-modified-since", MODIFIED),
                ("if-modified-since", MODIFIED),
            ],
            Verdict::Serve,
        );
    }

    #[test]
    fn a_tag_decides_before_a_date() {
        check(
            "GET",
            &[("if-match", "\"a\""), ("if-unmodified-since", BEFORE)],
            Verdict::Serve,
        );
        check(
            "GET",
            &[("if-none-match", "\"b\""), ("if-modified-since", AFTER)],
            Verdict::Serve,
        );
        check(
            "GET",
            &[("if-match", "\"b\""), ("if-none-match", "\"a\"")],
            Verdict::Failed,
        );
    }

    #[test]
    fn a_weak_tag_of_ours_never_matches_strongly() {
        let current = Validators {
            etag: Etag::weak("a".to_owned()),
            ..current()
        };
        assert_eq!(
            judge(&Method::GET, &headers(&[("if-match", "\"a\"")]), &current),
            Verdict::Failed
        );
        assert_eq!(
            judge(
                &Method::GET,
                &headers(&[("if-none-match", "\"a\"")]),
                &current
            ),
            Verdict::NotModified
        );
    }

    #[test]
    fn if_range_wants_a_strong_validator_that_is_equal() {
        let later = current().modified + Duration::from_secs(9);
        let holds = |value, now| range_holds(&headers(&[("if-range", value)]), &current(), now);
        assert!(range_holds(&headers(&[]), &current(), later));
        assert!(holds("\"a\"", later));
        assert!(!holds("W/\"a\"", later));
        assert!(!holds("\"b\"", later));
        assert!(holds(MODIFIED, later));
        assert!(
            !holds(AFTER, later),
            "a date must be equal, not merely later"
        );
        assert!(
            !holds(MODIFIED, current().modified),
            "a file may change twice in a second"
        );
        assert!(!holds("nonsense", later));
    }

    #[test]
    fn a_tag_is_written_in_quotes() {
        assert_eq!(Etag::weak("a".to_owned()).to_header(), "W/\"a\"");
        assert_eq!(Etag::strong("a".to_owned()).to_header(), "\"a\"");
    }

    #[track_caller]
    fn check(method: &str, fields: &[(&'static str, &str)], expected: Verdict) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        assert_eq!(
            judge(&method, &headers(fields), &current()),
            expected,
            "{fields:?}"
        );
    }

    fn current() -> Validators {
        let second = httpdate::parse_http_date(MODIFIED).expect("a date");
        Validators {
            etag: Etag::strong("a".to_owned()),
            modified: second + Duration::from_millis(700),
        }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).expect("a value"),
            )
        };
        fields
            .iter()
            .map(field)
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
    }
}
