//! Where does a message's body end? Decided once, when the head is read, and refused where two readers could differ (RFC 9112 §6).

use http::{Method, StatusCode, Version};

use super::{Fields, Known};

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// In chunks, each with its length, and perhaps trailers.
    Chunked,
    /// Whatever comes until the connection is closed; only of responses.
    UntilClose,
    /// The HTTP/2 stream says it.
    Stream,
}

/// Why a message's framing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFraming {
    #[error("both a content-length and a transfer-encoding")]
    LengthAndEncoding,
    #[error("more than one content-length")]
    DuplicateLength,
    #[error("the content-length is not a number")]
    InvalidLength,
    #[error("a transfer-encoding other than chunked alone")]
    UnknownEncoding,
    #[error("a transfer-encoding in http/1.0")]
    EncodingInHttp10,
}

/// Of a request on HTTP/1 (RFC 9112 §6.3, items 3 to 7, where all that a recipient may choose to refuse is refused).
pub(super) fn of_request(version: Version, fields: &Fields) -> Result<Framing, BadFraming> {
    if fields.has(Known::TransferEncoding) {
        return chunked(version, fields);
    }
    let res = match length(fields)? {
        None | Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    };
    Ok(res)
}

/// Of a response on HTTP/1 to a request with `method`.
pub(super) fn of_response(
    version: Version,
    status: StatusCode,
    method: &Method,
    fields: &Fields,
) -> Result<Framing, BadFraming> {
    let is_bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || *method == Method::HEAD;
    let told = if fields.has(Known::TransferEncoding) {
        chunked(version, fields)?
    } else {
        match length(fields)? {
            None => Framing::UntilClose,
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
        }
    };
    Ok(if is_bodiless { Framing::Empty } else { told })
}

/// Of all transfer codings only `chunked` is in use; a list of them is how two readers are made to differ.
fn chunked(version: Version, fields: &Fields) -> Result<Framing, BadFraming> {
    if fields.has(Known::ContentLength) {
        return Err(BadFraming::LengthAndEncoding);
    }
    if version < Version::HTTP_11 {
        return Err(BadFraming::EncodingInHttp10);
    }
    match fields.only(Known::TransferEncoding) {
        Some(value) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        _ => Err(BadFraming::UnknownEncoding),
    }
}

fn length(fields: &Fields) -> Result<Option<u64>, BadFraming> {
    if !fields.has(Known::ContentLength) {
        return Ok(None);
    }
    let value = fields
        .only(Known::ContentLength)
        .ok_or(BadFraming::DuplicateLength)?;
    digits(value).ok_or(BadFraming::InvalidLength).map(Some)
}

/// Nothing but digits: a sign, a blank or a list is read in two ways by two readers.
fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, &byte| {
        let digit = (byte as char).to_digit(10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_body_only_if_it_says_so() {
        check(&[], Ok(Framing::Empty));
        check(&[("content-length", "0")], Ok(Framing::Empty));
        check(&[("content-length", "12")], Ok(Framing::Length(12)));
        check(&[("transfer-encoding", "Chunked")], Ok(Framing::Chunked));
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        let te = ("transfer-encoding", "chunked");
        check(
            &[te, ("content-length", "3")],
            Err(BadFraming::LengthAndEncoding),
        );
        check(&[te, te], Err(BadFraming::UnknownEncoding));
        for value in [
            "gzip, chunked",
            "chunked, identity",
            "xchunked",
            "chunked;q=1",
            "\"chunked\"",
            "",
            "identity",
        ] {
            check(
                &[("transfer-encoding", value)],
                Err(BadFraming::UnknownEncoding),
            );
        }
        for value in [
            "",
            "+1",
            "-1",
            "0x1",
            "1 2",
            "1,1",
            "1.0",
            "18446744073709551616",
        ] {
            check(&[("content-length", value)], Err(BadFraming::InvalidLength));
        }
        check(
            &[("content-length", "1"), ("content-length", "1")],
            Err(BadFraming::DuplicateLength),
        );
        let old = of_request(Version::HTTP_10, &fields(&[te]));
        assert_eq!(old, Err(BadFraming::EncodingInHttp10));
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        let with_length = fields(&[("content-length", "5")]);
        let of = |status: u16, method: &Method| {
            let status = StatusCode::from_u16(status).expect("a status in range");
            of_response(Version::HTTP_11, status, method, &with_length)
        };
        assert_eq!(of(200, &Method::GET), Ok(Framing::Length(5)));
        assert_eq!(of(200, &Method::HEAD), Ok(Framing::Empty));
        assert_eq!(of(304, &Method::GET), Ok(Framing::Empty));
        assert_eq!(of(204, &Method::GET), Ok(Framing::Empty));
        let bare = of_response(
            Version::HTTP_11,
            StatusCode::OK,
            &Method::GET,
            &Fields::default(),
        );
        assert_eq!(bare, Ok(Framing::UntilClose));
    }

    fn check(lines: &[(&str, &str)], expected: Result<Framing, BadFraming>) {
        let framing = of_request(Version::HTTP_11, &fields(lines));
        assert_eq!(framing, expected, "{lines:?}");
    }

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        fields
    }
}
