//! Fields that belong to one hop, protocols that would be changed, and clients that want to be asked before they send.

use super::{Case, at_most, get, post, refused, request, seen};

const NEXT: &str = "GET /n HTTP/1.1\r\nHost: a\r\n\r\n";

/// Fields that end here, and what the node must not see.
const ENDED: &[(&str, &str, &[&str])] = &[
    (
        "a nominated field",
        "Connection: x-secret\r\nX-Secret: 1",
        &["x-secret"],
    ),
    (
        "a field nominated beside close",
        "Connection: keep-alive, X-Secret\r\nx-secret: 1",
        &["x-secret"],
    ),
    (
        "a field nominated in a second line",
        "Connection: keep-alive\r\nConnection: x-secret\r\nX-Secret: 1",
        &["x-secret"],
    ),
    (
        "a field nominated after empty elements",
        "Connection: , ,x-secret,\r\nX-Secret: 1",
        &["x-secret"],
    ),
    (
        "a field nominated twice",
        "Connection: x-secret, x-secret\r\nX-Secret: 1\r\nX-Secret: 2",
        &["x-secret"],
    ),
    (
        "a field of keeping alive",
        "Connection: keep-alive\r\nKeep-Alive: timeout=5",
        &["keep-alive", "connection"],
    ),
    (
        "a field for a proxy's connection",
        "Proxy-Connection: keep-alive",
        &["proxy-connection"],
    ),
    (
        "an upgrade that nobody nominated",
        "Upgrade: websocket",
        &["upgrade"],
    ),
    (
        "an upgrade to h2c",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        &["upgrade", "http2-settings"],
    ),
    (
        "an upgrade to TLS",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0",
        &["upgrade"],
    ),
    (
        "an upgrade to a list",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c",
        &["upgrade"],
    ),
    (
        "two lines of upgrades",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket",
        &["upgrade"],
    ),
    (
        "a nominated te",
        "Connection: te\r\nTE: gzip",
        &["transfer-encoding"],
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let ended = ENDED.iter().map(|(name, fields, lacks)| Case {
        lacks,
        ..seen(
            name,
            format!("GET /t HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"),
            &[get("/t")],
        )
    });
    ended
        .chain(nominations())
        .chain(upgrades())
        .chain(expectations())
        .chain(ends())
        .collect()
}

/// Whoever nominates what the message cannot do without must not make it disappear.
fn nominations() -> Vec<Case> {
    let with = |fields: &str, body: &str| {
        format!("POST /t HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}{NEXT}")
    };
    let both = [post("abc"), get("/n")];
    vec![
        at_most(
            "the length nominated",
            with("Connection: content-length\r\nContent-Length: 3", "abc"),
            &both,
        ),
        at_most(
            "the encoding nominated",
            with(
                "Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
                "3\r\nabc\r\n0\r\n\r\n",
            ),
            &both,
        ),
        at_most(
            "the host nominated",
            with("Connection: host\r\nContent-Length: 3", "abc"),
            &both,
        ),
        at_most(
            "the cookie nominated",
            with("Connection: cookie\r\nContent-Length: 3", "abc"),
            &both,
        ),
        refused(
            "a nomination that is no name",
            with("Connection: x y\0\r\nContent-Length: 3", "abc"),
        ),
    ]
}

/// The node answers 200, so that nothing is a tunnel and the bytes behind the request are another request, or nothing.
fn upgrades() -> Vec<Case> {
    let websocket =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let with = |fields: &str, behind: &str| {
        format!("GET /t HTTP/1.1\r\nHost: a\r\n{websocket}\r\n{fields}\r\n\r\n{behind}")
    };
    let both = [get("/t"), get("/n")];
    vec![
        at_most(
            "a request behind a handshake that is not agreed to",
            with("Sec-WebSocket-Version: 13", NEXT),
            &both,
        ),
        at_most(
            "a request behind a handshake of no version",
            with("Sec-WebSocket-Version: 777", NEXT),
            &both,
        ),
        at_most(
            "a handshake with a body",
            with("Sec-WebSocket-Version: 13\r\nContent-Length: 3", "abc"),
            &[request("GET", "/t", "a", "abc")],
        ),
        at_most(
            "a handshake with chunks",
            with(
                "Sec-WebSocket-Version: 13\r\nTransfer-Encoding: chunked",
                "3\r\nabc\r\n0\r\n\r\n",
            ),
            &[request("GET", "/t", "a", "abc")],
        ),
        at_most(
            "a handshake by POST",
            with("Sec-WebSocket-Version: 13", "").replace("GET", "POST"),
            &[post("")],
        ),
        at_most(
            "a handshake in HTTP/1.0",
            with("Sec-WebSocket-Version: 13", NEXT).replacen("HTTP/1.1", "HTTP/1.0", 1),
            &[get("/t")],
        ),
    ]
}

fn expectations() -> Vec<Case> {
    let with = |fields: &str, body: &str| {
        format!("POST /t HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}{NEXT}")
    };
    let both = [post("abc"), get("/n")];
    vec![
        seen(
            "a body that did not wait to be asked for",
            with("Expect: 100-continue\r\nContent-Length: 3", "abc"),
            &both,
        ),
        seen(
            "chunks that did not wait to be asked for",
            with(
                "Expect: 100-continue\r\nTransfer-Encoding: chunked",
                "3\r\nabc\r\n0\r\n\r\n",
            ),
            &both,
        ),
        seen(
            "an expectation without a body",
            format!("GET /t HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n{NEXT}"),
            &[get("/t"), get("/n")],
        ),
        at_most(
            "an expectation nobody knows",
            with("Expect: y\r\nContent-Length: 3", "abc"),
            &both,
        ),
        at_most(
            "an expectation in disguise",
            with("Expect: 100-continue, y\r\nContent-Length: 3", "abc"),
            &both,
        ),
        at_most(
            "an expectation twice",
            with(
                "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 3",
                "abc",
            ),
            &both,
        ),
        at_most(
            "an expectation in HTTP/1.0",
            "POST /t HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
            &[post("abc")],
        ),
    ]
}

/// Nothing counts that stands behind a connection's last request.
fn ends() -> Vec<Case> {
    vec![
        seen(
            "a request behind the last one",
            format!("GET /t HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{NEXT}"),
            &[get("/t")],
        ),
        seen(
            "a request behind one of HTTP/1.0",
            format!("GET /t HTTP/1.0\r\nHost: a\r\n\r\n{NEXT}"),
            &[get("/t")],
        ),
        seen(
            "a HEAD and a request behind it",
            format!("HEAD /t HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}"),
            &[request("HEAD", "/t", "a", ""), get("/n")],
        ),
    ]
}
