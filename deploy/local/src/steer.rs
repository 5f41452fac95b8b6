//! The commands of a second terminal: each is one exchange with the running cluster.

use std::{io, path::PathBuf, time::Duration};

use http_body_util::Full;
use hyper::{Method, Request, body::Bytes, header};
use thiserror::Error;
use tokio::{net::UnixStream, runtime, time::timeout};

use crate::{
    command_line,
    data::{DataError, Place},
    exchange::{self, Answer, ExchangeError},
    order::{ORDERS, Order, Outcome, STATUS, Status},
    up::say,
};

/// How long an order may take. The longest is to let nodes leave, who have ten seconds each and leave together.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub(crate) enum SteerError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("no cluster runs in {}: start one with `colonnade up`", .0.display())]
    NobodyThere(PathBuf),
    #[error("cannot reach the cluster in {}: {error}", .path.display())]
    Unreachable { path: PathBuf, error: io::Error },
    #[error("the cluster did not answer: {0}")]
    Exchange(#[from] ExchangeError),
    #[error("the cluster did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Late,
    #[error("{0}")]
    Refused(String),
    #[error("the cluster answered something else than was asked ({0}): is it of another version?")]
    Strange(serde_json::Error),
    #[error("cannot start a runtime: {0}")]
    Runtime(io::Error),
}

pub(crate) fn status(args: &command_line::Status) -> Result<(), SteerError> {
    let answer = exchange(
        &Place::new(&args.data)?,
        request(Method::GET, STATUS, Bytes::new()),
    )?;
    let status: Status = serde_json::from_slice(&answer.body).map_err(SteerError::Strange)?;
    if args.json {
        say(&serde_json::to_string(&status).map_err(SteerError::Strange)?);
    } else {
        say(&status.to_string());
    }
    Ok(())
}

pub(crate) fn scale(args: &command_line::Scale) -> Result<(), SteerError> {
    order(
        &Place::new(&args.data)?,
        &Order::Scale { nodes: args.nodes },
    )
}

pub(crate) fn kill(args: &command_line::Named) -> Result<(), SteerError> {
    order(
        &Place::new(&args.data)?,
        &Order::Kill {
            node: args.node.as_str().into(),
        },
    )
}

pub(crate) fn leave(args: &command_line::Named) -> Result<(), SteerError> {
    order(
        &Place::new(&args.data)?,
        &Order::Leave {
            node: args.node.as_str().into(),
        },
    )
}

fn order(place: &Place, order: &Order) -> Result<(), SteerError> {
    let body = serde_json::to_vec(order).map_err(SteerError::Strange)?;
    let answer = exchange(place, request(Method::POST, ORDERS, body.into()))?;
    match serde_json::from_slice(&answer.body).map_err(SteerError::Strange)? {
        Outcome::Done(done) => say(&done),
        Outcome::Error(error) => return Err(SteerError::Refused(error)),
    }
    Ok(())
}

fn request(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "colonnade")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .expect("a fixed path and fixed headers make a request")
}

fn exchange(place: &Place, request: Request<Full<Bytes>>) -> Result<Answer, SteerError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SteerError::Runtime)?;
    runtime.block_on(async {
        let stream = UnixStream::connect(place.socket())
            .await
            .map_err(|error| unreachable(place, error))?;
        let answer = timeout(ANSWER_WITHIN, exchange::ask(stream, request)).await;
        let answer = answer.map_err(|_| SteerError::Late)??;
        Ok(answer)
    })
}

/// A socket that is not there, or that nobody listens on, is what a cluster that has ended leaves behind.
fn unreachable(place: &Place, error: io::Error) -> SteerError {
    let path = place.path().to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => SteerError::NobodyThere(path),
        _ => SteerError::Unreachable { path, error },
    }
}
