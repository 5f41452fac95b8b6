//! Reads the first bytes of a connection: a PROXY header where one is due, then enough to tell HTTP/2 from HTTP/1.1.

use std::io;

use bytes::{Bytes, BytesMut};
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::net::PeerAddr;

/// What a client with prior knowledge of HTTP/2 begins with (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest PROXY header in bytes. One with addresses takes at most 232; the rest is for what clouds add to it.
const PROXY_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection of which is known who speaks and what.
pub(super) struct Opened {
    pub(super) stream: TcpStream,
    /// What was read and is not yet consumed.
    pub(super) bytes: Bytes,
    pub(super) peer: PeerAddr,
    pub(super) protocol: Protocol,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("the peer closed before it said anything")]
    Closed,
    #[error("the proxy header is missing or wrong")]
    Proxy,
    #[error("reading failed: {0}")]
    Read(#[from] io::Error),
}

/// A proxied connection must begin with a PROXY header: guessing would let a client forge one (PROXY protocol §5).
pub(super) async fn open(
    stream: TcpStream,
    peer: PeerAddr,
    is_proxied: bool,
) -> Result<Opened, OpenError> {
    let mut opening = Opening {
        stream,
        bytes: BytesMut::with_capacity(1024),
    };
    let peer = match is_proxied {
        true => opening.proxy_header().await?.unwrap_or(peer),
        false => peer,
    };
    let protocol = opening.protocol().await?;
    Ok(Opened {
        stream: opening.stream,
        bytes: opening.bytes.freeze(),
        peer,
        protocol,
    })
}

struct Opening {
    stream: TcpStream,
    bytes: BytesMut,
}

impl Opening {
    /// Who the proxy speaks for; none when it speaks for itself, as to probe us.
    async fn proxy_header(&mut self) -> Result<Option<PeerAddr>, OpenError> {
        loop {
            if !self.bytes.is_empty() {
                match ProxyHeader::parse(&self.bytes, ParseConfig::default()) {
                    Ok((header, len)) => {
                        let peer = header.proxied_address().map(|it| PeerAddr(it.source));
                        let _ = self.bytes.split_to(len);
                        return Ok(peer);
                    }
                    Err(proxy_header::Error::BufferTooShort)
                        if self.bytes.len() < PROXY_BYTES_MAX => {}
                    Err(_) => return Err(OpenError::Proxy),
                }
            }
            self.read_more().await?;
        }
    }

    async fn protocol(&mut self) -> Result<Protocol, OpenError> {
        loop {
            if self.bytes.starts_with(HTTP2_PREFACE) {
                return Ok(Protocol::Http2);
            }
            if !HTTP2_PREFACE.starts_with(&self.bytes) {
                return Ok(Protocol::Http1);
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<(), OpenError> {
        match self.stream.read_buf(&mut self.bytes).await? {
            0 => Err(OpenError::Closed),
            _ => Ok(()),
        }
    }
}
