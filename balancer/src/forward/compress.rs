//! Compresses an answer's body while it streams, in bounded memory, and holds nothing back from a client while the node pauses.

use std::{
    cell::Cell,
    io::{self, Write},
};

use balancer_core::{
    message::Response,
    rules::{Coding, Wanted},
};
use bytes::Bytes;

use crate::config::rules::{CompressLevel, Compressing};

/// What is compressed at a time, so that what comes out of it is bounded too.
const PIECE_BYTES: usize = 16 << 10;

/// Answers that one core compresses at a time, each of which takes up to a megabyte; the next ones are sent as they are.
const SQUEEZES_MAX: usize = 256;

/// How far back the coders look, as a power of two of bytes: 256 KiB bounds their memory, and texts rarely gain from more.
const WINDOW_LOG: u32 = 18;

thread_local! {
    static SQUEEZES: Cell<usize> = const { Cell::new(0) };
}

/// A body on its way through a coder.
pub(super) struct Squeeze {
    coder: Coder,
    /// Came out of the coder and goes to the client next.
    out: Bytes,
    /// Something went into the coder that may not have come out.
    is_dirty: bool,
    is_finished: bool,
    _place: Place,
}

enum Coder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Done,
}

/// One of the places that a core has.
struct Place;

impl Squeeze {
    /// Changes the head of an answer that is to be compressed.
    pub(super) fn begin(
        compressing: &Compressing,
        wanted: Wanted,
        head: &mut Response,
    ) -> Option<Self> {
        let place = Place::take();
        let wanted = match wanted {
            Wanted::Coded(_) if place.is_none() => Wanted::Plain,
            wanted => wanted,
        };
        let coding = compressing.what.apply(wanted, head)?;
        Some(Self {
            coder: Coder::new(coding, compressing.level),
            out: Bytes::new(),
            is_dirty: false,
            is_finished: false,
            _place: place?,
        })
    }

    /// What the client is to be sent before anything else goes in.
    pub(super) fn out(&mut self) -> &mut Bytes {
        &mut self.out
    }

    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Takes in some of the data and says how much.
    ///
    /// # Errors
    /// Never: coders fail only when what they write to does, and they write to memory.
    pub(super) fn feed(&mut self, data: &[u8]) -> io::Result<usize> {
        debug_assert!(self.out.is_empty(), "what came out goes first");
        let piece = &data[..data.len().min(PIECE_BYTES)];
        self.coder.write_all(piece)?;
        self.is_dirty = true;
        self.out = self.coder.take();
        Ok(piece.len())
    }

    /// The node pauses: whether anything came out for the client to see meanwhile.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        if std::mem::take(&mut self.is_dirty) {
            self.coder.flush()?;
            self.out = self.coder.take();
        }
        Ok(!self.out.is_empty())
    }

    /// The body is over.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.is_finished = true;
        self.out = std::mem::replace(&mut self.coder, Coder::Done)
            .finish()?
            .into();
        Ok(())
    }
}

impl Coder {
    fn new(coding: Coding, level: CompressLevel) -> Self {
        match coding {
            Coding::Gzip => {
                let level = [1, 5, 9][level as usize];
                let level = flate2::Compression::new(level);
                Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
            Coding::Brotli => Self::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                PIECE_BYTES,
                [1, 4, 6][level as usize],
                WINDOW_LOG,
            ))),
            Coding::Zstd => Self::Zstd(zstd_encoder([1, 3, 9][level as usize])),
        }
    }

    /// What has come out so far.
    fn take(&mut self) -> Bytes {
        let out = match self {
            Self::Gzip(it) => it.get_mut(),
            Self::Brotli(it) => it.get_mut(),
            Self::Zstd(it) => it.get_mut(),
            Self::Done => return Bytes::new(),
        };
        std::mem::take(out).into()
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(it) => it.finish(),
            Self::Brotli(it) => Ok(it.into_inner()),
            Self::Zstd(it) => it.finish(),
            Self::Done => Ok(Vec::new()),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Gzip(it) => it,
            Self::Brotli(it) => it.as_mut(),
            Self::Zstd(it) => it,
            Self::Done => unreachable!("a body that is over has no further bytes"),
        }
    }

    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.writer().write_all(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }
}

fn zstd_encoder(level: i32) -> zstd::stream::write::Encoder<'static, Vec<u8>> {
    let made = zstd::stream::write::Encoder::new(Vec::new(), level);
    let mut encoder = made.expect("the level is one that zstd has");
    encoder
        .window_log(WINDOW_LOG)
        .expect("the window is one that zstd has");
    encoder
}

impl Place {
    fn take() -> Option<Self> {
        SQUEEZES.with(|it| {
            let taken = it.get();
            (taken < SQUEEZES_MAX).then(|| {
                it.set(taken + 1);
                Self
            })
        })
    }
}

impl Drop for Place {
    /// On the core that took it: connections never leave theirs.
    fn drop(&mut self) {
        SQUEEZES.with(|it| it.set(it.get().saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const LEVELS: [CompressLevel; 3] = [
        CompressLevel::Fast,
        CompressLevel::Balanced,
        CompressLevel::Small,
    ];

    #[test]
    fn what_went_in_comes_out_again() {
        let text = "a line that repeats itself, and a number: ".repeat(20_000);
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            for level in LEVELS {
                let coded = squeeze(coding, level, text.as_bytes());
                assert!(coded.len() < text.len() / 20, "{coding:?} {}", coded.len());
                assert!(
                    restore(coding, &coded, true) == text.as_bytes(),
                    "{coding:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_held_back_while_the_node_pauses() {
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            let mut squeeze = new(coding, CompressLevel::Balanced);
            let mut coded = Vec::new();
            for word in ["one", "two"] {
                squeeze.feed(word.as_bytes()).expect("memory");
                coded.extend(std::mem::take(squeeze.out()));
                assert!(squeeze.flush().expect("memory"));
                coded.extend(std::mem::take(squeeze.out()));
                let so_far = restore(coding, &coded, false);
                assert!(so_far.ends_with(word.as_bytes()), "{coding:?} {so_far:?}");
                assert!(!squeeze.flush().expect("memory"), "once is enough");
            }
        }
    }

    #[test]
    fn places_are_given_back() {
        let held: Vec<_> = (0..SQUEEZES_MAX).map(|_| Place::take()).collect();
        assert!(held.iter().all(Option::is_some) && Place::take().is_none());
        drop(held);
        assert!(Place::take().is_some());
    }

    fn squeeze(coding: Coding, level: CompressLevel, data: &[u8]) -> Vec<u8> {
        let mut squeeze = new(coding, level);
        let (mut left, mut coded) = (data, Vec::new());
        while !left.is_empty() {
            let n = squeeze.feed(left).expect("memory");
            left = &left[n..];
            coded.extend(std::mem::take(squeeze.out()));
        }
        squeeze.finish().expect("memory");
        coded.extend(std::mem::take(squeeze.out()));
        coded
    }

    fn new(coding: Coding, level: CompressLevel) -> Squeeze {
        Squeeze {
            coder: Coder::new(coding, level),
            out: Bytes::new(),
            is_dirty: false,
            is_finished: false,
            _place: Place::take().expect("a place is free"),
        }
    }

    /// As much as can be read of it, which is all if it is `whole`.
    fn restore(coding: Coding, coded: &[u8], whole: bool) -> Vec<u8> {
        let mut reader: Box<dyn Read> = match coding {
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(coded)),
            Coding::Brotli => Box::new(brotli::Decompressor::new(coded, 4096)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(coded).expect("it begins")),
        };
        let (mut out, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return out,
                Ok(n) => out.extend_from_slice(&piece[..n]),
                Err(err) if whole => panic!("{err}"),
                Err(_) => return out,
            }
        }
    }
}
