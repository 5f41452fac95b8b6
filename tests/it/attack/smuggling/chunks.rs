//! Chunks whose size, extension, end or trailers are not what they seem.

use super::{Case, at_most, broken, get, post, seen};

const NEXT: &str = "GET /n HTTP/1.1\r\nHost: a\r\n\r\n";

/// Each a name and the body.
const BROKEN: &[(&str, &str)] = &[
    ("a size that is no number", "zz\r\nabc\r\n0\r\n\r\n"),
    ("a size with a minus", "-3\r\nabc\r\n0\r\n\r\n"),
    ("a size with a plus", "+3\r\nabc\r\n0\r\n\r\n"),
    ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
    ("a size after a space", " 3\r\nabc\r\n0\r\n\r\n"),
    ("a size after a tab", "\t3\r\nabc\r\n0\r\n\r\n"),
    ("a size with a space within", "0 3\r\nabc\r\n0\r\n\r\n"),
    ("a size with an underscore", "0_3\r\nabc\r\n0\r\n\r\n"),
    ("a size with a NUL", "3\0\r\nabc\r\n0\r\n\r\n"),
    (
        "a size in full-width digits",
        "\u{ff13}\r\nabc\r\n0\r\n\r\n",
    ),
    ("an empty size", "\r\nabc\r\n0\r\n\r\n"),
    (
        "a size of 2^64 + 3",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "a size of seventeen digits",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    ),
    ("a size that ends in LF", "3\nabc\r\n0\r\n\r\n"),
    ("a size that ends in CR", "3\rabc\r\n0\r\n\r\n"),
    ("a size that ends in CR CR LF", "3\r\r\nabc\r\n0\r\n\r\n"),
    ("an extension that ends in LF", "3;x\nabc\r\n0\r\n\r\n"),
    (
        "an extension with an LF and a size within",
        "3;x\n5\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "an extension with a CR within",
        "3;x\ry\r\nabc\r\n0\r\n\r\n",
    ),
    ("an extension with a NUL", "3;x\0\r\nabc\r\n0\r\n\r\n"),
    ("a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk shorter than its size", "5\r\nabc\r\n0\r\n\r\n"),
    ("a chunk that ends in LF", "3\r\nabc\n0\r\n\r\n"),
    ("a chunk that ends in CR", "3\r\nabc\r0\r\n\r\n"),
    ("a chunk that ends in letters", "3\r\nabcXX0\r\n\r\n"),
    ("a chunk that does not end", "3\r\nabc0\r\n\r\n"),
    ("a last chunk that ends in LF", "3\r\nabc\r\n0\n\r\n"),
    ("a last chunk in two LF", "3\r\nabc\r\n0\n\n"),
    ("a last chunk that ends in CR", "3\r\nabc\r\n0\r\rX\r\n\r\n"),
    ("a trailer without a colon", "3\r\nabc\r\n0\r\nxyz\r\n\r\n"),
    (
        "a trailer with a space before the colon",
        "3\r\nabc\r\n0\r\nx : y\r\n\r\n",
    ),
    ("a trailer without a name", "3\r\nabc\r\n0\r\n: y\r\n\r\n"),
    ("a trailer with a NUL", "3\r\nabc\r\n0\r\nx: y\0\r\n\r\n"),
    ("a trailer with a CR", "3\r\nabc\r\n0\r\nx: y\rz\r\n\r\n"),
    ("a folded trailer", "3\r\nabc\r\n0\r\nx: y\r\n z\r\n\r\n"),
    (
        "trailers that begin with a space",
        "3\r\nabc\r\n0\r\n x: y\r\n\r\n",
    ),
];

/// What a recipient may drop, repair or refuse, as long as the next one reads the same.
const REPAIRED: &[(&str, &str)] = &[
    ("a size before a space", "3 \r\nabc\r\n0\r\n\r\n"),
    ("an extension after a space", "3 ;x\r\nabc\r\n0\r\n\r\n"),
    ("an extension with a value", "3;x=y\r\nabc\r\n0\r\n\r\n"),
    (
        "an extension with a quoted value",
        "3;x=\"y;z\"\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "an extension with an open quote",
        "3;x=\"y\r\nabc\r\n0\r\n\r\n",
    ),
    ("an extension without a name", "3;\r\nabc\r\n0\r\n\r\n"),
    (
        "an extension of the last chunk",
        "3\r\nabc\r\n0;x=y\r\n\r\n",
    ),
    (
        "a size with forty zeros",
        "00000000000000000000000000000000000000003\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "a length in the trailers",
        "3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    ),
    (
        "an encoding in the trailers",
        "3\r\nabc\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n",
    ),
    (
        "a host in the trailers",
        "3\r\nabc\r\n0\r\nHost: evil\r\n\r\n",
    ),
    ("a trailer that ends in LF", "3\r\nabc\r\n0\r\nx: y\n\r\n"),
];

const GOOD: &[(&str, &str)] = &[
    ("one chunk", "3\r\nabc\r\n0\r\n\r\n"),
    ("three chunks", "1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"),
    ("sizes with zeros before them", "03\r\nabc\r\n000\r\n\r\n"),
    ("a trailer", "3\r\nabc\r\n0\r\nx: y\r\n\r\n"),
];

pub(super) fn cases() -> Vec<Case> {
    let with = |body: &str| {
        let head = "POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{body}{NEXT}")
    };
    let broken = BROKEN.iter().map(|(name, body)| broken(name, with(body)));
    let repaired = REPAIRED
        .iter()
        .map(|(name, body)| at_most(name, with(body), &[post("abc"), get("/n")]));
    let good = GOOD
        .iter()
        .map(|(name, body)| seen(name, with(body), &[post("abc"), get("/n")]));
    let nothing = [
        seen("no chunk", with("0\r\n\r\n"), &[post(""), get("/n")]),
        seen(
            "a size in capitals",
            with("A\r\nabcdefghij\r\n0\r\n\r\n"),
            &[post("abcdefghij"), get("/n")],
        ),
        seen(
            "chunks in capitals",
            with("3\r\nabc\r\n0\r\n\r\n").replace(": chunked", ": Chunked"),
            &[post("abc"), get("/n")],
        ),
        seen(
            "a chunk that looks like an end",
            with("5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
            &[post("0\r\n\r\n"), get("/n")],
        ),
    ];
    broken.chain(repaired).chain(good).chain(nothing).collect()
}
