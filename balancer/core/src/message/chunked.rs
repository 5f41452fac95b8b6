//! Reads a body in chunks (RFC 9112 §7.1), strictly: what it lets through has one meaning only.
//!
//! It holds no data: the caller shows it what has come, and is told how much of that is framing and how much is the body's. Chunk
//! extensions are read over and dropped, as a recipient may; nobody here has a use for them, and they are where chunks are hidden.

use super::{BadHead, Fields, parse::parse_trailers};

/// Bytes that all chunk extensions of one body may have together.
const EXTENSION_BYTES_MAX: usize = 16 << 10;

/// Bytes that the trailers may have.
const TRAILER_BYTES_MAX: usize = 8 << 10;

/// Hexadecimal digits of a chunk's length: enough for 2^60 bytes, and too few to overflow.
const DIGITS_MAX: u8 = 15;

/// How far the reading of one body has come.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    extension_bytes: usize,
    trailer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the digits of a length, of which so many were read.
    #[default]
    Start,
    Size(u64, u8),
    Extension(u64),
    /// After the CR of the line with a length.
    SizeEnd(u64),
    Data(u64),
    /// Before the CR LF that follows a chunk's data.
    DataCr,
    DataLf,
    Trailer,
    Done,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Framing only; all that was shown is used up, and more must come.
    More,
    /// After `skip` bytes of framing come `len` bytes of the body; both are used up.
    Data { skip: usize, len: usize },
    /// After `skip` bytes the body is over.
    End { skip: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkedError {
    #[error("the length of a chunk is not valid")]
    Size,
    #[error("the extensions of chunks are too long")]
    ExtensionsTooLong,
    #[error("a chunk does not end where it should")]
    End,
    #[error("the trailers are too long")]
    TrailersTooLong,
    #[error("the trailers are not valid: {0}")]
    Trailers(#[from] BadHead),
}

impl Chunked {
    /// Looks at what has come. It is not shown again what it has used up.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, ChunkedError> {
        let mut at = 0;
        while at < bytes.len() || self.state == State::Done {
            match self.state {
                State::Data(left) => {
                    let here = bytes.len() - at;
                    let len = usize::try_from(left).map_or(here, |left| left.min(here));
                    self.state = match left - len as u64 {
                        0 => State::DataCr,
                        left => State::Data(left),
                    };
                    return Ok(Step::Data { skip: at, len });
                }
                State::Done => return Ok(Step::End { skip: at }),
                _ => self.read(bytes[at])?,
            }
            at += 1;
        }
        Ok(Step::More)
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes of the chunk under way are still to come.
    pub fn data_left(&self) -> u64 {
        match self.state {
            State::Data(left) => left,
            _ => 0,
        }
    }

    /// The fields that came after the last chunk.
    pub fn trailers(&self) -> Result<Fields, ChunkedError> {
        let res = parse_trailers(&self.trailer)?;
        Ok(res)
    }

    pub fn has_trailers(&self) -> bool {
        self.trailer.len() > b"\r\n".len()
    }

    fn read(&mut self, byte: u8) -> Result<(), ChunkedError> {
        self.state = match (self.state, byte) {
            (State::Start, _) => State::Size(digit(byte).ok_or(ChunkedError::Size)?, 1),
            (State::Size(size, _), b'\r') => State::SizeEnd(size),
            // Blanks before an extension are allowed to be there (RFC 9112 §7.1.1), and nothing else after the digits.
            (State::Size(size, _), b';' | b' ' | b'\t') => self.extension(size)?,
            (State::Size(size, digits), _) if digits < DIGITS_MAX => {
                let digit = digit(byte).ok_or(ChunkedError::Size)?;
                State::Size(size << 4 | digit, digits + 1)
            }
            (State::Size(..), _) => return Err(ChunkedError::Size),
            (State::Extension(size), b'\r') => State::SizeEnd(size),
            (State::Extension(_), b'\n' | 0) => return Err(ChunkedError::Size),
            (State::Extension(size), _) => self.extension(size)?,
            (State::SizeEnd(0), b'\n') => State::Trailer,
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::SizeEnd(_), _) => return Err(ChunkedError::Size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Start,
            (State::DataCr | State::DataLf, _) => return Err(ChunkedError::End),
            (State::Trailer, _) => self.trailer(byte)?,
            (state @ (State::Data(_) | State::Done), _) => state,
        };
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<State, ChunkedError> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(ChunkedError::ExtensionsTooLong);
        }
        Ok(State::Extension(size))
    }

    fn trailer(&mut self, byte: u8) -> Result<State, ChunkedError> {
        self.trailer.push(byte);
        if self.trailer.len() > TRAILER_BYTES_MAX {
            return Err(ChunkedError::TrailersTooLong);
        }
        if byte != b'\n' {
            return Ok(State::Trailer);
        }
        if !self.trailer.ends_with(b"\r\n") {
            return Err(ChunkedError::Trailers(BadHead::LineEnd));
        }
        let is_over = self.trailer == b"\r\n" || self.trailer.ends_with(b"\r\n\r\n");
        Ok(if is_over { State::Done } else { State::Trailer })
    }
}

fn digit(byte: u8) -> Option<u64> {
    (byte as char).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chunks_become_a_body() {
        check(
            "5\r\nhello\r\n6; a=\"b\"\r\n world\r\n0\r\n\r\n",
            "hello world",
        );
        check("00A\r\n0123456789\r\n0;x\r\n\r\n", "0123456789");
        check("1 ;x\r\na\r\n0\r\nTrailer: x\r\n\r\n", "a");
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        for text in [
            "",
            "x",
            "-1\r\n",
            "+1\r\na",
            "0x1\r\na",
            " 1\r\na",
            "\r\n",
            "1\na\r\n",
            "1\r\nab",
            "1\r\na\n0",
            "1\r\na\r\r",
            "1;\na",
            "1;\0\r\na",
            "1\rx",
            "1000000000000000\r\n",
            "0\r\na: b\n\r\n",
            "0\r\n\n",
            "1g\r\n",
        ] {
            let read = read(text.as_bytes(), usize::MAX);
            assert!(!matches!(read, Ok((_, true))), "{text:?} gave {read:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let long = format!("1;{}\r\na\r\n", "x".repeat(EXTENSION_BYTES_MAX));
        assert_eq!(
            read(long.as_bytes(), usize::MAX),
            Err(ChunkedError::ExtensionsTooLong)
        );
        let many = "1;x\r\na\r\n".repeat(EXTENSION_BYTES_MAX);
        assert_eq!(
            read(many.as_bytes(), usize::MAX),
            Err(ChunkedError::ExtensionsTooLong)
        );
        let long = format!("0\r\na: {}", "x".repeat(TRAILER_BYTES_MAX));
        assert_eq!(
            read(long.as_bytes(), usize::MAX),
            Err(ChunkedError::TrailersTooLong)
        );
    }

    #[test]
    fn what_follows_the_body_is_left() {
        let mut chunked = Chunked::default();
        let step = chunked.step(b"0\r\n\r\nGET / HTTP/1.1");
        assert_eq!(step, Ok(Step::End { skip: 5 }));
        assert!(!chunked.has_trailers());
    }

    #[test]
    fn trailers_are_kept() {
        let mut chunked = Chunked::default();
        let _ = chunked.step(b"0\r\nA: 1\r\nB: 2\r\n\r\n");
        let trailers = chunked.trailers().expect("they are valid");
        assert_eq!(trailers.named("b"), Some(&b"2"[..]));
    }

    fn check(text: &str, body: &str) {
        for piece in [1, 2, 3, 7, usize::MAX] {
            let read = read(text.as_bytes(), piece);
            assert_eq!(
                read,
                Ok((body.as_bytes().to_vec(), true)),
                "{text:?} by {piece}"
            );
        }
    }

    /// The body, and whether it ended.
    fn read(text: &[u8], piece: usize) -> Result<(Vec<u8>, bool), ChunkedError> {
        let mut chunked = Chunked::default();
        let mut body = Vec::new();
        for mut bytes in text.chunks(piece.min(text.len().max(1))) {
            while !bytes.is_empty() {
                match chunked.step(bytes)? {
                    Step::More => break,
                    Step::Data { skip, len } => {
                        body.extend_from_slice(&bytes[skip..skip + len]);
                        bytes = &bytes[skip + len..];
                    }
                    Step::End { .. } => return Ok((body, true)),
                }
            }
        }
        Ok((body, chunked.is_done()))
    }

    proptest! {
        #[test]
        fn how_it_is_cut_makes_no_difference(text in "[0-3a;\r\n x:]{0,60}", piece in 1usize..9) {
            prop_assert_eq!(read(text.as_bytes(), piece), read(text.as_bytes(), usize::MAX));
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, 5);
        }
    }
}
