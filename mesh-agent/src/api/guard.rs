//! Who may ask: names in `Host` and `Origin`, the bearer token; and what every answer carries.
//!
//! The names keep a web page that the operator visits from talking to the agent (DNS rebinding, forged requests):
//! neither loopback nor a token in a browser would.

use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{self, Body};
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

use super::problem::{PROBLEM_JSON, Problem};

/// How long an answer may take to begin.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest token: 16 characters are 96 bits in base64.
const MIN_TOKEN: usize = 16;

/// Largest error whose shape is changed, in bytes; of a larger one only the status is left.
const MAX_PROBLEM: usize = 4096;
/// Where clients of Consul have their token.
const CONSUL_TOKEN: &str = "x-consul-token";

/// The address that a connection came in on.
#[derive(Clone, Copy)]
pub(super) struct Local(pub(super) SocketAddr);

/// What a listener asks of requests.
#[derive(Clone, Default)]
pub(super) struct Guard {
    /// `None`: any name.
    pub(super) hosts: Option<Arc<BTreeSet<String>>>,
    /// `None`: nobody has to say who they are.
    pub(super) token: Option<Arc<Token>>,
}

/// A bearer token. Has no `Debug`: it must not be in a log.
pub(super) struct Token(Vec<u8>);

/// Why a token file is no good.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its token can be guessed.
    #[error("the token in {} is too short: at least {MIN_TOKEN} characters, for example from `openssl rand -base64 32`", path.display())]
    Short {
        /// The file.
        path: PathBuf,
    },
}

impl Token {
    /// Reads the token from a file, without the white space around it.
    pub(super) fn read(path: &Path) -> Result<Self, TokenError> {
        let text = fs::read(path).map_err(|source| TokenError::Read {
            path: path.to_owned(),
            source,
        })?;
        let token = text.trim_ascii();
        if token.len() < MIN_TOKEN {
            let path = path.to_owned();
            return Err(TokenError::Short { path });
        }
        Ok(Self(token.to_owned()))
    }

    /// Compares in a time that depends on the length only.
    fn is(&self, other: &[u8]) -> bool {
        let pairs = self.0.iter().zip(other);
        let difference = pairs.fold(0, |seen, (ours, theirs)| black_box(seen | (ours ^ theirs)));
        self.0.len() == other.len() && difference == 0
    }
}

/// Names that a listener on `listen` goes by.
pub(super) fn hosts(listen: SocketAddr, configured: &[String]) -> BTreeSet<String> {
    let fixed = ["localhost", "127.0.0.1", "::1"];
    fixed
        .into_iter()
        .map(str::to_owned)
        .chain([listen.ip().to_string()])
        .chain(configured.iter().map(|it| bare(it).to_ascii_lowercase()))
        .collect()
}

/// Puts the guard in front of `router`, and the shape of every answer around both.
pub(super) fn around(router: Router, guard: Guard) -> Router {
    router
        .layer(middleware::from_fn(limit_time))
        .layer(middleware::from_fn_with_state(guard, admit))
        .layer(middleware::from_fn(shape))
}

async fn limit_time(request: Request, next: Next) -> Result<Response, Problem> {
    // A query that waits for a change has a bound of its own.
    let is_waiting = |query: &str| query.split('&').any(|it| it.starts_with("index="));
    if is_consul(&request) && request.uri().query().is_some_and(is_waiting) {
        return Ok(next.run(request).await);
    }
    tokio::time::timeout(TIMEOUT, next.run(request))
        .await
        .map_err(|_elapsed| {
            let detail = format!("no answer within {TIMEOUT:?}");
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", detail)
        })
}

/// Whether a request is one of a client of Consul, which expects answers of another shape.
fn is_consul(request: &Request) -> bool {
    request.uri().path().starts_with("/v1/")
}

async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<Local>().map(|it| it.0.ip());
    let checked = guard
        .check_names(request.headers(), request.uri(), local)
        .and_then(|()| guard.check_token(request.headers(), request.uri().path()));
    match checked {
        Ok(()) => next.run(request).await,
        Err(_) if is_consul(&request) => {
            let text = "Permission denied: the token, or the name of the host, is not the agent's";
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED.as_u16() => {
            ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

impl Guard {
    fn check_names(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        local: Option<IpAddr>,
    ) -> Result<(), Problem> {
        let Some(hosts) = &self.hosts else {
            return Ok(());
        };
        let is_ours = |name: &str| {
            let name = bare(name).to_ascii_lowercase();
            hosts.contains(&name)
                || (local.is_some()
                    && name.parse().ok().map(|it: IpAddr| it.to_canonical()) == local)
        };
        let mut named = headers.get_all(HOST).iter();
        let host = named.next().and_then(|it| it.to_str().ok());
        let host = host.and_then(|it| it.parse::<Authority>().ok());
        let is_allowed = named.next().is_none()
            && host.is_some_and(|it| is_ours(it.host()))
            && uri.authority().is_none_or(|it| is_ours(it.host()));
        if !is_allowed {
            return Err(forbidden("Host", "HostNotAllowed"));
        }
        let is_allowed = headers.get_all(ORIGIN).iter().all(|origin| {
            let origin = origin.to_str().ok().and_then(|it| it.parse::<Uri>().ok());
            let authority = origin.and_then(|it| it.into_parts().authority);
            authority.is_some_and(|it| is_ours(it.host()))
        });
        if !is_allowed {
            return Err(forbidden("Origin", "OriginNotAllowed"));
        }
        Ok(())
    }

    fn check_token(&self, headers: &HeaderMap, path: &str) -> Result<(), Problem> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        // Probes cannot bring a token, and learn nothing that the listener's presence does not tell.
        if matches!(path, "/healthz" | "/readyz") {
            return Ok(());
        }
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|it| match it.split_at_checked("bearer ".len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(token),
            _ => None,
        });
        let of_consul = headers.get(CONSUL_TOKEN).map(HeaderValue::as_bytes);
        if given
            .or(of_consul)
            .is_some_and(|it| token.is(it.trim_ascii()))
        {
            return Ok(());
        }
        let detail =
            "`Authorization: Bearer TOKEN` is needed, with the token of the agent's token file";
        Err(
            Problem::new(StatusCode::UNAUTHORIZED, "Unauthorized", detail)
                .with_field("Authorization"),
        )
    }
}

fn forbidden(field: &str, reason: &str) -> Problem {
    let detail = format!(
        "this {field} is not one of the agent's names; more can be allowed by its configuration"
    );
    Problem::new(StatusCode::FORBIDDEN, reason, detail).with_field(field)
}

/// An IPv6 address without its brackets; anything else as it is.
fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

/// Gives errors the shape that the caller expects, wherever they were made (problems; for clients of Consul, which show
/// it to people, a line of text), and every answer the headers that it needs.
async fn shape(request: Request, next: Next) -> Response {
    let is_consul = is_consul(&request);
    let response = next.run(request).await;
    let status = response.status();
    let is_problem = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|it| it.as_bytes() == PROBLEM_JSON.as_bytes());
    let is_error = status.is_client_error() || status.is_server_error();
    let mut response = match (is_error, is_consul, is_problem) {
        (true, false, false) => problem_of(response).await,
        (true, true, true) => text_of(response).await,
        _ => response,
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static("frame-ancestors 'none'"),
    );
    response
}

async fn text_of(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = body::to_bytes(body, MAX_PROBLEM).await;
    let problem = body.map(|it| serde_json::from_slice::<Problem>(&it));
    let text = match problem {
        Ok(Ok(problem)) => problem.detail.into(),
        _ => parts
            .status
            .canonical_reason()
            .unwrap_or("Error")
            .to_owned(),
    };
    parts.headers.remove(CONTENT_LENGTH);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    parts.headers.insert(CONTENT_TYPE, kind);
    Response::from_parts(parts, Body::from(text))
}

async fn problem_of(response: Response) -> Response {
    let status = response.status();
    let title = status.canonical_reason().unwrap_or("Error");
    let text = body::to_bytes(response.into_body(), MAX_PROBLEM).await;
    let detail = match &text {
        Ok(text) if !text.is_empty() => String::from_utf8_lossy(text).into_owned(),
        _ => title.to_owned(),
    };
    let reason: String = title.split_whitespace().collect();
    Problem::new(status, &reason, detail).into_response()
}
