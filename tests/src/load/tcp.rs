//! Raw TCP traffic: a message goes out and must come back, unchanged, over a connection that is kept.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::EntryAddr;
use super::content::pattern;
use super::lane::{Answer, Failure, FailureKind, Lane, Outcome, Traffic};

/// Ping-pong with a server that echoes.
#[derive(Debug)]
pub struct PingPong {
    entry: EntryAddr,
    message: Bytes,
}

/// One client of an echo.
#[derive(Debug)]
pub struct PingPongLane {
    entry: EntryAddr,
    message: Bytes,
    connection: Option<TcpStream>,
    echo: Vec<u8>,
}

// === impl PingPong ===

impl PingPong {
    /// Messages of `size` bytes.
    pub fn new(entry: EntryAddr, size: usize) -> Self {
        Self {
            entry,
            message: pattern(size),
        }
    }
}

impl Traffic for PingPong {
    type Lane = PingPongLane;

    fn lane(&mut self, _: usize) -> PingPongLane {
        let (message, echo) = (self.message.clone(), vec![0; self.message.len()]);
        PingPongLane {
            entry: self.entry,
            message,
            connection: None,
            echo,
        }
    }
}

// === impl PingPongLane ===

impl Lane for PingPongLane {
    async fn exchange(&mut self) -> Result<Answer<'_>, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.entry.connect().await?,
        };
        echoed(&mut connection, &self.message, &mut self.echo).await?;
        self.connection = Some(connection);
        Ok(Answer {
            outcome: Outcome::Echo,
            node: None,
            bytes: self.message.len() as u64,
        })
    }

    fn abandon(&mut self) {
        self.connection = None;
    }
}

/// Sends a message and has it come back; `echo` is as long as the message.
pub(super) async fn echoed(
    connection: &mut TcpStream,
    message: &[u8],
    echo: &mut [u8],
) -> Result<(), Failure> {
    let (mut reader, mut writer) = connection.split();
    // Both directions at once: a message larger than the buffers on the way would wait for its own echo.
    let (written, read) = tokio::join!(writer.write_all(message), read(&mut reader, echo));
    read?;
    written.map_err(|cause| Failure::broken(false, cause))?;
    if echo != message {
        return Err(Failure::new(FailureKind::WrongContent, "the echo differs"));
    }
    Ok(())
}

async fn read(reader: &mut (impl AsyncReadExt + Unpin), echo: &mut [u8]) -> Result<(), Failure> {
    let mut filled = 0;
    while filled < echo.len() {
        match reader.read(&mut echo[filled..]).await {
            Ok(0) => return Err(Failure::broken(filled > 0, "the connection ended")),
            Ok(length) => filled += length,
            Err(cause) => return Err(Failure::broken(filled > 0, cause)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::load::{Load, Plan, Report};

    #[tokio::test]
    async fn messages_larger_than_every_buffer_come_back() {
        let report = played(4 << 20, usize::MAX, 0).await;
        assert_eq!((report.succeeded(), report.bytes()), (2, 8 << 20));
    }

    #[tokio::test]
    async fn a_cut_and_a_changed_echo_are_told_apart() {
        let kinds = |report: Report| {
            report
                .failures_by_kind()
                .keys()
                .copied()
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(played(64, 0, 0).await), [FailureKind::Reset]);
        assert_eq!(kinds(played(64, 10, 0).await), [FailureKind::Truncated]);
        assert_eq!(
            kinds(played(64, usize::MAX, 1).await),
            [FailureKind::WrongContent]
        );
    }

    /// Two exchanges with a server that echoes up to `limit` bytes, each changed by `change`.
    async fn played(size: usize, limit: usize, change: u8) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback can be bound");
        let entry = EntryAddr(
            listener
                .local_addr()
                .expect("a bound socket has an address"),
        );
        let server = tokio::spawn(echo(listener, limit, change));
        let plan = Plan {
            exchanges_max: 2,
            ..Plan::closed(1, Duration::from_secs(60))
        };
        let load = Load::start(plan, PingPong::new(entry, size)).expect("a thread starts");
        let report = load.finish().await.expect("it ends");
        server.abort();
        report
    }

    async fn echo(listener: TcpListener, limit: usize, change: u8) {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut left = limit;
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = connection.read(&mut buffer).await {
                let sent = length.min(left);
                buffer[..sent].iter_mut().for_each(|it| *it ^= change);
                if connection.write_all(&buffer[..sent]).await.is_err() || sent < length {
                    break;
                }
                left -= sent;
            }
        }
    }
}
