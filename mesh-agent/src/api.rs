//! The local HTTP API: the registry, what the agent tells about itself, and their documentation.
//!
//! Objects are read from and changed through [`Store`]; everything else is asked of a [`Node`], which `app`
//! implements. Every error is an RFC 9457 problem that names the field.

mod body;
mod consul;
mod document;
mod graph;
mod guard;
mod large;
mod metrics;
mod node;
mod objects;
mod problem;
mod server;
mod views;
mod watch;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa_swagger_ui::SwaggerUi;

pub use consul::{Config as ConsulConfig, Scope};
pub use guard::TokenError;
pub use metrics::Metrics;
pub use node::{Node, NodeError};
pub use problem::Problem;
pub use server::{Access, BindError, Server};

use consul::Consul;
use large::Large;

use crate::state::decode::LATER_KINDS;
use crate::state::{Store, Writer};

/// Settings of the API.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; port 0 picks one.
    pub listen: SocketAddr,
    /// A unix socket, mode 0600, that needs no token.
    pub unix: Option<PathBuf>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served beside, for scrapers and probes.
    pub metrics: Option<SocketAddr>,
    /// File with the bearer token of the TCP listener; without one it has to be a loopback address.
    pub token_file: Option<PathBuf>,
    /// Names beside `localhost` and the listener's own address that `Host` and `Origin` may have.
    pub allowed_hosts: Vec<String>,
    /// What Consul clients are told of this node.
    pub consul: ConsulConfig,
    /// What it counts.
    pub counts: Metrics,
}

/// Watchers at a time.
const MAX_WATCHERS: usize = 256;

/// What the routes share.
#[derive(Clone)]
struct Context {
    store: Arc<Store>,
    writer: Writer,
    node: Arc<dyn Node>,
    watchers: Arc<Semaphore>,
    consul: Arc<Consul>,
    large: Large,
    counts: Metrics,
    stop: CancellationToken,
}

impl Context {
    fn new(config: &Config, store: Arc<Store>, node: Arc<dyn Node>) -> Self {
        Self {
            writer: Writer::local(Arc::clone(&store)),
            store,
            node,
            consul: Arc::new(Consul::new(config.consul.clone())),
            large: Large::new(config.counts.clone()),
            counts: config.counts.clone(),
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            stop: CancellationToken::new(),
        }
    }

    fn with_writer(self, writer: Writer) -> Self {
        Self { writer, ..self }
    }

    /// For workloads: operators do not wait for what they ask for.
    fn for_workloads(self) -> Self {
        Self {
            large: Large::new(self.counts.clone()),
            ..self
        }
    }

    /// For one of the workloads.
    fn for_one_of_them(self) -> Self {
        Self {
            large: self.large.in_own_line(),
            ..self
        }
    }
}

/// Everything.
fn router(context: Context) -> Router {
    // What the views say of themselves is said again to whoever asks: it is a megabyte that few ever read.
    let (router, _) = document::views().split_for_parts();
    let docs = utoipa_swagger_ui::Config::from("/openapi.json");
    consul::routes(objects::routes(router))
        .route("/openapi.json", get(async || axum::Json(document::whole())))
        .with_state(context)
        .merge(SwaggerUi::new("/docs").config(docs))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
}

/// What a workload may ask in its own network namespace.
fn pod_router(context: Context, scope: Scope) -> Router {
    consul::routes(Router::new())
        .with_state(context.for_one_of_them())
        .layer(Extension(Arc::new(scope)))
        .fallback(forbidden)
        .method_not_allowed_fallback(method_not_allowed)
}

async fn forbidden() -> Problem {
    let detail = "a workload is served the paths of Consul below /v1/ only";
    Problem::new(StatusCode::FORBIDDEN, "Forbidden", detail)
}

/// What scrapers and probes need.
fn probe_router(context: Context) -> Router {
    Router::new()
        .route("/metrics", get(views::metrics))
        .route("/healthz", get(views::healthz))
        .route("/readyz", get(views::readyz))
        .with_state(context)
        .fallback(no_probe)
        .method_not_allowed_fallback(no_probe_method)
}

async fn no_probe() -> Problem {
    let detail = "this port has /metrics, /healthz and /readyz; the API is at another";
    Problem::new(StatusCode::NOT_FOUND, "NotFound", detail)
}

async fn no_probe_method() -> Problem {
    let detail = "whatever is at this port can be read only";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", detail)
}

async fn not_found(request: Request) -> Problem {
    let path = request.uri().path();
    let kind = path
        .strip_prefix("/api/v1/")
        .and_then(|rest| rest.split('/').find(|part| LATER_KINDS.contains(part)));
    if let Some(kind) = kind {
        let detail = format!("{kind} are not supported by this version");
        return Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "NotSupported", detail)
            .with_field("kind");
    }
    let detail = format!("there is nothing at {path}; /docs lists what there is");
    Problem::new(StatusCode::NOT_FOUND, "NotFound", detail)
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} is not possible here; see /docs", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", detail)
}
