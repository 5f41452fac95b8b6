//! The PROXY protocol, versions 1 and 2: the first bytes of a connection, by which a proxy says whose connection it is.
//!
//! Written from the protocol's text (haproxy.org, proxy-protocol.txt, 2020). It only reads and writes bytes: whether a peer may
//! say such things is the shell's to decide.

use std::net::SocketAddr;

use thiserror::Error;

mod v1;
mod v2;

pub use v2::{Facts, TlsFacts};

/// The longest line of version 1, its CRLF included (§2.1).
pub const V1_LEN_MAX: usize = 107;

/// The most bytes a header of version 2 may have here. The format allows 64 KiB; what proxies send is below 1 KiB.
pub const V2_LEN_MAX: usize = 4096;

/// What the bytes heard so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// They may be the beginning of a header.
    NeedMore,
    /// No header begins like this.
    NotProxy,
    /// A whole header of `len` bytes; what follows is the client's.
    Header {
        header: Box<ProxyHeader>,
        len: usize,
    },
    /// It begins as a header and is none.
    Bad(BadHeader),
}

/// Whose connection it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// None when the proxy speaks for itself (`LOCAL`), as health checks do, or does not tell (`UNKNOWN`, `UNSPEC`).
    pub addresses: Option<Addresses>,
    /// The name the client asked for in TLS (`PP2_TYPE_AUTHORITY`).
    pub authority: Option<String>,
    /// The protocol negotiated in TLS (`PP2_TYPE_ALPN`).
    pub alpn: Option<Vec<u8>>,
    pub unique_id: Option<Vec<u8>>,
    pub tls: Option<Tls>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// What the proxy tells of the client's TLS (`PP2_TYPE_SSL`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Such as `TLSv1.3`.
    pub version: Option<String>,
    pub cipher: Option<String>,
    /// The common name of the client's certificate.
    pub common_name: Option<String>,
    /// The client showed a certificate and it was verified.
    pub is_verified: bool,
}

/// Why bytes that begin as a header are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadHeader {
    #[error("the line of version 1 is malformed")]
    Line,
    #[error("the header is longer than it may be")]
    TooLong,
    #[error("the version is not 2 or the command is unknown")]
    Command,
    #[error("the addresses do not fit the length")]
    Addresses,
    #[error("an extension does not fit the length or is malformed")]
    Extension,
    #[error("the checksum is wrong")]
    Checksum,
}

/// Reads the beginning of a connection.
///
/// It looks at no more than [`V2_LEN_MAX`] bytes and never asks for more than a header may have.
pub fn parse(bytes: &[u8]) -> Parsed {
    if may_begin(bytes, v2::SIGNATURE) {
        v2::parse(bytes)
    } else if may_begin(bytes, v1::PREFIX) {
        v1::parse(bytes)
    } else {
        Parsed::NotProxy
    }
}

/// The line of version 1.
pub fn write_v1(addresses: Option<Addresses>) -> Vec<u8> {
    v1::write(addresses)
}

/// The header of version 2 with every extension there is something to say in.
pub fn write_v2(facts: &Facts<'_>) -> Vec<u8> {
    v2::write(facts)
}

fn may_begin(bytes: &[u8], with: &[u8]) -> bool {
    let n = bytes.len().min(with.len());
    bytes[..n] == with[..n]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_tells_both_addresses() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 4321 443\r\nGET /";
        let expected = header("192.0.2.1:4321", "198.51.100.2:443");
        check(line, expected, line.len() - 5);
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
        let expected = header("[2001:db8::1]:1", "[2001:db8::2]:65535");
        check(line, expected, line.len());
        let line = b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n";
        check(line, ProxyHeader::default(), line.len());
    }

    #[test]
    fn lines_that_are_none_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 4321\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 4321 443 1\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 04321 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 70000 443\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 1 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 443\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 443\n\r\n",
        ] {
            assert_eq!(
                parse(line.as_bytes()),
                Parsed::Bad(BadHeader::Line),
                "{line:?}"
            );
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(parse(&endless), Parsed::Bad(BadHeader::TooLong));
    }

    #[test]
    fn other_protocols_are_no_headers() {
        for first in [
            "GET / HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "PROXX",
            "\r\n\r\nX",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(parse(first.as_bytes()), Parsed::NotProxy, "{first:?}");
        }
        for first in ["", "P", "PROXY", "\r\n\r\n\0\r\nQUIT"] {
            assert_eq!(parse(first.as_bytes()), Parsed::NeedMore, "{first:?}");
        }
    }

    #[test]
    fn what_is_written_in_version_2_reads_back_whole() {
        let tls = TlsFacts {
            version: "TLSv1.3",
            cipher: Some("TLS13_AES_128_GCM_SHA256"),
            common_name: Some("alice"),
            is_verified: true,
        };
        let facts = Facts {
            addresses: Some(addresses("192.0.2.1:4321", "198.51.100.2:443")),
            authority: Some("www.example.org"),
            alpn: Some(b"h2"),
            unique_id: Some(b"4711"),
            tls: Some(tls),
        };
        let bytes = write_v2(&facts);
        let expected = ProxyHeader {
            addresses: facts.addresses,
            authority: Some("www.example.org".to_owned()),
            alpn: Some(b"h2".to_vec()),
            unique_id: Some(b"4711".to_vec()),
            tls: Some(Tls {
                version: Some("TLSv1.3".to_owned()),
                cipher: Some("TLS13_AES_128_GCM_SHA256".to_owned()),
                common_name: Some("alice".to_owned()),
                is_verified: true,
            }),
        };
        check(&bytes, expected, bytes.len());
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n]), Parsed::NeedMore, "{n} bytes");
        }
    }

    #[test]
    fn a_single_wrong_bit_breaks_the_checksum() {
        let facts = Facts {
            addresses: Some(addresses("192.0.2.1:4321", "198.51.100.2:443")),
            ..Facts::default()
        };
        let mut bytes = write_v2(&facts);
        bytes[17] ^= 1;
        assert_eq!(parse(&bytes), Parsed::Bad(BadHeader::Checksum));
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        let bytes = write_v2(&Facts::default());
        check(&bytes, ProxyHeader::default(), bytes.len());
        // LOCAL with addresses, which must be ignored (§2.2).
        let local = [v2::SIGNATURE, &[0x20, 0x11, 0, 12], &[1; 12]].concat();
        check(&local, ProxyHeader::default(), local.len());
    }

    #[test]
    fn headers_of_version_2_that_are_none_are_refused() {
        for (tail, expected) in [
            (&[0x11, 0x11, 0, 12][..], BadHeader::Command),
            (&[0x22, 0x11, 0, 12], BadHeader::Command),
            (&[0x21, 0x11, 0xff, 0xff], BadHeader::TooLong),
            (
                &[0x21, 0x11, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                BadHeader::Addresses,
            ),
            (&[0x21, 0x00, 0, 4, 0x04, 0, 9, 0], BadHeader::Extension),
            (&[0x21, 0x00, 0, 2, 0x04, 0], BadHeader::Extension),
        ] {
            let bytes = [v2::SIGNATURE, tail].concat();
            assert_eq!(parse(&bytes), Parsed::Bad(expected), "{tail:02x?}");
        }
    }

    fn check(bytes: &[u8], expected: ProxyHeader, len: usize) {
        let header = Box::new(expected);
        assert_eq!(parse(bytes), Parsed::Header { header, len });
    }

    fn header(source: &str, destination: &str) -> ProxyHeader {
        ProxyHeader {
            addresses: Some(addresses(source, destination)),
            ..ProxyHeader::default()
        }
    }

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
        }
    }

    fn any_address() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        prop_oneof![
            any::<([u8; 4], u16, [u8; 4], u16)>()
                .prop_map(|(a, p, b, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q)))),
            any::<([u8; 16], u16, [u8; 16], u16)>()
                .prop_map(|(a, p, b, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q)))),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_disturb_the_parser(start in 0..4usize, bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let start = [&b""[..], b"PROXY TCP4 ", v2::SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11"][start];
            let bytes = [start, &bytes].concat();
            if let Parsed::Header { len, .. } = parse(&bytes) {
                prop_assert!(len <= bytes.len());
            }
            if bytes.len() >= V2_LEN_MAX {
                prop_assert_ne!(parse(&bytes), Parsed::NeedMore);
            }
        }

        #[test]
        fn addresses_survive_both_versions((source, destination) in any_address(), rest in prop::collection::vec(any::<u8>(), 0..20)) {
            let addresses = Some(Addresses { source, destination });
            let facts = Facts { addresses, ..Facts::default() };
            for written in [write_v1(addresses), write_v2(&facts)] {
                let bytes = [&written[..], &rest].concat();
                let header = Box::new(ProxyHeader { addresses, ..ProxyHeader::default() });
                prop_assert_eq!(parse(&bytes), Parsed::Header { header, len: written.len() });
            }
        }
    }
}
