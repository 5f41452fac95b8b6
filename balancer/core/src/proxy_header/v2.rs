//! Version 2: a binary head, addresses, and extensions (TLVs).
//!
//! ```text
//! 0            12        13              14     16           16+a               16+len
//! | signature  | ver|cmd | family|proto  | len  | addresses  | extensions ...  |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, BadHeader, Parsed, ProxyHeader, Tls, V2_LEN_MAX};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const HEAD_LEN: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const TCP_IPV4: u8 = 0x11;
const TCP_IPV6: u8 = 0x21;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_COMMON_NAME: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;

const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
/// Behind one byte of flags: zero when the client's certificate was verified.
const VERIFY_LEN: usize = 4;
/// As much as the format allows an identifier (§2.2.5).
const UNIQUE_ID_LEN_MAX: usize = 128;
/// As long as TLS allows a name and a protocol to be; longer texts of ours are left out, so that a header always fits.
const TEXT_LEN_MAX: usize = 255;

/// What can be told of a connection; none of it is required.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// None says that the proxy speaks for itself.
    pub addresses: Option<Addresses>,
    pub authority: Option<&'a str>,
    pub alpn: Option<&'a [u8]>,
    pub unique_id: Option<&'a [u8]>,
    pub tls: Option<TlsFacts<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub struct TlsFacts<'a> {
    pub version: &'a str,
    pub cipher: Option<&'a str>,
    pub common_name: Option<&'a str>,
    /// The client showed a certificate and it was verified.
    pub is_verified: bool,
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let Some(head) = bytes.get(..HEAD_LEN) else {
        return Parsed::NeedMore;
    };
    let len = HEAD_LEN + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if len > V2_LEN_MAX {
        return Parsed::Bad(BadHeader::TooLong);
    }
    let is_known = matches!(head[12], LOCAL | PROXY);
    match bytes.get(..len) {
        _ if !is_known => Parsed::Bad(BadHeader::Command),
        None => Parsed::NeedMore,
        Some(whole) => match read(whole) {
            Ok(header) => Parsed::Header {
                header: Box::new(header),
                len,
            },
            Err(bad) => Parsed::Bad(bad),
        },
    }
}

pub(super) fn write(facts: &Facts<'_>) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    match facts.addresses {
        Some(addresses) => write_addresses(&mut out, addresses),
        None => out.extend([LOCAL, UNSPEC, 0, 0]),
    }
    write_extensions(&mut out, facts);
    // The checksum covers the whole header with its own place zero (§2.2.3).
    write_extension(&mut out, CRC32C, &[0; 4]);
    let len = out.len() - HEAD_LEN;
    out[14..16].copy_from_slice(&(len as u16).to_be_bytes());
    let at = out.len() - 4;
    let sum = crc32c(&[&out]);
    out[at..].copy_from_slice(&sum.to_be_bytes());
    debug_assert!(
        out.len() <= V2_LEN_MAX,
        "bounded parts make a bounded whole"
    );
    out
}

fn write_addresses(out: &mut Vec<u8>, addresses: Addresses) {
    let Addresses {
        source,
        destination,
    } = addresses;
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend([PROXY, TCP_IPV4, 0, 0]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        (from, to) => {
            out.extend([PROXY, TCP_IPV6, 0, 0]);
            out.extend(wide(from).octets());
            out.extend(wide(to).octets());
        }
    }
    out.extend(source.port().to_be_bytes());
    out.extend(destination.port().to_be_bytes());
}

/// One family holds for both addresses, so that a mixed pair is written as IPv6.
fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(it) => it.to_ipv6_mapped(),
        IpAddr::V6(it) => it,
    }
}

fn write_extensions(out: &mut Vec<u8>, facts: &Facts<'_>) {
    let texts = [
        (ALPN, facts.alpn),
        (AUTHORITY, facts.authority.map(str::as_bytes)),
        (
            UNIQUE_ID,
            facts.unique_id.filter(|it| it.len() <= UNIQUE_ID_LEN_MAX),
        ),
    ];
    for (kind, value) in texts {
        if let Some(value) = value {
            write_extension(out, kind, value);
        }
    }
    if let Some(tls) = &facts.tls {
        write_extension(out, SSL, &tls_value(tls));
    }
}

fn tls_value(tls: &TlsFacts<'_>) -> Vec<u8> {
    let showed = if tls.common_name.is_some() || tls.is_verified {
        CLIENT_CERT_CONN
    } else {
        0
    };
    let mut value = vec![CLIENT_SSL | showed];
    value.extend(u32::from(!tls.is_verified).to_be_bytes());
    write_extension(&mut value, SSL_VERSION, tls.version.as_bytes());
    for (kind, text) in [(SSL_CIPHER, tls.cipher), (SSL_COMMON_NAME, tls.common_name)] {
        if let Some(text) = text {
            write_extension(&mut value, kind, text.as_bytes());
        }
    }
    value
}

fn write_extension(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // A container is as long as what it holds, each part of which was bounded.
    if kind == SSL || value.len() <= TEXT_LEN_MAX {
        out.push(kind);
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value);
    }
}

fn read(whole: &[u8]) -> Result<ProxyHeader, BadHeader> {
    let (is_local, family) = (whole[12] == LOCAL, whole[13]);
    let body = &whole[HEAD_LEN..];
    // What a proxy says of its own connection is to be ignored (§2.2), and may not even be well formed.
    if is_local {
        return Ok(ProxyHeader::default());
    }
    let (addresses, extensions) = read_addresses(family, body)?;
    let mut header = ProxyHeader {
        addresses,
        ..ProxyHeader::default()
    };
    for extension in Extensions(extensions) {
        let (kind, value) = extension?;
        read_extension(&mut header, kind, value, whole)?;
    }
    Ok(header)
}

/// Families that are not TCP tell no address that a client here could have, so that they are passed over with their length.
fn read_addresses(family: u8, body: &[u8]) -> Result<(Option<Addresses>, &[u8]), BadHeader> {
    let len = match family >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err(BadHeader::Addresses),
    };
    let (bytes, rest) = body.split_at_checked(len).ok_or(BadHeader::Addresses)?;
    let addresses = match family {
        TCP_IPV4 => Some(pair::<4>(bytes, |it| Ipv4Addr::from(it).into())?),
        TCP_IPV6 => Some(pair::<16>(bytes, |it| Ipv6Addr::from(it).into())?),
        _ => None,
    };
    Ok((addresses, rest))
}

fn pair<const N: usize>(
    bytes: &[u8],
    address: impl Fn([u8; N]) -> IpAddr,
) -> Result<Addresses, BadHeader> {
    let read = || {
        let (source, rest) = bytes.split_first_chunk::<N>()?;
        let (destination, rest) = rest.split_first_chunk::<N>()?;
        let (source_port, rest) = rest.split_first_chunk::<2>()?;
        let destination_port = rest.first_chunk::<2>()?;
        Some(Addresses {
            source: SocketAddr::new(address(*source), u16::from_be_bytes(*source_port)),
            destination: SocketAddr::new(
                address(*destination),
                u16::from_be_bytes(*destination_port),
            ),
        })
    };
    read().ok_or(BadHeader::Addresses)
}

fn read_extension(
    header: &mut ProxyHeader,
    kind: u8,
    value: &[u8],
    whole: &[u8],
) -> Result<(), BadHeader> {
    match kind {
        ALPN => header.alpn = Some(value.to_vec()),
        AUTHORITY => header.authority = Some(text(value)?),
        CRC32C => check(whole, value)?,
        UNIQUE_ID if value.len() > UNIQUE_ID_LEN_MAX => return Err(BadHeader::Extension),
        UNIQUE_ID => header.unique_id = Some(value.to_vec()),
        SSL => header.tls = read_tls(value)?,
        // Unknown ones are for others.
        _ => {}
    }
    Ok(())
}

/// None where the client does not speak TLS.
fn read_tls(value: &[u8]) -> Result<Option<Tls>, BadHeader> {
    let (flags, rest) = value.split_first().ok_or(BadHeader::Extension)?;
    let (verify, parts) = rest
        .split_at_checked(VERIFY_LEN)
        .ok_or(BadHeader::Extension)?;
    let showed = flags & CLIENT_CERT_CONN != 0;
    let mut tls = Tls {
        is_verified: showed && verify == [0; VERIFY_LEN],
        ..Tls::default()
    };
    for part in Extensions(parts) {
        let (kind, value) = part?;
        match kind {
            SSL_VERSION => tls.version = Some(text(value)?),
            SSL_CIPHER => tls.cipher = Some(text(value)?),
            SSL_COMMON_NAME => tls.common_name = Some(text(value)?),
            _ => {}
        }
    }
    Ok((flags & CLIENT_SSL != 0).then_some(tls))
}

/// Controls in it would be a way into logs and headers.
fn text(value: &[u8]) -> Result<String, BadHeader> {
    let text = std::str::from_utf8(value).map_err(|_| BadHeader::Extension)?;
    match text.chars().any(char::is_control) {
        true => Err(BadHeader::Extension),
        false => Ok(text.to_owned()),
    }
}

fn check(whole: &[u8], said: &[u8]) -> Result<(), BadHeader> {
    let said: [u8; 4] = said.try_into().map_err(|_| BadHeader::Checksum)?;
    // The value's own four bytes count as zero; which bytes those are is told by where the slice lies.
    let at = extension_at(whole, CRC32C).ok_or(BadHeader::Checksum)?;
    let sum = crc32c(&[&whole[..at], &[0; 4], &whole[at + 4..]]);
    match sum == u32::from_be_bytes(said) {
        true => Ok(()),
        false => Err(BadHeader::Checksum),
    }
}

/// Where the value of the last extension of this kind begins.
fn extension_at(whole: &[u8], wanted: u8) -> Option<usize> {
    let (_, mut rest) = read_addresses(whole[13], &whole[HEAD_LEN..]).ok()?;
    let mut found = None;
    while let Some((kind, value, next)) = split_extension(rest) {
        if kind == wanted {
            found = Some(whole.len() - next.len() - value.len());
        }
        rest = next;
    }
    found
}

struct Extensions<'a>(&'a [u8]);

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<(u8, &'a [u8]), BadHeader>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((kind, value, rest)) = split_extension(self.0) else {
            self.0 = &[];
            return Some(Err(BadHeader::Extension));
        };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

fn split_extension(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<3>()?;
    let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
    let (value, rest) = rest.split_at_checked(len)?;
    Some((head[0], value, rest))
}

/// CRC-32C (Castagnoli), bit by bit: a header is short, and comes once per connection.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().flat_map(|it| it.iter()) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carried = crc & 1 != 0;
            crc = (crc >> 1) ^ if carried { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        // RFC 3720, appendix B.4: 32 bytes of zeroes, and of ones.
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[&[0xff; 16], &[0xff; 16]]), 0x62a8_ab43);
    }
}
