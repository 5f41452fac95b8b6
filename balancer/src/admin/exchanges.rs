//! What became of single exchanges, for `balancer explain`.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{Shared, refuse};
use crate::explain::Told;

/// The most of a list: an answer of about half a megabyte.
const LIST_MAX: usize = 1000;
const LIST_DEFAULT: usize = 50;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    limit: Option<usize>,
    /// Only those that did not end as completed, or have not ended.
    #[serde(default)]
    notable: bool,
}

#[derive(Serialize)]
struct Exchanges {
    exchanges: Vec<Told>,
}

pub(super) async fn list(State(admin): Shared, Query(wanted): Query<Wanted>) -> Response {
    let max = wanted.limit.unwrap_or(LIST_DEFAULT).min(LIST_MAX);
    let exchanges = match wanted.notable {
        true => admin.book.notable(max),
        false => admin.book.newest(max),
    };
    Json(Exchanges { exchanges }).into_response()
}

/// By the id of a request or of a trace, or the number of a connection.
pub(super) async fn find(State(admin): Shared, Path(id): Path<String>) -> Response {
    let mut exchanges = admin.book.find(&id);
    exchanges.truncate(LIST_MAX);
    match exchanges.is_empty() {
        true => refuse(
            StatusCode::NOT_FOUND,
            format_args!("nothing is remembered of `{id}`: it is unknown, or too long ago"),
        ),
        false => Json(Exchanges { exchanges }).into_response(),
    }
}
