//! The host that a request asks for, as `Host` and `:authority` write it (RFC 9110 §7.2, RFC 3986 §3.2).

/// A host with the port that may follow it. The host keeps the brackets of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostPort<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: Option<&'a str>,
}

impl<'a> HostPort<'a> {
    /// Cuts the text at the colon before the port; whether the parts are valid is not asked.
    pub(crate) fn split(text: &'a str) -> Self {
        let name_ends = text.rfind(']').unwrap_or(0);
        match text[name_ends..].rfind(':') {
            Some(at) => Self {
                host: &text[..name_ends + at],
                port: Some(&text[name_ends + at + 1..]),
            },
            None => Self {
                host: text,
                port: None,
            },
        }
    }

    /// The parts of a text that obeys the grammar, with a host that is not empty (RFC 9110 §4.2.1).
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let parts = Self::split(text);
        (is_host(parts.host) && parts.port.is_none_or(is_port)).then_some(parts)
    }

    /// Whether both name the same place, where a missing port means `port_default`.
    pub(crate) fn same_place(&self, other: &Self, port_default: &str) -> bool {
        let port = |it: &Self| -> &'a str { it.port.filter(|port| !port.is_empty()).unwrap_or("") };
        let same_port = |a: &str, b: &str| {
            a == b || [a, b] == ["", port_default] || [a, b] == [port_default, ""]
        };
        self.host.eq_ignore_ascii_case(other.host) && same_port(port(self), port(other))
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(is_ip_literal),
        None => !host.is_empty() && host.bytes().all(is_name_byte),
    }
}

/// An IPv6 address; zones and future address forms (RFC 3986 §3.2.2) have no use in a request.
fn is_ip_literal(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

/// An empty port means the scheme's default (RFC 3986 §3.2.3).
fn is_port(port: &str) -> bool {
    port.is_empty() || (port.bytes().all(|it| it.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// `unreserved`, `sub-delims` and the percent sign of an escape (RFC 3986 §2).
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_cut_from_its_port() {
        check("a.example", Some(("a.example", None)));
        check("a.example:80", Some(("a.example", Some("80"))));
        check("a.example:", Some(("a.example", Some(""))));
        check("192.0.2.1:8080", Some(("192.0.2.1", Some("8080"))));
        check("[::1]", Some(("[::1]", None)));
        check("[2001:db8::1]:443", Some(("[2001:db8::1]", Some("443"))));
        check("under_score.example", Some(("under_score.example", None)));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:65536", "a:+1", "::1", "[::1", "[x]",
            "[::1]x:1", "ä", "a?b", "a#b", "a\\b",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn the_same_place_may_be_written_in_several_ways() {
        let same = |a, b| HostPort::split(a).same_place(&HostPort::split(b), "80");
        assert!(same("A.example", "a.Example"));
        assert!(same("a.example", "a.example:80"));
        assert!(same("a.example:", "a.example:80"));
        assert!(!same("a.example", "a.example:8080"));
        assert!(!same("a.example:443", "a.example:80"));
        assert!(!same("a.example", "b.example"));
    }

    fn check(text: &str, expected: Option<(&str, Option<&str>)>) {
        let parts = HostPort::parse(text).map(|it| (it.host, it.port));
        assert_eq!(parts, expected, "{text:?}");
    }
}
