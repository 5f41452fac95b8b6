//! Turns a `Range` field into the spans of bytes to send (RFC 9110 §14), and frames several of them as one body.
//!
//! Ranges that overlap are merged and their number is bounded, so that no request makes an answer larger than the
//! whole by more than the framing of a few parts (§17.15).

/// A request for more ranges than this is answered with the whole.
pub const RANGES_MAX: usize = 16;

/// Bytes `first..=last` of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    first: u64,
    last: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// The field is absent in effect: another unit, bad syntax, too many ranges.
    Whole,
    One(Span),
    Many(Vec<Span>),
    /// 416: no range overlaps the representation.
    Unsatisfiable,
}

/// Reads the field's value for a representation of `size` bytes.
pub fn resolve(field: &str, size: u64) -> Ranges {
    match specs(field) {
        Some(specs) if specs.len() <= RANGES_MAX => select(&specs, size),
        _ => Ranges::Whole,
    }
}

impl Span {
    pub fn whole(size: u64) -> Option<Self> {
        (size > 0).then(|| Self {
            first: 0,
            last: size - 1,
        })
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    /// Never zero.
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// The value of `Content-Range` (§14.4).
    pub fn content_range(&self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.first, self.last)
    }
}

/// The value of `Content-Range` beside a 416.
pub fn content_range_of_none(size: u64) -> String {
    format!("bytes */{size}")
}

/// The frame of a `multipart/byteranges` body (§14.6). The boundary must not occur in the bytes.
#[derive(Clone, Debug)]
pub struct Multipart<'a> {
    pub boundary: &'a str,
    /// The type of the representation itself.
    pub content_type: &'a str,
    pub size: u64,
}

impl Multipart<'_> {
    pub fn content_type_header(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// What stands before the bytes of a span.
    pub fn head(&self, span: &Span) -> String {
        format!(
            "\r\n--{}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
            self.boundary,
            self.content_type,
            span.content_range(self.size)
        )
    }

    /// What stands after the last span.
    pub fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

/// One range as it was asked for.
#[derive(Clone, Copy)]
enum Spec {
    From { first: u64, last: u64 },
    Suffix { count: u64 },
}

/// The ranges of the field; none where the field is to be ignored (§14.2).
fn specs(field: &str) -> Option<Vec<Spec>> {
    let (unit, set) = field.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let members = set
        .split(',')
        .map(|it| it.trim_matches([' ', '\t']))
        .filter(|it| !it.is_empty());
    let specs: Vec<_> = members
        .take(RANGES_MAX + 1)
        .map(spec)
        .collect::<Option<_>>()?;
    (!specs.is_empty()).then_some(specs)
}

fn spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    match (first, last) {
        ("", count) => Some(Spec::Suffix {
            count: number(count)?,
        }),
        (first, "") => Some(Spec::From {
            first: number(first)?,
            last: u64::MAX,
        }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From { first, last })
        }
    }
}

/// A number that no u64 holds lies behind the end of everything, as the largest u64 does.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn select(specs: &[Spec], size: u64) -> Ranges {
    let asks_for_end = |spec: &Spec| matches!(spec, Spec::Suffix { count: 1.. });
    if size == 0 && specs.iter().any(asks_for_end) {
        // The last bytes of nothing are nothing, which no Content-Range can say.
        return Ranges::Whole;
    }
    let spans: Vec<_> = specs.iter().filter_map(|spec| span(*spec, size)).collect();
    match merged(spans)[..] {
        [] => Ranges::Unsatisfiable,
        [span] => Ranges::One(span),
        ref spans => Ranges::Many(spans.to_vec()),
    }
}

fn span(spec: Spec, size: u64) -> Option<Span> {
    let end = size.checked_sub(1)?;
    match spec {
        Spec::From { first, last } => (first <= end).then(|| Span {
            first,
            last: last.min(end),
        }),
        Spec::Suffix { count: 0 } => None,
        Spec::Suffix { count } => Some(Span {
            first: size.saturating_sub(count),
            last: end,
        }),
    }
}

/// Spans in the order asked for; if any two overlap, in the order of the bytes and with no overlap.
fn merged(spans: Vec<Span>) -> Vec<Span> {
    let mut sorted = spans.clone();
    sorted.sort_unstable();
    if sorted.windows(2).all(|pair| pair[0].last < pair[1].first) {
        return spans;
    }
    let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match merged.last_mut() {
            Some(before) if span.first <= before.last => before.last = before.last.max(span.last),
            _ => merged.push(span),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range() {
        check("bytes=0-499", 1000, one(0, 499));
        check("bytes=500-", 1000, one(500, 999));
        check("bytes=-500", 1000, one(500, 999));
        check("bytes=-5000", 1000, one(0, 999));
        check("bytes=990-5000", 1000, one(990, 999));
        check("BYTES= 0-0 ,", 1000, one(0, 0));
        check("bytes=0-99999999999999999999999", 10, one(0, 9));
    }

    #[test]
    fn several_ranges_keep_their_order() {
        check(
            "bytes=500-599, 0-9",
            1000,
            Ranges::Many(vec![
                Span {
                    first: 500,
                    last: 599,
                },
                Span { first: 0, last: 9 },
            ]),
        );
        check("bytes=0-9,2000-", 1000, one(0, 9));
    }

    #[test]
    fn ranges_that_overlap_are_merged() {
        check("bytes=0-,0-,0-", 1000, one(0, 999));
        check(
            "bytes=5-9,0-5,20-29",
            1000,
            Ranges::Many(vec![
                Span { first: 0, last: 9 },
                Span {
                    first: 20,
                    last: 29,
                },
            ]),
        );
    }

    #[test]
    fn nothing_to_send_is_unsatisfiable() {
        check("bytes=1000-", 1000, Ranges::Unsatisfiable);
        check("bytes=-0", 1000, Ranges::Unsatisfiable);
        check("bytes=0-", 0, Ranges::Unsatisfiable);
        check("bytes=-1", 0, Ranges::Whole);
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        for field in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "lines=0-1",
            "bytes=5-1",
            "bytes=a-b",
            "bytes=-",
            "bytes=+1-2",
            "bytes=0-1;2-3",
        ] {
            check(field, 1000, Ranges::Whole);
        }
        let many = vec!["0-0"; RANGES_MAX + 1].join(",");
        check(&format!("bytes={many}"), 1000, Ranges::Whole);
    }

    #[test]
    fn parts_are_framed() {
        let multipart = Multipart {
            boundary: "b",
            content_type: "text/plain",
            size: 10,
        };
        let head = multipart.head(&Span { first: 1, last: 2 });
        assert_eq!(
            head,
            "\r\n--b\r\nContent-Type: text/plain\r\nContent-Range: bytes 1-2/10\r\n\r\n"
        );
        assert_eq!(multipart.tail(), "\r\n--b--\r\n");
    }

    proptest! {
        #[test]
        fn spans_lie_within_and_apart(field in "bytes=([0-9]{0,3}-[0-9]{0,3},? ?){1,20}", size in 0u64..1200) {
            let spans = match resolve(&field, size) {
                Ranges::One(span) => vec![span],
                Ranges::Many(spans) => spans,
                _ => vec![],
            };
            prop_assert!(spans.len() <= RANGES_MAX);
            prop_assert!(spans.iter().all(|span| span.first <= span.last && span.last < size));
            prop_assert!(spans.iter().map(Span::count).sum::<u64>() <= size);
        }

        #[test]
        fn any_text_is_survived(field in ".{0,64}", size: u64) {
            resolve(&field, size);
        }
    }

    #[track_caller]
    fn check(field: &str, size: u64, expected: Ranges) {
        assert_eq!(resolve(field, size), expected, "{field}");
    }

    fn one(first: u64, last: u64) -> Ranges {
        Ranges::One(Span { first, last })
    }
}
