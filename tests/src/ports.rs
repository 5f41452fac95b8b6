//! Hands out loopback ports that no other test, in this process or another, is given at the same time.
//!
//! A port is leased: an abstract unix socket named after it is the lock, so a lease ends with the process that holds
//! it, however that process ends. Ports lie below the range from which the kernel takes outgoing connections,
//! so that a load generator cannot take the port of a server that is being restarted.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as LockName, UnixListener};

/// The lowest port given out; below it live the well-known servers of a developer's machine.
const PORT_MIN: u16 = 10_240;
/// What the kernel uses when it does not tell where its outgoing ports begin.
const OUTGOING_PORT_MIN: u16 = 32_768;
/// How many ports are tried before giving up; more than every test of a busy machine holds.
const TRIES_MAX: usize = 4_096;

/// A loopback port that is ours until this value is dropped.
#[derive(Debug)]
#[must_use = "the port is given to somebody else as soon as the lease is dropped"]
pub struct PortLease {
    port: u16,
    _lock: UnixListener,
}

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
#[error("no free loopback port among {TRIES_MAX} tried")]
pub struct NoFreePort;

/// Leases a port on which nothing listens.
pub fn free() -> Result<PortLease, NoFreePort> {
    let ports = PORT_MIN..outgoing_port_min();
    (0..TRIES_MAX)
        .find_map(|_| lease(fastrand::u16(ports.clone())).ok())
        .ok_or(NoFreePort)
}

impl PortLease {
    /// The port's number.
    pub fn number(&self) -> u16 {
        self.port
    }

    /// The port on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

fn lease(port: u16) -> io::Result<PortLease> {
    let name = LockName::from_abstract_name(format!("colonnade-test-port-{port}"))?;
    let lock = UnixListener::bind_addr(&name)?;
    // The lock keeps other leases away; the bind tells of servers that know nothing of leases.
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    Ok(PortLease { port, _lock: lock })
}

fn outgoing_port_min() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let low = range
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    low.filter(|it| *it > PORT_MIN).unwrap_or(OUTGOING_PORT_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leased_port_is_not_leased_twice() {
        let first = free().expect("a port is free");
        assert!(
            lease(first.number()).is_err(),
            "the lock must refuse a second lease"
        );
    }

    #[test]
    fn a_port_comes_back_when_its_lease_ends() {
        let first = free().expect("a port is free");
        let port = first.number();
        drop(first);
        assert!(lease(port).is_ok());
    }

    #[test]
    fn a_port_with_a_server_on_it_is_not_leased() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback can be bound");
        let port = server
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        assert!(lease(port).is_err());
    }
}
