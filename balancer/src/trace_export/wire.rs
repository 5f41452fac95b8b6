//! Hands one message to a collector, in gRPC or in a POST, and says whether another try may help.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message;
use thiserror::Error;
use tokio::net::TcpStream;
use tonic::{Code, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::otlp::{ExportRequest, ExportResponse};
use crate::config::{Endpoint, Protocol, TracingConfig};

/// The one method of the trace service.
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What a collector may say about a message.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The way to a collector. It connects when there is something to send.
pub(super) struct Wire {
    protocol: Option<Grpc<Channel>>,
    endpoint: Endpoint,
    timeout: Duration,
}

/// What became of a message that arrived: how many of its spans the collector did not want.
pub(super) struct Delivered {
    pub(super) rejected: u64,
    pub(super) words: String,
}

#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error("connecting to the collector: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the collector's connection: {0}")]
    Http(#[from] hyper::Error),
    #[error("the collector does not answer")]
    Silent,
    #[error("the collector answers {0}")]
    Status(StatusCode),
    #[error("the collector answers: {0}")]
    Grpc(Box<tonic::Status>),
    #[error("the collector's answer: {0}")]
    Answer(String),
}

impl Wire {
    /// To be called on the runtime that will send.
    pub(super) fn new(config: &TracingConfig) -> Result<Self, WireError> {
        let protocol = match config.protocol {
            Protocol::Http => None,
            Protocol::Grpc => Some(Grpc::new(channel(config)?)),
        };
        Ok(Self {
            protocol,
            endpoint: config.endpoint.clone(),
            timeout: config.timeout,
        })
    }

    pub(super) async fn send(&mut self, request: &ExportRequest) -> Result<Delivered, WireError> {
        let sent = async {
            match &mut self.protocol {
                Some(grpc) => call(grpc, request.clone()).await,
                None => post(&self.endpoint, request).await,
            }
        };
        let answer = tokio::time::timeout(self.timeout, sent).await;
        let answer = answer.map_err(|_| WireError::Silent)??;
        let partial = answer.partial_success.unwrap_or_default();
        Ok(Delivered {
            rejected: partial.rejected_spans.max(0) as u64,
            words: partial.error_message,
        })
    }
}

impl WireError {
    /// As OTLP has it ("Failures", for gRPC and for HTTP): what may pass is sent again.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Http(_) | Self::Silent => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Grpc(status) => matches!(
                status.code(),
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss
                    | Code::ResourceExhausted
            ),
            Self::Answer(_) => false,
        }
    }
}

fn channel(config: &TracingConfig) -> Result<Channel, WireError> {
    let endpoint = tonic::transport::Endpoint::from_shared(config.endpoint.to_string());
    let endpoint = endpoint.map_err(|err| WireError::Answer(err.to_string()))?;
    Ok(endpoint.connect_timeout(config.timeout).connect_lazy())
}

async fn call(
    grpc: &mut Grpc<Channel>,
    request: ExportRequest,
) -> Result<ExportResponse, WireError> {
    let failed = |status: tonic::Status| WireError::Grpc(Box::new(status));
    let ready = grpc.ready().await;
    ready.map_err(|err| failed(tonic::Status::unavailable(err.to_string())))?;
    let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
    let method = PathAndQuery::from_static(METHOD);
    let answer = grpc
        .unary(tonic::Request::new(request), method, codec)
        .await;
    Ok(answer.map_err(failed)?.into_inner())
}

/// A connection for each message: there is one a second at most.
async fn post(endpoint: &Endpoint, request: &ExportRequest) -> Result<ExportResponse, WireError> {
    let authority = endpoint.authority();
    let stream = TcpStream::connect(&authority).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post(endpoint.path())
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(Bytes::from(request.encode_to_vec())))
        .map_err(|err| WireError::Answer(err.to_string()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await;
    driver.abort();
    if !status.is_success() {
        return Err(WireError::Status(status));
    }
    let body = body.map_err(|err| WireError::Answer(err.to_string()))?;
    ExportResponse::decode(body.to_bytes()).map_err(|err| WireError::Answer(err.to_string()))
}
