//! What does this client speak? Read as few bytes as it takes to know, and keep them for whoever serves it.

use std::{future::poll_fn, io};

use balancer_core::preface::{self, Preface};
use bytes::BytesMut;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::{
    accept::ClientConnection, config::ListenerProtocol, lifeline::HEAD_WHILE_DRAINING,
    stream::Stream, tls::Agreed,
};

/// Room for the first bytes: most requests' whole head, so that the next reader parses it without another system call.
const FIRST_READ: usize = 2048;

/// A protocol and the bytes that gave it away.
#[derive(Debug)]
pub(crate) enum Spoken {
    Http1(BytesMut),
    Http2(BytesMut),
    Tls(BytesMut),
    Opaque(BytesMut),
}

#[derive(Debug, Error)]
pub(crate) enum DetectError {
    #[error("the client said nothing recognisable in time")]
    Slow,
    #[error("the balancer leaves, and the client has said nothing yet")]
    Leaving,
    #[error("the client closed the connection before it said what it speaks")]
    Closed,
    #[error("reading the first bytes: {0}")]
    Read(#[from] io::Error),
}

/// A client that waits for the other side to speak first is opaque, where the listener has a service for such.
///
/// # Errors
/// When the client closes, fails or dawdles before it has said what it speaks.
pub(crate) async fn detect(
    client: &ClientConnection,
    stream: &mut Stream,
    mut first: BytesMut,
) -> Result<Spoken, DetectError> {
    // What was agreed on in TLS is spoken.
    match client.tls().map(|it| &it.agreed) {
        Some(Agreed::Http1) => return Ok(Spoken::Http1(first)),
        Some(Agreed::Http2) => return Ok(Spoken::Http2(first)),
        Some(Agreed::Nothing | Agreed::Other(_)) | None => {}
    }
    let policy = &client.listener().policy;
    let is_http = policy.protocol == ListenerProtocol::Http;
    let timeout = if is_http {
        policy.request_head_timeout
    } else {
        policy.detect_timeout
    };
    let read = tokio::time::timeout(timeout, read_preface(stream, &mut first));
    let read = tokio::select! {
        read = read => read,
        () = out_of_time(&client.worker().stop) => return Err(DetectError::Leaving),
    };
    match read {
        Ok(spoken) => Ok(spoken?(first)),
        Err(_) if policy.service.is_some() => Ok(Spoken::Opaque(first)),
        Err(_) => Err(DetectError::Slow),
    }
}

/// Once the balancer leaves, a request that is on its way still gets through.
pub(crate) async fn out_of_time(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(HEAD_WHILE_DRAINING).await;
}

async fn read_preface(
    stream: &mut Stream,
    first: &mut BytesMut,
) -> Result<fn(BytesMut) -> Spoken, DetectError> {
    loop {
        match preface::read(first) {
            Preface::Http1 => return Ok(Spoken::Http1),
            Preface::Http2 => return Ok(Spoken::Http2),
            Preface::Tls => return Ok(Spoken::Tls),
            Preface::Opaque => return Ok(Spoken::Opaque),
            Preface::Undecided => {}
        }
        // A client that says nothing takes no buffer.
        poll_fn(|cx| stream.poll_readable(cx)).await?;
        first.reserve(FIRST_READ);
        if stream.read_buf(first).await? == 0 {
            return Err(DetectError::Closed);
        }
    }
}
