//! A body in chunks is the same body however it arrives, and ends at the same byte.
#![no_main]

use balancer_core::message::{Chunked, ChunkedError, Step, push_chunk_head};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read([bytes].into_iter());
    assert_eq!(whole, read(fuzz::pieces(bytes)), "it depends on the cuts");
    if whole.used.is_some() {
        assert_eq!(
            read([&written(&whole.body)[..]].into_iter()).body,
            whole.body
        );
    }
});

#[derive(Debug, Default, PartialEq)]
struct Body {
    body: Vec<u8>,
    /// Bytes up to the end of the body, once it is reached.
    used: Option<usize>,
    failed: Option<ChunkedError>,
    trailers: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Body {
    let mut res = Body::default();
    let mut reader = Chunked::default();
    let mut before = 0;
    for piece in pieces {
        if let Err(err) = read_piece(&mut reader, piece, before, &mut res) {
            res.failed = Some(err);
        }
        if res.failed.is_some() || res.used.is_some() {
            break;
        }
        before += piece.len();
    }
    let fields = res.used.and_then(|_| reader.trailers().ok());
    res.trailers = fields.map(|it| it.iter().map(|(a, b)| (a.to_vec(), b.to_vec())).collect());
    res
}

fn read_piece(
    reader: &mut Chunked,
    piece: &[u8],
    before: usize,
    res: &mut Body,
) -> Result<(), ChunkedError> {
    let mut at = 0;
    loop {
        match reader.step(&piece[at..])? {
            Step::More => return Ok(()),
            Step::Data { skip, len } => {
                res.body
                    .extend_from_slice(&piece[at + skip..at + skip + len]);
                at += skip + len;
            }
            Step::End { skip } => {
                assert!(reader.is_done(), "the end is known to the reader");
                res.used = Some(before + at + skip);
                return Ok(());
            }
        }
    }
}

fn written(body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in body.chunks(19) {
        push_chunk_head(&mut text, chunk.len());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}
