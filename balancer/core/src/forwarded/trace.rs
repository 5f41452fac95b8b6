//! The ids by which one request is found again: `X-Request-Id`, and `traceparent` of W3C Trace Context level 1.

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue};

pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A proxy's id of this length is believed, a longer one replaced: it is logged, and logs are read by people.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// `00-` trace id `-` parent id `-` flags, all in lower-case hexadecimal digits.
const TRACEPARENT_BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// The one flag that level 1 knows; it asks senders to clear the others (§3.2.2.5).
const SAMPLED: u8 = 0x01;

/// The id under which client, balancer and node know one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    pub fn as_str(&self) -> &str {
        // Both kinds are visible ASCII: a proxy's was checked, and ours is made of digits.
        self.0.to_str().unwrap_or_default()
    }
}

impl From<RequestId> for HeaderValue {
    fn from(id: RequestId) -> Self {
        id.0
    }
}

/// Marks the request. A request that comes without ids gets one number for both, so that there is one thing to look for.
pub(super) fn mark(headers: &mut HeaderMap, trusted: bool, rng: &mut Rng) -> RequestId {
    let fresh = rng.u128(1..);
    trace(headers, fresh, rng.u64(1..));
    request_id(headers, trusted, fresh)
}

fn request_id(headers: &mut HeaderMap, trusted: bool, fresh: u128) -> RequestId {
    if let Some(kept) = headers
        .get(&X_REQUEST_ID)
        .filter(|it| trusted && is_request_id(it))
    {
        return RequestId(kept.clone());
    }
    let id = RequestId(hex_value(fresh));
    headers.insert(&X_REQUEST_ID, id.0.clone());
    id
}

fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// Continues the client's trace, or starts one that is not sampled: who samples is the nodes' business.
fn trace(headers: &mut HeaderMap, fresh: u128, parent_id: u64) {
    let (trace_id, flags) = incoming(headers).unwrap_or_else(|| {
        // The state belongs to a trace that ends here (§3.3).
        headers.remove(&TRACESTATE);
        (fresh, 0)
    });
    headers.insert(&TRACEPARENT, traceparent(trace_id, parent_id, flags));
}

fn incoming(headers: &HeaderMap) -> Option<(u128, u8)> {
    let mut lines = headers.get_all(&TRACEPARENT).iter();
    match (lines.next(), lines.next()) {
        (Some(only), None) => parse_traceparent(only.as_bytes()),
        _ => None,
    }
}

/// The trace id and the flags; a later version is read as far as this one is known (§3.2.4).
fn parse_traceparent(bytes: &[u8]) -> Option<(u128, u8)> {
    let (known, rest) = bytes.split_at_checked(TRACEPARENT_BYTES)?;
    let version = hex(&known[..2])?;
    let ends_well = rest.is_empty() || (version > 0 && rest[0] == b'-');
    let dashes = [known[2], known[35], known[52]];
    if version == 0xff || !ends_well || dashes != *b"---" {
        return None;
    }
    let trace_id = hex(&known[3..35]).filter(|&it| it != 0)?;
    hex(&known[36..52]).filter(|&it| it != 0)?;
    let flags = hex(&known[53..])? as u8;
    Some((trace_id, flags & SAMPLED))
}

fn traceparent(trace_id: u128, parent_id: u64, flags: u8) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut text[3..35], trace_id);
    write_hex(&mut text[36..52], parent_id.into());
    write_hex(&mut text[53..], flags.into());
    value(&text)
}

fn hex_value(number: u128) -> HeaderValue {
    let mut text = [0; 32];
    write_hex(&mut text, number);
    value(&text)
}

fn value(digits: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(digits).expect("digits and dashes are valid in a header")
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
        let headers = marked(&[], false);
        let id = headers[&X_REQUEST_ID].to_str().expect("ASCII");
        assert_eq!(id.len(), 32);
        let trace = headers[&TRACEPARENT].to_str().expect("ASCII");
        assert!(
            trace.starts_with(&format!("00-{id}-")) && trace.ends_with("-00"),
            "{trace}"
        );
    }

    #[test]
    fn a_request_id_is_kept_from_a_trusted_proxy_only() {
        let id = |value: &str, trusted| {
            marked(&[("x-request-id", value)], trusted)[&X_REQUEST_ID].clone()
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
        let headers = marked(&[("x-request-id", "a"), ("x-request-id", "b")], false);
        assert_eq!(headers.get_all(&X_REQUEST_ID).iter().count(), 1);
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
        let headers = marked(&[("traceparent", incoming), ("tracestate", "v=1")], false);
        let outgoing = headers[&TRACEPARENT].to_str().expect("ASCII");
        assert!(outgoing.starts_with(&format!("00-{TRACE}-")), "{outgoing}");
        assert!(outgoing.ends_with(&format!("-{flags}")), "{outgoing}");
        assert!(
            !outgoing.contains("00f067aa0ba902b7"),
            "the parent is this hop: {outgoing}"
        );
        assert_eq!(headers[&TRACESTATE], "v=1");
    }

    fn restarts(incoming: &[&str]) {
        let mut given = vec![("tracestate", "v=1")];
        given.extend(incoming.iter().map(|&it| ("traceparent", it)));
        let headers = marked(&given, true);
        let outgoing = headers[&TRACEPARENT].to_str().expect("ASCII");
        assert!(
            !outgoing.contains(TRACE) && outgoing.ends_with("-00"),
            "{incoming:?} became {outgoing}"
        );
        assert_eq!(headers.get_all(&TRACEPARENT).iter().count(), 1);
        assert!(!headers.contains_key(&TRACESTATE));
    }

    fn marked(given: &[(&'static str, &str)], trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, value.parse().expect("a header value"));
        }
        let id = mark(&mut headers, trusted, &mut Rng::with_seed(7));
        assert_eq!(headers[&X_REQUEST_ID], id.as_str());
        headers
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(trace_id in 1u128.., parent_id in 1u64.., flags in 0..=SAMPLED) {
            let text = traceparent(trace_id, parent_id, flags);
            prop_assert_eq!(parse_traceparent(text.as_bytes()), Some((trace_id, flags)));
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
