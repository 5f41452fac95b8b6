//! Asks an endpoint whether it answers: a TCP connection, or an HTTP request that wants a 2xx or 3xx.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use thiserror::Error;

use crate::{config::ProbeKind, net};

#[derive(Debug, Error)]
pub(crate) enum ProbeError {
    #[error("connecting: {0}")]
    Connect(#[from] io::Error),
    #[error("asking: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer was {0}")]
    Status(http::StatusCode),
    #[error("no answer in time")]
    Timeout,
    #[error("the probe's path is not a request target: {0}")]
    Path(#[from] http::Error),
}

/// # Errors
/// When the endpoint does not answer as wanted within `timeout`.
pub(crate) async fn probe(
    address: SocketAddr,
    kind: &ProbeKind,
    timeout: Duration,
) -> Result<(), ProbeError> {
    let asked = async {
        match kind {
            // An endpoint that is not probed regularly is still asked when somebody could not reach it.
            ProbeKind::Tcp | ProbeKind::Off => {
                net::connect(address, timeout).await?;
                Ok(())
            }
            ProbeKind::Http { path } => ask(address, path, timeout).await,
        }
    };
    tokio::time::timeout(timeout, asked)
        .await
        .map_err(|_| ProbeError::Timeout)?
}

async fn ask(address: SocketAddr, path: &str, timeout: Duration) -> Result<(), ProbeError> {
    let stream = net::connect(address, timeout).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "colonnade-probe")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answered = sender.send_request(request).await;
    driver.abort();
    let status = answered?.status();
    let is_well = status.is_success() || status.is_redirection();
    if is_well {
        Ok(())
    } else {
        Err(ProbeError::Status(status))
    }
}
