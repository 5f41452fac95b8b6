//! The ids by which one request is found again: `X-Request-Id`, and `traceparent` of W3C Trace Context level 1.

use std::fmt;

use fastrand::Rng;

use crate::message::{Fields, Known};

/// A proxy's id of this length is believed, a longer one replaced: it is logged, and logs are read by people.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// `00-` trace id `-` parent id `-` flags, all in lower-case hexadecimal digits.
const TRACEPARENT_BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// The one flag that level 1 knows; it asks senders to clear the others (§3.2.2.5).
const SAMPLED: u8 = 0x01;

/// The ids under which client, balancer and node know one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub request_id: RequestId,
    pub trace_id: u128,
    /// This hop's own id within the trace, which the node sees as its parent.
    pub span_id: u64,
    /// The id of whoever sent the request, if it is part of a trace.
    pub parent_id: Option<u64>,
    /// Whoever began the trace wants it recorded.
    pub is_sampled: bool,
}

impl Trace {
    /// Writes down for the next hop who its parent is, and whether the trace is recorded. A rule that took the field out has its way.
    pub fn tell(&self, fields: &mut Fields, parent: u64) {
        if fields.has(Known::Traceparent) {
            let flags = u8::from(self.is_sampled) * SAMPLED;
            let text = traceparent(self.trace_id, parent, flags);
            fields.set(Known::Traceparent, &text);
        }
    }
}

/// The id that is written in `X-Request-Id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// Made here: 32 hexadecimal digits.
    Fresh(u128),
    /// A trusted proxy's own.
    Kept(Box<str>),
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh(number) => {
                let mut text = [0; 32];
                write_hex(&mut text, *number);
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
            Self::Kept(text) => f.write_str(text),
        }
    }
}

impl RequestId {
    /// Appends the id as the access log writes it; the quick way around `Display`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Fresh(number) => {
                let mut text = [0; 32];
                write_hex(&mut text, *number);
                out.extend_from_slice(&text);
            }
            Self::Kept(text) => out.extend_from_slice(text.as_bytes()),
        }
    }
}

/// Marks the request. A request that comes without ids gets one number for both, so that there is one thing to look for.
pub(super) fn mark(fields: &mut Fields, trusted: bool, rng: &mut Rng) -> Trace {
    let fresh = rng.u128(1..);
    let span_id = rng.u64(1..);
    let incoming = incoming(fields);
    if incoming.is_none() {
        // The state belongs to a trace that ends here (§3.3).
        fields.remove(Known::Tracestate);
    }
    let trace_id = incoming.as_ref().map_or(fresh, |it| it.trace_id);
    // Who samples is the client's or the nodes' business unless the client said nothing.
    let flags = incoming.as_ref().map_or(0, |it| it.flags);
    fields.set(Known::Traceparent, &traceparent(trace_id, span_id, flags));
    Trace {
        request_id: request_id(fields, trusted, fresh),
        trace_id,
        span_id,
        parent_id: incoming.map(|it| it.parent_id),
        is_sampled: flags & SAMPLED != 0,
    }
}

/// What a client's `traceparent` says.
#[derive(Debug, PartialEq, Eq)]
struct Incoming {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

fn request_id(fields: &mut Fields, trusted: bool, fresh: u128) -> RequestId {
    let kept = fields
        .get(Known::XRequestId)
        .filter(|it| trusted && is_request_id(it))
        .and_then(|it| std::str::from_utf8(it).ok());
    if let Some(kept) = kept {
        return RequestId::Kept(kept.into());
    }
    let mut text = [0; 32];
    write_hex(&mut text, fresh);
    fields.set(Known::XRequestId, &text);
    RequestId::Fresh(fresh)
}

fn is_request_id(bytes: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// What the only line says; several contradict each other.
fn incoming(fields: &Fields) -> Option<Incoming> {
    parse_traceparent(fields.only(Known::Traceparent)?)
}

/// The trace id and the flags; a later version is read as far as this one is known (§3.2.4).
fn parse_traceparent(bytes: &[u8]) -> Option<Incoming> {
    let (known, rest) = bytes.split_at_checked(TRACEPARENT_BYTES)?;
    let version = hex(&known[..2])?;
    let ends_well = rest.is_empty() || (version > 0 && rest[0] == b'-');
    let dashes = [known[2], known[35], known[52]];
    if version == 0xff || !ends_well || dashes != *b"---" {
        return None;
    }
    let trace_id = hex(&known[3..35]).filter(|&it| it != 0)?;
    let parent_id = hex(&known[36..52]).filter(|&it| it != 0)? as u64;
    let flags = hex(&known[53..])? as u8;
    Some(Incoming {
        trace_id,
        parent_id,
        flags: flags & SAMPLED,
    })
}

fn traceparent(trace_id: u128, span_id: u64, flags: u8) -> [u8; TRACEPARENT_BYTES] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut text[3..35], trace_id);
    write_hex(&mut text[36..52], span_id.into());
    write_hex(&mut text[53..], flags.into());
    text
}

/// Lower-case digits only, as the recommendation demands; the callers' slices hold at most 32 of them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, &digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(nibble))
    })
}

/// Fills the slice with the number's lowest digits.
fn write_hex(digits: &mut [u8], mut number: u128) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_request_without_ids_gets_one_number_for_both() {
        let fields = marked(&[], false);
        let id = only(&fields, Known::XRequestId);
        assert_eq!(id.len(), 32);
        let trace = only(&fields, Known::Traceparent);
        assert!(
            trace.starts_with(&format!("00-{id}-")) && trace.ends_with("-00"),
            "{trace}"
        );
    }

    #[test]
    fn a_request_id_is_kept_from_a_trusted_proxy_only() {
        let id = |value: &str, trusted| {
            only(
                &marked(&[("x-request-id", value)], trusted),
                Known::XRequestId,
            )
        };
        assert_eq!(id("abc-1", true), "abc-1");
        assert_ne!(id("abc-1", false), "abc-1");
        assert_ne!(id("a b", true), "a b");
        assert_ne!(id("", true), "");
        assert_eq!(id(&"x".repeat(128), true), "x".repeat(128));
        assert_ne!(id(&"x".repeat(129), true), "x".repeat(129));
    }

    #[test]
    fn several_request_ids_become_one() {
        let fields = marked(&[("x-request-id", "a"), ("x-request-id", "b")], false);
        assert_eq!(fields.all(Known::XRequestId).count(), 1);
    }

    #[test]
    fn a_valid_trace_goes_on_under_a_new_parent() {
        continues(&format!("00-{TRACE}-00f067aa0ba902b7-01"), "01");
        continues(&format!("00-{TRACE}-00f067aa0ba902b7-00"), "00");
        continues(&format!("00-{TRACE}-00f067aa0ba902b7-ff"), "01");
        continues(&format!("cc-{TRACE}-00f067aa0ba902b7-01"), "01");
        continues(
            &format!("cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-holds"),
            "01",
        );
    }

    #[test]
    fn what_is_decided_here_is_told_unless_a_rule_keeps_it_quiet() {
        let mut fields = Fields::default();
        let mut trace = mark(&mut fields, false, &mut Rng::with_seed(7));
        trace.is_sampled = true;
        trace.tell(&mut fields, 0xab);
        let told = only(&fields, Known::Traceparent);
        assert!(told.ends_with("-00000000000000ab-01"), "{told}");
        fields.remove(Known::Traceparent);
        trace.tell(&mut fields, 0xab);
        assert!(!fields.has(Known::Traceparent));
    }

    #[test]
    fn an_invalid_trace_is_replaced_with_its_state() {
        restarts(&[""]);
        restarts(&["00"]);
        restarts(&[&format!("ff-{TRACE}-00f067aa0ba902b7-01")]);
        restarts(&[&format!("00-{TRACE}-00f067aa0ba902b7-01-more")]);
        restarts(&[&format!("cc-{TRACE}-00f067aa0ba902b7-01.more")]);
        restarts(&[&format!("00-{TRACE}-0000000000000000-01")]);
        restarts(&["00-00000000000000000000000000000000-00f067aa0ba902b7-01"]);
        restarts(&[&format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase())]);
        restarts(&[&format!("00-{TRACE}_00f067aa0ba902b7-01")]);
        let twice = format!("00-{TRACE}-00f067aa0ba902b7-01");
        restarts(&[&twice, &twice]);
    }

    fn continues(incoming: &str, flags: &str) {
        let fields = marked(&[("traceparent", incoming), ("tracestate", "v=1")], false);
        let outgoing = only(&fields, Known::Traceparent);
        assert!(outgoing.starts_with(&format!("00-{TRACE}-")), "{outgoing}");
        assert!(outgoing.ends_with(&format!("-{flags}")), "{outgoing}");
        assert!(
            !outgoing.contains("00f067aa0ba902b7"),
            "the parent is this hop: {outgoing}"
        );
        assert_eq!(only(&fields, Known::Tracestate), "v=1");
    }

    fn restarts(incoming: &[&str]) {
        let mut given = vec![("tracestate", "v=1")];
        given.extend(incoming.iter().map(|&it| ("traceparent", it)));
        let fields = marked(&given, true);
        let outgoing = only(&fields, Known::Traceparent);
        assert!(
            !outgoing.contains(TRACE) && outgoing.ends_with("-00"),
            "{incoming:?} became {outgoing}"
        );
        assert!(!fields.has(Known::Tracestate));
    }

    fn marked(given: &[(&str, &str)], trusted: bool) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in given {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        let trace = mark(&mut fields, trusted, &mut Rng::with_seed(7));
        assert_eq!(
            only(&fields, Known::XRequestId),
            trace.request_id.to_string()
        );
        fields
    }

    fn only(fields: &Fields, known: Known) -> String {
        let value = fields.only(known).expect("one line of it");
        String::from_utf8(value.to_vec()).expect("ASCII")
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(trace_id in 1u128.., parent_id in 1u64.., flags in 0..=SAMPLED) {
            let text = traceparent(trace_id, parent_id, flags);
            prop_assert_eq!(parse_traceparent(&text), Some(Incoming { trace_id, parent_id, flags }));
        }

        #[test]
        fn no_bytes_disturb_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            parse_traceparent(&bytes);
        }

        #[test]
        fn a_nearly_valid_trace_never_disturbs_the_parser(text in "(00|cc|ff)-[0-9a-fé]{32}-[0-9a-f]{15,17}-[01]{2}-?") {
            parse_traceparent(text.as_bytes());
        }
    }
}
