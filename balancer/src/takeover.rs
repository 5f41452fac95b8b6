//! Hands the listening sockets from the running program to the next one, so that no client is ever refused in between.
//!
//! Both processes hold the same sockets for a while, and both accept. The running one, the elder, goes on as it was until the next,
//! the heir, says that it is ready; if the heir dies or dawdles, nothing has happened. The dialogue, over a UNIX socket:
//!
//! ```text
//! heir  → elder   hello          which protocol it speaks
//! elder → heir    offer          names and addresses of the listeners, then their sockets and the admin address's
//! heir  → elder   ready          which of them it serves; it accepts already
//! elder → heir    going          from here on the record in the registry and the snapshot are the heir's
//! ```
//!
//! Connections are not handed over: those that the elder has accepted end with it, politely.

mod elder;
mod heir;
mod wire;

use std::net::{SocketAddr, TcpListener};

pub(crate) use elder::Elder;
pub(crate) use heir::HeirStream;
pub use heir::{Heir, TakeoverError};

use crate::config;

/// Sockets that another process bound.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) doors: Vec<InheritedDoor>,
    pub(crate) admin: Option<TcpListener>,
}

#[derive(Debug)]
pub(crate) struct InheritedDoor {
    pub(crate) name: String,
    pub(crate) configured: SocketAddr,
    /// At least one.
    pub(crate) sockets: Vec<TcpListener>,
}

impl Inherited {
    /// The sockets of this listener, if they are here. One whose port the system chose is known by its name.
    pub(crate) fn take(&mut self, listener: &config::Listener) -> Option<Vec<TcpListener>> {
        let is_same = |it: &InheritedDoor| {
            it.configured == listener.address
                && (listener.address.port() != 0 || it.name == listener.name.as_str())
        };
        let at = self.doors.iter().position(is_same)?;
        Some(self.doors.swap_remove(at).sockets)
    }
}
