//! Opens this program's sockets: the one file to change where connections are not TCP, as in a simulation.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpStream};

/// A socket that waits for connections.
pub(crate) struct Listener(TcpListener);

/// The address of whoever connected, which may be a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddr(pub(crate) SocketAddr);

impl Listener {
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self(listener))
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers are written at once: they are whole when they are written.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, PeerAddr)> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, PeerAddr(peer)))
    }
}
