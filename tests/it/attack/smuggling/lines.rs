//! Heads whose lines end, begin or break where not every reader looks.

use super::{Case, at_most, get, refused, request, seen};

const NEXT: &str = "GET /n HTTP/1.1\r\nHost: a\r\n\r\n";

const REFUSED: &[(&str, &str)] = &[
    ("lines that end in CR", "GET /t HTTP/1.1\rHost: a\r\r"),
    (
        "a request line that ends in CR",
        "GET /t HTTP/1.1\rHost: a\r\n\r\n",
    ),
    (
        "a request line that ends in CR CR LF",
        "GET /t HTTP/1.1\r\r\nHost: a\r\n\r\n",
    ),
    (
        "a field that ends in CR CR LF",
        "GET /t HTTP/1.1\r\nHost: a\r\r\n\r\n",
    ),
    (
        "a CR in a value",
        "GET /t HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n",
    ),
    (
        "a field after a CR in a value",
        "GET /t HTTP/1.1\r\nHost: a\r\nX: b\rHost: evil\r\n\r\n",
    ),
    (
        "a NUL in a value",
        "GET /t HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
    ),
    (
        "a NUL in a name",
        "GET /t HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
    ),
    (
        "a folded value",
        "GET /t HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    ),
    (
        "a value folded with a tab",
        "GET /t HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n",
    ),
    (
        "a first field that begins with a space",
        "GET /t HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n",
    ),
    (
        "a first line of spaces",
        "GET /t HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
    ),
    ("a folded host", "GET /t HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
    (
        "a space before the colon",
        "GET /t HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
    ),
    (
        "a tab before the colon",
        "GET /t HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n",
    ),
    (
        "a host with a space before the colon",
        "GET /t HTTP/1.1\r\nHost : a\r\n\r\n",
    ),
    ("no name", "GET /t HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
    ("no colon", "GET /t HTTP/1.1\r\nHost: a\r\nxyz\r\n\r\n"),
    (
        "a space in a name",
        "GET /t HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
    ),
    (
        "a parenthesis in a name",
        "GET /t HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n",
    ),
    (
        "an at sign in a name",
        "GET /t HTTP/1.1\r\nHost: a\r\nX@: b\r\n\r\n",
    ),
    (
        "a letter beyond ASCII in a name",
        "GET /t HTTP/1.1\r\nHost: a\r\nX\u{e9}: b\r\n\r\n",
    ),
    (
        "a control character in a name",
        "GET /t HTTP/1.1\r\nHost: a\r\nX\u{1}: b\r\n\r\n",
    ),
    (
        "two spaces after the method",
        "GET  /t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "two spaces before the version",
        "GET /t  HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "tabs in the request line",
        "GET\t/t\tHTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a space before the method",
        " GET /t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a space after the version",
        "GET /t HTTP/1.1 \r\nHost: a\r\n\r\n",
    ),
    ("no version", "GET /t\r\nHost: a\r\n\r\n"),
    ("no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "a version with a suffix",
        "GET /t HTTP/1.1x\r\nHost: a\r\n\r\n",
    ),
    (
        "a version in small letters",
        "GET /t http/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a version with a zero before it",
        "GET /t HTTP/01.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a version with a zero after it",
        "GET /t HTTP/1.10\r\nHost: a\r\n\r\n",
    ),
    ("a version of 2.0", "GET /t HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("a version of 0.9", "GET /t HTTP/0.9\r\nHost: a\r\n\r\n"),
    ("a version of 9.9", "GET /t HTTP/9.9\r\nHost: a\r\n\r\n"),
    (
        "a request line of two",
        "GET /t HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a parenthesis in the method",
        "GE(T /t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a NUL in the method",
        "GE\0T /t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a colon in the method",
        "GET: /t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a method beyond ASCII",
        "G\u{c9}T /t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a space in the target",
        "GET /t t HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a NUL in the target",
        "GET /t\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a control character in the target",
        "GET /t\u{1} HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a delete character in the target",
        "GET /t\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a tab in the target",
        "GET /t\tt HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a CR in the target",
        "GET /t\rt HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let refused = REFUSED
        .iter()
        .map(|(name, sent)| refused(name, format!("{sent}{NEXT}")));
    refused.chain(tolerated()).chain(good()).collect()
}

/// RFC 9112 §2.2, §2.3 and RFC 9110 §5.5 leave a choice; what is passed on has no trace of the fault.
fn tolerated() -> Vec<Case> {
    let both = [get("/t"), get("/n")];
    let tolerated = [
        ("lines that end in LF", "GET /t HTTP/1.1\nHost: a\n\n"),
        (
            "a request line that ends in LF",
            "GET /t HTTP/1.1\nHost: a\r\n\r\n",
        ),
        (
            "a field that ends in LF",
            "GET /t HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        ),
        ("a head that ends in LF", "GET /t HTTP/1.1\r\nHost: a\r\n\n"),
        (
            "an LF that hides a field",
            "GET /t HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n",
        ),
        (
            "two empty lines before it",
            "\r\n\r\nGET /t HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("an LF before it", "\nGET /t HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "a control character in a value",
            "GET /t HTTP/1.1\r\nHost: a\r\nX: b\u{1}\r\n\r\n",
        ),
        (
            "a delete character in a value",
            "GET /t HTTP/1.1\r\nHost: a\r\nX: b\u{7f}\r\n\r\n",
        ),
        ("a version of 1.2", "GET /t HTTP/1.2\r\nHost: a\r\n\r\n"),
        (
            "letters beyond ASCII in a value",
            "GET /t HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n",
        ),
    ];
    let tolerated = tolerated
        .into_iter()
        .map(|(name, sent)| at_most(name, format!("{sent}{NEXT}"), &both));
    let others = [
        at_most(
            "an LF that hides a length",
            format!("POST /t HTTP/1.1\r\nHost: a\r\nX: b\nContent-Length: 3\r\n\r\nabc{NEXT}"),
            &[request("POST", "/t", "a", "abc"), get("/n")],
        ),
        at_most(
            "a method in small letters",
            "get /t HTTP/1.1\r\nHost: a\r\n\r\n",
            &[request("get", "/t", "a", "")],
        ),
        at_most(
            "letters beyond ASCII in the target",
            "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
            &[get("/\u{e9}")],
        ),
    ];
    tolerated.chain(others).collect()
}

fn good() -> Vec<Case> {
    let both = [get("/t"), get("/n")];
    vec![
        seen(
            "two requests",
            format!("GET /t HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}"),
            &both,
        ),
        seen("five requests", NEXT.repeat(5), &vec![get("/n"); 5]),
        seen(
            "an empty line before it",
            format!("\r\nGET /t HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}"),
            &both,
        ),
        seen(
            "an empty line between two",
            format!("GET /t HTTP/1.1\r\nHost: a\r\n\r\n\r\n{NEXT}"),
            &both,
        ),
        seen(
            "values with space around them",
            format!("GET /t HTTP/1.1\r\nHost:\t a \t\r\nX:\r\n\r\n{NEXT}"),
            &both,
        ),
        seen(
            "the preface of HTTP/2 after a request",
            "GET /t HTTP/1.1\r\nHost: a\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[get("/t")],
        ),
        seen(
            "a method nobody knows",
            "BREW /t HTTP/1.1\r\nHost: a\r\n\r\n",
            &[request("BREW", "/t", "a", "")],
        ),
    ]
}
