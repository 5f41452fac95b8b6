//! A request's head has one end and one meaning, and what is written for a node is read there as the same request.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use balancer_core::{
    forwarded::{Exchange, Hop, check_request},
    message::{Fields, HeadEnd, Known, Limits, Request, head_end, parse_request, write_request},
};
use fastrand::Rng;
use http::Method;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    bytes: 2048,
    fields: 16,
};

/// What the balancer writes may have more fields than what it reads.
const WIDE: Limits = Limits {
    bytes: 1 << 16,
    fields: 100,
};

fuzz_target!(|bytes: &[u8]| {
    let whole = head_end(bytes, 0, LIMITS).ok();
    assert_eq!(whole, in_pieces(bytes), "the end depends on the cuts");
    if let Some(HeadEnd::At(end)) = whole
        && let Ok(head) = parse_request(&bytes[..end], LIMITS)
    {
        pass_on(head);
    }
});

fn in_pieces(bytes: &[u8]) -> Option<HeadEnd> {
    let mut seen = 0;
    for end in fuzz::ends(bytes) {
        match head_end(&bytes[..end], seen, LIMITS).ok()? {
            HeadEnd::NotYet(so_far) => seen = so_far,
            at => return Some(at),
        }
    }
    Some(HeadEnd::NotYet(seen))
}

fn pass_on(mut head: Request) {
    // A tunnel's target is an authority, which is not passed on in this form.
    if check_request(&head).is_err() || head.method == Method::CONNECT {
        return;
    }
    same_when_written(&head);
    let exchange = Exchange::of(&head);
    let mut rng = Rng::with_seed(1);
    let trace = hop().request(&mut head, exchange, &mut rng);
    let mut next = same_when_written(&head);
    let line = next.fields.only(Known::Traceparent);
    assert_eq!(line.map(<[u8]>::len), Some(55), "one traceparent goes out");
    let second = hop().request(&mut next, exchange, &mut rng);
    assert_eq!(second.trace_id, trace.trace_id, "a trace goes on");
    assert_eq!(second.parent_id, Some(trace.span_id), "from hop to hop");
}

fn hop() -> Hop {
    Hop::new(IpAddr::V4(Ipv4Addr::LOCALHOST), false, true)
}

fn same_when_written(head: &Request) -> Request {
    let mut text = Vec::new();
    write_request(&mut text, head, head.framing);
    let end = head_end(&text, 0, WIDE);
    assert_eq!(end, Ok(HeadEnd::At(text.len())), "it ends where it ends");
    let again = parse_request(&text, WIDE).expect("what is written can be read");
    assert_eq!(head.method, again.method);
    assert_eq!(head.path_and_query(), again.path_and_query());
    assert_eq!(head.framing, again.framing);
    assert_eq!(unframed(&head.fields), unframed(&again.fields));
    again
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
