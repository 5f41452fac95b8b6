//! Writes heads of HTTP/1.1 as bytes.

use http::{Method, StatusCode};

use super::{Fields, Framing, Known, Request, Response};

/// What only the writer of a head can say: which connection it goes out on.
const WRITTEN_HERE: u64 = Known::bits(&[Known::ContentLength, Known::TransferEncoding]);

/// The head of a request in origin-form. `Host` must be among the fields; framing fields are written from `framing`.
pub fn write_request(out: &mut Vec<u8>, head: &Request, framing: Framing) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.path_and_query().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(out, &head.fields);
    write_framing(out, framing, takes_a_body(&head.method));
    out.extend_from_slice(b"\r\n");
}

/// The head of a response, up to but without the empty line that ends it, so that the caller can add what depends on the connection.
///
/// A response without a body keeps the length that its head gives, which tells of the body that there would be (RFC 9110 §8.6); one
/// whose body is merely empty is written with `Framing::Length(0)`.
pub fn write_response(out: &mut Vec<u8>, head: &Response, framing: Framing) {
    write_status_line(out, head.status);
    let may_have_a_body = !head.status.is_informational() && head.status != StatusCode::NO_CONTENT;
    if framing == Framing::Empty && head.fields.has(Known::ContentLength) && may_have_a_body {
        write_all_but(out, &head.fields, Known::TransferEncoding.bit());
        return;
    }
    write_fields(out, &head.fields);
    write_framing(out, framing, false);
}

pub fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The line before a chunk's data.
pub fn push_chunk_head(out: &mut Vec<u8>, len: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = len;
    while left > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 0xf];
        left >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

fn write_status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_fields(out: &mut Vec<u8>, fields: &Fields) {
    write_all_but(out, fields, WRITTEN_HERE);
}

fn write_all_but(out: &mut Vec<u8>, fields: &Fields, left_out: u64) {
    for line in &fields.lines {
        if line.known.bit() & left_out == 0 {
            push_field(out, fields.bytes(line.name), fields.bytes(line.value));
        }
    }
}

fn write_framing(out: &mut Vec<u8>, framing: Framing, says_empty: bool) {
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            let mut digits = itoa::Buffer::new();
            out.extend_from_slice(digits.format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Empty if says_empty => out.extend_from_slice(b"content-length: 0\r\n"),
        Framing::Empty | Framing::UntilClose | Framing::Stream => {}
    }
}

/// A request whose method foresees a body says that it has none (RFC 9110 §8.6).
fn takes_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;
    use crate::message::{Limits, parse_request, parse_response};

    #[test]
    fn a_request_is_written_as_it_was_read() {
        let text = "GET /a?b HTTP/1.1\r\nHost: a.example\r\nX-Y: z\r\n\r\n";
        check_request(text, text);
    }

    #[test]
    fn framing_is_ours_to_write() {
        check_request(
            "POST http://a/x HTTP/1.1\r\nhost: a\r\nContent-Length: 4\r\n\r\n",
            "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n",
        );
        check_request(
            "POST / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
        );
    }

    #[test]
    fn a_response_to_head_keeps_its_length() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
        let head = parse_response(text, Limits::default(), &Method::HEAD).expect("it is valid");
        let mut out = Vec::new();
        write_response(&mut out, &head, Framing::Empty);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n");
    }

    #[test]
    fn bodiless_statuses_carry_no_framing() {
        for status in [204, 101, 304] {
            let status = StatusCode::from_u16(status).expect("it is in range");
            let mut out = Vec::new();
            let head = Response::new(status, Version::HTTP_11);
            write_response(&mut out, &head, Framing::Empty);
            let text = String::from_utf8_lossy(&out).into_owned();
            assert!(!text.contains("content-length"), "{text}");
        }
    }

    #[test]
    fn chunk_heads_are_hexadecimal() {
        for len in [0, 1, 15, 16, 4096, 65_535, usize::MAX] {
            let mut out = Vec::new();
            push_chunk_head(&mut out, len);
            assert_eq!(out, format!("{len:x}\r\n").into_bytes());
        }
    }

    fn check_request(read: &str, written: &str) {
        let head = parse_request(read.as_bytes(), Limits::default()).expect("it is valid");
        let mut out = Vec::new();
        write_request(&mut out, &head, head.framing);
        assert_eq!(String::from_utf8_lossy(&out), written);
    }
}
