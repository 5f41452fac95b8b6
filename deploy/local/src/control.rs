//! How a second terminal is heard: HTTP on a socket in the cluster's folder, which only its owner can open.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use thiserror::Error;
use tokio::net::UnixListener;

use crate::{
    cluster::{Cluster, OrderError},
    data::Place,
    order::{ORDERS, Order, Outcome, STATUS, Status},
};

/// The socket's own permissions; those of the folder may have been the user's choice.
const SOCKET_MODE: u32 = 0o600;

/// What the control socket answers from.
#[derive(Clone)]
pub(crate) struct Steered {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) entry: SocketAddr,
    pub(crate) admin: SocketAddr,
}

#[derive(Debug, Error)]
#[error("cannot open the control socket {}: {error}", .path.display())]
pub(crate) struct ControlError {
    path: PathBuf,
    error: io::Error,
}

/// Opens the socket, in place of one that an earlier cluster left behind.
///
/// It is made in a private folder and moved when its permissions are right, so that there is no moment in which somebody
/// else could open it.
pub(crate) fn open(place: &Place) -> Result<UnixListener, ControlError> {
    let path = place.socket();
    let hidden = place.path().join(".control");
    open_at(&hidden, &path).map_err(|error| ControlError { path, error })
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: UnixListener, steered: Steered) -> io::Result<()> {
    let router = Router::new()
        .route(STATUS, get(status))
        .route(ORDERS, post(order))
        .with_state(steered);
    axum::serve(listener, router).await
}

fn open_at(hidden: &Path, path: &Path) -> io::Result<UnixListener> {
    let _ = fs::remove_dir_all(hidden);
    DirBuilder::new().mode(0o700).create(hidden)?;
    let made = hidden.join("s");
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, Permissions::from_mode(SOCKET_MODE))?;
    fs::rename(&made, path)?;
    fs::remove_dir(hidden)?;
    Ok(listener)
}

async fn status(State(steered): State<Steered>) -> Json<Status> {
    Json(steered.cluster.status(steered.entry, steered.admin))
}

async fn order(
    State(steered): State<Steered>,
    Json(order): Json<Order>,
) -> (StatusCode, Json<Outcome>) {
    // A terminal that is closed does not take back its order.
    let done = tokio::spawn(async move { obey(&steered.cluster, &order).await }).await;
    match done {
        Ok(Ok(done)) => (StatusCode::OK, Json(Outcome::Done(done))),
        Ok(Err(error)) => (code(&error), Json(Outcome::Error(error.to_string()))),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Json(Outcome::Error(error.to_string())),
        ),
    }
}

async fn obey(cluster: &Cluster, order: &Order) -> Result<String, OrderError> {
    match order {
        Order::Scale { nodes } => cluster.scale(*nodes).await,
        Order::Kill { node } => cluster.kill(node).await,
        Order::Leave { node } => cluster.leave(node).await,
    }
}

fn code(error: &OrderError) -> StatusCode {
    match error {
        OrderError::UnknownNode { .. } => StatusCode::NOT_FOUND,
        OrderError::Ending => StatusCode::CONFLICT,
        OrderError::BadSize(_) => StatusCode::UNPROCESSABLE_ENTITY,
        OrderError::Member(_) | OrderError::Config { .. } | OrderError::NotReady { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::DataArg;

    #[tokio::test]
    async fn the_socket_is_its_owners_and_replaces_a_stale_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place::new(&DataArg {
            folder: Some(folder.path().to_owned()),
        })
        .expect("an absolute name");
        drop(open(&place).expect("nothing is in the way"));
        let _second = open(&place).expect("what was left behind is replaced");
        let mode = fs::metadata(place.socket())
            .expect("the socket is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        assert!(
            std::os::unix::net::UnixStream::connect(place.socket()).is_ok(),
            "somebody listens"
        );
    }
}
