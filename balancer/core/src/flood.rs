//! Counts what an HTTP/2 client sends that costs it nothing and the balancer something: resets, pings, settings, empty frames.
//!
//! It reads frame headers as they pass (RFC 9113 §4.1) and keeps none of the bytes. What a client may send depends on what it gets:
//! every kilobyte written to it earns the right to a window update, so that a fast download is no flood.

use std::time::Duration;

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

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const HEADER_BYTES: usize = 9;
const END_STREAM: u8 = 1;

/// What a client floods the connection with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    #[error("too many frames that carry nothing")]
    IdleFrames,
    #[error("too many streams that were reset")]
    Resets,
    #[error("too many continuations of one head")]
    Continuations,
}

/// Reads the frame headers in one direction of a connection.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes that belong to the preface or to a frame's payload.
    skip: u32,
    header: [u8; HEADER_BYTES],
    header_len: u8,
}

/// What one connection has seen in the window under way.
#[derive(Debug)]
pub struct FloodMeter {
    from_client: Frames,
    to_client: Frames,
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
        while let Some((frame, after)) = self.from_client.next(rest) {
            rest = after;
            self.count(frame)?;
        }
        Ok(())
    }

    /// Bytes went to the client: the streams that it made the balancer reset count like those that it resets itself.
    pub fn sent(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        self.written += bytes.len() as u64;
        self.earned = u32::try_from(self.written >> 10).unwrap_or(u32::MAX);
        let mut rest = bytes;
        while let Some((frame, after)) = self.to_client.next(rest) {
            rest = after;
            if frame.kind == RST_STREAM {
                self.reset()?;
            }
        }
        Ok(())
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    len: u32,
    kind: u8,
    flags: u8,
}

impl Frames {
    /// The next frame whose header is whole, and the bytes behind that header.
    fn next<'a>(&mut self, mut bytes: &'a [u8]) -> Option<(Frame, &'a [u8])> {
        let skipped = (self.skip as usize).min(bytes.len());
        self.skip -= skipped as u32;
        bytes = &bytes[skipped..];
        let have = usize::from(self.header_len);
        let taken = (HEADER_BYTES - have).min(bytes.len());
        self.header[have..have + taken].copy_from_slice(&bytes[..taken]);
        self.header_len += taken as u8;
        if usize::from(self.header_len) < HEADER_BYTES {
            return None;
        }
        self.header_len = 0;
        let [a, b, c, kind, flags, ..] = self.header;
        let len = u32::from_be_bytes([0, a, b, c]);
        self.skip = len;
        Some((Frame { len, kind, flags }, &bytes[taken..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PING: u8 = 6;

    #[test]
    fn a_flood_of_pings_is_seen_and_a_few_are_not() {
        let mut meter = FloodMeter::default();
        let frames = [PREFACE, &frame(PING, 0, 8).repeat(IDLE_FRAMES_MAX as usize)].concat();
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
        let frames = [PREFACE, &frame(RST_STREAM, 0, 4).repeat(half)].concat();
        assert_eq!(meter.received(&frames, 0), Ok(()));
        assert_eq!(meter.sent(&frame(RST_STREAM, 0, 4).repeat(half)), Ok(()));
        assert_eq!(meter.sent(&frame(RST_STREAM, 0, 4)), Err(Flood::Resets));
    }

    #[test]
    fn a_download_earns_its_window_updates() {
        let mut meter = FloodMeter::default();
        let data = frame(DATA, 0, 16_384).repeat(1_000);
        assert_eq!(meter.sent(&data), Ok(()));
        let updates = [PREFACE, &frame(8, 0, 4).repeat(20_000)].concat();
        assert_eq!(meter.received(&updates, 0), Ok(()));
    }

    #[test]
    fn a_head_has_few_continuations() {
        let mut meter = FloodMeter::default();
        let head = [
            PREFACE,
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
            let bytes = [PREFACE, &[frame(DATA, 0, 0), frame(PING, 0, 8), frame(HEADERS, 0, 30)].concat().repeat(n)].concat();
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
