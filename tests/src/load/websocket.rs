//! WebSocket traffic (RFC 6455): a handshake on HTTP/1.1, then a binary frame goes out and must come back unchanged.
//!
//! It is made for an echo of bytes behind a proxy, so the frame that comes back is the one that went, mask included.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::EntryAddr;
use super::content::pattern;
use super::lane::{Answer, Failure, FailureKind, Lane, Outcome, Traffic};
use super::tcp;

/// The longest payload whose length stands in the first two bytes of a frame (section 5.2).
const PAYLOAD_MAX: usize = 125;
/// A whole message in one frame of bytes.
const FINAL_BINARY: u8 = 0x82;
/// Clients must mask (section 5.3); a mask of zeros leaves the payload as it is.
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0; 4];
/// More than any head that agrees to a WebSocket.
const HEAD_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;

/// The key of section 1.3, and what a server makes of it.
const HANDSHAKE: &[u8] =
    b"GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The value of `sec-websocket-accept` that agrees to the handshake of these clients.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Ping-pong over WebSockets.
#[derive(Debug)]
pub struct WebSocket {
    entry: EntryAddr,
    frame: Bytes,
}

/// One client.
#[derive(Debug)]
pub struct WebSocketLane {
    entry: EntryAddr,
    frame: Bytes,
    connection: Option<TcpStream>,
    echo: Vec<u8>,
}

// === impl WebSocket ===

impl WebSocket {
    /// Messages of `size` bytes, at most 125.
    pub fn new(entry: EntryAddr, size: usize) -> Self {
        assert!(size <= PAYLOAD_MAX, "a longer frame has a longer head");
        let length = u8::try_from(size).expect("125 fits");
        let head = [FINAL_BINARY, MASKED | length];
        let frame = [&head[..], &MASK, &pattern(size)].concat().into();
        Self { entry, frame }
    }
}

impl Traffic for WebSocket {
    type Lane = WebSocketLane;

    fn lane(&mut self, _: usize) -> WebSocketLane {
        WebSocketLane {
            entry: self.entry,
            frame: self.frame.clone(),
            connection: None,
            echo: vec![0; self.frame.len()],
        }
    }
}

// === impl WebSocketLane ===

impl Lane for WebSocketLane {
    async fn exchange(&mut self) -> Result<Answer<'_>, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => agreed(self.entry).await?,
        };
        tcp::echoed(&mut connection, &self.frame, &mut self.echo).await?;
        self.connection = Some(connection);
        Ok(Answer {
            outcome: Outcome::Echo,
            node: None,
            bytes: (self.frame.len() - MASK.len() - 2) as u64,
        })
    }

    fn abandon(&mut self) {
        self.connection = None;
    }
}

/// Connects and has the server agree to a WebSocket.
async fn agreed(entry: EntryAddr) -> Result<TcpStream, Failure> {
    let mut connection = entry.connect().await?;
    let written = connection.write_all(HANDSHAKE).await;
    written.map_err(|cause| Failure::broken(false, cause))?;
    let mut head = Vec::with_capacity(HEAD_MAX);
    while !agrees(&head)? {
        let read = connection.read_buf(&mut head).await;
        match read.map_err(|cause| Failure::broken(!head.is_empty(), cause))? {
            0 => return Err(Failure::broken(!head.is_empty(), "the connection ended")),
            _ if head.len() > HEAD_MAX => return Err(malformed("the head does not end")),
            _ => {}
        }
    }
    Ok(connection)
}

/// Whether the head is whole; it has to agree (section 4.1). The server of these clients speaks only when spoken to.
fn agrees(head: &[u8]) -> Result<bool, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(head).map_err(malformed)? else {
        return Ok(false);
    };
    let accept = response
        .headers
        .iter()
        .find(|it| it.name.eq_ignore_ascii_case("sec-websocket-accept"));
    if response.code != Some(101) || accept.is_none_or(|it| it.value != ACCEPT.as_bytes()) {
        return Err(malformed(format_args!(
            "no WebSocket but status {}",
            response.code.unwrap_or_default()
        )));
    }
    if length < head.len() {
        return Err(malformed("bytes came before they were asked for"));
    }
    Ok(true)
}

fn malformed(detail: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Malformed, detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::load::{Load, Plan, Report};

    #[tokio::test]
    async fn frames_come_back_over_one_connection() {
        let agrees = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        );
        let report = played(agrees).await;
        assert_eq!(
            (report.succeeded(), report.failures(), report.bytes()),
            (3, 0, 3 * 64)
        );
    }

    #[tokio::test]
    async fn a_server_that_does_not_agree_has_failed() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n",
        ] {
            let report = played(head.into()).await;
            assert_eq!(
                report.failures_by_kind().get(&FailureKind::Malformed),
                Some(&3),
                "{head}"
            );
        }
    }

    /// Three exchanges with a server that answers a handshake so and echoes what follows.
    async fn played(head: String) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback can be bound");
        let entry = EntryAddr(listener.local_addr().expect("it is bound"));
        let server = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut handshake = vec![0; HANDSHAKE.len()];
                // A client that is not content leaves; the next one comes.
                let _ = socket.read_exact(&mut handshake).await;
                let _ = socket.write_all(head.as_bytes()).await;
                let (mut reader, mut writer) = socket.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            }
        });
        let plan = Plan {
            exchanges_max: 3,
            ..Plan::closed(1, Duration::from_secs(60))
        };
        let load = Load::start(plan, WebSocket::new(entry, 64)).expect("a thread starts");
        let report = load.finish().await.expect("it ends");
        server.abort();
        report
    }
}
