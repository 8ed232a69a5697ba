//! Objects of every kind: list, get, put, delete. One table, a row per kind.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::problem::Problem;
use super::{Context, body, watch};
use crate::state::object::{Kind, ObjectKey};
use crate::state::{Applied, Change, Manifest, Refusal, decode};

/// Path of one object, or of the objects of a namespace, or of all.
pub(super) fn paths(kind: Kind) -> [String; 3] {
    let kind = kind.plural();
    [
        format!("/api/v1/namespaces/{{namespace}}/{kind}/{{name}}"),
        format!("/api/v1/namespaces/{{namespace}}/{kind}"),
        format!("/api/v1/{kind}"),
    ]
}

/// Adds the routes of all kinds.
pub(super) fn routes(router: Router<Context>) -> Router<Context> {
    Kind::ALL.into_iter().fold(router, |router, kind| {
        let [object, namespaced, all] = paths(kind);
        let one = get(move |context, path| async move { read(kind, context, path) })
            .put(move |context, path, request| put(kind, context, path, request))
            .delete(move |context, path, headers, query| {
                delete(kind, context, path, headers, query)
            });
        let in_namespace = get(
            move |context, Path(namespace): Path<String>, headers, query| {
                list(kind, Some(namespace), context, headers, query)
            },
        );
        let everywhere =
            get(move |context, headers, query| list(kind, None, context, headers, query));
        router
            .route(&object, one)
            .route(&namespaced, in_namespace)
            .route(&all, everywhere)
    })
}

/// `GET` of a list.
#[derive(Serialize)]
struct List {
    items: Vec<Manifest>,
    metadata: ListMetadata,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
}

/// What a list may be asked for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    #[serde(default)]
    watch: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
}

/// What a put or a delete may be asked for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WriteQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn list(
    kind: Kind,
    namespace: Option<String>,
    State(context): State<Context>,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    let is_watch = match query.watch.as_deref() {
        None | Some("false" | "0") => false,
        Some("" | "true" | "1") => true,
        Some(other) => {
            let detail = format!("true or false, not {other:?}");
            return Err(Problem::bad_request("watch", detail));
        }
    };
    if is_watch {
        let filter = watch::Filter { kind, namespace };
        let since = watch::since(query.resource_version.as_deref(), &headers)?;
        return watch::start(context, filter, since).await;
    }
    let store = context.store;
    let made = context.large.make(move || {
        let snapshot = store.snapshot();
        let list = List {
            items: snapshot.list(kind, namespace.as_deref()),
            metadata: ListMetadata {
                resource_version: snapshot.revision.to_string(),
            },
        };
        Json(list).into_response()
    });
    Ok(made.await?)
}

fn read(
    kind: Kind,
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let key = ObjectKey::new(namespace, name);
    match context.store.snapshot().object(kind, &key) {
        Some(object) => Ok(answer(StatusCode::OK, &object)),
        None => Err(Refusal::NotFound { kind, key }.into()),
    }
}

async fn put(
    kind: Kind,
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let key = ObjectKey::new(namespace, name);
    let version = if_match(request.headers())?;
    let query = Query::<WriteQuery>::try_from_uri(request.uri());
    let Query(query) = query.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    let mut document = body::json(request).await?;
    if let Some(version) = version {
        expect_version(&mut document, version)?;
    }
    let manifest = decode::manifest(kind, &key, document)?;
    write(context, &query, Change::Put(manifest)).await
}

async fn delete(
    kind: Kind,
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    query: Result<Query<WriteQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    let change = Change::Delete {
        kind,
        key: ObjectKey::new(namespace, name),
        resource_version: if_match(&headers)?,
    };
    write(context, &query, change).await
}

/// Makes a change, or says what would come of it.
async fn write(context: Context, query: &WriteQuery, change: Change) -> Result<Response, Problem> {
    let writer = context.writer;
    let applied = if query.dry_run {
        tokio::task::spawn_blocking(move || writer.rehearse(change)).await??
    } else {
        writer.apply(change).await?
    };
    Ok(told(applied))
}

fn told(applied: Applied) -> Response {
    match applied {
        Applied::Created(object) => answer(StatusCode::CREATED, &object),
        Applied::Changed(object) | Applied::Deleted(object) => answer(StatusCode::OK, &object),
        Applied::Unchanged => StatusCode::NO_CONTENT.into_response(),
    }
}

fn answer(status: StatusCode, object: &Manifest) -> Response {
    let mut response = (status, Json(object)).into_response();
    let tag = format!("\"{}\"", object.metadata().resource_version);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// The version that `If-Match` demands: `"12"`, `12` or `*`.
fn if_match(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    let bare = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(text);
    let is_version = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if values.next().is_some() || !(is_version || bare == "*") {
        return Err(Problem::bad_request(
            "If-Match",
            "one resourceVersion, in quotes, or *",
        ));
    }
    Ok(Some(bare.to_owned()))
}

/// Puts the version of the header where the store looks for it.
fn expect_version(document: &mut Value, version: String) -> Result<(), Problem> {
    let metadata = document.as_object_mut().map(|document| {
        document
            .entry("metadata")
            .or_insert_with(|| Value::Object(Map::new()))
    });
    // What is no object is refused later, with its field.
    let Some(Value::Object(metadata)) = metadata else {
        return Ok(());
    };
    let version = Value::String(version);
    // Who says which version of ours is meant does not mean that of another registry.
    metadata.remove("uid");
    match metadata.get("resourceVersion") {
        Some(other) if *other != version && version != "*" && *other != "" => {
            Err(Problem::bad_request(
                "metadata.resourceVersion",
                "contradicts the header If-Match",
            ))
        }
        Some(other) if version == "*" && *other != "" => Ok(()),
        _ => {
            metadata.insert("resourceVersion".to_owned(), version);
            Ok(())
        }
    }
}
