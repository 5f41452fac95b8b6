//! Version 1: one line of text.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{Addresses, BadHeader, Parsed, ProxyHeader, V1_LEN_MAX};

pub(super) const PREFIX: &[u8] = b"PROXY ";

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let line_max = &bytes[..bytes.len().min(V1_LEN_MAX)];
    let Some(at) = line_max.windows(2).position(|it| it == b"\r\n") else {
        let is_full = line_max.len() == V1_LEN_MAX;
        return match is_full {
            true => Parsed::Bad(BadHeader::TooLong),
            false => Parsed::NeedMore,
        };
    };
    match read(&bytes[..at]) {
        Some(addresses) => Parsed::Header {
            header: Box::new(ProxyHeader {
                addresses,
                ..ProxyHeader::default()
            }),
            len: at + 2,
        },
        None => Parsed::Bad(BadHeader::Line),
    }
}

pub(super) fn write(addresses: Option<Addresses>) -> Vec<u8> {
    let Some(Addresses {
        source,
        destination,
    }) = addresses
    else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let (family, from, to) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ("TCP4", from.to_string(), to.to_string()),
        (from, to) => ("TCP6", wide(from).to_string(), wide(to).to_string()),
    };
    let (from_port, to_port) = (source.port(), destination.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

/// One family holds for both addresses, so that a mixed pair is written as IPv6.
fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(it) => it.to_ipv6_mapped(),
        IpAddr::V6(it) => it,
    }
}

/// None where the line is malformed; the addresses are none where the proxy does not know them.
fn read(line: &[u8]) -> Option<Option<Addresses>> {
    let line = std::str::from_utf8(line).ok()?;
    let words = line.strip_prefix("PROXY ")?;
    // Whatever follows this word must be ignored (§2.1).
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = words.split(' ');
    let addresses = match words.next()? {
        "TCP4" => pair::<Ipv4Addr>(&mut words),
        "TCP6" => pair::<Ipv6Addr>(&mut words),
        _ => None,
    }?;
    words.next().is_none().then_some(Some(addresses))
}

fn pair<'a, A>(words: &mut impl Iterator<Item = &'a str>) -> Option<Addresses>
where
    A: FromStr + Into<IpAddr>,
{
    let source = words.next()?.parse::<A>().ok()?.into();
    let destination = words.next()?.parse::<A>().ok()?.into();
    Some(Addresses {
        source: SocketAddr::new(source, port(words.next()?)?),
        destination: SocketAddr::new(destination, port(words.next()?)?),
    })
}

/// Digits alone and none too many: two readers must not disagree.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|it| it.is_ascii_digit());
    let has_leading_zero = text.len() > 1 && text.starts_with('0');
    (is_plain && !has_leading_zero).then(|| text.parse().ok())?
}
