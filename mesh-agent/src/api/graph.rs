//! Who needs and who calls whom, and whether everything that a service needs is up.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Context;
use super::problem::{PROBLEM_JSON, Problem};
use super::views::ask_for_much;
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
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    ask_for_much(context, move |node| node.graph(query.namespace.as_deref())).await
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
    (status = 200, body = Readiness), (status = 503, body = NotReady, content_type = "application/problem+json"),
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
    if readiness.ready {
        return Ok(Json(readiness).into_response());
    }
    let missing = readiness.dependencies.iter().filter(|it| !it.ready);
    let missing: Vec<String> = missing
        .map(|it| format!("{}/{} ({})", it.namespace, it.name, it.reason))
        .collect();
    let detail = format!("{key} is not ready, it waits for {}", missing.join(", "));
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "NotReady", detail);
    let problem = NotReady { problem, readiness };
    let problem_json = [(CONTENT_TYPE, PROBLEM_JSON)];
    Ok((StatusCode::SERVICE_UNAVAILABLE, problem_json, Json(problem)).into_response())
}

/// The readiness of a service that is not ready: a problem with more members (RFC 9457, 3.2).
#[derive(Serialize, ToSchema)]
pub(super) struct NotReady {
    #[serde(flatten)]
    problem: Problem,
    #[serde(flatten)]
    readiness: Readiness,
}
