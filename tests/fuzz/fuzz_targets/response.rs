//! A response's head that is written for a client is read there with the same status, fields and end of the body.
#![no_main]

use balancer_core::message::{Fields, Limits, Response, parse_response, write_response};
use http::Method;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    bytes: 1 << 16,
    fields: 100,
};

fuzz_target!(|bytes: &[u8]| {
    for method in [Method::GET, Method::HEAD] {
        if let Ok(head) = parse_response(bytes, LIMITS, &method) {
            same_when_written(&head, &method);
        }
    }
});

fn same_when_written(head: &Response, method: &Method) {
    let mut text = Vec::new();
    write_response(&mut text, head, head.framing);
    text.extend_from_slice(b"\r\n");
    let again = parse_response(&text, LIMITS, method).expect("what is written can be read");
    assert_eq!(head.status, again.status);
    assert_eq!(head.framing, again.framing);
    assert_eq!(unframed(&head.fields), unframed(&again.fields));
}

/// The fields but those that are written from the framing.
fn unframed(fields: &Fields) -> Vec<(&[u8], &[u8])> {
    let framing = ["content-length", "transfer-encoding"];
    let is_framing = |name: &[u8]| {
        framing
            .iter()
            .any(|it| name.eq_ignore_ascii_case(it.as_bytes()))
    };
    fields
        .iter()
        .filter(|(name, _)| !is_framing(name))
        .collect()
}
