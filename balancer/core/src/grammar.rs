//! Says which rule of HTTP/2's framing a client breaks, and what it is to be told (RFC 9113 §4 to §6).
//!
//! The library below ends the connection of every client that breaks one, and calls nearly all of it a protocol error. This reads the
//! frames as they pass, without their contents, and knows the code that is due; what it finds nothing wrong with and the library
//! cannot read is a field block that does not decompress.

use std::collections::BTreeSet;

/// The error codes of RFC 9113 §7 that are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    Compression = 9,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Streams whose state is remembered; a client may have far fewer open at a time.
const STREAMS_MAX: usize = 4096;

/// A frame's header (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) len: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// What the client has said so far, as far as its next frame is judged by it.
#[derive(Debug, Default)]
pub(crate) struct Grammar {
    has_begun: bool,
    /// A field block that is not over.
    block_of: Option<u32>,
    last_stream: u32,
    /// Streams on which the client may still send, and those that it has ended.
    open: BTreeSet<u32>,
    half_closed: BTreeSet<u32>,
    /// Settings of the balancer's that the client has not acknowledged.
    unacknowledged: u32,
    due: Option<Code>,
}

impl Grammar {
    /// What the connection's end is due to, if the client broke a rule.
    pub(crate) fn due(&self) -> Option<Code> {
        self.due
    }

    /// Whether the client has begun something that nobody can act on before it goes on: the connection itself, or a field block.
    pub(crate) fn is_in_head(&self) -> bool {
        !self.has_begun || self.block_of.is_some()
    }

    /// Judges a frame of the client's by its header. Whether it can be read on is the result.
    pub(crate) fn hear(&mut self, frame: Frame) -> Result<(), Code> {
        if !self.has_begun {
            self.has_begun = true;
            if frame.kind != SETTINGS || frame.flags & ACK != 0 {
                // A server may close at once (§3.4), and the library would read on.
                self.due = Some(Code::Protocol);
                return Err(Code::Protocol);
            }
        }
        if let Some(code) = self.judge(frame) {
            self.due.get_or_insert(code);
        }
        Ok(())
    }

    /// Judges what a frame holds: the first byte of one that is padded, an entry of settings, the increment of a window.
    pub(crate) fn hear_payload(&mut self, frame: Frame, bytes: &[u8]) {
        let code = match (frame.kind, bytes) {
            (SETTINGS, &[a, b, c, d, e, f]) => {
                setting(u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
            }
            (WINDOW_UPDATE, &[a, b, c, d]) => {
                let increment = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff;
                (increment == 0).then_some(Code::Protocol)
            }
            (DATA | HEADERS, &[padding]) => {
                (u32::from(padding) >= frame.len).then_some(Code::Protocol)
            }
            _ => None,
        };
        if let Some(code) = code {
            self.due.get_or_insert(code);
        }
    }

    /// How many bytes at a time of a frame's payload there is something to judge in.
    pub(crate) fn unit(frame: Frame) -> usize {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => 6,
            WINDOW_UPDATE => 4,
            DATA | HEADERS if frame.flags & PADDED != 0 => 1,
            _ => 0,
        }
    }

    /// Follows what the balancer says: its last word on a stream makes the stream a closed one.
    pub(crate) fn say(&mut self, frame: Frame) {
        let ends = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
        if ends || frame.kind == RST_STREAM {
            self.half_closed.remove(&frame.stream);
        }
        match frame.kind {
            RST_STREAM => drop(self.open.remove(&frame.stream)),
            SETTINGS if frame.flags & ACK == 0 => self.unacknowledged += 1,
            _ => {}
        }
    }

    fn judge(&mut self, frame: Frame) -> Option<Code> {
        if let Some(stream) = self.block_of {
            return self.judge_continuation(frame, stream);
        }
        match frame.kind {
            DATA => self.judge_data(frame),
            HEADERS => self.judge_headers(frame),
            PRIORITY if frame.stream == 0 => Some(Code::Protocol),
            PRIORITY => (frame.len != 5).then_some(Code::FrameSize),
            RST_STREAM => self.judge_reset(frame),
            SETTINGS if frame.stream != 0 => Some(Code::Protocol),
            SETTINGS if frame.flags & ACK != 0 => self.judge_acknowledgement(frame),
            SETTINGS => (!frame.len.is_multiple_of(6)).then_some(Code::FrameSize),
            PING if frame.stream != 0 => Some(Code::Protocol),
            PING => (frame.len != 8).then_some(Code::FrameSize),
            GOAWAY if frame.stream != 0 => Some(Code::Protocol),
            GOAWAY => (frame.len < 8).then_some(Code::FrameSize),
            WINDOW_UPDATE if frame.len != 4 => Some(Code::FrameSize),
            WINDOW_UPDATE => (frame.stream > self.last_stream).then_some(Code::Protocol),
            CONTINUATION | PUSH_PROMISE => Some(Code::Protocol),
            _ => None,
        }
    }

    /// Nothing may come between the parts of a field block (§4.3).
    fn judge_continuation(&mut self, frame: Frame, stream: u32) -> Option<Code> {
        if frame.kind != CONTINUATION || frame.stream != stream {
            return Some(Code::Protocol);
        }
        if frame.flags & END_HEADERS != 0 {
            self.block_of = None;
        }
        None
    }

    fn judge_acknowledgement(&mut self, frame: Frame) -> Option<Code> {
        if frame.len != 0 {
            return Some(Code::FrameSize);
        }
        // What was not said cannot be acknowledged.
        self.unacknowledged = match self.unacknowledged.checked_sub(1) {
            Some(left) => left,
            None => return Some(Code::Protocol),
        };
        None
    }

    fn judge_data(&mut self, frame: Frame) -> Option<Code> {
        if frame.stream == 0 || frame.stream > self.last_stream {
            return Some(Code::Protocol);
        }
        if self.half_closed.contains(&frame.stream) {
            return Some(Code::StreamClosed);
        }
        if frame.flags & PADDED != 0 && frame.len == 0 {
            return Some(Code::FrameSize);
        }
        self.end_if_said(frame);
        None
    }

    fn judge_headers(&mut self, frame: Frame) -> Option<Code> {
        if frame.flags & END_HEADERS == 0 {
            self.block_of = Some(frame.stream);
        }
        if frame.stream.is_multiple_of(2) {
            return Some(Code::Protocol);
        }
        if self.half_closed.contains(&frame.stream) {
            return Some(Code::StreamClosed);
        }
        if frame.stream <= self.last_stream {
            // Trailers of a stream that is open end it; any other stream that was passed over is closed (§5.1.1).
            let ends = self.open.contains(&frame.stream) && frame.flags & END_STREAM != 0;
            self.end_if_said(frame);
            return (!ends).then_some(Code::Protocol);
        }
        self.last_stream = frame.stream;
        if self.open.len() < STREAMS_MAX {
            self.open.insert(frame.stream);
        }
        self.end_if_said(frame);
        None
    }

    fn judge_reset(&mut self, frame: Frame) -> Option<Code> {
        if frame.len != 4 {
            return Some(Code::FrameSize);
        }
        if frame.stream == 0 || frame.stream > self.last_stream {
            return Some(Code::Protocol);
        }
        self.open.remove(&frame.stream);
        self.half_closed.remove(&frame.stream);
        None
    }

    fn end_if_said(&mut self, frame: Frame) {
        if frame.flags & END_STREAM != 0 && self.open.remove(&frame.stream) {
            self.half_closed.insert(frame.stream);
        }
    }
}

/// RFC 9113 §6.5.2, RFC 8441 §3.
fn setting(id: u16, value: u32) -> Option<Code> {
    match id {
        ENABLE_PUSH | ENABLE_CONNECT_PROTOCOL => (value > 1).then_some(Code::Protocol),
        INITIAL_WINDOW_SIZE => (value > 0x7fff_ffff).then_some(Code::FlowControl),
        MAX_FRAME_SIZE => (!(0x4000..=0xff_ffff).contains(&value)).then_some(Code::Protocol),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_begins_with_settings() {
        let mut grammar = Grammar::default();
        assert_eq!(grammar.hear(frame(PING, 0, 0, 8)), Err(Code::Protocol));
    }

    #[test]
    fn sizes_are_what_they_must_be() {
        check(frame(PING, 0, 0, 7), Some(Code::FrameSize));
        check(frame(SETTINGS, 0, 0, 5), Some(Code::FrameSize));
        check(frame(SETTINGS, ACK, 0, 6), Some(Code::FrameSize));
        check(frame(SETTINGS, ACK, 0, 0), Some(Code::Protocol));
        check(frame(PRIORITY, 0, 1, 4), Some(Code::FrameSize));
        check(frame(WINDOW_UPDATE, 0, 0, 3), Some(Code::FrameSize));
        check(frame(PING, 0, 0, 8), None);
    }

    #[test]
    fn streams_go_up_and_are_odd() {
        check(frame(HEADERS, END_HEADERS, 2, 1), Some(Code::Protocol));
        check(frame(DATA, 0, 1, 1), Some(Code::Protocol));
        let mut grammar = begun();
        let _ = grammar.hear(frame(HEADERS, END_HEADERS | END_STREAM, 5, 1));
        assert_eq!(grammar.due(), None);
        let _ = grammar.hear(frame(HEADERS, END_HEADERS | END_STREAM, 3, 1));
        assert_eq!(grammar.due(), Some(Code::Protocol));
    }

    #[test]
    fn an_ended_stream_is_closed_to_the_client() {
        let mut grammar = begun();
        let _ = grammar.hear(frame(HEADERS, END_HEADERS | END_STREAM, 1, 1));
        let _ = grammar.hear(frame(DATA, 0, 1, 1));
        assert_eq!(grammar.due(), Some(Code::StreamClosed));
    }

    #[test]
    fn trailers_end_a_stream() {
        let mut grammar = begun();
        let _ = grammar.hear(frame(HEADERS, END_HEADERS, 1, 1));
        let _ = grammar.hear(frame(DATA, 0, 1, 1));
        let _ = grammar.hear(frame(HEADERS, END_HEADERS | END_STREAM, 1, 1));
        assert_eq!(grammar.due(), None);
        grammar.say(frame(HEADERS, END_STREAM, 1, 0));
        assert!(grammar.half_closed.is_empty() && grammar.open.is_empty());
    }

    #[test]
    fn settings_and_windows_have_bounds() {
        let mut grammar = begun();
        grammar.hear_payload(frame(SETTINGS, 0, 0, 6), &[0, 4, 0x80, 0, 0, 0]);
        assert_eq!(grammar.due(), Some(Code::FlowControl));
        let mut grammar = begun();
        grammar.hear_payload(frame(WINDOW_UPDATE, 0, 0, 4), &[0x80, 0, 0, 0]);
        assert_eq!(grammar.due(), Some(Code::Protocol));
    }

    fn check(what: Frame, due: Option<Code>) {
        let mut grammar = begun();
        let _ = grammar.hear(what);
        assert_eq!(grammar.due(), due, "{what:?}");
    }

    fn begun() -> Grammar {
        let mut grammar = Grammar::default();
        assert_eq!(grammar.hear(frame(SETTINGS, 0, 0, 0)), Ok(()));
        grammar
    }

    fn frame(kind: u8, flags: u8, stream: u32, len: u32) -> Frame {
        Frame {
            len,
            kind,
            flags,
            stream,
        }
    }
}
