//! Streams parts of a file, a chunk at a time and each when the client has taken the one before.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use node_core::range::Span;
use tokio::task::{JoinHandle, spawn_blocking};

/// What is read at once, in bytes: all that one answer holds in memory.
const CHUNK_BYTES: u64 = 64 * 1024;

pub(super) struct FileBody {
    file: Arc<File>,
    pieces: VecDeque<Piece>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// Bytes that are still to be given out.
    left: u64,
}

pub(super) enum Piece {
    Text(Bytes),
    File { at: u64, count: u64 },
}

impl FileBody {
    pub(super) fn new(file: File, pieces: impl IntoIterator<Item = Piece>) -> Self {
        let pieces: VecDeque<_> = pieces.into_iter().collect();
        Self {
            file: Arc::new(file),
            left: pieces.iter().map(Piece::count).sum(),
            pieces,
            reading: None,
        }
    }

    /// Gives out a piece that is in memory, or begins to read the next chunk. None when nothing is left.
    fn advance(&mut self) -> Option<Option<Bytes>> {
        match self.pieces.front_mut()? {
            Piece::Text(text) => {
                let text = std::mem::take(text);
                self.pieces.pop_front();
                Some(Some(text))
            }
            Piece::File { count: 0, .. } => {
                self.pieces.pop_front();
                Some(None)
            }
            Piece::File { at, count } => {
                let (from, len) = (*at, CHUNK_BYTES.min(*count));
                (*at, *count) = (from + len, *count - len);
                let file = self.file.clone();
                self.reading = Some(spawn_blocking(move || read(&file, from, len)));
                Some(None)
            }
        }
    }

    fn given(&mut self, bytes: Bytes) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.left -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Piece {
    pub(super) fn of(span: &Span) -> Self {
        Self::File {
            at: span.first(),
            count: span.count(),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File { count, .. } => *count,
        }
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                let bytes = read.map_err(io::Error::other).flatten()?;
                return self.given(bytes);
            }
            match self.advance() {
                Some(Some(bytes)) => return self.given(bytes),
                Some(None) => {}
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A file that became shorter meanwhile ends the answer with an error: its length has been promised.
fn read(file: &File, at: u64, len: u64) -> io::Result<Bytes> {
    let mut chunk = vec![0; len as usize];
    file.read_exact_at(&mut chunk, at)?;
    Ok(chunk.into())
}
