//! A client's connection, plain or in TLS, so that one kind of traffic serves both.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::EntryAddr;
use super::lane::Failure;
use super::tls::TlsLane;

/// Makes the connections of one lane.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) entry: EntryAddr,
    pub(super) tls: Option<TlsLane>,
}

/// Bytes both ways.
#[derive(Debug)]
pub(super) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

// === impl Dialer ===

impl Dialer {
    pub(super) async fn connect(&mut self) -> Result<Connection, Failure> {
        let stream = self.entry.connect().await?;
        let connection = match &mut self.tls {
            None => Connection::Plain(stream),
            Some(tls) => Connection::Tls(Box::new(tls.connect(stream).await?)),
        };
        Ok(connection)
    }

    pub(super) fn abandon(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.abandon();
        }
    }
}

// === impl Connection ===

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(it) => Pin::new(it).poll_read(cx, buf),
            Self::Tls(it) => Pin::new(it).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(it) => Pin::new(it).poll_write(cx, buf),
            Self::Tls(it) => Pin::new(it).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(it) => Pin::new(it).poll_flush(cx),
            Self::Tls(it) => Pin::new(it).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(it) => Pin::new(it).poll_shutdown(cx),
            Self::Tls(it) => Pin::new(it).poll_shutdown(cx),
        }
    }
}
