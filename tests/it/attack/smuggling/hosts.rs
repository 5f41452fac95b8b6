//! Targets and hosts of which two readers would not choose the same site.

use super::{Case, at_most, get, refused, request, seen};

const REFUSED: &[(&str, &str)] = &[
    ("no host", "GET /t HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET /t HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    (
        "the same host twice",
        "GET /t HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ),
    (
        "two hosts in different letters",
        "GET /t HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n",
    ),
    ("an empty host", "GET /t HTTP/1.1\r\nHost:\r\n\r\n"),
    (
        "a host with a space",
        "GET /t HTTP/1.1\r\nHost: a b\r\n\r\n",
    ),
    ("a host with a tab", "GET /t HTTP/1.1\r\nHost: a\tb\r\n\r\n"),
    (
        "a host with a slash",
        "GET /t HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ),
    (
        "a host with a backslash",
        "GET /t HTTP/1.1\r\nHost: a\\b\r\n\r\n",
    ),
    (
        "a host with a user",
        "GET /t HTTP/1.1\r\nHost: user@a\r\n\r\n",
    ),
    (
        "a host with a question mark",
        "GET /t HTTP/1.1\r\nHost: a?b\r\n\r\n",
    ),
    (
        "a host with a fragment",
        "GET /t HTTP/1.1\r\nHost: a#b\r\n\r\n",
    ),
    (
        "a host with a port that is no number",
        "GET /t HTTP/1.1\r\nHost: a:x\r\n\r\n",
    ),
    (
        "a host with two ports",
        "GET /t HTTP/1.1\r\nHost: a:80:81\r\n\r\n",
    ),
    (
        "a host with an open bracket",
        "GET /t HTTP/1.1\r\nHost: [::1\r\n\r\n",
    ),
    ("a host with a NUL", "GET /t HTTP/1.1\r\nHost: a\0\r\n\r\n"),
    (
        "a host with a scheme",
        "GET /t HTTP/1.1\r\nHost: http://a\r\n\r\n",
    ),
    (
        "a host beyond ASCII",
        "GET /t HTTP/1.1\r\nHost: \u{e9}\r\n\r\n",
    ),
    (
        "an absolute target without a host field",
        "GET http://a/t HTTP/1.1\r\n\r\n",
    ),
    (
        "an absolute target with a user",
        "GET http://user@a/t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "an absolute target without a host",
        "GET http:///t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "an absolute target with one slash",
        "GET http:/t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "an absolute target with a port that is no number",
        "GET http://a:x/t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a target without a slash",
        "GET t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a target that is a host",
        "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    ),
    ("an asterisk of a GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "a query without a path",
        "GET ?x HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a connection to elsewhere",
        "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a connection with a length",
        "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\nContent-Length: 3\r\n\r\nabc",
    ),
    (
        "a connection to a path",
        "CONNECT /t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let refused = REFUSED.iter().map(|(name, sent)| refused(name, *sent));
    refused.chain(tolerated()).chain(good()).collect()
}

/// RFC 9112 §3.2.2 lets the target win; whoever lets it must tell the node the same host.
fn tolerated() -> Vec<Case> {
    let of = |host: &str| [request("GET", "/t", host, "")];
    vec![
        at_most(
            "a target and a host that differ",
            "GET http://b/t HTTP/1.1\r\nHost: a\r\n\r\n",
            &of("b"),
        ),
        at_most(
            "a target and a host with different ports",
            "GET http://a:81/t HTTP/1.1\r\nHost: a:82\r\n\r\n",
            &of("a:81"),
        ),
        at_most(
            "a scheme in capitals",
            "GET HTTP://a/t HTTP/1.1\r\nHost: a\r\n\r\n",
            &of("a"),
        ),
        at_most(
            "a scheme that is not spoken here",
            "GET ftp://a/t HTTP/1.1\r\nHost: a\r\n\r\n",
            &of("a"),
        ),
        at_most(
            "a secure scheme",
            "GET https://a/t HTTP/1.1\r\nHost: a\r\n\r\n",
            &of("a"),
        ),
        at_most(
            "an empty port",
            "GET /t HTTP/1.1\r\nHost: a:\r\n\r\n",
            &of("a:"),
        ),
        at_most(
            "a port beyond 65535",
            "GET /t HTTP/1.1\r\nHost: a:99999\r\n\r\n",
            &of("a:99999"),
        ),
        at_most(
            "a host with a comma",
            "GET /t HTTP/1.1\r\nHost: a,b\r\n\r\n",
            &of("a,b"),
        ),
        at_most(
            "a host that ends in a point",
            "GET /t HTTP/1.1\r\nHost: a.\r\n\r\n",
            &of("a."),
        ),
        at_most(
            "a fragment in the target",
            "GET /t#x HTTP/1.1\r\nHost: a\r\n\r\n",
            &of("a"),
        ),
        at_most(
            "a backslash in the target",
            "GET /\\t HTTP/1.1\r\nHost: a\r\n\r\n",
            &[get("/\\t")],
        ),
        at_most("no host in HTTP/1.0", "GET /t HTTP/1.0\r\n\r\n", &of("")),
    ]
}

fn good() -> Vec<Case> {
    vec![
        seen(
            "a host with a port",
            "GET /t HTTP/1.1\r\nHost: a:8080\r\n\r\n",
            &[request("GET", "/t", "a:8080", "")],
        ),
        seen(
            "an address in brackets",
            "GET /t HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            &[request("GET", "/t", "[::1]:80", "")],
        ),
        seen(
            "an absolute target",
            "GET http://a/t HTTP/1.1\r\nHost: a\r\n\r\n",
            &[get("/t")],
        ),
        seen(
            "an absolute target without a path",
            "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
            &[get("/")],
        ),
        seen(
            "an absolute target with a query alone",
            "GET http://a?x=http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            &[get("/?x=http://b/")],
        ),
        seen(
            "a target with two slashes",
            "GET //b/t HTTP/1.1\r\nHost: a\r\n\r\n",
            &[get("//b/t")],
        ),
        seen(
            "a target that climbs",
            "GET /../%2e%2e/t HTTP/1.1\r\nHost: a\r\n\r\n",
            &[get("/../%2e%2e/t")],
        ),
        seen(
            "an escaped line end in the target",
            "GET /%0d%0aHost:%20b HTTP/1.1\r\nHost: a\r\n\r\n",
            &[get("/%0d%0aHost:%20b")],
        ),
        seen(
            "a question to the server as such",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            &[request("OPTIONS", "*", "a", "")],
        ),
    ]
}
