//! What a certificate says of itself: whom it names, and until when it holds.
//!
//! TLS libraries verify certificates and keep what is in them to themselves, yet a server chooses its certificate by name, and
//! an operator wants to know when it ends. Nothing is verified here: what is read counts only for certificates that are our own
//! or that were verified elsewhere. Of X.509 (RFC 5280) as much is read as answers these questions.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use thiserror::Error;

use der::{Der, Tag};

mod der;
mod time;

/// RFC 5280 §4.2.1.6, id-ce-subjectAltName: 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Short names of the attributes that subjects are made of (RFC 4514 §3), and their object identifiers.
const ATTRIBUTES: [(&[u8], &str); 8] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        "DC",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
        "UID",
    ),
];

/// What was read of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it was given to, such as `CN=app,O=Example` (RFC 4514); control characters are escaped.
    pub subject: String,
    pub names: AlternativeNames,
    /// The last second at which it holds, counted from 1970.
    pub not_after: i64,
}

/// The subject's alternative names, of the kinds that name machines and services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlternativeNames {
    /// In lower case, as they stand there otherwise.
    pub dns: Vec<String>,
    pub uris: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is not an X.509 certificate in DER")]
pub struct CertificateError;

/// # Errors
/// When it is not formed as a certificate.
pub fn read(bytes: &[u8]) -> Result<Certificate, CertificateError> {
    parse(bytes).ok_or(CertificateError)
}

fn parse(bytes: &[u8]) -> Option<Certificate> {
    let mut certificate = Der(bytes).within(Tag::SEQUENCE)?;
    let mut body = certificate.within(Tag::SEQUENCE)?;
    body.skip_if(Tag::EXPLICIT_0);
    let _serial = body.next(Tag::INTEGER)?;
    let _algorithm = body.next(Tag::SEQUENCE)?;
    let _issuer = body.next(Tag::SEQUENCE)?;
    let mut validity = body.within(Tag::SEQUENCE)?;
    let _not_before = validity.any()?;
    let (kind, text) = validity.any()?;
    let not_after = time::read(kind, text)?;
    let subject = subject(body.within(Tag::SEQUENCE)?)?;
    let _key = body.next(Tag::SEQUENCE)?;
    body.skip_if(Tag::IMPLICIT_1);
    body.skip_if(Tag::IMPLICIT_2);
    let names = match body.is_empty() {
        true => AlternativeNames::default(),
        false => alternative_names(body.within(Tag::EXPLICIT_3)?.within(Tag::SEQUENCE)?)?,
    };
    Some(Certificate {
        subject,
        names,
        not_after,
    })
}

/// The most significant part stands last, as RFC 4514 §2.1 wants it.
fn subject(mut parts: Der<'_>) -> Option<String> {
    let mut texts = Vec::new();
    while !parts.is_empty() {
        let mut attributes = parts.within(Tag::SET)?;
        let mut together = Vec::new();
        while !attributes.is_empty() {
            let mut pair = attributes.within(Tag::SEQUENCE)?;
            let oid = pair.next(Tag::OID)?;
            let (kind, value) = pair.any()?;
            together.push(attribute(oid, kind, value));
        }
        texts.push(together.join("+"));
    }
    texts.reverse();
    Some(texts.join(","))
}

fn attribute(oid: &[u8], kind: Tag, value: &[u8]) -> String {
    let known = ATTRIBUTES.iter().find(|(it, _)| *it == oid);
    let name = known.map_or_else(|| dotted(oid), |(_, name)| (*name).to_owned());
    match std::str::from_utf8(value).ok().filter(|_| kind.is_text()) {
        Some(text) => format!("{name}={}", escaped(text)),
        None => format!("{name}=#{}", hex(value)),
    }
}

/// RFC 4514 §2.4, and control characters too, because the text ends up in header fields and logs.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (idx, c) in text.chars().enumerate() {
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => out.extend(['\\', c]),
            '#' | ' ' if idx == 0 => out.extend(['\\', c]),
            ' ' if idx == last => out.extend(['\\', c]),
            c if c.is_control() => {
                let mut utf8 = [0; 4];
                for byte in c.encode_utf8(&mut utf8).bytes() {
                    // A string takes whatever is written to it.
                    let _ = write!(out, "\\{byte:02x}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

fn dotted(oid: &[u8]) -> String {
    let mut arcs = Vec::new();
    let mut arc = 0_u64;
    for byte in oid {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    let Some((first, rest)) = arcs.split_first() else {
        return String::new();
    };
    // The first two arcs share a number (X.690 §8.19.4).
    let top = (first / 40).min(2);
    let mut text = format!("{top}.{}", first - top * 40);
    for arc in rest {
        let _ = write!(text, ".{arc}");
    }
    text
}

fn alternative_names(mut extensions: Der<'_>) -> Option<AlternativeNames> {
    while !extensions.is_empty() {
        let mut extension = extensions.within(Tag::SEQUENCE)?;
        let oid = extension.next(Tag::OID)?;
        extension.skip_if(Tag::BOOLEAN);
        let value = extension.next(Tag::OCTET_STRING)?;
        if oid == SUBJECT_ALT_NAME {
            return general_names(Der(value).within(Tag::SEQUENCE)?);
        }
    }
    Some(AlternativeNames::default())
}

fn general_names(mut names: Der<'_>) -> Option<AlternativeNames> {
    let mut found = AlternativeNames::default();
    while !names.is_empty() {
        let (kind, value) = names.any()?;
        match kind {
            Tag::IMPLICIT_2 => found.dns.push(ia5(value)?.to_ascii_lowercase()),
            Tag::IMPLICIT_6 => found.uris.push(ia5(value)?.to_owned()),
            Tag::IMPLICIT_7 => found.addresses.push(address(value)?),
            _ => {}
        }
    }
    Some(found)
}

/// Names are graphic ASCII; anything else has no business in a header field either.
fn ia5(bytes: &[u8]) -> Option<&str> {
    let is_graphic = bytes.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(bytes).ok().filter(|_| is_graphic)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
