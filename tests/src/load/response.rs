//! Reads one HTTP/1.1 answer from bytes as they come, and says where it ends (RFC 9112 sections 4, 6 and 7).
//!
//! No sockets and no buffers of its own: what it does not consume, the caller keeps and shows again with more.

use super::content::Checker;
use super::lane::{Failure, FailureKind};

/// More header fields than a proxy adds to an answer of ours.
const HEADERS_MAX: usize = 64;
/// The longest line that begins a chunk: 16 digits of length and some extension.
const CHUNK_LINE_MAX: usize = 256;

/// One answer, as far as it has been read.
#[derive(Debug)]
pub(super) struct Response {
    stage: Stage,
    status: u16,
    keeps_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    /// So many bytes of the body are to come.
    Length(u64),
    /// The body ends with the connection.
    UntilClose,
    ChunkLine,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Complete,
}

// === impl Response ===

impl Response {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Head,
            status: 0,
            keeps_alive: true,
        }
    }

    /// Reads on, and tells how many bytes of `input` were consumed.
    pub(super) fn read(&mut self, input: &[u8], body: &mut Checker) -> Result<usize, Failure> {
        let mut at = 0;
        while self.stage != Stage::Complete {
            match self.step(&input[at..], body)? {
                0 => break,
                consumed => at += consumed,
            }
        }
        Ok(at)
    }

    /// The connection has ended: whether the answer may end so.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        match self.stage {
            Stage::UntilClose | Stage::Complete => {
                self.stage = Stage::Complete;
                Ok(())
            }
            stage => Err(Failure::broken(
                stage != Stage::Head,
                "the connection ended",
            )),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// Whether the head has been read.
    pub(super) fn has_begun(&self) -> bool {
        self.stage != Stage::Head
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// Whether another exchange may follow on the connection.
    pub(super) fn keeps_alive(&self) -> bool {
        self.keeps_alive
    }

    /// Consumes what the stage can use; 0 when it needs more.
    fn step(&mut self, input: &[u8], body: &mut Checker) -> Result<usize, Failure> {
        match self.stage {
            Stage::Head => self.head(input),
            Stage::Length(left) => {
                Ok(self.piece(input, left, body, Stage::Length, Stage::Complete))
            }
            Stage::Chunk(left) => Ok(self.piece(input, left, body, Stage::Chunk, Stage::ChunkEnd)),
            Stage::UntilClose => {
                body.take(input);
                Ok(input.len())
            }
            Stage::ChunkLine => self.chunk_line(input),
            Stage::ChunkEnd => self.chunk_end(input),
            Stage::Trailers => self.trailer_line(input),
            Stage::Complete => Ok(0),
        }
    }

    fn head(&mut self, input: &[u8]) -> Result<usize, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(input).map_err(malformed)? else {
            return Ok(0);
        };
        self.status = head.code.unwrap_or_default();
        if (100..200).contains(&self.status) && self.status != 101 {
            return Ok(length);
        }
        self.keeps_alive =
            head.version == Some(1) && !has_token(head.headers, "connection", b"close");
        self.stage = self.framing(head.headers)?;
        Ok(length)
    }

    /// RFC 9112 section 6.3: how the end of the body is told.
    fn framing(&mut self, headers: &[httparse::Header<'_>]) -> Result<Stage, Failure> {
        if matches!(self.status, 101 | 204 | 304) {
            return Ok(Stage::Complete);
        }
        if has_token(headers, "transfer-encoding", b"chunked") {
            return Ok(Stage::ChunkLine);
        }
        let Some(length) = headers
            .iter()
            .find(|it| it.name.eq_ignore_ascii_case("content-length"))
        else {
            self.keeps_alive = false;
            return Ok(Stage::UntilClose);
        };
        let length = str::from_utf8(length.value)
            .ok()
            .and_then(|it| it.trim().parse().ok());
        Ok(
            match length.ok_or_else(|| malformed("content-length is no number"))? {
                0 => Stage::Complete,
                length => Stage::Length(length),
            },
        )
    }

    fn piece(
        &mut self,
        input: &[u8],
        left: u64,
        body: &mut Checker,
        more: fn(u64) -> Stage,
        done: Stage,
    ) -> usize {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        body.take(&input[..length]);
        let left = left - length as u64;
        self.stage = if left == 0 { done } else { more(left) };
        length
    }

    fn chunk_line(&mut self, input: &[u8]) -> Result<usize, Failure> {
        match httparse::parse_chunk_size(input).map_err(|_| malformed("no chunk size"))? {
            httparse::Status::Partial if input.len() > CHUNK_LINE_MAX => {
                Err(malformed("endless chunk size"))
            }
            httparse::Status::Partial => Ok(0),
            httparse::Status::Complete((consumed, size)) => {
                self.stage = if size == 0 {
                    Stage::Trailers
                } else {
                    Stage::Chunk(size)
                };
                Ok(consumed)
            }
        }
    }

    fn chunk_end(&mut self, input: &[u8]) -> Result<usize, Failure> {
        match input {
            [b'\r', b'\n', ..] => {
                self.stage = Stage::ChunkLine;
                Ok(2)
            }
            [] | [b'\r'] => Ok(0),
            _ => Err(malformed("a chunk is longer than it said")),
        }
    }

    /// Trailer fields are passed over line by line; an empty line ends them.
    fn trailer_line(&mut self, input: &[u8]) -> Result<usize, Failure> {
        let Some(end) = input.windows(2).position(|it| it == b"\r\n") else {
            return Ok(0);
        };
        if end == 0 {
            self.stage = Stage::Complete;
        }
        Ok(end + 2)
    }
}

fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &[u8]) -> bool {
    let values = headers
        .iter()
        .filter(|it| it.name.eq_ignore_ascii_case(name))
        .map(|it| it.value);
    values
        .flat_map(|it| it.split(|byte| *byte == b','))
        .any(|it| it.trim_ascii().eq_ignore_ascii_case(token))
}

fn malformed(detail: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Malformed, detail)
}

#[cfg(test)]
mod tests {
    use super::super::content::Expect;
    use super::*;

    #[test]
    fn a_length_tells_the_end() {
        check(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            (200, 5, true),
        );
        check(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            (200, 0, true),
        );
    }

    #[test]
    fn chunks_tell_the_end() {
        check(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
            (200, 15, true),
        );
    }

    #[test]
    fn interim_answers_are_passed_over() {
        check(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            (204, 0, true),
        );
    }

    #[test]
    fn an_answer_may_end_the_connection() {
        check(
            b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 1\r\n\r\na",
            (200, 1, false),
        );
        check(
            b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
            (200, 1, false),
        );
    }

    #[test]
    fn without_a_length_the_body_ends_with_the_connection() {
        let mut body = Checker::new(Expect::Anything);
        let mut response = Response::new();
        let input = b"HTTP/1.1 200 OK\r\n\r\nabc";
        assert_eq!(
            response.read(input, &mut body).expect("it is well formed"),
            input.len()
        );
        assert!(!response.is_complete());
        response.end().expect("it may end so");
        assert_eq!(
            (response.is_complete(), response.keeps_alive(), body.seen()),
            (true, false, 3)
        );
    }

    #[test]
    fn an_early_end_is_a_reset_before_the_head_and_a_truncation_after() {
        assert_eq!(cut(b"").kind, FailureKind::Reset);
        assert_eq!(
            cut(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell").kind,
            FailureKind::Truncated
        );
        assert_eq!(
            cut(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n").kind,
            FailureKind::Truncated
        );
    }

    #[test]
    fn broken_answers_are_told() {
        for input in [
            &b"SMTP ready\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        ] {
            let read = Response::new().read(input, &mut Checker::new(Expect::Anything));
            assert_eq!(read.expect_err("it is broken").kind, FailureKind::Malformed);
        }
    }

    /// The answer must read the same however it is cut into pieces, and nothing behind it may be consumed.
    fn check(input: &[u8], expected: (u16, u64, bool)) {
        let whole = [input, b"HTTP/1.1 500"].concat();
        for size in 1..=whole.len() {
            let mut body = Checker::new(Expect::Anything);
            let mut response = Response::new();
            let (mut from, mut to) = (0, 0);
            while !response.is_complete() && to < whole.len() {
                to = (to + size).min(whole.len());
                from += response
                    .read(&whole[from..to], &mut body)
                    .expect("it is well formed");
            }
            assert_eq!(
                (response.status(), body.seen(), response.keeps_alive()),
                expected,
                "pieces of {size}"
            );
            assert_eq!(
                (response.is_complete(), from),
                (true, input.len()),
                "pieces of {size}"
            );
        }
    }

    fn cut(input: &[u8]) -> Failure {
        let mut response = Response::new();
        response
            .read(input, &mut Checker::new(Expect::Anything))
            .expect("what is there is well formed");
        response.end().expect_err("it is not complete")
    }
}
