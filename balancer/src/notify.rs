//! Tells a service manager how far the program is, where `NOTIFY_SOCKET` names one (systemd's protocol: one datagram of `KEY=value`
//! lines). Without one nothing is said, and nobody waits for an answer.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use rustix::time::{ClockId, clock_gettime};

/// Ready for clients, or ready again; this process is the main one.
pub fn ready() {
    tell(&format!("READY=1\nMAINPID={}", std::process::id()));
}

pub(crate) fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let now_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
}

pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    if let Err(err) = try_tell(state) {
        tracing::warn!(%err, "telling the service manager");
    }
}

fn try_tell(state: &str) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up a core.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}
