//! What a head says on the next hop: fields that end here are removed, and who the client is gets written down.
//!
//! Everything that stays the same while a client is connected is prepared once, in a [`Hop`]; a request then costs a few
//! look-ups and cloned reference counts. Bodies and their framing are not touched: whoever sends the head frames its body.

use std::net::IpAddr;

use fastrand::Rng;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header, request, response,
    uri::{Authority, Scheme},
};

pub use self::{
    check::{BadRequest, check_request},
    trace::{RequestId, TRACEPARENT, X_REQUEST_ID},
    trusted::{Cidr, CidrError, Trusted},
};

mod check;
mod trace;
mod trusted;

pub static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The fields that `Connection` cannot nominate away. A client that could would decide what a node gets to know of it, or where
/// the body ends; RFC 9110 §7.6.1 forbids senders to nominate fields that are meant for every recipient.
static END_TO_END: [HeaderName; 22] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::ETAG,
    header::FORWARDED,
    header::HOST,
    header::LOCATION,
    header::ORIGIN,
    header::SET_COOKIE,
    header::VIA,
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
];

/// The names that `Connection` carries without nominating a field to remove: signals, and fields that have a rule of their own.
const OPTIONS: [&str; 4] = ["close", "keep-alive", "te", "upgrade"];

/// The hop from one client connection to whichever node serves its requests.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Whether the peer is a proxy whose word about the client counts.
    trusted: bool,
    /// The peer's address, as `X-Forwarded-For` writes it.
    client: HeaderValue,
    /// `http` or `https`.
    scheme: HeaderValue,
    /// The peer's element of `Forwarded`.
    forwarded: HeaderValue,
}

/// What a request asks of the connection that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// One answer, after which the connection is free again.
    Plain,
    /// To change the protocol (RFC 9110 §7.8): the connection becomes a tunnel if the node agrees.
    Upgrade,
}

/// The protocol of the connection that a head goes out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Http1,
    Http2,
}

impl Hop {
    /// Prepares what every request of a connection from `client` is told. `scheme` is what the client speaks to the balancer.
    pub fn new(client: IpAddr, scheme: &Scheme, trusted: bool) -> Self {
        let client = client.to_canonical();
        let forwarded = match client {
            IpAddr::V4(it) => format!("for={it};proto={scheme}"),
            // The colons make it a quoted-string (RFC 7239 §4).
            IpAddr::V6(it) => format!("for=\"[{it}]\";proto={scheme}"),
        };
        Self {
            trusted,
            client: valid(client.to_string()),
            scheme: valid(scheme.to_string()),
            forwarded: valid(forwarded),
        }
    }

    /// Rewrites the head of a request for a node, and says under which id it goes.
    ///
    /// The target and `Host` stay as the client sent them, see [`aim`].
    pub fn request(
        &self,
        parts: &mut request::Parts,
        exchange: Exchange,
        rng: &mut Rng,
    ) -> RequestId {
        let host = host(parts);
        let headers = &mut parts.headers;
        let present = Present::in_head(headers);
        end_hop(headers, present, exchange);
        if self.trusted {
            self.add_client(headers, host);
        } else {
            self.replace_client(headers, present, host);
        }
        headers.append(header::VIA, via(parts.version));
        trace::mark(headers, self.trusted, rng)
    }

    /// The peer is the client: whatever the head says about another one was made up.
    fn replace_client(&self, headers: &mut HeaderMap, present: Present, host: Option<HeaderValue>) {
        if present.any_of(Present::CLAIMS) {
            headers.remove(&X_REAL_IP);
            headers.remove(&X_FORWARDED_PORT);
        }
        headers.insert(&X_FORWARDED_FOR, self.client.clone());
        headers.insert(&X_FORWARDED_PROTO, self.scheme.clone());
        headers.insert(header::FORWARDED, self.forwarded.clone());
        match host {
            Some(host) => headers.insert(&X_FORWARDED_HOST, host),
            None => headers.remove(&X_FORWARDED_HOST),
        };
    }

    /// The peer is a proxy: it becomes the last in the chain, and what it says of the first hop stands.
    fn add_client(&self, headers: &mut HeaderMap, host: Option<HeaderValue>) {
        extend_list(headers, &X_FORWARDED_FOR, &self.client);
        extend_list(headers, &header::FORWARDED, &self.forwarded);
        headers
            .entry(&X_FORWARDED_PROTO)
            .or_insert_with(|| self.scheme.clone());
        if let Some(host) = host {
            headers.entry(&X_FORWARDED_HOST).or_insert(host);
        }
    }
}

impl Exchange {
    /// What the request asks for. A change to HTTP/2 is not understood as one: RFC 9113 §3.1 has withdrawn it, and a node that
    /// agreed would speak on with nobody reading along.
    pub fn of(parts: &request::Parts) -> Self {
        let headers = &parts.headers;
        let asked = parts.version == Version::HTTP_11
            && headers.contains_key(header::UPGRADE)
            && has_token(headers, &header::CONNECTION, "upgrade")
            && !has_token(headers, &header::UPGRADE, "h2c");
        if asked { Self::Upgrade } else { Self::Plain }
    }
}

/// Rewrites the head of a node's answer for the client.
pub fn response(parts: &mut response::Parts) {
    let exchange = match parts.status {
        StatusCode::SWITCHING_PROTOCOLS => Exchange::Upgrade,
        _ => Exchange::Plain,
    };
    let present = Present::in_head(&parts.headers);
    end_hop(&mut parts.headers, present, exchange);
}

/// Shapes the target for the connection that the request goes out on, whatever the client spoke.
///
/// On HTTP/1.1 that is the origin-form with a `Host` (RFC 9112 §3.2.1), on HTTP/2 a scheme and an authority without one (RFC 9113
/// §8.3.1). A `CONNECT` keeps its target, and aiming again, at another node, is no different from aiming once. Only HTTP/2 refuses a request without a host, which HTTP/1.0 allows.
pub fn aim(parts: &mut request::Parts, wire: Wire) -> Result<(), BadRequest> {
    match wire {
        Wire::Http1 => aim_http1(parts),
        Wire::Http2 => aim_http2(parts)?,
    }
    Ok(())
}

fn aim_http1(parts: &mut request::Parts) {
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    parts.version = Version::HTTP_11;
    if parts.uri.authority().is_some() || !parts.headers.contains_key(header::HOST) {
        let host = host(parts).unwrap_or(HeaderValue::from_static(""));
        parts.headers.insert(header::HOST, host);
    }
    if parts.uri.scheme().is_some() {
        parts.uri = origin_form(&parts.uri);
    }
    if parts.headers.contains_key(header::TE)
        && !has_token(&parts.headers, &header::CONNECTION, "te")
    {
        // A field for the next hop only is named as such (RFC 9110 §10.1.4).
        parts
            .headers
            .append(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

fn aim_http2(parts: &mut request::Parts) -> Result<(), BadRequest> {
    parts.version = Version::HTTP_2;
    parts.headers.remove(header::CONNECTION);
    let host = parts.headers.remove(header::HOST);
    if parts.uri.authority().is_none() {
        let host = host.ok_or(BadRequest::MissingHost)?;
        let authority = Authority::from_maybe_shared(host).map_err(|_| BadRequest::InvalidHost)?;
        parts.uri = absolute_form(&parts.uri, authority);
    }
    Ok(())
}

fn origin_form(target: &Uri) -> Uri {
    target
        .path_and_query()
        .cloned()
        .map(Uri::from)
        .unwrap_or_default()
}

fn absolute_form(target: &Uri, authority: Authority) -> Uri {
    let mut parts = target.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    Uri::from_parts(parts).unwrap_or_default()
}

/// The host that the client asked for. The target's goes before the field's, RFC 9112 §3.2.2.
fn host(parts: &request::Parts) -> Option<HeaderValue> {
    match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(header::HOST).cloned(),
    }
}

/// Which of the fields that this file takes away a head has, found in one pass over the names: looking each of them up costs a
/// hash, and most heads have none.
#[derive(Clone, Copy)]
struct Present(u8);

impl Present {
    const CONNECTION: u8 = 1;
    const TE: u8 = 2;
    const UPGRADE: u8 = 4;
    /// Others that end with the hop.
    const HOP: u8 = 8;
    /// What a client may claim about itself.
    const CLAIMS: u8 = 16;

    fn in_head(headers: &HeaderMap) -> Self {
        let bit = |name: &HeaderName| match name.as_str() {
            "connection" => Self::CONNECTION,
            "te" => Self::TE,
            "upgrade" => Self::UPGRADE,
            "keep-alive" | "proxy-connection" | "transfer-encoding" => Self::HOP,
            "x-real-ip" | "x-forwarded-port" => Self::CLAIMS,
            _ => 0,
        };
        Self(headers.keys().fold(0, |bits, name| bits | bit(name)))
    }

    fn any_of(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// Removes what was meant for this hop alone (RFC 9110 §7.6.1). `Trailer` stays: it tells every recipient what will follow.
fn end_hop(headers: &mut HeaderMap, present: Present, exchange: Exchange) {
    if present.any_of(Present::CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if present.any_of(Present::HOP) {
        headers.remove(&KEEP_ALIVE);
        headers.remove(&PROXY_CONNECTION);
        headers.remove(header::TRANSFER_ENCODING);
    }
    if present.any_of(Present::TE) {
        keep_trailers(headers);
    }
    match exchange {
        Exchange::Upgrade => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        Exchange::Plain if present.any_of(Present::UPGRADE) => {
            headers.remove(header::UPGRADE);
        }
        Exchange::Plain => {}
    }
}

/// The fields that `Connection` names, as many as the limit on a head's size lets it name.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    tokens(headers, &header::CONNECTION)
        .filter(|it| {
            !OPTIONS
                .iter()
                .any(|option| it.eq_ignore_ascii_case(option.as_bytes()))
        })
        .filter_map(|it| HeaderName::from_bytes(it).ok())
        .filter(|it| !END_TO_END.contains(it))
        .collect()
}

/// Of all that `TE` can ask for, only the readiness for trailers is true of the next hop too.
fn keep_trailers(headers: &mut HeaderMap) {
    if has_token(headers, &header::TE, "trailers") {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(header::TE);
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|it| it.eq_ignore_ascii_case(token.as_bytes()))
}

/// The members of a list, however many lines it takes (RFC 9110 §5.6.1).
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&it| it == b','))
        .map(<[u8]>::trim_ascii)
}

/// Adds the last member of a list and writes the list as one line: many a reader looks at only one.
fn extend_list(headers: &mut HeaderMap, name: &HeaderName, last: &HeaderValue) {
    headers.append(name, last.clone());
    join_lines(headers, name, ", ");
}

/// HTTP/2 may split a cookie into lines of its own, which nobody else understands (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    join_lines(headers, &header::COOKIE, "; ");
}

fn join_lines(headers: &mut HeaderMap, name: &HeaderName, separator: &str) {
    let lines: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if lines.len() > 1 {
        let joined = HeaderValue::from_bytes(&lines.join(separator.as_bytes()));
        headers.insert(
            name,
            joined.expect("valid values stay valid with a separator between them"),
        );
    }
}

/// RFC 9110 §7.6.3: a gateway must name itself, and the version in which the request was received.
fn via(received: Version) -> HeaderValue {
    HeaderValue::from_static(match received {
        Version::HTTP_2 => "2 colonnade",
        Version::HTTP_10 => "1.0 colonnade",
        _ => "1.1 colonnade",
    })
}

fn valid(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("an address and a scheme are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use http::{Request, Response};
    use proptest::prelude::*;

    #[test]
    fn a_node_is_told_who_asks() {
        let head = forward("192.0.2.7", false, &[("host", "a.example:81")]);
        assert_eq!(lines(&head, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(lines(&head, "x-forwarded-proto"), ["http"]);
        assert_eq!(lines(&head, "x-forwarded-host"), ["a.example:81"]);
        assert_eq!(lines(&head, "forwarded"), ["for=192.0.2.7;proto=http"]);
        assert_eq!(lines(&head, "via"), ["1.1 colonnade"]);
        assert_eq!(lines(&head, "host"), ["a.example:81"]);
    }

    #[test]
    fn an_ipv6_address_is_quoted_where_it_must_be() {
        let head = forward("2001:db8::1", false, &[]);
        assert_eq!(lines(&head, "x-forwarded-for"), ["2001:db8::1"]);
        assert_eq!(
            lines(&head, "forwarded"),
            ["for=\"[2001:db8::1]\";proto=http"]
        );
        let mapped = forward("::ffff:192.0.2.7", false, &[]);
        assert_eq!(lines(&mapped, "x-forwarded-for"), ["192.0.2.7"]);
    }

    #[test]
    fn what_a_client_says_about_itself_is_not_believed() {
        let head = forward("192.0.2.7", false, &SAID);
        assert_eq!(lines(&head, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(lines(&head, "forwarded"), ["for=192.0.2.7;proto=http"]);
        assert_eq!(lines(&head, "x-forwarded-proto"), ["http"]);
        assert_eq!(lines(&head, "x-forwarded-host"), ["a.example"]);
        assert_eq!(lines(&head, "x-forwarded-port"), [""; 0]);
        assert_eq!(lines(&head, "x-real-ip"), [""; 0]);
        assert_eq!(
            lines(
                &forward("::1", false, &[("x-forwarded-host", "evil")]),
                "x-forwarded-host"
            ),
            [""; 0]
        );
    }

    #[test]
    fn what_a_trusted_proxy_says_is_added_to() {
        let head = forward("192.0.2.7", true, &SAID);
        assert_eq!(
            lines(&head, "x-forwarded-for"),
            ["203.0.113.1, 203.0.113.2, 192.0.2.7"]
        );
        assert_eq!(
            lines(&head, "forwarded"),
            ["for=203.0.113.1, for=192.0.2.7;proto=http"]
        );
        assert_eq!(lines(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(lines(&head, "x-forwarded-host"), ["front.example"]);
        assert_eq!(lines(&head, "x-forwarded-port"), ["443"]);
        assert_eq!(lines(&head, "x-real-ip"), ["203.0.113.1"]);
        let silent = forward("192.0.2.7", true, &[("host", "a.example")]);
        assert_eq!(lines(&silent, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(lines(&silent, "x-forwarded-host"), ["a.example"]);
    }

    const SAID: [(&str, &str); 8] = [
        ("host", "a.example"),
        ("x-forwarded-for", "203.0.113.1"),
        ("x-forwarded-for", "203.0.113.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "front.example"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "203.0.113.1"),
        ("forwarded", "for=203.0.113.1"),
    ];

    #[test]
    fn fields_of_the_hop_end_here() {
        let head = forward(
            "192.0.2.7",
            false,
            &[
                ("connection", "keep-alive, X-Private"),
                ("connection", "x-second"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
                ("te", "gzip"),
                ("x-private", "1"),
                ("x-second", "2"),
                ("x-third", "3"),
                ("trailer", "checksum"),
            ],
        );
        for gone in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
            "te",
            "x-private",
            "x-second",
        ] {
            assert!(
                !head.headers.contains_key(gone),
                "{gone} must not reach the node"
            );
        }
        assert_eq!(lines(&head, "x-third"), ["3"]);
        assert_eq!(lines(&head, "trailer"), ["checksum"]);
    }

    #[test]
    fn end_to_end_fields_cannot_be_nominated_away() {
        let head = forward(
            "192.0.2.7",
            true,
            &[
                ("host", "a.example"),
                ("content-length", "3"),
                ("x-forwarded-for", "203.0.113.1"),
                ("cookie", "a=b"),
                (
                    "connection",
                    "Host, Content-Length, X-Forwarded-For, cookie, via, close",
                ),
            ],
        );
        assert_eq!(lines(&head, "host"), ["a.example"]);
        assert_eq!(lines(&head, "content-length"), ["3"]);
        assert_eq!(lines(&head, "cookie"), ["a=b"]);
        assert_eq!(lines(&head, "x-forwarded-for"), ["203.0.113.1, 192.0.2.7"]);
        assert_eq!(lines(&head, "connection"), [""; 0]);
    }

    #[test]
    fn readiness_for_trailers_goes_on() {
        let mut head = forward(
            "::1",
            false,
            &[
                ("te", "gzip;q=0.5, Trailers"),
                ("connection", "te"),
                ("host", "a"),
            ],
        );
        assert_eq!(lines(&head, "te"), ["trailers"]);
        assert_eq!(lines(&head, "connection"), [""; 0]);
        aim(&mut head, Wire::Http1).expect("a host");
        assert_eq!(lines(&head, "connection"), ["te"]);
        aim(&mut head, Wire::Http1).expect("a host");
        assert_eq!(lines(&head, "connection"), ["te"]);
        aim(&mut head, Wire::Http2).expect("a host");
        assert_eq!(lines(&head, "connection"), [""; 0]);
        assert_eq!(lines(&head, "te"), ["trailers"]);
    }

    #[test]
    fn an_upgrade_keeps_its_fields_on_both_sides() {
        let asks = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "x"),
        ];
        let head = forward("::1", false, &asks);
        assert_eq!(lines(&head, "connection"), ["upgrade"]);
        assert_eq!(lines(&head, "upgrade"), ["websocket"]);
        assert_eq!(lines(&head, "sec-websocket-key"), ["x"]);
        let answer = answer(101, &[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(answer["connection"], "upgrade");
        assert_eq!(answer["upgrade"], "websocket");
    }

    #[test]
    fn what_only_resembles_an_upgrade_is_plain() {
        let exchange = |version, headers: &[_]| Exchange::of(&parts(version, "/", headers));
        let (connection, websocket) = (("connection", "upgrade"), ("upgrade", "websocket"));
        assert_eq!(
            exchange(Version::HTTP_11, &[connection, websocket]),
            Exchange::Upgrade
        );
        assert_eq!(exchange(Version::HTTP_11, &[connection]), Exchange::Plain);
        assert_eq!(exchange(Version::HTTP_11, &[websocket]), Exchange::Plain);
        assert_eq!(
            exchange(Version::HTTP_11, &[connection, ("upgrade", "h2c")]),
            Exchange::Plain
        );
        assert_eq!(
            exchange(
                Version::HTTP_11,
                &[connection, ("upgrade", "websocket, H2C")]
            ),
            Exchange::Plain
        );
        assert_eq!(
            exchange(Version::HTTP_10, &[connection, websocket]),
            Exchange::Plain
        );
        assert_eq!(
            exchange(Version::HTTP_2, &[connection, websocket]),
            Exchange::Plain
        );
    }

    #[test]
    fn an_answer_leaves_its_hop_behind() {
        let given = [
            ("connection", "close, x-private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("content-length", "3"),
            ("etag", "\"a\""),
        ];
        let head = answer(200, &given);
        assert_eq!(head.len(), 2, "{head:?}");
        assert_eq!(head["content-length"], "3");
        assert_eq!(head["etag"], "\"a\"");
    }

    #[test]
    fn via_grows_by_this_hop() {
        let head = forward("::1", false, &[("via", "1.0 front")]);
        assert_eq!(lines(&head, "via"), ["1.0 front", "1.1 colonnade"]);
    }

    #[test]
    fn http1_gets_the_origin_form_and_a_host() {
        aimed(
            Version::HTTP_2,
            "http://a.example/x?y",
            &[],
            Wire::Http1,
            "/x?y",
            &["a.example"],
        );
        aimed(
            Version::HTTP_11,
            "http://a.example/x",
            &[("host", "a.example")],
            Wire::Http1,
            "/x",
            &["a.example"],
        );
        aimed(
            Version::HTTP_11,
            "http://a.example",
            &[("host", "a.example")],
            Wire::Http1,
            "/",
            &["a.example"],
        );
        aimed(
            Version::HTTP_11,
            "/x",
            &[("host", "a.example")],
            Wire::Http1,
            "/x",
            &["a.example"],
        );
        aimed(
            Version::HTTP_11,
            "*",
            &[("host", "a.example")],
            Wire::Http1,
            "*",
            &["a.example"],
        );
        aimed(
            Version::HTTP_11,
            "a.example:443",
            &[("host", "a.example:443")],
            Wire::Http1,
            "a.example:443",
            &["a.example:443"],
        );
        aimed(Version::HTTP_10, "/x", &[], Wire::Http1, "/x", &[""]);
    }

    #[test]
    fn http2_gets_an_authority_and_no_host() {
        aimed(
            Version::HTTP_11,
            "/x?y",
            &[("host", "a.example:81")],
            Wire::Http2,
            "http://a.example:81/x?y",
            &[],
        );
        aimed(
            Version::HTTP_11,
            "*",
            &[("host", "a.example")],
            Wire::Http2,
            "http://a.example*",
            &[],
        );
        aimed(
            Version::HTTP_2,
            "http://a.example/x",
            &[("host", "a.example")],
            Wire::Http2,
            "http://a.example/x",
            &[],
        );
        let mut homeless = parts(Version::HTTP_10, "/", &[]);
        assert_eq!(
            aim(&mut homeless, Wire::Http2),
            Err(BadRequest::MissingHost)
        );
    }

    #[test]
    fn a_cookie_that_http2_split_is_whole_again_on_http1() {
        let mut head = parts(
            Version::HTTP_2,
            "http://a.example/",
            &[("cookie", "a=b"), ("cookie", "c=d; e=f")],
        );
        aim(&mut head, Wire::Http1).expect("a host");
        assert_eq!(lines(&head, "cookie"), ["a=b; c=d; e=f"]);
    }

    fn aimed(
        version: Version,
        target: &str,
        given: &[(&str, &str)],
        wire: Wire,
        expected: &str,
        hosts: &[&str],
    ) {
        let mut head = parts(version, target, given);
        aim(&mut head, wire).expect(target);
        assert_eq!(head.uri.to_string(), expected);
        assert_eq!(lines(&head, "host"), hosts);
        assert_eq!(
            head.version,
            if wire == Wire::Http2 {
                Version::HTTP_2
            } else {
                Version::HTTP_11
            }
        );
    }

    /// The head that reaches the node when `client` sends the given fields.
    fn forward(client: &str, trusted: bool, given: &[(&str, &str)]) -> request::Parts {
        let mut head = parts(Version::HTTP_11, "/", given);
        let exchange = Exchange::of(&head);
        let hop = Hop::new(client.parse().expect("an address"), &Scheme::HTTP, trusted);
        hop.request(&mut head, exchange, &mut Rng::with_seed(1));
        head
    }

    fn parts(version: Version, target: &str, given: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().version(version).uri(target);
        if target == "a.example:443" {
            request = request.method("CONNECT");
        }
        let request = given
            .iter()
            .fold(request, |it, (name, value)| it.header(*name, *value));
        request.body(()).expect("a request").into_parts().0
    }

    fn answer(status: u16, given: &[(&str, &str)]) -> HeaderMap {
        let answer = given
            .iter()
            .fold(Response::builder().status(status), |it, (name, value)| {
                it.header(*name, *value)
            });
        let mut parts = answer.body(()).expect("an answer").into_parts().0;
        response(&mut parts);
        parts.headers
    }

    fn lines<'a>(head: &'a request::Parts, name: &str) -> Vec<&'a str> {
        head.headers
            .get_all(name)
            .iter()
            .map(|it| it.to_str().expect("ASCII"))
            .collect()
    }

    proptest! {
        #[test]
        fn no_head_is_too_odd_to_forward(
            given in prop::collection::vec(
                (prop::sample::select(&["connection", "te", "upgrade", "forwarded", "x-forwarded-for", "host", "x-a"][..]),
                 prop::collection::vec(prop_oneof![Just(b','), Just(b' '), 0x21..=0x7eu8, 0x80..=0xffu8], 0..30)),
                0..12),
            trusted: bool,
        ) {
            let mut head = parts(Version::HTTP_11, "/", &[]);
            for (name, value) in &given {
                head.headers.append(*name, HeaderValue::from_bytes(value).expect("a header value"));
            }
            let exchange = Exchange::of(&head);
            Hop::new([192, 0, 2, 7].into(), &Scheme::HTTP, trusted).request(&mut head, exchange, &mut Rng::with_seed(1));
            let chain = head.headers[&X_FORWARDED_FOR].as_bytes();
            prop_assert!(chain.ends_with(b"192.0.2.7"));
            prop_assert_eq!(head.headers.contains_key("connection"), exchange == Exchange::Upgrade);
            for wire in [Wire::Http1, Wire::Http2] {
                let _refused_or_not = aim(&mut head, wire);
            }
        }
    }
}
