//! A client of HTTP/2 that sends whatever frames it is told to, and tells what becomes of them.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    frame::{Frame, PREFACE, code, flag, kind, setting},
    hpack::{self, Block},
};

/// How long a reaction may take; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(8);
/// How large a window is before anybody has changed it (RFC 9113 §6.9.2).
const WINDOW_BYTES: usize = 65_535;
/// The payload by which the answer to a question about order is known.
const MARK: [u8; 8] = *b"order ok";

/// What a peer speaks over.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// One connection.
pub struct Peer {
    stream: Box<dyn Duplex>,
    heard: BytesMut,
    /// The settings of the other side.
    settings: BTreeMap<u16, u32>,
    /// By how much each window was opened so far, that of the connection under 0.
    granted: BTreeMap<u32, usize>,
}

/// What becomes of a stream or of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(u16),
    Reset(u32),
    /// The code, and the last stream that was worked on.
    GoneAway(u32, u32),
    Closed,
    /// Not a word within [`PATIENCE`].
    Nothing,
}

/// An answer with its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Peer {
    /// Connects, and agrees on settings.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::agree(dial(address).await).await
    }

    /// Agrees on settings over a fresh connection.
    pub async fn agree(stream: impl Duplex + 'static) -> Self {
        Self::agree_on(stream, &[]).await
    }

    /// The same with settings of the caller's, which come after the only one of our own: no dynamic table for answers.
    pub async fn agree_on(stream: impl Duplex + 'static, settings: &[(u16, u32)]) -> Self {
        let mut peer = Self::over(stream);
        let own = [&[(setting::HEADER_TABLE_SIZE, 0)][..], settings].concat();
        peer.say_bytes(PREFACE).await;
        peer.say(&[Frame::settings(&own)]).await;
        let theirs = peer.until(|it| it.kind == kind::SETTINGS && !it.has(flag::ACK));
        let theirs = theirs.await.expect("a server begins with its settings");
        peer.settings.extend(theirs.said_settings());
        peer.say(&[Frame::settings_ack()]).await;
        peer.until(|it| it.kind == kind::SETTINGS && it.has(flag::ACK))
            .await
            .expect("settings are acknowledged");
        peer
    }

    /// A connection on which nothing was said.
    pub fn over(stream: impl Duplex + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            heard: BytesMut::new(),
            settings: BTreeMap::new(),
            granted: BTreeMap::new(),
        }
    }

    /// A setting of the other side, if it has told one.
    pub fn setting(&self, id: u16) -> Option<u32> {
        self.settings.get(&id).copied()
    }

    /// How many bytes of bodies may have been sent on a stream so far, by all that was heard (RFC 9113 §6.9.1).
    pub fn allowance(&self, stream: u32) -> usize {
        let granted = |it: u32| self.granted.get(&it).copied().unwrap_or_default();
        let own = self.setting(setting::INITIAL_WINDOW_SIZE);
        let own = own.map_or(WINDOW_BYTES, |it| it as usize) + granted(stream);
        own.min(WINDOW_BYTES + granted(0))
    }

    /// Sends frames; whether they are heard is for the reaction to tell.
    pub async fn say(&mut self, frames: &[Frame]) {
        // A peer that was refused in the middle of what it says hears why when it listens.
        let _ = self.try_say(frames).await;
    }

    /// # Errors
    /// When the other side has ended the connection.
    pub async fn try_say(&mut self, frames: &[Frame]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        self.try_say_bytes(&bytes).await
    }

    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        // As above.
        let _ = self.try_say_bytes(bytes).await;
    }

    /// # Errors
    /// When the other side has ended the connection, or takes nothing more.
    pub async fn try_say_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let said = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let said = timeout_at(Instant::now() + PATIENCE, said).await;
        said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next frame; `None` when the connection has ended or nothing came in time.
    pub async fn next(&mut self) -> Option<Frame> {
        self.next_by(Instant::now() + PATIENCE).await.ok()
    }

    /// The next frame that is here already or comes within `span`.
    pub async fn next_within(&mut self, span: Duration) -> Option<Frame> {
        self.next_by(Instant::now() + span).await.ok()
    }

    /// The first frame that is looked for.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self.next_by(deadline).await.ok()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// What becomes of a stream, or of the connection.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = match self.next_by(deadline).await {
                Ok(frame) => frame,
                Err(Outcome::Closed) => return Outcome::Closed,
                Err(other) => return other,
            };
            if let Some(outcome) = tells(&frame, stream) {
                return outcome;
            }
        }
    }

    /// What ends the connection, whatever comes before.
    pub async fn ending(&mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next_by(deadline).await {
                Ok(frame) if is_final_word(&frame) => {
                    return Outcome::GoneAway(frame.number_at(4), frame.number_at(0));
                }
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// Whether the other side closes the connection, whatever it still says.
    pub async fn is_closed(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next_by(deadline).await {
                Ok(_) => {}
                Err(end) => return end == Outcome::Closed,
            }
        }
    }

    /// Asks and hears the whole answer, of a client that lets it flow.
    pub async fn get(&mut self, stream: u32, path: &str) -> Answer {
        let ask = Frame::headers(stream, flag::END_STREAM, Block::get(path));
        self.say(&[ask]).await;
        self.answer(stream).await
    }

    /// Hears the whole answer on a stream.
    pub async fn answer(&mut self, stream: u32) -> Answer {
        let mut answer = Answer::default();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self.next_by(deadline).await;
            let frame = frame.unwrap_or_else(|it| panic!("{it:?} before the answer's end"));
            match tells(&frame, stream) {
                Some(Outcome::Answered(status)) => answer.status = status,
                Some(other) => panic!("{other:?} where an answer was due"),
                None => {}
            }
            if frame.stream != stream {
                continue;
            }
            if frame.kind == kind::DATA {
                answer.body.extend_from_slice(&frame.payload);
                self.let_flow(&frame).await;
            }
            if frame.has(flag::END_STREAM) && matches!(frame.kind, kind::DATA | kind::HEADERS) {
                return answer;
            }
        }
    }

    /// Proves that the connection goes on: a ping comes back, after everything that was caused before it.
    pub async fn is_alive(&mut self) {
        self.say(&[Frame::ping(MARK)]).await;
        let pong = self.until(|it| {
            assert!(!is_final_word(it), "the connection must go on: {it:?}");
            it.kind == kind::PING && it.has(flag::ACK)
        });
        let pong = pong.await.expect("a ping is answered");
        assert_eq!(&pong.payload[..], MARK);
    }

    async fn let_flow(&mut self, data: &Frame) {
        let n = u32::try_from(data.payload.len()).expect("a frame's length fits");
        if n > 0 {
            let more = [
                Frame::window_update(0, n),
                Frame::window_update(data.stream, n),
            ];
            self.say(&more).await;
        }
    }

    async fn next_by(&mut self, deadline: Instant) -> Result<Frame, Outcome> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.heard) {
                if frame.kind == kind::WINDOW_UPDATE {
                    *self.granted.entry(frame.stream).or_default() += frame.number_at(0) as usize;
                }
                return Ok(frame);
            }
            let more = timeout_at(deadline, self.stream.read_buf(&mut self.heard)).await;
            match more {
                Err(_) => return Err(Outcome::Nothing),
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => return Err(Outcome::Closed),
            }
        }
    }
}

/// A socket that sends each frame at once.
pub async fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await;
    let stream = stream.expect("the balancer listens");
    stream
        .set_nodelay(true)
        .expect("a TCP socket has the option");
    stream
}

/// What a frame says about a stream's fate.
fn tells(frame: &Frame, stream: u32) -> Option<Outcome> {
    match frame.kind {
        kind::GOAWAY if is_final_word(frame) => {
            Some(Outcome::GoneAway(frame.number_at(4), frame.number_at(0)))
        }
        kind::RST_STREAM if frame.stream == stream => Some(Outcome::Reset(frame.number_at(0))),
        kind::HEADERS if frame.stream == stream => hpack::status(&frame.payload)
            .filter(|it| *it >= 200)
            .map(Outcome::Answered),
        _ => None,
    }
}

/// A GOAWAY without an error only asks to go elsewhere with the next stream.
fn is_final_word(frame: &Frame) -> bool {
    frame.kind == kind::GOAWAY && frame.number_at(4) != code::NO_ERROR
}
