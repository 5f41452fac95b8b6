//! Whose word about the client counts: the networks of the proxies in front of the balancer.

use std::{
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr},
    num::ParseIntError,
    str::FromStr,
};

use serde::{Serialize, Serializer};

/// Networks whose peers are proxies of the same operator. The default trusts nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Trusted(Vec<Cidr>);

/// A network: an address and how many of its leading bits count. A lone address is a network of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("`{text}` is not an IP address")]
    Address {
        text: String,
        #[source]
        cause: AddrParseError,
    },
    #[error("`{text}` is not a prefix length")]
    PrefixLen {
        text: String,
        #[source]
        cause: ParseIntError,
    },
    #[error("a prefix of {prefix_len} bits is longer than the {bits} bits of the address")]
    PrefixTooLong { prefix_len: u8, bits: u8 },
    #[error("the address has bits beyond its prefix, the network is {network}")]
    HostBits { network: Cidr },
    /// Peers are known by their IPv4 address, so that an IPv6 network of mapped addresses would never match.
    #[error("an IPv4 network is written as IPv4")]
    Mapped,
}

impl Trusted {
    /// Whether the peer is in one of the networks. An IPv4 peer seen through an IPv6 socket is known by its IPv4 address.
    pub fn contains(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|it| it.contains(peer))
    }
}

impl FromIterator<Cidr> for Trusted {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl Cidr {
    /// Whether the address lies in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits(address) == bits(self.address) && network(address, self.prefix_len) == self.address
    }

    fn new(address: IpAddr, prefix_len: Option<u8>) -> Result<Self, CidrError> {
        let bits = bits(address);
        let prefix_len = prefix_len.unwrap_or(bits);
        if address.to_canonical() != address {
            return Err(CidrError::Mapped);
        }
        if prefix_len > bits {
            return Err(CidrError::PrefixTooLong { prefix_len, bits });
        }
        let network = Self {
            address: network(address, prefix_len),
            prefix_len,
        };
        if network.address != address {
            return Err(CidrError::HostBits { network });
        }
        Ok(network)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(parse_prefix_len(len)?)),
            None => (text, None),
        };
        let address = address.parse().map_err(|cause| CidrError::Address {
            text: address.into(),
            cause,
        })?;
        Self::new(address, prefix_len)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn parse_prefix_len(text: &str) -> Result<u8, CidrError> {
    text.parse().map_err(|cause| CidrError::PrefixLen {
        text: text.into(),
        cause,
    })
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with every bit beyond the prefix cleared.
fn network(address: IpAddr, prefix_len: u8) -> IpAddr {
    let cleared = u32::from(bits(address) - prefix_len);
    match address {
        IpAddr::V4(it) => {
            Ipv4Addr::from(it.to_bits() & u32::MAX.checked_shl(cleared).unwrap_or(0)).into()
        }
        IpAddr::V6(it) => {
            Ipv6Addr::from(it.to_bits() & u128::MAX.checked_shl(cleared).unwrap_or(0)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        check("10.0.0.0/8", "10.255.1.2", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("2001:db8::/32", "2001:db8:1::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("::/0", "::1", true);
        check("::/0", "192.0.2.1", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
    }

    #[test]
    fn what_is_no_network_says_why() {
        refuse("", "`` is not an IP address");
        refuse("localhost", "`localhost` is not an IP address");
        refuse("10.0.0.0/", "`` is not a prefix length");
        refuse("10.0.0.0/x", "`x` is not a prefix length");
        refuse(
            "10.0.0.0/33",
            "a prefix of 33 bits is longer than the 32 bits of the address",
        );
        refuse(
            "::/129",
            "a prefix of 129 bits is longer than the 128 bits of the address",
        );
        refuse(
            "10.0.0.1/8",
            "the address has bits beyond its prefix, the network is 10.0.0.0/8",
        );
        refuse("::ffff:10.0.0.0/104", "an IPv4 network is written as IPv4");
    }

    #[test]
    fn nobody_is_trusted_by_default() {
        assert!(!Trusted::default().contains(IpAddr::from([127, 0, 0, 1])));
    }

    fn check(network: &str, address: &str, expected: bool) {
        let trusted: Trusted = [network.parse().expect("a network")].into_iter().collect();
        let address = address.parse().expect("an address");
        assert_eq!(
            trusted.contains(address),
            expected,
            "{network} and {address}"
        );
    }

    fn refuse(text: &str, expected: &str) {
        let err = text.parse::<Cidr>().expect_err(text);
        assert_eq!(err.to_string(), expected);
    }

    proptest! {
        #[test]
        fn a_network_reads_back_as_it_was_written(bits in any::<u128>(), prefix_len in 0..=128u8) {
            let network = network(Ipv6Addr::from_bits(bits).into(), prefix_len);
            prop_assume!(network.to_canonical() == network);
            let cidr = Cidr::new(network, Some(prefix_len)).expect("a network");
            prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
            prop_assert!(cidr.contains(Ipv6Addr::from_bits(bits).into()));
        }

        #[test]
        fn no_text_disturbs_the_parser(text in "[0-9a-f.:/x]{0,24}") {
            let _refused_or_not = text.parse::<Cidr>();
        }
    }
}
