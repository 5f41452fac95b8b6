//! Which requests are too ambiguous to pass on: two readers of the same head must not see two different requests.

use http::{Method, Version};

use super::Exchange;
use crate::{
    host::HostPort,
    message::{Framing, Known, Request},
};

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
    #[error("te other than trailers is not allowed in http/2")]
    InvalidTe,
    #[error("a request to change the protocol has no body")]
    UpgradeWithBody,
    #[error("the request target is not valid")]
    InvalidTarget,
}

/// Checks what RFC 9112 §3.2 and §6.1 and RFC 9113 §8.2.2 and §8.3.1 ask of a recipient, beyond what a parser sees.
pub fn check_request(head: &Request) -> Result<(), BadRequest> {
    check_host(head)?;
    if head.version == Version::HTTP_2 {
        check_path(head)?;
        check_te(head)?;
    } else if head.framing != Framing::Empty && Exchange::of(head) == Exchange::Upgrade {
        // Where the body ends and the other protocol begins is what the two sides would have to agree about.
        return Err(BadRequest::UpgradeWithBody);
    }
    Ok(())
}

fn check_host(head: &Request) -> Result<(), BadRequest> {
    let host = only_host(head)?.map(parse_host).transpose()?;
    let target = head.authority().map(parse).transpose()?;
    let needs_field = head.version == Version::HTTP_11;
    match (host, target) {
        (None, None) if head.version >= Version::HTTP_11 => Err(BadRequest::MissingHost),
        (None, Some(_)) if needs_field => Err(BadRequest::MissingHost),
        (Some(host), Some(target)) if !host.same_place(&target, port_default(head)) => {
            Err(BadRequest::HostMismatch)
        }
        _ => Ok(()),
    }
}

fn only_host(head: &Request) -> Result<Option<&[u8]>, BadRequest> {
    let mut lines = head.fields.all(Known::Host);
    match (lines.next(), lines.next()) {
        (_, Some(_)) => Err(BadRequest::DuplicateHost),
        (host, None) => Ok(host),
    }
}

fn parse_host(value: &[u8]) -> Result<HostPort<'_>, BadRequest> {
    parse(std::str::from_utf8(value).map_err(|_| BadRequest::InvalidHost)?)
}

/// User information in a target is refused with the rest, as RFC 9110 §4.2.4 advises: it is there to deceive.
fn parse(text: &str) -> Result<HostPort<'_>, BadRequest> {
    HostPort::parse(text).ok_or(BadRequest::InvalidHost)
}

/// Of the scheme in the target; a `CONNECT` has none and always names its port.
fn port_default(head: &Request) -> &'static str {
    if head.is_https_target && head.method != Method::CONNECT {
        "443"
    } else {
        "80"
    }
}

/// RFC 9113 §8.3.1: the origin-form, or `*` of an `OPTIONS`. A plain `CONNECT` has none.
fn check_path(head: &Request) -> Result<(), BadRequest> {
    let is_star = head.method == Method::OPTIONS && head.path_and_query() == "*";
    let is_connect = head.method == Method::CONNECT && !head.is_extended_connect;
    if head.path_and_query().starts_with('/') || is_star || is_connect {
        Ok(())
    } else {
        Err(BadRequest::InvalidTarget)
    }
}

fn check_te(head: &Request) -> Result<(), BadRequest> {
    let is_trailers = |it: &[u8]| it.eq_ignore_ascii_case(b"trailers");
    if head.fields.all(Known::Te).all(is_trailers) {
        Ok(())
    } else {
        Err(BadRequest::InvalidTe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_change_of_protocol_brings_no_body() {
        let asks = [
            ("host", "a"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
        ];
        let mut head = request(Version::HTTP_11, "/", &asks);
        assert_eq!(check_request(&head), Ok(()));
        head.framing = Framing::Length(3);
        assert_eq!(check_request(&head), Err(BadRequest::UpgradeWithBody));
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
        let head = request(version, target, headers);
        assert_eq!(
            check_request(&head),
            expected,
            "{version:?} {target} {headers:?}"
        );
    }

    fn request(version: Version, target: &str, headers: &[(&str, &str)]) -> Request {
        let (scheme, authority) = match target.split_once("://") {
            Some((scheme, rest)) => (scheme, rest.strip_suffix('/')),
            None => ("http", None),
        };
        let mut head = Request::new(Method::GET, version, authority.map(str::as_bytes), b"/");
        head.is_https_target = scheme == "https";
        for (name, value) in headers {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head
    }
}
