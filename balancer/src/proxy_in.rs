//! Reads the PROXY header in front of a connection, from those peers that are believed.
//!
//! It only looks at the bytes until a whole header is there, and takes exactly that out of the socket: whoever reads next finds the
//! client's first byte, and nothing has to be handed along.

use std::{io, net::IpAddr, time::Duration};

use balancer_core::proxy_header::{self, BadHeader, Parsed, ProxyHeader, V2_LEN_MAX};
use rustix::net::RecvFlags;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, Interest},
    net::TcpStream,
};

use crate::config::{ProxyIn, ProxyMode};

/// Why a connection is not served because of its header, or for want of one.
#[derive(Debug, Error)]
pub(crate) enum ProxyError {
    #[error("the peer is not trusted to say whose connection this is")]
    Untrusted,
    #[error(transparent)]
    Bad(#[from] BadHeader),
    #[error("no PROXY header came first")]
    Missing,
    #[error("the PROXY header was not whole in time")]
    Slow,
    #[error("the peer closed the connection within the PROXY header")]
    Closed,
    #[error("reading the PROXY header: {0}")]
    Read(#[from] io::Error),
}

/// What was found at the beginning so far.
enum Beginning {
    Nothing,
    Part,
    Header(Box<ProxyHeader>, usize),
    Other,
}

/// Whether the peer may connect at all; no byte needs to be read for that.
pub(crate) fn may_connect(policy: &ProxyIn, peer: IpAddr) -> bool {
    policy.mode != ProxyMode::Require || policy.trusted.contains(peer)
}

/// The header, if there is one; the socket's next byte is the client's.
///
/// # Errors
/// When a header is broken, late, forbidden or missing.
pub(crate) async fn read(
    stream: &mut TcpStream,
    policy: &ProxyIn,
    peer: IpAddr,
    timeout: Duration,
) -> Result<Option<ProxyHeader>, ProxyError> {
    let mut begins_as_header = false;
    let looked = tokio::time::timeout(timeout, look(stream, &mut begins_as_header)).await;
    let is_accepting = policy.mode == ProxyMode::Accept;
    match looked {
        Ok(Ok(Beginning::Header(header, len))) if policy.trusted.contains(peer) => {
            take(stream, len).await?;
            Ok(Some(*header))
        }
        Ok(Ok(Beginning::Header(..))) => Err(ProxyError::Untrusted),
        Ok(Ok(_)) if is_accepting => Ok(None),
        Ok(Ok(_)) => Err(ProxyError::Missing),
        Ok(Err(err)) => Err(err),
        // A client that waits for the server to speak first has said nothing that could be a header.
        Err(_) if is_accepting && !begins_as_header => Ok(None),
        Err(_) => Err(ProxyError::Slow),
    }
}

/// Looks until it is clear what the beginning is.
async fn look(stream: &TcpStream, begins_as_header: &mut bool) -> Result<Beginning, ProxyError> {
    let mut seen = 0;
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        match stream.try_io(Interest::READABLE, || peek_more(stream, seen)) {
            Ok((n, beginning)) => {
                seen = n;
                match beginning? {
                    Beginning::Nothing => return Err(ProxyError::Closed),
                    Beginning::Part => *begins_as_header = true,
                    known => return Ok(known),
                }
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                // Nothing more will come, and readiness would say so for ever.
                if ready.is_read_closed() {
                    return Err(ProxyError::Closed);
                }
            }
            Err(err) => return Err(err.into()),
        }
    }
}

/// Looks at the bytes that wait in the socket. No more of them than before is the same as none: so the next wait is for new ones.
fn peek_more(stream: &TcpStream, seen: usize) -> io::Result<(usize, Result<Beginning, BadHeader>)> {
    let mut bytes = [0; V2_LEN_MAX];
    let (_, n) = rustix::net::recv(stream, &mut bytes[..], RecvFlags::PEEK)?;
    if n > 0 && n <= seen {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok((n, beginning(&bytes[..n])))
}

fn beginning(bytes: &[u8]) -> Result<Beginning, BadHeader> {
    match proxy_header::parse(bytes) {
        _ if bytes.is_empty() => Ok(Beginning::Nothing),
        Parsed::NeedMore => Ok(Beginning::Part),
        Parsed::NotProxy => Ok(Beginning::Other),
        Parsed::Header { header, len } => Ok(Beginning::Header(header, len)),
        Parsed::Bad(bad) => Err(bad),
    }
}

async fn take(stream: &mut TcpStream, len: usize) -> io::Result<()> {
    let mut header = vec![0; len];
    stream.read_exact(&mut header).await?;
    Ok(())
}
