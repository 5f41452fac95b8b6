//! What an operator orders about a node of this balancer: to give it no new work, to give it work again, to weigh it otherwise.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use balancer_core::{
    name::NodeId,
    overrides::{Override, OverrideError},
};
use serde::{Deserialize, Serialize};

use super::{Admin, Shared, ask, entry::Who, leaving, refuse};
use crate::{
    reload::{Cause, Outcome},
    watch::{NodeOrder, OrderChange, Question},
};

/// A hundred times the weight of a node that names none.
const WEIGHT_MAX: u32 = 10_000;

/// What is in force for a node after an order.
#[derive(Debug, Serialize)]
struct Answer {
    node: String,
    #[serde(rename = "override")]
    order: Option<Override>,
}

/// The body of an order about weight; null takes the order back.
#[derive(Debug, Deserialize)]
pub(super) struct Weight {
    weight: Option<u32>,
}

pub(super) async fn drain(
    State(admin): Shared,
    Extension(who): Extension<Who>,
    Path(node): Path<String>,
) -> Response {
    order(admin, who, node, OrderChange::Drain).await
}

pub(super) async fn undrain(
    State(admin): Shared,
    Extension(who): Extension<Who>,
    Path(node): Path<String>,
) -> Response {
    order(admin, who, node, OrderChange::Undrain).await
}

pub(super) async fn weight(
    State(admin): Shared,
    Extension(who): Extension<Who>,
    Path(node): Path<String>,
    body: Result<Json<Weight>, JsonRejection>,
) -> Response {
    match body {
        Err(err) => refuse(StatusCode::BAD_REQUEST, err.body_text()),
        Ok(Json(Weight { weight: Some(it) })) if it > WEIGHT_MAX => refuse(
            StatusCode::BAD_REQUEST,
            format_args!("{it} is not within 0 to {WEIGHT_MAX}"),
        ),
        Ok(Json(Weight { weight })) => order(admin, who, node, OrderChange::Weight(weight)).await,
    }
}

/// Reads the configuration again; a rejected one is no success, and says why.
pub(super) async fn reload(State(admin): Shared, Extension(who): Extension<Who>) -> Response {
    tracing::info!(by = %who, "an operator asks for the configuration to be read again");
    match admin.reloads.reload(Cause::Api).await {
        None => leaving(),
        Some(report) if report.outcome == Outcome::Rejected => {
            let why = report.error.unwrap_or_default();
            refuse(StatusCode::UNPROCESSABLE_ENTITY, why)
        }
        Some(report) => Json(report).into_response(),
    }
}

async fn order(admin: Arc<Admin>, who: Who, node: String, change: OrderChange) -> Response {
    let order = NodeOrder {
        node: NodeId::from(node.as_str()),
        change,
        by: who.to_string(),
    };
    match ask(&admin, |to| Question::Order(order, to)).await {
        None => leaving(),
        Some(Err(err @ OverrideError::UnknownNode)) => {
            refuse(StatusCode::NOT_FOUND, format_args!("`{node}`: {err}"))
        }
        Some(Err(err @ OverrideError::TooMany)) => refuse(StatusCode::CONFLICT, err),
        Some(Ok(order)) => Json(Answer {
            node,
            order: Some(order).filter(|it| !it.is_none()),
        })
        .into_response(),
    }
}
