//! Finds the client's address behind the proxies that are trusted to name it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use ipnet::IpNet;

/// Hops beyond this many are not looked at: no honest chain is that long.
const HOPS_MAX: usize = 32;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The networks whose word about a client's address is taken.
#[derive(Clone, Debug, Default)]
pub struct Trusted(Vec<IpNet>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address or a network such as `10.0.0.0/8`")]
pub struct NotANetwork;

/// The first address, from our side, that nobody trusted speaks for.
///
/// Each proxy appends the address it was called from, so the chain is walked from its end and left at the first
/// address that is not trusted: what stands before it, anybody may have written. `X-Forwarded-For` is read where it
/// stands, else `Forwarded` (RFC 7239).
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &Trusted) -> IpAddr {
    let mut hops: Box<dyn Iterator<Item = Option<IpAddr>>> =
        match headers.contains_key(X_FORWARDED_FOR) {
            true => Box::new(members(headers, X_FORWARDED_FOR).map(address)),
            false => Box::new(members(headers, header::FORWARDED.as_str()).map(forwarded_for)),
        };
    let mut client = peer.to_canonical();
    for _ in 0..HOPS_MAX {
        match hops.next() {
            Some(Some(hop)) if trusted.contains(client) => client = hop.to_canonical(),
            _ => break,
        }
    }
    client
}

impl Trusted {
    pub fn parse<'a>(networks: impl IntoIterator<Item = &'a str>) -> Result<Self, NotANetwork> {
        networks
            .into_iter()
            .map(network)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.0
            .iter()
            .any(|network| network.contains(&address.to_canonical()))
    }
}

fn network(text: &str) -> Result<IpNet, NotANetwork> {
    let host = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| host()).map_err(|_| NotANetwork)
}

/// The members of a list field from the last to the first. Commas within quotes are not told apart: a client that
/// opens a quote must not swallow what the proxies wrote behind it.
fn members<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = headers.get_all(name).iter().collect::<Vec<_>>();
    let texts = values
        .into_iter()
        .rev()
        .map(|value| value.to_str().unwrap_or_default());
    texts.flat_map(|text| text.rsplit(','))
}

/// The address of one `Forwarded` element: `for="[2001:db8::1]:4711";proto=https`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let is_for = key.trim().eq_ignore_ascii_case("for");
        is_for.then(|| address(value.trim().trim_matches('"')))?
    })
}

fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().map(|it| it.ip());
    bare.parse().or_else(|_| with_port()).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const XFF: &str = "x-forwarded-for";

    #[test]
    fn nobody_speaks_for_an_untrusted_peer() {
        check("9.9.9.9", &[(XFF, "1.2.3.4")], "9.9.9.9");
        check("10.0.0.1", &[], "10.0.0.1");
    }

    #[test]
    fn the_chain_is_walked_from_its_end() {
        check("10.0.0.1", &[(XFF, "1.2.3.4")], "1.2.3.4");
        check("10.0.0.1", &[(XFF, "6.6.6.6, 1.2.3.4")], "1.2.3.4");
        check(
            "10.0.0.1",
            &[(XFF, "6.6.6.6"), (XFF, "1.2.3.4, 10.0.0.2")],
            "1.2.3.4",
        );
        check(
            "10.0.0.1",
            &[(XFF, "1.2.3.4, nonsense, 10.0.0.2")],
            "10.0.0.2",
        );
        check(
            "::ffff:10.0.0.1",
            &[(XFF, "[2001:db8::1]:80")],
            "2001:db8::1",
        );
        check("10.0.0.1", &[(XFF, "1.2.3.4:4711")], "1.2.3.4");
    }

    #[test]
    fn forwarded_is_read_where_the_other_is_absent() {
        check(
            "10.0.0.1",
            &[("forwarded", "for=1.2.3.4;proto=http")],
            "1.2.3.4",
        );
        check(
            "10.0.0.1",
            &[("forwarded", "proto=https;For=\"[2001:db8::1]:4711\"")],
            "2001:db8::1",
        );
        check(
            "10.0.0.1",
            &[("forwarded", "for=unknown, for=10.0.0.2")],
            "10.0.0.2",
        );
        check(
            "10.0.0.1",
            &[("forwarded", "for=6.6.6.6;x=\", for=1.2.3.4")],
            "1.2.3.4",
        );
        check(
            "10.0.0.1",
            &[(XFF, "1.2.3.4"), ("forwarded", "for=6.6.6.6")],
            "1.2.3.4",
        );
    }

    #[test]
    fn a_network_is_an_address_or_a_prefix() {
        let trusted = Trusted::parse(["10.0.0.0/8", "::1"]).expect("both are networks");
        assert!(trusted.contains("::1".parse().expect("an address")));
        assert_eq!(Trusted::parse(["10.0.0.0/33"]).err(), Some(NotANetwork));
    }

    #[track_caller]
    fn check(peer: &str, fields: &[(&'static str, &str)], expected: &str) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        let trusted = Trusted::parse(["10.0.0.0/8"]).expect("a network");
        let peer = peer.parse().expect("an address");
        assert_eq!(
            client(peer, &headers, &trusted).to_string(),
            expected,
            "{fields:?}"
        );
    }
}
