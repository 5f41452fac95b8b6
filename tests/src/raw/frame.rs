//! Frames of HTTP/2 as bytes: nothing here keeps a sender from breaking the protocol.

use bytes::{Buf, Bytes, BytesMut};

/// RFC 9113 §3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9113 §4.1.
const HEAD_BYTES: usize = 9;

/// RFC 9113 §6.5.2: the largest frame that needs no permission.
pub const FRAME_BYTES_MAX: usize = 16_384;

/// The types of RFC 9113 §6.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    /// Of no meaning to anybody.
    pub const UNKNOWN: u8 = 0xee;
}

/// The flags of RFC 9113 §6.
pub mod flag {
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// The codes of RFC 9113 §7.
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// The settings of RFC 9113 §6.5.2 and RFC 8441 §3.
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// One frame, good or bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Bytes,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Self {
        let payload = Bytes::copy_from_slice(payload.as_ref());
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    pub fn data(stream: u32, flags: u8, bytes: impl AsRef<[u8]>) -> Self {
        Self::new(kind::DATA, flags, stream, bytes)
    }

    /// A whole field block in one frame.
    pub fn headers(stream: u32, flags: u8, block: impl AsRef<[u8]>) -> Self {
        Self::new(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
    }

    /// The beginning of a field block.
    pub fn headers_begun(stream: u32, flags: u8, block: impl AsRef<[u8]>) -> Self {
        Self::new(kind::HEADERS, flags, stream, block)
    }

    pub fn continuation(stream: u32, flags: u8, block: impl AsRef<[u8]>) -> Self {
        Self::new(kind::CONTINUATION, flags, stream, block)
    }

    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        Self::new(kind::SETTINGS, flag::NONE, 0, payload)
    }

    pub fn settings_ack() -> Self {
        Self::new(kind::SETTINGS, flag::ACK, 0, [])
    }

    pub fn ping(payload: [u8; 8]) -> Self {
        Self::new(kind::PING, flag::NONE, 0, payload)
    }

    pub fn window_update(stream: u32, increment: u32) -> Self {
        let payload = increment.to_be_bytes();
        Self::new(kind::WINDOW_UPDATE, flag::NONE, stream, payload)
    }

    pub fn reset(stream: u32, code: u32) -> Self {
        Self::new(kind::RST_STREAM, flag::NONE, stream, code.to_be_bytes())
    }

    pub fn priority(stream: u32, depends_on: u32) -> Self {
        let payload = [&depends_on.to_be_bytes()[..], &[15]].concat();
        Self::new(kind::PRIORITY, flag::NONE, stream, payload)
    }

    pub fn go_away(last_stream: u32, code: u32) -> Self {
        let payload = [last_stream.to_be_bytes(), code.to_be_bytes()].concat();
        Self::new(kind::GOAWAY, flag::NONE, 0, payload)
    }

    /// The same frame with padding around what it carries.
    #[must_use]
    pub fn padded(self, padding: u8) -> Self {
        let zeros = vec![0; usize::from(padding)];
        let payload = [&[padding][..], &self.payload, &zeros].concat();
        Self::new(self.kind, self.flags | flag::PADDED, self.stream, payload)
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The 32 bits that begin at `at`; 0 where the payload is too short, which no number here is in earnest.
    pub fn number_at(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4);
        let bytes = bytes.and_then(|it| <[u8; 4]>::try_from(it).ok());
        bytes.map_or(0, u32::from_be_bytes)
    }

    /// What a SETTINGS frame says, in its order.
    pub fn said_settings(&self) -> Vec<(u16, u32)> {
        let entries = self.payload.chunks_exact(6);
        entries
            .map(|it| {
                let id = u16::from_be_bytes([it[0], it[1]]);
                (id, u32::from_be_bytes([it[2], it[3], it[4], it[5]]))
            })
            .collect()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(head(self.payload.len(), self.kind, self.flags, self.stream));
        out.extend_from_slice(&self.payload);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.payload.len());
        self.encode(&mut out);
        out
    }

    /// Takes the first frame off, when all of it is there.
    pub fn decode(heard: &mut BytesMut) -> Option<Self> {
        let head = heard.get(..HEAD_BYTES)?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        if heard.len() < HEAD_BYTES + len {
            return None;
        }
        heard.advance(HEAD_BYTES);
        let payload = heard.split_to(len).freeze();
        Some(Self {
            kind,
            flags,
            stream,
            payload,
        })
    }
}

/// The head of a frame, with whatever length is claimed.
pub fn head(len: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEAD_BYTES] {
    let [.., a, b, c] = len.to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let frame = Frame::data(7, flag::END_STREAM, b"abc").padded(2);
        let mut heard = BytesMut::from(&frame.bytes()[..]);
        heard.extend_from_slice(&head(70_000, kind::PING, 0, 0));
        assert_eq!(Frame::decode(&mut heard), Some(frame.clone()));
        assert_eq!(&frame.payload[..], b"\x02abc\0\0");
        assert_eq!(
            Frame::decode(&mut heard),
            None,
            "it is not there as a whole"
        );
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let said = [(setting::ENABLE_PUSH, 0), (setting::MAX_FRAME_SIZE, 16_385)];
        assert_eq!(Frame::settings(&said).said_settings(), said);
    }
}
