//! Asks the admin API over its socket or address: one connection a question, since people ask seldom.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};

use super::{CliError, reach::Reach};
use crate::net;

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Ten thousand services of a thousand endpoints each do not fit; nobody can read them either.
const ANSWER_BYTES_MAX: usize = 256 << 20;

pub(super) struct Client {
    reach: Reach,
}

/// An open connection, whichever way it took.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Client {
    pub(super) fn new(reach: Reach) -> Self {
        Self { reach }
    }

    /// # Errors
    /// When nobody answers, or the balancer refuses.
    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.ask(Method::GET, path, None).await.and_then(json)
    }

    /// # Errors
    /// When nobody answers, or the balancer refuses.
    pub(super) async fn post(&self, path: &str, body: Option<Value>) -> Result<Value, CliError> {
        self.ask(Method::POST, path, body).await.and_then(json)
    }

    /// # Errors
    /// When nobody answers, or the balancer refuses.
    pub(super) async fn metrics(&self) -> Result<String, CliError> {
        let answer = self.ask(Method::GET, "/metrics", None).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, CliError> {
        let (wire, place, host) = self.connect().await?;
        let asked = exchange(wire, self.request(method, path, host, body)?);
        let answer = match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Broken::Http(cause))) => return Err(CliError::Http { place, cause }),
            Ok(Err(Broken::Body(cause))) => return Err(CliError::Answer(cause)),
            Err(_) => {
                return Err(CliError::Silent {
                    place,
                    waited: ANSWER_WITHIN,
                });
            }
        };
        match answer.status.is_success() {
            true => Ok(answer),
            false => Err(CliError::Refused(answer.reason())),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        host: String,
        body: Option<Value>,
    ) -> Result<Request<Full<Bytes>>, CliError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host);
        if let Some(token) = &self.reach.token {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        let body = match body {
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body));
        request.map_err(|err| CliError::Usage(err.to_string()))
    }

    /// The socket if it answers, else the address: the connection, where it leads, and the Host to ask for.
    async fn connect(&self) -> Result<(Box<dyn Wire>, String, String), CliError> {
        let tried = match &self.reach.socket {
            Some(path) => match at_socket(path).await {
                Ok(stream) => return Ok((stream, path.display().to_string(), "localhost".into())),
                Err(err) => Some((path.clone(), err)),
            },
            None => None,
        };
        match (self.reach.address, tried) {
            (Some(address), _) => {
                let stream = at_address(address).await?;
                Ok((stream, address.to_string(), address.to_string()))
            }
            (None, Some((path, cause))) => Err(CliError::Unreachable {
                place: path.display().to_string(),
                cause,
            }),
            (None, None) => Err(CliError::Usage("no balancer is named".to_owned())),
        }
    }
}

async fn at_socket(path: &PathBuf) -> io::Result<Box<dyn Wire>> {
    let connected = tokio::time::timeout(CONNECT_WITHIN, UnixStream::connect(path)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Box::new(stream))
}

async fn at_address(address: SocketAddr) -> Result<Box<dyn Wire>, CliError> {
    match net::connect(address, CONNECT_WITHIN).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(cause) => Err(CliError::Unreachable {
            place: format!("http://{address}"),
            cause,
        }),
    }
}

/// How a question can end without an answer.
enum Broken {
    Http(hyper::Error),
    Body(String),
}

async fn exchange(wire: Box<dyn Wire>, request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(wire))
        .await
        .map_err(Broken::Http)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(Broken::Http)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await;
    driver.abort();
    Ok(Answer {
        status,
        body: body
            .map_err(|err| Broken::Body(err.to_string()))?
            .to_bytes(),
    })
}

fn json(answer: Answer) -> Result<Value, CliError> {
    serde_json::from_slice(&answer.body).map_err(|err| CliError::Answer(err.to_string()))
}

impl Answer {
    /// What the balancer says of its refusal.
    fn reason(&self) -> String {
        let value: Option<Value> = serde_json::from_slice(&self.body).ok();
        match value.as_ref().and_then(|it| it["error"].as_str()) {
            Some(error) => error.to_owned(),
            None => format!("the balancer answers {}", self.status),
        }
    }
}
