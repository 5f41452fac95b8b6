//! What protocol do the first bytes of a connection speak?
//!
//! A listener that detects must answer before it can serve, so the answer is given on as few bytes as possible and
//! never taken back: once a prefix is decided, no later byte changes the decision. Nothing is consumed here; the
//! caller peeks, asks, and hands the same bytes to whoever serves them.

/// How many bytes always suffice for a decision: a caller that peeks this many never sees [`Preface::Undecided`].
pub const BYTES_MAX: usize = EMPTY_LINES_MAX * CRLF.len() + METHOD_BYTES_MAX + 2;

/// The longest method that is believed; the longest registered one, `UPDATEREDIRECTREF`, has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// RFC 9112 §2.2 asks a server to ignore at least one empty line ahead of the request line.
const EMPTY_LINES_MAX: usize = 2;

const CRLF: &[u8] = b"\r\n";

/// The client connection preface of RFC 9113 §3.4.
const HTTP2: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A TLS record that carries a handshake, of any version from SSL 3.0 to TLS 1.3 (RFC 8446 §5.1).
const TLS_HANDSHAKE: &[u8; 2] = &[0x16, 0x03];

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preface {
    /// The client sent the whole connection preface of HTTP/2.
    Http2,
    /// The client began an HTTP/1 request line; whether the rest is good is for the parser to say.
    Http1,
    /// The client began a TLS handshake. On a plain port this is an operator's mistake worth its own message.
    Tls,
    /// The client speaks something that is none of the others.
    Opaque,
    /// The bytes are too few to tell.
    Undecided,
}

/// Reads the first bytes that a client sent.
pub fn read(bytes: &[u8]) -> Preface {
    match bytes {
        [] => Preface::Undecided,
        [0x16, ..] => after(TLS_HANDSHAKE, bytes, Preface::Tls).unwrap_or(Preface::Opaque),
        _ => after(HTTP2, bytes, Preface::Http2).unwrap_or_else(|| http1(bytes)),
    }
}

/// `found` if the bytes start with the whole magic, undecided if with a part of it, `None` if they differ.
fn after(magic: &[u8], bytes: &[u8], found: Preface) -> Option<Preface> {
    if bytes.starts_with(magic) {
        Some(found)
    } else {
        magic.starts_with(bytes).then_some(Preface::Undecided)
    }
}

fn http1(bytes: &[u8]) -> Preface {
    let line = skip_empty_lines(bytes);
    match line {
        [] => Preface::Undecided,
        [b'\r'] => undecided_until(bytes.len() < EMPTY_LINES_MAX * CRLF.len()),
        [b'A'..=b'Z', ..] => request_line(line),
        _ => Preface::Opaque,
    }
}

/// Skips as many empty lines as are allowed, whole ones only.
fn skip_empty_lines(mut bytes: &[u8]) -> &[u8] {
    for _ in 0..EMPTY_LINES_MAX {
        bytes = bytes.strip_prefix(CRLF).unwrap_or(bytes);
    }
    bytes
}

/// `METHOD SP request-target`, of which the first byte of the target is the last one read.
///
/// That byte keeps out text protocols whose first line also starts with a word in capitals: SSH's
/// `SSH-2.0-OpenSSH_9.6 Debian`, IRC's `NICK joe`, NATS' `CONNECT {…}`.
fn request_line(line: &[u8]) -> Preface {
    let Some(end) = line
        .iter()
        .take(METHOD_BYTES_MAX + 1)
        .position(|&it| !is_tchar(it))
    else {
        return undecided_until(line.len() <= METHOD_BYTES_MAX);
    };
    match (&line[..end], &line[end..]) {
        (_, [b' ']) => Preface::Undecided,
        (b"CONNECT", [b' ', target, ..]) if starts_authority(*target) => Preface::Http1,
        (_, [b' ', target, ..]) if starts_target(*target) => Preface::Http1,
        _ => Preface::Opaque,
    }
}

fn undecided_until(more_may_help: bool) -> Preface {
    if more_may_help {
        Preface::Undecided
    } else {
        Preface::Opaque
    }
}

/// Origin-form, asterisk-form, or the scheme of an absolute-form (RFC 9112 §3.2).
fn starts_target(byte: u8) -> bool {
    matches!(byte, b'/' | b'*' | b'h' | b'H')
}

fn starts_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'['
}

/// RFC 9110 §5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn http2_needs_every_byte_of_its_preface() {
        for len in 0..HTTP2.len() {
            check(&HTTP2[..len], Preface::Undecided);
        }
        check(HTTP2, Preface::Http2);
        check(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04",
            Preface::Http2,
        );
    }

    #[test]
    fn what_only_looked_like_http2_is_left_to_the_http1_parser() {
        check(b"PRI /", Preface::Http1);
        check(b"PRI * HTTP/1.1\r\n", Preface::Http1);
        check(b"PRI * HTTP/2.0\r\n\r\nXX", Preface::Http1);
        check(b"PRI?", Preface::Opaque);
    }

    #[test]
    fn http1_is_known_by_the_first_byte_of_its_target() {
        check(b"G", Preface::Undecided);
        check(b"GET", Preface::Undecided);
        check(b"GET ", Preface::Undecided);
        check(b"GET /", Preface::Http1);
        check(b"OPTIONS *", Preface::Http1);
        check(b"GET http://a.example/", Preface::Http1);
        check(b"M-SEARCH *", Preface::Http1);
        check(b"CONNECT a.example:443", Preface::Http1);
        check(b"CONNECT [::1]:443", Preface::Http1);
        check(b"POST /", Preface::Http1);
    }

    #[test]
    fn a_few_empty_lines_may_come_first() {
        check(b"\r", Preface::Undecided);
        check(b"\r\n", Preface::Undecided);
        check(b"\r\nGET /", Preface::Http1);
        check(b"\r\n\r\n", Preface::Undecided);
        check(b"\r\n\r\nGET /", Preface::Http1);
        check(b"\r\n\r\n\r", Preface::Opaque);
        check(b"\n", Preface::Opaque);
        check(b"\rG", Preface::Opaque);
    }

    #[test]
    fn a_method_has_an_end() {
        check(&[b'A'; METHOD_BYTES_MAX], Preface::Undecided);
        check(&[b'A'; METHOD_BYTES_MAX + 1], Preface::Opaque);
        check(
            &[&[b'A'; METHOD_BYTES_MAX][..], b" /"].concat(),
            Preface::Http1,
        );
    }

    #[test]
    fn other_protocols_are_opaque() {
        check(b"get /", Preface::Opaque);
        check(b"\0", Preface::Opaque);
        check(b"*1\r\n$4\r\nPING\r\n", Preface::Opaque);
        check(b"SSH-2.0-OpenSSH_9.6p1 Debian-3\r\n", Preface::Opaque);
        check(b"NICK joe\r\n", Preface::Opaque);
        check(b"CONNECT\naccept-version:1.2\n", Preface::Opaque);
        check(b"CONNECT {\"verbose\":false}", Preface::Opaque);
        check("ÄPFEL /".as_bytes(), Preface::Opaque);
    }

    #[test]
    fn tls_has_its_own_name() {
        check(&[0x16], Preface::Undecided);
        check(&[0x16, 0x03], Preface::Tls);
        check(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01], Preface::Tls);
        check(&[0x16, 0x02], Preface::Opaque);
    }

    fn check(bytes: &[u8], expected: Preface) {
        assert_eq!(
            read(bytes),
            expected,
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }

    /// Bytes from the alphabet in which the decisions are close, between stretches of real prefaces.
    fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            (0..=HTTP2.len()).prop_map(|len| HTTP2[..len].to_vec()),
            Just(CRLF.to_vec()),
            prop::sample::select(&b"\r\n PRIGET*/h\x16\x03!a{"[..]).prop_map(|it| vec![it]),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_an_answer(bytes in nearly_http()) {
            let mut answer = Preface::Undecided;
            for len in 0..=bytes.len() {
                let next = read(&bytes[..len]);
                prop_assert!(answer == Preface::Undecided || next == answer, "{answer:?} became {next:?} at {len}");
                answer = next;
            }
        }

        #[test]
        fn enough_bytes_always_decide(bytes in prop::collection::vec(any::<u8>(), BYTES_MAX..BYTES_MAX + 8)) {
            prop_assert_ne!(read(&bytes), Preface::Undecided);
        }

        #[test]
        fn enough_tokens_always_decide(method in "(\r\n){0,3}[A-Z]{1,40} {0,2}[a-zA-Z/]{40}") {
            prop_assert_ne!(read(&method.as_bytes()[..BYTES_MAX]), Preface::Undecided);
        }
    }
}
