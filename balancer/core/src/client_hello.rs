//! Which name does a TLS client ask for? Read from its first message without taking part in the handshake.
//!
//! A connection that is passed on untouched is routed by this alone, so the answer must be the one that the server behind will
//! come to: what two readers could read differently is malformed. Like [`crate::preface`], it consumes nothing and never
//! takes an answer back. It does not check what the handshake itself will check: versions, ciphers, the order of extensions.

use std::net::Ipv4Addr;

use crate::server_names::ServerName;

/// How many bytes always suffice for a decision: a caller that peeks this many never sees [`Hello::NeedMore`].
pub const BYTES_MAX: usize = HELLO_BYTES_MAX + RECORDS_MAX * RECORD_HEADER;

/// The longest message that is believed, its header included. Browsers send less than 2 KiB; keys that withstand quantum
/// computers and many tickets make it a few more.
const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Over how many records a message may be cut: nobody's handshake needs more than two.
const RECORDS_MAX: usize = 4;

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// RFC 8446 §5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
const CONTENT_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RANDOM_BYTES: usize = 32;
/// RFC 6066 §3.
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The client asks for this name, or for none.
    Asks(Option<ServerName>),
    /// The bytes are too few to tell.
    NeedMore,
    /// The client does not speak TLS.
    NotTls,
    /// It began like TLS, but is no hello that every reader reads in the same way.
    Malformed,
    /// The message is longer than 16 KiB, or cut into more than 4 records.
    TooLarge,
}

/// Reads the first bytes that a client sent. The work is the same however often it is asked, up to the last time, when the
/// message is whole.
pub fn read(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Ok(message) => parse(&message).map_or(Hello::Malformed, Hello::Asks),
        Err(early) => early,
    }
}

/// The body of the message, put together from its records.
fn message(bytes: &[u8]) -> Result<Vec<u8>, Hello> {
    let fragments = Fragments::read(bytes)?;
    let mut joined = fragments.parts.iter().copied().flatten().copied();
    let Some(kind) = joined.next() else {
        return Err(fragments.or_too_large());
    };
    if kind != CLIENT_HELLO {
        return Err(Hello::Malformed);
    }
    let header = (joined.next(), joined.next(), joined.next());
    let (Some(high), Some(middle), Some(low)) = header else {
        return Err(fragments.or_too_large());
    };
    let len = u32::from_be_bytes([0, high, middle, low]) as usize;
    match fragments.len() {
        _ if len > HELLO_BYTES_MAX - MESSAGE_HEADER => Err(Hello::TooLarge),
        had if had < MESSAGE_HEADER + len => Err(fragments.or_too_large()),
        _ => Ok(joined.take(len).collect()),
    }
}

/// What each record carries of the message, as far as it is there.
#[derive(Default)]
struct Fragments<'a> {
    parts: [&'a [u8]; RECORDS_MAX],
    is_full: bool,
}

impl<'a> Fragments<'a> {
    fn read(mut bytes: &'a [u8]) -> Result<Self, Hello> {
        let mut fragments = Self::default();
        for idx in 0..RECORDS_MAX {
            let Some(len) = record_len(bytes, idx)? else {
                return Ok(fragments);
            };
            let body = &bytes[RECORD_HEADER..];
            let Some((part, rest)) = body.split_at_checked(len) else {
                fragments.parts[idx] = body;
                return Ok(fragments);
            };
            fragments.parts[idx] = part;
            bytes = rest;
            // What stands behind the message is for the server; a record of another kind may well follow.
            if fragments.decide() {
                return Ok(fragments);
            }
        }
        fragments.is_full = true;
        Ok(fragments)
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|it| it.len()).sum()
    }

    /// Whether the message is whole, or too long to be waited for.
    fn decide(&self) -> bool {
        let mut header = self.parts.iter().copied().flatten().copied().skip(1);
        match (header.next(), header.next(), header.next()) {
            (Some(high), Some(middle), Some(low)) => {
                let len = u32::from_be_bytes([0, high, middle, low]) as usize;
                len > HELLO_BYTES_MAX - MESSAGE_HEADER || self.len() >= MESSAGE_HEADER + len
            }
            _ => false,
        }
    }

    fn or_too_large(&self) -> Hello {
        match self.is_full {
            true => Hello::TooLarge,
            false => Hello::NeedMore,
        }
    }
}

/// How many bytes follow the header of the record, once the header is whole.
fn record_len(bytes: &[u8], idx: usize) -> Result<Option<usize>, Hello> {
    let objection = if idx == 0 {
        Hello::NotTls
    } else {
        Hello::Malformed
    };
    match bytes {
        [kind, ..] if *kind != CONTENT_HANDSHAKE => Err(objection),
        [_, major, ..] if *major != 3 => Err(objection),
        [_, _, _, high, low, ..] => match usize::from(u16::from_be_bytes([*high, *low])) {
            // An empty fragment of a handshake is forbidden (RFC 8446 §5.1).
            0 => Err(Hello::Malformed),
            len if len > RECORD_BYTES_MAX => Err(Hello::Malformed),
            len => Ok(Some(len)),
        },
        _ => Ok(None),
    }
}

/// RFC 8446 §4.1.2. `None` is malformed.
fn parse(body: &[u8]) -> Option<Option<ServerName>> {
    let mut hello = Reader(body);
    let _version = hello.take(2)?;
    let _random = hello.take(RANDOM_BYTES)?;
    let _session_id = hello.vec8()?;
    let _cipher_suites = hello.vec16()?;
    let _compressions = hello.vec8()?;
    if hello.is_empty() {
        return Some(None);
    }
    let extensions = hello.vec16()?;
    if !hello.is_empty() {
        return None;
    }
    find_name(Reader(extensions))
}

fn find_name(mut extensions: Reader<'_>) -> Option<Option<ServerName>> {
    let mut found = None;
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vec16()?;
        if kind == EXTENSION_SERVER_NAME {
            let again = found.replace(server_name(body)?);
            // Of two names one reader takes the first and another the last.
            if again.is_some() {
                return None;
            }
        }
    }
    Some(found.flatten())
}

/// RFC 6066 §3: a list, in which there is one host name.
fn server_name(body: &[u8]) -> Option<Option<ServerName>> {
    let mut outer = Reader(body);
    let mut list = Reader(outer.vec16()?);
    let kind = list.take(1)?[0];
    let name = list.vec16()?;
    if !outer.is_empty() || !list.is_empty() || kind != NAME_TYPE_HOST {
        return None;
    }
    let text = std::str::from_utf8(name).ok()?;
    // Addresses are not allowed there, yet some clients send them; servers take them for no name.
    match text.parse::<Ipv4Addr>().is_ok() {
        true => Some(None),
        false => ServerName::new(text).ok().map(Some),
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let len = self.take(1)?[0];
        self.take(len.into())
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_name_is_read() {
        check(
            &record(&hello(&[sni("WWW.Example.org")])),
            asks("www.example.org"),
        );
        check(
            &record(&hello(&[(43, vec![2, 3, 4]), sni("a.b"), (16, vec![])])),
            asks("a.b"),
        );
        check(&record(&hello(&[])), Hello::Asks(None));
        check(&record(&hello(&[(16, vec![1])])), Hello::Asks(None));
        check(&record(&hello(&[sni("10.0.0.1")])), Hello::Asks(None));
    }

    #[test]
    fn a_hello_without_extensions_asks_for_nobody() {
        let body = [&[3, 1][..], &[7; 32], &[0, 0, 2, 0, 47, 1, 0]].concat();
        check(&record(&framed(&body)), Hello::Asks(None));
    }

    #[test]
    fn a_message_may_be_cut_into_records() {
        let message = hello(&[sni("www.example.org")]);
        for at in 1..message.len() {
            let cut = [record(&message[..at]), record(&message[at..])].concat();
            check(&cut, asks("www.example.org"));
        }
        let quarters: Vec<u8> = message
            .chunks(message.len().div_ceil(4))
            .flat_map(record)
            .collect();
        check(&quarters, asks("www.example.org"));
        let fifths: Vec<u8> = message
            .chunks(message.len().div_ceil(5))
            .flat_map(record)
            .collect();
        check(&fifths, Hello::TooLarge);
    }

    #[test]
    fn what_follows_the_message_is_left_to_the_server() {
        let mut bytes = record(&hello(&[sni("a.b")]));
        bytes.extend([20, 3, 3, 0, 1, 1]);
        check(&bytes, asks("a.b"));
    }

    #[test]
    fn it_is_not_tls_or_not_good() {
        check(b"", Hello::NeedMore);
        check(b"GET / HTTP/1.1", Hello::NotTls);
        check(&[22, 2], Hello::NotTls);
        check(&[22, 3], Hello::NeedMore);
        check(&[22, 3, 1, 0, 0], Hello::Malformed);
        check(&[22, 3, 1, 64, 1], Hello::Malformed);
        check(&[22, 3, 1, 0, 4, 2], Hello::Malformed);
        check(&[22, 3, 1, 0, 4, 1, 0, 0, 0], Hello::Malformed);
        check(&[22, 3, 1, 0, 4, 1, 0, 64, 0], Hello::TooLarge);
        let first = &record(&hello(&[]))[..];
        check(
            &[&record(&[1]), &first[..1], &[9]].concat(),
            Hello::Malformed,
        );
        check(&[&record(&[1])[..], &[23]].concat(), Hello::Malformed);
    }

    #[test]
    fn a_name_that_two_readers_could_read_differently_is_malformed() {
        check(&record(&hello(&[sni("a.b"), sni("c.d")])), Hello::Malformed);
        check(&record(&hello(&[sni("a.b\0.evil")])), Hello::Malformed);
        check(&record(&hello(&[sni("a.b.")])), Hello::Malformed);
        check(&record(&hello(&[sni("")])), Hello::Malformed);
        check(&record(&hello(&[(0, vec![])])), Hello::Malformed);
        let two = [0, 12, 0, 0, 3, b'a', b'.', b'b', 0, 0, 3, b'c', b'.', b'd'];
        check(&record(&hello(&[(0, two.to_vec())])), Hello::Malformed);
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: Hello) {
        assert_eq!(read(bytes), expected, "{bytes:?}");
    }

    fn asks(name: &str) -> Hello {
        Hello::Asks(Some(ServerName::new(name).expect("it is a name")))
    }

    fn sni(name: &str) -> (u16, Vec<u8>) {
        let name_len = name.len() as u16;
        let list = [&[0][..], &name_len.to_be_bytes(), name.as_bytes()].concat();
        let list_len = list.len() as u16;
        (0, [&list_len.to_be_bytes()[..], &list].concat())
    }

    fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let extension = |(kind, body): &(u16, Vec<u8>)| {
            let len = body.len() as u16;
            [&kind.to_be_bytes()[..], &len.to_be_bytes(), body].concat()
        };
        let all: Vec<u8> = extensions.iter().flat_map(extension).collect();
        let len = all.len() as u16;
        let fixed = [&[3, 3][..], &[7; 32], &[1, 9, 0, 2, 19, 1, 1, 0]].concat();
        framed(&[&fixed[..], &len.to_be_bytes(), &all].concat())
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO], &len[1..], body].concat()
    }

    fn record(part: &[u8]) -> Vec<u8> {
        let len = (part.len() as u16).to_be_bytes();
        [&[CONTENT_HANDSHAKE, 3, 1], &len[..], part].concat()
    }

    /// Hellos that are nearly right: whole ones with a byte changed, cut into records anywhere.
    fn nearly_hello() -> impl Strategy<Value = Vec<u8>> {
        let names = prop::collection::vec("[a-z0-9.]{0,20}", 0..3);
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        (names, changes, 1..200usize).prop_map(|(names, changes, cut)| {
            let all: Vec<_> = names.iter().map(|it| sni(it)).collect();
            let mut bytes: Vec<u8> = hello(&all).chunks(cut).flat_map(record).collect();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_an_answer(bytes in nearly_hello()) {
            let mut answer = Hello::NeedMore;
            for len in 0..=bytes.len() {
                let next = read(&bytes[..len]);
                prop_assert!(answer == Hello::NeedMore || next == answer, "{answer:?} became {next:?} at {len}");
                answer = next;
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            read(&bytes);
            read(&record(&bytes));
            read(&record(&framed(&bytes)));
        }

        #[test]
        fn enough_bytes_always_decide(cuts in prop::collection::vec(1..=RECORD_BYTES_MAX, 8), len in 0..=u32::from(u16::MAX)) {
            let [_, high, middle, low] = len.to_be_bytes();
            let message: Vec<u8> = [CLIENT_HELLO, high, middle, low].into_iter().chain(std::iter::repeat_n(0, 8 * RECORD_BYTES_MAX)).collect();
            let mut rest = &message[..];
            let mut bytes = Vec::new();
            for cut in cuts {
                let (part, after) = rest.split_at(cut);
                bytes.extend(record(part));
                rest = after;
            }
            bytes.extend(record(&rest[..RECORD_BYTES_MAX.min(rest.len())]));
            bytes.resize(bytes.len().max(BYTES_MAX), 0);
            prop_assert_ne!(read(&bytes[..BYTES_MAX]), Hello::NeedMore);
        }
    }
}
