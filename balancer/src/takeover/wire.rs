//! What two processes say to each other when one takes over from the other: bounded messages, and sockets beside them.
//!
//! A message is its length in four bytes, big-endian, and JSON. Sockets follow an offer in messages of one byte each, as many to a
//! message as the kernel passes on.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt::socket_peercred,
    },
    process::geteuid,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Both sides must speak the same: what a later version changes is said by another number.
pub(super) const VERSION: u32 = 1;

/// The longest message; 256 listeners need a tenth of it.
const MESSAGE_BYTES_MAX: usize = 1 << 18;

/// Sockets that may be handed over: 256 listeners on 1,024 cores and the admin address.
const SOCKETS_MAX: usize = (256 << 10) + 1;

/// The kernel passes on 253 at most.
const SOCKETS_PER_MESSAGE: usize = 128;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "lowercase")]
pub(super) enum Message {
    Hello {
        version: u32,
    },
    Offer {
        doors: Vec<DoorOffer>,
        has_admin: bool,
    },
    Refused {
        reason: String,
    },
    Ready {
        serves: Vec<SocketAddr>,
    },
    Going,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DoorOffer {
    pub(super) name: String,
    pub(super) configured: SocketAddr,
    pub(super) bound: SocketAddr,
    pub(super) n_sockets: usize,
}

#[derive(Debug, Error)]
pub(crate) enum WireError {
    #[error("the other process: {0}")]
    Socket(#[from] io::Error),
    #[error("the other process went away")]
    Gone,
    #[error("the other process took too long")]
    TooSlow,
    #[error("the other process belongs to user {0}")]
    Stranger(u32),
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("a message cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("{0} sockets are too many")]
    TooMany(usize),
    #[error("a socket is missing")]
    NoSocket,
    #[error("the other process said something else than was expected")]
    Unexpected,
    #[error("the other process speaks version {0} of the protocol, this one {VERSION}")]
    Version(u32),
    #[error("the other process refuses: {0}")]
    Refused(String),
}

/// Whoever may become this user, or is it already, is trusted with its sockets.
pub(super) fn check_peer(stream: &UnixStream) -> Result<(), WireError> {
    let user = socket_peercred(stream).map_err(io::Error::from)?.uid;
    match user.is_root() || user == geteuid() {
        true => Ok(()),
        false => Err(WireError::Stranger(user.as_raw())),
    }
}

pub(super) fn send(stream: &mut UnixStream, message: &Message) -> Result<(), WireError> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong(text.len()));
    }
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text);
    stream.write_all(&bytes).map_err(sort)
}

/// Waits as long as the stream's read timeout allows.
pub(super) fn receive(stream: &mut UnixStream) -> Result<Message, WireError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(sort)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).map_err(sort)?;
    Ok(serde_json::from_slice(&text)?)
}

pub(super) fn send_sockets(
    stream: &UnixStream,
    sockets: &[BorrowedFd<'_>],
) -> Result<(), WireError> {
    for some in sockets.chunks(SOCKETS_PER_MESSAGE) {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !beside.push(SendAncillaryMessage::ScmRights(some)) {
            return Err(WireError::TooMany(some.len()));
        }
        sendmsg(
            stream,
            &[IoSlice::new(&[0])],
            &mut beside,
            SendFlags::NOSIGNAL,
        )
        .map_err(|err| sort(err.into()))?;
    }
    Ok(())
}

pub(super) fn receive_sockets(
    stream: &UnixStream,
    n_sockets: usize,
) -> Result<Vec<OwnedFd>, WireError> {
    if n_sockets > SOCKETS_MAX {
        return Err(WireError::TooMany(n_sockets));
    }
    let mut sockets = Vec::new();
    while sockets.len() < n_sockets {
        let before = sockets.len();
        receive_some(stream, &mut sockets)?;
        if sockets.len() == before {
            return Err(WireError::NoSocket);
        }
    }
    Ok(sockets)
}

fn receive_some(stream: &UnixStream, sockets: &mut Vec<OwnedFd>) -> Result<(), WireError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(|err| sort(err.into()))?;
    if received.bytes == 0 {
        return Err(WireError::Gone);
    }
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            sockets.extend(some);
        }
    }
    Ok(())
}

/// What a failure means here: an end, a timeout, or something else.
fn sort(err: io::Error) -> WireError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
    match err.kind() {
        UnexpectedEof | BrokenPipe | ConnectionReset => WireError::Gone,
        WouldBlock | TimedOut => WireError::TooSlow,
        _ => WireError::Socket(err),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsFd};

    use super::*;

    #[test]
    fn sockets_arrive_in_their_order_however_many_there_are() {
        let (mut elder, mut heir) = UnixStream::pair().expect("a pair can be made");
        let sockets: Vec<_> = (0..2)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback can be bound"))
            .collect();
        let many: Vec<_> = (0..300).map(|n| sockets[n % 2].as_fd()).collect();
        send(&mut elder, &Message::Going).expect("it listens");
        send_sockets(&elder, &many).expect("it listens");
        assert!(matches!(receive(&mut heir), Ok(Message::Going)));
        let received = receive_sockets(&heir, 300).expect("they were sent");
        let port = |it: &TcpListener| it.local_addr().expect("it is bound").port();
        for (n, socket) in received.into_iter().enumerate() {
            assert_eq!(port(&socket.into()), port(&sockets[n % 2]));
        }
    }

    #[test]
    fn what_is_no_message_is_an_error_and_costs_nothing() {
        let check = |bytes: &[u8], expected: &str| {
            let (mut elder, mut heir) = UnixStream::pair().expect("a pair can be made");
            elder.write_all(bytes).expect("it listens");
            drop(elder);
            let err = receive(&mut heir).expect_err("it is none");
            assert!(err.to_string().starts_with(expected), "{err}");
        };
        check(b"", "the other process went away");
        check(b"\0\0\0\x09{}", "the other process went away");
        check(
            b"\xff\xff\xff\xff{}",
            "a message of 4294967295 bytes is too long",
        );
        check(b"\0\0\0\x02{}", "a message cannot be read");
        check(
            b"\0\0\0\x11{\"say\":\"goodbye\"}",
            "a message cannot be read",
        );
    }

    #[test]
    fn sockets_that_are_not_there_are_missed() {
        let (mut elder, heir) = UnixStream::pair().expect("a pair can be made");
        elder.write_all(b"x").expect("it listens");
        assert!(matches!(
            receive_sockets(&heir, 1),
            Err(WireError::NoSocket)
        ));
        drop(elder);
        assert!(matches!(receive_sockets(&heir, 1), Err(WireError::Gone)));
        assert!(matches!(
            receive_sockets(&heir, usize::MAX),
            Err(WireError::TooMany(_))
        ));
    }
}
