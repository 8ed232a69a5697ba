//! Where a request would go now: the choice of the request path, made for a question.

mod asker;
mod candidates;
mod limits;
mod opaque;

use std::net::SocketAddr;
use std::str::FromStr as _;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use mesh_common::service::TCP;

use self::asker::Asker;
use super::config::Config;
use super::error;
use super::http::filters;
use super::http::headers::{self, LastHost, Wish};
use super::policy::Policy;
use super::view::routes::{Choice, HttpRoutes};
use super::view::{ServicePort, View};
use crate::state::object::ObjectKey;
use crate::state::report::{BackendExplanation, RequestExplanation, RequestQuestion};
use crate::traffic::authz;
use crate::traffic::route::Request;
use crate::traffic::route::filter::Filters;
use crate::traffic::route::split::Target;

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

/// What an explanation is made from.
struct Scene<'a> {
    view: &'a View,
    asker: Asker<'a>,
}

/// Explains a request of the workload `source` to `destination`, or a connection that is not looked into; `None` where no
/// service answers there. Without a question there is something to say only where TCP or TLS routes decide.
pub(super) fn explain(
    view: &View,
    config: &Config,
    (source, destination): (&ObjectKey, SocketAddr),
    question: Option<&RequestQuestion>,
) -> Result<Option<RequestExplanation>, Error> {
    let asked = question.map(parts).transpose()?;
    let Some(port) = view.port(&destination.into()) else {
        return Ok(None);
    };
    let asker = Asker::new(view, source);
    let scene = Scene { view, asker };
    let caller = scene.asker.namespace;
    let explanation = match asked {
        Some(asked) if !opaque::is_opaque(port, caller) => scene.request(config, port, asked),
        None if port.stream_routes(caller).is_none() => return Ok(None),
        asked => {
            let wish = asked.and_then(|it| headers::check(&it, &LastHost::default()).ok());
            opaque::explain(&scene, port, wish.as_ref().and_then(Wish::host))
        }
    };
    let authorization = scene.authorization(&explanation.backends);
    Ok(Some(RequestExplanation {
        authorization,
        ..explanation
    }))
}

/// The head of a request.
fn parts(question: &RequestQuestion) -> Result<Parts, Error> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_str(&question.method)
        .ok()
        .ok_or_else(|| Error::Method(question.method.clone()))?;
    parts.uri = Uri::from_str(&question.path)
        .ok()
        .ok_or_else(|| Error::Path(question.path.clone()))?;
    parts.headers = fields(&question.headers)?;
    if !parts.headers.contains_key(header::HOST) {
        // Which a question need not name, nor a request of this version.
        parts.version = Version::HTTP_2;
    }
    Ok(parts)
}

impl Scene<'_> {
    fn request(&self, config: &Config, port: &ServicePort, mut parts: Parts) -> RequestExplanation {
        let http = port.http_routes(self.asker.namespace);
        let asked = parts.uri.path().to_owned();
        let mode = config.path_normalization;
        match headers::judge(&mut parts, &LastHost::default(), http, mode) {
            Ok(wish) => self.explain_to(port, http, &wish.request(&parts)),
            Err(error) => refused(asked, &error),
        }
    }

    /// The authorization policies that speak of the endpoints of `backends`.
    fn authorization(&self, backends: &[BackendExplanation]) -> Vec<String> {
        let spares = backends.iter().flat_map(|it| &it.failover);
        let of_spares = spares.flat_map(|it| &it.endpoints);
        let shown = backends.iter().flat_map(|it| &it.endpoints);
        let addresses = shown.chain(of_spares).map(|it| it.address.parse());
        let addresses = addresses.flatten().map(|it: SocketAddr| it.into());
        let policies = authz::policies_for(self.view.snapshot(), addresses, TCP);
        policies.iter().map(ToString::to_string).collect()
    }
}

/// A request that does not get as far as the routes.
fn refused(path: String, error: &error::Error) -> RequestExplanation {
    let reason = error.reason();
    RequestExplanation {
        status: Some(error.status().as_u16()),
        reason: match error {
            error::Error::BadRequest(why) => format!("{reason}: {why}"),
            _ => reason.to_owned(),
        },
        path,
        ..RequestExplanation::default()
    }
}

fn fields(from: &[(String, String)]) -> Result<HeaderMap, Error> {
    let mut fields = HeaderMap::new();
    for (name, value) in from {
        let bad = || Error::Header(format!("{name}:{value}"));
        let key = HeaderName::from_str(name).ok().ok_or_else(bad)?;
        fields.append(key, HeaderValue::from_str(value).ok().ok_or_else(bad)?);
    }
    Ok(fields)
}

impl Scene<'_> {
    fn explain_to(
        &self,
        port: &ServicePort,
        http: Option<&HttpRoutes>,
        request: &Request<'_>,
    ) -> RequestExplanation {
        let Some(http) = http else {
            return RequestExplanation {
                reason: "no-routes".to_owned(),
                path: request.path.to_owned(),
                backends: vec![self.backend(&port.policy, port, (1, 1), false)],
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
        self.explain_choice(port, &choice, request)
    }

    fn explain_choice(
        &self,
        asked: &ServicePort,
        choice: &Choice<'_>,
        request: &Request<'_>,
    ) -> RequestExplanation {
        let rule = choice.rule;
        let total = rule.backends.total();
        let own = |filters: Option<&Filters>| {
            let answer = filters::answer(filters?, request, asked, choice.prefix);
            answer.map(|(status, _)| status)
        };
        let (status, reason) = match own(rule.filters.as_deref()) {
            _ if rule.is_broken => (Some(500), "bad-filter"),
            Some(status) => (Some(status.as_u16()), word(status)),
            None if total == 0 => (Some(500), "bad-backend"),
            None => (None, "route"),
        };
        let shares = rule.backends.iter().map(|(share, weight)| {
            let to = (&**choice.policy, share.target.as_ref());
            let status = match own(share.filters.as_deref()) {
                _ if share.is_broken => Some(500),
                status => status.map(|it| it.as_u16()),
            };
            BackendExplanation {
                filters: words(share.filters.as_deref()),
                status,
                ..self.share(asked, to, (weight, total))
            }
        });
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

    /// A share of what was asked of the port `asked`: it goes to `target`, and `policy` holds for it.
    fn share(
        &self,
        asked: &ServicePort,
        (policy, target): (&Policy, Option<&Target>),
        (weight, of): (u64, u64),
    ) -> BackendExplanation {
        if let Some(port) = target.and_then(|it| self.view.backend(it)) {
            let is_another = port.service != asked.service;
            return self.backend(policy, port, (weight, of), is_another);
        }
        let service = target.map_or_else(
            || "?".to_owned(),
            |target| match target.port {
                Some(port) => format!("{}:{port}", target.service),
                None => target.service.to_string(),
            },
        );
        BackendExplanation {
            service,
            weight,
            of,
            is_missing: true,
            ..BackendExplanation::default()
        }
    }

    /// A share that goes to `port`, of a request for which `policy` holds.
    fn backend(
        &self,
        policy: &Policy,
        port: &ServicePort,
        (weight, of): (u64, u64),
        is_another: bool,
    ) -> BackendExplanation {
        let policies = port.policy.objects();
        BackendExplanation {
            service: format!("{}:{}", port.service, port.port),
            weight,
            of,
            endpoints: candidates::of_port(self, policy, port),
            failover: candidates::failover(self, policy, port),
            policies: policies.map(|it| it.key().to_string()).collect(),
            limits: limits::of_backend(&port.policy, is_another),
            ..BackendExplanation::default()
        }
    }
}

/// Why filters have answered.
fn word(status: StatusCode) -> &'static str {
    if status.is_redirection() {
        "redirect"
    } else {
        "preflight"
    }
}

/// What policies say.
fn held(policy: &Policy) -> RequestExplanation {
    let millis = |length: Option<std::time::Duration>| {
        length.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
    };
    RequestExplanation {
        request_timeout_millis: millis(policy.timeouts.request),
        attempt_timeout_millis: millis(policy.attempt_timeout().filter(|it| !it.is_zero())),
        policies: policy.objects().map(|it| it.key().to_string()).collect(),
        limits: limits::of_request(policy),
        ..RequestExplanation::default()
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
