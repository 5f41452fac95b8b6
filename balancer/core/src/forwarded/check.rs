//! Which requests are too ambiguous to pass on: two readers of the same head must not see two different requests.

use http::{HeaderMap, HeaderValue, Version, header, request::Parts, uri::Scheme};

use crate::host::HostPort;

/// Why a request is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("the request names no host")]
    MissingHost,
    #[error("the request names its host twice")]
    DuplicateHost,
    #[error("the host is not valid")]
    InvalidHost,
    #[error("the host differs from the one in the request target")]
    HostMismatch,
    #[error("the request has both a content-length and a transfer-encoding")]
    LengthAndEncoding,
    #[error("te other than trailers is not allowed in http/2")]
    InvalidTe,
}

/// Checks what RFC 9112 §3.2 and §6.1 and RFC 9113 §8.2.2 and §8.3.1 ask of a recipient, beyond what a parser sees.
pub fn check_request(parts: &Parts) -> Result<(), BadRequest> {
    check_host(parts)?;
    check_framing(&parts.headers)?;
    if parts.version == Version::HTTP_2 {
        check_te(&parts.headers)?;
    }
    Ok(())
}

fn check_host(parts: &Parts) -> Result<(), BadRequest> {
    let host = only_host(&parts.headers)?.map(parse_host).transpose()?;
    let target = parts
        .uri
        .authority()
        .map(|it| parse(it.as_str()))
        .transpose()?;
    match (host, target) {
        (None, None) if parts.version >= Version::HTTP_11 => Err(BadRequest::MissingHost),
        (None, Some(_)) if parts.version == Version::HTTP_11 => Err(BadRequest::MissingHost),
        (Some(host), Some(target)) if !host.same_place(&target, port_default(parts)) => {
            Err(BadRequest::HostMismatch)
        }
        _ => Ok(()),
    }
}

fn only_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, BadRequest> {
    let mut lines = headers.get_all(header::HOST).iter();
    match (lines.next(), lines.next()) {
        (_, Some(_)) => Err(BadRequest::DuplicateHost),
        (host, None) => Ok(host),
    }
}

fn parse_host(value: &HeaderValue) -> Result<HostPort<'_>, BadRequest> {
    parse(value.to_str().map_err(|_| BadRequest::InvalidHost)?)
}

/// User information in a target is refused with the rest, as RFC 9110 §4.2.4 advises: it is there to deceive.
fn parse(text: &str) -> Result<HostPort<'_>, BadRequest> {
    HostPort::parse(text).ok_or(BadRequest::InvalidHost)
}

fn port_default(parts: &Parts) -> &'static str {
    if parts.uri.scheme() == Some(&Scheme::HTTPS) {
        "443"
    } else {
        "80"
    }
}

fn check_framing(headers: &HeaderMap) -> Result<(), BadRequest> {
    if headers.contains_key(header::CONTENT_LENGTH)
        && headers.contains_key(header::TRANSFER_ENCODING)
    {
        return Err(BadRequest::LengthAndEncoding);
    }
    Ok(())
}

fn check_te(headers: &HeaderMap) -> Result<(), BadRequest> {
    let is_trailers = |it: &HeaderValue| it.as_bytes().eq_ignore_ascii_case(b"trailers");
    if headers.get_all(header::TE).iter().all(is_trailers) {
        Ok(())
    } else {
        Err(BadRequest::InvalidTe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn a_request_names_one_host() {
        http1("/", &[("host", "a.example")], Ok(()));
        http1("/", &[("host", "a.example:8080")], Ok(()));
        http1("/", &[], Err(BadRequest::MissingHost));
        http1("http://a.example/", &[], Err(BadRequest::MissingHost));
        http1(
            "/",
            &[("host", "a.example"), ("host", "a.example")],
            Err(BadRequest::DuplicateHost),
        );
        check(Version::HTTP_10, "/", &[], Ok(()));
        check(
            Version::HTTP_10,
            "/",
            &[("host", "a b")],
            Err(BadRequest::InvalidHost),
        );
    }

    #[test]
    fn the_host_is_valid() {
        for host in [
            "",
            " ",
            "a b",
            "a/b",
            "user@a.example",
            "a.example:x",
            "a,b/",
            "[::1",
            "a\u{e9}",
        ] {
            http1("/", &[("host", host)], Err(BadRequest::InvalidHost));
        }
        http1(
            "http://user@a.example/",
            &[("host", "a.example")],
            Err(BadRequest::InvalidHost),
        );
    }

    #[test]
    fn the_host_agrees_with_the_target() {
        http1("http://a.example/", &[("host", "a.example")], Ok(()));
        http1("http://a.example/", &[("host", "A.Example:80")], Ok(()));
        http1(
            "http://a.example/",
            &[("host", "b.example")],
            Err(BadRequest::HostMismatch),
        );
        http1(
            "http://a.example:81/",
            &[("host", "a.example")],
            Err(BadRequest::HostMismatch),
        );
        http1("https://a.example/", &[("host", "a.example:443")], Ok(()));
    }

    #[test]
    fn http2_may_name_its_host_either_way() {
        http2("http://a.example/", &[], Ok(()));
        http2("/", &[("host", "a.example")], Ok(()));
        http2("http://a.example/", &[("host", "a.example")], Ok(()));
        http2(
            "http://a.example/",
            &[("host", "b.example")],
            Err(BadRequest::HostMismatch),
        );
        http2("/", &[], Err(BadRequest::MissingHost));
    }

    #[test]
    fn the_end_of_the_body_is_said_once() {
        let both = [
            ("host", "a"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
        ];
        http1("/", &both, Err(BadRequest::LengthAndEncoding));
        http1("/", &both[..2], Ok(()));
    }

    #[test]
    fn http2_accepts_trailers_and_no_other_te() {
        http2("http://a/", &[("te", "trailers")], Ok(()));
        http2("http://a/", &[("te", "gzip")], Err(BadRequest::InvalidTe));
        http2(
            "http://a/",
            &[("te", "trailers"), ("te", "gzip")],
            Err(BadRequest::InvalidTe),
        );
        http1("/", &[("host", "a"), ("te", "gzip")], Ok(()));
    }

    fn http1(target: &str, headers: &[(&str, &str)], expected: Result<(), BadRequest>) {
        check(Version::HTTP_11, target, headers, expected);
    }

    fn http2(target: &str, headers: &[(&str, &str)], expected: Result<(), BadRequest>) {
        check(Version::HTTP_2, target, headers, expected);
    }

    fn check(
        version: Version,
        target: &str,
        headers: &[(&str, &str)],
        expected: Result<(), BadRequest>,
    ) {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
            request = request.header(*name, value);
        }
        let parts = request.body(()).expect("a request").into_parts().0;
        assert_eq!(
            check_request(&parts),
            expected,
            "{version:?} {target} {headers:?}"
        );
    }
}
