//! The next program's side of a takeover: asks for the running one's sockets, and says when it serves them.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{
    Inherited, InheritedDoor,
    wire::{self, DoorOffer, Message, WireError},
};

/// How long each word of the running program may take.
const WORD_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum TakeoverError {
    #[error("takeover: connecting to {path}: {cause}")]
    Connect { path: PathBuf, cause: io::Error },
    #[error("takeover: {0}")]
    Dialogue(String),
    #[error("takeover: not ready within {0:?}")]
    NotReady(Duration),
    #[error("takeover: the balancer is leaving")]
    Leaving,
    #[error("takeover: listening for the next one: {0}")]
    Listen(io::Error),
}

/// A takeover that has begun.
#[derive(Debug)]
pub struct Heir {
    pub(crate) inherited: Inherited,
    pub(crate) stream: HeirStream,
}

/// The line to the running program. Dropped, it tells that nothing comes of it.
#[derive(Debug)]
pub(crate) struct HeirStream(UnixStream);

impl Heir {
    /// Asks whoever runs for its sockets. None when nobody does.
    ///
    /// # Errors
    /// When somebody runs and nothing comes of it.
    pub fn ask(path: &Path) -> Result<Option<Self>, TakeoverError> {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        let mut stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(err) if matches!(err.kind(), ConnectionRefused | NotFound) => return Ok(None),
            Err(cause) => {
                let path = path.to_owned();
                return Err(TakeoverError::Connect { path, cause });
            }
        };
        let inherited = inherit(&mut stream)?;
        Ok(Some(Self {
            inherited,
            stream: HeirStream(stream),
        }))
    }
}

impl HeirStream {
    /// Says that this process serves these addresses, and waits until the other has let go of them. One that is gone already has.
    pub(crate) fn ready(mut self, serves: Vec<SocketAddr>) -> Result<(), TakeoverError> {
        // Whoever hung up may have said why before.
        let _ = wire::send(&mut self.0, &Message::Ready { serves });
        match wire::receive(&mut self.0) {
            Ok(Message::Going) => Ok(()),
            Err(WireError::Gone) => {
                tracing::warn!("the predecessor went away before it let go");
                Ok(())
            }
            Ok(Message::Refused { reason }) => Err(WireError::Refused(reason).into()),
            Ok(_) => Err(WireError::Unexpected.into()),
            Err(err) => Err(err.into()),
        }
    }
}

fn inherit(stream: &mut UnixStream) -> Result<Inherited, WireError> {
    stream.set_read_timeout(Some(WORD_WITHIN))?;
    stream.set_write_timeout(Some(WORD_WITHIN))?;
    wire::check_peer(stream)?;
    let version = wire::VERSION;
    wire::send(stream, &Message::Hello { version })?;
    let (doors, has_admin) = match wire::receive(stream)? {
        Message::Offer { doors, has_admin } => (doors, has_admin),
        Message::Refused { reason } => return Err(WireError::Refused(reason)),
        _ => return Err(WireError::Unexpected),
    };
    let n_sockets = doors.iter().fold(usize::from(has_admin), |n, it| {
        n.saturating_add(it.n_sockets)
    });
    let sockets = wire::receive_sockets(stream, n_sockets)?;
    let mut sockets = sockets.into_iter().map(TcpListener::from);
    let door = |offer: DoorOffer| InheritedDoor {
        name: offer.name,
        configured: offer.configured,
        sockets: sockets.by_ref().take(offer.n_sockets).collect(),
    };
    let mut doors: Vec<_> = doors.into_iter().map(door).collect();
    doors.retain(|it| !it.sockets.is_empty());
    let admin = if has_admin { sockets.next() } else { None };
    Ok(Inherited { doors, admin })
}

impl From<WireError> for TakeoverError {
    fn from(err: WireError) -> Self {
        Self::Dialogue(err.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elder_that_hangs_up_is_gone_unless_it_says_that_it_stays() {
        let check = |says: Option<Message>, is_succeeded: bool| {
            let (mut elder, heir) = UnixStream::pair().expect("a pair can be made");
            if let Some(says) = &says {
                wire::send(&mut elder, says).expect("it listens");
            }
            drop(elder);
            let said = HeirStream(heir).ready(Vec::new());
            assert_eq!(said.is_ok(), is_succeeded, "{says:?}: {said:?}");
        };
        let reason = "too late".to_owned();
        check(None, true);
        check(Some(Message::Going), true);
        check(Some(Message::Refused { reason }), false);
        check(Some(Message::Hello { version: 1 }), false);
    }
}
