//! The names of hosts, in the one form in which they are compared.

use std::net::IpAddr;

/// RFC 1035 §2.3.4.
const NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

/// A host of a route: an address, a name, or `*.` and a name. Lower-case, without the dot of the root.
pub(super) fn pattern(text: &str) -> Result<String, String> {
    if text == "*" {
        return Err("any host is meant where `hosts` is left out".to_owned());
    }
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    match is_name(name) || is_address(&lower) {
        true => Ok(lower),
        false => Err(format!(
            "`{text}` is not a host such as `www.example.org`, `*.example.org`, `192.0.2.1` or `[2001:db8::1]`, without a port"
        )),
    }
}

/// Whether it is a name that DNS can hold, as which the underscores of service names count, and not an address.
pub(super) fn is_name(text: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&text.len())
        && text.split('.').all(is_label)
        && text.parse::<IpAddr>().is_err()
}

fn is_label(text: &str) -> bool {
    (1..=LABEL_LEN_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
}

/// An address as it stands in a URI: that of IPv6 in brackets (RFC 3986 §3.2.2).
fn is_address(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => text.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}
