//! Who needs and who calls whom, and whether everything that a service needs is up.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::Context;
use super::problem::Problem;
use super::views::ask;
use crate::state::Refusal;
use crate::state::graph::Graph;
use crate::state::graph::readiness::{Readiness, readiness as look};
use crate::state::object::{Kind, ObjectKey};

/// Which part of the graph.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GraphQuery {
    /// Only edges of which one end is in this namespace.
    #[param(example = "shop")]
    namespace: Option<String>,
}

/// Services and workloads, and who of them needs or calls whom: as declared, and as seen.
#[utoipa::path(get, path = "/api/v1/graph", tag = "registry", params(GraphQuery), responses(
    (status = 200, body = Graph), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn graph(
    State(context): State<Context>,
    query: Result<Query<GraphQuery>, QueryRejection>,
) -> Result<Json<Graph>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    let asked = ask(&context, move |node| node.graph(query.namespace.as_deref()));
    Ok(Json(asked.await??))
}

/// Whose readiness.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadinessQuery {
    /// The service.
    #[param(example = "web")]
    service: String,
}

/// Whether everything that a service needs is up, and what that needs, and so on: 200, or 503 with what is not.
#[utoipa::path(get, path = "/api/v1/namespaces/{namespace}/readiness", tag = "registry",
    params(("namespace" = String, Path, description = "Namespace of the service."), ReadinessQuery), responses(
    (status = 200, body = Readiness), (status = 503, body = Readiness),
    (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn readiness(
    State(context): State<Context>,
    Path(namespace): Path<String>,
    query: Result<Query<ReadinessQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    let key = ObjectKey::new(namespace, query.service);
    let Some(readiness) = look(&context.store.snapshot(), &key) else {
        let kind = Kind::Service;
        return Err(Refusal::NotFound { kind, key }.into());
    };
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((status, Json(readiness)).into_response())
}
