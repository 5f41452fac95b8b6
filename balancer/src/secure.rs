//! The beginning of a connection where TLS is ended or passed on: its first bytes say which.
//!
//! Whoever asks for a name of `[[listener.sni]]` goes to its service untouched; what is left is decrypted, and served like any other
//! connection from there on.

use std::{io, sync::Arc};

use balancer_core::{
    client_hello::{self, Hello},
    preface::{self, Preface},
};
use bytes::BytesMut;
use thiserror::Error;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    accept::{self, ClientConnection, Listener},
    detect,
    forward::tcp,
    rescue,
    stream::{Replayed, Stream},
    tls::{PassThrough, Terminator, TlsError},
};

/// Room for the first bytes: the whole hello of most clients.
const FIRST_READ: usize = 2048;

/// What becomes of a connection whose beginning is known; the bytes were read from it already.
enum Begun {
    Here(Stream, BytesMut),
    /// To the service in this place, as it is.
    Through(TcpStream, BytesMut, usize),
}

/// Why a connection goes no further. Its client has been told, as far as there is a word for it.
#[derive(Debug, Error)]
enum NotBegun {
    #[error("reading the first bytes: {0}")]
    Read(#[from] io::Error),
    #[error("the first bytes did not come in time")]
    Slow,
    #[error("the balancer leaves, and the client has not said hello yet")]
    Leaving,
    #[error("the hello is too large, or not every server would read it in the same way")]
    BadHello,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What the first bytes are.
enum Opening {
    /// The hello of somebody who asks for this service's name.
    Passed(usize),
    Tls,
    BadHello,
    Http,
    Other,
}

/// Decides by the first bytes, then serves the connection until it ends.
pub(crate) async fn begin_and_serve(mut client: ClientConnection, socket: TcpStream) {
    // Boxed, because it is over long before the connection is.
    let begun = Box::pin(begin(&mut client, socket)).await;
    let client = Arc::new(client);
    match begun {
        Ok(Begun::Here(stream, first)) => accept::serve(client, stream, first).await,
        Ok(Begun::Through(socket, first, service)) => {
            let stream = Stream::Plain(socket);
            Box::pin(tcp::forward(client, stream, first.freeze(), service)).await;
        }
        Err(err) => tracing::debug!(client = %client.address(), %err, "a connection did not begin"),
    }
}

async fn begin(client: &mut ClientConnection, socket: TcpStream) -> Result<Begun, NotBegun> {
    let listener = client.listener().clone();
    let stop = client.worker().stop.clone();
    let begun = async {
        match &listener.terminator {
            Some(terminator) => end_or_pass(client, terminator, socket).await,
            None => pass(&listener, socket).await,
        }
    };
    tokio::select! {
        begun = begun => begun,
        () = detect::out_of_time(&stop) => Err(NotBegun::Leaving),
    }
}

/// Where TLS is not ended, only names are looked for.
async fn pass(listener: &Listener, mut socket: TcpStream) -> Result<Begun, NotBegun> {
    let deadline = Instant::now() + listener.policy.detect_timeout;
    let mut first = BytesMut::new();
    let reading = read_opening(&mut socket, &mut first, &listener.pass_through);
    match (timeout_at(deadline, reading).await, listener.policy.service) {
        (Ok(Ok(Opening::Passed(service))), _) => Ok(Begun::Through(socket, first, service)),
        (Ok(Ok(Opening::BadHello)), _) => refuse_hello(listener, socket).await,
        (Ok(Ok(_)), _) => Ok(Begun::Here(Stream::Plain(socket), first)),
        (Ok(Err(err)), _) => Err(err.into()),
        // A client that waits for the other side to speak first asks for no name.
        (Err(_), Some(service)) => Ok(Begun::Through(socket, first, service)),
        (Err(_), None) => Err(NotBegun::Slow),
    }
}

async fn end_or_pass(
    client: &mut ClientConnection,
    terminator: &Terminator,
    mut socket: TcpStream,
) -> Result<Begun, NotBegun> {
    let deadline = terminator.deadline();
    let listener = client.listener().clone();
    let mut first = BytesMut::new();
    let reading = read_opening(&mut socket, &mut first, &listener.pass_through);
    let opening = match timeout_at(deadline, reading).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(err)) => return Err(terminator.refused(TlsError::Io(err)).into()),
        Err(_) => return Err(terminator.refused(TlsError::Timeout).into()),
    };
    match opening {
        Opening::Passed(service) => Ok(Begun::Through(socket, first, service)),
        Opening::BadHello => refuse_hello(&listener, socket).await,
        Opening::Http => {
            rescue::refuse_clear(Stream::Plain(socket)).await;
            Err(terminator.refused(TlsError::PlainHttp).into())
        }
        // What is no TLS either is told so by the handshake.
        Opening::Tls | Opening::Other => {
            let replayed = Replayed::new(first.freeze(), socket);
            let handshaken = terminator.accept(replayed, deadline).await?;
            client.is_secured(handshaken.facts);
            let stream = Stream::FromClient(Box::new(handshaken.stream));
            Ok(Begun::Here(stream, BytesMut::new()))
        }
    }
}

async fn refuse_hello(listener: &Listener, socket: TcpStream) -> Result<Begun, NotBegun> {
    listener.metrics.preface_refused.increment(1);
    rescue::refuse_tls(Stream::Plain(socket)).await;
    Err(NotBegun::BadHello)
}

async fn read_opening(
    socket: &mut TcpStream,
    first: &mut BytesMut,
    names: &PassThrough,
) -> io::Result<Opening> {
    loop {
        // A client that says nothing takes no buffer.
        socket.readable().await?;
        first.reserve(FIRST_READ);
        if socket.read_buf(first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(opening) = opening(first, names) {
            return Ok(opening);
        }
    }
}

/// None while the bytes are too few to tell.
fn opening(first: &[u8], names: &PassThrough) -> Option<Opening> {
    if names.is_empty() {
        // Which name is asked for is then read in the handshake alone.
        return by_preface(first);
    }
    match client_hello::read(first) {
        Hello::NeedMore => None,
        Hello::NotTls => by_preface(first),
        Hello::Malformed | Hello::TooLarge => Some(Opening::BadHello),
        Hello::Asks(name) => {
            let service = name.and_then(|it| names.service(&it));
            Some(service.map_or(Opening::Tls, Opening::Passed))
        }
    }
}

fn by_preface(first: &[u8]) -> Option<Opening> {
    match preface::read(first) {
        Preface::Tls => Some(Opening::Tls),
        Preface::Http1 | Preface::Http2 => Some(Opening::Http),
        Preface::Opaque => Some(Opening::Other),
        Preface::Undecided => None,
    }
}
