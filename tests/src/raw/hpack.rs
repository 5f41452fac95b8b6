//! Field blocks of HTTP/2, written byte by byte, so that they can be as wrong as a test wants; of answers only the status is read.

/// RFC 7541 appendix A: the names that requests need most, and where they stand.
const STATUS_NAME: u64 = 8;
/// RFC 7541 appendix A: the entries from 8 on are `:status` with these values.
const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];

/// A field block being written.
#[derive(Clone, Debug, Default)]
pub struct Block(Vec<u8>);

impl Block {
    pub fn new() -> Self {
        Self::default()
    }

    /// The pseudo-fields of a request, as an honest client writes them.
    pub fn request(method: &str, path: &str) -> Self {
        Self::new()
            .field(":method", method)
            .field(":scheme", "http")
            .field(":path", path)
            .field(":authority", "app.example")
    }

    /// The pseudo-fields of a `GET`.
    pub fn get(path: &str) -> Self {
        Self::request("GET", path)
    }

    /// RFC 8441 §4.
    pub fn websocket(path: &str) -> Self {
        Self::request("CONNECT", path)
            .field(":protocol", "websocket")
            .field("sec-websocket-version", "13")
    }

    /// A literal that is not remembered (RFC 7541 §6.2.2).
    #[must_use]
    pub fn field(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.raw([0]).string(name).string(value)
    }

    /// A literal that the other side remembers (RFC 7541 §6.2.1).
    #[must_use]
    pub fn remembered(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.raw([0x40]).string(name).string(value)
    }

    /// A reference to either table (RFC 7541 §6.1).
    #[must_use]
    pub fn indexed(self, index: u64) -> Self {
        self.integer(0x80, 7, index)
    }

    /// A change of the dynamic table's size (RFC 7541 §6.3).
    #[must_use]
    pub fn table_size(self, size: u64) -> Self {
        self.integer(0x20, 5, size)
    }

    /// A string without Huffman coding (RFC 7541 §5.2).
    #[must_use]
    pub fn string(self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let len = u64::try_from(text.len()).expect("a length fits");
        self.integer(0, 7, len).raw(text)
    }

    /// A string said to be Huffman-coded, of exactly these bytes.
    #[must_use]
    pub fn huffman(self, coded: impl AsRef<[u8]>) -> Self {
        let coded = coded.as_ref();
        let len = u64::try_from(coded.len()).expect("a length fits");
        self.integer(0x80, 7, len).raw(coded)
    }

    /// A number with a prefix of so many bits under a pattern (RFC 7541 §5.1).
    #[must_use]
    pub fn integer(mut self, pattern: u8, bits: u32, value: u64) -> Self {
        let most = (1_u64 << bits) - 1;
        if value < most {
            self.0.push(pattern | low_byte(value));
            return self;
        }
        self.0.push(pattern | low_byte(most));
        let mut rest = value - most;
        while rest >= 128 {
            self.0.push(low_byte(rest) | 0x80);
            rest >>= 7;
        }
        self.0.push(low_byte(rest));
        self
    }

    #[must_use]
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The status with which the block of an answer begins, when the sender keeps no dynamic table.
pub fn status(block: &[u8]) -> Option<u16> {
    let mut rest = block;
    while let Some(size) = rest.first().filter(|it| *it & 0xe0 == 0x20) {
        // A size that needs more bytes ends with the first byte below 128.
        let more = rest[1..]
            .iter()
            .position(|it| *it < 128)
            .map_or(0, |n| n + 1);
        let used = if *size & 0x1f == 0x1f { 1 + more } else { 1 };
        rest = &rest[used..];
    }
    let (first, rest) = rest.split_first()?;
    if first & 0x80 != 0 {
        let at = usize::from(first & 0x7f).checked_sub(usize::try_from(STATUS_NAME).ok()?)?;
        return STATUSES.get(at).copied();
    }
    let bits: u8 = if first & 0x40 != 0 { 0x3f } else { 0x0f };
    if u64::from(first & bits) != STATUS_NAME && u64::from(first & bits) > 14 {
        return None;
    }
    let (len, rest) = rest.split_first()?;
    let text = rest.get(..usize::from(len & 0x7f))?;
    let digits = if len & 0x80 == 0 {
        text.to_vec()
    } else {
        digits(text)?
    };
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// RFC 7541 appendix B, of which a status needs the ten digits.
fn digits(coded: &[u8]) -> Option<Vec<u8>> {
    let bits: Vec<bool> = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |it| byte >> it & 1 == 1))
        .collect();
    let mut digits = Vec::new();
    let mut rest = &bits[..];
    while rest.len() >= 5 && !rest.iter().all(|it| *it) {
        let (digit, used) = match number(&rest[..5]) {
            short @ 0..=2 => (short, 5),
            _ => (number(rest.get(..6)?).checked_sub(0x19)? + 3, 6),
        };
        digits.push(b'0' + digit);
        rest = &rest[used..];
    }
    Some(digits)
}

fn number(bits: &[bool]) -> u8 {
    bits.iter().fold(0, |sum, it| sum << 1 | u8::from(*it))
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7541 C.1.
    #[test]
    fn integers_are_those_of_the_rfc() {
        let written = |bits, value| Block::new().integer(0, bits, value).into_bytes();
        assert_eq!(written(5, 10), [0b01010]);
        assert_eq!(written(5, 1337), [0b11111, 0b1001_1010, 0b0000_1010]);
        assert_eq!(written(8, 42), [42]);
    }

    /// The examples of RFC 7541 C.5.1, C.6.1 and C.6.2, and what encoders without a table write.
    #[test]
    fn a_status_is_read_in_every_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8d]), Some(404));
        assert_eq!(status(&[0x48, 0x03, b'3', b'0', b'2']), Some(302));
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(status(&[0x08, 0x03, b'4', b'3', b'1']), Some(431));
        assert_eq!(status(&[]), None);
    }
}
