//! One request and its answer over a connection of our own: to the control socket, or through the entry.

use std::io;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

/// An answer of a cluster with the most nodes is a hundredth of this.
const ANSWER_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

#[derive(Debug, Error)]
pub(crate) enum ExchangeError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("the connection ended before the answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("cannot read the answer: {0}")]
    Body(String),
}

/// Sends one request and reads the whole answer.
pub(crate) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, ExchangeError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection reports its errors to the exchange that waits on it.
    let driver = tokio::spawn(connection);
    let answer = read(&mut sender, request).await;
    driver.abort();
    answer
}

async fn read(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, ExchangeError> {
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await;
    let body = body
        .map_err(|error| ExchangeError::Body(error.to_string()))?
        .to_bytes();
    Ok(Answer { status, body })
}
