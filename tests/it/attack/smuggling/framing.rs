//! The length of a body, said twice, said wrongly or said in disguise.

use super::{Case, Seen, at_most, get, post, refused, request, seen};

/// What a reader that believes the wrong length takes for a request of its own.
const SMUGGLED: &str = "0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n";

/// Each a name and the fields.
const REFUSED: &[(&str, &str)] = &[
    ("two lengths", "Content-Length: 3\r\nContent-Length: 4"),
    (
        "two lengths, the shorter last",
        "Content-Length: 4\r\nContent-Length: 3",
    ),
    (
        "two lengths apart",
        "Content-Length: 3\r\nX: y\r\nContent-Length: 0",
    ),
    ("a list of lengths", "Content-Length: 3, 4"),
    ("a length with a plus", "Content-Length: +3"),
    ("a length with a minus", "Content-Length: -3"),
    ("a length and a space within", "Content-Length: 3 3"),
    ("a hexadecimal length", "Content-Length: 0x3"),
    ("a length with a point", "Content-Length: 3.0"),
    ("a length with an exponent", "Content-Length: 3e0"),
    ("a length with a separator", "Content-Length: 1_0"),
    ("a length in other digits", "Content-Length: \u{663}"),
    ("a length in full-width digits", "Content-Length: \u{ff13}"),
    ("an empty length", "Content-Length: "),
    ("a length of spaces", "Content-Length:    "),
    ("a length with a semicolon", "Content-Length: 3;"),
    ("a quoted length", "Content-Length: \"3\""),
    ("a length after a vertical tab", "Content-Length: \u{b}3"),
    ("a length before a form feed", "Content-Length: 3\u{c}"),
    ("a length before a NUL", "Content-Length: 3\0"),
    ("a length of 2^64", "Content-Length: 18446744073709551616"),
    (
        "a length of 2^64 + 3",
        "Content-Length: 18446744073709551619",
    ),
    (
        "a length of thirty digits",
        "Content-Length: 999999999999999999999999999999",
    ),
    ("a length that is no number", "Content-Length: three"),
    (
        "a length with a space before the colon",
        "Content-Length : 3",
    ),
    (
        "a length with a tab before the colon",
        "Content-Length\t: 3",
    ),
    (
        "a length with a NUL before the colon",
        "Content-Length\0: 3",
    ),
    (
        "a length with a no-break space in its name",
        "Content-Length\u{a0}: 3",
    ),
    ("a folded length", "Content-Length:\r\n 3"),
    ("a folded second length", "Content-Length: 3\r\n 4"),
    ("an encoding nobody knows", "Transfer-Encoding: xchunked"),
    ("an encoding with a suffix", "Transfer-Encoding: chunkedx"),
    ("an encoding within a word", "Transfer-Encoding: chun ked"),
    (
        "identity after chunked",
        "Transfer-Encoding: chunked, identity",
    ),
    (
        "identity before chunked",
        "Transfer-Encoding: identity, chunked",
    ),
    ("identity alone", "Transfer-Encoding: identity"),
    (
        "chunked twice in a list",
        "Transfer-Encoding: chunked, chunked",
    ),
    (
        "chunked twice in two lines",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    (
        "chunked and then identity in two lines",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ),
    (
        "identity and then chunked in two lines",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    ),
    ("gzip before chunked", "Transfer-Encoding: gzip, chunked"),
    ("gzip alone", "Transfer-Encoding: gzip"),
    ("chunked in quotes", "Transfer-Encoding: \"chunked\""),
    ("chunked with a parameter", "Transfer-Encoding: chunked;q=1"),
    ("chunked after a semicolon", "Transfer-Encoding: ;chunked"),
    (
        "chunked after a vertical tab",
        "Transfer-Encoding: \u{b}chunked",
    ),
    ("chunked before a NUL", "Transfer-Encoding: chunked\0"),
    (
        "chunked before a carriage return",
        "Transfer-Encoding: chunked\rx",
    ),
    ("chunked folded", "Transfer-Encoding:\r\n chunked"),
    (
        "chunked and a folded list",
        "Transfer-Encoding: chunked\r\n , identity",
    ),
    (
        "chunked with a space before the colon",
        "Transfer-Encoding : chunked",
    ),
    (
        "chunked with a tab before the colon",
        "Transfer-Encoding\t: chunked",
    ),
    ("an empty encoding", "Transfer-Encoding: "),
    (
        "a line that begins with a space",
        " Transfer-Encoding: chunked",
    ),
    (
        "chunked in a field after a bare CR",
        "X: y\rTransfer-Encoding: chunked",
    ),
    (
        "an encoding in disguise beside a length",
        "Content-Length: 5\r\nTransfer-Encoding: xchunked",
    ),
    (
        "an encoding with a space beside a length",
        "Content-Length: 5\r\nTransfer-Encoding : chunked",
    ),
    (
        "two lengths beside an encoding",
        "Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked",
    ),
    (
        "a bad length beside an encoding",
        "Content-Length: x\r\nTransfer-Encoding: chunked",
    ),
];

/// What RFC 9112 §6.1 leaves open: to refuse, or to believe the encoding and end the connection after the answer.
const ENCODING_WINS: &[(&str, &str)] = &[
    (
        "a length before an encoding",
        "Content-Length: 40\r\nTransfer-Encoding: chunked",
    ),
    (
        "a length after an encoding",
        "Transfer-Encoding: chunked\r\nContent-Length: 40",
    ),
    (
        "a short length and an encoding",
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
    ),
    (
        "a length of nothing and an encoding",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
    ),
    (
        "a length and an encoding in capitals",
        "CONTENT-LENGTH: 40\r\nTRANSFER-ENCODING: CHUNKED",
    ),
    (
        "a length and an encoding after a tab",
        "Content-Length: 40\r\nTransfer-Encoding:\tchunked",
    ),
    (
        "a length and an encoding without space",
        "Content-Length:40\r\nTransfer-Encoding:chunked",
    ),
    (
        "a length and an encoding with an empty element",
        "Content-Length: 40\r\nTransfer-Encoding: ,chunked",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let with =
        |fields: &str, body: &str| format!("POST /t HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let refused = REFUSED
        .iter()
        .map(|(name, fields)| refused(name, with(fields, SMUGGLED)));
    let encoding_wins = ENCODING_WINS
        .iter()
        .map(|(name, fields)| at_most(name, with(fields, SMUGGLED), &[post("")]));
    refused
        .chain(encoding_wins)
        .chain(accepted())
        .chain(unusual())
        .collect()
}

fn accepted() -> Vec<Case> {
    let with =
        |fields: &str, body: &str| format!("POST /t HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let next = "GET /n HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = |body: &str| -> [Seen; 2] { [post(body), get("/n")] };
    vec![
        seen(
            "a plain length",
            with("Content-Length: 3", "abc"),
            &[post("abc")],
        ),
        seen(
            "a length, and another request",
            with("Content-Length: 3", &format!("abc{next}")),
            &both("abc"),
        ),
        seen(
            "no body, and another request",
            with("Content-Length: 0", next),
            &both(""),
        ),
        seen(
            "no length, and another request",
            with("X: y", next),
            &both(""),
        ),
        seen(
            "a body that looks like a request",
            with(
                "Content-Length: 30",
                "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
            )
            .replace("30", "31"),
            &[post("GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")],
        ),
        at_most(
            "the same length twice",
            with("Content-Length: 3\r\nContent-Length: 3", "abc"),
            &[post("abc")],
        ),
        at_most(
            "the same length in a list",
            with("Content-Length: 3, 3", "abc"),
            &[post("abc")],
        ),
        at_most(
            "a length with leading zeros",
            with("Content-Length: 0003", "abc"),
            &[post("abc")],
        ),
        seen(
            "a length between tabs",
            with("Content-Length:\t3\t", "abc"),
            &[post("abc")],
        ),
        at_most(
            "an underscore is not a hyphen",
            with("Content-Length: 3\r\nTransfer_Encoding: chunked", "abc"),
            &[post("abc")],
        ),
        at_most(
            "a length with an underscore",
            with("Content_Length: 40", next),
            &both(""),
        ),
    ]
}

/// What every reader agrees on, in methods and versions that few use.
fn unusual() -> Vec<Case> {
    vec![
        seen(
            "a GET with a body",
            "GET /t HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            &[request("GET", "/t", "a", "abc")],
        ),
        seen(
            "a DELETE with chunks",
            "DELETE /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            &[request("DELETE", "/t", "a", "abc")],
        ),
        refused(
            "chunks in HTTP/1.0",
            "POST /t HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        refused(
            "chunks and a length in HTTP/1.0",
            "POST /t HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        seen(
            "a length in HTTP/1.0",
            "POST /t HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            &[post("abc")],
        ),
    ]
}
