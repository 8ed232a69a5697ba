//! What the agent tells about itself: everything that is not an object of the registry.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::node::{Node, NodeError};
use super::problem::Problem;
use super::{Context, body};
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::{Kind, ObjectKey};
use crate::state::report::{
    BpfReport, BreakerList, ConnectionList, CoverageList, Explanation, RequestQuestion, Status,
    Transport,
};

/// The `OpenMetrics` text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Asks the node on a thread that may block.
pub(super) async fn ask<T: Send + 'static>(
    context: &Context,
    question: impl FnOnce(&dyn Node) -> T + Send + 'static,
) -> Result<T, Problem> {
    let node = Arc::clone(&context.node);
    Ok(tokio::task::spawn_blocking(move || question(&*node)).await?)
}

/// The same where the answer may be as large as the registry, or as the traffic.
pub(super) async fn ask_for_much<T: Serialize + 'static>(
    context: Context,
    question: impl FnOnce(&dyn Node) -> Result<T, NodeError> + Send + 'static,
) -> Result<Response, Problem> {
    let node = context.node;
    let made = context.large.make(move || {
        let answer = question(&*node)?;
        Ok::<_, NodeError>(Json(answer).into_response())
    });
    Ok(made.await??)
}

/// Version, readiness, progress.
#[utoipa::path(get, path = "/api/v1/status", tag = "node", responses(
    (status = 200, body = Status), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn status(State(context): State<Context>) -> Result<Json<Status>, Problem> {
    Ok(Json(ask(&context, <dyn Node>::status).await?))
}

/// A view that is shown whole: a filter that it does not have is refused, so that nobody takes all for a part.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whole {}

impl<S: Sync> FromRequestParts<S> for Whole {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(whole) =
            query.map_err(|error| Problem::bad_request("query", error.body_text()))?;
        Ok(whole)
    }
}

/// Where the connections of each workload went, and why.
#[utoipa::path(get, path = "/api/v1/coverage", tag = "node", responses(
    (status = 200, body = CoverageList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn coverage(
    _: Whole,
    State(context): State<Context>,
) -> Result<Response, Problem> {
    ask_for_much(context, <dyn Node>::coverage).await
}

/// Live connections, and those that were just closed.
#[utoipa::path(get, path = "/api/v1/connections", tag = "node", responses(
    (status = 200, body = ConnectionList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn connections(
    _: Whole,
    State(context): State<Context>,
) -> Result<Response, Problem> {
    ask_for_much(context, <dyn Node>::connections).await
}

/// Circuit breakers, and how they are.
#[utoipa::path(get, path = "/api/v1/breakers", tag = "node", responses(
    (status = 200, body = BreakerList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn breakers(
    _: Whole,
    State(context): State<Context>,
) -> Result<Json<BreakerList>, Problem> {
    Ok(Json(ask(&context, <dyn Node>::breakers).await?))
}

/// The kernel's side: programs and maps.
#[utoipa::path(get, path = "/api/v1/bpf", tag = "node", responses(
    (status = 200, body = BpfReport), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn bpf(State(context): State<Context>) -> Result<Json<BpfReport>, Problem> {
    Ok(Json(ask(&context, <dyn Node>::bpf).await??))
}

/// Who calls whom.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExplainQuery {
    /// The calling workload, `namespace/name`.
    #[param(example = "shop/client")]
    source: String,
    /// What it dials, `address:port`; IPv6 in brackets.
    #[param(example = "240.240.0.10:80")]
    destination: String,
    /// How it dials: `tcp` (the default) or `udp`.
    #[serde(default)]
    #[param(inline)]
    transport: Transport,
    /// Method of a request to explain; `GET` where a path or a header is given.
    #[param(example = "GET")]
    method: Option<String>,
    /// Its path, with the query; `/` where a method or a header is given.
    #[param(example = "/checkout?step=2")]
    path: Option<String>,
    /// Its headers, `name:value`, each in a parameter of its own.
    #[serde(default)]
    #[param(example = json!(["x-canary:1"]))]
    header: Vec<String>,
}

impl ExplainQuery {
    /// Reads what follows the question mark: `header` may be there more than once.
    fn read(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut single = serde_json::Map::new();
        let mut headers = Vec::new();
        for (name, value) in pairs {
            if name == "header" {
                headers.push(value);
            } else if single.insert(name.clone(), value.into()).is_some() {
                return Err(Problem::bad_request(
                    "query",
                    format!("{name} is there twice"),
                ));
            }
        }
        let mut query: Self = serde_json::from_value(Value::Object(single))
            .map_err(|error| Problem::bad_request("query", error.to_string()))?;
        query.header = headers;
        Ok(query)
    }

    /// The request that is asked about, if one is.
    fn request(self) -> Result<Option<RequestQuestion>, Problem> {
        if self.method.is_none() && self.path.is_none() && self.header.is_empty() {
            return Ok(None);
        }
        let header = |text: &String| {
            let (name, value) = text.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        let headers = self.header.iter().map(header).collect::<Option<_>>();
        let bad = || Problem::bad_request("header", "a header is name:value");
        Ok(Some(RequestQuestion {
            method: self.method.unwrap_or_else(|| "GET".to_owned()),
            path: self.path.unwrap_or_else(|| "/".to_owned()),
            headers: headers.ok_or_else(bad)?,
        }))
    }
}

/// What would happen to a connection now, decided by the code and the maps that the kernel uses.
#[utoipa::path(get, path = "/api/v1/explain", tag = "node", params(ExplainQuery), responses(
    (status = 200, body = Explanation), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn explain(
    State(context): State<Context>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Explanation>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    let query = ExplainQuery::read(query)?;
    let Some((namespace, name)) = query.source.split_once('/') else {
        let detail = "a workload is namespace/name";
        return Err(Problem::bad_request("source", detail));
    };
    let source = ObjectKey::new(namespace, name);
    let Ok(destination) = query.destination.parse::<SocketAddr>() else {
        let detail = "a destination is address:port, with IPv6 addresses in brackets";
        return Err(Problem::bad_request("destination", detail));
    };
    let is_known = context.store.snapshot().workloads.contains_key(&source);
    if !is_known {
        let error = NodeError::NotFound {
            what: format!("Workload {source}"),
        };
        return Err(Problem::from(error).with_field("source"));
    }
    let transport = query.transport;
    let request = query.request()?;
    let explain =
        move |node: &dyn Node| node.explain(&source, destination, transport, request.as_ref());
    Ok(Json(ask(&context, explain).await??))
}

/// The whole registry as the agent holds it, with the numbers by which the kernel knows it, and the settings.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigDump {
    /// The write that made it.
    revision: u64,
    /// All objects by the plural of their kind.
    #[schema(value_type = Object)]
    objects: serde_json::Map<String, Value>,
    /// Everything that has a number.
    ids: Vec<Numbered>,
    /// Settings and state of the engines.
    #[schema(value_type = Object)]
    node: Value,
}

/// Something that has a number.
#[derive(Serialize, ToSchema)]
struct Numbered {
    number: u32,
    #[schema(value_type = Object)]
    subject: Subject,
}

/// The whole registry as the agent holds it, with the numbers by which the kernel knows it, and the settings.
#[utoipa::path(get, path = "/api/v1/config_dump", tag = "node", responses(
    (status = 200, body = ConfigDump), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn config_dump(State(context): State<Context>) -> Result<Response, Problem> {
    let store = context.store;
    let node = context.node;
    let made = context.large.make(move || {
        let dump = dump(&store.snapshot(), node.config_dump())?;
        Ok::<_, Problem>(Json(dump).into_response())
    });
    made.await?
}

fn dump(snapshot: &Snapshot, node: Value) -> Result<ConfigDump, Problem> {
    let mut objects = serde_json::Map::new();
    for kind in Kind::ALL {
        let list = serde_json::to_value(snapshot.list(kind, None)).map_err(|error| {
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal",
                error.to_string(),
            )
        })?;
        objects.insert(kind.plural().to_owned(), list);
    }
    let mut ids: Vec<_> = snapshot
        .ids
        .iter()
        .map(|(subject, number)| Numbered {
            number,
            subject: subject.clone(),
        })
        .collect();
    ids.sort_unstable_by_key(|it| it.number);
    Ok(ConfigDump {
        revision: snapshot.revision,
        objects,
        ids,
        node,
    })
}

/// What is logged.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevel {
    /// A level, or directives by module.
    #[schema(example = "info,mesh_agent::proxy=debug")]
    level: String,
}

/// Changes what is logged, until the agent is started again.
#[utoipa::path(put, path = "/api/v1/log-level", tag = "node", request_body = LogLevel, responses(
    (status = 200, body = LogLevel), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn log_level(
    State(context): State<Context>,
    request: Request,
) -> Result<Json<LogLevel>, Problem> {
    let document = body::json(request).await?;
    let wanted: LogLevel = serde_path_to_error::deserialize(document).map_err(|error| {
        let field = error.path().to_string();
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            error.inner().to_string(),
        )
        .with_field(if field == "." { "level" } else { &field })
    })?;
    let level = wanted.level.clone();
    ask(&context, move |node| node.set_log_level(&level)).await??;
    Ok(Json(wanted))
}

/// Starts to drain: no new connections, those that are there may finish. Readiness is gone at once.
#[utoipa::path(post, path = "/api/v1/drain", tag = "node", responses(
    (status = 202, body = Status), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn drain(State(context): State<Context>) -> Result<Response, Problem> {
    let status = ask(&context, |node| {
        node.drain();
        node.status()
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(status)).into_response())
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "probe", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The node carries traffic as declared; if not, what it waits for.
#[utoipa::path(get, path = "/readyz", tag = "probe", responses(
    (status = 200, body = String), (status = 503, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn readyz(State(context): State<Context>) -> Result<&'static str, Problem> {
    let pending = ask(&context, <dyn Node>::pending).await?;
    if pending.is_empty() {
        return Ok("ok\n");
    }
    let detail = format!("not ready, pending: {}", pending.join(", "));
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "NotReady", detail);
    Err(Problem { pending, ..problem })
}

/// All series in the `OpenMetrics` text format.
#[utoipa::path(get, path = "/metrics", tag = "probe", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(context): State<Context>) -> Result<Response, Problem> {
    let text = ask(&context, <dyn Node>::metrics).await?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
