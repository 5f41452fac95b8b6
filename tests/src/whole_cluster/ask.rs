//! Asks the admin addresses of our programs what they know, as an operator with curl would.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

/// A program that is stopped accepts connections and answers nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where a program shows how it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminAddr(pub SocketAddr);

/// An answer.
#[derive(Clone, Debug)]
pub struct Told {
    pub status: u16,
    pub body: String,
}

/// One endpoint as a balancer sees it, from `/api/v1/endpoints`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    pub service: String,
    pub node: String,
    pub address: SocketAddr,
    pub incarnation: u64,
    pub presence: String,
    pub health: String,
    pub offered: bool,
    pub in_flight: u32,
}

/// What a balancer says of the registry, from `/api/v1/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct RegistryStatus {
    pub connected: bool,
    pub revision: u64,
    /// Every core has applied what the registry said up to here.
    pub applied_revision: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("connecting: {0}")]
    Connect(#[from] std::io::Error),
    #[error("asking: {0}")]
    Http(#[from] hyper::Error),
    #[error("the path is no request target: {0}")]
    Path(#[from] http::Error),
    #[error("no answer in {ANSWER_WITHIN:?}")]
    Silent,
    #[error("status {0}")]
    Status(u16),
    #[error("the answer is not what was expected: {0}")]
    Json(#[from] serde_json::Error),
}

impl AdminAddr {
    /// GETs a path; any status is an answer.
    pub async fn get(self, path: &str) -> Result<Told, AskError> {
        let told = tokio::time::timeout(ANSWER_WITHIN, get(self.0, path)).await;
        told.map_err(|_| AskError::Silent)?
    }

    /// Whether `/readyz` says yes; a program that is not there is not ready.
    pub async fn is_ready(self) -> bool {
        self.get("/readyz").await.is_ok_and(|it| it.status == 200)
    }

    pub async fn endpoints(self) -> Result<Vec<Endpoint>, AskError> {
        #[derive(Deserialize)]
        struct Endpoints {
            endpoints: Vec<Endpoint>,
        }
        let Endpoints { endpoints } = self.json("/api/v1/endpoints").await?;
        Ok(endpoints)
    }

    /// None when the balancer is configured without a registry.
    pub async fn registry(self) -> Result<Option<RegistryStatus>, AskError> {
        #[derive(Deserialize)]
        struct Status {
            registry: Option<RegistryStatus>,
        }
        let Status { registry } = self.json("/api/v1/status").await?;
        Ok(registry)
    }

    async fn json<T: for<'a> Deserialize<'a>>(self, path: &str) -> Result<T, AskError> {
        let told = self.get(path).await?;
        if told.status != 200 {
            return Err(AskError::Status(told.status));
        }
        let value = serde_json::from_str(&told.body)?;
        Ok(value)
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<Told, AskError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok(Told {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
