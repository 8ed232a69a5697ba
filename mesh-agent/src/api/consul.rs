//! The API of Consul, as far as clients that register, find and watch services use it: the same registry by another
//! name.
//!
//! A service instance is an Endpoint (its id is the name) with a Service that is made for it where there is none; a key
//! is a setting of a Service. Reads are functions of a snapshot, and may wait until what they answer is another.

mod blocking;
mod catalog;
mod checks;
mod definition;
mod failure;
mod fields;
mod filter;
mod instance;
mod kv;
mod made;
mod metrics;
mod name;
mod paths;
mod question;
mod scope;
mod settings;
mod views;
mod wakeup;
mod write;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, put};
use serde_json::Value;

use self::blocking::{Seen, Topic};
use self::failure::Failure;
use self::filter::Filtered;
use self::made::Made;
use self::paths::{BEATS, READS, WRITES};
use self::question::Question;
use self::views::View;
use self::wakeup::Wakeup;
use self::write::{Write, Writer};
use super::{Context, body};
use crate::state::endpoint::Locality;
use crate::state::object::Metadata;

pub use self::scope::Scope;

/// What the API says of this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub node: String,
    /// Looks for an address of it that others can reach.
    pub address: fn() -> Option<IpAddr>,
    /// Where it is; what is registered here is there.
    pub locality: Option<Locality>,
}

/// The same at a moment.
struct Facts {
    node: String,
    address: Option<IpAddr>,
    locality: Option<Locality>,
}

impl Facts {
    fn address_text(&self) -> String {
        let address = self.address.map(|it| it.to_string());
        address.unwrap_or_else(|| "127.0.0.1".to_owned())
    }
}

/// What the routes share.
pub(super) struct Consul {
    config: Config,
    /// The address that was found last, and when.
    address: Mutex<Option<(Instant, IpAddr)>>,
    /// Changes that are several writes run one at a time.
    writes: Mutex<()>,
    seen: Seen,
    /// The queries that wait.
    pub(super) wakeup: Wakeup,
    /// Services that are not in line with their instances yet.
    made: Made,
}

impl Consul {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            address: Mutex::default(),
            writes: Mutex::default(),
            seen: Seen::default(),
            wakeup: Wakeup::default(),
            made: Made::default(),
        }
    }

    fn facts(&self) -> Facts {
        let mut known = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.filter(|(at, _)| at.elapsed() < ADDRESS_LIFE);
        let address = match fresh {
            Some((_, address)) => Some(address),
            None => (self.config.address)(),
        };
        if fresh.is_none() {
            *known = address.map(|it| (Instant::now(), it));
        }
        Facts {
            node: self.config.node.clone(),
            address,
            locality: self.config.locality.clone(),
        }
    }
}

/// How long the address of the node is relied on.
const ADDRESS_LIFE: Duration = Duration::from_secs(5);

/// The namespace of who names none.
const NAMESPACE: &str = "default";

/// Does what is late, for ever.
pub(super) async fn run(context: Context) {
    Made::run(context).await;
}

/// Adds the routes.
pub(super) fn routes(router: Router<Context>) -> Router<Context> {
    let router = READS
        .iter()
        .fold(router, |router, (path, view, filtered, topic)| {
            router.route(path, read(path, *view, *filtered, *topic))
        });
    let router = WRITES.iter().fold(router, |router, (path, change)| {
        router.route(path, write(*change, Turns::One))
    });
    let router = BEATS.iter().fold(router, |router, (path, beat)| {
        router.route(path, write(*beat, Turns::Any))
    });
    let key = read(kv::PATH, kv::read, Filtered::Nothing, Topic::Keys)
        .merge(write(settings::put, Turns::One))
        .delete(
            |state: State<Context>,
             scope: Whose,
             path: Argument,
             query: Pairs,
             request: Request| {
                change(
                    (settings::delete, Turns::One),
                    state,
                    scope,
                    path,
                    query,
                    request,
                )
            },
        );
    router
        .route("/v1/kv/", key.clone())
        .route(kv::PATH, key)
        .route("/v1/agent/metrics", get(metrics))
}

/// How many writes are made at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turns {
    One,
    Any,
}

/// Who asks, where that is a workload.
type Whose = Option<Extension<Arc<Scope>>>;
/// What stands in the path.
type Argument = Option<Path<String>>;
/// The query.
type Pairs = Query<Vec<(String, String)>>;

fn read(
    path_in_table: &'static str,
    view: View,
    filtered: Filtered,
    topic: Topic,
) -> MethodRouter<Context> {
    get(
        move |State(context): State<Context>, scope: Whose, path: Argument, Query(pairs): Pairs| async move {
            let answered = async {
                let question = question(pairs, filtered, scope.as_deref())?;
                let asked = Arc::new(blocking::Asked {
                    path: path_in_table,
                    view,
                    filtered,
                    topic,
                    argument: argument(path),
                    scope: scope.map(|Extension(scope)| scope),
                    question,
                });
                let answer = blocking::answer(&context, &asked).await?;
                blocking::run(&context, &asked, move |_, asked| reply(&answer, asked)).await
            };
            answered.await.unwrap_or_else(Failure::into_response)
        },
    )
}

fn write(change_with: Write, turns: Turns) -> MethodRouter<Context> {
    put(
        move |state: State<Context>,
              scope: Whose,
              path: Argument,
              query: Pairs,
              request: Request| {
            change((change_with, turns), state, scope, path, query, request)
        },
    )
}

async fn change(
    (write, turns): (Write, Turns),
    State(context): State<Context>,
    scope: Whose,
    path: Argument,
    Query(pairs): Pairs,
    request: Request,
) -> Response {
    let changed = async {
        let question = question(pairs, Filtered::Nothing, scope.as_deref())?;
        let body = body::bytes(request).await;
        let body = body.map_err(|it| {
            let status = StatusCode::from_u16(it.status);
            Failure::new(status.unwrap_or(StatusCode::BAD_REQUEST), it.detail)
        })?;
        let writer = Writer {
            facts: context.consul.facts(),
            question,
            scope: scope.map(|Extension(scope)| scope),
            argument: argument(path),
            context,
        };
        let work = move || {
            let consul = Arc::clone(&writer.context.consul);
            let lock = || consul.writes.lock().unwrap_or_else(PoisonError::into_inner);
            // Nothing is half done behind the lock that a later change could not finish.
            let _turn = (turns == Turns::One).then(lock);
            write(&writer, &body)
        };
        tokio::task::spawn_blocking(work).await?
    };
    match changed.await {
        Ok(Some(value)) => axum::Json(value).into_response(),
        Ok(None) => StatusCode::OK.into_response(),
        Err(failure) => failure.into_response(),
    }
}

/// Reads the query; a workload asks for its own namespace.
fn question(
    pairs: Vec<(String, String)>,
    filtered: Filtered,
    scope: Option<&Arc<Scope>>,
) -> Result<Question, Failure> {
    let own = scope.map_or(NAMESPACE, |it| it.namespace.as_str());
    let question = Question::read(pairs, own)?;
    if question.filter.is_some() && filtered == Filtered::Nothing {
        return Err(Failure::bad("filter is not supported here"));
    }
    if let Some(scope) = scope {
        scope.may_see(&question.namespace)?;
    }
    Ok(question)
}

fn argument(path: Argument) -> String {
    path.map(|Path(argument)| argument).unwrap_or_default()
}

/// An answer as Consul clients expect it.
fn reply(answer: &blocking::Answer, asked: &blocking::Asked) -> Response {
    let question = &asked.question;
    let body = &answer.body;
    let status = status_of(asked, body);
    let mut headers = HeaderMap::new();
    let number = HeaderValue::from(answer.index);
    headers.insert("x-consul-index", number);
    headers.insert("x-consul-knownleader", HeaderValue::from_static("true"));
    headers.insert("x-consul-lastcontact", HeaderValue::from_static("0"));
    let is_key = asked.is_key();
    if is_key && question.flag("raw") && status == StatusCode::OK {
        let raw = kv::raw(body);
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        return (status, headers, raw).into_response();
    }
    if is_key && status == StatusCode::NOT_FOUND {
        return (status, headers).into_response();
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let text = if question.flag("pretty") {
        // A value of texts and numbers can always be written.
        serde_json::to_string_pretty(body).unwrap_or_default()
    } else {
        answer.text.clone()
    };
    (status, headers, text).into_response()
}

/// The status of an answer: health in it speaks by status too, and a key that is absent by 404.
fn status_of(asked: &blocking::Asked, body: &Value) -> StatusCode {
    if asked.is_key() && body.is_null() {
        return StatusCode::NOT_FOUND;
    }
    let word = |it: &Value| it.get("AggregatedStatus")?.as_str().map(ToOwned::to_owned);
    let words: Vec<String> = match body {
        Value::Array(items) => items.iter().filter_map(word).collect(),
        other => word(other).into_iter().collect(),
    };
    let has = |wanted: &str| words.iter().any(|it| it == wanted);
    match () {
        () if has("critical") => StatusCode::SERVICE_UNAVAILABLE,
        () if has("warning") => StatusCode::TOO_MANY_REQUESTS,
        () => StatusCode::OK,
    }
}

/// `GET /v1/agent/metrics`: the text of `OpenMetrics`, or gauges and counters of it as Consul lists its own.
async fn metrics(
    State(context): State<Context>,
    scope: Whose,
    Query(pairs): Pairs,
) -> Result<Response, Failure> {
    let question = question(pairs, Filtered::Nothing, scope.as_deref())?;
    if scope.is_some() {
        return Err(Failure::forbidden("Permission denied"));
    }
    let node = Arc::clone(&context.node);
    let text = tokio::task::spawn_blocking(move || node.metrics()).await?;
    if question.text("format") == Some("prometheus") {
        return Ok(([(CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response());
    }
    Ok(axum::Json(metrics::list(&text)).into_response())
}

/// The write that made a version of an object.
fn index_of(metadata: &Metadata) -> u64 {
    metadata.resource_version.parse().unwrap_or(1)
}
