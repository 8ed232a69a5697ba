//! Where a request would go now: the choice of the request path, made for a question.

mod candidates;
mod limits;

use std::net::SocketAddr;
use std::str::FromStr as _;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::config::Config;
use super::policy::Policy;
use super::view::routes::{Choice, HttpRoutes};
use super::view::{ServicePort, View};
use crate::state::report::{BackendExplanation, RequestExplanation, RequestQuestion};
use crate::traffic::path;
use crate::traffic::path::Rejected;
use crate::traffic::route::Request;
use crate::traffic::route::filter::Filters;

/// What is not a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The method is no token.
    #[error("{0} is no method")]
    Method(String),
    /// The path is none.
    #[error("{0} is no path")]
    Path(String),
    /// A header is no name with a value.
    #[error("{0} is no header")]
    Header(String),
}

impl Error {
    /// The parameter that is wrong.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Method(_) => "method",
            Self::Path(_) => "path",
            Self::Header(_) => "header",
        }
    }
}

/// Explains a request of a caller in the namespace `caller` to `destination`; `None` where no service answers there.
pub(super) fn explain(
    view: &View,
    config: &Config,
    (caller, destination): (&str, SocketAddr),
    question: &RequestQuestion,
) -> Result<Option<RequestExplanation>, Error> {
    let bad_path = || Error::Path(question.path.clone());
    let method = Method::from_str(&question.method)
        .ok()
        .ok_or_else(|| Error::Method(question.method.clone()))?;
    let uri = Uri::from_str(&question.path).ok().ok_or_else(bad_path)?;
    let headers = headers(&question.headers)?;
    let host = headers.get(http::header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let host = host.map(str::to_ascii_lowercase);
    let host = host.as_deref();
    let Some(port) = view.port(&destination.into()) else {
        return Ok(None);
    };
    let http = port.http_routes(caller);
    let mode = config.path_normalization;
    let mode = mode.resolved(http.is_some_and(HttpRoutes::tells_paths_apart));
    let path = match path::normalize(uri.path(), mode) {
        Ok(path) => path,
        Err(rejected) => return Ok(Some(refused(uri.path(), rejected))),
    };
    let request = Request {
        host: host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name)),
        authority: host,
        path: &path,
        query: uri.query(),
        method: &method,
        headers: &headers,
        is_grpc: headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")),
    };
    Ok(Some(explain_to(view, port, http, &request)))
}

/// A request that does not get as far as the routes.
fn refused(path: &str, rejected: Rejected) -> RequestExplanation {
    RequestExplanation {
        status: Some(400),
        reason: format!("bad-request: {rejected}"),
        path: path.to_owned(),
        ..RequestExplanation::default()
    }
}

fn headers(from: &[(String, String)]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in from {
        let bad = || Error::Header(format!("{name}:{value}"));
        let key = HeaderName::from_str(name).ok().ok_or_else(bad)?;
        headers.append(key, HeaderValue::from_str(value).ok().ok_or_else(bad)?);
    }
    Ok(headers)
}

fn explain_to(
    view: &View,
    port: &ServicePort,
    http: Option<&HttpRoutes>,
    request: &Request<'_>,
) -> RequestExplanation {
    let Some(http) = http else {
        return RequestExplanation {
            reason: "no-routes".to_owned(),
            path: request.path.to_owned(),
            backends: vec![backend(view, &port.policy, port, (1, 1), false)],
            ..held(&port.policy)
        };
    };
    let Some(choice) = http.choose(request) else {
        return RequestExplanation {
            status: Some(404),
            reason: "no-route".to_owned(),
            path: request.path.to_owned(),
            ..RequestExplanation::default()
        };
    };
    explain_choice(view, port, &choice, request)
}

fn explain_choice(
    view: &View,
    asked: &ServicePort,
    choice: &Choice<'_>,
    request: &Request<'_>,
) -> RequestExplanation {
    let rule = choice.rule;
    let total = rule.backends.total();
    let shares = rule.backends.iter().map(|(share, weight)| {
        let port = share.target.as_ref().and_then(|it| view.backend(it));
        let named = share.target.as_ref().map_or_else(
            || "?".to_owned(),
            |target| match target.port {
                Some(port) => format!("{}:{port}", target.service),
                None => target.service.to_string(),
            },
        );
        let filters = words(share.filters.as_deref());
        match port {
            Some(port) => BackendExplanation {
                filters,
                ..backend(
                    view,
                    choice.policy,
                    port,
                    (weight, total),
                    port.service != asked.service,
                )
            },
            None => BackendExplanation {
                service: named,
                weight,
                of: total,
                is_missing: true,
                filters,
                ..BackendExplanation::default()
            },
        }
    });
    let redirect = rule.filters.as_ref().and_then(|it| it.redirect.as_ref());
    let (status, reason) = match redirect {
        _ if rule.is_broken => (Some(500), "bad-filter"),
        Some(redirect) => (Some(redirect.status.as_u16()), "redirect"),
        None if total == 0 => (Some(500), "bad-backend"),
        None => (None, "route"),
    };
    RequestExplanation {
        rule: Some(rule.label.to_string()),
        status,
        reason: reason.to_owned(),
        path: request.path.to_owned(),
        filters: words(rule.filters.as_deref()),
        backends: shares.collect(),
        ..held(choice.policy)
    }
}

/// What policies say.
fn held(policy: &Policy) -> RequestExplanation {
    let millis = |length: Option<std::time::Duration>| {
        length.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
    };
    RequestExplanation {
        request_timeout_millis: millis(policy.timeouts.request),
        attempt_timeout_millis: millis(policy.timeouts.attempt.filter(|it| !it.is_zero())),
        policies: policy.objects().map(|it| it.key().to_string()).collect(),
        limits: limits::of_request(policy),
        ..RequestExplanation::default()
    }
}

/// A share that goes to `port`, of a request for which `policy` holds.
fn backend(
    view: &View,
    policy: &Policy,
    port: &ServicePort,
    (weight, of): (u64, u64),
    is_another: bool,
) -> BackendExplanation {
    BackendExplanation {
        service: format!("{}:{}", port.service, port.port),
        weight,
        of,
        is_missing: false,
        filters: Vec::new(),
        endpoints: candidates::of_port(policy, port),
        failover: candidates::failover(view, policy, port),
        policies: port
            .policy
            .objects()
            .map(|it| it.key().to_string())
            .collect(),
        limits: limits::of_backend(&port.policy, is_another),
    }
}

/// The filters, as the Gateway API names them.
fn words(filters: Option<&Filters>) -> Vec<String> {
    let Some(filters) = filters else {
        return Vec::new();
    };
    let mirrors = filters.mirrors.iter().map(|mirror| {
        let (numerator, denominator) = mirror.share();
        let to = mirror.target.as_ref().map(|it| it.service.to_string());
        let to = to.unwrap_or_else(|| "?".to_owned());
        format!("RequestMirror {numerator}/{denominator} to {to}")
    });
    let named = [
        (filters.request.is_some(), "RequestHeaderModifier"),
        (filters.response.is_some(), "ResponseHeaderModifier"),
        (filters.redirect.is_some(), "RequestRedirect"),
        (filters.rewrite.is_some(), "URLRewrite"),
        (filters.cors.is_some(), "CORS"),
    ];
    let named = named.into_iter().filter(|(is_there, _)| *is_there);
    named
        .map(|(_, name)| name.to_owned())
        .chain(mirrors)
        .collect()
}
