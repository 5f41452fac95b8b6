//! Counts what an HTTP/2 client sends that costs it nothing and the balancer something: resets, pings, settings, empty frames.
//!
//! It reads frames as they pass (RFC 9113 §4.1), keeps none of the bytes, and has [`Grammar`] judge them. What a client may send depends on what it gets:
//! every kilobyte written to it earns the right to a window update, so that a fast download is no flood.

use std::time::Duration;

use crate::grammar::{
    CONTINUATION, Code, DATA, END_STREAM, Frame, GOAWAY, Grammar, HEADERS, RST_STREAM,
};

/// The client's connection preface, which comes before the first frame (RFC 9113 §3.4).
const PREFACE_BYTES: u32 = 24;

/// A flood is counted over this long.
const WINDOW: Duration = Duration::from_secs(10);

/// Frames within the window that change nothing a stream carries: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown types.
const IDLE_FRAMES_MAX: u32 = 5_000;

/// Streams that a client may reset, and that it may make the balancer reset, within the window; the rapid reset attack needs many times
/// as many, a user who leaves a page needs a hundred.
const RESETS_MAX: u32 = 1_000;

/// CONTINUATION frames of one head.
const CONTINUATIONS_MAX: u32 = 15;

const HEADER_BYTES: usize = 9;

/// A payload is looked at in units of at most this.
const UNIT_MAX: usize = 6;

/// What a client floods the connection with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    #[error("too many frames that carry nothing")]
    IdleFrames,
    #[error("too many streams that were reset")]
    Resets,
    #[error("too many continuations of one head")]
    Continuations,
    #[error("it does not begin with settings")]
    NoSettings,
}

impl Flood {
    /// What the client is told (RFC 9113 §7): to calm down, or that it does not know the protocol.
    pub fn is_protocol_error(self) -> bool {
        self == Self::NoSettings
    }
}

/// Reads the frames in one direction of a connection.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes that belong to the preface or to a frame's payload.
    skip: u32,
    header: [u8; HEADER_BYTES],
    header_len: u8,
    /// The frame whose payload is passing, while there is something to look at in it.
    looks_into: Option<(Frame, u8)>,
    unit: [u8; UNIT_MAX],
    unit_len: u8,
}

/// What one connection has seen in the window under way.
#[derive(Debug)]
pub struct FloodMeter {
    from_client: Frames,
    to_client: Frames,
    grammar: Grammar,
    window_began_ms: u64,
    idle_frames: u32,
    earned: u32,
    written: u64,
    resets: u32,
    continuations: u32,
}

impl Default for FloodMeter {
    fn default() -> Self {
        Self {
            from_client: Frames {
                skip: PREFACE_BYTES,
                ..Frames::default()
            },
            to_client: Frames::default(),
            grammar: Grammar::default(),
            window_began_ms: 0,
            idle_frames: 0,
            earned: 0,
            written: 0,
            resets: 0,
            continuations: 0,
        }
    }
}

impl FloodMeter {
    /// Bytes came from the client, at a time in milliseconds of any clock.
    pub fn received(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), Flood> {
        self.turn_window(now_ms);
        let mut rest = bytes;
        while let Some(seen) = self.from_client.next(&mut rest) {
            match seen {
                Seen::Frame(frame) => {
                    self.grammar.hear(frame).map_err(|_| Flood::NoSettings)?;
                    self.from_client.look_into(frame, Grammar::unit(frame));
                    self.count(frame)?;
                }
                Seen::Unit(frame, unit, len) => self.grammar.hear_payload(frame, &unit[..len]),
            }
        }
        Ok(())
    }

    /// Bytes go to the client: the streams that it made the balancer reset count like those that it resets itself. If they hold the
    /// code of a GOAWAY that says less than is known, the place and what it should be are the result.
    pub fn sent(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        self.written += bytes.len() as u64;
        self.earned = u32::try_from(self.written >> 10).unwrap_or(u32::MAX);
        let mut rest = bytes;
        while let Some(seen) = self.to_client.next(&mut rest) {
            if let Seen::Frame(frame) = seen {
                self.grammar.say(frame);
                if frame.kind == RST_STREAM {
                    self.reset()?;
                }
            }
        }
        Ok(())
    }

    /// Whether the client owes the rest of a head: its first settings, a frame's header, or a field block.
    pub fn is_in_head(&self) -> bool {
        self.grammar.is_in_head() || self.from_client.header_len > 0
    }

    /// Where in bytes about to be sent a GOAWAY calls something a protocol error that has a name of its own, and that name.
    pub fn better_code(&self, bytes: &[u8]) -> Option<(usize, u32)> {
        // The library writes its last word in one piece, at the end.
        let at = bytes.len().checked_sub(HEADER_BYTES + 8)?;
        let last = &bytes[at..];
        let is_goaway = last[..4] == [0, 0, 8, GOAWAY] && last[4..9] == [0; 5];
        let is_protocol_error = last[13..17] == [0, 0, 0, Code::Protocol as u8];
        let code = self.grammar.due().unwrap_or(Code::Compression);
        (is_goaway && is_protocol_error).then_some((at + 13, code as u32))
    }

    fn turn_window(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.window_began_ms) >= WINDOW.as_millis() as u64 {
            self.window_began_ms = now_ms;
            (self.idle_frames, self.resets, self.written, self.earned) = (0, 0, 0, 0);
        }
    }

    fn count(&mut self, frame: Frame) -> Result<(), Flood> {
        if frame.kind == CONTINUATION {
            self.continuations += 1;
            return if self.continuations > CONTINUATIONS_MAX {
                Err(Flood::Continuations)
            } else {
                Ok(())
            };
        }
        self.continuations = 0;
        match frame.kind {
            RST_STREAM => self.reset(),
            HEADERS => Ok(()),
            DATA if frame.len > 0 || frame.flags & END_STREAM != 0 => Ok(()),
            _ => self.idle_frame(),
        }
    }

    fn reset(&mut self) -> Result<(), Flood> {
        self.resets += 1;
        if self.resets > RESETS_MAX {
            return Err(Flood::Resets);
        }
        Ok(())
    }

    fn idle_frame(&mut self) -> Result<(), Flood> {
        self.idle_frames += 1;
        if self.idle_frames > IDLE_FRAMES_MAX.saturating_add(self.earned) {
            return Err(Flood::IdleFrames);
        }
        Ok(())
    }
}

/// What comes next in one direction.
enum Seen {
    Frame(Frame),
    /// So many bytes of a frame's payload that mean something together.
    Unit(Frame, [u8; UNIT_MAX], usize),
}

impl Frames {
    /// Looks at the payload of the frame seen last, so many bytes at a time.
    fn look_into(&mut self, frame: Frame, unit: usize) {
        self.unit_len = 0;
        self.looks_into = (unit > 0).then_some((frame, unit as u8));
    }

    /// The next thing to know of the bytes; what was read of them is taken off.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Seen> {
        if self.skip > 0
            && let Some((frame, unit)) = self.looks_into
            && let Some(seen) = self.next_unit(bytes, frame, usize::from(unit))
        {
            return Some(seen);
        }
        let skipped = (self.skip as usize).min(bytes.len());
        self.skip -= skipped as u32;
        *bytes = &bytes[skipped..];
        let have = usize::from(self.header_len);
        let taken = (HEADER_BYTES - have).min(bytes.len());
        self.header[have..have + taken].copy_from_slice(&bytes[..taken]);
        self.header_len += taken as u8;
        *bytes = &bytes[taken..];
        if usize::from(self.header_len) < HEADER_BYTES {
            return None;
        }
        self.header_len = 0;
        self.looks_into = None;
        let [a, b, c, kind, flags, s, t, u, v] = self.header;
        let len = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
        self.skip = len;
        Some(Seen::Frame(Frame {
            len,
            kind,
            flags,
            stream,
        }))
    }

    fn next_unit(&mut self, bytes: &mut &[u8], frame: Frame, unit: usize) -> Option<Seen> {
        let have = usize::from(self.unit_len);
        let taken = (unit - have).min(bytes.len()).min(self.skip as usize);
        self.unit[have..have + taken].copy_from_slice(&bytes[..taken]);
        self.unit_len += taken as u8;
        self.skip -= taken as u32;
        *bytes = &bytes[taken..];
        if usize::from(self.unit_len) < unit {
            return None;
        }
        self.unit_len = 0;
        if unit == 1 {
            // Of a padded frame only the first byte says something.
            self.looks_into = None;
        }
        Some(Seen::Unit(frame, self.unit, unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING: u8 = 6;

    #[test]
    fn a_flood_of_pings_is_seen_and_a_few_are_not() {
        let mut meter = FloodMeter::default();
        let frames = [
            PREFACE,
            SETTINGS,
            &frame(PING, 0, 8).repeat(IDLE_FRAMES_MAX as usize - 1),
        ]
        .concat();
        assert_eq!(meter.received(&frames, 0), Ok(()));
        assert_eq!(
            meter.received(&frame(PING, 0, 8), 9_000),
            Err(Flood::IdleFrames)
        );
    }

    #[test]
    fn old_sins_are_forgotten() {
        let mut meter = FloodMeter::default();
        let frames = [
            PREFACE,
            SETTINGS,
            &frame(RST_STREAM, 0, 4).repeat(RESETS_MAX as usize),
        ]
        .concat();
        assert_eq!(meter.received(&frames, 0), Ok(()));
        assert_eq!(meter.received(&frame(RST_STREAM, 0, 4), 10_000), Ok(()));
        let again = frame(RST_STREAM, 0, 4).repeat(RESETS_MAX as usize);
        assert_eq!(meter.received(&again, 10_001), Err(Flood::Resets));
    }

    #[test]
    fn resets_of_both_sides_count_together() {
        let mut meter = FloodMeter::default();
        let half = RESETS_MAX as usize / 2;
        let frames = [PREFACE, SETTINGS, &frame(RST_STREAM, 0, 4).repeat(half)].concat();
        assert_eq!(meter.received(&frames, 0), Ok(()));
        assert_eq!(meter.sent(&frame(RST_STREAM, 0, 4).repeat(half)), Ok(()));
        assert_eq!(meter.sent(&frame(RST_STREAM, 0, 4)), Err(Flood::Resets));
    }

    #[test]
    fn a_download_earns_its_window_updates() {
        let mut meter = FloodMeter::default();
        let data = frame(DATA, 0, 16_384).repeat(1_000);
        assert_eq!(meter.sent(&data), Ok(()));
        let updates = [PREFACE, SETTINGS, &frame(8, 0, 4).repeat(20_000)].concat();
        assert_eq!(meter.received(&updates, 0), Ok(()));
    }

    #[test]
    fn a_head_has_few_continuations() {
        let mut meter = FloodMeter::default();
        let head = [
            PREFACE,
            SETTINGS,
            &frame(HEADERS, 0, 10),
            &frame(CONTINUATION, 0, 10).repeat(15),
        ]
        .concat();
        assert_eq!(meter.received(&head, 0), Ok(()));
        assert_eq!(
            meter.received(&frame(CONTINUATION, 0, 10), 0),
            Err(Flood::Continuations)
        );
    }

    fn frame(kind: u8, flags: u8, len: u32) -> Vec<u8> {
        let [_, a, b, c] = len.to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER_BYTES + len as usize, 0);
        frame
    }

    proptest! {
        #[test]
        fn how_it_is_cut_makes_no_difference(cuts in prop::collection::vec(1usize..40, 1..50), n in 0usize..200) {
            let bytes = [PREFACE, SETTINGS, &[frame(DATA, 0, 0), frame(PING, 0, 8), frame(HEADERS, 0, 30)].concat().repeat(n)].concat();
            let mut whole = FloodMeter::default();
            let _ = whole.received(&bytes, 0);
            let mut pieces = FloodMeter::default();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                let _ = pieces.received(piece, 0);
                rest = after;
            }
            prop_assert_eq!(whole.idle_frames, pieces.idle_frames);
        }
    }
}
