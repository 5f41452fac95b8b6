//! Asks an endpoint whether it answers: a TCP connection, an HTTP request, or the gRPC health service.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use thiserror::Error;

use crate::{
    config::{HttpProbe, Probe, ProbeKind},
    net,
    stream::Stream,
    tls::{Connector, Speak, TlsError},
};

/// An answer of the health service has seven bytes.
const GRPC_ANSWER_BYTES_MAX: usize = 1024;

/// The field `service` of a request and `status` of an answer: both have number 1, as bytes and as a number.
const GRPC_SERVICE_TAG: u8 = 0x0a;
const GRPC_STATUS_TAG: u8 = 0x08;
const GRPC_SERVING: u8 = 1;

#[derive(Debug, Error)]
pub(crate) enum ProbeError {
    #[error("connecting: {0}")]
    Connect(#[from] io::Error),
    #[error("shaking hands in TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("asking: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer was {0}")]
    Status(http::StatusCode),
    #[error("no answer in time")]
    Timeout,
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the gRPC status was {0}")]
    Grpc(String),
    #[error("the health service does not say that it serves")]
    NotServing,
}

/// Where the service is spoken to in TLS, its endpoints are asked in TLS as well, unless another port is asked: who listens there is not
/// one of the service's.
///
/// # Errors
/// When the endpoint does not answer as wanted within the policy's timeout.
pub(crate) async fn probe(
    address: SocketAddr,
    policy: &Probe,
    tls: Option<&Connector>,
) -> Result<(), ProbeError> {
    let at = SocketAddr::new(address.ip(), policy.port.unwrap_or(address.port()));
    let tls = tls.filter(|_| policy.port.is_none());
    let asked = async {
        let stream = connect(at, policy, tls).await?;
        match &policy.kind {
            // An endpoint that is not probed regularly is still asked when somebody could not reach it.
            ProbeKind::Tcp | ProbeKind::Off => Ok(()),
            ProbeKind::Http(wanted) => ask_http(stream, at, wanted).await,
            ProbeKind::Grpc { service } => ask_grpc(stream, at, service).await,
        }
    };
    tokio::time::timeout(policy.timeout, asked)
        .await
        .map_err(|_| ProbeError::Timeout)?
}

async fn connect(
    at: SocketAddr,
    policy: &Probe,
    tls: Option<&Connector>,
) -> Result<Stream, ProbeError> {
    let socket = net::connect(at, policy.timeout).await?;
    let speak = match policy.kind {
        ProbeKind::Tcp | ProbeKind::Off => Speak::Bytes,
        ProbeKind::Http(_) => Speak::Http1,
        ProbeKind::Grpc { .. } => Speak::Http2,
    };
    match tls {
        None => Ok(Stream::Plain(socket)),
        Some(tls) => Ok(Stream::ToNode(Box::new(
            tls.connect(socket, at.ip(), speak).await?,
        ))),
    }
}

async fn ask_http(stream: Stream, at: SocketAddr, wanted: &HttpProbe) -> Result<(), ProbeError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let host = wanted.host.clone().unwrap_or_else(|| at.to_string());
    let mut request = Request::get(&wanted.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "colonnade-probe")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    for (name, value) in &wanted.headers {
        request.headers_mut().insert(name, value.clone());
    }
    let answered = sender.send_request(request).await;
    driver.abort();
    let status = answered?.status();
    let is_well = wanted
        .statuses
        .iter()
        .any(|it| it.contains(status.as_u16()));
    match is_well {
        true => Ok(()),
        false => Err(ProbeError::Status(status)),
    }
}

/// `grpc.health.v1.Health/Check`, as the gRPC project's health checking protocol has it.
async fn ask_grpc(stream: Stream, at: SocketAddr, service: &str) -> Result<(), ProbeError> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let answered = check_health(&mut sender, at, service).await;
    driver.abort();
    answered
}

async fn check_health(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    at: SocketAddr,
    service: &str,
) -> Result<(), ProbeError> {
    let target = Uri::builder()
        .scheme("http")
        .authority(at.to_string())
        .path_and_query("/grpc.health.v1.Health/Check")
        .build()?;
    let request = Request::post(target)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "colonnade-probe")
        .body(Full::from(grpc_request(service)))?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(ProbeError::Status(response.status()));
    }
    check_grpc_status(response.headers())?;
    let body = Limited::new(response.into_body(), GRPC_ANSWER_BYTES_MAX);
    let collected = body.collect().await.map_err(|_| ProbeError::NotServing)?;
    if let Some(trailers) = collected.trailers() {
        check_grpc_status(trailers)?;
    }
    match is_serving(&collected.to_bytes()) {
        true => Ok(()),
        false => Err(ProbeError::NotServing),
    }
}

/// A status that stands in the head is that of a call that failed at once.
fn check_grpc_status(fields: &HeaderMap) -> Result<(), ProbeError> {
    match fields.get("grpc-status") {
        Some(status) if status != "0" => Err(ProbeError::Grpc(
            String::from_utf8_lossy(status.as_bytes()).into_owned(),
        )),
        _ => Ok(()),
    }
}

/// A message behind its five bytes of frame: not compressed, and so long. The name is short enough for its length to be one byte.
fn grpc_request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([GRPC_SERVICE_TAG, service.len() as u8]);
        message.extend(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed
}

fn is_serving(framed: &[u8]) -> bool {
    matches!(framed, [0, 0, 0, 0, 2, GRPC_STATUS_TAG, GRPC_SERVING])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_health_service_is_asked_in_its_own_words() {
        assert_eq!(grpc_request(""), [0, 0, 0, 0, 0]);
        assert_eq!(grpc_request("ab"), b"\0\0\0\0\x04\x0a\x02ab");
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for other in [&[][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 8, 2]] {
            assert!(!is_serving(other), "{other:?}");
        }
    }
}
