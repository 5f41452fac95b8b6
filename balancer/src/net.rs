//! The one file of this program that opens sockets.

use std::{
    fs::Permissions,
    io,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel completes while every core is busy; past it clients retry their SYN.
const BACKLOG: i32 = 4096;

/// The same for the admin socket, where people come, and few.
const BACKLOG_OF_OPERATORS: i32 = 64;

/// Binds one listening socket per core to the same address; the kernel spreads connections over them.
///
/// Port 0 is resolved once, so that all sockets share the port that the kernel chose.
///
/// # Errors
/// When the address cannot be bound, above all because somebody else listens there.
pub(crate) fn listen(address: SocketAddr, cores: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // With SO_REUSEPORT a second program of the same user would quietly share the port; a first bind without it cannot.
    let claimed = if address.port() == 0 {
        None
    } else {
        Some(bind(address, false)?)
    };
    drop(claimed);
    let first = bind(address, true)?;
    let address = first
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("a listening TCP socket has an IP address"))?;
    let mut sockets = vec![first];
    for _ in 1..cores {
        sockets.push(bind(address, true)?);
    }
    sockets
        .into_iter()
        .map(|socket| {
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    if !shared {
        // Only listening tells whether another socket with SO_REUSEADDR listens there.
        socket.listen(1)?;
    }
    Ok(socket)
}

/// Deals sockets over cores. Where there are more sockets than cores a core gets several, where there are fewer cores share one:
/// sockets that were handed over are never closed, because connections may wait in them, and none is added, because connections
/// would be lost in it if this program died.
pub(crate) fn deal(
    sockets: Vec<std::net::TcpListener>,
    n_cores: usize,
) -> Vec<Vec<std::net::TcpListener>> {
    let mut by_core: Vec<Vec<_>> = (0..n_cores).map(|_| Vec::new()).collect();
    let shared: Vec<_> = (sockets.len()..n_cores)
        .filter_map(|core| {
            let socket = sockets[core % sockets.len()].try_clone();
            let failed = |err: &io::Error| tracing::warn!(core, %err, "sharing a socket");
            Some((core, socket.inspect_err(failed).ok()?))
        })
        .collect();
    let own = sockets.into_iter().enumerate();
    for (at, socket) in own.map(|(n, it)| (n % n_cores, it)).chain(shared) {
        by_core[at].push(socket);
    }
    by_core
}

/// Listens at a path of the file system, where whoever listened before is replaced; only this user may connect.
///
/// # Errors
/// When the socket cannot be put there.
pub(crate) fn listen_at_path(path: &Path) -> io::Result<UnixListener> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    std::fs::rename(&beside, path)?;
    Ok(listener)
}

/// Hands a listening socket to the runtime of the calling core.
///
/// # Errors
/// When the runtime cannot register it.
pub(crate) fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

/// Closes a listening socket, once everybody whom the kernel has let in is accepted.
///
/// The kernel itself is asked: the runtime may not have heard yet of those who wait.
pub(crate) fn accept_waiting(
    listener: TcpListener,
) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let listener = listener.into_std().ok();
    std::iter::from_fn(move || {
        let (stream, from) = listener.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, from))
    })
}

/// Connects within `timeout`, with Nagle's algorithm off: a proxy's writes are whole messages already.
///
/// # Errors
/// The operating system's, or `TimedOut`.
pub(crate) async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Makes the close of `stream` a reset, which tells a client of an unknown protocol that it was refused.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    // A socket that the client closed already cannot be told; nothing is lost then.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Binds a UNIX socket that nobody can connect to until [`listen_unix`].
///
/// # Errors
/// When its file cannot be made.
pub(crate) fn bind_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// # Errors
/// When the system cannot queue connections for it.
pub(crate) fn listen_unix(socket: Socket) -> io::Result<UnixListener> {
    socket.listen(BACKLOG_OF_OPERATORS)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_is_accepted_on_and_every_core_accepts() {
        let check = |n_sockets: usize, n_cores: usize, expected: &[&[usize]]| {
            let bind =
                |_| std::net::TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
            let sockets: Vec<_> = (0..n_sockets).map(bind).collect();
            let port = |it: &std::net::TcpListener| it.local_addr().expect("it is bound").port();
            let ports: Vec<_> = sockets.iter().map(port).collect();
            let place = |it| ports.iter().position(|port_of| *port_of == port(it));
            let dealt: Vec<Vec<_>> = deal(sockets, n_cores)
                .iter()
                .map(|own| own.iter().filter_map(place).collect())
                .collect();
            assert_eq!(dealt, expected, "{n_sockets} sockets, {n_cores} cores");
        };
        check(2, 2, &[&[0], &[1]]);
        check(3, 2, &[&[0, 2], &[1]]);
        check(2, 3, &[&[0], &[1], &[0]]);
        check(1, 3, &[&[0], &[0], &[0]]);
    }
}
