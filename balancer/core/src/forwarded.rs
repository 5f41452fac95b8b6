//! What a head says on the next hop: fields that end here are removed, and who the client is gets written down.
//!
//! Everything that stays the same while a client is connected is prepared once, in a [`Hop`]; a request then costs a few looks at bits
//! and some bytes appended to its head. Bodies and their framing are not touched: whoever sends the head frames its body.

use std::net::IpAddr;

use fastrand::Rng;
use http::{StatusCode, Version};

use crate::message::{Fields, Known, Request, Response};

pub use self::{
    check::{BadRequest, check_request},
    trace::{RequestId, Trace},
    trusted::{Cidr, CidrError, Trusted},
};

mod check;
mod trace;
mod trusted;

/// The fields that `Connection` cannot nominate away. A client that could would decide what a node gets to know of it, or where
/// the body ends; RFC 9110 §7.6.1 forbids senders to nominate fields that are meant for every recipient.
const END_TO_END: u64 = Known::bits(&[
    Known::Authorization,
    Known::CacheControl,
    Known::ContentEncoding,
    Known::ContentLength,
    Known::ContentRange,
    Known::ContentType,
    Known::Cookie,
    Known::Date,
    Known::Etag,
    Known::Forwarded,
    Known::Host,
    Known::Location,
    Known::Origin,
    Known::SetCookie,
    Known::Via,
    Known::Tracestate,
    Known::Traceparent,
    Known::XForwardedFor,
    Known::XForwardedHost,
    Known::XForwardedProto,
    Known::XRealIp,
    Known::XRequestId,
]);

/// What `Connection` carries without nominating a field to remove, because it has a rule of its own.
const OWN_RULE: u64 = Known::bits(&[Known::KeepAlive, Known::Te, Known::Upgrade]);

/// What ends with the hop whether it is nominated or not. `http2-settings` belongs to an upgrade that RFC 9113 §3.1 has withdrawn.
const HOP: u64 = Known::bits(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
    Known::Http2Settings,
]);

/// What a client may claim about itself.
const CLAIMS: u64 = Known::bits(&[
    Known::XRealIp,
    Known::XForwardedPort,
    Known::XForwardedFor,
    Known::XForwardedProto,
    Known::XForwardedHost,
    Known::Forwarded,
]);

/// The hop from one client connection to whichever node serves its requests.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Whether the peer is a proxy whose word about the client counts.
    trusted: bool,
    is_https: bool,
    /// The peer's element of `Forwarded`, in which its address stands too.
    forwarded: Box<str>,
    /// The address as `X-Forwarded-For` writes it, as a place in `forwarded`.
    client: (u8, u8),
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
    /// Prepares what every request of a connection from `client` is told.
    pub fn new(client: IpAddr, is_https: bool, trusted: bool) -> Self {
        let client = client.to_canonical();
        let scheme = scheme(is_https);
        let (forwarded, before, after) = match client {
            IpAddr::V4(it) => (format!("for={it};proto={scheme}"), 4, 0),
            // The colons make it a quoted-string (RFC 7239 §4).
            IpAddr::V6(it) => (format!("for=\"[{it}]\";proto={scheme}"), 6, 2),
        };
        let end = forwarded.len() - ";proto=".len() - scheme.len() - after;
        Self {
            trusted,
            is_https,
            forwarded: forwarded.into(),
            client: (before, end as u8),
        }
    }

    /// Rewrites the head of a request for a node, and says under which ids it goes.
    ///
    /// The target and `Host` stay as the client sent them, see [`aim`].
    pub fn request(&self, head: &mut Request, exchange: Exchange, rng: &mut Rng) -> Trace {
        end_hop(&mut head.fields, exchange);
        if self.trusted {
            self.add_client(head);
        } else {
            self.replace_client(head);
        }
        head.fields.push_known(Known::Via, via(head.version));
        trace::mark(&mut head.fields, self.trusted, rng)
    }

    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// The peer's address.
    pub fn client(&self) -> &str {
        let (from, to) = self.client;
        &self.forwarded[from.into()..to.into()]
    }

    /// The peer is the client: whatever the head says about another one was made up.
    fn replace_client(&self, head: &mut Request) {
        head.fields.remove_all(CLAIMS);
        let fields = &mut head.fields;
        fields.push_known(Known::XForwardedFor, self.client().as_bytes());
        fields.push_known(Known::XForwardedProto, self.scheme().as_bytes());
        fields.push_known(Known::Forwarded, self.forwarded.as_bytes());
        add_host(head);
    }

    /// The peer is a proxy: it becomes the last in the chain, and what it says of the first hop stands.
    fn add_client(&self, head: &mut Request) {
        let fields = &mut head.fields;
        fields.join(Known::XForwardedFor, b", ", Some(self.client().as_bytes()));
        fields.join(Known::Forwarded, b", ", Some(self.forwarded.as_bytes()));
        if !fields.has(Known::XForwardedProto) {
            fields.push_known(Known::XForwardedProto, self.scheme().as_bytes());
        }
        if !fields.has(Known::XForwardedHost) {
            add_host(head);
        }
    }

    fn scheme(&self) -> &'static str {
        scheme(self.is_https)
    }
}

fn scheme(is_https: bool) -> &'static str {
    if is_https { "https" } else { "http" }
}

fn add_host(head: &mut Request) {
    let host = head.host().map(|it| it.as_bytes().to_vec());
    if let Some(host) = host {
        head.fields.push_known(Known::XForwardedHost, &host);
    }
}

impl Exchange {
    /// What the request asks for. A change to HTTP/2 is not understood as one: RFC 9113 §3.1 has withdrawn it, and a node that
    /// agreed would speak on with nobody reading along.
    pub fn of(head: &Request) -> Self {
        let fields = &head.fields;
        let asked = fields.has(Known::Upgrade)
            && head.version == Version::HTTP_11
            && fields.has_token(Known::Connection, "upgrade")
            && !fields.has_token(Known::Upgrade, "h2c");
        if asked { Self::Upgrade } else { Self::Plain }
    }
}

/// Rewrites the head of a node's answer for the client.
pub fn response(head: &mut Response) {
    let exchange = match head.status {
        StatusCode::SWITCHING_PROTOCOLS => Exchange::Upgrade,
        _ => Exchange::Plain,
    };
    end_hop(&mut head.fields, exchange);
}

/// What must not follow a body, for it decides how a message is routed, framed or read, and was decided by then (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: u64 = HOP
    | CLAIMS
    | OWN_RULE
    | Known::bits(&[
        Known::Authorization,
        Known::CacheControl,
        Known::ContentEncoding,
        Known::ContentLength,
        Known::ContentRange,
        Known::ContentType,
        Known::Cookie,
        Known::Expect,
        Known::Host,
        Known::SetCookie,
        Known::Trailer,
        Known::Via,
        Known::XRequestId,
    ]);

/// Takes out of the trailers what nobody may read there.
pub fn trailers(fields: &mut Fields) {
    fields.remove_all(NOT_IN_TRAILERS);
}

/// Shapes the target for the connection that the request goes out on, whatever the client spoke.
///
/// On HTTP/1.1 that is the origin-form with a `Host` (RFC 9112 §3.2.1), on HTTP/2 an authority without one (RFC 9113 §8.3.1). Aiming
/// again, at another node, is no different from aiming once. Only HTTP/2 refuses a request without a host, which HTTP/1.0 allows.
pub fn aim(head: &mut Request, wire: Wire) -> Result<(), BadRequest> {
    match wire {
        Wire::Http1 => aim_http1(head),
        Wire::Http2 => aim_http2(head)?,
    }
    Ok(())
}

fn aim_http1(head: &mut Request) {
    if head.version == Version::HTTP_2 && head.fields.has(Known::Cookie) {
        // HTTP/2 may split a cookie into lines of its own, which nobody else understands (RFC 9113 §8.2.3).
        head.fields.join(Known::Cookie, b"; ", None);
    }
    if head.authority().is_some() || !head.fields.has(Known::Host) {
        let host = head.host().unwrap_or_default().as_bytes().to_vec();
        head.fields.set(Known::Host, &host);
        head.drop_authority();
    }
    if head.fields.has(Known::Te) && !head.fields.has_token(Known::Connection, "te") {
        // A field for the next hop only is named as such (RFC 9110 §10.1.4).
        head.fields.push_known(Known::Connection, b"te");
    }
}

fn aim_http2(head: &mut Request) -> Result<(), BadRequest> {
    head.fields.remove(Known::Connection);
    let host = head.host().ok_or(BadRequest::MissingHost)?.to_owned();
    head.fields.remove(Known::Host);
    if head.authority().is_none() {
        head.set_authority(&host);
    }
    Ok(())
}

/// Removes what was meant for this hop alone (RFC 9110 §7.6.1). `Trailer` stays: it tells every recipient what will follow.
fn end_hop(fields: &mut Fields, exchange: Exchange) {
    if fields.has(Known::Connection) {
        for name in nominated(fields) {
            fields.remove_named(&name);
        }
    }
    fields.remove_all(HOP);
    if fields.has(Known::Te) {
        keep_trailers(fields);
    }
    match exchange {
        Exchange::Upgrade => fields.push_known(Known::Connection, b"upgrade"),
        Exchange::Plain => fields.remove(Known::Upgrade),
    }
}

/// The fields that `Connection` names, as many as the limit on a head's size lets it name.
fn nominated(fields: &Fields) -> Vec<Vec<u8>> {
    fields
        .tokens(Known::Connection)
        .filter(|it| !it.eq_ignore_ascii_case(b"close"))
        .filter(|it| match Known::of(it) {
            Known::Other => true,
            known => known.bit() & (END_TO_END | OWN_RULE) == 0,
        })
        .map(<[u8]>::to_vec)
        .collect()
}

/// Of all that `TE` can ask for, only the readiness for trailers is true of the next hop too.
fn keep_trailers(fields: &mut Fields) {
    if fields.has_token(Known::Te, "trailers") {
        fields.set(Known::Te, b"trailers");
    } else {
        fields.remove(Known::Te);
    }
}

/// RFC 9110 §7.6.3: a gateway must name itself, and the version in which the request was received.
fn via(received: Version) -> &'static [u8] {
    match received {
        Version::HTTP_2 => b"2 colonnade",
        Version::HTTP_10 => b"1.0 colonnade",
        _ => b"1.1 colonnade",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use http::Method;
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
                head.fields.named(gone).is_none(),
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
        assert_eq!(answer.named("connection"), Some(&b"upgrade"[..]));
        assert_eq!(answer.named("upgrade"), Some(&b"websocket"[..]));
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
        assert_eq!(head.named("content-length"), Some(&b"3"[..]));
        assert_eq!(head.named("etag"), Some(&b"\"a\""[..]));
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
        aimed(Version::HTTP_10, "/x", &[], Wire::Http1, "/x", &[""]);
    }

    #[test]
    fn http2_gets_an_authority_and_no_host() {
        aimed(
            Version::HTTP_11,
            "/x?y",
            &[("host", "a.example:81")],
            Wire::Http2,
            "a.example:81/x?y",
            &[],
        );
        aimed(
            Version::HTTP_11,
            "*",
            &[("host", "a.example")],
            Wire::Http2,
            "a.example*",
            &[],
        );
        aimed(
            Version::HTTP_2,
            "http://a.example/x",
            &[("host", "a.example")],
            Wire::Http2,
            "a.example/x",
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
        let aimed = [head.authority().unwrap_or_default(), head.path_and_query()].concat();
        assert_eq!(aimed, expected);
        assert_eq!(lines(&head, "host"), hosts);
    }

    /// The head that reaches the node when `client` sends the given fields.
    fn forward(client: &str, trusted: bool, given: &[(&str, &str)]) -> Request {
        let mut head = parts(Version::HTTP_11, "/", given);
        let exchange = Exchange::of(&head);
        let hop = Hop::new(client.parse().expect("an address"), false, trusted);
        hop.request(&mut head, exchange, &mut Rng::with_seed(1));
        head
    }

    fn parts(version: Version, target: &str, given: &[(&str, &str)]) -> Request {
        let (authority, path) = match target.strip_prefix("http://") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", target),
        };
        let authority = (!authority.is_empty()).then_some(authority.as_bytes());
        let path = if path.is_empty() { "/" } else { path };
        let mut head = Request::new(Method::GET, version, authority, path.as_bytes());
        for (name, value) in given {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn answer(status: u16, given: &[(&str, &str)]) -> Fields {
        let status = StatusCode::from_u16(status).expect("a status in range");
        let mut head = Response::new(status, Version::HTTP_11);
        for (name, value) in given {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        response(&mut head);
        head.fields
    }

    fn lines<'a>(head: &'a Request, name: &str) -> Vec<&'a str> {
        let known = Known::of(name.as_bytes());
        head.fields
            .iter()
            .filter(|(it, _)| it.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| std::str::from_utf8(value).expect("ASCII"))
            .inspect(|_| debug_assert!(known == Known::Other || head.fields.has(known)))
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
                head.fields.push(name.as_bytes(), value);
            }
            let exchange = Exchange::of(&head);
            Hop::new([192, 0, 2, 7].into(), false, trusted).request(&mut head, exchange, &mut Rng::with_seed(1));
            let chain = head.fields.get(Known::XForwardedFor).expect("the chain is written");
            prop_assert!(chain.ends_with(b"192.0.2.7"));
            prop_assert_eq!(head.fields.has(Known::Connection), exchange == Exchange::Upgrade);
            for wire in [Wire::Http1, Wire::Http2] {
                let _refused_or_not = aim(&mut head, wire);
            }
        }
    }
}
